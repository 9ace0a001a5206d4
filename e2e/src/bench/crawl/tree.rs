//! A tree of shares, and the data directory of a server that has taken it over: made once, measured on copies.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::place::Place;
use super::{row, say};
use crate::gbs::storage_index_text;
use crate::leasehold::Server;

const SHARE_BYTES: usize = 100;
/// The server that takes the tree over.
const PREPARED: &str = "prepared";
/// The files that say that the shares are made, and that they are taken over.
const MADE: &str = "made";
const DONE: &str = "prepared/done";

/// A tree with so many shares, taken over.
pub(super) struct Tree {
    folder: PathBuf,
    shares: u64,
}

impl Tree {
    /// Makes the tree and takes it over, unless that was done before.
    pub(super) fn at(folder: &Path, shares: u64) -> Result<Self> {
        let tree = Self { folder: folder.to_owned(), shares };
        if !folder.join(MADE).exists() {
            tree.make().context("cannot make the tree")?;
        }
        if !folder.join(DONE).exists() {
            tree.take_over().context("cannot take the tree over")?;
        }
        Ok(tree)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn shares(&self) -> u64 {
        self.shares
    }

    /// The data directory that copies are made of.
    pub(super) fn prepared(&self) -> PathBuf {
        self.folder.join(PREPARED).join("data")
    }

    pub(super) fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.folder).context("cannot remove the tree")
    }

    fn make(&self) -> Result<()> {
        if self.folder.exists() {
            self.remove()?;
        }
        say(&format!("making a tree of {} shares", self.shares));
        self.make_shares()?;
        fs::write(self.folder.join(MADE), "")?;
        Ok(())
    }

    fn take_over(&self) -> Result<()> {
        drop(fs::remove_dir_all(self.folder.join(PREPARED)));
        let data = self.prepared();
        fs::create_dir_all(&data)?;
        std::os::unix::fs::symlink(self.folder.join("shares"), data.join("shares"))?;
        let place = Place::of(self, PREPARED, None)?;
        // Its first start makes an identity and an account.
        Server::start(PREPARED, &self.folder, None)?.terminate()?;
        row(self.shares, "SQLite", "reconcile, taking over", &place.command(&["reconcile"])?);
        place.execute(Place::AT_PEACE)?;
        place.command(&["backup"])?;
        fs::write(self.folder.join(DONE), "")?;
        Ok(())
    }

    /// A classic storage directory: one share of each storage index, with one lease.
    fn make_shares(&self) -> Result<()> {
        let mut random = StdRng::seed_from_u64(self.shares);
        let expires = now_seconds() as u32 + 31 * 86_400;
        for _ in 0..self.shares {
            let index = storage_index_text(&random.random());
            let folder = self.folder.join("shares").join(&index[..2]).join(&index);
            fs::create_dir_all(&folder)?;
            let mut share = Vec::with_capacity(12 + SHARE_BYTES + 72);
            for word in [1, SHARE_BYTES as u32, 1] {
                share.extend_from_slice(&word.to_be_bytes());
            }
            share.extend((0..SHARE_BYTES).map(|_| random.random::<u8>()));
            share.extend_from_slice(&0u32.to_be_bytes());
            share.extend((0..64).map(|_| random.random::<u8>()));
            share.extend_from_slice(&expires.to_be_bytes());
            fs::File::create(folder.join("0"))?.write_all(&share)?;
        }
        Ok(())
    }
}

pub(super) fn now_seconds() -> i64 {
    #[allow(clippy::disallowed_methods, reason = "leases of a benchmark are about today")]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}
