//! Comparing rows with the backend: what is read for it, its transaction, and the units of a run.

use leasehold_core::account::AccountState;
use leasehold_core::chunk::ObjectName;
use leasehold_core::clock::Timestamp;
use leasehold_core::crawl::unit::{ClaimUnitOutcome, FinishUnit, Prefix, UnitEnd};
use leasehold_core::crawl::{
    CYCLES_BEFORE_FORGETTING, Crawled, ForgetOutcome, RECOVERY_SECONDS_MIN, Settle, SettleOutcome, Spared, Survey,
    TakeOver,
};
use leasehold_core::id::{AccountId, ObjectId, ShareId, StorageIndex};
use leasehold_core::leasedb::{Epoch, Result, SlotToken};
use leasehold_core::run::{RunId, RunState, Totals};
use leasehold_core::share::ShareState;
use tokio_postgres::Row;

use super::PgLeaseDb;
use super::apply::{calls, shnum, si};
use super::expiry::held_by;
use super::load::{self, epoch_and_time, get, header, now};
use super::sql::{Call, Uuid, call, sql};
use super::tx::{Decided, Tx};
use crate::columns::{damaged, mode_of, names_of, reason_of, run_state_number, state_of, unsigned};
use crate::plan::settle::{Discarded, SettleView, accounts_of, forget, settle};
use crate::plan::{add_unit, integer};

use load::{HOLDERS, LIST_SHARES, SLOT};

