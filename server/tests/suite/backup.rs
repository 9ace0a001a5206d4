//! Backups and restores as pods and operators see them: `design.md` 11 and 12, `review.md` C2, C3, C4, C5.

mod commands;
mod damage;
mod moved;
mod schema;
mod traffic;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use leasehold_core::account::AccountState;
use leasehold_core::accountant::Session;
use leasehold_core::backend::Backend;
use leasehold_core::backup::backups::ListedBackup;
use leasehold_core::backup::error::BackupError;
use leasehold_core::backup::keep::Keep;
use leasehold_core::backup::row::Row;
use leasehold_core::backup::{BACKUP_FOLDER, BackupName, IN_FLIGHT_SECONDS};
use leasehold_core::beat::BEAT_SECONDS;
use leasehold_core::chunk::ObjectName;
use leasehold_core::clock::Clock;
use leasehold_core::expiry::{ExpireLeases, ExpireOutcome, ExpirePolicy};
use leasehold_core::id::ShareId;
use leasehold_core::lease::{DAY_SECONDS, LEASE_DURATION_SECONDS};
use leasehold_core::leasedb::{
    AccountChange, Epoch, LeaseDb, Mode, SUPERSEDED_GRACE_SECONDS, TickOutcome, UNDO_SECONDS,
};
use leasehold_core::run::{RunId, RunKind, RunState};
use leasehold_core::share::ShareKind;
use leasehold_core::store::{Store, StoreError, StoreOptions};
use leasehold_core::testing::faulty::{Fault, Faults, FaultyBackend, FaultyLeaseDb, Site as CallSite};
use leasehold_core::testing::{body, credential, enabler, share_id, upload_secret};
use leasehold_server::jobs::backup::{self as job, BackupOutcome};
use leasehold_server::jobs::progress::Progress;
use leasehold_server::jobs::reconcile::{self, ReconcileOptions};

use crate::ground::{Ground, on_every_ground};
use crate::store::held::Held;
use crate::store::pattern;
use crate::store::site::{IDLE_SECONDS, Pod, Site, one_share, removal};

const SIZE: u64 = 200;

on_every_ground! {
    a_lost_database_is_restored_to_the_row_and_every_share_can_be_read,
    c2_what_the_newest_backup_names_is_not_deleted,
    c2_an_older_backup_names_what_is_gone_and_nothing_is_lost,
    c2_backups_of_others_hold_deletion_back_as_long_as_is_said,
    c3_an_upload_does_not_outlive_a_restore,
    b4_no_lease_ends_within_its_time_after_a_restore,
    c4_a_deleter_that_slept_over_a_restore_deletes_nothing,
    c4_a_pod_of_before_the_restore_notices_at_its_next_tick,
    c5_what_was_made_after_the_backup_keeps_its_numbers_to_itself,
    half_a_backup_is_none_and_is_removed_some_day,
    old_backups_are_removed_and_half_a_removal_is_no_damage,
    one_backup_is_taken_at_a_time,
    a_backup_of_unknown_outcome_holds_nothing_back,
}

/// Everything in a lease database.
pub async fn everything<L: LeaseDb>(db: &L) -> BTreeMap<&'static str, Vec<Row>> {
    let mut rows: BTreeMap<&'static str, Vec<Row>> = BTreeMap::new();
    let mut pages = db.export().await.expect("export").pages;
    while let Some(page) = pages.try_next().await.expect("a page") {
        rows.entry(page.table.name).or_default().extend(page.rows);
    }
    rows
}

/// Takes a backup that is the newest one.
pub async fn back_up<L: LeaseDb, B: Backend>(store: &Store<L, B>) -> ListedBackup {
    let manifest = store.back_up(|_| ()).await.expect("a backup");
    let newest = store.backups().find(None).await.expect("there is one");
    assert_eq!(newest.name, manifest.name);
    newest
}

/// Uploads a share in ten pieces.
async fn scatter<L: LeaseDb, B: Backend>(pod: &Pod<L, B>, session: &Session, share: ShareId) {
    pod.allocate(session, share, SIZE).await;
    for start in (0..SIZE).step_by(20) {
        let bytes = body(&pattern(start..start + 20));
        pod.store.write_bucket(share, &upload_secret(1), start..start + 20, bytes).await.expect("a piece");
    }
}

