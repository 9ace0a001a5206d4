//! Any schedule of transactions by many tasks: usage equals a recount, nothing named is garbage (`review.md` A3, A9).
#![allow(missing_docs, reason = "the names of the cases say it")]

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::MakeLeaseDb;
use super::bench::Bench;
use crate::account::AccountState;
use crate::chunk::ObjectName;
use crate::id::{AccountId, ShareId, StorageIndex};
use crate::leasedb::{AccountChange, LeaseDb};
use crate::testing::values::{Tasks, seed, share_id, storage_index};

const TASKS: u64 = 8;
const STEPS: usize = 40;
const INDEXES: u8 = 4;

type Taken = Arc<Mutex<HashSet<ObjectName>>>;

async fn step<D: LeaseDb>(bench: &Bench<D>, accounts: &[AccountId], random: &mut StdRng, taken: &Taken) {
    let account = accounts[random.random_range(0..accounts.len())];
    let (index, number) = (random.random_range(0..INDEXES), random.random_range(0..2u8));
    let share = share_id(index, number);
    let index = share.storage_index;
    match random.random_range(0..12) {
        0..=2 => {
            let request = bench.request(account, index, &[number, 2], random.random_range(1..300));
            drop(bench.db.allocate(request).await.expect("allocate"));
        }
        3 | 4 => finish(bench, share).await,
        5..=7 => {
            let size = random.random_bool(0.7).then(|| random.random_range(0..400));
            drop(bench.write(account, index, &[(number, size), (2, Some(random.random_range(0..50)))]).await);
        }
        8 => drop(bench.write(account, index, &[(0, None), (1, None), (2, None)]).await),
        9 | 10 => drop(bench.db.renew_leases(index, account).await.expect("renew_leases")),
        _ => rest(bench, account, share, random, taken).await,
    }
}

async fn finish<D: LeaseDb>(bench: &Bench<D>, share: ShareId) {
    let Some(upload) = bench.db.find_upload(share).await.expect("find_upload").1 else { return };
    let piece = crate::chunk::Piece {
        group: upload.id,
        account: upload.account,
        size_bytes: upload.size_bytes,
        offset: upload.received_bytes,
        chunk: bench.id(),
    };
    let end = if upload.received_bytes == 0 { upload.size_bytes.div_ceil(2) } else { upload.size_bytes };
    let chunk = crate::bucket::Chunk {
        range: upload.received_bytes..end,
        object: crate::chunk::StoreObject::Piece(piece),
        digest: None,
    };
    drop(bench.record_raw(share, upload.id, upload.received_bytes, vec![chunk]).await.expect("record_chunks"));
}

async fn rest<D: LeaseDb>(bench: &Bench<D>, account: AccountId, share: ShareId, random: &mut StdRng, taken: &Taken) {
    match random.random_range(0..5) {
        0 => {
            if let Some(upload) = bench.db.find_upload(share).await.expect("find_upload").1 {
                let overdue_only = random.random_bool(0.5);
                bench.db.end_upload(share, upload.id, Vec::new(), overdue_only).await.expect("end_upload");
            }
        }
        1 => {
            let quota_bytes = Some(random.random_bool(0.5).then(|| random.random_range(0..5000)));
            bench.set(account, AccountChange { quota_bytes, ..AccountChange::default() }).await;
        }
        2 => {
            let state = if random.random_bool(0.7) { AccountState::Active } else { AccountState::ReadOnly };
            bench.set(account, AccountChange { state: Some(state), ..AccountChange::default() }).await;
        }
        3 => bench.clock.advance(random.random_range(0..2000)),
        _ => {
            let names = bench.take_garbage().await;
            let mut taken = taken.lock().expect("lock");
            for name in names {
                assert!(taken.insert(name), "{name} was handed out twice");
            }
        }
    }
}

pub async fn usage_equals_a_recount_after_any_schedule<M: MakeLeaseDb>() {
    let seed = seed();
    let bench = Arc::new(Bench::new::<M>().await);
    let mut accounts = Vec::new();
    for name in ["alice", "bob", "carol"] {
        accounts.push(bench.account(name, Some(20_000)).await);
    }
    let taken = Taken::default();
    let tasks: Tasks = (0..TASKS)
        .map(|task| {
            let (bench, accounts, taken) = (bench.clone(), accounts.clone(), taken.clone());
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(task));
            async move {
                for _ in 0..STEPS {
                    step(&bench, &accounts, &mut random, &taken).await;
                }
            }
            .boxed()
        })
        .collect();
    M::run_all(tasks).await;
    let indexes: Vec<StorageIndex> = (0..INDEXES).map(storage_index).collect();
    bench.audit(&accounts, &indexes).await;
    let taken = taken.lock().expect("lock").clone();
    for index in &indexes {
        let slot = bench.db.read_slot(*index).await.expect("read_slot");
        assert_eq!(slot.slot.is_some(), !slot.shares.is_empty(), "A8: a slot without shares is none");
        for row in bench.db.list_shares(*index).await.expect("list_shares") {
            for object in row.locator.objects() {
                let name = ObjectName::new(ShareId::new(*index, row.number), object);
                assert!(!taken.contains(&name), "A3: {name} was handed out as garbage and is named by a row");
            }
        }
    }
}
