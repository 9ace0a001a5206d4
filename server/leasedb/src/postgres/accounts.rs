//! Accounts and their credentials.

use leasehold_core::account::{Account, AccountState, Usage};
use leasehold_core::clock::Timestamp;
use leasehold_core::id::AccountId;
use leasehold_core::leasedb::{AccountChange, CreateOutcome, Credential, LeaseDbError, Result};
use leasehold_core::secret::SecretHash;
use tokio_postgres::Row;

use super::PgLeaseDb;
use super::load::{self, account_columns, get, now};
use super::sql::{Call, call, sql};
use super::tx::{Decided, Failure, Tx};
use crate::columns::{damaged, keep_days, state_number, unsigned};
use crate::plan::integer;

/// The credential's columns, then the account's.
macro_rules! credential_columns {
    () => {
        concat!("c.secret_hash, c.not_after, c.last_used_at, c.created_at, ", account_columns!())
    };
}

sql!(
    FIND_CREDENTIALS,
    [BYTEA_ARRAY],
    concat!(
        "-- find_credentials
    SELECT ",
        credential_columns!(),
        ",
      u.leased_bytes, u.leased_shares, u.reserved_bytes
    FROM account_credentials c
    JOIN accounts a USING (account_id)
    CROSS JOIN LATERAL (
      SELECT sum(leased_bytes)::bigint AS leased_bytes, sum(leased_shares)::bigint AS leased_shares,
        sum(reserved_bytes)::bigint AS reserved_bytes
      FROM account_usage
      WHERE account_id = a.account_id) u
    WHERE c.secret_hash = ANY($1)"
    )
);
sql!(
    LIST_CREDENTIALS,
    [INT4],
    concat!(
        "-- list_credentials
    SELECT ",
        credential_columns!(),
        "
    FROM account_credentials c
    JOIN accounts a USING (account_id)
    WHERE c.account_id = $1
    ORDER BY c.credential_id DESC"
    )
);
sql!(
    NOTE_USE,
    [BYTEA_ARRAY, INT8_ARRAY],
    "-- note_use
    UPDATE account_credentials c
    SET last_used_at = greatest(coalesce(c.last_used_at, 0), u.at)
    FROM unnest($1, $2) AS u (secret_hash, at)
    WHERE c.secret_hash = u.secret_hash"
);
sql!(
    ACCOUNTS_VERSION,
    [],
    "-- accounts_version
    SELECT accounts_version
    FROM deployment"
);
sql!(
    BUMP_ACCOUNTS_VERSION,
    [],
    "-- bump_accounts_version
    UPDATE deployment
    SET accounts_version = accounts_version + 1"
);
// The account with the rows of its counters; nothing where the name is taken.
sql!(
    CREATE_ACCOUNT,
    [TEXT, INT2, INT8, INT4, TEXT, INT8, INT4],
    "-- create_account
    WITH made AS (
      INSERT INTO accounts (name, state, quota_bytes, lease_days, message, created_at, keep_days)
      VALUES ($1, $2, $3, $4, $5, $6, $7)
      ON CONFLICT (name) WHERE state <> 3 DO NOTHING
      RETURNING account_id),
    counters AS (
      INSERT INTO account_usage (account_id, stripe)
      SELECT account_id, stripe
      FROM made, generate_series(0, 7) stripe)
    SELECT account_id
    FROM made"
);
sql!(
    ADD_CREDENTIAL,
    [BYTEA, INT4, INT8],
    "-- add_credential
    INSERT INTO account_credentials (secret_hash, account_id, created_at)
    VALUES ($1, $2, $3)"
);
sql!(
    FIND_ACCOUNT,
    [TEXT],
    concat!(
        "-- find_account
    SELECT ",
        account_columns!(),
        "
    FROM accounts a
    WHERE a.name = $1 AND a.state <> 3"
    )
);
sql!(
    LIST_ACCOUNTS,
    [INT8, INT8],
    concat!(
        "-- list_accounts
    SELECT ",
        account_columns!(),
        ",
      sum(u.leased_bytes)::bigint, sum(u.leased_shares)::bigint, sum(u.reserved_bytes)::bigint
    FROM accounts a
    LEFT JOIN account_usage u USING (account_id)
    WHERE a.account_id > $1 AND a.state <> 3
    GROUP BY a.account_id
    ORDER BY a.account_id
    LIMIT $2"
    )
);
sql!(
    USAGE,
    [INT4],
    "-- usage
    SELECT coalesce(sum(leased_bytes), 0)::bigint, coalesce(sum(leased_shares), 0)::bigint,
      coalesce(sum(reserved_bytes), 0)::bigint
    FROM account_usage
    WHERE account_id = $1"
);
sql!(
    LOCK_ACCOUNT,
    [INT4],
    concat!(
        "-- lock_account
    SELECT 0::bigint, ",
        now!(),
        ", ",
        account_columns!(),
        "
    FROM accounts a
    WHERE a.account_id = $1
    FOR UPDATE OF a"
    )
);
sql!(
    CHANGE_ACCOUNT,
    [INT4, INT2, INT8, INT4, TEXT, INT4, INT8],
    "-- change_account
    UPDATE accounts
    SET state = $2, quota_bytes = $3, lease_days = $4, message = $5, keep_days = $6,
      thawed_at = coalesce($7, thawed_at)
    WHERE account_id = $1"
);
sql!(
    RETIRE_CREDENTIALS,
    [INT4, INT8, INT8],
    "-- retire_credentials
    DELETE FROM account_credentials
    WHERE account_id = $1 AND ($2 <= 0 OR not_after <= $3 OR credential_id <> (
      SELECT max(credential_id) FROM account_credentials WHERE account_id = $1))"
);
sql!(
    LIMIT_CREDENTIAL,
    [INT4, INT8],
    "-- limit_credential
    UPDATE account_credentials
    SET not_after = least(coalesce(not_after, $2), $2)
    WHERE account_id = $1"
);
sql!(
    REVOKE_CREDENTIALS,
    [INT4],
    "-- revoke_credentials
    DELETE FROM account_credentials
    WHERE account_id = $1"
);
sql!(
    CLOSE_ACCOUNT,
    [INT4, INT2, INT8],
    "-- close_account
    UPDATE accounts
    SET state = $2, release_at = $3
    WHERE account_id = $1"
);
sql!(
    FIND_CLOSED_ACCOUNT,
    [INT4],
    concat!(
        "-- find_closed_account
    SELECT ",
        account_columns!(),
        "
    FROM accounts a
    WHERE a.account_id = $1 AND a.state = 3"
    )
);
sql!(
    REOPEN_ACCOUNT,
    [INT4, TEXT],
    "-- reopen_account
    UPDATE accounts
    SET name = $2, release_at = NULL
    WHERE account_id = $1"
);

