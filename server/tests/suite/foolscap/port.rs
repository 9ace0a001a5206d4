//! One port for both protocols: what is slow, garbage or too large is dropped in time, and disturbs nobody.

use std::io;
use std::time::Duration;

use leasehold_foolscap::Furl;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::key;
use crate::support::foolscap::{Certificate, OldClient, Storage};
use crate::support::{PATIENCE, Server};

/// Sends bytes on a connection of its own; what comes back until the server closes.
async fn shout(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut stream = server.tcp().await;
    // The server may close before it has read all.
    drop(stream.write_all(bytes).await);
    let mut answer = Vec::new();
    match timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("closed in time") {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
    answer
}

async fn both_answer(server: &Server) {
    assert_eq!(server.ask(&server.get("/storage/v1/version")).await.status, 200);
    let (connection, storage) = OldClient::new(Certificate::make()).enter(server).await;
    Storage(storage).version().await.expect("a version");
    connection.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn clear_text_is_refused_as_the_protocol_does_it() {
    let server = Server::start().await;
    let tub_id = server.furl().tub_id;
    let request = |id: &str, rest: &str| format!("GET /id/{id} HTTP/1.1\r\nHost: x\r\n{rest}\r\n");
    let text = |answer: Vec<u8>| String::from_utf8(answer).expect("text");
    let unknown = "a".repeat(32);
    let answer = text(shout(&server, request(&unknown, "").as_bytes()).await);
    assert_eq!(answer, format!("HTTP/1.1 500 Internal Server Error: unknown TubID {unknown}\r\n\r\n"));
    let answer = text(shout(&server, request("", "").as_bytes()).await);
    assert!(answer.contains("secure Tubs require encryption"), "{answer}");
    let long = format!("X: {}\r\n", "x".repeat(5000));
    for bytes in [
        request(tub_id.as_str(), &long).into_bytes(),
        // A hello in clear behind the request: bytes that TLS has not protected.
        format!("{}banana-negotiation-range: 3 3\r\n\r\n", request(tub_id.as_str(), "")).into_bytes(),
        [&b"GET /id/"[..], &[0xff; 6000]].concat(),
    ] {
        let answer = shout(&server, &bytes).await;
        assert!(!answer.starts_with(b"HTTP/1.1 101"), "{:?}", String::from_utf8_lossy(&answer));
        assert!(answer.len() < 200);
    }
    both_answer(&server).await;
    server.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_slow_is_dropped() {
    let server = Server::start_with(|config| config.limits.header_timeout_seconds = 1).await;
    let furl = server.furl();
    let upgrade = format!("GET /id/{} HTTP/1.1\r\nHost: x\r\n\r\n", furl.tub_id);
    for bytes in [&b""[..], b"GET /i", b"GET /id/", &upgrade.as_bytes()[..20], upgrade.as_bytes(), b"\x16\x03\x01"] {
        let answer = shout(&server, bytes).await;
        assert!(answer.len() < 100, "{:?}", String::from_utf8_lossy(&answer));
    }
    both_answer(&server).await;
    server.running.stop().await;
}

/// Inside TLS: garbage, endless blocks and tokens, and calls before the name is known.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_inside_tls_ends_the_connection() {
    let server = Server::start().await;
    let furl = server.furl();
    let hello = |certificate: &Certificate| {
        format!(
            "banana-negotiation-range: 3 3\r\ninitial-vocab-table-range: 0 1\r\nlast-connection: none 0\r\n\
             my-incarnation: 0123456789abcdef\r\nmy-tub-id: {}\r\n\r\n",
            certificate.tub_id()
        )
    };
    for garbage in [
        b"\r\n\r\n".to_vec(),
        vec![b'x'; 10_000],
        b"error: no\r\n\r\n".to_vec(),
        b"my-tub-id: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nbanana-negotiation-range: 3 3\r\n\r\n".to_vec(),
    ] {
        inside(&furl, Certificate::make(), &garbage).await;
    }
    // After the decision: a header too long, an unknown type, a string that never ends, a call of another object first.
    for garbage in [vec![1u8; 100], vec![0xff; 10], [&[0x7f; 8][..], &[0x82]].concat(), vec![0x00, 0x88, 0x01, 0x82]] {
        let certificate = Certificate::with_role(&furl.tub_id, false);
        let bytes = [hello(&certificate).as_bytes(), &garbage].concat();
        inside(&furl, certificate, &bytes).await;
    }
    both_answer(&server).await;
    assert_eq!(server.usage("default").await.reserved_bytes, 0);
    server.running.stop().await;
}

/// Sends bytes inside TLS and reads until the server closes; what it says is short.
async fn inside(furl: &Furl, certificate: Certificate, bytes: &[u8]) {
    let mut stream = OldClient::new(certificate).tls(furl).await.expect("TLS");
    drop(stream.write_all(bytes).await);
    drop(stream.flush().await);
    drop(stream.shutdown().await);
    let mut answer = Vec::new();
    drop(timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("closed in time"));
    assert!(answer.len() < 2000, "{} bytes", answer.len());
}

/// Connections of both kinds count against one limit.
#[tokio::test(flavor = "multi_thread")]
async fn connections_of_both_protocols_are_limited_together() {
    let server = Server::start_with(|config| config.limits.connections_max = 2).await;
    let furl = server.furl();
    let (first, storage) = OldClient::new(Certificate::make()).enter(&server).await;
    let mut other = server.connect().await;
    assert_eq!(other.ask(&server.get("/storage/v1/version")).await.status, 200);
    assert!(OldClient::new(Certificate::make()).connect(&furl).await.is_err(), "one too many");
    assert_eq!(server.ask(&server.get("/storage/v1/version")).await.status, 503);
    assert!(Storage(storage).buckets(&key(1)).await.is_ok(), "who is in stays in");
    first.close();
    let free = async || {
        tokio::time::sleep(Duration::from_millis(10)).await;
        OldClient::new(Certificate::make()).connect(&furl).await.is_ok()
    };
    server.eventually("a place is free", free).await;
    server.running.stop().await;
}