async fn remove<L: LeaseDb, B: Backend>(pod: &Pod<L, B>, session: &Session, share: ShareId) {
    let (request, payload) = (one_share(share.number.get(), removal()), Bytes::new());
    let written = pod.store.read_test_write(session, share.storage_index, &enabler(1), &request, &payload).await;
    assert!(written.expect("written").success);
}

/// The lease database is gone and another one is in its place, empty; whoever was connected is so to that one.
async fn lose<G: Ground>(site: &Site<G>, empty: &G::Past) {
    site.ground.roll_back(empty).await;
    site.ground.execute("UPDATE deployment SET accounts_version = 77").await;
    assert!(site.db.is_empty().await.expect("is_empty"));
}

async fn restore<L: LeaseDb, B: Backend>(store: &Store<L, B>, name: BackupName) -> Epoch {
    let backup = store.backups().find(Some(name)).await.expect("it is there");
    store.restore(&backup, |_| ()).await.expect("restored").epoch
}

async fn a_lost_database_is_restored_to_the_row_and_every_share_can_be_read<G: Ground>() {
    let site = Site::<G>::make().await;
    let (pod, empty) = (site.pod(site.objects.clone()), site.ground.keep().await);
    pod.store.claim_backend().await.expect("claimed");
    let (alice, bob) = (site.account("alice").await, site.account("bob").await);
    let state = Some(AccountState::ReadOnly);
    site.db.change_account(bob.account.id, AccountChange { state, ..AccountChange::default() }).await.expect("changed");
    scatter(&pod, &alice, share_id(1, 0)).await;
    pod.store.renew_leases(&bob, share_id(1, 0).storage_index).await.expect("leased");
    pod.upload(&alice, share_id(1, 1), b"another of the bucket").await;
    pod.write_slot(&alice, share_id(2, 0), b"first").await;
    pod.write_slot(&alice, share_id(2, 0), b"second").await;
    pod.allocate(&alice, share_id(3, 0), 100).await;
    let (used, _) = site.usage("alice").await;
    let backup = back_up(&pod.store).await;
    let before = everything(&site.db).await;

    lose(&site, &empty).await;
    assert_eq!(restore(&pod.store, backup.name).await, Epoch(2));
    let mut after = everything(&site.db).await;
    assert_eq!(after.remove("losses").map_or(0, |losses| losses.len()), 1);
    assert_eq!(after, before);
    assert_eq!(site.db.deployment().await.expect("deployment").mode, Mode::Recovery);
    assert!(matches!(pod.store.claim_backend().await, Ok(leasehold_core::store::Claim::Ours)));
    assert_eq!(pod.read(ShareKind::Immutable, share_id(1, 0)).await, pattern(0..SIZE));
    assert_eq!(pod.read(ShareKind::Immutable, share_id(1, 1)).await, b"another of the bucket");
    assert_eq!(pod.read(ShareKind::Mutable, share_id(2, 0)).await, b"second");
    assert_eq!(site.usage("alice").await, (used, 0), "what the upload had reserved is free");
    // Service goes on: the credential opens, the write enabler holds, the heart beats in the new epoch.
    assert!(site.db.find_credential(credential("alice")).await.expect("find_credential").is_some());
    site.clock.advance(BEAT_SECONDS);
    let Some(TickOutcome::Beat { beat, .. }) = pod.store.tick().await.expect("a tick") else { panic!("a loss") };
    assert_eq!((beat.epoch, beat.beat), (Epoch(2), 1));
    pod.write_slot(&alice, share_id(2, 0), b"third").await;
    assert_eq!(pod.read(ShareKind::Mutable, share_id(2, 0)).await, b"third");
    pod.upload(&alice, share_id(3, 0), b"from the beginning").await;
    // It can be backed up and restored again.
    let again = back_up(&pod.store).await;
    assert!(again.name > backup.name);
    lose(&site, &empty).await;
    assert_eq!(restore(&pod.store, again.name).await, Epoch(3));
    assert_eq!(pod.read(ShareKind::Immutable, share_id(3, 0)).await, b"from the beginning");
}

