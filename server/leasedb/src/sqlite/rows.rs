//! Statements, and rows as core's values.

use leasehold_core::account::{Account, Usage};
use leasehold_core::bucket::{Chunk, Upload};
use leasehold_core::clock::Timestamp;
use leasehold_core::id::{AccountId, ObjectId, ShareId, ShareNumber, StorageIndex};
use leasehold_core::leasedb::{Epoch, LeaseDbError, Result, ShareRow, SlotToken};
use leasehold_core::locator::Locator;
use leasehold_core::secret::SecretHash;
use rusqlite::{CachedStatement, Row};

use super::{Tx, unavailable};
use crate::columns::{damaged, extent_of, keep_alive_of, kind_of, lease_of, share_state_of, state_of, unsigned};
use crate::plan::{Caller, Held, HeldBy, SlotRow, View};

/// An account of the columns `account_id, name, state, quota_bytes, lease_days, message, created_at, keep_days,
/// leased_bytes, leased_shares, reserved_bytes`, beginning with column `at`.
pub(super) fn account_of(row: &Row<'_>, at: usize) -> rusqlite::Result<(Account, Usage)> {
    let account = Account {
        id: AccountId::new(row.get(at)?),
        name: row.get(at + 1)?,
        state: state_of(row.get(at + 2)?),
        quota_bytes: row.get::<_, Option<i64>>(at + 3)?.map(unsigned),
        lease_days: row.get(at + 4)?,
        message: row.get(at + 5)?,
        created_at: Timestamp::from_seconds(row.get(at + 6)?),
        keep_alive: keep_alive_of(row.get(at + 7)?),
    };
    let usage = Usage {
        used_bytes: unsigned(row.get(at + 8)?),
        shares: unsigned(row.get(at + 9)?),
        reserved_bytes: unsigned(row.get(at + 10)?),
    };
    Ok((account, usage))
}

