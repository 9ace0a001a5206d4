//! Leases that end, shares that nobody leases any more, and their way back.
//!
//! Whatever removes many rows at once tries the locks of their storage indexes and leaves out those that are taken: it
//! never waits for a client, and no client for it. What it removes it has read under the lock.

use std::collections::{BTreeSet, HashMap};

use leasehold_core::clock::Timestamp;
use leasehold_core::expiry::{
    Amount, ExpireLeases, ExpireOutcome, Holder, LeaseOnShare, LeasePage, RETIRE_AGE_SECONDS, RetireOutcome,
    RetireShares, Undo, Undone, UnleasedTotals,
};
use leasehold_core::id::{AccountId, ShareId, StorageIndex};
use leasehold_core::lease::DAY_SECONDS;
use leasehold_core::leasedb::{Epoch, Result, UNDO_SECONDS};
use leasehold_core::run::RunId;
use tokio_postgres::Row;

use super::PgLeaseDb;
use super::apply::{calls, si};
use super::load::{self, CALLER, UPLOADS, account_columns, get, now};
use super::sql::{Uuid, call, sql};
use super::tx::{Decided, Failure, Tx, lock_number};
use crate::columns::{damaged, kind_of, lease_of, mode_of, reason_of, share_state_of, unsigned};
use crate::plan::expiry::{self, Clearing, Grave, ShareSet, UndoView};
use crate::plan::{HeldBy, integer};
use crate::removed::Removed;

sql!(
    EXPIRY_TIME,
    [],
    concat!(
        "-- expiry_time
    SELECT ",
        now!(),
        ", (SELECT max(to_at) FROM losses)"
    )
);
// By two range scans and no join, whose plan nobody could foresee.
sql!(
    LEASE_PAGE,
    [UUID, INT2, INT4, INT8],
    "-- lease_page
    SELECT si, shnum, account_id, renewed_at, expires_at
    FROM leases
    WHERE si >= $1 AND (si, shnum, account_id) > ($1, $2, $3)
    ORDER BY si, shnum, account_id
    LIMIT $4"
);
sql!(
    SHARES_BETWEEN,
    [UUID, UUID],
    "-- shares_between
    SELECT si, shnum, kind, state, size_bytes
    FROM shares
    WHERE si BETWEEN $1 AND $2"
);
sql!(
    HOLDERS_BY_NUMBER,
    [INT4_ARRAY],
    concat!(
        "-- holders_by_number
    SELECT ",
        account_columns!(),
        ", a.thawed_at, a.release_at,
      (SELECT max(greatest(coalesce(c.last_used_at, 0), c.created_at))
       FROM account_credentials c
       WHERE c.account_id = a.account_id)
    FROM accounts a
    WHERE a.account_id = ANY($1)"
    )
);
// Whoever sets the mode waits for this transaction, and this one for whoever sets it (`review.md` B1).
sql!(
    CLEARING,
    [],
    concat!(
        "-- clearing
    SELECT d.epoch, ",
        now!(),
        ", d.mode, (SELECT max(to_at) FROM losses)
    FROM deployment d
    FOR SHARE OF d"
    )
);
sql!(
    TRY_LOCKS,
    [INT8_ARRAY],
    "-- try_locks
    SELECT pg_try_advisory_xact_lock(k.number)
    FROM unnest($1) WITH ORDINALITY AS k (number, at)
    ORDER BY k.at"
);
sql!(
    SHARES_OF,
    [UUID_ARRAY, UUID, UUID],
    "-- shares_of
    SELECT shnum, kind, state, size_bytes, locator, si, created_at
    FROM shares
    WHERE si = ANY($1) AND si BETWEEN $2 AND $3
    ORDER BY si, shnum"
);
sql!(
    LEASES_OF,
    [UUID_ARRAY, UUID, UUID],
    "-- leases_of
    SELECT shnum, account_id, renewed_at, expires_at, si
    FROM leases
    WHERE si = ANY($1) AND si BETWEEN $2 AND $3"
);
sql!(
    SLOTS_OF,
    [UUID_ARRAY, UUID, UUID],
    "-- slots_of
    SELECT token, write_enabler_hash, marker, si
    FROM slots
    WHERE si = ANY($1) AND si BETWEEN $2 AND $3"
);
sql!(
    PURGE_EXPIRED,
    [INT8, INT8],
    "-- purge_expired
    DELETE FROM expired_leases
    WHERE (run_id, si, shnum, account_id) IN (
      SELECT run_id, si, shnum, account_id
      FROM expired_leases
      WHERE removed_at < $1
      ORDER BY removed_at
      LIMIT $2
      FOR UPDATE SKIP LOCKED)
    RETURNING 1"
);
sql!(
    LIST_UNLEASED,
    [UUID, INT2, INT8, INT8],
    "-- list_unleased
    SELECT si, shnum
    FROM unleased
    WHERE (si, shnum) > ($1, $2) AND since <= $3
    ORDER BY si, shnum
    LIMIT $4"
);
sql!(
    UNLEASED_TOTALS,
    [INT8, INT8],
    "-- unleased_totals
    SELECT due.n, due.bytes, lately.n, lately.bytes, leased.n, leased.bytes
    FROM
      (SELECT count(*) AS n, coalesce(sum(s.size_bytes + CASE s.kind WHEN 0 THEN 12 ELSE 472 END), 0)::bigint AS bytes
       FROM unleased u
       JOIN shares s ON s.si = u.si AND s.shnum = u.shnum
       WHERE s.created_at <= $1 AND s.state = 1
         AND NOT EXISTS (SELECT 1 FROM leases l WHERE l.si = u.si AND l.shnum = u.shnum)) due,
      (SELECT count(*) AS n, coalesce(sum(bytes), 0)::bigint AS bytes
       FROM garbage
       WHERE reason = 1 AND not_before > $2) lately,
      (SELECT coalesce(sum(leased_shares), 0)::bigint AS n, coalesce(sum(leased_bytes), 0)::bigint AS bytes
       FROM account_usage) leased"
);
// Locked, so that nobody claims what comes back; claimed ones show that they are (`review.md` A7).
sql!(
    GRAVES,
    [UUID],
    "-- graves
    SELECT garbage_id, shnum, reason, attempts, undo
    FROM garbage
    WHERE si = $1 AND reason IN (1, 2)
    ORDER BY garbage_id
    FOR UPDATE"
);
sql!(
    EXPIRED_LEASES,
    [INT8, UUID],
    "-- expired_leases
    SELECT shnum, account_id, renewed_at, expires_at
    FROM expired_leases
    WHERE run_id = $1 AND si = $2
    ORDER BY shnum, account_id"
);
sql!(
    LIST_EXPIRED,
    [INT8, UUID, INT8],
    "-- list_expired
    SELECT DISTINCT si
    FROM expired_leases
    WHERE run_id = $1 AND ($2 IS NULL OR si > $2)
    ORDER BY si
    LIMIT $3"
);

