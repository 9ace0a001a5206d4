//! Reconcile runs: what they find, what stops them, and how recovery ends. `accounting.md` B-1, B-2, B-7, B-8, B-11, B-14.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use leasehold_core::backend::Backend;
use leasehold_core::beat::{MARK_FOLDER, mark};
use leasehold_core::chunk::{ObjectKey, ObjectName, Piece, StoreObject, folder};
use leasehold_core::crawl::unit::{ClaimUnitOutcome, FinishUnit, Prefix, UNIT_CLAIM_SECONDS, UnitEnd};
use leasehold_core::crawl::{CYCLES_BEFORE_FORGETTING, ForgetOutcome, ORPHAN_AGE_SECONDS, RECOVERY_SECONDS_MIN};
use leasehold_core::id::{AccountId, ObjectId, ShareId, ShareNumber};
use leasehold_core::leasedb::{LeaseDb, Mode, UNDO_SECONDS};
use leasehold_core::run::{BeginRun, BeginRunOutcome, PermitOutcome, Run, RunKind, RunState};
use leasehold_core::share::{ShareKind, ShareState};
use leasehold_core::store::{Claim, SILENCE_SECONDS, Store};
use leasehold_core::testing::faulty::{Faults, FaultyBackend, FaultyLeaseDb, Site as CallSite};
use leasehold_core::testing::{body, enabler, share_id, storage_index, upload_secret};
use leasehold_server::jobs::progress::Progress;
use leasehold_server::jobs::reconcile::{self, ReconcileOptions};

use super::beats::{beat, beats};
use super::pattern;
use super::settling::{lose, several};
use super::site::{Pod, Site, create};
use crate::ground::{Ground, OneMachine, on_every_ground};

on_every_ground! {
    b_1_pieces_of_an_upload_that_ended_are_garbage_and_never_a_share,
    b_2_share_1_is_not_share_10,
    b_7_complete_shares_without_a_row_are_adopted_and_leased,
    b_8_what_agrees_is_listed_and_nothing_else,
    lost_shares_are_hidden_and_come_back_with_their_objects,
    lost_shares_come_back_with_an_upload_and_keep_their_leases,
    a_lost_share_is_forgotten_after_two_more_runs_at_a_persons_wish,
    a_listing_that_is_empty_while_rows_exist_fails_its_part,
    a_backend_without_the_mark_or_with_another_is_not_compared,
    recovery_ends_when_all_was_compared_and_a_quarter_of_an_hour_has_passed,
    a_new_database_takes_over_a_silent_backend_and_deletes_nothing,
    a_part_whose_worker_was_killed_returns,
}

type SharedStore<L, B> = Arc<Store<L, B>>;

async fn claimed<G: Ground>(site: &Site<G>) -> SharedStore<G::Db, G::Objects> {
    let store = site.store(site.ground.open_db(&site.clock).await, site.ground.open_objects());
    assert_eq!(store.claim_backend().await.expect("an answer"), Claim::Ours);
    Arc::new(store)
}

async fn run_with<L: LeaseDb, B: Backend>(store: &SharedStore<L, B>, dry_run: bool) -> Run {
    let progress = Arc::new(Progress::in_log("comparing"));
    reconcile::run(store, ReconcileOptions { dry_run, workers: 2, slowly: false }, &progress).await.expect("a run")
}

async fn done<L: LeaseDb, B: Backend>(store: &SharedStore<L, B>) -> Run {
    let run = run_with(store, false).await;
    assert_eq!(run.state, RunState::Done, "{}", run.reason);
    run
}

/// Takes a share's bytes away, or puts them back.
async fn remove_objects<G: Ground>(site: &Site<G>, share: ShareId) -> Vec<(ObjectKey, Bytes)> {
    let mut taken = Vec::new();
    for object in site.listed(&folder(share.storage_index)).await {
        let name: ObjectName = object.name.parse().expect("one of ours");
        if name.share == share {
            let bytes = site.objects.get(&name.key(), 0..object.length_bytes).await.expect("get");
            taken.push((name.key(), leasehold_core::testing::read_all(bytes).await.expect("read").into()));
            site.objects.delete(&name.key()).await.expect("delete");
        }
    }
    assert!(!taken.is_empty(), "{share} has objects");
    taken
}

async fn put_back<G: Ground>(site: &Site<G>, taken: Vec<(ObjectKey, Bytes)>) {
    for (key, bytes) in taken {
        site.objects.put(&key, bytes.len() as u64, body(&bytes)).await.expect("put");
    }
}

