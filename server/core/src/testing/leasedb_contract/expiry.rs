//! Leases that end, shares that nobody leases, and their way back: `accounting.md` 7, 8.3; `review.md` A4, A7, A8, B4, D.
#![allow(missing_docs, reason = "the names of the cases say it")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;

use super::MakeLeaseDb;
use super::bench::{Bench, FIRST_EPOCH};
use crate::account::AccountState;
use crate::beat::BeatName;
use crate::clock::Clock;
use crate::expiry::{
    Amount, ExpireLeases, ExpireMode, ExpireOutcome, ExpirePolicy, KeepAlive, LeaseOnShare, REMOVED_AT_ONCE,
    RetireOutcome, RetireShares, Undo, UndoRefusal, Undone,
};
use crate::id::{AccountId, ShareId, ShareNumber, StorageIndex};
use crate::lease::DAY_SECONDS;
use crate::leasedb::{
    AccountChange, AllocateOutcome, CommitOutcome, Epoch, LeaseDb, Mode, RenewOutcome, SlotToken, Tick, TickOutcome,
    UNDO_SECONDS,
};
use crate::run::RunId;
use crate::share::ShareKind;
use crate::testing::values::{Tasks, credential, share_id, storage_index};

const RUN: RunId = RunId(7);

impl<D: LeaseDb> Bench<D> {
    fn days(&self, days: i64) {
        self.clock.advance(days * DAY_SECONDS);
    }

    /// All leases, read in small pages.
    async fn all_leases(&self) -> Vec<LeaseOnShare> {
        let mut all: Vec<LeaseOnShare> = Vec::new();
        loop {
            let page = self.db.lease_page(all.last().copied(), 3).await.expect("lease_page");
            if page.leases.is_empty() {
                return all;
            }
            all.extend(page.leases);
        }
    }

    async fn expire_these(&self, policy: ExpirePolicy, epoch: Epoch, leases: Vec<LeaseOnShare>) -> ExpireOutcome {
        let request = ExpireLeases { run: RUN, policy, epoch, leases };
        self.db.expire_leases(request).await.expect("expire_leases")
    }

    /// Removes all leases that have ended.
    pub(super) async fn expire(&self, policy: ExpirePolicy) -> (Amount, u64) {
        match self.expire_these(policy, FIRST_EPOCH, self.all_leases().await).await {
            ExpireOutcome::Removed { leases, unleased } => (leases, unleased),
            ExpireOutcome::Forbidden => panic!("it is allowed"),
        }
    }

    async fn queued(&self) -> Vec<ShareId> {
        self.db.list_unleased(None, self.clock.now(), 1000).await.expect("list_unleased")
    }

    async fn retire_these(&self, epoch: Epoch, shares: Vec<ShareId>) -> RetireOutcome {
        let request = RetireShares { epoch, shares, token: SlotToken(self.entropy.bytes()) };
        self.db.retire_shares(request).await.expect("retire_shares")
    }

    /// Retires all that is queued.
    async fn retire(&self) -> Amount {
        match self.retire_these(FIRST_EPOCH, self.queued().await).await {
            RetireOutcome::Retired(amount) => amount,
            RetireOutcome::Forbidden => panic!("it is allowed"),
        }
    }

    async fn undo(&self, index: StorageIndex, number: Option<u8>, run: Option<RunId>) -> Undone {
        let token = SlotToken(self.entropy.bytes());
        let request = Undo { storage_index: index, number: number.map(ShareNumber::new), run, token };
        self.db.undo(request).await.expect("undo")
    }

    async fn token(&self, index: StorageIndex) -> Option<SlotToken> {
        self.db.read_slot(index).await.expect("read_slot").slot.map(|(token, _)| token)
    }

    /// Lets so many moments pass.
    async fn dawdle(&self, share: ShareId, moments: u32) {
        for _ in 0..moments {
            self.exists(share).await;
        }
    }

    async fn exists(&self, share: ShareId) -> bool {
        self.db.find_share(share).await.expect("find_share").is_some()
    }
}

fn amount(count: u64, bytes: u64) -> Amount {
    Amount { count, bytes }
}