const FIRST_INDEX: StorageIndex = StorageIndex::new([0; 16]);

fn time(row: &Row, at: usize) -> Result<Option<Timestamp>> {
    Ok(get::<Option<i64>>(row, at, "time")?.map(Timestamp::from_seconds))
}

fn share_id(row: &Row, index_at: usize, number_at: usize) -> Result<ShareId> {
    let number = load::share_number(get(row, number_at, "share")?)?;
    Ok(ShareId::new(load::storage_index(row, index_at)?, number))
}

/// Of `shnum, account_id, renewed_at, expires_at`.
pub(super) fn held_by(row: &Row) -> Result<HeldBy> {
    Ok(HeldBy {
        number: load::share_number(get(row, 0, "lease")?)?,
        account: load::account_number(row, 1)?,
        lease: lease_of(get(row, 2, "lease")?, get(row, 3, "lease")?),
    })
}

fn holders(db: &PgLeaseDb, rows: &[Row]) -> Result<HashMap<AccountId, Holder>> {
    let holder = |row: &Row| {
        let account = load::account(row, 0)?.ok_or_else(|| damaged("account"))?;
        let holder = Holder {
            duration_seconds: db.terms().for_days(account.lease_days).duration_seconds,
            name: account.name,
            state: account.state,
            keep_alive: account.keep_alive,
            thawed_at: time(row, 8)?,
            release_at: time(row, 9)?,
            last_used_at: time(row, 10)?,
        };
        Ok((account.id, holder))
    };
    rows.iter().map(holder).collect()
}

fn account_numbers(accounts: impl Iterator<Item = AccountId>) -> Vec<i32> {
    let distinct: BTreeSet<AccountId> = accounts.collect();
    distinct.into_iter().map(|account| account.get() as i32).collect()
}

