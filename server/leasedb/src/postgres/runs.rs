//! Runs of jobs.

use leasehold_core::clock::Timestamp;
use leasehold_core::leasedb::Result;
use leasehold_core::run::{
    BeginRun, BeginRunOutcome, FinishRun, PermitOutcome, RUN_SILENCE_SECONDS, RUNS_KEPT, Run, RunId, RunKind, Totals,
};
use tokio_postgres::Row;

use super::PgLeaseDb;
use super::load::get;
use super::sql::{call, sql};
use super::tx::{Decided, Tx};
use crate::columns::{
    ABANDONED, damaged, permit_outcome, run_kind_number, run_kind_of, run_state_number, run_state_of, unsigned,
};
use crate::plan::integer;

macro_rules! run_columns {
    () => {
        "run_id, kind, state, permission, dry_run, policy, started_at, alive_at, finished_at, totals, reason"
    };
}

sql!(
    ABANDON_RUN,
    [INT2, INT8, INT8, TEXT],
    "-- abandon_run
    UPDATE runs
    SET state = 4, finished_at = $2, reason = $4
    WHERE kind = $1 AND state = 0 AND alive_at < $3"
);
sql!(
    RUNNING_RUN,
    [INT2],
    concat!(
        "-- running_run
    SELECT ",
        run_columns!(),
        "
    FROM runs
    WHERE kind = $1 AND state = 0"
    )
);
// The permission of the last run goes over to this one, unless this one is only for show.
sql!(
    TAKE_PERMISSION,
    [INT2, BOOL],
    "-- take_permission
    UPDATE runs
    SET permission = 0
    WHERE permission = 1 AND NOT $2
      AND run_id = (SELECT max(run_id) FROM runs WHERE kind = $1 AND NOT dry_run)
    RETURNING 1"
);
// Nothing where another one has begun in the meantime.
sql!(
    BEGIN_RUN,
    [INT2, INT2, BOOL, TEXT, INT8],
    concat!(
        "-- begin_run
    INSERT INTO runs (kind, state, permission, dry_run, policy, started_at, alive_at, totals, reason)
    VALUES ($1, 0, $2, $3, $4, $5, $5, '', '')
    ON CONFLICT (kind) WHERE state = 0 DO NOTHING
    RETURNING ",
        run_columns!()
    )
);
sql!(
    FORGET_RUNS,
    [INT2, INT8],
    "-- forget_runs
    DELETE FROM runs
    WHERE kind = $1 AND run_id <= (
      SELECT run_id FROM runs WHERE kind = $1 ORDER BY run_id DESC LIMIT 1 OFFSET $2)"
);
sql!(
    NOTE_RUN,
    [INT8, INT8, TEXT],
    "-- note_run
    UPDATE runs
    SET alive_at = $2, totals = $3
    WHERE run_id = $1 AND state = 0
    RETURNING 1"
);
sql!(
    FINISH_RUN,
    [INT8, INT2, INT8, TEXT, TEXT],
    "-- finish_run
    UPDATE runs
    SET state = $2, alive_at = $3, finished_at = $3, totals = $4, reason = $5
    WHERE run_id = $1 AND state = 0
    RETURNING 1"
);
sql!(
    LIST_RUNS,
    [INT2, INT8],
    concat!(
        "-- list_runs
    SELECT ",
        run_columns!(),
        "
    FROM runs
    WHERE $1 IS NULL OR kind = $1
    ORDER BY run_id DESC
    LIMIT $2"
    )
);
sql!(
    FIND_RUN,
    [INT8],
    "-- find_run
    SELECT r.state, (SELECT max(l.run_id) FROM runs l WHERE l.kind = r.kind AND NOT l.dry_run) > r.run_id
    FROM runs r
    WHERE r.run_id = $1
    FOR UPDATE OF r"
);
sql!(
    PERMIT_RUN,
    [INT8],
    "-- permit_run
    UPDATE runs
    SET permission = 1
    WHERE run_id = $1"
);

