//! The trait that stands for the lease database: shares, leases, uploads, slots, accounts, garbage.
//!
//! A method is a whole transaction in the words of the domain. What it decides it decides with the pure rules of this
//! crate, so that two databases cannot differ; what it answers is a value. After [`LeaseDbError::OutcomeUnknown`] the
//! caller reads again before it does anything else (`review.md` A3).

use std::future::Future;

use crate::account::{Account, AccountState, Usage};
use crate::backup::{Export, Import, ImportOutcome, Pages};
use crate::beat::BeatName;
use crate::bucket::{Chunk, Upload};
use crate::chunk::{ObjectName, StoreObject};
use crate::clock::Timestamp;
use crate::crawl::unit::{ClaimUnitOutcome, FinishUnit, Prefix};
use crate::crawl::{Crawled, ForgetOutcome, Settle, SettleOutcome, Spared, Survey, TakeOver};
use crate::expiry::{
    Amount, ExpireLeases, ExpireOutcome, KeepAlive, LeaseOnShare, LeasePage, RetireOutcome, RetireShares, Undo, Undone,
    UnleasedTotals,
};
use crate::id::{AccountId, ObjectId, ShareId, ShareNumber, StorageIndex};
use crate::lease::Lease;
use crate::locator::Locator;
use crate::run::{BeginRun, BeginRunOutcome, FinishRun, PermitOutcome, Run, RunId, RunKind, Totals};
use crate::secret::SecretHash;
use crate::share::{ShareKind, ShareState};
use crate::trouble::Troubles;
use crate::tub::TubConnection;

/// The boxed cause of a database error.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a transaction gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum LeaseDbError {
    /// Nothing was changed; the same call may work later.
    #[error("the lease database is not available")]
    Unavailable(#[source] Cause),
    /// The transaction may or may not have taken effect.
    #[error("the lease database did not confirm a transaction")]
    OutcomeUnknown(#[source] Cause),
    /// A row or a request that breaks an invariant; nothing was changed.
    #[error("the lease database refused: {0}")]
    Invalid(String),
}

/// Results of this module.
pub type Result<T, E = LeaseDbError> = std::result::Result<T, E>;

/// How long after its making an object's name may still be put into a row: the fence against frozen writers
/// (`design.md` 3.5).
pub const NAME_FENCE_SECONDS: i64 = 3600;
/// How long superseded objects wait for readers before they are deleted (R4).
pub const SUPERSEDED_GRACE_SECONDS: i64 = 15 * 60;
/// How long a removed share can be put back (R4).
pub const UNDO_SECONDS: i64 = 7 * 86_400;

/// A random value that every change of a slot replaces; the compare-and-set value of `review.md` B2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotToken(pub [u8; 16]);

/// Counts the histories of a lease database: each restore, and each loss of commits that was noticed, begins another
/// one. What was read in one history commits nothing in the next (`review.md` B2, C3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// What may be done with what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything.
    Normal,
    /// The database may not know all that was acknowledged: everything but deleting and expiring.
    Recovery,
}

/// What a lease database is as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Made at random with the database; stands in the backend as well.
    pub id: ObjectId,
    /// Its present history.
    pub epoch: Epoch,
    /// Whether anything may be deleted.
    pub mode: Mode,
    /// Since when every lease that was granted is known; `None`: since ever. What accounts use is a lower bound for
    /// what was granted before.
    pub complete_since: Option<Timestamp>,
    /// When the newest complete backup began; `None`: there never was one.
    pub backed_up_until: Option<Timestamp>,
    /// Whether its heart has ever beaten: before that no process has made sure whose the backend is.
    pub has_begun: bool,
}

/// A tick of the deployment's heart (`review.md` B1).
#[derive(Clone, Debug)]
pub struct Tick {
    /// The beats that the backend had before the call.
    pub listed: Vec<BeatName>,
    /// A fresh random value.
    pub nonce: ObjectId,
    /// Whether no acknowledged commit can be lost when a standby takes over.
    pub standby_is_synchronous: bool,
}

