//! `leasehold backup` and `leasehold restore`.

use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use leasehold_config::Size;
use leasehold_core::backup::BackupName;
use leasehold_core::backup::backups::{BackupProgress, Backups, Verified};
use leasehold_core::backup::manifest::Manifest;
use leasehold_core::backup::recount::Held;
use leasehold_core::backup::table::{ACCOUNTS, LEASES, SHARES};
use leasehold_core::id::AccountId;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::Common;
use super::opened::{Opened, lock};
use crate::backend::any::AnyBackend;
use crate::datadir::DataDir;
use crate::jobs::backup::{self, BackupOutcome};
use crate::jobs::progress::Progress;
use crate::output::{table, time_text};
use crate::places::{open_backend, open_lease_db, unclaimed_store};
use crate::telemetry;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct BackupArgs {
    #[command(subcommand)]
    command: Option<BackupCommand>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum BackupCommand {
    /// List the backups in the backend
    List(Common),
}

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// Which backup: its name, as `leasehold backup list` shows it, or `latest`
    #[arg(long, value_name = "NAME", default_value = "latest")]
    from: From,
    /// Only read the backup and compare every checksum, count and sum; change nothing
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    common: Common,
}

/// Which backup: `None` is the newest.
#[derive(Clone, Copy, Debug)]
struct From(Option<BackupName>);

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "latest" => Ok(Self(None)),
            text => text.parse().map(|name| Self(Some(name))).map_err(|error| format!("{error}, nor `latest`")),
        }
    }
}

pub(super) async fn run_backup(args: BackupArgs) -> anyhow::Result<ExitCode> {
    if let Some(BackupCommand::List(common)) = args.command {
        return list(&common).await;
    }
    let common = args.common;
    let opened = Opened::alone(&common).await?;
    let progress = Progress::begin(common.output, "backing up");
    let outcome = backup::run(&opened.store, backup::keep(&opened.config), &progress).await;
    progress.end();
    match outcome.context("no backup was taken")? {
        BackupOutcome::Taken(manifest, removed) => {
            let mut json = manifest_json(&manifest);
            json["backups_removed"] = removed.into();
            common.output.print(&json, || {
                let size = Size(manifest.packed_bytes());
                format!("backup {}\n{} in {size}; {removed} older backups removed", manifest.name, counts(&manifest))
            });
            Ok(ExitCode::SUCCESS)
        }
        BackupOutcome::Running(run) => bail!(
            "run {} is taking a backup since {}; wait for its end, or for five minutes if its process has died",
            run.id,
            time_text(run.started_at)
        ),
    }
}

/// The backups of the configured backend, without the database that may be gone.
fn open_backups(common: &Common) -> anyhow::Result<Backups<AnyBackend>> {
    let config = common.load_config()?;
    let data = match config.storage.s3 {
        None => DataDir::existing(&common.data_dir)?,
        Some(_) => DataDir::nowhere(),
    };
    Ok(Backups::of(Arc::new(open_backend(&config, &data, &mut Registry::default())?)))
}