pub async fn an_ended_lease_goes_and_its_share_is_queued<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let alice = bench.account("alice", None).await;
    bench.bucket_share(alice, share_id(1, 0), 88).await;
    bench.days(32);
    assert_eq!(bench.expire(ExpirePolicy::default()).await, (amount(0, 0), 0), "it ends now, it has not ended");
    bench.clock.advance(1);
    assert_eq!(bench.expire(ExpirePolicy::default()).await, (amount(1, 100), 1));
    assert!(bench.lease(share_id(1, 0), alice).await.is_none());
    assert_eq!(bench.usage(alice).await, crate::account::Usage::default());
    assert_eq!(bench.queued().await, [share_id(1, 0)]);
    assert!(bench.exists(share_id(1, 0)).await, "it is served until it is retired");
    assert_eq!(bench.expire(ExpirePolicy::default()).await, (amount(0, 0), 0), "nothing is left");
    let totals = bench.db.unleased_totals().await.expect("unleased_totals");
    assert_eq!((totals.due, totals.retired_lately, totals.leased), (amount(1, 100), amount(0, 0), amount(0, 0)));
    assert_eq!(bench.retire().await, amount(1, 100));
    assert!(!bench.exists(share_id(1, 0)).await && bench.queued().await.is_empty());
    let totals = bench.db.unleased_totals().await.expect("unleased_totals");
    assert_eq!((totals.due, totals.retired_lately), (amount(0, 0), amount(1, 100)));
    bench.days(1);
    let totals = bench.db.unleased_totals().await.expect("unleased_totals");
    assert_eq!(totals.retired_lately, amount(0, 0), "that was yesterday");
}

pub async fn a_lease_that_changed_since_it_was_read_stays<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let alice = bench.account("alice", None).await;
    bench.bucket_share(alice, share_id(1, 0), 88).await;
    bench.days(40);
    let read = bench.all_leases().await;
    assert_eq!(bench.db.renew_leases(storage_index(1), alice).await.expect("renew_leases"), RenewOutcome::Done);
    let outcome = bench.expire_these(ExpirePolicy::default(), FIRST_EPOCH, read.clone()).await;
    assert_eq!(outcome, ExpireOutcome::Removed { leases: amount(0, 0), unleased: 0 });
    // Even where the new one has ended as well: it was not the one that was looked at.
    bench.days(40);
    let outcome = bench.expire_these(ExpirePolicy::default(), FIRST_EPOCH, read).await;
    assert_eq!(outcome, ExpireOutcome::Removed { leases: amount(0, 0), unleased: 0 });
    let twice = [bench.all_leases().await, bench.all_leases().await].concat();
    let outcome = bench.expire_these(ExpirePolicy::default(), FIRST_EPOCH, twice).await;
    assert_eq!(outcome, ExpireOutcome::Removed { leases: amount(1, 100), unleased: 1 }, "once");
    bench.audit(&[alice], &[storage_index(1)]).await;
}

pub async fn pages_show_every_lease_once<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bob) = (bench.account("alice", None).await, bench.account("bob", None).await);
    let mut expected = BTreeSet::new();
    for (index, number) in [(0, 0), (0, 200), (1, 3), (7, 0), (255, 0), (255, 1), (255, 255)] {
        bench.bucket_share(alice, share_id(index, number), 10).await;
        bench.db.renew_leases(storage_index(index), bob).await.expect("renew_leases");
        expected.extend([(share_id(index, number), alice), (share_id(index, number), bob)]);
    }
    let leases = bench.all_leases().await;
    assert!(leases.is_sorted_by_key(|lease| (lease.share, lease.account)));
    assert_eq!(leases.len(), expected.len());
    assert_eq!(leases.iter().map(|lease| (lease.share, lease.account)).collect::<BTreeSet<_>>(), expected);
    let page = bench.db.lease_page(None, 100).await.expect("lease_page");
    assert_eq!((page.holders[&alice].name.as_str(), page.holders.len(), page.last_loss), ("alice", 2, None));
}

/// The account of shares that nobody has claimed; it is always there.
const STARTER: &str = "starter";

