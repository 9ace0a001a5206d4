//! The deployment's heartbeat, and its mark in the backend.

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};

use super::{Result, Store, StoreError};
use crate::backend::{Backend, BackendError};
use crate::beat::{BEAT_FOLDER, BEAT_SECONDS, BeatName, MARK_FOLDER, mark, marked_deployment};
use crate::chunk::ObjectKey;
use crate::clock::Timestamp;
use crate::crawl::TakeOver;
use crate::id::AccountId;
use crate::leasedb::{Epoch, LeaseDb, Mode, Tick, TickOutcome};

/// Whose a backend is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// This deployment's.
    Ours,
    /// Another's: its database, not ours, knows what is in it.
    Foreign {
        /// The mark that is there.
        theirs: String,
        /// The mark that would be ours.
        ours: String,
        /// For how long its heart has not beaten, in seconds; `None`: no beat is there.
        silent_seconds: Option<i64>,
    },
}

const LIST_AT_ONCE: usize = 1000;
/// What the names of all shares' objects begin with.
const SHARE_FOLDER: &str = "shares/";
/// How long a deployment must have been silent before a new database may take its place, in seconds.
pub const SILENCE_SECONDS: i64 = 300;
/// So many accounts may be made in one epoch: 2^20.
const ACCOUNTS_OF_EPOCH_BITS: u32 = 20;
/// Half of the numbers that a database can give.
const ACCOUNTS_AFTER_MAX: u32 = 1 << 30;
/// How old a beat may be, in seconds, that speaks for the present.
const DOUBT_SECONDS: i64 = 1;

impl<L: LeaseDb, B: Backend> Store<L, B> {
    /// Whose the backend is; `None`: nobody's yet. Changes nothing.
    ///
    /// # Errors
    /// The lease database or the backend does not answer.
    pub async fn backend_owner(&self) -> Result<Option<Claim>> {
        let ours = self.db.deployment().await?.id;
        let mut owner = None;
        for name in self.names(MARK_FOLDER).await? {
            match marked_deployment(&name) {
                Some(id) if id == ours => owner = Some(Claim::Ours),
                _ => {
                    let silent_seconds = self.silent_seconds().await?;
                    return Ok(Some(Claim::Foreign { theirs: name, ours: mark(ours).to_string(), silent_seconds }));
                }
            }
        }
        Ok(owner)
    }

    /// Makes sure that the backend is this deployment's own, and marks it as such the first time.
    ///
    /// A lease database that has not begun yet takes what it finds: shares without a mark, as another server left them,
    /// or a deployment whose database is lost and that has been silent for a while. Then it begins in recovery mode.
    ///
    /// # Errors
    /// The lease database or the backend does not answer.
    pub async fn claim_backend(&self) -> Result<Claim> {
        let owner = match self.backend_owner().await? {
            Some(foreign @ Claim::Foreign { .. }) => self.take_over(foreign).await?,
            Some(Claim::Ours) => Claim::Ours,
            None => {
                let deployment = self.db.deployment().await?;
                if !self.backend.list(SHARE_FOLDER, None, 1).await?.objects.is_empty() {
                    let epoch = Epoch(deployment.epoch.0 + 1);
                    let accounts_after = AccountId::new(0);
                    self.db.take_over(TakeOver { deployment: None, epoch, accounts_after }).await?;
                }
                self.put_empty(&mark(deployment.id)).await?;
                // Looked at again after the mark was put: two deployments that begin at once must both see it.
                self.backend_owner().await?.unwrap_or(Claim::Ours)
            }
        };
        let deployment = self.db.deployment().await?;
        self.note_deployment(&deployment);
        if owner == Claim::Ours {
            // It never changes: a claim that was repeated has found the same.
            self.claimed_for.get_or_init(|| deployment.id);
        }
        Ok(owner)
    }

    async fn take_over(&self, foreign: Claim) -> Result<Claim> {
        let Claim::Foreign { theirs, silent_seconds, .. } = &foreign else { return Ok(foreign) };
        let marks = self.names(MARK_FOLDER).await?;
        // One without a beat may be beginning at this moment.
        let is_silent = silent_seconds.is_some_and(|seconds| seconds >= SILENCE_SECONDS);
        let Some(deployment) = marked_deployment(theirs).filter(|_| is_silent && marks.len() == 1) else {
            return Ok(foreign);
        };
        let newest = self.beats().await?.into_iter().map(|beat| beat.epoch).max().unwrap_or_default();
        let epoch = Epoch(newest.max(self.db.deployment().await?.epoch).0 + 1);
        // In each epoch a database that begins anew gives numbers out of a range of its own (`review.md` C5).
        let accounts_after = u32::try_from(epoch.0 << ACCOUNTS_OF_EPOCH_BITS).unwrap_or(u32::MAX);
        let accounts_after = AccountId::new(accounts_after.min(ACCOUNTS_AFTER_MAX));
        self.db.take_over(TakeOver { deployment: Some(deployment), epoch, accounts_after }).await?;
        // It may have begun meanwhile, or another process of ours has done the same.
        Ok(self.backend_owner().await?.unwrap_or(foreign))
    }

