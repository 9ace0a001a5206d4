//! The deployment's heartbeat: how a lease database that has lost commits is told from one that has not.
//!
//! Every ten seconds one process counts a beat in the database and then puts an object named after it into the backend.
//! A beat in the backend that the database does not remember was committed and lost again: by a failover to a standby
//! that lagged, or by a restore. Names are never reused, so a process that wakes late overwrites nothing
//! (`review.md` B1). The deployment's own mark keeps a database from serving another's backend.

use std::fmt;
use std::str::FromStr;

use crate::chunk::ObjectKey;
use crate::id::{ObjectId, ParseIdError};
use crate::leasedb::Epoch;

/// How often the heart shall beat, in seconds.
pub const BEAT_SECONDS: i64 = 10;
/// How many beats the database remembers, and the backend keeps.
pub const BEATS_KEPT: usize = 100;
/// What the names of beats begin with.
pub const BEAT_FOLDER: &str = "meta/beat/";
/// What the names of deployments' marks begin with.
pub const MARK_FOLDER: &str = "meta/deployment/";

/// One beat, as the backend has it: `meta/beat/EPOCH.BEAT.NONCE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeatName {
    /// The epoch it was counted in.
    pub epoch: Epoch,
    /// Its number, never counted back within an epoch.
    pub beat: u64,
    /// Random, so that a number counted twice shows.
    pub nonce: ObjectId,
}

impl BeatName {
    /// The name as a backend wants it.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.to_string())
    }
}

impl fmt::Display for BeatName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{BEAT_FOLDER}{:010}.{:012}.{}", self.epoch.0, self.beat, self.nonce)
    }
}

impl FromStr for BeatName {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let parse = || {
            let mut fields = text.strip_prefix(BEAT_FOLDER)?.splitn(3, '.');
            let mut next = || fields.next();
            let (epoch, beat, nonce) = (next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?);
            let name = Self { epoch: Epoch(epoch), beat, nonce };
            (name.to_string() == text).then_some(name)
        };
        parse().ok_or(ParseIdError { what: "beat" })
    }
}

/// The mark of a deployment in its backend.
pub fn mark(deployment: ObjectId) -> ObjectKey {
    ObjectKey::new(format!("{MARK_FOLDER}{deployment}"))
}

/// The deployment that a listed mark names.
pub fn marked_deployment(name: &str) -> Option<ObjectId> {
    name.strip_prefix(MARK_FOLDER)?.parse().ok()
}

/// What a database remembers of its heart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heart {
    /// The epoch.
    pub epoch: Epoch,
    /// The last beat.
    pub beat: u64,
    /// The nonces of the last beats, oldest first, at most [`BEATS_KEPT`]; the last is `beat`'s.
    pub nonces: Vec<ObjectId>,
    /// The database's line of history, where it has one: a standby that takes over begins another.
    pub timeline: String,
}

impl Heart {
    /// The oldest beat that is remembered with its nonce.
    pub fn oldest(&self) -> u64 {
        self.beat + 1 - (self.nonces.len() as u64).min(self.beat + 1)
    }

    /// The epoch that must begin if commits were lost; `None` if none were.
    pub fn lost(&self, listed: &[BeatName], timeline: &str, standby_is_synchronous: bool) -> Option<Epoch> {
        let unknown = |name: &&BeatName| {
            if name.epoch != self.epoch {
                return name.epoch > self.epoch;
            }
            let at = name.beat.checked_sub(self.oldest());
            // Older than what is remembered: nothing can be said, and nothing need be.
            at.is_some_and(|at| self.nonces.get(at as usize) != Some(&name.nonce))
        };
        let newest = listed.iter().filter(unknown).map(|name| name.epoch).max();
        let moved = !self.timeline.is_empty() && self.timeline != timeline && !standby_is_synchronous;
        let lost = newest.or_else(|| moved.then_some(self.epoch))?;
        Some(Epoch(lost.max(self.epoch).0 + 1))
    }

