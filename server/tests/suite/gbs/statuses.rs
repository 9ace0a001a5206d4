//! Statuses and headers, one rule of the protocol after the other.

use ciborium::Value;

use crate::support::{LEASE, Request, Server, UPLOAD, encode, index, noise, put_body};

async fn status(server: &Server, request: Request) -> u16 {
    let answer = server.ask(&request).await;
    assert!(answer.body.len() < 10_000 && !answer.content_type().unwrap_or("").contains("html"), "{answer:?}");
    answer.status
}

fn share(kind: &str, index: &str, number: u64) -> String {
    format!("/storage/v1/{kind}/{index}/{number}")
}

#[tokio::test]
async fn wrong_methods_tell_what_is_allowed() {
    let server = Server::start().await;
    for (method, path, allow) in [
        ("DELETE", "/storage/v1/version".to_owned(), "GET, HEAD"),
        ("GET", format!("/storage/v1/lease/{}", index(1)), "PUT"),
        ("PUT", format!("/storage/v1/immutable/{}", index(1)), "POST"),
        ("PUT", share("immutable", &index(1), 1), "GET, HEAD, PATCH"),
        ("PATCH", share("mutable", &index(1), 1), "GET, HEAD"),
        ("GET", format!("/storage/v1/mutable/{}/read-test-write", index(1)), "POST"),
        ("POST", "/account/v1".to_owned(), "GET, HEAD"),
    ] {
        // Told without authorization.
        let answer = server.ask(&Request::new(method, &path)).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {path}: {answer:?}");
        assert_eq!(answer.content_type(), None);
    }
    assert_eq!(status(&server, Request::new("GET", "/nothing")).await, 404);
}

#[tokio::test]
async fn account_comes_before_secrets_and_secrets_before_the_rest() {
    let server = Server::start().await;
    let bad_body = server.allocate(&index(1), &[1], 1).body(b"nonsense");
    let wrong = "Tahoe-LAFS d3Jvbmc=";
    let nobody = bad_body.clone().without("Authorization").header("Authorization", wrong);
    assert_eq!(status(&server, nobody.clone().without("X-Tahoe-Authorization")).await, 401);
    assert_eq!(status(&server, nobody).await, 401);
    assert_eq!(status(&server, bad_body.clone().without("X-Tahoe-Authorization")).await, 400);
    assert_eq!(
        status(&server, bad_body.clone().without("Content-Type").header("Content-Type", "text/plain")).await,
        415
    );
    assert_eq!(status(&server, bad_body).await, 400);
    for secret in [("lease-renew-secret", &[1; 31][..]), ("upload-secret", &[]), ("upload-secret", &[1; 257])] {
        let request = server.allocate(&index(1), &[1], 1).without("X-Tahoe-Authorization");
        let others = [LEASE[0], LEASE[1], UPLOAD].into_iter().filter(|(kind, _)| *kind != secret.0);
        let request = others.fold(request.secrets(&[secret]), |request, other| request.secrets(&[other]));
        assert_eq!(status(&server, request).await, 400, "{secret:?}");
    }
    assert_eq!(status(&server, server.get("/storage/v1/version").secrets(&[UPLOAD])).await, 400);
    let read = server.read(&share("immutable", &index(1), 1), 0, 1).without("Authorization");
    let answer = server.ask(&read).await;
    assert_eq!((answer.status, answer.content_type()), (401, Some("application/octet-stream")));
}

#[tokio::test]
async fn types_and_lengths_of_bodies_are_checked() {
    let server =
        Server::start_with(|config| config.limits.read_test_write_body_max = "1MiB".parse().expect("size")).await;
    let allocate =
        |kind: &str| server.allocate(&index(1), &[1], 1).without("Content-Type").header("Content-Type", kind);
    assert_eq!(status(&server, allocate("application/cbor; charset=x")).await, 200);
    assert_eq!(status(&server, allocate("application/json")).await, 415);
    assert_eq!(status(&server, server.allocate(&index(2), &[1], 1).without("Content-Type")).await, 200);
    assert_eq!(status(&server, server.allocate(&index(3), &[1], 1).body(&noise(8193))).await, 413);
    assert_eq!(status(&server, server.read_test_write(&index(4), &noise((1 << 20) + 1))).await, 413);
    let json = server.get("/storage/v1/version").without("Accept");
    assert_eq!(status(&server, json.clone()).await, 200);
    assert_eq!(status(&server, json.clone().header("Accept", "*/*")).await, 200);
    assert_eq!(status(&server, json.header("Accept", "application/json")).await, 406);
    // 406 comes before the work is done.
    let refused = server.put(&index(5), 0, 0, b"x").without("Accept").header("Accept", "text/plain");
    assert_eq!(status(&server, refused).await, 406);
    let answer = server.ask(&server.read(&share("mutable", &index(5), 0), 0, 0)).await;
    assert_eq!(answer.status, 404);
}

