//! Writing an immutable share in many small writes (Foolscap): they are gathered into pieces, and the last bytes are kept
//! back until the share is closed.
//!
//! That a share closes is a call of its own there. Were all its bytes stored before that call, a server that dies could
//! not tell a share that was closed from one that was given up (`review.md` A14). So there is always a byte that only
//! this process has, until [`BucketWriter::close`] stores it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};

use super::body::zeros;
use super::{Result, Store, StoreError};
use crate::accountant::Session;
use crate::backend::{Backend, ByteStream};
use crate::id::{ShareId, ShareNumber, StorageIndex};
use crate::leasedb::LeaseDb;
use crate::observe::ConflictingState;
use crate::range::{RangeSet, intersection};
use crate::secret::UploadSecret;
use crate::tub::TubConnection;

/// The size of a piece (`decisions.md` 7). While one is being stored, the next may become some of them long.
const PIECE_BYTES: u64 = 1 << 20;
/// What one writer gathers while a piece of it is being stored.
const GATHERED_BYTES: u64 = 8 << 20;
/// How much of a hole is filled at once.
const FILLED_BYTES: u64 = 64 << 20;
/// What all writers of a process keep in memory; beyond it they keep one byte each.
const GATHERED_MAX_BYTES: u64 = 256 << 20;

/// A share that is being written. To be closed or aborted; one that is dropped stays in upload until its deadline.
#[derive(Debug)]
pub struct BucketWriter<L, B> {
    store: Arc<Store<L, B>>,
    share: ShareId,
    secret: UploadSecret,
    size_bytes: u64,
    /// What was accepted: stored or gathered.
    received: RangeSet,
    gathered: Gathered,
    /// How many of the gathered bytes are in a piece that is being stored.
    storing_bytes: u64,
    /// Whether the last piece could not be stored.
    has_failed: bool,
}

/// A run of gathered bytes that is to be stored while more is gathered.
#[derive(Debug)]
pub struct GatheredPiece<L, B> {
    store: Arc<Store<L, B>>,
    share: ShareId,
    secret: UploadSecret,
    range: Range<u64>,
    bytes: Vec<Bytes>,
}

impl<L: LeaseDb, B: Backend> GatheredPiece<L, B> {
    /// Stores it. [`BucketWriter::end_piece`] must be told how that went.
    ///
    /// # Errors
    /// It could not be stored; the writer has it still.
    pub async fn store(self) -> Result<()> {
        self.store.write_bucket(self.share, &self.secret, self.range, body(self.bytes)).await.map(drop)
    }
}

/// A run of bytes that are not stored yet.
#[derive(Debug)]
struct Gathered {
    start: u64,
    length: u64,
    bytes: VecDeque<Bytes>,
    /// What all writers have gathered.
    total: Arc<AtomicU64>,
}

impl<L: LeaseDb, B: Backend> Store<L, B> {
    /// Begins uploads of a connection, and leases what is there already: the shares that the account now leases, and a
    /// writer for each upload that was begun.
    ///
    /// # Errors
    /// As [`allocate_bucket`](Self::allocate_bucket).
    pub async fn open_writers(
        self: &Arc<Self>,
        session: &Session,
        storage_index: StorageIndex,
        share_numbers: &[ShareNumber],
        size_bytes: u64,
        connection: &TubConnection,
    ) -> Result<(Vec<ShareNumber>, Vec<(ShareNumber, BucketWriter<L, B>)>)> {
        let secret = UploadSecret::new(self.entropy.bytes::<32>().to_vec()).expect("a length that is allowed");
        let sets = self.allocate(session, storage_index, share_numbers, size_bytes, &secret, Some(connection)).await?;
        let writer = |number| BucketWriter {
            store: self.clone(),
            share: ShareId::new(storage_index, number),
            secret: secret.clone(),
            size_bytes,
            received: RangeSet::new(),
            gathered: Gathered::new(self.gathered_bytes.clone()),
            storing_bytes: 0,
            has_failed: false,
        };
        let writers = sets.allocated.into_iter().map(|number| (number, writer(number))).collect();
        Ok((sets.already_have, writers))
    }
}

impl<L: LeaseDb, B: Backend> BucketWriter<L, B> {
    /// Which share it is.
    pub const fn share(&self) -> ShareId {
        self.share
    }