async fn list(common: &Common) -> anyhow::Result<ExitCode> {
    let backups = open_backups(common)?;
    let mut json = Vec::new();
    let mut lines = vec![["NAME", "TAKEN", "ACCOUNTS", "SHARES", "LEASES", "SIZE"].map(str::to_owned)];
    for backup in backups.list().await? {
        let name = backup.name.to_string();
        if !backup.is_complete() {
            json.push(json!({ "name": name, "complete": false }));
            lines.push([&name, &time_text(backup.name.id.made_at()), "unfinished", "", "", ""].map(str::to_owned));
            continue;
        }
        match backups.read_manifest(&backup).await {
            Ok(manifest) => {
                json.push(manifest_json(&manifest));
                let rows = [&ACCOUNTS, &SHARES, &LEASES].map(|table| manifest.rows_of(table).to_string());
                let [accounts, shares, leases] = rows;
                let size = Size(manifest.packed_bytes()).to_string();
                lines.push([name, time_text(manifest.instant.taken_at), accounts, shares, leases, size]);
            }
            Err(error) => {
                json.push(json!({ "name": name, "complete": true, "problem": error.to_string() }));
                lines.push([&name, &time_text(backup.name.id.made_at()), "damaged", "", "", ""].map(str::to_owned));
            }
        }
    }
    common.output.print(&json.clone().into(), || {
        if json.is_empty() { "there are no backups".to_owned() } else { table(&lines) }
    });
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn run_restore(args: RestoreArgs) -> anyhow::Result<ExitCode> {
    let RestoreArgs { from: From(name), verify, common } = args;
    if verify {
        let backups = open_backups(&common)?;
        let progress = Progress::begin(common.output, "verifying");
        let verified = backups.verify(&backups.find(name).await?, show(&progress)).await;
        progress.end();
        let verified = verified?;
        common.output.print(&verified_json(&verified), || {
            format!("{} is sound\n{}{}", verified.manifest.name, counts(&verified.manifest), disagreements(&verified))
        });
        return Ok(ExitCode::SUCCESS);
    }
    let config = common.load_config()?;
    telemetry::init(&config.log).map_err(anyhow::Error::msg)?;
    let data = DataDir::create(&common.data_dir)?;
    let lock = lock(&config, &data)?;
    let db = open_lease_db(&config, &data, &mut Registry::default()).await?;
    let store = unclaimed_store(&config, db, open_backend(&config, &data, &mut Registry::default())?);
    let backup = store.backups().find(name).await?;
    let progress = Progress::begin(common.output, "restoring");
    let restored = store.restore(&backup, show(&progress)).await;
    progress.end();
    drop(lock);
    let restored = restored.context("nothing was restored")?;
    let mut json = verified_json(&restored.verified);
    json["new_epoch"] = restored.epoch.0.into();
    common.output.print(&json, || {
        let manifest = &restored.verified.manifest;
        format!(
            "restored {}\n{}{}\nEpoch {} begins in recovery mode: everything is served, and nothing is deleted or expires before\n\
             `leasehold reconcile` has compared the backend with the database. Start the server now.",
            manifest.name,
            counts(manifest),
            disagreements(&restored.verified),
            restored.epoch.0,
        )
    });
    Ok(ExitCode::SUCCESS)
}

fn show(progress: &Progress) -> impl Fn(BackupProgress) + Sync + Send {
    |so_far: BackupProgress| {
        progress.show_part(so_far.rows, so_far.rows_expected.unwrap_or(so_far.rows), || {
            format!("{} rows read", so_far.rows)
        });
    }
}

fn counts(manifest: &Manifest) -> String {
    let [accounts, shares, leases] = [&ACCOUNTS, &SHARES, &LEASES].map(|table| manifest.rows_of(table));
    let taken = time_text(manifest.instant.taken_at);
    format!("{accounts} accounts, {shares} shares, {leases} leases, as of {taken}")
}

fn disagreements(verified: &Verified) -> String {
    let line = |(account, counters, leases): &(AccountId, Held, Held)| {
        format!("\naccount {account} was said to use {} bytes, its leases come to {}", counters.bytes, leases.bytes)
    };
    verified.disagreements.iter().map(line).collect()
}

fn manifest_json(manifest: &Manifest) -> Value {
    json!({
        "name": manifest.name.to_string(),
        "complete": true,
        "taken_at": time_text(manifest.instant.taken_at),
        "deployment": manifest.instant.deployment.to_string(),
        "epoch": manifest.instant.epoch.0,
        "accounts": manifest.rows_of(&ACCOUNTS),
        "shares": manifest.rows_of(&SHARES),
        "leases": manifest.rows_of(&LEASES),
        "rows": manifest.rows(),
        "parts": manifest.parts.len(),
        "size_bytes": manifest.packed_bytes(),
    })
}

fn verified_json(verified: &Verified) -> Value {
    let mut json = manifest_json(&verified.manifest);
    let wrong = verified.disagreements.iter().map(|(account, counters, leases)| {
        json!({ "account_id": account.to_string(), "counted_bytes": counters.bytes, "leased_bytes": leases.bytes })
    });
    json["wrong_counters"] = wrong.collect();
    json
}
