//! Slots: `gbs.md` 9.1, `design.md` 4.2, `review.md` A8, A9, B2.
#![allow(missing_docs, reason = "the names of the cases say it")]

use super::MakeLeaseDb;
use super::bench::{Bench, commit_names};
use crate::account::{AccountState, Usage};
use crate::lease::LEASE_DURATION_SECONDS;
use crate::leasedb::{AccountChange, CommitOutcome, LeaseDb, NAME_FENCE_SECONDS, SlotToken};
use crate::share::{ShareKind, ShareState};
use crate::testing::values::{enabler, share_id, storage_index};

pub async fn the_first_write_makes_the_slot<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index) = (bench.account("alice", None).await, storage_index(1));
    let empty = bench.db.read_slot(index).await.expect("read_slot");
    assert!(empty.slot.is_none() && empty.shares.is_empty() && !empty.has_immutable);
    let commit = bench.commit(alice, index, None, &[(0, Some(100)), (7, Some(0))]);
    let (token, names) = (commit.token, commit_names(&commit));
    assert_eq!(bench.db.commit_slot(commit).await.expect("commit_slot"), CommitOutcome::Done);
    let slot = bench.db.read_slot(index).await.expect("read_slot");
    assert_eq!(slot.slot, Some((token, enabler(1).hash())), "the token is the commit's own");
    let rows: Vec<_> = slot.shares.iter().map(|row| (row.number.get(), row.kind, row.state, row.size_bytes)).collect();
    let stable = ShareState::Stable;
    assert_eq!(rows, [(0, ShareKind::Mutable, stable, 100), (7, ShareKind::Mutable, stable, 0)]);
    assert_eq!(slot.shares[0].locator.objects(), [names[0].object]);
    assert_eq!(bench.numbers(ShareKind::Mutable, index).await, [0, 7]);
    assert!(bench.numbers(ShareKind::Immutable, index).await.is_empty());
    assert_eq!(bench.usage(alice).await, Usage { used_bytes: 100 + 2 * 472, reserved_bytes: 0, shares: 2 });
    for number in [0, 7] {
        let lease = bench.lease(share_id(1, number), alice).await.expect("leased").lease;
        assert!(lease.expires_at.seconds() >= slot.now.seconds() + LEASE_DURATION_SECONDS);
    }
}

pub async fn a_commit_on_another_token_changes_nothing<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bob, index) = (bench.account("alice", None).await, bench.account("bob", None).await, storage_index(1));
    let none = bench.commit(bob, index, Some(SlotToken([1; 16])), &[(0, Some(10))]);
    assert_eq!(bench.db.commit_slot(none).await.expect("commit_slot"), CommitOutcome::Conflict, "there is no slot");
    assert!(bench.db.read_slot(index).await.expect("read_slot").slot.is_none());
    let name = bench.slot_share(alice, share_id(1, 0), 100).await;
    let old = bench.db.read_slot(index).await.expect("read_slot").slot.expect("there").0;
    let late = bench.commit(bob, index, None, &[(0, Some(10)), (1, Some(10))]);
    assert_eq!(bench.db.commit_slot(late).await.expect("commit_slot"), CommitOutcome::Conflict, "there is a slot");
    let row = bench.db.find_share(share_id(1, 0)).await.expect("find_share").expect("there");
    assert_eq!(row.locator.objects(), [name.object]);
    let name = bench.slot_share(alice, share_id(1, 0), 200).await;
    let late = bench.commit(bob, index, Some(old), &[(0, None), (1, Some(10))]);
    assert_eq!(bench.db.commit_slot(late).await.expect("commit_slot"), CommitOutcome::Conflict);
    let slot = bench.db.read_slot(index).await.expect("read_slot");
    assert_eq!(slot.shares.len(), 1);
    assert_eq!(slot.shares[0].locator.objects(), [name.object]);
    assert_eq!(bench.usage(bob).await, Usage::default());
    assert!(bench.lease(share_id(1, 0), bob).await.is_none());
    bench.audit(&[alice, bob], &[index]).await;
    bench.clock.advance(30 * 86_400);
    assert!(!bench.take_garbage().await.contains(&name));
}

