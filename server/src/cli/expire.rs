//! `leasehold expire`, `undo`, `allow` and `runs`: what ends, what is put back, and what has run.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use leasehold_config::Size;
use leasehold_core::expiry::Lapse;
use leasehold_core::id::ShareId;
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::run::{PermitOutcome, Run, RunId, RunKind, RunState};
use leasehold_core::store::{ExpireReport, ExpireRequest, Expired, UndoneRun};
use serde_json::{Value, json};

use super::Common;
use super::opened::{Opened, Shares, open};
use crate::jobs::expire::{expire, policy};
use crate::jobs::progress::Progress;
use crate::output::{table, time_text};
use crate::status::run_json;

/// How many runs are shown.
const RUNS_SHOWN: u32 = 20;

#[derive(Debug, Args)]
pub(super) struct ExpireArgs {
    /// Show who would lose what, and remove nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct UndoArgs {
    /// A storage index, or one of its shares as INDEX/NUMBER
    #[arg(value_name = "INDEX[/NUMBER]", required_unless_present = "run", conflicts_with = "run")]
    what: Option<Shares>,
    /// A run of `leasehold expire`: the leases that it removed, and shares that went for want of them
    #[arg(long, value_name = "RUN")]
    run: Option<RunId>,
    #[command(flatten)]
    common: Common,
}

pub(super) async fn run_expire(args: ExpireArgs) -> anyhow::Result<ExitCode> {
    let common = args.common;
    let Some(policy) = policy(&common.load_config()?) else {
        bail!("leases do not end here: expire.enabled is not set in the configuration");
    };
    let opened = Opened::beside_servers(&common).await?;
    let request = ExpireRequest { policy, dry_run: args.dry_run };
    match expire(&opened.store, request, Progress::begin(common.output, "expiring")).await? {
        Expired::Busy(run) => bail!("run {} of expire is under way since {}", run.id, time_text(run.started_at)),
        Expired::Ended(report) => {
            common.output.print(&report_json(&report), || report_text(&report));
            Ok(exit_code(report.state))
        }
    }
}

/// A run that did not do what it was to do is a failure for whoever started it.
pub(super) fn exit_code(state: RunState) -> ExitCode {
    if state == RunState::Done { ExitCode::SUCCESS } else { ExitCode::from(2) }
}

fn report_json(report: &ExpireReport) -> Value {
    let lapses = report.lapses.iter().map(|(account, lapse)| {
        json!({
            "account_id": account.to_string(),
            "name": lapse.name,
            "leases": lapse.all.count,
            "bytes": lapse.all.bytes,
            "ended_leases": lapse.ended.count,
            "ended_bytes": lapse.ended.bytes,
        })
    });
    json!({
        "run": report.run.id.0,
        "dry_run": report.run.dry_run,
        "policy": report.run.policy,
        "state": report.state.as_str(),
        "reason": report.reason,
        "leases": report.counted.examined.count,
        "ended_leases": report.counted.ended.count,
        "ended_bytes": report.counted.ended.bytes,
        "removed_leases": report.counted.removed.count,
        "removed_bytes": report.counted.removed.bytes,
        "unleased_shares": report.counted.unleased,
        "accounts": lapses.collect::<Vec<_>>(),
    })
}

fn report_text(report: &ExpireReport) -> String {
    let counted = &report.counted;
    let mut text = String::new();
    let losers = || report.lapses.iter().filter(|(_, lapse)| lapse.ended.count > 0);
    if losers().next().is_some() {
        let mut rows = vec![["ACCOUNT", "LEASES", "ENDED", "ENDED BYTES"].map(str::to_owned)];
        rows.extend(losers().map(|(_, lapse)| lapse_row(lapse)));
        text.push_str(&table(&rows));
        text.push('\n');
    }
    text.push_str(&format!(
        "run {}: {} of {} leases have ended ({}); {} removed, {} shares are leased by nobody since\n",
        report.run.id,
        counted.ended.count,
        counted.examined.count,
        Size(counted.ended.bytes),
        counted.removed.count,
        counted.unleased,
    ));
    text.push_str(&ending_text(report.run.id, report.state, &report.reason));
    text
}

