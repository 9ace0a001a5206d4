//! `leasehold check` and `leasehold migrate`.

use std::process::ExitCode;

use serde_json::json;

use super::Common;
use crate::check::{Level, check};
use crate::places::migrate_database;

pub(super) async fn run_migrate(common: &Common) -> anyhow::Result<ExitCode> {
    let migrated = migrate_database(&common.load_config()?).await?;
    let json = json!({ "schema_version": migrated.version, "applied": migrated.applied });
    common.output.print(&json, || match migrated.applied.len() {
        0 => format!("the schema is up to date at version {}", migrated.version),
        count => format!("{count} migrations applied; the schema is at version {}", migrated.version),
    });
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn run_check(common: &Common) -> anyhow::Result<ExitCode> {
    let config = common.load_config()?;
    let findings = check(&config, &common.data_dir).await;
    let json = findings.iter().map(|f| json!({ "level": f.level.as_str(), "text": f.text })).collect();
    common.output.print(&json, || {
        let lines: Vec<String> = findings.iter().map(|f| format!("{}: {}", f.level.as_str(), f.text)).collect();
        lines.join("\n")
    });
    let failed = findings.iter().any(|finding| finding.level == Level::Error);
    Ok(if failed { ExitCode::from(2) } else { ExitCode::SUCCESS })
}
