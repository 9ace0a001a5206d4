//! One method for each operation of the storage protocol, over any lease database and any backend.
//!
//! Both front ends and all jobs call these methods; none of them knows a wire format. No database transaction is open
//! while the backend is being talked to, and objects are durable before a row names them (R1). A method must be driven
//! to its end even when the client has gone (front ends run it in a task of its own): then every object it stored is
//! either named by a row or garbage. A process that dies in the middle leaves objects that no row names, nothing else.

mod backup;
mod body;
mod bucket_writer;
mod classic;
mod collect;
mod expire;
mod export;
mod heart;
mod immutable;
mod import;
mod mutable;
mod read;
mod reconcile;
mod retire;
mod rows;
mod settle;
mod stage;
mod undo;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

pub use backup::Restored;
pub use body::Payload;
pub use bucket_writer::{BucketWriter, GatheredPiece};
pub use collect::Collected;
pub use expire::{ExpireProgress, ExpireReport, ExpireRequest, Expired};
pub use export::Outgoing;
pub use heart::{Claim, SILENCE_SECONDS};
pub use immutable::{Allocated, Written};
pub use import::{Imported, Incoming, Refusal};
pub use mutable::ReadTestWriteOutcome;
pub use read::ShareSlice;
pub use reconcile::UnitWork;
pub use undo::UndoneRun;

use crate::account::AccountState;
use crate::accountant::{Accountant, Session};
use crate::backend::{Backend, BackendError};
use crate::clock::{Clock, Entropy, SteadyClock, SystemSteadyClock, Timestamp};
use crate::contact::Contact;
use crate::expiry::Brakes;
use crate::id::{ObjectId, ShareId, StorageIndex};
use crate::leasedb::{Advisory, LeaseDb, LeaseDbError, LeaseRow, RenewOutcome, ShareRow};
use crate::observe::{ConflictingState, Event, LeaseOperation, LeaseResult, Observer, QuotaKind, Unobserved};
use crate::share::ShareKind;
use rows::RowCache;
use settle::Recovery;

/// Why an operation was not done. Where a variant does not say otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such share, upload or storage index.
    #[error("there is no such share")]
    NotFound,
    /// An upload is in progress under another secret.
    #[error("the upload secret does not match")]
    WrongUploadSecret,
    /// The share is finished and cannot be aborted.
    #[error("the share is already complete")]
    AlreadyComplete,
    /// Bytes differ from those received before; or another share holds the number.
    #[error("the bytes conflict with those already stored")]
    Conflict,
    /// The range does not lie within the share.
    #[error("the range does not lie within the share of {size_bytes} bytes")]
    OutOfBounds {
        /// Size of the share in bytes.
        size_bytes: u64,
    },
    /// The body is shorter or longer than announced.
    #[error("the body has not the announced length")]
    BodyLength,
    /// The body broke off.
    #[error("the body broke off")]
    BodyBroken(#[source] std::io::Error),
    /// The slot has another write enabler.
    #[error("the write enabler does not match")]
    WrongWriteEnabler,
    /// The storage index holds shares of the other kind.
    #[error("the storage index holds immutable shares")]
    WrongKind,
    /// The account may not do this at present.
    #[error("the account is {0}")]
    Refused(AccountState),
    /// The account's quota does not allow it.
    #[error("the account's quota does not allow it")]
    OverQuota,
    /// The backend has no room left.
    #[error("the server has no room left")]
    Full,
    /// Larger than any share may be.
    #[error("a share may have at most {max_bytes} bytes")]
    TooLarge {
        /// The limit in bytes.
        max_bytes: u64,
    },
    /// Too many others change the same slot.
    #[error("the slot is being changed by others")]
    Busy,
    /// A stable share's bytes are not where they should be.
    #[error("the bytes of share {0} are not in the backend")]
    Vanished(ShareId),
    /// The lease database is not the one that it was: somebody has made another in its place.
    #[error("the lease database is another one than before")]
    AnotherDatabase,
    /// The lease database failed.
    #[error(transparent)]
    LeaseDb(#[from] LeaseDbError),
    /// The backend failed.
    #[error(transparent)]
    Backend(BackendError),
}

impl From<BackendError> for StoreError {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Full(_) => Self::Full,
            BackendError::Source(source) => body::store_error(source),
            other => Self::Backend(other),
        }
    }
}

