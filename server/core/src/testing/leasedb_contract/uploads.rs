//! Uploads: `gbs.md` 8.1 to 8.4, `review.md` A2, A10, A12.
#![allow(missing_docs, reason = "the names of the cases say it")]
#![allow(clippy::single_range_in_vec_init, reason = "a list of ranges may have one")]

use super::MakeLeaseDb;
use super::bench::{Bench, IDLE_SECONDS, sets};
use crate::account::{AccountState, Usage};
use crate::bucket::Chunk;
use crate::chunk::StoreObject;
use crate::clock::{Clock, Timestamp};
use crate::expiry::Amount;
use crate::lease::LEASE_DURATION_SECONDS;
use crate::leasedb::{AccountChange, Allocate, AllocateOutcome, CommitOutcome, LeaseDb, RecordOutcome};
use crate::share::{ShareKind, ShareState};
use crate::testing::values::{share_id, storage_index};
use crate::tub::{TubConnection, TubId};

pub async fn an_upload_becomes_a_leased_share_when_nothing_is_missing<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index, share) = (bench.account("alice", None).await, storage_index(1), share_id(1, 3));
    assert_eq!(bench.allocate(alice, index, &[3], 100).await, (vec![], vec![3]));
    let (now, upload) = bench.db.find_upload(share).await.expect("find_upload");
    let upload = upload.expect("begun");
    assert_eq!((upload.share, upload.account, upload.size_bytes, upload.received_bytes), (share, alice, 100, 0));
    assert_eq!(upload.deadline.seconds(), now.seconds() + IDLE_SECONDS);
    assert_eq!(bench.usage(alice).await, Usage { used_bytes: 0, reserved_bytes: 112, shares: 0 });

    let (outcome, _) = bench.record(share, 60..100).await;
    assert_eq!(outcome, RecordOutcome::Incomplete(vec![0..60]));
    let (outcome, _) = bench.record(share, 10..20).await;
    assert_eq!(outcome, RecordOutcome::Incomplete(vec![0..10, 20..60]));
    let upload = bench.db.find_upload(share).await.expect("find_upload").1.expect("still open");
    assert_eq!(upload.received_bytes, 50);
    assert_eq!(upload.chunks.iter().map(|c| c.range.clone()).collect::<Vec<_>>(), [10..20, 60..100]);
    assert_eq!(upload.chunks[0].digest, Some([9; 32]));
    assert!(bench.db.list_shares(index).await.expect("list_shares").is_empty(), "coming shares are not listed");
    assert!(bench.lease(share, alice).await.is_none());

    bench.record(share, 0..10).await;
    let (outcome, _) = bench.record(share, 20..60).await;
    assert_eq!(outcome, RecordOutcome::Finished);
    assert!(bench.db.find_upload(share).await.expect("find_upload").1.is_none());
    let row = bench.db.find_share(share).await.expect("find_share").expect("there");
    assert_eq!((row.kind, row.state, row.size_bytes), (ShareKind::Immutable, ShareState::Stable, 100));
    let ranges: Vec<_> = row.locator.extents().iter().map(|extent| extent.range.clone()).collect();
    assert_eq!(ranges, [0..10, 10..20, 20..60, 60..100]);
    assert_eq!(bench.numbers(ShareKind::Immutable, index).await, [3]);
    assert!(bench.numbers(ShareKind::Mutable, index).await.is_empty());
    assert_eq!(bench.usage(alice).await, Usage { used_bytes: 112, reserved_bytes: 0, shares: 1 });
    let lease = bench.lease(share, alice).await.expect("leased by the commit").lease;
    assert!(lease.expires_at.seconds() >= now.seconds() + LEASE_DURATION_SECONDS);
}

