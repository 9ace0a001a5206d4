//! Lease databases that lose commits, as requests on the store: `review.md` B1, B2, B3.

use std::sync::Arc;

use bytes::Bytes;
use leasehold_core::backend::Backend;
use leasehold_core::beat::{BEAT_FOLDER, BEAT_SECONDS, BEATS_KEPT, BeatName};
use leasehold_core::clock::Clock;
use leasehold_core::lease::LeaseTerms;
use leasehold_core::leasedb::{
    CommitOutcome, CommitSlot, Epoch, LeaseDb, LeaseDbError, Mode, SUPERSEDED_GRACE_SECONDS, SlotToken, TickOutcome,
};
use leasehold_core::share::ShareKind;
use leasehold_core::slot::TestVector;
use leasehold_core::store::{Claim, Collected, Store, StoreError, StoreOptions};
use leasehold_core::testing::faulty::{Fault, Faults, FaultyBackend, FaultyLeaseDb, Site as CallSite};
use leasehold_core::testing::{body, enabler, share_id, storage_index, upload_secret};

use leasehold_e2e_services::postgres::StandbyOptions;
use leasehold_e2e_services::{Postgres, PostgresOptions, TcpProxy};
use leasehold_leasedb::postgres::{PgLeaseDb, PgMetrics, Roles, migrate};

use super::held::Held;
use super::pattern;
use super::site::{IDLE_SECONDS, Pod, Site, create, one_share, replaced};
use crate::ground::{Ground, OneMachine, Pods, on_every_ground};
use crate::pg;

on_every_ground! {
    b1_an_older_database_under_running_pods_is_noticed_and_nothing_is_deleted,
    b1_less_than_a_tick_later_the_same_number_is_another_beat,
    b1_late_puts_of_old_beats_have_no_effect,
    b1_a_tick_of_unknown_outcome_puts_nothing,
    b1_a_tick_that_sleeps_before_its_put_harms_nobody,
    b1_a_listing_that_fails_concludes_nothing,
    b1_many_pods_tick_at_once_and_lose_nothing,
    a_database_made_anew_hears_no_heart_of_the_old_ones_processes,
    b2_a_write_built_on_a_lost_commit_is_not_made_of_another,
    b2_what_was_read_in_an_older_epoch_commits_nothing,
    b3_an_upload_whose_last_write_was_lost_is_completed_at_its_deadline,
    b3_an_upload_whose_last_write_was_lost_is_completed_by_who_takes_over,
    b3_a_lost_row_before_the_last_write_is_found,
}

/// The time of the next beat.
pub async fn beat<L: LeaseDb, B: Backend, G: Ground>(site: &Site<G>, store: &Store<L, B>) -> TickOutcome {
    site.clock.advance(BEAT_SECONDS);
    store.tick().await.expect("a tick").expect("it is time")
}

pub async fn beats<L: LeaseDb, B: Backend, G: Ground>(site: &Site<G>, store: &Store<L, B>, count: usize) {
    for _ in 0..count {
        let outcome = beat(site, store).await;
        assert!(matches!(outcome, TickOutcome::Beat { .. }), "{outcome:?}");
    }
}

async fn listed_beats<G: Ground>(site: &Site<G>) -> Vec<BeatName> {
    site.listed(BEAT_FOLDER).await.iter().map(|object| object.name.parse().expect("a beat")).collect()
}

async fn losses<G: Ground>(site: &Site<G>) -> i64 {
    site.ground.number("SELECT count(*) FROM losses").await
}