async fn state<G: Ground>(site: &Site<G>, share: ShareId) -> Option<ShareState> {
    site.db.find_share(share).await.expect("find_share").map(|row| row.state)
}

async fn b_1_pieces_of_an_upload_that_ended_are_garbage_and_never_a_share<G: Ground>() {
    let site = Site::<G>::make().await;
    let (store, alice) = (claimed(&site).await, site.account("alice").await);
    // Pieces of an upload that no row knows, with a hole; the youngest is not old yet.
    let piece = |offset: u64, seconds_ago: i64| {
        let at = leasehold_core::clock::Timestamp::from_seconds(site.now() - seconds_ago);
        let chunk = ObjectId::from_parts(at, [offset as u8; 10]);
        let piece = Piece { group: ObjectId::new([3; 16]), account: alice.account.id, size_bytes: 30, offset, chunk };
        ObjectName::new(share_id(1, 0), StoreObject::Piece(piece))
    };
    for name in [piece(0, 30 * 3600), piece(20, 3600)] {
        site.objects.put(&name.key(), 10, body(b"0123456789")).await.expect("put");
    }
    assert_eq!(done(&store).await.totals.of("orphans"), 0, "C3: a group is as old as its youngest object");
    site.clock.advance(ORPHAN_AGE_SECONDS);
    let run = done(&store).await;
    assert_eq!((run.totals.of("orphans"), run.totals.of("shares_adopted")), (2, 0));
    assert!(store.list_shares(ShareKind::Immutable, storage_index(1)).await.expect("listed").is_empty());
    assert_eq!(done(&store).await.totals.of("orphans"), 0, "once");
    site.clock.advance(UNDO_SECONDS + 1);
    store.collect(|_| ()).await.expect("collect");
    assert!(site.listed("shares/").await.is_empty());
}

async fn b_2_share_1_is_not_share_10<G: Ground>() {
    let site = Site::<G>::make().await;
    let (store, alice) = (claimed(&site).await, site.account("alice").await);
    let numbers: Vec<(u8, u64)> = [1, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19].map(|number| (number, 4)).into();
    let payload = Bytes::from_static(b"data");
    let all = several(&numbers);
    store.read_test_write(&alice, storage_index(1), &enabler(1), &all, &payload).await.expect("written");
    remove_objects(&site, share_id(1, 1)).await;
    site.clock.advance(2 * 3600);
    assert_eq!(done(&store).await.totals.of("shares_lost"), 1);
    let left = store.list_shares(ShareKind::Mutable, storage_index(1)).await.expect("listed");
    assert_eq!(left, (10..20).map(ShareNumber::new).collect::<Vec<_>>());
    assert_eq!(state(&site, share_id(1, 1)).await, Some(ShareState::Lost));
}

async fn b_7_complete_shares_without_a_row_are_adopted_and_leased<G: Ground>() {
    let site = Site::<G>::make().await;
    let store = claimed(&site).await;
    let (alice, bob) = (site.account("alice").await, site.account("bob").await);
    let pod = site.far_pod().await;
    pod.upload(&alice, share_id(1, 0), b"alice's").await;
    pod.upload(&bob, share_id(2, 0), b"bob's").await;
    pod.upload(&alice, share_id(3, 0), b"stays").await;
    site.db.close_account(bob.account.id, None).await.expect("close_account");
    // Rows that a database forgot without anybody noticing.
    let [one, two] = [1, 2].map(|index| G::bytes(storage_index(index).as_bytes()));
    for table in ["leases", "shares"] {
        site.ground.execute(&format!("DELETE FROM {table} WHERE si IN ({one}, {two})")).await;
    }
    site.ground.execute(G::UNCHARGE).await;
    assert_eq!(done(&store).await.totals.of("shares_adopted"), 0, "they may be on their way");
    site.clock.advance(ORPHAN_AGE_SECONDS);
    let dry = run_with(&store, true).await;
    assert_eq!((dry.state, dry.totals.of("shares_adopted")), (RunState::Done, 2));
    assert!(site.db.list_shares(storage_index(1)).await.expect("list_shares").is_empty(), "a dry run changes nothing");
    let run = done(&store).await;
    assert_eq!((run.totals.of("shares_adopted"), run.totals.of("orphans")), (2, 0));
    assert_eq!(pod.read(ShareKind::Immutable, share_id(2, 0)).await, b"bob's");
    for (index, owner) in [(1, alice.account.id), (2, AccountId::STARTER)] {
        let leases = site.db.list_leases(storage_index(index)).await.expect("list_leases");
        assert_eq!(leases.iter().map(|lease| lease.account).collect::<Vec<_>>(), [owner]);
    }
    let starter = site.db.list_leases(storage_index(2)).await.expect("list_leases")[0].lease;
    assert!(starter.expires_at.seconds() >= site.now() + 60 * 86_400);
    assert_eq!(done(&store).await.totals.of("shares_adopted"), 0);
}

