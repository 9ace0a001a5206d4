//! Storage indexes that are settled at their first touch, because the lease database has lost commits: `review.md` A1, A7,
//! A11, C1–C3.

use bytes::Bytes;
use leasehold_core::accountant::Session;
use leasehold_core::backend::Backend;
use leasehold_core::chunk::{ObjectName, StoreObject, folder};
use leasehold_core::crawl::{ORPHAN_AGE_SECONDS, Settle, SettleOutcome, Stored};
use leasehold_core::id::{ShareId, ShareNumber};
use leasehold_core::leasedb::{LeaseDb, SlotToken, TickOutcome, UNDO_SECONDS};
use leasehold_core::share::ShareKind;
use leasehold_core::slot::{ReadTestWrite, TestVector};
use leasehold_core::store::{Store, StoreError};
use leasehold_core::testing::faulty::{Fault, Faults, FaultyBackend, FaultyLeaseDb};
use leasehold_core::testing::{body, enabler, share_id, storage_index, upload_secret};

use super::beats::{beat, beats};
use super::held::Held;
use super::pattern;
use super::site::{IDLE_SECONDS, Pod, Site, one_share, removal, replaced};
use crate::ground::{Ground, on_every_ground};

on_every_ground! {
    c1_writes_that_were_lost_are_there_at_the_first_touch,
    c1_what_clients_removed_stays_removed,
    c1_a_part_of_a_call_is_no_state,
    c1_a_refused_rival_is_not_brought_back,
    c1_a_write_that_settling_found_first_is_answered_as_done,
    c2_a_row_beside_a_complete_copy_names_the_copy,
    c3_an_upload_that_no_row_knows_is_a_share_all_the_same,
    a1_a_listing_from_before_a_deletion_adopts_nothing,
    a7_what_waits_to_be_deleted_is_never_named_again,
    a11_an_aborted_upload_whose_object_comes_late_stays_aborted,
    a11_a_merged_object_of_a_share_that_was_removed_stays_away,
}

/// The lease database is as it was in the past; one process notices, and it is told what others did not hear yet.
pub async fn lose<G: Ground>(site: &Site<G>, past: &G::Past) -> Pod<G::Db, G::Objects> {
    site.ground.roll_back(past).await;
    let pod = site.far_pod().await;
    assert!(matches!(beat(site, &pod.store).await, TickOutcome::Loss(_)), "commits are lost");
    pod
}

/// A request on several shares: all of each, from the beginning of the payload.
pub fn several(shares: &[(u8, u64)]) -> ReadTestWrite {
    let vectors = shares.iter().map(|(number, length)| (ShareNumber::new(*number), replaced(*length)));
    ReadTestWrite { vectors: vectors.collect(), reads: Vec::new() }
}

async fn leaseholders<G: Ground>(site: &Site<G>, index: u8) -> Vec<(u8, String)> {
    let leases = site.db.list_leases(storage_index(index)).await.expect("list_leases");
    leases.into_iter().map(|lease| (lease.number.get(), lease.account_name)).collect()
}

