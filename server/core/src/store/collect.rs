//! What is done beside requests: overdue uploads end, due garbage is deleted, pieces are merged.
//!
//! Any number of processes may do this at once: each piece of work is claimed in the lease database.

use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::read::open_segments;
use super::{Result, Store, StoreError};
use crate::backend::{Backend, BackendError};
use crate::bucket::{self, Chunk, Part, Upload};
use crate::chunk::{ObjectName, Piece, StoreObject, folder};
use crate::expiry::{Amount, brake_on_clocks};
use crate::id::{ObjectId, ShareId};
use crate::leasedb::{
    Deployment, Epoch, Garbage, LeaseDb, LeaseDbError, Mode, RecordChunks, RecordOutcome, Relocate, Scattered,
};
use crate::locator::{Extent, Locator};
use crate::observe::UploadEnd;
use crate::run::RunId;

const UPLOADS_AT_ONCE: u32 = 100;
const GARBAGE_AT_ONCE: u32 = 100;
const DELETES_AT_ONCE: usize = 16;
const MERGES_AT_ONCE: u32 = 4;
const CLAIM_SECONDS: i64 = 300;
/// A merge must end within the fence, so a claim that is older is dead.
const MERGE_CLAIM_SECONDS: i64 = 3600;
const LIST_AT_ONCE: usize = 1000;
/// How long a look at the epoch allows to delete.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What was collected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Uploads ended for lack of progress.
    pub uploads_ended: u64,
    /// Uploads that turned out to be complete (`review.md` B3).
    pub uploads_completed: u64,
    /// Objects deleted.
    pub objects_deleted: u64,
    /// Shares whose pieces were merged.
    pub shares_merged: u64,
    /// Shares that nobody leased: they are not served any more, and can be put back for a while.
    pub retired: Amount,
    /// The run that a brake has stopped, and that nobody has allowed to go on yet: shares that nobody leases stay.
    pub braked: Option<RunId>,
    /// How far clocks are apart. If that is too much nothing was done.
    pub skew_seconds: i64,
}

/// What an upload has when the backend was looked at as well.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing was missing: the share is finished.
    Complete,
    /// Bytes are missing, or the upload was gone; these are its objects, named by rows or not.
    Incomplete(Vec<StoreObject>),
}

impl<L: LeaseDb, B: Backend> Store<L, B> {
    /// Retires shares that nobody leases, ends overdue uploads, deletes due garbage and merges pieces until there is nothing
    /// left to do; `report` is told what was done so far. In recovery mode, and while clocks differ, nothing is done.
    ///
    /// # Errors
    /// The lease database or the backend fails; what was done until then is done.
    pub async fn collect(&self, report: impl Fn(&Collected) + Sync) -> Result<Collected> {
        let mut collected = Collected { skew_seconds: self.clock_skew_seconds().await?, ..Collected::default() };
        if brake_on_clocks(collected.skew_seconds).is_some() {
            return Ok(collected);
        }
        self.retire_unleased(&mut collected, &report).await?;
        loop {
            let deployment = self.db.deployment().await?;
            if deployment.mode == Mode::Recovery {
                return Ok(collected);
            }
            let before = collected;
            for (share, upload) in self.db.overdue_uploads(UPLOADS_AT_ONCE).await? {
                match self.end_overdue(share, upload).await? {
                    Some(true) => collected.uploads_completed += 1,
                    Some(false) => collected.uploads_ended += 1,
                    None => {}
                }
            }
            self.trust_other_backups(&deployment).await?;
            let garbage = self.db.claim_garbage(deployment.epoch, GARBAGE_AT_ONCE, CLAIM_SECONDS).await?;
            let nothing_due = garbage.is_empty();
            collected.objects_deleted += self.delete(garbage, deployment.epoch).await?;
            let scattered = self.db.claim_scattered(MERGES_AT_ONCE, MERGE_CLAIM_SECONDS).await?;
            let nothing_scattered = scattered.is_empty();
            for scattered in scattered {
                collected.shares_merged += u64::from(self.merge(scattered, deployment).await?);
            }
            report(&collected);
            if collected == before && nothing_due && nothing_scattered {
                return Ok(collected);
            }
        }
    }

