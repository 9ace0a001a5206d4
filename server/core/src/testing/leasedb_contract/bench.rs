//! A lease database under test with a clock, and the few sentences that the cases are made of.

use std::sync::Arc;

use super::MakeLeaseDb;
use crate::account::Usage;
use crate::bucket::Chunk;
use crate::chunk::{ObjectName, Piece, StoreObject};
use crate::clock::{Clock, Entropy};
use crate::id::{AccountId, ObjectId, ShareId, ShareNumber, StorageIndex};
use crate::lease::LeaseTerms;
use crate::leasedb::{
    AccountChange, Allocate, AllocateOutcome, CommitOutcome, CommitSlot, CreateOutcome, Epoch, LeaseDb, LeaseRow,
    RecordChunks, RecordOutcome, ShareRow, SlotChange, SlotToken,
};
use crate::locator::{Extent, Locator};
use crate::share::{ShareKind, ShareState};
use crate::testing::clock::ManualClock;
use crate::testing::values::{Guard, credential, enabler, upload_secret};

/// How long uploads of the cases may rest, in seconds.
pub(crate) const IDLE_SECONDS: i64 = 1800;
/// The epoch in which a database begins.
pub(crate) const FIRST_EPOCH: Epoch = Epoch(1);

/// A lease database under test.
pub struct Bench<D> {
    /// The database.
    pub db: Arc<D>,
    /// Its clock.
    pub clock: ManualClock,
    pub(crate) entropy: Entropy,
    pub(crate) guard: Guard,
}

/// The two sets that an allocation answers with, as plain numbers.
pub(crate) type Sets = (Vec<u8>, Vec<u8>);

impl<D: LeaseDb> Bench<D> {
    /// Makes a database with the usual terms.
    pub async fn new<M: MakeLeaseDb<Db = D>>() -> Self {
        Self::with_terms::<M>(LeaseTerms::default()).await
    }

    /// Makes a database with these terms.
    pub async fn with_terms<M: MakeLeaseDb<Db = D>>(terms: LeaseTerms) -> Self {
        let clock = ManualClock::default();
        let (db, guard) = M::make(Arc::new(clock.clone()), terms).await;
        Self { db: Arc::new(db), clock, entropy: Entropy::from_seed(7), guard }
    }

    pub(crate) async fn account(&self, name: &str, quota_bytes: Option<u64>) -> AccountId {
        let change = AccountChange { quota_bytes: Some(quota_bytes), ..AccountChange::default() };
        let made = self.db.create_account(name.to_owned(), change, credential(name)).await;
        match made.expect("create_account") {
            CreateOutcome::Created(account) => account.id,
            CreateOutcome::NameTaken => panic!("{name} is new"),
        }
    }

    pub(crate) fn id(&self) -> ObjectId {
        self.entropy.object_id(self.clock.now())
    }

    pub(crate) fn request(&self, account: AccountId, index: StorageIndex, numbers: &[u8], size: u64) -> Allocate {
        Allocate {
            storage_index: index,
            account,
            shares: numbers.iter().map(|number| (ShareNumber::new(*number), self.id())).collect(),
            size_bytes: size,
            secret: upload_secret(1).hash(),
            connection: None,
            idle_seconds: IDLE_SECONDS,
            backend_available_bytes: u64::MAX,
        }
    }

    pub(crate) async fn allocate(&self, account: AccountId, index: StorageIndex, numbers: &[u8], size: u64) -> Sets {
        loop {
            match self.db.allocate(self.request(account, index, numbers, size)).await.expect("allocate") {
                AllocateOutcome::Overdue(uploads) => {
                    for (number, upload) in uploads {
                        let share = ShareId::new(index, number);
                        let ended = self.db.end_upload(share, upload, Vec::new(), true).await.expect("end_upload");
                        assert!(ended, "{share} was said to be overdue");
                    }
                }
                outcome => return sets(outcome),
            }
        }
    }

    /// The id of the upload in progress.
    pub(crate) async fn upload_id(&self, share: ShareId) -> ObjectId {
        self.db.find_upload(share).await.expect("find_upload").1.expect("an upload is in progress").id
    }