/// What each account of the matrix is like, and by when its lease of day 0 ends: days after the grant.
type Holding = (&'static str, AccountChange, Option<i64>, Option<i64>);

fn holdings() -> Vec<Holding> {
    let with = |state, keep_alive| AccountChange { state, keep_alive, ..AccountChange::default() };
    vec![
        ("active", with(None, None), None, Some(32)),
        (STARTER, AccountChange::default(), None, Some(32)),
        ("reading", with(Some(AccountState::ReadOnly), None), None, Some(32)),
        ("frozen", with(Some(AccountState::Suspended), None), None, None),
        ("kept", with(None, Some(KeepAlive::Days(60))), None, Some(60)),
        ("kept-briefly", with(None, Some(KeepAlive::Days(5))), None, Some(32)),
        ("kept-for-ever", with(None, Some(KeepAlive::Always)), None, None),
        ("closed", with(None, None), Some(-1), Some(32)),
        ("closed-kept", with(None, Some(KeepAlive::Always)), Some(-1), Some(32)),
        ("released", with(None, None), Some(10), Some(10)),
        ("released-late", with(None, None), Some(50), Some(32)),
    ]
}

/// Whoever recounts may queue what it likes: the look under the lock decides.
pub async fn what_is_queued_goes_only_if_nobody_leases_it<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let alice = bench.account("alice", None).await;
    let (leased, unknown) = (share_id(1, 0), share_id(2, 0));
    bench.bucket_share(alice, leased, 88).await;
    bench.days(2);
    for _ in 0..2 {
        bench.db.queue_unleased(vec![leased, unknown]).await.expect("queue_unleased");
        assert_eq!(bench.queued().await, [leased, unknown]);
    }
    assert_eq!(bench.retire().await, amount(0, 0));
    assert!(bench.queued().await.is_empty() && bench.exists(leased).await);
    bench.db.queue_unleased(Vec::new()).await.expect("queue_unleased");
    bench.audit(&[alice], &[leased.storage_index]).await;
}

/// The deletion matrix: policy × account × kind × leased alone, shared, renewed; on day 40.
pub async fn what_goes_is_what_a_tiny_oracle_says<M: MakeLeaseDb>() {
    let of_all = |mode| ExpirePolicy { mode, immutable: true, mutable: true };
    let of_some = |immutable| ExpirePolicy { mode: ExpireMode::Age, immutable, mutable: !immutable };
    let modes = [ExpireMode::Age, ExpireMode::Override(20 * DAY_SECONDS), cutoff_of(39)];
    let mut cases = 0;
    for policy in modes.map(of_all).into_iter().chain([true, false].map(of_some)) {
        cases += matrix::<M>(policy).await;
    }
    assert_eq!(cases, 5 * 11 * 2 * 3);
}

async fn matrix<M: MakeLeaseDb>(policy: ExpirePolicy) -> usize {
    let bench = Bench::new::<M>().await;
    let bob = bench.account("bob", None).await;
    let mut expected = Vec::new();
    let (mut accounts, mut indexes) = (vec![bob], Vec::new());
    // The last use of an account counts from its first credential.
    for (number, (name, change, closed, end)) in holdings().into_iter().enumerate() {
        let account = if name == STARTER { AccountId::STARTER } else { bench.account(name, None).await };
        accounts.push(account);
        for (kind, form) in
            [ShareKind::Immutable, ShareKind::Mutable].into_iter().flat_map(|k| [0, 1, 2].map(|f| (k, f)))
        {
            let share = share_id(number as u8 * 6 + form * 2 + u8::from(kind == ShareKind::Mutable), 0);
            indexes.push(share.storage_index);
            match kind {
                ShareKind::Immutable => bench.bucket_share(account, share, 88).await,
                ShareKind::Mutable => bench.slot_share(account, share, 88).await,
            };
            expected.push((share, account, kind, form, end));
        }
        if let Some(days) = closed {
            assert!(bench.db.change_account(account, change).await.expect("change_account"));
            let release = (days >= 0).then_some(days * DAY_SECONDS);
            assert!(bench.db.close_account(account, release).await.expect("close_account"));
        } else if name != STARTER {
            bench.set(account, change).await;
        }
    }
    bench.days(30);
    let mut renewed = BTreeSet::new();
    for (share, account, _, form, _) in &expected {
        let renewal = bench.db.renew_leases(share.storage_index, *account);
        if *form == 2 && renewal.await.expect("renew_leases") == RenewOutcome::Done {
            renewed.insert(*share);
        }
    }
    bench.days(10);
    for (share, _, _, form, _) in &expected {
        if *form == 1 {
            // Somebody else leases it too, and has just renewed.
            bench.db.renew_leases(share.storage_index, bob).await.expect("renew_leases");
        }
    }
    bench.expire(policy).await;
    let ended = |share: &ShareId, account, kind, end| {
        let is_about = if kind == ShareKind::Immutable { policy.immutable } else { policy.mutable };
        // What the crawler finds is leased for sixty days.
        let granted = if account == AccountId::STARTER { 61 } else { 32 };
        is_about && has_ended_by_day_40(policy.mode, granted, renewed.contains(share), end)
    };
    for (share, account, kind, form, end) in &expected {
        let lease = bench.lease(*share, *account).await;
        let gone = ended(share, *account, *kind, *end);
        assert_eq!(lease.is_none(), gone, "{policy:?}: the lease of {account} on {share}, form {form}");
    }
    bench.retire().await;
    for (share, account, kind, form, end) in &expected {
        let goes = ended(share, *account, *kind, *end) && *form != 1;
        assert_eq!(!bench.exists(*share).await, goes, "{policy:?}: {share} of {account}, form {form}");
    }
    bench.audit(&accounts, &indexes).await;
    expected.len()
}

