//! Long work beside requests: loops, progress and schedules. What is done to shares and leases, core decides.

pub mod audit;
pub mod backup;
pub mod expire;
pub mod export;
pub mod import;
pub mod pace;
pub mod progress;
pub mod reconcile;
pub mod schedule;
pub mod tree;

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use leasehold_config::Config;
use leasehold_core::run::{RunKind, RunState};
use leasehold_core::store::{ExpireRequest, Expired};

use crate::places::AnyStore;
use progress::Progress;
use reconcile::ReconcileOptions;
use schedule::Scheduled;

/// Units that a serving process compares at once: clients come first.
const WORKERS: usize = 1;

/// The jobs of a serving process, as it is configured.
pub fn scheduled(config: &Config, store: &Arc<AnyStore>) -> Vec<Scheduled> {
    let job = |kind, interval_seconds, run: fn(Arc<AnyStore>, Config) -> BoxFuture<'static, anyhow::Result<()>>| {
        let (store, config) = (store.clone(), config.clone());
        Scheduled { kind, interval_seconds, run: Box::new(move || run(store.clone(), config.clone())) }
    };
    let intervals = &config.jobs;
    let mut jobs = vec![
        job(RunKind::Reconcile, intervals.reconcile_interval_seconds, |store, _| run_reconcile(store).boxed()),
        job(RunKind::Audit, intervals.audit_interval_seconds, |store, _| run_audit(store).boxed()),
        job(RunKind::Backup, config.backup.interval_seconds, |store, config| run_backup(store, config).boxed()),
    ];
    if expire::policy(config).is_some() {
        let run = |store, config| run_expire(store, config).boxed();
        jobs.push(job(RunKind::Expire, intervals.expire_interval_seconds, run));
    }
    jobs
}

async fn run_expire(store: Arc<AnyStore>, config: Config) -> anyhow::Result<()> {
    let Some(policy) = expire::policy(&config) else { return Ok(()) };
    let request = ExpireRequest { policy, dry_run: false };
    if let Expired::Ended(report) = expire::expire(&store, request, Progress::in_log("expiring")).await? {
        tell(RunKind::Expire, report.state, &report.reason);
    }
    Ok(())
}

async fn run_reconcile(store: Arc<AnyStore>) -> anyhow::Result<()> {
    let options = ReconcileOptions { dry_run: false, workers: WORKERS, slowly: true };
    let run = reconcile::run(&store, options, &Arc::new(Progress::in_log("comparing"))).await?;
    tell(RunKind::Reconcile, run.state, &run.reason);
    Ok(())
}

async fn run_audit(store: Arc<AnyStore>) -> anyhow::Result<()> {
    audit::run(&**store.db(), &Progress::in_log("auditing")).await.map(drop)
}

async fn run_backup(store: Arc<AnyStore>, config: Config) -> anyhow::Result<()> {
    backup::run(&store, backup::keep(&config), &Progress::in_log("backing up")).await.map(drop)
}

/// A brake is not an error of the program, but somebody must look.
fn tell(job: RunKind, state: RunState, reason: &str) {
    match state {
        RunState::Braked => tracing::error!(%job, reason, "a brake holds a job; `leasehold runs` shows it"),
        _ => tracing::info!(%job, %state, reason, "a job has ended"),
    }
}
