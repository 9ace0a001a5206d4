//! Requests of both kinds, and every way to spoil a request.

use rand::Rng;

use crate::world::{Endpoint, Place, Step, World};
use crate::{immutable, mutable};
use leasehold_e2e::gbs::cbor;
use leasehold_e2e::gbs::{Request, SecretKind};

/// Values of `Range`; what is odd about each.
const RANGES: [(&str, &str); 31] = [
    ("bytes=0-", ""),
    ("bytes=5-", ""),
    ("bytes=-5", ""),
    ("bytes=-0", ""),
    ("bytes=0-1,3-4", ""),
    ("bytes=0-1, -1", ""),
    ("bytes=0-1,", ""),
    ("bytes=,0-1", ""),
    ("bytes=5-3", ""),
    ("bytes=a-b", ""),
    ("bytes=", ""),
    ("bytes", ""),
    ("=0-5", ""),
    ("bytes 0-5", ""),
    ("bytes=0-5/10", ""),
    ("items=0-5", ""),
    ("Bytes=0-5", ""),
    ("bytes=0-999999999999999999999999999999", ""),
    ("bytes=999999999999999999999999999999-9999999999999999999999999999999", ""),
    ("bytes=0-18446744073709551615", ""),
    ("bytes=18446744073709551615-18446744073709551616", ""),
    ("bytes=9223372036854775807-9223372036854775808", ""),
    ("bytes= 0-5", ""),
    ("bytes =0-5", ""),
    ("bytes=0 - 5", ""),
    ("bytes=+0-5", ""),
    ("bytes=0-+5", ""),
    ("bytes=0x0-0x5", ""),
    ("bytes=00-05", ""),
    ("bytes=0-5-7", ""),
    ("", "empty Range"),
];

/// Reads a share, or what is none.
pub fn read(world: &mut World) -> Step {
    let (kind, index, place) = world.some_place();
    let share = world.some_share(place);
    let length = world.some_length(place, share);
    let method = if world.chance(4) { "HEAD" } else { "GET" };
    let mut request = Request::new(method, format!("/storage/v1/{kind}/{index}/{share}"));
    let mut tag = "";
    match world.random.random_range(0..10) {
        0 => {}
        1..4 => {
            let (range, odd) = world.one_of(&RANGES);
            tag = odd;
            request = request.header("Range", range);
        }
        _ => {
            let start = world.random.random_range(0..length + 3);
            let end = match world.random.random_range(0..4) {
                0 => length.saturating_sub(1).max(start),
                1 => length.max(start),
                _ => world.random.random_range(start..=start + length + 5),
            };
            request = request.header("Range", format!("bytes={start}-{end}"));
        }
    }
    Step::new(request, place).at_endpoint(Endpoint::Read).tagged(tag)
}

/// Lists shares, or asks for the version.
pub fn list(world: &mut World) -> Step {
    if world.chance(10) {
        let request = Request::new("GET", "/storage/v1/version").accept_cbor();
        return Step::new(request, Place::None).at_endpoint(Endpoint::Version).tagged("version");
    }
    let (kind, index, place) = world.some_place();
    let method = if world.chance(5) { "HEAD" } else { "GET" };
    Step::new(Request::new(method, format!("/storage/v1/{kind}/{index}/shares")).accept_cbor(), place)
}

/// Adds or renews a lease.
pub fn lease(world: &mut World) -> Step {
    let (_, index, place) = world.some_place();
    let mut request = Request::new("PUT", format!("/storage/v1/lease/{index}")).lease_secrets(&world.some_leases());
    if world.chance(10) {
        request = request.body(*b"ignored");
    }
    Step::new(request, place)
}

/// Reports a share as corrupt.
pub fn corrupt(world: &mut World) -> Step {
    let (kind, index, place) = world.some_place();
    let share = world.some_share(place);
    let reason = match world.random.random_range(0..6) {
        0 => String::new(),
        1 => "ü\n\u{1f98a}".to_owned(),
        2 => "x".repeat(world.one_of(&[32757, 32758, 32765, 32766])),
        _ => "hash does not match".to_owned(),
    };
    let request =
        Request::new("POST", format!("/storage/v1/{kind}/{index}/{share}/corrupt")).cbor(cbor::corrupt(&reason));
    Step::new(request, place)
}

/// A request with something wrong, or at least unusual, about it.
pub fn spoiled(world: &mut World) -> Step {
    if world.chance(15) {
        return immutable::odd_content_range(world);
    }
    if world.chance(8) {
        return other_kind(world);
    }
    let step = match world.random.random_range(0..9) {
        0 | 1 => immutable::allocate(world),
        2 => immutable::write(world),
        3 => immutable::abort(world),
        4 | 5 => mutable::read_test_write(world),
        6 => read(world),
        7 => [list, lease][world.random.random_range(0..2)](world),
        _ => corrupt(world),
    };
    if !step.tag.is_empty() {
        return step;
    }
    match world.random.random_range(0..18) {
        0 | 1 => authorization(world, step),
        2..7 => secrets(world, step),
        7 | 8 => accept(world, step),
        9 | 16 => content_type(world, step),
        10 => body(world, step),
        11 | 12 => method(world, step),
        13 | 14 => path(world, step),
        _ => chunked(step),
    }
}

