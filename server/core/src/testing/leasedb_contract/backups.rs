//! Reading a whole lease database and filling another from it: `design.md` 12, `review.md` C2, C3, C5.
#![allow(missing_docs, reason = "the names of the cases say it")]

use std::collections::BTreeMap;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::MakeLeaseDb;
use super::bench::{Bench, FIRST_EPOCH, commit_names};
use crate::account::AccountState;
use crate::backup::recount::Recount;
use crate::backup::row::Row;
use crate::backup::table::{ACCOUNT_USAGE, ACCOUNTS, Page, Role, TABLES, index_of};
use crate::backup::{IN_FLIGHT_SECONDS, Import, ImportOutcome, Instant};
use crate::clock::{Clock, Timestamp};
use crate::expiry::{ExpireLeases, ExpireOutcome, ExpirePolicy};
use crate::id::AccountId;
use crate::lease::DAY_SECONDS;
use crate::leasedb::{
    AccountChange, Advisory, CreateOutcome, Epoch, LeaseDb, LeaseDbError, Mode, SUPERSEDED_GRACE_SECONDS, UNDO_SECONDS,
};
use crate::run::{BeginRun, BeginRunOutcome, FinishRun, Run, RunId, RunKind, RunState, Totals};
use crate::share::ShareKind;
use crate::testing::values::{credential, share_id, storage_index};

async fn export<D: LeaseDb>(db: &D) -> (Instant, Vec<Page>) {
    let export = db.export().await.expect("export");
    (export.instant, export.pages.try_collect().await.expect("pages"))
}

/// All rows by table, in order of their keys.
fn rows(pages: &[Page]) -> BTreeMap<&'static str, Vec<Row>> {
    let mut rows: BTreeMap<&'static str, Vec<Row>> = BTreeMap::new();
    for page in pages {
        rows.entry(page.table.name).or_default().extend(page.rows.iter().cloned());
    }
    rows
}

async fn fill<D: LeaseDb>(
    db: &D,
    instant: &Instant,
    epoch: u64,
    pages: Vec<Page>,
) -> Result<ImportOutcome, LeaseDbError> {
    db.import(Import::new(instant, Epoch(epoch)), stream::iter(pages.into_iter().map(Ok)).boxed()).await
}

/// A database with something in every table.
async fn furnished<M: MakeLeaseDb>() -> (Bench<M::Db>, AccountId) {
    let bench = Bench::new::<M>().await;
    let (alice, bob) = (bench.account("alice", Some(1 << 30)).await, bench.account("bob", None).await);
    let carol = bench.account("carol", None).await;
    let state = Some(AccountState::Suspended);
    bench.set(bob, AccountChange { state, message: Some("pay".to_owned()), ..AccountChange::default() }).await;
    assert!(bench.db.rotate_credential(alice, credential("alice 2"), 3600).await.expect("rotated"));
    assert!(bench.db.close_account(carol, None).await.expect("closed"));
    // A share whose only lease ends.
    bench.bucket_share(alice, share_id(7, 0), 70).await;
    bench.clock.advance(40 * DAY_SECONDS);
    let leases = bench.db.lease_page(None, 10).await.expect("lease_page").leases;
    let expire = ExpireLeases { run: RunId(1), policy: ExpirePolicy::default(), epoch: FIRST_EPOCH, leases };
    let expired = bench.db.expire_leases(expire).await.expect("expire_leases");
    assert!(matches!(expired, ExpireOutcome::Removed { unleased: 1, .. }), "{expired:?}");
    for number in 0..4 {
        bench.bucket_share(alice, share_id(1, number), 100 + u64::from(number)).await;
    }
    bench.allocate(alice, storage_index(6), &[0], 100).await;
    for range in [0..10, 10..60, 60..100] {
        bench.record(share_id(6, 0), range).await;
    }
    bench.slot_share(alice, share_id(2, 0), 50).await;
    bench.slot_share(alice, share_id(2, 0), 60).await;
    bench.bucket_share(alice, share_id(4, 0), 0x1_0000).await;
    bench.allocate(alice, storage_index(5), &[0, 1], 1000).await;
    bench.record(share_id(5, 0), 0..10).await;
    let reason = "the hash does not match".to_owned();
    let advisory = Advisory { share: share_id(1, 0), kind: ShareKind::Immutable, account: alice, reason };
    bench.db.advise(advisory).await.expect("advise");
    let begin = BeginRun { kind: RunKind::Audit, dry_run: true, policy: "all".to_owned() };
    let begun = bench.db.begin_run(begin).await.expect("begin_run");
    let BeginRunOutcome::Begun(Run { id, .. }) = begun else { panic!("{begun:?}") };
    let end = FinishRun { id, state: RunState::Done, totals: Totals::default(), reason: String::new() };
    assert!(bench.db.finish_run(end).await.expect("finish_run"));
    // Removed, with what puts it back.
    bench.write(alice, storage_index(8), &[(0, Some(10)), (1, Some(10))]).await;
    bench.write(alice, storage_index(8), &[(0, None)]).await;
    (bench, alice)
}