async fn b1_an_older_database_under_running_pods_is_noticed_and_nothing_is_deleted<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let (one, two) = (site.far_pod().await, site.far_pod().await);
    one.upload(&alice, share_id(1, 0), &pattern(0..100)).await;
    one.write_slot(&alice, share_id(2, 0), b"first").await;
    one.write_slot(&alice, share_id(2, 0), b"second").await;
    one.allocate(&alice, share_id(4, 0), 100).await;
    two.store.write_bucket(share_id(4, 0), &upload_secret(1), 0..50, body(&pattern(0..50))).await.expect("a part");
    beats(&site, &one.store, 2).await;
    let (past, kept_at) = (site.ground.keep().await, site.now());
    // Three ticks of writes, all acknowledged, all lost.
    for bytes in [b"third".as_slice(), b"fourth", b"fifth"] {
        two.write_slot(&alice, share_id(2, 0), bytes).await;
        beats(&site, &two.store, 1).await;
    }
    two.upload(&alice, share_id(3, 0), &pattern(0..100)).await;
    site.ground.roll_back(&past).await;
    let outcome = beat(&site, &one.store).await;
    assert_eq!(outcome, TickOutcome::Loss(Epoch(2)), "within one tick");
    let deployment = site.db.deployment().await.expect("deployment");
    assert_eq!((deployment.mode, deployment.epoch), (Mode::Recovery, Epoch(2)));
    assert_eq!(losses(&site).await, 1);
    assert_eq!(site.ground.number("SELECT from_at FROM losses").await, kept_at);
    assert_eq!(site.ground.number("SELECT to_at FROM losses").await, site.now());
    // There is due garbage, and an overdue upload.
    site.clock.advance(SUPERSEDED_GRACE_SECONDS + IDLE_SECONDS);
    let before = site.listed("shares/").await;
    for epoch in [Epoch(1), Epoch(2)] {
        assert!(site.db.claim_garbage(epoch, 100, 60).await.expect("claim_garbage").is_empty());
    }
    for pod in [&one, &two] {
        assert_eq!(pod.store.collect(|_| ()).await.expect("collect"), Collected::default());
    }
    assert_eq!(site.listed("shares/").await, before, "nothing is deleted");
    // Service goes on, in the new epoch.
    beats(&site, &two.store, 2).await;
    assert_eq!(losses(&site).await, 1);
    assert_eq!(one.read(ShareKind::Immutable, share_id(1, 0)).await, pattern(0..100));
    two.write_slot(&alice, share_id(2, 0), b"sixth").await;
    assert_eq!(one.read(ShareKind::Mutable, share_id(2, 0)).await, b"sixth");
    // What was uploaded and lost is found when it is asked for.
    assert_eq!(two.read(ShareKind::Immutable, share_id(3, 0)).await, pattern(0..100));
}

/// The numbers of the lost beats are counted again before anybody looks: only their nonces differ.
async fn b1_less_than_a_tick_later_the_same_number_is_another_beat<G: Ground>() {
    let site = Site::<G>::make().await;
    let pod = site.pod(site.objects.clone());
    beats(&site, &pod.store, 3).await;
    let past = site.ground.keep().await;
    beats(&site, &pod.store, 1).await;
    site.ground.roll_back(&past).await;
    // A pod that listed before the lost beat was put counts that number once more.
    let stale: Vec<BeatName> = listed_beats(&site).await.into_iter().filter(|name| name.beat < 4).collect();
    let tick = leasehold_core::leasedb::Tick {
        listed: stale,
        nonce: leasehold_core::id::ObjectId::new([9; 16]),
        standby_is_synchronous: true,
    };
    let again = site.db.tick(tick).await.expect("a tick");
    let TickOutcome::Beat { beat: name, .. } = again else { panic!("{again:?}") };
    assert_eq!(name.beat, 4);
    put_beat(&site, name).await;
    assert_eq!(beat(&site, &pod.store).await, TickOutcome::Loss(Epoch(2)));
}

async fn put_beat<G: Ground>(site: &Site<G>, name: BeatName) {
    site.objects.put(&name.key(), 0, body(b"")).await.expect("put");
}

async fn b1_late_puts_of_old_beats_have_no_effect<G: Ground>() {
    let site = Site::<G>::make().await;
    let pod = site.pod(site.objects.clone());
    beats(&site, &pod.store, 2).await;
    let old = listed_beats(&site).await;
    beats(&site, &pod.store, BEATS_KEPT).await;
    let kept = listed_beats(&site).await;
    assert_eq!(kept.len(), BEATS_KEPT, "what is older than the database remembers is removed");
    assert!(old.iter().all(|name| !kept.contains(name)));
    put_beat(&site, old[1]).await;
    beats(&site, &pod.store, 1).await;
    assert!(!listed_beats(&site).await.contains(&old[1]), "and removed again");
    let deployment = site.db.deployment().await.expect("deployment");
    assert_eq!((deployment.mode, deployment.epoch, losses(&site).await), (Mode::Normal, Epoch(1), 0));
}

/// Calls of a tick: is_tick_due, now, list, tick, put.
const TICK_CALL: usize = 3;

