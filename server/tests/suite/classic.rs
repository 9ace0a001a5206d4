//! Shares of Tahoe-LAFS servers. `vectors/classic` was made by `e2e/python/classic_tree.py` with the code of the released server,
//! and `described.json` is what that server reads there.

mod in_place;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use leasehold_core::accountant::Session;
use leasehold_core::backend::Backend;
use leasehold_core::chunk::ObjectName;
use leasehold_core::classic::Version;
use leasehold_core::clock::Timestamp;
use leasehold_core::id::{ShareId, ShareNumber, StorageIndex};
use leasehold_core::lease::{DAY_SECONDS, LEASE_DURATION_SECONDS};
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::share::ShareKind;
use leasehold_core::store::{StoreError, StoreOptions};
use leasehold_core::testing::enabler;
use leasehold_core::testing::faulty::{Fault, Faults, FaultyBackend};
use leasehold_server::jobs::import::{ImportTotals, Owners};
use leasehold_server::jobs::progress::Progress;
use leasehold_server::jobs::tree::{self, Tree};
use leasehold_server::jobs::{export, import};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::ground::{Ground, on_every_ground};
use crate::places;
use crate::store::site::{Pod, Site, one_share, replaced};

/// A share as the released server reads it.
#[derive(Deserialize)]
struct Described {
    r#type: String,
    version: u32,
    size_bytes: u64,
    sha256: String,
    leases: Vec<i64>,
}

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/classic")
}

/// Storage indexes of the vectors are one number sixteen times.
fn index(number: u8) -> StorageIndex {
    StorageIndex::new([number; 16])
}

fn indexes() -> Vec<StorageIndex> {
    (1..=8).map(index).collect()
}

fn share(number: u8, share: u8) -> ShareId {
    ShareId::new(index(number), ShareNumber::new(share))
}

fn described() -> BTreeMap<ShareId, Described> {
    let text = std::fs::read_to_string(vectors().join("described.json")).expect("vectors");
    let by_path: BTreeMap<String, Described> = serde_json::from_str(&text).expect("JSON");
    let id = |path: String| {
        let [_, index, number] = path.split('/').collect::<Vec<_>>()[..] else { panic!("{path}") };
        ShareId::new(index.parse().expect("a storage index"), ShareNumber::new(number.parse().expect("a number")))
    };
    by_path.into_iter().map(|(path, share)| (id(path), share)).collect()
}

fn kind(described: &Described) -> ShareKind {
    if described.r#type == "mutable" { ShareKind::Mutable } else { ShareKind::Immutable }
}

fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

#[test]
fn containers_are_read_as_the_released_server_reads_them() {
    let tree = Tree::new(&vectors());
    for (id, described) in described() {
        let incoming =
            tree::open(id, &tree.path(id)).expect("readable").unwrap_or_else(|damage| panic!("{id}: {damage}"));
        let container = &incoming.container;
        assert_eq!((container.kind, container.size_bytes), (kind(&described), described.size_bytes), "{id}");
        assert_eq!(container.version == Version::V1, described.version == 1, "{id}");
        let mut ends: Vec<i64> = incoming.leases.iter().map(|lease| lease.expires_at.seconds()).collect();
        ends.sort_unstable();
        assert_eq!(ends, described.leases, "{id}");
        let bytes = std::fs::read(tree.path(id)).expect("readable");
        let at = container.data_at();
        assert_eq!(sha256(&bytes[at.start as usize..at.end as usize]), described.sha256, "{id}");
    }
}

