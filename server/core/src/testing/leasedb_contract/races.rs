//! Races: `review.md` A2, A5, A10, A12, B2, and quota at its edge. They assert outcomes, never timing.
#![allow(missing_docs, reason = "the names of the cases say it")]

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::MakeLeaseDb;
use super::bench::{Bench, sets};
use crate::bucket::{self, Chunk, Part};
use crate::chunk::{Piece, StoreObject};
use crate::id::{AccountId, ShareId};
use crate::leasedb::{AccountChange, CommitOutcome, CreateOutcome, LeaseDb, RecordOutcome, RenewOutcome};
use crate::share::ShareKind;
use crate::testing::values::{Tasks, credential, enabler, seed, share_id, storage_index};

/// Stores one range the way [`Store`](crate::store::Store) does: looks, stores what is new, records, looks again.
async fn write_range<D: LeaseDb>(
    bench: &Bench<D>,
    share: ShareId,
    range: std::ops::Range<u64>,
) -> Option<RecordOutcome> {
    loop {
        let upload = bench.db.find_upload(share).await.expect("find_upload").1?;
        let parts = bucket::split_write(&range, &upload.chunks).into_iter();
        let new = parts.filter_map(|part| if let Part::New(range) = part { Some(range) } else { None });
        let chunks = new.map(|range| {
            let piece = Piece {
                group: upload.id,
                account: upload.account,
                size_bytes: upload.size_bytes,
                offset: range.start,
                chunk: bench.id(),
            };
            Chunk { range, object: StoreObject::Piece(piece), digest: None }
        });
        let request = bench.recording(share, upload.id, upload.received_bytes, chunks.collect());
        match bench.db.record_chunks(request).await.expect("record_chunks") {
            RecordOutcome::Stale => {}
            outcome => return Some(outcome),
        }
    }
}

pub async fn overlapping_writers_make_one_whole_share<M: MakeLeaseDb>() {
    let seed = seed();
    for round in 0..6u8 {
        let bench = Arc::new(Bench::new::<M>().await);
        let alice = bench.account("alice", None).await;
        let (share, size) = (share_id(round, 0), 1000);
        bench.allocate(alice, share.storage_index, &[0], size).await;
        let finished = Arc::new(AtomicUsize::new(0));
        let tasks: Tasks = (0..4u64)
            .map(|writer| {
                let (bench, finished) = (bench.clone(), finished.clone());
                let mut random = StdRng::seed_from_u64(seed + u64::from(round) * 100 + writer);
                async move {
                    let mut at = 0;
                    while at < size {
                        // Ranges overlap what the writer, and the others, have sent before.
                        let start = at - random.random_range(0..=at.min(60));
                        let end = (at + random.random_range(1..90)).min(size);
                        match write_range(&bench, share, start..end).await {
                            Some(RecordOutcome::Finished) => drop(finished.fetch_add(1, Ordering::SeqCst)),
                            Some(RecordOutcome::Incomplete(missing)) => assert!(!missing.is_empty()),
                            None | Some(RecordOutcome::Gone) => break,
                            Some(other) => panic!("{other:?}"),
                        }
                        at = end;
                    }
                }
                .boxed()
            })
            .collect();
        M::run_all(tasks).await;
        assert_eq!(finished.load(Ordering::SeqCst), 1, "exactly one write finishes the share");
        let row = bench.db.find_share(share).await.expect("find_share").expect("finished");
        let mut at = 0;
        for extent in row.locator.extents() {
            assert_eq!(extent.range.start, at, "A2: no hole, no overlap");
            at = extent.range.end;
        }
        assert_eq!(at, size);
        bench.audit(&[alice], &[share.storage_index]).await;
    }
}