async fn c2_what_the_newest_backup_names_is_not_deleted<G: Ground>() {
    let site = Site::<G>::make().await;
    let (pod, empty) = (site.pod(site.objects.clone()), site.ground.keep().await);
    let alice = site.account("alice").await;
    let (merged, written, removed) = (share_id(1, 0), share_id(2, 0), share_id(3, 0));
    scatter(&pod, &alice, merged).await;
    pod.write_slot(&alice, written, b"as of the backup").await;
    pod.write_slot(&alice, removed, b"still there").await;
    let backup = back_up(&pod.store).await;
    pod.write_slot(&alice, written, b"written since").await;
    remove(&pod, &alice, removed).await;
    site.clock.advance(DAY_SECONDS + 60);
    assert_eq!(pod.store.collect(|_| ()).await.expect("collect").shares_merged, 1);
    site.clock.advance(UNDO_SECONDS + SUPERSEDED_GRACE_SECONDS);
    assert_eq!(pod.store.collect(|_| ()).await.expect("collect").objects_deleted, 0);
    assert_eq!(pod.read(ShareKind::Immutable, merged).await, pattern(0..SIZE));

    lose(&site, &empty).await;
    restore(&pod.store, backup.name).await;
    // Before anything is settled: no row of the backup names what is gone.
    let listed: Vec<String> = site.listed("shares/").await.into_iter().map(|object| object.name).collect();
    for share in [merged, written, removed] {
        let row = site.db.find_share(share).await.expect("find_share").expect("as of the backup");
        for object in row.locator.objects() {
            assert!(listed.contains(&ObjectName::new(share, object).to_string()), "{share} dangles");
        }
    }
    assert_eq!(pod.read(ShareKind::Immutable, merged).await, pattern(0..SIZE));
    assert_eq!(pod.read(ShareKind::Mutable, written).await, b"written since", "the newest commit (C1)");
    assert!(!pod.has(ShareKind::Mutable, removed).await, "what was removed since stays so");
    // A newer backup lets go what the older one held.
    let site = Site::<G>::make().await;
    let pod = site.pod(site.objects.clone());
    let alice = site.account("alice").await;
    scatter(&pod, &alice, merged).await;
    back_up(&pod.store).await;
    site.clock.advance(DAY_SECONDS + 60);
    assert_eq!(pod.store.collect(|_| ()).await.expect("collect").shares_merged, 1);
    site.clock.advance(IN_FLIGHT_SECONDS + 1);
    assert_eq!(pod.store.collect(|_| ()).await.expect("collect").objects_deleted, 0);
    back_up(&pod.store).await;
    assert_eq!(pod.store.collect(|_| ()).await.expect("collect").objects_deleted, 10);
    assert_eq!(pod.read(ShareKind::Immutable, merged).await, pattern(0..SIZE));
}

async fn c2_backups_of_others_hold_deletion_back_as_long_as_is_said<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let with = |restore_horizon_seconds| {
        let options = StoreOptions { restore_horizon_seconds, ..StoreOptions::default() };
        Pod { store: site.store_with(site.db.clone(), site.objects.clone(), options) }
    };
    let deleted =
        async |pod: &Pod<G::Db, G::Objects>| pod.store.collect(|_| ()).await.expect("collect").objects_deleted;
    let pod = with(Some(3 * DAY_SECONDS));
    pod.write_slot(&alice, share_id(1, 0), b"first").await;
    pod.write_slot(&alice, share_id(1, 0), b"second").await;
    site.clock.advance(3 * DAY_SECONDS + IN_FLIGHT_SECONDS - 1);
    assert_eq!(deleted(&pod).await, 0);
    site.clock.advance(600);
    assert_eq!(deleted(&pod).await, 1);
    // Backups of ours were taken once, and were given up for good.
    back_up(&pod.store).await;
    pod.write_slot(&alice, share_id(1, 0), b"third").await;
    let pod = with(None);
    site.clock.advance(30 * DAY_SECONDS);
    assert_eq!(deleted(&pod).await, 0, "the next one may come yet");
    assert_eq!(deleted(&with(Some(0))).await, 1);
}