sql!(
    SURVEY,
    [UUID],
    concat!(
        "-- survey
    SELECT ",
        epoch_and_time!(),
        ", (SELECT d.mode FROM deployment d),
      EXISTS (SELECT 1 FROM recovered r WHERE r.si = $1 AND r.epoch = (SELECT d.epoch FROM deployment d)),
      t.token, t.marker, s.shnum, s.kind, s.state, s.size_bytes, s.locator
    FROM (SELECT 1) one
    LEFT JOIN slots t ON t.si = $1
    LEFT JOIN shares s ON s.si = $1
    ORDER BY s.shnum"
    )
);
// Whoever sets the mode waits for this transaction, and this one for whoever sets it.
sql!(
    HOLD_MODE,
    [],
    concat!(
        "-- hold_mode
    SELECT ",
        epoch_and_time!(),
        ", d.epoch, d.mode, (SELECT min(l.from_at) FROM losses l WHERE l.epoch > d.settled_epoch)
    FROM deployment d
    FOR SHARE OF d"
    )
);
sql!(
    UPLOAD_IDS,
    [UUID_ARRAY],
    "-- upload_ids
    SELECT si, shnum, upload_id
    FROM uploads
    WHERE si = ANY($1)"
);
sql!(
    DISCARDED,
    [UUID],
    "-- discarded
    SELECT shnum, reason, done_at IS NOT NULL, upload_id, objects
    FROM garbage
    WHERE si = $1"
);
sql!(
    ACCOUNT_DAYS,
    [INT4_ARRAY],
    "-- account_days
    SELECT account_id, state, lease_days
    FROM accounts
    WHERE account_id = ANY($1)"
);
sql!(
    PAGE_SHARES,
    [UUID, INT2, UUID, INT8],
    "-- page_shares
    SELECT s.shnum, s.kind, s.state, s.size_bytes, s.locator, s.si, t.marker
    FROM shares s
    LEFT JOIN slots t ON t.si = s.si AND s.kind = 1
    WHERE (s.si, s.shnum) > ($1, $2) AND s.si <= $3
    ORDER BY s.si, s.shnum
    LIMIT $4"
);
sql!(
    SPARED_GARBAGE,
    [UUID_ARRAY],
    "-- spared_garbage
    SELECT objects
    FROM garbage
    WHERE si = ANY($1) AND done_at IS NULL"
);
// The run's row stays locked: its units are handed out and counted one after the other.
sql!(
    RUN_LIVES,
    [INT8, INT8],
    "-- run_lives
    UPDATE runs
    SET alive_at = $2
    WHERE run_id = $1 AND state = 0
    RETURNING totals"
);
sql!(
    COUNT_UNITS,
    [INT8],
    "-- count_units
    SELECT count(*), count(*) FILTER (WHERE state = 0), count(*) FILTER (WHERE state = 2), coalesce(max(reason), '')
    FROM crawl_units
    WHERE run_id = $1"
);
// The parts of the run before are everything, in sizes that have proven right.
sql!(
    UNITS_OF_LAST,
    [INT8],
    "-- units_of_last
    INSERT INTO crawl_units (run_id, prefix)
    SELECT $1, prefix
    FROM crawl_units
    WHERE run_id = (SELECT max(run_id) FROM crawl_units WHERE run_id < $1)
    RETURNING 1"
);
sql!(
    FORGET_UNITS,
    [INT8],
    "-- forget_units
    DELETE FROM crawl_units
    WHERE run_id < $1"
);
sql!(
    ADD_UNITS,
    [INT8, TEXT_ARRAY],
    "-- add_units
    INSERT INTO crawl_units (run_id, prefix)
    SELECT $1, unnest($2)"
);
sql!(
    CLAIM_UNIT,
    [INT8, UUID, INT8, INT8],
    "-- claim_unit
    UPDATE crawl_units
    SET worker = $2, claimed_until = $3 + $4
    WHERE run_id = $1 AND prefix = (
      SELECT prefix
      FROM crawl_units
      WHERE run_id = $1 AND state = 0 AND claimed_until <= $3
      ORDER BY prefix
      LIMIT 1
      FOR UPDATE SKIP LOCKED)
    RETURNING prefix"
);
sql!(
    KEEP_UNIT,
    [INT8, TEXT, UUID, INT8],
    "-- keep_unit
    UPDATE crawl_units
    SET claimed_until = $4
    WHERE run_id = $1 AND prefix = $2 AND worker = $3 AND state = 0
    RETURNING 1"
);
sql!(
    FINISH_UNIT,
    [INT8, TEXT, UUID, INT2, TEXT],
    "-- finish_unit
    UPDATE crawl_units
    SET state = $4, reason = $5
    WHERE run_id = $1 AND prefix = $2 AND worker = $3 AND state = 0
    RETURNING 1"
);
sql!(
    DROP_UNIT,
    [INT8, TEXT],
    "-- drop_unit
    DELETE FROM crawl_units
    WHERE run_id = $1 AND prefix = $2"
);
sql!(
    BRAKE_RUN,
    [INT8, INT2, INT8, TEXT],
    "-- brake_run
    UPDATE runs
    SET state = $2, finished_at = $3, reason = $4
    WHERE run_id = $1"
);
sql!(
    COUNT_UNIT,
    [INT8, TEXT],
    "-- count_unit
    UPDATE runs
    SET totals = $2
    WHERE run_id = $1"
);
sql!(
    FORGET_RECOVERED,
    [UUID, UUID],
    "-- forget_recovered
    DELETE FROM recovered
    WHERE si BETWEEN $1 AND $2 AND (SELECT mode FROM deployment) = 0"
);
sql!(
    END_RECOVERY,
    [INT8, INT8],
    "-- end_recovery
    UPDATE deployment
    SET surveyed_epoch = epoch
    WHERE mode = 1 AND epoch = $1
      AND (SELECT started_at FROM runs WHERE run_id = $2 AND state = 0 AND NOT dry_run)
        >= (SELECT coalesce(max(to_at), 0) FROM losses WHERE epoch = $1)
      AND EXISTS (SELECT 1 FROM crawl_units WHERE run_id = $2)
      AND NOT EXISTS (SELECT 1 FROM crawl_units WHERE run_id = $2 AND state <> 1)
    RETURNING 1"
);
// Recovery ends when everything was compared and no request of before can be obeyed any more.
sql!(
    LEAVE_RECOVERY,
    [INT8, INT8],
    "-- leave_recovery
    UPDATE deployment
    SET mode = 0, settled_epoch = epoch, complete_since = $1
    WHERE mode = 1 AND surveyed_epoch = epoch
      AND NOT EXISTS (SELECT 1 FROM losses l WHERE l.epoch = deployment.epoch AND l.to_at > $1 - $2)"
);
sql!(
    IS_NEW,
    [INT4],
    "-- is_new
    SELECT b.beat = 0 AND NOT EXISTS (SELECT 1 FROM shares) AND NOT EXISTS (SELECT 1 FROM uploads),
      NOT EXISTS (SELECT 1 FROM accounts WHERE account_id >= $1)
    FROM beats b
    FOR UPDATE OF b"
);
sql!(
    TAKE_OVER,
    [UUID, INT8],
    "-- take_over
    UPDATE deployment
    SET deployment_id = coalesce($1, deployment_id), epoch = $2, mode = 1"
);
sql!(
    SKIP_ACCOUNTS,
    [INT8],
    "-- skip_accounts
    SELECT setval(s.name, greatest($1, nextval(s.name)))
    FROM (SELECT pg_get_serial_sequence('accounts', 'account_id')::regclass AS name) s"
);
sql!(
    CYCLES_MISSED,
    [UUID, INT2],
    "-- cycles_missed
    SELECT count(*)
    FROM runs
    WHERE kind = 2 AND state = 1 AND NOT dry_run
      AND started_at > (SELECT lost_at FROM shares WHERE si = $1 AND shnum = $2)"
);