#[tokio::test]
async fn heads_pipelines_chunks_and_expectations_work() {
    let server = Server::start().await;
    server.upload(&index(1), 0, b"0123456789").await;
    let mut connection = server.connect().await;
    let head = connection.ask(&server.request("HEAD", &share("immutable", &index(1), 0))).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("10")));
    let ranges = (0..20).map(|at| server.read(&share("immutable", &index(1), 0), at % 10, at % 10).bytes());
    connection.send(&ranges.flatten().collect::<Vec<u8>>()).await.expect("sent");
    for at in 0..20u8 {
        assert_eq!(connection.receive(false).await.expect("in order").body, [b'0' + at % 10]);
    }
    let request = server.allocate(&index(2), &[3], 10);
    let mut chunked = request.clone().unmeasured().header("Transfer-Encoding", "chunked");
    chunked.body = request
        .body
        .chunks(7)
        .flat_map(|part| [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat())
        .collect();
    chunked.body.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(connection.ask(&chunked).await.status, 200);
    let write = server.write(&index(2), 3, 0, b"0123456789").header("Expect", "100-continue");
    connection.send(&write.head()).await.expect("sent");
    assert_eq!(connection.receive(true).await.expect("an interim answer").status, 100);
    connection.send(&write.body).await.expect("sent");
    assert_eq!(connection.receive(false).await.expect("the answer").status, 201);
}

#[tokio::test]
async fn reading_follows_the_table_of_ranges() {
    let server = Server::start().await;
    server.upload(&index(1), 0, b"0123456789").await;
    let path = share("immutable", &index(1), 0);
    let huge = "9".repeat(31);
    for (range, expected, body) in [
        (format!("bytes=2-{huge}"), 206, "23456789"),
        (format!("bytes={huge}-{huge}"), 204, ""),
        ("bytes=9-9".to_owned(), 206, "9"),
        ("bytes=10-10".to_owned(), 204, ""),
        ("bytes=3-2".to_owned(), 416, ""),
        ("bytes=0-1,3-4".to_owned(), 416, ""),
        ("items=0-1".to_owned(), 416, ""),
        ("bytes=a-b".to_owned(), 416, ""),
        ("bytes=-1".to_owned(), 416, ""),
        ("bytes=1-".to_owned(), 416, ""),
    ] {
        let answer = server.ask(&server.get(&path).header("Range", &range)).await;
        assert_eq!((answer.status, answer.text().as_str()), (expected, body), "{range}");
        assert_eq!(answer.content_type(), Some("application/octet-stream"), "{range}");
        assert_eq!(answer.header("content-range").is_some(), expected == 206, "{range}");
    }
    let unknown = server.get(&share("immutable", &index(1), 9)).header("Range", "nonsense");
    let answer = server.ask(&unknown).await;
    assert_eq!((answer.status, answer.content_type(), answer.body.len()), (404, Some("application/octet-stream"), 0));
}

#[tokio::test]
async fn writes_that_are_refused_keep_nothing() {
    let server = Server::start().await;
    let bucket = index(1);
    assert_eq!(status(&server, server.allocate(&bucket, &[1], 20)).await, 200);
    let write = |range: &str, body: &[u8]| {
        server.write(&bucket, 1, 0, b"x").without("Content-Range").header("Content-Range", range).body(body)
    };
    for range in
        ["", "bytes 5-2/*", "bytes */20", "items 0-1/*", "bytes 0-1", "bytes -1-2/*", "bytes 0-9/5", "bytes 19-20/*"]
    {
        assert_eq!(status(&server, write(range, b"0123456789")).await, 416, "{range}");
    }
    assert_eq!(status(&server, write("", b"x").without("Content-Range")).await, 416);
    assert_eq!(status(&server, write("bytes 0-9/*", b"shorter")).await, 400);
    assert_eq!(status(&server, write("bytes 0-9/*", b"longer than ten")).await, 400);
    let other = write("bytes 0-0/*", b"x").without("X-Tahoe-Authorization").secrets(&[("upload-secret", b"other")]);
    assert_eq!(status(&server, other).await, 401);
    assert_eq!(status(&server, server.write(&bucket, 2, 0, b"x")).await, 404);
    let answer = server.ask(&write("bytes 10-14/*", b"klmno")).await;
    assert_eq!(answer.body, encode(&required(&[(0, 10), (15, 20)])), "nothing was kept before");
    // The first bytes of this one are new, the last conflict.
    assert_eq!(status(&server, write("bytes 5-14/*", b"fghijKLMNO")).await, 409);
    let answer = server.ask(&write("bytes 10-14/*", b"klmno")).await;
    assert_eq!(answer.body, encode(&required(&[(0, 10), (15, 20)])), "nothing of the conflict was kept");
    assert_eq!(status(&server, write("bytes 0-9/*", b"abcdefghij")).await, 200);
    assert_eq!(status(&server, write("bytes 15-19/*", b"pqrst")).await, 201);
    assert_eq!(server.ask(&server.read(&share("immutable", &bucket, 1), 0, 99)).await.text(), "abcdefghijklmnopqrst");
}