/// Everything that was there is read, is leased and charged as it was, and recovery ends by itself.
async fn c2_an_older_backup_names_what_is_gone_and_nothing_is_lost<G: Ground>() {
    let site = Site::<G>::make().await;
    let (pod, empty) = (site.pod(site.objects.clone()), site.ground.keep().await);
    pod.store.claim_backend().await.expect("claimed");
    let alice = site.account("alice").await;
    let (merged, written, later) = (share_id(1, 0), share_id(2, 0), share_id(3, 0));
    scatter(&pod, &alice, merged).await;
    pod.write_slot(&alice, written, b"as of the backup").await;
    let older = back_up(&pod.store).await;
    pod.write_slot(&alice, written, b"written since").await;
    scatter(&pod, &alice, later).await;
    site.clock.advance(DAY_SECONDS + 60);
    assert_eq!(pod.store.collect(|_| ()).await.expect("collect").shares_merged, 2);
    site.clock.advance(SUPERSEDED_GRACE_SECONDS + IN_FLIGHT_SECONDS + 1);
    back_up(&pod.store).await;
    let gone = pod.store.collect(|_| ()).await.expect("collect").objects_deleted;
    assert_eq!(gone, 10 + 10 + 1, "rows of the older backup name the first and the last of them");
    let usage = site.usage("alice").await;

    lose(&site, &empty).await;
    restore(&pod.store, older.name).await;
    let read_all = async || {
        assert_eq!(pod.read(ShareKind::Immutable, merged).await, pattern(0..SIZE));
        assert_eq!(pod.read(ShareKind::Immutable, later).await, pattern(0..SIZE), "acknowledged after the backup (C3)");
        assert_eq!(pod.read(ShareKind::Mutable, written).await, b"written since", "the newest commit (C1)");
    };
    read_all().await;
    assert_eq!(site.usage("alice").await, usage, "as before the loss");
    assert_eq!(site.ground.number("SELECT count(*) FROM shares WHERE state <> 1").await, 0, "none is lost");
    let pod_store = Arc::new(site.store(site.db.clone(), site.objects.clone()));
    let options = ReconcileOptions { dry_run: false, workers: 2, slowly: false };
    let run = reconcile::run(&pod_store, options, &Arc::new(Progress::in_log("comparing"))).await.expect("a run");
    assert_eq!(run.state, RunState::Done, "{}", run.reason);
    site.clock.advance(3600);
    pod.store.tick().await.expect("a tick");
    assert_eq!(site.db.deployment().await.expect("deployment").mode, Mode::Normal);
    read_all().await;
    assert_eq!(site.usage("alice").await, usage);
    site.assert_clean(&["alice"], &[1, 2, 3]).await;
}

async fn c3_an_upload_does_not_outlive_a_restore<G: Ground>() {
    let site = Site::<G>::make().await;
    let (fast, empty) = (site.pod(site.objects.clone()), site.ground.keep().await);
    let alice = site.account("alice").await;
    let share = share_id(1, 0);
    fast.allocate(&alice, share, 100).await;
    fast.store.write_bucket(share, &upload_secret(1), 0..60, body(&pattern(0..60))).await.expect("a part");
    let older = back_up(&fast.store).await;
    // A pod falls asleep before it stores the other part; the upload times out, and the first part is deleted.
    let faults = Faults::new();
    let slow = site.store(site.db.clone(), FaultyBackend::new(site.objects.clone(), faults.clone()));
    faults.begin("write_bucket", Some((0, Fault::Freeze)));
    let writing =
        tokio::spawn(
            async move { slow.write_bucket(share, &upload_secret(1), 60..100, body(&pattern(60..100))).await },
        );
    faults.frozen().await;
    site.clock.advance(IDLE_SECONDS + 1);
    assert_eq!(fast.store.collect(|_| ()).await.expect("collect").uploads_ended, 1);
    site.clock.advance(SUPERSEDED_GRACE_SECONDS + IN_FLIGHT_SECONDS + 1);
    back_up(&fast.store).await;
    assert_eq!(fast.store.collect(|_| ()).await.expect("collect").objects_deleted, 1);
    lose(&site, &empty).await;
    restore(&fast.store, older.name).await;
    faults.thaw();
    let late = writing.await.expect("the write ends");
    assert!(matches!(late, Err(StoreError::NotFound)), "{late:?}");
    assert!(fast.numbers(ShareKind::Immutable, share).await.is_empty());
    assert_eq!(site.usage("alice").await, (0, 0));
}