async fn settle_in(tx: &mut Tx<'_>, request: &Settle) -> Decided<SettleOutcome> {
    let index = si(request.storage_index);
    let accounts: Vec<i32> = accounts_of(request).into_iter().map(|account| account.get() as i32).collect();
    let reads = [
        call!(HOLD_MODE),
        call!(LIST_SHARES, index),
        call!(SLOT, index),
        call!(HOLDERS, index),
        call!(UPLOAD_IDS, vec![index]),
        call!(DISCARDED, index),
        call!(ACCOUNT_DAYS, accounts),
    ];
    let [first, shares, slot, holders, uploads, garbage, accounts] = tx.read(reads).await?;
    let (_, now) = header(tx.db(), &first)?;
    let known_until: Option<i64> = get(&first[0], 4, "losses")?;
    let view = SettleView {
        now,
        // Not as in the header: this is the row that is locked.
        epoch: Epoch(unsigned(get(&first[0], 2, "epoch")?)),
        mode: mode_of(get(&first[0], 3, "mode")?),
        known_until: known_until.map(Timestamp::from_seconds),
        shares: shares.iter().map(|row| load::share(row, 0)).collect::<Result<_>>()?,
        slot: slot.first().map(load::slot).transpose()?,
        holders: holders.iter().map(held_by).collect::<Result<_>>()?,
        uploads: uploads
            .iter()
            .map(upload_id)
            .map(|id| id.map(|(share, id)| (share.number, id)))
            .collect::<Result<_>>()?,
        garbage: garbage.iter().map(discarded).collect::<Result<_>>()?,
        accounts: accounts.iter().map(account_days).collect::<Result<_>>()?,
        terms: tx.db().terms(),
    };
    let (outcome, writes) = settle(view, request)?;
    Ok((outcome, calls(writes)?))
}

fn upload_id(row: &Row) -> Result<(ShareId, ObjectId)> {
    let share = ShareId::new(load::storage_index(row, 0)?, load::share_number(get(row, 1, "upload")?)?);
    Ok((share, ObjectId::new(get::<Uuid>(row, 2, "upload")?.0)))
}

fn discarded(row: &Row) -> Result<Discarded> {
    Ok(Discarded {
        number: load::share_number(get(row, 0, "garbage")?)?,
        reason: reason_of(get(row, 1, "garbage")?),
        done: get(row, 2, "garbage")?,
        upload: get::<Option<Uuid>>(row, 3, "garbage")?.map(|id| ObjectId::new(id.0)),
        objects: names_of(get(row, 4, "garbage")?)?,
    })
}

fn account_days(row: &Row) -> Result<(AccountId, AccountState, u32)> {
    let days = get::<i32>(row, 2, "account")?.unsigned_abs();
    Ok((load::account_number(row, 0)?, state_of(get(row, 1, "account")?), days))
}

