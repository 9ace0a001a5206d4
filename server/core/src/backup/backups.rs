//! The backups that a backend has: listed, looked for, read from end to end, removed. No lease database is needed.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::error::{BackupError, Result};
use super::keep::{self, Keep};
use super::manifest::{Layout, MANIFEST_BYTES_MAX, Manifest, Unreadable};
use super::part::{Part, unpack};
use super::recount::{Held, Recount};
use super::{BACKUP_FOLDER, BackupName, Pages};
use crate::backend::{Backend, BackendError};
use crate::beat::{MARK_FOLDER, marked_deployment};
use crate::chunk::ObjectKey;
use crate::id::AccountId;
use crate::leasedb::LeaseDbError;

const LIST_AT_ONCE: usize = 1000;
const DELETES_AT_ONCE: usize = 16;

/// How far a backup, or a restore, has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackupProgress {
    /// Rows read.
    pub rows: u64,
    /// Rows to read, where that is known.
    pub rows_expected: Option<u64>,
    /// Bytes of parts, compressed.
    pub packed_bytes: u64,
}

/// A backup as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedBackup {
    /// Which.
    pub name: BackupName,
    /// Its objects with their lengths in bytes, by name.
    pub objects: Vec<(String, u64)>,
}

impl ListedBackup {
    /// Whether it was taken to its end.
    pub fn is_complete(&self) -> bool {
        self.length_of(&self.name.manifest()).is_some()
    }

    fn length_of(&self, key: &ObjectKey) -> Option<u64> {
        let at = self.objects.binary_search_by(|(name, _)| name.as_str().cmp(key.as_str())).ok()?;
        Some(self.objects[at].1)
    }
}

/// A backup that was read from end to end and found sound.
#[derive(Debug)]
pub struct Verified {
    /// What it is.
    pub manifest: Manifest,
    /// Accounts whose counters said something else than their leases when it was taken: the account, the counters, the
    /// leases. A restore goes by the leases.
    pub disagreements: Vec<(AccountId, Held, Held)>,
}

/// The backups of a backend.
#[derive(Debug)]
pub struct Backups<B>(Arc<B>);

impl<B: Backend> Backups<B> {
    /// Those of this backend.
    pub const fn of(backend: Arc<B>) -> Self {
        Self(backend)
    }