async fn b4_no_lease_ends_within_its_time_after_a_restore<G: Ground>() {
    let site = Site::<G>::make().await;
    let (pod, empty) = (site.pod(site.objects.clone()), site.ground.keep().await);
    let alice = site.account("alice").await;
    pod.upload(&alice, share_id(1, 0), b"renewed since the backup").await;
    let backup = back_up(&pod.store).await;
    site.clock.advance(30 * DAY_SECONDS);
    pod.store.renew_leases(&alice, share_id(1, 0).storage_index).await.expect("renewed");
    site.clock.advance(10 * DAY_SECONDS);
    lose(&site, &empty).await;
    let epoch = restore(&pod.store, backup.name).await;
    let removed = async || {
        let leases = site.db.lease_page(None, 10).await.expect("lease_page").leases;
        let request = ExpireLeases { run: RunId(1), policy: ExpirePolicy::default(), epoch, leases };
        match site.db.expire_leases(request).await.expect("expire_leases") {
            ExpireOutcome::Removed { leases, .. } => Some(leases.count),
            ExpireOutcome::Forbidden => None,
        }
    };
    assert_eq!(removed().await, None, "recovery mode");
    site.ground.execute("UPDATE deployment SET mode = 0").await;
    assert_eq!(removed().await, Some(0), "the renewal was lost with the database, not the promise");
    site.clock.advance(LEASE_DURATION_SECONDS - 60);
    assert_eq!(removed().await, Some(0));
    site.clock.advance(2 * DAY_SECONDS);
    assert_eq!(removed().await, Some(1));
}

async fn c4_a_deleter_that_slept_over_a_restore_deletes_nothing<G: Ground>() {
    let site = Site::<G>::make().await;
    let (pod, empty) = (site.pod(site.objects.clone()), site.ground.keep().await);
    let alice = site.account("alice").await;
    let share = share_id(1, 0);
    pod.write_slot(&alice, share, b"needed again").await;
    let older = back_up(&pod.store).await;
    remove(&pod, &alice, share).await;
    site.clock.advance(UNDO_SECONDS + 1);
    let faults = Faults::new();
    let sleeper = site.store(
        FaultyLeaseDb::new(site.db.clone(), faults.clone()),
        FaultyBackend::new(site.objects.clone(), faults.clone()),
    );
    // It falls asleep between its claim and its last look: of the calls, the one behind the first claim.
    faults.begin("collect", None);
    assert_eq!(sleeper.collect(|_| ()).await.expect("collect").objects_deleted, 0, "not yet due");
    let claim = CallSite::Db("claim_garbage");
    let at = faults.end().calls.iter().position(|call| *call == claim).expect("it claims");
    back_up(&pod.store).await;
    faults.begin("collect", Some((at + 1, Fault::Freeze)));
    let collecting = tokio::spawn(async move { sleeper.collect(|_| ()).await });
    faults.frozen().await;
    lose(&site, &empty).await;
    assert_eq!(restore(&pod.store, older.name).await, Epoch(2));
    let row = site.db.find_share(share).await.expect("find_share").expect("a row names it again");
    let name = ObjectName::new(share, row.locator.objects()[0]);
    faults.thaw();
    let collected = collecting.await.expect("it ends").expect("collect");
    assert_eq!(collected.objects_deleted, 0);
    let calls = faults.end().calls;
    assert_eq!(calls[at], claim, "it was asleep with its claim");
    assert!(!calls.contains(&CallSite::Backend("delete")));
    assert_eq!(site.listed(&name.to_string()).await.len(), 1);
}

async fn c4_a_pod_of_before_the_restore_notices_at_its_next_tick<G: Ground>() {
    // Two databases over one backend: the old one was not as lost as it seemed.
    let (old, new) = (Site::<G>::make().await, Site::<G>::make().await);
    let alice = old.account("alice").await;
    let pod = old.pod(old.objects.clone());
    pod.write_slot(&alice, share_id(1, 0), b"first").await;
    let backup = back_up(&pod.store).await;
    pod.write_slot(&alice, share_id(1, 0), b"second").await;
    old.clock.advance(SUPERSEDED_GRACE_SECONDS + 1);
    old.db.note_backup(Epoch(1), old.clock.now()).await.expect("note_backup");
    old.clock.advance(IN_FLIGHT_SECONDS + 1);
    old.db.note_backup(Epoch(1), old.clock.now()).await.expect("note_backup");
    let restored = old.store(new.db.clone(), old.objects.clone());
    assert_eq!(restore(&restored, backup.name).await, Epoch(2));
    // It has garbage that is due, and the newest beat is its own, but for the one that the restore put.
    assert_eq!(pod.store.collect(|_| ()).await.expect("collect").objects_deleted, 0);
    old.clock.advance(BEAT_SECONDS);
    assert_eq!(pod.store.tick().await.expect("a tick"), Some(TickOutcome::Loss(Epoch(3))));
    let restored = Pod { store: restored };
    assert_eq!(restored.read(ShareKind::Mutable, share_id(1, 0)).await, b"second", "what it acknowledged is not lost");
}