/// A unit that somebody works on, and the database's time in seconds.
struct Claim {
    run: i64,
    worker: Uuid,
    now: i64,
    claim_seconds: i64,
}

fn totals_of(rows: &[Row]) -> Result<Option<Totals>> {
    let decode = |row: &Row| Totals::decode(get(row, 0, "run")?).map_err(|_| damaged("list of totals"));
    rows.first().map(decode).transpose()
}

async fn claim(tx: &mut Tx<'_>, &Claim { run, worker, now, claim_seconds }: &Claim) -> Decided<ClaimUnitOutcome> {
    let [lives, counts] = tx.read([call!(RUN_LIVES, run, now), call!(COUNT_UNITS, run)]).await?;
    let Some(totals) = totals_of(&lives)? else { return Ok((ClaimUnitOutcome::Ended, Vec::new())) };
    let row = counts.first().ok_or_else(|| damaged("count"))?;
    let (all, open, failed): (i64, i64, i64) = (get(row, 0, "count")?, get(row, 1, "count")?, get(row, 2, "count")?);
    // The sign of life is a write.
    let write = vec![call!(RUN_LIVES, run, now)];
    if all == 0 {
        let [parts, _] = tx.read([call!(UNITS_OF_LAST, run), call!(FORGET_UNITS, run)]).await?;
        if parts.is_empty() {
            let [_] = tx.read([call!(ADD_UNITS, run, vec![Prefix::default().to_string()])]).await?;
        }
    } else if open == 0 {
        return Ok((ClaimUnitOutcome::Finished(totals, failed.unsigned_abs(), get(row, 3, "reason")?), write));
    }
    let [claimed] = tx.read([call!(CLAIM_UNIT, run, worker, now, claim_seconds)]).await?;
    let outcome = match claimed.first() {
        Some(row) => {
            let prefix = get::<&str>(row, 0, "prefix")?.parse().map_err(|_| damaged("prefix"))?;
            ClaimUnitOutcome::Claimed(prefix, totals)
        }
        None => ClaimUnitOutcome::AllClaimed(totals),
    };
    Ok((outcome, write))
}

struct Finish {
    finish: FinishUnit,
    now: i64,
}

async fn finish_in(tx: &mut Tx<'_>, Finish { finish, now }: &Finish) -> Decided<bool> {
    let (run, prefix, worker) = (integer(finish.run.0)?, finish.unit.to_string(), Uuid(*finish.worker.as_bytes()));
    let (state, reason): (i16, &str) = match &finish.end {
        UnitEnd::Failed(reason) => (2, reason),
        UnitEnd::Done(_) | UnitEnd::Split | UnitEnd::Braked(_) => (1, ""),
    };
    // The run first: whoever finishes or claims units of it waits here.
    let [lives] = tx.read([call!(RUN_LIVES, run, *now)]).await?;
    let Some(mut totals) = totals_of(&lives)? else { return Ok((false, Vec::new())) };
    let [ended] = tx.read([call!(FINISH_UNIT, run, prefix.clone(), worker, state, reason.to_owned())]).await?;
    if ended.is_empty() {
        return Ok((false, Vec::new()));
    }
    add_unit(&mut totals, finish);
    let mut writes: Vec<Call> = vec![call!(COUNT_UNIT, run, totals.encode())];
    match &finish.end {
        UnitEnd::Done(_) => {
            let (first, last) = finish.unit.bounds();
            writes.push(call!(FORGET_RECOVERED, si(first), si(last)));
            writes.push(super::trouble::forget_damaged(run, first, last));
        }
        UnitEnd::Split => {
            let parts: Vec<String> = finish.unit.split().iter().map(Prefix::to_string).collect();
            writes.push(call!(DROP_UNIT, run, prefix));
            writes.push(call!(ADD_UNITS, run, parts));
        }
        UnitEnd::Braked(reason) => {
            writes.push(call!(BRAKE_RUN, run, run_state_number(RunState::Braked), *now, reason.clone()));
        }
        UnitEnd::Failed(_) => {}
    }
    Ok((true, writes))
}

struct Keep {
    claim: Claim,
    prefix: String,
}