pub async fn removal_of_the_last_share_ends_the_slot_and_its_write_enabler<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bob, index) = (bench.account("alice", None).await, bench.account("bob", None).await, storage_index(1));
    assert_eq!(bench.write(alice, index, &[(0, Some(10)), (1, Some(20))]).await.0, CommitOutcome::Done);
    bench.db.renew_leases(index, bob).await.expect("renew_leases");
    let first = bench.db.read_slot(index).await.expect("read_slot").slot.expect("there").0;
    assert_eq!(bench.write(alice, index, &[(0, None)]).await.0, CommitOutcome::Done);
    let (second, kept) = bench.db.read_slot(index).await.expect("read_slot").slot.expect("share 1 is left");
    assert_ne!(first, second, "every change sets a new token");
    assert_eq!(kept, enabler(1).hash());
    assert!(bench.lease(share_id(1, 0), bob).await.is_none(), "leases die with the share, everybody's");
    assert_eq!(bench.usage(bob).await, Usage { used_bytes: 492, reserved_bytes: 0, shares: 1 });
    assert_eq!(bench.write(alice, index, &[(1, None)]).await.0, CommitOutcome::Done);
    let gone = bench.db.read_slot(index).await.expect("read_slot");
    assert!(gone.slot.is_none() && gone.shares.is_empty());
    assert_eq!(bench.usage(alice).await, Usage::default());
    assert_eq!(bench.usage(bob).await, Usage::default());

    let mut sleeper = bench.commit(bob, index, Some(second), &[(1, Some(5))]);
    sleeper.write_enabler = enabler(2).hash();
    assert_eq!(bench.db.commit_slot(sleeper).await.expect("commit_slot"), CommitOutcome::Conflict);
    let mut again = bench.commit(bob, index, None, &[(1, Some(5))]);
    again.write_enabler = enabler(2).hash();
    assert_eq!(bench.db.commit_slot(again).await.expect("commit_slot"), CommitOutcome::Done);
    let slot = bench.db.read_slot(index).await.expect("read_slot");
    assert_eq!(slot.slot.expect("made again").1, enabler(2).hash(), "the old enabler is forgotten");
    bench.audit(&[alice, bob], &[index]).await;
}

pub async fn shares_not_named_keep_their_leases_untouched<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bob, index) = (bench.account("alice", None).await, bench.account("bob", None).await, storage_index(1));
    bench.slot_share(alice, share_id(1, 0), 100).await;
    let before = bench.lease(share_id(1, 0), alice).await.expect("leased").lease;
    bench.clock.advance(5 * 86_400);
    bench.slot_share(bob, share_id(1, 1), 100).await;
    assert_eq!(bench.lease(share_id(1, 0), alice).await.expect("leased").lease, before);
    assert!(bench.lease(share_id(1, 0), bob).await.is_none());
    bench.slot_share(alice, share_id(1, 1), 50).await;
    assert_eq!(bench.lease(share_id(1, 0), alice).await.expect("leased").lease, before);
    bench.slot_share(alice, share_id(1, 0), 100).await;
    let renewed = bench.lease(share_id(1, 0), alice).await.expect("leased").lease;
    assert!(renewed.expires_at > before.expires_at, "a write renews the lease of what it names");
    bench.audit(&[alice, bob], &[index]).await;
}

pub async fn growth_over_quota_changes_nothing<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index) = (bench.account("alice", Some(1000)).await, storage_index(1));
    let name = bench.slot_share(alice, share_id(1, 0), 528).await;
    assert_eq!(bench.usage(alice).await.used_bytes, 1000);
    let token = bench.db.read_slot(index).await.expect("read_slot").slot.expect("there").0;
    assert_eq!(bench.write(alice, index, &[(0, Some(529))]).await.0, CommitOutcome::OverQuota);
    assert_eq!(bench.write(alice, index, &[(1, Some(0))]).await.0, CommitOutcome::OverQuota);
    let slot = bench.db.read_slot(index).await.expect("read_slot");
    assert_eq!(slot.slot.expect("there").0, token);
    assert_eq!(slot.shares.len(), 1);
    assert_eq!(slot.shares[0].locator.objects(), [name.object]);
    assert_eq!(bench.write(alice, index, &[(0, Some(528))]).await.0, CommitOutcome::Done, "the same size fits");
    assert_eq!(bench.write(alice, index, &[(0, None), (1, Some(528))]).await.0, CommitOutcome::Done, "the sum counts");
    assert_eq!(bench.write(alice, index, &[(1, Some(100))]).await.0, CommitOutcome::Done);
    let less = AccountChange { quota_bytes: Some(Some(1)), ..AccountChange::default() };
    bench.set(alice, less).await;
    assert_eq!(bench.write(alice, index, &[(1, None)]).await.0, CommitOutcome::Done, "removal is always allowed");
    bench.audit(&[alice], &[index]).await;
}

