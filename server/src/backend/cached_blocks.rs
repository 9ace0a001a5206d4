//! Keeps blocks of store objects that were read lately in memory, around any backend.
//!
//! Correct by construction, because names are never used twice (those that may be are not cached): a block that was read
//! once is right for ever. Clients
//! read headers, nodes of hash trees and blocks of tens of KB one by one, so a whole aligned block is fetched for the
//! first of them. Longer ranges pass by: one request brings them faster than a request for each block, and nobody asks
//! twice. Callers that miss the same block at the same time share one fetch, which goes on when the caller that began it
//! goes away. Errors are shared, but not kept. A deleted object may still be read for a while, as after every delete
//! that another process did.

use std::collections::HashMap;
use std::future::{Future, ready};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, try_join_all};
use futures_util::stream::{self, StreamExt};
use leasehold_core::backend::{Backend, BackendError, ByteStream, ListPage};
use leasehold_core::chunk::ObjectKey;
use leasehold_core::clock::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// Length and alignment of the blocks (`design.md` 4.3).
pub const BLOCK_BYTES: u64 = 256 << 10;
/// Longer ranges are not cached. So a range is in two blocks at most, and that is all a reader can hold.
const RANGE_BYTES_MAX: u64 = BLOCK_BYTES;
/// Shorter parts of a block are copied, so that a slow reader does not keep a whole block for them.
const SHARED_BYTES_MIN: u64 = BLOCK_BYTES / 4;
/// What an entry takes beside its bytes.
const ENTRY_BYTES: u64 = 256;

/// A backend that can be asked for a block by somebody who does not know where the object ends.
pub trait BlockSource: Backend {
    /// Reads a range that begins within an object, as far as the object goes.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] if there is no such object.
    fn read_block(
        &self,
        name: &ObjectKey,
        range: Range<u64>,
    ) -> impl Future<Output = Result<Bytes, BackendError>> + Send;
}

/// What the read cache counts.
#[derive(Clone, Debug)]
pub struct CacheMetrics {
    hits: Counter,
    misses: Counter,
}

