//! Accounts and credentials: `accounting.md` 6, `api.md` 10.6; and corruption advisories.
#![allow(missing_docs, reason = "the names of the cases say it")]

use super::MakeLeaseDb;
use super::bench::Bench;
use crate::account::{AccountState, Usage};
use crate::clock::Clock;
use crate::expiry::{ExpirePolicy, KeepAlive};
use crate::id::AccountId;
use crate::leasedb::{AccountChange, Advisory, CreateOutcome, Credential, LeaseDb};
use crate::share::ShareKind;
use crate::testing::values::{credential, share_id, storage_index};

async fn open<D: LeaseDb>(bench: &Bench<D>, text: &str) -> Option<Credential> {
    let found = bench.db.find_credential(credential(text)).await.expect("find_credential");
    found.filter(|found| found.is_valid(bench.clock.now()))
}

pub async fn an_account_is_made_once_by_name<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let change = AccountChange {
        quota_bytes: Some(Some(1000)),
        lease_days: Some(60),
        message: Some("welcome".to_owned()),
        keep_alive: Some(KeepAlive::Days(90)),
        state: Some(AccountState::ReadOnly),
    };
    let made = bench.db.create_account("alice".to_owned(), change, credential("a")).await.expect("create_account");
    let CreateOutcome::Created(alice) = made else { panic!("{made:?}") };
    assert!(alice.id >= AccountId::FIRST_DECLARED);
    assert_eq!((alice.name.as_str(), alice.state, alice.quota_bytes), ("alice", AccountState::ReadOnly, Some(1000)));
    assert_eq!((alice.lease_days, alice.message.as_str()), (60, "welcome"));
    assert_eq!(alice.keep_alive, KeepAlive::Days(90));
    assert_eq!(alice.created_at.seconds(), bench.clock.now().seconds());
    assert_eq!(bench.db.find_account("alice".to_owned()).await.expect("find_account"), Some(alice.clone()));
    assert_eq!(open(&bench, "a").await.expect("valid").account, alice);
    assert!(open(&bench, "b").await.is_none());
    let again = bench.db.create_account("alice".to_owned(), AccountChange::default(), credential("b")).await;
    assert!(matches!(again.expect("create_account"), CreateOutcome::NameTaken));
    assert!(open(&bench, "b").await.is_none(), "nothing was changed");
    assert!(bench.db.find_account("bob".to_owned()).await.expect("find_account").is_none());
    let built_in = bench.db.create_account("starter".to_owned(), AccountChange::default(), credential("s")).await;
    assert!(matches!(built_in.expect("create_account"), CreateOutcome::NameTaken), "nobody logs in as the starter");
}

pub async fn a_closed_account_frees_its_name_and_keeps_its_number<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (first, index) = (bench.account("alice", None).await, storage_index(1));
    bench.bucket_share(first, share_id(1, 0), 88).await;
    let lease = bench.lease(share_id(1, 0), first).await.expect("leased").lease;
    assert!(bench.db.close_account(first, None).await.expect("close_account"));
    assert!(!bench.db.close_account(first, None).await.expect("close_account"), "it is closed");
    assert!(open(&bench, "alice").await.is_none(), "its credentials are revoked");
    assert!(bench.db.find_account("alice".to_owned()).await.expect("find_account").is_none());
    let listed = bench.db.list_accounts(None, 100).await.expect("list_accounts");
    assert!(listed.iter().all(|(account, _)| account.id != first));
    assert_eq!(bench.lease(share_id(1, 0), first).await.expect("ages away").lease, lease);
    assert_eq!(bench.usage(first).await, Usage { used_bytes: 100, reserved_bytes: 0, shares: 1 });
    assert!(!bench.db.change_account(first, AccountChange::default()).await.expect("change_account"));
    assert!(!bench.db.rotate_credential(first, credential("x"), 10).await.expect("rotate_credential"));
    assert!(open(&bench, "x").await.is_none());

    let made = bench.db.create_account("alice".to_owned(), AccountChange::default(), credential("new")).await;
    let CreateOutcome::Created(second) = made.expect("create_account") else { panic!("the name is free") };
    assert!(second.id > first, "object names carry the number");
    assert_eq!(bench.usage(second.id).await, Usage::default());
    assert!(bench.db.close_account(second.id, None).await.expect("close_account"));
    assert!(bench.account("carol", None).await > second.id, "also when the last one was closed");
    for built_in in [AccountId::ANONYMOUS, AccountId::STARTER, AccountId::new(9999)] {
        assert!(!bench.db.close_account(built_in, None).await.expect("close_account"), "{built_in}");
    }
    bench.audit(&[first], &[index]).await;
}

