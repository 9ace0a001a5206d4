//! What transactions and single reads load, as core's values.

use leasehold_core::account::{Account, Usage};
use leasehold_core::bucket::{Chunk, Upload};
use leasehold_core::chunk::ObjectName;
use leasehold_core::clock::Timestamp;
use leasehold_core::id::{AccountId, ObjectId, ShareId, ShareNumber, StorageIndex};
use leasehold_core::leasedb::{Epoch, LeaseDbError, Result, ShareRow, SlotToken};
use leasehold_core::locator::Locator;
use leasehold_core::secret::SecretHash;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::PgLeaseDb;
use super::sql::{Uuid, sql};
use crate::columns::{damaged, extent_of, keep_alive_of, kind_of, lease_of, share_state_of, state_of, unsigned};
use crate::plan::{Caller, Held, SlotRow, View};

/// The database's time in milliseconds. It stands still at the last beat where the clock was set back: what is young
/// must not look younger, what is due not later (`review.md` A13).
macro_rules! now {
    () => {
        "(SELECT greatest((extract(epoch FROM clock_timestamp()) * 1000)::bigint, b.beat_at * 1000) FROM beats b)"
    };
}
/// Epoch and time. Scalar queries, not joins: the planner knows that they yield one row, whatever it knows of the tables.
macro_rules! epoch_and_time {
    () => {
        concat!("(SELECT d.epoch FROM deployment d), ", now!())
    };
}
macro_rules! account_columns {
    () => {
        "a.account_id, a.name, a.state, a.quota_bytes, a.lease_days, a.message, a.created_at, a.keep_days"
    };
}
pub(super) use {account_columns, epoch_and_time, now};