/// The tiny oracle. `granted`: days from a renewal to the end that was granted, with a day of slack. `own`: the day by which the account lets its leases end, 32 if as granted, `None`: never. `renewed`: on
/// day 30.
fn has_ended_by_day_40(mode: ExpireMode, granted: i64, renewed: bool, own: Option<i64>) -> bool {
    let renewed_on = if renewed { 30 } else { 0 };
    let by_mode = match mode {
        ExpireMode::Age => renewed_on + granted,
        ExpireMode::Override(seconds) => renewed_on + 14 + seconds / DAY_SECONDS,
        // A renewal may have stood for later ones of two weeks.
        ExpireMode::Cutoff(_) if mode == cutoff_of(39) && !renewed => 39,
        ExpireMode::Cutoff(_) => 100_000,
    };
    match own {
        None => false,
        Some(32) => by_mode < 40,
        Some(released) if released < 32 => released.min(by_mode) < 40,
        Some(kept) => kept.max(by_mode) < 40,
    }
}

fn cutoff_of(day: i64) -> ExpireMode {
    let begin = crate::testing::clock::ManualClock::default().now().seconds();
    ExpireMode::Cutoff(crate::clock::Timestamp::from_seconds(begin + day * DAY_SECONDS))
}

pub async fn resumed_leases_have_their_whole_time_again<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let alice = bench.account("alice", None).await;
    bench.bucket_share(alice, share_id(1, 0), 88).await;
    let set = async |state| bench.set(alice, AccountChange { state: Some(state), ..AccountChange::default() }).await;
    set(AccountState::Suspended).await;
    bench.days(400);
    assert_eq!(bench.expire(ExpirePolicy::default()).await.0.count, 0, "frozen");
    set(AccountState::ReadOnly).await;
    bench.days(32);
    set(AccountState::Active).await;
    assert_eq!(bench.expire(ExpirePolicy::default()).await.0.count, 0, "it had no whole lease to renew in");
    bench.clock.advance(1);
    assert_eq!(bench.expire(ExpirePolicy::default()).await.0.count, 1);
}

/// `review.md` B4: an acknowledged renewal was lost; the old expiry passes.
pub async fn b4_no_lease_ends_within_its_time_after_a_loss<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let alice = bench.account("alice", None).await;
    bench.bucket_share(alice, share_id(1, 0), 88).await;
    bench.days(30);
    let epoch = lose(&bench).await;
    let read = bench.all_leases().await;
    let outcome = bench.expire_these(ExpirePolicy::default(), epoch, read.clone()).await;
    assert_eq!(outcome, ExpireOutcome::Forbidden, "recovery");
    assert_eq!(bench.retire_these(epoch, vec![share_id(1, 0)]).await, RetireOutcome::Forbidden);
    assert_eq!(bench.db.deployment().await.expect("deployment").mode, Mode::Recovery);
    let page = bench.db.lease_page(None, 10).await.expect("lease_page");
    let loss = page.last_loss.expect("it is known");
    assert_eq!(loss.seconds(), bench.clock.now().seconds());
    bench.days(32);
    let page = bench.db.lease_page(None, 10).await.expect("lease_page");
    assert!(!page.has_ended(&ExpirePolicy::default(), &page.leases[0]), "it may have been renewed when that was lost");
    bench.clock.advance(1);
    let page = bench.db.lease_page(None, 10).await.expect("lease_page");
    assert!(page.has_ended(&ExpirePolicy::default(), &page.leases[0]));
    assert_eq!(bench.expire_these(ExpirePolicy::default(), FIRST_EPOCH, read).await, ExpireOutcome::Forbidden);
}

/// Lets the database notice that commits were lost.
async fn lose<D: LeaseDb>(bench: &Bench<D>) -> Epoch {
    let ahead = BeatName { epoch: FIRST_EPOCH, beat: 1000, nonce: bench.id() };
    let tick = Tick { listed: vec![ahead], nonce: bench.id(), standby_is_synchronous: true };
    match bench.db.tick(tick).await.expect("tick") {
        TickOutcome::Loss(epoch) => epoch,
        outcome => panic!("a loss: {outcome:?}"),
    }
}

