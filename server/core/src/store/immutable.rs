//! Uploads of immutable shares: allocate, write, abort.

use std::ops::Range;

use super::body::{self, Body, Side};
use super::collect::Found;
use super::read::open_segments;
use super::{Result, Store, StoreError};
use crate::accountant::Session;
use crate::backend::{Backend, BackendError, ByteStream};
use crate::bucket::{self, Chunk, Part, Upload};
use crate::chunk::{ObjectName, Piece, StoreObject};
use crate::id::{ObjectId, ShareId, ShareNumber, StorageIndex};
use crate::leasedb::{Allocate, AllocateOutcome, LeaseDb, LeaseDbError, RecordChunks, RecordOutcome};
use crate::locator::Segment;
use crate::observe::{ConflictingState, Event, LeaseOperation, LeaseResult, QuotaKind, UploadEnd};
use crate::secret::UploadSecret;
use crate::share::{ShareKind, ShareState};
use crate::tub::TubConnection;

/// How often an allocation that meets overdue uploads is tried again after they were ended.
const OVERDUE_ATTEMPTS_MAX: usize = 5;
const ABANDONED_AT_ONCE: u32 = 100;

/// The two answers to an allocation (`gbs.md` 8.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocated {
    /// Finished shares of the bucket that the account now leases.
    pub already_have: Vec<ShareNumber>,
    /// Shares whose upload was begun.
    pub allocated: Vec<ShareNumber>,
}

/// The answer to a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Whether this write finished the share.
    pub finished: bool,
    /// What is still missing, ascending; empty when finished.
    pub missing: Vec<Range<u64>>,
}

impl<L: LeaseDb, B: Backend> Store<L, B> {
    /// Begins uploads, and leases what is there already (`gbs.md` 8.1). What does not fit is in neither set.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if the account may not hold leases at present.
    pub async fn allocate_bucket(
        &self,
        session: &Session,
        storage_index: StorageIndex,
        share_numbers: &[ShareNumber],
        size_bytes: u64,
        secret: &UploadSecret,
    ) -> Result<Allocated> {
        self.allocate(session, storage_index, share_numbers, size_bytes, secret, None).await
    }

    /// As [`allocate_bucket`](Self::allocate_bucket); uploads of a `connection` are found by
    /// [`end_abandoned`](Self::end_abandoned) when their Tub has another one.
    pub(super) async fn allocate(
        &self,
        session: &Session,
        storage_index: StorageIndex,
        share_numbers: &[ShareNumber],
        size_bytes: u64,
        secret: &UploadSecret,
        connection: Option<&TubConnection>,
    ) -> Result<Allocated> {
        self.touch(storage_index).await?;
        let now = self.recent_time().await?;
        let fits = size_bytes <= self.options.immutable_share_max_bytes;
        let wanted = if fits { share_numbers } else { &[] };
        let request = Allocate {
            storage_index,
            account: session.account.id,
            shares: wanted.iter().map(|number| (*number, self.entropy.object_id(now))).collect(),
            size_bytes,
            secret: secret.hash(),
            connection: connection.cloned(),
            idle_seconds: self.options.upload_idle_seconds,
            backend_available_bytes: self.backend_available_bytes.load(std::sync::atomic::Ordering::Relaxed),
        };
        for _ in 0..OVERDUE_ATTEMPTS_MAX {
            match self.db.allocate(request.clone()).await? {
                AllocateOutcome::Done { already_have, allocated, over_quota } => {
                    if !already_have.is_empty() {
                        self.observer.notice(Event::Lease(LeaseOperation::Add, LeaseResult::Done));
                    }
                    if over_quota {
                        self.observer.notice(Event::OverQuota(QuotaKind::Upload));
                    }
                    let refused = |number| !already_have.contains(number) && !allocated.contains(number);
                    if self.backend_contact.is_lost() && wanted.iter().any(refused) {
                        // They did not fit because nothing is known of the room; leases are renewed all the same.
                        let silent = std::io::Error::other("the backend did not answer lately");
                        return Err(StoreError::Backend(BackendError::Unavailable(silent)));
                    }
                    return Ok(Allocated { already_have, allocated });
                }
                AllocateOutcome::Refused(state) => {
                    self.observer.notice(Event::Lease(LeaseOperation::Add, LeaseResult::Refused));
                    return Err(StoreError::Refused(state));
                }
                // An overdue upload gives way at once (`review.md` D5).
                AllocateOutcome::Overdue(uploads) => {
                    for (number, upload) in uploads {
                        self.end_overdue(ShareId::new(storage_index, number), upload).await?;
                    }
                }
            }
        }
        Err(StoreError::Busy)
    }

