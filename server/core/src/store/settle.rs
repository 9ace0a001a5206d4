//! Making rows and objects of one storage index agree; in recovery mode before anything is answered about it.
//!
//! In normal mode nothing is asked. In recovery mode the database may lack what was acknowledged, so the first touch of
//! each storage index lists its folder and settles it (`review.md` C1); the database remembers which ones were settled.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::{Result, Store, StoreError};
use crate::backend::{Backend, BackendError};
use crate::chunk::{ObjectName, StoreObject, folder};
use crate::classic::ClassicShare;
use crate::crawl::{Findings, ForgetOutcome, ReadContainer, ReadManifest, Settle, SettleOutcome, Stored, Survey};
use crate::id::{ShareId, StorageIndex};
use crate::leasedb::{Deployment, Epoch, LeaseDb, Mode, SlotToken};
use crate::manifest::Manifest;
use crate::share::ShareKind;
use crate::trouble::DamagedObject;

/// Stands for a time that has not come yet.
const NOT_COMPLETE: i64 = i64::MAX;
/// How often is looked again when others change the same storage index.
const ATTEMPTS_MAX: usize = 20;
const LIST_AT_ONCE: usize = 1000;
/// More objects than these of one storage index are not compared: a share of 1 TiB in pieces of 1 MB has so many.
const OBJECTS_MAX: usize = 2_000_000;
/// How many manifests are read at most, the newest: what is older was replaced long before.
const MANIFESTS_MAX: usize = 256;
const READS_AT_ONCE: usize = 16;
/// Enough for the manifest of nearly every slot.
const TAIL_BYTES: u64 = 4096;
/// How many settled storage indexes are kept in mind; of others the database is asked.
const REMEMBERED_MAX: usize = 10_000;

/// What is known here of recovery.
#[derive(Debug, Default)]
pub(super) struct Recovery(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    epoch: Epoch,
    settled: HashSet<StorageIndex>,
}

impl Recovery {
    fn has(&self, epoch: Epoch, index: StorageIndex) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.epoch == epoch && known.settled.contains(&index)
    }

    fn note(&self, epoch: Epoch, index: StorageIndex) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.epoch != epoch || known.settled.len() >= REMEMBERED_MAX {
            *known = Known { epoch, settled: HashSet::new() };
        }
        known.settled.insert(index);
    }
}

impl<L: LeaseDb, B: Backend> Store<L, B> {
    /// Takes note of what the lease database says about itself.
    pub(super) fn note_deployment(&self, deployment: &Deployment) {
        let epoch = if deployment.mode == Mode::Recovery { deployment.epoch.0 } else { 0 };
        self.recovering.store(epoch, std::sync::atomic::Ordering::Relaxed);
        let complete_since = match deployment.mode {
            Mode::Normal => deployment.complete_since.map_or(0, |at| at.seconds()),
            Mode::Recovery => NOT_COMPLETE,
        };
        self.complete_since.store(complete_since, std::sync::atomic::Ordering::Relaxed);
    }

    /// Since when usage is exact, in seconds since 1970; 0: it always was; `None`: it is a lower bound, for the lease database
    /// may not know all shares yet (`accounting.md` 11).
    pub fn complete_since(&self) -> Option<i64> {
        let seconds = self.complete_since.load(std::sync::atomic::Ordering::Relaxed);
        (seconds != NOT_COMPLETE).then_some(seconds)
    }

    /// To be called before anything is answered about a storage index: in recovery mode it is settled first.
    pub(super) async fn touch(&self, index: StorageIndex) -> Result<()> {
        let epoch = Epoch(self.recovering.load(std::sync::atomic::Ordering::Relaxed));
        if epoch == Epoch(0) || self.recovery.has(epoch, index) {
            return Ok(());
        }
        self.settle_first(index).await
    }

    /// Whether a storage index was settled in this epoch, as far as is known here.
    pub(super) fn is_settled(&self, epoch: Epoch, index: StorageIndex) -> bool {
        self.recovery.has(epoch, index)
    }