fn authorization(world: &mut World, mut step: Step) -> Step {
    step.request = step.request.unauthorized();
    let value = world.one_of(&[
        "",
        "Tahoe-LAFS",
        "Tahoe-LAFS ",
        "Tahoe-LAFS bm9ib2R5",
        "Basic bm9ib2R5",
        "Tahoe-LAFS !!",
        "tahoe",
    ]);
    if value == "tahoe" {
        return step;
    }
    step.request.headers.insert(0, ("Authorization".to_owned(), value.as_bytes().to_vec()));
    step
}

fn secrets(world: &mut World, mut step: Step) -> Step {
    const NAME: &str = "X-Tahoe-Authorization";
    let places: Vec<usize> = (0..step.request.headers.len()).filter(|&i| step.request.headers[i].0 == NAME).collect();
    let choice = world.random.random_range(0..18);
    if places.is_empty() || choice == 0 {
        // One that does not belong, perhaps.
        let kind = world.one_of(&[SecretKind::Upload, SecretKind::WriteEnabler, SecretKind::LeaseRenew]);
        if step.request.headers.iter().any(|(_, value)| value.starts_with(kind.as_str().as_bytes())) {
            step = step.tagged("a kind of secret twice");
        }
        step.request = step.request.secret(kind, &[9; 32]);
        return step;
    }
    let place = places[world.random.random_range(0..places.len())];
    let value = String::from_utf8_lossy(&step.request.headers[place].1).into_owned();
    let (kind, secret) = value.split_once(' ').expect("our own header");
    let enabler = kind == SecretKind::WriteEnabler.as_str();
    let upload = kind == SecretKind::Upload.as_str();
    let (value, tag): (Vec<u8>, &'static str) = match choice {
        1 => (kind.into(), ""),
        2 => (format!("{kind} ").into(), ""),
        3 => (format!("{} {secret}", kind.to_uppercase()).into(), ""),
        4 => (format!("secret {secret}").into(), ""),
        5 => (format!("{kind} {}", secret.trim_end_matches('=')).into(), ""),
        6 => (format!("{kind} ===").into(), ""),
        7 => (format!("{kind} {secret}, {kind} {secret}").into(), "secret with characters outside the alphabet"),
        8 => {
            (format!("{kind} !{}-{}", &secret[..4], &secret[4..]).into(), "secret with characters outside the alphabet")
        }
        9 => (format!("{kind} {secret}\u{e9}").chars().map(|c| c as u8).collect(), "secret that is not UTF-8"),
        10 => (format!("  {kind} {secret}  ").into(), ""),
        11 => (format!("{kind}  {secret}").into(), "two spaces before a secret"),
        12 => (format!("{kind}\t{secret}").into(), ""),
        13 if upload => {
            (format!("{kind} {}", data_encoding::BASE64.encode(&[1; 257])).into(), "upload secret of 257 bytes")
        }
        13 | 14 if enabler => {
            (format!("{kind} {}", data_encoding::BASE64.encode(&[1; 31])).into(), "write enabler not of 32 bytes")
        }
        13 | 14 => (format!("{kind} {}", data_encoding::BASE64.encode(&[1; 31])).into(), ""),
        15 => {
            step.request.headers.push((NAME.to_owned(), value.clone().into()));
            (value.into(), "a kind of secret twice")
        }
        _ => {
            step.request.headers.remove(place);
            return step;
        }
    };
    // A secret of another length is another secret: what is begun with it, nothing else here can go on with.
    if upload && (13..15).contains(&choice) {
        step.place = Place::None;
        let fresh = world.fresh_index();
        step.request.path = format!("/storage/v1/immutable/{fresh}");
        step.request.method = "POST".to_owned();
        step.request = Request::new("POST", step.request.path).lease_secrets(&world.some_leases()).accept_cbor();
        step.request = step.request.cbor(cbor::allocate(&[0], 10)).header(NAME, value);
        return step.tagged(tag);
    }
    step.request.headers[place].1 = value;
    step.tagged(tag)
}

fn accept(world: &mut World, mut step: Step) -> Step {
    let (value, tag) = world.one_of(&[
        ("application/cbor;q=0.5", ""),
        ("text/html;q=0.1, application/cbor", ""),
        ("application/cbor, text/html", ""),
        ("application/cbor;q=0.1, text/html", "Accept"),
        ("application/json", "Accept"),
        ("text/html", "Accept"),
        ("*/*", "Accept"),
        ("application/*", "Accept"),
        ("*/*, application/cbor", "Accept"),
        ("", "Accept"),
    ]);
    step.request.headers.retain(|(name, _)| name != "Accept");
    if world.chance(20) {
        return step; // absent counts as CBOR
    }
    step.request = step.request.header("Accept", value);
    if step.endpoint == Endpoint::Version { step } else { step.tagged(tag) }
}