fn number(account: AccountId) -> i32 {
    account.get() as i32
}

fn credential(row: &Row) -> Result<Credential> {
    Ok(Credential {
        hash: load::credential_hash(row, 0)?,
        not_after: get::<Option<i64>>(row, 1, "credential")?.map(Timestamp::from_seconds),
        last_used_at: get::<Option<i64>>(row, 2, "credential")?.map(Timestamp::from_seconds),
        created_at: Timestamp::from_seconds(get(row, 3, "credential")?),
        account: load::account(row, 4)?.ok_or_else(|| damaged("account"))?,
    })
}

fn usage(row: &Row, at: usize) -> Result<Usage> {
    let column = |at| Ok::<_, LeaseDbError>(unsigned(get::<Option<i64>>(row, at, "usage")?.unwrap_or_default()));
    Ok(Usage { used_bytes: column(at)?, shares: column(at + 1)?, reserved_bytes: column(at + 2)? })
}

/// The account, locked, unless it is closed; with the time.
async fn lock(tx: &mut Tx<'_>, account: AccountId) -> Result<Option<(Account, Timestamp)>, Failure> {
    let [rows] = tx.read([call!(LOCK_ACCOUNT, number(account))]).await?;
    let locked = locked(tx, &rows)?;
    Ok(locked.filter(|(account, _)| account.state != AccountState::Closed))
}

fn locked(tx: &Tx<'_>, rows: &[Row]) -> Result<Option<(Account, Timestamp)>, Failure> {
    let Some(row) = rows.first() else { return Ok(None) };
    let (_, now) = load::header(tx.db(), rows)?;
    Ok(load::account(row, 2)?.map(|account| (account, now)))
}

struct Create {
    name: String,
    change: AccountChange,
    hash: SecretHash,
    now: Timestamp,
}

