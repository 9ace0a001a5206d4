//! The lease database on PostgreSQL, for any number of processes.
//!
//! Isolation is READ COMMITTED. Whatever changes what belongs to a storage index (its shares, leases, uploads, slot)
//! first takes that storage index's lock, which ends with the transaction; then it reads, decides by [`crate::plan`], and
//! writes. So no two such transactions interleave, and what one has read is what the other left. Counters of accounts
//! come last, in the order of accounts. Single statements read one snapshot. Only transaction-scoped features are used, so
//! transaction poolers may stand in between; all times are the database's own.

mod accounts;
mod apply;
mod audit;
mod backup;
mod connect;
mod crawl;
mod deployment;
mod expiry;
mod facts;
mod garbage;
mod load;
mod metrics;
mod migrate;
mod runs;
mod sql;
mod transactions;
mod trouble;
mod tx;

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use leasehold_core::account::{Account, Usage};
use leasehold_core::backup::{Export, Import, ImportOutcome, Pages};
use leasehold_core::bucket::Upload;
use leasehold_core::chunk::{ObjectName, StoreObject};
use leasehold_core::clock::{Clock, Timestamp};
use leasehold_core::crawl::unit::{ClaimUnitOutcome, FinishUnit, Prefix};
use leasehold_core::crawl::{Crawled, ForgetOutcome, Settle, SettleOutcome, Spared, Survey, TakeOver};
use leasehold_core::expiry::{
    Amount, ExpireLeases, ExpireOutcome, LeaseOnShare, LeasePage, RetireOutcome, RetireShares, Undo, Undone,
    UnleasedTotals,
};
use leasehold_core::id::{AccountId, ObjectId, ShareId, ShareNumber, StorageIndex};
use leasehold_core::lease::LeaseTerms;
use leasehold_core::leasedb::{
    AccountChange, Advisory, Allocate, AllocateOutcome, CommitOutcome, CommitSlot, CreateOutcome, Credential,
    Deployment, Epoch, Garbage, LeaseDb, LeaseDbError, LeaseRow, RecordChunks, RecordOutcome, Relocate, RenewOutcome,
    Result, Scattered, ShareRow, SlotSnapshot, SlotToken, Tick, TickOutcome,
};
use leasehold_core::run::{BeginRun, BeginRunOutcome, FinishRun, PermitOutcome, Run, RunId, RunKind, Totals};
use leasehold_core::secret::SecretHash;
use leasehold_core::share::ShareKind;
use leasehold_core::trouble::Troubles;
use leasehold_core::tub::TubConnection;
use prometheus_client::registry::Registry;

pub use connect::{Authorities, PgOptions, Tls};
pub use facts::{PgFacts, facts};
pub use metrics::PgMetrics;
pub use migrate::{Migrated, Roles, migrate};

/// The schema version that this program wants.
pub const SCHEMA_VERSION: u32 = 7;

/// The lease database on PostgreSQL. Clones share connections.
#[derive(Clone)]
pub struct PgLeaseDb(Arc<Inner>);

struct Inner {
    pool: Pool,
    prepared: bool,
    patience: Duration,
    terms: LeaseTerms,
    clock: Option<Arc<dyn Clock>>,
    metrics: PgMetrics,
}

impl std::fmt::Debug for PgLeaseDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PgLeaseDb").finish_non_exhaustive()
    }
}

impl PgLeaseDb {
    /// Opens a database that [`migrate`] has prepared, and checks that it is one.
    ///
    /// # Errors
    /// A sentence for the operator: it cannot be reached, its schema is missing or not the one this program wants, or
    /// its limits on statements and transactions are missing.
    pub async fn open(options: &PgOptions, terms: LeaseTerms, metrics: PgMetrics) -> Result<Self> {
        Self::open_with_clock(options, terms, metrics, None).await
    }