async fn keep(tx: &mut Tx<'_>, Keep { claim, prefix }: &Keep) -> Decided<bool> {
    let until = claim.now + claim.claim_seconds;
    let reads =
        [call!(RUN_LIVES, claim.run, claim.now), call!(KEEP_UNIT, claim.run, prefix.clone(), claim.worker, until)];
    let [lives, kept] = tx.read(reads).await?;
    if lives.is_empty() || kept.is_empty() {
        return Ok((false, Vec::new()));
    }
    Ok((true, vec![call!(RUN_LIVES, claim.run, claim.now)]))
}

struct Begin {
    request: TakeOver,
    now: i64,
}

async fn take_over(tx: &mut Tx<'_>, Begin { request, now }: &Begin) -> Decided<bool> {
    let [rows] = tx.read([call!(IS_NEW, AccountId::FIRST_DECLARED.get() as i32)]).await?;
    let row = rows.first().ok_or_else(|| damaged("beat"))?;
    let (unused, without_accounts): (bool, bool) = (get(row, 0, "beat")?, get(row, 1, "account")?);
    if !unused || (request.deployment.is_some() && !without_accounts) {
        return Ok((false, Vec::new()));
    }
    let epoch = integer(request.epoch.0)?;
    let writes = vec![
        call!(TAKE_OVER, request.deployment.map(|id| Uuid(*id.as_bytes())), epoch),
        super::deployment::add_loss(epoch, 0, *now),
        call!(SKIP_ACCOUNTS, i64::from(request.accounts_after.get())),
    ];
    Ok((true, writes))
}

struct Forget {
    share: ShareId,
    token: SlotToken,
}

async fn forget_in(tx: &mut Tx<'_>, &Forget { share, token }: &Forget) -> Decided<ForgetOutcome> {
    let (index, number) = (si(share.storage_index), shnum(share));
    let reads = [call!(HOLD_MODE), call!(LIST_SHARES, index), call!(SLOT, index), call!(CYCLES_MISSED, index, number)];
    let [first, rows, slot, missed] = tx.read(reads).await?;
    let (_, now) = header(tx.db(), &first)?;
    let shares = rows.iter().map(|row| load::share(row, 0)).collect::<Result<Vec<_>>>()?;
    if !shares.iter().any(|row| row.number == share.number && row.state == ShareState::Lost) {
        return Ok((ForgetOutcome::NotLost, Vec::new()));
    }
    let missed = missed.first().map_or(Ok(0), |row| get::<i64>(row, 0, "count"))?;
    let missed = u32::try_from(missed).unwrap_or(u32::MAX);
    if missed < CYCLES_BEFORE_FORGETTING {
        return Ok((ForgetOutcome::TooEarly(CYCLES_BEFORE_FORGETTING - missed), Vec::new()));
    }
    let slot = slot.first().map(load::slot).transpose()?;
    Ok((ForgetOutcome::Forgotten, calls(forget(share, now, &shares, slot.as_ref(), token))?))
}

/// What a tick does beside counting a beat.
pub(super) fn leave_recovery(now: i64) -> Call {
    call!(LEAVE_RECOVERY, now, RECOVERY_SECONDS_MIN)
}

impl PgLeaseDb {
    pub(super) async fn read_survey(&self, index: StorageIndex) -> Result<Survey> {
        let rows = self.query("survey", call!(SURVEY, si(index))).await?;
        let (epoch, now) = header(self, &rows)?;
        let mut shares = Vec::new();
        for row in &rows {
            if get::<Option<i16>>(row, 6, "share")?.is_some() {
                shares.push(load::share(row, 6)?);
            }
        }
        let token: Option<Uuid> = get(&rows[0], 4, "slot")?;
        let marker: Option<&str> = get(&rows[0], 5, "slot")?;
        let marker = marker.map(|name| name.parse::<ObjectName>().map_err(|_| damaged("marker"))).transpose()?;
        let slot = token.map(|token| (SlotToken(token.0), marker));
        let (mode, settled) = (mode_of(get(&rows[0], 2, "mode")?), get(&rows[0], 3, "epoch")?);
        Ok(Survey { now, epoch, mode, settled, shares, slot })
    }