/// What became of a [`Tick`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TickOutcome {
    /// The beat was counted; it is to be put into the backend. All listed beats before `oldest` may be removed.
    Beat {
        /// The new beat.
        beat: BeatName,
        /// The oldest that is still compared.
        oldest: u64,
    },
    /// Another process is ticking.
    Elsewhere,
    /// The database has lost commits: a new epoch has begun, in recovery mode.
    Loss(Epoch),
}

/// A finished immutable share in several objects, to be stored in fewer.
#[derive(Clone, Debug)]
pub struct Scattered {
    /// Which share.
    pub share: ShareId,
    /// Its row; merging holds only while its locator is the share's.
    pub row: ShareRow,
    /// The database's time.
    pub now: Timestamp,
}

/// Other objects for the same bytes of an immutable share.
#[derive(Clone, Debug)]
pub struct Relocate {
    /// Which share.
    pub share: ShareId,
    /// Where the bytes were read from; the swap holds only if that is still so (`review.md` A4).
    pub from: Locator,
    /// Where they are as well now. An empty locator means that nothing was stored: the share is left as it is.
    pub to: Locator,
    /// The epoch in which `from` was read.
    pub epoch: Epoch,
}

/// A share that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareRow {
    /// Its number.
    pub number: ShareNumber,
    /// Immutable or mutable.
    pub kind: ShareKind,
    /// Stable or lost.
    pub state: ShareState,
    /// Size of the share data in bytes.
    pub size_bytes: u64,
    /// Where the bytes are.
    pub locator: Locator,
}

/// A request to begin uploads.
#[derive(Clone, Debug)]
pub struct Allocate {
    /// The bucket.
    pub storage_index: StorageIndex,
    /// Who asks, is leased and charged.
    pub account: AccountId,
    /// The shares wanted, each with the id its upload shall have.
    pub shares: Vec<(ShareNumber, ObjectId)>,
    /// Size of each share in bytes.
    pub size_bytes: u64,
    /// Hash of the upload secret.
    pub secret: SecretHash,
    /// The connection that the uploads end with; `None`: they end with none.
    pub connection: Option<TubConnection>,
    /// How long an upload may rest, in seconds.
    pub idle_seconds: i64,
    /// Bytes the backend can still take, open uploads not yet subtracted.
    pub backend_available_bytes: u64,
}

/// What became of an [`Allocate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllocateOutcome {
    /// The two sets of `gbs.md` 8.1.
    Done {
        /// Stable shares of the bucket that the account now leases, asked for or not.
        already_have: Vec<ShareNumber>,
        /// Uploads begun.
        allocated: Vec<ShareNumber>,
        /// Whether the account's quota kept anything out of both.
        over_quota: bool,
    },
    /// The account may not hold leases at present.
    Refused(AccountState),
    /// These uploads rest on numbers asked for and are overdue; nothing was changed. End them and ask again.
    Overdue(Vec<(ShareNumber, ObjectId)>),
}

/// Pieces that were stored for an upload.
#[derive(Clone, Debug)]
pub struct RecordChunks {
    /// The share.
    pub share: ShareId,
    /// The upload.
    pub upload: ObjectId,
    /// [`Upload::received_bytes`] as it was when `chunks` were found not to overlap what is there.
    pub seen_received_bytes: u64,
    /// What is new, ascending; may be empty when a write repeated known bytes.
    pub chunks: Vec<Chunk>,
    /// Whether the chunks were found in the backend instead of being stored just now: then the upload's row stands in for
    /// the fence, and what garbage names is left out (`review.md` B3).
    pub found: bool,
    /// [`Upload::epoch`].
    pub epoch: Epoch,
    /// How long the upload may rest from now, in seconds.
    pub idle_seconds: i64,
}

/// What became of a [`RecordChunks`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordOutcome {
    /// Recorded; these ranges are still missing.
    Incomplete(Vec<std::ops::Range<u64>>),
    /// Recorded, and the share is now stable and leased.
    Finished,
    /// Recorded, but another share holds this number now; this upload's objects are garbage.
    Displaced {
        /// Whether that share is immutable and of the same size, so that the client may be told it is there.
        same: bool,
    },
    /// Somebody else recorded bytes meanwhile; nothing was changed: look again.
    Stale,
    /// The upload is gone; nothing was changed.
    Gone,
}