fn required(missing: &[(u64, u64)]) -> Value {
    let range =
        |(begin, end): &(u64, u64)| Value::Map(vec![("begin".into(), (*begin).into()), ("end".into(), (*end).into())]);
    Value::Map(vec![("required".into(), Value::Array(missing.iter().map(range).collect()))])
}

#[tokio::test]
async fn exactly_one_of_many_writes_at_once_finishes_the_share() {
    let server = Server::start().await;
    let bytes = noise(1600);
    for round in 0..5 {
        let bucket = index(round);
        assert_eq!(status(&server, server.allocate(&bucket, &[0], 1600)).await, 200);
        let writes = bytes.chunks(100).enumerate().map(|(number, part)| {
            let request = server.write(&bucket, 0, number as u64 * 100, part);
            let server = &server;
            async move { server.ask(&request).await.status }
        });
        let mut statuses = futures_util::future::join_all(writes).await;
        statuses.sort_unstable();
        assert_eq!(statuses, [vec![200; 15], vec![201]].concat());
        assert_eq!(server.ask(&server.read(&share("immutable", &bucket, 0), 0, 1599)).await.body, bytes);
    }
}

#[tokio::test]
async fn kinds_do_not_mix() {
    let server = Server::start().await;
    let (bucket, slot) = (index(1), index(2));
    server.upload(&bucket, 0, b"immutable").await;
    assert_eq!(status(&server, server.put(&slot, 0, 0, b"mutable")).await, 200);
    assert_eq!(status(&server, server.put(&bucket, 5, 0, b"x")).await, 409);
    assert_eq!(status(&server, server.read(&share("mutable", &bucket, 0), 0, 9)).await, 404);
    assert_eq!(status(&server, server.read(&share("immutable", &slot, 0), 0, 9)).await, 404);
    for list in [format!("/storage/v1/mutable/{bucket}/shares"), format!("/storage/v1/immutable/{slot}/shares")] {
        assert_eq!(server.ask(&server.get(&list)).await.body, [0xd9, 1, 2, 0x80], "{list}");
    }
    let allocated = server.ask(&server.allocate(&slot, &[0], 3)).await.cbor();
    let empty = || Value::Tag(258, Box::new(Value::Array(Vec::new())));
    assert_eq!(allocated, Value::Map(vec![("already-have".into(), empty()), ("allocated".into(), empty())]));
}

#[tokio::test]
async fn leases_reports_and_aborts() {
    let server = Server::start().await;
    let bucket = index(1);
    let lease = |index: &str| server.request("PUT", &format!("/storage/v1/lease/{index}")).secrets(&LEASE);
    server.upload(&bucket, 0, b"share").await;
    assert_eq!(status(&server, lease(&bucket)).await, 204);
    assert_eq!(status(&server, lease(&index(2))).await, 404);
    let report = |number| server.request("POST", &format!("{}/corrupt", share("immutable", &bucket, number)));
    assert_eq!(status(&server, report(7).body(&noise(40_000))).await, 404, "before the body is looked at");
    assert_eq!(status(&server, report(0).body(&noise(40_000))).await, 413);
    assert_eq!(status(&server, report(0).body(b"\xa1\x66reason\x61x")).await, 200);
    let abort = |number, secret: &'static [u8]| {
        let request = server.request("PUT", &format!("{}/abort", share("immutable", &bucket, number)));
        request.secrets(&[("upload-secret", secret)])
    };
    assert_eq!(status(&server, abort(0, UPLOAD.1)).await, 405);
    assert_eq!(status(&server, abort(1, UPLOAD.1)).await, 404);
    assert_eq!(status(&server, server.allocate(&bucket, &[1], 5)).await, 200);
    assert_eq!(status(&server, abort(1, b"other")).await, 401);
    assert_eq!(status(&server, abort(1, UPLOAD.1)).await, 200);
    assert_eq!(server.usage("default").await.reserved_bytes, 0);
}

#[tokio::test]
async fn a_refused_change_of_a_slot_leaves_nothing_behind() {
    let server = Server::start().await;
    let slot = index(1);
    let body = |offset| encode(&put_body(0, offset, b"data", None));
    assert_eq!(status(&server, server.read_test_write(&slot, &body(1 << 63))).await, 413);
    assert_eq!(status(&server, server.read_test_write(&slot, &body(u64::MAX - 1))).await, 413);
    assert_eq!(server.usage("default").await.shares, 0);
    assert_eq!(status(&server, server.read_test_write(&slot, &body(2))).await, 200);
    let other = server.read_test_write(&slot, &body(0)).without("X-Tahoe-Authorization").secrets(&LEASE);
    assert_eq!(status(&server, other.secrets(&[("write-enabler", &[9; 32])])).await, 401);
    assert_eq!(server.ask(&server.read(&share("mutable", &slot, 0), 0, 9)).await.body, b"\0\0data");
}
