//! Mutable shares: the snapshot a write is built on, and the swap of the slot's token.

use leasehold_core::account::{Account, Usage};
use leasehold_core::chunk::ObjectName;
use leasehold_core::id::{AccountId, ShareId, StorageIndex};
use leasehold_core::leasedb::{
    CommitOutcome, CommitSlot, GarbageReason, Result, SUPERSEDED_GRACE_SECONDS, ShareRow, SlotChange, SlotSnapshot,
    SlotToken, UNDO_SECONDS,
};
use leasehold_core::locator::Locator;
use leasehold_core::secret::SecretHash;
use leasehold_core::share::{ShareKind, ShareState};

use super::Tx;
use super::rows::{counted, damaged, integer};

struct SlotRow {
    token: SlotToken,
    write_enabler: SecretHash,
    marker: Option<String>,
}

impl Tx<'_> {
    fn slot_row(&self, storage_index: StorageIndex) -> Result<Option<SlotRow>> {
        let sql = "-- slot_row
            SELECT token, write_enabler_hash, marker
            FROM slots
            WHERE si = ?1";
        let mut rows = self.query(sql, [storage_index.as_bytes()], |row| {
            Ok(SlotRow {
                token: SlotToken(row.get(0)?),
                write_enabler: SecretHash::new(row.get(1)?),
                marker: row.get(2)?,
            })
        })?;
        Ok(rows.pop())
    }

    pub(super) fn read_slot(&self, storage_index: StorageIndex) -> Result<SlotSnapshot> {
        Ok(self.read_slot_row(storage_index)?.0)
    }

    /// The slot, and the name of the object that holds only its manifest, if there is one.
    fn read_slot_row(&self, storage_index: StorageIndex) -> Result<(SlotSnapshot, Option<String>)> {
        let rows = self.list_shares(storage_index)?;
        let (shares, immutable): (Vec<_>, Vec<_>) = rows.into_iter().partition(|r| r.kind == ShareKind::Mutable);
        // A slot row without shares counts as no slot (`review.md` A8).
        let row = if shares.is_empty() { None } else { self.slot_row(storage_index)? };
        let slot = row.as_ref().map(|row| (row.token, row.write_enabler));
        let snapshot = SlotSnapshot { now: self.now, slot, shares, has_immutable: !immutable.is_empty() };
        Ok((snapshot, row.and_then(|row| row.marker)))
    }

    pub(super) fn commit_slot(&self, request: &CommitSlot) -> Result<CommitOutcome> {
        let (account, usage) = self.existing_account(request.account)?;
        if !account.state.may_write() {
            return Ok(CommitOutcome::Refused(account.state));
        }
        let (snapshot, old_marker) = self.read_slot_row(request.storage_index)?;
        if snapshot.has_immutable || snapshot.slot.as_ref().map(|(token, _)| *token) != request.base {
            return Ok(CommitOutcome::Conflict);
        }
        for object in &request.fresh {
            self.check_fence(object.put_id())?;
        }
        if self.exceeds_quota(request, &snapshot.shares, &account, usage)? {
            return Ok(CommitOutcome::OverQuota);
        }
        self.put_slot(request, old_marker.as_deref())?;
        let mut superseded = Vec::new();
        for (number, change) in &request.changes {
            let share = ShareId::new(request.storage_index, *number);
            let old = snapshot.shares.iter().find(|row| row.number == *number);
            match change {
                SlotChange::Put { size_bytes, locator } => {
                    superseded.extend(self.put_share(share, old, *size_bytes, locator, &account)?);
                }
                SlotChange::Remove => self.remove_share(share, old)?,
            }
        }
        if !request.fresh.is_empty()
            && let Some(marker) = old_marker
        {
            superseded.push(marker.parse().map_err(|_| damaged("marker"))?);
        }
        if let Some(first) = superseded.first() {
            self.add_garbage(first.share, GarbageReason::Superseded, SUPERSEDED_GRACE_SECONDS, &superseded)?;
        }
        if request.changes.iter().any(|(_, change)| matches!(change, SlotChange::Remove)) {
            self.end_slot_if_empty(request)?;
        }
        Ok(CommitOutcome::Done)
    }

    fn put_slot(&self, request: &CommitSlot, old_marker: Option<&str>) -> Result<()> {
        let marker = request.marker.map(|name| name.to_string());
        // A commit that stores nothing keeps the older manifest, which still tells the truth.
        let kept = if request.fresh.is_empty() { old_marker.map(str::to_owned) } else { None };
        let sql = "-- put_slot
            INSERT INTO slots (si, token, write_enabler_hash, marker)
            VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT (si) DO UPDATE
            SET token = excluded.token, write_enabler_hash = excluded.write_enabler_hash, marker = excluded.marker";
        let params =
            (request.storage_index.as_bytes(), request.token.0, request.write_enabler.as_bytes(), marker.or(kept));
        self.execute(sql, params).map(drop)
    }

    /// Whether the writer's own usage would grow beyond its quota. Others' may: their leases are on what is written.
    fn exceeds_quota(
        &self,
        request: &CommitSlot,
        shares: &[ShareRow],
        account: &Account,
        usage: Usage,
    ) -> Result<bool> {
        let (mut more, mut less) = (0u64, 0u64);
        for (number, change) in &request.changes {
            let old = shares.iter().find(|row| row.number == *number);
            if let Some(old) = old
                && self.find_lease(request.storage_index, *number, account.id)?.is_some()
            {
                less += counted(old);
            }
            if let SlotChange::Put { size_bytes, .. } = change {
                more = more.saturating_add(ShareKind::Mutable.charged_bytes(*size_bytes));
            }
        }
        Ok(more > less && more - less > usage.left(account.quota_bytes))
    }

    /// Puts new bytes under a share; returns the objects that nothing names any more.
    fn put_share(
        &self,
        share: ShareId,
        old: Option<&ShareRow>,
        size_bytes: u64,
        locator: &Locator,
        account: &Account,
    ) -> Result<Vec<ObjectName>> {
        let fresh = ShareRow {
            number: share.number,
            kind: ShareKind::Mutable,
            state: ShareState::Stable,
            size_bytes,
            locator: locator.clone(),
        };
        let mut superseded = Vec::new();
        match old {
            None => self.insert_share(share, &fresh)?,
            Some(old) => {
                self.update_share(share, size_bytes, locator)?;
                let bytes = integer(counted(&fresh))? - integer(counted(old))?;
                let shares = i64::from(old.state != ShareState::Stable);
                if bytes != 0 || shares != 0 {
                    for holder in self.leaseholders(share)? {
                        self.add_usage(holder, bytes, shares, 0)?;
                    }
                }
                let kept: std::collections::HashSet<_> = locator.objects().into_iter().collect();
                let gone = old.locator.objects().into_iter().filter(|object| !kept.contains(object));
                superseded.extend(gone.map(|object| ObjectName::new(share, object)));
            }
        }
        // The quota was looked at for the whole call, so that no order of its shares matters.
        let unlimited = Account { quota_bytes: None, ..account.clone() };
        self.lease_share(share.storage_index, &fresh, &unlimited, &mut Usage::default())?;
        Ok(superseded)
    }

    fn remove_share(&self, share: ShareId, old: Option<&ShareRow>) -> Result<()> {
        let Some(old) = old else { return Ok(()) };
        let bytes = integer(counted(old))?;
        let shares = i64::from(old.state == ShareState::Stable);
        for holder in self.leaseholders(share)? {
            self.add_usage(holder, -bytes, -shares, 0)?;
        }
        let key = (share.storage_index.as_bytes(), share.number.get());
        let leases = "-- remove_leases
            DELETE FROM leases
            WHERE si = ?1 AND shnum = ?2";
        self.execute(leases, key)?;
        let row = "-- remove_share
            DELETE FROM shares
            WHERE si = ?1 AND shnum = ?2";
        self.execute(row, key)?;
        let names: Vec<ObjectName> =
            old.locator.objects().into_iter().map(|object| ObjectName::new(share, object)).collect();
        self.add_garbage(share, GarbageReason::Removed, UNDO_SECONDS, &names)
    }

    /// A slot ends with its last share. Its last manifest says so, and outlives the objects it speaks of by a day.
    fn end_slot_if_empty(&self, request: &CommitSlot) -> Result<()> {
        if !self.list_numbers_any(request.storage_index)? {
            let sql = "-- end_slot
                DELETE FROM slots
                WHERE si = ?1";
            self.execute(sql, [request.storage_index.as_bytes()])?;
            if let Some(marker) = request.marker {
                self.add_garbage(marker.share, GarbageReason::Superseded, UNDO_SECONDS + 86_400, &[marker])?;
            }
        }
        Ok(())
    }

    fn list_numbers_any(&self, storage_index: StorageIndex) -> Result<bool> {
        let sql = "-- has_shares
            SELECT 1
            FROM shares
            WHERE si = ?1
            LIMIT 1";
        Ok(!self.query(sql, [storage_index.as_bytes()], |_| Ok(()))?.is_empty())
    }

    /// Stable from now on, with these bytes.
    pub(super) fn update_share(&self, share: ShareId, size_bytes: u64, locator: &Locator) -> Result<()> {
        let sql = "-- update_share
            UPDATE shares
            SET size_bytes = ?3, locator = ?4, state = 1
            WHERE si = ?1 AND shnum = ?2";
        let key = (share.storage_index.as_bytes(), share.number.get());
        self.execute(sql, (key.0, key.1, integer(size_bytes)?, locator.encode())).map(drop)
    }

    pub(super) fn leaseholders(&self, share: ShareId) -> Result<Vec<AccountId>> {
        let sql = "-- leaseholders
            SELECT account_id
            FROM leases
            WHERE si = ?1 AND shnum = ?2
            ORDER BY account_id";
        let key = (share.storage_index.as_bytes(), share.number.get());
        self.query(sql, key, |row| Ok(AccountId::new(row.get(0)?)))
    }

    pub(super) fn slot_marker(&self, storage_index: StorageIndex) -> Result<Option<String>> {
        Ok(self.slot_row(storage_index)?.and_then(|row| row.marker))
    }
}
