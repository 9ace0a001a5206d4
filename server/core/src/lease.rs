//! How long a lease holds, and when a renewal may be answered without writing it.

use crate::clock::Timestamp;

/// Seconds in a day.
pub const DAY_SECONDS: i64 = 86_400;
/// The lease every client of the protocol asks for: 31 days (`gbs.md` 7.2).
pub const LEASE_DURATION_SECONDS: i64 = 31 * DAY_SECONDS;
/// The greatest renewal slack that may be set; expiry by renewal time allows for it (`review.md` A6).
pub const SLACK_MAX_SECONDS: i64 = 14 * DAY_SECONDS;

/// What a lease promises and how far its writing may be put off.
///
/// A client is promised `duration_seconds` from each renewal. A grant lasts `duration_seconds + slack_seconds`, so a
/// renewal within `slack_seconds` of the last written one keeps that promise without another write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// What the client is promised, in seconds.
    pub duration_seconds: i64,
    /// How long a written renewal stands in for later ones, in seconds; 0 writes every renewal.
    pub slack_seconds: i64,
}

impl Default for LeaseTerms {
    fn default() -> Self {
        Self { duration_seconds: LEASE_DURATION_SECONDS, slack_seconds: DAY_SECONDS }
    }
}

/// One account's lease on one share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// When it was last written as renewed.
    pub renewed_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

impl LeaseTerms {
    /// The same terms for an account that is granted `days`, never fewer than the protocol promises.
    pub fn for_days(self, days: u32) -> Self {
        Self { duration_seconds: self.duration_seconds.max(i64::from(days) * DAY_SECONDS), ..self }
    }

    /// The lease a renewal at `now` writes; the expiry of `old` is never moved back.
    pub fn grant(self, now: Timestamp, old: Option<Lease>) -> Lease {
        let seconds = now.seconds() + self.duration_seconds + self.slack_seconds;
        let expires_at = Timestamp::from_seconds(seconds);
        let renewed_at = Timestamp::from_seconds(now.seconds());
        match old {
            Some(old) => {
                Lease { renewed_at: renewed_at.max(old.renewed_at), expires_at: expires_at.max(old.expires_at) }
            }
            None => Lease { renewed_at, expires_at },
        }
    }

    /// Whether `lease` already keeps what a renewal at `now` promises, so that nothing need be written.
    pub fn holds(self, lease: Lease, now: Timestamp) -> bool {
        lease.expires_at.seconds() >= now.seconds() + self.duration_seconds
            && lease.renewed_at.seconds() > now.seconds() - self.slack_seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_slack_writes_every_renewal() {
        let terms = LeaseTerms { slack_seconds: 0, ..LeaseTerms::default() };
        let now = Timestamp::from_seconds(1_000_000);
        assert!(!terms.holds(terms.grant(now, None), now));
    }

    proptest! {
        #[test]
        fn a_damped_renewal_keeps_the_promise(slack in 0i64..SLACK_MAX_SECONDS, later in 0i64..20 * DAY_SECONDS) {
            let terms = LeaseTerms { slack_seconds: slack, ..LeaseTerms::default() };
            let then = Timestamp::from_seconds(1_000_000);
            let now = Timestamp::from_seconds(1_000_000 + later);
            let lease = terms.grant(then, None);
            if terms.holds(lease, now) {
                prop_assert!(lease.expires_at.seconds() >= now.seconds() + LEASE_DURATION_SECONDS);
                prop_assert!(lease.renewed_at.seconds() + SLACK_MAX_SECONDS >= now.seconds());
            } else {
                prop_assert!(later >= slack);
            }
            let renewed = terms.grant(now, Some(lease));
            prop_assert!(renewed.expires_at >= lease.expires_at);
        }

        #[test]
        fn a_clock_that_steps_back_shortens_nothing(back in 0i64..100 * DAY_SECONDS) {
            let terms = LeaseTerms::default();
            let now = Timestamp::from_seconds(10_000_000);
            let lease = terms.grant(now, None);
            let renewed = terms.grant(Timestamp::from_seconds(10_000_000 - back), Some(lease));
            prop_assert_eq!(renewed, lease);
        }
    }
}