async fn c5_what_was_made_after_the_backup_keeps_its_numbers_to_itself<G: Ground>() {
    let site = Site::<G>::make().await;
    let (pod, empty) = (site.pod(site.objects.clone()), site.ground.keep().await);
    let alice = site.account("alice").await;
    let backup = back_up(&pod.store).await;
    let mut given = vec![alice.account.id, site.account("made since").await.account.id];
    for epoch in [2, 3] {
        lose(&site, &empty).await;
        assert_eq!(restore(&pod.store, backup.name).await, Epoch(epoch));
        let made = site.account("another").await;
        pod.upload(&made, share_id(epoch as u8, 0), b"charged to whom it belongs").await;
        given.push(made.account.id);
    }
    let count = given.len();
    given.sort_unstable();
    given.dedup();
    assert_eq!(given.len(), count, "{given:?}");
    assert_eq!(given.iter().filter(|id| id.get() > (1 << 20)).count(), 2);
}

async fn half_a_backup_is_none_and_is_removed_some_day<G: Ground>() {
    let site = Site::<G>::make().await;
    let (pod, empty) = (site.pod(site.objects.clone()), site.ground.keep().await);
    site.account("alice").await;
    let whole = back_up(&pod.store).await;
    let faults = Faults::new();
    let dying = Arc::new(site.store(site.db.clone(), FaultyBackend::new(site.objects.clone(), faults.clone())));
    // Calls of the backend: marks, backups, then the part and the manifest.
    for (call, fault) in [(2, Fault::CrashAfter), (3, Fault::CrashBefore), (3, Fault::TornCrash)] {
        site.clock.advance(60);
        faults.begin("back_up", Some((call, fault)));
        assert!(faults.run(dying.back_up(|_| ())).await.is_none());
        assert_eq!(faults.end().struck.map(|(site, _)| site), Some(CallSite::Backend("put")));
    }
    let backups = pod.store.backups();
    let listed = backups.list().await.expect("a list");
    assert_eq!(listed.iter().filter(|backup| backup.is_complete()).count(), 1);
    assert_eq!(listed.len(), 4);
    assert_eq!(site.db.deployment().await.expect("deployment").backed_up_until.map(|at| at.seconds()), {
        let manifest = backups.read_manifest(&whole).await.expect("a manifest");
        Some(manifest.instant.taken_at.seconds())
    });
    let unknown = backups.find(Some(listed[3].name)).await.expect_err("it was never finished");
    assert!(matches!(unknown, BackupError::Unknown(_)), "{unknown}");
    lose(&site, &empty).await;
    let newest = backups.find(None).await.expect("the whole one");
    assert_eq!(newest.name, whole.name);
    restore(&pod.store, newest.name).await;
    // Its number is not used again, and after a day what is left of it goes.
    let next = back_up(&pod.store).await;
    assert_eq!(next.name.number, 5);
    backups.remove_old(Keep::default()).await.expect("removed");
    let unfinished = backups.list().await.expect("a list").iter().filter(|backup| !backup.is_complete()).count();
    assert_eq!(unfinished, 3, "somebody may still be at them");
    site.clock.advance(DAY_SECONDS + 60);
    back_up(&pod.store).await;
    assert_eq!(backups.remove_old(Keep::default()).await.expect("removed"), 3);
    assert!(backups.list().await.expect("a list").iter().all(ListedBackup::is_complete));
}

