//! Runs of jobs: what one is, whether it may begin, and what it has counted.
//!
//! Each job (expire, collect, reconcile, audit, backup) runs as a whole now and then, from wherever it is started. The
//! lease database keeps its runs: at most one of a kind is under way, progress is written as it is made, and what a
//! brake stopped goes on only after somebody has allowed it, once (`design.md` 8).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::clock::Timestamp;
use crate::id::ParseIdError;

/// How long a run may be silent before it counts as dead, in seconds. Runs note their progress far more often.
pub const RUN_SILENCE_SECONDS: i64 = 300;
/// How many ended runs of a kind are kept.
pub const RUNS_KEPT: u32 = 200;
/// How many names a run's totals may have.
const TOTALS_MAX: usize = 256;
/// How much of the whole is done, in units of the job's own.
const DONE: &str = "part_done";
const WHOLE: &str = "part_whole";

/// Which job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RunKind {
    /// Removes leases that have ended.
    Expire,
    /// Removes shares that nobody leases, and deletes garbage that is due.
    Collect,
    /// Compares rows with the backend.
    Reconcile,
    /// Counts again what accounts use.
    Audit,
    /// Copies the lease database to the backend.
    Backup,
}

impl RunKind {
    /// All kinds, in the order of their stored numbers.
    pub const ALL: [Self; 5] = [Self::Expire, Self::Collect, Self::Reconcile, Self::Audit, Self::Backup];

    /// The word shown to people and machines; also the subcommand.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expire => "expire",
            Self::Collect => "collect",
            Self::Reconcile => "reconcile",
            Self::Audit => "audit",
            Self::Backup => "backup",
        }
    }
}

impl fmt::Display for RunKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunState {
    /// Under way.
    Running,
    /// Came to its end.
    Done,
    /// Stopped by a brake; somebody must look.
    Braked,
    /// Stopped by an error.
    Failed,
    /// Died: it was silent for too long.
    Abandoned,
}

impl RunState {
    /// All states, in the order of their stored numbers.
    pub const ALL: [Self; 5] = [Self::Running, Self::Done, Self::Braked, Self::Failed, Self::Abandoned];

    /// The word shown to people and machines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Braked => "braked",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The number of a run, growing with time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for RunId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        text.parse().map(Self).map_err(|_| ParseIdError { what: "number of a run" })
    }
}

/// What a run has counted, by name: `leases_removed`, `bytes_freed`, …
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals(BTreeMap<String, u64>);

impl Totals {
    /// Adds to a number; one that is not there begins at 0.
    ///
    /// # Panics
    /// The name is not of letters, digits and `_`: names are written in programs, not read from outside.
    pub fn add(&mut self, name: &str, count: u64) {
        *self.entry(name) += count;
    }

    /// Sets a number.
    ///
    /// # Panics
    /// As [`add`](Self::add).
    pub fn set(&mut self, name: &str, count: u64) {
        *self.entry(name) = count;
    }

    fn entry(&mut self, name: &str) -> &mut u64 {
        assert!(is_name(name), "{name:?} is no name of a total");
        self.0.entry(name.to_owned()).or_default()
    }

