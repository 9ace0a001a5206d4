//! The Accountant: which account a swissnum opens, and what that account may do and still store, from memory.
//!
//! A miss asks the lease database; a hit does not. Whoever owns the Accountant calls [`Accountant::refresh`] every
//! [`REFRESH_SECONDS`]: it notices changes by a version number, renews the usage of accounts in use, and writes down
//! when credentials were used. What decides about bytes and leases is checked again in the transaction that changes them.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::account::{Account, Usage};
use crate::clock::Timestamp;
use crate::leasedb::{Credential, LeaseDb, LeaseDbError};
use crate::secret::SecretHash;

/// How often [`Accountant::refresh`] wants to be called, in seconds (`decisions.md` 4).
pub const REFRESH_SECONDS: u64 = 2;
/// How often the use of a credential is written down, in seconds.
const NOTE_USE_SECONDS: i64 = 600;
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

/// Opens accounts by their credentials.
#[derive(Debug)]
pub struct Accountant<L> {
    db: Arc<L>,
    sessions: RwLock<HashMap<SecretHash, Arc<Session>>>,
    unknown: RwLock<HashSet<SecretHash>>,
    version: AtomicU64,
    now: AtomicI64,
}

impl<L: LeaseDb> Accountant<L> {
    /// Makes an Accountant and refreshes it for the first time.
    ///
    /// # Errors
    /// Whatever keeps the lease database from answering.
    pub async fn open(db: Arc<L>) -> Result<Self, LeaseDbError> {
        let accountant = Self {
            db,
            sessions: RwLock::default(),
            unknown: RwLock::default(),
            version: AtomicU64::new(0),
            now: AtomicI64::new(0),
        };
        accountant.refresh().await?;
        Ok(accountant)
    }

    /// The session that a credential opens; `None` if it opens nothing.
    ///
    /// # Errors
    /// The lease database does not answer for a credential that is not in memory, or has been silent too long.
    pub async fn session(&self, credential: &SecretHash) -> Result<Option<Arc<Session>>, LeaseDbError> {
        let now = Timestamp::from_millis(self.now.load(Ordering::Relaxed));
        let cached = read(&self.sessions).get(credential).cloned();
        if let Some(session) = cached {
            if session.not_after.is_some_and(|end| end <= now) {
                return Ok(None);
            }
            session.used_at.store(now.seconds(), Ordering::Relaxed);
            return Ok(Some(session));
        }
        if read(&self.unknown).contains(credential) {
            return Ok(None);
        }
        let version = self.version.load(Ordering::Acquire);
        let found = self.db.find_credential(*credential).await?.filter(|found| found.is_valid(now));
        let Some(found) = found else {
            let mut unknown = write(&self.unknown);
            // A refresh may have seen a newer version meanwhile: what it cleared must stay cleared.
            if unknown.len() < CACHE_MAX && version == self.version.load(Ordering::Acquire) {
                unknown.insert(*credential);
            }
            return Ok(None);
        };
        let session = Arc::new(self.load(found, now, 0).await?);
        session.used_at.store(now.seconds(), Ordering::Relaxed);
        let mut sessions = write(&self.sessions);
        if sessions.len() < CACHE_MAX && version == self.version.load(Ordering::Acquire) {
            sessions.insert(*credential, session.clone());
        }
        Ok(Some(session))
    }

    /// Takes over changes of accounts, refreshes usage, notes which credentials were used.
    ///
    /// # Errors
    /// Whatever keeps the lease database from answering; the cache stays as it was.
    pub async fn refresh(&self) -> Result<(), LeaseDbError> {
        let now = self.db.now().await?;
        let version = self.db.accounts_version().await?;
        let changed = self.version.swap(version, Ordering::AcqRel) != version;
        self.now.store(now.millis(), Ordering::Relaxed);
        if changed {
            write(&self.unknown).clear();
        }
        let sessions: Vec<Arc<Session>> = read(&self.sessions).values().cloned().collect();
        let mut uses = Vec::new();
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
                self.reload(&session, now).await?;
            }
        }
        if !uses.is_empty() {
            self.db.note_use(uses).await?;
        }
        Ok(())
    }

    async fn reload(&self, old: &Session, now: Timestamp) -> Result<(), LeaseDbError> {
        let found = self.db.find_credential(old.credential).await?.filter(|found| found.is_valid(now));
        let Some(found) = found else {
            write(&self.sessions).remove(&old.credential);
            return Ok(());
        };
        let session = self.load(found, now, old.noted_at.load(Ordering::Relaxed)).await?;
        session.used_at.store(old.used_at.load(Ordering::Relaxed), Ordering::Relaxed);
        write(&self.sessions).insert(old.credential, Arc::new(session));
        Ok(())
    }

    async fn load(&self, found: Credential, now: Timestamp, noted_at: i64) -> Result<Session, LeaseDbError> {
        let usage = self.db.usage(found.account.id).await?;
        Ok(Session {
            usage,
            credential: found.hash,
            not_after: found.not_after,
            used_at: AtomicI64::new(now.seconds()),
            noted_at: AtomicI64::new(noted_at),
            account: found.account,
        })
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
