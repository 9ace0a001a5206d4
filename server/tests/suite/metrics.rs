//! What is counted: each deed of a client moves exactly its counters, whichever protocol it speaks.

use std::collections::BTreeMap;

use ciborium::cbor;
use leasehold_core::account::AccountState;
use leasehold_core::leasedb::{AccountChange, LeaseDb};
use leasehold_core::secret::Swissnum;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::support::foolscap::{Certificate, OldClient, Storage, write};
use crate::support::{ENABLER, LEASE, PATIENCE, Request, Server, UPLOAD, authorization, index, noise};

/// Every family of `api.md` 15 that a server over SQLite and a directory has, and those of our own.
const FAMILIES: [&str; 27] = [
    "account_cache_age_seconds",
    "account_cache_entries",
    "auth_failures",
    "backend_available_bytes",
    "background_failures",
    "build",
    "draining",
    "foolscap_call_duration_seconds",
    "foolscap_calls",
    "foolscap_connections",
    "foolscap_received_bytes",
    "foolscap_sent_bytes",
    "http_connections",
    "http_received_bytes",
    "http_rejected",
    "http_request_duration_seconds",
    "http_requests",
    "http_requests_in_flight",
    "http_sent_bytes",
    "lease_operations",
    "mutable_writes",
    "objects_deleted",
    "quota_rejections",
    "share_state_conflicts",
    "uploads_finished",
    "uploads_open",
    "uploads_reserved_bytes",
];

/// What Prometheus would read, without the prefix.
async fn scrape(server: &Server) -> String {
    let mut stream = tokio::net::TcpStream::connect(server.running.admin).await.expect("connects");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("text");
    answer.split_once("\r\n\r\n").expect("a head").1.replace("leasehold_", "")
}

fn series(text: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    samples.map(|(name, value)| (name.to_owned(), value.parse().expect("a number"))).collect()
}

/// Counters as they were after the last deed.
struct Counters<'a> {
    server: &'a Server,
    seen: BTreeMap<String, f64>,
}

impl<'a> Counters<'a> {
    async fn of(server: &'a Server) -> Self {
        Self { server, seen: series(&scrape(server).await) }
    }

    /// What was counted since the last look, requests and bytes aside.
    async fn moved(&mut self) -> Vec<String> {
        let now = series(&scrape(self.server).await);
        let before = std::mem::replace(&mut self.seen, now);
        let is_told = |name: &str| !["http_requests", "foolscap_calls"].iter().any(|other| name.starts_with(other));
        let counters = self.seen.iter().filter(|(name, _)| name.contains("_total") && !name.contains("_bytes_total"));
        let mut moved = Vec::new();
        for (name, value) in counters.filter(|(name, _)| is_told(name)) {
            let old = before.get(name).unwrap_or_else(|| panic!("{name} was not there from the start"));
            if value > old {
                assert_eq!(value - old, 1.0, "{name}");
                moved.push(name.replace("_total", "").replace('"', ""));
            }
        }
        moved
    }

    /// Sends a request, which is answered so, and counted so.
    async fn expect(&mut self, request: &Request, status: u16, counted: &[&str]) {
        let answer = self.server.ask(request).await;
        assert_eq!(answer.status, status, "{}: {}", request.line, answer.text());
        assert_eq!(self.moved().await, counted, "{}", request.line);
    }