pub async fn an_export_fills_an_empty_database_exactly<M: MakeLeaseDb>() {
    let (bench, alice) = furnished::<M>().await;
    let (instant, pages) = export(&*bench.db).await;
    let before = rows(&pages);
    for table in TABLES.iter().filter(|table| table.name != "losses") {
        assert!(before.contains_key(table.name), "the case has nothing in {}", table.name);
    }
    let other = Bench::new::<M>().await;
    other.clock.advance(40 * DAY_SECONDS + 60);
    assert!(other.db.is_empty().await.expect("is_empty") && !bench.db.is_empty().await.expect("is_empty"));
    assert_eq!(fill(&*other.db, &instant, 7, pages).await.expect("import"), ImportOutcome::Done);
    let (restored, pages) = export(&*other.db).await;
    let mut after = rows(&pages);
    let losses = after.remove("losses").expect("one");
    let numbers: Vec<_> = losses[0].iter().filter_map(|value| value.integer()).collect();
    assert_eq!((losses.len(), numbers), (1, vec![7, instant.taken_at.seconds(), other.clock.now().seconds()]));
    assert_eq!(after, before, "every row of every table");
    assert_eq!((restored.deployment, restored.epoch, restored.mode), (instant.deployment, Epoch(7), Mode::Recovery));
    assert!(restored.accounts_version > instant.accounts_version, "no process has cached it");
    assert_eq!(other.db.deployment().await.expect("deployment").backed_up_until, Some(to_the_second(instant.taken_at)));
    // Uploads are gone, and what they had reserved (C3).
    assert!(other.db.find_upload(share_id(5, 0)).await.expect("find_upload").1.is_none());
    let (was, is) = (bench.usage(alice).await, other.usage(alice).await);
    assert_eq!((is.used_bytes, is.shares, is.reserved_bytes), (was.used_bytes, was.shares, 0));
    assert!(was.reserved_bytes > 0);
    let opened = other.db.find_credential(credential("alice 2")).await.expect("find_credential").expect("it opens");
    assert_eq!((opened.account.id, opened.account.quota_bytes), (alice, Some(1 << 30)));
    assert!(other.db.claim_garbage(Epoch(7), 10, 60).await.expect("claim_garbage").is_empty(), "recovery mode");
}

/// A moment as the database keeps it.
fn to_the_second(at: Timestamp) -> Timestamp {
    Timestamp::from_seconds(at.seconds())
}

