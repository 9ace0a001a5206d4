//! When leases end, which shares nobody leases any more, and how both are put back: duties 1 and 2 of the accounting
//! crawler.
//!
//! A lease is removed only where [`ends_at`] says that it has ended, looked at again in the transaction that removes it. A
//! share that has lost its last lease waits in a queue; it is retired, with all that is needed to put it back, by a
//! transaction that sees under its lock that still nobody leases it (`accounting.md` 7 and 8.3).

use std::collections::HashMap;
use std::fmt;

use crate::account::AccountState;
use crate::clock::Timestamp;
use crate::id::{AccountId, ShareId, ShareNumber, StorageIndex};
use crate::lease::{DAY_SECONDS, Lease, SLACK_MAX_SECONDS};
use crate::leasedb::{Epoch, SlotToken};
use crate::run::RunId;
use crate::share::{ShareKind, ShareState};

/// How old a share must be before it is retired, in seconds.
pub const RETIRE_AGE_SECONDS: i64 = DAY_SECONDS;
/// How far two clocks may be apart before nothing is destroyed any more, in seconds (`review.md` A13).
pub const CLOCK_SKEW_MAX_SECONDS: i64 = 300;
/// The most leases or shares that one transaction removes.
pub const REMOVED_AT_ONCE: usize = 500;

/// What makes a lease end (`accounting.md` 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpireMode {
    /// The end that was granted.
    Age,
    /// So many seconds after the last renewal, whatever was granted.
    Override(i64),
    /// Not having been renewed since this moment.
    Cutoff(Timestamp),
}

/// An operator's policy of expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpirePolicy {
    /// What makes a lease end.
    pub mode: ExpireMode,
    /// Whether leases on immutable shares end.
    pub immutable: bool,
    /// Whether leases on mutable shares end.
    pub mutable: bool,
}

impl Default for ExpirePolicy {
    fn default() -> Self {
        Self { mode: ExpireMode::Age, immutable: true, mutable: true }
    }
}

impl fmt::Display for ExpirePolicy {
    /// In words, which tell two policies apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mode {
            ExpireMode::Age => write!(f, "leases end as granted")?,
            ExpireMode::Override(seconds) => write!(f, "leases end {} days after a renewal", seconds / DAY_SECONDS)?,
            ExpireMode::Cutoff(before) => write!(f, "leases end that were not renewed since {}", before.seconds())?,
        }
        match (self.immutable, self.mutable) {
            (true, true) => Ok(()),
            (true, false) => write!(f, ", of immutable shares only"),
            (false, true) => write!(f, ", of mutable shares only"),
            (false, false) => write!(f, ", of no shares"),
        }
    }
}

impl ExpirePolicy {
    const fn is_about(&self, kind: ShareKind) -> bool {
        match kind {
            ShareKind::Immutable => self.immutable,
            ShareKind::Mutable => self.mutable,
        }
    }
}

/// Whether an account's leases outlive what was granted (`api.md` 10.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepAlive {
    /// They end as they stand.
    #[default]
    None,
    /// None ends until so many days after the account was last used.
    Days(u32),
    /// None ends while the account exists.
    Always,
}

/// What expiry must know of whoever holds a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The account's name.
    pub name: String,
    /// What it may do.
    pub state: AccountState,
    /// How long a renewal of it holds, in seconds.
    pub duration_seconds: i64,
    /// Whether its leases outlive what was granted.
    pub keep_alive: KeepAlive,
    /// When one of its credentials was last used, or made.
    pub last_used_at: Option<Timestamp>,
    /// When it was last resumed.
    pub thawed_at: Option<Timestamp>,
    /// When its leases end at the latest, since it was closed.
    pub release_at: Option<Timestamp>,
}

fn after(at: Timestamp, seconds: i64) -> Timestamp {
    Timestamp::from_seconds(at.seconds().saturating_add(seconds))
}