pub async fn usage_of_all_leaseholders_follows_the_size<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bob, index) =
        (bench.account("alice", None).await, bench.account("bob", Some(600)).await, storage_index(1));
    bench.slot_share(alice, share_id(1, 0), 100).await;
    bench.db.renew_leases(index, bob).await.expect("renew_leases");
    for size in [500, 20, 128] {
        bench.slot_share(alice, share_id(1, 0), size).await;
        assert_eq!(bench.usage(alice).await.used_bytes, 472 + size);
        assert_eq!(bench.usage(bob).await.used_bytes, 472 + size, "A9: who leases a share pays for its size");
    }
    bench.audit(&[alice, bob], &[index]).await;
}

pub async fn a_commit_of_old_objects_is_refused<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index) = (bench.account("alice", None).await, storage_index(1));
    let slept = bench.commit(alice, index, None, &[(0, Some(100))]);
    bench.clock.advance(NAME_FENCE_SECONDS + 1);
    let answer = bench.db.commit_slot(slept).await;
    assert!(!matches!(answer, Ok(CommitOutcome::Done)), "the object may have been collected: {answer:?}");
    assert!(bench.db.read_slot(index).await.expect("read_slot").slot.is_none());
    assert_eq!(bench.usage(alice).await, Usage::default());
    // Objects that were named before may be of any age.
    bench.slot_share(alice, share_id(1, 0), 100).await;
    bench.clock.advance(90 * 86_400);
    let snapshot = bench.db.read_slot(index).await.expect("read_slot");
    let mut kept = bench.commit(alice, index, snapshot.slot.map(|(token, _)| token), &[(0, Some(100))]);
    kept.changes[0].1 =
        crate::leasedb::SlotChange::Put { size_bytes: 100, locator: snapshot.shares[0].locator.clone() };
    kept.fresh.clear();
    assert_eq!(bench.db.commit_slot(kept).await.expect("commit_slot"), CommitOutcome::Done);
    bench.clock.advance(8 * 86_400);
    assert!(bench.take_garbage().await.is_empty(), "what is kept is not superseded");
}

pub async fn account_states_decide_who_may_commit<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index) = (bench.account("alice", None).await, storage_index(1));
    bench.slot_share(alice, share_id(1, 0), 100).await;
    for state in [AccountState::ReadOnly, AccountState::Suspended] {
        bench.set(alice, AccountChange { state: Some(state), ..AccountChange::default() }).await;
        assert_eq!(bench.write(alice, index, &[(0, Some(5))]).await.0, CommitOutcome::Refused(state));
    }
    bench.db.close_account(alice, None).await.expect("close_account");
    assert_eq!(bench.write(alice, index, &[(0, None)]).await.0, CommitOutcome::Refused(AccountState::Closed));
    let row = bench.db.find_share(share_id(1, 0)).await.expect("find_share").expect("there");
    assert_eq!(row.size_bytes, 100);
}

pub async fn a_bucket_is_never_turned_into_a_slot<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index) = (bench.account("alice", None).await, storage_index(1));
    bench.bucket_share(alice, share_id(1, 0), 100).await;
    assert!(bench.db.read_slot(index).await.expect("read_slot").has_immutable);
    assert_eq!(bench.write(alice, index, &[(1, Some(5))]).await.0, CommitOutcome::Conflict);
    assert_eq!(bench.write(alice, index, &[(0, None)]).await.0, CommitOutcome::Conflict);
    assert_eq!(bench.numbers(ShareKind::Immutable, index).await, [0]);
    assert!(bench.numbers(ShareKind::Mutable, index).await.is_empty());
    assert!(bench.db.read_slot(index).await.expect("read_slot").slot.is_none());
    bench.audit(&[alice], &[index]).await;
}

pub async fn removing_what_is_not_there_is_fine<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index) = (bench.account("alice", None).await, storage_index(1));
    assert_eq!(bench.write(alice, index, &[(0, Some(5)), (1, None)]).await.0, CommitOutcome::Done);
    assert_eq!(bench.write(alice, index, &[(4, None)]).await.0, CommitOutcome::Done);
    assert_eq!(bench.numbers(ShareKind::Mutable, index).await, [0]);
    bench.audit(&[alice], &[index]).await;
}