    /// Ends an overdue upload, or completes it if its bytes are all there. `None` if it is not overdue or gone.
    pub(super) async fn end_overdue(&self, share: ShareId, upload: ObjectId) -> Result<Option<bool>> {
        match self.record_found(share, upload).await? {
            Found::Complete => Ok(Some(true)),
            Found::Incomplete(objects) => {
                Ok(self.end_upload(share, upload, objects, UploadEnd::Expired).await?.then_some(false))
            }
        }
    }

    async fn delete(&self, garbage: Vec<Garbage>, epoch: Epoch) -> Result<u64> {
        let (mut deleted, mut looked_at) = (0, None);
        for row in garbage {
            let now = self.clock.elapsed();
            if looked_at.is_none_or(|at| now.saturating_sub(at) >= LOOK_EVERY) {
                if !self.is_present(epoch).await? {
                    return Ok(deleted);
                }
                looked_at = Some(now);
            }
            deleted += row.objects.len() as u64;
            let delete = |name: ObjectName| {
                let backend = self.backend.clone();
                async move { backend.delete(&name.key()).await }
            };
            let deletes = stream::iter(row.objects.into_iter().map(delete));
            deletes.buffer_unordered(DELETES_AT_ONCE).try_collect::<()>().await?;
            self.db.finish_garbage(vec![row.id]).await?;
        }
        Ok(deleted)
    }

    /// Records what the backend has of an upload and no row names: a commit may have been lost (`review.md` B3).
    pub(super) async fn record_found(&self, share: ShareId, id: ObjectId) -> Result<Found> {
        let (_, upload) = self.db.find_upload(share).await?;
        let Some(upload) = upload.filter(|upload| upload.id == id) else { return Ok(Found::Incomplete(Vec::new())) };
        let listed = self.list_upload(share, id).await?;
        let chunks = unrecorded(&upload, &listed);
        let objects = listed.into_iter().map(|(object, _)| object).collect();
        if chunks.is_empty() {
            return Ok(Found::Incomplete(objects));
        }
        let request = RecordChunks {
            share,
            upload: id,
            seen_received_bytes: upload.received_bytes,
            chunks,
            found: true,
            epoch: upload.epoch,
            // Being found is no progress: an overdue upload stays overdue.
            idle_seconds: 0,
        };
        match self.record_chunks(request).await? {
            RecordOutcome::Finished | RecordOutcome::Displaced { same: true } => Ok(Found::Complete),
            RecordOutcome::Incomplete(_)
            | RecordOutcome::Displaced { same: false }
            | RecordOutcome::Stale
            | RecordOutcome::Gone => Ok(Found::Incomplete(objects)),
        }
    }

    /// The objects of an upload that the backend has, with their lengths, named by rows or not.
    async fn list_upload(&self, share: ShareId, upload: ObjectId) -> Result<Vec<(StoreObject, u64)>> {
        let prefix = folder(share.storage_index);
        let mut objects = Vec::new();
        let mut after = None;
        loop {
            let page = self.backend.list(&prefix, after.as_deref(), LIST_AT_ONCE).await?;
            for listed in &page.objects {
                let name = listed.name.parse::<ObjectName>().ok();
                let ours = name.filter(|name| name.share == share && name.object.group() == Some(upload));
                objects.extend(ours.map(|name| (name.object, listed.length_bytes)));
            }
            after = page.next;
            if after.is_none() {
                return Ok(objects);
            }
        }
    }