pub async fn what_was_queued_is_looked_at_again<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bob) = (bench.account("alice", None).await, bench.account("bob", None).await);
    for number in 0..3 {
        bench.bucket_share(alice, share_id(number, 0), 88).await;
    }
    bench.days(40);
    bench.expire(ExpirePolicy::default()).await;
    let queued = bench.queued().await;
    assert_eq!(queued.len(), 3);
    // B-6: leased again after it was queued, and even after it was read from there.
    let outcome = bench.db.allocate(bench.request(bob, storage_index(0), &[0], 88)).await.expect("allocate");
    assert!(matches!(outcome, AllocateOutcome::Done { already_have, .. } if already_have == [ShareNumber::new(0)]));
    bench.db.renew_leases(storage_index(1), alice).await.expect("renew_leases");
    assert_eq!(bench.retire_these(FIRST_EPOCH, queued).await, RetireOutcome::Retired(amount(1, 100)));
    assert!(bench.exists(share_id(0, 0)).await && bench.exists(share_id(1, 0)).await);
    assert!(bench.queued().await.is_empty(), "all three have been dealt with");
    // A share that is asked for and was never queued is not exempt from the rule, nor one that is not there.
    let asked = vec![share_id(0, 0), share_id(2, 0), share_id(9, 9)];
    assert_eq!(bench.retire_these(FIRST_EPOCH, asked).await, RetireOutcome::Retired(amount(0, 0)));
    assert_eq!(bench.retire_these(Epoch(2), vec![share_id(0, 0)]).await, RetireOutcome::Forbidden);
    bench.audit(&[alice, bob], &[0, 1, 2].map(storage_index)).await;
}

pub async fn a_young_share_waits_for_its_day<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let alice = bench.account("alice", None).await;
    bench.bucket_share(alice, share_id(1, 0), 88).await;
    bench.days(40);
    bench.expire(ExpirePolicy::default()).await;
    bench.retire().await;
    // Put back, it is as old as that.
    assert_eq!(bench.undo(storage_index(1), None, None).await.shares, [ShareNumber::new(0)]);
    let policy = ExpirePolicy { mode: ExpireMode::Override(0), ..ExpirePolicy::default() };
    bench.clock.advance(14 * DAY_SECONDS + 1);
    assert_eq!(bench.expire(policy).await.1, 1, "the starter account's lease");
    bench.bucket_share(alice, share_id(2, 0), 88).await;
    bench.db.close_account(alice, Some(-1)).await.expect("close_account");
    assert_eq!(bench.expire(policy).await.1, 1);
    assert_eq!(bench.retire().await, amount(1, 100), "the older one");
    assert_eq!(bench.queued().await, [share_id(2, 0)]);
    let until = crate::clock::Timestamp::from_seconds(bench.clock.now().seconds() - 1);
    assert!(bench.db.list_unleased(None, until, 10).await.expect("list_unleased").is_empty(), "queued later");
    bench.days(1);
    assert_eq!(bench.retire().await, amount(1, 100));
}

/// `review.md` A4, A8: a slot that loses a share has another token; one that loses its last is no slot.
pub async fn a_slot_follows_its_shares<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bob, index) = (bench.account("alice", None).await, bench.account("bob", None).await, storage_index(1));
    bench.write(alice, index, &[(0, Some(100))]).await;
    bench.days(20);
    // A write leases what it writes only, so share 0 ends first.
    bench.write(bob, index, &[(1, Some(50))]).await;
    bench.days(20);
    let (first, stale) = (bench.token(index).await, bench.db.read_slot(index).await.expect("read_slot"));
    let writing = bench.commit(alice, index, first, &[(1, Some(60))]);
    assert_eq!(bench.expire(ExpirePolicy::default()).await, (amount(1, 572), 1));
    assert_eq!(bench.retire().await, amount(1, 572));
    assert!(bench.token(index).await != first && stale.shares.len() == 2);
    assert_eq!(bench.db.commit_slot(writing).await.expect("commit_slot"), CommitOutcome::Conflict);
    bench.days(20);
    bench.expire(ExpirePolicy::default()).await;
    assert_eq!(bench.retire().await, amount(1, 522));
    assert!(bench.token(index).await.is_none());
    // Nobody holds on to the write enabler.
    let mut other = bench.commit(bob, index, None, &[(0, Some(10))]);
    other.write_enabler = credential("another");
    assert_eq!(bench.db.commit_slot(other).await.expect("commit_slot"), CommitOutcome::Done);
    assert_eq!(bench.undo(index, Some(1), None).await.refused, [(ShareNumber::new(1), UndoRefusal::SlotExists)]);
    bench.audit(&[alice, bob], &[index]).await;
}