    /// As [`touch`](Self::touch), for whoever has just read that the database recovers.
    pub(super) async fn settle_first(&self, index: StorageIndex) -> Result<()> {
        for _ in 0..ATTEMPTS_MAX {
            let survey = self.db.survey(index).await?;
            if survey.mode == Mode::Normal {
                self.recovering.store(0, std::sync::atomic::Ordering::Relaxed);
                return Ok(());
            }
            self.recovering.store(survey.epoch.0, std::sync::atomic::Ordering::Relaxed);
            let epoch = survey.epoch;
            if !survey.settled {
                match self.compare(index, survey, false).await? {
                    SettleOutcome::Settled(findings) => tell(&findings),
                    SettleOutcome::Changed => continue,
                }
            }
            self.recovery.note(epoch, index);
            return Ok(());
        }
        Err(StoreError::Busy)
    }

    /// Compares the rows of a storage index with its folder, and makes them agree unless it is a dry run.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if others change it all the time.
    pub async fn settle(&self, index: StorageIndex, dry_run: bool) -> Result<Findings> {
        for _ in 0..ATTEMPTS_MAX {
            let survey = self.db.survey(index).await?;
            if let SettleOutcome::Settled(findings) = self.compare(index, survey, dry_run).await? {
                if !dry_run {
                    tell(&findings);
                }
                return Ok(findings);
            }
        }
        Err(StoreError::Busy)
    }

    /// Forgets a lost share for good, at a person's wish.
    ///
    /// # Errors
    /// The lease database does not answer.
    pub async fn forget(&self, share: ShareId) -> Result<ForgetOutcome> {
        Ok(self.db.forget_lost(share, SlotToken(self.entropy.bytes())).await?)
    }

    async fn compare(&self, index: StorageIndex, seen: Survey, dry_run: bool) -> Result<SettleOutcome> {
        let listed = self.list_folder(index).await?;
        let manifests = if needs_manifests(&seen) { self.read_manifests(&seen, &listed).await? } else { Vec::new() };
        let containers = self.read_containers(&seen, &listed).await?;
        let token = SlotToken(self.entropy.bytes());
        let settle = Settle { storage_index: index, seen, listed, manifests, containers, token, dry_run };
        Ok(self.db.settle(settle).await?)
    }

    /// All objects of ours in the folder of a storage index.
    pub(super) async fn list_folder(&self, index: StorageIndex) -> Result<Vec<Stored>> {
        let prefix = folder(index);
        let (mut stored, mut after) = (Vec::new(), None);
        loop {
            let page = self.backend.list(&prefix, after.as_deref(), LIST_AT_ONCE).await?;
            for object in page.objects {
                let name = object.name.parse::<ObjectName>().ok();
                stored.extend(name.map(|name| Stored { name, length_bytes: object.length_bytes }));
            }
            if stored.len() > OBJECTS_MAX {
                let text = format!("{prefix} has more than {OBJECTS_MAX} objects");
                return Err(StoreError::Backend(BackendError::Unavailable(std::io::Error::other(text))));
            }
            after = page.next;
            if after.is_none() {
                return Ok(stored);
            }
        }
    }

    /// The containers that no row names.
    async fn read_containers(&self, seen: &Survey, listed: &[Stored]) -> Result<Vec<ReadContainer>> {
        let is_named =
            |share: ShareId| seen.shares.iter().any(|row| row.number == share.number && row.locator.is_classic());
        let mut containers = Vec::new();
        for stored in listed.iter().filter(|stored| stored.name.object == StoreObject::Classic) {
            let share = stored.name.share;
            if is_named(share) {
                continue;
            }
            match self.read_container(share, stored.length_bytes).await {
                Ok(Ok((container, leases))) => {
                    containers.push((stored.name, Ok(ClassicShare::new(share, &container, &leases))));
                }
                Ok(Err(damage)) => containers.push((stored.name, Err(damage))),
                // Deleted since it was listed.
                Err(StoreError::Backend(BackendError::NotFound(_))) => {}
                Err(error) => return Err(error),
            }
        }
        containers.sort_unstable_by_key(|(name, _)| name.share.number);
        Ok(containers)
    }

