//! Containers in the backend itself: served where they are, taken over, added by hand (`accounting.md` 8.3, 8.5, 9; B-2, B-7).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use leasehold_core::backend::{Backend, ListedObject};
use leasehold_core::chunk::{ObjectName, StoreObject, folder};
use leasehold_core::classic::{Frame, LeaseRecord, SlotHead, Version, frame};
use leasehold_core::clock::Timestamp;
use leasehold_core::id::ShareId;
use leasehold_core::lease::DAY_SECONDS;
use leasehold_core::leasedb::{LeaseDb, Mode};
use leasehold_core::run::Run;
use leasehold_core::secret::WriteEnabler;
use leasehold_core::share::ShareKind;
use leasehold_core::store::{Claim, StoreError};
use leasehold_core::testing::{body, enabler};
use leasehold_server::jobs::progress::Progress;
use leasehold_server::jobs::reconcile::{self, ReconcileOptions};

use super::{Described, described, index, indexes, kind, sha256, share, vectors};
use crate::ground::{Ground, on_every_ground};
use crate::store::site::{Pod, Site, one_share, removal, replaced};

on_every_ground! {
    a_classic_store_is_served_at_once_and_nothing_in_it_is_touched,
    what_is_written_moves_to_our_form_and_the_rest_stays,
    b_7_containers_added_by_hand_are_found_with_a_starter_lease,
    b_2_removing_share_1_leaves_shares_10_to_19,
    a_removed_container_does_not_come_back,
    a_lost_database_finds_our_form_and_containers_beside_each_other,
}

fn container(share: ShareId) -> leasehold_core::chunk::ObjectKey {
    ObjectName::new(share, StoreObject::Classic).key()
}

async fn put<B: Backend>(backend: &B, share: ShareId, bytes: &[u8]) {
    backend.put(&container(share), bytes.len() as u64, body(bytes)).await.expect("put");
}

/// The bytes of a container as another server would write it.
fn made(slot: Option<u8>, data: &[u8], lease_ends: &[i64]) -> Vec<u8> {
    let slot = slot.map(|number| SlotHead {
        write_enabler: WriteEnabler::new(vec![number; 32]).expect("32 bytes"),
        node_id: [1; 20],
    });
    let lease = |end: &i64| LeaseRecord {
        owner: 1,
        expires_at: Timestamp::from_seconds(*end),
        secrets: [3; 64].into(),
        node_id: [0; 20],
    };
    let leases: Vec<LeaseRecord> = lease_ends.iter().map(lease).collect();
    let Frame { head, tail } = frame(Version::V2, slot.as_ref(), data.len() as u64, &leases);
    [&head, data, &tail].concat()
}

/// The vectors as a store that another server has left; what is whole there, by share.
async fn left_behind<G: Ground>(site: &Site<G>) -> BTreeMap<ShareId, Described> {
    let shares = described();
    for share in shares.keys().copied().chain((0..6).map(|number| share(7, number))) {
        let path = vectors().join(ObjectName::new(share, StoreObject::Classic).to_string());
        put(&site.objects, share, &std::fs::read(path).expect("vectors")).await;
    }
    shares
}

/// A pod whose database has begun on what is in the backend.
async fn begun<G: Ground>(site: &Site<G>) -> Pod<G::Db, G::Objects> {
    let pod = site.pod(site.objects.clone());
    assert_eq!(pod.store.claim_backend().await.expect("an answer"), Claim::Ours);
    pod.store.refresh_space().await.expect("room is known");
    pod
}

async fn mode<G: Ground>(site: &Site<G>) -> Mode {
    site.db.deployment().await.expect("deployment").mode
}

async fn reconcile<G: Ground>(site: &Site<G>) -> Run {
    let pod = begun(site).await;
    let options = ReconcileOptions { dry_run: false, workers: 2, slowly: false };
    let progress = Arc::new(Progress::in_log("reconciling"));
    reconcile::run(&Arc::new(pod.store), options, &progress).await.expect("a run")
}

