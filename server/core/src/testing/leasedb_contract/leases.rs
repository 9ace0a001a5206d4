//! Leases: `gbs.md` 7.2, `accounting.md` 5 and 6, `review.md` A5 and A6.
#![allow(missing_docs, reason = "the names of the cases say it")]

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::MakeLeaseDb;
use super::bench::Bench;
use crate::account::{AccountState, Usage};
use crate::clock::{Clock, Timestamp};
use crate::id::ShareNumber;
use crate::lease::{DAY_SECONDS, LEASE_DURATION_SECONDS, LeaseTerms, SLACK_MAX_SECONDS};
use crate::leasedb::{AccountChange, LeaseDb, RenewOutcome};
use crate::testing::values::{seed, share_id, storage_index};

pub async fn renewal_without_shares_is_not_found<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index) = (bench.account("alice", None).await, storage_index(1));
    let renew = async || bench.db.renew_leases(index, alice).await.expect("renew_leases");
    assert_eq!(renew().await, RenewOutcome::NotFound);
    bench.allocate(alice, index, &[0], 100).await;
    assert_eq!(renew().await, RenewOutcome::NotFound, "a share that is coming is none");
    assert!(bench.db.list_leases(index).await.expect("list_leases").is_empty());
}

pub async fn renewal_leases_every_stable_share_of_either_kind<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bob) = (bench.account("alice", None).await, bench.account("bob", None).await);
    for number in [0, 3, 9] {
        bench.bucket_share(alice, share_id(1, number), 100).await;
        bench.slot_share(alice, share_id(2, number), 100).await;
    }
    bench.allocate(alice, storage_index(1), &[4], 100).await;
    for index in [1, 2].map(storage_index) {
        assert_eq!(bench.db.renew_leases(index, bob).await.expect("renew_leases"), RenewOutcome::Done);
        let leases = bench.db.list_leases(index).await.expect("list_leases");
        let listed: Vec<_> = leases.iter().map(|row| (row.number.get(), row.account_name.as_str())).collect();
        let expected = [(0, "alice"), (0, "bob"), (3, "alice"), (3, "bob"), (9, "alice"), (9, "bob")];
        assert_eq!(listed, expected, "by share and account");
    }
    assert_eq!(bench.usage(bob).await, Usage { used_bytes: 3 * (112 + 572), reserved_bytes: 0, shares: 6 });
    bench.audit(&[alice, bob], &[1, 2].map(storage_index)).await;
}

pub async fn an_expiry_is_never_moved_back<M: MakeLeaseDb>() {
    let bench = Bench::with_terms::<M>(LeaseTerms { slack_seconds: 0, ..LeaseTerms::default() }).await;
    let (alice, index, share) = (bench.account("alice", None).await, storage_index(1), share_id(1, 0));
    bench.bucket_share(alice, share, 100).await;
    let before = bench.lease(share, alice).await.expect("leased").lease;
    bench.clock.advance(-40 * DAY_SECONDS);
    assert_eq!(bench.db.renew_leases(index, alice).await.expect("renew_leases"), RenewOutcome::Done);
    bench.allocate(alice, index, &[0], 100).await;
    assert_eq!(bench.lease(share, alice).await.expect("leased").lease, before);
}

pub async fn a_damped_renewal_never_lies<M: MakeLeaseDb>() {
    let mut random = StdRng::seed_from_u64(seed());
    for _ in 0..4 {
        let slack_seconds = random.random_range(0..=SLACK_MAX_SECONDS);
        let bench = Bench::with_terms::<M>(LeaseTerms { slack_seconds, ..LeaseTerms::default() }).await;
        let (alice, index, share) = (bench.account("alice", None).await, storage_index(1), share_id(1, 0));
        bench.bucket_share(alice, share, 100).await;
        let mut written = bench.lease(share, alice).await.expect("leased").lease;
        for _ in 0..25 {
            let top = if random.random_bool(0.2) { 50 * DAY_SECONDS } else { slack_seconds.max(2) };
            bench.clock.advance(random.random_range(0..top));
            let (by_renewal, now) = (random.random_bool(0.5), bench.clock.now().seconds());
            if by_renewal {
                assert_eq!(bench.db.renew_leases(index, alice).await.expect("renew_leases"), RenewOutcome::Done);
            } else {
                assert_eq!(bench.allocate(alice, index, &[], 100).await.0, [0]);
            }
            let lease = bench.lease(share, alice).await.expect("leased").lease;
            assert!(lease.expires_at.seconds() >= now + LEASE_DURATION_SECONDS, "31 days were promised");
            let age = now - lease.renewed_at.seconds();
            assert!(age == 0 || age < slack_seconds, "A6: the written renewal is {age} s old, slack {slack_seconds}");
            if written.renewed_at.seconds() + slack_seconds > now {
                assert_eq!(lease, written, "within the slack nothing is written");
            }
            written = lease;
        }
    }
}

