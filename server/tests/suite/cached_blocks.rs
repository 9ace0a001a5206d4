//! The read cache around a backend that counts what is read of it, and waits or fails when it is told to.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use leasehold_core::backend::{Backend, BackendError, ByteStream, ListPage};
use leasehold_core::chunk::{ObjectKey, ObjectName, StoreObject};
use leasehold_core::id::{AccountId, ObjectId};
use leasehold_core::testing::{body, read_all, share_id};
use leasehold_server::backend::cached_blocks::{BLOCK_BYTES, BlockSource, CacheMetrics, CachedBlocks};
use leasehold_server::backend::directory::DirectoryBackend;
use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tokio::sync::Semaphore;

use crate::places;

const BLOCK: usize = BLOCK_BYTES as usize;
const CAPACITY_BYTES: u64 = 8 * (BLOCK_BYTES + 1000);

/// A directory, watched.
#[derive(Clone)]
struct Watched {
    directory: DirectoryBackend,
    state: Arc<State>,
}

struct State {
    reads: AtomicUsize,
    /// A block is read for each permit.
    gate: Semaphore,
    failing: AtomicBool,
}

impl Watched {
    fn reads(&self) -> usize {
        self.state.reads.load(Ordering::SeqCst)
    }

    async fn wait_for_reads(&self, reads: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.reads() < reads {
            assert!(Instant::now() < deadline, "{} of {reads} reads", self.reads());
            tokio::task::yield_now().await;
        }
    }
}

impl Backend for Watched {
    async fn put(&self, name: &ObjectKey, length_bytes: u64, body: ByteStream) -> Result<(), BackendError> {
        self.directory.put(name, length_bytes, body).await
    }

    async fn get(&self, name: &ObjectKey, range: Range<u64>) -> Result<ByteStream, BackendError> {
        self.directory.get(name, range).await
    }