#[test]
fn what_is_no_container_is_told_with_its_reason() {
    let (whole, unreadable) = Tree::new(&vectors()).containers(index(7)).expect("readable");
    assert!(whole.is_empty());
    let file = |path: &Path| path.file_name().expect("a file").to_string_lossy().into_owned();
    let told: BTreeMap<String, String> = unreadable.into_iter().map(|u| (file(&u.path), u.reason)).collect();
    let reason = |file: &str| told[file].as_str();
    assert_eq!(reason("0"), "it ends within its header");
    for unknown in ["1", "4", "5"] {
        assert_eq!(reason(unknown), "it begins like no container that is known", "{unknown}");
    }
    for cut in ["2", "3"] {
        assert_eq!(reason(cut), "bytes are missing at its end", "{cut}");
    }
    for other in ["README", "1.tmp", "007", "256"] {
        assert_eq!(reason(other), "its name is no share number", "{other}");
    }
    assert_eq!(told.len(), 10);
}

async fn owner<L: LeaseDb>(db: &L, name: &str) -> Session {
    let account = db.find_account(name.to_owned()).await.expect("find_account").expect("there");
    let usage = db.usage(account.id).await.expect("usage");
    Session::on_behalf_of(account, usage)
}

async fn import_all<L: LeaseDb, B: Backend>(
    pod: &Pod<L, B>,
    tree: &Tree,
    account: &str,
    dry_run: bool,
) -> anyhow::Result<ImportTotals> {
    let db = pod.store.db();
    let owners = Owners { leased: owner(&**db, account).await, unleased: owner(&**db, "starter").await };
    pod.store.refresh_space().await?;
    import::run(&pod.store, tree, &owners, dry_run, &Progress::in_log("importing")).await
}

/// Shares of the vectors that can be uploaded: an immutable one without bytes can not.
const WHOLE: u64 = 11;
const EMPTY: u8 = 6;

mod copying {
    use super::*;

    on_every_ground! {
        a_tree_is_imported_with_its_leases_and_write_enablers,
        an_import_that_breaks_off_is_repeated,
        an_exported_tree_is_what_was_imported,
    }

    async fn a_tree_is_imported_with_its_leases_and_write_enablers<G: Ground>() {
        let site = Site::<G>::make().await;
        let alice = site.account("alice").await;
        let pod = site.pod(site.objects.clone());
        let tree = Tree::new(&vectors());
        let dry = import_all(&pod, &tree, "alice", true).await.expect("a look");
        assert_eq!((dry.shares_copied, dry.shares_there), (WHOLE, 0));
        assert!(site.listed("shares/").await.is_empty() && site.usage("alice").await == (0, 0), "nothing was changed");

        let copied = import_all(&pod, &tree, "alice", false).await.expect("an import");
        assert_eq!((copied.shares_copied, copied.bytes_copied), (dry.shares_copied, dry.bytes_copied));
        assert_eq!(copied.not_copied, 10 + 1, "{:#?}", copied.reasons);
        assert!(copied.reasons.iter().any(|line| line.ends_with("/0: it holds no data")), "{:#?}", copied.reasons);
        for (id, described) in described().into_iter().filter(|(id, _)| id.storage_index != index(EMPTY)) {
            assert_eq!(sha256(&pod.read(kind(&described), id).await), described.sha256, "{id}");
            let leases = site.db.list_leases(id.storage_index).await.expect("list_leases");
            let lease = leases.iter().find(|lease| lease.number == id.number).expect("leased");
            // Of one storage index some shares have no lease of their own: they are leased with the others.
            assert_eq!(lease.account_name, "alice", "{id}");
            assert!(lease.lease.expires_at.seconds() >= site.now() + LEASE_DURATION_SECONDS, "{id}");
        }
        // Only who could write before can write now.
        for (number, stranger, writer) in [(3, 9, 3), (4, 3, 4), (5, 4, 5)] {
            let request = one_share(0, replaced(4));
            let payload = Bytes::from_static(b"anew");
            let write =
                async |by| pod.store.read_test_write(&alice, index(number), &enabler(by), &request, &payload).await;
            assert!(matches!(write(stranger).await, Err(StoreError::WrongWriteEnabler)), "{number}");
            assert!(write(writer).await.expect("written").success, "{number}");
        }
        let again = import_all(&pod, &tree, "alice", false).await.expect("another import");
        assert_eq!((again.shares_copied, again.shares_there), (0, WHOLE));
        assert_eq!(pod.read(ShareKind::Mutable, share(3, 0)).await, b"anew", "what is there is not overwritten");
        site.assert_clean_at(&["alice"], &indexes()).await;
    }

