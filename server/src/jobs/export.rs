//! Writes this deployment's shares as a tree that a classic server serves.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use leasehold_core::backend::Backend;
use leasehold_core::crawl::unit::Prefix;
use leasehold_core::id::StorageIndex;
use leasehold_core::leasedb::{LeaseDb, Mode};
use leasehold_core::run::RunState;
use leasehold_core::share::ShareKind;
use leasehold_core::store::{Outgoing, Store, StoreError};
use serde::Serialize;

use super::progress::Progress;
use super::reconcile::{self, ReconcileOptions};
use super::tree::{self, Tree};

/// Storage indexes that are written at once.
const AT_ONCE: usize = 8;
const PAGE: u32 = 1000;
/// How often a share that is being changed is looked at again.
const ATTEMPTS_MAX: usize = 5;

/// What an export wrote.
#[derive(Debug, Default, Serialize)]
pub struct ExportTotals {
    /// Shares written.
    pub shares_written: u64,
    /// Their data, in bytes.
    pub bytes_written: u64,
    /// Immutable shares that were in the tree already.
    pub shares_there: u64,
    /// Mutable shares among all these that can only be read: their write enabler is not known.
    pub shares_read_only: u64,
    /// Shares whose bytes are not in the backend.
    pub shares_missing: u64,
}

impl ExportTotals {
    const fn add(&mut self, other: &Self) {
        self.shares_written += other.shares_written;
        self.bytes_written += other.bytes_written;
        self.shares_there += other.shares_there;
        self.shares_read_only += other.shares_read_only;
        self.shares_missing += other.shares_missing;
    }
}

/// Writes all stable shares. In recovery mode they are looked for first: not all may have rows. Immutable ones that are in the tree with the same size are left as they are, so an export that broke
/// off can be repeated; mutable ones are written anew.
///
/// # Errors
/// Tree, lease database or backend fail; what was written until then is whole.
pub async fn run<L: LeaseDb, B: Backend>(
    store: &Arc<Store<L, B>>,
    root: &Path,
    progress: &Arc<Progress>,
) -> anyhow::Result<ExportTotals> {
    if store.db().deployment().await?.mode == Mode::Recovery {
        let run = reconcile::run(store, ReconcileOptions { dry_run: false, workers: AT_ONCE, slowly: false }, progress)
            .await?;
        if run.state != RunState::Done {
            bail!("not all shares could be found: {}", run.reason);
        }
    }
    fs::create_dir_all(root.join("shares/incoming")).with_context(|| format!("cannot make {}", root.display()))?;
    let tree = Tree::new(root);
    let mut totals = ExportTotals::default();
    let (mut after, mut done) = (None, None);
    loop {
        let page = store.db().page_shares(Prefix::default(), after, PAGE).await.context("cannot list the shares")?;
        let Some(last) = page.last() else { break };
        after = Some(last.share);
        let mut indexes: Vec<StorageIndex> = page.iter().map(|crawled| crawled.share.storage_index).collect();
        indexes.dedup();
        // One that began on the page before is done.
        indexes.retain(|index| done.replace(*index) != Some(*index));
        let mut exports =
            stream::iter(indexes.into_iter().map(|index| export_one(store, &tree, index))).buffer_unordered(AT_ONCE);
        while let Some(written) = exports.try_next().await? {
            totals.add(&written);
            progress.show(|| format!("{} shares, {} bytes", totals.shares_written, totals.bytes_written));
        }
    }
    // One wait for the disk, not one for each file: an export that did not end is repeated.
    let folder = File::open(root)?;
    rustix::fs::syncfs(&folder).context("cannot make the exported shares durable")?;
    Ok(totals)
}

async fn export_one<L: LeaseDb, B: Backend>(
    store: &Store<L, B>,
    tree: &Tree,
    index: StorageIndex,
) -> anyhow::Result<ExportTotals> {
    let mut attempt = 1;
    loop {
        let written = try_export(store, tree, index).await;
        let written = written.with_context(|| format!("cannot export the shares of {index}"))?;
        // Perhaps they were changed between the look at their rows and the reading of their bytes.
        if written.shares_missing == 0 || attempt == ATTEMPTS_MAX {
            return Ok(written);
        }
        attempt += 1;
    }
}

async fn try_export<L: LeaseDb, B: Backend>(
    store: &Store<L, B>,
    tree: &Tree,
    index: StorageIndex,
) -> anyhow::Result<ExportTotals> {
    let mut totals = ExportTotals::default();
    for outgoing in store.export_shares(index).await? {
        totals.shares_read_only += u64::from(!outgoing.writable);
        if outgoing.kind == ShareKind::Immutable && is_there(tree, index, &outgoing) {
            totals.shares_there += 1;
            continue;
        }
        match write(store, tree, index, &outgoing).await {
            Ok(()) => {
                totals.shares_written += 1;
                totals.bytes_written += outgoing.data.length_bytes;
            }
            Err(error) if matches!(error.downcast_ref(), Some(StoreError::Vanished(_))) => totals.shares_missing += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(totals)
}

fn is_there(tree: &Tree, index: StorageIndex, outgoing: &Outgoing) -> bool {
    let share = outgoing.share(index);
    let there = tree::open(share, &tree.path(share)).ok().and_then(Result::ok);
    there.is_some_and(|there| {
        there.container.kind == outgoing.kind && there.container.size_bytes == outgoing.data.length_bytes
    })
}

/// Writes a container under another name and moves it to its own: it is there whole or not at all.
async fn write<L: LeaseDb, B: Backend>(
    store: &Store<L, B>,
    tree: &Tree,
    index: StorageIndex,
    outgoing: &Outgoing,
) -> anyhow::Result<()> {
    let share = outgoing.share(index);
    let mut data = store.open_slice(&outgoing.data).await?;
    let (path, making) = (tree.path(share), tree.incoming_path(share));
    for folder in [&path, &making].into_iter().filter_map(|path| path.parent()) {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let cannot = || format!("cannot write {}", making.display());
    let mut file = File::create(&making).with_context(cannot)?;
    file.write_all(&outgoing.frame.head).with_context(cannot)?;
    while let Some(block) = data.try_next().await? {
        let mut writing = file;
        file = tokio::task::spawn_blocking(move || writing.write_all(&block).map(|()| writing))
            .await?
            .with_context(cannot)?;
    }
    file.write_all(&outgoing.frame.tail).with_context(cannot)?;
    fs::rename(&making, &path).with_context(|| format!("cannot move {}", making.display()))
}
