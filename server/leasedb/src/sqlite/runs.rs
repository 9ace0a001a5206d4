//! Runs of jobs.

use leasehold_core::clock::Timestamp;
use leasehold_core::leasedb::Result;
use leasehold_core::run::{
    BeginRun, BeginRunOutcome, FinishRun, PermitOutcome, RUN_SILENCE_SECONDS, RUNS_KEPT, Run, RunId, RunKind, Totals,
};
use rusqlite::OptionalExtension;

use super::{Tx, unavailable};
use crate::columns::{
    ABANDONED, damaged, permit_outcome, run_kind_number, run_kind_of, run_state_number, run_state_of, unsigned,
};
use crate::plan::integer;

const RUN_COLUMNS: &str = "run_id, kind, state, permission, dry_run, policy, started_at, alive_at, finished_at, totals,
              reason";

struct Row(Run, String);

fn row_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let time = |column| Ok::<_, rusqlite::Error>(Timestamp::from_seconds(row.get(column)?));
    let run = Run {
        id: RunId(unsigned(row.get(0)?)),
        kind: run_kind_of(row.get(1)?),
        state: run_state_of(row.get(2)?),
        permitted: row.get::<_, i16>(3)? == 2,
        allowed: row.get::<_, i16>(3)? == 1,
        dry_run: row.get(4)?,
        policy: row.get(5)?,
        started_at: time(6)?,
        alive_at: time(7)?,
        finished_at: row.get::<_, Option<i64>>(8)?.map(Timestamp::from_seconds),
        totals: Totals::default(),
        reason: row.get(10)?,
    };
    Ok(Row(run, row.get(9)?))
}

fn run_of(Row(run, totals): Row) -> Result<Run> {
    Ok(Run { totals: Totals::decode(&totals).map_err(|_| damaged("list of totals"))?, ..run })
}

impl Tx<'_> {
    pub(super) fn begin_run(&self, begin: &BeginRun) -> Result<BeginRunOutcome> {
        let (now, kind) = (self.now_seconds(), run_kind_number(begin.kind));
        let abandon = "-- abandon_run
            UPDATE runs
            SET state = 4, finished_at = ?2, reason = ?4
            WHERE kind = ?1 AND state = 0 AND alive_at < ?3";
        self.execute(abandon, (kind, now, now - RUN_SILENCE_SECONDS, ABANDONED))?;
        if let Some(running) = self.last_run(begin.kind, true)? {
            return Ok(BeginRunOutcome::Running(running));
        }
        let mut permitted = false;
        if !begin.dry_run {
            let take = "-- take_permission
                UPDATE runs
                SET permission = 0
                WHERE permission = 1
                  AND run_id = (SELECT max(run_id) FROM runs WHERE kind = ?1 AND NOT dry_run)";
            permitted = self.execute(take, [kind])? > 0;
        }
        let insert = "-- begin_run
            INSERT INTO runs (kind, state, permission, dry_run, policy, started_at, alive_at, totals, reason)
            VALUES (?1, 0, ?2, ?3, ?4, ?5, ?5, '', '')";
        let permission = if permitted { 2 } else { 0 };
        self.execute(insert, (kind, permission, begin.dry_run, &begin.policy, now))?;
        let forget = "-- forget_runs
            DELETE FROM runs
            WHERE kind = ?1 AND run_id <= (
              SELECT run_id FROM runs WHERE kind = ?1 ORDER BY run_id DESC LIMIT 1 OFFSET ?2)";
        self.execute(forget, (kind, RUNS_KEPT))?;
        let begun = self.last_run(begin.kind, true)?.ok_or_else(|| damaged("run"))?;
        Ok(BeginRunOutcome::Begun(begun))
    }

    fn last_run(&self, kind: RunKind, running: bool) -> Result<Option<Run>> {
        let sql = format!(
            "-- last_run
            SELECT {RUN_COLUMNS}
            FROM runs
            WHERE kind = ?1 AND (state = 0 OR NOT ?2)
            ORDER BY run_id DESC
            LIMIT 1"
        );
        self.query(&sql, (run_kind_number(kind), running), row_of)?.pop().map(run_of).transpose()
    }

    pub(super) fn note_run(&self, id: RunId, totals: &Totals) -> Result<bool> {
        let sql = "-- note_run
            UPDATE runs
            SET alive_at = ?2, totals = ?3
            WHERE run_id = ?1 AND state = 0";
        Ok(self.execute(sql, (integer(id.0)?, self.now_seconds(), totals.encode()))? > 0)
    }

    pub(super) fn finish_run(&self, end: &FinishRun) -> Result<bool> {
        let sql = "-- finish_run
            UPDATE runs
            SET state = ?2, alive_at = ?3, finished_at = ?3, totals = ?4, reason = ?5
            WHERE run_id = ?1 AND state = 0";
        let state = run_state_number(end.state);
        let params = (integer(end.id.0)?, state, self.now_seconds(), end.totals.encode(), &end.reason);
        Ok(self.execute(sql, params)? > 0)
    }

    pub(super) fn list_runs(&self, kind: Option<RunKind>, max: u32) -> Result<Vec<Run>> {
        let sql = format!(
            "-- list_runs
            SELECT {RUN_COLUMNS}
            FROM runs
            WHERE ?1 IS NULL OR kind = ?1
            ORDER BY run_id DESC
            LIMIT ?2"
        );
        self.query(&sql, (kind.map(run_kind_number), max), row_of)?.into_iter().map(run_of).collect()
    }

    pub(super) fn permit_run(&self, id: RunId) -> Result<PermitOutcome> {
        let sql = "-- find_run
            SELECT state, (SELECT max(l.run_id) FROM runs l WHERE l.kind = r.kind AND NOT l.dry_run) > r.run_id
            FROM runs r
            WHERE run_id = ?1";
        let mut statement = self.prepare(sql)?;
        let found = statement.query_row([integer(id.0)?], |row| Ok((row.get(0)?, row.get::<_, Option<bool>>(1)?)));
        let found = found.optional().map_err(unavailable)?;
        let outcome = permit_outcome(found.map(|(state, later)| (run_state_of(state), later.unwrap_or_default())));
        if outcome == PermitOutcome::Permitted {
            self.execute("-- permit_run\nUPDATE runs SET permission = 1 WHERE run_id = ?1", [integer(id.0)?])?;
        }
        Ok(outcome)
    }
}