sql!(
    NOW,
    [],
    concat!(
        "-- now
    SELECT ",
        now!()
    )
);
// The first row of a transaction for an account: epoch, time, account.
sql!(
    CALLER,
    [INT4],
    concat!(
        "-- caller
    SELECT ",
        epoch_and_time!(),
        ", ",
        account_columns!(),
        "
    FROM (SELECT 1) one
    LEFT JOIN accounts a ON a.account_id = $1"
    )
);
// Exact usage where there is a quota to keep: the rows stay locked, in one order, until the transaction ends.
sql!(
    LOCK_USAGE,
    [INT4],
    "-- lock_usage
    SELECT u.account_id, u.leased_bytes, u.leased_shares, u.reserved_bytes
    FROM account_usage u
    WHERE u.account_id = $1
      AND EXISTS (SELECT 1 FROM accounts a WHERE a.account_id = $1 AND a.quota_bytes IS NOT NULL)
    ORDER BY u.stripe
    FOR UPDATE OF u"
);
// Those of a slot's leaseholders too, since their counters may follow.
sql!(
    LOCK_USAGE_OF_SLOT,
    [INT4, UUID],
    "-- lock_usage_of_slot
    SELECT u.account_id, u.leased_bytes, u.leased_shares, u.reserved_bytes
    FROM account_usage u
    WHERE EXISTS (SELECT 1 FROM accounts a WHERE a.account_id = $1 AND a.quota_bytes IS NOT NULL)
      AND (u.account_id = $1 OR u.account_id IN (SELECT l.account_id FROM leases l WHERE l.si = $2))
    ORDER BY u.account_id, u.stripe
    FOR UPDATE OF u"
);
sql!(
    HELD_SHARES,
    [UUID, INT4],
    "-- held_shares
    SELECT s.shnum, s.kind, s.state, s.size_bytes, s.locator, l.renewed_at, l.expires_at
    FROM shares s
    LEFT JOIN leases l ON l.si = s.si AND l.shnum = s.shnum AND l.account_id = $2
    WHERE s.si = $1
    ORDER BY s.shnum"
);
sql!(
    UPLOADS,
    [UUID],
    "-- uploads
    SELECT shnum, upload_id, account_id, size_bytes, received_bytes, secret_hash, deadline
    FROM uploads
    WHERE si = $1"
);
sql!(
    OPEN_UPLOADS,
    [],
    "-- open_uploads
    SELECT count(*), coalesce(sum(size_bytes + 12), 0)::bigint
    FROM uploads"
);
sql!(
    RESERVED_BY_ALL,
    [],
    "-- reserved_by_all
    SELECT coalesce(sum(size_bytes + 12), 0)::bigint
    FROM uploads"
);
// The first row of a transaction for an upload: epoch, time, its account, the upload.
sql!(
    UPLOADER,
    [UUID, INT2],
    concat!(
        "-- uploader
    SELECT ",
        epoch_and_time!(),
        ", ",
        account_columns!(),
        ",
      u.shnum, u.upload_id, u.account_id, u.size_bytes, u.received_bytes, u.secret_hash, u.deadline
    FROM (SELECT 1) one
    LEFT JOIN uploads u ON u.si = $1 AND u.shnum = $2
    LEFT JOIN accounts a ON a.account_id = u.account_id"
    )
);
sql!(
    UPLOADER_SHARES,
    [UUID, INT2],
    "-- uploader_shares
    SELECT s.shnum, s.kind, s.state, s.size_bytes, s.locator, l.renewed_at, l.expires_at
    FROM shares s
    LEFT JOIN leases l ON l.si = s.si AND l.shnum = s.shnum
      AND l.account_id = (SELECT account_id FROM uploads WHERE si = $1 AND shnum = $2)
    WHERE s.si = $1
    ORDER BY s.shnum"
);
sql!(
    CHUNKS,
    [UUID, INT2],
    "-- chunks
    SELECT object, digest
    FROM upload_chunks
    WHERE si = $1 AND shnum = $2
    ORDER BY begin_off"
);
sql!(
    FIND_UPLOAD,
    [UUID, INT2],
    concat!(
        "-- find_upload
    SELECT ",
        epoch_and_time!(),
        ",
      u.shnum, u.upload_id, u.account_id, u.size_bytes, u.received_bytes, u.secret_hash, u.deadline,
      c.object, c.digest
    FROM (SELECT 1) one
    LEFT JOIN uploads u ON u.si = $1 AND u.shnum = $2
    LEFT JOIN upload_chunks c ON c.si = u.si AND c.shnum = u.shnum
    ORDER BY c.begin_off"
    )
);
sql!(
    LIST_SHARES,
    [UUID],
    "-- list_shares
    SELECT shnum, kind, state, size_bytes, locator
    FROM shares
    WHERE si = $1
    ORDER BY shnum"
);
sql!(
    LIST_NUMBERS,
    [UUID, INT2],
    "-- list_numbers
    SELECT shnum
    FROM shares
    WHERE si = $1 AND kind = $2 AND state = 1
    ORDER BY shnum"
);
sql!(
    FIND_SHARE,
    [UUID, INT2],
    "-- find_share
    SELECT shnum, kind, state, size_bytes, locator
    FROM shares
    WHERE si = $1 AND shnum = $2"
);
sql!(
    READ_SLOT,
    [UUID],
    concat!(
        "-- read_slot
    SELECT ",
        epoch_and_time!(),
        ", t.token, t.write_enabler_hash, (SELECT d.mode FROM deployment d),
      s.shnum, s.kind, s.state, s.size_bytes, s.locator
    FROM (SELECT 1) one
    LEFT JOIN slots t ON t.si = $1
    LEFT JOIN shares s ON s.si = $1
    ORDER BY s.shnum"
    )
);
sql!(
    SLOT,
    [UUID],
    "-- slot
    SELECT token, write_enabler_hash, marker
    FROM slots
    WHERE si = $1"
);
sql!(
    HOLDERS,
    [UUID],
    "-- holders
    SELECT shnum, account_id, renewed_at, expires_at
    FROM leases
    WHERE si = $1
    ORDER BY account_id"
);
sql!(
    GARBAGE_NAMES,
    [UUID, INT2],
    "-- garbage_names
    SELECT objects
    FROM garbage
    WHERE si = $1 AND shnum = $2"
);
sql!(
    LIST_LEASES,
    [UUID],
    "-- list_leases
    SELECT l.shnum, l.account_id, a.name, l.renewed_at, l.expires_at
    FROM leases l
    JOIN accounts a USING (account_id)
    WHERE l.si = $1
    ORDER BY l.shnum, l.account_id"
);
// One row for each stable share, with the account's lease on it if there is one; one without a share if there is none.
sql!(
    RENEWAL,
    [UUID, INT4],
    concat!(
        "-- renewal_without_write
    SELECT ",
        epoch_and_time!(),
        ", ",
        account_columns!(),
        ", s.shnum, l.renewed_at, l.expires_at
    FROM (SELECT 1) one
    LEFT JOIN accounts a ON a.account_id = $2
    LEFT JOIN shares s ON s.si = $1 AND s.state = 1
    LEFT JOIN leases l ON l.si = s.si AND l.shnum = s.shnum AND l.account_id = a.account_id"
    )
);
sql!(
    ADVISE,
    [UUID, INT2, INT2, INT4, TEXT, INT8],
    "-- advise
    INSERT INTO corruption_advisories (si, shnum, kind, account_id, reason, received_at)
    SELECT $1, $2, $3, $4, $5, extract(epoch FROM now())::bigint
    WHERE (SELECT count(*) FROM corruption_advisories WHERE si = $1 AND shnum = $2 AND verdict = 0) < $6"
);