    /// Size of the share in bytes.
    pub const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Whether a write can be taken now: while a piece is being stored, only what goes on where the last one ended, and not
    /// without end.
    pub fn has_room(&self, offset: u64, length: u64) -> bool {
        let range = offset..offset.saturating_add(length);
        let goes_on = self.gathered.range().end == offset && self.received.missing(range.clone()) == [range];
        !self.is_storing() || goes_on && self.gathered.length.saturating_add(length) <= GATHERED_BYTES
    }

    /// Whether a piece is being stored.
    pub const fn is_storing(&self) -> bool {
        self.storing_bytes > 0
    }

    /// Takes bytes, in any order; those taken before must be equal. There must be [room](Self::has_room). They are in
    /// memory: [pieces](Self::begin_piece) of them are to be stored meanwhile, [`close`](Self::close) stores all.
    ///
    /// # Errors
    /// [`StoreError::Refused`], [`StoreError::OutOfBounds`], [`StoreError::Conflict`]: nothing was taken. Else an earlier
    /// piece could not be stored, or not be compared.
    pub async fn write(&mut self, session: &Session, offset: u64, bytes: Bytes) -> Result<()> {
        check_may_write(session)?;
        let range = offset..offset.saturating_add(bytes.len() as u64);
        if range.end > self.size_bytes {
            return Err(StoreError::OutOfBounds { size_bytes: self.size_bytes });
        }
        let of = |part: &Range<u64>| bytes.slice((part.start - offset) as usize..(part.end - offset) as usize);
        let fresh = self.received.missing(range.clone());
        let known: Vec<_> = fresh.iter().cloned().collect::<RangeSet>().missing(range);
        for part in known {
            self.compare(&part, &of(&part)).await?;
        }
        for part in fresh {
            if self.has_failed || !self.gathered.is_followed_by(part.start) {
                // What comes now is not stored yet, so this does not complete the share.
                let all = self.gathered.length;
                self.store_gathered(all).await?;
            }
            self.gathered.push(part.start, of(&part));
            self.received.insert(part);
        }
        Ok(())
    }

    /// The next piece to be stored, if enough was gathered and none is being stored. The last bytes stay.
    pub fn begin_piece(&mut self) -> Option<GatheredPiece<L, B>> {
        let length = self.ripe_bytes();
        if length == 0 || self.is_storing() {
            return None;
        }
        self.storing_bytes = length;
        let range = self.gathered.start..self.gathered.start + length;
        let bytes = self.gathered.first(length);
        Some(GatheredPiece { store: self.store.clone(), share: self.share, secret: self.secret.clone(), range, bytes })
    }

    fn ripe_bytes(&self) -> u64 {
        let spare = self.gathered.length.saturating_sub(1);
        let is_much = self.gathered.total.load(Ordering::Relaxed) > GATHERED_MAX_BYTES;
        if is_much { spare } else { spare / PIECE_BYTES * PIECE_BYTES }
    }

    /// Forgets the bytes of a piece that was stored. One that could not be is tried again by the next call, which tells.
    pub fn end_piece(&mut self, was_stored: bool) {
        let length = std::mem::take(&mut self.storing_bytes);
        self.has_failed = !was_stored;
        if was_stored {
            self.gathered.take(length);
        }
    }

    /// Writes some of the zeros for bytes that were never written; false if there are none left. A share is as large as it
    /// was allocated, and all of it may be a hole: who wants to close it can look between whether anybody still waits.
    ///
    /// # Errors
    /// As [`close`](Self::close).
    pub async fn fill(&mut self, session: &Session) -> Result<bool> {
        check_may_write(session)?;
        let Some(hole) = self.received.missing(0..self.size_bytes).into_iter().next() else { return Ok(false) };
        let part = hole.start..hole.end.min(hole.start + FILLED_BYTES);
        self.store_range(part.clone(), zeros(part.end - part.start)).await?;
        self.received.insert(part);
        Ok(true)
    }

    /// Makes the share stable and leased, durably. Bytes that were never written are zeros.
    ///
    /// # Errors
    /// [`StoreError::Refused`]; [`StoreError::Conflict`] if somebody else's share took the number; else it may be tried
    /// again.
    pub async fn close(&mut self, session: &Session) -> Result<()> {
        while self.fill(session).await? {}
        if self.size_bytes == 0 {
            return self.store_range(0..0, stream::empty().boxed()).await;
        }
        // The last bytes, which complete the share; where all were holes, it is complete.
        let all = self.gathered.length;
        self.store_gathered(all).await
    }