/// When a lease ends under a policy; `None`: it does not. `last_loss` is when commits of the lease database were last
/// found to be lost.
///
/// Source: `accounting.md` 7; `review.md` A6 (a renewal may stand for later ones for two weeks), B4 (renewals may have
/// been lost); `api.md` 10.3, 10.4.
pub fn ends_at(
    policy: &ExpirePolicy,
    holder: &Holder,
    kind: ShareKind,
    lease: Lease,
    last_loss: Option<Timestamp>,
) -> Option<Timestamp> {
    if !policy.is_about(kind) || holder.state == AccountState::Suspended {
        return None;
    }
    let renewed_by = after(lease.renewed_at, SLACK_MAX_SECONDS);
    let by_policy = match policy.mode {
        ExpireMode::Age => lease.expires_at,
        ExpireMode::Override(seconds) => after(renewed_by, seconds),
        ExpireMode::Cutoff(before) if renewed_by < before => before,
        ExpireMode::Cutoff(_) => Timestamp::from_millis(i64::MAX),
    };
    // Who could not renew, or did and was forgotten, has the whole time of a lease from then on.
    let granted = lease.expires_at.seconds() - lease.renewed_at.seconds();
    let duration = granted.max(holder.duration_seconds);
    let floor = last_loss.max(holder.thawed_at).map(|from| after(from, duration));
    let mut end = floor.map_or(by_policy, |floor| by_policy.max(floor));
    if holder.state == AccountState::Closed {
        return Some(holder.release_at.map_or(end, |release| end.min(release)));
    }
    match (holder.keep_alive, holder.last_used_at) {
        (KeepAlive::Always, _) => return None,
        (KeepAlive::Days(days), Some(used)) => end = end.max(after(used, i64::from(days) * DAY_SECONDS)),
        (KeepAlive::Days(_), None) | (KeepAlive::None, _) => {}
    }
    Some(end)
}

/// A lease, and the share it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseOnShare {
    /// The share.
    pub share: ShareId,
    /// Who holds it.
    pub account: AccountId,
    /// Its times.
    pub lease: Lease,
    /// The share's kind.
    pub kind: ShareKind,
    /// The share's state.
    pub state: ShareState,
    /// Size of the share data in bytes.
    pub size_bytes: u64,
}

impl LeaseOnShare {
    /// The share's part in the usage of whoever leases it, in bytes; nothing while it is lost.
    pub const fn counted_bytes(&self) -> u64 {
        match self.state {
            ShareState::Stable => self.kind.charged_bytes(self.size_bytes),
            ShareState::Lost | ShareState::Coming | ShareState::Going => 0,
        }
    }
}

/// Some leases in the order of storage indexes, with all that is needed to tell which of them have ended.
#[derive(Clone, Debug)]
pub struct LeasePage {
    /// The database's time.
    pub now: Timestamp,
    /// When commits were last found to be lost.
    pub last_loss: Option<Timestamp>,
    /// The leases; fewer than asked for if these are the last.
    pub leases: Vec<LeaseOnShare>,
    /// Who holds them.
    pub holders: HashMap<AccountId, Holder>,
}

impl LeasePage {
    /// Whether a lease of this page has ended. One whose holder is not known has not.
    pub fn has_ended(&self, policy: &ExpirePolicy, lease: &LeaseOnShare) -> bool {
        let holder = self.holders.get(&lease.account);
        let end = holder.and_then(|holder| ends_at(policy, holder, lease.kind, lease.lease, self.last_loss));
        end.is_some_and(|end| end < self.now)
    }
}

/// A request to remove leases that seem to have ended.
#[derive(Clone, Debug)]
pub struct ExpireLeases {
    /// The run that removes them; it can be undone as a whole.
    pub run: RunId,
    /// By what policy.
    pub policy: ExpirePolicy,
    /// The epoch in which they were read.
    pub epoch: Epoch,
    /// The leases as they were read, at most [`REMOVED_AT_ONCE`]. What has changed since stays.
    pub leases: Vec<LeaseOnShare>,
}

/// Shares or leases with the bytes that they count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub count: u64,
    /// Container lengths, in bytes.
    pub bytes: u64,
}

impl Amount {
    /// Adds one of so many bytes.
    pub const fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

impl std::ops::AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// What became of an [`ExpireLeases`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpireOutcome {
    /// So many were removed; all others are in use, or were renewed meanwhile.
    Removed {
        /// Leases removed, with what they counted.
        leases: Amount,
        /// Shares that nobody leases since.
        unleased: u64,
    },
    /// Nothing may be removed: commits may have been lost.
    Forbidden,
}

/// What waits in the queue of shares that nobody leases, and what to compare it with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnleasedTotals {
    /// Shares in the queue that are old enough.
    pub due: Amount,
    /// Shares that were retired within the last day.
    pub retired_lately: Amount,
    /// What all accounts use. Each share counts for each of its leaseholders.
    pub leased: Amount,
}