/// A column, or an error that names what the row was to be.
pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, at: usize, what: &str) -> Result<T> {
    row.try_get(at).map_err(|_| damaged(what))
}

pub(super) fn share_number(number: i16) -> Result<ShareNumber> {
    u8::try_from(number).map(ShareNumber::new).map_err(|_| damaged("share number"))
}

pub(super) fn storage_index(row: &Row, at: usize) -> Result<StorageIndex> {
    Ok(StorageIndex::new(get::<Uuid>(row, at, "storage index")?.0))
}

pub(super) fn account_number(row: &Row, at: usize) -> Result<AccountId> {
    Ok(AccountId::new(get::<i32>(row, at, "account")? as u32))
}

fn hash(row: &Row, at: usize) -> Result<SecretHash> {
    let bytes: &[u8] = get(row, at, "hash")?;
    bytes.try_into().map(SecretHash::new).map_err(|_| damaged("hash"))
}

/// An account of `account_columns!`, beginning with column `at`; `None` where the join found none.
pub(super) fn account(row: &Row, at: usize) -> Result<Option<Account>> {
    if get::<Option<i32>>(row, at, "account")?.is_none() {
        return Ok(None);
    }
    Ok(Some(Account {
        id: account_number(row, at)?,
        name: get(row, at + 1, "account")?,
        state: state_of(get(row, at + 2, "account")?),
        quota_bytes: get::<Option<i64>>(row, at + 3, "account")?.map(unsigned),
        lease_days: get::<i32>(row, at + 4, "account")?.unsigned_abs(),
        message: get(row, at + 5, "account")?,
        created_at: Timestamp::from_seconds(get(row, at + 6, "account")?),
        keep_alive: keep_alive_of(get(row, at + 7, "account")?),
    }))
}

/// A share of `shnum, kind, state, size_bytes, locator`, beginning with column `at`.
pub(super) fn share(row: &Row, at: usize) -> Result<ShareRow> {
    Ok(ShareRow {
        number: share_number(get(row, at, "share")?)?,
        kind: kind_of(get(row, at + 1, "share")?),
        state: share_state_of(get(row, at + 2, "share")?),
        size_bytes: unsigned(get(row, at + 3, "share")?),
        locator: Locator::decode(get(row, at + 4, "locator")?).map_err(|_| damaged("locator"))?,
    })
}

