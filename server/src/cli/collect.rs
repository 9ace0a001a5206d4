//! `leasehold collect`.

use std::process::ExitCode;

use leasehold_core::store::Collected;
use prometheus_client::registry::Registry;
use serde_json::json;

use super::{Common, open};
use crate::jobs::progress::Progress;
use crate::places::{open_backend, open_store};
use crate::telemetry;

pub(super) async fn run(common: &Common) -> anyhow::Result<ExitCode> {
    let (config, data, db) = open(common).await?;
    telemetry::init(&config.log).map_err(anyhow::Error::msg)?;
    // A directory belongs to one process: that of its server, which collects by itself.
    let lock = if config.storage.s3.is_some() { None } else { Some(data.lock()?) };
    let backend = open_backend(&config, &data, &mut Registry::default())?;
    let store = open_store(&config, db, backend).await?;
    let progress = Progress::begin(common.output, "collecting");
    let collected = store.collect(|so_far| progress.show(|| collected_text(so_far))).await?;
    progress.end();
    let json = json!({
        "uploads_ended": collected.uploads_ended,
        "uploads_completed": collected.uploads_completed,
        "objects_deleted": collected.objects_deleted,
        "shares_merged": collected.shares_merged,
    });
    common.output.print(&json, || collected_text(&collected));
    drop(lock);
    Ok(ExitCode::SUCCESS)
}

fn collected_text(collected: &Collected) -> String {
    format!(
        "{} overdue uploads ended, {} completed; {} objects deleted; {} shares merged",
        collected.uploads_ended, collected.uploads_completed, collected.objects_deleted, collected.shares_merged
    )
}
