//! The S3 backend against a real S3 server: what the contract of backends does not ask.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use leasehold_config::S3;
use leasehold_core::backend::{Backend, BackendError};
use leasehold_core::chunk::{ObjectKey, ObjectName, StoreObject};
use leasehold_core::clock::{Clock, Entropy, SystemClock, Timestamp};
use leasehold_core::id::AccountId;
use leasehold_core::testing::clock::ManualClock;
use leasehold_core::testing::{body, read_all, share_id};
use leasehold_e2e_services::{Minio, MinioOptions};
use leasehold_server::backend::s3::{S3Backend, S3Metrics};
use leasehold_server::check::{Finding, Level};
use prometheus_client::registry::Registry;

use crate::s3_bucket::S3Bucket;

fn names() -> impl Iterator<Item = ObjectKey> {
    let entropy = Entropy::from_seed(5);
    std::iter::repeat_with(move || {
        let generation = entropy.object_id(SystemClock.now());
        ObjectName::new(share_id(1, 0), StoreObject::Generation { generation, account: AccountId::new(16) }).key()
    })
}

fn a_name() -> ObjectKey {
    names().next().expect("endless")
}

async fn probe(bucket: &S3Bucket, clock: &dyn Clock) -> Vec<Finding> {
    bucket.open().probe(clock, &Entropy::from_seed(7)).await
}

fn texts(findings: &[Finding], level: Level) -> Vec<&str> {
    findings.iter().filter(|finding| finding.level == level).map(|finding| finding.text.as_str()).collect()
}

#[tokio::test]
async fn probe_is_content_with_a_real_store_and_leaves_nothing() {
    let bucket = S3Bucket::make();
    let findings = probe(&bucket, &SystemClock).await;
    assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:?}");
    let said = texts(&findings, Level::Ok).join("\n");
    for expected in ["stored, read, listed and deleted", "clock", "conditional writes work"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let page = bucket.open().list("", None, 10).await.expect("list");
    assert!(page.objects.is_empty(), "{page:?}");
}

#[tokio::test]
async fn probe_compares_clocks() {
    let bucket = S3Bucket::make();
    for (shift, level, side) in
        [(-3600, Level::Error, "ahead of"), (3600, Level::Error, "behind"), (60, Level::Warning, "behind")]
    {
        let clock = ManualClock::at(Timestamp::from_seconds(SystemClock.now().seconds() + shift));
        let findings = probe(&bucket, &clock).await;
        let said = texts(&findings, level);
        let expected = |text: &&str| text.contains("clock") && text.contains(side);
        assert!(said.iter().any(expected), "{shift}: {findings:?}");
    }
}

#[tokio::test]
async fn a_store_that_denies_access_is_named_and_secrets_are_not() {
    let bucket = S3Bucket::make();
    bucket.write_keys("NOSUCHKEY", "a-secret-nobody-may-see");
    let unknown = bucket.open();
    let answer = unknown.list("", None, 1).await;
    let Err(BackendError::Denied(error)) = answer else { panic!("{answer:?}") };
    let text = error.to_string();
    assert!(text.contains(&bucket.config.bucket) && text.contains("does not know the access key"), "{text}");
    let mut missing = S3Bucket::make();
    missing.config.bucket = "not-there".to_owned();
    let answer = missing.open().get(&a_name(), 0..1).await.map(drop);
    assert!(matches!(answer, Err(BackendError::Denied(_))), "a missing S3 bucket is no missing object: {answer:?}");
    let findings = [probe(&bucket, &SystemClock).await, probe(&missing, &SystemClock).await];
    for findings in &findings {
        assert_eq!(texts(findings, Level::Error).len(), findings.len(), "{findings:?}");
    }
    let said = format!("{findings:?} {unknown:?} {text}");
    assert!(!said.contains("nobody-may-see"), "{said}");
}