    /// Forgets the share; nothing if it has ended.
    ///
    /// # Errors
    /// The lease database does not answer.
    pub async fn abort(&mut self) -> Result<()> {
        self.gathered.take(self.gathered.length);
        match self.store.abort_bucket(self.share, &self.secret).await {
            // Ended before, and the number perhaps given to somebody else.
            Err(StoreError::NotFound | StoreError::AlreadyComplete | StoreError::WrongUploadSecret) => Ok(()),
            result => result,
        }
    }

    /// Sets the deadline back to the full time.
    ///
    /// # Errors
    /// The lease database does not answer.
    pub async fn keep(&self) -> Result<()> {
        self.store.keep_upload(self.share, &self.secret).await
    }

    /// Whether bytes that came again are those that came before.
    async fn compare(&self, range: &Range<u64>, bytes: &Bytes) -> Result<()> {
        let of = |part: Range<u64>| bytes.slice((part.start - range.start) as usize..(part.end - range.start) as usize);
        let gathered = self.gathered.range();
        let shared = intersection(range, &gathered);
        if let Some(shared) = &shared
            && !self.gathered.equals(shared, &of(shared.clone()))
        {
            return Err(self.store.conflict(ConflictingState::Coming, StoreError::Conflict));
        }
        let shared = shared.unwrap_or(range.start..range.start);
        for stored in [range.start..shared.start, shared.end..range.end] {
            if !stored.is_empty() {
                self.store_range(stored.clone(), body(vec![of(stored)])).await?;
            }
        }
        Ok(())
    }

    async fn store_gathered(&mut self, length: u64) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        let range = self.gathered.start..self.gathered.start + length;
        self.store_range(range, body(self.gathered.first(length))).await?;
        self.gathered.take(length);
        self.has_failed = false;
        Ok(())
    }

    async fn store_range(&self, range: Range<u64>, body: ByteStream) -> Result<()> {
        self.store.write_bucket(self.share, &self.secret, range, body).await.map(drop)
    }
}

fn check_may_write(session: &Session) -> Result<()> {
    let state = session.account.state;
    if state.may_write() { Ok(()) } else { Err(StoreError::Refused(state)) }
}

fn body(parts: Vec<Bytes>) -> ByteStream {
    stream::iter(parts.into_iter().map(Ok)).boxed()
}

impl Gathered {
    fn new(total: Arc<AtomicU64>) -> Self {
        Self { start: 0, length: 0, bytes: VecDeque::new(), total }
    }

    const fn range(&self) -> Range<u64> {
        self.start..self.start + self.length
    }

    const fn is_followed_by(&self, start: u64) -> bool {
        self.length == 0 || self.start + self.length == start
    }

    /// Appends bytes that follow those that are there.
    fn push(&mut self, start: u64, bytes: Bytes) {
        if self.length == 0 {
            self.start = start;
        }
        self.length += bytes.len() as u64;
        self.total.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.bytes.push_back(bytes);
    }

    /// The first `length` bytes.
    fn first(&self, length: u64) -> Vec<Bytes> {
        let mut left = length;
        let mut parts = Vec::with_capacity(self.bytes.len());
        for bytes in &self.bytes {
            let count = left.min(bytes.len() as u64);
            if count == 0 {
                break;
            }
            parts.push(bytes.slice(..count as usize));
            left -= count;
        }
        parts
    }

    /// Forgets the first `length` bytes.
    fn take(&mut self, length: u64) {
        let mut left = length;
        while left > 0
            && let Some(first) = self.bytes.front_mut()
        {
            let count = left.min(first.len() as u64);
            left -= count;
            if count == first.len() as u64 {
                self.bytes.pop_front();
            } else {
                // A copy: what is left must not hold all that came with it.
                *first = Bytes::copy_from_slice(&first[count as usize..]);
            }
        }
        self.start += length;
        self.length -= length;
        self.total.fetch_sub(length, Ordering::Relaxed);
    }

    /// Whether the bytes of `range`, which are all here, are these.
    fn equals(&self, range: &Range<u64>, other: &[u8]) -> bool {
        let mut at = self.start;
        self.bytes.iter().all(|bytes| {
            let this = at..at + bytes.len() as u64;
            at = this.end;
            intersection(&this, range).is_none_or(|part| {
                let ours = &bytes[(part.start - this.start) as usize..(part.end - this.start) as usize];
                ours == &other[(part.start - range.start) as usize..(part.end - range.start) as usize]
            })
        })
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        self.total.fetch_sub(self.length, Ordering::Relaxed);
    }
}
