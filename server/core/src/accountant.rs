//! The Accountant: which account a swissnum opens, and what that account may do and still store, from memory.
//!
//! A miss asks the lease database; a hit does not. Whoever owns the Accountant calls [`Accountant::refresh`] every
//! [`REFRESH_SECONDS`]: it notices changes by a version number, renews the usage of accounts in use, and writes down
//! when credentials were used. What decides about bytes and leases is checked again in the transaction that changes them.
//!
//! When the lease database does not answer, those known go on for [`STALE`]; about others nothing can be said, not even
//! that they do not exist (`api.md` 10.2, 10.8).

use std::collections::HashMap;
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::account::{Account, Usage};
use crate::clock::{SteadyClock, SystemSteadyClock, Timestamp};
use crate::contact::{Contact, millis};
use crate::leasedb::{Credential, LeaseDb, LeaseDbError};
use crate::observe::{Denial, Event, Observer, Unobserved};
use crate::secret::SecretHash;

/// How often [`Accountant::refresh`] wants to be called, in seconds (`decisions.md` 4).
pub const REFRESH_SECONDS: u64 = 2;
/// How long accounts are served from memory without having been refreshed: a revocation is not known any longer.
pub const STALE: Duration = Duration::from_secs(600);
/// How often the use of a credential is written down, in seconds.
const NOTE_USE_SECONDS: i64 = 600;
/// How many sessions are reloaded by one statement.
const RELOADED_AT_ONCE: usize = 500;
/// How many credentials, and how many unknown hashes, are remembered.
const CACHE_MAX: usize = 100_000;

/// An account as opened by one of its credentials: a snapshot some seconds old.
#[derive(Debug)]
pub struct Session {
    /// The account.
    pub account: Account,
    /// What it uses.
    pub usage: Usage,
    credential: SecretHash,
    not_after: Option<Timestamp>,
    used_at: AtomicI64,
    noted_at: AtomicI64,
}

impl Session {
    fn new(credential: Credential, usage: Usage, used_at: i64) -> Self {
        let Credential { account, hash, not_after, .. } = credential;
        Self {
            account,
            usage,
            credential: hash,
            not_after,
            used_at: AtomicI64::new(used_at),
            noted_at: AtomicI64::new(0),
        }
    }

    /// A session without a credential, for what an operator does on behalf of an account.
    pub fn on_behalf_of(account: Account, usage: Usage) -> Self {
        let credential = SecretHash::new([0; 32]);
        Self { account, usage, credential, not_after: None, used_at: AtomicI64::new(0), noted_at: AtomicI64::new(0) }
    }
}

/// Opens accounts by their credentials.
#[derive(Debug)]
pub struct Accountant<L> {
    db: Arc<L>,
    sessions: RwLock<HashMap<SecretHash, Arc<Session>>>,
    /// Hashes that open nothing, and why.
    denied: RwLock<HashMap<SecretHash, Denial>>,
    version: AtomicU64,
    /// Whether the changes up to `version` have not all been taken over yet.
    is_behind: AtomicBool,
    /// When all changes were last known to be taken over, in milliseconds of `clock`.
    refreshed_at: AtomicU64,
    clock: Arc<dyn SteadyClock>,
    /// The database's time less that of `clock`, in milliseconds.
    ahead: AtomicI64,
    contact: Contact,
    observer: Arc<dyn Observer>,
}

#[derive(Debug, thiserror::Error)]
#[error("accounts have not been refreshed for too long")]
struct TooOld;

#[derive(Debug, thiserror::Error)]
#[error("the lease database did not answer lately")]
struct NoContact;

impl<L: LeaseDb> Accountant<L> {
    /// Makes an Accountant and refreshes it for the first time.
    ///
    /// # Errors
    /// Whatever keeps the lease database from answering.
    pub async fn open(db: Arc<L>) -> Result<Self, LeaseDbError> {
        Self::open_with_clock(db, Arc::new(SystemSteadyClock::default())).await
    }

    /// As [`open`](Self::open), with a clock by which silence is measured.
    ///
    /// # Errors
    /// Whatever keeps the lease database from answering.
    pub async fn open_with_clock(db: Arc<L>, clock: Arc<dyn SteadyClock>) -> Result<Self, LeaseDbError> {
        let accountant = Self {
            db,
            sessions: RwLock::default(),
            denied: RwLock::default(),
            version: AtomicU64::new(0),
            is_behind: AtomicBool::new(true),
            refreshed_at: AtomicU64::new(0),
            clock,
            ahead: AtomicI64::new(0),
            contact: Contact::default(),
            observer: Arc::new(Unobserved),
        };
        accountant.refresh().await?;
        Ok(accountant)
    }

