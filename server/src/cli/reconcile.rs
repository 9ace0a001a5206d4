//! `leasehold reconcile` and `leasehold forget`.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use leasehold_core::crawl::ForgetOutcome;
use leasehold_core::id::{ShareId, ShareNumber};
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::run::{Run, RunState};
use leasehold_core::share::ShareState;
use serde_json::json;

use super::Common;
use super::opened::{Opened, Shares};
use crate::jobs::progress::Progress;
use crate::jobs::reconcile::{self, ReconcileOptions};
use crate::status::run_json;

#[derive(Debug, Args)]
pub(super) struct ReconcileArgs {
    #[command(flatten)]
    common: Common,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// How many parts to compare at once
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    workers: u8,
}

#[derive(Debug, Args)]
pub(super) struct ForgetArgs {
    /// Which: 26 base32 characters, for one share with a slash and its number
    #[arg(value_name = "STORAGE-INDEX[/NUMBER]")]
    share: Shares,
    #[command(flatten)]
    common: Common,
}

pub(super) async fn run_reconcile(args: &ReconcileArgs) -> anyhow::Result<ExitCode> {
    let progress = Arc::new(Progress::begin(args.common.output, "comparing"));
    let options = ReconcileOptions { dry_run: args.dry_run, workers: args.workers.into(), slowly: false };
    let ended = async {
        let opened = Opened::alone(&args.common).await?;
        reconcile::run(&opened.store, options, &progress).await
    };
    let ended = ended.await;
    if let Some(progress) = Arc::into_inner(progress) {
        progress.end();
    }
    let run = ended?;
    args.common.output.print(&run_json(&run), || told(&run));
    match run.state {
        RunState::Done => Ok(ExitCode::SUCCESS),
        RunState::Braked => {
            bail!("run {0} was stopped: {1}; `leasehold allow {0}` lets the next one go on", run.id, run.reason)
        }
        RunState::Running | RunState::Failed | RunState::Abandoned => {
            bail!("run {} {}: {}", run.id, run.state, run.reason)
        }
    }
}

/// What was found, line by line, without what was not.
fn told(run: &Run) -> String {
    let totals = &run.totals;
    let mut lines = vec![format!("{} shares and {} objects compared", totals.of("shares"), totals.of("objects"))];
    let would = if run.dry_run { "would be " } else { "" };
    for (name, what) in [
        ("shares_adopted", "shares without a row {}adopted"),
        ("shares_repaired", "shares {}repaired from a complete copy"),
        ("slots_promoted", "slots {}brought to their last write"),
        ("shares_found", "lost shares {}found again"),
        ("shares_lost", "shares {}marked as lost: their bytes are gone, their leases are kept"),
        ("orphans", "objects that nothing names {}deleted after a week"),
        ("late_objects", "objects that came back {}deleted again"),
        ("damaged_objects", "objects cannot be read and {}kept"),
        ("strange_names", "files that are not of Leasehold {}left alone"),
        ("units_failed", "parts could not be compared"),
    ] {
        if totals.of(name) > 0 {
            lines.push(format!("{} {}", totals.of(name), what.replacen("{}", would, 1)));
        }
    }
    if run.state == RunState::Done && !run.reason.is_empty() {
        lines.push(run.reason.clone());
    }
    lines.join("\n")
}

pub(super) async fn run_forget(args: &ForgetArgs) -> anyhow::Result<ExitCode> {
    let Shares(index, number) = args.share;
    let opened = Opened::alone(&args.common).await?;
    let store = &opened.store;
    let rows = store.db().list_shares(index).await.context("cannot read the lease database")?;
    let lost = rows.iter().filter(|row| row.state == ShareState::Lost).map(|row| row.number);
    let lost: Vec<ShareNumber> = lost.filter(|lost| number.is_none_or(|number| number == *lost)).collect();
    if lost.is_empty() {
        bail!("there is no lost share of {index}{}", number.map(|n| format!(" with number {n}")).unwrap_or_default());
    }
    for number in &lost {
        let share = ShareId::new(index, *number);
        match store.forget(share).await? {
            ForgetOutcome::Forgotten => {}
            ForgetOutcome::NotLost => bail!("share {share} is not lost any more"),
            ForgetOutcome::TooEarly(runs) => {
                bail!("share {share} may come back: run `leasehold reconcile` {runs} times more before it is forgotten")
            }
        }
    }
    let numbers: Vec<u8> = lost.iter().map(|number| number.get()).collect();
    let json = json!({ "storage_index": index.to_string(), "forgotten": numbers });
    args.common.output.print(&json, || format!("{} shares of {index} are forgotten", numbers.len()));
    Ok(ExitCode::SUCCESS)
}
