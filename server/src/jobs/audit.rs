//! Counts again what accounts hold, and compares it with what their counters say.
//!
//! All rows are read once, at one instant, so that a difference is one and not a change under way. Counters that are wrong
//! are then counted once more, each account by itself under its own lock, and corrected. There is never a difference unless
//! a program was wrong or somebody has changed rows by hand: so each is told as an error. What nobody leases is queued.

use anyhow::bail;
use futures_util::StreamExt;
use leasehold_core::backup::recount::Recount;
use leasehold_core::backup::table::LEASES;
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::run::{BeginRun, BeginRunOutcome, FinishRun, Run, RunKind, RunState, Totals};

use super::progress::Progress;

/// After so many pages the run's progress is noted.
const PAGES_BETWEEN_NOTES: u64 = 200;

/// Runs the audit; gives the run as it ended.
///
/// # Errors
/// Another audit is under way, or the lease database does not answer.
pub async fn run<L: LeaseDb>(db: &L, progress: &Progress) -> anyhow::Result<Run> {
    let begin = BeginRun { kind: RunKind::Audit, dry_run: false, policy: String::new() };
    let begun = match db.begin_run(begin).await? {
        BeginRunOutcome::Begun(run) => run,
        BeginRunOutcome::Running(run) => bail!("an audit is under way already: run {}", run.id),
    };
    let mut totals = Totals::default();
    let outcome = audit(db, &begun, &mut totals, progress).await;
    let (state, reason) = match &outcome {
        Ok(()) => (RunState::Done, String::new()),
        Err(error) => (RunState::Failed, format!("{error:#}")),
    };
    let end = FinishRun { id: begun.id, state, totals: totals.clone(), reason: reason.clone() };
    db.finish_run(end).await?;
    outcome?;
    Ok(Run { state, totals, reason, ..begun })
}

/// Shares that nobody leases are put into the queue of those to be retired, wherever they come from: without that they would
/// stay for ever. Whether anybody leases them is looked at once more when their turn comes.
async fn queue<L: LeaseDb>(db: &L, recount: &mut Recount, totals: &mut Totals) -> anyhow::Result<()> {
    let unleased = recount.take_unleased();
    totals.add("shares_unleased", unleased.len() as u64);
    if !unleased.is_empty() {
        db.queue_unleased(unleased).await?;
    }
    Ok(())
}

async fn audit<L: LeaseDb>(db: &L, run: &Run, totals: &mut Totals, progress: &Progress) -> anyhow::Result<()> {
    let mut recount = Recount::default();
    let mut pages = db.export().await?.pages;
    let mut read = 0u64;
    while let Some(page) = pages.next().await {
        let page = page?;
        if page.table != &LEASES {
            // All leases on the shares before have passed.
            queue(db, &mut recount, totals).await?;
        }
        recount.page(&page)?;
        read += 1;
        if read.is_multiple_of(PAGES_BETWEEN_NOTES) {
            totals.set("rows_examined", recount.rows().iter().sum());
            progress.show(|| format!("{} rows", totals.of("rows_examined")));
            if !db.note_run(run.id, totals.clone()).await? {
                bail!("it was taken for dead and another run has begun");
            }
        }
    }
    queue(db, &mut recount, totals).await?;
    totals.set("rows_examined", recount.rows().iter().sum());
    totals.set("storage_indexes", recount.storage_indexes());
    totals.set("shares_leased", recount.leased().shares);
    totals.set("bytes_leased", recount.leased().bytes);
    let held = recount.held();
    totals.set("accounts", held.len() as u64);
    totals.set("leased_bytes", held.values().map(|held| held.bytes).sum());
    totals.set("leases", held.values().map(|held| held.shares).sum());
    totals.set("accounts_corrected", 0);
    for (account, ..) in recount.disagreements() {
        let (was, is) = db.recount_usage(account).await?;
        if was != is {
            totals.add("accounts_corrected", 1);
            totals.add("drift_bytes", was.used_bytes.abs_diff(is.used_bytes));
            tracing::error!(
                %account,
                counted_bytes = was.used_bytes,
                leased_bytes = is.used_bytes,
                counted_shares = was.shares,
                leased_shares = is.shares,
                "an account's counters were wrong and are corrected"
            );
        }
    }
    Ok(())
}