#[tokio::test]
async fn changed_keys_are_used_without_a_restart() {
    let minio = Minio::start(&MinioOptions::default()).expect("an S3 server");
    let bucket = S3Bucket::make_in(&minio);
    let good = minio.credentials().clone();
    bucket.write_keys(&good.access_key, "not-the-secret");
    let backend = bucket.open();
    assert!(matches!(backend.list("", None, 1).await, Err(BackendError::Denied(_))));
    bucket.write_keys(&good.access_key, &good.secret_key);
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = backend.list("", None, 1).await {
        assert!(matches!(error, BackendError::Denied(_)), "{error:?}");
        assert!(Instant::now() < deadline, "the new key is not used");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_and_no_other() {
    let minio = Minio::start(&MinioOptions { tls_names: Some(vec!["127.0.0.1".to_owned()]) }).expect("an S3 server");
    let mut bucket = S3Bucket::make_in(&minio);
    assert!(probe(&bucket, &SystemClock).await.iter().all(|finding| finding.level == Level::Ok));
    let other = Minio::start(&MinioOptions { tls_names: Some(vec!["127.0.0.1".to_owned()]) }).expect("an S3 server");
    bucket.config.ca_file = other.authority_file().map(Into::into);
    bucket.config.attempts_max = 1;
    let answer = bucket.open().list("", None, 1).await;
    let Err(BackendError::Unavailable(error)) = answer else { panic!("{answer:?}") };
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn uploads_wait_for_room_before_their_first_byte_is_read() {
    let mut bucket = S3Bucket::make();
    bucket.config.upload_memory = leasehold_config::Size(1000);
    bucket.config.timeout_seconds = 1;
    let backend = bucket.open();
    let mut names = names();
    let mut next = || names.next().expect("endless");
    let (slow, fast) = (next(), next());
    let (mut sender, receiver) = futures_channel();
    let mut put = Box::pin(backend.put(&slow, 600, receiver));
    assert!(futures_util::poll!(put.as_mut()).is_pending(), "nothing has come");
    let second = backend.put(&fast, 600, Box::pin(futures_util::stream::poll_fn(|_| panic!("read without room"))));
    let answer = second.await;
    assert!(matches!(answer, Err(BackendError::Unavailable(_))), "bounded wait: {answer:?}");
    sender.send(vec![7; 600]);
    put.await.expect("its body has come");
    backend.put(&fast, 600, body(&[8; 600])).await.expect("there is room again");
    let answer = backend.put(&next(), 1001, body(&[8; 1001])).await;
    assert!(matches!(answer, Err(BackendError::Source(_))), "never fits: {answer:?}");
}

#[tokio::test]
async fn slow_readers_do_not_keep_others_from_reading() {
    let mut bucket = S3Bucket::make();
    bucket.config.concurrent_max = 1;
    let backend = bucket.open();
    let (name, content) = (a_name(), (0..5 << 18).map(|at: u32| (at % 253) as u8).collect::<Vec<u8>>());
    let length = content.len() as u64;
    backend.put(&name, length, body(&content)).await.expect("put");
    let mut readers = Vec::new();
    for from in 0..8 {
        readers.push((from, backend.get(&name, from..length).await.expect("get")));
    }
    for (from, reader) in readers.into_iter().rev() {
        assert!(read_all(reader).await.expect("all") == content[from as usize..], "from {from}");
    }
    for range in [0..length + 1, 5..length + 1] {
        for slow_readers in [0, 4] {
            let mut readers = Vec::new();
            for _ in 0..slow_readers {
                readers.push(backend.get(&name, 0..length).await.expect("get"));
            }
            let answer = match backend.get(&name, range.clone()).await {
                Ok(stream) => read_all(stream).await.map(drop).map_err(BackendError::Unavailable),
                Err(error) => Err(error),
            };
            assert!(matches!(answer, Err(BackendError::Unavailable(_))), "beyond the end: {range:?} {answer:?}");
        }
    }
}

/// A body that comes when a test sends it.
fn futures_channel() -> (Sender, leasehold_core::backend::ByteStream) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let bytes: Vec<u8> = receiver.recv().await?;
        Some((Ok(bytes.into()), receiver))
    });
    (Sender(Some(sender)), Box::pin(stream))
}

struct Sender(Option<tokio::sync::mpsc::UnboundedSender<Vec<u8>>>);

impl Sender {
    /// Sends all of the body.
    fn send(&mut self, bytes: Vec<u8>) {
        self.0.take().expect("once").send(bytes).expect("the other end is there");
    }
}