/// A share of the columns `shnum, kind, state, size_bytes, locator`; an error of ours where the locator is damaged.
pub(super) fn share_of(row: &Row<'_>) -> rusqlite::Result<Result<ShareRow>> {
    let (number, kind, state, size) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
    let locator = Locator::decode(row.get_ref(4)?.as_blob()?);
    Ok(locator.map_err(|_| damaged("locator")).map(|locator| ShareRow {
        number: ShareNumber::new(number),
        kind: kind_of(kind),
        state: share_state_of(state),
        size_bytes: unsigned(size),
        locator,
    }))
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

    pub(super) fn epoch(&self) -> Result<Epoch> {
        let sql = "-- epoch
            SELECT epoch
            FROM deployment";
        let epoch = self.query(sql, [], |row| row.get(0))?.pop().map(unsigned);
        epoch.map(Epoch).ok_or_else(|| damaged("deployment"))
    }

    pub(super) fn account(&self, account: AccountId) -> Result<Option<(Account, Usage)>> {
        let sql = "-- account
            SELECT account_id, name, state, quota_bytes, lease_days, message, created_at, keep_days,
                   leased_bytes, leased_shares, reserved_bytes
            FROM accounts
            WHERE account_id = ?1";
        Ok(self.query(sql, [account.get()], |row| account_of(row, 0))?.pop())
    }

    /// Like [`account`](Self::account), for an account that a session proves to exist.
    pub(super) fn existing_account(&self, account: AccountId) -> Result<(Account, Usage)> {
        self.account(account)?.ok_or_else(|| LeaseDbError::Invalid(format!("there is no account {account}")))
    }

    /// What a transaction for an account decides on.
    pub(super) fn view(&self, storage_index: StorageIndex, account: AccountId) -> Result<View> {
        let (account, usage) = self.existing_account(account)?;
        let sql = "-- held_shares
            SELECT s.shnum, s.kind, s.state, s.size_bytes, s.locator, l.renewed_at, l.expires_at
            FROM shares s
            LEFT JOIN leases l ON l.si = s.si AND l.shnum = s.shnum AND l.account_id = ?2
            WHERE s.si = ?1
            ORDER BY s.shnum";
        let held = |row: &Row<'_>| {
            let times: (Option<i64>, Option<i64>) = (row.get(5)?, row.get(6)?);
            let lease = times.0.zip(times.1).map(|(renewed_at, expires_at)| lease_of(renewed_at, expires_at));
            Ok(share_of(row)?.map(|row| Held { row, lease }))
        };
        let shares = self.query(sql, (storage_index.as_bytes(), account.id.get()), held)?;
        let shares = shares.into_iter().collect::<Result<_>>()?;
        let terms = self.terms.for_days(account.lease_days);
        Ok(View { now: self.now, epoch: self.epoch()?, caller: Caller { account, usage, terms }, shares })
    }

    pub(super) fn list_shares(&self, storage_index: StorageIndex) -> Result<Vec<ShareRow>> {
        let sql = "-- list_shares
            SELECT shnum, kind, state, size_bytes, locator
            FROM shares
            WHERE si = ?1
            ORDER BY shnum";
        self.query(sql, [storage_index.as_bytes()], share_of)?.into_iter().collect()
    }

    pub(super) fn find_share(&self, share: ShareId) -> Result<Option<ShareRow>> {
        let sql = "-- find_share
            SELECT shnum, kind, state, size_bytes, locator
            FROM shares
            WHERE si = ?1 AND shnum = ?2";
        let params = (share.storage_index.as_bytes(), share.number.get());
        self.query(sql, params, share_of)?.pop().transpose()
    }

    pub(super) fn slot_row(&self, storage_index: StorageIndex) -> Result<Option<SlotRow>> {
        let sql = "-- slot_row
            SELECT token, write_enabler_hash, marker
            FROM slots
            WHERE si = ?1";
        let row = self.query(sql, [storage_index.as_bytes()], |row| {
            Ok((SlotToken(row.get(0)?), SecretHash::new(row.get(1)?), row.get::<_, Option<String>>(2)?))
        })?;
        let Some((token, write_enabler, marker)) = row.into_iter().next() else { return Ok(None) };
        let marker = marker.map(|name| name.parse().map_err(|_| damaged("marker"))).transpose()?;
        Ok(Some(SlotRow { token, write_enabler, marker }))
    }

    /// Who leases which share of a storage index.
    pub(super) fn holders(&self, storage_index: StorageIndex) -> Result<Vec<HeldBy>> {
        let sql = "-- holders
            SELECT shnum, account_id, renewed_at, expires_at
            FROM leases
            WHERE si = ?1
            ORDER BY account_id";
        self.query(sql, [storage_index.as_bytes()], |row| {
            Ok(HeldBy {
                number: ShareNumber::new(row.get(0)?),
                account: AccountId::new(row.get(1)?),
                lease: lease_of(row.get(2)?, row.get(3)?),
            })
        })
    }

    /// The uploads in progress of a storage index, without their chunks.
    pub(super) fn uploads(&self, storage_index: StorageIndex) -> Result<Vec<Upload>> {
        let sql = "-- uploads
            SELECT shnum, upload_id, account_id, size_bytes, received_bytes, secret_hash, deadline
            FROM uploads
            WHERE si = ?1";
        let epoch = self.epoch()?;
        self.query(sql, [storage_index.as_bytes()], |row| {
            Ok(Upload {
                share: ShareId::new(storage_index, ShareNumber::new(row.get(0)?)),
                id: ObjectId::new(row.get(1)?),
                account: AccountId::new(row.get(2)?),
                size_bytes: unsigned(row.get(3)?),
                received_bytes: unsigned(row.get(4)?),
                secret: SecretHash::new(row.get(5)?),
                deadline: Timestamp::from_seconds(row.get(6)?),
                chunks: Vec::new(),
                epoch,
            })
        })
    }

    pub(super) fn chunks(&self, share: ShareId) -> Result<Vec<Chunk>> {
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
        let found = self.uploads(share.storage_index)?.into_iter().find(|upload| upload.share == share);
        let Some(upload) = found else { return Ok(None) };
        let chunks = if upload.received_bytes > 0 { self.chunks(share)? } else { Vec::new() };
        Ok(Some(Upload { chunks, ..upload }))
    }
}