async fn c1_writes_that_were_lost_are_there_at_the_first_touch<G: Ground>() {
    let site = Site::<G>::make().await;
    let (alice, bob) = (site.account("alice").await, site.account("bob").await);
    let pod = site.far_pod().await;
    pod.write_slot(&alice, share_id(1, 0), b"kept").await;
    beats(&site, &pod.store, 1).await;
    let past = site.ground.keep().await;
    // Of the first slot the object that the row names is deleted before commits are lost; the second had no row.
    pod.write_slot(&bob, share_id(1, 0), b"lost").await;
    pod.write_slot(&bob, share_id(1, 1), b"another share").await;
    pod.write_slot(&bob, share_id(2, 3), b"a new slot").await;
    site.clock.advance(3600);
    pod.store.collect(|_| ()).await.expect("collect");
    beats(&site, &pod.store, 1).await;
    let pod = lose(&site, &past).await;
    // Whatever is asked first.
    assert_eq!(pod.numbers(ShareKind::Mutable, share_id(1, 0)).await, [0, 1].map(ShareNumber::new));
    assert_eq!(pod.read(ShareKind::Mutable, share_id(1, 0)).await, b"lost");
    assert_eq!(pod.read(ShareKind::Mutable, share_id(2, 3)).await, b"a new slot");
    assert_eq!(leaseholders(&site, 1).await, [(0, "alice".to_owned()), (1, "bob".to_owned())]);
    assert_eq!(leaseholders(&site, 2).await, [(3, "bob".to_owned())]);
    assert_eq!((site.usage("alice").await.0, site.usage("bob").await.0), (4 + 472, 13 + 472 + 10 + 472));
    // The next write is built on what was found, under the slot's own write enabler.
    let mut vectors = replaced(4);
    vectors.tests.push(TestVector { offset: 0, size: 4, specimen: Bytes::from_static(b"lost") });
    let (request, payload) = (one_share(0, vectors), Bytes::from_static(b"next"));
    let wrong = pod.store.read_test_write(&bob, storage_index(2), &enabler(2), &several(&[(0, 1)]), &payload).await;
    assert!(matches!(wrong, Err(StoreError::WrongWriteEnabler)), "{wrong:?}");
    let written = pod.store.read_test_write(&bob, storage_index(1), &enabler(1), &request, &payload).await;
    assert!(written.expect("written").success);
    assert_eq!(pod.read(ShareKind::Mutable, share_id(1, 0)).await, b"next");
}

async fn c1_what_clients_removed_stays_removed<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let pod = site.far_pod().await;
    beats(&site, &pod.store, 1).await;
    let dropped = site.ground.keep().await;
    let payload = Bytes::from_static(b"secret");
    for index in [1, 2] {
        let both = several(&[(0, 6), (1, 6)]);
        pod.store.read_test_write(&alice, storage_index(index), &enabler(1), &both, &payload).await.expect("written");
    }
    let past = site.ground.keep().await;
    let remove = async |index, numbers: &[u8]| {
        let vectors = numbers.iter().map(|number| (ShareNumber::new(*number), removal())).collect();
        let request = ReadTestWrite { vectors, reads: Vec::new() };
        pod.store
            .read_test_write(&alice, storage_index(index), &enabler(1), &request, &payload)
            .await
            .expect("removed");
    };
    remove(1, &[1]).await;
    remove(2, &[0, 1]).await;
    beats(&site, &pod.store, 1).await;
    // A database that has older rows, then one that has none.
    for past in [past, dropped] {
        let pod = lose(&site, &past).await;
        assert_eq!(pod.numbers(ShareKind::Mutable, share_id(1, 0)).await, [ShareNumber::new(0)]);
        assert_eq!(pod.read(ShareKind::Mutable, share_id(1, 0)).await, b"secret");
        assert!(pod.numbers(ShareKind::Mutable, share_id(2, 0)).await.is_empty());
        assert_eq!(site.usage("alice").await, (6 + 472, 0));
        // Nor does its old write enabler come back.
        let (another, nothing) = (enabler(3), ReadTestWrite::default());
        let taken = pod.store.read_test_write(&alice, storage_index(2), &another, &nothing, &payload).await;
        assert!(taken.expect("a new slot may begin").success);
        beats(&site, &pod.store, 1).await;
    }
}

async fn c1_a_part_of_a_call_is_no_state<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let faults = Faults::new();
    let pod = site.pod(FaultyBackend::new(site.objects.clone(), faults.clone()));
    let before = Bytes::from_static(b"before");
    let three = several(&[(0, 6), (1, 6), (2, 6)]);
    pod.store.read_test_write(&alice, storage_index(1), &enabler(1), &three, &before).await.expect("written");
    beats(&site, &pod.store, 1).await;
    let past = site.ground.keep().await;
    for index in [1, 2] {
        // The process dies when it has stored the second of three.
        faults.begin("write", Some((1, Fault::CrashAfter)));
        let (enabler, payload) = (enabler(1), Bytes::from_static(b"later!"));
        let write = pod.store.read_test_write(&alice, storage_index(index), &enabler, &three, &payload);
        assert!(faults.run(write).await.is_none());
        faults.end();
    }
    beats(&site, &pod.store, 1).await;
    let pod = lose(&site, &past).await;
    for number in 0..3 {
        assert_eq!(pod.read(ShareKind::Mutable, share_id(1, number)).await, b"before");
    }
    assert!(pod.numbers(ShareKind::Mutable, share_id(2, 0)).await.is_empty());
}