async fn create(tx: &mut Tx<'_>, request: &Create) -> Decided<Option<AccountId>> {
    let Create { name, change, hash, now } = request;
    let quota = change.quota_bytes.flatten().map(integer).transpose()?;
    let state = state_number(change.state.unwrap_or_default());
    let days = change.lease_days.unwrap_or(31) as i32;
    let message = change.message.clone().unwrap_or_default();
    let keep = keep_days(change.keep_alive.unwrap_or_default());
    let made = call!(CREATE_ACCOUNT, name.clone(), state, quota, days, message, now.seconds(), keep);
    let [rows] = tx.read([made]).await?;
    let Some(row) = rows.first() else { return Ok((None, Vec::new())) };
    let id = load::account_number(row, 0)?;
    let credential = call!(ADD_CREDENTIAL, hash.as_bytes().to_vec(), number(id), now.seconds());
    Ok((Some(id), vec![credential, call!(BUMP_ACCOUNTS_VERSION)]))
}

async fn change_settings(tx: &mut Tx<'_>, (id, change): &(AccountId, AccountChange)) -> Decided<bool> {
    let Some((old, now)) = lock(tx, *id).await? else { return Ok((false, Vec::new())) };
    Ok((true, vec![settings(old, change, now)?, call!(BUMP_ACCOUNTS_VERSION)]))
}

/// Writes the account's settings with the change.
fn settings(old: Account, change: &AccountChange, now: Timestamp) -> Result<Call> {
    let quota = change.quota_bytes.unwrap_or(old.quota_bytes).map(integer).transpose()?;
    let state = state_number(change.state.unwrap_or(old.state));
    let days = change.lease_days.unwrap_or(old.lease_days) as i32;
    let message = change.message.clone().unwrap_or(old.message);
    let keep = keep_days(change.keep_alive.unwrap_or(old.keep_alive));
    let thawed_at = change.thaws(old.state).then_some(now.seconds());
    Ok(call!(CHANGE_ACCOUNT, number(old.id), state, quota, days, message, keep, thawed_at))
}

async fn rotate(tx: &mut Tx<'_>, (id, hash, overlap_seconds): (AccountId, SecretHash, i64)) -> Decided<bool> {
    let Some((_, now)) = lock(tx, id).await? else { return Ok((false, Vec::new())) };
    let now = now.seconds();
    let calls = vec![
        call!(RETIRE_CREDENTIALS, number(id), overlap_seconds, now),
        call!(LIMIT_CREDENTIAL, number(id), now + overlap_seconds),
        call!(ADD_CREDENTIAL, hash.as_bytes().to_vec(), number(id), now),
        call!(BUMP_ACCOUNTS_VERSION),
    ];
    Ok((true, calls))
}

async fn close(tx: &mut Tx<'_>, (id, release_seconds): (AccountId, Option<i64>)) -> Decided<bool> {
    if id < AccountId::FIRST_DECLARED {
        return Ok((false, Vec::new()));
    }
    let Some((_, now)) = lock(tx, id).await? else { return Ok((false, Vec::new())) };
    let release_at = release_seconds.map(|seconds| now.seconds() + seconds);
    let closed = state_number(AccountState::Closed);
    let calls = vec![
        call!(REVOKE_CREDENTIALS, number(id)),
        call!(CLOSE_ACCOUNT, number(id), closed, release_at),
        call!(BUMP_ACCOUNTS_VERSION),
    ];
    Ok((true, calls))
}

struct Reopen {
    id: AccountId,
    name: String,
    change: AccountChange,
    hash: SecretHash,
}

async fn reopen(tx: &mut Tx<'_>, request: &Reopen) -> Decided<bool> {
    let Reopen { id, name, change, hash } = request;
    let asked = [call!(LOCK_ACCOUNT, number(*id)), call!(FIND_ACCOUNT, name.clone())];
    let [rows, namesakes] = tx.read(asked).await?;
    let closed = locked(tx, &rows)?.filter(|(account, _)| account.state == AccountState::Closed);
    let Some((closed, now)) = closed.filter(|_| namesakes.is_empty()) else { return Ok((false, Vec::new())) };
    let opened = Account { state: AccountState::Active, ..closed };
    let calls = vec![
        call!(REOPEN_ACCOUNT, number(*id), name.clone()),
        settings(opened, change, now)?,
        call!(ADD_CREDENTIAL, hash.as_bytes().to_vec(), number(*id), now.seconds()),
        call!(BUMP_ACCOUNTS_VERSION),
    ];
    Ok((true, calls))
}