async fn old_backups_are_removed_and_half_a_removal_is_no_damage<G: Ground>() {
    let site = Site::<G>::make().await;
    let pod = site.pod(site.objects.clone());
    let alice = site.account("alice").await;
    let mut taken = Vec::new();
    for hour in 0..5 {
        pod.upload(&alice, share_id(hour, 0), b"one more").await;
        taken.push(back_up(&pod.store).await.name);
        site.clock.advance(3600);
    }
    let keep = Keep { hourly: 2, daily: 0, weekly: 0 };
    let faults = Faults::new();
    let dying = site.store(site.db.clone(), FaultyBackend::new(site.objects.clone(), faults.clone()));
    // Calls of the backend: the list, then the manifest of the newest one that goes.
    faults.begin("remove_old", Some((2, Fault::CrashBefore)));
    assert!(faults.run(dying.backups().remove_old(keep)).await.is_none());
    faults.end();
    let complete = async || {
        let listed = pod.store.backups().list().await.expect("a list");
        listed.into_iter().filter(ListedBackup::is_complete).map(|backup| backup.name).collect::<Vec<_>>()
    };
    let left = complete().await;
    assert_eq!(left.len(), 4);
    for name in &left {
        let backup = pod.store.backups().find(Some(*name)).await.expect("it is there");
        pod.store.backups().verify(&backup, |_| ()).await.expect("it is whole");
    }
    assert_eq!(pod.store.backups().remove_old(keep).await.expect("removed"), 2);
    assert_eq!(complete().await, taken[3..]);
    site.clock.advance(2 * DAY_SECONDS);
    let newest = back_up(&pod.store).await;
    pod.store.backups().remove_old(keep).await.expect("removed");
    let listed = pod.store.backups().list().await.expect("a list");
    assert_eq!(listed.iter().map(|backup| backup.name).collect::<Vec<_>>(), [taken[4], newest.name]);
}

async fn run<L: LeaseDb, B: Backend>(store: &Store<L, B>) -> anyhow::Result<BackupOutcome> {
    job::run(store, Keep::default(), &Progress::in_log("backing up")).await
}

async fn one_backup_is_taken_at_a_time<G: Ground>() {
    let site = Site::<G>::make().await;
    site.account("alice").await;
    let (held, gate) = Held::new(site.objects.clone());
    let (slow, fast) = (site.pod(held), site.pod(site.objects.clone()));
    let taking = tokio::spawn(async move { run(&slow.store).await.expect("a backup") });
    gate.stored().await;
    let BackupOutcome::Running(other) = run(&fast.store).await.expect("an answer") else { panic!("two at once") };
    assert_eq!((other.kind, other.state), (RunKind::Backup, RunState::Running));
    gate.open();
    assert!(matches!(taking.await.expect("it ends"), BackupOutcome::Taken(..)));
    let BackupOutcome::Taken(manifest, _) = run(&fast.store).await.expect("an answer") else { panic!("it is over") };
    let last = site.db.list_runs(Some(RunKind::Backup), 1).await.expect("runs").remove(0);
    assert_eq!((last.state, last.reason), (RunState::Done, manifest.name.to_string()));
    assert_eq!((last.totals.of("rows"), last.totals.of("accounts")), (manifest.rows(), 3));
    // What goes wrong is kept with the run, in words.
    let faults = Faults::new();
    let broken = site.store(site.db.clone(), FaultyBackend::new(site.objects.clone(), faults.clone()));
    faults.begin("back_up", Some((2, Fault::ErrorBefore)));
    run(&broken).await.expect_err("the backend is away");
    let last = site.db.list_runs(Some(RunKind::Backup), 1).await.expect("runs").remove(0);
    assert_eq!(last.state, RunState::Failed);
    assert!(last.reason.contains("backend"), "{}", last.reason);
}

async fn a_backup_of_unknown_outcome_holds_nothing_back<G: Ground>() {
    let site = Site::<G>::make().await;
    site.account("alice").await;
    let faults = Faults::new();
    let store = site.store(site.db.clone(), FaultyBackend::new(site.objects.clone(), faults.clone()));
    faults.begin("back_up", Some((3, Fault::ErrorAfter)));
    store.back_up(|_| ()).await.expect_err("the manifest was not confirmed");
    faults.end();
    // It is there all the same: complete, sound, and good for a restore.
    let found = store.backups().find(None).await.expect("there is one");
    store.backups().verify(&found, |_| ()).await.expect("it is whole");
    assert_eq!(site.db.deployment().await.expect("deployment").backed_up_until, None);
    assert_eq!(site.listed(BACKUP_FOLDER).await.len(), 2);
}