/// Compares everything and lets recovery end.
async fn recover<G: Ground>(site: &Site<G>) -> Run {
    site.clock.advance(20 * 60);
    let run = reconcile(site).await;
    site.clock.advance(20 * 60);
    begun(site).await.store.tick().await.expect("a tick");
    assert_eq!(mode(site).await, Mode::Normal, "{run:?}");
    run
}

/// Lets all deadlines pass, and deletes whatever is due.
async fn collect_for_weeks<G: Ground>(site: &Site<G>) {
    for _ in 0..4 {
        site.clock.advance(9 * DAY_SECONDS);
        begun(site).await.store.collect(|_| ()).await.expect("collected");
    }
}

async fn containers<G: Ground>(site: &Site<G>) -> Vec<ListedObject> {
    let mut listed = site.listed("shares/").await;
    listed.retain(|object| object.name.parse::<ObjectName>().is_ok_and(|name| name.object == StoreObject::Classic));
    listed
}

async fn assert_described<L: LeaseDb, B: Backend>(pod: &Pod<L, B>, shares: &BTreeMap<ShareId, Described>) {
    for (id, described) in shares {
        assert_eq!(sha256(&pod.read(kind(described), *id).await), described.sha256, "{id}");
    }
}

async fn a_classic_store_is_served_at_once_and_nothing_in_it_is_touched<G: Ground>() {
    let site = Site::<G>::make().await;
    let shares = left_behind(&site).await;
    // A lease that outlives those that we give.
    let far = site.now() + 400 * DAY_SECONDS;
    put(&site.objects, share(9, 0), &made(None, b"for long", &[site.now(), far, site.now() + DAY_SECONDS])).await;
    let before = containers(&site).await;
    let pod = begun(&site).await;
    assert_eq!(mode(&site).await, Mode::Recovery, "the database does not know what is there");
    assert_described(&pod, &shares).await;
    for number in 0..6 {
        let read = pod.store.stable_share(ShareKind::Immutable, share(7, number)).await;
        assert!(matches!(read, Err(StoreError::NotFound)), "a damaged container is not served: {number}");
    }
    let run = recover(&site).await;
    assert_eq!(run.totals.of("damaged_objects"), 6, "but told of: {run:?}");
    let troubles = site.db.troubles(100).await.expect("troubles");
    let corrupted: Vec<ShareId> = troubles.damaged.iter().map(|(object, _)| object.name.share).collect();
    assert_eq!(corrupted, (0..6).map(|number| share(7, number)).collect::<Vec<_>>());
    assert!(troubles.damaged.iter().all(|(object, _)| !object.reason.is_empty()), "{troubles:?}");
    for id in shares.keys() {
        let leases = site.db.list_leases(id.storage_index).await.expect("list_leases");
        let lease = leases.iter().find(|lease| lease.number == id.number).expect("leased");
        assert_eq!(lease.account_name, "starter");
        assert!(lease.lease.expires_at.seconds() >= site.now() + 59 * DAY_SECONDS, "{id}");
    }
    let long = &site.db.list_leases(index(9)).await.expect("list_leases")[0];
    assert_eq!(long.lease.expires_at.seconds(), far, "as long as the container says");
    collect_for_weeks(&site).await;
    let again = reconcile(&site).await;
    assert_eq!((again.totals.of("shares_adopted"), again.totals.of("orphans")), (0, 0), "{again:?}");
    collect_for_weeks(&site).await;
    assert_eq!(containers(&site).await, before);
    assert_described(&begun(&site).await, &shares).await;
    site.assert_usage(&["starter"], &[indexes(), vec![index(9)]].concat()).await;
}

