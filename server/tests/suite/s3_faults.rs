//! The S3 backend behind a proxy that does what stores and networks do on bad days.

use std::future::Future;
use std::time::{Duration, Instant};

use leasehold_core::backend::{Backend, BackendError};
use leasehold_core::chunk::{ObjectKey, ObjectName, StoreObject};
use leasehold_core::clock::{Clock, Entropy, SystemClock};
use leasehold_core::id::AccountId;
use leasehold_core::testing::{body, read_all, share_id};
use leasehold_e2e_services::Minio;
use leasehold_e2e_services::s3_proxy::{Fault, Operation, Rule, S3Proxy, When};
use leasehold_server::backend::s3::S3Backend;
use leasehold_server::check::{Finding, Level};

use crate::s3_bucket::S3Bucket;

const MIB: usize = 1 << 20;

struct Setup {
    bucket: S3Bucket,
    proxy: S3Proxy,
    entropy: Entropy,
}

impl Setup {
    fn new() -> Self {
        let minio = Minio::shared().expect("an S3 server");
        let proxy = S3Proxy::start(minio).expect("a proxy");
        let mut bucket = S3Bucket::make_in(minio);
        bucket.config.endpoint = Some(proxy.endpoint());
        bucket.config.attempts_max = 3;
        Self { bucket, proxy, entropy: Entropy::from_seed(3) }
    }

    fn open(&self) -> S3Backend {
        self.bucket.open()
    }

    /// Past the proxy.
    fn open_directly(&self) -> S3Backend {
        let mut config = self.bucket.config.clone();
        config.endpoint = Some(Minio::shared().expect("an S3 server").endpoint());
        self.bucket.open_with(&config)
    }

    fn name(&self) -> ObjectKey {
        let generation = self.entropy.object_id(SystemClock.now());
        ObjectName::new(share_id(1, 0), StoreObject::Generation { generation, account: AccountId::new(16) }).key()
    }

    /// Does one operation with this fault, and says how often the store was asked.
    async fn with_fault<T>(
        &self,
        operation: Operation,
        when: When,
        fault: Fault,
        doing: impl Future<Output = T>,
    ) -> (T, u64) {
        self.proxy.clear_rules();
        let before = self.proxy.counts().of(operation);
        self.proxy.add_rule(Rule::new(operation, when, fault));
        let done = doing.await;
        self.proxy.clear_rules();
        (done, self.proxy.counts().of(operation) - before)
    }

    async fn probe(&self) -> Vec<Finding> {
        self.open().probe(&SystemClock, &self.entropy).await
    }
}

async fn read(backend: &S3Backend, name: &ObjectKey, length: usize) -> Result<Vec<u8>, BackendError> {
    let stream = backend.get(name, 0..length as u64).await?;
    read_all(stream).await.map_err(BackendError::Unavailable)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 253) as u8).collect()
}

#[tokio::test]
async fn what_passes_is_repeated_and_succeeds() {
    let setup = Setup::new();
    let backend = setup.open();
    for fault in [
        Fault::INTERNAL_ERROR,
        Fault::SLOW_DOWN,
        Fault::ResetBefore,
        Fault::ResetAfter,
        Fault::Answer { status: 429, code: "Odd" },
        Fault::Answer { status: 408, code: "Odd" },
    ] {
        for length in [1000, MIB] {
            let (name, content) = (setup.name(), pattern(length));
            let when = When::First(2);
            let put = backend.put(&name, length as u64, body(&content));
            let (done, calls) = setup.with_fault(Operation::Put, when, fault.clone(), put).await;
            done.expect("put");
            assert_eq!(calls, 3, "{fault:?}");
            let get = read(&backend, &name, length);
            let (done, calls) = setup.with_fault(Operation::Get, when, fault.clone(), get).await;
            assert!(done.expect("get") == content, "{fault:?}");
            assert_eq!(calls, 3, "{fault:?}");
            let list = backend.list(name.as_str(), None, 10);
            let (done, calls) = setup.with_fault(Operation::List, when, fault.clone(), list).await;
            assert_eq!((done.expect("list").objects.len(), calls), (1, 3), "{fault:?}");
            let (done, calls) = setup.with_fault(Operation::Delete, when, fault.clone(), backend.delete(&name)).await;
            done.expect("delete");
            assert_eq!(calls, 3, "{fault:?}");
        }
    }
}

