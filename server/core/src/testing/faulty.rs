//! A lease database and a backend that fail, or die, at a chosen call.
//!
//! [`Faults`] numbers every call that an operation makes of either trait: that is its list of I/O call sites. A plan
//! names one of these calls and what happens there. A crash is a call that never returns: [`Faults::run`] notices it
//! and drops the operation, as a process that dies would. A freeze is a call that is made when the test says so: whatever
//! happens meanwhile, happens while the process sleeps. The ledger remembers which operation met which site, and
//! which faults struck there, so that a test can tell that none was forgotten. Beside plans there are outages: all calls
//! of one trait fail until it is over.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, pending, poll_fn};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::stream::{self, StreamExt};

use crate::account::{Account, Usage};
use crate::backend::{Backend, BackendError, ByteStream, ListPage};
use crate::backup::{Export, Import, ImportOutcome, Pages};
use crate::bucket::Upload;
use crate::chunk::{ObjectKey, ObjectName, StoreObject};
use crate::clock::Timestamp;
use crate::crawl::unit::{ClaimUnitOutcome, FinishUnit, Prefix};
use crate::crawl::{Crawled, ForgetOutcome, Settle, SettleOutcome, Spared, Survey, TakeOver};
use crate::expiry::{
    Amount, ExpireLeases, ExpireOutcome, LeaseOnShare, LeasePage, RetireOutcome, RetireShares, Undo, Undone,
    UnleasedTotals,
};
use crate::id::{AccountId, ObjectId, ShareId, ShareNumber, StorageIndex};
use crate::leasedb::{
    AccountChange, Advisory, Allocate, AllocateOutcome, CommitOutcome, CommitSlot, CreateOutcome, Credential,
    Deployment, Epoch, Garbage, LeaseDb, LeaseDbError, LeaseRow, RecordChunks, RecordOutcome, Relocate, RenewOutcome,
    Scattered, ShareRow, SlotSnapshot, SlotToken, Tick, TickOutcome,
};
use crate::run::{BeginRun, BeginRunOutcome, FinishRun, PermitOutcome, Run, RunId, RunKind, Totals};
use crate::secret::SecretHash;
use crate::share::ShareKind;
use crate::trouble::Troubles;
use crate::tub::TubConnection;

type Result<T, E = LeaseDbError> = std::result::Result<T, E>;

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// Nothing is done; the answer is an error.
    ErrorBefore,
    /// It is done; the answer is an error all the same.
    ErrorAfter,
    /// Nothing is done and nobody ever answers.
    CrashBefore,
    /// It is done and nobody ever answers.
    CrashAfter,
    /// A put takes half of the body, then fails.
    TornError,
    /// A put takes half of the body, then the process dies.
    TornCrash,
    /// A get gives half of the bytes, then the stream fails.
    BrokenStream,
    /// A get gives half of the bytes, then the process dies.
    CrashInStream,
    /// The call is made late: after [`Faults::thaw`].
    Freeze,
}

impl Fault {
    /// The faults that can strike at a site.
    pub fn at(site: Site) -> &'static [Self] {
        use Fault::{
            BrokenStream, CrashAfter, CrashBefore, CrashInStream, ErrorAfter, ErrorBefore, Freeze, TornCrash, TornError,
        };
        match site {
            Site::Backend("put") => &[ErrorBefore, ErrorAfter, CrashBefore, CrashAfter, Freeze, TornError, TornCrash],
            Site::Backend("get") => {
                &[ErrorBefore, ErrorAfter, CrashBefore, CrashAfter, Freeze, BrokenStream, CrashInStream]
            }
            _ => &[ErrorBefore, ErrorAfter, CrashBefore, CrashAfter, Freeze],
        }
    }

    /// Whether the process dies of it.
    pub const fn is_crash(self) -> bool {
        matches!(self, Self::CrashBefore | Self::CrashAfter | Self::TornCrash | Self::CrashInStream)
    }

    /// This fault, or the nearest that can strike at `site`.
    fn nearest(self, site: Site) -> Self {
        match self {
            fault if Self::at(site).contains(&fault) => fault,
            fault if fault.is_crash() => Self::CrashBefore,
            _ => Self::ErrorBefore,
        }
    }
}

/// A call of one of the two traits, by the method's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Site {
    /// A method of [`LeaseDb`].
    Db(&'static str),
    /// A method of [`Backend`].
    Backend(&'static str),
}

/// What one operation met.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Its calls, in order.
    pub calls: Vec<Site>,
    /// The fault that struck, if the plan's call was reached.
    pub struck: Option<(Site, Fault)>,
    /// Names that were given to `put`.
    pub puts: Vec<ObjectName>,
}

