//! Clocks that stand still until a test moves them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{Clock, SteadyClock, Timestamp};

/// A clock that all its clones share and that only tests move.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicI64>);

impl Default for ManualClock {
    /// Some moment in 2026.
    fn default() -> Self {
        Self::at(Timestamp::from_seconds(1_780_000_000))
    }
}

impl ManualClock {
    /// A clock that shows `now`.
    pub fn at(now: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(now.millis())))
    }

    /// Sets the clock, back as well as forth.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.millis(), Ordering::SeqCst);
    }

    /// Moves the clock by so many seconds, back if they are negative.
    pub fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds * 1000, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// A steady clock that all its clones share and that only tests move.
#[derive(Clone, Debug, Default)]
pub struct ManualSteadyClock(Arc<AtomicU64>);

impl ManualSteadyClock {
    /// Lets so many seconds pass.
    pub fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl SteadyClock for ManualSteadyClock {
    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}