/// A slot as one snapshot shows it.
#[derive(Clone, Debug)]
pub struct SlotSnapshot {
    /// The database's time.
    pub now: Timestamp,
    /// Token and write enabler; `None`: the slot has no shares.
    pub slot: Option<(SlotToken, SecretHash)>,
    /// Its shares, ascending.
    pub shares: Vec<ShareRow>,
    /// Whether immutable shares live under this storage index.
    pub has_immutable: bool,
    /// The epoch it belongs to.
    pub epoch: Epoch,
    /// In recovery mode the slot may lack its last commits until it is settled.
    pub mode: Mode,
}

/// What a slot commit does to one share.
#[derive(Clone, Debug)]
pub enum SlotChange {
    /// The share has these bytes now.
    Put {
        /// Size of the share data in bytes.
        size_bytes: u64,
        /// Where they are.
        locator: Locator,
    },
    /// The share is removed.
    Remove,
}

/// A slot commit: all of it or nothing.
#[derive(Clone, Debug)]
pub struct CommitSlot {
    /// The slot.
    pub storage_index: StorageIndex,
    /// Who writes, is leased and charged.
    pub account: AccountId,
    /// The token the commit was built on; `None`: the slot must have no shares.
    pub base: Option<SlotToken>,
    /// The token it sets.
    pub token: SlotToken,
    /// The slot's write enabler, set when the slot begins.
    pub write_enabler: SecretHash,
    /// By share, ascending.
    pub changes: Vec<(ShareNumber, SlotChange)>,
    /// An object that holds only the manifest, if one was written.
    pub marker: Option<ObjectName>,
    /// Objects that this commit makes rows name for the first time; they must be young.
    pub fresh: Vec<StoreObject>,
    /// [`SlotSnapshot::epoch`].
    pub epoch: Epoch,
}

/// What became of a [`CommitSlot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// It holds.
    Done,
    /// The slot has another token by now, or immutable shares; nothing was changed.
    Conflict,
    /// It would exceed the account's quota; nothing was changed.
    OverQuota,
    /// The account may not write at present; nothing was changed.
    Refused(AccountState),
}

/// What became of a lease renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewOutcome {
    /// Every share of the storage index is leased for the promised time.
    Done,
    /// There is no share.
    NotFound,
    /// A first lease did not fit the quota; leases that were held are renewed.
    OverQuota,
    /// The account may not hold leases at present.
    Refused(AccountState),
}

/// A lease as an operator sees it.
#[derive(Clone, Debug)]
pub struct LeaseRow {
    /// The share.
    pub number: ShareNumber,
    /// Who holds it.
    pub account: AccountId,
    /// The holder's name.
    pub account_name: String,
    /// Its times.
    pub lease: Lease,
}

/// Why objects are garbage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GarbageReason {
    /// A share that nobody leased.
    Unleased,
    /// A share that its client removed.
    Removed,
    /// Objects that a slot commit replaced.
    Superseded,
    /// An upload that was aborted or timed out.
    Aborted,
    /// Objects that no row ever named.
    Orphan,
}

/// Objects to be deleted, claimed by the caller.
#[derive(Clone, Debug)]
pub struct Garbage {
    /// The row, to be given back to [`LeaseDb::finish_garbage`].
    pub id: i64,
    /// What to delete; names that rows have come to name again are left out (R9).
    pub objects: Vec<ObjectName>,
}

/// A credential with the account it opens.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The account.
    pub account: Account,
    /// Hash of the swissnum.
    pub hash: SecretHash,
    /// When it stops to be valid; `None`: never.
    pub not_after: Option<Timestamp>,
    /// When it was last used, to within some minutes.
    pub last_used_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Credential {
    /// Whether the credential opens its account at `now`.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.account.state != AccountState::Closed && self.not_after.is_none_or(|end| now < end)
    }
}