/// Results of this module.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Policy of one server, each value with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// How long an upload may rest before it is ended, in seconds. The released server: 30 minutes.
    pub upload_idle_seconds: i64,
    /// The largest immutable share, in bytes.
    pub immutable_share_max_bytes: u64,
    /// The largest mutable share, in bytes.
    pub mutable_share_max_bytes: u64,
    /// The largest object stored for one write, in bytes.
    pub object_max_bytes: u64,
    /// The largest object that pieces are merged into, in bytes.
    pub merged_max_bytes: u64,
    /// Room to leave free in the backend, in bytes.
    pub reserved_bytes: u64,
    /// Whether no acknowledged commit is lost when a standby of the lease database takes over.
    pub standby_is_synchronous: bool,
    /// Where backups are not this program's: how far back a restore may reach, in seconds; 0 where there are none.
    pub restore_horizon_seconds: Option<i64>,
    /// How much may go at once before a person must look.
    pub brakes: Brakes,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            upload_idle_seconds: 30 * 60,
            immutable_share_max_bytes: 1 << 40,
            mutable_share_max_bytes: 64 << 30,
            object_max_bytes: 64 << 20,
            merged_max_bytes: 64 << 20,
            reserved_bytes: 0,
            standby_is_synchronous: false,
            restore_horizon_seconds: None,
            brakes: Brakes::default(),
        }
    }
}

/// What a server announces to one account (`gbs.md` 7.1, `design.md` 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// The largest immutable share that would be taken now, in bytes.
    pub immutable_share_max_bytes: u64,
    /// The largest mutable share, in bytes.
    pub mutable_share_max_bytes: u64,
    /// What may still be stored, in bytes.
    pub available_bytes: u64,
}

impl Space {
    /// What a server announces that cannot store anything at present; clients go on reading from it (`gbs.md` 7.1).
    pub const NONE: Self = Self { immutable_share_max_bytes: 0, mutable_share_max_bytes: 0, available_bytes: 0 };
}

/// The storage protocol over a lease database and a backend.
#[derive(Debug)]
pub struct Store<L, B> {
    db: Arc<L>,
    backend: Arc<B>,
    entropy: Entropy,
    options: StoreOptions,
    backend_available_bytes: AtomicU64,
    /// The database's time at the last refresh, in milliseconds; 0 before the first.
    recent_millis: AtomicI64,
    clock: Arc<dyn SteadyClock>,
    /// Whose time that of the lease database is compared with before anything is destroyed.
    host_clock: Option<Arc<dyn Clock>>,
    observer: Arc<dyn Observer>,
    backend_contact: Contact,
    /// What all bucket writers keep in memory, in bytes.
    gathered_bytes: Arc<AtomicU64>,
    /// Rows of immutable shares that were read lately.
    rows: Arc<RowCache>,
    /// When the lease database was last asked for a row in vain, in milliseconds of `clock`; 0: it answered since.
    rows_asked_in_vain_at: AtomicU64,
    /// The epoch that is in recovery mode; 0: none, as far as is known here.
    recovering: AtomicU64,
    /// Since when usage is exact, in seconds.
    complete_since: AtomicI64,
    recovery: Recovery,
    /// Whose the backend is, since that was made sure.
    claimed_for: OnceLock<ObjectId>,
}

impl<L: LeaseDb, B: Backend> Store<L, B> {
    /// Puts a store together. Call [`refresh_space`](Self::refresh_space) before it is used.
    pub fn new(db: Arc<L>, backend: Arc<B>, entropy: Entropy, options: StoreOptions) -> Self {
        Self {
            db,
            backend,
            entropy,
            options,
            backend_available_bytes: AtomicU64::new(0),
            recent_millis: AtomicI64::new(0),
            clock: Arc::new(SystemSteadyClock::default()),
            host_clock: None,
            observer: Arc::new(Unobserved),
            backend_contact: Contact::default(),
            gathered_bytes: Arc::default(),
            rows: Arc::default(),
            rows_asked_in_vain_at: AtomicU64::new(0),
            recovering: AtomicU64::new(0),
            complete_since: AtomicI64::new(0),
            recovery: Recovery::default(),
            claimed_for: OnceLock::new(),
        }
    }