pub async fn a_database_with_anything_in_it_is_not_filled<M: MakeLeaseDb>() {
    let (bench, _) = furnished::<M>().await;
    let (instant, pages) = export(&*bench.db).await;
    let other = Bench::new::<M>().await;
    other.account("dave", None).await;
    let before = rows(&export(&*other.db).await.1);
    assert_eq!(fill(&*other.db, &instant, 7, pages).await.expect("import"), ImportOutcome::NotEmpty);
    let (after, pages) = export(&*other.db).await;
    assert_eq!((rows(&pages), after.epoch), (before, FIRST_EPOCH));
}

pub async fn an_import_that_breaks_off_changes_nothing<M: MakeLeaseDb>() {
    let (bench, _) = furnished::<M>().await;
    let (instant, pages) = export(&*bench.db).await;
    let other = Bench::new::<M>().await;
    let before = rows(&export(&*other.db).await.1);
    for good in [0, 1, pages.len() / 2, pages.len()] {
        let broken = || Err(LeaseDbError::Unavailable("the backend is away".into()));
        let some = pages[..good].iter().cloned().map(Ok).chain([broken()]).collect::<Vec<_>>();
        let import = Import::new(&instant, Epoch(7));
        other.db.import(import, stream::iter(some).boxed()).await.expect_err("it broke off");
        let leases = |page: &&Page| page.table.role == Role::Follower;
        let without_shares: Vec<_> = pages.iter().filter(leases).cloned().collect();
        fill(&*other.db, &instant, 7, without_shares).await.expect_err("leases without shares");
        let (after, pages) = export(&*other.db).await;
        assert_eq!((rows(&pages), after.epoch, after.mode), (before.clone(), FIRST_EPOCH, Mode::Normal));
        assert!(other.db.is_empty().await.expect("is_empty"));
    }
    assert_eq!(fill(&*other.db, &instant, 7, pages).await.expect("import"), ImportOutcome::Done);
}

pub async fn numbers_go_on_behind_all_that_may_have_been_given_away<M: MakeLeaseDb>() {
    let (bench, _) = furnished::<M>().await;
    let (instant, pages) = export(&*bench.db).await;
    let greatest = rows(&pages)["accounts"].iter().filter_map(|row| row[0].unsigned()).max().expect("accounts");
    let garbage = rows(&pages)["garbage"].iter().filter_map(|row| row[0].unsigned()).max().expect("garbage");
    // The same backup is restored twice; in between others were made that it knows nothing of (C5).
    let mut given = vec![bench.account("lost", None).await];
    for epoch in [2, 3] {
        let other = Bench::new::<M>().await;
        fill(&*other.db, &instant, epoch, pages.clone()).await.expect("import");
        for name in ["erin", "frank"] {
            given.push(other.account(name, None).await);
        }
        let least = given[given.len() - 2].get();
        assert!(u64::from(least) > greatest + (1 << 20) * (epoch - 1), "{least} in epoch {epoch}");
        // A deleter of before still holds numbers of garbage: they mean nothing else here.
        let commit = other.commit(given[given.len() - 1], storage_index(8), None, &[(0, Some(10))]);
        let object = commit_names(&commit)[0];
        other.db.discard_objects(vec![object]).await.expect("discard_objects");
        let (_, pages) = export(&*other.db).await;
        let newest = rows(&pages)["garbage"].iter().filter_map(|row| row[0].unsigned()).max().expect("garbage");
        assert!(newest > garbage + (1 << 20));
    }
    let count = given.len();
    given.sort_unstable();
    given.dedup();
    assert_eq!(given.len(), count, "no number twice: {given:?}");
}

pub async fn a_run_that_was_under_way_is_over<M: MakeLeaseDb>() {
    let (bench, _) = furnished::<M>().await;
    let begin = || BeginRun { kind: RunKind::Backup, dry_run: false, policy: String::new() };
    // As every backup is: part of itself.
    bench.db.begin_run(begin()).await.expect("begin_run");
    let (instant, pages) = export(&*bench.db).await;
    let other = Bench::new::<M>().await;
    fill(&*other.db, &instant, 7, pages).await.expect("import");
    let run = other.db.list_runs(Some(RunKind::Backup), 1).await.expect("list_runs").remove(0);
    assert_eq!((run.state, run.finished_at), (RunState::Abandoned, Some(run.alive_at)));
    assert!(run.reason.contains("restored"), "{}", run.reason);
    let next = other.db.begin_run(begin()).await.expect("begin_run");
    assert!(matches!(next, BeginRunOutcome::Begun(begun) if begun.id > run.id), "nothing to wait for");
}