pub async fn no_slack_writes_every_renewal<M: MakeLeaseDb>() {
    let bench = Bench::with_terms::<M>(LeaseTerms { slack_seconds: 0, ..LeaseTerms::default() }).await;
    let (alice, index, share) = (bench.account("alice", None).await, storage_index(1), share_id(1, 0));
    bench.bucket_share(alice, share, 100).await;
    for _ in 0..5 {
        bench.clock.advance(1);
        assert_eq!(bench.db.renew_leases(index, alice).await.expect("renew_leases"), RenewOutcome::Done);
        let lease = bench.lease(share, alice).await.expect("leased").lease;
        let now = bench.clock.now().seconds();
        assert_eq!(lease.renewed_at.seconds(), now);
        assert_eq!(lease.expires_at.seconds(), now + LEASE_DURATION_SECONDS);
    }
}

pub async fn a_lapsed_lease_is_renewed_like_any_other<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index, share) = (bench.account("alice", None).await, storage_index(1), share_id(1, 0));
    bench.bucket_share(alice, share, 100).await;
    for by_renewal in [true, false] {
        bench.clock.advance(400 * DAY_SECONDS);
        if by_renewal {
            assert_eq!(bench.db.renew_leases(index, alice).await.expect("renew_leases"), RenewOutcome::Done);
        } else {
            assert_eq!(bench.allocate(alice, index, &[0], 100).await.0, [0]);
        }
        let lease = bench.lease(share, alice).await.expect("leased").lease;
        assert!(lease.expires_at.seconds() >= bench.clock.now().seconds() + LEASE_DURATION_SECONDS);
        bench.audit(&[alice], &[index]).await;
    }
    // A lease that is gone is added again: here the share went and came back.
    bench.slot_share(alice, share_id(2, 0), 10).await;
    bench.write(alice, storage_index(2), &[(0, None)]).await;
    assert!(bench.lease(share_id(2, 0), alice).await.is_none());
    let bob = bench.account("bob", None).await;
    bench.slot_share(bob, share_id(2, 0), 10).await;
    assert_eq!(bench.db.renew_leases(storage_index(2), alice).await.expect("renew_leases"), RenewOutcome::Done);
    assert!(bench.lease(share_id(2, 0), alice).await.is_some());
    bench.audit(&[alice, bob], &[index, storage_index(2)]).await;
}

pub async fn a_first_lease_over_quota_renews_what_is_held<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bob) = (bench.account("alice", None).await, bench.account("bob", Some(150)).await);
    let index = storage_index(1);
    bench.bucket_share(bob, share_id(1, 5), 88).await;
    bench.bucket_share(alice, share_id(1, 0), 88).await;
    bench.bucket_share(alice, share_id(1, 9), 88).await;
    bench.clock.advance(20 * DAY_SECONDS);
    assert_eq!(bench.db.renew_leases(index, bob).await.expect("renew_leases"), RenewOutcome::OverQuota);
    let held = bench.lease(share_id(1, 5), bob).await.expect("held").lease;
    assert_eq!(held.renewed_at.seconds(), bench.clock.now().seconds());
    assert!(bench.lease(share_id(1, 0), bob).await.is_none());
    assert!(bench.lease(share_id(1, 9), bob).await.is_none());
    bench.audit(&[alice, bob], &[index]).await;
}

