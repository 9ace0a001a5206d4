//! The reconcile job: units of a run, shared with other processes through the lease database.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use leasehold_core::backend::Backend;
use leasehold_core::clock::Entropy;
use leasehold_core::crawl::unit::{ClaimUnitOutcome, FinishUnit, Prefix, UNIT_CLAIM_SECONDS, UnitEnd};
use leasehold_core::id::ObjectId;
use leasehold_core::leasedb::{LeaseDb, LeaseDbError, Mode};
use leasehold_core::run::{BeginRun, BeginRunOutcome, FinishRun, Run, RunKind, RunState, Totals};
use leasehold_core::store::{Store, UnitWork};

use super::pace::slowly;
use super::progress::Progress;

/// How long a worker rests that finds no lease database, and at most where it finds nothing to do.
const REST: Duration = Duration::from_secs(1);
/// How long it rests at first where it finds nothing to do: others may be about to split what they have.
const REST_FIRST: Duration = Duration::from_millis(50);
/// How often in a row the lease database may fail before a worker gives up.
const FAILURES_MAX: u32 = 30;
/// The most runs that one may be looked for among.
const LAST_RUNS: u32 = 20;

/// How to reconcile.
#[derive(Clone, Copy, Debug)]
pub struct ReconcileOptions {
    /// Whether only to say what would be done.
    pub dry_run: bool,
    /// How many units to work on at once.
    pub workers: usize,
    /// Whether clients come first. In recovery mode they wait for this work, and it is done as fast as may be.
    pub slowly: bool,
}

/// Begins a run, or joins the one that is under way, and works on it until it ends.
///
/// # Errors
/// A sentence for the operator, if the run could not come to any end.
pub async fn run<L: LeaseDb, B: Backend>(
    store: &Arc<Store<L, B>>,
    options: ReconcileOptions,
    progress: &Arc<Progress>,
) -> anyhow::Result<Run> {
    let begin = BeginRun { kind: RunKind::Reconcile, dry_run: options.dry_run, policy: String::new() };
    let run = match store.db().begin_run(begin).await.context("cannot begin")? {
        BeginRunOutcome::Begun(run) => run,
        BeginRunOutcome::Running(run) if run.dry_run == options.dry_run => run,
        BeginRunOutcome::Running(run) => {
            let kind = if run.dry_run { "a dry run" } else { "a run that is not dry" };
            bail!("{kind}, number {}, is under way; wait until it has ended", run.id);
        }
    };
    let slowly = options.slowly && store.db().deployment().await?.mode == Mode::Normal;
    let workers = (0..options.workers.max(1)).map(|_| {
        let (store, run, progress) = (store.clone(), run.clone(), progress.clone());
        tokio::spawn(async move { Worker { store, run, progress, slowly }.work().await })
    });
    let workers: Vec<_> = workers.collect();
    let mut finished = None;
    for worker in workers {
        finished = worker.await.context("a worker ended badly")??.or(finished);
    }
    if let Some((totals, failed, reason)) = finished {
        end(store, &run, totals, failed, &reason).await?;
    }
    let last = store.db().list_runs(Some(RunKind::Reconcile), LAST_RUNS).await?;
    last.into_iter().find(|ended| ended.id == run.id).context("the run is not known any more")
}

/// Ends a run of which nothing is left to do. Of several processes that do this, one does.
async fn end<L: LeaseDb, B: Backend>(
    store: &Store<L, B>,
    run: &Run,
    totals: Totals,
    failed: u64,
    reason: &str,
) -> anyhow::Result<()> {
    let deployment = store.db().deployment().await?;
    let (state, reason) = if failed > 0 {
        (RunState::Failed, format!("{failed} parts could not be compared; one of them because {reason}"))
    } else if deployment.mode == Mode::Recovery && !run.dry_run {
        let ends = store.db().end_recovery(deployment.epoch, run.id).await?;
        let text = if ends {
            "everything was compared: recovery ends"
        } else {
            "commits were lost since it began: another run must compare everything"
        };
        (RunState::Done, text.to_owned())
    } else {
        (RunState::Done, String::new())
    };
    store.db().finish_run(FinishRun { id: run.id, state, totals, reason }).await?;
    Ok(())
}

struct Worker<L, B> {
    store: Arc<Store<L, B>>,
    run: Run,
    progress: Arc<Progress>,
    slowly: bool,
}

impl<L: LeaseDb, B: Backend> Worker<L, B> {
    /// Works on one unit after the other. `None` if the run ended before all were done.
    async fn work(&self) -> anyhow::Result<Option<(Totals, u64, String)>> {
        let worker = self.name().await?;
        let (mut failures, mut rest) = (0, REST_FIRST);
        loop {
            let claimed = self.store.db().claim_unit(self.run.id, worker, UNIT_CLAIM_SECONDS).await;
            match claimed {
                Ok(ClaimUnitOutcome::Claimed(unit, so_far)) => {
                    self.show(&so_far);
                    self.work_on(&unit, worker, &so_far).await;
                    (failures, rest) = (0, REST_FIRST);
                }
                Ok(ClaimUnitOutcome::AllClaimed(so_far)) => {
                    self.show(&so_far);
                    tokio::time::sleep(rest).await;
                    rest = (rest * 2).min(REST);
                }
                Ok(ClaimUnitOutcome::Finished(totals, failed, reason)) => return Ok(Some((totals, failed, reason))),
                Ok(ClaimUnitOutcome::Ended) => return Ok(None),
                Err(error) if failures < FAILURES_MAX => {
                    failures += 1;
                    tracing::warn!(%error, "the lease database did not give out a part to compare");
                    tokio::time::sleep(REST).await;
                }
                Err(error) => return Err(error).context("the lease database does not answer"),
            }
        }
    }

    /// A name that no other worker has.
    async fn name(&self) -> Result<ObjectId, LeaseDbError> {
        Ok(Entropy::from_os().object_id(self.store.db().now().await?))
    }

    /// Works on a unit. Whatever goes wrong with it, others go on; one whose end is not noted returns by itself.
    async fn work_on(&self, unit: &Prefix, worker: ObjectId, so_far: &Totals) {
        let work = UnitWork { run: &self.run, unit, worker, so_far };
        let compared = self.store.reconcile_unit(&work);
        let compared = if self.slowly { slowly(compared).await } else { compared.await };
        let end = match compared {
            Ok(Some(end)) => end,
            Ok(None) => return,
            Err(error) => UnitEnd::Failed(format!("{:#}", anyhow::Error::new(error))),
        };
        if let UnitEnd::Failed(reason) = &end {
            tracing::warn!(part = %unit, reason, "a part could not be compared");
        }
        let finish = FinishUnit { run: self.run.id, unit: unit.clone(), worker, end };
        if let Err(error) = self.store.db().finish_unit(finish).await {
            tracing::warn!(part = %unit, %error, "the end of a part could not be noted");
        }
    }

    fn show(&self, totals: &Totals) {
        let (done, whole) = totals.part().unwrap_or((0, Prefix::default().billionths()));
        self.progress
            .show_part(done, whole, || format!("{} shares, {} objects", totals.of("shares"), totals.of("objects")));
    }
}