pub async fn a_retired_share_is_garbage_for_a_week_and_can_be_put_back<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index) = (bench.account("alice", None).await, storage_index(1));
    let name = bench.bucket_share(alice, share_id(1, 0), 88).await;
    bench.days(40);
    bench.expire(ExpirePolicy::default()).await;
    bench.retire().await;
    bench.clock.advance(UNDO_SECONDS - 1);
    assert!(bench.take_garbage().await.is_empty());
    let undone = bench.undo(index, None, None).await;
    assert_eq!(undone, Undone { shares: vec![ShareNumber::new(0)], leases: 1, refused: vec![] });
    let row = bench.db.find_share(share_id(1, 0)).await.expect("find_share").expect("it is back");
    assert_eq!((row.size_bytes, row.locator.objects()), (88, vec![name.object]));
    let starter = bench.lease(share_id(1, 0), AccountId::STARTER).await.expect("a lease of the starter account");
    assert!(starter.lease.expires_at.seconds() >= bench.clock.now().seconds() + 60 * DAY_SECONDS);
    assert_eq!(bench.undo(index, None, None).await, Undone::default(), "nothing is left to be put back");
    bench.days(30);
    assert!(bench.take_garbage().await.is_empty(), "its objects are nobody's garbage any more");
    bench.audit(&[alice, AccountId::STARTER], &[index]).await;
}

pub async fn a_slot_that_was_retired_comes_back_whole<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index) = (bench.account("alice", None).await, storage_index(1));
    bench.write(alice, index, &[(0, Some(100)), (1, Some(50))]).await;
    let before = bench.token(index).await;
    bench.days(40);
    bench.expire(ExpirePolicy::default()).await;
    assert_eq!(bench.retire().await, amount(2, 572 + 522));
    assert_eq!(bench.undo(index, Some(1), None).await.shares, [ShareNumber::new(1)]);
    assert!(bench.token(index).await.is_some_and(|token| Some(token) != before));
    // The rest of the same slot, which is there again.
    assert_eq!(bench.undo(index, None, None).await.refused, [(ShareNumber::new(0), UndoRefusal::SlotExists)]);
    bench.write(alice, index, &[(1, None)]).await;
    let undone = bench.undo(index, None, None).await;
    assert_eq!(undone.shares, [0, 1].map(ShareNumber::new), "both at once");
    assert_eq!(bench.numbers(ShareKind::Mutable, index).await, [0, 1]);
    assert!(bench.lease(share_id(1, 1), AccountId::STARTER).await.is_some(), "as it was removed");
    let (outcome, _) = bench.write(alice, index, &[(0, Some(70))]).await;
    assert_eq!(outcome, CommitOutcome::Done, "under its old write enabler");
    bench.audit(&[alice, AccountId::STARTER], &[index]).await;
}

pub async fn what_a_client_removed_comes_back_with_its_leases<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bob, index) = (bench.account("alice", None).await, bench.account("bob", None).await, storage_index(1));
    bench.write(alice, index, &[(0, Some(100)), (1, Some(50))]).await;
    bench.db.renew_leases(index, bob).await.expect("renew_leases");
    let leases = [bench.lease(share_id(1, 0), alice).await, bench.lease(share_id(1, 0), bob).await];
    bench.write(alice, index, &[(0, None)]).await;
    assert_eq!(bench.usage(bob).await.used_bytes, 522);
    let undone = bench.undo(index, None, None).await;
    assert_eq!(undone, Undone { shares: vec![ShareNumber::new(0)], leases: 2, refused: vec![] });
    let again = [bench.lease(share_id(1, 0), alice).await, bench.lease(share_id(1, 0), bob).await];
    for (old, new) in leases.into_iter().zip(again) {
        assert_eq!(old.expect("it was there").lease, new.expect("it is there").lease);
    }
    bench.write(alice, index, &[(0, None), (1, None)]).await;
    assert!(bench.token(index).await.is_none());
    assert_eq!(bench.undo(index, None, None).await.shares.len(), 2);
    bench.audit(&[alice, bob], &[index]).await;
}

