//! Shares that are coming: allocation, chunks, the step to a stable share, and the ways an upload ends.

use std::ops::Range;

use leasehold_core::account::{Account, Usage};
use leasehold_core::bucket::{self, Chunk, Upload};
use leasehold_core::chunk::{ObjectName, StoreObject};
use leasehold_core::clock::Timestamp;
use leasehold_core::id::{AccountId, ObjectId, ShareId, ShareNumber};
use leasehold_core::leasedb::{
    Allocate, AllocateOutcome, GarbageReason, LeaseDbError, RecordChunks, RecordOutcome, Result, ShareRow,
};
use leasehold_core::secret::SecretHash;
use leasehold_core::share::{ShareKind, ShareState};

use super::Tx;
use super::rows::{Leased, extent_of, integer, object_to_blob, unsigned};

/// Aborted uploads wait no longer than it takes requests in flight to end.
const ABORTED_GRACE_SECONDS: i64 = 60;

impl Tx<'_> {
    pub(super) fn allocate(&self, request: &Allocate) -> Result<AllocateOutcome> {
        let (account, mut usage) = self.existing_account(request.account)?;
        if !account.state.may_renew() {
            return Ok(AllocateOutcome::Refused(account.state));
        }
        let index = request.storage_index;
        let rows = self.list_shares(index)?;
        let mut already_have = Vec::new();
        let present = |row: &&ShareRow| row.state == ShareState::Stable && row.kind == ShareKind::Immutable;
        for share in rows.iter().filter(present) {
            if self.lease_share(index, share, &account, &mut usage)? != Leased::OverQuota {
                already_have.push(share.number);
            }
        }
        let mut allocated = Vec::new();
        // A storage index never gets shares of both kinds: the first kind stays (`gbs.md` 6.2).
        let is_slot = rows.iter().any(|row| row.kind == ShareKind::Mutable);
        if account.state.may_write() && !is_slot {
            let mut room = request.backend_available_bytes.saturating_sub(self.reserved_by_all()?);
            for (number, upload) in &request.shares {
                let finished = rows.iter().any(|row| row.number == *number && present(&row));
                if !finished && self.begin_upload(request, *number, *upload, &account, &mut usage, &mut room)? {
                    allocated.push(*number);
                }
            }
        }
        Ok(AllocateOutcome::Done { already_have, allocated })
    }

    fn reserved_by_all(&self) -> Result<u64> {
        let sql = "-- reserved_by_all
            SELECT coalesce(sum(reserved_bytes), 0)
            FROM accounts
            WHERE reserved_bytes > 0";
        Ok(self.query(sql, [], |row| row.get(0))?.pop().map_or(0, unsigned))
    }

    fn begin_upload(
        &self,
        request: &Allocate,
        number: ShareNumber,
        upload: ObjectId,
        account: &Account,
        usage: &mut Usage,
        room: &mut u64,
    ) -> Result<bool> {
        let share = ShareId::new(request.storage_index, number);
        if let Some(other) = self.upload_row(share)? {
            if other.deadline.seconds() > self.now_seconds() {
                return Ok(false);
            }
            // An overdue upload gives way at once (`review.md` D5).
            self.end_upload(share, other.id, &[], true)?;
            if other.account == account.id {
                let bytes = ShareKind::Immutable.charged_bytes(other.size_bytes);
                usage.reserved_bytes = usage.reserved_bytes.saturating_sub(bytes);
            }
        }
        let bytes = ShareKind::Immutable.charged_bytes(request.size_bytes);
        if bytes > usage.left(account.quota_bytes).min(*room) {
            return Ok(false);
        }
        let sql = "-- begin_upload
            INSERT INTO uploads (si, shnum, upload_id, account_id, size_bytes, secret_hash, created_at, deadline)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let now = self.now_seconds();
        let params = (
            share.storage_index.as_bytes(),
            number.get(),
            upload.as_bytes(),
            account.id.get(),
            integer(request.size_bytes)?,
            request.secret.as_bytes(),
            now,
            now + request.idle_seconds,
        );
        self.execute(sql, params)?;
        self.add_usage(account.id, 0, 0, integer(bytes)?)?;
        usage.reserved_bytes += bytes;
        *room = room.saturating_sub(bytes);
        Ok(true)
    }

    /// The upload without its chunks.
    fn upload_row(&self, share: ShareId) -> Result<Option<Upload>> {
        let sql = "-- upload_row
            SELECT upload_id, account_id, size_bytes, received_bytes, secret_hash, deadline
            FROM uploads
            WHERE si = ?1 AND shnum = ?2";
        let params = (share.storage_index.as_bytes(), share.number.get());
        let mut rows = self.query(sql, params, |row| {
            Ok(Upload {
                share,
                id: ObjectId::new(row.get(0)?),
                account: AccountId::new(row.get(1)?),
                size_bytes: unsigned(row.get(2)?),
                received_bytes: unsigned(row.get(3)?),
                secret: SecretHash::new(row.get(4)?),
                deadline: Timestamp::from_seconds(row.get(5)?),
                chunks: Vec::new(),
            })
        })?;
        Ok(rows.pop())
    }

    fn chunks(&self, share: ShareId) -> Result<Vec<Chunk>> {
        let sql = "-- chunks
            SELECT object, digest
            FROM upload_chunks
            WHERE si = ?1 AND shnum = ?2
            ORDER BY begin_off";
        let params = (share.storage_index.as_bytes(), share.number.get());
        let rows = self.query(sql, params, |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?)))?;
        let chunk = |(object, digest): (Vec<u8>, _)| {
            let extent = extent_of(&object)?;
            Ok(Chunk { range: extent.range, object: extent.object, digest })
        };
        rows.into_iter().map(chunk).collect()
    }

    pub(super) fn find_upload(&self, share: ShareId) -> Result<Option<Upload>> {
        let Some(upload) = self.upload_row(share)? else { return Ok(None) };
        Ok(Some(Upload { chunks: self.chunks(share)?, ..upload }))
    }

    pub(super) fn record_chunks(&self, request: &RecordChunks) -> Result<RecordOutcome> {
        let share = request.share;
        let Some(upload) = self.upload_row(share)?.filter(|upload| upload.id == request.upload) else {
            return Ok(RecordOutcome::Gone);
        };
        if upload.received_bytes != request.seen_received_bytes {
            return Ok(RecordOutcome::Stale);
        }
        for chunk in &request.chunks {
            self.check_fence(chunk.object.put_id())?;
        }
        let more: u64 = request.chunks.iter().map(|chunk| chunk.range.end - chunk.range.start).sum();
        let received = upload.received_bytes + more;
        if upload.received_bytes == 0 && received == upload.size_bytes {
            // The one write of most shares: its chunks need no rows of their own.
            return self.finish_upload(&upload, &request.chunks);
        }
        self.insert_chunks(request, received)?;
        let chunks = self.chunks(share)?;
        if received < upload.size_bytes {
            return Ok(RecordOutcome::Incomplete(bucket::missing(upload.size_bytes, &chunks)));
        }
        self.finish_upload(&upload, &chunks)
    }

    fn insert_chunks(&self, request: &RecordChunks, received: u64) -> Result<()> {
        let insert = "-- insert_chunk
            INSERT INTO upload_chunks (si, shnum, begin_off, end_off, object, digest)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let key = (request.share.storage_index.as_bytes(), request.share.number.get());
        for chunk in &request.chunks {
            let Range { start, end } = chunk.range;
            let object = object_to_blob(chunk.range.clone(), chunk.object)?;
            self.execute(insert, (key.0, key.1, integer(start)?, integer(end)?, object, chunk.digest))?;
        }
        let update = "-- record_received
            UPDATE uploads
            SET received_bytes = ?3, deadline = max(deadline, ?4)
            WHERE si = ?1 AND shnum = ?2";
        let deadline = self.now_seconds() + request.idle_seconds;
        self.execute(update, (key.0, key.1, integer(received)?, deadline)).map(drop)
    }

    /// Coming to stable: the share, its lease and the account's usage in this one transaction.
    fn finish_upload(&self, upload: &Upload, chunks: &[Chunk]) -> Result<RecordOutcome> {
        let share = upload.share;
        let locator = bucket::complete_locator(upload.size_bytes, chunks)
            .map_err(|_| LeaseDbError::Invalid(format!("the chunks of share {share} do not cover it")))?;
        self.forget_upload(upload)?;
        let (account, mut usage) = self.existing_account(upload.account)?;
        // The lease is never refused: the reservation that was just given back held the same room.
        let unlimited = Account { quota_bytes: None, ..account };
        let fresh = ShareRow {
            number: share.number,
            kind: ShareKind::Immutable,
            state: ShareState::Stable,
            size_bytes: upload.size_bytes,
            locator,
        };
        let rows = self.list_shares(share.storage_index)?;
        let is_slot = rows.iter().any(|row| row.kind == ShareKind::Mutable);
        let other = rows.into_iter().find(|row| row.number == share.number);
        let finished = other.as_ref().filter(|row| row.state == ShareState::Stable);
        if is_slot || finished.is_some() {
            let same = finished.filter(|row| !is_slot && row.size_bytes == upload.size_bytes);
            if let Some(row) = same {
                self.lease_share(share.storage_index, row, &unlimited, &mut usage)?;
            }
            let names = object_names(share, chunks);
            self.add_garbage(share, GarbageReason::Aborted, ABORTED_GRACE_SECONDS, &names)?;
            return Ok(RecordOutcome::Displaced { same: same.is_some() });
        }
        match other {
            Some(lost) => self.replace_lost(share, &lost, &fresh)?,
            None => self.insert_share(share, &fresh)?,
        }
        self.lease_share(share.storage_index, &fresh, &unlimited, &mut usage)?;
        Ok(RecordOutcome::Finished)
    }

    pub(super) fn insert_share(&self, share: ShareId, row: &ShareRow) -> Result<()> {
        let sql = "-- insert_share
            INSERT INTO shares (si, shnum, kind, state, size_bytes, locator, created_at)
            VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6)";
        let params = (
            share.storage_index.as_bytes(),
            share.number.get(),
            super::rows::kind_number(row.kind),
            integer(row.size_bytes)?,
            row.locator.encode(),
            self.now_seconds(),
        );
        self.execute(sql, params).map(drop)
    }

    /// A lost share that was uploaded again keeps its leases, which count again.
    fn replace_lost(&self, share: ShareId, lost: &ShareRow, fresh: &ShareRow) -> Result<()> {
        let names: Vec<ObjectName> =
            lost.locator.objects().into_iter().map(|object| ObjectName::new(share, object)).collect();
        self.add_garbage(share, GarbageReason::Superseded, ABORTED_GRACE_SECONDS, &names)?;
        self.update_share(share, fresh.size_bytes, &fresh.locator)?;
        let bytes = fresh.kind.charged_bytes(fresh.size_bytes);
        for holder in self.leaseholders(share)? {
            self.add_usage(holder, integer(bytes)?, 1, 0)?;
        }
        Ok(())
    }

    /// Deletes the upload's row, then its chunk rows, and gives its reservation back (`review.md` A12).
    fn forget_upload(&self, upload: &Upload) -> Result<()> {
        let key = (upload.share.storage_index.as_bytes(), upload.share.number.get());
        if upload.received_bytes > 0 {
            let chunks = "-- forget_chunks
                DELETE FROM upload_chunks
                WHERE si = ?1 AND shnum = ?2";
            self.execute(chunks, key)?;
        }
        let row = "-- forget_upload
            DELETE FROM uploads
            WHERE si = ?1 AND shnum = ?2";
        self.execute(row, key)?;
        let bytes = ShareKind::Immutable.charged_bytes(upload.size_bytes);
        self.add_usage(upload.account, 0, 0, -integer(bytes)?)
    }

    pub(super) fn end_upload(
        &self,
        share: ShareId,
        id: ObjectId,
        strays: &[StoreObject],
        overdue_only: bool,
    ) -> Result<bool> {
        let Some(upload) = self.find_upload(share)?.filter(|upload| upload.id == id) else { return Ok(false) };
        if overdue_only && upload.deadline.seconds() > self.now_seconds() {
            return Ok(false);
        }
        let mut names = object_names(share, &upload.chunks);
        names.extend(strays.iter().map(|object| ObjectName::new(share, *object)));
        names.sort_by_key(|name| *name.object.put_id().as_bytes());
        names.dedup();
        self.forget_upload(&upload)?;
        // A row even without names: it tells adoption that this upload was given up (`review.md` A11).
        self.add_garbage(share, GarbageReason::Aborted, ABORTED_GRACE_SECONDS, &names)?;
        Ok(true)
    }

    pub(super) fn overdue_uploads(&self, max: u32) -> Result<Vec<(ShareId, ObjectId)>> {
        let sql = "-- overdue_uploads
            SELECT si, shnum, upload_id
            FROM uploads
            WHERE deadline <= ?1
            ORDER BY deadline
            LIMIT ?2";
        self.query(sql, (self.now_seconds(), max), |row| {
            let index = leasehold_core::id::StorageIndex::new(row.get(0)?);
            Ok((ShareId::new(index, ShareNumber::new(row.get(1)?)), ObjectId::new(row.get(2)?)))
        })
    }

    /// Which of an upload's bytes some chunk row names; used by the look before garbage is deleted.
    pub(super) fn upload_objects(&self, share: ShareId) -> Result<Vec<StoreObject>> {
        Ok(self.chunks(share)?.into_iter().map(|chunk| chunk.object).collect())
    }
}

/// The distinct objects behind chunks: one object may stand behind several rows.
fn object_names(share: ShareId, chunks: &[Chunk]) -> Vec<ObjectName> {
    let mut seen = std::collections::HashSet::new();
    let objects = chunks.iter().map(|chunk| chunk.object).filter(|object| seen.insert(*object));
    objects.map(|object| ObjectName::new(share, object)).collect()
}