async fn b1_a_tick_of_unknown_outcome_puts_nothing<G: Ground>() {
    let site = Site::<G>::make().await;
    let faults = Faults::new();
    let db = FaultyLeaseDb::new(site.db.clone(), faults.clone());
    let store = site.store(db, FaultyBackend::new(site.objects.clone(), faults.clone()));
    beats(&site, &store, 1).await;
    let before = listed_beats(&site).await;
    for fault in [Fault::ErrorAfter, Fault::ErrorBefore] {
        site.clock.advance(BEAT_SECONDS);
        faults.begin("tick", Some((TICK_CALL, fault)));
        let answer = store.tick().await;
        assert_eq!(faults.end().struck, Some((CallSite::Db("tick"), fault)));
        assert!(matches!(answer, Err(StoreError::LeaseDb(_))), "{answer:?}");
        assert_eq!(listed_beats(&site).await, before);
    }
    let TickOutcome::Beat { beat, .. } = beat(&site, &store).await else { panic!("no beat") };
    assert_eq!(beat.beat, before[0].beat + 2, "one tick had taken effect");
    let mut names = listed_beats(&site).await;
    assert_eq!(names.pop(), Some(beat));
    assert_eq!(names, before, "its beat never came");
    assert_eq!(losses(&site).await, 0);
}

async fn b1_a_tick_that_sleeps_before_its_put_harms_nobody<G: Ground>() {
    let site = Site::<G>::make().await;
    let pod = site.pod(site.objects.clone());
    let faults = Faults::new();
    let sleeper = site.store(site.db.clone(), FaultyBackend::new(site.objects.clone(), faults.clone()));
    beats(&site, &pod.store, 1).await;
    // Calls of the backend: list, put.
    faults.begin("tick", Some((1, Fault::CrashBefore)));
    site.clock.advance(BEAT_SECONDS);
    assert!(faults.run(sleeper.tick()).await.is_none());
    assert_eq!(faults.end().struck, Some((CallSite::Backend("put"), Fault::CrashBefore)));
    beats(&site, &pod.store, 2).await;
    assert_eq!(listed_beats(&site).await.iter().map(|name| name.beat).collect::<Vec<_>>(), [1, 3, 4]);
    assert_eq!(losses(&site).await, 0);
}

async fn b1_a_listing_that_fails_concludes_nothing<G: Ground>() {
    let site = Site::<G>::make().await;
    let faults = Faults::new();
    let store = site.store(site.db.clone(), FaultyBackend::new(site.objects.clone(), faults.clone()));
    beats(&site, &store, 2).await;
    let (past, lost) = (site.ground.keep().await, listed_beats(&site).await.len() + 1);
    beats(&site, &store, 1).await;
    site.ground.roll_back(&past).await;
    site.clock.advance(BEAT_SECONDS);
    for _ in 0..2 {
        faults.begin("tick", Some((0, Fault::ErrorBefore)));
        let answer = store.tick().await;
        assert!(matches!(answer, Err(StoreError::Backend(_))), "{answer:?}");
        faults.end();
        let deployment = site.db.deployment().await.expect("deployment");
        assert_eq!((deployment.mode, deployment.epoch, losses(&site).await), (Mode::Normal, Epoch(1), 0));
        assert_eq!(listed_beats(&site).await.len(), lost, "no beat is counted blindly");
    }
    assert_eq!(store.tick().await.expect("a tick"), Some(TickOutcome::Loss(Epoch(2))), "the beat is still due");
}

async fn b1_many_pods_tick_at_once_and_lose_nothing<G: Ground>() {
    const ROUNDS: usize = 10;
    let site = Site::<G>::make().await;
    let pods = [site.far_pod().await, site.far_pod().await, site.far_pod().await].map(std::sync::Arc::new);
    let mut counted = Vec::new();
    for _ in 0..ROUNDS {
        site.clock.advance(BEAT_SECONDS);
        let ticks = pods.iter().cloned().map(|pod| tokio::spawn(async move { pod.store.tick().await }));
        for tick in ticks.collect::<Vec<_>>() {
            match tick.await.expect("it ends").expect("a tick") {
                Some(TickOutcome::Beat { beat, .. }) => counted.push(beat),
                Some(TickOutcome::Elsewhere) | None => {}
                Some(TickOutcome::Loss(epoch)) => panic!("nothing is lost, but {epoch:?} began"),
            }
        }
    }
    assert!(counted.len() >= ROUNDS, "somebody ticks each time");
    counted.sort_by_key(|name| name.beat);
    assert_eq!(listed_beats(&site).await, counted, "each beat was counted once, and put");
    assert_eq!(losses(&site).await, 0);
}

