//! What no client of ours sends: garbage, requests smuggled, mutated, nested, slow, cut off, never read. It gets the
//! right 4xx or a closed connection within its deadline, and leaves nothing behind.

use std::time::Duration;

use data_encoding::BASE64;
use rustix::process::Signal;
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Connection, PATIENCE, Program, Request, Response, Server, index, noise, request};

/// The server still serves, holds nothing for anybody, and has no unfinished files.
async fn is_empty(server: &Server) {
    assert_eq!(server.ask(&server.get("/storage/v1/version")).await.status, 200);
    let usage = server.usage("default").await;
    assert_eq!((usage.used_bytes, usage.reserved_bytes, usage.shares), (0, 0, 0));
    assert_eq!(server.temporary_files(), Vec::<String>::new());
}

/// Sends bytes and takes the first answer, if there is one before the server closes.
async fn shout(server: &Server, bytes: &[u8]) -> Option<Response> {
    let mut connection = server.connect().await;
    drop(connection.send(bytes).await);
    match connection.receive(false).await {
        Ok(answer) => Some(answer),
        Err(error) if error.to_string() == "no answer" => panic!("hung: {:?}", String::from_utf8_lossy(bytes)),
        Err(_) => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_refused_or_dropped() {
    let server = Server::start_with(|config| config.limits.header_timeout_seconds = 1).await;
    for garbage in [&b"GET /id/ HTTP/1.1\r\n\r\n"[..], &[0xff; 500], b"\x16\x03\x01\xff\xff"] {
        let mut stream = server.tcp().await;
        stream.write_all(garbage).await.expect("sent");
        let mut answer = Vec::new();
        let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time");
        assert!(end.is_err() || answer.len() < 100, "garbage was answered with {} bytes", answer.len());
    }
    let path = "/storage/v1/version";
    for head in [
        format!("GET {path} HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
        format!("GET {path} HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(1 << 20)),
        format!("GET {path} HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(500)),
        "\r\n\r\n\r\nnonsense\r\n\r\n".to_owned(),
    ] {
        let mut connection = server.connect().await;
        drop(connection.send(head.as_bytes()).await);
        if let Ok(answer) = connection.receive(false).await {
            assert!((400..500).contains(&answer.status), "{} for {:.40}", answer.status, head);
        }
    }
    is_empty(&server).await;
    server.running.stop().await;
}

#[tokio::test]
async fn no_request_hides_in_another() {
    let server = Server::start().await;
    let inner = server.get("/storage/v1/version").bytes();
    let request = || server.put(&index(1), 0, 0, b"x").unmeasured().body(&inner);
    let length = inner.len().to_string();
    for (first, second) in [
        (("Content-Length", "0"), ("Content-Length", length.as_str())),
        (("Content-Length", length.as_str()), ("Content-Length", "0")),
        (("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "identity")),
        (("Transfer-Encoding", "xchunked"), ("Host", "x")),
        (("Content-Length", "+5"), ("Host", "x")),
        (("Content-Length", "-1"), ("Host", "x")),
        (("Content-Length", "99999999999999999999999"), ("Host", "x")),
        (("Content-Length", "0"), ("Transfer-Encoding", "chunked")),
    ] {
        let bytes = request().header(first.0, first.1).header(second.0, second.1).bytes();
        let mut connection = server.connect().await;
        drop(connection.send(&bytes).await);
        if let Ok(answer) = connection.receive(false).await {
            assert!((400..500).contains(&answer.status), "{first:?} {second:?}: {answer:?}");
        }
        let hidden = tokio::time::timeout(Duration::from_millis(200), connection.receive(false)).await;
        let served = matches!(hidden, Ok(Ok(answer)) if answer.status == 200);
        assert!(!served, "{first:?} {second:?}: the body was taken for a request");
    }
    is_empty(&server).await;
}

#[tokio::test]
async fn nested_endless_and_lying_bodies_are_refused() {
    let server = Server::start().await;
    let key = b"\xa1\x72test-write-vectors";
    for (name, body, status) in [
        ("nested arrays", vec![0x81; 200_000], 400),
        ("nested tags", vec![0xc6; 200_000], 400),
        ("nested endless maps", vec![0xbf; 200_000], 400),
        ("endless bytes", [&[0x5f][..], &[0x40; 200_000]].concat(), 400),
        ("a map of 2^64-1", b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(), 400),
        ("a key of 2^63", b"\xa1\x7b\x80\0\0\0\0\0\0\0".to_vec(), 400),
        ("a value of 2^63 bytes", [&key[..], b"\x5b\x80\0\0\0\0\0\0\0"].concat(), 400),
        ("an endless list of shares", [&key[..], b"\xbf", &b"\0\xa0".repeat(1000)].concat(), 400),
    ] {
        for request in [server.read_test_write(&index(1), &body), server.allocate(&index(1), &[], 0).body(&body)] {
            let got = server.ask(&request).await.status;
            assert!(got == status || got == 413, "{name}: {got} to {}", request.line);
        }
    }
    is_empty(&server).await;
}

#[tokio::test]
async fn mutated_requests_never_fail_the_server() {
    let server = Server::start_with(|config| {
        config.limits.header_timeout_seconds = 1;
        config.limits.stall_timeout_seconds = 1;
        config.limits.idle_timeout_seconds = 1;
    })
    .await;
    let exchanges: Json = serde_json::from_str(include_str!("../vectors/exchanges.json")).expect("JSON");
    let rows = exchanges["rows"].as_array().expect("rows");
    let seeds: Vec<Vec<u8>> = rows.iter().map(|row| seed(row, &server.authorization)).collect();
    let random = noise(200 * 12);
    let mutants = random.chunks(12).enumerate().map(|(number, random)| {
        let mut bytes = seeds[number % seeds.len()].clone();
        for choice in random.chunks(3) {
            let at = (usize::from(choice[0]) << 8 | usize::from(choice[1])) % bytes.len();
            match choice[2] % 4 {
                0 => bytes[at] = choice[2],
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, choice[2]),
                _ => bytes[at] ^= 1 << (choice[2] % 8),
            }
        }
        bytes
    });
    for batch in mutants.collect::<Vec<_>>().chunks(50) {
        let answers = futures_util::future::join_all(batch.iter().map(|bytes| shout(&server, bytes))).await;
        for (answer, bytes) in answers.into_iter().zip(batch) {
            let status = answer.map_or(0, |answer| answer.status);
            assert!(status < 500 || status == 507, "{status}: {:?}", String::from_utf8_lossy(bytes));
        }
    }
    assert_eq!(server.ask(&server.get("/storage/v1/version")).await.status, 200);
    assert_eq!(server.temporary_files(), Vec::<String>::new());
}

/// A recorded request as bytes, in the name of our account.
fn seed(row: &Json, authorization: &str) -> Vec<u8> {
    let recorded = &row["request"];
    let mut request = Request::new("GET", "/").unmeasured().without("Host");
    recorded["line"].as_str().expect("a line").clone_into(&mut request.line);
    for pair in recorded["headers"].as_array().expect("headers") {
        let (name, value) = (pair[0].as_str().expect("a name"), pair[1].as_str().expect("a value"));
        request = request.header(name, if name == "Authorization" { authorization } else { value });
    }
    request.body(&crate::support::hex(recorded["body_hex"].as_str().expect("a body"))).bytes()
}

#[tokio::test]
async fn who_never_reads_is_cut_off() {
    let server = Server::start_with(|config| config.limits.stall_timeout_seconds = 1).await;
    let bytes = noise(40 << 20);
    assert_eq!(server.ask(&server.put(&index(1), 0, 0, &bytes)).await.status, 200);
    let mut connection: Connection = server.connect().await;
    let path = format!("/storage/v1/mutable/{}/0", index(1));
    connection.send(&server.get(&path).bytes()).await.expect("sent");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(connection.receive(false).await.is_err(), "a response that stalled is not finished later");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_slow_bodies_and_rest_have_deadlines() {
    let server = Server::start_with(|config| {
        config.limits.header_timeout_seconds = 1;
        config.limits.stall_timeout_seconds = 1;
        config.limits.idle_timeout_seconds = 2;
    })
    .await;
    let index = index(4);
    assert_eq!(server.ask(&server.allocate(&index, &[0], 100)).await.status, 200);
    // A head that dribbles, a body that stops, and a connection that rests.
    let mut head = server.connect().await;
    head.send(b"GET /storage/v1/version HTTP/1.1\r\nA:").await.expect("sent");
    let mut body = server.connect().await;
    let request = server.write(&index, 0, 0, &[1; 100]);
    body.send(&request.head()).await.expect("sent");
    body.send(&[1; 10]).await.expect("sent");
    let mut rest = server.connect().await;
    assert_eq!(rest.ask(&server.get("/storage/v1/version")).await.status, 200);
    tokio::time::timeout(PATIENCE, head.closed()).await.expect("a slow head is cut off");
    let answer = tokio::time::timeout(PATIENCE, body.receive(false)).await.expect("a slow body is answered or cut off");
    assert!(answer.map_or(true, |answer| answer.status == 408));
    tokio::time::timeout(PATIENCE, rest.closed()).await.expect("a resting connection is closed");
    assert_eq!(server.ask(&request).await.status, 201);
    server.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_in_a_body_leaves_nothing_and_may_go_on() {
    let server = Server::start().await;
    let index = index(3);
    let bytes = noise(3 << 20);
    assert_eq!(server.ask(&server.allocate(&index, &[0], bytes.len() as u64)).await.status, 200);
    let request = server.write(&index, 0, 0, &bytes);
    let mut connection = server.connect().await;
    connection.send(&request.head()).await.expect("the head is sent");
    connection.send(&bytes[..1 << 20]).await.expect("a third of the body is sent");
    drop(connection);
    server.eventually("unfinished files are removed", async || server.temporary_files().is_empty()).await;
    assert_eq!(server.ask(&request).await.status, 201);
    server.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_upload_ends_and_gives_its_space_back() {
    let server = Server::start_with(|config| config.uploads.idle_timeout_seconds = 1).await;
    let index = index(5);
    assert_eq!(server.ask(&server.allocate(&index, &[0, 1], 1000)).await.status, 200);
    assert_eq!(server.ask(&server.write(&index, 0, 0, &[1; 10])).await.status, 200);
    assert_eq!(server.usage("default").await.reserved_bytes, 2 * 1012);
    server.eventually("space is given back", async || server.usage("default").await.reserved_bytes == 0).await;
    assert_eq!(server.ask(&server.write(&index, 0, 10, &[1; 10])).await.status, 404);
    is_empty(&server).await;
    server.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_told_to_come_back() {
    let server = Server::start_with(|config| config.limits.connections_max = 2).await;
    let first = server.connect().await;
    let second = server.connect().await;
    let refused = server.ask(&server.get("/storage/v1/version")).await;
    assert_eq!((refused.status, refused.header("retry-after").is_some()), (503, true));
    drop((first, second));
    let answers = async || server.ask(&server.get("/storage/v1/version")).await.status == 200;
    server.eventually("places are free again", answers).await;
    server.running.stop().await;
}

#[tokio::test]
async fn logs_never_hold_a_swissnum() {
    let mut program = Program::start("[log]\nlevel = \"trace\"\n");
    let mut connection = program.connect().await;
    for path in ["/storage/v1/version", "/account/v1", "/nothing"] {
        assert!(connection.ask(&request(&program.authorization, "GET", path)).await.status < 500);
    }
    drop(connection);
    program.signal(Signal::INT);
    assert_eq!(program.ended().await.code(), Some(0));
    let log = program.log();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "the log is detailed: {log}");
    let (swissnum, encoded) = (&program.swissnum, BASE64.encode(program.swissnum.as_bytes()));
    assert!(!log.contains(swissnum) && !log.contains(&encoded[..20]), "a swissnum is in the log");
}