/// What a transaction reads that removes things of these shares, as far as nobody else is changing them.
async fn clearing(
    tx: &mut Tx<'_>,
    shares: impl Iterator<Item = ShareId>,
    with_holders: bool,
) -> Result<Clearing, Failure> {
    let indexes: BTreeSet<StorageIndex> = shares.map(|share| share.storage_index).collect();
    let numbers: Vec<i64> = indexes.iter().map(|index| lock_number(*index)).collect();
    let [first, locks] = tx.read([call!(CLEARING), call!(TRY_LOCKS, numbers)]).await?;
    let (epoch, now): (Epoch, _) = load::header(tx.db(), &first)?;
    let (mode, last_loss) = (mode_of(get(&first[0], 2, "mode")?), time(&first[0], 3)?);
    let mut sets = Vec::new();
    for (index, row) in indexes.into_iter().zip(&locks) {
        if get(row, 0, "lock")? {
            sets.push(ShareSet { storage_index: index, shares: Vec::new(), leases: Vec::new(), slot: None });
        }
    }
    // Read by later statements than the locks: they see all that was committed under them.
    load_sets(tx, &mut sets).await?;
    let accounts = account_numbers(sets.iter().flat_map(|set| &set.leases).map(|held| held.account));
    let holders = if with_holders && !accounts.is_empty() {
        let [rows] = tx.read([call!(HOLDERS_BY_NUMBER, accounts)]).await?;
        holders(tx.db(), &rows)?
    } else {
        HashMap::new()
    };
    Ok(Clearing { now, epoch, mode, last_loss, sets, holders })
}

/// Fills sets, ascending by storage index, with what belongs to them.
async fn load_sets(tx: &mut Tx<'_>, sets: &mut [ShareSet]) -> Result<(), Failure> {
    let [Some(first), Some(last)] = [sets.first(), sets.last()].map(|set| set.map(|set| si(set.storage_index))) else {
        return Ok(());
    };
    let all: Vec<Uuid> = sets.iter().map(|set| si(set.storage_index)).collect();
    let reads = [
        call!(SHARES_OF, all.clone(), first, last),
        call!(LEASES_OF, all.clone(), first, last),
        call!(SLOTS_OF, all, first, last),
    ];
    let [shares, leases, slots] = tx.read(reads).await?;
    for row in &shares {
        let (share, made_at) = (load::share(row, 0)?, Timestamp::from_seconds(get(row, 6, "share")?));
        find(sets, row, 5)?.shares.push((share, made_at));
    }
    for row in &leases {
        find(sets, row, 4)?.leases.push(held_by(row)?);
    }
    for row in &slots {
        find(sets, row, 3)?.slot = Some(load::slot(row)?);
    }
    Ok(())
}

fn find<'s>(sets: &'s mut [ShareSet], row: &Row, at: usize) -> Result<&'s mut ShareSet> {
    let index = load::storage_index(row, at)?;
    let found = sets.binary_search_by_key(&index, |set| set.storage_index);
    found.ok().and_then(|at| sets.get_mut(at)).ok_or_else(|| damaged("storage index"))
}

async fn expire(tx: &mut Tx<'_>, request: &ExpireLeases) -> Decided<ExpireOutcome> {
    let view = clearing(tx, request.leases.iter().map(|lease| lease.share), true).await?;
    let (outcome, writes) = expiry::expire(&view, request)?;
    Ok((outcome, calls(writes)?))
}

async fn retire(tx: &mut Tx<'_>, request: &RetireShares) -> Decided<RetireOutcome> {
    let view = clearing(tx, request.shares.iter().copied(), false).await?;
    let (outcome, writes) = expiry::retire(&view, request)?;
    Ok((outcome, calls(writes)?))
}

async fn undo(tx: &mut Tx<'_>, request: &Undo) -> Decided<Undone> {
    let index = request.storage_index;
    // A run that is none has the number 0.
    let run = integer(request.run.map_or(0, |run| run.0))?;
    let reads = [
        call!(CALLER, AccountId::STARTER.get() as i32),
        call!(UPLOADS, si(index)),
        call!(GRAVES, si(index)),
        call!(EXPIRED_LEASES, run, si(index)),
    ];
    let [first, uploads, graves, expired] = tx.read(reads).await?;
    let (_, now) = load::header(tx.db(), &first)?;
    let starter = load::account(&first[0], 2)?.ok_or_else(|| damaged("starter account"))?;
    let mut set = [ShareSet { storage_index: index, shares: Vec::new(), leases: Vec::new(), slot: None }];
    load_sets(tx, &mut set).await?;
    let [set] = set;
    let view = UndoView {
        now,
        set,
        uploads: uploads.iter().map(|row| load::share_number(get(row, 0, "upload")?)).collect::<Result<_>>()?,
        graves: graves.iter().map(grave).collect::<Result<_>>()?,
        expired: expired.iter().map(held_by).collect::<Result<_>>()?,
        starter: tx.db().terms().for_days(starter.lease_days),
    };
    let (undone, writes) = expiry::undo(view, request)?;
    Ok((undone, calls(writes)?))
}

fn grave(row: &Row) -> Result<Grave> {
    Ok(Grave {
        id: get(row, 0, "garbage")?,
        number: load::share_number(get(row, 1, "garbage")?)?,
        reason: reason_of(get(row, 2, "garbage")?),
        claimed: get::<i32>(row, 3, "garbage")? > 0,
        removed: get::<Option<&[u8]>>(row, 4, "garbage")?.map(Removed::decode).transpose()?,
    })
}