    /// Counts a beat.
    pub fn next(&mut self, nonce: ObjectId, timeline: &str) -> BeatName {
        self.beat += 1;
        self.nonces.push(nonce);
        let surplus = self.nonces.len().saturating_sub(BEATS_KEPT);
        self.nonces.drain(..surplus);
        timeline.clone_into(&mut self.timeline);
        BeatName { epoch: self.epoch, beat: self.beat, nonce }
    }

    /// Begins another epoch: its beats are compared with nothing that was before.
    pub fn begin(&mut self, epoch: Epoch, timeline: &str) {
        self.epoch = epoch;
        self.nonces.clear();
        timeline.clone_into(&mut self.timeline);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonce(number: u8) -> ObjectId {
        ObjectId::new([number; 16])
    }

    /// A heart after some beats, and what the backend has of them.
    fn beaten(count: u8) -> (Heart, Vec<BeatName>) {
        let mut heart = Heart { epoch: Epoch(3), ..Heart::default() };
        let names = (0..count).map(|number| heart.next(nonce(number), "")).collect();
        (heart, names)
    }

    #[test]
    fn what_the_database_remembers_is_no_loss() {
        let (heart, names) = beaten(250);
        assert_eq!((heart.oldest(), heart.nonces.len()), (151, BEATS_KEPT));
        assert_eq!(heart.lost(&names, "", false), None);
        assert_eq!(Heart::default().lost(&[], "", false), None);
    }

    #[test]
    fn a_beat_ahead_of_the_database_is_a_loss() {
        let (heart, _) = beaten(5);
        let (_, names) = beaten(6);
        assert_eq!(heart.lost(&names, "", false), Some(Epoch(4)));
    }

    #[test]
    fn a_number_counted_twice_is_a_loss_too() {
        let (mut heart, names) = beaten(5);
        heart.beat -= 2;
        heart.nonces.truncate(3);
        heart.next(nonce(77), "");
        heart.next(nonce(78), "");
        heart.next(nonce(79), "");
        assert_eq!(heart.lost(&names, "", false), Some(Epoch(4)));
    }

    #[test]
    fn late_puts_of_old_beats_change_nothing() {
        let (heart, names) = beaten(250);
        assert_eq!(heart.lost(&names[..3], "", false), None);
        let older = BeatName { epoch: Epoch(2), beat: 9999, nonce: nonce(1) };
        assert_eq!(heart.lost(&[older], "", false), None);
    }

    #[test]
    fn a_later_epoch_is_a_loss_and_a_new_one_compares_with_nothing_older() {
        let (mut heart, mut names) = beaten(5);
        names.push(BeatName { epoch: Epoch(8), beat: 1, nonce: nonce(1) });
        assert_eq!(heart.lost(&names, "", false), Some(Epoch(9)));
        heart.begin(Epoch(9), "");
        assert_eq!(heart.lost(&names, "", false), None);
        assert_eq!(heart.oldest(), heart.beat + 1);
    }

    #[test]
    fn another_timeline_is_a_loss_unless_the_standby_is_synchronous() {
        let (mut heart, _) = beaten(1);
        heart.next(nonce(9), "00000001");
        assert_eq!(heart.lost(&[], "00000001", false), None);
        assert_eq!(heart.lost(&[], "00000002", false), Some(Epoch(4)));
        assert_eq!(heart.lost(&[], "00000002", true), None);
    }

    #[test]
    fn names_round_trip() {
        let name = BeatName { epoch: Epoch(7), beat: 12345, nonce: nonce(5) };
        assert_eq!(name.to_string().parse(), Ok(name));
        for text in ["meta/beat/1.2.3", "meta/beat/", "shares/aa", "meta/beat/0000000001.000000000001"] {
            assert!(text.parse::<BeatName>().is_err(), "{text}");
        }
        assert_eq!(marked_deployment(mark(nonce(3)).as_str()), Some(nonce(3)));
    }
}