pub async fn already_have_includes_shares_not_asked_for<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bob, index) = (bench.account("alice", None).await, bench.account("bob", None).await, storage_index(1));
    bench.bucket_share(alice, share_id(1, 0), 100).await;
    bench.bucket_share(alice, share_id(1, 5), 100).await;
    assert_eq!(bench.allocate(bob, index, &[5, 7], 100).await, (vec![0, 5], vec![7]));
    for number in [0, 5] {
        assert!(bench.lease(share_id(1, number), bob).await.is_some(), "B-3: who is told a share is there leases it");
    }
    assert_eq!(bench.usage(bob).await, Usage { used_bytes: 224, reserved_bytes: 112, shares: 2 });
    assert_eq!(bench.usage(alice).await, Usage { used_bytes: 224, reserved_bytes: 0, shares: 2 });
    assert_eq!(bench.allocate(bob, index, &[], 100).await.0, [0, 5], "without asking for any");
    bench.audit(&[alice, bob], &[index]).await;
}

pub async fn a_share_in_upload_is_in_neither_set<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bob, index) = (bench.account("alice", None).await, bench.account("bob", None).await, storage_index(1));
    assert_eq!(bench.allocate(alice, index, &[0, 1], 100).await, (vec![], vec![0, 1]));
    assert_eq!(
        bench.allocate(alice, index, &[0, 1, 2], 100).await,
        (vec![], vec![2]),
        "the same secret changes nothing"
    );
    assert_eq!(bench.allocate(bob, index, &[0, 1, 3], 50).await, (vec![], vec![3]));
    let upload = bench.db.find_upload(share_id(1, 0)).await.expect("find_upload").1.expect("open");
    assert_eq!((upload.account, upload.size_bytes), (alice, 100));
    bench.audit(&[alice, bob], &[index]).await;
}

pub async fn an_overdue_upload_is_taken_over_at_once<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bob, index) = (bench.account("alice", None).await, bench.account("bob", None).await, storage_index(1));
    let share = share_id(1, 0);
    bench.allocate(alice, index, &[0], 100).await;
    let (_, old_name) = bench.record(share, 0..40).await;
    let (old_id, _, old_chunk) = bench.chunk(share, 40..100).await;
    bench.clock.advance(IDLE_SECONDS - 1);
    assert_eq!(bench.allocate(bob, index, &[0], 60).await, (vec![], vec![]), "not yet overdue");
    bench.clock.advance(2);
    assert_eq!(bench.allocate(bob, index, &[0], 60).await, (vec![], vec![0]));
    let upload = bench.db.find_upload(share).await.expect("find_upload").1.expect("open");
    assert_eq!((upload.account, upload.size_bytes, upload.received_bytes), (bob, 60, 0));
    assert!(upload.chunks.is_empty());
    assert_ne!(upload.id, old_id);
    assert_eq!(bench.usage(alice).await, Usage::default(), "what was reserved is free");
    let late = bench.record_raw(share, old_id, 40, vec![old_chunk]).await.expect("record_chunks");
    assert_eq!(late, RecordOutcome::Gone);
    assert!(!bench.db.end_upload(share, old_id, Vec::new(), false).await.expect("end_upload"));
    bench.clock.advance(8 * 86_400);
    assert!(bench.take_garbage().await.contains(&old_name));
    bench.audit(&[alice, bob], &[index]).await;
}

pub async fn what_does_not_fit_the_quota_is_in_neither_set<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index) = (bench.account("alice", Some(300)).await, storage_index(1));
    // A share of 88 bytes costs 100.
    let (already, allocated) = bench.allocate(alice, index, &[0, 1, 2, 3, 4], 88).await;
    assert_eq!((already.len(), allocated.len()), (0, 3));
    assert_eq!(bench.usage(alice).await.reserved_bytes, 300);
    assert_eq!(bench.db.open_uploads().await.expect("open_uploads"), Amount { count: 3, bytes: 300 });
    assert_eq!(bench.allocate(alice, storage_index(2), &[0], 1).await, (vec![], vec![]));
    let is_over = async |index, numbers: &[u8]| {
        let outcome = bench.db.allocate(bench.request(alice, index, numbers, 88)).await.expect("allocate");
        matches!(outcome, AllocateOutcome::Done { over_quota: true, .. })
    };
    assert!(is_over(storage_index(2), &[0]).await, "it is said that the quota is why");
    assert!(!is_over(index, &[0, 1, 2]).await, "of what is in upload it is not");
    let share = share_id(1, allocated[0]);
    let upload = bench.upload_id(share).await;
    assert!(bench.db.end_upload(share, upload, Vec::new(), false).await.expect("end_upload"));
    assert_eq!(bench.allocate(alice, storage_index(2), &[0], 88).await, (vec![], vec![0]), "the space is free again");
    let unlimited = AccountChange { quota_bytes: Some(None), ..AccountChange::default() };
    bench.set(alice, unlimited).await;
    assert_eq!(bench.allocate(alice, storage_index(3), &[0], 1 << 40).await, (vec![], vec![0]));
}

