//! Input that no client of ours sends: broken, hostile, slow, or cut off. It gets the right 4xx, or nothing, and leaves
//! nothing behind.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{LEASE, PATIENCE, Server, UPLOAD, index, noise};

/// The server still serves, holds nothing for anybody, and has no unfinished files.
async fn is_untouched(server: &Server) {
    assert_eq!(server.ask(&server.get("/storage/v1/version")).await.status, 200);
    let usage = server.usage("default").await;
    assert_eq!((usage.used_bytes, usage.reserved_bytes, usage.shares), (0, 0, 0));
    assert_eq!(server.temporary_files(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_wrong_length_or_range_keeps_nothing() {
    let server = Server::start().await;
    let index = index(1);
    let allocate = server.allocate(&index, &[0], 100);
    assert_eq!(server.ask(&allocate).await.status, 200);
    let bytes = noise(100);
    for (range, body, status) in [
        ("bytes 0-99/*", &bytes[..50], 400),
        ("bytes 0-49/*", &bytes[..100], 400),
        ("bytes 50-149/*", &bytes[..], 416),
        ("bytes 9-0/*", &bytes[..10], 416),
        ("bytes */100", &bytes[..10], 416),
        ("bytes 0-99/99", &bytes[..], 416),
        ("molluscs 0-99/*", &bytes[..], 416),
    ] {
        let path = format!("/storage/v1/immutable/{index}/0");
        let request = server.request("PATCH", &path).secrets(&[UPLOAD]).header("Content-Range", range).body(body);
        assert_eq!(server.ask(&request).await.status, status, "{range}");
    }
    // Nothing of all that was kept: other bytes conflict with nothing and complete the share.
    assert_eq!(server.ask(&server.write(&index, 0, 0, &noise(200)[100..])).await.status, 201);
    server.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflicting_write_keeps_none_of_itself() {
    let server = Server::start().await;
    let index = index(2);
    assert_eq!(server.ask(&server.allocate(&index, &[3], 30)).await.status, 200);
    assert_eq!(server.ask(&server.write(&index, 3, 10, &[1; 10])).await.status, 200);
    assert_eq!(server.ask(&server.write(&index, 3, 0, &[2; 30])).await.status, 409);
    assert_eq!(server.ask(&server.write(&index, 3, 0, &[3; 10])).await.status, 200);
    assert_eq!(server.ask(&server.write(&index, 3, 20, &[4; 10])).await.status, 201);
    let read = server.ask(&server.read(&format!("/storage/v1/immutable/{index}/3"), 0, 29)).await;
    assert_eq!(read.body, [[3; 10], [1; 10], [4; 10]].concat());
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
    is_untouched(&server).await;
    server.running.stop().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_upload_ends_and_gives_its_space_back() {
    let server = Server::start_with(|config| config.uploads.idle_timeout_seconds = 1).await;
    let index = index(5);
    assert_eq!(server.ask(&server.allocate(&index, &[0, 1], 1000)).await.status, 200);
    assert_eq!(server.ask(&server.write(&index, 0, 0, &[1; 10])).await.status, 200);
    assert_eq!(server.usage("default").await.reserved_bytes, 2 * 1012);
    server.eventually("space is given back", async || server.usage("default").await.reserved_bytes == 0).await;
    assert_eq!(server.ask(&server.write(&index, 0, 10, &[1; 10])).await.status, 404);
    is_untouched(&server).await;
    server.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_one_of_many_concurrent_writes_finishes_a_share() {
    let server = std::sync::Arc::new(Server::start().await);
    let index = index(6);
    assert_eq!(server.ask(&server.allocate(&index, &[0], 160)).await.status, 200);
    let bytes = noise(160);
    let mut tasks = Vec::new();
    for part in 0..16u64 {
        let (server, index) = (server.clone(), index.clone());
        let bytes = bytes[part as usize * 10..][..10].to_vec();
        tasks.push(tokio::spawn(async move { server.ask(&server.write(&index, 0, part * 10, &bytes)).await.status }));
    }
    let mut statuses = Vec::new();
    for task in tasks {
        statuses.push(task.await.expect("answered"));
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [&[200; 15][..], &[201]].concat());
    let read = server.ask(&server.read(&format!("/storage/v1/immutable/{index}/0"), 0, 1000)).await;
    assert_eq!((read.status, read.body), (206, bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_slots_pass_through_in_both_directions() {
    let server = Server::start().await;
    let index = index(8);
    let bytes = noise(5 << 20);
    assert_eq!(server.ask(&server.put(&index, 1, 0, &bytes)).await.status, 200);
    assert_eq!(server.ask(&server.put(&index, 1, 3 << 20, &[7; 1000])).await.status, 200);
    let read = server.ask(&server.read(&format!("/storage/v1/mutable/{index}/1"), 0, 1 << 30)).await;
    let mut expected = bytes;
    expected[3 << 20..][..1000].fill(7);
    assert!(read.status == 206 && read.body == expected, "{} with {} bytes", read.status, read.body.len());
    // Immutable requests know nothing of it, and may not join it.
    let wrong = server.ask(&server.get(&format!("/storage/v1/immutable/{index}/1"))).await;
    assert_eq!((wrong.status, wrong.content_type()), (404, Some("application/octet-stream")));
    let allocated = server.ask(&server.allocate(&index, &[0, 1], 10)).await;
    assert_eq!(allocated.cbor().as_map().expect("a map").len(), 2);
    assert_eq!(server.usage("default").await.reserved_bytes, 0);
    server.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn states_and_quota_of_an_account_hold_on_the_wire() {
    use leasehold_core::account::AccountState;
    use leasehold_core::leasedb::AccountChange;
    let server = Server::start().await;
    let (kept, other) = (index(9), index(10));
    server.upload(&kept, 0, &[5; 50]).await;
    let lease = server.request("PUT", &format!("/storage/v1/lease/{kept}")).secrets(&LEASE);
    let read = server.read(&format!("/storage/v1/immutable/{kept}/0"), 0, 9);
    let set = async |change| server.change_account("default", change).await;
    for (state, renews) in [(AccountState::ReadOnly, 204), (AccountState::Suspended, 403)] {
        set(AccountChange { state: Some(state), ..AccountChange::default() }).await;
        let full = async || server.ask(&server.write(&kept, 1, 0, &[1])).await.status == 403;
        server.eventually("the state is known", full).await;
        assert_eq!(server.ask(&read).await.status, 206, "{state}");
        assert_eq!(server.ask(&lease).await.status, renews, "{state}");
        assert_eq!(server.ask(&server.put(&other, 0, 0, &[1])).await.status, 403, "{state}");
    }
    set(AccountChange { state: Some(AccountState::Active), quota_bytes: Some(Some(100)), ..AccountChange::default() })
        .await;
    let fits = async || server.ask(&lease).await.status == 204;
    server.eventually("the account is active again", fits).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(server.ask(&server.put(&other, 0, 0, &[1])).await.status, 507);
    assert_eq!(server.ask(&server.allocate(&other, &[0], 50)).await.status, 200);
    let usage = server.usage("default").await;
    assert_eq!((usage.used_bytes, usage.reserved_bytes), (62, 0), "50 + 12 bytes do not fit beside 62 of 100");
    server.running.stop().await;
}
