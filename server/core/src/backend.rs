//! The trait that stands for where share bytes are: store objects under names that are never reused.

use std::future::Future;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::chunk::ObjectKey;
use crate::clock::Timestamp;

/// Bytes on their way in or out, in pieces of moderate size.
pub type ByteStream = BoxStream<'static, io::Result<Bytes>>;

/// Why a backend could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The object does not exist.
    #[error("object {0} is not in the backend")]
    NotFound(String),
    /// The bytes to store could not be read; nothing was stored.
    #[error("the bytes to store did not arrive")]
    Source(#[source] io::Error),
    /// The backend has no room left; nothing was stored.
    #[error("the backend is full")]
    Full(#[source] io::Error),
    /// The backend refuses us: credentials or file permissions.
    #[error("the backend denies access")]
    Denied(#[source] io::Error),
    /// The backend did not answer as it should; the same call may work later.
    #[error("the backend is not available")]
    Unavailable(#[source] io::Error),
}

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// The name below the backend's root; not necessarily one of ours.
    pub name: String,
    /// Length in bytes.
    pub length_bytes: u64,
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// The objects, ascending by name.
    pub objects: Vec<ListedObject>,
    /// Where the next page begins: pass it as `after`. `None`: this was the last.
    pub next: Option<String>,
}

/// Stores objects.
///
/// What [`put`](Backend::put) has acknowledged survives a power cut and is found by every later `get` and `list`.
/// A dropped or failed `put` leaves nothing under its name, or all of it.
pub trait Backend: Send + Sync + 'static {
    /// Stores exactly `length_bytes` bytes of `body` under a name that was never used before, durably.
    ///
    /// # Errors
    /// [`BackendError::Source`] if the body fails, ends early or goes on too long: nothing is kept then.
    fn put(
        &self,
        name: &ObjectKey,
        length_bytes: u64,
        body: ByteStream,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Opens `range` of an object, which must lie within it. A failure in the middle ends the stream with an error.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] if there is no such object.
    fn get(&self, name: &ObjectKey, range: Range<u64>)
    -> impl Future<Output = Result<ByteStream, BackendError>> + Send;

    /// Removes an object; one that is not there counts as removed.
    fn delete(&self, name: &ObjectKey) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Lists what has names beginning with `prefix`, at most `max` of them, behind `after`.
    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        max: usize,
    ) -> impl Future<Output = Result<ListPage, BackendError>> + Send;

    /// Bytes that can still be stored; `u64::MAX` where there is no limit.
    fn available_bytes(&self) -> impl Future<Output = Result<u64, BackendError>> + Send;

    /// What time it is by the backend's own clock; `None` where it has none of its own.
    fn date(&self) -> impl Future<Output = Result<Option<Timestamp>, BackendError>> + Send {
        std::future::ready(Ok(None))
    }
}
