//! Garbage: `design.md` 5 R2 and R4, `review.md` A3, A7 (R9), A12.
#![allow(missing_docs, reason = "the names of the cases say it")]

use std::collections::HashSet;

use super::MakeLeaseDb;
use super::bench::{Bench, FIRST_EPOCH, IDLE_SECONDS, commit_names};
use crate::chunk::{ObjectName, StoreObject};
use crate::leasedb::{CommitOutcome, LeaseDb, RecordOutcome, SUPERSEDED_GRACE_SECONDS, UNDO_SECONDS};
use crate::testing::values::{share_id, storage_index};

pub async fn superseded_objects_wait_for_readers<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, share) = (bench.account("alice", None).await, share_id(1, 0));
    let old = bench.slot_share(alice, share, 100).await;
    let new = bench.slot_share(alice, share, 100).await;
    assert!(bench.take_garbage().await.is_empty());
    bench.clock.advance(SUPERSEDED_GRACE_SECONDS - 1);
    assert!(bench.take_garbage().await.is_empty(), "readers may still be at it");
    bench.clock.advance(2);
    assert_eq!(bench.take_garbage().await, [old]);
    bench.clock.advance(30 * 86_400);
    assert!(!bench.take_garbage().await.contains(&new));
}

pub async fn removed_shares_can_be_undone_for_a_week<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index) = (bench.account("alice", None).await, storage_index(1));
    let (outcome, names) = bench.write(alice, index, &[(0, Some(100)), (1, Some(100))]).await;
    assert_eq!(outcome, CommitOutcome::Done);
    assert_eq!(bench.write(alice, index, &[(0, None)]).await.0, CommitOutcome::Done);
    bench.clock.advance(UNDO_SECONDS - 1);
    assert!(bench.take_garbage().await.is_empty());
    assert_eq!(bench.write(alice, index, &[(1, None)]).await.0, CommitOutcome::Done);
    bench.clock.advance(2);
    assert_eq!(bench.take_garbage().await, [names[0]]);
    bench.clock.advance(UNDO_SECONDS);
    assert_eq!(bench.take_garbage().await, [names[1]]);
}

pub async fn aborted_uploads_and_their_strays_are_garbage_soon<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, share) = (bench.account("alice", None).await, share_id(1, 0));
    for overdue in [false, true] {
        bench.allocate(alice, storage_index(1), &[0], 100).await;
        let (_, first) = bench.record(share, 0..30).await;
        let (_, second) = bench.record(share, 60..100).await;
        let (upload, _, stray) = bench.chunk(share, 30..60).await;
        if overdue {
            bench.clock.advance(IDLE_SECONDS + 1);
        }
        // A listing finds the recorded objects as well: they are named once.
        let strays = vec![stray.object, first.object];
        assert!(bench.db.end_upload(share, upload, strays, overdue).await.expect("end_upload"));
        bench.clock.advance(3600);
        let names = bench.take_garbage().await;
        let expected = HashSet::from([first, second, ObjectName::new(share, stray.object)]);
        assert_eq!(names.len(), 3, "each object once: {names:?}");
        assert_eq!(names.into_iter().collect::<HashSet<_>>(), expected);
    }
}

pub async fn claims_lapse_and_finished_rows_are_done_for<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, share) = (bench.account("alice", None).await, share_id(1, 0));
    let old = bench.slot_share(alice, share, 100).await;
    bench.slot_share(alice, share, 100).await;
    bench.clock.advance(SUPERSEDED_GRACE_SECONDS + 1);
    let claim = async || bench.db.claim_garbage(FIRST_EPOCH, 10, 300).await.expect("claim_garbage");
    let first = claim().await;
    assert_eq!(first.iter().flat_map(|row| row.objects.clone()).collect::<Vec<_>>(), [old]);
    bench.clock.advance(299);
    assert!(claim().await.is_empty(), "claimed by somebody else");
    bench.clock.advance(2);
    let second = claim().await;
    assert_eq!(second.len(), 1, "the claim has lapsed");
    assert_eq!(second[0].id, first[0].id);
    bench.db.finish_garbage(vec![second[0].id]).await.expect("finish_garbage");
    bench.db.finish_garbage(vec![second[0].id]).await.expect("a second time does no harm");
    bench.clock.advance(3600);
    assert!(claim().await.is_empty());
    bench.clock.advance(100 * 86_400);
    assert!(claim().await.is_empty());
    bench.db.finish_garbage(Vec::new()).await.expect("of nothing");
}

