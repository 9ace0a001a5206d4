//! A lease database and a backend, and stores over them as several pods would have them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use leasehold_core::accountant::{Accountant, Session};
use leasehold_core::backend::{Backend, ListedObject};
use leasehold_core::chunk::{ObjectName, StoreObject};
use leasehold_core::clock::{Clock, Entropy};
use leasehold_core::id::{ShareId, ShareNumber, StorageIndex};
use leasehold_core::leasedb::{AccountChange, CreateOutcome, LeaseDb};
use leasehold_core::share::ShareKind;
use leasehold_core::slot::{ReadTestWrite, ShareVectors, WriteVector};
use leasehold_core::store::{ShareSlice, Store, StoreOptions};
use leasehold_core::testing::clock::ManualClock;
use leasehold_core::testing::{body, credential, enabler, storage_index, upload_secret};

use crate::ground::{Ground, OneMachine};

/// How long uploads may rest, in seconds: the default of the options.
pub const IDLE_SECONDS: i64 = 30 * 60;

/// What all pods share.
pub struct Site<G: Ground = OneMachine> {
    pub clock: ManualClock,
    pub db: G::Db,
    pub objects: G::Objects,
    pub ground: G,
    pods: AtomicU64,
}

/// One pod's store, with the sentences that the tests are made of.
pub struct Pod<L, B> {
    pub store: Store<L, B>,
}

impl Site {
    pub async fn new() -> Self {
        Self::make().await
    }
}

impl<G: Ground> Site<G> {
    pub async fn make() -> Self {
        let (ground, clock) = (G::make().await, ManualClock::default());
        let (db, objects) = (ground.open_db(&clock).await, ground.open_objects());
        Self { clock, db, objects, ground, pods: AtomicU64::new(0) }
    }

    /// All processes died; others begin with what they left.
    pub async fn reopen(&mut self) {
        self.db = self.ground.open_db(&self.clock).await;
        self.objects = self.ground.open_objects();
    }

    pub fn now(&self) -> i64 {
        self.clock.now().seconds()
    }

    /// A store with an entropy of its own over this database and backend.
    pub fn store<L: LeaseDb, B: Backend>(&self, db: L, backend: B) -> Store<L, B> {
        self.store_with(db, backend, StoreOptions::default())
    }

    pub fn store_with<L: LeaseDb, B: Backend>(&self, db: L, backend: B, options: StoreOptions) -> Store<L, B> {
        let entropy = Entropy::from_seed(self.pods.fetch_add(1, Ordering::SeqCst));
        Store::new(Arc::new(db), Arc::new(backend), entropy, options)
    }

    pub fn pod<B: Backend>(&self, backend: B) -> Pod<G::Db, B> {
        Pod { store: self.store(self.db.clone(), backend) }
    }

    /// A pod with a lease database and a backend of its own: it shares nothing with others in this process.
    pub async fn far_pod(&self) -> Pod<G::Db, G::Objects> {
        Pod { store: self.store(self.ground.open_db(&self.clock).await, self.ground.open_objects()) }
    }

    /// A far pod that knows whether the lease database recovers.
    pub async fn told_pod(&self) -> Pod<G::Db, G::Objects> {
        let pod = self.far_pod().await;
        pod.store.refresh_space().await.expect("told");
        pod
    }

    /// What the backend has under a prefix.
    pub async fn listed(&self, prefix: &str) -> Vec<ListedObject> {
        let page = self.objects.list(prefix, None, 10_000).await.expect("list");
        assert!(page.next.is_none(), "more than a test makes");
        page.objects
    }

    /// Makes an account and opens it.
    pub async fn account(&self, name: &str) -> Arc<Session> {
        create_in(Arc::new(self.db.clone()), name).await
    }

    /// Used and reserved bytes.
    pub async fn usage(&self, name: &str) -> (u64, u64) {
        let account = self.db.find_account(name.to_owned()).await.expect("find_account").expect("there");
        let usage = self.db.usage(account.id).await.expect("usage");
        (usage.used_bytes, usage.reserved_bytes)
    }

    /// Usage equals a recount; and when all deadlines and graces have passed, nothing is left that nothing names.
    pub async fn assert_clean(&self, accounts: &[&str], indexes: &[u8]) {
        let indexes: Vec<StorageIndex> = indexes.iter().copied().map(storage_index).collect();
        self.assert_clean_at(accounts, &indexes).await;
    }

    /// The same with any storage indexes.
    pub async fn assert_clean_at(&self, accounts: &[&str], indexes: &[StorageIndex]) {
        self.assert_usage(accounts, indexes).await;
        let pod = self.pod(self.objects.clone());
        for _ in 0..3 {
            self.clock.advance(9 * 86_400);
            pod.store.collect(|_| ()).await.expect("sweep");
        }
        self.assert_usage(accounts, indexes).await;
        let (mut named, mut slots) = (HashSet::new(), HashSet::new());
        for index in indexes.iter().copied() {
            for row in self.db.list_shares(index).await.expect("list_shares") {
                slots.extend((row.kind == ShareKind::Mutable).then_some(index));
                let id = ShareId::new(index, row.number);
                named.extend(row.locator.objects().into_iter().map(|object| ObjectName::new(id, object)));
            }
        }
        for listed in self.listed("shares/").await {
            let name: ObjectName = listed.name.parse().expect("one of ours");
            let marker =
                matches!(name.object, StoreObject::SlotMarker { .. }) && slots.remove(&name.share.storage_index);
            assert!(marker || named.remove(&name), "{name} is left over");
        }
        assert!(named.is_empty(), "rows name what is not there: {named:?}");
    }

