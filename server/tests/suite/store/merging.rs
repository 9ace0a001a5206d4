//! Shares of many pieces, merged into fewer objects beside everything else that happens to them: `review.md` A4, R4.

use std::sync::Arc;

use futures_util::StreamExt;
use leasehold_core::accountant::Session;
use leasehold_core::backend::Backend;
use leasehold_core::chunk::{ObjectName, StoreObject};
use leasehold_core::id::ShareId;
use leasehold_core::lease::DAY_SECONDS;
use leasehold_core::leasedb::{LeaseDb, NAME_FENCE_SECONDS, SUPERSEDED_GRACE_SECONDS};
use leasehold_core::share::ShareKind;
use leasehold_core::store::{StoreError, StoreOptions};
use leasehold_core::testing::{body, share_id, upload_secret};

use super::held::Held;
use super::pattern;
use super::site::{Pod, Site};
use crate::ground::{Ground, on_every_ground};

const SIZE: u64 = 200;

on_every_ground! {
    pieces_are_one_object_after_a_day_and_deleted_after_the_grace,
    a_share_larger_than_an_object_may_be_is_merged_into_several,
    what_fits_no_better_stays_as_it_is,
    a_reader_in_flight_keeps_its_pieces,
    two_collectors_merge_a_share_once,
    a_merge_that_slept_over_its_claim_changes_nothing,
    a_merge_beside_a_share_that_was_lost_and_uploaded_again_changes_nothing,
    a_share_with_a_missing_piece_stays_as_it_is,
}

/// Uploads a share in ten pieces.
async fn scatter<L: LeaseDb, B: Backend>(pod: &Pod<L, B>, session: &Session, share: ShareId) {
    pod.allocate(session, share, SIZE).await;
    for start in (0..SIZE).step_by(20) {
        let bytes = body(&pattern(start..start + 20));
        pod.store.write_bucket(share, &upload_secret(1), start..start + 20, bytes).await.expect("a piece");
    }
}

async fn objects<L: LeaseDb, B: Backend>(pod: &Pod<L, B>, share: ShareId) -> Vec<StoreObject> {
    pod.store.stable_share(ShareKind::Immutable, share).await.expect("a stable share").locator.objects()
}

async fn merged<L: LeaseDb, B: Backend>(pod: &Pod<L, B>) -> u64 {
    pod.store.collect(|_| ()).await.expect("collect").shares_merged
}

async fn pieces_are_one_object_after_a_day_and_deleted_after_the_grace<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let (pod, share) = (site.pod(site.objects.clone()), share_id(1, 0));
    scatter(&pod, &alice, share).await;
    let pieces = objects(&pod, share).await;
    assert_eq!(pieces.len(), 10);
    let usage = site.usage("alice").await;
    site.clock.advance(DAY_SECONDS - 60);
    assert_eq!(merged(&pod).await, 0, "most of what is deleted young is never merged");
    site.clock.advance(60);
    assert_eq!(merged(&pod).await, 1);
    let [whole] = objects(&pod, share).await[..] else { panic!("more than one object") };
    assert!(matches!(whole, StoreObject::Whole { .. }) && !pieces.contains(&whole));
    assert_eq!(pod.read(ShareKind::Immutable, share).await, pattern(0..SIZE));
    assert_eq!(site.usage("alice").await, usage);
    site.clock.advance(SUPERSEDED_GRACE_SECONDS - 1);
    assert_eq!(merged(&pod).await, 0, "once is enough");
    assert_eq!(site.listed("shares/").await.len(), 11, "readers may still be at the pieces");
    site.clock.advance(1);
    merged(&pod).await;
    let names: Vec<String> = site.listed("shares/").await.into_iter().map(|object| object.name).collect();
    assert_eq!(names, [ObjectName::new(share, whole).to_string()]);
    assert_eq!(pod.read(ShareKind::Immutable, share).await, pattern(0..SIZE));
    assert_eq!(site.usage("alice").await, usage);
    site.assert_clean(&["alice"], &[1]).await;
}

async fn a_share_larger_than_an_object_may_be_is_merged_into_several<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let options = StoreOptions { merged_max_bytes: 90, ..StoreOptions::default() };
    let pod = Pod { store: site.store_with(site.db.clone(), site.objects.clone(), options) };
    let share = share_id(1, 0);
    scatter(&pod, &alice, share).await;
    site.clock.advance(DAY_SECONDS);
    assert_eq!(merged(&pod).await, 1);
    let row = pod.store.stable_share(ShareKind::Immutable, share).await.expect("a stable share");
    let ranges: Vec<_> = row.locator.extents().iter().map(|extent| extent.range.clone()).collect();
    assert_eq!(ranges, [0..90, 90..180, 180..200]);
    assert_eq!(pod.read(ShareKind::Immutable, share).await, pattern(0..SIZE));
    site.assert_clean(&["alice"], &[1]).await;
}

async fn what_fits_no_better_stays_as_it_is<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let options = StoreOptions { merged_max_bytes: 20, ..StoreOptions::default() };
    let pod = Pod { store: site.store_with(site.db.clone(), site.objects.clone(), options) };
    let share = share_id(1, 0);
    scatter(&pod, &alice, share).await;
    let pieces = objects(&pod, share).await;
    for _ in 0..2 {
        site.clock.advance(DAY_SECONDS);
        assert_eq!(merged(&pod).await, 0);
        assert_eq!(objects(&pod, share).await, pieces);
    }
    assert_eq!(site.ground.number("SELECT count(*) FROM scattered").await, 0, "nobody tries again");
    site.assert_clean(&["alice"], &[1]).await;
}