fn run(row: &Row) -> Result<Run> {
    let time = |at| get(row, at, "run").map(Timestamp::from_seconds);
    Ok(Run {
        id: RunId(unsigned(get(row, 0, "run")?)),
        kind: run_kind_of(get(row, 1, "run")?),
        state: run_state_of(get(row, 2, "run")?),
        permitted: get::<i16>(row, 3, "run")? == 2,
        allowed: get::<i16>(row, 3, "run")? == 1,
        dry_run: get(row, 4, "run")?,
        policy: get(row, 5, "run")?,
        started_at: time(6)?,
        alive_at: time(7)?,
        finished_at: get::<Option<i64>>(row, 8, "run")?.map(Timestamp::from_seconds),
        totals: Totals::decode(get(row, 9, "run")?).map_err(|_| damaged("list of totals"))?,
        reason: get(row, 10, "run")?,
    })
}

/// A run to begin, and the database's time in seconds.
struct Begin {
    run: BeginRun,
    now: i64,
}

async fn begin(tx: &mut Tx<'_>, Begin { run: new, now }: &Begin) -> Decided<BeginRunOutcome> {
    let kind = run_kind_number(new.kind);
    let reads = [
        call!(ABANDON_RUN, kind, *now, now - RUN_SILENCE_SECONDS, ABANDONED),
        call!(RUNNING_RUN, kind),
        call!(TAKE_PERMISSION, kind, new.dry_run),
    ];
    let [_, running, permission] = tx.read(reads).await?;
    if let Some(row) = running.first() {
        return Ok((BeginRunOutcome::Running(run(row)?), Vec::new()));
    }
    let permission: i16 = if permission.is_empty() { 0 } else { 2 };
    let insert = call!(BEGIN_RUN, kind, permission, new.dry_run, new.policy.clone(), *now);
    let [begun, running] = tx.read([insert, call!(RUNNING_RUN, kind)]).await?;
    let forget = call!(FORGET_RUNS, kind, i64::from(RUNS_KEPT));
    match (begun.first(), running.first()) {
        (Some(row), _) => Ok((BeginRunOutcome::Begun(run(row)?), vec![forget])),
        (None, Some(row)) => Ok((BeginRunOutcome::Running(run(row)?), Vec::new())),
        (None, None) => Err(damaged("run").into()),
    }
}

async fn permit(tx: &mut Tx<'_>, id: &RunId) -> Decided<PermitOutcome> {
    let id = integer(id.0)?;
    let [rows] = tx.read([call!(FIND_RUN, id)]).await?;
    let found = match rows.first() {
        Some(row) => {
            let later: Option<bool> = get(row, 1, "run")?;
            Some((run_state_of(get(row, 0, "run")?), later.unwrap_or_default()))
        }
        None => None,
    };
    let outcome = permit_outcome(found);
    let calls = if outcome == PermitOutcome::Permitted { vec![call!(PERMIT_RUN, id)] } else { Vec::new() };
    Ok((outcome, calls))
}

impl PgLeaseDb {
    pub(super) async fn change_begin_run(&self, run: BeginRun) -> Result<BeginRunOutcome> {
        let request = Begin { run, now: self.read_now().await?.seconds() };
        self.change("begin_run", None, &request, |tx, request| Box::pin(begin(tx, request))).await
    }

    pub(super) async fn change_note_run(&self, id: RunId, totals: &Totals) -> Result<bool> {
        let now = self.read_now().await?.seconds();
        let rows = self.query("note_run", call!(NOTE_RUN, integer(id.0)?, now, totals.encode())).await?;
        Ok(!rows.is_empty())
    }

    pub(super) async fn change_finish_run(&self, end: FinishRun) -> Result<bool> {
        let now = self.read_now().await?.seconds();
        let state = run_state_number(end.state);
        let call = call!(FINISH_RUN, integer(end.id.0)?, state, now, end.totals.encode(), end.reason);
        Ok(!self.query("finish_run", call).await?.is_empty())
    }

    pub(super) async fn read_runs(&self, kind: Option<RunKind>, max: u32) -> Result<Vec<Run>> {
        let call = call!(LIST_RUNS, kind.map(run_kind_number), i64::from(max));
        self.query("list_runs", call).await?.iter().map(run).collect()
    }

    pub(super) async fn change_permit_run(&self, id: RunId) -> Result<PermitOutcome> {
        self.change("permit_run", None, &id, |tx, id| Box::pin(permit(tx, id))).await
    }
}