#[derive(Debug, Default)]
struct State {
    operation: &'static str,
    plan: Option<(usize, Fault)>,
    report: Report,
    dead: bool,
    frozen: bool,
    outage: Outage,
    wakers: Vec<Waker>,
    ledger: BTreeMap<(&'static str, Site), BTreeSet<Fault>>,
}

/// What does not answer at present.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outage {
    /// The lease database.
    pub lease_db: bool,
    /// The backend.
    pub backend: bool,
}

/// The plan and the ledger that all doubles of one test share.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<State>>);

/// The error that a fault shows itself as.
#[derive(Debug, thiserror::Error)]
#[error("injected by the test")]
struct Injected;

fn io_error() -> io::Error {
    io::Error::other(Injected)
}

impl Faults {
    /// No plan, an empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an operation: calls are counted from 0 again, the dead are alive, and `plan` strikes at its call.
    pub fn begin(&self, operation: &'static str, plan: Option<(usize, Fault)>) {
        let mut state = self.state();
        state.operation = operation;
        state.plan = plan;
        state.report = Report::default();
        state.wakers.clear();
        state.dead = false;
        state.frozen = false;
    }

    /// Ends an operation and tells what it met.
    pub fn end(&self) -> Report {
        let mut state = self.state();
        state.plan = None;
        state.dead = false;
        state.frozen = false;
        state.operation = "";
        std::mem::take(&mut state.report)
    }

    /// From now on these do not answer, and the others do.
    pub fn set_outage(&self, outage: Outage) {
        self.state().outage = outage;
    }

    /// Drives an operation to its end; `None` if the process died on the way and the operation was dropped.
    pub async fn run<T>(&self, operation: impl Future<Output = T>) -> Option<T> {
        let death = self.wait_for(|state| state.dead);
        match select(std::pin::pin!(operation), std::pin::pin!(death)).await {
            Either::Left((value, _)) => Some(value),
            Either::Right(_) => None,
        }
    }

    /// Every site that an operation met, with the faults that struck there; calls between operations have no name.
    pub fn ledger(&self) -> BTreeMap<(&'static str, Site), BTreeSet<Fault>> {
        self.state().ledger.clone()
    }

    /// Waits until the plan has frozen the operation.
    pub async fn frozen(&self) {
        self.wait_for(|state| state.frozen).await;
    }

    /// Lets a frozen operation go on.
    pub fn thaw(&self) {
        self.change(|state| state.frozen = false);
    }

    async fn freeze(&self) {
        self.change(|state| state.frozen = true);
        self.wait_for(|state| !state.frozen).await;
    }

    fn die(&self) {
        self.change(|state| state.dead = true);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        state.wakers.drain(..).for_each(Waker::wake);
    }