async fn c1_a_refused_rival_is_not_brought_back<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let (held, gate) = Held::new(site.objects.clone());
    let (slow, fast) = (site.pod(held), site.pod(site.objects.clone()));
    let share = share_id(1, 0);
    fast.write_slot(&alice, share, b"version 1").await;
    let writer = alice.clone();
    let rival = tokio::spawn(async move {
        let payload = Bytes::from_static(b"rival");
        slow.store.read_test_write(&writer, storage_index(1), &enabler(1), &one_share(0, replaced(5)), &payload).await
    });
    gate.stored().await;
    // It dies; what it was built on is replaced by others.
    rival.abort();
    drop(rival.await);
    fast.write_slot(&alice, share, b"version 2").await;
    beats(&site, &fast.store, 1).await;
    let past = site.ground.keep().await;
    beats(&site, &fast.store, 1).await;
    let pod = lose(&site, &past).await;
    assert_eq!(pod.read(ShareKind::Mutable, share).await, b"version 2");
}

async fn c1_a_write_that_settling_found_first_is_answered_as_done<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let (held, gate) = Held::new(site.objects.clone());
    let (slow, fast) = (site.pod(held), site.pod(site.objects.clone()));
    let share = share_id(1, 0);
    fast.write_slot(&alice, share, b"version 1").await;
    beats(&site, &fast.store, 1).await;
    let past = site.ground.keep().await;
    beats(&site, &fast.store, 1).await;
    let writer = alice.clone();
    let writing = tokio::spawn(async move {
        let mut vectors = replaced(9);
        vectors.tests.push(TestVector { offset: 0, size: 9, specimen: Bytes::from_static(b"version 1") });
        let (request, payload) = (one_share(0, vectors), Bytes::from_static(b"version 2"));
        slow.store.read_test_write(&writer, storage_index(1), &enabler(1), &request, &payload).await
    });
    gate.stored().await;
    let pod = lose(&site, &past).await;
    assert_eq!(pod.read(ShareKind::Mutable, share).await, b"version 2", "it may as well have held before");
    gate.open();
    let answer = writing.await.expect("it ends").expect("an answer");
    assert!(answer.success, "its test would not hold a second time");
    assert_eq!(pod.read(ShareKind::Mutable, share).await, b"version 2");
}

/// An upload in pieces.
async fn upload_pieces<L: LeaseDb, B: Backend>(
    pod: &Pod<L, B>,
    session: &leasehold_core::accountant::Session,
    share: ShareId,
) {
    pod.allocate(session, share, 100).await;
    for range in [0..40, 40..70, 70..100] {
        let bytes = body(&pattern(range.clone()));
        pod.store.write_bucket(share, &upload_secret(1), range, bytes).await.expect("a part");
    }
}

async fn c2_a_row_beside_a_complete_copy_names_the_copy<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let (pod, share) = (site.far_pod().await, share_id(1, 0));
    upload_pieces(&pod, &alice, share).await;
    beats(&site, &pod.store, 1).await;
    let past = site.ground.keep().await;
    for seconds in [86_400, 3600] {
        site.clock.advance(seconds);
        pod.store.collect(|_| ()).await.expect("collect");
    }
    beats(&site, &pod.store, 1).await;
    assert_eq!(site.listed(&folder(share.storage_index)).await.len(), 1, "merged, and the pieces are deleted");
    let pod = lose(&site, &past).await;
    assert_eq!(pod.read(ShareKind::Immutable, share).await, pattern(0..100));
    let sets = pod.store.allocate_bucket(&alice, share.storage_index, &[share.number], 100, &upload_secret(2)).await;
    assert_eq!(sets.expect("allocate").already_have, [share.number]);
    assert_eq!(site.usage("alice").await, (112, 0));
}

