//! `leasehold share …`.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Subcommand;
use leasehold_core::id::StorageIndex;
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::share::ShareState;
use serde_json::json;

use super::{Common, open};
use crate::output::{table, time_text};

#[derive(Debug, Subcommand)]
pub(super) enum ShareCommand {
    /// Show the shares of a storage index: sizes, leaseholders, expiry times
    Show {
        /// 26 base32 characters, as in a client's logs
        storage_index: StorageIndex,
        #[command(flatten)]
        common: Common,
    },
}

pub(super) async fn run(command: ShareCommand) -> anyhow::Result<ExitCode> {
    match command {
        ShareCommand::Show { storage_index, common } => show_shares(storage_index, &common).await,
    }
}

async fn show_shares(index: StorageIndex, common: &Common) -> anyhow::Result<ExitCode> {
    let (_, _, db) = open(common).await?;
    let db = Arc::new(db);
    let rows = db.list_shares(index).await.context("cannot read the lease database")?;
    let leases = db.list_leases(index).await?;
    let state = |state| if state == ShareState::Stable { "stable" } else { "lost" };
    let mut shares = Vec::new();
    let mut lines = vec![["SHARE", "TYPE", "SIZE", "STATE", "LEASED BY", "UNTIL"].map(str::to_owned)];
    for row in &rows {
        let of_share = || leases.iter().filter(|lease| lease.number == row.number);
        let holders: Vec<_> = of_share()
            .map(|lease| json!({ "account": lease.account_name, "expires_at": time_text(lease.lease.expires_at) }))
            .collect();
        shares.push(json!({
            "share_number": row.number.get(),
            "type": row.kind.as_str(),
            "size_bytes": row.size_bytes,
            "state": state(row.state),
            "leases": holders,
        }));
        let cells = |holder: String, until: String| {
            let share = [row.number.to_string(), row.kind.as_str().to_owned(), row.size_bytes.to_string()];
            let [number, kind, size] = share;
            [number, kind, size, state(row.state).to_owned(), holder, until]
        };
        lines.extend(of_share().map(|l| cells(l.account_name.clone(), time_text(l.lease.expires_at))));
        if of_share().next().is_none() {
            lines.push(cells("nobody".to_owned(), "-".to_owned()));
        }
    }
    let json = json!({ "storage_index": index.to_string(), "shares": shares });
    common.output.print(
        &json,
        || {
            if rows.is_empty() { format!("there are no shares of {index}") } else { table(&lines) }
        },
    );
    Ok(ExitCode::SUCCESS)
}
