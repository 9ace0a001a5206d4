//! Whether something answers at present, judged by what is asked of it anyway every few seconds.
//!
//! What only hangs counts as lost as well, once it has been silent for [`SILENCE`]. Times are those of a
//! [`SteadyClock`](crate::clock::SteadyClock).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long something may be silent that is asked every two seconds, before it counts as not answering.
pub const SILENCE: Duration = Duration::from_secs(10);

/// When something last answered, and whether it has failed since.
#[derive(Debug, Default)]
pub struct Contact {
    made_at_millis: AtomicU64,
    failing: AtomicBool,
}

impl Contact {
    /// It has answered what was asked at `at`.
    pub fn made(&self, at: Duration) {
        self.made_at_millis.fetch_max(millis(at), Ordering::Relaxed);
        self.failing.store(false, Ordering::Relaxed);
    }

    /// It has failed to answer.
    pub fn lost(&self) {
        self.failing.store(true, Ordering::Relaxed);
    }

    /// Whether it has failed since it last answered.
    pub fn is_lost(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// How long ago it was asked what it answered last.
    pub fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_millis(self.made_at_millis.load(Ordering::Relaxed)))
    }

    /// Whether it may be expected to answer.
    pub fn is_kept(&self, now: Duration) -> bool {
        !self.is_lost() && self.age(now) <= SILENCE
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_failure_lose_contact_and_an_answer_restores_it() {
        let (contact, start) = (Contact::default(), Duration::from_secs(100));
        contact.made(start);
        assert!(contact.is_kept(start + SILENCE));
        assert!(!contact.is_kept(start + SILENCE + Duration::from_secs(1)));
        contact.lost();
        assert!(!contact.is_kept(start));
        contact.made(start);
        assert!(contact.is_kept(start));
        // An answer that was overtaken does not make the contact look older.
        contact.made(start - Duration::from_secs(50));
        assert_eq!(contact.age(start), Duration::ZERO);
    }
}