/// A change of an account's settings; `None` leaves a setting as it is.
#[derive(Clone, Debug, Default)]
pub struct AccountChange {
    /// What it may do.
    pub state: Option<AccountState>,
    /// Its quota in bytes; `Some(None)` lifts it.
    pub quota_bytes: Option<Option<u64>>,
    /// Days granted by a renewal.
    pub lease_days: Option<u32>,
    /// Text for the account's owner.
    pub message: Option<String>,
    /// Whether its leases outlive what was granted.
    pub keep_alive: Option<KeepAlive>,
}

impl AccountChange {
    /// Whether it gives an account in `old` state its leases' time again, which stood still while it was suspended.
    pub fn thaws(&self, old: AccountState) -> bool {
        old == AccountState::Suspended && self.state.is_some_and(|state| state != AccountState::Suspended)
    }
}

/// What became of making an account.
#[derive(Clone, Debug)]
pub enum CreateOutcome {
    /// It exists now.
    Created(Account),
    /// The name is taken.
    NameTaken,
}

/// A client's report that a share is damaged.
#[derive(Clone, Debug)]
pub struct Advisory {
    /// The share.
    pub share: ShareId,
    /// Immutable or mutable.
    pub kind: ShareKind,
    /// Who reports.
    pub account: AccountId,
    /// Free text from outside.
    pub reason: String,
}

