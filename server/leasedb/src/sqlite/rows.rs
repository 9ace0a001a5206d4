//! How core's values stand in columns, and the few statements that several transactions share.

use leasehold_core::account::{Account, AccountState, Usage};
use leasehold_core::chunk::StoreObject;
use leasehold_core::clock::Timestamp;
use leasehold_core::id::{AccountId, ObjectId, ShareNumber, StorageIndex};
use leasehold_core::lease::{Lease, LeaseTerms};
use leasehold_core::leasedb::{GarbageReason, LeaseDbError, NAME_FENCE_SECONDS, Result, ShareRow};
use leasehold_core::locator::{Extent, Locator};
use leasehold_core::share::{ShareKind, ShareState};
use rusqlite::{CachedStatement, Row};

use super::{Tx, unavailable};

pub(super) fn damaged(what: &str) -> LeaseDbError {
    LeaseDbError::Invalid(format!("a row holds a damaged {what}"))
}

/// SQLite integers are signed; every size we store is far below that.
pub(super) fn integer(value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| LeaseDbError::Invalid(format!("{value} is too large to store")))
}

pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

pub(super) const fn kind_number(kind: ShareKind) -> i64 {
    match kind {
        ShareKind::Immutable => 0,
        ShareKind::Mutable => 1,
    }
}

pub(super) const fn kind_of(number: i64) -> ShareKind {
    if number == 0 { ShareKind::Immutable } else { ShareKind::Mutable }
}

pub(super) const fn reason_number(reason: GarbageReason) -> i64 {
    match reason {
        GarbageReason::Unleased => 1,
        GarbageReason::Removed => 2,
        GarbageReason::Superseded => 3,
        GarbageReason::Aborted => 4,
        GarbageReason::Orphan => 5,
    }
}

pub(super) fn state_number(state: AccountState) -> i64 {
    AccountState::ALL.iter().position(|s| *s == state).map_or(0, |index| index as i64)
}

pub(super) fn state_of(number: i64) -> AccountState {
    let index = usize::try_from(number).unwrap_or_default();
    AccountState::ALL.get(index).copied().unwrap_or(AccountState::Suspended)
}

/// An account of the columns `account_id, name, state, quota_bytes, lease_days, message, created_at, leased_bytes,
/// leased_shares, reserved_bytes`, beginning with column `at`.
pub(super) fn account_of(row: &Row<'_>, at: usize) -> rusqlite::Result<(Account, Usage)> {
    let account = Account {
        id: AccountId::new(row.get(at)?),
        name: row.get(at + 1)?,
        state: state_of(row.get(at + 2)?),
        quota_bytes: row.get::<_, Option<i64>>(at + 3)?.map(unsigned),
        lease_days: row.get(at + 4)?,
        message: row.get(at + 5)?,
        created_at: Timestamp::from_seconds(row.get(at + 6)?),
    };
    let usage = Usage {
        used_bytes: unsigned(row.get(at + 7)?),
        shares: unsigned(row.get(at + 8)?),
        reserved_bytes: unsigned(row.get(at + 9)?),
    };
    Ok((account, usage))
}

/// A share of the columns `shnum, kind, state, size_bytes, locator`.
pub(super) fn share_of(row: &Row<'_>) -> rusqlite::Result<(ShareRow, bool)> {
    let locator = Locator::decode(row.get_ref(4)?.as_blob()?);
    let share = ShareRow {
        number: ShareNumber::new(row.get(0)?),
        kind: kind_of(row.get(1)?),
        state: if row.get::<_, i64>(2)? == 1 { ShareState::Stable } else { ShareState::Lost },
        size_bytes: unsigned(row.get(3)?),
        locator: locator.clone().unwrap_or_default(),
    };
    Ok((share, locator.is_ok()))
}

pub(super) fn lease_of(renewed_at: i64, expires_at: i64) -> Lease {
    Lease { renewed_at: Timestamp::from_seconds(renewed_at), expires_at: Timestamp::from_seconds(expires_at) }
}

pub(super) fn object_to_blob(range: std::ops::Range<u64>, object: StoreObject) -> Result<Vec<u8>> {
    let locator = Locator::new(vec![Extent { range, object }]).map_err(|_| damaged("chunk"))?;
    Ok(locator.encode())
}

pub(super) fn extent_of(blob: &[u8]) -> Result<Extent> {
    let locator = Locator::decode(blob).map_err(|_| damaged("chunk"))?;
    locator.extents().first().cloned().ok_or_else(|| damaged("chunk"))
}

/// A share's part in its leaseholders' usage, in bytes: lost shares are not charged.
pub(super) fn counted(row: &ShareRow) -> u64 {
    match row.state {
        ShareState::Stable => row.kind.charged_bytes(row.size_bytes),
        ShareState::Lost | ShareState::Coming | ShareState::Going => 0,
    }
}

/// What becomes of a request for a lease.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Leased {
    Held,
    Added,
    OverQuota,
}