pub(super) fn held(row: &Row) -> Result<Held> {
    let times: (Option<i64>, Option<i64>) = (get(row, 5, "lease")?, get(row, 6, "lease")?);
    let lease = times.0.zip(times.1).map(|(renewed_at, expires_at)| lease_of(renewed_at, expires_at));
    Ok(Held { row: share(row, 0)?, lease })
}

/// An upload of `shnum, upload_id, account_id, size_bytes, received_bytes, secret_hash, deadline`, beginning with
/// column `at`; `None` where the join found none.
pub(super) fn upload(row: &Row, at: usize, index: StorageIndex, epoch: Epoch) -> Result<Option<Upload>> {
    let Some(number) = get::<Option<i16>>(row, at, "upload")? else { return Ok(None) };
    Ok(Some(Upload {
        share: ShareId::new(index, share_number(number)?),
        id: ObjectId::new(get::<Uuid>(row, at + 1, "upload")?.0),
        account: account_number(row, at + 2)?,
        size_bytes: unsigned(get(row, at + 3, "upload")?),
        received_bytes: unsigned(get(row, at + 4, "upload")?),
        secret: hash(row, at + 5)?,
        deadline: Timestamp::from_seconds(get(row, at + 6, "upload")?),
        chunks: Vec::new(),
        epoch,
    }))
}

/// A chunk of `object, digest`, beginning with column `at`.
pub(super) fn chunk(row: &Row, at: usize) -> Result<Option<Chunk>> {
    let Some(object) = get::<Option<&[u8]>>(row, at, "chunk")? else { return Ok(None) };
    let extent = extent_of(object)?;
    let digest: Option<&[u8]> = get(row, at + 1, "chunk")?;
    let digest = digest.map(|bytes| bytes.try_into().map_err(|_| damaged("chunk"))).transpose()?;
    Ok(Some(Chunk { range: extent.range, object: extent.object, digest }))
}

pub(super) fn slot(row: &Row) -> Result<SlotRow> {
    let marker: Option<String> = get(row, 2, "slot")?;
    let marker = marker.map(|name| name.parse::<ObjectName>().map_err(|_| damaged("marker"))).transpose()?;
    Ok(SlotRow { token: SlotToken(get::<Uuid>(row, 0, "slot")?.0), write_enabler: hash(row, 1)?, marker })
}

pub(super) fn credential_hash(row: &Row, at: usize) -> Result<SecretHash> {
    hash(row, at)
}

/// Epoch and time, which begin the first row of most reads.
pub(super) fn header(db: &PgLeaseDb, rows: &[Row]) -> Result<(Epoch, Timestamp)> {
    let row = rows.first().ok_or_else(|| damaged("deployment"))?;
    let epoch = Epoch(unsigned(get(row, 0, "epoch")?));
    Ok((epoch, db.time(get(row, 1, "time")?)))
}

/// The view of a transaction from its first row, locked usage and shares.
pub(super) fn view(
    db: &PgLeaseDb,
    first: &[Row],
    usage: &[Row],
    shares: &[Row],
    account_id: AccountId,
) -> Result<View> {
    let (epoch, now) = header(db, first)?;
    let account = account(&first[0], 2)?;
    let account = account.ok_or_else(|| LeaseDbError::Invalid(format!("there is no account {account_id}")))?;
    let mut sum = Usage::default();
    for row in usage {
        if account_number(row, 0)? == account.id {
            sum.used_bytes += unsigned(get(row, 1, "usage")?);
            sum.shares += unsigned(get(row, 2, "usage")?);
            sum.reserved_bytes += unsigned(get(row, 3, "usage")?);
        }
    }
    let terms = db.terms().for_days(account.lease_days);
    let shares = shares.iter().map(held).collect::<Result<_>>()?;
    Ok(View { now, epoch, caller: Caller { account, usage: sum, terms }, shares })
}