async fn what_is_written_moves_to_our_form_and_the_rest_stays<G: Ground>() {
    let site = Site::<G>::make().await;
    let shares = left_behind(&site).await;
    let alice = site.account("alice").await;
    let pod = begun(&site).await;
    let write = async |by, request: &_| {
        let payload = Bytes::from_static(b"anew");
        pod.store.read_test_write(&alice, index(3), &enabler(by), request, &payload).await
    };
    let stranger = write(9, &one_share(0, replaced(4))).await;
    assert!(matches!(stranger, Err(StoreError::WrongWriteEnabler)), "the container's write enabler counts");
    let mut partly = replaced(4);
    partly.new_length = None;
    assert!(write(3, &one_share(0, partly)).await.expect("written").success);
    assert!(write(3, &one_share(9, replaced(4))).await.expect("written").success, "a share beside containers");
    let read = async |number| pod.read(ShareKind::Mutable, share(3, number)).await;
    let written = read(0).await;
    assert_eq!((written.len() as u64, &written[..4]), (shares[&share(3, 0)].size_bytes, &b"anew"[..]));
    assert_eq!(read(9).await, b"anew");
    assert_eq!(sha256(&read(3).await), shares[&share(3, 3)].sha256);
    // Bytes of the old container are not needed any more, those of the other are.
    recover(&site).await;
    collect_for_weeks(&site).await;
    let left: Vec<String> = containers(&site).await.into_iter().map(|object| object.name).collect();
    let is_left = |id: ShareId| left.contains(&container(id).to_string());
    assert!(!is_left(share(3, 0)) && is_left(share(3, 3)) && left.len() == shares.len() + 6 - 1, "{left:?}");
    assert_eq!(read(0).await, written);
    assert_eq!(sha256(&read(3).await), shares[&share(3, 3)].sha256);
    // Renewals and uploads go by what is there.
    pod.store.renew_leases(&alice, index(1)).await.expect("renewed");
    let leases = site.db.list_leases(index(1)).await.expect("list_leases");
    assert_eq!(leases.iter().filter(|lease| lease.account_name == "alice").count(), 3);
    let secret = leasehold_core::testing::upload_secret(1);
    let sets = pod.store.allocate_bucket(&alice, index(2), &[], 1000, &secret).await.expect("allocated");
    assert_eq!(sets.already_have.len(), 3);
    site.assert_usage(&["alice", "starter"], &indexes()).await;
}

async fn b_7_containers_added_by_hand_are_found_with_a_starter_lease<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let pod = begun(&site).await;
    assert_eq!(mode(&site).await, Mode::Normal, "the backend was empty");
    pod.upload(&alice, share(1, 5), b"of ours").await;
    pod.write_slot(&alice, share(2, 0), b"of ours").await;
    put(&site.objects, share(1, 1), &made(None, b"by hand", &[])).await;
    put(&site.objects, share(1, 10), &made(None, b"by hand too", &[])).await;
    put(&site.objects, share(3, 0), &made(Some(3), b"a slot", &[])).await;
    put(&site.objects, share(3, 1), &made(Some(4), b"of another writer", &[])).await;
    put(&site.objects, share(4, 0), &made(None, b"a bucket", &[])).await;
    put(&site.objects, share(4, 1), &made(Some(4), b"a slot beside it", &[])).await;
    put(&site.objects, share(5, 0), b"no container").await;
    // Where we have the share, or the slot, what is added by hand says nothing.
    put(&site.objects, share(1, 5), &made(None, b"of ours", &[])).await;
    put(&site.objects, share(2, 1), &made(Some(1), b"beside ours", &[])).await;
    let run = reconcile(&site).await;
    assert_eq!(run.totals.of("shares_adopted"), 4, "{run:?}");
    assert_eq!(run.totals.of("damaged_objects"), 4, "{run:?}");
    assert_eq!(pod.read(ShareKind::Immutable, share(1, 1)).await, b"by hand");
    assert_eq!(pod.read(ShareKind::Immutable, share(1, 10)).await, b"by hand too");
    assert_eq!(pod.read(ShareKind::Mutable, share(3, 0)).await, b"a slot");
    assert_eq!(pod.read(ShareKind::Immutable, share(4, 0)).await, b"a bucket");
    let holders: Vec<_> = site.db.list_leases(index(1)).await.expect("list_leases");
    let holders: Vec<_> = holders.iter().map(|lease| (lease.number.get(), lease.account_name.as_str())).collect();
    assert_eq!(holders, [(1, "starter"), (5, "alice"), (10, "starter")]);
    // What is of no use any more goes after a week, what cannot be read or judged stays.
    collect_for_weeks(&site).await;
    let left: Vec<String> = containers(&site).await.into_iter().map(|object| object.name).collect();
    assert_eq!(left.len(), 9 - 1, "{left:?}");
    assert!(!left.contains(&container(share(1, 5)).to_string()), "{left:?}");
    assert_eq!(pod.read(ShareKind::Immutable, share(1, 5)).await, b"of ours");
    site.assert_usage(&["alice", "starter"], &indexes()).await;
}