/// A request to retire shares that nobody seems to lease.
#[derive(Clone, Debug)]
pub struct RetireShares {
    /// The epoch in which they were read.
    pub epoch: Epoch,
    /// At most [`REMOVED_AT_ONCE`].
    pub shares: Vec<ShareId>,
    /// A fresh random token for the slots that keep other shares.
    pub token: SlotToken,
}

/// What became of a [`RetireShares`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetireOutcome {
    /// So many were retired, with their container lengths; all others are in use, young, leased again or gone.
    Retired(Amount),
    /// Nothing may be removed: commits may have been lost.
    Forbidden,
}

/// A request to put back what was removed of one storage index.
#[derive(Clone, Debug)]
pub struct Undo {
    /// The bucket or slot.
    pub storage_index: StorageIndex,
    /// Only this share.
    pub number: Option<ShareNumber>,
    /// Only leases that this run of expiry removed, with the shares that went for want of them.
    pub run: Option<RunId>,
    /// A fresh random token for the slot.
    pub token: SlotToken,
}

/// What became of an [`Undo`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Undone {
    /// Shares that are back.
    pub shares: Vec<ShareNumber>,
    /// How many leases are back, or were given so that a share has one.
    pub leases: u64,
    /// Shares that stay away.
    pub refused: Vec<(ShareNumber, UndoRefusal)>,
}

/// Why a removed share is not put back (`review.md` A7, D4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UndoRefusal {
    /// Its objects are being deleted, or are deleted.
    Deleted,
    /// There is a share of its number again.
    ShareExists,
    /// A share of its number is being uploaded.
    UploadExists,
    /// There is another slot, or a bucket in place of the slot.
    SlotExists,
}

impl fmt::Display for UndoRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deleted => "its bytes are being deleted already",
            Self::ShareExists => "there is such a share again",
            Self::UploadExists => "such a share is being uploaded",
            Self::SlotExists => "its storage index has been taken for other shares since",
        })
    }
}

/// How much may go at once before a person must look (`design.md` 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brakes {
    /// The most leases that may end in one run, in per cent of an account's, and of all.
    pub leases_percent: u64,
    /// The most bytes that may be retired within a day, in per cent of what is stored.
    pub retired_percent: u64,
    /// Fewer leases or shares than this stop nothing: small numbers make large fractions.
    pub count_min: u64,
}

impl Default for Brakes {
    fn default() -> Self {
        Self::USUAL
    }
}

/// What an account would lose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lapse {
    /// The account's name.
    pub name: String,
    /// All its leases.
    pub all: Amount,
    /// Those that have ended.
    pub ended: Amount,
}

fn exceeds(part: u64, whole: u64, percent: u64) -> bool {
    u128::from(part) * 100 > u128::from(whole) * u128::from(percent)
}

fn percent(part: u64, whole: u64) -> u64 {
    (u128::from(part) * 100 / u128::from(whole.max(1))) as u64
}

impl Brakes {
    /// Those of `design.md` 8.
    pub const USUAL: Self = Self { leases_percent: 25, retired_percent: 10, count_min: 100 };

    /// Why these leases shall not end without a person having looked; `None`: they may.
    pub fn on_leases<'a>(&self, lapses: impl IntoIterator<Item = &'a Lapse>) -> Option<String> {
        let (mut all, mut ended, mut of_one) = (0, 0, None);
        for lapse in lapses {
            (all, ended) = (all + lapse.all.count, ended + lapse.ended.count);
            of_one = of_one.or_else(|| self.on_some(&format!("the account {}", lapse.name), lapse));
        }
        let total = Lapse {
            all: Amount { count: all, bytes: 0 },
            ended: Amount { count: ended, bytes: 0 },
            ..Lapse::default()
        };
        self.on_some("all accounts together", &total).or(of_one)
    }

    fn on_some(&self, whose: &str, lapse: &Lapse) -> Option<String> {
        let (part, whole) = (lapse.ended.count, lapse.all.count);
        (part >= self.count_min && exceeds(part, whole, self.leases_percent)).then(|| {
            format!(
                "{part} of {whole} leases of {whose} would end at once, which is {} %; more than {} % need a person's consent",
                percent(part, whole),
                self.leases_percent
            )
        })
    }

    /// Why what waits in the queue shall not be retired without a person having looked; `None`: it may.
    pub fn on_shares(&self, totals: &UnleasedTotals) -> Option<String> {
        let mut gone = totals.due;
        gone += totals.retired_lately;
        let stored = totals.leased.bytes.saturating_add(gone.bytes);
        (totals.due.count > 0 && gone.count >= self.count_min && exceeds(gone.bytes, stored, self.retired_percent))
            .then(|| {
                format!(
                    "{} shares with {} bytes would go within a day, which is {} % of what is stored; \
                     more than {} % need a person's consent",
                    gone.count,
                    gone.bytes,
                    percent(gone.bytes, stored),
                    self.retired_percent
                )
            })
    }
}

