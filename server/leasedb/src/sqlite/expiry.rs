//! Leases that end, shares that nobody leases any more, and their way back.

use std::collections::{BTreeSet, HashMap};

use leasehold_core::clock::Timestamp;
use leasehold_core::expiry::{
    Amount, ExpireLeases, ExpireOutcome, Holder, LeaseOnShare, LeasePage, RETIRE_AGE_SECONDS, RetireOutcome,
    RetireShares, Undo, Undone, UnleasedTotals,
};
use leasehold_core::id::{AccountId, ShareId, ShareNumber, StorageIndex};
use leasehold_core::lease::DAY_SECONDS;
use leasehold_core::leasedb::{Result, UNDO_SECONDS};
use leasehold_core::run::RunId;

use super::Tx;
use super::rows::{account_of, share_of};
use crate::columns::{kind_of, lease_of, reason_of, share_state_of, unsigned};
use crate::plan::expiry::{self, Clearing, Grave, ShareSet, UndoView};
use crate::plan::{HeldBy, integer};
use crate::removed::Removed;

impl Tx<'_> {
    pub(super) fn lease_page(&self, after: Option<LeaseOnShare>, max: u32) -> Result<LeasePage> {
        let sql = "-- lease_page
            SELECT l.si, l.shnum, l.account_id, l.renewed_at, l.expires_at, s.kind, s.state, s.size_bytes
            FROM leases l
            JOIN shares s ON s.si = l.si AND s.shnum = l.shnum
            WHERE (l.si, l.shnum, l.account_id) > (?1, ?2, ?3)
            ORDER BY l.si, l.shnum, l.account_id
            LIMIT ?4";
        let (index, number, account) = after.map_or(([0; 16], -1, -1), |last| {
            let share = last.share;
            (*share.storage_index.as_bytes(), i64::from(share.number.get()), i64::from(last.account.get()))
        });
        let leases = self.query(sql, (index, number, account, max), |row| {
            Ok(LeaseOnShare {
                share: ShareId::new(StorageIndex::new(row.get(0)?), ShareNumber::new(row.get(1)?)),
                account: AccountId::new(row.get(2)?),
                lease: lease_of(row.get(3)?, row.get(4)?),
                kind: kind_of(row.get(5)?),
                state: share_state_of(row.get(6)?),
                size_bytes: unsigned(row.get(7)?),
            })
        })?;
        let holders = self.holders_by_number(leases.iter().map(|lease| lease.account))?;
        Ok(LeasePage { now: self.now, last_loss: self.last_loss()?, leases, holders })
    }

    fn last_loss(&self) -> Result<Option<Timestamp>> {
        let sql = "-- last_loss
            SELECT max(to_at)
            FROM losses";
        let rows = self.query(sql, [], |row| row.get::<_, Option<i64>>(0))?;
        Ok(rows.into_iter().flatten().next().map(Timestamp::from_seconds))
    }

    fn holders_by_number(&self, accounts: impl Iterator<Item = AccountId>) -> Result<HashMap<AccountId, Holder>> {
        let distinct: BTreeSet<AccountId> = accounts.collect();
        let sql = "-- holders_by_number
            SELECT account_id, name, state, quota_bytes, lease_days, message, created_at, keep_days,
                   leased_bytes, leased_shares, reserved_bytes, thawed_at, release_at,
                   (SELECT max(max(coalesce(c.last_used_at, 0), c.created_at))
                    FROM account_credentials c
                    WHERE c.account_id = a.account_id)
            FROM accounts a
            WHERE account_id = ?1";
        let mut holders = HashMap::new();
        for number in distinct {
            let found = self.query(sql, [number.get()], |row| {
                let time = |at| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(at)?.map(Timestamp::from_seconds));
                let (account, _) = account_of(row, 0)?;
                Ok(Holder {
                    duration_seconds: self.terms.for_days(account.lease_days).duration_seconds,
                    name: account.name,
                    state: account.state,
                    keep_alive: account.keep_alive,
                    thawed_at: time(11)?,
                    release_at: time(12)?,
                    last_used_at: time(13)?,
                })
            })?;
            holders.extend(found.into_iter().map(|holder| (number, holder)));
        }
        Ok(holders)
    }

    fn share_set(&self, storage_index: StorageIndex) -> Result<ShareSet> {
        let sql = "-- share_set
            SELECT shnum, kind, state, size_bytes, locator, created_at
            FROM shares
            WHERE si = ?1
            ORDER BY shnum";
        let shares = self.query(sql, [storage_index.as_bytes()], |row| {
            let made_at = Timestamp::from_seconds(row.get(5)?);
            Ok(share_of(row)?.map(|share| (share, made_at)))
        })?;
        Ok(ShareSet {
            storage_index,
            shares: shares.into_iter().collect::<Result<_>>()?,
            leases: self.holders(storage_index)?,
            slot: self.slot_row(storage_index)?,
        })
    }

    /// The one writer has every storage index to itself.
    fn clearing(&self, shares: impl Iterator<Item = ShareId>, with_holders: bool) -> Result<Clearing> {
        let indexes: BTreeSet<StorageIndex> = shares.map(|share| share.storage_index).collect();
        let sets: Vec<ShareSet> = indexes.into_iter().map(|index| self.share_set(index)).collect::<Result<_>>()?;
        let accounts = sets.iter().filter(|_| with_holders).flat_map(|set| &set.leases).map(|held| held.account);
        let holders = self.holders_by_number(accounts)?;
        let deployment = self.deployment()?;
        let (epoch, mode) = (deployment.epoch, deployment.mode);
        Ok(Clearing { now: self.now, epoch, mode, last_loss: self.last_loss()?, sets, holders })
    }

    pub(super) fn expire_leases(&self, request: &ExpireLeases) -> Result<ExpireOutcome> {
        let view = self.clearing(request.leases.iter().map(|lease| lease.share), true)?;
        self.apply(expiry::expire(&view, request)?)
    }

    pub(super) fn purge_expired(&self, max: u32) -> Result<u64> {
        let sql = "-- purge_expired
            DELETE FROM expired_leases
            WHERE (run_id, si, shnum, account_id) IN (
              SELECT run_id, si, shnum, account_id
              FROM expired_leases
              WHERE removed_at < ?1
              ORDER BY removed_at
              LIMIT ?2)";
        Ok(self.execute(sql, (self.now_seconds() - UNDO_SECONDS, max))? as u64)
    }

    pub(super) fn list_unleased(&self, after: Option<ShareId>, until: Timestamp, max: u32) -> Result<Vec<ShareId>> {
        let sql = "-- list_unleased
            SELECT si, shnum
            FROM unleased
            WHERE (si, shnum) > (?1, ?2) AND since <= ?3
            ORDER BY si, shnum
            LIMIT ?4";
        let (index, number) =
            after.map_or(([0; 16], -1), |share| (*share.storage_index.as_bytes(), i64::from(share.number.get())));
        self.query(sql, (index, number, until.seconds(), max), |row| {
            Ok(ShareId::new(StorageIndex::new(row.get(0)?), ShareNumber::new(row.get(1)?)))
        })
    }

    pub(super) fn unleased_totals(&self) -> Result<UnleasedTotals> {
        let amount =
            |row: &rusqlite::Row<'_>| Ok(Amount { count: unsigned(row.get(0)?), bytes: unsigned(row.get(1)?) });
        let due = "-- unleased_due
            SELECT count(*), coalesce(sum(s.size_bytes + CASE s.kind WHEN 0 THEN 12 ELSE 472 END), 0)
            FROM unleased u
            JOIN shares s ON s.si = u.si AND s.shnum = u.shnum
            WHERE s.created_at <= ?1 AND s.state = 1
              AND NOT EXISTS (SELECT 1 FROM leases l WHERE l.si = u.si AND l.shnum = u.shnum)";
        let lately = "-- retired_lately
            SELECT count(*), coalesce(sum(bytes), 0)
            FROM garbage
            WHERE reason = 1 AND not_before > ?1";
        let leased = "-- leased_by_all
            SELECT coalesce(sum(leased_shares), 0), coalesce(sum(leased_bytes), 0)
            FROM accounts";
        let now = self.now_seconds();
        let one = |rows: Vec<Amount>| rows.into_iter().next().unwrap_or_default();
        Ok(UnleasedTotals {
            due: one(self.query(due, [now - RETIRE_AGE_SECONDS], amount)?),
            retired_lately: one(self.query(lately, [now + UNDO_SECONDS - DAY_SECONDS], amount)?),
            leased: one(self.query(leased, [], amount)?),
        })
    }

    pub(super) fn retire_shares(&self, request: &RetireShares) -> Result<RetireOutcome> {
        let view = self.clearing(request.shares.iter().copied(), false)?;
        self.apply(expiry::retire(&view, request)?)
    }

    pub(super) fn undo(&self, request: &Undo) -> Result<Undone> {
        let index = request.storage_index;
        let expired = match request.run {
            Some(run) => self.expired_leases(run, index)?,
            None => Vec::new(),
        };
        let starter = self.existing_account(AccountId::STARTER)?.0.lease_days;
        let view = UndoView {
            now: self.now,
            set: self.share_set(index)?,
            uploads: self.uploads(index)?.into_iter().map(|upload| upload.share.number).collect(),
            graves: self.graves(index)?,
            expired,
            starter: self.terms.for_days(starter),
        };
        self.apply(expiry::undo(view, request)?)
    }

    fn expired_leases(&self, run: RunId, index: StorageIndex) -> Result<Vec<HeldBy>> {
        let sql = "-- expired_leases
            SELECT shnum, account_id, renewed_at, expires_at
            FROM expired_leases
            WHERE run_id = ?1 AND si = ?2
            ORDER BY shnum, account_id";
        self.query(sql, (integer(run.0)?, index.as_bytes()), |row| {
            Ok(HeldBy {
                number: ShareNumber::new(row.get(0)?),
                account: AccountId::new(row.get(1)?),
                lease: lease_of(row.get(2)?, row.get(3)?),
            })
        })
    }

    fn graves(&self, index: StorageIndex) -> Result<Vec<Grave>> {
        let sql = "-- graves
            SELECT garbage_id, shnum, reason, attempts, undo
            FROM garbage
            WHERE si = ?1 AND reason IN (1, 2)
            ORDER BY garbage_id";
        let rows = self.query(sql, [index.as_bytes()], |row| {
            let removed = row.get::<_, Option<Vec<u8>>>(4)?.map(|bytes| Removed::decode(&bytes)).transpose();
            let (id, number, reason) = (row.get(0)?, ShareNumber::new(row.get(1)?), reason_of(row.get(2)?));
            let claimed = row.get::<_, i64>(3)? > 0;
            Ok(removed.map(|removed| Grave { id, number, reason, claimed, removed }))
        })?;
        rows.into_iter().collect()
    }

    pub(super) fn list_expired(&self, run: RunId, after: Option<StorageIndex>, max: u32) -> Result<Vec<StorageIndex>> {
        let sql = "-- list_expired
            SELECT DISTINCT si
            FROM expired_leases
            WHERE run_id = ?1 AND (?2 IS NULL OR si > ?2)
            ORDER BY si
            LIMIT ?3";
        let after = after.map(|index| *index.as_bytes());
        self.query(sql, (integer(run.0)?, after, max), |row| Ok(StorageIndex::new(row.get(0)?)))
    }
}