async fn b_8_what_agrees_is_listed_and_nothing_else<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let faults = Faults::new();
    let db = FaultyLeaseDb::new(site.db.clone(), faults.clone());
    let store = Arc::new(site.store(db, FaultyBackend::new(site.objects.clone(), faults.clone())));
    store.claim_backend().await.expect("ours");
    let pod = site.far_pod().await;
    for index in 0..20 {
        pod.upload(&alice, share_id(index, 0), b"immutable").await;
        pod.write_slot(&alice, share_id(100 + index, 0), b"first").await;
        pod.write_slot(&alice, share_id(100 + index, 0), b"second").await;
    }
    pod.allocate(&alice, share_id(50, 0), 10).await;
    pod.store.write_bucket(share_id(50, 0), &upload_secret(1), 0..5, body(b"12345")).await.expect("a part");
    beat(&site, &pod.store).await;
    faults.begin("reconcile", None);
    let run = done(&store).await;
    let calls = faults.end().calls;
    assert_eq!((run.totals.of("shares"), run.totals.of("objects")), (40, 61));
    let of_backend: Vec<_> = calls.iter().filter(|call| matches!(call, CallSite::Backend(_))).collect();
    assert!(of_backend.iter().all(|call| **call == CallSite::Backend("list")), "{of_backend:?}");
    assert!(of_backend.len() <= 4, "marks, beats, shares: {of_backend:?}");
    assert!(!calls.contains(&CallSite::Db("survey")) && !calls.contains(&CallSite::Db("settle")), "{calls:?}");
}

async fn lost_shares_are_hidden_and_come_back_with_their_objects<G: Ground>() {
    let site = Site::<G>::make().await;
    let (store, alice) = (claimed(&site).await, site.account("alice").await);
    let pod = site.far_pod().await;
    let shares = [(ShareKind::Immutable, share_id(1, 0)), (ShareKind::Mutable, share_id(2, 0))];
    pod.upload(&alice, shares[0].1, b"immutable").await;
    pod.write_slot(&alice, shares[1].1, b"mutable").await;
    pod.upload(&alice, share_id(3, 0), b"stays").await;
    site.clock.advance(2 * 3600);
    let used = site.usage("alice").await;
    let token = site.db.read_slot(storage_index(2)).await.expect("read_slot").slot;
    let mut taken = Vec::new();
    for (_, share) in shares {
        taken.extend(remove_objects(&site, share).await);
    }
    assert_eq!(done(&store).await.totals.of("shares_lost"), 2);
    assert_ne!(site.db.read_slot(storage_index(2)).await.expect("read_slot").slot, token, "A4");
    for (kind, share) in shares {
        assert_eq!(state(&site, share).await, Some(ShareState::Lost));
        assert!(site.far_pod().await.numbers(kind, share).await.is_empty());
        assert_eq!(site.db.list_leases(share.storage_index).await.expect("list_leases").len(), 1, "leases are kept");
    }
    assert_eq!(site.usage("alice").await, (5 + 12, 0), "what is lost is not charged");
    assert_eq!(done(&store).await.totals.of("shares_lost"), 0, "once");
    put_back(&site, taken).await;
    assert_eq!(done(&store).await.totals.of("shares_found"), 2);
    for ((kind, share), bytes) in shares.into_iter().zip([&b"immutable"[..], b"mutable"]) {
        assert_eq!(site.far_pod().await.read(kind, share).await, bytes);
    }
    assert_eq!(site.usage("alice").await, used);
    pod.write_slot(&alice, shares[1].1, b"goes on").await;
    site.assert_clean(&["alice"], &[1, 2, 3]).await;
}

