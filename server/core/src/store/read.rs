//! Listing and reading shares.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::body::zeros;
use super::{Result, Store, StoreError};
use crate::backend::{Backend, BackendError, ByteStream};
use crate::chunk::ObjectName;
use crate::id::{ShareId, ShareNumber, StorageIndex};
use crate::leasedb::{LeaseDb, ShareRow};
use crate::locator::Segment;
use crate::share::{ShareKind, ShareState};

/// A range of one version of a share. Names are never reused, so what it yields is of that version whenever it is read.
#[derive(Clone, Debug)]
pub struct ShareSlice {
    share: ShareId,
    segments: Vec<Segment>,
    /// How many bytes it has.
    pub length_bytes: u64,
}

impl ShareSlice {
    /// The part of `range` that lies within the share.
    pub fn new(storage_index: StorageIndex, row: &ShareRow, range: Range<u64>) -> Self {
        let range = range.start.min(row.size_bytes)..range.end.min(row.size_bytes);
        let length_bytes = range.end.saturating_sub(range.start);
        let segments = if length_bytes == 0 { Vec::new() } else { row.locator.segments(range) };
        Self { share: ShareId::new(storage_index, row.number), segments, length_bytes }
    }
}

impl<L: LeaseDb, B: Backend> Store<L, B> {
    /// The numbers of all finished shares of a kind; none for an unknown storage index (`gbs.md` 8.5, 9.2).
    ///
    /// # Errors
    /// The lease database does not answer.
    pub async fn list_shares(&self, kind: ShareKind, storage_index: StorageIndex) -> Result<Vec<ShareNumber>> {
        Ok(self.db.list_numbers(storage_index, kind).await?)
    }

    /// The row of a finished share; pass it to [`ShareSlice::new`] to read it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no finished share of this kind.
    pub async fn stable_share(&self, kind: ShareKind, share: ShareId) -> Result<ShareRow> {
        let row = self.db.find_share(share).await?;
        row.filter(|row| row.kind == kind && row.state == ShareState::Stable).ok_or(StoreError::NotFound)
    }

    /// Opens a slice; the first object is opened before this returns, so that a missing one is told in time.
    ///
    /// # Errors
    /// [`StoreError::Vanished`] if the share's bytes are not where its row says.
    pub async fn open_slice(&self, slice: &ShareSlice) -> Result<ByteStream> {
        let mut segments = slice.segments.clone().into_iter();
        let Some(first) = segments.next() else { return Ok(stream::empty().boxed()) };
        let head = open_segment(self.backend.clone(), slice.share, first).await.map_err(|error| match error {
            BackendError::NotFound(_) => StoreError::Vanished(slice.share),
            other => other.into(),
        })?;
        let rest: Vec<Segment> = segments.collect();
        if rest.is_empty() {
            return Ok(head);
        }
        Ok(head.chain(open_segments(self.backend.clone(), slice.share, rest)).boxed())
    }

    /// Reads a whole slice into memory; the caller bounds its length.
    ///
    /// # Errors
    /// As [`open_slice`](Self::open_slice), and whatever breaks off the reading.
    pub async fn read_slice(&self, slice: &ShareSlice) -> Result<Bytes> {
        let mut stream = self.open_slice(slice).await?;
        let broken = |error| StoreError::Backend(BackendError::Unavailable(error));
        let Some(first) = stream.next().await.transpose().map_err(broken)? else { return Ok(Bytes::new()) };
        if first.len() as u64 == slice.length_bytes {
            return Ok(first);
        }
        let mut all = Vec::from(first);
        while let Some(bytes) = stream.next().await {
            all.extend_from_slice(&bytes.map_err(broken)?);
        }
        Ok(all.into())
    }
}

/// Opens one object after the other as the stream is read.
pub(super) fn open_segments<B: Backend>(backend: Arc<B>, share: ShareId, segments: Vec<Segment>) -> ByteStream {
    stream::iter(segments)
        .then(move |segment| {
            let backend = backend.clone();
            async move { open_segment(backend, share, segment).await.map_err(std::io::Error::other) }
        })
        .try_flatten()
        .boxed()
}

async fn open_segment<B: Backend>(
    backend: Arc<B>,
    share: ShareId,
    segment: Segment,
) -> Result<ByteStream, BackendError> {
    match segment {
        Segment::Object(object, range) => backend.get(&ObjectName::new(share, object).key(), range).await,
        Segment::Zeros(count) => Ok(zeros(count)),
    }
}