#[tokio::test]
async fn what_stays_is_an_outage_and_never_a_missing_object() {
    let setup = Setup::new();
    let backend = setup.open();
    let name = setup.name();
    backend.put(&name, 9, body(b"some byte")).await.expect("put");
    for fault in [Fault::INTERNAL_ERROR, Fault::SLOW_DOWN, Fault::ResetBefore, Fault::ResetAfter] {
        let (answer, calls) =
            setup.with_fault(Operation::Get, When::Always, fault.clone(), read(&backend, &name, 9)).await;
        assert!(matches!(answer, Err(BackendError::Unavailable(_))), "{fault:?}: {answer:?}");
        assert_eq!(calls, 3, "{fault:?}");
        let new = setup.name();
        let put = backend.put(&new, 4, body(b"more"));
        let (answer, _) = setup.with_fault(Operation::Put, When::Always, fault.clone(), put).await;
        assert!(matches!(answer, Err(BackendError::Unavailable(_))), "{fault:?}: {answer:?}");
        let list = backend.list("", None, 10);
        let (answer, _) = setup.with_fault(Operation::List, When::Always, fault.clone(), list).await;
        assert!(matches!(answer, Err(BackendError::Unavailable(_))), "{fault:?}: {answer:?}");
    }
    assert_eq!(read(&backend, &name, 9).await.expect("it is back"), b"some byte");
}

#[tokio::test]
async fn refusals_are_not_repeated_and_say_what_they_are() {
    let setup = Setup::new();
    let backend = setup.open();
    let name = setup.name();
    backend.put(&name, 1, body(b"x")).await.expect("put");
    for (status, code, expected) in [
        (404, "NoSuchKey", "not in the backend"),
        (404, "NoSuchBucket", "denies"),
        (404, "", "not available"),
        (403, "AccessDenied", "denies"),
        (400, "BadDigest", "not available"),
        (507, "XMinioStorageFull", "full"),
    ] {
        let fault = Fault::Answer { status, code };
        let (answer, calls) = setup.with_fault(Operation::Get, When::Always, fault, read(&backend, &name, 1)).await;
        let error = answer.expect_err("refused");
        assert!(error.to_string().contains(expected), "{status} {code}: {error}");
        assert_eq!(calls, 1, "{status} {code}");
    }
}

#[tokio::test]
async fn bodies_that_break_off_are_errors_and_never_short() {
    let setup = Setup::new();
    let backend = setup.open();
    for length in [1000, MIB] {
        let (name, content) = (setup.name(), pattern(length));
        backend.put(&name, length as u64, body(&content)).await.expect("put");
        for bytes in [0, 1, 500, length as u64 - 1] {
            for fault in [Fault::CutResponse { bytes }, Fault::ShortenResponse { bytes }] {
                let get = read(&backend, &name, length);
                let (answer, _) = setup.with_fault(Operation::Get, When::Always, fault.clone(), get).await;
                assert!(
                    matches!(answer, Err(BackendError::Unavailable(_))),
                    "{fault:?}: {:?}",
                    answer.map(|b| b.len())
                );
            }
        }
        assert!(read(&backend, &name, length).await.expect("it is whole") == content);
    }
}

#[tokio::test]
async fn wrong_bytes_of_a_whole_object_are_found_by_its_checksum() {
    let setup = Setup::new();
    let backend = setup.open();
    let (name, content) = (setup.name(), pattern(MIB));
    backend.put(&name, MIB as u64, body(&content)).await.expect("put");
    for at in [0, 500_000, MIB as u64 - 1] {
        let get = read(&backend, &name, MIB);
        let (answer, _) = setup.with_fault(Operation::Get, When::Always, Fault::FlipByte { at }, get).await;
        assert!(matches!(answer, Err(BackendError::Unavailable(_))), "{at}");
    }
    // Part of it comes as a range, which no store sends a checksum of.
    let half = read(&backend, &name, MIB / 2).await.expect("half of it");
    assert!(half == content[..MIB / 2]);
}

