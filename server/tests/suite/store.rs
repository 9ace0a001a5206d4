//! Traces that once broke the design, as requests on the store: `review.md` A2, A3, A5, A9, A10, A12, A14 and
//! `accounting.md` B-1, B-3, B-4, B-5, B-9.

mod audit;
mod beats;
pub mod held;
mod merging;
mod pods;
mod reconciling;
mod recovery;
mod settling;
pub mod site;
mod writers;

use bytes::Bytes;
use leasehold_core::backend::Backend;
use leasehold_core::chunk::{ObjectName, StoreObject, folder};
use leasehold_core::lease::{DAY_SECONDS, LEASE_DURATION_SECONDS};
use leasehold_core::leasedb::{LeaseDb, SUPERSEDED_GRACE_SECONDS};
use leasehold_core::manifest::Manifest;
use leasehold_core::share::ShareKind;
use leasehold_core::store::{StoreError, Written};
use leasehold_core::testing::faulty::{Fault, Faults, FaultyBackend, FaultyLeaseDb, Site as CallSite};
use leasehold_core::testing::{body, broken_body, enabler, read_all, seed, share_id, storage_index, upload_secret};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use held::Held;
use site::{IDLE_SECONDS, Site, one_share, removal, replaced};

pub fn pattern(range: std::ops::Range<u64>) -> Vec<u8> {
    range.map(|at| (at % 251) as u8).collect()
}

