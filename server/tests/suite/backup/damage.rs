//! Backups that are not what was written: each is refused with the reason, and nothing is changed.

use std::ops::Range;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use leasehold_core::backend::{Backend, BackendError, ByteStream, ListPage, ListedObject};
use leasehold_core::backup::error::BackupError;
use leasehold_core::beat::mark;
use leasehold_core::chunk::ObjectKey;
use leasehold_core::id::ObjectId;
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::testing::{body, read_all, share_id};
use leasehold_server::backend::directory::DirectoryBackend;

use super::{back_up, everything};
use crate::store::site::Site;

/// A backend with one object that is not what it was.
struct Altered {
    inner: DirectoryBackend,
    name: String,
    /// `None`: it is gone.
    bytes: Option<Vec<u8>>,
}

impl Backend for Altered {
    async fn put(&self, name: &ObjectKey, length_bytes: u64, body: ByteStream) -> Result<(), BackendError> {
        self.inner.put(name, length_bytes, body).await
    }

    async fn get(&self, name: &ObjectKey, range: Range<u64>) -> Result<ByteStream, BackendError> {
        match &self.bytes {
            Some(bytes) if name.as_str() == self.name => {
                let range = range.start as usize..range.end as usize;
                Ok(stream::iter([Ok(Bytes::copy_from_slice(&bytes[range]))]).boxed())
            }
            _ => self.inner.get(name, range).await,
        }
    }

