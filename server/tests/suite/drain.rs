//! How a server ends (`api.md` 13): a client that polls the version moves away without an error, an upload that has
//! begun is answered, and nothing is closed under anybody before time is up.

use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::support::{
    Connection, PATIENCE, Program, Request, Response, Server, allocate, index, noise, request, write,
};

/// Long enough to act within, short enough to wait for.
const NOTICE_SECONDS: u64 = 3;

async fn draining_server(drain_seconds: u64) -> Server {
    Server::start_with(|config| {
        config.server.drain_notice_seconds = NOTICE_SECONDS;
        config.server.drain_seconds = drain_seconds;
    })
    .await
}

/// Status line and body of a page of the admin port.
async fn admin(server: &Server, path: &str) -> (String, String) {
    let mut stream = tokio::net::TcpStream::connect(server.running.admin).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

async fn is_ready(server: &Server) -> bool {
    admin(server, "/healthz/ready").await.0.contains("200")
}

/// Waits until answers ask to close; every wait opens a connection, and leaves it when it is told to.
async fn closing(server: &Server) {
    let asks = async || asks_to_close(&server.ask(&server.get("/storage/v1/version")).await);
    server.eventually("answers ask to close", asks).await;
}

fn asks_to_close(answer: &Response) -> bool {
    assert_eq!(answer.status / 100, 2, "{answer:?}");
    answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
}

async fn is_open(connection: &mut Connection) -> bool {
    timeout(Duration::from_millis(200), connection.stream.read_u8()).await.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_asked_to_leave_and_the_server_ends_when_they_have() {
    let mut server = draining_server(60).await;
    let version = server.get("/storage/v1/version");
    let (mut kept, mut resting) = (server.connect().await, server.connect().await);
    for connection in [&mut kept, &mut resting] {
        assert!(!asks_to_close(&connection.ask(&version).await));
    }
    assert!(is_ready(&server).await);
    let began = Instant::now();
    server.running.drain();
    server.eventually("readiness is gone", async || !is_ready(&server).await).await;
    assert!(admin(&server, "/metrics").await.1.contains("leasehold_draining 1\n"));
    // During the notice all goes on as before, for newcomers too.
    let during = [kept.ask(&version).await, server.ask(&version).await];
    assert!(began.elapsed() < Duration::from_secs(NOTICE_SECONDS), "this machine is too slow for the test");
    assert!(!during.iter().any(asks_to_close), "{during:?}");

    closing(&server).await;
    assert!(began.elapsed() >= Duration::from_secs(NOTICE_SECONDS));
    // A request that the client would not repeat: it is done, and only its answer closes the connection.
    assert!(asks_to_close(&kept.ask(&server.allocate(&index(1), &[0], 10)).await));
    kept.closed().await;
    assert!(is_open(&mut resting).await, "nobody closes a connection that rests");
    assert!(!is_ready(&server).await, "the admin port answers to the end");
    assert!(asks_to_close(&resting.ask(&version).await));
    resting.closed().await;
    let left = Instant::now();
    timeout(PATIENCE, server.running.ended()).await.expect("everybody has left");
    assert!(left.elapsed() >= Duration::from_millis(1900), "late comers are waited for");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_arrives_slowly_is_answered_and_kept() {
    let mut server = draining_server(60).await;
    let bytes = noise(100_000);
    assert_eq!(server.ask(&server.allocate(&index(2), &[0], bytes.len() as u64)).await.status, 200);
    let mut upload = server.connect().await;
    let request = server.write(&index(2), 0, 0, &bytes);
    upload.send(&request.head()).await.expect("sent");
    server.running.drain();
    let (slow, rest) = bytes.split_at(90_000);
    for part in slow.chunks(15_000) {
        upload.send(part).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(NOTICE_SECONDS * 1000 / 6)).await;
    }
    closing(&server).await;
    upload.send(rest).await.expect("sent");
    let answer = upload.receive(false).await.expect("an answer");
    assert!(answer.status == 201 && asks_to_close(&answer), "{answer:?}");
    // And another pod, or this server's successor, has it.
    let read = server.ask(&server.read(&format!("/storage/v1/immutable/{}/0", index(2)), 0, 99_999)).await;
    assert!(asks_to_close(&read) && read.body == bytes);
    drop(upload);
    timeout(PATIENCE, server.running.ended()).await.expect("everybody has left");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_rest_stay_open_until_time_is_up() {
    let mut server = draining_server(4).await;
    let mut resting = server.connect().await;
    assert_eq!(resting.ask(&server.get("/storage/v1/version")).await.status, 200);
    let began = Instant::now();
    server.running.drain();
    closing(&server).await;
    while began.elapsed() < Duration::from_secs(NOTICE_SECONDS + 3) {
        assert!(is_open(&mut resting).await, "closed after {:?}", began.elapsed());
    }
    timeout(PATIENCE, server.running.ended()).await.expect("time is up");
    assert!(began.elapsed() >= Duration::from_secs(NOTICE_SECONDS + 4));
    resting.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_and_the_program_ends_well() {
    let mut program = Program::start("[server]\ndrain_notice_seconds = 1\n");
    let version = request(&program.authorization, "GET", "/storage/v1/version");
    let mut kept = program.connect().await;
    assert!(!asks_to_close(&kept.ask(&version).await));
    // Twice, as a shell and its process group may.
    program.signal(Signal::TERM);
    program.signal(Signal::TERM);
    // As the client does: the version again and again, until an answer asks to close.
    let deadline = Instant::now() + PATIENCE;
    while !asks_to_close(&kept.ask(&version).await) {
        assert!(Instant::now() < deadline, "never asked to close");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    kept.closed().await;
    assert_eq!(program.ended().await.code(), Some(0), "{}", program.log());
    assert!(!program.log().contains("WARN"), "{}", program.log());
}

/// Sends the head of a request on a connection of its own; the program waits for the body now.
async fn begin(program: &Program, request: &Request) -> Connection {
    let mut connection = program.connect().await;
    connection.send(&request.clone().header("Expect", "100-continue").head()).await.expect("sent");
    assert_eq!(connection.receive(true).await.expect("an interim answer").status, 100);
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn sigint_ends_at_once_but_not_amid_a_request() {
    let mut program = Program::start("");
    let (index, bytes) = (index(3), noise(1000));
    let mut resting = program.connect().await;
    assert_eq!(resting.ask(&allocate(&program.authorization, &index, &[0], 1000)).await.status, 200);
    let mut upload = begin(&program, &write(&program.authorization, &index, 0, 0, &bytes)).await;
    upload.send(&bytes[..500]).await.expect("sent");
    // In the middle of draining, too.
    program.signal(Signal::TERM);
    program.signal(Signal::INT);
    resting.closed().await;
    assert!(program.is_running(), "a request is in flight");
    upload.send(&bytes[500..]).await.expect("sent");
    assert_eq!(upload.receive(false).await.expect("an answer").status, 201);
    assert_eq!(program.ended().await.code(), Some(0), "{}", program.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigint_does_not_wait_for_requests() {
    let mut program = Program::start("");
    let index = index(4);
    let mut resting = program.connect().await;
    assert_eq!(resting.ask(&allocate(&program.authorization, &index, &[0], 1000)).await.status, 200);
    let _upload = begin(&program, &write(&program.authorization, &index, 0, 0, &noise(1000))).await;
    program.signal(Signal::INT);
    resting.closed().await;
    assert!(program.is_running(), "a request is in flight");
    program.signal(Signal::INT);
    assert_eq!(program.ended().await.code(), Some(130), "{}", program.log());
}
