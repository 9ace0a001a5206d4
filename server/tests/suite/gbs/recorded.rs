//! What the released client and server said, replayed against ours. Where we differ, the difference is listed with its
//! reason, and nothing else may differ.

use ciborium::{Value, cbor};
use leasehold_core::id::StorageIndex;
use leasehold_core::leasedb::AccountChange;
use serde_json::Value as Json;

use super::schema;
use super::vectors::{rows, text, vectors};
use crate::support::{Request, Server, authorization, encode, hex, index};

/// Exchanges whose body is ours and not the recorded one.
const OWN_BODY: [(&str, &str); 1] = [("version", "name, version and free space are ours")];
/// Exchanges whose type is ours and not the recorded one.
const OWN_TYPE: [(&str, &str); 2] =
    [("unknown path", "we never send text/html"), ("wrong method", "we never send text/html")];

fn recorded_header<'a>(response: &'a Json, name: &str) -> Option<&'a str> {
    rows(&response["headers"]).iter().find(|pair| pair[0] == name).and_then(|pair| pair[1].as_str())
}

fn recorded_request(row: &Json) -> Request {
    let recorded = &row["request"];
    let mut request = Request::new("GET", "/").unmeasured().without("Host");
    request.line = text(recorded, "line").to_owned();
    for pair in rows(&recorded["headers"]) {
        request = request.header(pair[0].as_str().expect("a name"), pair[1].as_str().expect("a value"));
    }
    request.body(&hex(text(recorded, "body_hex")))
}

#[tokio::test]
async fn recorded_exchanges_get_the_recorded_answers() {
    let exchanges = vectors(include_str!("../../vectors/exchanges.json"));
    let server = Server::start().await;
    let quota = AccountChange { quota_bytes: Some(Some(1 << 30)), ..AccountChange::default() };
    server.create_account("recorded", text(&exchanges, "swissnum"), quota).await;
    let mut connection = server.connect().await;
    for row in rows(&exchanges["rows"]) {
        let label = text(row, "label");
        let got = connection.ask(&recorded_request(row)).await;
        let expected = &row["response"];
        assert_eq!(u64::from(got.status), expected["status"].as_u64().expect("a status"), "{label}: {got:?}");
        assert!(got.body.len() < 10_000 && !got.content_type().unwrap_or("").contains("html"), "{label}: {got:?}");
        let kind = recorded_header(expected, "Content-Type");
        if OWN_TYPE.iter().any(|(known, _)| *known == label) {
            continue;
        }
        assert_eq!(got.header("content-range"), recorded_header(expected, "Content-Range"), "{label}");
        // A short text of our own may explain a refusal that Python leaves without a type.
        assert!(got.content_type() == kind || kind.is_none() && got.status >= 400, "{label}: {got:?}");
        let body = hex(text(expected, "body_hex"));
        if kind == Some("application/cbor") && !OWN_BODY.iter().any(|(known, _)| *known == label) {
            let expected: Value = ciborium::from_reader(&body[..]).expect("recorded CBOR");
            assert_eq!(schema::normal(got.cbor()), schema::normal(expected), "{label}");
        } else if got.status < 400 && kind != Some("application/cbor") {
            assert_eq!(got.body, body, "{label}");
        }
    }
}

#[tokio::test]
async fn recorded_authorizations_open_their_accounts() {
    let headers = vectors(include_str!("../../vectors/headers.json"));
    let server = Server::start().await;
    for (number, row) in rows(&headers["authorization"]).iter().enumerate() {
        let (swissnum, value) = (text(row, "swissnum"), text(row, "value"));
        assert_eq!(authorization(swissnum), value);
        let version = Request::new("GET", "/storage/v1/version").header("Authorization", value);
        server.create_account(&format!("account-{number}"), swissnum, AccountChange::default()).await;
        assert_eq!(server.ask(&version).await.status, 200, "{value}");
    }
    for row in rows(&headers["secrets"]) {
        let request = Request::new("GET", "/").secrets(&[(text(row, "kind"), &hex(text(row, "hex")))]);
        let (name, value) = request.headers.last().expect("just added");
        assert_eq!(format!("{name}: {value}"), text(row, "header"));
    }
    for wrong in ["", "Tahoe-LAFS", "Tahoe-LAFS ", "tahoe-lafs cw==", "Tahoe-LAFS cw", "Tahoe-LAFS  cw==", "Basic cw=="]
    {
        let request = Request::new("GET", "/storage/v1/version").header("Authorization", wrong);
        assert_eq!(server.ask(&request).await.status, 401, "{wrong:?}");
    }
    assert_eq!(server.ask(&Request::new("GET", "/storage/v1/version")).await.status, 401);
}

/// Bodies that Python lets through, or answers with 500, and we refuse with 400 (`gbs.md` 5 [W], 1.2 [W]).
const BODIES_REFUSED: [(&str, &str); 5] = [
    ("size of 2^64", "a bignum; 500 there"),
    ("reason as bytes (accepted by the schema; the server then fails with 500)", "500 there"),
    ("share number as text (let through by the schema; the server then fails with 500)", "500 there"),
    ("additional key in a test vector (let through)", "maps are closed"),
    ("all parts", "it names share 300, a number that we cannot hold"),
];