/// Whoever claims the backend for the new database waits until the old heart is silent: it must not beat on.
async fn a_database_made_anew_hears_no_heart_of_the_old_ones_processes<G: Ground>() {
    let site = Site::<G>::make().await;
    let pod = site.far_pod().await;
    assert!(!site.db.deployment().await.expect("deployment").has_begun);
    assert_eq!(pod.store.claim_backend().await.expect("an answer"), Claim::Ours);
    beats(&site, &pod.store, 2).await;
    assert!(site.db.deployment().await.expect("deployment").has_begun);
    let before = listed_beats(&site).await;
    let other = G::bytes(&[9; 16]);
    site.ground.execute(&format!("UPDATE deployment SET deployment_id = {other}")).await;
    site.ground.execute("UPDATE beats SET beat = 0, beat_at = 0").await;
    for _ in 0..2 {
        site.clock.advance(BEAT_SECONDS);
        assert!(matches!(pod.store.tick().await, Err(StoreError::AnotherDatabase)));
    }
    assert_eq!(listed_beats(&site).await, before);
    assert_eq!(losses(&site).await, 0);
    assert!(!site.db.deployment().await.expect("deployment").has_begun);
}

async fn b2_a_write_built_on_a_lost_commit_is_not_made_of_another<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let (held, gate) = Held::new(site.objects.clone());
    let (slow, fast) = (site.pod(held), site.pod(site.objects.clone()));
    let share = share_id(1, 0);
    fast.write_slot(&alice, share, b"version 5").await;
    let past = site.ground.keep().await;
    fast.write_slot(&alice, share, b"version 6").await;
    // This write tests on version 6, and would keep a part of it.
    let mut vectors = replaced(2);
    vectors.new_length = None;
    vectors.tests.push(TestVector { offset: 0, size: 9, specimen: Bytes::from_static(b"version 6") });
    let writer = alice.clone();
    let writing = tokio::spawn(async move {
        let request = one_share(0, vectors);
        let (enabler, payload) = (enabler(1), Bytes::from_static(b"XX"));
        slow.store.read_test_write(&writer, storage_index(1), &enabler, &request, &payload).await
    });
    gate.stored().await;
    site.ground.roll_back(&past).await;
    fast.write_slot(&alice, share, b"another 6").await;
    gate.open();
    let outcome = writing.await.expect("the write ends").expect("an answer");
    assert!(!outcome.success, "its test was made again, on what there is");
    assert_eq!(fast.read(ShareKind::Mutable, share).await, b"another 6");
}

async fn b2_what_was_read_in_an_older_epoch_commits_nothing<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let (held, gate) = Held::new(site.objects.clone());
    let (slow, fast) = (site.pod(held), site.pod(site.objects.clone()));
    fast.write_slot(&alice, share_id(1, 0), b"a slot").await;
    fast.allocate(&alice, share_id(2, 0), 100).await;
    let past = site.ground.keep().await;
    beats(&site, &fast.store, 1).await;
    let slot = site.db.read_slot(storage_index(1)).await.expect("read_slot");
    let writing = tokio::spawn(async move {
        slow.store.write_bucket(share_id(2, 0), &upload_secret(1), 0..50, body(&pattern(0..50))).await
    });
    gate.stored().await;
    site.ground.roll_back(&past).await;
    assert_eq!(beat(&site, &fast.store).await, TickOutcome::Loss(Epoch(2)));
    // The slot itself is as it was, token and all: the epoch alone tells.
    let (token, write_enabler) = slot.slot.expect("a slot");
    let commit = |epoch| CommitSlot {
        storage_index: storage_index(1),
        account: alice.account.id,
        base: Some(token),
        token: SlotToken([9; 16]),
        write_enabler,
        changes: Vec::new(),
        marker: None,
        fresh: Vec::new(),
        epoch,
    };
    assert_eq!(site.db.commit_slot(commit(slot.epoch)).await.expect("an answer"), CommitOutcome::Conflict);
    assert_eq!(site.db.read_slot(storage_index(1)).await.expect("read_slot").slot, Some((token, write_enabler)));
    gate.open();
    let late = writing.await.expect("the write ends");
    assert!(matches!(late, Err(StoreError::NotFound)), "its upload was read in an older epoch: {late:?}");
    let (_, upload) = site.db.find_upload(share_id(2, 0)).await.expect("find_upload");
    assert_eq!(upload.expect("the upload outlives the loss").received_bytes, 0);
    fast.write_slot(&alice, share_id(1, 0), b"goes on").await;
    let written = fast.store.write_bucket(share_id(2, 0), &upload_secret(1), 0..100, body(&pattern(0..100))).await;
    assert!(written.expect("repeated").finished);
}

