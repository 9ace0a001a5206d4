//! Writing in many small writes, as Foolscap does: `review.md` A14, `foolscap.md` 13.1 and 18.4.

use std::sync::Arc;

use bytes::Bytes;
use leasehold_core::accountant::Session;
use leasehold_core::backend::Backend;
use leasehold_core::chunk::{ObjectName, StoreObject};
use leasehold_core::id::ShareId;
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::share::ShareKind;
use leasehold_core::store::{BucketWriter, GatheredPiece, ShareSlice, Store, StoreError};
use leasehold_core::testing::{seed, share_id};
use leasehold_core::tub::{TubConnection, TubId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::pattern;
use super::site::{IDLE_SECONDS, Site};
use crate::ground::{Ground, OneMachine};

type Objects = <OneMachine as Ground>::Objects;
type Db = <OneMachine as Ground>::Db;

fn connection(tub: u8, id: u8) -> TubConnection {
    TubConnection::new(TubId([tub; 20]), "0123456789abcdef", [id; 16])
}

fn pod(site: &Site) -> Arc<Store<Db, Objects>> {
    Arc::new(site.store(site.db.clone(), site.objects.clone()))
}

/// Begins the upload of one share on a connection; `None` if its number is taken.
async fn begin<L: LeaseDb, B: Backend>(
    store: &Arc<Store<L, B>>,
    session: &Session,
    share: ShareId,
    size: u64,
    connection: &TubConnection,
) -> Option<BucketWriter<L, B>> {
    store.refresh_space().await.expect("room is known");
    let opened = store.open_writers(session, share.storage_index, &[share.number], size, connection).await;
    opened.expect("opened").1.pop().map(|(_, writer)| writer)
}

/// Stores the next piece, if there is enough for one.
async fn store_piece<L: LeaseDb, B: Backend>(writer: &mut BucketWriter<L, B>) {
    if let Some(piece) = writer.begin_piece() {
        piece.store().await.expect("stored");
        writer.end_piece(true);
    }
}

/// Small and large writes in any order, again and with other bytes, make what they make of an array.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_in_any_order_are_those_of_an_array() {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let (store, mut random) = (pod(&site), StdRng::seed_from_u64(seed()));
    for number in 0..12 {
        let (share, size) = (share_id(1, number), random.random_range(1..if number < 6 { 100u64 } else { 4 << 20 }));
        let mut writer = begin(&store, &alice, share, size, &connection(1, 1)).await.expect("granted");
        let mut model: Vec<Option<u8>> = vec![None; size as usize];
        let mut under_way = None;
        for _ in 0..random.random_range(0..20) {
            let offset = random.random_range(0..=size);
            let length = random.random_range(0..=(size - offset + 2).min(size / 2 + 1));
            let other = random.random_bool(0.1);
            let byte = |at: u64| (at % 251) as u8 ^ u8::from(other);
            let bytes: Bytes = (offset..offset + length).map(byte).collect();
            let known = |at: u64| model.get(at as usize).copied().flatten();
            let conflicts = (offset..offset + length).any(|at| known(at).is_some_and(|known| known != byte(at)));
            if (!writer.has_room(offset, length) || random.random_bool(0.3))
                && let Some(piece) = under_way.take()
            {
                GatheredPiece::store(piece).await.expect("stored");
                writer.end_piece(true);
            }
            match writer.write(&alice, offset, bytes).await {
                Ok(()) => {
                    assert!(!conflicts && offset + length <= size);
                    (offset..offset + length).for_each(|at| model[at as usize] = Some(byte(at)));
                }
                Err(StoreError::OutOfBounds { size_bytes }) => assert!(size_bytes == size && offset + length > size),
                Err(StoreError::Conflict) => assert!(conflicts),
                Err(error) => panic!("{error}"),
            }
            under_way = under_way.or_else(|| writer.begin_piece());
            assert!(store.stable_share(ShareKind::Immutable, share).await.is_err(), "not before it is closed");
        }
        if let Some(piece) = under_way {
            piece.store().await.expect("stored");
            writer.end_piece(true);
        }
        writer.close(&alice).await.expect("closed");
        let expected: Vec<u8> = model.into_iter().map(Option::unwrap_or_default).collect();
        let slice = super::site::Pod { store: site.store(site.db.clone(), site.objects.clone()) };
        assert!(slice.read(ShareKind::Immutable, share).await == expected, "share {number} of {size} bytes");
    }
    site.assert_clean(&["alice"], &[1]).await;
}

/// What names tell is the share as it was closed: every byte has an object, and all say the size (A14).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a14_the_objects_of_a_closed_share_tell_all_of_it() {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let store = pod(&site);
    let size = 3 << 20;
    for (number, size, writes) in
        [(0, size, vec![0..2_500_000u64]), (1, 1000, vec![]), (2, 0, vec![]), (3, 7, vec![5..7, 0..2])]
    {
        let share = share_id(1, number);
        let mut writer = begin(&store, &alice, share, size, &connection(1, 1)).await.expect("granted");
        for range in writes {
            writer.write(&alice, range.start, pattern(range).into()).await.expect("written");
            store_piece(&mut writer).await;
        }
        writer.close(&alice).await.expect("closed");
        let mut covered = leasehold_core::range::RangeSet::new();
        let mut objects = 0;
        for listed in site.listed("shares/").await {
            let name: ObjectName = listed.name.parse().expect("one of ours");
            if name.share != share {
                continue;
            }
            objects += 1;
            let start = name.object.base_offset();
            covered.insert(start..start + listed.length_bytes);
            match name.object {
                StoreObject::Piece(piece) => assert_eq!(piece.size_bytes, size),
                other => assert!(matches!(other, StoreObject::Whole { .. }), "{other:?}"),
            }
        }
        assert!(objects > 0 && covered.count() == size && covered.missing(0..size).is_empty(), "share {number}");
    }
    site.assert_clean(&["alice"], &[1]).await;
}

