//! When jobs run inside a serving process. Any number of processes may keep the same schedule: when a job last ran stands
//! in the lease database, and of two that begin at once one does.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use leasehold_core::clock::Timestamp;
use leasehold_core::leasedb::{LeaseDb, Mode, Result};
use leasehold_core::run::{Run, RunKind, RunState};

use crate::listener::drain::Drain;
use crate::metrics::Metrics;

/// How often is looked whether a job is due.
const LOOK_EVERY: Duration = Duration::from_secs(20);
/// How long a job that failed rests at most, in seconds.
const RETRY_SECONDS: i64 = 300;
/// How far back the last run that was not for show is looked for.
const RUNS_LOOKED_AT: u32 = 20;

/// A job and how often it runs.
pub struct Scheduled {
    /// Which.
    pub kind: RunKind,
    /// From one beginning to the next; 0: never by itself.
    pub interval_seconds: u64,
    /// Runs it, once.
    pub run: Box<dyn Fn() -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>,
}

/// Whether a job must begin, given its last run that was not for show.
pub fn is_due(last: Option<&Run>, interval_seconds: u64, now: Timestamp) -> bool {
    let interval = i64::try_from(interval_seconds).unwrap_or(i64::MAX);
    let Some(last) = last else { return interval > 0 };
    let rest = match last.state {
        // Whether it still lives, the next to begin finds out.
        RunState::Running | RunState::Done | RunState::Braked => interval,
        RunState::Failed | RunState::Abandoned => interval.min(RETRY_SECONDS),
    };
    interval > 0 && now.seconds().saturating_sub(last.started_at.seconds()) >= rest
}

async fn is_due_now<L: LeaseDb>(db: &L, job: &Scheduled) -> Result<bool> {
    if job.interval_seconds == 0 {
        return Ok(false);
    }
    // Until all has been compared after a loss nothing is deleted and nothing ends: that is not put off.
    let urgent = job.kind == RunKind::Reconcile && db.deployment().await?.mode == Mode::Recovery;
    let interval_seconds = if urgent { job.interval_seconds.min(RETRY_SECONDS as u64) } else { job.interval_seconds };
    let runs = db.list_runs(Some(job.kind), RUNS_LOOKED_AT).await?;
    // The first run of a policy of expiry only shows what would go: people have until the next one to look at it.
    let counts = |run: &&Run| !run.dry_run || job.kind == RunKind::Expire;
    Ok(is_due(runs.iter().find(counts), interval_seconds, db.now().await?))
}

/// Runs a job whenever it is due, until the process ends. Failures are told of and tried again. Each job has a schedule of
/// its own: a backup does not wait for a crawl of days.
pub async fn keep<L: LeaseDb>(db: Arc<L>, job: Scheduled, metrics: Arc<Metrics>, drain: Drain) {
    let pause = LOOK_EVERY.min(Duration::from_secs(job.interval_seconds.max(1)));
    loop {
        let attempt = async { if is_due_now(&*db, &job).await? { (job.run)().await } else { Ok(()) } };
        // Nothing that goes wrong in a job, not even a fault of the program, ends its schedule (`accounting.md` B-11).
        let attempt = AssertUnwindSafe(attempt).catch_unwind();
        let attempt = attempt.map(|ended| ended.unwrap_or_else(|_| Err(anyhow::anyhow!("it ended badly"))));
        tokio::select! {
            () = drain.stopped() => return,
            outcome = attempt => {
                if let Err(error) = outcome {
                    metrics.background_failures.inc();
                    tracing::warn!(job = %job.kind, error = format!("{error:#}"), "a job failed and will be tried again");
                }
            }
        }
        tokio::select! {
            () = drain.stopped() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leasehold_core::run::{RunId, Totals};

    fn run(state: RunState, started: i64) -> Run {
        let at = Timestamp::from_seconds(started);
        Run {
            id: RunId(1),
            kind: RunKind::Audit,
            dry_run: false,
            state,
            permitted: false,
            allowed: false,
            policy: String::new(),
            started_at: at,
            alive_at: at,
            finished_at: None,
            totals: Totals::default(),
            reason: String::new(),
        }
    }

    #[test]
    fn a_job_is_due_at_first_and_then_once_an_interval() {
        let at = Timestamp::from_seconds;
        assert!(is_due(None, 3600, at(0)));
        assert!(!is_due(None, 0, at(0)), "never by itself");
        for state in [RunState::Done, RunState::Braked, RunState::Running] {
            assert!(!is_due(Some(&run(state, 1000)), 3600, at(4599)), "{state}");
            assert!(is_due(Some(&run(state, 1000)), 3600, at(4600)), "{state}");
            assert!(!is_due(Some(&run(state, 1000)), 0, at(1_000_000)), "{state}");
        }
    }

    #[test]
    fn a_job_that_failed_or_died_is_tried_again_soon() {
        let at = Timestamp::from_seconds;
        for state in [RunState::Failed, RunState::Abandoned] {
            assert!(!is_due(Some(&run(state, 1000)), 86_400, at(1299)), "{state}");
            assert!(is_due(Some(&run(state, 1000)), 86_400, at(1300)), "{state}");
            assert!(is_due(Some(&run(state, 1000)), 60, at(1060)), "{state}");
        }
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nothing_due() {
        assert!(!is_due(Some(&run(RunState::Done, 1000)), 60, Timestamp::from_seconds(500)));
    }
}