async fn c3_an_upload_that_no_row_knows_is_a_share_all_the_same<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let pod = site.far_pod().await;
    beats(&site, &pod.store, 1).await;
    let past = site.ground.keep().await;
    upload_pieces(&pod, &alice, share_id(1, 0)).await;
    pod.upload(&alice, share_id(1, 7), &pattern(0..100)).await;
    // This one was not finished.
    pod.allocate(&alice, share_id(1, 8), 100).await;
    pod.store.write_bucket(share_id(1, 8), &upload_secret(1), 0..99, body(&pattern(0..99))).await.expect("a part");
    beats(&site, &pod.store, 1).await;
    let pod = lose(&site, &past).await;
    assert_eq!(pod.numbers(ShareKind::Immutable, share_id(1, 0)).await, [0, 7].map(ShareNumber::new));
    for number in [0, 7] {
        assert_eq!(pod.read(ShareKind::Immutable, share_id(1, number)).await, pattern(0..100));
    }
    assert_eq!(site.usage("alice").await, (224, 0));
    let late = pod.store.write_bucket(share_id(1, 8), &upload_secret(1), 99..100, body(&pattern(99..100))).await;
    assert!(matches!(late, Err(StoreError::NotFound)), "{late:?}");
}

/// Nobody leases any share any more, for longer than it takes to remove them.
async fn abandon<G: Ground>(site: &Site<G>) {
    site.ground.execute("INSERT INTO unleased (si, shnum, since) SELECT si, shnum, 0 FROM shares").await;
    site.ground.execute("DELETE FROM leases").await;
    site.ground.execute(G::UNCHARGE).await;
    site.clock.advance(3 * 86_400);
    site.far_pod().await.store.collect(|_| ()).await.expect("collect");
}

async fn listed<G: Ground>(site: &Site<G>, share: ShareId) -> Vec<Stored> {
    let objects = site.listed(&folder(share.storage_index)).await;
    let stored = |object: &leasehold_core::backend::ListedObject| Stored {
        name: object.name.parse().expect("one of ours"),
        length_bytes: object.length_bytes,
    };
    objects.iter().map(stored).collect()
}

async fn a1_a_listing_from_before_a_deletion_adopts_nothing<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let (pod, share) = (site.far_pod().await, share_id(1, 0));
    upload_pieces(&pod, &alice, share).await;
    abandon(&site).await;
    // The run lists, and falls asleep.
    let seen = site.db.survey(share.storage_index).await.expect("survey");
    let listed = listed(&site, share).await;
    assert!(seen.shares.is_empty() && !listed.is_empty());
    site.clock.advance(UNDO_SECONDS + 86_400);
    pod.store.collect(|_| ()).await.expect("collect");
    assert!(site.listed("shares/").await.is_empty(), "deleted");
    let settle = Settle {
        storage_index: share.storage_index,
        seen,
        listed: listed.clone(),
        manifests: Vec::new(),
        containers: Vec::new(),
        token: SlotToken([1; 16]),
        dry_run: false,
    };
    let SettleOutcome::Settled(findings) = site.db.settle(settle).await.expect("settle") else {
        panic!("nothing changed")
    };
    assert_eq!((findings.adopted, findings.orphans, findings.late), (0, 0, listed.len() as u64));
    assert!(site.db.list_shares(share.storage_index).await.expect("list_shares").is_empty());
    // A put that was on its way all the time lands now: it is deleted again.
    let late = listed[0].name;
    site.objects.put(&late.key(), 5, body(b"bytes")).await.expect("put");
    pod.store.settle(share.storage_index, false).await.expect("settled");
    site.clock.advance(3600);
    pod.store.collect(|_| ()).await.expect("collect");
    assert!(site.listed("shares/").await.is_empty());
}

