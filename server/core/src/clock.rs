//! Time and randomness, handed in so that tests decide both.
//!
//! The times that matter (leases, deadlines, object ids) are the lease database's; [`Clock`] is what an embedded
//! database uses for it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::id::ObjectId;

/// A moment, in milliseconds since 1970, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Wraps milliseconds since 1970.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Makes a moment from whole seconds since 1970.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds * 1000)
    }

    /// Milliseconds since 1970.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

/// Tells the time.
pub trait Clock: std::fmt::Debug + Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Timestamp;
}

/// The machine's own clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// Tells how much time has passed, whatever is done to the date.
pub trait SteadyClock: std::fmt::Debug + Send + Sync + 'static {
    /// Time since some moment in the past.
    fn elapsed(&self) -> Duration;
}

/// The machine's own steady clock, from its making on.
#[derive(Debug, Clone, Copy)]
pub struct SystemSteadyClock(Instant);

impl Default for SystemSteadyClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl SteadyClock for SystemSteadyClock {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Draws the random parts of object ids and tokens.
///
/// Seeded from the operating system in a server, from a number in tests.
#[derive(Debug)]
pub struct Entropy(Mutex<StdRng>);

impl Entropy {
    /// Seeds from the operating system.
    pub fn from_os() -> Self {
        Self(Mutex::new(StdRng::from_os_rng()))
    }

    /// Seeds from a number, for repeatable tests.
    pub fn from_seed(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    /// Fills an array with random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).fill(&mut bytes[..]);
        bytes
    }

    /// Makes a fresh object id at the given time.
    pub fn object_id(&self, at: Timestamp) -> ObjectId {
        ObjectId::from_parts(at, self.bytes())
    }
}