pub async fn an_export_is_one_instant_however_long_it_takes<M: MakeLeaseDb>() {
    let (bench, alice) = furnished::<M>().await;
    // More than one page of accounts, so that the rest is read later.
    for number in 0..1100 {
        let name = format!("a{number}");
        let made = bench.db.create_account(name.clone(), AccountChange::default(), credential(&name)).await;
        assert!(matches!(made.expect("create_account"), CreateOutcome::Created(_)));
    }
    let expected = rows(&export(&*bench.db).await.1);
    let mut slow = bench.db.export().await.expect("export");
    let first = slow.pages.next().await.expect("a page").expect("accounts");
    assert!(first.table == &ACCOUNTS && first.rows.len() == 1000);
    bench.bucket_share(alice, share_id(9, 0), 5000).await;
    bench.slot_share(alice, share_id(2, 0), 70).await;
    bench.account("late", None).await;
    assert!(bench.db.close_account(alice, None).await.expect("closed"));
    let mut pages = vec![first];
    while let Some(page) = slow.pages.next().await {
        pages.push(page.expect("a page"));
    }
    assert_eq!(rows(&pages), expected);
    let mut recount = Recount::default();
    pages.iter().try_for_each(|page| recount.page(page)).expect("every lease has its share");
    assert_eq!(recount.disagreements(), [], "counters and leases are of the same instant");
    assert!(recount.rows()[index_of(&ACCOUNT_USAGE)] > 1000);
    drop(bench.db.export().await.expect("an export that nobody reads"));
    bench.account("later", None).await;
}

pub async fn garbage_waits_for_a_backup_that_does_not_name_it<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, share) = (bench.account("alice", None).await, share_id(1, 0));
    let first = bench.slot_share(alice, share, 100).await;
    let note = async |until| bench.db.note_backup(FIRST_EPOCH, until).await.expect("note_backup");
    let second = bench.slot_share(alice, share, 101).await;
    bench.clock.advance(SUPERSEDED_GRACE_SECONDS + 1);
    assert_eq!(bench.take_garbage().await, [first], "there is no backup to wait for");
    // A backup that names the second object.
    let begun = bench.clock.now();
    note(begun).await;
    bench.clock.advance(1);
    let third = bench.slot_share(alice, share, 102).await;
    bench.clock.advance(SUPERSEDED_GRACE_SECONDS + UNDO_SECONDS);
    assert!(bench.take_garbage().await.is_empty(), "the newest backup names it");
    note(begun).await;
    bench.db.note_backup(Epoch(9), bench.clock.now()).await.expect("of another epoch: no effect");
    assert!(bench.take_garbage().await.is_empty());
    // Made just before the next backup began: a transaction under way is not in it.
    let fourth = bench.slot_share(alice, share, 103).await;
    bench.clock.advance(IN_FLIGHT_SECONDS - 1);
    note(bench.clock.now()).await;
    bench.clock.advance(UNDO_SECONDS);
    assert_eq!(bench.take_garbage().await, [second]);
    note(bench.clock.now()).await;
    assert_eq!(bench.take_garbage().await, [third]);
    note(begun).await;
    let noted = bench.db.deployment().await.expect("deployment").backed_up_until;
    assert_eq!(noted, Some(to_the_second(bench.clock.now())), "an older backup takes nothing back");
    bench.clock.advance(UNDO_SECONDS);
    assert!(!bench.take_garbage().await.contains(&fourth));
}
