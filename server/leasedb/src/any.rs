//! Either database, as the configuration decides.

use leasehold_core::account::{Account, Usage};
use leasehold_core::backup::{Export, Import, ImportOutcome, Pages};
use leasehold_core::bucket::Upload;
use leasehold_core::chunk::{ObjectName, StoreObject};
use leasehold_core::clock::Timestamp;
use leasehold_core::crawl::unit::{ClaimUnitOutcome, FinishUnit, Prefix};
use leasehold_core::crawl::{Crawled, ForgetOutcome, Settle, SettleOutcome, Spared, Survey, TakeOver};
use leasehold_core::expiry::{
    Amount, ExpireLeases, ExpireOutcome, LeaseOnShare, LeasePage, RetireOutcome, RetireShares, Undo, Undone,
    UnleasedTotals,
};
use leasehold_core::id::{AccountId, ObjectId, ShareId, ShareNumber, StorageIndex};
use leasehold_core::leasedb::{
    AccountChange, Advisory, Allocate, AllocateOutcome, CommitOutcome, CommitSlot, CreateOutcome, Credential,
    Deployment, Epoch, Garbage, LeaseDb, LeaseRow, RecordChunks, RecordOutcome, Relocate, RenewOutcome, Result,
    Scattered, ShareRow, SlotSnapshot, SlotToken, Tick, TickOutcome,
};
use leasehold_core::run::{BeginRun, BeginRunOutcome, FinishRun, PermitOutcome, Run, RunId, RunKind, Totals};
use leasehold_core::secret::SecretHash;
use leasehold_core::share::ShareKind;
use leasehold_core::trouble::Troubles;
use leasehold_core::tub::TubConnection;

use crate::postgres::PgLeaseDb;
use crate::sqlite::SqliteLeaseDb;

/// A lease database of a kind that is known at run time only.
#[derive(Clone, Debug)]
pub enum AnyLeaseDb {
    /// One file.
    Sqlite(SqliteLeaseDb),
    /// A server.
    Postgres(PgLeaseDb),
}

macro_rules! pass_on {
    ($(fn $method:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        impl LeaseDb for AnyLeaseDb {
            $(async fn $method(&self, $($argument: $type),*) -> Result<$answer> {
                match self {
                    Self::Sqlite(db) => db.$method($($argument),*).await,
                    Self::Postgres(db) => db.$method($($argument),*).await,
                }
            })*
        }
    };
}

pass_on! {
    fn now() -> Timestamp;
    fn allocate(request: Allocate) -> AllocateOutcome;
    fn find_upload(share: ShareId) -> (Timestamp, Option<Upload>);
    fn record_chunks(request: RecordChunks) -> RecordOutcome;
    fn end_upload(share: ShareId, upload: ObjectId, strays: Vec<StoreObject>, overdue_only: bool) -> bool;
    fn open_uploads() -> Amount;
    fn overdue_uploads(max: u32) -> Vec<(ShareId, ObjectId)>;
    fn abandoned_uploads(connection: TubConnection, max: u32) -> Vec<(ShareId, ObjectId)>;
    fn list_shares(storage_index: StorageIndex) -> Vec<ShareRow>;
    fn list_numbers(storage_index: StorageIndex, kind: ShareKind) -> Vec<ShareNumber>;
    fn find_share(share: ShareId) -> Option<ShareRow>;
    fn renew_leases(storage_index: StorageIndex, account: AccountId) -> RenewOutcome;
    fn list_leases(storage_index: StorageIndex) -> Vec<LeaseRow>;
    fn prolong_leases(storage_index: StorageIndex, account: AccountId, ends: Vec<(ShareNumber, Timestamp)>) -> ();
    fn read_slot(storage_index: StorageIndex) -> SlotSnapshot;
    fn commit_slot(request: CommitSlot) -> CommitOutcome;
    fn discard_objects(objects: Vec<ObjectName>) -> ();
    fn claim_garbage(epoch: Epoch, max: u32, claim_seconds: i64) -> Vec<Garbage>;
    fn finish_garbage(ids: Vec<i64>) -> ();
    fn claim_scattered(max: u32, claim_seconds: i64) -> Vec<Scattered>;
    fn relocate(request: Relocate) -> bool;
    fn lease_page(after: Option<LeaseOnShare>, max: u32) -> LeasePage;
    fn expire_leases(request: ExpireLeases) -> ExpireOutcome;
    fn purge_expired(max: u32) -> u64;
    fn list_unleased(after: Option<ShareId>, until: Timestamp, max: u32) -> Vec<ShareId>;
    fn queue_unleased(shares: Vec<ShareId>) -> ();
    fn unleased_totals() -> UnleasedTotals;
    fn retire_shares(request: RetireShares) -> RetireOutcome;
    fn undo(request: Undo) -> Undone;
    fn list_expired(run: RunId, after: Option<StorageIndex>, max: u32) -> Vec<StorageIndex>;
    fn deployment() -> Deployment;
    fn is_tick_due(seconds: i64) -> bool;
    fn tick(tick: Tick) -> TickOutcome;
    fn survey(storage_index: StorageIndex) -> Survey;
    fn settle(settle: Settle) -> SettleOutcome;
    fn page_shares(unit: Prefix, after: Option<ShareId>, max: u32) -> Vec<Crawled>;
    fn spared(storage_indexes: Vec<StorageIndex>) -> Spared;
    fn claim_unit(run: RunId, worker: ObjectId, claim_seconds: i64) -> ClaimUnitOutcome;
    fn keep_unit(run: RunId, unit: Prefix, worker: ObjectId, claim_seconds: i64) -> bool;
    fn finish_unit(finish: FinishUnit) -> bool;
    fn end_recovery(epoch: Epoch, run: RunId) -> bool;
    fn take_over(take_over: TakeOver) -> bool;
    fn forget_lost(share: ShareId, token: SlotToken) -> ForgetOutcome;
    fn begin_run(begin: BeginRun) -> BeginRunOutcome;
    fn note_run(run: RunId, totals: Totals) -> bool;
    fn finish_run(end: FinishRun) -> bool;
    fn list_runs(kind: Option<RunKind>, max: u32) -> Vec<Run>;
    fn permit_run(run: RunId) -> PermitOutcome;
    fn recount_usage(account: AccountId) -> (Usage, Usage);
    fn export() -> Export;
    fn import(import: Import, pages: Pages) -> ImportOutcome;
    fn is_empty() -> bool;
    fn note_backup(epoch: Epoch, until: Timestamp) -> ();
    fn troubles(max: u32) -> Troubles;
    fn advise(advisory: Advisory) -> ();
    fn find_credentials(hashes: Vec<SecretHash>) -> Vec<(Credential, Usage)>;
    fn note_use(uses: Vec<(SecretHash, Timestamp)>) -> ();
    fn accounts_version() -> u64;
    fn create_account(name: String, change: AccountChange, credential: SecretHash) -> CreateOutcome;
    fn find_account(name: String) -> Option<Account>;
    fn list_accounts(after: Option<AccountId>, max: u32) -> Vec<(Account, Usage)>;
    fn change_account(account: AccountId, change: AccountChange) -> bool;
    fn rotate_credential(account: AccountId, credential: SecretHash, overlap_seconds: i64) -> bool;
    fn list_credentials(account: AccountId) -> Vec<Credential>;
    fn close_account(account: AccountId, release_seconds: Option<i64>) -> bool;
    fn find_closed_account(account: AccountId) -> Option<Account>;
    fn reopen_account(account: AccountId, name: String, change: AccountChange, credential: SecretHash) -> bool;
    fn usage(account: AccountId) -> Usage;
}