/// All bytes are written, but the process dies before the share is closed: nobody finds a share (A14).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a14_what_was_not_closed_is_never_a_share() {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let store = pod(&site);
    let size = 2 << 20;
    let share = share_id(1, 0);
    let mut writer = begin(&store, &alice, share, size, &connection(1, 1)).await.expect("granted");
    writer.write(&alice, 0, pattern(0..size).into()).await.expect("written");
    writer.write(&alice, 0, pattern(0..size).into()).await.expect("the same bytes");
    store_piece(&mut writer).await;
    let stored: u64 = site.listed("shares/").await.iter().map(|object| object.length_bytes).sum();
    assert!(stored > 0 && stored < size, "{stored} of {size} bytes are stored");
    drop(writer);
    site.clock.advance(IDLE_SECONDS + 1);
    let collected = store.collect(|_| ()).await.expect("collected");
    assert_eq!((collected.uploads_ended, collected.uploads_completed), (1, 0));
    assert!(store.stable_share(ShareKind::Immutable, share).await.is_err());
    site.assert_clean(&["alice"], &[1]).await;
}

/// A hole of any size is closed, some of it at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_hole_is_filled_step_by_step() {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let store = pod(&site);
    let (share, size) = (share_id(1, 0), 130 << 20);
    let mut writer = begin(&store, &alice, share, size, &connection(1, 1)).await.expect("granted");
    writer.write(&alice, size - 1, Bytes::from_static(b"x")).await.expect("written");
    let mut steps = 0;
    while writer.fill(&alice).await.expect("filled") {
        assert!(store.stable_share(ShareKind::Immutable, share).await.is_err(), "not before it is closed");
        steps += 1;
    }
    assert_eq!(steps, 3, "of 64 MiB at most");
    writer.close(&alice).await.expect("closed");
    let row = store.stable_share(ShareKind::Immutable, share).await.expect("there");
    let end = ShareSlice::new(share.storage_index, &row, size - 3..size);
    assert_eq!(store.read_slice(&end).await.expect("read")[..], *b"\0\0x");
    site.assert_clean(&["alice"], &[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_nothing_to_close_after_an_abort() {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let store = pod(&site);
    let mut writer = begin(&store, &alice, share_id(1, 0), 100, &connection(1, 1)).await.expect("granted");
    writer.write(&alice, 0, Bytes::from_static(b"x")).await.expect("written");
    writer.abort().await.expect("aborted");
    writer.abort().await.expect("and again");
    assert!(writer.close(&alice).await.is_err());
    site.assert_clean(&["alice"], &[1]).await;
}

/// A client whose connection to one pod died comes back through another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_connection_left_is_free_when_its_client_is_back() {
    let site = Site::new().await;
    let (alice, bob) = (site.account("alice").await, site.account("bob").await);
    let (one, two) = (pod(&site), pod(&site));
    let (mine, other) = (share_id(1, 0), share_id(1, 1));
    let mut dead = begin(&one, &alice, mine, 100, &connection(1, 1)).await.expect("granted");
    let mut alive = begin(&one, &bob, other, 100, &connection(2, 1)).await.expect("granted");
    assert!(begin(&two, &alice, mine, 100, &connection(1, 2)).await.is_none(), "still taken");
    assert_eq!(two.end_abandoned(&connection(1, 2)).await.expect("ended"), 1);
    let mut writer = begin(&two, &alice, mine, 100, &connection(1, 2)).await.expect("free");
    assert_eq!(two.end_abandoned(&connection(1, 2)).await.expect("ended"), 0, "its own uploads go on");
    dead.abort().await.expect("the other pod notices in the end");
    assert!(dead.write(&alice, 0, Bytes::from_static(b"late")).await.is_ok(), "only gathered");
    assert!(dead.close(&alice).await.is_err(), "and stored nowhere");
    for writer in [&mut writer, &mut alive] {
        let session = if writer.share() == mine { &alice } else { &bob };
        writer.write(session, 0, pattern(0..100).into()).await.expect("written");
        writer.close(session).await.expect("closed");
    }
    site.assert_clean(&["alice", "bob"], &[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_kept_outlives_its_deadline() {
    let site = Site::new().await;
    let alice = site.account("alice").await;
    let store = pod(&site);
    let (kept, empty) = (share_id(1, 0), share_id(1, 1));
    let mut writer = begin(&store, &alice, kept, 100, &connection(1, 1)).await.expect("granted");
    let mut none = begin(&store, &alice, empty, 0, &connection(1, 1)).await.expect("granted");
    for _ in 0..3 {
        site.clock.advance(IDLE_SECONDS - 1);
        writer.keep().await.expect("kept");
        none.keep().await.expect("an empty share has nothing to keep");
        store.collect(|_| ()).await.expect("collected");
    }
    writer.write(&alice, 0, pattern(0..100).into()).await.expect("written");
    writer.close(&alice).await.expect("closed");
    assert!(none.close(&alice).await.is_err(), "its deadline has passed");
    writer.keep().await.expect("there is nothing left to keep");
    site.assert_clean(&["alice"], &[1]).await;
}