pub async fn room_in_the_backend_counts_open_uploads<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bob) = (bench.account("alice", None).await, bench.account("bob", None).await);
    let room = |account, index, numbers: &[u8], size| {
        let request = bench.request(account, storage_index(index), numbers, size);
        Allocate { backend_available_bytes: 10_000, ..request }
    };
    let (_, first) = sets(bench.db.allocate(room(alice, 1, &[0, 1, 2], 4000)).await.expect("allocate"));
    assert_eq!(first.len(), 2, "each share granted takes its size from what remains");
    let (_, second) = sets(bench.db.allocate(room(bob, 2, &[0], 4000)).await.expect("allocate"));
    assert!(second.is_empty(), "uploads of everybody count");
    let (_, third) = sets(bench.db.allocate(room(bob, 2, &[0], 1000)).await.expect("allocate"));
    assert_eq!(third, [0]);
}

pub async fn a_first_lease_that_does_not_fit_is_not_claimed<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bob, index) =
        (bench.account("alice", None).await, bench.account("bob", Some(150)).await, storage_index(1));
    bench.bucket_share(alice, share_id(1, 0), 88).await;
    bench.bucket_share(alice, share_id(1, 1), 88).await;
    let (already, allocated) = bench.allocate(bob, index, &[0, 1, 2], 88).await;
    assert_eq!((already.len(), allocated.len()), (1, 0), "one lease of 100 bytes fits, nothing else does");
    assert_eq!(bench.usage(bob).await, Usage { used_bytes: 100, reserved_bytes: 0, shares: 1 });
    assert!(bench.lease(share_id(1, already[0]), bob).await.is_some());
    assert!(bench.lease(share_id(1, 1 - already[0]), bob).await.is_none());
    let none = AccountChange { quota_bytes: Some(Some(0)), ..AccountChange::default() };
    bench.set(bob, none).await;
    assert_eq!(bench.allocate(bob, index, &[0, 1], 88).await, (already, vec![]), "a held lease needs no quota");
    bench.audit(&[alice, bob], &[index]).await;
}

pub async fn account_states_decide_what_allocate_may_do<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bob, index) = (bench.account("alice", None).await, bench.account("bob", None).await, storage_index(1));
    bench.bucket_share(alice, share_id(1, 0), 88).await;
    let state = |state| AccountChange { state: Some(state), ..AccountChange::default() };
    bench.set(bob, state(AccountState::Suspended)).await;
    let refused = bench.db.allocate(bench.request(bob, index, &[0, 1], 88)).await.expect("allocate");
    assert_eq!(refused, AllocateOutcome::Refused(AccountState::Suspended));
    assert!(bench.lease(share_id(1, 0), bob).await.is_none());
    bench.set(bob, state(AccountState::ReadOnly)).await;
    assert_eq!(bench.allocate(bob, index, &[0, 1], 88).await, (vec![0], vec![]), "leases, but no new bytes");
    assert!(bench.lease(share_id(1, 0), bob).await.is_some());
    assert!(bench.db.close_account(bob, None).await.expect("close_account"));
    let refused = bench.db.allocate(bench.request(bob, index, &[0, 1], 88)).await.expect("allocate");
    assert_eq!(refused, AllocateOutcome::Refused(AccountState::Closed));
    bench.audit(&[alice, bob], &[index]).await;
}

