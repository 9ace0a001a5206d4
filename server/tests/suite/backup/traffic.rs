//! Backups beside everything else that goes on: each is one instant.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use leasehold_core::leasedb::LeaseDb;
use leasehold_core::share::ShareKind;
use leasehold_core::testing::{seed, share_id};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{back_up, everything, remove, restore};
use crate::ground::{Ground, on_every_ground};
use crate::store::pattern;
use crate::store::site::Site;

const BACKUPS: usize = 6;
const CLIENTS: u8 = 4;
const BYTES: &[u8] = b"some bytes of a mutable share";

on_every_ground! {
    a_backup_amid_uploads_writes_renewals_and_removals_is_one_instant,
}

async fn a_backup_amid_uploads_writes_renewals_and_removals_is_one_instant<G: Ground>() {
    let seed = seed();
    let (site, other) = (Site::<G>::make().await, Site::<G>::make().await);
    let pod = site.pod(site.objects.clone());
    pod.store.claim_backend().await.expect("claimed");
    let done = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for client in 0..CLIENTS {
        let me = site.account(&format!("client {client}")).await;
        let friend = site.account(&format!("friend {client}")).await;
        let (pod, done) = (site.far_pod().await, done.clone());
        clients.push(tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(seed + u64::from(client));
            let mut operations = 0u32;
            while !done.load(Ordering::SeqCst) || operations < 20 {
                // Each client has storage indexes of its own, so that all of its operations succeed.
                let number = client * 40 + random.random_range(0..10);
                let (bucket, slot) = (share_id(number, random.random_range(0..4)), share_id(number + 10, 0));
                match random.random_range(0..5) {
                    0 | 1 if pod.has(ShareKind::Immutable, bucket).await => {}
                    0 | 1 => pod.upload(&me, bucket, &pattern(0..random.random_range(1..300))).await,
                    2 => pod.write_slot(&me, slot, &BYTES[random.random_range(0..20)..]).await,
                    3 if pod.has(ShareKind::Mutable, slot).await => remove(&pod, &me, slot).await,
                    _ => drop(pod.store.renew_leases(&friend, bucket.storage_index).await),
                }
                operations += 1;
            }
            operations
        }));
    }
    let mut last = None;
    for _ in 0..BACKUPS {
        let backup = back_up(&pod.store).await;
        let verified = pod.store.backups().verify(&backup, |_| ()).await.expect("every lease has its share");
        assert_eq!(verified.disagreements, [], "counters and leases are of one instant");
        last = Some(backup);
    }
    done.store(true, Ordering::SeqCst);
    for client in clients {
        assert!(client.await.expect("it ends") >= 20);
    }
    // The restored database counts as the backup does.
    let restored = site.store(other.db.clone(), site.objects.clone());
    restore(&restored, last.expect("taken").name).await;
    let again = back_up(&restored).await;
    let verified = restored.backups().verify(&again, |_| ()).await.expect("sound");
    assert_eq!(verified.disagreements, []);
    assert!(everything(&other.db).await.contains_key("leases"));
    assert!(!other.db.is_empty().await.expect("is_empty"));
}