/// The lease database.
pub trait LeaseDb: Send + Sync + 'static {
    /// The database's time: the one clock for leases, deadlines and object ids.
    fn now(&self) -> impl Future<Output = Result<Timestamp>> + Send;

    /// Begins uploads and leases what is there (`gbs.md` 8.1, `review.md` A5, A10).
    fn allocate(&self, request: Allocate) -> impl Future<Output = Result<AllocateOutcome>> + Send;

    /// The upload in progress of a share, with the database's time.
    fn find_upload(&self, share: ShareId) -> impl Future<Output = Result<(Timestamp, Option<Upload>)>> + Send;

    /// Makes stored chunks part of an upload, and the share stable when nothing is missing (`review.md` A2, A10).
    fn record_chunks(&self, request: RecordChunks) -> impl Future<Output = Result<RecordOutcome>> + Send;

    /// Ends an upload: its chunks and `strays` (objects of it that no row names) become garbage, its space is free.
    /// False if it was gone already. With `overdue_only`, does nothing unless its deadline has passed.
    fn end_upload(
        &self,
        share: ShareId,
        upload: ObjectId,
        strays: Vec<StoreObject>,
        overdue_only: bool,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// All open uploads: how many there are, and the bytes that they have reserved.
    fn open_uploads(&self) -> impl Future<Output = Result<Amount>> + Send;

    /// Some uploads whose deadline has passed.
    fn overdue_uploads(&self, max: u32) -> impl Future<Output = Result<Vec<(ShareId, ObjectId)>>> + Send;

    /// Some uploads that other connections of the same Tub began.
    fn abandoned_uploads(
        &self,
        connection: TubConnection,
        max: u32,
    ) -> impl Future<Output = Result<Vec<(ShareId, ObjectId)>>> + Send;

    /// The shares of a storage index, stable and lost, of either kind, ascending.
    fn list_shares(&self, storage_index: StorageIndex) -> impl Future<Output = Result<Vec<ShareRow>>> + Send;

    /// The numbers of the stable shares of one kind, ascending.
    fn list_numbers(
        &self,
        storage_index: StorageIndex,
        kind: ShareKind,
    ) -> impl Future<Output = Result<Vec<ShareNumber>>> + Send;

    /// One share, stable or lost.
    fn find_share(&self, share: ShareId) -> impl Future<Output = Result<Option<ShareRow>>> + Send;

    /// Adds or renews the account's leases on every stable share (`gbs.md` 7.2, `review.md` A5).
    fn renew_leases(
        &self,
        storage_index: StorageIndex,
        account: AccountId,
    ) -> impl Future<Output = Result<RenewOutcome>> + Send;

    /// All leases on a storage index, by share and account.
    fn list_leases(&self, storage_index: StorageIndex) -> impl Future<Output = Result<Vec<LeaseRow>>> + Send;

    /// Lets the account's leases on these shares last until these times at least, as leases of another server did that the
    /// shares came from.
    fn prolong_leases(
        &self,
        storage_index: StorageIndex,
        account: AccountId,
        ends: Vec<(ShareNumber, Timestamp)>,
    ) -> impl Future<Output = Result<()>> + Send;

    /// A slot with its shares in one snapshot.
    fn read_slot(&self, storage_index: StorageIndex) -> impl Future<Output = Result<SlotSnapshot>> + Send;

    /// Swaps a slot's token and everything with it (`design.md` 4.2).
    fn commit_slot(&self, request: CommitSlot) -> impl Future<Output = Result<CommitOutcome>> + Send;

    /// Makes objects garbage that were stored for nothing, save those that a row names (`review.md` A3).
    fn discard_objects(&self, objects: Vec<ObjectName>) -> impl Future<Output = Result<()>> + Send;

    /// Claims garbage that is due and that no backup may name; the claim lapses after `claim_seconds`. Nothing unless
    /// the database is in normal mode and of this epoch.
    fn claim_garbage(
        &self,
        epoch: Epoch,
        max: u32,
        claim_seconds: i64,
    ) -> impl Future<Output = Result<Vec<Garbage>>> + Send;

    /// Notes that all objects of claimed garbage are deleted. Rows stay for a while: they forbid adoption (`review.md` A1).
    fn finish_garbage(&self, ids: Vec<i64>) -> impl Future<Output = Result<()>> + Send;

    /// Claims finished shares that lie in several objects for longer than a day; the claim lapses after
    /// `claim_seconds`.
    fn claim_scattered(&self, max: u32, claim_seconds: i64) -> impl Future<Output = Result<Vec<Scattered>>> + Send;

    /// Swaps the objects of an immutable share for others with the same bytes and forgets the claim; the older ones
    /// become garbage. False if the share has changed: then nothing names the new objects.
    fn relocate(&self, request: Relocate) -> impl Future<Output = Result<bool>> + Send;

    /// Leases behind `after` in the order of shares and accounts, at most `max`.
    fn lease_page(&self, after: Option<LeaseOnShare>, max: u32) -> impl Future<Output = Result<LeasePage>> + Send;

    /// Removes leases that have ended, are as they were read, and whose storage index nobody is changing. A share that
    /// loses its last one is queued.
    fn expire_leases(&self, request: ExpireLeases) -> impl Future<Output = Result<ExpireOutcome>> + Send;

    /// Forgets removed leases whose time to be put back has passed, at most `max`; tells how many.
    fn purge_expired(&self, max: u32) -> impl Future<Output = Result<u64>> + Send;

    /// Queued shares behind `after` that were queued until `until`, at most `max`.
    fn list_unleased(
        &self,
        after: Option<ShareId>,
        until: Timestamp,
        max: u32,
    ) -> impl Future<Output = Result<Vec<ShareId>>> + Send;

    /// Queues shares that nobody seems to lease; whether that is so is looked at when their turn comes.
    fn queue_unleased(&self, shares: Vec<ShareId>) -> impl Future<Output = Result<()>> + Send;

    /// What is queued, and what to compare it with.
    fn unleased_totals(&self) -> impl Future<Output = Result<UnleasedTotals>> + Send;

    /// Turns queued shares that nobody leases and that are old enough into garbage that can be put back.
    fn retire_shares(&self, request: RetireShares) -> impl Future<Output = Result<RetireOutcome>> + Send;

    /// Puts back removed shares with their leases, as long as nothing of them has been deleted.
    fn undo(&self, request: Undo) -> impl Future<Output = Result<Undone>> + Send;

    /// Storage indexes behind `after` of which a run removed leases that can be put back, at most `max`.
    fn list_expired(
        &self,
        run: RunId,
        after: Option<StorageIndex>,
        max: u32,
    ) -> impl Future<Output = Result<Vec<StorageIndex>>> + Send;

    /// What the database is.
    fn deployment(&self) -> impl Future<Output = Result<Deployment>> + Send;

    /// Whether no process has ticked for `seconds`.
    fn is_tick_due(&self, seconds: i64) -> impl Future<Output = Result<bool>> + Send;

    /// Counts a beat, or notices that commits were lost (`review.md` B1).
    fn tick(&self, tick: Tick) -> impl Future<Output = Result<TickOutcome>> + Send;

    /// What is known of a storage index, to be compared with its folder.
    fn survey(&self, storage_index: StorageIndex) -> impl Future<Output = Result<Survey>> + Send;

    /// Makes rows and objects of a storage index agree.
    fn settle(&self, settle: Settle) -> impl Future<Output = Result<SettleOutcome>> + Send;

    /// Shares of a unit by storage index and number, behind `after`.
    fn page_shares(
        &self,
        unit: Prefix,
        after: Option<ShareId>,
        max: u32,
    ) -> impl Future<Output = Result<Vec<Crawled>>> + Send;

    /// Uploads and garbage of these storage indexes.
    fn spared(&self, storage_indexes: Vec<StorageIndex>) -> impl Future<Output = Result<Spared>> + Send;

    /// Claims a unit of a reconcile run for a worker, for `claim_seconds`; the run gives a sign of life with it.
    fn claim_unit(
        &self,
        run: RunId,
        worker: ObjectId,
        claim_seconds: i64,
    ) -> impl Future<Output = Result<ClaimUnitOutcome>> + Send;

    /// Claims a unit for longer. False if somebody else has it, or the run has ended.
    fn keep_unit(
        &self,
        run: RunId,
        unit: Prefix,
        worker: ObjectId,
        claim_seconds: i64,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Ends a worker's unit and adds what was counted to the run's totals; where the unit is braked, ends the run. False
    /// if somebody else has the unit by now, or the run has ended: then nothing is counted.
    fn finish_unit(&self, finish: FinishUnit) -> impl Future<Output = Result<bool>> + Send;

    /// Notes that a reconcile run has compared everything since this epoch began: then recovery ends by itself, with the
    /// first tick a quarter of an hour after its beginning. False if the run began before, or did not compare everything.
    fn end_recovery(&self, epoch: Epoch, run: RunId) -> impl Future<Output = Result<bool>> + Send;

    /// Begins a database on a backend that is not empty, in recovery mode. False if it has begun otherwise: it has ticked or
    /// has shares, or accounts where the backend was another deployment's.
    fn take_over(&self, take_over: TakeOver) -> impl Future<Output = Result<bool>> + Send;

    /// Forgets a lost share, at a person's wish; `token` is a fresh random value for its slot.
    fn forget_lost(&self, share: ShareId, token: SlotToken) -> impl Future<Output = Result<ForgetOutcome>> + Send;

    /// Begins a run of a job, unless one of its kind is under way. One that died is abandoned. A run that is not dry takes the
    /// permission to pass brakes that its predecessor was given.
    fn begin_run(&self, begin: BeginRun) -> impl Future<Output = Result<BeginRunOutcome>> + Send;

    /// Notes what a run has counted so far, and that it lives. False if it has ended: it must stop.
    fn note_run(&self, run: RunId, totals: Totals) -> impl Future<Output = Result<bool>> + Send;

    /// Ends a run. False if it had ended already.
    fn finish_run(&self, end: FinishRun) -> impl Future<Output = Result<bool>> + Send;

    /// The last runs, of one kind or all, newest first.
    fn list_runs(&self, kind: Option<RunKind>, max: u32) -> impl Future<Output = Result<Vec<Run>>> + Send;

    /// Lets the run after a braked one pass the brakes, once.
    fn permit_run(&self, run: RunId) -> impl Future<Output = Result<PermitOutcome>> + Send;

    /// Counts again what an account holds, and makes its counters say so. Gives what they said, and what they say now.
    fn recount_usage(&self, account: AccountId) -> impl Future<Output = Result<(Usage, Usage)>> + Send;

    /// Everything there is, at one instant.
    fn export(&self) -> impl Future<Output = Result<Export>> + Send;

    /// Makes an empty lease database what an export was, but for uploads; all of it or nothing.
    fn import(&self, import: Import, pages: Pages) -> impl Future<Output = Result<ImportOutcome>> + Send;

    /// Whether there is nothing in it: no account that somebody made, no share, no upload, no garbage, no beat.
    fn is_empty(&self) -> impl Future<Output = Result<bool>> + Send;

    /// Notes that all that was committed before this moment, in this epoch, is in a complete backup (`review.md` C2).
    fn note_backup(&self, epoch: Epoch, until: Timestamp) -> impl Future<Output = Result<()>> + Send;

    /// Lost and damaged shares, at most `max` of each kind.
    fn troubles(&self, max: u32) -> impl Future<Output = Result<Troubles>> + Send;

    /// Keeps a corruption report, unless the share has enough open ones.
    fn advise(&self, advisory: Advisory) -> impl Future<Output = Result<()>> + Send;

    /// Those credentials with these hashes that there are, valid or not, and what their accounts use; in no order.
    fn find_credentials(
        &self,
        hashes: Vec<SecretHash>,
    ) -> impl Future<Output = Result<Vec<(Credential, Usage)>>> + Send;

    /// The credential with this hash and its account, valid or not.
    fn find_credential(&self, hash: SecretHash) -> impl Future<Output = Result<Option<Credential>>> + Send {
        async move { Ok(self.find_credentials(vec![hash]).await?.pop().map(|(credential, _)| credential)) }
    }

    /// Notes when credentials were last used.
    fn note_use(&self, uses: Vec<(SecretHash, Timestamp)>) -> impl Future<Output = Result<()>> + Send;

    /// A number that grows with every change of an account or credential.
    fn accounts_version(&self) -> impl Future<Output = Result<u64>> + Send;

    /// Makes an account with its first credential.
    fn create_account(
        &self,
        name: String,
        change: AccountChange,
        credential: SecretHash,
    ) -> impl Future<Output = Result<CreateOutcome>> + Send;

    /// The account of this name, closed ones left out.
    fn find_account(&self, name: String) -> impl Future<Output = Result<Option<Account>>> + Send;

    /// Accounts by number behind `after`, closed ones left out, with what they use.
    fn list_accounts(
        &self,
        after: Option<AccountId>,
        max: u32,
    ) -> impl Future<Output = Result<Vec<(Account, Usage)>>> + Send;

    /// Changes an account; false if there is none.
    fn change_account(&self, account: AccountId, change: AccountChange) -> impl Future<Output = Result<bool>> + Send;

    /// Gives an account a new credential. Older ones end at `overlap_seconds` from now at the latest, and of those
    /// only the newest stays: at most two are valid at any time (`api.md` 10.6).
    fn rotate_credential(
        &self,
        account: AccountId,
        credential: SecretHash,
        overlap_seconds: i64,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// The credentials of an account, newest first.
    fn list_credentials(&self, account: AccountId) -> impl Future<Output = Result<Vec<Credential>>> + Send;

    /// Revokes an account's credentials and closes it; its name is free again. Its leases age away, or end in
    /// `release_seconds` at the latest.
    fn close_account(
        &self,
        account: AccountId,
        release_seconds: Option<i64>,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// The closed account of this number; `None` if there is none, or it is open.
    fn find_closed_account(&self, account: AccountId) -> impl Future<Output = Result<Option<Account>>> + Send;

    /// Opens a closed account again, under a name of its own and with one credential: what leases it still holds age as
    /// any. False unless it is closed and the name is free.
    fn reopen_account(
        &self,
        account: AccountId,
        name: String,
        change: AccountChange,
        credential: SecretHash,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// What an account holds, exactly.
    fn usage(&self, account: AccountId) -> impl Future<Output = Result<Usage>> + Send;
}