impl PgLeaseDb {
    pub(super) async fn find_all_credentials(&self, hashes: Vec<SecretHash>) -> Result<Vec<(Credential, Usage)>> {
        let hashes: Vec<Vec<u8>> = hashes.iter().map(|hash| hash.as_bytes().to_vec()).collect();
        let rows = self.query("find_credentials", call!(FIND_CREDENTIALS, hashes)).await?;
        rows.iter().map(|row| Ok((credential(row)?, usage(row, 12)?))).collect()
    }

    pub(super) async fn read_credentials(&self, account: AccountId) -> Result<Vec<Credential>> {
        let rows = self.query("list_credentials", call!(LIST_CREDENTIALS, number(account))).await?;
        rows.iter().map(credential).collect()
    }

    pub(super) async fn change_note_use(&self, uses: Vec<(SecretHash, Timestamp)>) -> Result<()> {
        let (hashes, times): (Vec<Vec<u8>>, Vec<i64>) =
            uses.into_iter().map(|(hash, at)| (hash.as_bytes().to_vec(), at.seconds())).unzip();
        self.query("note_use", call!(NOTE_USE, hashes, times)).await.map(drop)
    }

    pub(super) async fn read_accounts_version(&self) -> Result<u64> {
        let rows = self.query("accounts_version", call!(ACCOUNTS_VERSION)).await?;
        rows.first().map_or(Ok(0), |row| get::<i64>(row, 0, "version")).map(unsigned)
    }

    pub(super) async fn change_create_account(
        &self,
        name: String,
        change: AccountChange,
        hash: SecretHash,
    ) -> Result<CreateOutcome> {
        let now = self.read_now().await?;
        let request = Create { name, change, hash, now };
        let made = self.change("create_account", None, &request, |tx, request| Box::pin(create(tx, request))).await?;
        let name = request.name;
        if made.is_none() {
            return Ok(CreateOutcome::NameTaken);
        }
        let account = self.read_account(name.clone()).await?;
        account
            .map(CreateOutcome::Created)
            .ok_or_else(|| super::invalid(format!("account {name:?} was closed meanwhile")))
    }

    pub(super) async fn read_account(&self, name: String) -> Result<Option<Account>> {
        let rows = self.query("find_account", call!(FIND_ACCOUNT, name)).await?;
        Ok(rows.first().map(|row| load::account(row, 0)).transpose()?.flatten())
    }

    pub(super) async fn read_accounts(&self, after: Option<AccountId>, max: u32) -> Result<Vec<(Account, Usage)>> {
        let after = after.map_or(-1, |id| i64::from(id.get()));
        let rows = self.query("list_accounts", call!(LIST_ACCOUNTS, after, i64::from(max))).await?;
        let entry = |row: &Row| Ok((load::account(row, 0)?.ok_or_else(|| damaged("account"))?, usage(row, 8)?));
        rows.iter().map(entry).collect()
    }

    pub(super) async fn read_usage(&self, account: AccountId) -> Result<Usage> {
        let rows = self.query("usage", call!(USAGE, number(account))).await?;
        rows.first().map_or(Ok(Usage::default()), |row| usage(row, 0))
    }

    pub(super) async fn change_settings(&self, account: AccountId, change: AccountChange) -> Result<bool> {
        let request = (account, change);
        self.change("change_account", None, &request, |tx, request| Box::pin(change_settings(tx, request))).await
    }

    pub(super) async fn change_rotate(
        &self,
        account: AccountId,
        hash: SecretHash,
        overlap_seconds: i64,
    ) -> Result<bool> {
        let request = (account, hash, overlap_seconds);
        self.change("rotate_credential", None, &request, |tx, request| Box::pin(rotate(tx, *request))).await
    }

    pub(super) async fn change_close(&self, account: AccountId, release_seconds: Option<i64>) -> Result<bool> {
        let request = (account, release_seconds);
        self.change("close_account", None, &request, |tx, request| Box::pin(close(tx, *request))).await
    }

    pub(super) async fn read_closed_account(&self, account: AccountId) -> Result<Option<Account>> {
        let rows = self.query("find_closed_account", call!(FIND_CLOSED_ACCOUNT, number(account))).await?;
        Ok(rows.first().map(|row| load::account(row, 0)).transpose()?.flatten())
    }

    pub(super) async fn change_reopen(
        &self,
        id: AccountId,
        name: String,
        change: AccountChange,
        hash: SecretHash,
    ) -> Result<bool> {
        let request = Reopen { id, name, change, hash };
        self.change("reopen_account", None, &request, |tx, request| Box::pin(reopen(tx, request))).await
    }
}
