//! Leases that end and shares that nobody leases, as runs of jobs: `accounting.md` 7, 8.3, 15; `review.md` A13; `design.md` 8.

mod commands;
mod storm;

use std::sync::Arc;

use leasehold_core::backend::Backend;
use leasehold_core::clock::{Clock, Timestamp};
use leasehold_core::expiry::{Amount, Brakes, ExpireMode, ExpirePolicy, UndoRefusal};
use leasehold_core::id::ShareNumber;
use leasehold_core::lease::DAY_SECONDS;
use leasehold_core::leasedb::{AccountChange, LeaseDb, UNDO_SECONDS};
use leasehold_core::run::{BeginRun, BeginRunOutcome, PermitOutcome, Run, RunKind, RunState};
use leasehold_core::share::ShareKind;
use leasehold_core::store::{Collected, ExpireReport, ExpireRequest, Expired, Store, StoreOptions};
use leasehold_core::testing::clock::ManualClock;
use leasehold_core::testing::leasedb_contract::expiry::renewals_against_removal;
use leasehold_core::testing::{share_id, storage_index, upload_secret};

use crate::contract_leasedb::{Pg, Sqlite};
use crate::ground::{Ground, OneMachine, Pods, on_every_ground};
use crate::store::site::{Pod, Site};

on_every_ground! {
    a_dry_run_changes_nothing,
    the_first_run_of_each_policy_is_a_dry_one,
    a_brake_holds_until_somebody_lets_the_next_run_go_on,
    too_many_bytes_at_once_wait_for_a_person,
    in_recovery_mode_nothing_ends,
    one_run_at_a_time,
    b_3_a_second_uploader_keeps_the_share_that_the_first_gives_up,
    b_5_what_is_coming_or_going_is_never_stuck,
    b_6_a_share_leased_again_after_it_was_queued_stays,
    a6_a_damped_renewal_outlives_cutoff_date_and_override,
    b_10_what_was_recovered_is_counted_in_bytes,
    b_12_nothing_of_accounts_is_forgotten_over_a_restart,
    b_13_many_accounts_share_one_server_and_one_backend,
    m_1_leases_that_ended_long_ago_end_and_their_space_comes_back,
    a_retired_share_can_be_read_again_after_an_undo_until_its_bytes_are_deleted,
    a_run_is_undone_with_the_shares_that_went_for_it,
}

fn bytes_of(index: u8) -> Vec<u8> {
    vec![index; 88]
}

/// A store whose brakes hold from two leases or shares on.
fn braked<G: Ground>(site: &Site<G>) -> Store<G::Db, G::Objects> {
    let brakes = Brakes { count_min: 2, ..Brakes::USUAL };
    site.store_with(site.db.clone(), site.objects.clone(), StoreOptions { brakes, ..StoreOptions::default() })
}

async fn expire<L: LeaseDb, B: Backend>(store: &Store<L, B>, policy: ExpirePolicy, dry_run: bool) -> ExpireReport {
    match store.expire(ExpireRequest { policy, dry_run }, |_| ()).await.expect("expire") {
        Expired::Ended(report) => report,
        Expired::Busy(run) => panic!("{run:?} is in the way"),
    }
}

/// A real run, after the dry one that its policy needs.
async fn expire_really<L: LeaseDb, B: Backend>(store: &Store<L, B>) -> ExpireReport {
    expire(store, ExpirePolicy::default(), true).await;
    let report = expire(store, ExpirePolicy::default(), false).await;
    assert_eq!((report.state, report.run.dry_run), (RunState::Done, false), "{report:?}");
    report
}

async fn last_run<L: LeaseDb>(db: &L, kind: RunKind) -> Run {
    db.list_runs(Some(kind), 1).await.expect("list_runs").pop().expect("there was one")
}

async fn collect<L: LeaseDb, B: Backend>(store: &Store<L, B>) -> Collected {
    store.collect(|_| ()).await.expect("collect")
}

/// A site on which Alice has so many shares, whose leases have all ended.
async fn lapsed<G: Ground>(count: u8) -> (Site<G>, Pod<G::Db, G::Objects>) {
    let site = Site::<G>::make().await;
    let (alice, pod) = (site.account("alice").await, site.pod(site.objects.clone()));
    for index in 0..count {
        pod.upload(&alice, share_id(index, 0), &bytes_of(index)).await;
    }
    site.clock.advance(40 * DAY_SECONDS);
    (site, pod)
}