/// `review.md` A7, D4.
pub async fn what_cannot_come_back_is_refused_with_the_reason<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let alice = bench.account("alice", None).await;
    for index in 1..=4 {
        bench.bucket_share(alice, share_id(index, 0), 88).await;
    }
    bench.days(40);
    bench.expire(ExpirePolicy::default()).await;
    assert_eq!(bench.retire().await.count, 4);
    bench.bucket_share(alice, share_id(1, 0), 50).await;
    bench.allocate(alice, storage_index(2), &[0], 50).await;
    bench.slot_share(alice, share_id(3, 1), 50).await;
    let refused = |why| vec![(ShareNumber::new(0), why)];
    assert_eq!(bench.undo(storage_index(1), None, None).await.refused, refused(UndoRefusal::ShareExists));
    assert_eq!(bench.undo(storage_index(2), Some(0), None).await.refused, refused(UndoRefusal::UploadExists));
    assert_eq!(bench.undo(storage_index(3), None, None).await.refused, refused(UndoRefusal::SlotExists));
    assert_eq!(bench.undo(storage_index(3), Some(7), None).await, Undone::default(), "no such share");
    // Claimed: somebody may have begun to delete, even if the claim has lapsed since.
    bench.clock.advance(UNDO_SECONDS + 1);
    let claimed = bench.db.claim_garbage(FIRST_EPOCH, 100, 60).await.expect("claim_garbage");
    assert_eq!(claimed.len(), 4);
    bench.clock.advance(1000);
    assert_eq!(bench.undo(storage_index(4), None, None).await.refused, refused(UndoRefusal::Deleted));
    assert!(!bench.exists(share_id(4, 0)).await);
    bench.audit(&[alice], &[1, 2, 3, 4].map(storage_index)).await;
}

pub async fn a_run_is_undone_with_its_owners<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bob) = (bench.account("alice", None).await, bench.account("bob", None).await);
    let indexes = [1, 2, 3].map(storage_index);
    for index in 1..=3 {
        bench.bucket_share(alice, share_id(index, 0), 88).await;
    }
    bench.slot_share(alice, share_id(4, 0), 100).await;
    bench.db.renew_leases(storage_index(2), bob).await.expect("renew_leases");
    let lease = bench.lease(share_id(1, 0), alice).await.expect("leased").lease;
    bench.days(40);
    assert_eq!(bench.expire(ExpirePolicy::default()).await.0.count, 5);
    assert_eq!(bench.retire().await.count, 4);
    bench.bucket_share(bob, share_id(3, 0), 70).await;
    let listed = bench.db.list_expired(RUN, None, 2).await.expect("list_expired");
    assert_eq!(listed, [storage_index(1), storage_index(2)]);
    let listed = bench.db.list_expired(RUN, Some(storage_index(2)), 9).await.expect("list_expired");
    assert_eq!(listed, [storage_index(3), storage_index(4)]);
    let undone = bench.undo(storage_index(1), None, Some(RUN)).await;
    // Its lease has ended long ago: the starter account's keeps it until the policy is mended.
    assert_eq!(undone, Undone { shares: vec![ShareNumber::new(0)], leases: 2, refused: vec![] });
    assert_eq!(bench.lease(share_id(1, 0), alice).await.expect("hers again").lease, lease);
    assert_eq!(bench.undo(storage_index(2), None, Some(RUN)).await.leases, 3);
    let undone = bench.undo(storage_index(3), None, Some(RUN)).await;
    assert_eq!(undone.refused, [(ShareNumber::new(0), UndoRefusal::ShareExists)]);
    assert_eq!(undone.leases, 1, "she leases what is there now");
    assert_eq!(bench.undo(storage_index(4), None, Some(RUN)).await.shares, [ShareNumber::new(0)]);
    assert!(bench.db.list_expired(RUN, None, 9).await.expect("list_expired").is_empty(), "done");
    assert_eq!(bench.undo(storage_index(1), None, Some(RunId(8))).await, Undone::default(), "another run");
    bench.audit(&[alice, bob, AccountId::STARTER], &[&indexes[..], &[storage_index(4)]].concat()).await;
}

pub async fn removed_leases_are_forgotten_after_a_week<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let alice = bench.account("alice", None).await;
    for index in 0..5 {
        bench.bucket_share(alice, share_id(index, 0), 88).await;
    }
    bench.days(40);
    bench.expire(ExpirePolicy::default()).await;
    bench.clock.advance(UNDO_SECONDS);
    assert_eq!(bench.db.purge_expired(10).await.expect("purge_expired"), 0);
    bench.clock.advance(1);
    assert_eq!(bench.db.purge_expired(3).await.expect("purge_expired"), 3);
    assert_eq!(bench.db.purge_expired(10).await.expect("purge_expired"), 2);
    assert!(bench.db.list_expired(RUN, None, 9).await.expect("list_expired").is_empty());
}