    pub(super) async fn change_settle(&self, request: &Settle) -> Result<SettleOutcome> {
        let lock = Some(request.storage_index);
        self.change("settle", lock, request, |tx, request| Box::pin(settle_in(tx, request))).await
    }

    pub(super) async fn read_page_shares(
        &self,
        unit: &Prefix,
        after: Option<ShareId>,
        max: u32,
    ) -> Result<Vec<Crawled>> {
        let (first, last) = unit.bounds();
        // Nothing is behind the last number of a storage index, and all of the first is behind -1.
        let (index, number) = after.map_or((first, -1), |share| (share.storage_index, shnum(share)));
        let call = call!(PAGE_SHARES, si(index), number, si(last), i64::from(max));
        let crawled = |row: &Row| {
            let (index, share) = (load::storage_index(row, 5)?, load::share(row, 0)?);
            let marker: Option<&str> = get(row, 6, "slot")?;
            let marker = marker.map(|name| name.parse().map_err(|_| damaged("marker"))).transpose()?;
            Ok(Crawled { share: ShareId::new(index, share.number), row: share, marker })
        };
        self.query("page_shares", call).await?.iter().map(crawled).collect()
    }

    pub(super) async fn read_spared(&self, indexes: &[StorageIndex]) -> Result<Spared> {
        let all: Vec<Uuid> = indexes.iter().map(|index| si(*index)).collect();
        let mut spared = Spared::default();
        for row in &self.query("upload_ids", call!(UPLOAD_IDS, all.clone())).await? {
            spared.uploads.insert(upload_id(row)?);
        }
        for row in &self.query("spared_garbage", call!(SPARED_GARBAGE, all)).await? {
            spared.garbage.extend(names_of(get(row, 0, "garbage")?)?);
        }
        Ok(spared)
    }

    async fn claim_of(&self, run: RunId, worker: ObjectId, claim_seconds: i64) -> Result<Claim> {
        let now = self.read_now().await?.seconds();
        Ok(Claim { run: integer(run.0)?, worker: Uuid(*worker.as_bytes()), now, claim_seconds })
    }

    pub(super) async fn change_claim_unit(
        &self,
        run: RunId,
        worker: ObjectId,
        seconds: i64,
    ) -> Result<ClaimUnitOutcome> {
        let request = self.claim_of(run, worker, seconds).await?;
        self.change("claim_unit", None, &request, |tx, request| Box::pin(claim(tx, request))).await
    }

    pub(super) async fn change_keep_unit(
        &self,
        run: RunId,
        unit: &Prefix,
        worker: ObjectId,
        seconds: i64,
    ) -> Result<bool> {
        let request = Keep { claim: self.claim_of(run, worker, seconds).await?, prefix: unit.to_string() };
        self.change("keep_unit", None, &request, |tx, request| Box::pin(keep(tx, request))).await
    }

    pub(super) async fn change_finish_unit(&self, finish: FinishUnit) -> Result<bool> {
        let request = Finish { finish, now: self.read_now().await?.seconds() };
        self.change("finish_unit", None, &request, |tx, request| Box::pin(finish_in(tx, request))).await
    }

    pub(super) async fn change_end_recovery(&self, epoch: Epoch, run: RunId) -> Result<bool> {
        let call = call!(END_RECOVERY, integer(epoch.0)?, integer(run.0)?);
        Ok(!self.query("end_recovery", call).await?.is_empty())
    }

    pub(super) async fn change_take_over(&self, request: TakeOver) -> Result<bool> {
        let request = Begin { request, now: self.read_now().await?.seconds() };
        self.change("take_over", None, &request, |tx, request| Box::pin(take_over(tx, request))).await
    }

    pub(super) async fn change_forget_lost(&self, share: ShareId, token: SlotToken) -> Result<ForgetOutcome> {
        let (lock, request) = (Some(share.storage_index), Forget { share, token });
        self.change("forget_lost", lock, &request, |tx, request| Box::pin(forget_in(tx, request))).await
    }
}
