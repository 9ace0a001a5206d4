//! Taking backups of the lease database, and restoring it from one.

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};

use super::{Claim, Result as StoreResult, Store};
use crate::backend::{Backend, ByteStream};
use crate::backup::backups::{BackupProgress, Backups, ListedBackup, Verified};
use crate::backup::error::{BackupError, EXPORT_SECONDS_MAX, Result};
use crate::backup::manifest::Manifest;
use crate::backup::part::{Part, PartWriter};
use crate::backup::recount::Recount;
use crate::backup::{BackupName, Export, Import, ImportOutcome, elsewhere_until, next_epoch};
use crate::beat::{BEAT_FOLDER, BeatName};
use crate::chunk::ObjectKey;
use crate::leasedb::{Deployment, Epoch, LeaseDb};

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// From what.
    pub verified: Verified,
    /// The epoch that began.
    pub epoch: Epoch,
}

impl<L: LeaseDb, B: Backend> Store<L, B> {
    /// The backups in the backend.
    pub fn backups(&self) -> Backups<B> {
        Backups::of(self.backend.clone())
    }

    /// Puts the whole lease database into the backend, as it is at one instant.
    ///
    /// From then on what it names is not deleted before there is a newer one (`review.md` C2).
    ///
    /// # Errors
    /// [`BackupError`]; what was put until then is no backup, and is removed some day.
    pub async fn back_up(&self, report: impl Fn(BackupProgress) + Sync) -> Result<Manifest> {
        if let Some(Claim::Foreign { theirs, ours, .. }) = self.backend_owner().await? {
            let what = "the backend".to_owned();
            return Err(BackupError::Foreign { what, theirs, whose: "the lease database", ours });
        }
        let begun_at = self.clock.elapsed();
        let number = self.backups().list().await?.iter().map(|backup| backup.name.number).max().unwrap_or(0) + 1;
        let Export { instant, mut pages } = self.db.export().await?;
        let name = BackupName { epoch: instant.epoch, number, id: self.entropy.object_id(instant.taken_at) };
        let (mut writer, mut recount, mut parts) = (PartWriter::default(), Recount::default(), Vec::new());
        let mut progress = BackupProgress::default();
        while let Some(page) = pages.next().await {
            let page = page?;
            recount.page(&page)?;
            progress.rows += page.rows.len() as u64;
            for (at, row) in page.rows.iter().enumerate() {
                if writer.is_full() {
                    self.put_part(name, &mut writer, &mut parts).await?;
                    writer.begin(page.table, at > 0);
                } else if at == 0 {
                    writer.begin(page.table, false);
                }
                writer.push(row);
            }
            progress.packed_bytes = parts.iter().map(|part: &Part| part.packed_bytes).sum();
            report(progress);
            if self.clock.elapsed().saturating_sub(begun_at).as_secs() > EXPORT_SECONDS_MAX {
                return Err(BackupError::TooSlow);
            }
        }
        self.put_part(name, &mut writer, &mut parts).await?;
        let manifest = Manifest::new(name, instant, parts, &recount);
        self.put_bytes(&name.manifest(), manifest.encode()).await?;
        self.db.note_backup(instant.epoch, instant.taken_at).await?;
        Ok(manifest)
    }

    async fn put_part(&self, name: BackupName, writer: &mut PartWriter, parts: &mut Vec<Part>) -> Result<()> {
        if let Some((packed, part)) = writer.take().map_err(BackupError::Compress)? {
            self.put_bytes(&name.part(parts.len()), packed).await?;
            parts.push(part);
        }
        Ok(())
    }

    async fn put_bytes(&self, key: &ObjectKey, bytes: Vec<u8>) -> Result<()> {
        let length = bytes.len() as u64;
        let body: ByteStream = stream::iter([Ok(Bytes::from(bytes))]).boxed();
        Ok(self.backend.put(key, length, body).await?)
    }

    /// Makes an empty lease database what it was when a backup was taken, in a new epoch and in recovery mode: nothing is
    /// deleted before the backend was compared with it. Uploads do not come back (`review.md` C3).
    ///
    /// # Errors
    /// As [`Backups::verify`], and [`BackupError::NotEmpty`]; the database is as it was then.
    pub async fn restore(
        &self,
        backup: &ListedBackup,
        report: impl Fn(BackupProgress) + Sync + Send,
    ) -> Result<Restored> {
        if !self.db.is_empty().await? {
            return Err(BackupError::NotEmpty);
        }
        let verified = self.backups().verify(backup, report).await?;
        let manifest = &verified.manifest;
        let epoch = self.begin_epoch(manifest).await?;
        let pages = self.backups().pages(manifest.clone())?;
        match self.db.import(Import::new(&manifest.instant, epoch), pages).await? {
            ImportOutcome::Done => {
                self.note_deployment(&self.db.deployment().await?);
                Ok(Restored { verified, epoch })
            }
            ImportOutcome::NotEmpty => Err(BackupError::NotEmpty),
        }
    }

    /// Chooses an epoch later than all that the backend tells of, and tells it of this one before anything is restored:
    /// whoever still works in an older one stops deleting, and no later restore chooses the same (`review.md` C4, C5).
    async fn begin_epoch(&self, manifest: &Manifest) -> Result<Epoch> {
        let beats = self.names(BEAT_FOLDER).await?;
        let beats = beats.iter().filter_map(|name| name.parse().ok()).map(|name: BeatName| name.epoch);
        let backups = self.backups().list().await?;
        let backups = backups.iter().map(|backup| backup.name.epoch);
        let epoch = next_epoch(beats.chain(backups).chain([manifest.instant.epoch]));
        let nonce = self.entropy.object_id(self.db.now().await?);
        // Beats are counted from 1, so that no process takes this one for its own.
        self.put_bytes(&BeatName { epoch, beat: 0, nonce }.key(), Vec::new()).await?;
        Ok(epoch)
    }

    /// Where backups are somebody else's, what is older than a restore may reach back counts as backed up.
    pub(super) async fn trust_other_backups(&self, deployment: &Deployment) -> StoreResult<()> {
        let Some(horizon) = self.options.restore_horizon_seconds else { return Ok(()) };
        let now = self.db.now().await?;
        if let Some(until) = elsewhere_until(deployment.backed_up_until, now, horizon) {
            self.db.note_backup(deployment.epoch, until).await?;
        }
        Ok(())
    }
}