/// An upload in three parts whose last one is acknowledged with 201, and then lost.
async fn last_write_lost<G: Ground>(site: &Site<G>) {
    let alice = site.account("alice").await;
    let (pod, share) = (site.pod(site.objects.clone()), share_id(1, 0));
    pod.allocate(&alice, share, 100).await;
    for range in [0..40, 40..70] {
        let bytes = body(&pattern(range.clone()));
        pod.store.write_bucket(share, &upload_secret(1), range, bytes).await.expect("a part");
    }
    let past = site.ground.keep().await;
    let last = pod.store.write_bucket(share, &upload_secret(1), 70..100, body(&pattern(70..100))).await;
    assert!(last.expect("the last part").finished);
    site.ground.roll_back(&past).await;
    assert!(pod.numbers(ShareKind::Immutable, share).await.is_empty(), "it is lost indeed");
    site.clock.advance(IDLE_SECONDS + 1);
}

async fn b3_an_upload_whose_last_write_was_lost_is_completed_at_its_deadline<G: Ground>() {
    let site = Site::<G>::make().await;
    last_write_lost(&site).await;
    let (pod, share) = (site.pod(site.objects.clone()), share_id(1, 0));
    let collected = pod.store.collect(|_| ()).await.expect("collect");
    assert_eq!((collected.uploads_completed, collected.uploads_ended), (1, 0));
    assert_eq!(pod.read(ShareKind::Immutable, share).await, pattern(0..100));
    let (_, leases) = pod.store.inspect(share.storage_index).await.expect("inspect");
    assert_eq!(leases.iter().map(|lease| lease.account_name.as_str()).collect::<Vec<_>>(), ["alice"]);
    assert_eq!(site.usage("alice").await, (112, 0));
    site.assert_clean(&["alice"], &[1]).await;
}

async fn b3_an_upload_whose_last_write_was_lost_is_completed_by_who_takes_over<G: Ground>() {
    let site = Site::<G>::make().await;
    last_write_lost(&site).await;
    let bob = site.account("bob").await;
    let (pod, share) = (site.pod(site.objects.clone()), share_id(1, 0));
    pod.store.refresh_space().await.expect("room is known");
    let sets = pod.store.allocate_bucket(&bob, share.storage_index, &[share.number], 100, &upload_secret(2)).await;
    let sets = sets.expect("allocate");
    assert_eq!((sets.already_have, sets.allocated), (vec![share.number], vec![]));
    assert_eq!(pod.read(ShareKind::Immutable, share).await, pattern(0..100));
    site.assert_clean(&["alice", "bob"], &[1]).await;
}

async fn b3_a_lost_row_before_the_last_write_is_found<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let (pod, share) = (site.pod(site.objects.clone()), share_id(1, 0));
    pod.allocate(&alice, share, 100).await;
    let write = async |range: std::ops::Range<u64>| {
        let bytes = body(&pattern(range.clone()));
        pod.store.write_bucket(share, &upload_secret(1), range, bytes).await.expect("written")
    };
    write(0..40).await;
    let past = site.ground.keep().await;
    beats(&site, &pod.store, 1).await;
    assert_eq!(write(40..70).await.missing, [70..100]);
    site.ground.roll_back(&past).await;
    // No tick has noticed yet: the last write does.
    assert!(write(70..100).await.finished, "a client that gets 200 for its last write hangs for ever");
    assert_eq!(pod.read(ShareKind::Immutable, share).await, pattern(0..100));
    assert_eq!(site.db.deployment().await.expect("deployment").mode, Mode::Recovery);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b1_an_error_of_the_database_is_no_loss() {
    let site = Site::<OneMachine>::make().await;
    let faults = Faults::new();
    let store = site.store(FaultyLeaseDb::new(site.db.clone(), faults.clone()), site.objects.clone());
    beats(&site, &store, 1).await;
    site.clock.advance(BEAT_SECONDS);
    // Calls of the database: is_tick_due, now, tick.
    for call in 0..3 {
        faults.begin("tick", Some((call, Fault::ErrorBefore)));
        let answer = store.tick().await;
        faults.end();
        assert!(matches!(answer, Err(StoreError::LeaseDb(LeaseDbError::Unavailable(_)))), "{answer:?}");
    }
    beats(&site, &store, 1).await;
    assert_eq!(losses(&site).await, 0);
}

