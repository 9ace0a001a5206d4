//! Backups as runs: one at a time, from whichever process.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use leasehold_config::Config;
use leasehold_core::backend::Backend;
use leasehold_core::backup::backups::BackupProgress;
use leasehold_core::backup::keep::Keep;
use leasehold_core::backup::manifest::Manifest;
use leasehold_core::backup::table::{ACCOUNTS, LEASES, SHARES};
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::run::{BeginRun, BeginRunOutcome, FinishRun, Run, RunId, RunKind, RunState, Totals};
use leasehold_core::store::Store;

use super::progress::Progress;

/// How often a run notes what it has counted, and that it lives.
const NOTE_EVERY: Duration = Duration::from_secs(5);

/// What became of a backup.
#[derive(Debug)]
pub enum BackupOutcome {
    /// It was taken; so many older ones were removed.
    Taken(Box<Manifest>, usize),
    /// Another process is taking one.
    Running(Run),
}

/// How many backups the configuration keeps.
pub const fn keep(config: &Config) -> Keep {
    let backup = &config.backup;
    Keep { hourly: backup.keep_hourly, daily: backup.keep_daily, weekly: backup.keep_weekly }
}

/// Takes a backup and removes those that are kept no longer.
///
/// # Errors
/// It was not taken, or old ones were not removed; the run says why.
pub async fn run<L: LeaseDb, B: Backend>(
    store: &Store<L, B>,
    keep: Keep,
    progress: &Progress,
) -> anyhow::Result<BackupOutcome> {
    let policy = format!("keep {} hourly, {} daily, {} weekly", keep.hourly, keep.daily, keep.weekly);
    let begin = BeginRun { kind: RunKind::Backup, dry_run: false, policy };
    let run = match store.db().begin_run(begin).await? {
        BeginRunOutcome::Begun(run) => run,
        BeginRunOutcome::Running(run) => return Ok(BackupOutcome::Running(run)),
    };
    let totals = Mutex::new(Totals::default());
    let taken = tokio::select! {
        taken = take(store, keep, progress, &totals) => taken,
        lost = keep_noting(&**store.db(), run.id, &totals) => Err(lost),
    };
    let (state, reason) = match &taken {
        Ok((manifest, _)) => (RunState::Done, manifest.name.to_string()),
        Err(error) => (RunState::Failed, format!("{error:#}")),
    };
    let end = FinishRun { id: run.id, state, totals: lock(&totals).clone(), reason };
    let finished = store.db().finish_run(end).await;
    let (manifest, removed) = taken?;
    finished?;
    Ok(BackupOutcome::Taken(Box::new(manifest), removed))
}

async fn take<L: LeaseDb, B: Backend>(
    store: &Store<L, B>,
    keep: Keep,
    progress: &Progress,
    totals: &Mutex<Totals>,
) -> anyhow::Result<(Manifest, usize)> {
    let report = |so_far: BackupProgress| {
        note(totals, so_far.rows, so_far.packed_bytes);
        progress.show(|| format!("{} rows, {} bytes", so_far.rows, so_far.packed_bytes));
    };
    let manifest = store.back_up(report).await?;
    note(totals, manifest.rows(), manifest.packed_bytes());
    for (name, table) in [("accounts", &ACCOUNTS), ("shares", &SHARES), ("leases", &LEASES)] {
        lock(totals).set(name, manifest.rows_of(table));
    }
    let removed = store.backups().remove_old(keep).await?;
    lock(totals).set("backups_removed", removed as u64);
    Ok((manifest, removed))
}

fn note(totals: &Mutex<Totals>, rows: u64, packed_bytes: u64) {
    let mut totals = lock(totals);
    totals.set("rows", rows);
    totals.set("bytes", packed_bytes);
}

fn lock(totals: &Mutex<Totals>) -> std::sync::MutexGuard<'_, Totals> {
    totals.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes what a run has counted, for as long as it lives; answers when it must stop.
async fn keep_noting<L: LeaseDb>(db: &L, run: RunId, totals: &Mutex<Totals>) -> anyhow::Error {
    loop {
        tokio::time::sleep(NOTE_EVERY).await;
        let so_far = lock(totals).clone();
        match db.note_run(run, so_far).await {
            Ok(true) => {}
            Ok(false) => return anyhow::anyhow!("run {run} was given up by another process, as if it had died"),
            // The backup itself finds out whether the database is away for long.
            Err(error) => tracing::warn!(%error, "cannot note how far a backup has come"),
        }
    }
}