impl Tx<'_> {
    pub(super) fn prepare(&self, sql: &str) -> Result<CachedStatement<'_>> {
        self.connection.prepare_cached(sql).map_err(unavailable)
    }

    pub(super) fn execute(&self, sql: &str, params: impl rusqlite::Params) -> Result<usize> {
        self.prepare(sql)?.execute(params).map_err(unavailable)
    }

    /// Runs a statement and turns each row into a value.
    pub(super) fn query<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        mut value: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let mut statement = self.prepare(sql)?;
        let mut rows = statement.query(params).map_err(unavailable)?;
        let mut values = Vec::new();
        while let Some(row) = rows.next().map_err(unavailable)? {
            values.push(value(row).map_err(unavailable)?);
        }
        Ok(values)
    }

    pub(super) fn now_seconds(&self) -> i64 {
        self.now.seconds()
    }

    /// Refuses an id that is too old to be put into a row: its writer may have slept (`review.md` A13).
    pub(super) fn check_fence(&self, id: ObjectId) -> Result<()> {
        if id.made_at().seconds() > self.now_seconds() - NAME_FENCE_SECONDS {
            return Ok(());
        }
        Err(LeaseDbError::Invalid("an object was stored too long ago to be named now".to_owned()))
    }

    pub(super) fn account(&self, account: AccountId) -> Result<Option<(Account, Usage)>> {
        let sql = "-- account
            SELECT account_id, name, state, quota_bytes, lease_days, message, created_at,
                   leased_bytes, leased_shares, reserved_bytes
            FROM accounts
            WHERE account_id = ?1";
        Ok(self.query(sql, [account.get()], |row| account_of(row, 0))?.pop())
    }

    /// Like [`account`](Self::account), for an account that a session proves to exist.
    pub(super) fn existing_account(&self, account: AccountId) -> Result<(Account, Usage)> {
        self.account(account)?.ok_or_else(|| LeaseDbError::Invalid(format!("there is no account {account}")))
    }

    pub(super) fn terms_of(&self, account: &Account) -> LeaseTerms {
        self.terms.for_days(account.lease_days)
    }

    pub(super) fn add_usage(&self, account: AccountId, bytes: i64, shares: i64, reserved: i64) -> Result<()> {
        let sql = "-- add_usage
            UPDATE accounts
            SET leased_bytes = leased_bytes + ?2, leased_shares = leased_shares + ?3, reserved_bytes = reserved_bytes + ?4
            WHERE account_id = ?1";
        self.execute(sql, (account.get(), bytes, shares, reserved)).map(drop)
    }

    pub(super) fn find_lease(
        &self,
        storage_index: StorageIndex,
        number: ShareNumber,
        account: AccountId,
    ) -> Result<Option<Lease>> {
        let sql = "-- find_lease
            SELECT renewed_at, expires_at
            FROM leases
            WHERE si = ?1 AND shnum = ?2 AND account_id = ?3";
        let params = (storage_index.as_bytes(), number.get(), account.get());
        Ok(self.query(sql, params, |row| Ok(lease_of(row.get(0)?, row.get(1)?)))?.pop())
    }

    pub(super) fn put_lease(
        &self,
        storage_index: StorageIndex,
        number: ShareNumber,
        account: AccountId,
        lease: Lease,
    ) -> Result<()> {
        let sql = "-- put_lease
            INSERT INTO leases (si, shnum, account_id, renewed_at, expires_at)
            VALUES (?1, ?2, ?3, ?4, ?5)
            ON CONFLICT (si, shnum, account_id) DO UPDATE
            SET renewed_at = max(renewed_at, excluded.renewed_at), expires_at = max(expires_at, excluded.expires_at)";
        let times = (lease.renewed_at.seconds(), lease.expires_at.seconds());
        self.execute(sql, (storage_index.as_bytes(), number.get(), account.get(), times.0, times.1)).map(drop)
    }

    /// Renews the account's lease on a stable share, or adds one if it fits; `usage` is kept up to date.
    pub(super) fn lease_share(
        &self,
        storage_index: StorageIndex,
        share: &ShareRow,
        account: &Account,
        usage: &mut Usage,
    ) -> Result<Leased> {
        let terms = self.terms_of(account);
        if let Some(lease) = self.find_lease(storage_index, share.number, account.id)? {
            if !terms.holds(lease, self.now) {
                self.put_lease(storage_index, share.number, account.id, terms.grant(self.now, Some(lease)))?;
            }
            return Ok(Leased::Held);
        }
        let bytes = counted(share);
        if bytes > usage.left(account.quota_bytes) {
            return Ok(Leased::OverQuota);
        }
        self.put_lease(storage_index, share.number, account.id, terms.grant(self.now, None))?;
        self.add_usage(account.id, integer(bytes)?, 1, 0)?;
        usage.used_bytes += bytes;
        usage.shares += 1;
        Ok(Leased::Added)
    }
}