pub async fn of_two_commits_on_one_token_exactly_one_wins<M: MakeLeaseDb>() {
    let bench = Arc::new(Bench::new::<M>().await);
    let (alice, bob, index) = (bench.account("alice", None).await, bench.account("bob", None).await, storage_index(1));
    bench.slot_share(alice, share_id(1, 0), 10).await;
    for round in 0..15u64 {
        let base = bench.db.read_slot(index).await.expect("read_slot").slot.map(|(token, _)| token);
        let commits = [(alice, 100 + round), (bob, 200 + round), (alice, 300 + round)]
            .map(|(account, size)| bench.commit(account, index, base, &[(0, Some(size)), (1, Some(size))]));
        let won = Arc::new(Mutex::new(Vec::new()));
        let tasks: Tasks = commits
            .into_iter()
            .map(|commit| {
                let (bench, won) = (bench.clone(), won.clone());
                async move {
                    let (token, fresh) = (commit.token, commit.fresh.clone());
                    match bench.db.commit_slot(commit).await.expect("commit_slot") {
                        CommitOutcome::Done => won.lock().expect("lock").push((token, fresh)),
                        CommitOutcome::Conflict => {}
                        other => panic!("{other:?}"),
                    }
                }
                .boxed()
            })
            .collect();
        M::run_all(tasks).await;
        let won = std::mem::take(&mut *won.lock().expect("lock"));
        assert_eq!(won.len(), 1, "exactly one wins");
        let slot = bench.db.read_slot(index).await.expect("read_slot");
        assert_eq!(slot.slot.expect("there").0, won[0].0);
        let objects: Vec<_> = slot.shares.iter().flat_map(|row| row.locator.objects()).collect();
        assert_eq!(objects, won[0].1, "all shares of one call or none");
    }
    bench.audit(&[alice, bob], &[index]).await;
}

pub async fn of_two_enablers_exactly_one_makes_the_slot<M: MakeLeaseDb>() {
    let bench = Arc::new(Bench::new::<M>().await);
    let (alice, bob) = (bench.account("alice", None).await, bench.account("bob", None).await);
    for round in 0..10u8 {
        let index = storage_index(round);
        let won = Arc::new(Mutex::new(Vec::new()));
        let tasks: Tasks = [(alice, 1), (bob, 2)]
            .into_iter()
            .map(|(account, number)| {
                let (bench, won) = (bench.clone(), won.clone());
                let mut commit = bench.commit(account, index, None, &[(number, Some(10))]);
                commit.write_enabler = enabler(number).hash();
                async move {
                    if bench.db.commit_slot(commit).await.expect("commit_slot") == CommitOutcome::Done {
                        won.lock().expect("lock").push(number);
                    }
                }
                .boxed()
            })
            .collect();
        M::run_all(tasks).await;
        let won = std::mem::take(&mut *won.lock().expect("lock"));
        assert_eq!(won.len(), 1, "exactly one wins");
        let slot = bench.db.read_slot(index).await.expect("read_slot");
        assert_eq!(slot.slot.expect("there").1, enabler(won[0]).hash());
        assert_eq!(bench.numbers(ShareKind::Mutable, index).await, [won[0]]);
    }
}

pub async fn quota_is_never_exceeded_at_its_edge<M: MakeLeaseDb>() {
    const QUOTA: u64 = 7 * 100 + 50;
    let bench = Arc::new(Bench::new::<M>().await);
    let alice = bench.account("alice", Some(QUOTA)).await;
    let most = Arc::new(AtomicU64::new(0));
    let tasks: Tasks = (0..20u8)
        .map(|uploader| {
            let (bench, most) = (bench.clone(), most.clone());
            async move {
                for round in 0..3 {
                    let share = share_id(uploader, round);
                    let (_, allocated) = bench.allocate(alice, share.storage_index, &[round], 88).await;
                    let usage = bench.usage(alice).await;
                    most.fetch_max(usage.used_bytes + usage.reserved_bytes, Ordering::SeqCst);
                    if allocated.is_empty() {
                        continue;
                    }
                    if uploader % 2 == 0 {
                        assert_eq!(write_range(&bench, share, 0..88).await, Some(RecordOutcome::Finished));
                    } else {
                        let upload = bench.upload_id(share).await;
                        assert!(bench.db.end_upload(share, upload, Vec::new(), false).await.expect("end_upload"));
                    }
                }
            }
            .boxed()
        })
        .collect();
    M::run_all(tasks).await;
    let most = most.load(Ordering::SeqCst);
    assert!(most <= QUOTA, "{most} of {QUOTA} bytes: not a byte over");
    bench.allocate(alice, storage_index(50), &[0, 1, 2, 3, 4, 5, 6, 7, 8], 88).await;
    let usage = bench.usage(alice).await;
    assert_eq!(usage.used_bytes + usage.reserved_bytes, 700, "and what fits is granted");
    let indexes: Vec<_> = (0..20).chain([50]).map(storage_index).collect();
    bench.audit(&[alice], &indexes).await;
}