    /// A piece of the upload in progress, as if it had just been stored.
    pub(crate) async fn chunk(&self, share: ShareId, range: std::ops::Range<u64>) -> (ObjectId, u64, Chunk) {
        let upload = self.db.find_upload(share).await.expect("find_upload").1.expect("an upload is in progress");
        let piece = Piece {
            group: upload.id,
            account: upload.account,
            size_bytes: upload.size_bytes,
            offset: range.start,
            chunk: self.id(),
        };
        let chunk = Chunk { range, object: StoreObject::Piece(piece), digest: Some([9; 32]) };
        (upload.id, upload.received_bytes, chunk)
    }

    /// Records a piece of the upload in progress.
    pub(crate) async fn record(&self, share: ShareId, range: std::ops::Range<u64>) -> (RecordOutcome, ObjectName) {
        let (upload, seen, chunk) = self.chunk(share, range).await;
        let name = ObjectName::new(share, chunk.object);
        (self.record_raw(share, upload, seen, vec![chunk]).await.expect("record_chunks"), name)
    }

    pub(crate) async fn record_raw(
        &self,
        share: ShareId,
        upload: ObjectId,
        seen: u64,
        chunks: Vec<Chunk>,
    ) -> crate::leasedb::Result<RecordOutcome> {
        self.db.record_chunks(self.recording(share, upload, seen, chunks)).await
    }

    pub(crate) fn recording(&self, share: ShareId, upload: ObjectId, seen: u64, chunks: Vec<Chunk>) -> RecordChunks {
        RecordChunks {
            share,
            upload,
            seen_received_bytes: seen,
            chunks,
            found: false,
            epoch: FIRST_EPOCH,
            idle_seconds: IDLE_SECONDS,
        }
    }

    /// Uploads a whole share.
    pub(crate) async fn bucket_share(&self, account: AccountId, share: ShareId, size: u64) -> ObjectName {
        let number = share.number.get();
        let (_, allocated) = self.allocate(account, share.storage_index, &[number], size).await;
        assert_eq!(allocated, [number]);
        let (outcome, name) = self.record(share, 0..size).await;
        assert_eq!(outcome, RecordOutcome::Finished);
        name
    }

    /// A commit that gives each of these shares a whole new object of this size, or removes it.
    pub(crate) fn commit(
        &self,
        account: AccountId,
        index: StorageIndex,
        base: Option<SlotToken>,
        changes: &[(u8, Option<u64>)],
    ) -> CommitSlot {
        let mut fresh = Vec::new();
        let changes = changes.iter().map(|(number, size)| {
            let change = size.map_or(SlotChange::Remove, |size_bytes| {
                let object = StoreObject::Generation { generation: self.id(), account };
                fresh.push(object);
                let extent = Extent { range: 0..size_bytes, object };
                let extents = if size_bytes == 0 { Vec::new() } else { vec![extent] };
                SlotChange::Put { size_bytes, locator: Locator::new(extents).expect("one extent") }
            });
            (ShareNumber::new(*number), change)
        });
        let changes = changes.collect();
        let token = SlotToken(self.entropy.bytes());
        let write_enabler = enabler(1).hash();
        CommitSlot {
            storage_index: index,
            account,
            base,
            token,
            write_enabler,
            changes,
            marker: None,
            fresh,
            epoch: FIRST_EPOCH,
        }
    }

    /// Writes shares of a slot on its present token, and tells the objects.
    pub(crate) async fn write(
        &self,
        account: AccountId,
        index: StorageIndex,
        changes: &[(u8, Option<u64>)],
    ) -> (CommitOutcome, Vec<ObjectName>) {
        let base = self.db.read_slot(index).await.expect("read_slot").slot.map(|(token, _)| token);
        let commit = self.commit(account, index, base, changes);
        let names = commit_names(&commit);
        (self.db.commit_slot(commit).await.expect("commit_slot"), names)
    }

    /// As [`write`](Self::write), where it must succeed.
    pub(crate) async fn slot_share(&self, account: AccountId, share: ShareId, size: u64) -> ObjectName {
        let (outcome, names) = self.write(account, share.storage_index, &[(share.number.get(), Some(size))]).await;
        assert_eq!(outcome, CommitOutcome::Done);
        names[0]
    }

    pub(crate) async fn usage(&self, account: AccountId) -> Usage {
        self.db.usage(account).await.expect("usage")
    }