    /// As [`open`](Self::open), with a clock that stands in for the database's, for tests.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_with_clock(
        options: &PgOptions,
        terms: LeaseTerms,
        metrics: PgMetrics,
        clock: Option<Arc<dyn Clock>>,
    ) -> Result<Self> {
        let pool = connect::pool(options)?;
        let patience = options.statement_timeout + Duration::from_secs(5);
        let db = Self(Arc::new(Inner { pool, prepared: !options.pooler, patience, terms, clock, metrics }));
        db.check().await?;
        Ok(db)
    }

    /// Shows the pool's connections in a registry, whose prefix they get.
    pub fn show_pool(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(metrics::PoolCollector(self.0.pool.clone())));
    }

    /// What is counted.
    pub fn metrics(&self) -> &PgMetrics {
        &self.0.metrics
    }

    fn terms(&self) -> LeaseTerms {
        self.0.terms
    }

    /// The time a statement read, or the test's.
    fn time(&self, millis: i64) -> Timestamp {
        self.0.clock.as_ref().map_or(Timestamp::from_millis(millis), |clock| clock.now())
    }

    async fn connect(&self) -> Result<tx::Connection> {
        let begin = std::time::Instant::now();
        // The pool bounds neither the look at a connection that rested nor how many it looks at, one after the other.
        let object = tokio::time::timeout(self.0.patience, self.0.pool.get())
            .await
            .map_err(|_| LeaseDbError::Unavailable(Box::new(tx::Failure::Silent(self.0.patience))))?
            .map_err(connect::unavailable)?;
        self.0.metrics.waited(begin.elapsed());
        Ok(tx::Connection::new(object, self.0.prepared, self.0.patience))
    }
}

impl LeaseDb for PgLeaseDb {
    async fn now(&self) -> Result<Timestamp> {
        self.read_now().await
    }

    async fn allocate(&self, request: Allocate) -> Result<AllocateOutcome> {
        self.change_allocate(&request).await
    }

    async fn find_upload(&self, share: ShareId) -> Result<(Timestamp, Option<Upload>)> {
        self.read_upload(share).await
    }

    async fn record_chunks(&self, request: RecordChunks) -> Result<RecordOutcome> {
        self.change_record(&request).await
    }

    async fn end_upload(
        &self,
        share: ShareId,
        upload: ObjectId,
        strays: Vec<StoreObject>,
        overdue_only: bool,
    ) -> Result<bool> {
        self.change_end_upload(share, upload, strays, overdue_only).await
    }

    async fn open_uploads(&self) -> Result<Amount> {
        self.read_open_uploads().await
    }

    async fn overdue_uploads(&self, max: u32) -> Result<Vec<(ShareId, ObjectId)>> {
        self.read_overdue_uploads(max).await
    }

    async fn abandoned_uploads(&self, connection: TubConnection, max: u32) -> Result<Vec<(ShareId, ObjectId)>> {
        self.read_abandoned_uploads(&connection, max).await
    }

    async fn list_shares(&self, storage_index: StorageIndex) -> Result<Vec<ShareRow>> {
        self.read_shares(storage_index).await
    }

    async fn list_numbers(&self, storage_index: StorageIndex, kind: ShareKind) -> Result<Vec<ShareNumber>> {
        self.read_numbers(storage_index, kind).await
    }

    async fn find_share(&self, share: ShareId) -> Result<Option<ShareRow>> {
        self.read_share(share).await
    }

    async fn renew_leases(&self, storage_index: StorageIndex, account: AccountId) -> Result<RenewOutcome> {
        // Most renewals find that nothing need be written: those are answered from a snapshot.
        if let Some(outcome) = self.read_renewal(storage_index, account).await? {
            return Ok(outcome);
        }
        self.change_renew(storage_index, account).await
    }

    async fn list_leases(&self, storage_index: StorageIndex) -> Result<Vec<LeaseRow>> {
        self.read_leases(storage_index).await
    }

    async fn prolong_leases(
        &self,
        storage_index: StorageIndex,
        account: AccountId,
        ends: Vec<(ShareNumber, Timestamp)>,
    ) -> Result<()> {
        self.change_prolong(storage_index, account, ends).await
    }