    /// Usage equals a recount.
    pub async fn assert_usage(&self, accounts: &[&str], indexes: &[StorageIndex]) {
        for name in accounts {
            let id = self.db.find_account((*name).to_owned()).await.expect("find_account").expect("there").id;
            let (mut used, mut reserved) = (0, 0);
            for index in indexes.iter().copied() {
                let leases = self.db.list_leases(index).await.expect("list_leases");
                for row in self.db.list_shares(index).await.expect("list_shares") {
                    let leased = leases.iter().any(|lease| lease.number == row.number && lease.account == id);
                    used += if leased { row.kind.charged_bytes(row.size_bytes) } else { 0 };
                }
                for number in (0..16).map(ShareNumber::new) {
                    let found = self.db.find_upload(ShareId::new(index, number)).await.expect("find_upload").1;
                    if let Some(upload) = found.filter(|upload| upload.account == id) {
                        reserved += ShareKind::Immutable.charged_bytes(upload.size_bytes);
                    }
                }
            }
            assert_eq!(self.usage(name).await, (used, reserved), "usage of {name} against a recount");
        }
    }
}

impl<L: LeaseDb, B: Backend> Pod<L, B> {
    /// Begins the upload of one share under upload secret 1.
    pub async fn allocate(&self, session: &Session, share: ShareId, size: u64) {
        self.store.refresh_space().await.expect("room is known");
        let (index, numbers) = (share.storage_index, [share.number]);
        let sets = self.store.allocate_bucket(session, index, &numbers, size, &upload_secret(1)).await;
        assert_eq!(sets.expect("allocate").allocated, numbers);
    }

    /// Uploads a whole share.
    pub async fn upload(&self, session: &Session, share: ShareId, bytes: &[u8]) {
        self.allocate(session, share, bytes.len() as u64).await;
        let range = 0..bytes.len() as u64;
        let written = self.store.write_bucket(share, &upload_secret(1), range, body(bytes)).await;
        assert!(written.expect("written").finished);
    }

    /// Gives a mutable share these bytes.
    pub async fn write_slot(&self, session: &Session, share: ShareId, bytes: &'static [u8]) {
        let request = one_share(share.number.get(), replaced(bytes.len() as u64));
        let payload = Bytes::from_static(bytes);
        let written = self.store.read_test_write(session, share.storage_index, &enabler(1), &request, &payload).await;
        assert!(written.expect("written").success);
    }

    pub async fn numbers(&self, kind: ShareKind, share: ShareId) -> Vec<ShareNumber> {
        self.store.list_shares(kind, share.storage_index).await.expect("list_shares")
    }

    /// Whether there is this share.
    pub async fn has(&self, kind: ShareKind, share: ShareId) -> bool {
        self.numbers(kind, share).await.contains(&share.number)
    }

    pub async fn slice(&self, kind: ShareKind, share: ShareId) -> ShareSlice {
        let row = self.store.stable_share(kind, share).await.expect("a stable share");
        ShareSlice::new(share.storage_index, &row, 0..u64::MAX)
    }

    pub async fn read(&self, kind: ShareKind, share: ShareId) -> Vec<u8> {
        let slice = self.slice(kind, share).await;
        self.store.read_slice(&slice).await.expect("readable").to_vec()
    }
}

/// Makes an account in the lease database of a store and opens it.
pub async fn create<L: LeaseDb, B: Backend>(store: &Store<L, B>, name: &str) -> Arc<Session> {
    create_in(store.db().clone(), name).await
}

async fn create_in<L: LeaseDb>(db: Arc<L>, name: &str) -> Arc<Session> {
    let made = db.create_account(name.to_owned(), AccountChange::default(), credential(name)).await;
    assert!(matches!(made.expect("create_account"), CreateOutcome::Created(_)));
    let accountant = Accountant::open(db).await.expect("an accountant");
    accountant.session(&credential(name)).await.expect("session").expect("valid")
}

/// A request on one share.
pub fn one_share(number: u8, vectors: ShareVectors) -> ReadTestWrite {
    ReadTestWrite { vectors: [(ShareNumber::new(number), vectors)].into(), reads: Vec::new() }
}

/// Vectors that give a share the first `length` bytes of the payload and no others.
pub fn replaced(length: u64) -> ShareVectors {
    let writes = vec![WriteVector { offset: 0, length, source: 0 }];
    ShareVectors { writes, new_length: (length > 0).then_some(length), ..ShareVectors::default() }
}

/// Vectors that remove a share.
pub fn removal() -> ShareVectors {
    ShareVectors { new_length: Some(0), ..ShareVectors::default() }
}