    /// A number; 0 if it is not there.
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// All numbers, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, count)| (name.as_str(), *count))
    }

    /// Sets how much of the whole is done, for whoever watches.
    pub fn set_part(&mut self, done: u64, whole: u64) {
        self.set(DONE, done);
        self.set(WHOLE, whole);
    }

    /// How much of the whole is done, where that is known.
    pub fn part(&self) -> Option<(u64, u64)> {
        self.0.get(WHOLE).map(|whole| (self.of(DONE).min(*whole), *whole))
    }

    /// All numbers but those of [`part`](Self::part).
    pub fn shown(&self) -> impl Iterator<Item = (&str, u64)> {
        self.iter().filter(|(name, _)| ![DONE, WHOLE].contains(name))
    }

    /// Adds all numbers of another.
    pub fn merge(&mut self, other: &Self) {
        for (name, count) in other.iter() {
            self.add(name, count);
        }
    }

    /// The stored form: a line `NAME NUMBER` each.
    pub fn encode(&self) -> String {
        self.iter().map(|(name, count)| format!("{name} {count}\n")).collect()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`ParseIdError`] for anything that [`encode`](Self::encode) does not write.
    pub fn decode(text: &str) -> Result<Self, ParseIdError> {
        let error = ParseIdError { what: "list of totals" };
        let mut totals = BTreeMap::new();
        for line in text.lines() {
            let (name, count) = line.split_once(' ').ok_or_else(|| error.clone())?;
            if !is_name(name) || totals.len() == TOTALS_MAX {
                return Err(error);
            }
            totals.insert(name.to_owned(), count.parse().map_err(|_| error.clone())?);
        }
        Ok(Self(totals))
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A run as the lease database knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its number.
    pub id: RunId,
    /// Which job.
    pub kind: RunKind,
    /// Whether it only says what it would do.
    pub dry_run: bool,
    /// How it stands.
    pub state: RunState,
    /// Whether it may pass a brake: somebody allowed the one before it to go on.
    pub permitted: bool,
    /// Whether the next run of its kind may pass: somebody has looked at what stopped this one.
    pub allowed: bool,
    /// By what rules it went, in words; two runs with the same words did the same.
    pub policy: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it last gave a sign of life.
    pub alive_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// What it has counted so far.
    pub totals: Totals,
    /// Why it ended as it did: a sentence, or nothing.
    pub reason: String,
}

/// A run to begin.
#[derive(Clone, Debug)]
pub struct BeginRun {
    /// Which job.
    pub kind: RunKind,
    /// [`Run::dry_run`].
    pub dry_run: bool,
    /// [`Run::policy`].
    pub policy: String,
}

/// What became of a [`BeginRun`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BeginRunOutcome {
    /// It is under way.
    Begun(Run),
    /// Another one of its kind is.
    Running(Run),
}

/// How a run ends.
#[derive(Clone, Debug)]
pub struct FinishRun {
    /// Which one.
    pub id: RunId,
    /// How; not [`RunState::Running`].
    pub state: RunState,
    /// [`Run::totals`], the last ones.
    pub totals: Totals,
    /// [`Run::reason`].
    pub reason: String,
}

/// What became of allowing a braked run to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermitOutcome {
    /// The next run of its kind passes the brakes, once.
    Permitted,
    /// There is no such run.
    Unknown,
    /// No brake stopped it.
    NotBraked,
    /// A later run of its kind has begun since: look at that one.
    Superseded,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn totals_add_up_and_are_read_back() {
        let mut totals = Totals::default();
        totals.add("shares_examined", 3);
        totals.add("shares_examined", 4);
        totals.set("bytes", u64::MAX);
        let mut more = Totals::default();
        more.add("shares_examined", 1);
        totals.merge(&more);
        assert_eq!((totals.of("shares_examined"), totals.of("nothing")), (8, 0));
        assert_eq!(totals.encode(), format!("bytes {}\nshares_examined 8\n", u64::MAX));
        assert_eq!(Totals::decode(&totals.encode()), Ok(totals));
    }

    #[test]
    fn progress_is_told_apart_from_what_is_counted() {
        let mut totals = Totals::default();
        assert_eq!(totals.part(), None);
        totals.add("units", 1);
        totals.set_part(7, 5);
        assert_eq!(totals.part(), Some((5, 5)), "never more than all");
        assert_eq!(totals.shown().collect::<Vec<_>>(), [("units", 1)]);
    }

    #[test]
    fn more_names_than_any_run_has_are_refused() {
        let text: String = (0..=TOTALS_MAX).map(|number| format!("n{number} 1\n")).collect();
        assert!(Totals::decode(&text).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
            if let Ok(totals) = Totals::decode(&text) {
                prop_assert_eq!(Totals::decode(&totals.encode()), Ok(totals));
            }
        }
    }
}