pub async fn a_stale_record_changes_nothing<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index, share) = (bench.account("alice", None).await, storage_index(1), share_id(1, 0));
    bench.allocate(alice, index, &[0], 100).await;
    let (upload, seen, slow) = bench.chunk(share, 40..80).await;
    bench.record(share, 0..60).await;
    let outcome = bench.record_raw(share, upload, seen, vec![slow]).await.expect("record_chunks");
    assert_eq!(outcome, RecordOutcome::Stale, "A2: both saw nothing received");
    let now = bench.db.find_upload(share).await.expect("find_upload").1.expect("open");
    assert_eq!((now.received_bytes, now.chunks.len()), (60, 1));
    let (_, seen, rest) = bench.chunk(share, 60..80).await;
    let outcome = bench.record_raw(share, upload, seen, vec![rest]).await.expect("record_chunks");
    assert_eq!(outcome, RecordOutcome::Incomplete(vec![80..100]));
}

pub async fn recording_extends_the_deadline_even_when_nothing_is_new<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index, share) = (bench.account("alice", None).await, storage_index(1), share_id(1, 0));
    bench.allocate(alice, index, &[0], 100).await;
    let deadline = async || {
        let (now, upload) = bench.db.find_upload(share).await.expect("find_upload");
        upload.expect("open").deadline.seconds() - now.seconds()
    };
    bench.clock.advance(600);
    assert_eq!(deadline().await, IDLE_SECONDS - 600);
    bench.record(share, 0..10).await;
    assert_eq!(deadline().await, IDLE_SECONDS);
    bench.clock.advance(600);
    let upload = bench.upload_id(share).await;
    let outcome = bench.record_raw(share, upload, 10, Vec::new()).await.expect("record_chunks");
    assert_eq!(outcome, RecordOutcome::Incomplete(vec![10..100]));
    assert_eq!(deadline().await, IDLE_SECONDS, "a repeated write is a sign of life");
}

pub async fn overlapping_chunks_never_publish_a_share_with_a_hole<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index, share) = (bench.account("alice", None).await, storage_index(1), share_id(1, 0));
    bench.allocate(alice, index, &[0], 100).await;
    bench.record(share, 0..60).await;
    // A caller that did not compare: 60 + 40 bytes make 100, and 80..100 never came.
    let (upload, seen, overlapping) = bench.chunk(share, 40..80).await;
    let answer = bench.record_raw(share, upload, seen, vec![overlapping]).await;
    let harmless = matches!(&answer, Err(_) | Ok(RecordOutcome::Stale | RecordOutcome::Incomplete(_)));
    assert!(harmless, "{answer:?}");
    assert!(bench.db.find_share(share).await.expect("find_share").is_none());
}

pub async fn an_ended_upload_leaves_no_chunks_behind<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index, share) = (bench.account("alice", None).await, storage_index(1), share_id(1, 0));
    bench.allocate(alice, index, &[0], 100).await;
    bench.record(share, 0..40).await;
    let (upload, seen, late) = bench.chunk(share, 40..100).await;
    assert!(bench.db.end_upload(share, upload, Vec::new(), false).await.expect("end_upload"));
    assert!(!bench.db.end_upload(share, upload, Vec::new(), false).await.expect("end_upload"), "it is gone");
    assert_eq!(bench.usage(alice).await, Usage::default());
    assert!(bench.db.find_upload(share).await.expect("find_upload").1.is_none());
    let outcome = bench.record_raw(share, upload, seen, vec![late]).await.expect("record_chunks");
    assert_eq!(outcome, RecordOutcome::Gone);
    assert_eq!(bench.allocate(alice, index, &[0], 70).await, (vec![], vec![0]));
    let again = bench.db.find_upload(share).await.expect("find_upload").1.expect("open");
    assert_eq!((again.received_bytes, again.chunks.len(), again.size_bytes), (0, 0, 70));
    assert_eq!(bench.record(share, 0..70).await.0, RecordOutcome::Finished);
}