pub async fn a_closed_account_is_opened_again_with_what_it_held<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bob) = (bench.account("alice", Some(1000)).await, bench.account("bob", None).await);
    bench.bucket_share(alice, share_id(1, 0), 88).await;
    let closed = async |id| bench.db.find_closed_account(id).await.expect("find_closed_account");
    let change = || AccountChange { quota_bytes: Some(Some(500)), ..AccountChange::default() };
    let reopen = async |id, name: &str, text: &str| {
        bench.db.reopen_account(id, name.to_owned(), change(), credential(text)).await.expect("reopen_account")
    };
    assert!(closed(alice).await.is_none(), "it is open");
    assert!(!reopen(alice, "carol", "x").await, "it is open");
    assert!(bench.db.close_account(alice, Some(-1)).await.expect("close_account"));
    assert_eq!(closed(alice).await.expect("closed").name, "alice");
    assert!(!reopen(alice, "bob", "x").await, "the name is taken");
    assert!(!reopen(AccountId::new(9999), "carol", "x").await, "there is none");
    let before = bench.db.accounts_version().await.expect("accounts_version");
    assert!(reopen(alice, "carol", "c").await);
    assert!(bench.db.accounts_version().await.expect("accounts_version") > before);
    assert!(closed(alice).await.is_none());
    let opened = open(&bench, "c").await.expect("valid").account;
    assert_eq!((opened.id, opened.name.as_str(), opened.state), (alice, "carol", AccountState::Active));
    assert_eq!(opened.quota_bytes, Some(500));
    assert!(open(&bench, "x").await.is_none() && open(&bench, "alice").await.is_none(), "old addresses stay revoked");
    assert_eq!(bench.usage(alice).await, Usage { used_bytes: 100, reserved_bytes: 0, shares: 1 });
    // Closing had said that its leases end at once; that is over.
    assert_eq!(bench.expire(ExpirePolicy::default()).await.1, 0);
    assert!(bench.db.close_account(bob, None).await.expect("close_account"));
    bench.audit(&[alice], &[storage_index(1)]).await;
}

pub async fn at_most_two_credentials_are_valid<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let alice = bench.account("alice", None).await;
    let rotate = async |text: &str| {
        assert!(bench.db.rotate_credential(alice, credential(text), 1000).await.expect("rotate_credential"));
    };
    rotate("second").await;
    bench.clock.advance(500);
    assert!(open(&bench, "alice").await.is_some(), "the old one overlaps");
    assert!(open(&bench, "second").await.is_some());
    rotate("third").await;
    assert!(open(&bench, "alice").await.is_none(), "the oldest is retired at once");
    assert!(open(&bench, "second").await.is_some() && open(&bench, "third").await.is_some());
    let listed = bench.db.list_credentials(alice).await.expect("list_credentials");
    let valid: Vec<_> = listed.iter().filter(|c| c.is_valid(bench.clock.now())).map(|c| c.hash).collect();
    assert_eq!(valid, [credential("third"), credential("second")], "newest first");
    bench.clock.advance(1000);
    assert!(open(&bench, "second").await.is_none(), "its overlap is over");
    let third = open(&bench, "third").await.expect("for ever");
    assert_eq!(third.not_after, None);
    bench.clock.advance(1000 * 86_400);
    assert!(open(&bench, "third").await.is_some());
}

pub async fn rotation_without_overlap_revokes_at_once<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let alice = bench.account("alice", None).await;
    assert!(bench.db.rotate_credential(alice, credential("second"), 10_000).await.expect("rotate_credential"));
    assert!(bench.db.rotate_credential(alice, credential("third"), 0).await.expect("rotate_credential"));
    assert!(open(&bench, "alice").await.is_none());
    assert!(open(&bench, "second").await.is_none(), "theft: nothing older opens the account");
    assert!(open(&bench, "third").await.is_some());
    let unknown = bench.db.rotate_credential(AccountId::new(999), credential("x"), 0).await;
    assert!(!unknown.expect("rotate_credential"));
}

