//! `leasehold collect`.

use std::process::ExitCode;

use anyhow::bail;
use leasehold_core::expiry::brake_on_clocks;
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::run::{RunKind, RunState};
use leasehold_core::store::Collected;
use serde_json::json;

use super::Common;
use super::expire::ending_text;
use super::opened::Opened;
use crate::jobs::progress::Progress;

pub(super) async fn run(common: &Common) -> anyhow::Result<ExitCode> {
    let opened = Opened::alone(common).await?;
    let store = &opened.store;
    let progress = Progress::begin(common.output, "collecting");
    let collected = store.collect(|so_far| progress.show(|| collected_text(so_far))).await?;
    progress.end();
    let json = json!({
        "uploads_ended": collected.uploads_ended,
        "uploads_completed": collected.uploads_completed,
        "objects_deleted": collected.objects_deleted,
        "shares_merged": collected.shares_merged,
        "shares_retired": collected.retired.count,
        "bytes_retired": collected.retired.bytes,
        "braked_run": collected.braked.map(|run| run.0),
    });
    common.output.print(&json, || collected_text(&collected));
    if let Some(sentence) = brake_on_clocks(collected.skew_seconds) {
        bail!(sentence);
    }
    let Some(id) = collected.braked else { return Ok(ExitCode::SUCCESS) };
    let runs = store.db().list_runs(Some(RunKind::Collect), 1).await?;
    let reason = runs.into_iter().find(|run| run.id == id).map(|run| run.reason).unwrap_or_default();
    bail!("shares that nobody leases were left alone: {}", ending_text(id, RunState::Braked, &reason).trim_end())
}

fn collected_text(collected: &Collected) -> String {
    format!(
        "{} shares retired; {} overdue uploads ended, {} completed; {} objects deleted; {} shares merged",
        collected.retired.count,
        collected.uploads_ended,
        collected.uploads_completed,
        collected.objects_deleted,
        collected.shares_merged
    )
}