/// Why nothing is destroyed while clocks differ by so many seconds; `None`: they agree well enough.
pub fn brake_on_clocks(skew_seconds: i64) -> Option<String> {
    (skew_seconds.abs() > CLOCK_SKEW_MAX_SECONDS).then(|| {
        format!(
            "the clock of the lease database differs by {skew_seconds} s from that of this machine, of the backend or \
             of the last beat; set the clocks right"
        )
    })
}

/// Why nothing is destroyed in recovery mode.
pub const RECOVERY_SENTENCE: &str = "the lease database may not know all that was acknowledged (recovery mode); \
     nothing is removed until `leasehold reconcile` has come to its end";

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = DAY_SECONDS;

    fn at(days: i64) -> Timestamp {
        Timestamp::from_seconds(days * DAY)
    }

    fn holder() -> Holder {
        Holder {
            name: "alice".to_owned(),
            state: AccountState::Active,
            duration_seconds: 31 * DAY,
            keep_alive: KeepAlive::None,
            last_used_at: None,
            thawed_at: None,
            release_at: None,
        }
    }

    fn lease() -> Lease {
        Lease { renewed_at: at(100), expires_at: at(132) }
    }

    fn end(policy: ExpirePolicy, holder: &Holder, last_loss: Option<Timestamp>) -> Option<i64> {
        let end = ends_at(&policy, holder, ShareKind::Immutable, lease(), last_loss);
        end.map(|end| end.seconds() / DAY)
    }

    /// Every policy with every state, keep-alive, thaw, loss and release, against the rules in a few lines of days.
    #[test]
    fn the_end_of_a_lease_is_what_a_tiny_oracle_says() {
        let modes =
            [ExpireMode::Age, ExpireMode::Override(10 * DAY), ExpireMode::Cutoff(at(114)), ExpireMode::Cutoff(at(115))];
        let keeps = [KeepAlive::None, KeepAlive::Days(40), KeepAlive::Always];
        let days = [None, Some(90), Some(120)];
        let mut cases = 0;
        for (mode, immutable) in modes.into_iter().flat_map(|mode| [(mode, true), (mode, false)]) {
            for (state, keep_alive) in AccountState::ALL.into_iter().flat_map(|s| keeps.map(|k| (s, k))) {
                for (used, thawed) in days.into_iter().flat_map(|used| days.map(|thawed| (used, thawed))) {
                    for (loss, release) in days.into_iter().flat_map(|loss| days.map(|release| (loss, release))) {
                        cases += 1;
                        let policy = ExpirePolicy { mode, immutable, mutable: true };
                        let holder = Holder {
                            state,
                            keep_alive,
                            last_used_at: used.map(at),
                            thawed_at: thawed.map(at),
                            release_at: release.map(at),
                            ..holder()
                        };
                        let by_mode = match mode {
                            ExpireMode::Age => 132,
                            ExpireMode::Override(_) => 124,
                            ExpireMode::Cutoff(before) if before == at(114) => i64::MAX,
                            ExpireMode::Cutoff(_) => 115,
                        };
                        let mut right = by_mode.max(thawed.max(loss).map_or(0, |from| from + 32));
                        let closed = state == AccountState::Closed;
                        if closed {
                            right = right.min(release.unwrap_or(i64::MAX));
                        } else if let (KeepAlive::Days(days), Some(used)) = (keep_alive, used) {
                            right = right.max(used + i64::from(days));
                        }
                        let never = state == AccountState::Suspended || !immutable;
                        let never = never || keep_alive == KeepAlive::Always && !closed;
                        let found = end(policy, &holder, loss.map(at)).filter(|end| *end < 100_000);
                        let right = (!never && right < 100_000).then_some(right);
                        assert_eq!(found, right, "{policy:?} {holder:?} {loss:?}");
                    }
                }
            }
        }
        assert_eq!(cases, 8 * 12 * 9 * 9);
    }

    /// `review.md` A6, first trace: renewed on the 19th, damped on the 20th, cutoff on the 20th.
    #[test]
    fn a6_a_damped_renewal_survives_a_cutoff_date() {
        let lease = Lease { renewed_at: at(19), expires_at: at(19 + 32) };
        let policy = ExpirePolicy { mode: ExpireMode::Cutoff(at(20)), ..ExpirePolicy::default() };
        assert!(ends_at(&policy, &holder(), ShareKind::Mutable, lease, None).is_none_or(|end| end > at(100_000)));
    }

    /// `review.md` A6, second trace: override 30 days, slack 14: a renewal of the 14th day wrote nothing.
    #[test]
    fn a6_an_override_counts_from_the_last_renewal_that_may_have_been_damped() {
        let lease = Lease { renewed_at: at(0), expires_at: at(45) };
        let policy = ExpirePolicy { mode: ExpireMode::Override(30 * DAY), ..ExpirePolicy::default() };
        assert_eq!(ends_at(&policy, &holder(), ShareKind::Mutable, lease, None), Some(at(14 + 30)));
    }

    /// M-1: the released server compares the lease's age with the time of its end, so nothing ever expires.
    #[test]
    fn m_1_a_lease_that_ended_a_year_ago_has_ended() {
        let mut page = LeasePage {
            now: at(132 + 369),
            last_loss: None,
            leases: Vec::new(),
            holders: HashMap::from([(AccountId::new(16), holder())]),
        };
        let mut on_share = LeaseOnShare {
            share: ShareId::new(StorageIndex::new([1; 16]), ShareNumber::new(0)),
            account: AccountId::new(16),
            lease: lease(),
            kind: ShareKind::Immutable,
            state: ShareState::Stable,
            size_bytes: 1,
        };
        assert!(page.has_ended(&ExpirePolicy::default(), &on_share));
        page.now = at(132);
        assert!(!page.has_ended(&ExpirePolicy::default(), &on_share), "not before its end has passed");
        on_share.account = AccountId::new(17);
        page.now = at(1000);
        assert!(!page.has_ended(&ExpirePolicy::default(), &on_share), "whoever holds it is not known");
    }

    fn lapse(name: &str, ended: u64, all: u64) -> Lapse {
        let amount = |count| Amount { count, bytes: count };
        Lapse { name: name.to_owned(), all: amount(all), ended: amount(ended) }
    }

    #[test]
    fn brakes_hold_above_their_fraction_and_never_for_a_handful() {
        let brakes = Brakes::default();
        let held = |lapses: &[Lapse]| brakes.on_leases(lapses);
        assert_eq!(held(&[lapse("a", 99, 99)]), None, "a handful");
        assert_eq!(held(&[lapse("a", 250, 1000), lapse("b", 0, 0)]), None, "just what is allowed");
        let text = held(&[lapse("a", 260, 1000)]).expect("all together");
        assert!(text.contains("260 of 1000") && text.contains("26 %") && text.contains("25 %"), "{text}");
        let text = held(&[lapse("a", 200, 300), lapse("b", 0, 10_000)]).expect("one of them");
        assert!(text.contains("account a") && text.contains("66 %"), "{text}");
        let totals = |due, lately, leased| UnleasedTotals {
            due: Amount { count: due, bytes: due },
            retired_lately: Amount { count: lately, bytes: lately },
            leased: Amount { count: leased, bytes: leased },
        };
        assert_eq!(brakes.on_shares(&totals(99, 0, 0)), None);
        assert_eq!(brakes.on_shares(&totals(100, 0, 900)), None);
        assert!(brakes.on_shares(&totals(101, 0, 900)).is_some_and(|text| text.contains("10 %")));
        assert!(brakes.on_shares(&totals(1, 150, 900)).is_some(), "what went today counts");
        assert_eq!(brakes.on_shares(&totals(0, 150, 900)), None, "nothing is left to stop");
    }

    #[test]
    fn clocks_may_differ_by_five_minutes_either_way() {
        assert!(brake_on_clocks(300).is_none() && brake_on_clocks(-300).is_none());
        assert!(brake_on_clocks(301).is_some() && brake_on_clocks(-3600).is_some());
    }
}