fn lapse_row(lapse: &Lapse) -> [String; 4] {
    let counts = [lapse.all.count, lapse.ended.count].map(|count| count.to_string());
    let [all, ended] = counts;
    [lapse.name.clone(), all, ended, Size(lapse.ended.bytes).to_string()]
}

/// How a run ended, and what to do about it.
pub(super) fn ending_text(run: RunId, state: RunState, reason: &str) -> String {
    match state {
        RunState::Braked => {
            format!("braked: {reason}; if that is as it should be, `leasehold allow {run}` lets the next run go on\n")
        }
        _ if reason.is_empty() => String::new(),
        _ => format!("{reason}\n"),
    }
}

pub(super) async fn run_undo(args: UndoArgs) -> anyhow::Result<ExitCode> {
    let common = args.common;
    let opened = Opened::beside_servers(&common).await?;
    let undone = match (args.what, args.run) {
        (Some(Shares(index, number)), _) => {
            let undone = opened.store.undo(index, number).await?;
            let refusals = undone.refused.iter().map(|(number, why)| (ShareId::new(index, *number), *why));
            UndoneRun {
                storage_indexes: 1,
                shares: undone.shares.len() as u64,
                leases: undone.leases,
                refused: undone.refused.len() as u64,
                refusals: refusals.collect(),
            }
        }
        (None, Some(run)) => {
            let progress = Progress::begin(common.output, "putting back");
            let undone = opened.store.undo_run(run, |so_far| progress.show(|| undone_text(so_far))).await;
            progress.end();
            undone?
        }
        (None, None) => bail!("name a storage index or a run"),
    };
    let refusals =
        undone.refusals.iter().map(|(share, why)| json!({ "share": share.to_string(), "why": why.to_string() }));
    let json = json!({
        "shares": undone.shares,
        "leases": undone.leases,
        "refused": undone.refused,
        "refusals": refusals.collect::<Vec<_>>(),
    });
    common.output.print(&json, || {
        let mut text = undone_text(&undone);
        for (share, why) in &undone.refusals {
            text.push_str(&format!("\n{share} stays away: {why}"));
        }
        text
    });
    Ok(if undone.refused == 0 { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn undone_text(undone: &UndoneRun) -> String {
    format!("{} shares and {} leases are back", undone.shares, undone.leases)
}

pub(super) async fn run_allow(id: RunId, common: &Common) -> anyhow::Result<ExitCode> {
    let (_, _, db) = open(common).await?;
    match db.permit_run(id).await.context("cannot reach the lease database")? {
        PermitOutcome::Permitted => {
            let json = json!({ "run": id.0, "allowed": true });
            common.output.print(&json, || format!("the next run of its kind may do what run {id} was kept from, once"));
            Ok(ExitCode::SUCCESS)
        }
        PermitOutcome::Unknown => bail!("there is no run {id}; `leasehold runs` shows all"),
        PermitOutcome::NotBraked => bail!("no brake has stopped run {id}"),
        PermitOutcome::Superseded => bail!("a later run of its kind has begun since run {id}; look at that one"),
    }
}

pub(super) async fn run_runs(kind: Option<&str>, common: &Common) -> anyhow::Result<ExitCode> {
    let kind = match kind {
        None => None,
        Some(word) => Some(RunKind::ALL.into_iter().find(|kind| kind.as_str() == word).context("no such kind of run")?),
    };
    let (_, _, db) = open(common).await?;
    let runs = db.list_runs(kind, RUNS_SHOWN).await.context("cannot read the lease database")?;
    let json = runs.iter().map(run_json).collect();
    common.output.print(&json, || {
        let mut rows = vec![["RUN", "KIND", "BEGAN", "STATE", "WHAT", "WHY"].map(str::to_owned)];
        rows.extend(runs.iter().map(run_row));
        table(&rows)
    });
    Ok(ExitCode::SUCCESS)
}

fn run_row(run: &Run) -> [String; 6] {
    let counted = run.totals.shown().filter(|(_, count)| *count > 0);
    let counted: Vec<String> = counted.map(|(name, count)| format!("{name} {count}")).collect();
    let kind = if run.dry_run { format!("{} (dry)", run.kind) } else { run.kind.to_string() };
    let state = run.state.to_string();
    [run.id.to_string(), kind, time_text(run.started_at), state, counted.join(", "), run.reason.clone()]
}
