//! A directory as a backend: one file for each store object, under the object's name.
//!
//! A file is written under a temporary name, synced, renamed to its own name without ever replacing another, and its
//! folder is synced; a folder made for it is synced into its parent first. So what `put` acknowledged survives a power
//! cut, and a name has all bytes or none.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use leasehold_core::backend::{Backend, BackendError, ByteStream, ListPage, ListedObject};
use leasehold_core::chunk::ObjectName;

/// Bytes gathered before they are written, and read at once.
const BLOCK_BYTES: usize = 128 << 10;
/// Temporary files of dead processes are removed when they are this old.
const TEMPORARY_MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// A directory that holds store objects.
#[derive(Clone, Debug)]
pub struct DirectoryBackend(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    temporary: PathBuf,
    next_temporary: AtomicU64,
    making: Making,
}

impl DirectoryBackend {
    /// Opens a directory, makes it if it is not there, and removes old temporary files.
    ///
    /// # Errors
    /// It cannot be made or written.
    pub fn open(root: &Path) -> io::Result<Self> {
        let temporary = root.join("tmp");
        fs::create_dir_all(&temporary)?;
        fs::create_dir_all(root.join("shares"))?;
        // Folders that an earlier process made and did not live to sync count as durable from here on.
        rustix::fs::syncfs(File::open(root)?)?;
        remove_old(&temporary)?;
        let inner =
            Inner { root: root.to_owned(), temporary, next_temporary: AtomicU64::new(0), making: Making::default() };
        Ok(Self(Arc::new(inner)))
    }
}

fn remove_old(temporary: &Path) -> io::Result<()> {
    for entry in fs::read_dir(temporary)? {
        let entry = entry?;
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        if age > TEMPORARY_MAX_AGE {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Folders that are being made: whoever puts something into one waits until it is durable itself (`review.md` D1).
#[derive(Debug, Default)]
struct Making {
    folders: Mutex<HashMap<PathBuf, usize>>,
    done: Condvar,
}

impl Making {
    fn begin(&self, folder: &Path) {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        *folders.entry(folder.to_owned()).or_default() += 1;
    }

    fn end(&self, folder: &Path) {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = folders.get_mut(folder) {
            *count -= 1;
            if *count == 0 {
                folders.remove(folder);
            }
        }
        self.done.notify_all();
    }

    fn wait(&self, folder: &Path) {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        while folders.contains_key(folder) {
            folders = self.done.wait(folders).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A file under its temporary name; removed unless it was renamed.
struct Temporary {
    path: PathBuf,
    file: File,
    renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            drop(fs::remove_file(&self.path));
        }
    }
}

impl Inner {
    fn create_temporary(&self) -> io::Result<Temporary> {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let path = self.temporary.join(format!("{}-{number}", std::process::id()));
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        Ok(Temporary { path, file, renamed: false })
    }

    /// Makes the bytes durable under their name.
    fn publish(&self, mut temporary: Temporary, name: &str) -> io::Result<()> {
        temporary.file.sync_data()?;
        let path = self.root.join(name);
        let folder = path.parent().expect("object names have folders").to_owned();
        for _ in 0..16 {
            match rename_new(&temporary.path, &path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.make_folder(&folder)?,
                Err(error) => return Err(error),
                Ok(()) => {
                    temporary.renamed = true;
                    break;
                }
            }
        }
        if !temporary.renamed {
            return Err(io::Error::other("the object's folder keeps vanishing"));
        }
        if let Some(parent) = folder.parent() {
            self.making.wait(parent);
        }
        self.making.wait(&folder);
        File::open(&folder)?.sync_all()
    }

    /// Makes a folder and those above it; they are durable when this returns.
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        if folder == self.root {
            return Ok(());
        }
        let parent = folder.parent().unwrap_or(&self.root);
        self.making.begin(folder);
        let made = (|| match fs::create_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_folder(parent)?;
                match fs::create_dir(folder) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                    made => made,
                }?;
                File::open(parent)?.sync_all()
            }
            // Somebody else made it: synced again, because who made it may not have got there yet.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => File::open(parent)?.sync_all(),
            Err(error) => Err(error),
            Ok(()) => File::open(parent)?.sync_all(),
        })();
        self.making.end(folder);
        made
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        let path = self.root.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => removed?,
        }
        if let Some(folder) = path.parent() {
            // Fails while anything else is in it, which is what we want.
            drop(fs::remove_dir(folder));
        }
        Ok(())
    }

    fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> io::Result<ListPage> {
        let mut page = ListPage::default();
        let mut walk = Walk { prefix, after, max, page: &mut page };
        walk.folder(&self.root.join("shares"), "shares/")?;
        Ok(page)
    }
}

/// Renames without replacing: names are never reused, so a taken one is a bug that must not destroy bytes.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags};
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // File systems without that flag: a hard link never replaces either.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        renamed => Ok(renamed?),
    }
}

struct Walk<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
    max: usize,
    page: &'a mut ListPage,
}

