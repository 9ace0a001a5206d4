//! Three pods over one PostgreSQL database and one S3 bucket: each goes on where another left off, and one that slept
//! comes too late (`design.md` 3.5, `review.md` A2).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use leasehold_core::account::Usage;
use leasehold_core::accountant::Session;
use leasehold_core::id::StorageIndex;
use leasehold_core::leasedb::{AccountChange, LeaseDb, NAME_FENCE_SECONDS};
use leasehold_core::share::ShareKind;
use leasehold_core::slot::{ShareVectors, WriteVector};
use leasehold_core::store::StoreError;
use leasehold_core::testing::faulty::{Fault, Faults, FaultyBackend, FaultyLeaseDb, Site as CallSite};
use leasehold_core::testing::{body, enabler, seed, share_id, storage_index, upload_secret};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::pattern;
use super::site::{Pod, Site, one_share, replaced};
use crate::ground::{Ground, Pods};

type FarPod = Pod<<Pods as Ground>::Db, <Pods as Ground>::Objects>;

async fn three(site: &Site<Pods>) -> [Arc<FarPod>; 3] {
    let pods = [site.far_pod().await, site.far_pod().await, site.far_pod().await].map(Arc::new);
    for pod in &pods {
        pod.store.refresh_space().await.expect("room is known");
    }
    pods
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_random_overlapping_writes_through_three_pods_agree_with_an_array() {
    const SIZE: u64 = 3000;
    let seed = seed();
    let site = Site::<Pods>::make().await;
    let alice = site.account("alice").await;
    let pods = three(&site).await;
    for round in 0..3u8 {
        let share = share_id(round, 0);
        pods[0].allocate(&alice, share, SIZE).await;
        let writers = (0..3u64).map(|writer| {
            let pods = pods.clone();
            let mut random = StdRng::seed_from_u64(seed + u64::from(round) * 10 + writer);
            tokio::spawn(async move {
                let (mut at, mut finished, mut turn) = (0, 0, writer as usize);
                while at < SIZE {
                    let start = at - random.random_range(0..=at.min(200));
                    let end = (at + random.random_range(1..400)).min(SIZE);
                    // Each PATCH goes to the next pod.
                    turn += 1;
                    let bytes = body(&pattern(start..end));
                    match pods[turn % 3].store.write_bucket(share, &upload_secret(1), start..end, bytes).await {
                        Ok(written) => finished += u32::from(written.finished),
                        Err(StoreError::NotFound) => break,
                        Err(error) => panic!("{error:?}"),
                    }
                    at = end;
                }
                finished
            })
        });
        let mut finished = 0;
        for writer in writers.collect::<Vec<_>>() {
            finished += writer.await.expect("a writer ends");
        }
        assert_eq!(finished, 1, "exactly one write answers 201");
        for pod in &pods {
            assert_eq!(pod.read(ShareKind::Immutable, share).await, pattern(0..SIZE));
        }
    }
    site.assert_clean(&["alice"], &[0, 1, 2]).await;
}

/// Appends by all pods to one slot: each succeeds on what the others made of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_to_one_slot_through_three_pods_are_all_there() {
    const ROUNDS: u64 = 6;
    let site = Site::<Pods>::make().await;
    let alice = site.account("alice").await;
    let pods = three(&site).await;
    let share = share_id(1, 0);
    let writers = (0..3u64).map(|writer| {
        let (pods, alice) = (pods.clone(), alice.clone());
        tokio::spawn(async move {
            for round in 0..ROUNDS {
                let at = writer * ROUNDS + round;
                let write = WriteVector { offset: at * 3, length: 3, source: 0 };
                let request = one_share(0, ShareVectors { writes: vec![write], ..ShareVectors::default() });
                let payload = Bytes::from(vec![at as u8 + 1; 3]);
                loop {
                    let store = &pods[((writer + round) % 3) as usize].store;
                    match store.read_test_write(&alice, share.storage_index, &enabler(1), &request, &payload).await {
                        Ok(written) => break assert!(written.success),
                        Err(StoreError::Busy) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("a writer ends");
    }
    let expected: Vec<u8> = (1..=3 * ROUNDS).flat_map(|byte| [byte as u8; 3]).collect();
    for pod in &pods {
        assert_eq!(pod.read(ShareKind::Mutable, share).await, expected);
    }
    site.assert_clean(&["alice"], &[1]).await;
}

/// What a sleeping pod was about to do.
#[derive(Clone, Copy, Debug)]
enum Sleeping {
    Patch,
    SlotWrite,
}

/// A pod freezes for more than an hour at one call of a write, while another pod does the same write; then it goes on.
/// False if the write makes fewer calls.
async fn sleep_at(site: &Site<Pods>, alice: &Arc<Session>, awake: &FarPod, what: Sleeping, call: usize) -> bool {
    let index = call as u8 * 2 + u8::from(matches!(what, Sleeping::Patch));
    let share = share_id(index, 0);
    let faults = Faults::new();
    let objects = FaultyBackend::new(site.ground.open_objects(), faults.clone());
    let store = site.store(FaultyLeaseDb::new(site.ground.open_db(&site.clock).await, faults.clone()), objects);
    match what {
        Sleeping::Patch => awake.allocate(alice, share, 100).await,
        Sleeping::SlotWrite => awake.write_slot(alice, share, b"before").await,
    }
    let sleeping = async || match what {
        Sleeping::Patch => {
            let written = store.write_bucket(share, &upload_secret(1), 0..60, body(&pattern(0..60))).await;
            written.map(|written| written.missing == [60..100])
        }
        Sleeping::SlotWrite => {
            let (request, payload) = (one_share(0, replaced(5)), Bytes::from_static(b"stale"));
            let written = store.read_test_write(alice, share.storage_index, &enabler(1), &request, &payload).await;
            written.map(|written| written.success)
        }
    };
    faults.begin("write", Some((call, Fault::Freeze)));
    let watching = async {
        faults.frozen().await;
        site.clock.advance(NAME_FENCE_SECONDS + 1);
        if let Sleeping::SlotWrite = what {
            awake.write_slot(alice, share, b"while it slept").await;
        }
        faults.thaw();
    };
    let mut watching = std::pin::pin!(watching);
    let mut writing = std::pin::pin!(sleeping());
    let answer = tokio::select! {
        biased;
        () = &mut watching => writing.await,
        answer = &mut writing => {
            assert!(faults.end().struck.is_none());
            answer.expect("nothing happened");
            return false;
        }
    };
    let struck = faults.end().struck.expect("it struck").0;
    match (what, struck) {
        // What was stored, or named, before the sleep is refused by the fence.
        (Sleeping::Patch, CallSite::Backend("put") | CallSite::Db("record_chunks")) => {
            assert!(matches!(answer, Err(StoreError::LeaseDb(_))), "{struck:?}: {answer:?}");
            let (_, upload) = site.db.find_upload(share).await.expect("find_upload");
            assert_eq!(upload.expect("the upload goes on").received_bytes, 0);
            let again = awake.store.write_bucket(share, &upload_secret(1), 0..100, body(&pattern(0..100))).await;
            assert!(again.expect("another pod").finished);
            assert_eq!(awake.read(ShareKind::Immutable, share).await, pattern(0..100));
        }
        // A slot write that finds another token begins again, on what there is.
        (Sleeping::SlotWrite, CallSite::Backend("put") | CallSite::Db("commit_slot")) => match answer {
            Ok(success) => {
                assert!(success);
                assert_eq!(awake.read(ShareKind::Mutable, share).await, b"stale");
            }
            Err(StoreError::LeaseDb(_)) => {
                assert_eq!(awake.read(ShareKind::Mutable, share).await, b"while it slept");
            }
            Err(error) => panic!("{struck:?}: {error:?}"),
        },
        // It slept before it had looked at anything: it is merely late.
        (_, first) => assert!(matches!(answer, Ok(true)), "{first:?}: {answer:?}"),
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_slept_for_an_hour_commits_nothing_it_stored_before() {
    let site = Site::<Pods>::make().await;
    let alice = site.account("alice").await;
    let awake = site.far_pod().await;
    let mut calls = 0;
    for what in [Sleeping::Patch, Sleeping::SlotWrite] {
        let mut call = 0;
        while sleep_at(&site, &alice, &awake, what, call).await {
            call += 1;
        }
        assert!(call >= 3, "{what:?} reads, stores and commits");
        calls += call;
    }
    println!("{calls} calls were slept at");
    let indexes: Vec<u8> = (0..calls as u8 * 2).collect();
    site.assert_clean(&["alice"], &indexes).await;
}

const QUOTA: u64 = 10_000;
const UPLOADERS: u64 = 20;
const SLOT: StorageIndex = storage_index(200);

fn held(usage: Usage) -> u64 {
    usage.used_bytes + usage.reserved_bytes
}

/// Uploads of random sizes until the account has been full for a while, some of them given up; slots that grow and
/// shrink at the edge. Whatever is refused, nothing else goes wrong.
async fn upload_at_the_edge(pod: Arc<FarPod>, session: Arc<Session>, uploader: u64, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed + uploader);
    for round in 0..6u8 {
        let size = random.random_range(1..1200u64);
        if uploader.is_multiple_of(4) {
            let number = uploader as u8 / 4;
            let request = one_share(number, replaced(size));
            let payload = Bytes::from(pattern(0..size));
            match pod.store.read_test_write(&session, SLOT, &enabler(1), &request, &payload).await {
                Ok(_) | Err(StoreError::OverQuota | StoreError::Busy) => {}
                Err(error) => panic!("{error:?}"),
            }
            continue;
        }
        let share = share_id(uploader as u8, round);
        let numbers = [share.number];
        let secret = upload_secret(1);
        let sets = pod.store.allocate_bucket(&session, share.storage_index, &numbers, size, &secret).await;
        if sets.expect("an answer").allocated.is_empty() {
            continue;
        }
        match random.random_range(0..10) {
            0..3 => pod.store.abort_bucket(share, &secret).await.expect("aborted"),
            // Left open: its room stays reserved.
            3 => {}
            _ => {
                let written = pod.store.write_bucket(share, &secret, 0..size, body(&pattern(0..size))).await;
                assert!(written.expect("what was allocated fits").finished);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_uploaders_on_three_pods_never_exceed_a_quota_by_a_byte() {
    let seed = seed();
    let site = Site::<Pods>::make().await;
    let alice = site.account("alice").await;
    let change = AccountChange { quota_bytes: Some(Some(QUOTA)), ..AccountChange::default() };
    assert!(site.db.change_account(alice.account.id, change).await.expect("change_account"));
    let pods = three(&site).await;
    let done = Arc::new(AtomicBool::new(false));
    let most = Arc::new(AtomicU64::new(0));
    let watching = {
        let (db, done, most, account) = (site.db.clone(), done.clone(), most.clone(), alice.account.id);
        tokio::spawn(async move {
            while !done.load(Ordering::SeqCst) {
                let usage = db.usage(account).await.expect("usage");
                assert!(held(usage) <= QUOTA, "{usage:?}");
                most.fetch_max(held(usage), Ordering::SeqCst);
            }
        })
    };
    let uploading = (0..UPLOADERS).map(|uploader| {
        let pod = pods[uploader as usize % 3].clone();
        tokio::spawn(upload_at_the_edge(pod, alice.clone(), uploader, seed))
    });
    for uploader in uploading.collect::<Vec<_>>() {
        uploader.await.expect("an uploader ends");
    }
    done.store(true, Ordering::SeqCst);
    watching.await.expect("never a byte over");
    let most = most.load(Ordering::SeqCst);
    assert!(most > QUOTA * 8 / 10, "they came to the edge: {most}");
    let indexes: Vec<u8> = (0..UPLOADERS as u8).chain([200]).collect();
    assert!(held(site.db.usage(alice.account.id).await.expect("usage")) <= QUOTA);
    site.assert_clean(&["alice"], &indexes).await;
}