    /// Stores the bytes of a share in as few objects as may be; false if it stays as it is.
    async fn merge(&self, scattered: Scattered, deployment: Deployment) -> Result<bool> {
        let Scattered { share, row, .. } = &scattered;
        let plan = self.plan_merge(&scattered);
        let mut stored = Vec::new();
        let mut to = Locator::default();
        match self.store_merged(*share, &row.locator, &plan, &mut stored).await {
            Ok(()) => to = Locator::new(plan).expect("runs that follow each other"),
            Err(StoreError::Backend(BackendError::NotFound(object))) => {
                // Left to the accounting crawler, which knows what is lost.
                tracing::warn!(%share, object, "a piece is not in the backend; the share is not merged");
            }
            Err(error) => {
                drop(self.db.discard_objects(stored).await);
                return Err(error);
            }
        }
        let request = Relocate { share: *share, from: row.locator.clone(), to, epoch: deployment.epoch };
        match self.db.relocate(request).await {
            Ok(true) => Ok(true),
            // Known not to hold: nothing names the objects.
            Ok(false) => {
                self.db.discard_objects(stored).await?;
                Ok(false)
            }
            // Objects of an unknown outcome are left alone (`review.md` A3).
            Err(error @ LeaseDbError::OutcomeUnknown(_)) => Err(error.into()),
            Err(error) => {
                drop(self.db.discard_objects(stored).await);
                Err(error.into())
            }
        }
    }

    /// The objects that a share shall lie in; none if fewer than now are not possible.
    fn plan_merge(&self, scattered: &Scattered) -> Vec<Extent> {
        let Scattered { row, now, .. } = scattered;
        let old = row.locator.objects();
        let count = row.size_bytes.div_ceil(self.options.merged_max_bytes);
        let first = old.first().filter(|_| count < old.len() as u64);
        let group = first.and_then(|first| first.group().zip(first.account()));
        let Some((upload, account)) = group else { return Vec::new() };
        let mut extents = Vec::new();
        let mut at = 0;
        while at < row.size_bytes {
            let range = at..row.size_bytes.min(at + self.options.merged_max_bytes);
            let put = self.entropy.object_id(*now);
            let object = if range == (0..row.size_bytes) {
                StoreObject::Whole { upload, account, put }
            } else {
                let size_bytes = row.size_bytes;
                StoreObject::Piece(Piece { group: upload, account, size_bytes, offset: at, chunk: put })
            };
            at = range.end;
            extents.push(Extent { range, object });
        }
        extents
    }

    async fn store_merged(
        &self,
        share: ShareId,
        from: &Locator,
        plan: &[Extent],
        stored: &mut Vec<ObjectName>,
    ) -> Result<()> {
        for Extent { range, object } in plan {
            let name = ObjectName::new(share, *object);
            let bytes = open_segments(self.backend.clone(), share, from.segments(range.clone()));
            let result = self.backend.put(&name.key(), range.end - range.start, bytes).await;
            if matches!(result, Ok(()) | Err(BackendError::Unavailable(_))) {
                stored.push(name);
            }
            result.map_err(reading_failed)?;
        }
        Ok(())
    }
}

/// The bytes to store came from the backend itself: what failed to arrive is told as its own failure.
fn reading_failed(error: BackendError) -> StoreError {
    let BackendError::Source(source) = error else { return error.into() };
    let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<BackendError>());
    StoreError::Backend(match inner {
        Some(BackendError::NotFound(object)) => BackendError::NotFound(object.clone()),
        _ => BackendError::Unavailable(source),
    })
}

/// Chunks for the bytes that no row covers and some object of the upload holds. What several hold is taken of the first.
fn unrecorded(upload: &Upload, listed: &[(StoreObject, u64)]) -> Vec<Chunk> {
    let mut known = upload.chunks.clone();
    let mut fresh = Vec::new();
    for (object, length) in listed {
        let range = object.base_offset()..object.base_offset().saturating_add(*length);
        if range.end > upload.size_bytes {
            continue;
        }
        for part in bucket::split_write(&range, &known) {
            if let Part::New(range) = part {
                fresh.push(Chunk { range, object: *object, digest: None });
            }
        }
        known = [upload.chunks.as_slice(), &fresh].concat();
        known.sort_by_key(|chunk| chunk.range.start);
    }
    fresh.sort_by_key(|chunk| chunk.range.start);
    fresh
}
