//! Listing and reading shares.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::body::zeros;
use super::mutable::read_stable;
use super::rows::FRESH;
use super::{Result, Store, StoreError};
use crate::backend::{Backend, BackendError, ByteStream};
use crate::chunk::ObjectName;
use crate::contact::millis;
use crate::id::{ShareId, ShareNumber, StorageIndex};
use crate::leasedb::{LeaseDb, LeaseDbError, ShareRow};
use crate::locator::Segment;
use crate::observe::ConflictingState;
use crate::share::{ShareKind, ShareState};

/// While the lease database does not answer, one reader in this time tries whether it does again.
const RETRY: Duration = Duration::from_secs(2);

/// A range of one version of a share. Names are never reused, so what it yields is of that version whenever it is read.
#[derive(Clone, Debug)]
pub struct ShareSlice {
    share: ShareId,
    kind: ShareKind,
    /// Size of the share data in bytes.
    size_bytes: u64,
    range: Range<u64>,
    segments: Vec<Segment>,
    /// How many bytes it has.
    pub length_bytes: u64,
}

impl ShareSlice {
    /// The part of `range` that lies within the share.
    pub fn new(storage_index: StorageIndex, row: &ShareRow, range: Range<u64>) -> Self {
        let range = range.start.min(row.size_bytes)..range.end.min(row.size_bytes);
        let length_bytes = range.end.saturating_sub(range.start);
        let segments = if length_bytes == 0 { Vec::new() } else { row.locator.segments(range.clone()) };
        let (share, kind, size_bytes) = (ShareId::new(storage_index, row.number), row.kind, row.size_bytes);
        Self { share, kind, size_bytes, range, segments, length_bytes }
    }
}

impl<L: LeaseDb, B: Backend> Store<L, B> {
    /// The numbers of all finished shares of a kind; none for an unknown storage index (`gbs.md` 8.5, 9.2).
    ///
    /// # Errors
    /// The lease database does not answer.
    pub async fn list_shares(&self, kind: ShareKind, storage_index: StorageIndex) -> Result<Vec<ShareNumber>> {
        self.touch(storage_index).await?;
        Ok(self.db.list_numbers(storage_index, kind).await?)
    }

    /// The numbers of all finished immutable shares, which are about to be read.
    ///
    /// # Errors
    /// The lease database does not answer.
    pub async fn open_bucket(&self, storage_index: StorageIndex) -> Result<Vec<ShareNumber>> {
        self.touch(storage_index).await?;
        let now = self.clock.elapsed();
        let rows = self.db.list_shares(storage_index).await?;
        let finished = |row: &ShareRow| row.kind == ShareKind::Immutable && row.state == ShareState::Stable;
        let mut numbers = Vec::new();
        for row in rows.into_iter().filter(finished) {
            numbers.push(row.number);
            self.rows.keep(ShareId::new(storage_index, row.number), Arc::new(row), now);
        }
        Ok(numbers)
    }

    /// What `reads` find in shares of a slot (all if none is named), of one moment.
    ///
    /// # Errors
    /// [`StoreError::WrongKind`] if there are immutable shares.
    pub async fn read_slot(
        &self,
        storage_index: StorageIndex,
        share_numbers: &[ShareNumber],
        reads: &[Range<u64>],
    ) -> Result<Vec<(ShareNumber, Vec<ShareSlice>)>> {
        self.touch(storage_index).await?;
        let slot = self.db.read_slot(storage_index).await?;
        if slot.has_immutable {
            return Err(StoreError::WrongKind);
        }
        let named = |(number, _): &(ShareNumber, _)| share_numbers.is_empty() || share_numbers.contains(number);
        Ok(read_stable(storage_index, &slot, reads).filter(named).collect())
    }

    /// The row of a finished share, as it is now.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no finished share of this kind.
    pub async fn stable_share(&self, kind: ShareKind, share: ShareId) -> Result<ShareRow> {
        self.touch(share.storage_index).await?;
        let row = self.db.find_share(share).await?;
        row.filter(|row| row.kind == kind && row.state == ShareState::Stable).ok_or(StoreError::NotFound)
    }