/// Bodies that were too long to be recorded.
fn rebuild(label: &str) -> Vec<u8> {
    let test = cbor!({ "offset" => 0, "size" => 1, "specimen" => Value::Bytes(b"x".to_vec()) }).expect("plain values");
    let write = cbor!({ "offset" => 0, "data" => Value::Bytes(Vec::new()) }).expect("plain values");
    let many = |item: Value, count| Value::Array(vec![item; count]);
    let empty = || Value::Array(Vec::new());
    let of = |shares: u64, tests: Value, writes: Value| {
        let share = cbor!({ "test" => tests, "write" => writes, "new-length" => null }).expect("plain values");
        let shares = Value::Map((0..shares).map(|number| (number.into(), share.clone())).collect());
        encode(&cbor!({ "test-write-vectors" => shares, "read-vector" => [] }).expect("plain values"))
    };
    match label {
        "3000 nested arrays" => [vec![0x81; 3000], vec![0]].concat(),
        "30 tests" => of(1, many(test, 30), empty()),
        "31 tests" => of(1, many(test, 31), empty()),
        "100 writes" => of(1, empty(), many(write, 100)),
        "257 shares" => of(257, empty(), empty()),
        _ => {
            let rest = label.strip_prefix("reason of ").unwrap_or_else(|| panic!("cannot rebuild {label:?}"));
            let (length, characters) = rest.split_once(" bytes, ").expect("a length");
            let length: usize = length.parse().expect("a number");
            let reason = match characters {
                "ASCII" => "x".repeat(length),
                _ => "\u{e9}".repeat(length / 2) + &"x".repeat(length % 2),
            };
            encode(&cbor!({ "reason" => reason }).expect("plain values"))
        }
    }
}

#[tokio::test]
async fn recorded_bodies_are_taken_or_refused_as_recorded() {
    let bodies = vectors(include_str!("../../vectors/request-schemas.json"));
    let server = Server::start().await;
    server.upload(&index(0), 1, b"share").await;
    let mut connection = server.connect().await;
    for (number, row) in rows(&bodies).iter().enumerate() {
        let label = text(row, "label");
        let body = row["hex"].as_str().map_or_else(|| rebuild(label), hex);
        assert_eq!(body.len() as u64, row["length"].as_u64().expect("a length"), "{label}");
        let mut expected = row["status"].as_u64().unwrap_or(200);
        if BODIES_REFUSED.iter().any(|(known, _)| *known == label) {
            expected = 400;
        }
        let fresh = index(number as u64 + 1);
        let request = match text(row, "schema") {
            "allocate_buckets" => server.allocate(&fresh, &[], 0).body(&body),
            "mutable_read_test_write" => server.read_test_write(&fresh, &body),
            "advise_corrupt_share" => {
                let path = format!("/storage/v1/immutable/{}/1/corrupt", index(0));
                server.request("POST", &path).header("Content-Type", "application/cbor").body(&body)
            }
            other => panic!("no endpoint for {other}"),
        };
        let answer = connection.ask(&request).await;
        assert_eq!(u64::from(answer.status), expected, "{label}: {answer:?}");
    }
}

#[tokio::test]
async fn storage_indexes_are_routed_as_recorded() {
    let vectors = vectors(include_str!("../../vectors/storage-index.json"));
    let server = Server::start().await;
    let mut connection = server.connect().await;
    for row in rows(&vectors["good"]) {
        let bytes: [u8; 16] = hex(text(row, "hex")).try_into().expect("16 bytes");
        let base32 = text(row, "base32");
        assert_eq!(StorageIndex::new(bytes).to_string(), base32);
        let list = server.get(&format!("/storage/v1/immutable/{base32}/shares"));
        assert_eq!(connection.ask(&list).await.status, 200, "{base32}");
    }
    for row in rows(&vectors["bad"]) {
        let base32 = text(row, "base32");
        for request in [
            server.get(&format!("/storage/v1/immutable/{base32}/shares")),
            server.get(&format!("/storage/v1/mutable/{base32}/0")),
            server.allocate(base32, &[1], 1),
            server.request("PUT", &format!("/storage/v1/lease/{base32}")),
        ] {
            assert_eq!(connection.ask(&request).await.status, 404, "{}", request.line);
        }
    }
    // Python also takes the eight of its list whose upper loose bit is set, for the same 16 bytes. Clients never write
    // them, and we keep to one text for each storage index.
    let (canonical, allowed) = ("aeimquy4", text(&vectors, "last_characters_allowed"));
    assert!(canonical.chars().all(|last| allowed.contains(last)));
    for last in "abcdefghijklmnopqrstuvwxyz234567".chars() {
        let list = server.get(&format!("/storage/v1/mutable/{}{last}/shares", "a".repeat(25)));
        assert_eq!(connection.ask(&list).await.status, if canonical.contains(last) { 200 } else { 404 }, "{last}");
    }
}