    async fn delete(&self, name: &ObjectKey) -> Result<(), BackendError> {
        self.inner.delete(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, BackendError> {
        let mut page = self.inner.list(prefix, after, max).await?;
        page.objects.retain(|object| object.name != self.name);
        if let Some(bytes) = self.bytes.as_ref().filter(|_| self.name.starts_with(prefix)) {
            page.objects.push(ListedObject { name: self.name.clone(), length_bytes: bytes.len() as u64 });
            page.objects.sort_by(|a, b| a.name.cmp(&b.name));
        }
        Ok(page)
    }

    async fn available_bytes(&self) -> Result<u64, BackendError> {
        self.inner.available_bytes().await
    }
}

/// A site with one small backup of one part, and an empty database to restore it into.
async fn small() -> (Site, Site, String, Vec<(String, Vec<u8>)>) {
    let (site, other) = (Site::new().await, Site::new().await);
    let pod = site.pod(site.objects.clone());
    pod.store.claim_backend().await.expect("claimed");
    let alice = site.account("alice").await;
    pod.upload(&alice, share_id(1, 0), b"a share").await;
    let backup = back_up(&pod.store).await;
    let mut objects = Vec::new();
    for (name, length) in &backup.objects {
        let key = if name.ends_with("manifest") { backup.name.manifest() } else { backup.name.part(0) };
        assert_eq!(key.as_str(), name);
        let bytes = read_all(site.objects.get(&key, 0..*length).await.expect("readable")).await.expect("bytes");
        objects.push((name.clone(), bytes));
    }
    assert_eq!(objects.len(), 2);
    (site, other, backup.name.to_string(), objects)
}

/// What a restore says to a backend with this object; the database stays empty.
async fn refusal(site: &Site, other: &Site, name: &str, bytes: Option<Vec<u8>>) -> Option<String> {
    let altered = Altered { inner: site.objects.clone(), name: name.to_owned(), bytes };
    let store = site.store(other.db.clone(), altered);
    let backup = store.backups().find(None).await;
    let outcome = match backup {
        Ok(backup) => store.restore(&backup, |_| ()).await.map(drop),
        Err(error) => Err(error),
    };
    assert_eq!(other.db.is_empty().await.expect("is_empty"), outcome.is_err());
    outcome.err().map(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_of_a_backup_can_change_without_a_refusal() {
    let (site, other, backup, objects) = small().await;
    let before = everything(&other.db).await;
    let listed = site.listed("").await;
    for (name, bytes) in &objects {
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            let text = refusal(&site, &other, name, Some(changed)).await;
            let text = text.unwrap_or_else(|| panic!("byte {at} of {name} was not missed"));
            assert!(text.contains(&backup), "{text}");
            let what = if name.ends_with("manifest") { "manifest" } else { "part 0" };
            assert!(text.contains(what), "byte {at} of {name}: {text}");
        }
    }
    assert_eq!(everything(&other.db).await, before);
    assert_eq!(site.listed("").await, listed, "no beat of an epoch that never began");
    let (name, bytes) = &objects[0];
    assert_eq!(refusal(&site, &other, name, Some(bytes.clone())).await, None, "it was good all the time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_cut_and_extra_objects_are_named() {
    let (site, other, _, objects) = small().await;
    let [(manifest, manifest_bytes), (part, part_bytes)] = &objects[..] else { panic!("two objects") };
    let cut = |bytes: &[u8]| Some(bytes[..bytes.len() - 1].to_vec());
    let extra = part.replace("part-000000", "part-000001");
    for (name, bytes, expected) in [
        (part, None, "part 0: it is missing"),
        (part, cut(part_bytes), "part 0: it has"),
        (part, Some([part_bytes.as_slice(), b"x"].concat()), "part 0: it has"),
        (part, Some(Vec::new()), "part 0: it has 0 bytes"),
        (&extra, Some(part_bytes.clone()), "part-000001: the manifest does not know it"),
        (manifest, cut(manifest_bytes), "manifest: "),
        (manifest, Some(Vec::new()), "manifest: its manifest is not one"),
        (manifest, None, "there is no complete backup"),
    ] {
        let text = refusal(&site, &other, name, bytes).await.expect("refused");
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_another_deployment_and_one_under_another_name_are_refused() {
    let (site, other, backup, objects) = small().await;
    // The folder of one backup, copied to where another would be.
    let moved = backup.replace("000000000001.", "000000000002.");
    for (name, bytes) in &objects {
        let name = name.replace(&backup, &moved);
        let (folder, file) = name.rsplit_once('/').expect("in a folder");
        let key = moved.parse::<leasehold_core::backup::BackupName>().expect("a name");
        let key = if file == "manifest" { key.manifest() } else { key.part(0) };
        assert!(key.as_str().starts_with(folder));
        site.objects.put(&key, bytes.len() as u64, body(bytes)).await.expect("put");
    }
    let store = site.store(other.db.clone(), site.objects.clone());
    let newest = store.backups().find(None).await.expect("the copy");
    let error = store.restore(&newest, |_| ()).await.expect_err("it is not what its name says");
    assert!(error.to_string().contains(&format!("its manifest is that of {backup}")), "{error}");
    let good = store.backups().find(Some(backup.parse().expect("a name"))).await.expect("the first");
    // A backend with another deployment's mark.
    let (ours, theirs) = (site.db.deployment().await.expect("deployment").id, ObjectId::new([5; 16]));
    site.objects.delete(&mark(ours)).await.expect("deleted");
    site.objects.put(&mark(theirs), 0, body(b"")).await.expect("put");
    let error = store.restore(&good, |_| ()).await.expect_err("foreign");
    assert!(matches!(error, BackupError::Foreign { .. }));
    let text = error.to_string();
    assert!(text.contains(&ours.to_string()) && text.contains(&theirs.to_string()), "{text}");
    let pod = site.pod(site.objects.clone());
    let error = pod.store.back_up(|_| ()).await.expect_err("the backend is another's");
    assert!(matches!(error, BackupError::Foreign { .. }), "{error}");
    assert!(other.db.is_empty().await.expect("is_empty"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_restored_over_anything() {
    let (site, other, _, _) = small().await;
    let store = site.store(other.db.clone(), site.objects.clone());
    let backup = store.backups().find(None).await.expect("there is one");
    other.account("bob").await;
    let before = everything(&other.db).await;
    let error = store.restore(&backup, |_| ()).await.expect_err("not empty");
    assert!(matches!(error, BackupError::NotEmpty), "{error}");
    assert_eq!(everything(&other.db).await, before);
}