/// Two pods get overlapping ranges at once: both look before either has recorded anything.
async fn overlap(second: Vec<u8>) -> (Site, Result<Written, StoreError>, Result<Written, StoreError>) {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let (held, gate) = Held::new(site.objects.clone());
    let (slow, fast) = (site.pod(held), site.pod(site.objects.clone()));
    let share = share_id(1, 0);
    slow.allocate(&alice, share, 100).await;
    let writing =
        tokio::spawn(async move { slow.store.write_bucket(share, &upload_secret(1), 40..80, body(&second)).await });
    gate.stored().await;
    let first = fast.store.write_bucket(share, &upload_secret(1), 0..60, body(&pattern(0..60))).await;
    gate.open();
    (site, first, writing.await.expect("the write ends"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_overlapping_writes_of_two_pods_leave_no_hole() {
    let (site, first, second) = overlap(pattern(40..80)).await;
    assert_eq!(first.expect("fast").missing, [60..100]);
    let second = second.expect("equal bytes are fine");
    assert!(!second.finished, "60 and 40 bytes are not 100 different ones");
    assert_eq!(second.missing, [80..100]);
    let (pod, share) = (site.pod(site.objects.clone()), share_id(1, 0));
    assert!(pod.numbers(ShareKind::Immutable, share).await.is_empty());
    let last = pod.store.write_bucket(share, &upload_secret(1), 80..100, body(&pattern(80..100))).await;
    assert!(last.expect("the last part").finished);
    assert_eq!(pod.read(ShareKind::Immutable, share).await, pattern(0..100));
    site.assert_clean(&["alice"], &[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_overlapping_writes_of_two_pods_that_differ_conflict() {
    let mut bytes = pattern(40..80);
    bytes[19] ^= 1;
    let (site, first, second) = overlap(bytes).await;
    assert_eq!(first.expect("fast").missing, [60..100]);
    assert!(matches!(second, Err(StoreError::Conflict)), "byte 59 was compared: {second:?}");
    let upload = site.db.find_upload(share_id(1, 0)).await.expect("find_upload").1.expect("the upload goes on");
    assert_eq!(upload.received_bytes, 60, "nothing of the conflicting write is kept");
    site.assert_clean(&["alice"], &[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_random_overlapping_writes_of_two_pods_agree_with_an_array() {
    const SIZE: u64 = 3000;
    let seed = seed();
    for round in 0..4u8 {
        let site = Site::new().await;
        let alice = site.account("alice").await;
        let share = share_id(round, 0);
        site.pod(site.objects.clone()).allocate(&alice, share, SIZE).await;
        let writers = (0..2u64).map(|writer| {
            let pod = site.pod(site.objects.clone());
            let mut random = StdRng::seed_from_u64(seed + u64::from(round) * 10 + writer);
            tokio::spawn(async move {
                let (mut at, mut finished) = (0, 0);
                while at < SIZE {
                    let start = at - random.random_range(0..=at.min(200));
                    let end = (at + random.random_range(1..300)).min(SIZE);
                    let bytes = body(&pattern(start..end));
                    match pod.store.write_bucket(share, &upload_secret(1), start..end, bytes).await {
                        Ok(written) => finished += u32::from(written.finished),
                        Err(StoreError::NotFound) => break,
                        Err(error) => panic!("{error:?}"),
                    }
                    at = end;
                }
                finished
            })
        });
        let writers: Vec<_> = writers.collect();
        let mut finished = 0;
        for writer in writers {
            finished += writer.await.expect("a writer ends");
        }
        assert_eq!(finished, 1, "exactly one write answers 201");
        let pod = site.pod(site.objects.clone());
        assert_eq!(pod.read(ShareKind::Immutable, share).await, pattern(0..SIZE));
        site.assert_clean(&["alice"], &[round]).await;
    }
}

/// What a write under way has stored is not a lost commit: the last write leaves it alone (B3), else both would finish the
/// share, or one that is refused would have a part in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b3_a_last_write_does_not_take_what_others_are_writing() {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let (held, gate) = Held::new(site.objects.clone());
    let (slow, fast) = (site.pod(held), site.pod(site.objects.clone()));
    let share = share_id(1, 0);
    slow.allocate(&alice, share, 100).await;
    let writing =
        tokio::spawn(
            async move { slow.store.write_bucket(share, &upload_secret(1), 0..80, body(&pattern(0..80))).await },
        );
    gate.stored().await;
    let last = fast.store.write_bucket(share, &upload_secret(1), 80..100, body(&pattern(80..100))).await.expect("fast");
    assert!(!last.finished, "80 bytes of another write have no answer yet");
    assert_eq!(last.missing, [0..80]);
    gate.open();
    let first = writing.await.expect("the write ends").expect("slow");
    assert!(first.finished, "this one finished the share");
    assert_eq!(fast.read(ShareKind::Immutable, share).await, pattern(0..100));
    site.assert_clean(&["alice"], &[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a3_a_slot_commit_of_unknown_outcome_keeps_its_objects() {
    for (fault, expected) in [(Fault::ErrorAfter, b"second"), (Fault::ErrorBefore, b"first.")] {
        let site = Site::new().await;
        let alice = site.account("alice").await;
        let faults = Faults::new();
        let store = site.store(FaultyLeaseDb::new(site.db.clone(), faults.clone()), site.objects.clone());
        let (index, share) = (storage_index(1), share_id(1, 0));
        let write = async |bytes: &'static [u8]| {
            let request = one_share(0, replaced(bytes.len() as u64));
            store.read_test_write(&alice, index, &enabler(1), &request, &Bytes::from_static(bytes)).await
        };
        write(b"first.").await.expect("the first write");
        // Calls: read_slot, commit_slot.
        faults.begin("write", Some((1, fault)));
        let answer = write(b"second").await;
        let report = faults.end();
        assert_eq!(report.struck, Some((CallSite::Db("commit_slot"), fault)));
        assert_eq!(answer.is_ok(), fault == Fault::ErrorAfter, "our token in the row says yes: {answer:?}");
        let pod = site.pod(site.objects.clone());
        for _ in 0..3 {
            site.clock.advance(10 * DAY_SECONDS);
            pod.store.collect(|_| ()).await.expect("sweep");
        }
        assert_eq!(pod.read(ShareKind::Mutable, share).await, expected);
        site.assert_clean(&["alice"], &[1]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a3_the_last_write_of_unknown_outcome_is_answered_with_the_truth() {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let (faults, share) = (Faults::new(), share_id(1, 0));
    let store = site.store(FaultyLeaseDb::new(site.db.clone(), faults.clone()), site.objects.clone());
    let pod = site.pod(site.objects.clone());
    pod.allocate(&alice, share, 100).await;
    for (range, finished) in [(0..60, false), (60..100, true)] {
        // Calls: find_upload, record_chunks.
        faults.begin("write", Some((1, Fault::ErrorAfter)));
        let bytes = body(&pattern(range.clone()));
        let written = store.write_bucket(share, &upload_secret(1), range, bytes).await.expect("found out");
        assert_eq!(faults.end().struck, Some((CallSite::Db("record_chunks"), Fault::ErrorAfter)));
        assert_eq!(written.finished, finished, "a client that gets 200 for its last write hangs for ever");
    }
    site.clock.advance(30 * DAY_SECONDS);
    pod.store.collect(|_| ()).await.expect("sweep");
    assert_eq!(pod.read(ShareKind::Immutable, share).await, pattern(0..100));
    site.assert_clean(&["alice"], &[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a5_a_lapsed_lease_is_held_again_after_renewal_and_after_allocate() {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let (pod, share) = (site.pod(site.objects.clone()), share_id(1, 0));
    pod.upload(&alice, share, &pattern(0..100)).await;
    for by_renewal in [true, false] {
        site.clock.advance(LEASE_DURATION_SECONDS + 2 * DAY_SECONDS);
        if by_renewal {
            pod.store.renew_leases(&alice, storage_index(1)).await.expect("renewed");
        } else {
            let sets = pod.store.allocate_bucket(&alice, storage_index(1), &[], 1, &upload_secret(2)).await;
            assert_eq!(sets.expect("allocate").already_have, [share.number]);
        }
        let (_, leases) = pod.store.inspect(storage_index(1)).await.expect("inspect");
        assert!(leases[0].lease.expires_at.seconds() >= site.now() + LEASE_DURATION_SECONDS);
    }
    site.assert_clean(&["alice"], &[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a9_usage_does_not_drift_when_sizes_and_leases_change_at_once() {
    let seed = seed();
    let site = Site::new().await;
    let sessions = [site.account("alice").await, site.account("bob").await];
    let tasks = (0..6u64).map(|task| {
        let (pod, session) = (site.pod(site.objects.clone()), sessions[task as usize % 2].clone());
        let mut random = StdRng::seed_from_u64(seed + task);
        tokio::spawn(async move {
            for _ in 0..12 {
                let index = storage_index(random.random_range(0..2));
                if random.random_bool(0.4) {
                    drop(pod.store.renew_leases(&session, index).await);
                    continue;
                }
                let length = random.random_range(1..500u64);
                let vectors = if random.random_bool(0.2) { removal() } else { replaced(length) };
                let request = one_share(random.random_range(0..2), vectors);
                let payload = Bytes::from(pattern(0..length));
                match pod.store.read_test_write(&session, index, &enabler(1), &request, &payload).await {
                    Ok(_) | Err(StoreError::Busy) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("a task ends");
    }
    site.assert_clean(&["alice", "bob"], &[0, 1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a10_allocate_against_the_last_write_is_never_both() {
    let site = Site::new().await;
    let (alice, bob) = (site.account("alice").await, site.account("bob").await);
    for round in 0..15 {
        let (one, two, share) = (site.pod(site.objects.clone()), site.pod(site.objects.clone()), share_id(round, 0));
        one.allocate(&alice, share, 100).await;
        let bytes = body(&pattern(0..100));
        let writing = tokio::spawn(async move {
            one.store.write_bucket(share, &upload_secret(1), 0..100, bytes).await.expect("the whole share")
        });
        let sets = two.store.allocate_bucket(&bob, share.storage_index, &[share.number], 100, &upload_secret(2)).await;
        let sets = sets.expect("allocate");
        assert!(writing.await.expect("the write ends").finished);
        assert!(sets.allocated.is_empty());
        let (_, leases) = two.store.inspect(share.storage_index).await.expect("inspect");
        assert_eq!(leases.iter().any(|row| row.account == bob.account.id), !sets.already_have.is_empty());
    }
    let indexes: Vec<u8> = (0..15).collect();
    site.assert_clean(&["alice", "bob"], &indexes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a10_an_upload_whose_place_a_slot_took_conflicts_and_leaves_nothing() {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let (pod, share) = (site.pod(site.objects.clone()), share_id(1, 0));
    pod.allocate(&alice, share, 100).await;
    pod.write_slot(&alice, share, b"a slot").await;
    let answer = pod.store.write_bucket(share, &upload_secret(1), 0..100, body(&pattern(0..100))).await;
    assert!(matches!(answer, Err(StoreError::Conflict)), "{answer:?}");
    assert_eq!(pod.read(ShareKind::Mutable, share).await, b"a slot");
    site.assert_clean(&["alice"], &[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a12_an_abort_beside_a_write_leaves_no_chunk_and_no_object() {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let (held, gate) = Held::new(site.objects.clone());
    let (slow, fast, share) = (site.pod(held), site.pod(site.objects.clone()), share_id(1, 0));
    fast.allocate(&alice, share, 100).await;
    let bytes = body(&pattern(0..50));
    let writing = tokio::spawn(async move { slow.store.write_bucket(share, &upload_secret(1), 0..50, bytes).await });
    gate.stored().await;
    fast.store.abort_bucket(share, &upload_secret(1)).await.expect("aborted");
    fast.allocate(&alice, share, 60).await;
    gate.open();
    let late = writing.await.expect("the write ends");
    assert!(matches!(late, Err(StoreError::NotFound)), "its upload is gone: {late:?}");
    let upload = site.db.find_upload(share).await.expect("find_upload").1.expect("the second upload");
    assert!(upload.chunks.is_empty() && upload.received_bytes == 0);
    let bytes: Vec<u8> = vec![7; 60];
    let written = fast.store.write_bucket(share, &upload_secret(1), 0..60, body(&bytes)).await;
    assert!(written.expect("other data").finished);
    assert_eq!(fast.read(ShareKind::Immutable, share).await, bytes);
    site.assert_clean(&["alice"], &[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a14_an_empty_bucket_share_is_granted_and_ends_by_timeout() {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let (pod, share) = (site.pod(site.objects.clone()), share_id(1, 0));
    pod.allocate(&alice, share, 0).await;
    assert!(pod.numbers(ShareKind::Immutable, share).await.is_empty());
    site.clock.advance(IDLE_SECONDS + 1);
    assert_eq!(pod.store.collect(|_| ()).await.expect("sweep").uploads_ended, 1);
    site.assert_clean(&["alice"], &[1]).await;
}

/// What names and objects tell of a slot is what its rows say, empty shares and removals included (A14, C1).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a14_every_slot_commit_leaves_a_manifest_that_tells_all_its_shares() {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let (pod, index) = (site.pod(site.objects.clone()), storage_index(1));
    let empty = leasehold_core::slot::ShareVectors::default();
    let cut = leasehold_core::slot::ShareVectors { new_length: Some(3), ..empty.clone() };
    let steps = [(0, empty), (1, replaced(90)), (0, replaced(9)), (1, cut), (0, removal()), (1, replaced(0))];
    for (number, vectors) in steps {
        site.clock.advance(1);
        let request = one_share(number, vectors);
        let payload = Bytes::from(pattern(0..90));
        pod.store.read_test_write(&alice, index, &enabler(1), &request, &payload).await.expect("written");
        let slot = site.db.read_slot(index).await.expect("read_slot");
        let mut newest: Option<(ObjectName, u64)> = None;
        for listed in site.objects.list(&folder(index), None, 1000).await.expect("list").objects {
            let name: ObjectName = listed.name.parse().expect("one of ours");
            if newest.is_none_or(|(other, _)| other.object.made_at() < name.object.made_at()) {
                newest = Some((name, listed.length_bytes));
            }
        }
        let (name, length) = newest.expect("every commit writes an object");
        let bytes = read_all(site.objects.get(&name.key(), 0..length).await.expect("get")).await.expect("whole");
        let manifest = Manifest::decode_trailer(&bytes).expect("a manifest");
        let (token, write_enabler) = slot.slot.expect("a slot");
        assert_eq!((manifest.token, manifest.write_enabler), (token, write_enabler));
        let rows: Vec<_> = slot.shares.into_iter().map(|row| (row.number, row.size_bytes, row.locator)).collect();
        assert_eq!(manifest.shares, rows);
    }
    site.assert_clean(&["alice"], &[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b1_an_upload_that_died_is_never_a_truncated_share() {
    let site = Site::new().await;
    let (alice, bob) = (site.account("alice").await, site.account("bob").await);
    let (faults, share) = (Faults::new(), share_id(1, 0));
    let store = site.store(site.db.clone(), FaultyBackend::new(site.objects.clone(), faults.clone()));
    let pod = site.pod(site.objects.clone());
    pod.allocate(&alice, share, 100).await;
    store.write_bucket(share, &upload_secret(1), 0..40, body(&pattern(0..40))).await.expect("the first part");
    faults.begin("write", Some((0, Fault::CrashAfter)));
    let died = faults.run(store.write_bucket(share, &upload_secret(1), 40..90, body(&pattern(40..90)))).await;
    assert!(died.is_none());
    drop((faults.end(), store));
    assert!(pod.numbers(ShareKind::Immutable, share).await.is_empty());
    assert!(matches!(pod.store.stable_share(ShareKind::Immutable, share).await, Err(StoreError::NotFound)));
    let allocate = async || {
        let numbers = [share.number];
        pod.store.allocate_bucket(&bob, share.storage_index, &numbers, 100, &upload_secret(2)).await.expect("allocate")
    };
    let sets = allocate().await;
    assert!(sets.already_have.is_empty() && sets.allocated.is_empty(), "in neither set: {sets:?}");
    site.clock.advance(IDLE_SECONDS + 1);
    // The sweep also finds the object that no row ever named.
    assert_eq!(pod.store.collect(|_| ()).await.expect("sweep").uploads_ended, 1);
    assert_eq!(allocate().await.allocated, [share.number]);
    let written = pod.store.write_bucket(share, &upload_secret(2), 0..100, body(&pattern(0..100))).await;
    assert!(written.expect("the whole share").finished);
    assert_eq!(pod.read(ShareKind::Immutable, share).await, pattern(0..100));
    site.assert_clean(&["alice", "bob"], &[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b1_a_body_that_breaks_off_leaves_nothing() {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let (pod, share) = (site.pod(site.objects.clone()), share_id(1, 0));
    pod.allocate(&alice, share, 100).await;
    let broken = pod.store.write_bucket(share, &upload_secret(1), 0..100, broken_body(&pattern(0..70))).await;
    assert!(matches!(broken, Err(StoreError::BodyBroken(_))), "{broken:?}");
    let upload = site.db.find_upload(share).await.expect("find_upload").1.expect("goes on");
    assert_eq!(upload.received_bytes, 0);
    let written = pod.store.write_bucket(share, &upload_secret(1), 0..100, body(&pattern(0..100))).await;
    assert!(written.expect("the repetition").finished);
    site.assert_clean(&["alice"], &[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b3_allocate_leases_what_it_says_is_there() {
    let site = Site::new().await;
    let (alice, bob) = (site.account("alice").await, site.account("bob").await);
    let (pod, index) = (site.pod(site.objects.clone()), storage_index(1));
    pod.upload(&alice, share_id(1, 0), &pattern(0..100)).await;
    pod.upload(&alice, share_id(1, 4), &pattern(0..100)).await;
    let numbers = [share_id(1, 0).number];
    let sets = pod.store.allocate_bucket(&bob, index, &numbers, 100, &upload_secret(2)).await.expect("allocate");
    assert_eq!(sets.already_have, [share_id(1, 0).number, share_id(1, 4).number]);
    let (_, leases) = pod.store.inspect(index).await.expect("inspect");
    let bobs = leases.iter().filter(|row| row.account == bob.account.id);
    assert!(bobs.clone().all(|row| row.lease.expires_at.seconds() >= site.now() + LEASE_DURATION_SECONDS));
    assert_eq!(bobs.count(), 2);
    site.assert_clean(&["alice", "bob"], &[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b4_an_upload_outlives_the_process() {
    let mut site = Site::new().await;
    let alice = site.account("alice").await;
    let share = share_id(1, 0);
    let pod = site.pod(site.objects.clone());
    pod.allocate(&alice, share, 100).await;
    pod.store.write_bucket(share, &upload_secret(1), 0..40, body(&pattern(0..40))).await.expect("a part");
    drop(pod);
    site.reopen().await;
    let pod = site.pod(site.objects.clone());
    let written = pod.store.write_bucket(share, &upload_secret(1), 40..100, body(&pattern(40..100))).await;
    assert!(written.expect("goes on").finished);
    site.reopen().await;
    assert_eq!(site.pod(site.objects.clone()).read(ShareKind::Immutable, share).await, pattern(0..100));
    site.assert_clean(&["alice"], &[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b5_ended_uploads_and_removed_shares_leave_nothing() {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let pod = site.pod(site.objects.clone());
    for number in 0..3 {
        let share = share_id(1, number);
        pod.allocate(&alice, share, 100).await;
        pod.store.write_bucket(share, &upload_secret(1), 5..55, body(&pattern(5..55))).await.expect("a part");
    }
    pod.store.abort_bucket(share_id(1, 0), &upload_secret(1)).await.expect("aborted");
    pod.write_slot(&alice, share_id(2, 0), b"goes again").await;
    let payload = Bytes::new();
    let request = one_share(0, removal());
    pod.store.read_test_write(&alice, storage_index(2), &enabler(1), &request, &payload).await.expect("removed");
    assert_eq!(site.usage("alice").await, (0, 2 * 112), "two uploads are left");
    site.clock.advance(IDLE_SECONDS + 1);
    assert_eq!(pod.store.collect(|_| ()).await.expect("sweep").uploads_ended, 2);
    assert_eq!(site.usage("alice").await, (0, 0));
    for _ in 0..2 {
        site.clock.advance(9 * DAY_SECONDS);
        pod.store.collect(|_| ()).await.expect("sweep");
    }
    let left = site.listed("").await;
    assert!(left.is_empty(), "{left:?}");
    site.assert_clean(&["alice"], &[1, 2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b9_a_slot_write_that_dies_leaves_the_old_version_whole() {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let pod = site.pod(site.objects.clone());
    for number in 0..3 {
        pod.write_slot(&alice, share_id(1, number), b"the old version").await;
    }
    // A call on three shares makes three objects; it dies at each of them.
    for dies_at in 0..3 {
        let faults = Faults::new();
        let store = site.store(site.db.clone(), FaultyBackend::new(site.objects.clone(), faults.clone()));
        let mut request = one_share(0, replaced(7));
        for number in 1..3 {
            request.vectors.append(&mut one_share(number, replaced(7)).vectors);
        }
        faults.begin("write", Some((dies_at, Fault::CrashAfter)));
        let payload = Bytes::from_static(b"the new");
        let enabler = enabler(1);
        let write = store.read_test_write(&alice, storage_index(1), &enabler, &request, &payload);
        assert!(faults.run(write).await.is_none());
        faults.end();
        for number in 0..3 {
            assert_eq!(pod.read(ShareKind::Mutable, share_id(1, number)).await, b"the old version");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b9_a_reader_keeps_its_version_while_others_write() {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let (pod, share) = (site.pod(site.objects.clone()), share_id(1, 0));
    pod.write_slot(&alice, share, b"version one").await;
    let slice = pod.slice(ShareKind::Mutable, share).await;
    pod.write_slot(&alice, share, b"2").await;
    site.clock.advance(SUPERSEDED_GRACE_SECONDS - 1);
    pod.store.collect(|_| ()).await.expect("sweep");
    let bytes = pod.store.read_slice(&slice).await.expect("pinned");
    assert_eq!(bytes, b"version one".as_slice(), "one version for the whole response");
    site.clock.advance(2);
    pod.store.collect(|_| ()).await.expect("sweep");
    let gone = pod.store.read_slice(&slice).await;
    assert!(matches!(gone, Err(StoreError::Vanished(_))), "told, not short: {gone:?}");
    assert_eq!(pod.read(ShareKind::Mutable, share).await, b"2");
}

/// Two writers on one slot: each succeeds on what the other made of it, no write is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b9_concurrent_appends_to_one_slot_are_all_there() {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let share = share_id(1, 0);
    let writers = (0..4u64).map(|writer| {
        let (pod, alice) = (site.pod(site.objects.clone()), alice.clone());
        tokio::spawn(async move {
            for round in 0..5 {
                let write =
                    leasehold_core::slot::WriteVector { offset: (writer * 5 + round) * 3, length: 3, source: 0 };
                let vectors = leasehold_core::slot::ShareVectors { writes: vec![write], ..Default::default() };
                let payload = Bytes::from(vec![writer as u8 * 5 + round as u8 + 1; 3]);
                let request = one_share(0, vectors);
                let enabler = enabler(1);
                let written = pod.store.read_test_write(&alice, share.storage_index, &enabler, &request, &payload);
                assert!(written.await.expect("written").success);
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("a writer ends");
    }
    let expected: Vec<u8> = (1..=20).flat_map(|byte| [byte; 3]).collect();
    assert_eq!(site.pod(site.objects.clone()).read(ShareKind::Mutable, share).await, expected);
    site.assert_clean(&["alice"], &[1]).await;
}

/// An object that a row names and the backend has lost is told as such before any byte is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_whose_object_vanished_is_told_as_vanished() {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let (pod, share) = (site.pod(site.objects.clone()), share_id(1, 0));
    pod.upload(&alice, share, &pattern(0..100)).await;
    let slice = pod.slice(ShareKind::Immutable, share).await;
    let row = pod.store.stable_share(ShareKind::Immutable, share).await.expect("a row");
    let object: StoreObject = row.locator.objects()[0];
    site.objects.delete(&ObjectName::new(share, object).key()).await.expect("delete");
    assert!(matches!(pod.store.open_slice(&slice).await.map(drop), Err(StoreError::Vanished(id)) if id == share));
}