    /// Stores `body` as bytes `range` of a share in upload; all of it durably, or nothing (`gbs.md` 8.2).
    ///
    /// # Errors
    /// In the order of the protocol: [`NotFound`](StoreError::NotFound),
    /// [`WrongUploadSecret`](StoreError::WrongUploadSecret), [`OutOfBounds`](StoreError::OutOfBounds),
    /// [`BodyLength`](StoreError::BodyLength), [`Conflict`](StoreError::Conflict).
    pub async fn write_bucket(
        &self,
        share: ShareId,
        secret: &UploadSecret,
        range: Range<u64>,
        body: ByteStream,
    ) -> Result<Written> {
        self.touch(share.storage_index).await?;
        let (now, upload) = self.db.find_upload(share).await?;
        let upload = upload.ok_or(StoreError::NotFound)?;
        if upload.secret != secret.hash() {
            return Err(self.conflict(ConflictingState::Coming, StoreError::WrongUploadSecret));
        }
        if range.end > upload.size_bytes {
            return Err(StoreError::OutOfBounds { size_bytes: upload.size_bytes });
        }
        let mut writing = Writing { store: self, upload, now, stored: Vec::new() };
        let is_last = range.end == writing.upload.size_bytes;
        let result = match writing.receive(range, body).await {
            Ok(()) => writing.record().await,
            Err(error) => Err(error),
        };
        match result {
            Ok(written) if is_last && !written.finished => self.complete_after_loss(&writing.upload, written).await,
            Ok(written) => Ok(written),
            Err(Failure::Known(error)) => {
                writing.discard().await;
                Err(error)
            }
            Err(Failure::Unknown(error)) => Err(error.into()),
        }
    }

    /// The client sends in order: where bytes are missing behind its last write, a commit was lost, and with it only
    /// the row (`review.md` B3). But only where commits may be lost at all: without a loss, what has no row belongs to
    /// writes under way, which are not finished by somebody else and may yet be refused.
    async fn complete_after_loss(&self, upload: &Upload, written: Written) -> Result<Written> {
        if !self.may_have_lost_commits().await? {
            return Ok(written);
        }
        Ok(match self.record_found(upload.share, upload.id).await? {
            Found::Complete => Written { finished: true, missing: Vec::new() },
            Found::Incomplete(_) => written,
        })
    }

    /// Sets an upload's deadline back to the full time; nothing if it has ended.
    ///
    /// # Errors
    /// The lease database does not answer.
    pub async fn keep_upload(&self, share: ShareId, secret: &UploadSecret) -> Result<()> {
        let (_, upload) = self.db.find_upload(share).await?;
        // Of an empty share nothing is missing: to record nothing would be to finish it.
        let Some(upload) = upload.filter(|upload| upload.secret == secret.hash() && upload.size_bytes > 0) else {
            return Ok(());
        };
        let nothing = RecordChunks {
            share,
            upload: upload.id,
            seen_received_bytes: upload.received_bytes,
            chunks: Vec::new(),
            found: false,
            epoch: upload.epoch,
            idle_seconds: self.options.upload_idle_seconds,
        };
        // Whoever recorded bytes meanwhile has set the deadline, too.
        Ok(self.db.record_chunks(nothing).await.map(drop)?)
    }

    /// Ends what other connections of this Tub began and left when they died, whichever process they were connected to.
    ///
    /// # Errors
    /// The lease database does not answer; what was ended until then is ended.
    pub async fn end_abandoned(&self, connection: &TubConnection) -> Result<u64> {
        let mut ended = 0;
        loop {
            let abandoned = self.db.abandoned_uploads(connection.clone(), ABANDONED_AT_ONCE).await?;
            if abandoned.is_empty() {
                return Ok(ended);
            }
            for (share, upload) in abandoned {
                ended += u64::from(self.end_upload(share, upload, Vec::new(), UploadEnd::Aborted).await?);
            }
        }
    }

