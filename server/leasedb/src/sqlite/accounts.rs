//! Accounts and their credentials.

use leasehold_core::account::{Account, AccountState, Usage};
use leasehold_core::clock::Timestamp;
use leasehold_core::id::AccountId;
use leasehold_core::leasedb::{AccountChange, CreateOutcome, Credential, Result};
use leasehold_core::secret::SecretHash;

use super::Tx;
use super::rows::account_of;
use crate::columns::{keep_days, state_number, unsigned};
use crate::plan::integer;

const CREDENTIAL_COLUMNS: &str = "c.secret_hash, c.not_after, c.last_used_at, c.created_at,
                   a.account_id, a.name, a.state, a.quota_bytes, a.lease_days, a.message, a.created_at, a.keep_days,
                   a.leased_bytes, a.leased_shares, a.reserved_bytes";

fn credential_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Credential> {
    Ok(Credential {
        hash: SecretHash::new(row.get(0)?),
        not_after: row.get::<_, Option<i64>>(1)?.map(Timestamp::from_seconds),
        last_used_at: row.get::<_, Option<i64>>(2)?.map(Timestamp::from_seconds),
        created_at: Timestamp::from_seconds(row.get(3)?),
        account: account_of(row, 4)?.0,
    })
}

impl Tx<'_> {
    pub(super) fn find_credentials(&self, hashes: &[SecretHash]) -> Result<Vec<(Credential, Usage)>> {
        let sql = format!(
            "-- find_credentials
            SELECT {CREDENTIAL_COLUMNS}
            FROM account_credentials c
            JOIN accounts a USING (account_id)
            WHERE c.secret_hash = ?1"
        );
        let mut found = Vec::with_capacity(hashes.len());
        for hash in hashes {
            let entry = |row: &rusqlite::Row<'_>| Ok((credential_of(row)?, account_of(row, 4)?.1));
            found.extend(self.query(&sql, [hash.as_bytes()], entry)?);
        }
        Ok(found)
    }

    pub(super) fn list_credentials(&self, account: AccountId) -> Result<Vec<Credential>> {
        let sql = format!(
            "-- list_credentials
            SELECT {CREDENTIAL_COLUMNS}
            FROM account_credentials c
            JOIN accounts a USING (account_id)
            WHERE c.account_id = ?1
            ORDER BY c.credential_id DESC"
        );
        self.query(&sql, [account.get()], credential_of)
    }

    pub(super) fn note_use(&self, uses: &[(SecretHash, Timestamp)]) -> Result<()> {
        let sql = "-- note_use
            UPDATE account_credentials
            SET last_used_at = max(coalesce(last_used_at, 0), ?2)
            WHERE secret_hash = ?1";
        for (hash, at) in uses {
            self.execute(sql, (hash.as_bytes(), at.seconds()))?;
        }
        Ok(())
    }

    pub(super) fn accounts_version(&self) -> Result<u64> {
        let sql = "-- accounts_version
            SELECT accounts_version
            FROM deployment";
        Ok(self.query(sql, [], |row| row.get(0))?.pop().map_or(0, unsigned))
    }

    fn bump_accounts_version(&self) -> Result<()> {
        let sql = "-- bump_accounts_version
            UPDATE deployment
            SET accounts_version = accounts_version + 1";
        self.execute(sql, []).map(drop)
    }

    pub(super) fn create_account(
        &self,
        name: &str,
        change: &AccountChange,
        credential: &SecretHash,
    ) -> Result<CreateOutcome> {
        if self.find_account(name)?.is_some() {
            return Ok(CreateOutcome::NameTaken);
        }
        let sql = "-- create_account
            INSERT INTO accounts (name, state, quota_bytes, lease_days, message, created_at, keep_days)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
            RETURNING account_id";
        let now = self.now_seconds();
        let quota = change.quota_bytes.flatten().map(integer).transpose()?;
        let state = state_number(change.state.unwrap_or_default());
        let message = change.message.clone().unwrap_or_default();
        let keep = keep_days(change.keep_alive.unwrap_or_default());
        let params = (name, state, quota, change.lease_days.unwrap_or(31), message, now, keep);
        let id = self.query(sql, params, |row| Ok(AccountId::new(row.get(0)?)))?.pop().unwrap_or(AccountId::STARTER);
        self.add_credential(id, credential)?;
        self.bump_accounts_version()?;
        Ok(CreateOutcome::Created(self.existing_account(id)?.0))
    }

    fn add_credential(&self, account: AccountId, credential: &SecretHash) -> Result<()> {
        let sql = "-- add_credential
            INSERT INTO account_credentials (secret_hash, account_id, created_at)
            VALUES (?1, ?2, ?3)";
        self.execute(sql, (credential.as_bytes(), account.get(), self.now_seconds())).map(drop)
    }

    pub(super) fn find_account(&self, name: &str) -> Result<Option<Account>> {
        let sql = "-- find_account
            SELECT account_id, name, state, quota_bytes, lease_days, message, created_at, keep_days,
                   leased_bytes, leased_shares, reserved_bytes
            FROM accounts
            WHERE name = ?1 AND state <> 3";
        Ok(self.query(sql, [name], |row| account_of(row, 0))?.pop().map(|(account, _)| account))
    }

    pub(super) fn list_accounts(&self, after: Option<AccountId>, max: u32) -> Result<Vec<(Account, Usage)>> {
        let sql = "-- list_accounts
            SELECT account_id, name, state, quota_bytes, lease_days, message, created_at, keep_days,
                   leased_bytes, leased_shares, reserved_bytes
            FROM accounts
            WHERE account_id > ?1 AND state <> 3
            ORDER BY account_id
            LIMIT ?2";
        let after = after.map_or(-1, |id| i64::from(id.get()));
        self.query(sql, (after, max), |row| account_of(row, 0))
    }

    pub(super) fn change_account(&self, account: AccountId, change: &AccountChange) -> Result<bool> {
        let Some((old, _)) = self.account(account)?.filter(|(old, _)| old.state != AccountState::Closed) else {
            return Ok(false);
        };
        let sql = "-- change_account
            UPDATE accounts
            SET state = ?2, quota_bytes = ?3, lease_days = ?4, message = ?5, keep_days = ?6,
                thawed_at = coalesce(?7, thawed_at)
            WHERE account_id = ?1";
        let quota = change.quota_bytes.unwrap_or(old.quota_bytes).map(integer).transpose()?;
        let state = state_number(change.state.unwrap_or(old.state));
        let message = change.message.clone().unwrap_or(old.message);
        let keep = keep_days(change.keep_alive.unwrap_or(old.keep_alive));
        let thawed_at = change.thaws(old.state).then(|| self.now_seconds());
        let days = change.lease_days.unwrap_or(old.lease_days);
        self.execute(sql, (account.get(), state, quota, days, message, keep, thawed_at))?;
        self.bump_accounts_version()?;
        Ok(true)
    }

    pub(super) fn rotate_credential(
        &self,
        account: AccountId,
        credential: &SecretHash,
        overlap_seconds: i64,
    ) -> Result<bool> {
        if self.account(account)?.is_none_or(|(account, _)| account.state == AccountState::Closed) {
            return Ok(false);
        }
        let retire = "-- retire_credentials
            DELETE FROM account_credentials
            WHERE account_id = ?1 AND (?2 <= 0 OR not_after <= ?3 OR credential_id <> (
              SELECT max(credential_id) FROM account_credentials WHERE account_id = ?1))";
        let now = self.now_seconds();
        self.execute(retire, (account.get(), overlap_seconds, now))?;
        let limit = "-- limit_credential
            UPDATE account_credentials
            SET not_after = min(coalesce(not_after, ?2), ?2)
            WHERE account_id = ?1";
        self.execute(limit, (account.get(), now + overlap_seconds))?;
        self.add_credential(account, credential)?;
        self.bump_accounts_version()?;
        Ok(true)
    }

    pub(super) fn close_account(&self, account: AccountId, release_seconds: Option<i64>) -> Result<bool> {
        let declared = account >= AccountId::FIRST_DECLARED;
        if !declared || self.account(account)?.is_none_or(|(account, _)| account.state == AccountState::Closed) {
            return Ok(false);
        }
        let revoke = "-- revoke_credentials
            DELETE FROM account_credentials
            WHERE account_id = ?1";
        self.execute(revoke, [account.get()])?;
        let close = "-- close_account
            UPDATE accounts
            SET state = ?2, release_at = ?3
            WHERE account_id = ?1";
        let release_at = release_seconds.map(|seconds| self.now_seconds() + seconds);
        self.execute(close, (account.get(), state_number(AccountState::Closed), release_at))?;
        self.bump_accounts_version()?;
        Ok(true)
    }

    pub(super) fn closed_account(&self, account: AccountId) -> Result<Option<Account>> {
        let found = self.account(account)?.map(|(account, _)| account);
        Ok(found.filter(|account| account.state == AccountState::Closed))
    }

    pub(super) fn reopen_account(
        &self,
        account: AccountId,
        name: &str,
        change: &AccountChange,
        credential: &SecretHash,
    ) -> Result<bool> {
        if self.closed_account(account)?.is_none() || self.find_account(name)?.is_some() {
            return Ok(false);
        }
        let reopen = "-- reopen_account
            UPDATE accounts
            SET name = ?2, state = ?3, release_at = NULL
            WHERE account_id = ?1";
        self.execute(reopen, (account.get(), name, state_number(AccountState::Active)))?;
        self.add_credential(account, credential)?;
        self.change_account(account, change)
    }
}