    /// Tells somebody which credentials open nothing.
    #[must_use]
    pub fn with_observer(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer, ..self }
    }

    /// The session that a credential opens; `None` if it opens nothing.
    ///
    /// # Errors
    /// The lease database does not answer for a credential that is not in memory, or has been silent too long.
    pub async fn session(&self, credential: &SecretHash) -> Result<Option<Arc<Session>>, LeaseDbError> {
        Ok(self.told(self.find(credential).await?))
    }

    /// Why it is that there is no session is for the observer, not for the client.
    fn told(&self, found: Result<Arc<Session>, Denial>) -> Option<Arc<Session>> {
        found.map_err(|denial| self.observer.notice(Event::Denied(denial))).ok()
    }

    async fn find(&self, credential: &SecretHash) -> Result<Result<Arc<Session>, Denial>, LeaseDbError> {
        let elapsed = self.clock.elapsed();
        if self.age(elapsed) >= STALE {
            return Err(LeaseDbError::Unavailable(Box::new(TooOld)));
        }
        let now = self.now(elapsed);
        if let Some(session) = self.remembered(credential) {
            if session.not_after.is_some_and(|end| end <= now) {
                return Ok(Err(Denial::Revoked));
            }
            session.used_at.store(now.seconds(), Ordering::Relaxed);
            return Ok(Ok(session));
        }
        if !self.contact.is_kept(elapsed) {
            // Neither a look-up that may take long, nor a "no" that may have become wrong.
            return Err(LeaseDbError::Unavailable(Box::new(NoContact)));
        }
        if let Some(denial) = read(&self.denied).get(credential) {
            return Ok(Err(*denial));
        }
        let version = self.version.load(Ordering::Acquire);
        let session = match self.look_up(credential, now).await? {
            Ok(session) => Arc::new(session),
            Err(denial) => {
                let mut denied = write(&self.denied);
                // A refresh may have seen a newer version meanwhile: what it cleared must stay cleared.
                if denied.len() < CACHE_MAX && version == self.version.load(Ordering::Acquire) {
                    denied.insert(*credential, denial);
                }
                return Ok(Err(denial));
            }
        };
        let mut sessions = write(&self.sessions);
        if sessions.len() < CACHE_MAX && version == self.version.load(Ordering::Acquire) {
            sessions.insert(*credential, session.clone());
        }
        Ok(Ok(session))
    }

    /// As [`session`](Self::session), but read from the lease database: for those who ask once and keep the answer.
    ///
    /// # Errors
    /// The lease database does not answer.
    pub async fn session_of_now(&self, credential: &SecretHash) -> Result<Option<Arc<Session>>, LeaseDbError> {
        let elapsed = self.clock.elapsed();
        if !self.contact.is_kept(elapsed) {
            return Err(LeaseDbError::Unavailable(Box::new(NoContact)));
        }
        Ok(self.told(self.look_up(credential, self.now(elapsed)).await?.map(Arc::new)))
    }

    /// The session of a credential that is in memory, however old: fit to tell its owner that nothing can be stored now.
    pub fn remembered(&self, credential: &SecretHash) -> Option<Arc<Session>> {
        read(&self.sessions).get(credential).cloned()
    }

    /// How many sessions are in memory.
    pub fn sessions(&self) -> usize {
        read(&self.sessions).len()
    }

    /// Whether the lease database has answered lately.
    pub fn has_contact(&self) -> bool {
        self.contact.is_kept(self.clock.elapsed())
    }

    /// How long ago all changes of accounts were last known.
    pub fn cache_age(&self) -> Duration {
        self.age(self.clock.elapsed())
    }

    fn age(&self, elapsed: Duration) -> Duration {
        elapsed.saturating_sub(Duration::from_millis(self.refreshed_at.load(Ordering::Relaxed)))
    }

    /// The database's time, which goes on when the database is silent.
    fn now(&self, elapsed: Duration) -> Timestamp {
        let ahead = self.ahead.load(Ordering::Relaxed);
        Timestamp::from_millis(ahead.saturating_add_unsigned(millis(elapsed)))
    }

    /// Takes over changes of accounts, refreshes usage, notes which credentials were used.
    ///
    /// # Errors
    /// Whatever keeps the lease database from answering; the cache stays as it was.
    pub async fn refresh(&self) -> Result<(), LeaseDbError> {
        let result = self.take_over().await;
        if matches!(result, Err(LeaseDbError::Unavailable(_) | LeaseDbError::OutcomeUnknown(_))) {
            self.contact.lost();
        }
        result
    }

    async fn take_over(&self) -> Result<(), LeaseDbError> {
        let began = self.clock.elapsed();
        let now = self.db.now().await?;
        let answered = self.clock.elapsed();
        self.ahead.store(now.millis().saturating_sub_unsigned(millis(answered)), Ordering::Relaxed);
        let version = self.db.accounts_version().await?;
        self.contact.made(answered);
        let changed = self.version.swap(version, Ordering::AcqRel) != version || self.is_behind.load(Ordering::Relaxed);
        // Should this end in an error, the next one takes over what is left.
        self.is_behind.store(changed, Ordering::Relaxed);
        if changed {
            write(&self.denied).clear();
        } else {
            self.refreshed_at.store(millis(began), Ordering::Relaxed);
        }
        let uses = self.reload_sessions(now, changed).await?;
        if changed {
            self.is_behind.store(false, Ordering::Relaxed);
            self.refreshed_at.store(millis(began), Ordering::Relaxed);
        }
        if !uses.is_empty() {
            self.db.note_use(uses).await?;
        }
        Ok(())
    }

    /// Reloads sessions in use, or all if something `changed`; gives which credentials were used.
    async fn reload_sessions(
        &self,
        now: Timestamp,
        changed: bool,
    ) -> Result<Vec<(SecretHash, Timestamp)>, LeaseDbError> {
        let sessions: Vec<Arc<Session>> = read(&self.sessions).values().cloned().collect();
        let (mut uses, mut due) = (Vec::new(), Vec::new());
        for session in sessions {
            let used_at = session.used_at.load(Ordering::Relaxed);
            if used_at - session.noted_at.load(Ordering::Relaxed) >= NOTE_USE_SECONDS {
                session.noted_at.store(used_at, Ordering::Relaxed);
                uses.push((session.credential, Timestamp::from_seconds(used_at)));
            }
            // Sessions that rest are reloaded when something changed, and forgotten after a day.
            let resting = now.seconds() - used_at;
            if resting > 86_400 {
                write(&self.sessions).remove(&session.credential);
            } else if changed || resting < 10 {
                due.push(session);
            }
        }
        let mut damaged = Ok(());
        for sessions in due.chunks(RELOADED_AT_ONCE) {
            match self.reload(sessions, now).await {
                // One damaged account must not keep the others old.
                Err(LeaseDbError::Invalid(_)) => damaged = self.reload_each(sessions, now).await?.and(damaged),
                outcome => outcome?,
            }
            self.contact.made(self.clock.elapsed());
        }
        damaged.map(|()| uses)
    }

    /// Reloads sessions one by one, and forgets those that cannot be read; the inner error is of the last of these.
    async fn reload_each(
        &self,
        sessions: &[Arc<Session>],
        now: Timestamp,
    ) -> Result<Result<(), LeaseDbError>, LeaseDbError> {
        let mut damaged = Ok(());
        for session in sessions {
            match self.reload(slice::from_ref(session), now).await {
                Err(error @ LeaseDbError::Invalid(_)) => {
                    write(&self.sessions).remove(&session.credential);
                    damaged = Err(error);
                }
                outcome => outcome?,
            }
        }
        Ok(damaged)
    }

    async fn reload(&self, sessions: &[Arc<Session>], now: Timestamp) -> Result<(), LeaseDbError> {
        let found = self.db.find_credentials(sessions.iter().map(|session| session.credential).collect()).await?;
        let valid = found.into_iter().filter(|(credential, _)| credential.is_valid(now));
        let mut valid: HashMap<SecretHash, _> = valid.map(|found| (found.0.hash, found)).collect();
        let mut remembered = write(&self.sessions);
        for old in sessions {
            if let Some((credential, usage)) = valid.remove(&old.credential) {
                let session = Session::new(credential, usage, old.used_at.load(Ordering::Relaxed));
                session.noted_at.store(old.noted_at.load(Ordering::Relaxed), Ordering::Relaxed);
                remembered.insert(old.credential, Arc::new(session));
            } else {
                remembered.remove(&old.credential);
            }
        }
        Ok(())
    }

    /// The session of a credential as the lease database has it, used now; or why there is none.
    async fn look_up(&self, credential: &SecretHash, now: Timestamp) -> Result<Result<Session, Denial>, LeaseDbError> {
        Ok(match self.db.find_credentials(vec![*credential]).await?.pop() {
            None => Err(Denial::Unknown),
            Some((credential, _)) if !credential.is_valid(now) => Err(Denial::Revoked),
            Some((credential, usage)) => Ok(Session::new(credential, usage, now.seconds())),
        })
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