pub async fn account_states_decide_who_may_renew<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index, share) = (bench.account("alice", None).await, storage_index(1), share_id(1, 0));
    bench.bucket_share(alice, share, 100).await;
    let before = bench.lease(share, alice).await.expect("leased").lease;
    let renew = async |state| {
        bench.set(alice, AccountChange { state: Some(state), ..AccountChange::default() }).await;
        bench.clock.advance(5 * DAY_SECONDS);
        bench.db.renew_leases(index, alice).await.expect("renew_leases")
    };
    let suspended = AccountState::Suspended;
    assert_eq!(renew(suspended).await, RenewOutcome::Refused(suspended));
    assert_eq!(bench.lease(share, alice).await.expect("kept").lease, before);
    assert_eq!(renew(AccountState::ReadOnly).await, RenewOutcome::Done);
    assert!(bench.lease(share, alice).await.expect("kept").lease.expires_at > before.expires_at);
    bench.db.close_account(alice, None).await.expect("close_account");
    let closed = bench.db.renew_leases(index, alice).await.expect("renew_leases");
    assert_eq!(closed, RenewOutcome::Refused(AccountState::Closed));
}

pub async fn accounts_with_more_days_are_granted_more<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, index, share) = (bench.account("alice", None).await, storage_index(1), share_id(1, 0));
    bench.bucket_share(alice, share, 100).await;
    let days = |days| AccountChange { lease_days: Some(days), ..AccountChange::default() };
    bench.set(alice, days(100)).await;
    assert_eq!(bench.db.renew_leases(index, alice).await.expect("renew_leases"), RenewOutcome::Done);
    let long = bench.lease(share, alice).await.expect("leased").lease;
    assert!(long.expires_at.seconds() >= bench.clock.now().seconds() + 100 * DAY_SECONDS, "the promise is 100 days");
    bench.set(alice, days(1)).await;
    bench.clock.advance(5 * DAY_SECONDS);
    assert_eq!(bench.db.renew_leases(index, alice).await.expect("renew_leases"), RenewOutcome::Done);
    let written = bench.lease(share, alice).await.expect("leased").lease;
    assert_eq!(written.expires_at, long.expires_at, "never moved back");
    let now = bench.clock.now().seconds();
    assert_eq!(written.renewed_at.seconds(), now, "A6: a distant end does not stand in for the renewal's date");
    bench.clock.advance(90 * DAY_SECONDS);
    assert_eq!(bench.db.renew_leases(index, alice).await.expect("renew_leases"), RenewOutcome::Done);
    let least = bench.lease(share, alice).await.expect("leased").lease;
    assert!(least.expires_at.seconds() >= bench.clock.now().seconds() + LEASE_DURATION_SECONDS, "never under 31 days");
}

pub async fn a_lease_is_prolonged_and_never_made_nor_shortened<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bob) = (bench.account("alice", None).await, bench.account("bob", None).await);
    let (index, share) = (storage_index(1), share_id(1, 3));
    bench.bucket_share(alice, share, 100).await;
    let granted = bench.lease(share, alice).await.expect("leased").lease;
    let in_days = |days| Timestamp::from_seconds(bench.clock.now().seconds() + days * DAY_SECONDS);
    let prolong = async |account, number, end| {
        let ends = vec![(ShareNumber::new(number), end)];
        bench.db.prolong_leases(index, account, ends).await.expect("prolong_leases");
    };
    prolong(alice, 3, in_days(5)).await;
    assert_eq!(bench.lease(share, alice).await.expect("leased").lease, granted, "it lasts longer already");
    prolong(alice, 3, in_days(400)).await;
    let prolonged = bench.lease(share, alice).await.expect("leased").lease;
    assert_eq!((prolonged.renewed_at, prolonged.expires_at), (granted.renewed_at, in_days(400)));
    prolong(bob, 3, in_days(400)).await;
    prolong(alice, 4, in_days(400)).await;
    assert_eq!(bench.db.list_leases(index).await.expect("list_leases").len(), 1, "there was none to prolong");
    bench.audit(&[alice, bob], &[index]).await;
}
