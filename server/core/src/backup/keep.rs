//! How long backups are kept.

use std::collections::HashSet;

use super::BackupName;

const HOUR_SECONDS: i64 = 3600;
const DAY_SECONDS: i64 = 24 * HOUR_SECONDS;
const WEEK_SECONDS: i64 = 7 * DAY_SECONDS;
/// A folder without a manifest that is this old is nobody's work any more, in seconds.
const UNFINISHED_SECONDS: i64 = DAY_SECONDS;

/// How many backups are kept: the last one of each of so many hours, days and weeks that have any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Hours.
    pub hourly: u32,
    /// Days.
    pub daily: u32,
    /// Weeks.
    pub weekly: u32,
}

impl Default for Keep {
    fn default() -> Self {
        Self { hourly: 24, daily: 14, weekly: 8 }
    }
}

/// Which of these backups are kept no longer. The newest always is.
pub fn surplus(backups: &[BackupName], keep: Keep) -> Vec<BackupName> {
    let mut newest_first = backups.to_vec();
    newest_first.sort_unstable();
    newest_first.reverse();
    let mut kept: HashSet<BackupName> = newest_first.first().copied().into_iter().collect();
    for (seconds, count) in [(HOUR_SECONDS, keep.hourly), (DAY_SECONDS, keep.daily), (WEEK_SECONDS, keep.weekly)] {
        let mut periods = HashSet::new();
        for backup in &newest_first {
            let period = backup.id.made_at().seconds().div_euclid(seconds);
            if periods.len() < count as usize && periods.insert(period) {
                kept.insert(*backup);
            }
        }
    }
    newest_first.retain(|backup| !kept.contains(backup));
    newest_first
}

/// Whether a backup without a manifest was given up: by its age at the time of a newer one.
pub fn is_given_up(unfinished: &BackupName, newer: &BackupName) -> bool {
    newer.id.made_at().seconds() - unfinished.id.made_at().seconds() > UNFINISHED_SECONDS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::id::ObjectId;
    use crate::leasedb::Epoch;
    use proptest::prelude::*;

    fn backup(number: u64, seconds: i64) -> BackupName {
        let id = ObjectId::from_parts(Timestamp::from_seconds(seconds), [number.to_be_bytes()[7]; 10]);
        BackupName { epoch: Epoch(1), number, id }
    }

    fn without_surplus(mut backups: Vec<BackupName>, keep: Keep) -> Vec<BackupName> {
        let surplus = surplus(&backups, keep);
        backups.retain(|backup| !surplus.contains(backup));
        backups
    }

    #[test]
    fn hourly_backups_of_a_year_become_days_and_weeks() {
        let all: Vec<_> = (0..365 * 24).map(|hour| backup(hour, hour as i64 * HOUR_SECONDS)).collect();
        let kept = without_surplus(all.clone(), Keep::default());
        let age = |backup: &BackupName| (all.last().expect("some").number - backup.number) as i64;
        assert!(kept.len() <= 24 + 14 + 8);
        for hours in 0..24 {
            assert!(kept.iter().any(|backup| age(backup) == hours), "one of {hours} hours ago");
        }
        for days in 0..13 {
            assert!(kept.iter().any(|backup| age(backup) / 24 == days), "one of {days} days ago");
        }
        assert!(kept.iter().any(|backup| age(backup) > 7 * 24 * 6), "one of six weeks ago");
        assert!(kept.iter().all(|backup| age(backup) <= 7 * 24 * 8 + 24), "none older than asked for");
    }

    #[test]
    fn unfinished_ones_are_given_up_after_a_day() {
        assert!(!is_given_up(&backup(1, 0), &backup(2, UNFINISHED_SECONDS)));
        assert!(is_given_up(&backup(1, 0), &backup(2, UNFINISHED_SECONDS + 1)));
        assert!(!is_given_up(&backup(2, 500_000), &backup(1, 0)), "a clock that stepped back gives nothing up");
    }

    proptest! {
        #[test]
        fn removing_after_each_backup_or_at_the_end_is_the_same(
            steps in prop::collection::vec(60i64..200_000, 1..200),
            hourly in 0u32..5, daily in 0u32..5, weekly in 0u32..4,
        ) {
            let keep = Keep { hourly, daily, weekly };
            let (mut at, mut all, mut pruned) = (0, Vec::new(), Vec::new());
            for (number, step) in steps.into_iter().enumerate() {
                at += step;
                all.push(backup(number as u64, at));
                pruned.push(backup(number as u64, at));
                pruned = without_surplus(pruned, keep);
                prop_assert!(pruned.contains(all.last().expect("pushed")), "the newest stays");
                prop_assert!(pruned.len() <= (hourly + daily + weekly).max(1) as usize);
            }
            prop_assert_eq!(without_surplus(all, keep), pruned);
        }
    }
}