    async fn read_slot(&self, storage_index: StorageIndex) -> Result<SlotSnapshot> {
        self.read_slot_snapshot(storage_index).await
    }

    async fn commit_slot(&self, request: CommitSlot) -> Result<CommitOutcome> {
        self.change_commit_slot(&request).await
    }

    async fn discard_objects(&self, objects: Vec<ObjectName>) -> Result<()> {
        self.change_discard(objects).await
    }

    async fn claim_garbage(&self, epoch: Epoch, max: u32, claim_seconds: i64) -> Result<Vec<Garbage>> {
        self.change_claim_garbage(epoch, max, claim_seconds).await
    }

    async fn finish_garbage(&self, ids: Vec<i64>) -> Result<()> {
        self.change_finish_garbage(ids).await
    }

    async fn claim_scattered(&self, max: u32, claim_seconds: i64) -> Result<Vec<Scattered>> {
        self.change_claim_scattered(max, claim_seconds).await
    }

    async fn relocate(&self, request: Relocate) -> Result<bool> {
        self.change_relocate(&request).await
    }

    async fn lease_page(&self, after: Option<LeaseOnShare>, max: u32) -> Result<LeasePage> {
        self.read_lease_page(after, max).await
    }

    async fn expire_leases(&self, request: ExpireLeases) -> Result<ExpireOutcome> {
        self.change_expire(&request).await
    }

    async fn purge_expired(&self, max: u32) -> Result<u64> {
        self.change_purge_expired(max).await
    }

    async fn list_unleased(&self, after: Option<ShareId>, until: Timestamp, max: u32) -> Result<Vec<ShareId>> {
        self.read_unleased(after, until, max).await
    }

    async fn queue_unleased(&self, shares: Vec<ShareId>) -> Result<()> {
        self.change_queue_unleased(&shares).await
    }

    async fn unleased_totals(&self) -> Result<UnleasedTotals> {
        self.read_unleased_totals().await
    }

    async fn retire_shares(&self, request: RetireShares) -> Result<RetireOutcome> {
        self.change_retire(&request).await
    }

    async fn undo(&self, request: Undo) -> Result<Undone> {
        self.change_undo(&request).await
    }

    async fn list_expired(&self, run: RunId, after: Option<StorageIndex>, max: u32) -> Result<Vec<StorageIndex>> {
        self.read_expired(run, after, max).await
    }

    async fn deployment(&self) -> Result<Deployment> {
        self.read_deployment().await
    }

    async fn is_tick_due(&self, seconds: i64) -> Result<bool> {
        self.read_is_tick_due(seconds).await
    }

    async fn tick(&self, tick: Tick) -> Result<TickOutcome> {
        self.change_tick(&tick).await
    }

    async fn survey(&self, storage_index: StorageIndex) -> Result<Survey> {
        self.read_survey(storage_index).await
    }

    async fn settle(&self, settle: Settle) -> Result<SettleOutcome> {
        self.change_settle(&settle).await
    }

    async fn page_shares(&self, unit: Prefix, after: Option<ShareId>, max: u32) -> Result<Vec<Crawled>> {
        self.read_page_shares(&unit, after, max).await
    }

    async fn spared(&self, storage_indexes: Vec<StorageIndex>) -> Result<Spared> {
        self.read_spared(&storage_indexes).await
    }

    async fn claim_unit(&self, run: RunId, worker: ObjectId, claim_seconds: i64) -> Result<ClaimUnitOutcome> {
        self.change_claim_unit(run, worker, claim_seconds).await
    }

    async fn keep_unit(&self, run: RunId, unit: Prefix, worker: ObjectId, claim_seconds: i64) -> Result<bool> {
        self.change_keep_unit(run, &unit, worker, claim_seconds).await
    }

    async fn finish_unit(&self, finish: FinishUnit) -> Result<bool> {
        self.change_finish_unit(finish).await
    }

    async fn end_recovery(&self, epoch: Epoch, run: RunId) -> Result<bool> {
        self.change_end_recovery(epoch, run).await
    }

