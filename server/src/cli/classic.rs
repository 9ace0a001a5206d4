//! `leasehold import` and `leasehold export`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use leasehold_core::account::Account;
use leasehold_core::accountant::Session;
use leasehold_core::leasedb::LeaseDb;
use leasehold_leasedb::AnyLeaseDb;
use serde_json::json;

use super::Common;
use super::opened::Opened;
use crate::jobs::export::{self, ExportTotals};
use crate::jobs::import::{self, ImportTotals, Owners};
use crate::jobs::progress::Progress;
use crate::jobs::tree::Tree;

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The storage folder of a Tahoe-LAFS node: the one with `shares` in it
    dir: PathBuf,
    /// Whose the shares become that have a lease; without this all are the starter account's for 60 days
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// A folder to write `shares` into; what is in it is kept
    dir: PathBuf,
    #[command(flatten)]
    common: Common,
}

pub(super) async fn run_import(args: ImportArgs) -> anyhow::Result<ExitCode> {
    let ImportArgs { dir, account, dry_run, common } = args;
    let tree = Tree::new(&dir);
    if !tree.has_shares() {
        bail!("{} has no folder `shares`; name the storage folder of a Tahoe-LAFS node", dir.display());
    }
    let opened = Opened::alone(&common).await?;
    if opened.config.storage.s3.is_none() && dir.canonicalize()? == opened.data.path().canonicalize()? {
        bail!("{} is the data directory itself: its shares are taken over where they are by serving it", dir.display());
    }
    let db = opened.store.db();
    let owners = Owners {
        leased: session(db, account.as_deref().unwrap_or(STARTER)).await?,
        unleased: session(db, STARTER).await?,
    };
    let progress = Progress::begin(common.output, "importing");
    let totals = import::run(&opened.store, &tree, &owners, dry_run, &progress).await?;
    progress.end();
    common.output.print(&serde_json::to_value(&totals)?, || import_text(&totals, dry_run));
    if totals.not_copied > 0 {
        bail!("{} files were not copied", totals.not_copied);
    }
    Ok(ExitCode::SUCCESS)
}

const STARTER: &str = "starter";

async fn session(db: &AnyLeaseDb, name: &str) -> anyhow::Result<Session> {
    let account: Option<Account> = db.find_account(name.to_owned()).await?;
    let account =
        account.with_context(|| format!("there is no account {name:?}; `leasehold account list` shows all"))?;
    let usage = db.usage(account.id).await?;
    Ok(Session::on_behalf_of(account, usage))
}

fn import_text(totals: &ImportTotals, dry_run: bool) -> String {
    let done = if dry_run { "would be copied" } else { "copied" };
    let mut text = format!(
        "{} shares with {} bytes {done}; {} were there; {} files not copied",
        totals.shares_copied, totals.bytes_copied, totals.shares_there, totals.not_copied
    );
    for reason in &totals.reasons {
        text.push_str(&format!("\n  {reason}"));
    }
    text
}

pub(super) async fn run_export(args: ExportArgs) -> anyhow::Result<ExitCode> {
    let ExportArgs { dir, common } = args;
    if dir.join("identity").is_dir() || dir.join("leases.sqlite").exists() {
        bail!("{} is the data directory of a server; name another folder", dir.display());
    }
    let opened = Opened::alone(&common).await?;
    let progress = Arc::new(Progress::begin(common.output, "exporting"));
    let exported = export::run(&opened.store, &dir, &progress).await;
    if let Some(progress) = Arc::into_inner(progress) {
        progress.end();
    }
    let totals = exported?;
    let json = json!({ "folder": dir.display().to_string(), "totals": totals });
    common.output.print(&json, || export_text(&totals));
    if totals.shares_missing > 0 {
        bail!(
            "{} shares were not exported: their bytes are not in the backend; `leasehold reconcile` tells which",
            totals.shares_missing
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn export_text(totals: &ExportTotals) -> String {
    let mut text = format!(
        "{} shares with {} bytes written; {} were there",
        totals.shares_written, totals.bytes_written, totals.shares_there
    );
    if totals.shares_read_only > 0 {
        text.push_str(&format!(
            "\n{} mutable shares can be read from the folder, but not written: their write enablers are kept as hashes only. \
             Where a client writes such a file, it puts new shares on other servers.",
            totals.shares_read_only
        ));
    }
    text
}