async fn a7_what_waits_to_be_deleted_is_never_named_again<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let (pod, share) = (site.far_pod().await, share_id(1, 0));
    beats(&site, &pod.store, 1).await;
    let past = site.ground.keep().await;
    beats(&site, &pod.store, 1).await;
    let id = |byte| leasehold_core::id::ObjectId::new([byte; 16]);
    let whole = StoreObject::Whole { upload: id(1), account: alice.account.id, put: id(2) };
    let name = ObjectName::new(share, whole);
    site.objects.put(&name.key(), 5, body(b"bytes")).await.expect("put");
    let pod = lose(&site, &past).await;
    // Whoever stored it throws it away before anybody looks, or a deleter has it already.
    site.db.discard_objects(vec![name]).await.expect("discard_objects");
    assert!(pod.numbers(ShareKind::Immutable, share).await.is_empty(), "adopted in recovery mode");
    site.ground.execute("UPDATE deployment SET mode = 0").await;
    site.clock.advance(UNDO_SECONDS);
    let epoch = site.db.deployment().await.expect("deployment").epoch;
    let claimed = site.db.claim_garbage(epoch, 10, 60).await.expect("claim_garbage");
    assert_eq!(claimed.iter().flat_map(|row| row.objects.clone()).collect::<Vec<_>>(), [name]);
    let findings = pod.store.settle(share.storage_index, false).await.expect("settled");
    assert_eq!((findings.adopted, findings.orphans, findings.late), (0, 0, 0));
}

async fn a11_an_aborted_upload_whose_object_comes_late_stays_aborted<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let (held, gate) = Held::new(site.objects.clone());
    let (slow, fast) = (site.pod(held), site.pod(site.objects.clone()));
    let share = share_id(1, 0);
    slow.allocate(&alice, share, 100).await;
    let writing = tokio::spawn(async move {
        slow.store.write_bucket(share, &upload_secret(1), 0..100, body(&pattern(0..100))).await.map(drop)
    });
    gate.stored().await;
    fast.store.abort_bucket(share, &upload_secret(1)).await.expect("aborted");
    writing.abort();
    drop(writing.await);
    assert_eq!(listed(&site, share).await.len(), 1, "all of it is there");
    // Another upload of the same share at the same moment is another matter.
    fast.upload(&alice, share_id(2, 0), b"x").await;
    site.clock.advance(ORPHAN_AGE_SECONDS);
    let findings = fast.store.settle(share.storage_index, false).await.expect("settled");
    assert_eq!((findings.adopted, findings.orphans), (0, 1));
    assert!(fast.numbers(ShareKind::Immutable, share).await.is_empty());
    site.assert_clean(&["alice"], &[1, 2]).await;
}

async fn a11_a_merged_object_of_a_share_that_was_removed_stays_away<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let (faults, share) = (Faults::new(), share_id(1, 0));
    let pod = site.far_pod().await;
    upload_pieces(&pod, &alice, share).await;
    site.clock.advance(86_400);
    // The merged object is stored, then the process dies.
    let db = FaultyLeaseDb::new(site.db.clone(), faults.clone());
    let merging = site.store(db, FaultyBackend::new(site.objects.clone(), faults.clone()));
    let mut call = 0;
    loop {
        faults.begin("collect", Some((call, Fault::CrashAfter)));
        let ended = faults.run(merging.collect(|_| ())).await.is_some();
        let report = faults.end();
        if !report.puts.is_empty() {
            break;
        }
        assert!(!ended, "nothing was merged");
        call += 1;
        // The claim of the one that died lapses.
        site.clock.advance(3601);
    }
    assert_eq!(listed(&site, share).await.len(), 4);
    abandon(&site).await;
    let findings = pod.store.settle(share.storage_index, false).await.expect("settled");
    assert_eq!((findings.adopted, findings.orphans), (0, 1), "nobody leases it");
    assert!(pod.numbers(ShareKind::Immutable, share).await.is_empty());
}

/// Whatever may be the first to touch a storage index: of a slot that lost its last write, and of a bucket without a row.
const TOUCHES: [&str; 6] =
    ["list_shares", "stable_share", "renew_leases", "allocate_bucket", "abort_bucket", "read_test_write"];