async fn lost_shares_come_back_with_an_upload_and_keep_their_leases<G: Ground>() {
    let site = Site::<G>::make().await;
    let (store, alice, bob) = (claimed(&site).await, site.account("alice").await, site.account("bob").await);
    let (pod, share) = (site.far_pod().await, share_id(1, 0));
    pod.upload(&alice, share, b"bytes").await;
    pod.upload(&alice, share_id(3, 0), b"stays").await;
    site.clock.advance(2 * 3600);
    let taken = remove_objects(&site, share).await;
    assert_eq!(done(&store).await.totals.of("shares_lost"), 1);
    pod.upload(&bob, share, b"bytes").await;
    let leases = site.db.list_leases(share.storage_index).await.expect("list_leases");
    assert_eq!(leases.iter().map(|lease| lease.account_name.as_str()).collect::<Vec<_>>(), ["alice", "bob"]);
    assert_eq!((site.usage("alice").await.0, site.usage("bob").await.0), (17 + 17, 17));
    // The old objects come back as well: one copy is enough.
    put_back(&site, taken).await;
    site.clock.advance(ORPHAN_AGE_SECONDS);
    let run = done(&store).await;
    assert_eq!((run.totals.of("shares_found"), run.totals.of("shares_adopted")), (0, 0));
    assert_eq!(pod.read(ShareKind::Immutable, share).await, b"bytes");
    site.assert_clean(&["alice", "bob"], &[1, 3]).await;
}

async fn a_lost_share_is_forgotten_after_two_more_runs_at_a_persons_wish<G: Ground>() {
    let site = Site::<G>::make().await;
    let (store, alice) = (claimed(&site).await, site.account("alice").await);
    let payload = Bytes::from_static(b"data");
    let two = several(&[(0, 4), (1, 4)]);
    store.read_test_write(&alice, storage_index(1), &enabler(1), &two, &payload).await.expect("written");
    site.clock.advance(2 * 3600);
    remove_objects(&site, share_id(1, 1)).await;
    assert_eq!(store.forget(share_id(1, 1)).await.expect("an answer"), ForgetOutcome::NotLost);
    assert_eq!(done(&store).await.totals.of("shares_lost"), 1);
    for left in (1..=CYCLES_BEFORE_FORGETTING).rev() {
        assert_eq!(store.forget(share_id(1, 1)).await.expect("an answer"), ForgetOutcome::TooEarly(left));
        site.clock.advance(86_400);
        done(&store).await;
    }
    assert_eq!(store.forget(share_id(1, 0)).await.expect("an answer"), ForgetOutcome::NotLost);
    assert_eq!(store.forget(share_id(1, 1)).await.expect("an answer"), ForgetOutcome::Forgotten);
    assert_eq!(state(&site, share_id(1, 1)).await, None);
    assert_eq!(site.db.list_leases(storage_index(1)).await.expect("list_leases").len(), 1);
    site.assert_clean(&["alice"], &[1]).await;
}

async fn a_listing_that_is_empty_while_rows_exist_fails_its_part<G: Ground>() {
    let site = Site::<G>::make().await;
    let (store, alice) = (claimed(&site).await, site.account("alice").await);
    let pod = site.far_pod().await;
    for index in 1..4 {
        pod.upload(&alice, share_id(index, 0), b"bytes").await;
    }
    site.clock.advance(2 * 3600);
    for index in 1..4 {
        remove_objects(&site, share_id(index, 0)).await;
    }
    let run = run_with(&store, false).await;
    assert_eq!((run.state, run.totals.of("shares_lost")), (RunState::Failed, 0));
    assert!(run.reason.contains("lists nothing"), "{}", run.reason);
    assert_eq!(state(&site, share_id(1, 0)).await, Some(ShareState::Stable));
}

async fn a_backend_without_the_mark_or_with_another_is_not_compared<G: Ground>() {
    let site = Site::<G>::make().await;
    let (store, alice) = (claimed(&site).await, site.account("alice").await);
    site.far_pod().await.upload(&alice, share_id(1, 0), b"bytes").await;
    site.clock.advance(2 * 3600);
    remove_objects(&site, share_id(1, 0)).await;
    let ours = site.listed(MARK_FOLDER).await[0].name.clone();
    let ours = mark(leasehold_core::beat::marked_deployment(&ours).expect("a mark"));
    site.objects.delete(&ours).await.expect("delete");
    let run = run_with(&store, false).await;
    assert_eq!(run.state, RunState::Braked);
    assert!(run.reason.contains("mark of this deployment is not in the backend"), "{}", run.reason);
    site.objects.put(&mark(ObjectId::new([9; 16])), 0, body(b"")).await.expect("put");
    let run = run_with(&store, false).await;
    assert!(run.state == RunState::Braked && run.reason.contains("belongs to another deployment"), "{}", run.reason);
    assert_eq!(state(&site, share_id(1, 0)).await, Some(ShareState::Stable));
}