pub async fn many_leases_go_at_once<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let alice = bench.account("alice", None).await;
    // As many as one transaction takes, of three share numbers each.
    let numbers: Vec<u8> = (0..=255).collect();
    for index in 0..2 {
        bench.allocate(alice, storage_index(index), &numbers, 1).await;
        for number in &numbers {
            bench.record(share_id(index, *number), 0..1).await;
        }
    }
    bench.days(40);
    let mut leases = Vec::new();
    while let Some(page) = bench.db.lease_page(leases.last().copied(), 1000).await.ok().filter(|p| !p.leases.is_empty())
    {
        leases.extend(page.leases);
    }
    assert_eq!(leases.len(), 512);
    let rest = leases.split_off(REMOVED_AT_ONCE);
    let removed = bench.expire_these(ExpirePolicy::default(), FIRST_EPOCH, leases).await;
    assert_eq!(removed, ExpireOutcome::Removed { leases: amount(500, 500 * 13), unleased: 500 });
    bench.expire_these(ExpirePolicy::default(), FIRST_EPOCH, rest).await;
    assert_eq!(bench.retire().await, amount(512, 512 * 13));
    assert_eq!(bench.usage(alice).await, crate::account::Usage::default());
}

/// A5, A7, B-6: a renewal, an allocation, expiry and collection at the same time, over and over.
pub async fn a_renewal_that_was_answered_is_never_followed_by_a_missing_share<M: MakeLeaseDb>() {
    renewals_against_removal::<M>(150).await;
}

/// So many rounds of that race. Each has a lease that has ended, which is renewed, taken by another account and removed
/// at once.
pub async fn renewals_against_removal<M: MakeLeaseDb>(rounds: u32) {
    let bench = Arc::new(Bench::new::<M>().await);
    let (alice, bob) = (bench.account("alice", None).await, bench.account("bob", None).await);
    let mut outcomes = [0; 4];
    for round in 0..rounds {
        let share = share_id((round % 8) as u8, 0);
        let index = share.storage_index;
        if !bench.exists(share).await {
            bench.bucket_share(alice, share, 88).await;
        }
        bench.days(100);
        let (answers, seen): (Arc<Mutex<(bool, bool)>>, _) = (Arc::default(), bench.all_leases().await);
        let (renewer, allocator, remover) = (bench.clone(), bench.clone(), bench.clone());
        let (renewed, allocated) = (answers.clone(), answers.clone());
        let renew = async move {
            renewer.dawdle(share, round / 3 % 5).await;
            let outcome = renewer.db.renew_leases(index, alice).await.expect("renew_leases");
            renewed.lock().expect("lock").0 = outcome == RenewOutcome::Done;
        };
        let allocate = async move {
            allocator.dawdle(share, round / 3 % 4).await;
            let request = allocator.request(bob, index, &[], 88);
            let outcome = allocator.db.allocate(request).await.expect("allocate");
            let AllocateOutcome::Done { already_have, .. } = outcome else { panic!("{outcome:?}") };
            allocated.lock().expect("lock").1 = !already_have.is_empty();
        };
        let remove = async move {
            remover.expire_these(ExpirePolicy::default(), FIRST_EPOCH, seen).await;
            remover.retire_these(FIRST_EPOCH, vec![share]).await;
            remover.expire(ExpirePolicy::default()).await;
            remover.retire().await;
        };
        let mut tasks: Tasks = vec![remove.boxed()];
        if round % 3 != 1 {
            tasks.push(renew.boxed());
        }
        if round % 3 != 0 {
            tasks.push(allocate.boxed());
        }
        M::run_all(tasks).await;
        let (renewed, allocated) = *answers.lock().expect("lock");
        let (there, leases) = (bench.exists(share).await, bench.db.list_leases(index).await.expect("list_leases"));
        for (answered, account) in [(renewed, alice), (allocated, bob)] {
            let leased = leases.iter().any(|lease| lease.account == account);
            assert!(!answered || there && leased, "round {round}: yes was said to {account}, and then it went");
        }
        outcomes[usize::from(renewed) + 2 * usize::from(allocated)] += 1;
        if there {
            bench.retire().await;
            assert!(leases.is_empty() || bench.exists(share).await, "round {round}: leased, and gone");
        }
    }
    println!(
        "nobody was in time {} times, alice {}, bob {}, both {}",
        outcomes[0], outcomes[1], outcomes[2], outcomes[3]
    );
    bench.audit(&[alice, bob], &(0..8).map(storage_index).collect::<Vec<_>>()).await;
}