async fn a_dry_run_changes_nothing<G: Ground>() {
    let (site, pod) = lapsed::<G>(3).await;
    let before = (site.ground.dump().await, site.listed("").await);
    let report = expire(&pod.store, ExpirePolicy::default(), true).await;
    assert_eq!((report.state, report.reason.as_str(), report.run.dry_run), (RunState::Done, "", true));
    let lapse = report.lapses.values().next().expect("Alice's");
    assert_eq!((lapse.name.as_str(), lapse.all, lapse.ended), ("alice", lapse.ended, Amount { count: 3, bytes: 300 }));
    assert_eq!((report.lapses.len(), report.counted.removed, report.counted.unleased), (1, Amount::default(), 0));
    assert_eq!((site.ground.dump().await, site.listed("").await), before);
    let run = last_run(&site.db, RunKind::Expire).await;
    assert_eq!((run.dry_run, run.state, run.totals.of("leases_ended")), (true, RunState::Done, 3));
    assert_eq!((run.totals.of("bytes_ended"), run.totals.of("leases_removed")), (300, 0));
    // Not even where a brake would hold.
    let report = expire(&braked(&site), ExpirePolicy::default(), true).await;
    assert_eq!(report.state, RunState::Done);
    assert!(report.reason.contains("a brake would hold: 3 of 3 leases"), "{}", report.reason);
    assert_eq!(site.ground.dump().await, before.0);
}

async fn the_first_run_of_each_policy_is_a_dry_one<G: Ground>() {
    let (site, pod) = lapsed::<G>(2).await;
    let before = site.ground.dump().await;
    let policy = ExpirePolicy::default();
    let report = expire(&pod.store, policy, false).await;
    assert!(report.run.dry_run && report.reason.contains("no run has ended with this policy yet"), "{}", report.reason);
    assert_eq!(site.ground.dump().await, before);
    // Another policy begins anew, and so does the first one after it.
    let other = ExpirePolicy { mode: ExpireMode::Override(30 * DAY_SECONDS), ..policy };
    assert!(expire(&pod.store, other, false).await.run.dry_run);
    assert!(expire(&pod.store, policy, false).await.run.dry_run);
    assert_eq!(site.ground.dump().await, before);
    let report = expire(&pod.store, policy, false).await;
    assert_eq!((report.run.dry_run, report.counted.removed.count, report.reason.as_str()), (false, 2, ""));
    assert!(!expire(&pod.store, policy, false).await.run.dry_run, "it has ended before");
    site.assert_clean(&["alice"], &[0, 1]).await;
}

async fn a_brake_holds_until_somebody_lets_the_next_run_go_on<G: Ground>() {
    let (site, _) = lapsed::<G>(3).await;
    let (store, policy) = (braked(&site), ExpirePolicy::default());
    expire(&store, policy, true).await;
    let before = site.ground.dump().await;
    let report = expire(&store, policy, false).await;
    assert_eq!(report.state, RunState::Braked);
    assert!(report.reason.contains("3 of 3 leases") && report.reason.contains("25 %"), "{}", report.reason);
    let again = expire(&store, policy, false).await;
    assert_eq!(again.state, RunState::Braked, "it holds each time");
    assert_eq!(site.ground.dump().await, before);
    let permit = async |id| site.db.permit_run(id).await.expect("permit_run");
    assert_eq!(permit(report.run.id).await, PermitOutcome::Superseded);
    assert_eq!(permit(again.run.id).await, PermitOutcome::Permitted);
    expire(&store, policy, true).await;
    let report = expire(&store, policy, false).await;
    assert_eq!((report.state, report.counted.removed.count), (RunState::Done, 3), "a dry run took no permission");
    let (alice, pod) = (site.account("bob").await, site.pod(site.objects.clone()));
    for index in 10..13 {
        pod.upload(&alice, share_id(index, 0), &bytes_of(index)).await;
    }
    site.clock.advance(40 * DAY_SECONDS);
    assert_eq!(expire(&store, policy, false).await.state, RunState::Braked, "the permission was for once");
}