async fn recovery_ends_when_all_was_compared_and_a_quarter_of_an_hour_has_passed<G: Ground>() {
    let site = Site::<G>::make().await;
    let (store, alice) = (claimed(&site).await, site.account("alice").await);
    let pod = site.far_pod().await;
    pod.upload(&alice, share_id(1, 0), b"kept").await;
    beats(&site, &pod.store, 1).await;
    let past = site.ground.keep().await;
    for index in 2..30 {
        pod.upload(&alice, share_id(index, 0), b"lost").await;
        pod.write_slot(&alice, share_id(100 + index, 0), b"lost too").await;
    }
    beats(&site, &pod.store, 1).await;
    let pod = lose(&site, &past).await;
    let before = site.listed("shares/").await;
    let run = done(&store).await;
    assert_eq!((run.totals.of("shares_adopted"), run.totals.of("slots_promoted")), (28, 28));
    assert_eq!((run.totals.of("orphans"), run.totals.of("shares_lost")), (0, 0));
    assert_eq!(site.usage("alice").await.0, 29 * 16 + 28 * 480);
    let deployment = async || site.db.deployment().await.expect("deployment");
    beats(&site, &pod.store, 1).await;
    assert_eq!(deployment().await.mode, Mode::Recovery, "too early");
    site.clock.advance(RECOVERY_SECONDS_MIN);
    beats(&site, &pod.store, 1).await;
    let ended = deployment().await;
    assert_eq!((ended.mode, ended.complete_since.map(|at| at.seconds())), (Mode::Normal, Some(site.now())));
    // Others notice, and nothing is settled any more.
    pod.store.refresh_space().await.expect("told");
    pod.write_slot(&alice, share_id(102, 0), b"normal").await;
    assert_eq!(done(&store).await.totals.of("shares"), 57);
    assert_eq!(site.ground.number("SELECT count(*) FROM recovered").await, 0);
    let left: Vec<_> = site.listed("shares/").await.into_iter().filter(|object| before.contains(object)).collect();
    assert_eq!(left, before, "nothing was deleted");
    site.assert_clean(&["alice"], &(1..130).collect::<Vec<u8>>()).await;
}

async fn a_new_database_takes_over_a_silent_backend_and_deletes_nothing<G: Ground>() {
    let (site, fresh) = (Site::<G>::make().await, Site::<G>::make().await);
    let (store, alice) = (claimed(&site).await, site.account("alice").await);
    let pod = site.far_pod().await;
    pod.upload(&alice, share_id(1, 0), b"immutable").await;
    pod.write_slot(&alice, share_id(2, 0), b"mutable").await;
    pod.write_slot(&alice, share_id(3, 0), b"damaged").await;
    beats(&site, &*store, 2).await;
    // One bit of a manifest is another.
    let [(key, bytes)] = &remove_objects(&site, share_id(3, 0)).await[..] else { panic!("one object") };
    let mut bytes = bytes.to_vec();
    let at = bytes.len() - 40;
    bytes[at] ^= 4;
    put_back(&site, vec![(key.clone(), bytes.into())]).await;
    fresh.clock.set(leasehold_core::clock::Timestamp::from_seconds(site.now() + SILENCE_SECONDS - 1));
    let new = Arc::new(fresh.store(fresh.db.clone(), site.objects.clone()));
    let Claim::Foreign { silent_seconds, .. } = new.claim_backend().await.expect("an answer") else {
        panic!("its heart beat a moment ago")
    };
    assert_eq!(silent_seconds, Some(SILENCE_SECONDS - 1));
    fresh.clock.advance(1);
    for _ in 0..2 {
        assert_eq!(new.claim_backend().await.expect("an answer"), Claim::Ours);
    }
    let deployment = fresh.db.deployment().await.expect("deployment");
    assert_eq!(deployment.mode, Mode::Recovery);
    assert_eq!(deployment.id, site.db.deployment().await.expect("deployment").id);
    // Numbers of accounts that names may carry are not given again (C5).
    let bob = create(&new, "bob").await;
    assert!(bob.account.id.get() > 1 << 20, "{}", bob.account.id);
    let pod = Pod { store: fresh.store(fresh.db.clone(), site.objects.clone()) };
    pod.store.refresh_space().await.expect("told");
    assert_eq!(pod.read(ShareKind::Mutable, share_id(2, 0)).await, b"mutable");
    assert_eq!(pod.read(ShareKind::Immutable, share_id(1, 0)).await, b"immutable");
    assert!(pod.numbers(ShareKind::Mutable, share_id(3, 0)).await.is_empty());
    let leases = fresh.db.list_leases(storage_index(1)).await.expect("list_leases");
    assert_eq!(leases.iter().map(|lease| lease.account).collect::<Vec<_>>(), [AccountId::STARTER]);
    assert_eq!(done(&new).await.totals.of("shares_adopted"), 0, "all was touched");
    fresh.clock.advance(RECOVERY_SECONDS_MIN);
    beats(&fresh, &*new, 1).await;
    assert_eq!(fresh.db.deployment().await.expect("deployment").mode, Mode::Normal);
    fresh.clock.advance(ORPHAN_AGE_SECONDS);
    assert_eq!(done(&new).await.totals.of("damaged_objects"), 1, "told each time, and kept");
    fresh.clock.advance(20 * 86_400);
    new.collect(|_| ()).await.expect("collect");
    assert_eq!(site.listed("shares/").await.len(), 3);
}

