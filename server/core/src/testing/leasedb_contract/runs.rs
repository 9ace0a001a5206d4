//! Runs of jobs.
#![allow(missing_docs, reason = "the names of the cases say it")]

use super::MakeLeaseDb;
use super::bench::Bench;
use crate::leasedb::LeaseDb;
use crate::run::{
    BeginRun, BeginRunOutcome, FinishRun, PermitOutcome, RUN_SILENCE_SECONDS, RUNS_KEPT, Run, RunId, RunKind, RunState,
    Totals,
};

impl<D: LeaseDb> Bench<D> {
    async fn begin(&self, kind: RunKind, dry_run: bool) -> BeginRunOutcome {
        self.db.begin_run(BeginRun { kind, dry_run, policy: "as always".to_owned() }).await.expect("begin_run")
    }

    async fn begun(&self, kind: RunKind, dry_run: bool) -> Run {
        match self.begin(kind, dry_run).await {
            BeginRunOutcome::Begun(run) => run,
            BeginRunOutcome::Running(run) => panic!("{run:?} is in the way"),
        }
    }

    async fn finish(&self, id: RunId, state: RunState) -> bool {
        let end = FinishRun { id, state, totals: totals(7), reason: "because".to_owned() };
        self.db.finish_run(end).await.expect("finish_run")
    }

    async fn braked(&self) -> RunId {
        let run = self.begun(RunKind::Expire, false).await;
        assert!(self.finish(run.id, RunState::Braked).await);
        run.id
    }

    async fn permit(&self, id: RunId) -> PermitOutcome {
        self.db.permit_run(id).await.expect("permit_run")
    }
}

fn totals(count: u64) -> Totals {
    let mut totals = Totals::default();
    totals.add("leases_removed", count);
    totals
}

pub async fn one_run_of_a_kind_at_a_time<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let first = bench.begun(RunKind::Expire, false).await;
    assert_eq!((first.state, first.permitted, first.policy.as_str()), (RunState::Running, false, "as always"));
    assert_eq!(bench.begin(RunKind::Expire, true).await, BeginRunOutcome::Running(first.clone()));
    let other = bench.begun(RunKind::Collect, true).await;
    assert!(other.id > first.id && other.dry_run);
    assert!(bench.finish(first.id, RunState::Done).await);
    assert!(!bench.finish(first.id, RunState::Failed).await, "it has ended");
    let next = bench.begun(RunKind::Expire, false).await;
    let listed = bench.db.list_runs(None, 10).await.expect("list_runs");
    assert_eq!(listed.iter().map(|run| run.id).collect::<Vec<_>>(), [next.id, other.id, first.id], "newest first");
    let of_kind = bench.db.list_runs(Some(RunKind::Expire), 10).await.expect("list_runs");
    assert_eq!(of_kind.iter().map(|run| run.id).collect::<Vec<_>>(), [next.id, first.id]);
    let ended = &of_kind[1];
    assert_eq!((ended.state, ended.reason.as_str(), &ended.totals), (RunState::Done, "because", &totals(7)));
    assert!(ended.finished_at.is_some() && of_kind[0].finished_at.is_none());
    assert_eq!(bench.db.list_runs(None, 1).await.expect("list_runs").len(), 1);
}

pub async fn a_run_that_is_silent_is_abandoned<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let run = bench.begun(RunKind::Reconcile, false).await;
    bench.clock.advance(RUN_SILENCE_SECONDS - 1);
    assert!(bench.db.note_run(run.id, totals(3)).await.expect("note_run"));
    bench.clock.advance(RUN_SILENCE_SECONDS);
    let BeginRunOutcome::Running(alive) = bench.begin(RunKind::Reconcile, false).await else {
        panic!("it has just given a sign of life")
    };
    assert_eq!(alive.totals, totals(3), "progress shows");
    bench.clock.advance(1);
    let next = bench.begun(RunKind::Reconcile, false).await;
    assert!(!bench.db.note_run(run.id, totals(9)).await.expect("note_run"), "whoever wakes up stops");
    assert!(!bench.finish(run.id, RunState::Done).await);
    let listed = bench.db.list_runs(Some(RunKind::Reconcile), 10).await.expect("list_runs");
    assert_eq!((listed[0].id, listed[1].state), (next.id, RunState::Abandoned));
    assert_eq!(listed[1].totals, totals(3));
    assert!(!listed[1].reason.is_empty());
}

pub async fn a_permission_is_for_the_next_run_and_once<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    assert_eq!(bench.permit(RunId(4711)).await, PermitOutcome::Unknown);
    let braked = bench.braked().await;
    assert_eq!(bench.permit(braked).await, PermitOutcome::Permitted);
    let dry = bench.begun(RunKind::Expire, true).await;
    assert!(!dry.permitted, "one for show takes nothing");
    assert!(bench.finish(dry.id, RunState::Done).await);
    let permitted = bench.begun(RunKind::Expire, false).await;
    assert!(permitted.permitted);
    assert_eq!(bench.permit(permitted.id).await, PermitOutcome::NotBraked);
    assert!(bench.finish(permitted.id, RunState::Done).await);
    assert!(!bench.begun(RunKind::Expire, false).await.permitted, "once");
    assert_eq!(bench.permit(braked).await, PermitOutcome::Superseded);
}

pub async fn a_permission_is_not_lost_on_a_run_that_does_not_begin<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let braked = bench.braked().await;
    let dry = bench.begun(RunKind::Expire, true).await;
    assert_eq!(bench.permit(braked).await, PermitOutcome::Permitted, "a dry run does not supersede");
    assert!(matches!(bench.begin(RunKind::Expire, false).await, BeginRunOutcome::Running(_)));
    assert!(bench.finish(dry.id, RunState::Done).await);
    assert!(bench.begun(RunKind::Expire, false).await.permitted);
}

pub async fn old_runs_are_forgotten<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let other = bench.begun(RunKind::Audit, false).await;
    let mut last = other.id;
    for _ in 0..RUNS_KEPT + 3 {
        last = bench.begun(RunKind::Collect, false).await.id;
        assert!(bench.finish(last, RunState::Done).await);
    }
    let listed = bench.db.list_runs(None, 10 * RUNS_KEPT).await.expect("list_runs");
    assert_eq!(listed.len() as u32, RUNS_KEPT + 1);
    assert_eq!((listed[0].id, listed.last().expect("not empty").id), (last, other.id), "each kind by itself");
}

pub async fn of_many_that_begin_at_once_one_does<M: MakeLeaseDb>() {
    let bench = std::sync::Arc::new(Bench::new::<M>().await);
    let begun = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let tasks = (0..8).map(|_| {
        let (bench, begun) = (bench.clone(), begun.clone());
        Box::pin(async move {
            if let BeginRunOutcome::Begun(_) = bench.begin(RunKind::Backup, false).await {
                begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }) as _
    });
    M::run_all(tasks.collect()).await;
    assert_eq!(begun.load(std::sync::atomic::Ordering::Relaxed), 1);
}