async fn too_many_bytes_at_once_wait_for_a_person<G: Ground>() {
    let (site, pod) = lapsed::<G>(3).await;
    let bob = site.account("bob").await;
    for index in 10..15 {
        pod.upload(&bob, share_id(index, 0), &bytes_of(index)).await;
    }
    expire_really(&pod.store).await;
    let store = braked(&site);
    let collected = collect(&store).await;
    let run = last_run(&site.db, RunKind::Collect).await;
    assert_eq!((collected.braked, collected.retired, run.state), (Some(run.id), Amount::default(), RunState::Braked));
    assert!(run.reason.contains("3 shares with 300 bytes") && run.reason.contains("37 %"), "{}", run.reason);
    // The loop of a server comes by every few seconds: it makes no run each time.
    assert_eq!(collect(&store).await.braked, Some(run.id));
    assert_eq!(last_run(&site.db, RunKind::Collect).await.id, run.id);
    assert_eq!(site.db.permit_run(run.id).await.expect("permit_run"), PermitOutcome::Permitted);
    let collected = collect(&store).await;
    assert_eq!((collected.braked, collected.retired), (None, Amount { count: 3, bytes: 300 }));
    site.assert_clean(&["alice", "bob"], &(0..15).collect::<Vec<_>>()).await;
}

async fn in_recovery_mode_nothing_ends<G: Ground>() {
    let (site, pod) = lapsed::<G>(3).await;
    expire_really(&pod.store).await;
    let (alice, index) = (site.account("bob").await, 7);
    pod.upload(&alice, share_id(index, 0), &bytes_of(index)).await;
    site.clock.advance(40 * DAY_SECONDS);
    site.ground.execute("UPDATE deployment SET mode = 1").await;
    let before = (site.ground.dump().await, site.listed("").await);
    let report = expire(&pod.store, ExpirePolicy::default(), false).await;
    assert_eq!(report.state, RunState::Braked);
    assert!(report.reason.contains("leasehold reconcile"), "{}", report.reason);
    // No permission helps: what is not known cannot be allowed.
    assert_eq!(site.db.permit_run(report.run.id).await.expect("permit_run"), PermitOutcome::Permitted);
    assert_eq!(expire(&pod.store, ExpirePolicy::default(), false).await.state, RunState::Braked);
    assert_eq!(collect(&pod.store).await, Collected::default());
    assert_eq!((site.ground.dump().await, site.listed("").await), before);
}

async fn one_run_at_a_time<G: Ground>() {
    let (site, pod) = lapsed::<G>(1).await;
    let begin = |kind| BeginRun { kind, dry_run: false, policy: String::new() };
    let begun = site.db.begin_run(begin(RunKind::Expire)).await.expect("begin_run");
    let BeginRunOutcome::Begun(other) = begun else { panic!("{begun:?}") };
    let request = ExpireRequest { policy: ExpirePolicy::default(), dry_run: false };
    let expired = pod.store.expire(request, |_| ()).await.expect("expire");
    assert!(matches!(expired, Expired::Busy(run) if run.id == other.id));
    // The one that died in the middle is in nobody's way for long.
    site.clock.advance(301);
    expire_really(&pod.store).await;
    let begun = site.db.begin_run(begin(RunKind::Collect)).await.expect("begin_run");
    assert!(matches!(begun, BeginRunOutcome::Begun(_)));
    assert_eq!(collect(&pod.store).await.retired.count, 0, "somebody else is at it");
    site.clock.advance(301);
    assert_eq!(collect(&pod.store).await.retired.count, 1);
}

async fn b_3_a_second_uploader_keeps_the_share_that_the_first_gives_up<G: Ground>() {
    let site = Site::<G>::make().await;
    let (alice, bob, pod) = (site.account("alice").await, site.account("bob").await, site.pod(site.objects.clone()));
    pod.upload(&alice, share_id(1, 0), &bytes_of(1)).await;
    site.clock.advance(20 * DAY_SECONDS);
    let sets = pod.store.allocate_bucket(&bob, storage_index(1), &[ShareNumber::new(0)], 88, &upload_secret(2)).await;
    assert_eq!(sets.expect("allocate").already_have, [ShareNumber::new(0)]);
    site.clock.advance(20 * DAY_SECONDS);
    assert_eq!(expire_really(&pod.store).await.counted.removed.count, 1);
    collect(&pod.store).await;
    assert_eq!((site.usage("alice").await, site.usage("bob").await), ((0, 0), (100, 0)));
    assert_eq!(pod.read(ShareKind::Immutable, share_id(1, 0)).await, bytes_of(1));
    site.assert_clean(&["alice", "bob"], &[1]).await;
}