async fn a_part_whose_worker_was_killed_returns<G: Ground>() {
    let site = Site::<G>::make().await;
    let (store, alice) = (claimed(&site).await, site.account("alice").await);
    site.far_pod().await.upload(&alice, share_id(1, 0), b"bytes").await;
    let begin = BeginRun { kind: RunKind::Reconcile, dry_run: false, policy: String::new() };
    let BeginRunOutcome::Begun(run) = site.db.begin_run(begin).await.expect("begin_run") else { panic!("none runs") };
    let claim = async |worker| site.db.claim_unit(run.id, worker, UNIT_CLAIM_SECONDS).await.expect("claim_unit");
    let (dead, other) = (ObjectId::new([1; 16]), ObjectId::new([2; 16]));
    let ClaimUnitOutcome::Claimed(unit, _) = claim(dead).await else { panic!("the first part") };
    assert_eq!(unit, Prefix::default());
    assert!(matches!(claim(other).await, ClaimUnitOutcome::AllClaimed(_)));
    site.clock.advance(UNIT_CLAIM_SECONDS - 1);
    assert!(site.db.keep_unit(run.id, unit.clone(), dead, UNIT_CLAIM_SECONDS).await.expect("keep_unit"));
    site.clock.advance(UNIT_CLAIM_SECONDS - 1);
    assert!(matches!(claim(other).await, ClaimUnitOutcome::AllClaimed(_)), "it lived a moment ago");
    site.clock.advance(1);
    let ClaimUnitOutcome::Claimed(again, _) = claim(other).await else { panic!("it returns") };
    assert_eq!(again, unit);
    let end = |worker, end| FinishUnit { run: run.id, unit: unit.clone(), worker, end };
    let mut counted = leasehold_core::run::Totals::default();
    counted.set("shares", 1000);
    let late = site.db.finish_unit(end(dead, UnitEnd::Done(counted))).await.expect("finish_unit");
    assert!(!late, "what it counted is counted by another");
    assert!(site.db.finish_unit(end(other, UnitEnd::Split)).await.expect("finish_unit"));
    // Others join the run, share its parts and end it.
    let run_again = done(&store).await;
    assert_eq!(
        (run_again.id, run_again.totals.of("shares"), run_again.totals.part()),
        (run.id, 1, Some((1_000_000_000, 1_000_000_000)))
    );
    assert!(!site.db.keep_unit(run.id, unit, other, 60).await.expect("keep_unit"), "the run has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_11_what_cannot_be_read_in_one_part_does_not_end_the_run() {
    let site = Site::<OneMachine>::make().await;
    let (store, alice) = (claimed(&site).await, site.account("alice").await);
    let pod = site.far_pod().await;
    // Their storage indexes begin differently.
    for index in [0x00, 0x80, 0xff] {
        pod.upload(&alice, share_id(index, 0), b"bytes").await;
        pod.upload(&alice, share_id(index, 1), b"stays").await;
    }
    site.clock.advance(2 * 3600);
    for index in [0x00, 0xff] {
        remove_objects(&site, share_id(index, 0)).await;
    }
    let hex: String = storage_index(0x80).as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    site.ground.execute(&format!("UPDATE shares SET locator = x'ff' WHERE si = x'{hex}'")).await;
    let begin = BeginRun { kind: RunKind::Reconcile, dry_run: false, policy: String::new() };
    let BeginRunOutcome::Begun(run) = site.db.begin_run(begin).await.expect("begin_run") else { panic!("none runs") };
    let worker = ObjectId::new([1; 16]);
    let claimed = site.db.claim_unit(run.id, worker, 60).await.expect("claim_unit");
    let ClaimUnitOutcome::Claimed(unit, _) = claimed else { panic!("{claimed:?}") };
    let split = FinishUnit { run: run.id, unit, worker, end: UnitEnd::Split };
    assert!(site.db.finish_unit(split).await.expect("finish_unit"));
    let run = run_with(&store, false).await;
    assert_eq!((run.state, run.totals.of("shares_lost"), run.totals.of("units_failed")), (RunState::Failed, 2, 1));
    assert!(run.reason.contains("1 parts could not be compared") && run.reason.contains("locator"), "{}", run.reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_14_a_share_of_more_pieces_than_a_listing_has_is_adopted_whole() {
    const PIECES: u64 = 2100;
    let site = Site::<OneMachine>::make().await;
    let (store, alice) = (claimed(&site).await, site.account("alice").await);
    let made_at = leasehold_core::clock::Timestamp::from_seconds(site.now());
    let piece = |offset: u64| {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&offset.to_be_bytes());
        let chunk = ObjectId::from_parts(made_at, random);
        let (group, account) = (ObjectId::from_parts(made_at, [1; 10]), alice.account.id);
        let piece = Piece { group, account, size_bytes: PIECES, offset, chunk };
        ObjectName::new(share_id(1, 0), StoreObject::Piece(piece)).key()
    };
    let keys: Vec<ObjectKey> = (0..PIECES).map(piece).collect();
    let bytes = pattern(0..PIECES);
    for puts in join_all(keys.iter().zip(&bytes).map(|(key, byte)| site.objects.put(key, 1, body(&[*byte])))).await {
        puts.expect("put");
    }
    site.clock.advance(ORPHAN_AGE_SECONDS);
    assert_eq!(done(&store).await.totals.of("shares_adopted"), 1);
    assert_eq!(site.far_pod().await.read(ShareKind::Immutable, share_id(1, 0)).await, bytes);
    let run = done(&store).await;
    assert_eq!((run.totals.of("objects"), run.totals.of("orphans")), (PIECES, 0));
}

/// Each brake holds before anything is done, and lets go once when somebody has allowed it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_that_disappeared_are_not_marked_until_somebody_allows_it() {
    let site = Site::<OneMachine>::make().await;
    let (store, alice) = (claimed(&site).await, site.account("alice").await);
    let pod = site.far_pod().await;
    for index in 0..105 {
        pod.upload(&alice, share_id(index, 0), b"bytes").await;
    }
    site.clock.advance(2 * 3600);
    for index in 0..101 {
        remove_objects(&site, share_id(index, 0)).await;
    }
    let run = run_with(&store, false).await;
    assert_eq!((run.state, run.totals.of("shares_lost")), (RunState::Braked, 0));
    assert!(run.reason.contains("101 of 105 shares have disappeared"), "{}", run.reason);
    assert_eq!(site.ground.number("SELECT count(*) FROM shares WHERE state = 3").await, 0);
    assert_eq!(run_with(&store, false).await.state, RunState::Braked, "as long as nobody allows it");
    let last = site.db.list_runs(Some(RunKind::Reconcile), 1).await.expect("list_runs")[0].id;
    assert_eq!(site.db.permit_run(last).await.expect("permit_run"), PermitOutcome::Permitted);
    assert_eq!(done(&store).await.totals.of("shares_lost"), 101);
}

/// Runs that a brake holds until somebody lets one pass; gives what it then did.
async fn held_then_allowed<L: LeaseDb, B: Backend>(store: &SharedStore<L, B>, sentence: &str) -> Run {
    let dry = run_with(store, true).await;
    assert_eq!(dry.state, RunState::Done, "a dry run says what would be done: {}", dry.reason);
    let mut last = None;
    for _ in 0..2 {
        let run = run_with(store, false).await;
        assert!(run.state == RunState::Braked && run.reason.contains(sentence), "{:?}: {}", run.state, run.reason);
        let done: u64 = ["shares_adopted", "orphans", "shares_lost"].map(|name| run.totals.of(name)).iter().sum();
        assert_eq!(done, 0, "as long as nobody allows it nothing is done");
        last = Some(run.id);
    }
    let permitted = store.db().permit_run(last.expect("two runs")).await.expect("permit_run");
    assert_eq!(permitted, PermitOutcome::Permitted);
    let run = done(store).await;
    assert_eq!(
        ["shares_adopted", "orphans"].map(|name| run.totals.of(name)),
        ["shares_adopted", "orphans"].map(|name| dry.totals.of(name)),
        "what the dry run said"
    );
    run
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_objects_that_nothing_names_are_kept_until_somebody_allows_it() {
    let site = Site::<OneMachine>::make().await;
    let (store, alice) = (claimed(&site).await, site.account("alice").await);
    site.far_pod().await.upload(&alice, share_id(1, 0), b"bytes").await;
    // The ends of uploads whose beginnings are not there: no share.
    let made_at = leasehold_core::clock::Timestamp::from_seconds(site.now());
    for number in 0..=100 {
        let (group, account) = (ObjectId::from_parts(made_at, [number; 10]), alice.account.id);
        let piece = Piece { group, account, size_bytes: 9, offset: 4, chunk: group };
        let name = ObjectName::new(share_id(2, number), StoreObject::Piece(piece));
        site.objects.put(&name.key(), 5, body(b"12345")).await.expect("put");
    }
    site.clock.advance(ORPHAN_AGE_SECONDS);
    let run = held_then_allowed(&store, "101 of 102 objects are named by nothing").await;
    assert_eq!(run.totals.of("orphans"), 101);
    assert_eq!(site.listed("shares/").await.len(), 102, "for a week");
    site.clock.advance(UNDO_SECONDS + 1);
    store.collect(|_| ()).await.expect("collect");
    assert_eq!(site.listed("shares/").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_shares_without_a_row_are_not_adopted_until_somebody_allows_it() {
    let site = Site::<OneMachine>::make().await;
    let (store, alice) = (claimed(&site).await, site.account("alice").await);
    let pod = site.far_pod().await;
    for index in 0..=110 {
        pod.upload(&alice, share_id(index, 0), b"bytes").await;
    }
    site.clock.advance(ORPHAN_AGE_SECONDS);
    let first = OneMachine::bytes(storage_index(10).as_bytes());
    for table in ["leases", "shares"] {
        site.ground.execute(&format!("DELETE FROM {table} WHERE si >= {first}")).await;
    }
    let run = held_then_allowed(&store, "101 shares without a row beside 10 that have one").await;
    assert_eq!(run.totals.of("shares_adopted"), 101);
    for index in 0..=110 {
        assert_eq!(pod.read(ShareKind::Immutable, share_id(index, 0)).await, b"bytes");
    }
}

/// The first start of a database on shares that another server left: they are served at once, and stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_database_on_shares_without_a_mark_recovers_them() {
    let (site, fresh) = (Site::<OneMachine>::make().await, Site::<OneMachine>::make().await);
    let alice = site.account("alice").await;
    site.far_pod().await.upload(&alice, share_id(1, 0), b"bytes").await;
    // The operator has made accounts before the first start.
    fresh.account("bob").await;
    let store = fresh.store(fresh.db.clone(), site.objects.clone());
    assert_eq!(store.claim_backend().await.expect("an answer"), Claim::Ours);
    assert_eq!(fresh.db.deployment().await.expect("deployment").mode, Mode::Recovery);
    assert_eq!(site.listed(MARK_FOLDER).await.len(), 1);
    let pod = Pod { store };
    assert_eq!(pod.read(ShareKind::Immutable, share_id(1, 0)).await, b"bytes");
    // An empty backend is a beginning, nothing else.
    let (empty, other) = (Site::<OneMachine>::make().await, Site::<OneMachine>::make().await);
    let store = empty.store(other.db.clone(), empty.objects.clone());
    assert_eq!(store.claim_backend().await.expect("an answer"), Claim::Ours);
    assert_eq!(other.db.deployment().await.expect("deployment").mode, Mode::Normal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_says_what_it_found_and_what_it_wants() {
    let folder = crate::places::folder();
    let data = folder.path().join("data");
    let server = crate::support::Program::start_in(&folder.path().join("first"), "", &data);
    drop(server);
    let data = data.to_str().expect("a plain path");
    let told = |arguments: &[&str]| {
        let output = crate::commands::leasehold(&[arguments, &["--data-dir", data]].concat());
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, said, _) = told(&["reconcile", "--dry-run"]);
    assert_eq!((code, said.trim()), (Some(0), "0 shares and 0 objects compared"));
    let index = storage_index(1);
    for (share, problem) in [
        (format!("{index}"), "there is no lost share of"),
        (format!("{index}/3"), "with number 3"),
        (format!("{index}/300"), "300"),
        ("short".to_owned(), "storage index"),
    ] {
        let (code, said, error) = told(&["forget", &share]);
        assert!(code == Some(2) && said.is_empty() && error.contains(problem), "{share}: {error}");
    }
}