async fn b_2_removing_share_1_leaves_shares_10_to_19<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let numbers = [1, 10, 11, 19, 100];
    for number in numbers {
        put(&site.objects, share(1, number), &made(Some(1), &[number; 50], &[])).await;
    }
    let pod = begun(&site).await;
    let request = one_share(1, removal());
    let removed = pod.store.read_test_write(&alice, index(1), &enabler(1), &request, &Bytes::new()).await;
    assert!(removed.expect("removed").success);
    recover(&site).await;
    collect_for_weeks(&site).await;
    for number in &numbers[1..] {
        assert_eq!(pod.read(ShareKind::Mutable, share(1, *number)).await, [*number; 50]);
    }
    assert_eq!(site.listed(&folder(index(1))).await.len(), 4 + 1, "four containers and the last manifest");
}

async fn a_removed_container_does_not_come_back<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    for number in [0, 1] {
        put(&site.objects, share(1, number), &made(Some(1), b"to be removed", &[])).await;
    }
    let pod = begun(&site).await;
    recover(&site).await;
    for number in [0, 1] {
        let request = one_share(number, removal());
        let removed = pod.store.read_test_write(&alice, index(1), &enabler(1), &request, &Bytes::new()).await;
        assert!(removed.expect("removed").success);
    }
    for _ in 0..3 {
        let run = reconcile(&site).await;
        assert_eq!(run.totals.of("shares_adopted"), 0, "{run:?}");
        site.clock.advance(2 * DAY_SECONDS);
    }
    assert_eq!(containers(&site).await.len(), 2, "people may still want them");
    collect_for_weeks(&site).await;
    assert!(site.listed(&folder(index(1))).await.is_empty(), "nothing is left");
}

async fn a_lost_database_finds_our_form_and_containers_beside_each_other<G: Ground>() {
    let site = Site::<G>::make().await;
    let shares = left_behind(&site).await;
    let empty = site.ground.keep().await;
    let alice = site.account("alice").await;
    let pod = begun(&site).await;
    let request = one_share(0, replaced(4));
    let payload = Bytes::from_static(b"anew");
    let written = pod.store.read_test_write(&alice, index(3), &enabler(3), &request, &payload).await;
    assert!(written.expect("written").success);
    let request = one_share(3, removal());
    let removed = pod.store.read_test_write(&alice, index(4), &enabler(4), &request, &payload).await;
    assert!(removed.expect("removed").success);
    pod.upload(&alice, share(8, 0), b"of ours").await;
    assert!(pod.store.tick().await.expect("a tick").is_some());
    // The database is as it was at first; the containers that were replaced and removed are still there.
    site.clock.advance(600);
    site.ground.roll_back(&empty).await;
    let pod = begun(&site).await;
    pod.store.tick().await.expect("a tick");
    assert_eq!(mode(&site).await, Mode::Recovery);
    assert_eq!(pod.read(ShareKind::Mutable, share(3, 0)).await, b"anew", "own objects win over the classic form");
    let gone = pod.store.stable_share(ShareKind::Mutable, share(4, 3)).await;
    assert!(matches!(gone, Err(StoreError::NotFound)), "the slot's last manifest says which shares there are");
    let rest: BTreeMap<ShareId, Described> =
        shares.into_iter().filter(|(id, _)| ![share(3, 0), share(4, 3)].contains(id)).collect();
    assert_described(&pod, &rest).await;
    assert_eq!(pod.read(ShareKind::Immutable, share(8, 0)).await, b"of ours");
    recover(&site).await;
    for _ in 0..2 {
        let run = reconcile(&site).await;
        assert_eq!(run.totals.of("shares_adopted"), 0, "{run:?}");
        collect_for_weeks(&site).await;
    }
    assert_described(&begun(&site).await, &rest).await;
    let gone = pod.store.stable_share(ShareKind::Mutable, share(4, 3)).await;
    assert!(matches!(gone, Err(StoreError::NotFound)));
}
