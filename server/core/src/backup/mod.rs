//! Backups of the lease database: what is in one, what it looks like in the backend, how long it is kept.
//!
//! ```text
//! meta/backup/EPOCH.NUMBER.ID/part-NNNNNN   rows, compressed
//! meta/backup/EPOCH.NUMBER.ID/manifest      what the parts hold; written last, so a folder without it is no backup
//! ```
//!
//! A backup is the database at one instant. It names tables and columns, so that it can be read into another kind of
//! database, or by a program that knows more columns. Names are never reused. Everything read here is outside data: it
//! is bounded, and every byte of it is covered by a checksum before anything is done with it.

pub mod backups;
pub mod error;
pub mod keep;
pub mod manifest;
pub mod part;
pub mod recount;
pub mod row;
pub mod table;
pub mod walk;

use std::fmt;
use std::str::FromStr;

use futures_util::stream::BoxStream;

use crate::chunk::ObjectKey;
use crate::clock::Timestamp;
use crate::id::{ObjectId, ParseIdError};
use crate::leasedb::{Epoch, Mode, Result};
use table::Page;

/// What the names of all backups begin with.
pub const BACKUP_FOLDER: &str = "meta/backup/";
/// How long a transaction may take from reading the time to its commit, at most and with much to spare, in seconds. What
/// was made that long before a backup began is in it.
pub const IN_FLIGHT_SECONDS: i64 = 15 * 60;
/// How often is noted what others have backed up, in seconds.
const ELSEWHERE_SECONDS: i64 = 300;
/// How many account numbers each epoch after the backup's may have given away that the backup knows nothing of
/// (`review.md` C5).
const NUMBERS_PER_EPOCH: u64 = 1 << 20;

/// The name of one backup: the folder it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupName {
    /// The history it was taken from.
    pub epoch: Epoch,
    /// Grows from each backup to the next.
    pub number: u64,
    /// When it was begun, and random.
    pub id: ObjectId,
}

impl BackupName {
    /// What the names of all its objects begin with.
    pub fn folder(&self) -> String {
        format!("{BACKUP_FOLDER}{self}/")
    }

    /// The name of a part, counted from 0.
    pub fn part(&self, index: usize) -> ObjectKey {
        ObjectKey::new(format!("{}part-{index:06}", self.folder()))
    }

    /// The name of the manifest.
    pub fn manifest(&self) -> ObjectKey {
        ObjectKey::new(format!("{}manifest", self.folder()))
    }

    /// The backup that a listed object belongs to.
    pub fn of_object(name: &str) -> Option<Self> {
        name.strip_prefix(BACKUP_FOLDER)?.split_once('/')?.0.parse().ok()
    }
}

impl fmt::Display for BackupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}.{:012}.{}", self.epoch.0, self.number, self.id)
    }
}

impl FromStr for BackupName {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let parse = || {
            let mut fields = text.splitn(3, '.');
            let mut next = || fields.next();
            let (epoch, number, id) = (next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?);
            let name = Self { epoch: Epoch(epoch), number, id };
            (name.to_string() == text).then_some(name)
        };
        parse().ok_or(ParseIdError { what: "name of a backup" })
    }
}

/// Rows on their way out of a lease database or into one, a page at a time.
pub type Pages = BoxStream<'static, Result<Page>>;

/// What a lease database is at the instant of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant {
    /// Which deployment's it is.
    pub deployment: ObjectId,
    /// Its history.
    pub epoch: Epoch,
    /// Whether it may know less than was acknowledged.
    pub mode: Mode,
    /// Grows with every change of accounts.
    pub accounts_version: u64,
    /// Its last beat.
    pub beat: u64,
    /// Its time.
    pub taken_at: Timestamp,
}

/// A whole lease database at one instant.
pub struct Export {
    /// The instant.
    pub instant: Instant,
    /// All rows, in the order of [`walk::Walk`].
    pub pages: Pages,
}

/// What a lease database becomes that is filled from a backup, besides the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Import {
    /// The deployment that the rows belong to.
    pub deployment: ObjectId,
    /// The epoch that begins; in recovery mode.
    pub epoch: Epoch,
    /// Grows with every change of accounts; no process has seen this one.
    pub accounts_version: u64,
    /// When the backup was taken: nothing acknowledged since is known.
    pub taken_at: Timestamp,
    /// How many numbers are left out behind the greatest of each numbered table.
    pub numbers_skipped: u64,
}

