//! Comparing rows with objects: what is looked at, and what may follow from it.
//!
//! Whoever compares (the first touch of a storage index in recovery mode, a reconcile run) surveys the rows, lists the
//! folder, reads what manifests it needs, and hands all of it to [`LeaseDb::settle`](crate::leasedb::LeaseDb::settle):
//! one transaction that looks at the rows again and decides by one rule. Nothing else makes rows of objects that are
//! there, or marks shares whose objects are not (`accounting.md` 8.3, `review.md` A1, A7, A11, C1–C3).

pub mod brake;
pub mod group;
pub mod slot;
pub mod unit;

use std::collections::HashSet;

use crate::chunk::ObjectName;
use crate::classic::{ClassicShare, Damage};
use crate::clock::Timestamp;
use crate::id::{AccountId, ObjectId, ShareId, StorageIndex};
use crate::leasedb::{Epoch, Mode, ShareRow, SlotToken};
use crate::manifest::Manifest;
use crate::run::Totals;
use crate::trouble::DamagedObject;

/// How old objects that no row names must be before anything is made of them, in seconds: by then whoever stored them
/// has been refused or has died (R5).
pub const ORPHAN_AGE_SECONDS: i64 = 24 * 3600;
/// How long recovery lasts at the least, in seconds: by then no request that was signed before it is obeyed
/// (`review.md` C4).
pub const RECOVERY_SECONDS_MIN: i64 = 15 * 60;
/// How many reconcile cycles must have missed a share before it may be forgotten.
pub const CYCLES_BEFORE_FORGETTING: u32 = 2;

/// An object as a listing shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub name: ObjectName,
    /// Its length in bytes.
    pub length_bytes: u64,
}

/// What the lease database knows of a storage index, read before its folder is listed.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The database's time.
    pub now: Timestamp,
    /// The epoch.
    pub epoch: Epoch,
    /// The mode.
    pub mode: Mode,
    /// Whether the storage index was settled in this epoch.
    pub settled: bool,
    /// Its shares, ascending.
    pub shares: Vec<ShareRow>,
    /// The slot's token and the object that holds only its manifest, if there is a slot.
    pub slot: Option<(SlotToken, Option<ObjectName>)>,
}

/// What a slot's object says of the commit that stored it; `None` where it cannot be read as a manifest.
pub type ReadManifest = (ObjectName, Option<Manifest>);

/// What a container in the classic form says of its share, or what is wrong with it.
pub type ReadContainer = (ObjectName, Result<ClassicShare, Damage>);

/// A comparison of rows with objects, to be acted on.
#[derive(Clone, Debug)]
pub struct Settle {
    /// What is compared.
    pub storage_index: StorageIndex,
    /// The rows before the listing. Where they are others by now, nothing follows from what was not listed.
    pub seen: Survey,
    /// All objects of ours in the folder.
    pub listed: Vec<Stored>,
    /// Manifests of listed objects; where none were needed, none.
    pub manifests: Vec<ReadManifest>,
    /// Listed containers that no row names, ascending by share.
    pub containers: Vec<ReadContainer>,
    /// A fresh random value, for the slot if it changes.
    pub token: SlotToken,
    /// Whether only to say what would be done.
    pub dry_run: bool,
}

/// What became of a [`Settle`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettleOutcome {
    /// Rows and objects agree now, as far as they can.
    Settled(Findings),
    /// Rows, mode or epoch are others than those surveyed; nothing was changed: look again.
    Changed,
}

/// What was found in one storage index, and done about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Shares that got a row.
    pub adopted: u64,
    /// Shares whose row named objects that are gone and now names a complete copy.
    pub repaired: u64,
    /// Slots whose last commit the database had lost.
    pub promoted: u64,
    /// Lost shares whose objects are there again.
    pub found: u64,
    /// Shares whose objects are gone.
    pub lost: Vec<ShareId>,
    /// Objects that nothing names: garbage now.
    pub orphans: u64,
    /// Objects that had been deleted and came late: to be deleted again.
    pub late: u64,
    /// Objects of slots without rows that cannot be read, and containers that cannot be read or used. They are kept.
    pub damaged: Vec<DamagedObject>,
}

impl Findings {
    /// Adds all counts to a run's.
    pub fn count(&self, totals: &mut Totals) {
        let counts = [
            ("shares_adopted", self.adopted),
            ("shares_repaired", self.repaired),
            ("slots_promoted", self.promoted),
            ("shares_found", self.found),
            ("shares_lost", self.lost.len() as u64),
            ("orphans", self.orphans),
            ("late_objects", self.late),
            ("damaged_objects", self.damaged.len() as u64),
        ];
        for (name, count) in counts {
            totals.add(name, count);
        }
    }
}

/// A share as the crawl reads it.
#[derive(Clone, Debug)]
pub struct Crawled {
    /// Which one.
    pub share: ShareId,
    /// Its row.
    pub row: ShareRow,
    /// The object that holds only the manifest of its slot, if it is in one that has such an object.
    pub marker: Option<ObjectName>,
}

/// What of some storage indexes is not to be wondered at, though no share names it.
#[derive(Clone, Debug, Default)]
pub struct Spared {
    /// Uploads in progress.
    pub uploads: HashSet<(ShareId, ObjectId)>,
    /// Objects that wait to be deleted.
    pub garbage: HashSet<ObjectName>,
}

impl Spared {
    /// Whether an object is among it.
    pub fn has(&self, name: &ObjectName) -> bool {
        let is_coming = |upload| self.uploads.contains(&(name.share, upload));
        self.garbage.contains(name) || name.object.group().is_some_and(is_coming)
    }
}

/// A lease database that begins on a backend which is not empty.
#[derive(Clone, Copy, Debug)]
pub struct TakeOver {
    /// Whose the backend was; `None`: no mark was there.
    pub deployment: Option<ObjectId>,
    /// The epoch to begin with.
    pub epoch: Epoch,
    /// No account may get this number or a smaller one any more: names in the backend may carry it (`review.md` C5).
    pub accounts_after: AccountId,
}

/// What became of the wish to forget a lost share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForgetOutcome {
    /// It is forgotten; what its row named waits to be deleted.
    Forgotten,
    /// There is no such share, or it is not lost.
    NotLost,
    /// So many reconcile runs more must miss it first.
    TooEarly(u32),
}