    async fn wait_for(&self, is_so: impl Fn(&State) -> bool) {
        poll_fn(|context| {
            let mut state = self.state();
            if is_so(&state) {
                return Poll::Ready(());
            }
            state.wakers.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    async fn crash<T>(&self) -> T {
        self.die();
        pending().await
    }

    /// Counts a call and tells what shall happen there.
    async fn enter(&self, site: Site) -> Option<Fault> {
        let (dead, fault) = {
            let mut state = self.state();
            let call = state.report.calls.len();
            state.report.calls.push(site);
            let planned = state.plan.filter(|(at, _)| *at == call);
            let is_out = match site {
                Site::Db(_) => state.outage.lease_db,
                Site::Backend(_) => state.outage.backend,
            };
            let fault = planned.map(|(_, fault)| fault.nearest(site)).or(is_out.then_some(Fault::ErrorBefore));
            let fault = fault.filter(|_| !state.dead);
            let key = (state.operation, site);
            state.ledger.entry(key).or_default().extend(fault);
            if let Some(fault) = fault {
                state.report.struck = Some((site, fault));
            }
            (state.dead, fault)
        };
        if dead {
            return pending().await;
        }
        if fault == Some(Fault::Freeze) {
            self.freeze().await;
            return None;
        }
        fault
    }

    async fn db<T, F>(&self, method: &'static str, call: impl FnOnce() -> F + Send) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        match self.enter(Site::Db(method)).await {
            None => call().await,
            Some(Fault::ErrorAfter) => {
                call().await?;
                Err(LeaseDbError::OutcomeUnknown(Box::new(Injected)))
            }
            Some(Fault::CrashBefore) => self.crash().await,
            Some(Fault::CrashAfter) => {
                drop(call().await);
                self.crash().await
            }
            Some(_) => Err(LeaseDbError::Unavailable(Box::new(Injected))),
        }
    }

    async fn backend<T, F>(&self, site: &'static str, call: impl FnOnce() -> F + Send) -> Result<T, BackendError>
    where
        T: Send,
        F: Future<Output = Result<T, BackendError>> + Send,
    {
        let fault = self.enter(Site::Backend(site)).await;
        self.strike(fault, call).await
    }

    async fn strike<T, F>(&self, fault: Option<Fault>, call: impl FnOnce() -> F + Send) -> Result<T, BackendError>
    where
        T: Send,
        F: Future<Output = Result<T, BackendError>> + Send,
    {
        match fault {
            None => call().await,
            Some(Fault::ErrorAfter) => {
                call().await?;
                Err(BackendError::Unavailable(io_error()))
            }
            Some(Fault::CrashBefore) => self.crash().await,
            Some(Fault::CrashAfter) => {
                drop(call().await);
                self.crash().await
            }
            Some(_) => Err(BackendError::Unavailable(io_error())),
        }
    }

    /// The first `count` bytes of a stream, then an error or the end of the process.
    fn tear(&self, stream: ByteStream, count: u64, crash: bool) -> ByteStream {
        let faults = self.clone();
        let state = (faults, Some(stream), count);
        stream::unfold(state, move |(faults, stream, left)| async move {
            let mut stream = stream?;
            if left > 0
                && let Some(next) = stream.next().await
            {
                let bytes = next.map(|bytes: Bytes| {
                    let keep = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes.slice(..keep)
                });
                let left = left - bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
                return Some((bytes, (faults, Some(stream), left)));
            }
            if crash {
                return faults.crash().await;
            }
            Some((Err(io_error()), (faults, None, 0)))
        })
        .boxed()
    }
}

/// A lease database with faults.
#[derive(Clone, Debug)]
pub struct FaultyLeaseDb<L> {
    inner: L,
    faults: Faults,
}

impl<L> FaultyLeaseDb<L> {
    /// Wraps a lease database.
    pub const fn new(inner: L, faults: Faults) -> Self {
        Self { inner, faults }
    }

    /// The lease database without faults.
    pub const fn inner(&self) -> &L {
        &self.inner
    }
}

macro_rules! pass_on {
    ($(fn $method:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        impl<L: LeaseDb> LeaseDb for FaultyLeaseDb<L> {
            $(async fn $method(&self, $($argument: $type),*) -> Result<$answer> {
                self.faults.db(stringify!($method), || self.inner.$method($($argument),*)).await
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

/// A backend with faults.
#[derive(Clone, Debug)]
pub struct FaultyBackend<B> {
    inner: B,
    faults: Faults,
}

impl<B> FaultyBackend<B> {
    /// Wraps a backend.
    pub const fn new(inner: B, faults: Faults) -> Self {
        Self { inner, faults }
    }

    /// The backend without faults.
    pub const fn inner(&self) -> &B {
        &self.inner
    }
}

impl<B: Backend> Backend for FaultyBackend<B> {
    async fn put(&self, name: &ObjectKey, length_bytes: u64, body: ByteStream) -> Result<(), BackendError> {
        let faults = &self.faults;
        let fault = faults.enter(Site::Backend("put")).await;
        faults.state().report.puts.extend(name.as_str().parse::<ObjectName>());
        let Some(torn @ (Fault::TornError | Fault::TornCrash)) = fault else {
            return faults.strike(fault, || self.inner.put(name, length_bytes, body)).await;
        };
        let half = faults.tear(body, length_bytes / 2, torn.is_crash());
        drop(self.inner.put(name, length_bytes, half).await);
        if torn.is_crash() { faults.crash().await } else { Err(BackendError::Unavailable(io_error())) }
    }

    async fn get(&self, name: &ObjectKey, range: Range<u64>) -> Result<ByteStream, BackendError> {
        let faults = &self.faults;
        let fault = faults.enter(Site::Backend("get")).await;
        let half = range.end.saturating_sub(range.start) / 2;
        let Some(broken @ (Fault::BrokenStream | Fault::CrashInStream)) = fault else {
            return faults.strike(fault, || self.inner.get(name, range)).await;
        };
        let whole = self.inner.get(name, range).await?;
        Ok(faults.tear(whole, half, broken.is_crash()))
    }

    async fn delete(&self, name: &ObjectKey) -> Result<(), BackendError> {
        self.faults.backend("delete", || self.inner.delete(name)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, BackendError> {
        self.faults.backend("list", || self.inner.list(prefix, after, max)).await
    }

    async fn available_bytes(&self) -> Result<u64, BackendError> {
        self.faults.backend("available_bytes", || self.inner.available_bytes()).await
    }

    async fn date(&self) -> Result<Option<Timestamp>, BackendError> {
        self.faults.backend("date", || self.inner.date()).await
    }
}
