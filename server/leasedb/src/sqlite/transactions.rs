//! Reads and transactions on storage indexes: load, decide by [`crate::plan`], apply.

use std::collections::{HashMap, HashSet};

use leasehold_core::chunk::{ObjectName, StoreObject};
use leasehold_core::clock::Timestamp;
use leasehold_core::expiry::Amount;
use leasehold_core::id::{AccountId, ObjectId, ShareId, ShareNumber, StorageIndex};
use leasehold_core::leasedb::{
    Advisory, Allocate, AllocateOutcome, CommitOutcome, CommitSlot, Deployment, LeaseRow, RecordChunks, RecordOutcome,
    Relocate, RenewOutcome, Result, SlotSnapshot,
};
use leasehold_core::share::{ShareKind, ShareState};
use leasehold_core::tub::TubConnection;
use rusqlite::Row;

use super::Tx;
use crate::columns::{kind_number, lease_of, names_of, unsigned};
use crate::plan::{self, Held, View, slots::SlotView, uploads::Recording};

/// How many open reports one share may have.
const ADVISORIES_MAX: i64 = 8;

impl Tx<'_> {
    pub(super) fn allocate(&self, request: &Allocate) -> Result<AllocateOutcome> {
        let view = self.view(request.storage_index, request.account)?;
        let uploads = self.uploads(request.storage_index)?;
        self.apply(plan::uploads::allocate(view, &uploads, self.reserved_by_all()?, request)?)
    }

    fn reserved_by_all(&self) -> Result<u64> {
        let sql = "-- reserved_by_all
            SELECT coalesce(sum(reserved_bytes), 0)
            FROM accounts
            WHERE reserved_bytes > 0";
        Ok(self.query(sql, [], |row| row.get(0))?.pop().map_or(0, unsigned))
    }

    pub(super) fn open_uploads(&self) -> Result<Amount> {
        let sql = "-- open_uploads
            SELECT count(*)
            FROM uploads";
        let count = self.query(sql, [], |row| row.get(0))?.pop().map_or(0, unsigned);
        Ok(Amount { count, bytes: self.reserved_by_all()? })
    }

    pub(super) fn record_chunks(&self, request: &RecordChunks) -> Result<RecordOutcome> {
        let share = request.share;
        let Some(upload) = self.find_upload(share)? else { return Ok(RecordOutcome::Gone) };
        let view = self.view(share.storage_index, upload.account)?;
        let garbage = if request.found { self.garbage_names(share)? } else { HashSet::new() };
        let holders = if has_lost(&view, share.number) { self.holders(share.storage_index)? } else { Vec::new() };
        let holders: Vec<_> =
            holders.iter().filter(|held| held.number == share.number).map(|held| held.account).collect();
        self.apply(plan::uploads::record(view, Recording { upload, garbage, holders: &holders }, request)?)
    }

    fn garbage_names(&self, share: ShareId) -> Result<HashSet<ObjectName>> {
        let sql = "-- garbage_names
            SELECT objects
            FROM garbage
            WHERE si = ?1 AND shnum = ?2";
        let params = (share.storage_index.as_bytes(), share.number.get());
        let mut names = HashSet::new();
        for text in self.query(sql, params, |row| row.get::<_, String>(0))? {
            names.extend(names_of(&text)?);
        }
        Ok(names)
    }

    pub(super) fn end_upload(
        &self,
        share: ShareId,
        id: ObjectId,
        strays: &[StoreObject],
        overdue_only: bool,
    ) -> Result<bool> {
        let Some(upload) = self.find_upload(share)?.filter(|upload| upload.id == id) else { return Ok(false) };
        self.apply(plan::uploads::end(&upload, self.now, strays, overdue_only)?)
    }

    pub(super) fn overdue_uploads(&self, max: u32) -> Result<Vec<(ShareId, ObjectId)>> {
        let sql = "-- overdue_uploads
            SELECT si, shnum, upload_id
            FROM uploads
            WHERE deadline <= ?1
            ORDER BY deadline
            LIMIT ?2";
        self.query(sql, (self.now_seconds(), max), upload_key)
    }

    pub(super) fn abandoned_uploads(&self, connection: &TubConnection, max: u32) -> Result<Vec<(ShareId, ObjectId)>> {
        let sql = "-- abandoned_uploads
            SELECT si, shnum, upload_id
            FROM uploads
            WHERE tub_id = ?1 AND connection_id <> ?2
            LIMIT ?3";
        self.query(sql, (connection.tub_id.0, connection.id, max), upload_key)
    }

    pub(super) fn list_numbers(&self, storage_index: StorageIndex, kind: ShareKind) -> Result<Vec<ShareNumber>> {
        let sql = "-- list_numbers
            SELECT shnum
            FROM shares
            WHERE si = ?1 AND kind = ?2 AND state = 1
            ORDER BY shnum";
        let params = (storage_index.as_bytes(), kind_number(kind));
        self.query(sql, params, |row| Ok(ShareNumber::new(row.get(0)?)))
    }

    pub(super) fn list_leases(&self, storage_index: StorageIndex) -> Result<Vec<LeaseRow>> {
        let sql = "-- list_leases
            SELECT l.shnum, l.account_id, a.name, l.renewed_at, l.expires_at
            FROM leases l
            JOIN accounts a USING (account_id)
            WHERE l.si = ?1
            ORDER BY l.shnum, l.account_id";
        self.query(sql, [storage_index.as_bytes()], |row| {
            Ok(LeaseRow {
                number: ShareNumber::new(row.get(0)?),
                account: AccountId::new(row.get(1)?),
                account_name: row.get(2)?,
                lease: lease_of(row.get(3)?, row.get(4)?),
            })
        })
    }

    /// The answer to a renewal that needs no write.
    pub(super) fn renewal_without_write(
        &self,
        storage_index: StorageIndex,
        account: AccountId,
    ) -> Result<Option<RenewOutcome>> {
        let (account, _) = self.existing_account(account)?;
        let sql = "-- renewal_without_write
            SELECT l.renewed_at, l.expires_at
            FROM shares s
            LEFT JOIN leases l ON l.si = s.si AND l.shnum = s.shnum AND l.account_id = ?2
            WHERE s.si = ?1 AND s.state = 1";
        let leases = self.query(sql, (storage_index.as_bytes(), account.id.get()), |row| {
            let times: (Option<i64>, Option<i64>) = (row.get(0)?, row.get(1)?);
            Ok(times.0.zip(times.1).map(|(renewed_at, expires_at)| lease_of(renewed_at, expires_at)))
        })?;
        Ok(plan::renewal_without_write(&account, self.terms.for_days(account.lease_days), self.now, &leases))
    }

    pub(super) fn renew_leases(&self, storage_index: StorageIndex, account: AccountId) -> Result<RenewOutcome> {
        self.apply(plan::renew(self.view(storage_index, account)?, storage_index)?)
    }

    pub(super) fn prolong_leases(
        &self,
        storage_index: StorageIndex,
        account: AccountId,
        ends: &[(ShareNumber, Timestamp)],
    ) -> Result<()> {
        self.apply(((), plan::prolong(&self.view(storage_index, account)?, storage_index, ends)))
    }

    pub(super) fn read_slot(&self, storage_index: StorageIndex) -> Result<SlotSnapshot> {
        let rows = self.list_shares(storage_index)?;
        let (shares, immutable): (Vec<_>, Vec<_>) = rows.into_iter().partition(|r| r.kind == ShareKind::Mutable);
        // A slot row without shares counts as no slot (`review.md` A8).
        let row = if shares.is_empty() { None } else { self.slot_row(storage_index)? };
        let slot = row.map(|row| (row.token, row.write_enabler));
        let Deployment { epoch, mode, .. } = self.deployment()?;
        let has_immutable = !immutable.is_empty();
        Ok(SlotSnapshot { now: self.now, slot, shares, has_immutable, epoch, mode })
    }

    pub(super) fn commit_slot(&self, request: &CommitSlot) -> Result<CommitOutcome> {
        let view = self.view(request.storage_index, request.account)?;
        let slot = self.slot_row(request.storage_index)?;
        let holders = self.holders(request.storage_index)?;
        self.apply(plan::slots::commit(SlotView { view, slot, holders }, request)?)
    }

    pub(super) fn discard_objects(&self, objects: Vec<ObjectName>) -> Result<()> {
        let mut by_index: HashMap<StorageIndex, Vec<ObjectName>> = HashMap::new();
        for name in objects {
            by_index.entry(name.share.storage_index).or_default().push(name);
        }
        for (index, names) in by_index {
            let named = self.named_objects(index)?;
            self.apply(((), plan::discard(index, self.now, &names, &named)))?;
        }
        Ok(())
    }

    pub(super) fn relocate(&self, request: &Relocate) -> Result<bool> {
        let row = self.find_share(request.share)?;
        self.apply(plan::relocate(request, row.as_ref(), self.now, self.epoch()?)?)
    }

    pub(super) fn advise(&self, advisory: &Advisory) -> Result<()> {
        let sql = "-- advise
            INSERT INTO corruption_advisories (si, shnum, kind, account_id, reason, received_at)
            SELECT ?1, ?2, ?3, ?4, ?5, ?6
            WHERE (SELECT count(*) FROM corruption_advisories WHERE si = ?1 AND shnum = ?2 AND verdict = 0) < ?7";
        let share = &advisory.share;
        let params = (
            share.storage_index.as_bytes(),
            share.number.get(),
            kind_number(advisory.kind),
            advisory.account.get(),
            &advisory.reason,
            self.now_seconds(),
            ADVISORIES_MAX,
        );
        self.execute(sql, params).map(drop)
    }
}

/// Share and id of an upload of `si, shnum, upload_id`.
fn upload_key(row: &Row<'_>) -> rusqlite::Result<(ShareId, ObjectId)> {
    let index = StorageIndex::new(row.get(0)?);
    Ok((ShareId::new(index, ShareNumber::new(row.get(1)?)), ObjectId::new(row.get(2)?)))
}

fn has_lost(view: &View, number: ShareNumber) -> bool {
    let lost = |held: &Held| held.row.number == number && held.row.state != ShareState::Stable;
    view.shares.iter().any(lost)
}