fn content_type(world: &mut World, mut step: Step) -> Step {
    let value = world.one_of(&[
        "text/plain",
        "application/json",
        "application/cbor; charset=utf-8",
        "application/cbor;x=y",
        "",
    ]);
    step.request.headers.retain(|(name, _)| name != "Content-Type");
    if !world.chance(20) {
        step.request = step.request.header("Content-Type", value);
    }
    step
}

fn body(world: &mut World, mut step: Step) -> Step {
    if step.request.method != "POST" || step.request.body.is_empty() {
        return step;
    }
    match world.random.random_range(0..5) {
        0 => step.request.body.clear(),
        1 => step.request.body.truncate(world.random.random_range(0..step.request.body.len())),
        2 => step.request.body = vec![world.random.random(); 1],
        3 => step.request.body.push(0),
        _ => step.request.body.resize(40_000, 0),
    }
    let bounded = !step.request.path.ends_with("read-test-write");
    // Bytes after the end of a body are let through; a write is made of them where there is no bound.
    if bounded { step } else { step.tagged("bytes after the end of a body") }
}

fn method(world: &mut World, mut step: Step) -> Step {
    step.request.method = world.one_of(&["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "FOO"]).to_owned();
    step.effect = crate::world::Effect::None;
    step.place = Place::None;
    let reads = step.request.method == "GET"
        && step.request.path.rsplit('/').next().is_some_and(|last| last.parse::<u64>().is_ok());
    if reads && !step.request.path.contains("/lease/") {
        step.endpoint = Endpoint::Read;
    } else {
        step.endpoint = Endpoint::Other;
    }
    step.tagged("any method")
}

fn path(world: &mut World, mut step: Step) -> Step {
    let path = step.request.path.clone();
    let (head, rest) = path.split_at(path.rfind('/').expect("paths have slashes") + 1);
    step.request.path = match world.random.random_range(0..14) {
        0 => path.to_uppercase(),
        1 => format!("{path}/"),
        2 => format!("{path}/x"),
        3 => format!("/{path}"),
        4 => format!("{path}?x=1"),
        5 => path.replacen("/storage/v1", "/storage/v2", 1),
        6 => head.to_owned(),
        7 if rest.parse::<u64>().is_ok() => format!("{head}00{rest}"),
        7 => format!("{path}%20"),
        8 => format!("{head}-1"),
        9 => format!(
            "{head}{}",
            world.one_of(&["18446744073709551616", "99999999999999999999999999", "1.0", "+1", "0x1", "١"])
        ),
        10 => path.replacen("/immutable/", "/lease/", 1),
        11 => path.replacen("storage", "s%74orage", 1),
        12 => {
            let index = world.fresh_index();
            let bad = [
                index[1..].to_owned(),
                format!("{index}a"),
                format!("{}b", &index[1..]),
                index.to_uppercase(),
                format!("{}1", &index[1..]),
            ];
            format!("/storage/v1/immutable/{}/shares", bad[world.random.random_range(0..bad.len())])
        }
        _ => world
            .one_of(&[
                "/",
                "",
                "*",
                "/storage",
                "/services",
                "/id/",
                "//",
                "/storage/v1/",
                "/storage/v1/version/",
                "/%00",
            ])
            .to_owned(),
    };
    step.endpoint = Endpoint::Other;
    step.tagged("odd path")
}

fn chunked(mut step: Step) -> Step {
    if !matches!(step.request.method.as_str(), "POST" | "PATCH") || step.request.body.is_empty() {
        return step;
    }
    let body = std::mem::take(&mut step.request.body);
    for piece in body.chunks(1000) {
        step.request.body.extend(format!("{:x}\r\n", piece.len()).bytes());
        step.request.body.extend(piece);
        step.request.body.extend(b"\r\n");
    }
    step.request.body.extend(b"0\r\n\r\n");
    step.request = step.request.header("Transfer-Encoding", "chunked");
    step
}

/// A request for one kind on a storage index of the other.
fn other_kind(world: &mut World) -> Step {
    let (bucket, slot) =
        (world.random.random_range(0..world.buckets.len()), world.random.random_range(0..world.slots.len()));
    let (bucket_index, slot_index) = (world.buckets[bucket].index.clone(), world.slots[slot].index.clone());
    let mut step = match world.random.random_range(0..8) {
        0..3 => mutable::read_test_write(world),
        3..6 => immutable::allocate(world),
        6 => read(world),
        _ => list(world),
    };
    if !step.tag.is_empty() {
        return step;
    }
    let towards_bucket = step.request.path.contains("/mutable/");
    let segments: Vec<&str> = step.request.path.split('/').collect();
    let Some(old) = segments.get(4).map(|old| (*old).to_owned()) else { return step };
    let (index, place) =
        if towards_bucket { (bucket_index, Place::Bucket(bucket)) } else { (slot_index, Place::Slot(slot)) };
    step.request.path = step.request.path.replacen(&old, &index, 1);
    step.place = place;
    step.effect = crate::world::Effect::None;
    step.tagged("other kind")
}