impl PgLeaseDb {
    pub(super) async fn read_lease_page(&self, after: Option<LeaseOnShare>, max: u32) -> Result<LeasePage> {
        let rows = self.query("expiry_time", call!(EXPIRY_TIME)).await?;
        let row = rows.first().ok_or_else(|| damaged("time"))?;
        let (now, last_loss) = (self.time(get(row, 0, "time")?), time(row, 1)?);
        let (index, number, account) = after.map_or((FIRST_INDEX, -1, -1), |last| {
            (last.share.storage_index, i16::from(last.share.number.get()), last.account.get() as i32)
        });
        let rows = self.query("lease_page", call!(LEASE_PAGE, si(index), number, account, i64::from(max))).await?;
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            return Ok(LeasePage { now, last_loss, leases: Vec::new(), holders: HashMap::new() });
        };
        let between = [load::storage_index(first, 0)?, load::storage_index(last, 0)?].map(si);
        let found = self.query("shares_between", call!(SHARES_BETWEEN, between[0], between[1])).await?;
        let mut shares = HashMap::with_capacity(found.len());
        for row in &found {
            let (kind, state) = (kind_of(get(row, 2, "share")?), share_state_of(get(row, 3, "share")?));
            shares.insert(share_id(row, 0, 1)?, (kind, state, unsigned(get(row, 4, "share")?)));
        }
        let mut leases = Vec::with_capacity(rows.len());
        for row in &rows {
            let (share, account) = (share_id(row, 0, 1)?, load::account_number(row, 2)?);
            let lease = lease_of(get(row, 3, "lease")?, get(row, 4, "lease")?);
            // A share that went between the two scans took its leases along.
            let Some((kind, state, size_bytes)) = shares.get(&share).copied() else { continue };
            leases.push(LeaseOnShare { share, account, lease, kind, state, size_bytes });
        }
        let accounts = account_numbers(leases.iter().map(|lease| lease.account));
        let rows = self.query("holders_by_number", call!(HOLDERS_BY_NUMBER, accounts)).await?;
        let holders = holders(self, &rows)?;
        Ok(LeasePage { now, last_loss, leases, holders })
    }

    pub(super) async fn change_expire(&self, request: &ExpireLeases) -> Result<ExpireOutcome> {
        self.change("expire_leases", None, request, |tx, request| Box::pin(expire(tx, request))).await
    }

    pub(super) async fn change_purge_expired(&self, max: u32) -> Result<u64> {
        let before = self.read_now().await?.seconds() - UNDO_SECONDS;
        Ok(self.query("purge_expired", call!(PURGE_EXPIRED, before, i64::from(max))).await?.len() as u64)
    }

    pub(super) async fn read_unleased(
        &self,
        after: Option<ShareId>,
        until: Timestamp,
        max: u32,
    ) -> Result<Vec<ShareId>> {
        let (index, number) =
            after.map_or((FIRST_INDEX, -1), |share| (share.storage_index, i16::from(share.number.get())));
        let call = call!(LIST_UNLEASED, si(index), number, until.seconds(), i64::from(max));
        self.query("list_unleased", call).await?.iter().map(|row| share_id(row, 0, 1)).collect()
    }

    pub(super) async fn read_unleased_totals(&self) -> Result<UnleasedTotals> {
        let now = self.read_now().await?.seconds();
        let call = call!(UNLEASED_TOTALS, now - RETIRE_AGE_SECONDS, now + UNDO_SECONDS - DAY_SECONDS);
        let rows = self.query("unleased_totals", call).await?;
        let row = rows.first().ok_or_else(|| damaged("total"))?;
        let amount = |at| {
            Ok::<_, leasehold_core::leasedb::LeaseDbError>(Amount {
                count: unsigned(get(row, at, "total")?),
                bytes: unsigned(get(row, at + 1, "total")?),
            })
        };
        Ok(UnleasedTotals { due: amount(0)?, retired_lately: amount(2)?, leased: amount(4)? })
    }

    pub(super) async fn change_retire(&self, request: &RetireShares) -> Result<RetireOutcome> {
        self.change("retire_shares", None, request, |tx, request| Box::pin(retire(tx, request))).await
    }

    pub(super) async fn change_undo(&self, request: &Undo) -> Result<Undone> {
        let lock = Some(request.storage_index);
        self.change("undo", lock, request, |tx, request| Box::pin(undo(tx, request))).await
    }

    pub(super) async fn read_expired(
        &self,
        run: RunId,
        after: Option<StorageIndex>,
        max: u32,
    ) -> Result<Vec<StorageIndex>> {
        let call = call!(LIST_EXPIRED, integer(run.0)?, after.map(si), i64::from(max));
        self.query("list_expired", call).await?.iter().map(|row| load::storage_index(row, 0)).collect()
    }
}
