//! Notices that a store does not answer which, unlike a disk, need not be asked for its room.
//!
//! Wraps any backend, caches included: what a `get` brings may come out of memory and proves nothing, what it fails with
//! does. Only [`available_bytes`](Backend::available_bytes) tells what was noticed: while the store is doubted it lists
//! one object, and so finds out when the store is back.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{StreamExt, TryStreamExt};
use leasehold_core::backend::{Backend, BackendError, ByteStream, ListPage};
use leasehold_core::chunk::ObjectKey;
use leasehold_core::clock::{SteadyClock, Timestamp};
use leasehold_core::contact::Contact;

/// A store that nobody has used for this long is doubted too.
const QUIET: Duration = Duration::from_secs(30);
/// What is listed to see whether the store answers; there is little below it.
const PROBE_PREFIX: &str = "meta/";

/// A backend that knows whether it answers.
#[derive(Debug)]
pub struct Watched<B> {
    inner: B,
    clock: Arc<dyn SteadyClock>,
    contact: Arc<Contact>,
}

impl<B: Backend> Watched<B> {
    /// Watches a backend; it is doubted until it has first answered.
    pub fn new(inner: B, clock: Arc<dyn SteadyClock>) -> Self {
        let contact = Arc::new(Contact::default());
        contact.lost();
        Self { inner, clock, contact }
    }

    /// Notes what a call that only the store itself can answer came to.
    fn note<T>(&self, result: Result<T, BackendError>) -> Result<T, BackendError> {
        match &result {
            Ok(_) => self.contact.made(self.clock.elapsed()),
            Err(error) if is_silence(error) => self.contact.lost(),
            Err(_) => {}
        }
        result
    }
}

const fn is_silence(error: &BackendError) -> bool {
    matches!(error, BackendError::Unavailable(_) | BackendError::Denied(_))
}

impl<B: Backend> Backend for Watched<B> {
    async fn put(&self, name: &ObjectKey, length_bytes: u64, body: ByteStream) -> Result<(), BackendError> {
        self.note(self.inner.put(name, length_bytes, body).await)
    }

    async fn get(&self, name: &ObjectKey, range: Range<u64>) -> Result<ByteStream, BackendError> {
        let opened = self.inner.get(name, range).await;
        if opened.as_ref().is_err_and(is_silence) {
            self.contact.lost();
        }
        let contact = self.contact.clone();
        Ok(opened?.inspect_err(move |_| contact.lost()).boxed())
    }

    async fn delete(&self, name: &ObjectKey) -> Result<(), BackendError> {
        self.note(self.inner.delete(name).await)
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, BackendError> {
        self.note(self.inner.list(prefix, after, max).await)
    }

    async fn available_bytes(&self) -> Result<u64, BackendError> {
        if self.contact.is_lost() || self.contact.age(self.clock.elapsed()) >= QUIET {
            self.list(PROBE_PREFIX, None, 1).await?;
        }
        self.inner.available_bytes().await
    }

    async fn date(&self) -> Result<Option<Timestamp>, BackendError> {
        self.note(self.inner.date().await)
    }
}
