//! Copies a classic server's shares into this deployment.

use anyhow::Context;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use leasehold_core::accountant::Session;
use leasehold_core::backend::Backend;
use leasehold_core::id::{ShareId, StorageIndex};
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::store::{Imported, Incoming, Store};
use serde::Serialize;

use super::progress::Progress;
use super::tree::Tree;

/// Storage indexes that are copied at once.
const AT_ONCE: usize = 8;
/// How many files that were not copied are named; the others are counted.
const NAMED_MAX: usize = 100;

/// Whose the copied shares are.
pub struct Owners {
    /// Of shares that somebody leases.
    pub leased: Session,
    /// Of the others: the starter account.
    pub unleased: Session,
}

/// What an import did, or would do.
#[derive(Debug, Default, Serialize)]
pub struct ImportTotals {
    /// Shares copied.
    pub shares_copied: u64,
    /// Their data, in bytes.
    pub bytes_copied: u64,
    /// Shares that were there.
    pub shares_there: u64,
    /// Files that were not copied.
    pub not_copied: u64,
    /// The first of them, each with the reason.
    pub reasons: Vec<String>,
}

impl ImportTotals {
    fn refuse(&mut self, file: String, reason: &str) {
        self.not_copied += 1;
        if self.reasons.len() < NAMED_MAX {
            self.reasons.push(format!("{file}: {reason}"));
        }
    }

    fn add(&mut self, other: Self) {
        self.shares_copied += other.shares_copied;
        self.bytes_copied += other.bytes_copied;
        self.shares_there += other.shares_there;
        self.not_copied += other.not_copied;
        self.reasons.extend(other.reasons);
        self.reasons.truncate(NAMED_MAX);
    }
}

/// Copies all shares of a tree. What is there already is leased and left as it is, so an import that broke off can be repeated.
///
/// # Errors
/// Tree, lease database or backend fail; what was copied until then is copied.
pub async fn run<L: LeaseDb, B: Backend>(
    store: &Store<L, B>,
    tree: &Tree,
    owners: &Owners,
    dry_run: bool,
    progress: &Progress,
) -> anyhow::Result<ImportTotals> {
    let mut totals = ImportTotals::default();
    let prefixes = tree.prefixes().context("cannot list the shares to import")?;
    for (done, prefix) in prefixes.iter().enumerate() {
        let indexes = tree.storage_indexes(prefix).with_context(|| format!("cannot list the shares in {prefix}"))?;
        let imports = indexes.into_iter().map(|index| import_one(store, tree, owners, index, dry_run));
        let mut imports = stream::iter(imports).buffer_unordered(AT_ONCE);
        while let Some(imported) = imports.try_next().await? {
            totals.add(imported);
            progress.show_part(done as u64, prefixes.len() as u64, || {
                format!("{} shares, {} bytes", totals.shares_copied + totals.shares_there, totals.bytes_copied)
            });
        }
        // Uploads go by what is known of the room that is left.
        store.refresh_space().await.context("cannot measure the backend's room")?;
    }
    totals.reasons.sort();
    Ok(totals)
}

async fn import_one<L: LeaseDb, B: Backend>(
    store: &Store<L, B>,
    tree: &Tree,
    owners: &Owners,
    index: StorageIndex,
    dry_run: bool,
) -> anyhow::Result<ImportTotals> {
    let mut totals = ImportTotals::default();
    let owned = tree.clone();
    let read = tokio::task::spawn_blocking(move || owned.containers(index)).await?;
    let (incoming, unreadable) = read.with_context(|| format!("cannot read the shares of {index}"))?;
    for file in unreadable {
        totals.refuse(file.path.display().to_string(), &file.reason);
    }
    // All shares of a slot are written at once, so they have one owner; those of a bucket usually have.
    let is_leased = incoming.iter().any(|incoming| !incoming.leases.is_empty());
    let owner = if is_leased { &owners.leased } else { &owners.unleased };
    let outcomes = store.import_shares(owner, index, &incoming, dry_run).await;
    for (number, outcome) in outcomes.with_context(|| format!("cannot import the shares of {index}"))? {
        match outcome {
            Imported::Copied => {
                totals.shares_copied += 1;
                totals.bytes_copied += size_of(&incoming, number);
            }
            Imported::There => totals.shares_there += 1,
            Imported::Refused(reason) => {
                totals.refuse(tree.path(ShareId::new(index, number)).display().to_string(), &reason.to_string());
            }
        }
    }
    Ok(totals)
}

fn size_of(incoming: &[Incoming], number: leasehold_core::id::ShareNumber) -> u64 {
    incoming.iter().find(|incoming| incoming.number == number).map_or(0, |found| found.container.size_bytes)
}