    async fn an_import_that_breaks_off_is_repeated<G: Ground>() {
        let site = Site::<G>::make().await;
        site.account("alice").await;
        let tree = Tree::new(&vectors());
        let mut breaks = 0;
        for call in (0..).step_by(7) {
            let faults = Faults::new();
            let pod = site.pod(FaultyBackend::new(site.objects.clone(), faults.clone()));
            faults.begin("import", Some((call, Fault::ErrorAfter)));
            match import_all(&pod, &tree, "alice", false).await {
                Err(_) => breaks += 1,
                Ok(totals) => {
                    assert_eq!((totals.shares_copied + totals.shares_there, totals.not_copied), (WHOLE, 11));
                    break;
                }
            }
        }
        assert!(breaks > 1, "it broke off {breaks} times");
        let pod = site.pod(site.objects.clone());
        for (id, described) in described().into_iter().filter(|(id, _)| id.storage_index != index(EMPTY)) {
            assert_eq!(sha256(&pod.read(kind(&described), id).await), described.sha256, "{id}");
        }
        site.assert_clean_at(&["alice"], &indexes()).await;
    }

    async fn an_exported_tree_is_what_was_imported<G: Ground>() {
        let site = Site::<G>::make().await;
        site.account("alice").await;
        let pod = site.pod(site.objects.clone());
        import_all(&pod, &Tree::new(&vectors()), "alice", false).await.expect("an import");
        let folder = places::folder();
        let (store, progress) = (Arc::new(pod.store), Arc::new(Progress::in_log("exporting")));
        let exported = export::run(&store, folder.path(), &progress).await.expect("an export");
        assert_eq!((exported.shares_written, exported.shares_read_only), (WHOLE, 5), "enablers are hashes by now");
        let tree = Tree::new(folder.path());
        for (id, described) in described().into_iter().filter(|(id, _)| id.storage_index != index(EMPTY)) {
            let there = tree::open(id, &tree.path(id)).expect("written").expect("whole");
            assert_eq!((there.container.kind, there.container.size_bytes), (kind(&described), described.size_bytes));
            let bytes = std::fs::read(tree.path(id)).expect("readable");
            let at = there.container.data_at();
            assert_eq!(sha256(&bytes[at.start as usize..at.end as usize]), described.sha256, "{id}");
            let least = Timestamp::from_seconds(site.now() + LEASE_DURATION_SECONDS);
            assert!(there.leases.iter().any(|lease| lease.expires_at >= least), "{id} keeps its lease");
        }
        let again = export::run(&store, folder.path(), &progress).await.expect("another export");
        assert_eq!((again.shares_written, again.shares_there), (5, WHOLE - 5), "slots may have changed, buckets not");
        // What is lost is counted, and the rest is written all the same.
        let lost = site.db.find_share(share(4, 0)).await.expect("find_share").expect("there").locator.objects()[0];
        site.objects.delete(&ObjectName::new(share(4, 0), lost).key()).await.expect("deleted");
        let third = export::run(&store, folder.path(), &progress).await.expect("a third export");
        assert_eq!((third.shares_written, third.shares_missing), (4, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_keeps_long_leases_and_leaves_what_nobody_leased_to_starter() {
    let site = Site::new().await;
    site.account("alice").await;
    // What the vectors' leases are counted from; most end within the time of a renewal, by this clock.
    let base = 1_700_000_000;
    site.clock.set(Timestamp::from_seconds(base - 28 * DAY_SECONDS));
    let tree = Tree::new(&vectors());
    let pod = site.pod(site.objects.clone());
    let totals = import_all(&pod, &tree, "alice", false).await.expect("an import");
    assert_eq!(totals.shares_copied, WHOLE);
    let leases = site.db.list_leases(index(1)).await.expect("list_leases");
    let end =
        |number| leases.iter().find(|lease| lease.number.get() == number).expect("leased").lease.expires_at.seconds();
    assert_eq!(end(0), base + 31 * DAY_SECONDS, "longer than what a renewal grants");
    assert_eq!(end(1), base + 7 * DAY_SECONDS, "the latest of seven");
    let granted = site.now() + LEASE_DURATION_SECONDS;
    assert!((granted..granted + 2 * DAY_SECONDS).contains(&end(10)), "it had no lease of its own");

    // A storage index that nobody leases.
    let folder = places::folder();
    let lone = Tree::new(folder.path());
    std::fs::create_dir_all(lone.path(share(2, 10)).parent().expect("a folder")).expect("made");
    std::fs::copy(tree.path(share(2, 10)), lone.path(share(2, 10))).expect("copied");
    let other = Site::new().await;
    other.account("alice").await;
    import_all(&other.pod(other.objects.clone()), &lone, "alice", false).await.expect("an import");
    let leases = other.db.list_leases(index(2)).await.expect("list_leases");
    assert_eq!(leases.len(), 1);
    assert_eq!(leases[0].account_name, "starter");
    assert!(leases[0].lease.expires_at.seconds() >= other.now() + 60 * DAY_SECONDS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_never_exceeds_a_quota_nor_the_greatest_share() {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let quota_bytes = Some(Some(1012 + 472));
    let change = leasehold_core::leasedb::AccountChange { quota_bytes, ..Default::default() };
    assert!(site.db.change_account(alice.account.id, change).await.expect("change_account"));
    let pod = site.pod(site.objects.clone());
    let totals = import_all(&pod, &Tree::new(&vectors()), "alice", false).await.expect("an import");
    let no_room = totals.reasons.iter().filter(|line| line.ends_with("there is no room for it")).count();
    assert!(no_room >= 5 && totals.shares_copied >= 1, "{totals:#?}");
    assert!(site.usage("alice").await.0 <= 1012 + 472);

    let other = Site::new().await;
    other.account("alice").await;
    let options =
        StoreOptions { immutable_share_max_bytes: 999, mutable_share_max_bytes: 299, ..StoreOptions::default() };
    let pod = Pod { store: other.store_with(other.db.clone(), other.objects.clone(), options) };
    let totals = import_all(&pod, &Tree::new(&vectors()), "alice", false).await.expect("an import");
    let too_large = totals.reasons.iter().filter(|line| line.ends_with("larger than any share may be")).count();
    assert_eq!(too_large, 2 + 4, "{totals:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_disturbs_nobody_who_was_first() {
    let site = Site::new().await;
    let bob = site.account("bob").await;
    let pod = site.pod(site.objects.clone());
    // Another share of the same number, a slot of another writer, a bucket where the tree has a slot, an upload.
    pod.upload(&bob, share(1, 0), b"other").await;
    pod.write_slot(&bob, share(3, 7), b"bob's").await;
    pod.upload(&bob, share(4, 0), b"bucket").await;
    pod.allocate(&bob, share(2, 0), 1000).await;
    let totals = import_all(&pod, &Tree::new(&vectors()), "starter", false).await.expect("an import");
    let with = |reason: &str| totals.reasons.iter().filter(|line| line.ends_with(reason)).count();
    assert_eq!(with("another share of this number is there"), 1, "{totals:#?}");
    assert_eq!(with("the slot has another write enabler"), 2);
    assert_eq!(with("the storage index holds shares of the other kind"), 2);
    assert_eq!(with("a client is uploading this share"), 1);
    assert_eq!(totals.shares_copied, WHOLE - 6);
    assert_eq!(pod.read(ShareKind::Immutable, share(1, 0)).await, b"other");
    assert_eq!(pod.read(ShareKind::Mutable, share(3, 7)).await, b"bob's");
}