pub async fn allocate_against_commit_is_never_both<M: MakeLeaseDb>() {
    let bench = Arc::new(Bench::new::<M>().await);
    let (alice, bob) = (bench.account("alice", None).await, bench.account("bob", None).await);
    for round in 0..20u8 {
        let share = share_id(round, 0);
        bench.allocate(alice, share.storage_index, &[0], 88).await;
        let answer = Arc::new(Mutex::new(None));
        let commit = {
            let bench = bench.clone();
            async move { assert_eq!(write_range(&bench, share, 0..88).await, Some(RecordOutcome::Finished)) }.boxed()
        };
        let allocate = {
            let (bench, answer) = (bench.clone(), answer.clone());
            let request = bench.request(bob, share.storage_index, &[0], 88);
            async move {
                let outcome = bench.db.allocate(request).await.expect("allocate");
                *answer.lock().expect("lock") = Some(sets(outcome));
            }
            .boxed()
        };
        M::run_all(vec![commit, allocate]).await;
        let (already, allocated) = answer.lock().expect("lock").take().expect("answered");
        assert!(allocated.is_empty(), "A10: the number was never free");
        assert_eq!(bench.lease(share, bob).await.is_some(), already == [0], "already have means leased");
        let indexes: Vec<_> = (0..=round).map(storage_index).collect();
        bench.audit(&[alice, bob], &indexes).await;
    }
}

pub async fn abort_against_record_leaves_no_chunk<M: MakeLeaseDb>() {
    let bench = Arc::new(Bench::new::<M>().await);
    let alice = bench.account("alice", None).await;
    for round in 0..20u8 {
        let share = share_id(round, 0);
        bench.allocate(alice, share.storage_index, &[0], 88).await;
        let upload = bench.upload_id(share).await;
        let end = if round % 2 == 0 { 88 } else { 40 };
        let record = {
            let bench = bench.clone();
            async move { drop(write_range(&bench, share, 0..end).await) }.boxed()
        };
        let abort = {
            let bench = bench.clone();
            async move {
                bench.db.end_upload(share, upload, Vec::new(), false).await.expect("end_upload");
            }
            .boxed()
        };
        M::run_all(vec![record, abort]).await;
        assert!(bench.db.find_upload(share).await.expect("find_upload").1.is_none());
        let (already, allocated) = bench.allocate(alice, share.storage_index, &[0], 50).await;
        assert_eq!(already.len() + allocated.len(), 1);
        if allocated == [0] {
            let again = bench.db.find_upload(share).await.expect("find_upload").1.expect("begun");
            assert!(again.chunks.is_empty() && again.received_bytes == 0, "A12: a chunk row was left");
            assert_eq!(bench.record(share, 0..50).await.0, RecordOutcome::Finished);
        }
    }
    bench.audit(&[alice], &(0..20).map(storage_index).collect::<Vec<_>>()).await;
}

pub async fn renewal_against_removal_never_lies<M: MakeLeaseDb>() {
    let bench = Arc::new(Bench::new::<M>().await);
    let (alice, bob, index) = (bench.account("alice", None).await, bench.account("bob", None).await, storage_index(1));
    for _ in 0..15 {
        bench.slot_share(alice, share_id(1, 0), 10).await;
        bench.slot_share(alice, share_id(1, 1), 10).await;
        let outcome = Arc::new(Mutex::new(None));
        let renew = {
            let (bench, outcome) = (bench.clone(), outcome.clone());
            async move { *outcome.lock().expect("lock") = Some(bench.db.renew_leases(index, bob).await.expect("renew")) }
                .boxed()
        };
        let (remover, resizer) = (bench.clone(), bench.clone());
        let remove = async move { drop(remover.write(alice, index, &[(0, None)]).await) }.boxed();
        let resize = async move { drop(resizer.write(alice, index, &[(1, Some(500))]).await) }.boxed();
        M::run_all(vec![renew, remove, resize]).await;
        assert_eq!(outcome.lock().expect("lock").take(), Some(RenewOutcome::Done), "share 1 was always there");
        for number in bench.numbers(ShareKind::Mutable, index).await {
            let leased = bench.lease(share_id(1, number), bob).await.is_some();
            assert!(leased, "A5: yes was said of share {number}");
        }
        bench.audit(&[alice, bob], &[index]).await;
    }
}

pub async fn one_name_is_given_to_one_account<M: MakeLeaseDb>() {
    let bench = Arc::new(Bench::new::<M>().await);
    let made: Arc<Mutex<Vec<AccountId>>> = Arc::default();
    let tasks: Tasks = (0..8)
        .map(|number| {
            let (bench, made) = (bench.clone(), made.clone());
            async move {
                let secret = credential(&number.to_string());
                let created = bench.db.create_account("alice".to_owned(), AccountChange::default(), secret).await;
                if let CreateOutcome::Created(account) = created.expect("create_account") {
                    made.lock().expect("lock").push(account.id);
                }
            }
            .boxed()
        })
        .collect();
    M::run_all(tasks).await;
    assert_eq!(made.lock().expect("lock").len(), 1);
}