    async fn delete(&self, name: &ObjectKey) -> Result<(), BackendError> {
        self.directory.delete(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, BackendError> {
        self.directory.list(prefix, after, max).await
    }

    async fn available_bytes(&self) -> Result<u64, BackendError> {
        self.directory.available_bytes().await
    }
}

impl BlockSource for Watched {
    async fn read_block(&self, name: &ObjectKey, range: Range<u64>) -> Result<Bytes, BackendError> {
        self.state.reads.fetch_add(1, Ordering::SeqCst);
        self.state.gate.acquire().await.expect("never closed").forget();
        if self.state.failing.load(Ordering::SeqCst) {
            return Err(BackendError::Unavailable(std::io::Error::other("told to fail")));
        }
        let listed = self.directory.list(name.as_str(), None, 1).await?;
        let length = listed.objects.first().map_or(0, |object| object.length_bytes);
        let end = range.end.min(length);
        let stream = self.directory.get(name, range.start.min(end)..end).await?;
        Ok(read_all(stream).await.map_err(BackendError::Unavailable)?.into())
    }
}

struct Setup {
    watched: Watched,
    cache: CachedBlocks<Watched>,
    name: ObjectKey,
    contents: Vec<u8>,
    _folder: TempDir,
}

impl Setup {
    /// A cache of eight blocks, an object of so many bytes, and a gate that lets so many blocks be read.
    async fn new(length: usize, gate: usize) -> Self {
        let folder = places::folder();
        let state = State { reads: AtomicUsize::new(0), gate: Semaphore::new(gate), failing: AtomicBool::new(false) };
        let watched = Watched { directory: places::backend(folder.path()), state: Arc::new(state) };
        let metrics = CacheMetrics::register(&mut Registry::default());
        let cache = CachedBlocks::new(watched.clone(), CAPACITY_BYTES, metrics);
        let contents: Vec<u8> = (0..length).map(|at| (at % 251) as u8 ^ (at / 251 % 256) as u8).collect();
        let object = StoreObject::Generation { generation: ObjectId::new([3; 16]), account: AccountId::new(16) };
        let name = ObjectName::new(share_id(1, 0), object).key();
        cache.put(&name, length as u64, body(&contents)).await.expect("put");
        assert_eq!((cache.held_bytes(), watched.reads()), (0, 0), "a put does not fill the cache");
        Self { watched, cache, name, contents, _folder: folder }
    }

    async fn read(&self, range: Range<usize>) -> Result<Vec<u8>, BackendError> {
        let stream = self.cache.get(&self.name, range.start as u64..range.end as u64).await?;
        Ok(read_all(stream).await.expect("a whole stream"))
    }

    async fn expect(&self, range: Range<usize>) {
        assert!(self.read(range.clone()).await.expect("get") == self.contents[range.clone()], "{range:?}");
    }
}

#[tokio::test]
async fn ranges_are_right_wherever_they_begin_and_blocks_are_fetched_once() {
    let setup = Setup::new(3 * BLOCK - 100, 1000).await;
    for at in [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK - 7, 3 * BLOCK - 101] {
        for length in [0, 1, 2, 100, BLOCK / 4, BLOCK / 2, BLOCK - 1, BLOCK] {
            if at + length <= setup.contents.len() {
                setup.expect(at..at + length).await;
            }
        }
    }
    assert_eq!(setup.watched.reads(), 3);
}

#[tokio::test]
async fn long_ranges_pass_by() {
    let setup = Setup::new(3 * BLOCK, 0).await;
    setup.expect(0..3 * BLOCK).await;
    setup.expect(5..BLOCK + 6).await;
    assert_eq!((setup.watched.reads(), setup.cache.held_bytes()), (0, 0));
}

#[tokio::test]
async fn memory_is_bounded() {
    let setup = Setup::new(40 * BLOCK, 1000).await;
    for round in 0..2 {
        for block in 0..40 {
            setup.expect(block * BLOCK + round..(block + 1) * BLOCK).await;
            assert!(setup.cache.held_bytes() <= CAPACITY_BYTES, "{} bytes", setup.cache.held_bytes());
        }
    }
    assert!(setup.cache.held_bytes() > CAPACITY_BYTES / 2, "{} bytes", setup.cache.held_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_miss_together_share_one_fetch() {
    let setup = Arc::new(Setup::new(1000, 0).await);
    let callers: Vec<_> = (0..50)
        .map(|at| {
            let setup = setup.clone();
            tokio::spawn(async move { setup.expect(at..at + 500).await })
        })
        .collect();
    setup.watched.wait_for_reads(1).await;
    setup.watched.state.gate.add_permits(1);
    for caller in callers {
        caller.await.expect("no panic");
    }
    assert_eq!(setup.watched.reads(), 1);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_harm_those_that_stay() {
    let setup = Setup::new(1000, 0).await;
    let mut first = Box::pin(setup.read(0..10));
    assert!(first.as_mut().now_or_never().is_none());
    setup.watched.wait_for_reads(1).await;
    let mut second = Box::pin(setup.read(10..20));
    assert!(second.as_mut().now_or_never().is_none());
    drop(first);
    setup.watched.state.gate.add_permits(1);
    assert_eq!(second.await.expect("get"), setup.contents[10..20]);
    assert_eq!(setup.watched.reads(), 1);
}

#[tokio::test]
async fn errors_reach_all_who_wait_and_are_not_kept() {
    let setup = Setup::new(1000, 0).await;
    setup.watched.state.failing.store(true, Ordering::SeqCst);
    let (mut first, mut second) = (Box::pin(setup.read(0..10)), Box::pin(setup.read(0..10)));
    assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
    setup.watched.state.gate.add_permits(1);
    for answer in [first.await, second.await] {
        let Err(BackendError::Unavailable(error)) = answer else { panic!("{answer:?}") };
        assert!(error.to_string().contains("told to fail"), "{error}");
    }
    assert_eq!((setup.watched.reads(), setup.cache.held_bytes()), (1, 0));
    setup.watched.state.failing.store(false, Ordering::SeqCst);
    setup.watched.state.gate.add_permits(1);
    setup.expect(0..10).await;
}

#[tokio::test]
async fn a_range_beyond_the_end_is_an_error_and_no_short_answer() {
    let setup = Setup::new(1000, 1000).await;
    for range in [990..1001, 1000..1001, 5000..6000] {
        let answer = setup.read(range.clone()).await;
        assert!(matches!(answer, Err(BackendError::Unavailable(_))), "{range:?}: {answer:?}");
    }
    let absent = ObjectName::new(
        share_id(2, 0),
        StoreObject::Generation { generation: ObjectId::new([4; 16]), account: AccountId::new(16) },
    );
    let answer = setup.cache.get(&absent.key(), 0..5).await.map(drop);
    assert!(matches!(answer, Err(BackendError::NotFound(_))), "{answer:?}");
}