    /// Measures by another clock how long rows are kept and the backend is silent.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn SteadyClock>) -> Self {
        Self { clock, ..self }
    }

    /// Destroys nothing while the lease database's clock differs much from this one (`review.md` A13).
    #[must_use]
    pub fn with_host_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { host_clock: Some(clock), ..self }
    }

    /// Tells somebody what becomes of requests.
    #[must_use]
    pub fn with_observer(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer, ..self }
    }

    /// The error of a request that a share's state does not allow.
    fn conflict(&self, state: ConflictingState, error: StoreError) -> StoreError {
        self.observer.notice(Event::Conflict(state));
        error
    }

    /// The lease database.
    pub const fn db(&self) -> &Arc<L> {
        &self.db
    }

    /// Asks the backend how much room it has; what is announced and allocated goes by the last answer. Asks the lease
    /// database whether it recovers.
    ///
    /// # Errors
    /// The backend does not answer; nothing more is announced or allocated then.
    pub async fn refresh_space(&self) -> Result<()> {
        let asked_at = self.clock.elapsed();
        if let Ok(now) = self.db.now().await {
            self.recent_millis.store(now.millis(), Ordering::Relaxed);
        }
        if let Ok(deployment) = self.db.deployment().await {
            self.note_deployment(&deployment);
        }
        let answer = self.backend.available_bytes().await;
        match &answer {
            Ok(_) => self.backend_contact.made(asked_at),
            Err(_) => self.backend_contact.lost(),
        }
        let available = answer.as_ref().map_or(0, |bytes| bytes.saturating_sub(self.options.reserved_bytes));
        self.backend_available_bytes.store(available, Ordering::Relaxed);
        Ok(answer.map(drop)?)
    }

    /// The database's time, some seconds old: good for the ids of uploads, whose age nothing depends on.
    async fn recent_time(&self) -> Result<Timestamp> {
        match self.recent_millis.load(Ordering::Relaxed) {
            0 => Ok(self.db.now().await?),
            millis => Ok(Timestamp::from_millis(millis)),
        }
    }

    /// What the backend last said it can still store, in bytes.
    pub fn backend_available_bytes(&self) -> u64 {
        self.backend_available_bytes.load(Ordering::Relaxed)
    }

    /// What to announce to an account, from memory: nothing while lease database or backend do not answer.
    pub fn space(&self, session: &Session, accountant: &Accountant<L>) -> Space {
        if !accountant.has_contact() || !self.backend_contact.is_kept(self.clock.elapsed()) {
            return Space::NONE;
        }
        let account = &session.account;
        let left = session.usage.left(account.quota_bytes).min(self.backend_available_bytes.load(Ordering::Relaxed));
        // A quota is counted in container lengths; the shares that fit are that much smaller.
        let available_bytes = if account.state.may_write() {
            left.saturating_sub(ShareKind::Mutable.charged_bytes(0)).min(i64::MAX as u64)
        } else {
            0
        };
        let mutable_share_max_bytes = if account.state.may_write() { self.options.mutable_share_max_bytes } else { 0 };
        Space {
            immutable_share_max_bytes: available_bytes.min(self.options.immutable_share_max_bytes),
            mutable_share_max_bytes,
            available_bytes,
        }
    }

    /// Adds or renews the account's leases on all shares of a storage index (`gbs.md` 7.2).
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no share; [`StoreError::OverQuota`] if a first lease does not fit.
    pub async fn renew_leases(&self, session: &Session, storage_index: StorageIndex) -> Result<()> {
        self.touch(storage_index).await?;
        let (told, result) = match self.db.renew_leases(storage_index, session.account.id).await? {
            RenewOutcome::Done => (LeaseResult::Done, Ok(())),
            RenewOutcome::NotFound => (LeaseResult::NotFound, Err(StoreError::NotFound)),
            RenewOutcome::OverQuota => (LeaseResult::OverQuota, Err(StoreError::OverQuota)),
            RenewOutcome::Refused(state) => (LeaseResult::Refused, Err(StoreError::Refused(state))),
        };
        self.observer.notice(Event::Lease(LeaseOperation::Renew, told));
        if told == LeaseResult::OverQuota {
            self.observer.notice(Event::OverQuota(QuotaKind::Lease));
        }
        result
    }

    /// Keeps a client's report that a share is damaged; the share is not touched (`gbs.md` 10).
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such share.
    pub async fn advise(&self, session: &Session, kind: ShareKind, share: ShareId, reason: String) -> Result<()> {
        self.stable_share(kind, share).await?;
        Ok(self.db.advise(Advisory { share, kind, account: session.account.id, reason }).await?)
    }

    /// All shares of a storage index with their leases, for an operator.
    ///
    /// # Errors
    /// The lease database does not answer.
    pub async fn inspect(&self, storage_index: StorageIndex) -> Result<(Vec<ShareRow>, Vec<LeaseRow>)> {
        Ok((self.db.list_shares(storage_index).await?, self.db.list_leases(storage_index).await?))
    }
}