    pub(crate) async fn lease(&self, share: ShareId, account: AccountId) -> Option<LeaseRow> {
        let leases = self.db.list_leases(share.storage_index).await.expect("list_leases");
        leases.into_iter().find(|row| row.number == share.number && row.account == account)
    }

    pub(crate) async fn numbers(&self, kind: ShareKind, index: StorageIndex) -> Vec<u8> {
        let numbers = self.db.list_numbers(index, kind).await.expect("list_numbers");
        numbers.into_iter().map(ShareNumber::get).collect()
    }

    pub(crate) async fn set(&self, account: AccountId, change: AccountChange) {
        assert!(self.db.change_account(account, change).await.expect("change_account"));
    }

    /// All garbage that can be claimed now, finished at once.
    pub(crate) async fn take_garbage(&self) -> Vec<ObjectName> {
        let mut names = Vec::new();
        loop {
            let rows = self.db.claim_garbage(FIRST_EPOCH, 100, 60).await.expect("claim_garbage");
            if rows.is_empty() {
                return names;
            }
            self.db.finish_garbage(rows.iter().map(|row| row.id).collect()).await.expect("finish_garbage");
            names.extend(rows.into_iter().flat_map(|row| row.objects));
        }
    }

    /// What an account uses, counted row by row over these storage indexes and the share numbers below 10.
    pub(crate) async fn recount(&self, account: AccountId, indexes: &[StorageIndex]) -> Usage {
        let mut usage = Usage::default();
        for index in indexes {
            let shares = self.db.list_shares(*index).await.expect("list_shares");
            let leases = self.db.list_leases(*index).await.expect("list_leases");
            for lease in &leases {
                assert!(shares.iter().any(|row| row.number == lease.number), "a lease without a share: {lease:?}");
            }
            let kinds: std::collections::HashSet<ShareKind> = shares.iter().map(|row| row.kind).collect();
            assert!(kinds.len() <= 1, "{index} has shares of both kinds");
            let leased = |row: &ShareNumber| leases.iter().any(|l| l.number == *row && l.account == account);
            for row in shares.iter().filter(|row| row.state == ShareState::Stable && leased(&row.number)) {
                usage.used_bytes += row.kind.charged_bytes(row.size_bytes);
                usage.shares += 1;
            }
            for number in (0..10).map(ShareNumber::new) {
                let share = ShareId::new(*index, number);
                let Some(upload) = self.db.find_upload(share).await.expect("find_upload").1 else { continue };
                // A mutable share may take the number of an upload, which then cannot finish; a finished one may not.
                let finished = |row: &ShareRow| row.state == ShareState::Stable && row.kind == ShareKind::Immutable;
                let stable = shares.iter().any(|row| row.number == number && finished(row));
                assert!(!stable, "share {share} is stable and coming at once");
                if upload.account == account {
                    usage.reserved_bytes += ShareKind::Immutable.charged_bytes(upload.size_bytes);
                }
            }
        }
        usage
    }

    pub(crate) async fn audit(&self, accounts: &[AccountId], indexes: &[StorageIndex]) {
        for account in accounts {
            let recount = self.recount(*account, indexes).await;
            assert_eq!(self.usage(*account).await, recount, "usage of {account} against a recount");
        }
    }
}

/// The sets of an allocation that was not refused, ascending.
pub(crate) fn sets(outcome: AllocateOutcome) -> Sets {
    let AllocateOutcome::Done { already_have, allocated, .. } = outcome else { panic!("refused: {outcome:?}") };
    let plain = |numbers: Vec<ShareNumber>| {
        let mut numbers: Vec<u8> = numbers.into_iter().map(ShareNumber::get).collect();
        numbers.sort_unstable();
        numbers
    };
    (plain(already_have), plain(allocated))
}

/// The names of a commit's new objects, in the order of its changes.
pub(crate) fn commit_names(commit: &CommitSlot) -> Vec<ObjectName> {
    let puts = commit.changes.iter().filter(|(_, change)| matches!(change, SlotChange::Put { .. }));
    let share = |number: &ShareNumber| ShareId::new(commit.storage_index, *number);
    puts.zip(&commit.fresh).map(|((number, _), object)| ObjectName::new(share(number), *object)).collect()
}