impl CacheMetrics {
    /// Registers the counters, all at zero.
    pub fn register(registry: &mut Registry) -> Self {
        let (hits, misses) = (Counter::default(), Counter::default());
        registry.register("read_cache_hits", "Blocks that were in memory", hits.clone());
        registry.register("read_cache_misses", "Blocks that had to be fetched, or waited for", misses.clone());
        Self { hits, misses }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    name: ObjectKey,
    block: u64,
}

#[derive(Clone, Copy, Debug)]
struct InBytes;

impl Weighter<Key, Bytes> for InBytes {
    fn weight(&self, _: &Key, block: &Bytes) -> u64 {
        block.len() as u64 + ENTRY_BYTES
    }
}

/// Takes a fetch off the list of those under way when its task ends, even by a panic.
struct UnderWay<B> {
    inner: Arc<Inner<B>>,
    key: Key,
}

impl<B> Drop for UnderWay<B> {
    fn drop(&mut self) {
        self.inner.fetches.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// A fetch that any number of callers wait for.
type Fetch = Shared<BoxFuture<'static, Result<Bytes, Arc<BackendError>>>>;

/// A backend with a read cache around it.
#[derive(Debug)]
pub struct CachedBlocks<B>(Arc<Inner<B>>);

#[derive(Debug)]
struct Inner<B> {
    backend: B,
    blocks: Cache<Key, Bytes, InBytes>,
    /// Fetches under way. Held for moments, never across one.
    fetches: Mutex<HashMap<Key, Fetch>>,
    metrics: CacheMetrics,
}

impl<B> Clone for CachedBlocks<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: BlockSource> CachedBlocks<B> {
    /// Puts a cache of so many bytes around a backend.
    pub fn new(backend: B, capacity_bytes: u64, metrics: CacheMetrics) -> Self {
        let blocks_max = usize::try_from(capacity_bytes / BLOCK_BYTES).unwrap_or(usize::MAX).max(1);
        let blocks = Cache::with_weighter(blocks_max, capacity_bytes, InBytes);
        Self(Arc::new(Inner { backend, blocks, fetches: Mutex::default(), metrics }))
    }

    /// The backend itself, for work that should not push out what clients read.
    pub fn backend(&self) -> &B {
        &self.0.backend
    }

    /// Bytes that the cache holds now.
    pub fn held_bytes(&self) -> u64 {
        self.0.blocks.weight()
    }

    async fn block(&self, key: Key) -> Result<Bytes, BackendError> {
        if let Some(block) = self.0.blocks.get(&key) {
            self.0.metrics.hits.inc();
            return Ok(block);
        }
        self.0.metrics.misses.inc();
        self.fetch(key).await.map_err(|error| again(&error))
    }

    /// Joins the fetch of a block, or begins one.
    fn fetch(&self, key: Key) -> Fetch {
        let mut fetches = self.0.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fetch) = fetches.get(&key) {
            return fetch.clone();
        }
        // It may have ended between the look into the cache and the lock.
        if let Some(block) = self.0.blocks.get(&key) {
            return ready(Ok(block)).boxed().shared();
        }
        let under_way = UnderWay { inner: self.0.clone(), key: key.clone() };
        // A task of its own: the caller may go away, and others wait for it.
        let task = tokio::spawn(async move {
            let UnderWay { inner, key } = &under_way;
            let range = key.block * BLOCK_BYTES..(key.block + 1) * BLOCK_BYTES;
            let fetched = inner.backend.read_block(&key.name, range).await;
            if let Ok(block) = &fetched {
                inner.blocks.insert(key.clone(), block.clone());
            }
            fetched.map_err(Arc::new)
        });
        let joined =
            task.map(|ended| ended.unwrap_or_else(|error| Err(Arc::new(unavailable(io::Error::other(error))))));
        let fetch = joined.boxed().shared();
        fetches.insert(key, fetch.clone());
        fetch
    }

    /// Reads a short range out of its blocks.
    async fn read(&self, name: &ObjectKey, range: Range<u64>) -> Result<ByteStream, BackendError> {
        let numbers = range.start / BLOCK_BYTES..=(range.end - 1) / BLOCK_BYTES;
        let blocks = try_join_all(numbers.clone().map(|block| self.block(Key { name: name.clone(), block }))).await?;
        let mut parts = Vec::with_capacity(blocks.len());
        for (number, block) in numbers.zip(blocks) {
            let begin = number * BLOCK_BYTES;
            let (from, to) = (range.start.saturating_sub(begin), (range.end - begin).min(BLOCK_BYTES));
            if (block.len() as u64) < to {
                let text = format!("object {name} ends before the range that is asked for");
                return Err(unavailable(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
            }
            let part = block.slice(from as usize..to as usize);
            parts.push(Ok(if to - from < SHARED_BYTES_MIN { Bytes::copy_from_slice(&part) } else { part }));
        }
        Ok(stream::iter(parts).boxed())
    }
}

const fn unavailable(error: io::Error) -> BackendError {
    BackendError::Unavailable(error)
}

/// The same error for one more caller.
fn again(error: &BackendError) -> BackendError {
    let copy = |source: &io::Error| io::Error::new(source.kind(), source.to_string());
    match error {
        BackendError::NotFound(name) => BackendError::NotFound(name.clone()),
        BackendError::Source(source) => BackendError::Source(copy(source)),
        BackendError::Full(source) => BackendError::Full(copy(source)),
        BackendError::Denied(source) => BackendError::Denied(copy(source)),
        BackendError::Unavailable(source) => BackendError::Unavailable(copy(source)),
    }
}

impl<B: BlockSource> Backend for CachedBlocks<B> {
    async fn put(&self, name: &ObjectKey, length_bytes: u64, body: ByteStream) -> Result<(), BackendError> {
        self.0.backend.put(name, length_bytes, body).await
    }

    async fn get(&self, name: &ObjectKey, range: Range<u64>) -> Result<ByteStream, BackendError> {
        if range.is_empty() || range.end - range.start > RANGE_BYTES_MAX || !name.is_used_once() {
            return self.0.backend.get(name, range).await;
        }
        self.read(name, range).await
    }

    async fn delete(&self, name: &ObjectKey) -> Result<(), BackendError> {
        self.0.backend.delete(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, BackendError> {
        self.0.backend.list(prefix, after, max).await
    }

    async fn available_bytes(&self) -> Result<u64, BackendError> {
        self.0.backend.available_bytes().await
    }

    async fn date(&self) -> Result<Option<Timestamp>, BackendError> {
        self.0.backend.date().await
    }
}