    /// For how long no heart has beaten over the backend, in seconds; `None`: none ever has.
    async fn silent_seconds(&self) -> Result<Option<i64>> {
        let last = self.beats().await?.into_iter().map(|beat| beat.nonce.made_at()).max();
        let Some(last) = last else { return Ok(None) };
        Ok(Some((self.db.now().await?.seconds() - last.seconds()).max(0)))
    }

    async fn beats(&self) -> Result<Vec<BeatName>> {
        Ok(self.names(BEAT_FOLDER).await?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Lets the heart beat if it is time: compares what the backend has with what the database remembers, and puts the
    /// next beat. `None` if it was not time.
    ///
    /// # Errors
    /// The lease database or the backend does not answer; then nothing is concluded. [`StoreError::AnotherDatabase`] if
    /// the database was dropped and made anew: only who claims the backend for it may beat, and not while old beats are fresh.
    pub async fn tick(&self) -> Result<Option<TickOutcome>> {
        self.tick_after(BEAT_SECONDS).await
    }

    /// Whether acknowledged commits may be missing. Asked by whoever finds that something is missing.
    ///
    /// # Errors
    /// As [`tick`](Self::tick).
    pub(super) async fn may_have_lost_commits(&self) -> Result<bool> {
        // A loss of this very moment is seen here, not at the next beat. A beat of the last second has seen it.
        let lost = matches!(self.tick_after(DOUBT_SECONDS).await?, Some(TickOutcome::Loss(_)));
        let deployment = self.db.deployment().await?;
        self.note_deployment(&deployment);
        Ok(lost || deployment.mode == Mode::Recovery)
    }

    /// Whether neither the database nor the backend tells of another epoch, or of recovery. Asked before anything is
    /// deleted, by whoever claimed it in this epoch and may have slept since (`review.md` C4).
    pub(super) async fn is_present(&self, epoch: Epoch) -> Result<bool> {
        let deployment = self.db.deployment().await?;
        if deployment.epoch != epoch || deployment.mode != Mode::Normal {
            return Ok(false);
        }
        let later = format!("{BEAT_FOLDER}{:010}", epoch.0.saturating_add(1));
        let beats = self.backend.list(BEAT_FOLDER, Some(&later), 1).await?;
        Ok(beats.objects.is_empty())
    }

    async fn tick_after(&self, seconds: i64) -> Result<Option<TickOutcome>> {
        if !self.db.is_tick_due(seconds).await? {
            return Ok(None);
        }
        if let Some(claimed_for) = self.claimed_for.get()
            && *claimed_for != self.db.deployment().await?.id
        {
            return Err(StoreError::AnotherDatabase);
        }
        let now = self.db.now().await?;
        let listed = self.beats().await?;
        let tick = Tick {
            listed: listed.clone(),
            nonce: self.entropy.object_id(now),
            standby_is_synchronous: self.options.standby_is_synchronous,
        };
        // A tick of unknown outcome puts nothing: the next one goes on from whatever holds.
        let outcome = self.db.tick(tick).await?;
        if let TickOutcome::Loss(epoch) = &outcome {
            self.recovering.store(epoch.0, std::sync::atomic::Ordering::Relaxed);
        }
        if let TickOutcome::Beat { beat, oldest } = &outcome {
            self.put_empty(&beat.key()).await?;
            let is_old = |name: &&BeatName| (name.epoch, name.beat) < (beat.epoch, *oldest);
            for name in listed.iter().filter(is_old) {
                self.backend.delete(&name.key()).await?;
            }
        }
        Ok(Some(outcome))
    }

    /// How far the lease database's clock is ahead of others, in seconds, or behind if that is more: of this machine's, of
    /// the backend's, where it has one, and of the newest beat's, which it cannot be behind (`review.md` A13). 0 where no
    /// [host clock](Store::with_host_clock) is there to compare with.
    ///
    /// # Errors
    /// The lease database or the backend does not answer.
    pub async fn clock_skew_seconds(&self) -> Result<i64> {
        let Some(host) = &self.host_clock else { return Ok(0) };
        let now = self.db.now().await?.seconds();
        let date = self.backend.date().await?.map_or(now, Timestamp::seconds);
        let newest = self.beats().await?.into_iter().map(|beat| beat.nonce.made_at().seconds()).max();
        let differences = [now - host.now().seconds(), now - date, newest.map_or(0, |newest| (now - newest).min(0))];
        Ok(differences.into_iter().max_by_key(|difference| difference.abs()).unwrap_or_default())
    }

    async fn put_empty(&self, key: &ObjectKey) -> Result<(), BackendError> {
        self.backend.put(key, 0, stream::empty::<std::io::Result<Bytes>>().boxed()).await
    }

    pub(super) async fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let mut after = None;
        loop {
            let page = self.backend.list(prefix, after.as_deref(), LIST_AT_ONCE).await?;
            names.extend(page.objects.into_iter().map(|object| object.name));
            after = page.next;
            if after.is_none() {
                return Ok(names);
            }
        }
    }
}