pub async fn only_overdue_uploads_are_ended_or_listed_as_such<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index) = (bench.account("alice", None).await, storage_index(1));
    bench.allocate(alice, index, &[0, 1, 2], 100).await;
    bench.clock.advance(IDLE_SECONDS - 10);
    bench.allocate(alice, index, &[3], 100).await;
    let (share, young) = (share_id(1, 0), share_id(1, 3));
    let (id, young_id) = (bench.upload_id(share).await, bench.upload_id(young).await);
    assert!(bench.db.overdue_uploads(10).await.expect("overdue_uploads").is_empty());
    assert!(!bench.db.end_upload(share, id, Vec::new(), true).await.expect("end_upload"), "not overdue");
    bench.clock.advance(20);
    let overdue = bench.db.overdue_uploads(10).await.expect("overdue_uploads");
    assert_eq!(overdue.len(), 3);
    assert!(overdue.contains(&(share, id)));
    assert_eq!(bench.db.overdue_uploads(2).await.expect("overdue_uploads").len(), 2, "at most so many");
    assert!(!bench.db.end_upload(young, young_id, Vec::new(), true).await.expect("end_upload"));
    assert!(bench.db.end_upload(share, id, Vec::new(), true).await.expect("end_upload"));
    assert_eq!(bench.db.overdue_uploads(10).await.expect("overdue_uploads").len(), 2);
    bench.audit(&[alice], &[index]).await;
}

pub async fn a_chunk_of_an_old_object_is_refused<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index, share) = (bench.account("alice", None).await, storage_index(1), share_id(1, 0));
    let mut request = bench.request(alice, index, &[0], 100);
    request.idle_seconds = 10 * 86_400;
    sets(bench.db.allocate(request).await.expect("allocate"));
    let (upload, seen, slept) = bench.chunk(share, 0..100).await;
    bench.clock.advance(crate::leasedb::NAME_FENCE_SECONDS + 1);
    let answer = bench.record_raw(share, upload, seen, vec![slept]).await;
    let refused = !matches!(answer, Ok(RecordOutcome::Finished | RecordOutcome::Incomplete(_)));
    assert!(refused, "an object of more than an hour may have been collected: {answer:?}");
    assert!(bench.db.find_share(share).await.expect("find_share").is_none());
    // The upload may last for days; the fence is on the object.
    assert_eq!(bench.record(share, 0..100).await.0, RecordOutcome::Finished);
}

pub async fn a_slot_takes_no_uploads<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index) = (bench.account("alice", None).await, storage_index(1));
    bench.slot_share(alice, share_id(1, 0), 50).await;
    let (already, allocated) = bench.allocate(alice, index, &[0, 1], 100).await;
    assert!(already.is_empty() && allocated.is_empty(), "to a bucket a mutable share does not exist: {already:?}");
    let row = bench.db.find_share(share_id(1, 0)).await.expect("find_share").expect("there");
    assert_eq!((row.kind, row.size_bytes), (ShareKind::Mutable, 50));
    bench.audit(&[alice], &[index]).await;
}

pub async fn an_upload_never_joins_a_slot<M: MakeLeaseDb>() {
    for number in [0, 1] {
        let bench = Bench::new::<M>().await;
        let (alice, index, share) = (bench.account("alice", None).await, storage_index(1), share_id(1, number));
        bench.allocate(alice, index, &[0, 1], 100).await;
        let (committed, _) = bench.write(alice, index, &[(0, Some(50))]).await;
        let (upload, seen, chunk) = bench.chunk(share, 0..100).await;
        let recorded = bench.record_raw(share, upload, seen, vec![chunk.clone()]).await.expect("record_chunks");
        match (committed, recorded) {
            (CommitOutcome::Conflict, RecordOutcome::Finished) => {
                assert_eq!(bench.numbers(ShareKind::Immutable, index).await, [number]);
            }
            (CommitOutcome::Done, RecordOutcome::Displaced { same: false }) => {
                assert_eq!(bench.numbers(ShareKind::Mutable, index).await, [0]);
                assert!(bench.db.find_upload(share).await.expect("find_upload").1.is_none());
                bench.clock.advance(8 * 86_400);
                let name = crate::chunk::ObjectName::new(share, chunk.object);
                assert!(bench.take_garbage().await.contains(&name));
            }
            other => panic!("A10: {other:?}"),
        }
        bench.audit(&[alice], &[index]).await;
    }
}