async fn a_reader_in_flight_keeps_its_pieces<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let (pod, share) = (site.pod(site.objects.clone()), share_id(1, 0));
    scatter(&pod, &alice, share).await;
    let slice = pod.slice(ShareKind::Immutable, share).await;
    let mut reading = pod.store.open_slice(&slice).await.expect("readable");
    let mut read = reading.next().await.expect("more").expect("bytes").to_vec();
    site.clock.advance(DAY_SECONDS);
    assert_eq!(merged(&pod).await, 1);
    site.clock.advance(SUPERSEDED_GRACE_SECONDS - 1);
    merged(&pod).await;
    while let Some(bytes) = reading.next().await {
        read.extend_from_slice(&bytes.expect("its pieces are still there"));
    }
    assert_eq!(read, pattern(0..SIZE));
    site.clock.advance(1);
    merged(&pod).await;
    assert_eq!(site.listed("shares/").await.len(), 1);
    // Whoever comes with the old row looks for the new one.
    assert_eq!(pod.store.read_slice(&slice).await.expect("readable"), pattern(0..SIZE));
    assert_eq!(site.far_pod().await.read(ShareKind::Immutable, share).await, pattern(0..SIZE));
}

async fn two_collectors_merge_a_share_once<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let pods = [site.far_pod().await, site.far_pod().await, site.far_pod().await].map(Arc::new);
    for number in 0..6 {
        scatter(&pods[usize::from(number) % 3], &alice, share_id(1, number)).await;
    }
    site.clock.advance(DAY_SECONDS);
    let collectors = pods.iter().cloned().map(|pod| tokio::spawn(async move { merged(&pod).await }));
    let mut sum = 0;
    for collector in collectors.collect::<Vec<_>>() {
        sum += collector.await.expect("it ends");
    }
    assert_eq!(sum, 6);
    assert_eq!(site.listed("shares/").await.len(), 66, "nothing was stored in vain");
    for number in 0..6 {
        assert_eq!(objects(&pods[0], share_id(1, number)).await.len(), 1);
        assert_eq!(pods[1].read(ShareKind::Immutable, share_id(1, number)).await, pattern(0..SIZE));
    }
    site.assert_clean(&["alice"], &[1]).await;
}

/// A merge that is held when it has stored its object, and another pod.
async fn held_merge<G: Ground>(
    site: &Site<G>,
    session: &Session,
) -> (tokio::task::JoinHandle<Result<u64, StoreError>>, super::held::Gate, Pod<G::Db, G::Objects>) {
    let fast = site.far_pod().await;
    scatter(&fast, session, share_id(1, 0)).await;
    let (held, gate) = Held::new(site.objects.clone());
    let slow = site.pod(held);
    site.clock.advance(DAY_SECONDS);
    let merging = tokio::spawn(async move { Ok(slow.store.collect(|_| ()).await?.shares_merged) });
    gate.stored().await;
    (merging, gate, fast)
}

async fn a_merge_that_slept_over_its_claim_changes_nothing<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let (merging, gate, fast) = held_merge(&site, &alice).await;
    assert_eq!(merged(&fast).await, 0, "somebody is at it");
    site.clock.advance(NAME_FENCE_SECONDS + 1);
    assert_eq!(merged(&fast).await, 1, "or was");
    let objects_now = objects(&fast, share_id(1, 0)).await;
    gate.open();
    let late = merging.await.expect("it ends");
    assert!(matches!(late, Ok(0) | Err(StoreError::LeaseDb(_))), "{late:?}");
    assert_eq!(objects(&fast, share_id(1, 0)).await, objects_now);
    assert_eq!(fast.read(ShareKind::Immutable, share_id(1, 0)).await, pattern(0..SIZE));
    site.assert_clean(&["alice"], &[1]).await;
}

async fn a_merge_beside_a_share_that_was_lost_and_uploaded_again_changes_nothing<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let (merging, gate, fast) = held_merge(&site, &alice).await;
    let share = share_id(1, 0);
    for object in objects(&fast, share).await {
        site.objects.delete(&ObjectName::new(share, object).key()).await.expect("delete");
    }
    // As the accounting crawler will do: the share is lost, and nobody is charged for it.
    site.ground.execute("UPDATE shares SET state = 3").await;
    site.ground.execute(G::UNCHARGE).await;
    assert_eq!(site.usage("alice").await, (0, 0));
    let fast = site.far_pod().await;
    fast.upload(&alice, share, &pattern(0..SIZE)).await;
    let uploaded = objects(&fast, share).await;
    gate.open();
    assert_eq!(merging.await.expect("it ends").expect("collect"), 0);
    assert_eq!(objects(&fast, share).await, uploaded);
    assert_eq!(fast.read(ShareKind::Immutable, share).await, pattern(0..SIZE));
    site.assert_clean(&["alice"], &[1]).await;
}

async fn a_share_with_a_missing_piece_stays_as_it_is<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let (pod, share) = (site.pod(site.objects.clone()), share_id(1, 0));
    scatter(&pod, &alice, share).await;
    let pieces = objects(&pod, share).await;
    site.objects.delete(&ObjectName::new(share, pieces[4]).key()).await.expect("delete");
    let (before, usage) = (site.listed("shares/").await, site.usage("alice").await);
    site.clock.advance(DAY_SECONDS);
    assert_eq!(merged(&pod).await, 0);
    assert_eq!(objects(&pod, share).await, pieces);
    site.clock.advance(DAY_SECONDS);
    assert_eq!(merged(&pod).await, 0);
    assert_eq!((site.listed("shares/").await, site.usage("alice").await), (before, usage));
}