/// A standby takes over from a primary that dies. One that lagged has lost an acknowledged write, and no beat tells of
/// it: the timeline does, at the next tick or before a client is told that its last write is not the last (B3).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b1_a_standby_that_takes_over_is_a_loss_unless_it_is_synchronous() {
    let site = Site::<Pods>::make().await;
    for synchronous in [false, true] {
        let pair = Pair::start(synchronous);
        let options = StoreOptions { standby_is_synchronous: synchronous, ..StoreOptions::default() };
        let store = site.store_with(pair.open(&site).await, site.objects.clone(), options);
        let alice = create(&store, "alice").await;
        let share = share_id(u8::from(synchronous), 0);
        let pod = Pod { store };
        pod.allocate(&alice, share, 100).await;
        let write = async |range: std::ops::Range<u64>| {
            let bytes = body(&pattern(range.clone()));
            pod.store.write_bucket(share, &upload_secret(1), range, bytes).await
        };
        write(0..40).await.expect("the first part");
        beats(&site, &pod.store, 1).await;
        pair.let_lag();
        write(40..70).await.expect("acknowledged");
        pair.fail_over();
        site.clock.advance(BEAT_SECONDS);
        let last = eventually(async || write(70..100).await).await;
        assert!(last.finished, "every acknowledged part is in it");
        assert_eq!(pod.read(ShareKind::Immutable, share).await, pattern(0..100));
        let expected = if synchronous { (Mode::Normal, Epoch(1)) } else { (Mode::Recovery, Epoch(2)) };
        let deployment = pod.store.db().deployment().await.expect("deployment");
        assert_eq!((deployment.mode, deployment.epoch), expected);
        // Whatever noticed it, it is one loss, and hearts go on beating.
        beats(&site, &pod.store, 1).await;
        for name in listed_beats(&site).await {
            site.objects.delete(&name.key()).await.expect("delete");
        }
    }
}

/// A primary and its standby, behind one address.
struct Pair {
    primary: Postgres,
    standby: Postgres,
    stream: TcpProxy,
    entrance: TcpProxy,
    synchronous: bool,
}

impl Pair {
    fn start(synchronous: bool) -> Self {
        let start = || -> anyhow::Result<Self> {
            let primary = Postgres::start(&PostgresOptions::default())?;
            primary.create_database("leases")?;
            let stream = TcpProxy::start(primary.address())?;
            let standby = primary.standby(&StandbyOptions { synchronous, through: Some(stream.address()) })?;
            let entrance = TcpProxy::start(primary.address())?;
            Ok(Self { primary, standby, stream, entrance, synchronous })
        };
        tokio::task::block_in_place(start).expect("two servers")
    }

    async fn open(&self, site: &Site<Pods>) -> PgLeaseDb {
        let options = pg::options(self.entrance.address(), &self.primary, "leases");
        migrate(&options, &Roles::default()).await.expect("a schema");
        let clock: Arc<dyn Clock> = Arc::new(site.clock.clone());
        let opened =
            PgLeaseDb::open_with_clock(&options, LeaseTerms::default(), PgMetrics::default(), Some(clock)).await;
        opened.expect("the lease database opens")
    }

    /// From now on an asynchronous standby gets nothing any more.
    fn let_lag(&self) {
        if !self.synchronous {
            tokio::task::block_in_place(|| self.primary.wait_replicated()).expect("the standby has caught up");
            self.stream.stall();
        }
    }

    fn fail_over(&self) {
        let fail_over = || {
            self.primary.kill()?;
            self.stream.refuse(true);
            self.stream.cut_all();
            self.standby.promote()?;
            self.entrance.set_target(self.standby.address());
            self.entrance.cut_all();
            anyhow::Ok(())
        };
        tokio::task::block_in_place(fail_over).expect("the standby takes over");
    }
}

/// Repeats what the database was not there for, within bounds.
async fn eventually<T>(mut request: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    let mut tries = 0;
    loop {
        match request().await {
            Ok(value) => return value,
            Err(error) if tries == 100 => panic!("{error:?}"),
            Err(_) => tries += 1,
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