    /// The manifests of the newest objects, and of those that the rows name.
    async fn read_manifests(&self, seen: &Survey, listed: &[Stored]) -> Result<Vec<ReadManifest>> {
        let mut carriers: Vec<Stored> =
            listed.iter().filter(|stored| carries_manifest(&stored.name)).copied().collect();
        carriers
            .sort_unstable_by_key(|stored| std::cmp::Reverse(stored.name.object.put_id().map(|put| *put.as_bytes())));
        let marker = seen.slot.and_then(|(_, marker)| marker);
        let named: HashSet<StoreObject> =
            seen.shares.iter().flat_map(|row| row.locator.objects()).chain(marker.map(|name| name.object)).collect();
        let (newest, older) = carriers.split_at(carriers.len().min(MANIFESTS_MAX));
        let of_rows = older.iter().filter(|stored| named.contains(&stored.name.object));
        let wanted: Vec<Stored> = newest.iter().chain(of_rows).copied().collect();
        let reads =
            stream::iter(wanted).map(|stored| async move { Ok((stored.name, self.read_manifest(stored).await?)) });
        let read: Vec<Option<ReadManifest>> = reads
            .buffer_unordered(READS_AT_ONCE)
            .map(|result: Result<_>| match result {
                // Deleted since it was listed.
                Err(StoreError::Backend(BackendError::NotFound(_))) => Ok(None),
                other => other.map(Some),
            })
            .try_collect()
            .await?;
        Ok(read.into_iter().flatten().collect())
    }

    /// What an object says at its end; `None` if it says nothing readable.
    async fn read_manifest(&self, stored: Stored) -> Result<Option<Manifest>> {
        let whole = stored.length_bytes;
        let tail = self.read_end(stored, TAIL_BYTES.min(whole)).await?;
        let Ok(length) = Manifest::trailer_length(&tail) else { return Ok(None) };
        if length > whole {
            return Ok(None);
        }
        let tail = if length > tail.len() as u64 { self.read_end(stored, length).await? } else { tail };
        Ok(Manifest::decode_trailer(&tail).ok())
    }

    async fn read_end(&self, stored: Stored, length: u64) -> Result<Vec<u8>> {
        if length == 0 {
            return Ok(Vec::new());
        }
        let range = stored.length_bytes - length..stored.length_bytes;
        let mut stream = self.backend.get(&stored.name.key(), range).await?;
        let mut end = Vec::new();
        while let Some(bytes) = stream.next().await {
            end.extend_from_slice(&bytes.map_err(BackendError::Unavailable)?);
        }
        Ok(end)
    }
}

fn tell(findings: &Findings) {
    for share in &findings.lost {
        tracing::warn!(%share, "the share's bytes are not in the backend; it is hidden, its leases are kept");
    }
    for DamagedObject { name, reason } in &findings.damaged {
        tracing::warn!(object = %name, reason, "an object without a row cannot be read or used; it is not served, and kept");
    }
}

/// In normal mode the rows of a slot tell all; where there are none, its manifests say whether it can be read at all.
fn needs_manifests(seen: &Survey) -> bool {
    seen.mode == Mode::Recovery || seen.shares.iter().all(|row| row.kind == ShareKind::Immutable)
}

const fn carries_manifest(name: &ObjectName) -> bool {
    match name.object {
        StoreObject::Generation { .. } | StoreObject::SlotMarker { .. } => true,
        StoreObject::Whole { .. } | StoreObject::Piece(_) | StoreObject::GenerationPiece(_) | StoreObject::Classic => {
            false
        }
    }
}