async fn b_5_what_is_coming_or_going_is_never_stuck<G: Ground>() {
    let (mut site, pod) = lapsed::<G>(1).await;
    let alice = site.account("bob").await;
    pod.allocate(&alice, share_id(5, 0), 100).await;
    expire_really(&pod.store).await;
    collect(&pod.store).await;
    // The process dies with one share coming and one going; another one ends both.
    site.reopen().await;
    let pod = site.pod(site.objects.clone());
    assert!(pod.numbers(ShareKind::Immutable, share_id(0, 0)).await.is_empty(), "what goes is not served");
    site.clock.advance(UNDO_SECONDS + 1);
    let collected = collect(&pod.store).await;
    assert_eq!((collected.uploads_ended, collected.objects_deleted), (1, 1));
    assert!(site.listed("shares/").await.is_empty());
    pod.upload(&alice, share_id(0, 0), &bytes_of(9)).await;
    assert_eq!(pod.read(ShareKind::Immutable, share_id(0, 0)).await, bytes_of(9), "the number is free again");
    site.assert_clean(&["alice", "bob"], &[0, 5]).await;
}

async fn b_6_a_share_leased_again_after_it_was_queued_stays<G: Ground>() {
    let (site, pod) = lapsed::<G>(2).await;
    expire_really(&pod.store).await;
    let bob = site.account("bob").await;
    pod.store.renew_leases(&bob, storage_index(0)).await.expect("renewed");
    assert_eq!(collect(&pod.store).await.retired, Amount { count: 1, bytes: 100 });
    assert_eq!(pod.read(ShareKind::Immutable, share_id(0, 0)).await, bytes_of(0));
    // Nor is a lease taken on what goes.
    let refused = pod.store.renew_leases(&bob, storage_index(1)).await;
    assert!(matches!(refused, Err(leasehold_core::store::StoreError::NotFound)), "{refused:?}");
    site.assert_clean(&["alice", "bob"], &[0, 1]).await;
}

/// A renewal that is answered without a write is as good as one that is written, whatever the policy compares.
async fn a6_a_damped_renewal_outlives_cutoff_date_and_override<G: Ground>() {
    let site = Site::<G>::make().await;
    let (alice, pod) = (site.account("alice").await, site.pod(site.objects.clone()));
    pod.upload(&alice, share_id(1, 0), &bytes_of(1)).await;
    site.clock.advance(DAY_SECONDS / 2);
    let cutoff = site.clock.now();
    site.clock.advance(DAY_SECONDS / 4);
    let before = site.db.list_leases(storage_index(1)).await.expect("list_leases")[0].lease;
    pod.store.renew_leases(&alice, storage_index(1)).await.expect("renewed");
    let after = site.db.list_leases(storage_index(1)).await.expect("list_leases")[0].lease;
    assert_eq!(before, after, "it is damped: nothing was written since before the cutoff");
    let policy = |mode| ExpirePolicy { mode, ..ExpirePolicy::default() };
    let ended = async |mode| {
        expire(&pod.store, policy(mode), true).await;
        expire(&pod.store, policy(mode), false).await.counted.removed.count
    };
    site.clock.advance(10 * DAY_SECONDS);
    assert_eq!(ended(ExpireMode::Cutoff(cutoff)).await, 0);
    // The first trace's twin: ten days after the answer is not ten days after what is written.
    assert_eq!(ended(ExpireMode::Override(10 * DAY_SECONDS)).await, 0);
    site.clock.advance(20 * DAY_SECONDS);
    assert_eq!(ended(ExpireMode::Override(10 * DAY_SECONDS)).await, 1, "two weeks later it has ended however it was");
}

/// The branch kept its database where the process was: every restart began with nothing.
async fn b_12_nothing_of_accounts_is_forgotten_over_a_restart<G: Ground>() {
    let (mut site, pod) = lapsed::<G>(3).await;
    let bob = site.account("bob").await;
    pod.upload(&bob, share_id(9, 0), &bytes_of(9)).await;
    expire_really(&pod.store).await;
    let seen = async |site: &Site<G>| {
        let runs = site.db.list_runs(None, 10).await.expect("list_runs");
        (site.ground.dump().await, runs, site.usage("alice").await, site.usage("bob").await)
    };
    let before = seen(&site).await;
    drop(pod);
    site.reopen().await;
    assert_eq!(seen(&site).await, before);
    let pod = site.pod(site.objects.clone());
    assert_eq!(collect(&pod.store).await.retired.count, 3, "the queue is kept as well");
    assert_eq!(pod.read(ShareKind::Immutable, share_id(9, 0)).await, bytes_of(9));
    site.assert_clean(&["alice", "bob"], &[0, 1, 2, 9]).await;
}

