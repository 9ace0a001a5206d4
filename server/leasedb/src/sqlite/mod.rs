//! The lease database in one SQLite file, for a server on one machine.
//!
//! One thread owns the writing connection and gathers the transactions that wait into one commit, each in a savepoint:
//! one fsync serves many callers, and one that fails leaves the others alone. A few threads own reading connections.
//! Callers wait on channels and block nothing. The file is in WAL mode with `synchronous=FULL`: an acknowledged commit
//! survives a power cut. Other processes (the command line) may open the same file at the same time.

mod accounts;
mod apply;
mod audit;
mod backup;
mod crawl;
mod deployment;
mod expiry;
mod garbage;
mod rows;
mod runs;
mod transactions;
mod trouble;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use leasehold_core::account::{Account, Usage};
use leasehold_core::backup::{Export, Import, ImportOutcome, Pages};
use leasehold_core::bucket::Upload;
use leasehold_core::chunk::ObjectName;
use leasehold_core::chunk::StoreObject;
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
use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

mod embedded {
    #![allow(missing_docs, reason = "generated")]
    refinery::embed_migrations!("migrations/sqlite");
}

/// How many waiting transactions one commit may take in.
const BATCH_MAX: usize = 256;
/// How long to wait for another process that is writing.
const BUSY_SECONDS: u64 = 10;
/// WAL pages after which a commit also moves pages into the main file.
const CHECKPOINT_PAGES: u32 = 4000;

/// What a transaction may use besides its arguments.
pub(crate) struct Tx<'a> {
    connection: &'a Connection,
    now: Timestamp,
    terms: LeaseTerms,
}

/// A finished piece of work that waits for its commit: told how that went, it answers its caller.
type Finish = Box<dyn FnOnce(std::result::Result<(), String>) + Send>;
type Write = Box<dyn FnOnce(&Tx<'_>) -> (bool, Finish) + Send>;
type Read = Box<dyn FnOnce(&Tx<'_>) + Send>;

/// The lease database in one SQLite file. Clones share the same threads.
#[derive(Clone)]
pub struct SqliteLeaseDb {
    writer: Sender<Write>,
    readers: Sender<Read>,
    clock: Arc<dyn Clock>,
    file: Arc<backup::File>,
}

impl std::fmt::Debug for SqliteLeaseDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteLeaseDb").finish_non_exhaustive()
    }
}

impl SqliteLeaseDb {
    /// Opens the file, makes it if it is not there, and brings its schema up to date.
    ///
    /// # Errors
    /// [`LeaseDbError::Unavailable`] if the file cannot be opened, is not a database, or is newer than this program.
    pub fn open(path: &Path, clock: Arc<dyn Clock>, terms: LeaseTerms) -> Result<Self> {
        let mut connection = connect(path, false).map_err(unavailable)?;
        embedded::migrations::runner()
            .run(&mut connection)
            .map_err(|error| LeaseDbError::Unavailable(Box::new(error)))?;
        let (writer, writes) = crossbeam_channel::unbounded::<Write>();
        spawn("leasedb-write", {
            let clock = clock.clone();
            move || write_loop(&connection, &writes, &*clock, terms)
        })?;
        let (readers, reads) = crossbeam_channel::unbounded::<Read>();
        let count = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
        for _ in 0..count {
            let connection = connect(path, true).map_err(unavailable)?;
            let (reads, clock) = (reads.clone(), clock.clone());
            spawn("leasedb-read", move || read_loop(&connection, &reads, &*clock, terms))?;
        }
        let file = Arc::new(backup::File { path: path.to_owned(), clock: clock.clone(), terms });
        Ok(Self { writer, readers, clock, file })
    }

