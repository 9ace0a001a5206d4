//! A backup belongs to no kind of database: from SQLite to PostgreSQL and back, row by row.

use leasehold_core::leasedb::{Epoch, LeaseDb};
use leasehold_core::share::ShareKind;
use leasehold_core::testing::share_id;

use super::{back_up, everything, restore};
use crate::ground::{OneMachine, Pods};
use crate::store::site::{Pod, Site};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_moves_from_a_file_to_postgresql_and_back() {
    let file = Site::<OneMachine>::make().await;
    let (server, back) = (Site::<Pods>::make().await, Site::<OneMachine>::make().await);
    let alice = file.account("alice").await;
    let pod = file.pod(file.objects.clone());
    pod.upload(&alice, share_id(1, 0), b"an immutable share").await;
    pod.write_slot(&alice, share_id(2, 0), b"a first version").await;
    pod.write_slot(&alice, share_id(2, 0), b"a mutable share").await;
    let begun = everything(&file.db).await;
    let first = back_up(&pod.store).await;

    let moved = Pod { store: file.store(server.db.clone(), file.objects.clone()) };
    assert_eq!(restore(&moved.store, first.name).await, Epoch(2));
    let mut rows = everything(&server.db).await;
    assert_eq!(rows.remove("losses").map(|losses| losses.len()), Some(1));
    assert_eq!(rows, begun);
    assert_eq!(moved.read(ShareKind::Immutable, share_id(1, 0)).await, b"an immutable share");
    moved.write_slot(&alice, share_id(2, 0), b"written on PostgreSQL").await;
    let used = server.usage("alice").await;
    let begun = everything(&server.db).await;
    let second = back_up(&moved.store).await;

    let home = Pod { store: file.store(back.db.clone(), file.objects.clone()) };
    assert_eq!(restore(&home.store, second.name).await, Epoch(3));
    let mut rows = everything(&back.db).await;
    assert_eq!(rows.get_mut("losses").and_then(Vec::pop).map(|loss| loss[0].integer()), Some(Some(3)));
    assert_eq!(rows, begun);
    assert_eq!(home.read(ShareKind::Mutable, share_id(2, 0)).await, b"written on PostgreSQL");
    assert_eq!(back.usage("alice").await, used);
    let ids = [&file.db.deployment().await, &back.db.deployment().await].map(|d| d.as_ref().expect("deployment").id);
    assert_eq!(ids[0], ids[1], "it is the same deployment all the time");
}