pub async fn claims_are_bounded_and_disjoint<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let alice = bench.account("alice", None).await;
    let mut expected = HashSet::new();
    for number in 0..5 {
        expected.insert(bench.slot_share(alice, share_id(number, 0), 100).await);
        bench.slot_share(alice, share_id(number, 0), 100).await;
    }
    bench.clock.advance(SUPERSEDED_GRACE_SECONDS + 1);
    let (mut seen, mut ids) = (HashSet::new(), HashSet::new());
    for _ in 0..3 {
        let rows = bench.db.claim_garbage(FIRST_EPOCH, 2, 300).await.expect("claim_garbage");
        assert!(rows.len() <= 2);
        for row in rows {
            assert!(ids.insert(row.id));
            seen.extend(row.objects);
        }
    }
    assert_eq!(seen, expected);
}

pub async fn what_a_row_names_is_never_garbage<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let alice = bench.account("alice", None).await;
    let whole = bench.bucket_share(alice, share_id(1, 0), 100).await;
    let slot = bench.slot_share(alice, share_id(2, 0), 100).await;
    bench.allocate(alice, storage_index(3), &[0], 100).await;
    let (_, piece) = bench.record(share_id(3, 0), 0..10).await;
    let stray = ObjectName::new(share_id(2, 0), StoreObject::Generation { generation: bench.id(), account: alice });
    bench.db.discard_objects(vec![whole, slot, stray, piece]).await.expect("discard_objects");
    bench.db.discard_objects(Vec::new()).await.expect("of nothing");
    for _ in 0..3 {
        bench.clock.advance(20 * 86_400);
        let names = bench.take_garbage().await;
        assert!(names.is_empty() || names == [stray], "A3: rows name the others: {names:?}");
    }
    bench.db.discard_objects(vec![stray]).await.expect("discard_objects");
    bench.clock.advance(SUPERSEDED_GRACE_SECONDS + 3600);
    assert_eq!(bench.take_garbage().await, [stray]);
}

pub async fn a_name_that_a_row_came_to_name_is_not_handed_out<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, share) = (bench.account("alice", None).await, share_id(1, 0));
    bench.allocate(alice, storage_index(1), &[0], 100).await;
    let (upload, seen, chunk) = bench.chunk(share, 0..100).await;
    let name = ObjectName::new(share, chunk.object);
    bench.db.discard_objects(vec![name]).await.expect("discard_objects");
    let recorded = bench.record_raw(share, upload, seen, vec![chunk]).await;
    let named = matches!(recorded, Ok(RecordOutcome::Finished));
    bench.clock.advance(8 * 86_400);
    let names = bench.take_garbage().await;
    assert_ne!(named, names.contains(&name), "R9: a name is either in a row or handed out: {recorded:?}");

    let commit = bench.commit(alice, storage_index(2), None, &[(0, Some(10))]);
    let slot_name = commit_names(&commit)[0];
    bench.db.discard_objects(vec![slot_name]).await.expect("discard_objects");
    let committed = bench.db.commit_slot(commit).await;
    let named = matches!(committed, Ok(CommitOutcome::Done));
    bench.clock.advance(8 * 86_400);
    let names = bench.take_garbage().await;
    assert_ne!(named, names.contains(&slot_name), "R9: {committed:?}");
}

pub async fn a_marker_is_kept_until_the_next_commit<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index, share) = (bench.account("alice", None).await, storage_index(1), share_id(1, 0));
    let mut markers = Vec::new();
    for _ in 0..2 {
        let base = bench.db.read_slot(index).await.expect("read_slot").slot.map(|(token, _)| token);
        let mut commit = bench.commit(alice, index, base, &[(0, Some(100))]);
        let marker = StoreObject::SlotMarker { generation: bench.id(), account: alice };
        commit.fresh.push(marker);
        commit.marker = Some(ObjectName::new(share, marker));
        markers.extend(commit.marker);
        assert_eq!(bench.db.commit_slot(commit).await.expect("commit_slot"), CommitOutcome::Done);
    }
    bench.db.discard_objects(vec![markers[1]]).await.expect("discard_objects");
    bench.clock.advance(SUPERSEDED_GRACE_SECONDS + 1);
    let names = bench.take_garbage().await;
    assert!(names.contains(&markers[0]), "{names:?}");
    assert!(!names.contains(&markers[1]), "the slot names it: {names:?}");
    // A commit that stores nothing keeps the manifest there is.
    let slot = bench.db.read_slot(index).await.expect("read_slot");
    let mut kept = bench.commit(alice, index, slot.slot.map(|(token, _)| token), &[(0, Some(100))]);
    kept.changes[0].1 = crate::leasedb::SlotChange::Put { size_bytes: 100, locator: slot.shares[0].locator.clone() };
    kept.fresh.clear();
    assert_eq!(bench.db.commit_slot(kept).await.expect("commit_slot"), CommitOutcome::Done);
    bench.clock.advance(20 * 86_400);
    assert!(!bench.take_garbage().await.contains(&markers[1]));
    bench.slot_share(alice, share, 5).await;
    bench.clock.advance(20 * 86_400);
    assert!(bench.take_garbage().await.contains(&markers[1]));
}