async fn touch<L: LeaseDb, B: Backend>(store: &Store<L, B>, alice: &Session, what: &str) -> Result<(), StoreError> {
    let (slot, bucket) = (share_id(1, 0), share_id(2, 0));
    match what {
        "list_shares" => store.list_shares(ShareKind::Immutable, bucket.storage_index).await.map(drop),
        "stable_share" => store.stable_share(ShareKind::Mutable, slot).await.map(drop),
        "renew_leases" => store.renew_leases(alice, bucket.storage_index).await.map(drop),
        "allocate_bucket" => {
            let sets =
                store.allocate_bucket(alice, bucket.storage_index, &[bucket.number], 4, &upload_secret(2)).await?;
            assert_eq!(sets.already_have, [bucket.number]);
            Ok(())
        }
        "abort_bucket" => match store.abort_bucket(bucket, &upload_secret(1)).await {
            // There is nothing left to abort.
            Err(StoreError::AlreadyComplete) => Ok(()),
            other => other.map(drop),
        },
        _ => {
            let (request, payload) = (one_share(0, replaced(4)), Bytes::from_static(b"next"));
            store.read_test_write(alice, slot.storage_index, &enabler(1), &request, &payload).await.map(drop)
        }
    }
}

/// Every call of every first touch fails, or its process dies there; then both storage indexes are asked for again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_of_every_first_touch_may_fail_or_die() {
    for what in TOUCHES {
        let mut calls = 0;
        while first_touch(what, calls).await {
            calls += 1;
        }
        assert!(calls >= 4, "{what}: survey, list, settle, and the question itself");
    }
}

/// Strikes at one call with each fault. False: there was no such call.
async fn first_touch(what: &'static str, call: usize) -> bool {
    for fault in [Fault::ErrorBefore, Fault::ErrorAfter, Fault::CrashBefore, Fault::CrashAfter] {
        let site = Site::new().await;
        let alice = site.account("alice").await;
        let pod = site.far_pod().await;
        pod.write_slot(&alice, share_id(1, 0), b"kept").await;
        beats(&site, &pod.store, 1).await;
        let past = site.ground.keep().await;
        pod.write_slot(&alice, share_id(1, 0), b"lost").await;
        pod.upload(&alice, share_id(2, 0), b"lost").await;
        beats(&site, &pod.store, 1).await;
        drop(lose(&site, &past).await);
        let faults = Faults::new();
        let db = FaultyLeaseDb::new(site.db.clone(), faults.clone());
        let store = site.store(db, FaultyBackend::new(site.objects.clone(), faults.clone()));
        store.refresh_space().await.expect("told of recovery");
        faults.begin(what, Some((call, fault)));
        let touched = faults.run(touch(&store, &alice, what)).await;
        if faults.end().struck.is_none() {
            assert!(matches!(touched, Some(Ok(()))), "{what}: {touched:?}");
            return false;
        }
        let told = format!("{what}, {fault:?} at call {call}");
        let pod = site.told_pod().await;
        let slot = pod.read(ShareKind::Mutable, share_id(1, 0)).await;
        assert!(slot == b"lost" || (what == "read_test_write" && slot == b"next"), "{told}: {slot:?}");
        assert_eq!(pod.read(ShareKind::Immutable, share_id(2, 0)).await, b"lost", "{told}");
        assert_eq!(site.usage("alice").await, (4 + 472 + 4 + 12, 0), "{told}");
    }
    true
}

/// Uploads outlive a loss; what they were too late to record is found when they are touched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_goes_on_over_a_loss() {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let (pod, share) = (site.far_pod().await, share_id(1, 0));
    pod.allocate(&alice, share, 100).await;
    pod.store.write_bucket(share, &upload_secret(1), 0..40, body(&pattern(0..40))).await.expect("a part");
    beats(&site, &pod.store, 1).await;
    let past = site.ground.keep().await;
    beats(&site, &pod.store, 1).await;
    let pod = lose(&site, &past).await;
    let written = pod.store.write_bucket(share, &upload_secret(1), 40..100, body(&pattern(40..100))).await;
    assert!(written.expect("goes on").finished);
    assert_eq!(pod.read(ShareKind::Immutable, share).await, pattern(0..100));
    site.clock.advance(IDLE_SECONDS);
    assert_eq!(site.usage("alice").await, (112, 0));
}