    /// The row of a finished share, for [`ShareSlice::new`]. That of an immutable share may be a minute old, and ten while
    /// the lease database does not answer (`design.md` 4.3, `api.md` 10.8).
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no finished share of this kind.
    pub async fn readable_share(&self, kind: ShareKind, share: ShareId) -> Result<Arc<ShareRow>> {
        if kind == ShareKind::Mutable {
            return self.stable_share(kind, share).await.map(Arc::new);
        }
        let now = self.clock.elapsed();
        let kept = self.rows.find(share, now);
        if let Some(kept) = &kept
            && (now.saturating_sub(kept.seen_at) < FRESH || !self.is_worth_asking(now))
        {
            return Ok(kept.row.clone());
        }
        let asked = self.stable_share(kind, share).await;
        let silent =
            matches!(asked, Err(StoreError::LeaseDb(LeaseDbError::Unavailable(_) | LeaseDbError::OutcomeUnknown(_))));
        // 0 means that it answers.
        self.rows_asked_in_vain_at.store(if silent { millis(now).max(1) } else { 0 }, Ordering::Relaxed);
        match (asked, kept) {
            (Ok(row), _) => {
                let row = Arc::new(row);
                self.rows.keep(share, row.clone(), now);
                Ok(row)
            }
            (Err(_), Some(kept)) if silent => Ok(kept.row),
            (Err(error), _) => {
                if matches!(error, StoreError::NotFound) {
                    self.rows.remove(share);
                }
                Err(error)
            }
        }
    }

    /// To be called when the lease database is silent to others: readers of rows that are kept need not find out by waiting.
    pub fn expect_silence(&self) {
        let now = millis(self.clock.elapsed()).max(1);
        // Whether it answers again is being tried already if this is not 0.
        let _ = self.rows_asked_in_vain_at.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether the lease database may be expected to answer. If it did not, that is true for one caller now and then,
    /// so that the others need not wait for it.
    fn is_worth_asking(&self, now: Duration) -> bool {
        let vain_at = self.rows_asked_in_vain_at.load(Ordering::Relaxed);
        let now = millis(now).max(1);
        if vain_at == 0 {
            return true;
        }
        let due = now >= vain_at.saturating_add(millis(RETRY));
        due && self.rows_asked_in_vain_at.compare_exchange(vain_at, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Opens a slice; the first object is opened before this returns, so that a missing one is told in time.
    ///
    /// The objects of an immutable share may have been replaced since its row was read: then it is read once again.
    ///
    /// # Errors
    /// [`StoreError::Vanished`] if the share's bytes are not where its row says; [`StoreError::NotFound`] if there is
    /// no such share any more.
    pub async fn open_slice(&self, slice: &ShareSlice) -> Result<ByteStream> {
        let vanished = |error| match error {
            BackendError::NotFound(_) => self.vanished(slice.share),
            other => other.into(),
        };
        match self.open_objects(slice).await {
            Err(BackendError::NotFound(_)) if slice.kind == ShareKind::Immutable => {
                self.rows.remove(slice.share);
                let row = self.readable_share(slice.kind, slice.share).await?;
                let again = ShareSlice::new(slice.share.storage_index, &row, slice.range.clone());
                if again.size_bytes != slice.size_bytes || again.segments == slice.segments {
                    return Err(self.vanished(slice.share));
                }
                self.open_objects(&again).await.map_err(vanished)
            }
            opened => opened.map_err(vanished),
        }
    }

    fn vanished(&self, share: ShareId) -> StoreError {
        self.conflict(ConflictingState::Lost, StoreError::Vanished(share))
    }

    async fn open_objects(&self, slice: &ShareSlice) -> Result<ByteStream, BackendError> {
        let mut segments = slice.segments.clone().into_iter();
        let Some(first) = segments.next() else { return Ok(stream::empty().boxed()) };
        let head = open_segment(self.backend.clone(), slice.share, first).await?;
        let rest: Vec<Segment> = segments.collect();
        if rest.is_empty() {
            return Ok(head);
        }
        // It is too late to open others, but not for the next reader.
        let (rows, share) = (self.rows.clone(), slice.share);
        let rest = open_segments(self.backend.clone(), share, rest).inspect_err(move |error| {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
            if matches!(cause, Some(BackendError::NotFound(_))) {
                rows.remove(share);
            }
        });
        Ok(head.chain(rest).boxed())
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