#[tokio::test]
async fn uploads_that_break_off_leave_nothing_or_are_repeated() {
    let setup = Setup::new();
    let (backend, direct) = (setup.open(), setup.open_directly());
    for (length, bytes) in [(1000, 0), (1000, 500), (MIB, 500_000)] {
        let (name, content) = (setup.name(), pattern(length));
        let put = backend.put(&name, length as u64, body(&content));
        let (answer, _) = setup.with_fault(Operation::Put, When::Always, Fault::CutRequest { bytes }, put).await;
        assert!(matches!(answer, Err(BackendError::Unavailable(_))), "{answer:?}");
        assert!(direct.list("", None, 10).await.expect("list").objects.is_empty());
        let put = backend.put(&name, length as u64, body(&content));
        let (answer, _) = setup.with_fault(Operation::Put, When::First(1), Fault::CutRequest { bytes }, put).await;
        answer.expect("repeated");
        assert!(read(&direct, &name, length).await.expect("get") == content);
        direct.delete(&name).await.expect("delete");
    }
}

#[tokio::test]
async fn slow_answers_are_waited_for_within_bounds() {
    let mut setup = Setup::new();
    // One attempt may take 1 s, silence may last 3 s, all attempts may take 6 s.
    setup.bucket.config.timeout_seconds = 3;
    let backend = setup.open();
    let name = setup.name();
    let content = pattern(MIB);
    backend.put(&name, MIB as u64, body(&content)).await.expect("put");
    let delay = Fault::Delay(Duration::from_secs(4));
    let (answer, calls) =
        setup.with_fault(Operation::Get, When::First(1), delay.clone(), read(&backend, &name, MIB)).await;
    assert!(answer.expect("repeated") == content);
    assert_eq!(calls, 2);
    for (fault, length) in
        [(delay, 1000), (Fault::Stall(Duration::from_secs(20)), MIB), (Fault::Stall(Duration::from_secs(20)), 1000)]
    {
        let started = Instant::now();
        let get = read(&backend, &name, length);
        let (answer, _) = setup.with_fault(Operation::Get, When::Always, fault.clone(), get).await;
        assert!(
            matches!(answer, Err(BackendError::Unavailable(_))),
            "{fault:?}: {:?}",
            answer.map(|bytes| bytes.len())
        );
        assert!(started.elapsed() < Duration::from_secs(10), "{fault:?}: {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn probe_says_what_a_store_cannot_do() {
    let setup = Setup::new();
    let minio = Minio::shared().expect("an S3 server");
    setup.proxy.snapshot_listing(minio, &setup.bucket.config.bucket).expect("a listing");
    for (operation, fault, level, expected) in [
        (Operation::List, Fault::StaleListing, Level::Error, "does not list what it has just acknowledged"),
        (
            Operation::List,
            Fault::Answer { status: 403, code: "AccessDenied" },
            Level::Error,
            "the credentials do not allow it",
        ),
        (Operation::Get, Fault::FlipByte { at: 3 }, Level::Error, "does not read back bytes"),
        (Operation::Get, Fault::ShortenResponse { bytes: 3 }, Level::Error, "does not read back"),
        (Operation::Get, Fault::Answer { status: 404, code: "NoSuchKey" }, Level::Error, "just acknowledged"),
        (
            Operation::Put,
            Fault::Answer { status: 507, code: "XMinioStorageFull" },
            Level::Error,
            "does not take an object",
        ),
        (Operation::Put, Fault::IgnoreConditions, Level::Ok, "conditional writes are ignored"),
        (Operation::Delete, Fault::Answer { status: 403, code: "AccessDenied" }, Level::Error, "does not delete"),
        (Operation::Delete, Fault::Answer { status: 404, code: "NoSuchKey" }, Level::Warning, "still reads"),
    ] {
        let (findings, _) = setup.with_fault(operation, When::Always, fault.clone(), setup.probe()).await;
        let said = findings.iter().any(|finding| finding.level == level && finding.text.contains(expected));
        assert!(said, "{fault:?}: {findings:?}");
    }
}