#[tokio::test]
async fn a_store_that_is_down_or_frozen_fails_in_bounded_time_and_comes_back() {
    let minio = Minio::start(&MinioOptions::default()).expect("an S3 server");
    let mut bucket = S3Bucket::make_in(&minio);
    bucket.config.timeout_seconds = 2;
    bucket.config.attempts_max = 2;
    let backend = bucket.open();
    let name = a_name();
    backend.put(&name, 5, body(b"bytes")).await.expect("put");
    for frozen in [false, true] {
        if frozen { minio.freeze() } else { minio.kill() }.expect("it runs");
        let started = Instant::now();
        let read = backend.get(&name, 0..5).await.map(drop);
        assert!(matches!(read, Err(BackendError::Unavailable(_))), "never a false 404: {read:?}");
        let written = backend.put(&a_name(), 1, body(b"x")).await;
        assert!(matches!(written, Err(BackendError::Unavailable(_))), "{written:?}");
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        if frozen { minio.thaw() } else { minio.start_again() }.expect("it comes back");
        let stream = backend.get(&name, 0..5).await.expect("it is back");
        assert_eq!(read_all(stream).await.expect("all"), b"bytes");
    }
}

/// Serves the keys of a container's role, as a container platform does, and tells how often it was asked.
fn serve_role(document: String) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/role", listener.local_addr().expect("bound"));
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read_exact(&mut byte).is_err() {
                    break;
                }
                head.push(byte[0]);
            }
            count.fetch_add(1, Ordering::SeqCst);
            let length = document.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n");
            drop(write!(stream, "{head}connection: close\r\n\r\n{document}"));
        }
    });
    (url, asked)
}

/// The identity of a workload is in its environment, so this test runs itself again in another process.
#[test]
fn without_keys_the_workloads_own_identity_is_used() {
    let (minio, bucket) = (Minio::shared().expect("an S3 server"), S3Bucket::make());
    let credentials = minio.credentials();
    let document = serde_json::json!({
        "AccessKeyId": credentials.access_key, "SecretAccessKey": credentials.secret_key, "Token": "",
        "Expiration": "2100-01-01T00:00:00Z",
    });
    let (url, asked) = serve_role(document.to_string());
    let program = std::env::current_exe().expect("this program");
    let output = std::process::Command::new(program)
        .args(["--exact", "s3::as_a_workload", "--ignored", "--nocapture"])
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("LEASEHOLD_TEST_S3", format!("{} {}", minio.endpoint(), bucket.config.bucket))
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "credentials are kept until they expire");
}

#[tokio::test]
#[ignore = "is run by without_keys_the_workloads_own_identity_is_used"]
async fn as_a_workload() {
    let place = std::env::var("LEASEHOLD_TEST_S3").expect("an endpoint and an S3 bucket");
    let (endpoint, bucket) = place.split_once(' ').expect("two words");
    let endpoint = Some(endpoint.to_owned());
    let config = S3 { bucket: bucket.to_owned(), endpoint, allow_insecure: true, ..S3::default() };
    let backend = S3Backend::open(&config, S3Metrics::register(&mut Registry::default())).expect("no files needed");
    let findings = backend.probe(&SystemClock, &Entropy::from_os()).await;
    assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:?}");
}

#[tokio::test]
async fn requests_are_counted() {
    let bucket = S3Bucket::make();
    let mut registry = Registry::with_prefix("leasehold");
    let backend = bucket.open_counting(&mut registry);
    let name = a_name();
    backend.put(&name, 5, body(b"bytes")).await.expect("put");
    drop(backend.get(&name, 1..3).await.expect("get"));
    assert!(backend.get(&names().nth(3).expect("endless"), 0..1).await.is_err());
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("memory takes everything");
    for line in [
        "leasehold_s3_requests_total{operation=\"put\",result=\"ok\"} 1",
        "leasehold_s3_requests_total{operation=\"get\",result=\"ok\"} 1",
        "leasehold_s3_requests_total{operation=\"get\",result=\"not_found\"} 1",
        "leasehold_s3_requests_total{operation=\"list\",result=\"denied\"} 0",
        "leasehold_s3_retries_total{operation=\"put\"} 0",
        "leasehold_s3_request_duration_seconds_count{operation=\"put\"} 1",
        "leasehold_s3_broken_bodies_total 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
}