    async fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let page = self.0.list(prefix, None, LIST_AT_ONCE).await?;
        Ok(page.objects.into_iter().map(|object| object.name).collect())
    }

    /// All backups in the backend, complete or not, oldest first.
    ///
    /// # Errors
    /// The backend does not answer.
    pub async fn list(&self) -> Result<Vec<ListedBackup>> {
        let mut backups: Vec<ListedBackup> = Vec::new();
        let mut after = None;
        loop {
            let page = self.0.list(BACKUP_FOLDER, after.as_deref(), LIST_AT_ONCE).await?;
            for object in page.objects {
                let Some(name) = BackupName::of_object(&object.name) else { continue };
                let object = (object.name, object.length_bytes);
                match backups.last_mut().filter(|backup| backup.name == name) {
                    Some(backup) => backup.objects.push(object),
                    None => backups.push(ListedBackup { name, objects: vec![object] }),
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(backups);
            }
        }
    }

    /// The manifest of a listed backup.
    ///
    /// # Errors
    /// [`BackupError::Unusable`] if it is damaged or newer than this program.
    pub async fn read_manifest(&self, backup: &ListedBackup) -> Result<Manifest> {
        let name = backup.name;
        let unusable = |reason| BackupError::Unusable { name, what: "manifest".to_owned(), reason };
        let key = name.manifest();
        let length = backup.length_of(&key).ok_or(BackupError::Unknown(name))?;
        if length > MANIFEST_BYTES_MAX {
            return Err(unusable(Unreadable::Damaged("it is larger than any manifest".to_owned())));
        }
        Manifest::decode(&read_object(&*self.0, &key, length).await?, name).map_err(unusable)
    }

    /// The backup of a name, or the newest complete one.
    ///
    /// # Errors
    /// [`BackupError::Unknown`] and [`BackupError::None`].
    pub async fn find(&self, name: Option<BackupName>) -> Result<ListedBackup> {
        let mut complete = self.list().await?;
        complete.retain(|backup| backup.is_complete() && name.is_none_or(|name| backup.name == name));
        complete.pop().ok_or(name.map_or(BackupError::None, BackupError::Unknown))
    }

    /// Reads a whole backup and compares every checksum, count and sum. Changes nothing.
    ///
    /// # Errors
    /// [`BackupError::Unusable`] with what is wrong, [`BackupError::Foreign`] if it is another deployment's.
    pub async fn verify(&self, backup: &ListedBackup, report: impl Fn(BackupProgress) + Sync) -> Result<Verified> {
        let name = backup.name;
        let unusable = |what: String, reason| BackupError::Unusable { name, what, reason };
        let manifest = self.read_manifest(backup).await?;
        self.check_owner(&manifest).await?;
        check_objects(backup, &manifest)?;
        let layout = Layout::of(&manifest).map_err(|reason| unusable("manifest".to_owned(), reason))?;
        let mut recount = Recount::default();
        let mut progress = BackupProgress { rows_expected: Some(manifest.rows()), ..BackupProgress::default() };
        for (index, part) in manifest.parts.iter().enumerate() {
            let packed = read_object(&*self.0, &name.part(index), part.packed_bytes).await?;
            let pages = unpack(&packed, part, &layout).map_err(|reason| unusable(part_text(index), reason))?;
            for page in pages {
                let counted = recount.page(&page);
                counted.map_err(|error| unusable(part_text(index), Unreadable::Damaged(error.to_string())))?;
            }
            progress.rows += part.rows;
            progress.packed_bytes += part.packed_bytes;
            report(progress);
        }
        manifest.compare(&recount).map_err(|reason| unusable("rows".to_owned(), reason))?;
        Ok(Verified { manifest, disagreements: recount.disagreements() })
    }

    async fn check_owner(&self, manifest: &Manifest) -> Result<()> {
        let ours = manifest.instant.deployment;
        for mark in self.names(MARK_FOLDER).await? {
            if marked_deployment(&mark) != Some(ours) {
                let what = format!("the backup {}", manifest.name);
                let theirs = ours.to_string();
                return Err(BackupError::Foreign { what, theirs, whose: "the backend's mark", ours: mark });
            }
        }
        Ok(())
    }

    /// The rows of a backup, read part by part as they are asked for.
    ///
    /// # Errors
    /// [`BackupError::Unusable`] if it has tables or columns that this program does not know.
    pub fn pages(&self, manifest: Manifest) -> Result<Pages> {
        let name = manifest.name;
        let unusable = |reason| BackupError::Unusable { name, what: "manifest".to_owned(), reason };
        let layout = Arc::new(Layout::of(&manifest).map_err(unusable)?);
        let backend = self.0.clone();
        let pages_of = move |(index, part): (usize, Part)| {
            let (backend, layout) = (backend.clone(), layout.clone());
            async move {
                let read = read_object(&*backend, &name.part(index), part.packed_bytes).await;
                let packed = read.map_err(|error| LeaseDbError::Unavailable(Box::new(error)))?;
                // It was sound when it was verified.
                let pages = unpack(&packed, &part, &layout);
                let pages = pages.map_err(|error| LeaseDbError::Invalid(format!("{}: {error}", part_text(index))))?;
                Ok(stream::iter(pages.into_iter().map(Ok)))
            }
        };
        let parts = stream::iter(manifest.parts.into_iter().enumerate());
        Ok(parts.then(pages_of).try_flatten().boxed())
    }

    /// Removes the backups that are kept no longer, and what is left of those that were never finished. Returns how many
    /// there were.
    ///
    /// # Errors
    /// The backend does not answer; what was removed until then is removed.
    pub async fn remove_old(&self, keep: Keep) -> Result<usize> {
        let (complete, unfinished): (Vec<_>, Vec<_>) =
            self.list().await?.into_iter().partition(ListedBackup::is_complete);
        let names: Vec<BackupName> = complete.iter().map(|backup| backup.name).collect();
        let surplus = keep::surplus(&names, keep);
        let Some(newest) = names.last() else { return Ok(0) };
        let given_up = unfinished.iter().filter(|backup| keep::is_given_up(&backup.name, newest));
        let old: Vec<_> = complete.iter().filter(|backup| surplus.contains(&backup.name)).chain(given_up).collect();
        for backup in &old {
            // First the manifest: what is half removed is no backup, never a damaged one.
            self.0.delete(&backup.name.manifest()).await?;
            let mut deletes = Vec::with_capacity(backup.objects.len());
            for (name, _) in &backup.objects {
                let (backend, key) = (self.0.clone(), ObjectKey::new(name.clone()));
                deletes.push(async move { backend.delete(&key).await });
            }
            stream::iter(deletes).buffer_unordered(DELETES_AT_ONCE).try_collect::<()>().await?;
        }
        Ok(old.len())
    }
}

/// The bytes of an object whose length is known.
async fn read_object<B: Backend>(backend: &B, key: &ObjectKey, length: u64) -> Result<Vec<u8>, BackendError> {
    let stream = backend.get(key, 0..length).await?;
    let gather = |mut all: Vec<u8>, bytes: Bytes| async move {
        all.extend_from_slice(&bytes);
        Ok(all)
    };
    stream.try_fold(Vec::new(), gather).await.map_err(BackendError::Unavailable)
}

fn part_text(index: usize) -> String {
    format!("part {index}")
}

/// Whether the folder of a backup has the objects that its manifest names, and no others.
fn check_objects(backup: &ListedBackup, manifest: &Manifest) -> Result<()> {
    let name = backup.name;
    let unusable =
        |what, reason: &str| Err(BackupError::Unusable { name, what, reason: Unreadable::Damaged(reason.to_owned()) });
    for (index, part) in manifest.parts.iter().enumerate() {
        match backup.length_of(&name.part(index)) {
            None => return unusable(part_text(index), "it is missing"),
            Some(length) if length != part.packed_bytes => {
                let reason = format!("it has {length} bytes, not {}", part.packed_bytes);
                return unusable(part_text(index), &reason);
            }
            Some(_) => {}
        }
    }
    if backup.objects.len() == manifest.parts.len() + 1 {
        return Ok(());
    }
    let known = (0..manifest.parts.len()).map(|index| name.part(index)).chain([name.manifest()]);
    let known: HashSet<String> = known.map(|key| key.to_string()).collect();
    let extra = backup.objects.iter().find(|(object, _)| !known.contains(object));
    let extra = extra.map_or_else(String::new, |(object, _)| object.clone());
    unusable(extra, "the manifest does not know it")
}