impl Import {
    /// How an import of rows taken at `instant` begins `epoch`, which must be later than any seen.
    ///
    /// Each epoch since the backup may have made accounts of its own, so the more there were, the more numbers are left
    /// out: a backup can be restored twice without giving a number away twice (`review.md` C5).
    pub fn new(instant: &Instant, epoch: Epoch) -> Self {
        let epochs = epoch.0.saturating_sub(instant.epoch.0).max(1);
        let numbers_skipped = epochs.saturating_mul(NUMBERS_PER_EPOCH);
        Self {
            deployment: instant.deployment,
            epoch,
            accounts_version: instant.accounts_version.saturating_add(numbers_skipped),
            taken_at: instant.taken_at,
            numbers_skipped,
        }
    }
}

/// What became of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportOutcome {
    /// The database is what the backup was.
    Done,
    /// The database was not empty; nothing was changed.
    NotEmpty,
}

/// Garbage made after this moment may be named by the newest backup, so it is not deleted before there is a newer one
/// (`review.md` C2). `backed_up_until` is when that backup began; `None`: there never was one, so nothing waits.
pub fn deletable_until(backed_up_until: Option<Timestamp>) -> Option<Timestamp> {
    backed_up_until.map(|at| Timestamp::from_seconds(at.seconds() - IN_FLIGHT_SECONDS))
}

/// Where backups are somebody else's: until when all counts as backed up, if that is to be noted anew. A restore may reach
/// back `horizon_seconds`; 0 where there are no backups at all.
pub fn elsewhere_until(noted: Option<Timestamp>, now: Timestamp, horizon_seconds: i64) -> Option<Timestamp> {
    let until = Timestamp::from_seconds(now.seconds() - horizon_seconds);
    match noted {
        None => (horizon_seconds > 0).then_some(until),
        // Every few minutes is enough, and a write each time.
        Some(noted) => (until.seconds() - noted.seconds() >= ELSEWHERE_SECONDS).then_some(until),
    }
}

/// The epoch that a restore begins: later than every one that anything tells of (`review.md` B1).
pub fn next_epoch(seen: impl IntoIterator<Item = Epoch>) -> Epoch {
    Epoch(seen.into_iter().max().unwrap_or_default().0 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> BackupName {
        BackupName { epoch: Epoch(3), number: 41, id: ObjectId::new([7; 16]) }
    }

    #[test]
    fn names_are_read_back_and_sort_by_epoch_and_number() {
        assert_eq!(name().to_string().parse(), Ok(name()));
        for object in [name().part(12), name().manifest()] {
            assert_eq!(BackupName::of_object(object.as_str()), Some(name()));
        }
        for bad in ["", "3.41.x", "0000000003.000000000041.", "3.41.aaaaaaaaaaaaaaaaaaaaaaaaaa", "../../x"] {
            assert!(bad.parse::<BackupName>().is_err(), "{bad}");
        }
        let later = BackupName { epoch: Epoch(10), number: 2, ..name() };
        assert!(later > name() && later.folder() > name().folder(), "a listing has them in order");
    }

    #[test]
    fn no_number_is_given_away_twice_however_often_the_same_backup_is_restored() {
        let instant = Instant {
            deployment: ObjectId::new([1; 16]),
            epoch: Epoch(3),
            mode: Mode::Normal,
            accounts_version: 9,
            beat: 5,
            taken_at: Timestamp::from_seconds(100),
        };
        let first = Import::new(&instant, next_epoch([Epoch(3), Epoch(2)]));
        assert_eq!((first.epoch, first.numbers_skipped), (Epoch(4), 1 << 20));
        let second = Import::new(&instant, next_epoch([Epoch(3), Epoch(4)]));
        assert_eq!((second.epoch, second.numbers_skipped), (Epoch(5), 2 << 20));
        assert!(second.accounts_version > first.accounts_version && first.accounts_version > 9);
    }

    #[test]
    fn backups_of_others_are_trusted_as_far_as_is_said() {
        let at = Timestamp::from_seconds;
        assert_eq!(elsewhere_until(None, at(10_000), 0), None, "no backups: nothing ever waits");
        assert_eq!(elsewhere_until(None, at(10_000), 3600), Some(at(6400)));
        assert_eq!(elsewhere_until(Some(at(6400)), at(10_299), 3600), None);
        assert_eq!(elsewhere_until(Some(at(6400)), at(10_300), 3600), Some(at(6700)));
        assert_eq!(elsewhere_until(Some(at(9000)), at(10_000), 0), Some(at(10_000)), "backups that were turned off");
    }

    #[test]
    fn nothing_waits_for_backups_that_never_were() {
        assert_eq!(deletable_until(None), None);
        let until = deletable_until(Some(Timestamp::from_seconds(10_000)));
        assert_eq!(until, Some(Timestamp::from_seconds(10_000 - IN_FLIGHT_SECONDS)));
    }
}
