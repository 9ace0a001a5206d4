//! Requests that change buckets: allocate, write, abort.

use rand::Rng;

use crate::world::{Effect, Place, SHARES, Step, World};
use leasehold_e2e::gbs::{Request, SecretKind, cbor};

/// Begins uploads of some shares.
pub fn allocate(world: &mut World) -> Step {
    let number = world.random.random_range(0..world.buckets.len());
    let count = world.one_of(&[0, 1, 1, 2, 3]);
    let shares: Vec<u64> = (0..count).map(|_| world.random.random_range(0..SHARES)).collect();
    let size = match world.random.random_range(0..20) {
        0 => 0,
        // More than any disk has: granted to nobody, and no error.
        1 => world.one_of(&[1 << 62, u64::MAX]),
        2 | 3 => world.random.random_range(60_000..200_000),
        4 | 5 => 1,
        _ => world.random.random_range(1..400),
    };
    let secret = world.random.random_range(0..world.secrets.len());
    let request = Request::new("POST", format!("/storage/v1/immutable/{}", world.buckets[number].index))
        .lease_secrets(&world.some_leases())
        .secret(SecretKind::Upload, &world.secrets[secret])
        .accept_cbor()
        .cbor(cbor::allocate(&shares, size));
    Step::new(request, Place::Bucket(number)).with_effect(Effect::Allocate(size, secret))
}

/// Picks a bucket and a share, an upload in progress most of the time.
fn target(world: &mut World) -> (usize, u64) {
    let all: Vec<usize> = (0..world.buckets.len()).collect();
    let busy: Vec<usize> = all.iter().copied().filter(|&number| !world.buckets[number].uploads.is_empty()).collect();
    let number = if busy.is_empty() || world.chance(10) { world.one_of(&all) } else { world.one_of(&busy) };
    let uploads: Vec<u64> = world.buckets[number].uploads.keys().copied().collect();
    if !uploads.is_empty() && world.chance(90) {
        return (number, uploads[world.random.random_range(0..uploads.len())]);
    }
    (number, world.random.random_range(0..SHARES))
}

/// The right secret most of the time.
fn secret(world: &mut World, number: usize, share: u64) -> [u8; 32] {
    let right = world.buckets[number].uploads.get(&share).map(|upload| upload.secret);
    match right {
        Some(right) if world.chance(92) => world.secrets[right],
        _ => world.secrets[world.random.random_range(0..world.secrets.len())],
    }
}

/// Writes a piece: in order or not, over others, equal or conflicting, beyond the end, too short, too long.
pub fn write(world: &mut World) -> Step {
    let (number, share) = target(world);
    let size = world.buckets[number].uploads.get(&share).map_or(50, |upload| upload.size).clamp(1, 1 << 20);
    let (mut start, mut end) = match world.random.random_range(0..10) {
        0..4 => (0, size),
        4 => (0, size.div_ceil(2)),
        5 => (size / 2, size),
        _ => {
            let start = world.random.random_range(0..size);
            (start, world.random.random_range(start..size) + 1)
        }
    };
    // Nothing fits into a share of no bytes.
    let empty = world.buckets[number].uploads.get(&share).is_some_and(|upload| upload.size == 0);
    let mut tag = if empty { "beyond the size" } else { "" };
    if !empty && world.chance(4) {
        tag = "beyond the size";
        end = size + world.one_of(&[1, 10, 70_000]);
        start = world.one_of(&[start, size, size + 5]).min(end - 1);
    }
    let version = u64::from(world.chance(15));
    let mut body = world.buckets[number].content(share, version, start, end - start);
    if tag.is_empty() && world.chance(3) {
        tag = "body shorter than its range";
        body.truncate(world.random.random_range(0..body.len()));
    } else if tag.is_empty() && world.chance(3) {
        tag = "body longer than its range";
        body.extend([0x55; 10]);
    }
    let total = match world.random.random_range(0..4) {
        0 => size.max(end).to_string(),
        _ => "*".to_owned(),
    };
    let request = Request::new("PATCH", format!("/storage/v1/immutable/{}/{share}", world.buckets[number].index))
        .header("Content-Range", format!("bytes {start}-{}/{total}", end - 1))
        .secret(SecretKind::Upload, &secret(world, number, share))
        .accept_cbor()
        .body(body);
    Step::new(request, Place::Bucket(number)).with_effect(Effect::Write(share)).tagged(tag)
}

/// A write whose `Content-Range` is odd.
pub fn odd_content_range(world: &mut World) -> Step {
    let (number, share) = target(world);
    let (range, tag) = world.one_of(&[
        ("", ""),
        ("bytes", ""),
        ("bytes ", ""),
        ("bytes 5-3/*", ""),
        ("bytes -1-5/*", ""),
        ("bytes -5/*", ""),
        ("bytes 5-/*", ""),
        ("items 0-4/*", ""),
        ("bytes=0-4/*", ""),
        ("bytes 0-4", ""),
        ("bytes a-b/*", ""),
        ("bytes 0x0-0x4/*", ""),
        ("bytes 0-4/x", ""),
        ("Bytes 0-4/*", ""),
        ("bytes +0-4/*", ""),
        ("bytes 0-4/* ", ""),
        ("bytes 0-4/*, bytes 5-9/*", ""),
        ("bytes */5", "no range but a total"),
        ("bytes */*", "no range but a total"),
        ("bytes 0-4/5", ""),
        ("bytes 0-4/1000", ""),
        ("bytes 0-4/4", "range beyond its own total"),
        ("bytes 0-4/0", "range beyond its own total"),
        ("bytes 00-04/*", ""),
        ("bytes 99999999999999999999999999-99999999999999999999999999/*", "range of large numbers"),
        ("bytes 18446744073709551610-18446744073709551615/*", "range of large numbers"),
        ("bytes 9223372036854775800-9223372036854775804/*", "range of large numbers"),
    ]);
    let body = world.buckets[number].content(share, 0, 0, 5);
    let mut request = Request::new("PATCH", format!("/storage/v1/immutable/{}/{share}", world.buckets[number].index))
        .secret(SecretKind::Upload, &secret(world, number, share))
        .accept_cbor()
        .body(body);
    if !world.chance(4) {
        request = request.header("Content-Range", range);
    }
    let small = world.buckets[number].uploads.get(&share).is_some_and(|upload| upload.size < 5);
    let tag = if tag.is_empty() && small { "beyond the size" } else { tag };
    Step::new(request, Place::Bucket(number)).with_effect(Effect::Write(share)).tagged(tag)
}

/// Ends an upload, or tries to.
pub fn abort(world: &mut World) -> Step {
    let (number, share) = target(world);
    let path = format!("/storage/v1/immutable/{}/{share}/abort", world.buckets[number].index);
    let request = Request::new("PUT", path).secret(SecretKind::Upload, &secret(world, number, share));
    Step::new(request, Place::Bucket(number)).with_effect(Effect::Abort(share))
}