    /// What SQLite finds wrong with the file; nothing if it is sound.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn check_integrity(&self) -> Result<Vec<String>> {
        let problems = self.read(|tx| tx.query("PRAGMA integrity_check(5)", [], |row| row.get::<_, String>(0))).await?;
        Ok(problems.into_iter().filter(|problem| problem != "ok").collect())
    }

    /// Runs `work` in a transaction of its own that commits together with others.
    async fn write<T: Send + 'static>(&self, work: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let write: Write = Box::new(move |tx| {
            let result = work(tx);
            let ok = result.is_ok();
            let finish: Finish = Box::new(move |committed| {
                let result = match (result, committed) {
                    (Ok(_), Err(error)) => Err(LeaseDbError::OutcomeUnknown(error.into())),
                    (result, _) => result,
                };
                // A caller that has gone needs no answer.
                drop(reply.send(result));
            });
            (ok, finish)
        });
        self.writer.send(write).map_err(|_| stopped())?;
        answer.await.map_err(|_| LeaseDbError::OutcomeUnknown("the writer stopped".into()))?
    }

    /// Runs `work` on one snapshot.
    async fn read<T: Send + 'static>(&self, work: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let read: Read = Box::new(move |tx| drop(reply.send(work(tx))));
        self.readers.send(read).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

fn stopped() -> LeaseDbError {
    LeaseDbError::Unavailable("the lease database was closed".into())
}