    /// Forgets an upload (`gbs.md` 8.3).
    ///
    /// # Errors
    /// [`WrongUploadSecret`](StoreError::WrongUploadSecret); without an upload
    /// [`AlreadyComplete`](StoreError::AlreadyComplete) or [`NotFound`](StoreError::NotFound).
    pub async fn abort_bucket(&self, share: ShareId, secret: &UploadSecret) -> Result<()> {
        self.touch(share.storage_index).await?;
        if let (_, Some(upload)) = self.db.find_upload(share).await? {
            if upload.secret != secret.hash() {
                return Err(self.conflict(ConflictingState::Coming, StoreError::WrongUploadSecret));
            }
            if self.end_upload(share, upload.id, Vec::new(), UploadEnd::Aborted).await? {
                return Ok(());
            }
        }
        match self.stable_share(ShareKind::Immutable, share).await {
            Ok(_) => Err(self.conflict(ConflictingState::Stable, StoreError::AlreadyComplete)),
            Err(error) => Err(error),
        }
    }

    /// Makes chunks part of an upload; tells how it ended if that was its end.
    pub(super) async fn record_chunks(&self, request: RecordChunks) -> Result<RecordOutcome, LeaseDbError> {
        let outcome = self.db.record_chunks(request).await?;
        match &outcome {
            RecordOutcome::Finished | RecordOutcome::Displaced { same: true } => {
                self.observer.notice(Event::UploadEnded(UploadEnd::Completed));
            }
            RecordOutcome::Displaced { same: false } => {
                self.observer.notice(Event::UploadEnded(UploadEnd::Conflict));
                self.observer.notice(Event::Conflict(ConflictingState::Stable));
            }
            RecordOutcome::Incomplete(_) | RecordOutcome::Stale | RecordOutcome::Gone => {}
        }
        Ok(outcome)
    }

    /// Ends an upload without a share, and tells so; one that `end`s as expired must be overdue. False if it had ended.
    pub(super) async fn end_upload(
        &self,
        share: ShareId,
        upload: ObjectId,
        strays: Vec<StoreObject>,
        end: UploadEnd,
    ) -> Result<bool> {
        let has_ended = self.db.end_upload(share, upload, strays, end == UploadEnd::Expired).await?;
        if has_ended {
            self.observer.notice(Event::UploadEnded(end));
        }
        Ok(has_ended)
    }
}

/// Why a write failed, and with it what may be done about its objects (`review.md` A3).
enum Failure {
    /// No row names the objects: they are garbage.
    Known(StoreError),
    /// A row may name them: they are left alone.
    Unknown(LeaseDbError),
}

impl<E: Into<StoreError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Known(error.into())
    }
}

struct Writing<'a, L, B> {
    store: &'a Store<L, B>,
    upload: Upload,
    now: crate::clock::Timestamp,
    stored: Vec<Chunk>,
}

