//! `leasehold reconcile` and `leasehold forget`.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use leasehold_core::crawl::ForgetOutcome;
use leasehold_core::crawl::unit::PROGRESS;
use leasehold_core::id::{ShareId, ShareNumber, StorageIndex};
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::run::{Run, RunState};
use leasehold_core::share::ShareState;
use prometheus_client::registry::Registry;
use serde_json::json;

use super::{Common, open};
use crate::jobs::progress::Progress;
use crate::jobs::reconcile::{self, ReconcileOptions};
use crate::places::{AnyStore, open_backend, open_store};
use crate::telemetry;

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

/// One share, or all of a storage index.
#[derive(Clone, Copy, Debug)]
struct Shares(StorageIndex, Option<ShareNumber>);

impl std::str::FromStr for Shares {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (index, number) = match text.split_once('/') {
            None => (text, None),
            Some((index, number)) => {
                let number = number.parse().map_err(|_| format!("{number:?} is no share number: 0 to 255"))?;
                (index, Some(ShareNumber::new(number)))
            }
        };
        Ok(Self(index.parse().map_err(|error| format!("{error}"))?, number))
    }
}

/// The store of the data directory or of the configuration.
async fn with_store<T>(
    common: &Common,
    work: impl AsyncFnOnce(Arc<AnyStore>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let (config, data, db) = open(common).await?;
    telemetry::init(&config.log).map_err(anyhow::Error::msg)?;
    // A directory belongs to one process: that of its server, which does this by itself.
    let lock = if config.storage.s3.is_some() { None } else { Some(data.lock()?) };
    let backend = open_backend(&config, &data, &mut Registry::default())?;
    let done = work(Arc::new(open_store(&config, db, backend).await?)).await;
    drop(lock);
    done
}

pub(super) async fn run_reconcile(args: &ReconcileArgs) -> anyhow::Result<ExitCode> {
    let progress = Arc::new(Progress::begin(args.common.output, "comparing"));
    let options = ReconcileOptions { dry_run: args.dry_run, workers: args.workers.into() };
    let ended = with_store(&args.common, async |store| reconcile::run(&store, options, &progress).await).await;
    if let Some(progress) = Arc::into_inner(progress) {
        progress.end();
    }
    let run = ended?;
    let totals: serde_json::Map<_, _> = run
        .totals
        .iter()
        .filter(|(name, _)| *name != PROGRESS)
        .map(|(name, count)| (name.to_owned(), json!(count)))
        .collect();
    let json = json!({
        "run": run.id.0,
        "dry_run": run.dry_run,
        "state": run.state.as_str(),
        "reason": run.reason,
        "totals": totals,
    });
    args.common.output.print(&json, || told(&run));
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
    let forgotten = with_store(&args.common, async |store| {
        let rows = store.db().list_shares(index).await.context("cannot read the lease database")?;
        let lost = rows.iter().filter(|row| row.state == ShareState::Lost).map(|row| row.number);
        let lost: Vec<ShareNumber> = lost.filter(|lost| number.is_none_or(|number| number == *lost)).collect();
        if lost.is_empty() {
            bail!(
                "there is no lost share of {index}{}",
                number.map(|n| format!(" with number {n}")).unwrap_or_default()
            );
        }
        for number in &lost {
            let share = ShareId::new(index, *number);
            match store.forget(share).await? {
                ForgetOutcome::Forgotten => {}
                ForgetOutcome::NotLost => bail!("share {share} is not lost any more"),
                ForgetOutcome::TooEarly(runs) => {
                    bail!(
                        "share {share} may come back: run `leasehold reconcile` {runs} times more before it is forgotten"
                    )
                }
            }
        }
        Ok(lost)
    });
    let forgotten = forgotten.await?;
    let numbers: Vec<u8> = forgotten.iter().map(|number| number.get()).collect();
    let json = json!({ "storage_index": index.to_string(), "forgotten": numbers });
    args.common.output.print(&json, || format!("{} shares of {index} are forgotten", numbers.len()));
    Ok(ExitCode::SUCCESS)
}