/// The branch needed a server, an identity and a bucket for each customer.
async fn b_13_many_accounts_share_one_server_and_one_backend<G: Ground>() {
    const ACCOUNTS: u8 = 40;
    let site = Site::<G>::make().await;
    let pod = site.pod(site.objects.clone());
    for number in 0..ACCOUNTS {
        let account = site.account(&format!("customer {number}")).await;
        pod.upload(&account, share_id(number, 0), &vec![number; usize::from(number) + 1]).await;
        // Everybody also leases what the first one stored.
        pod.store.renew_leases(&account, storage_index(0)).await.expect("renewed");
    }
    for number in 0..ACCOUNTS {
        let own = u64::from(number) + 13;
        let expected = if number == 0 { 13 } else { own + 13 };
        assert_eq!(site.usage(&format!("customer {number}")).await, (expected, 0), "each in full");
    }
    assert_eq!(site.listed("shares/").await.len(), usize::from(ACCOUNTS));
}

async fn b_10_what_was_recovered_is_counted_in_bytes<G: Ground>() {
    let (site, pod) = lapsed::<G>(3).await;
    expire_really(&pod.store).await;
    let run = last_run(&site.db, RunKind::Expire).await;
    assert_eq!((run.totals.of("leases_removed"), run.totals.of("bytes_removed")), (3, 300));
    assert_eq!(collect(&pod.store).await.retired, Amount { count: 3, bytes: 300 });
    let run = last_run(&site.db, RunKind::Collect).await;
    assert_eq!((run.totals.of("shares_retired"), run.totals.of("bytes_retired")), (3, 300));
}

async fn m_1_leases_that_ended_long_ago_end_and_their_space_comes_back<G: Ground>() {
    let site = Site::<G>::make().await;
    let (alice, pod) = (site.account("alice").await, site.pod(site.objects.clone()));
    pod.upload(&alice, share_id(1, 0), &bytes_of(1)).await;
    pod.write_slot(&alice, share_id(2, 0), b"a directory").await;
    site.clock.advance((31 + 369) * DAY_SECONDS);
    assert_eq!(expire_really(&pod.store).await.counted.removed.count, 2);
    assert_eq!(collect(&pod.store).await.retired.count, 2);
    assert!(!site.listed("shares/").await.is_empty(), "they can be put back for a week");
    site.clock.advance(UNDO_SECONDS + 1);
    collect(&pod.store).await;
    site.clock.advance(2 * DAY_SECONDS);
    collect(&pod.store).await;
    assert!(site.listed("shares/").await.is_empty());
    assert_eq!(site.usage("alice").await, (0, 0));
}

async fn a_retired_share_can_be_read_again_after_an_undo_until_its_bytes_are_deleted<G: Ground>() {
    let (site, pod) = lapsed::<G>(2).await;
    expire_really(&pod.store).await;
    collect(&pod.store).await;
    let undone = pod.store.undo(storage_index(0), None).await.expect("undo");
    assert_eq!(undone.shares, [ShareNumber::new(0)]);
    site.clock.advance(UNDO_SECONDS + 1);
    assert_eq!(collect(&pod.store).await.objects_deleted, 1);
    assert_eq!(pod.read(ShareKind::Immutable, share_id(0, 0)).await, bytes_of(0));
    let undone = pod.store.undo(storage_index(1), Some(ShareNumber::new(0))).await.expect("undo");
    assert_eq!(undone.refused, [(ShareNumber::new(0), UndoRefusal::Deleted)]);
    site.assert_clean(&["alice", "starter"], &[0, 1]).await;
}