impl<L: LeaseDb, B: Backend> Writing<'_, L, B> {
    /// Streams the body in: stores what is new, compares what is known.
    async fn receive(&mut self, range: Range<u64>, body: ByteStream) -> Result<(), Failure> {
        let body = Body::new(body);
        let mut conflict = false;
        if self.upload.size_bytes == 0 {
            self.store_object(&body, 0..0).await?;
        }
        for part in bucket::split_write(&range, &self.upload.chunks) {
            match part {
                // Nothing of a write that conflicts is kept, so nothing more is stored once it does.
                Part::New(range) if conflict => drop(self.skip(&body, range).await?),
                Part::New(range) => self.store_new(&body, range).await?,
                Part::Known(range, chunk) => conflict |= !self.equals_known(&body, range, &chunk).await?,
            }
        }
        if !body.is_at_end().await.map_err(StoreError::BodyBroken)? {
            return Err(StoreError::BodyLength.into());
        }
        if conflict { Err(self.conflicts().into()) } else { Ok(()) }
    }

    /// The error of bytes that are not those that came before.
    fn conflicts(&self) -> StoreError {
        self.store.conflict(ConflictingState::Coming, StoreError::Conflict)
    }

    async fn skip(&self, body: &Body, range: Range<u64>) -> Result<bool> {
        body::equal(body.take(range.end - range.start), body::zeros(0)).await.map_err(side_error)
    }

    async fn store_new(&mut self, body: &Body, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + self.store.options.object_max_bytes);
            self.store_object(body, at..end).await?;
            at = end;
        }
        Ok(())
    }

    async fn store_object(&mut self, body: &Body, range: Range<u64>) -> Result<()> {
        let object = self.name_object(range.clone());
        let name = ObjectName::new(self.upload.share, object);
        let length = range.end - range.start;
        let result = self.store.backend.put(&name.key(), length, body.take(length)).await;
        // An unanswered put may have stored the object, so it is among what is thrown away then.
        if matches!(result, Ok(()) | Err(BackendError::Unavailable(_))) {
            self.stored.push(Chunk { range, object, digest: Some(body.digest()) });
        }
        Ok(result?)
    }

    fn name_object(&self, range: Range<u64>) -> StoreObject {
        let upload = &self.upload;
        let put = self.store.entropy.object_id(self.now);
        if range == (0..upload.size_bytes) {
            return StoreObject::Whole { upload: upload.id, account: upload.account, put };
        }
        StoreObject::Piece(Piece {
            group: upload.id,
            account: upload.account,
            size_bytes: upload.size_bytes,
            offset: range.start,
            chunk: put,
        })
    }

    async fn equals_known(&self, body: &Body, range: Range<u64>, known: &Chunk) -> Result<bool> {
        let incoming = body.take(range.end - range.start);
        if let (Some(digest), true) = (known.digest, known.range == range) {
            body::equal(incoming, body::zeros(0)).await.map_err(side_error)?;
            return Ok(body.digest() == digest);
        }
        body::equal(incoming, self.stored_bytes(known, range)).await.map_err(side_error)
    }

    fn stored_bytes(&self, chunk: &Chunk, range: Range<u64>) -> ByteStream {
        let base = chunk.object.base_offset();
        let segment = Segment::Object(chunk.object, range.start - base..range.end - base);
        open_segments(self.store.backend.clone(), self.upload.share, vec![segment])
    }

    /// Makes rows of what was stored. Where others recorded bytes meanwhile, ours are compared with theirs and only
    /// the remainder is recorded (`review.md` A2).
    async fn record(&mut self) -> Result<Written, Failure> {
        let mut chunks = self.stored.clone();
        loop {
            let request = RecordChunks {
                share: self.upload.share,
                upload: self.upload.id,
                seen_received_bytes: self.upload.received_bytes,
                chunks: chunks.clone(),
                found: false,
                epoch: self.upload.epoch,
                idle_seconds: self.store.options.upload_idle_seconds,
            };
            match self.store.record_chunks(request).await {
                Ok(RecordOutcome::Incomplete(missing)) => {
                    self.discard_all_but(&chunks).await;
                    return Ok(Written { finished: false, missing });
                }
                Ok(RecordOutcome::Finished | RecordOutcome::Displaced { same: true }) => {
                    self.discard_all_but(&chunks).await;
                    return Ok(Written { finished: true, missing: Vec::new() });
                }
                // The transaction that found the number taken has made our objects garbage.
                Ok(RecordOutcome::Displaced { same: false }) => {
                    self.stored.clear();
                    return Err(StoreError::Conflict.into());
                }
                Ok(RecordOutcome::Gone) => return self.finished_by_others().await,
                Ok(RecordOutcome::Stale) => {
                    if !self.look_again().await? {
                        return self.finished_by_others().await;
                    }
                    chunks = self.remainder().await?;
                }
                Err(LeaseDbError::OutcomeUnknown(cause)) => return self.find_out(cause).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads the upload again; false if it has ended.
    async fn look_again(&mut self) -> Result<bool, Failure> {
        let (_, upload) = self.store.db.find_upload(self.upload.share).await?;
        let Some(upload) = upload.filter(|upload| upload.id == self.upload.id) else { return Ok(false) };
        self.upload = upload;
        Ok(true)
    }

    /// The upload has ended while this write was under way: by an abort, or because somebody found our objects in the
    /// backend and recorded them for us.
    async fn finished_by_others(&self) -> Result<Written, Failure> {
        let row = self.store.db.find_share(self.upload.share).await?;
        let objects = row.filter(|row| row.state == ShareState::Stable).map(|row| row.locator.objects());
        let named = |chunk: &Chunk| objects.as_ref().is_some_and(|objects| objects.contains(&chunk.object));
        if !self.stored.is_empty() && self.stored.iter().all(named) {
            return Ok(Written { finished: true, missing: Vec::new() });
        }
        Err(StoreError::NotFound.into())
    }

    async fn remainder(&self) -> Result<Vec<Chunk>> {
        let mut remainder = Vec::new();
        for ours in &self.stored {
            for part in bucket::split_write(&ours.range, &self.upload.chunks) {
                match part {
                    Part::New(range) => {
                        let digest = ours.digest.filter(|_| range == ours.range);
                        remainder.push(Chunk { range, object: ours.object, digest });
                    }
                    Part::Known(range, theirs) => {
                        let (a, b) = (self.stored_bytes(ours, range.clone()), self.stored_bytes(&theirs, range));
                        // Both come from the backend: what fails here is not the client's.
                        let unreadable = |side| match side {
                            Side::First(error) | Side::Second(error) => BackendError::Unavailable(error),
                        };
                        if !body::equal(a, b).await.map_err(unreadable)? {
                            return Err(self.conflicts());
                        }
                    }
                }
            }
        }
        Ok(remainder)
    }

    /// After a transaction of unknown outcome: reads whether our objects are named (`review.md` A3).
    async fn find_out(&mut self, cause: crate::leasedb::Cause) -> Result<Written, Failure> {
        let unknown = |cause| Failure::Unknown(LeaseDbError::OutcomeUnknown(cause));
        let is_ours = |object: &StoreObject| self.stored.iter().any(|chunk| chunk.object == *object);
        let Ok((_, upload)) = self.store.db.find_upload(self.upload.share).await else {
            return Err(unknown(cause));
        };
        if let Some(upload) = upload.filter(|upload| upload.id == self.upload.id) {
            // Ours are in if rows cover all we stored: each byte under our object, or under one found equal before.
            let covered = self.stored.iter().all(|ours| {
                let parts = bucket::split_write(&ours.range, &upload.chunks);
                parts.iter().all(|part| matches!(part, Part::Known(..)))
            });
            let named = upload.chunks.iter().any(|chunk| is_ours(&chunk.object));
            if covered && (named || self.stored.is_empty()) {
                let missing = bucket::missing(upload.size_bytes, &upload.chunks);
                // Whatever of ours no row names was found equal to others' bytes, and is not needed.
                self.discard().await;
                return Ok(Written { finished: false, missing });
            }
            return Err(unknown(cause));
        }
        match self.store.db.find_share(self.upload.share).await {
            Ok(Some(row)) if row.state == ShareState::Stable => {
                let objects = row.locator.objects();
                if self.stored.iter().all(|chunk| objects.contains(&chunk.object)) {
                    self.store.observer.notice(Event::UploadEnded(UploadEnd::Completed));
                    return Ok(Written { finished: true, missing: Vec::new() });
                }
                Err(unknown(cause))
            }
            _ => Err(unknown(cause)),
        }
    }

    /// Throws away the objects whose bytes others recorded first.
    async fn discard_all_but(&mut self, recorded: &[Chunk]) {
        self.stored.retain(|ours| !recorded.iter().any(|chunk| chunk.object == ours.object));
        self.discard().await;
    }

    /// Throws away what was stored for a write that is known not to count. Best effort: what a failing database keeps
    /// us from throwing away is found by the orphan duty.
    async fn discard(&mut self) {
        let share = self.upload.share;
        let names: Vec<ObjectName> = self.stored.drain(..).map(|c| ObjectName::new(share, c.object)).collect();
        if !names.is_empty() {
            drop(self.store.db.discard_objects(names).await);
        }
    }
}

fn side_error(side: Side) -> StoreError {
    match side {
        Side::First(error) => body::store_error(error),
        Side::Second(error) => StoreError::Backend(BackendError::Unavailable(error)),
    }
}