    fn get(&self, name: &str) -> f64 {
        *self.seen.get(name).unwrap_or_else(|| panic!("there is no {name}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_from_the_start() {
    let server = Server::start().await;
    let text = scrape(&server).await;
    let mut families: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    families.sort_unstable();
    assert_eq!(families, FAMILIES);
    let at_zero = series(&text);
    for name in [
        "http_requests_total{endpoint=\"write\",method=\"PATCH\",code=\"201\"}",
        "http_requests_total{endpoint=\"version\",method=\"GET\",code=\"503\"}",
        "http_request_duration_seconds_count{endpoint=\"version\"}",
        "foolscap_calls_total{method=\"slot_testv_and_readv_and_writev\",outcome=\"failed\"}",
        "foolscap_calls_total{method=\"close\",outcome=\"answered\"}",
        "http_requests_in_flight{class=\"write\"}",
        "uploads_open",
    ] {
        assert_eq!(at_zero.get(name), Some(&0.0), "{name} in\n{text}");
    }
    assert!(text.contains("build_info{version=\""), "{text}");
    server.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_a_share_is_counted() {
    let server = Server::start().await;
    let (bucket, bytes) = (index(1), noise(20));
    let mut counters = Counters::of(&server).await;
    counters.expect(&server.get("/storage/v1/version"), 200, &[]).await;
    counters.expect(&server.allocate(&bucket, &[0], 20), 200, &[]).await;
    counters.expect(&server.write(&bucket, 0, 0, &bytes[..10]), 200, &[]).await;
    let coming = ["share_state_conflicts{state=coming}"];
    counters.expect(&server.write(&bucket, 0, 0, &[0xff; 10]), 409, &coming).await;
    let share = format!("/storage/v1/immutable/{bucket}/0");
    let abort = server.request("PUT", &format!("{share}/abort"));
    counters.expect(&abort.clone().secrets(&[("upload-secret", &[9; 20])]), 401, &coming).await;
    counters.expect(&server.write(&bucket, 0, 10, &bytes[10..]), 201, &["uploads_finished{result=completed}"]).await;
    let stable = ["share_state_conflicts{state=stable}"];
    counters.expect(&abort.secrets(&[UPLOAD]), 405, &stable).await;
    counters.expect(&server.allocate(&bucket, &[0], 20), 200, &["lease_operations{op=add,result=done}"]).await;
    let lease = |of: &str| server.request("PUT", &format!("/storage/v1/lease/{of}")).secrets(&LEASE);
    counters.expect(&lease(&bucket), 204, &["lease_operations{op=renew,result=done}"]).await;
    counters.expect(&lease(&index(2)), 404, &["lease_operations{op=renew,result=not_found}"]).await;
    counters.expect(&server.read(&share, 0, 4), 206, &[]).await;

    counters.expect(&server.allocate(&bucket, &[1], 20), 200, &["lease_operations{op=add,result=done}"]).await;
    let abort = server.request("PUT", &format!("/storage/v1/immutable/{bucket}/1/abort")).secrets(&[UPLOAD]);
    counters.expect(&abort, 200, &["uploads_finished{result=aborted}"]).await;
    let quota = AccountChange { quota_bytes: Some(Some(100)), ..AccountChange::default() };
    server.change_account("default", quota).await;
    counters.expect(&server.allocate(&index(3), &[0], 1000), 200, &["quota_rejections{kind=upload}"]).await;

    let requests = |endpoint, method, code| {
        format!("http_requests_total{{endpoint=\"{endpoint}\",method=\"{method}\",code=\"{code}\"}}")
    };
    for (endpoint, method, code, count) in [
        ("version", "GET", 200, 1.0),
        ("allocate", "POST", 200, 4.0),
        ("write", "PATCH", 200, 1.0),
        ("write", "PATCH", 201, 1.0),
        ("write", "PATCH", 409, 1.0),
        ("abort", "PUT", 405, 1.0),
        ("lease", "PUT", 404, 1.0),
        ("read", "GET", 206, 1.0),
    ] {
        assert_eq!(counters.get(&requests(endpoint, method, code)), count, "{endpoint} {method} {code}");
    }
    server.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_a_slot_is_counted() {
    let server = Server::start().await;
    let slot = index(4);
    let mut counters = Counters::of(&server).await;
    counters.expect(&server.put(&slot, 0, 0, b"one"), 200, &["mutable_writes{result=applied}"]).await;
    let path = format!("/storage/v1/mutable/{slot}/read-test-write");
    let stranger = server.request("POST", &path).secrets(&[("write-enabler", &[8; 32])]).secrets(&LEASE);
    let body = |test: &[u8], write: &[u8]| {
        let test = ciborium::Value::Bytes(test.to_vec());
        let write = ciborium::Value::Bytes(write.to_vec());
        cbor!({
            "test-write-vectors" => { 0 => {
                "test" => [{ "offset" => 0, "size" => 3, "specimen" => test }],
                "write" => [{ "offset" => 0, "data" => write }],
                "new-length" => ()
            } },
            "read-vector" => [],
        })
        .expect("plain values")
    };
    counters.expect(&stranger.cbor(&body(b"one", b"two")), 401, &["mutable_writes{result=wrong_enabler}"]).await;
    let owner = || server.request("POST", &path).secrets(&[ENABLER]).secrets(&LEASE);
    let failed = ["mutable_writes{result=test_failed}"];
    counters.expect(&owner().cbor(&body(b"two", b"three")), 200, &failed).await;
    let quota = AccountChange { quota_bytes: Some(Some(100)), ..AccountChange::default() };
    server.change_account("default", quota).await;
    let over = ["mutable_writes{result=over_quota}", "quota_rejections{kind=slot}"];
    counters.expect(&owner().cbor(&body(b"one", &noise(5000))), 507, &over).await;
    counters.expect(&owner().cbor(&ciborium::Value::Bool(true)), 400, &["http_rejected{reason=bad_cbor}"]).await;
    let corrupt = server.request("POST", &format!("/storage/v1/mutable/{slot}/0/corrupt"));
    counters.expect(&corrupt.body(&noise(200_000)), 413, &["http_rejected{reason=too_large}"]).await;
    server.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_open_nothing_are_counted_by_reason() {
    let server = Server::start().await;
    let account = server.create_account("old", "swissnum of old", AccountChange::default()).await;
    let newer = Swissnum::new(b"a newer swissnum".to_vec()).expect("a length that is allowed");
    assert!(server.db.rotate_credential(account.id, newer.credential_hash(), 1).await.expect("rotated"));
    let suspended = AccountChange { state: Some(AccountState::Suspended), ..AccountChange::default() };
    server.create_account("suspended", "swissnum of suspended", suspended).await;
    let version =
        |authorization: &str| Request::new("GET", "/storage/v1/version").header("Authorization", authorization);
    let old = version(&authorization("swissnum of old"));
    server.eventually("the old one is of no use any more", async || server.ask(&old).await.status == 401).await;
    let mut counters = Counters::of(&server).await;
    let malformed = ["auth_failures{reason=malformed}"];
    counters.expect(&Request::new("GET", "/storage/v1/version"), 401, &malformed).await;
    counters.expect(&version("Basic eDp5"), 401, &malformed).await;
    // The second time it is known.
    for _ in 0..2 {
        let unknown = ["auth_failures{reason=unknown}"];
        counters.expect(&version(&authorization("nobody's swissnum")), 401, &unknown).await;
        let revoked = ["auth_failures{reason=revoked}"];
        counters.expect(&old, 401, &revoked).await;
    }
    counters.expect(&version(&authorization("swissnum of suspended")), 200, &[]).await;
    let connection = OldClient::new(Certificate::make()).connect(&server.furl()).await.expect("connected");
    assert!(connection.find("nobody's swissnum").await.is_err());
    assert_eq!(counters.moved().await, ["auth_failures{reason=unknown}"]);
    connection.close();
    server.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_protocol_counts_the_same() {
    let server = Server::start().await;
    let client = OldClient::new(Certificate::make());
    let (connection, storage) = client.enter(&server).await;
    let (storage, bucket, slot) = (Storage(storage), [1; 16], [2; 16]);
    let mut counters = Counters::of(&server).await;
    assert_eq!(counters.get("foolscap_connections"), 1.0);
    let (_, writers) = storage.allocate(&bucket, &[0, 1], 20).await.expect("allocated");
    assert_eq!(counters.moved().await, [""; 0]);
    let writer = &writers[0].1;
    write(writer, 0, &noise(20)).await.expect("written");
    assert!(write(writer, 0, &[0xff; 10]).await.is_err());
    assert_eq!(counters.moved().await, ["share_state_conflicts{state=coming}"]);
    writer.call("close", vec![]).await.expect("closed");
    assert_eq!(counters.moved().await, ["uploads_finished{result=completed}"]);
    storage.add_lease(&bucket).await.expect("renewed");
    assert_eq!(counters.moved().await, ["lease_operations{op=renew,result=done}"]);
    storage.write_slot(&slot, 7, 3, b"", b"one").await.expect("written");
    assert_eq!(counters.moved().await, ["mutable_writes{result=applied}"]);
    storage.write_slot(&slot, 7, 3, b"", b"two").await.expect("tested");
    assert_eq!(counters.moved().await, ["mutable_writes{result=test_failed}"]);
    assert!(storage.write_slot(&slot, 8, 3, b"one", b"two").await.is_err());
    assert_eq!(counters.moved().await, ["mutable_writes{result=wrong_enabler}"]);
    assert_eq!(counters.get("foolscap_calls_total{method=\"add_lease\",outcome=\"answered\"}"), 1.0);
    let wrote = "foolscap_calls_total{method=\"slot_testv_and_readv_and_writev\",outcome=\"failed\"}";
    assert_eq!(counters.get(wrote), 1.0);
    // What a lost connection leaves is aborted.
    connection.close();
    server.eventually("the other upload has ended", async || server.usage("default").await.reserved_bytes == 0).await;
    assert_eq!(counters.moved().await, ["uploads_finished{result=aborted}"]);
    server.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_bytes_are_counted() {
    let server = Server::start_with(|config| config.limits.connections_max = 2).await;
    let mut first = server.connect().await;
    let bytes = noise(300_000);
    assert_eq!(first.ask(&server.allocate(&index(1), &[0], bytes.len() as u64)).await.status, 200);
    let write = server.write(&index(1), 0, 0, &bytes);
    first.send(&write.head()).await.expect("sent");
    let in_request = async || {
        let now = series(&scrape(&server).await);
        (now["http_connections{state=\"active\"}"], now["http_requests_in_flight{class=\"write\"}"]) == (1.0, 1.0)
    };
    server.eventually("a request is in flight", in_request).await;
    first.send(&bytes).await.expect("sent");
    assert_eq!(first.receive(false).await.expect("an answer").status, 201);
    let mut second = server.connect().await;
    assert_eq!(second.ask(&server.get("/storage/v1/version")).await.status, 200);
    let mut third = server.connect().await;
    assert_eq!(third.ask(&server.get("/storage/v1/version")).await.status, 503);
    drop(third);
    let at_rest = async || {
        let now = series(&scrape(&server).await);
        now["http_connections{state=\"active\"}"] == 0.0 && now["http_connections{state=\"idle\"}"] == 2.0
    };
    server.eventually("two connections rest", at_rest).await;
    let now = series(&scrape(&server).await);
    assert_eq!(now["http_rejected_total{reason=\"overload\"}"], 1.0);
    assert_eq!(now["http_requests_in_flight{class=\"write\"}"], 0.0);
    assert!(now["http_received_bytes_total"] > 300_000.0 && now["http_sent_bytes_total"] > 0.0, "{now:?}");
    server.running.stop().await;
}