    async fn take_over(&self, take_over: TakeOver) -> Result<bool> {
        self.change_take_over(take_over).await
    }

    async fn forget_lost(&self, share: ShareId, token: SlotToken) -> Result<ForgetOutcome> {
        self.change_forget_lost(share, token).await
    }

    async fn begin_run(&self, begin: BeginRun) -> Result<BeginRunOutcome> {
        self.change_begin_run(begin).await
    }

    async fn note_run(&self, run: RunId, totals: Totals) -> Result<bool> {
        self.change_note_run(run, &totals).await
    }

    async fn finish_run(&self, end: FinishRun) -> Result<bool> {
        self.change_finish_run(end).await
    }

    async fn list_runs(&self, kind: Option<RunKind>, max: u32) -> Result<Vec<Run>> {
        self.read_runs(kind, max).await
    }

    async fn permit_run(&self, run: RunId) -> Result<PermitOutcome> {
        self.change_permit_run(run).await
    }

    async fn recount_usage(&self, account: AccountId) -> Result<(Usage, Usage)> {
        self.change_recount_usage(account).await
    }

    async fn export(&self) -> Result<Export> {
        self.read_everything().await
    }

    async fn import(&self, import: Import, pages: Pages) -> Result<ImportOutcome> {
        self.become_restored(import, pages).await
    }

    async fn is_empty(&self) -> Result<bool> {
        self.read_is_empty().await
    }

    async fn note_backup(&self, epoch: Epoch, until: Timestamp) -> Result<()> {
        self.change_note_backup(epoch, until).await
    }

    async fn troubles(&self, max: u32) -> Result<Troubles> {
        self.read_troubles(max).await
    }

    async fn advise(&self, advisory: Advisory) -> Result<()> {
        self.change_advise(advisory).await
    }

    async fn find_credentials(&self, hashes: Vec<SecretHash>) -> Result<Vec<(Credential, Usage)>> {
        self.find_all_credentials(hashes).await
    }

    async fn note_use(&self, uses: Vec<(SecretHash, Timestamp)>) -> Result<()> {
        self.change_note_use(uses).await
    }

    async fn accounts_version(&self) -> Result<u64> {
        self.read_accounts_version().await
    }

    async fn create_account(
        &self,
        name: String,
        change: AccountChange,
        credential: SecretHash,
    ) -> Result<CreateOutcome> {
        self.change_create_account(name, change, credential).await
    }

    async fn find_account(&self, name: String) -> Result<Option<Account>> {
        self.read_account(name).await
    }

    async fn list_accounts(&self, after: Option<AccountId>, max: u32) -> Result<Vec<(Account, Usage)>> {
        self.read_accounts(after, max).await
    }

    async fn change_account(&self, account: AccountId, change: AccountChange) -> Result<bool> {
        self.change_settings(account, change).await
    }

    async fn rotate_credential(
        &self,
        account: AccountId,
        credential: SecretHash,
        overlap_seconds: i64,
    ) -> Result<bool> {
        self.change_rotate(account, credential, overlap_seconds).await
    }

    async fn list_credentials(&self, account: AccountId) -> Result<Vec<Credential>> {
        self.read_credentials(account).await
    }

    async fn close_account(&self, account: AccountId, release_seconds: Option<i64>) -> Result<bool> {
        self.change_close(account, release_seconds).await
    }

    async fn find_closed_account(&self, account: AccountId) -> Result<Option<Account>> {
        self.read_closed_account(account).await
    }

    async fn reopen_account(
        &self,
        account: AccountId,
        name: String,
        change: AccountChange,
        credential: SecretHash,
    ) -> Result<bool> {
        self.change_reopen(account, name, change, credential).await
    }

    async fn usage(&self, account: AccountId) -> Result<Usage> {
        self.read_usage(account).await
    }
}

/// A rule that was broken by what was asked for, not by the database.
fn invalid(text: String) -> LeaseDbError {
    LeaseDbError::Invalid(text)
}