async fn a_run_is_undone_with_the_shares_that_went_for_it<G: Ground>() {
    let (site, pod) = lapsed::<G>(4).await;
    let bob = site.account("bob").await;
    pod.write_slot(&bob, share_id(9, 1), b"young").await;
    let run = expire_really(&pod.store).await.run.id;
    collect(&pod.store).await;
    let change = AccountChange { quota_bytes: Some(Some(1)), ..AccountChange::default() };
    let alice = site.db.find_account("alice".to_owned()).await.expect("find_account").expect("there").id;
    assert!(site.db.change_account(alice, change).await.expect("change_account"), "no quota keeps them away");
    let undone = pod.store.undo_run(run, |_| ()).await.expect("undo_run");
    assert_eq!((undone.storage_indexes, undone.shares, undone.leases, undone.refused), (4, 4, 8, 0));
    assert_eq!(site.usage("alice").await, (400, 0));
    for index in 0..4 {
        assert_eq!(pod.read(ShareKind::Immutable, share_id(index, 0)).await, bytes_of(index));
    }
    let again = pod.store.undo_run(run, |_| ()).await.expect("undo_run");
    assert_eq!(again, leasehold_core::store::UndoneRun::default(), "once");
    site.assert_clean(&["alice", "bob", "starter"], &[0, 1, 2, 3, 9]).await;
}

/// What a halted collection has done: nothing.
async fn assert_halted<G: Ground>(site: &Site<G>, host: ManualClock, expected: std::ops::RangeInclusive<i64>) {
    let store = site.store(site.db.clone(), site.objects.clone()).with_host_clock(Arc::new(host));
    let before = (site.ground.dump().await, site.listed("").await);
    let collected = collect(&store).await;
    assert!(expected.contains(&collected.skew_seconds), "{collected:?}");
    let skew_seconds = collected.skew_seconds;
    assert_eq!(collected, Collected { skew_seconds, ..Collected::default() });
    let report = expire(&store, ExpirePolicy::default(), false).await;
    assert_eq!(report.state, RunState::Braked, "{report:?}");
    assert!(report.reason.contains("clock") && report.reason.contains(&skew_seconds.to_string()), "{}", report.reason);
    assert_eq!((site.ground.dump().await, site.listed("").await), before, "nothing was destroyed");
}

fn shifted(clock: &ManualClock, seconds: i64) -> ManualClock {
    ManualClock::at(Timestamp::from_seconds(clock.now().seconds() + seconds))
}

/// `review.md` A13: a clock that jumped makes everything due.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a13_nothing_is_destroyed_while_the_machines_clock_differs() {
    let (site, pod) = lapsed::<OneMachine>(2).await;
    expire(&pod.store, ExpirePolicy::default(), true).await;
    assert_halted(&site, shifted(&site.clock, -3600), 3600..=3600).await;
    assert_halted(&site, shifted(&site.clock, 3600), -3600..=-3600).await;
    let host = Arc::new(shifted(&site.clock, 200));
    let store = site.store(site.db.clone(), site.objects.clone()).with_host_clock(host);
    let report = expire(&store, ExpirePolicy::default(), false).await;
    assert_eq!(report.counted.removed.count, 2, "a little is nothing");
}

/// The database's clock was set back behind a beat that it has counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a13_nothing_is_destroyed_while_the_clock_is_behind_a_beat() {
    let (site, pod) = lapsed::<OneMachine>(2).await;
    expire(&pod.store, ExpirePolicy::default(), true).await;
    pod.store.tick().await.expect("a tick");
    site.clock.advance(-3600);
    assert_halted(&site, site.clock.clone(), -3600..=-3600).await;
}

/// The store's own clock speaks too: in this test it is that of today, the database's is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a13_nothing_is_destroyed_while_the_stores_clock_differs() {
    let (site, pod) = lapsed::<Pods>(2).await;
    expire(&pod.store, ExpirePolicy::default(), true).await;
    let date = site.objects.date().await.expect("the store answers").expect("and tells the time").seconds();
    let skew = site.clock.now().seconds() - date;
    assert!(skew.abs() > 3600, "the clock of tests stands elsewhere");
    assert_halted(&site, site.clock.clone(), skew - 60..=skew + 60).await;
    assert!(site.ground.open_objects().date().await.is_ok());
}

/// The whole size of the race of the contract: 10,000 rounds on SQLite; on PostgreSQL 500, or 10,000 in the long size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_renewals_against_expiry_and_collection() {
    renewals_against_removal::<Sqlite>(10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_postgresql_five_hundred_renewals_against_expiry_and_collection() {
    let is_long = std::env::var("LEASEHOLD_LONG").is_ok_and(|value| value == "1");
    renewals_against_removal::<Pg>(if is_long { 10_000 } else { 500 }).await;
}