impl Walk<'_> {
    /// Whether a folder of this name can hold something that is asked for.
    fn wants_folder(&self, name: &str) -> bool {
        let on_path = name.starts_with(self.prefix) || self.prefix.starts_with(name);
        on_path && self.after.is_none_or(|after| after.starts_with(name) || name > after)
    }

    /// Walks a folder in order of names; false when the page is full.
    fn folder(&mut self, path: &Path, name: &str) -> io::Result<bool> {
        let entries = match fs::read_dir(path) {
            // A folder emptied by a delete meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Ok(mut text) = entry.file_name().into_string() else { continue };
            let is_folder = entry.file_type()?.is_dir();
            if is_folder {
                text.push('/');
            }
            names.push((format!("{name}{text}"), is_folder));
        }
        names.sort();
        for (name, is_folder) in names {
            if is_folder {
                if self.wants_folder(&name) && !self.folder(&path.join(last_part(&name)), &name)? {
                    return Ok(false);
                }
                continue;
            }
            if !name.starts_with(self.prefix) || self.after.is_some_and(|after| name.as_str() <= after) {
                continue;
            }
            if self.page.objects.len() == self.max {
                self.page.next = self.page.objects.last().map(|object| object.name.clone());
                return Ok(false);
            }
            match fs::metadata(path.join(last_part(&name))) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                metadata => self.page.objects.push(ListedObject { length_bytes: metadata?.len(), name }),
            }
        }
        Ok(true)
    }
}

fn last_part(name: &str) -> &str {
    name.trim_end_matches('/').rsplit('/').next().unwrap_or(name)
}

fn backend_error(error: io::Error) -> BackendError {
    match error.kind() {
        io::ErrorKind::NotFound => BackendError::NotFound(String::new()),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            BackendError::Full(error)
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => BackendError::Denied(error),
        _ => BackendError::Unavailable(error),
    }
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, BackendError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(backend_error),
        Err(error) => Err(BackendError::Unavailable(io::Error::other(error))),
    }
}

/// Gathers the next block of a body; at least [`BLOCK_BYTES`] unless the body ends, and then a flag that it ended.
async fn next_block(body: &mut ByteStream) -> Result<(Vec<Bytes>, bool), BackendError> {
    let (mut block, mut length) = (Vec::new(), 0);
    while length < BLOCK_BYTES {
        match body.next().await {
            Some(bytes) => {
                let bytes = bytes.map_err(BackendError::Source)?;
                length += bytes.len();
                block.push(bytes);
            }
            None => return Ok((block, true)),
        }
    }
    Ok((block, false))
}

fn write_all(file: &mut File, block: &[Bytes]) -> io::Result<u64> {
    let mut written = 0;
    for bytes in block {
        file.write_all(bytes)?;
        written += bytes.len() as u64;
    }
    Ok(written)
}

impl Backend for DirectoryBackend {
    async fn put(&self, name: &ObjectName, length_bytes: u64, mut body: ByteStream) -> Result<(), BackendError> {
        let name = name.to_string();
        let mut state: Option<(Temporary, u64)> = None;
        loop {
            let (block, ended) = next_block(&mut body).await?;
            let inner = self.0.clone();
            let name = ended.then(|| name.clone());
            state = blocking(move || {
                let (mut temporary, mut written) = match state {
                    Some(state) => state,
                    None => (inner.create_temporary()?, 0),
                };
                written += write_all(&mut temporary.file, &block)?;
                match name {
                    Some(_) if written != length_bytes => {
                        Err(io::Error::new(io::ErrorKind::InvalidData, "the body has not the announced length"))
                    }
                    Some(name) => inner.publish(temporary, &name).map(|()| None),
                    None => Ok(Some((temporary, written))),
                }
            })
            .await
            .map_err(|error| match error {
                BackendError::Unavailable(error) if error.kind() == io::ErrorKind::InvalidData => {
                    BackendError::Source(error)
                }
                other => other,
            })?;
            if ended {
                return Ok(());
            }
        }
    }

    async fn get(&self, name: &ObjectName, range: Range<u64>) -> Result<ByteStream, BackendError> {
        let text = name.to_string();
        let path = self.0.root.join(&text);
        let (file, first) = blocking(move || {
            let mut file = File::open(path)?;
            if range.start > 0 {
                file.seek(SeekFrom::Start(range.start))?;
            }
            let first = read_block(&mut file, range.end - range.start)?;
            let left = range.end - range.start - first.len() as u64;
            Ok(((file, left), first))
        })
        .await
        .map_err(|error| match error {
            BackendError::NotFound(_) => BackendError::NotFound(text),
            other => other,
        })?;
        let head = stream::iter([Ok(first)]);
        if file.1 == 0 {
            return Ok(head.boxed());
        }
        let rest = stream::try_unfold(file, |(mut file, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            let read = tokio::task::spawn_blocking(move || read_block(&mut file, left).map(|bytes| (bytes, file)));
            let (bytes, file) = read.await.map_err(io::Error::other)??;
            let left = left - bytes.len() as u64;
            Ok(Some((bytes, (file, left))))
        });
        Ok(head.chain(rest).boxed())
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), BackendError> {
        let (inner, name) = (self.0.clone(), name.to_string());
        blocking(move || inner.delete(&name)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, BackendError> {
        let (inner, prefix, after) = (self.0.clone(), prefix.to_owned(), after.map(str::to_owned));
        blocking(move || inner.list(&prefix, after.as_deref(), max)).await
    }

    async fn available_bytes(&self) -> Result<u64, BackendError> {
        let inner = self.0.clone();
        blocking(move || {
            let disk = rustix::fs::statvfs(&inner.root)?;
            Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
        })
        .await
    }
}

/// Reads a block of at most `left` bytes; a file that ends too early is an error, never a short answer.
fn read_block(file: &mut File, left: u64) -> io::Result<Bytes> {
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK_BYTES);
    let mut block = vec![0; length];
    file.read_exact(&mut block)?;
    Ok(block.into())
}