pub(crate) fn unavailable(error: rusqlite::Error) -> LeaseDbError {
    match error.sqlite_error_code() {
        // The same request would break the same rule again.
        Some(rusqlite::ErrorCode::ConstraintViolation) => LeaseDbError::Invalid(error.to_string()),
        _ => LeaseDbError::Unavailable(Box::new(error)),
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    thread.map(drop).map_err(|error| LeaseDbError::Unavailable(Box::new(error)))
}

fn connect(path: &Path, read_only: bool) -> rusqlite::Result<Connection> {
    let mode = if read_only {
        OpenFlags::SQLITE_OPEN_READ_ONLY
    } else {
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE
    };
    let connection = Connection::open_with_flags(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_secs(BUSY_SECONDS))?;
    connection.set_prepared_statement_cache_capacity(128);
    connection.pragma_update(None, "cache_size", -8192)?;
    if !read_only {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    }
    Ok(connection)
}

fn read_loop(connection: &Connection, reads: &Receiver<Read>, clock: &dyn Clock, terms: LeaseTerms) {
    while let Ok(read) = reads.recv() {
        // A transaction, so that all statements of one piece of work see one snapshot.
        if let Err(error) = run(connection, "BEGIN") {
            tracing::warn!(%error, "a read could not begin");
        }
        read(&Tx { connection, now: clock.now(), terms });
        drop(run(connection, "COMMIT"));
    }
}

fn write_loop(connection: &Connection, writes: &Receiver<Write>, clock: &dyn Clock, terms: LeaseTerms) {
    let mut batch = Vec::new();
    while let Ok(first) = writes.recv() {
        batch.push(first);
        batch.extend(writes.try_iter().take(BATCH_MAX - 1));
        let mut finishes = Vec::with_capacity(batch.len());
        // A transaction that cannot begin fails each piece of work in its first statement; one that cannot commit is
        // told to all whose work was in it.
        let begun = run(connection, "BEGIN IMMEDIATE");
        for write in batch.drain(..) {
            finishes.push(in_savepoint(connection, write, clock, terms, begun.is_ok()));
        }
        let committed = begun.and_then(|()| run(connection, "COMMIT")).map_err(|error| error.to_string());
        if let Err(error) = &committed {
            tracing::error!(error, "a commit failed");
            if !connection.is_autocommit() {
                drop(connection.execute_batch("ROLLBACK"));
            }
        }
        for finish in finishes {
            finish(committed.clone());
        }
    }
}

/// Runs a statement that is prepared once.
fn run(connection: &Connection, statement: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(statement).and_then(|mut prepared| prepared.execute([])).map(drop)
}

fn in_savepoint(connection: &Connection, write: Write, clock: &dyn Clock, terms: LeaseTerms, begun: bool) -> Finish {
    let tx = Tx { connection, now: clock.now(), terms };
    if !begun {
        // Outside a transaction each statement would commit by itself: a savepoint that is always rolled back is safe.
        drop(connection.execute_batch("SAVEPOINT work"));
        let (_, finish) = write(&tx);
        drop(connection.execute_batch("ROLLBACK TO work; RELEASE work"));
        return finish;
    }
    if let Err(error) = run(connection, "SAVEPOINT work") {
        tracing::error!(%error, "a savepoint failed");
    }
    let (ok, finish) = write(&tx);
    let ended = if ok { Ok(()) } else { run(connection, "ROLLBACK TO work") };
    let ended = ended.and_then(|()| run(connection, "RELEASE work"));
    match ended {
        Ok(()) => finish,
        Err(error) => {
            let error = error.to_string();
            Box::new(move |_| finish(Err(error)))
        }
    }
}

impl LeaseDb for SqliteLeaseDb {
    async fn now(&self) -> Result<Timestamp> {
        Ok(self.clock.now())
    }

    async fn allocate(&self, request: Allocate) -> Result<AllocateOutcome> {
        self.write(move |tx| tx.allocate(&request)).await
    }

    async fn find_upload(&self, share: ShareId) -> Result<(Timestamp, Option<Upload>)> {
        self.read(move |tx| Ok((tx.now, tx.find_upload(share)?))).await
    }

    async fn record_chunks(&self, request: RecordChunks) -> Result<RecordOutcome> {
        self.write(move |tx| tx.record_chunks(&request)).await
    }

    async fn end_upload(
        &self,
        share: ShareId,
        upload: ObjectId,
        strays: Vec<StoreObject>,
        overdue_only: bool,
    ) -> Result<bool> {
        self.write(move |tx| tx.end_upload(share, upload, &strays, overdue_only)).await
    }

    async fn open_uploads(&self) -> Result<Amount> {
        self.read(|tx| tx.open_uploads()).await
    }

    async fn overdue_uploads(&self, max: u32) -> Result<Vec<(ShareId, ObjectId)>> {
        self.read(move |tx| tx.overdue_uploads(max)).await
    }

    async fn abandoned_uploads(&self, connection: TubConnection, max: u32) -> Result<Vec<(ShareId, ObjectId)>> {
        self.read(move |tx| tx.abandoned_uploads(&connection, max)).await
    }

    async fn list_shares(&self, storage_index: StorageIndex) -> Result<Vec<ShareRow>> {
        self.read(move |tx| tx.list_shares(storage_index)).await
    }

    async fn list_numbers(&self, storage_index: StorageIndex, kind: ShareKind) -> Result<Vec<ShareNumber>> {
        self.read(move |tx| tx.list_numbers(storage_index, kind)).await
    }

    async fn find_share(&self, share: ShareId) -> Result<Option<ShareRow>> {
        self.read(move |tx| tx.find_share(share)).await
    }

    async fn renew_leases(&self, storage_index: StorageIndex, account: AccountId) -> Result<RenewOutcome> {
        // Most renewals find that nothing need be written: those are answered from a snapshot.
        if let Some(outcome) = self.read(move |tx| tx.renewal_without_write(storage_index, account)).await? {
            return Ok(outcome);
        }
        self.write(move |tx| tx.renew_leases(storage_index, account)).await
    }

    async fn list_leases(&self, storage_index: StorageIndex) -> Result<Vec<LeaseRow>> {
        self.read(move |tx| tx.list_leases(storage_index)).await
    }

    async fn prolong_leases(
        &self,
        storage_index: StorageIndex,
        account: AccountId,
        ends: Vec<(ShareNumber, Timestamp)>,
    ) -> Result<()> {
        self.write(move |tx| tx.prolong_leases(storage_index, account, &ends)).await
    }

    async fn read_slot(&self, storage_index: StorageIndex) -> Result<SlotSnapshot> {
        self.read(move |tx| tx.read_slot(storage_index)).await
    }

    async fn commit_slot(&self, request: CommitSlot) -> Result<CommitOutcome> {
        self.write(move |tx| tx.commit_slot(&request)).await
    }

    async fn discard_objects(&self, objects: Vec<ObjectName>) -> Result<()> {
        self.write(move |tx| tx.discard_objects(objects)).await
    }

    async fn claim_garbage(&self, epoch: Epoch, max: u32, claim_seconds: i64) -> Result<Vec<Garbage>> {
        if !self.read(|tx| tx.has_due_garbage()).await? {
            return Ok(Vec::new());
        }
        self.write(move |tx| tx.claim_garbage(epoch, max, claim_seconds)).await
    }

    async fn finish_garbage(&self, ids: Vec<i64>) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        self.write(move |tx| tx.finish_garbage(&ids)).await
    }

    async fn claim_scattered(&self, max: u32, claim_seconds: i64) -> Result<Vec<Scattered>> {
        if !self.read(|tx| tx.has_scattered()).await? {
            return Ok(Vec::new());
        }
        self.write(move |tx| tx.claim_scattered(max, claim_seconds)).await
    }

    async fn relocate(&self, request: Relocate) -> Result<bool> {
        self.write(move |tx| tx.relocate(&request)).await
    }

    async fn lease_page(&self, after: Option<LeaseOnShare>, max: u32) -> Result<LeasePage> {
        self.read(move |tx| tx.lease_page(after, max)).await
    }

    async fn expire_leases(&self, request: ExpireLeases) -> Result<ExpireOutcome> {
        self.write(move |tx| tx.expire_leases(&request)).await
    }

    async fn purge_expired(&self, max: u32) -> Result<u64> {
        self.write(move |tx| tx.purge_expired(max)).await
    }

    async fn list_unleased(&self, after: Option<ShareId>, until: Timestamp, max: u32) -> Result<Vec<ShareId>> {
        self.read(move |tx| tx.list_unleased(after, until, max)).await
    }

    async fn queue_unleased(&self, shares: Vec<ShareId>) -> Result<()> {
        self.write(move |tx| tx.queue_unleased(shares)).await
    }

    async fn unleased_totals(&self) -> Result<UnleasedTotals> {
        self.read(|tx| tx.unleased_totals()).await
    }

    async fn retire_shares(&self, request: RetireShares) -> Result<RetireOutcome> {
        self.write(move |tx| tx.retire_shares(&request)).await
    }

    async fn undo(&self, request: Undo) -> Result<Undone> {
        self.write(move |tx| tx.undo(&request)).await
    }

    async fn list_expired(&self, run: RunId, after: Option<StorageIndex>, max: u32) -> Result<Vec<StorageIndex>> {
        self.read(move |tx| tx.list_expired(run, after, max)).await
    }

    async fn deployment(&self) -> Result<Deployment> {
        self.read(|tx| tx.deployment()).await
    }

    async fn is_tick_due(&self, seconds: i64) -> Result<bool> {
        self.read(move |tx| tx.is_tick_due(seconds)).await
    }

    async fn tick(&self, tick: Tick) -> Result<TickOutcome> {
        self.write(move |tx| tx.tick(&tick)).await
    }

    async fn survey(&self, storage_index: StorageIndex) -> Result<Survey> {
        self.read(move |tx| tx.survey(storage_index)).await
    }

    async fn settle(&self, settle: Settle) -> Result<SettleOutcome> {
        self.write(move |tx| tx.settle(&settle)).await
    }

    async fn page_shares(&self, unit: Prefix, after: Option<ShareId>, max: u32) -> Result<Vec<Crawled>> {
        self.read(move |tx| tx.page_shares(&unit, after, max)).await
    }

    async fn spared(&self, storage_indexes: Vec<StorageIndex>) -> Result<Spared> {
        self.read(move |tx| tx.spared(&storage_indexes)).await
    }

    async fn claim_unit(&self, run: RunId, worker: ObjectId, claim_seconds: i64) -> Result<ClaimUnitOutcome> {
        self.write(move |tx| tx.claim_unit(run, worker, claim_seconds)).await
    }

    async fn keep_unit(&self, run: RunId, unit: Prefix, worker: ObjectId, claim_seconds: i64) -> Result<bool> {
        self.write(move |tx| tx.keep_unit(run, &unit, worker, claim_seconds)).await
    }

    async fn finish_unit(&self, finish: FinishUnit) -> Result<bool> {
        self.write(move |tx| tx.finish_unit(&finish)).await
    }

    async fn end_recovery(&self, epoch: Epoch, run: RunId) -> Result<bool> {
        self.write(move |tx| tx.end_recovery(epoch, run)).await
    }

    async fn take_over(&self, take_over: TakeOver) -> Result<bool> {
        self.write(move |tx| tx.take_over(&take_over)).await
    }

    async fn forget_lost(&self, share: ShareId, token: SlotToken) -> Result<ForgetOutcome> {
        self.write(move |tx| tx.forget_lost(share, token)).await
    }

    async fn begin_run(&self, begin: BeginRun) -> Result<BeginRunOutcome> {
        self.write(move |tx| tx.begin_run(&begin)).await
    }

    async fn note_run(&self, run: RunId, totals: Totals) -> Result<bool> {
        self.write(move |tx| tx.note_run(run, &totals)).await
    }

    async fn finish_run(&self, end: FinishRun) -> Result<bool> {
        self.write(move |tx| tx.finish_run(&end)).await
    }

    async fn list_runs(&self, kind: Option<RunKind>, max: u32) -> Result<Vec<Run>> {
        self.read(move |tx| tx.list_runs(kind, max)).await
    }

    async fn permit_run(&self, run: RunId) -> Result<PermitOutcome> {
        self.write(move |tx| tx.permit_run(run)).await
    }

    async fn recount_usage(&self, account: AccountId) -> Result<(Usage, Usage)> {
        self.write(move |tx| tx.recount_usage(account)).await
    }

    async fn export(&self) -> Result<Export> {
        backup::export(self.file.clone()).await
    }

    async fn import(&self, import: Import, pages: Pages) -> Result<ImportOutcome> {
        backup::import(self.file.clone(), import, pages).await
    }

    async fn is_empty(&self) -> Result<bool> {
        self.read(|tx| tx.is_empty()).await
    }

    async fn note_backup(&self, epoch: Epoch, until: Timestamp) -> Result<()> {
        self.write(move |tx| tx.note_backup(epoch, until)).await
    }

    async fn troubles(&self, max: u32) -> Result<Troubles> {
        self.read(move |tx| tx.troubles(max)).await
    }

    async fn advise(&self, advisory: Advisory) -> Result<()> {
        self.write(move |tx| tx.advise(&advisory)).await
    }

    async fn find_credentials(&self, hashes: Vec<SecretHash>) -> Result<Vec<(Credential, Usage)>> {
        self.read(move |tx| tx.find_credentials(&hashes)).await
    }

    async fn note_use(&self, uses: Vec<(SecretHash, Timestamp)>) -> Result<()> {
        self.write(move |tx| tx.note_use(&uses)).await
    }

    async fn accounts_version(&self) -> Result<u64> {
        self.read(|tx| tx.accounts_version()).await
    }

    async fn create_account(
        &self,
        name: String,
        change: AccountChange,
        credential: SecretHash,
    ) -> Result<CreateOutcome> {
        self.write(move |tx| tx.create_account(&name, &change, &credential)).await
    }

    async fn find_account(&self, name: String) -> Result<Option<Account>> {
        self.read(move |tx| tx.find_account(&name)).await
    }

    async fn list_accounts(&self, after: Option<AccountId>, max: u32) -> Result<Vec<(Account, Usage)>> {
        self.read(move |tx| tx.list_accounts(after, max)).await
    }

    async fn change_account(&self, account: AccountId, change: AccountChange) -> Result<bool> {
        self.write(move |tx| tx.change_account(account, &change)).await
    }

    async fn rotate_credential(
        &self,
        account: AccountId,
        credential: SecretHash,
        overlap_seconds: i64,
    ) -> Result<bool> {
        self.write(move |tx| tx.rotate_credential(account, &credential, overlap_seconds)).await
    }

    async fn list_credentials(&self, account: AccountId) -> Result<Vec<Credential>> {
        self.read(move |tx| tx.list_credentials(account)).await
    }

    async fn close_account(&self, account: AccountId, release_seconds: Option<i64>) -> Result<bool> {
        self.write(move |tx| tx.close_account(account, release_seconds)).await
    }

    async fn find_closed_account(&self, account: AccountId) -> Result<Option<Account>> {
        self.read(move |tx| tx.closed_account(account)).await
    }

    async fn reopen_account(
        &self,
        account: AccountId,
        name: String,
        change: AccountChange,
        credential: SecretHash,
    ) -> Result<bool> {
        self.write(move |tx| tx.reopen_account(account, &name, &change, &credential)).await
    }

    async fn usage(&self, account: AccountId) -> Result<Usage> {
        self.read(move |tx| Ok(tx.account(account)?.map(|(_, usage)| usage).unwrap_or_default())).await
    }
}