pub async fn an_empty_share_is_finished_by_an_empty_object<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index, share) = (bench.account("alice", None).await, storage_index(1), share_id(1, 0));
    assert_eq!(bench.allocate(alice, index, &[0], 0).await, (vec![], vec![0]));
    assert!(bench.db.find_share(share).await.expect("find_share").is_none());
    let id = bench.upload_id(share).await;
    let none = bench.record_raw(share, id, 0, Vec::new()).await;
    assert!(none.is_err(), "nothing could be rebuilt of a share without an object: {none:?}");
    let object = StoreObject::Whole { upload: id, account: alice, put: bench.id() };
    let empty = Chunk { range: 0..0, object, digest: None };
    let outcome = bench.record_raw(share, id, 0, vec![empty]).await.expect("record_chunks");
    assert_eq!(outcome, RecordOutcome::Finished);
    let row = bench.db.find_share(share).await.expect("find_share").expect("there");
    assert_eq!((row.size_bytes, row.locator.objects()), (0, vec![object]));
    assert_eq!(bench.usage(alice).await, Usage { used_bytes: 12, reserved_bytes: 0, shares: 1 });

    bench.allocate(alice, storage_index(2), &[0], 0).await;
    bench.clock.set(Timestamp::from_seconds(bench.clock.now().seconds() + IDLE_SECONDS + 1));
    assert_eq!(bench.db.overdue_uploads(10).await.expect("overdue_uploads").len(), 1);
}

pub async fn what_other_connections_of_a_tub_began_is_abandoned<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bob) = (bench.account("alice", None).await, bench.account("bob", None).await);
    let connection = |tub: u8, id: u8| TubConnection::new(TubId([tub; 20]), "0123456789abcdef", [id; 16]);
    let begin = |account, index, numbers: &[u8], connection| {
        let request = Allocate { connection, ..bench.request(account, storage_index(index), numbers, 100) };
        let db = bench.db.clone();
        async move { sets(db.allocate(request).await.expect("allocate")).1 }
    };
    assert_eq!(begin(alice, 1, &[0, 1], Some(connection(1, 1))).await, [0, 1]);
    assert_eq!(begin(bob, 2, &[0], Some(connection(1, 1))).await, [0]);
    assert_eq!(begin(alice, 3, &[0], Some(connection(1, 2))).await, [0]);
    assert_eq!(begin(alice, 4, &[0], Some(connection(2, 1))).await, [0]);
    assert_eq!(begin(alice, 5, &[0], None).await, [0]);
    let abandoned = |tub, id, max| bench.db.abandoned_uploads(connection(tub, id), max);
    let mut left = abandoned(1, 2, 10).await.expect("abandoned_uploads");
    left.sort_unstable();
    let shares: Vec<_> = left.iter().map(|(share, _)| *share).collect();
    assert_eq!(
        shares,
        [share_id(1, 0), share_id(1, 1), share_id(2, 0)],
        "of any account, of no other Tub, not its own"
    );
    assert_eq!(abandoned(1, 2, 2).await.expect("abandoned_uploads").len(), 2, "bounded");
    assert_eq!(abandoned(1, 3, 10).await.expect("abandoned_uploads").len(), 4);
    for (share, upload) in left {
        assert!(bench.db.end_upload(share, upload, Vec::new(), false).await.expect("end_upload"));
    }
    assert!(abandoned(1, 2, 10).await.expect("abandoned_uploads").is_empty());
    let indexes: Vec<_> = (1..6).map(storage_index).collect();
    bench.audit(&[alice, bob], &indexes).await;
}