pub async fn the_version_grows_with_every_change<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let version = async || bench.db.accounts_version().await.expect("accounts_version");
    let mut last = version().await;
    let alice = bench.account("alice", None).await;
    let mut grown = async |what: &str| {
        let now = version().await;
        assert!(now > last, "{what}");
        last = now;
    };
    grown("create_account").await;
    bench.set(alice, AccountChange { quota_bytes: Some(Some(5)), ..AccountChange::default() }).await;
    grown("change_account").await;
    bench.db.rotate_credential(alice, credential("b"), 5).await.expect("rotate_credential");
    grown("rotate_credential").await;
    bench.db.close_account(alice, None).await.expect("close_account");
    grown("close_account").await;
}

pub async fn settings_change_one_by_one<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let alice = bench.account("alice", Some(1000)).await;
    let find = async || bench.db.find_account("alice".to_owned()).await.expect("find_account").expect("there");
    bench.set(alice, AccountChange { message: Some("hello".to_owned()), ..AccountChange::default() }).await;
    bench.set(alice, AccountChange { state: Some(AccountState::Suspended), ..AccountChange::default() }).await;
    let changed = find().await;
    assert_eq!((changed.quota_bytes, changed.lease_days), (Some(1000), 31), "what is not named stays");
    assert_eq!((changed.message.as_str(), changed.state), ("hello", AccountState::Suspended));
    bench.set(alice, AccountChange { quota_bytes: Some(None), lease_days: Some(90), ..AccountChange::default() }).await;
    let changed = find().await;
    assert_eq!((changed.quota_bytes, changed.lease_days, changed.message.as_str()), (None, 90, "hello"));
    let unknown = bench.db.change_account(AccountId::new(999), AccountChange::default()).await;
    assert!(!unknown.expect("change_account"));
}

pub async fn accounts_are_listed_in_pages_with_their_usage<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let mut expected = Vec::new();
    for name in ["e", "d", "c", "b", "a"] {
        expected.push(bench.account(name, None).await);
    }
    bench.bucket_share(expected[2], share_id(1, 0), 88).await;
    bench.allocate(expected[2], storage_index(1), &[1], 38).await;
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = bench.db.list_accounts(after, 2).await.expect("list_accounts");
        assert!(page.len() <= 2);
        let Some(last) = page.last() else { break };
        after = Some(last.0.id);
        listed.extend(page);
    }
    let declared: Vec<_> = listed.iter().map(|(account, _)| account.id).filter(|id| *id >= expected[0]).collect();
    assert_eq!(declared, expected, "by number");
    let used = listed.iter().find(|(account, _)| account.id == expected[2]).expect("listed").1;
    assert_eq!(used, Usage { used_bytes: 100, reserved_bytes: 50, shares: 1 });
}

pub async fn the_last_use_of_a_credential_is_kept<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let alice = bench.account("alice", None).await;
    assert_eq!(open(&bench, "alice").await.expect("valid").last_used_at, None);
    bench.clock.advance(100);
    let then = bench.clock.now();
    let uses = vec![(credential("alice"), then), (credential("nobody's"), then)];
    bench.db.note_use(uses).await.expect("note_use");
    let noted = bench.db.list_credentials(alice).await.expect("list_credentials");
    assert_eq!(noted[0].last_used_at, Some(then));
    let earlier = crate::clock::Timestamp::from_seconds(then.seconds() - 50);
    bench.db.note_use(vec![(credential("alice"), earlier)]).await.expect("note_use");
    assert_eq!(open(&bench, "alice").await.expect("valid").last_used_at, Some(then), "never moved back");
}

pub async fn advisories_are_bounded_for_each_share<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let alice = bench.account("alice", None).await;
    let share = share_id(1, 0);
    bench.bucket_share(alice, share, 88).await;
    for number in 0..20 {
        let reason = format!("report {number}: \u{1F4A5} ' -- \0");
        let advisory = Advisory { share, kind: ShareKind::Immutable, account: alice, reason };
        bench.db.advise(advisory).await.expect("advise");
    }
    if let Some(open) = M::open_advisories(&bench.guard, share).await {
        assert_eq!(open, 8, "clients write them, so they are bounded for each share");
    }
}
