//! A directory as a backend: one file for each store object, under the object's name.
//!
//! A file is written under a temporary name, synced, renamed to its own name without ever replacing another, and its
//! folder is synced, together with folders made for it. So what `put` acknowledged survives a power cut, and a name has
//! all bytes or none. One thread ([`publish`]) does all of that for many files at once.

mod aligned;
mod cached;
mod publish;
mod walk;

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt};
use leasehold_core::backend::{Backend, BackendError, ByteStream, ListPage};
use leasehold_core::chunk::ObjectKey;

use aligned::AlignedBlock;
use publish::{Content, Publisher, Temporaries, Temporary};
use walk::Walk;

/// The folders with store objects, in order of their names; what else is in the directory is not the backend's.
const OBJECT_FOLDERS: [&str; 2] = ["meta", "shares"];
/// Most bytes gathered before they are written, and read at once.
const BLOCK_BYTES_MAX: usize = 128 << 10;
/// Fewest of them, however many bodies are on their way.
const BLOCK_BYTES_MIN: usize = 16 << 10;
/// Smaller objects than this, and smaller blocks, are written through the system's cache.
const DIRECT_BYTES_MIN: usize = 256 << 10;
/// The most that is written past the cache at once.
const DIRECT_BYTES_MAX: usize = 1 << 20;
/// What the blocks of all bodies on their way may come to, in bytes.
const BLOCKS_BYTES: usize = 12 << 20;
/// Temporary files of dead processes are removed when they are this old.
const TEMPORARY_MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// A directory that holds store objects.
#[derive(Clone, Debug)]
pub struct DirectoryBackend(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    temporaries: Temporaries,
    publisher: Publisher,
    bodies: AtomicUsize,
}

/// A body on its way in or out; the more there are, the smaller the block that each may hold.
struct OnTheWay(Arc<Inner>);

impl OnTheWay {
    fn new(inner: &Arc<Inner>) -> Self {
        inner.bodies.fetch_add(1, Ordering::Relaxed);
        Self(inner.clone())
    }

    fn share_bytes(&self) -> usize {
        BLOCKS_BYTES / self.0.bodies.load(Ordering::Relaxed).max(1)
    }

    fn block_bytes(&self) -> usize {
        self.share_bytes().clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX)
    }

    /// The block for an object of that length that is to be written past the cache; `None` if it is not.
    fn direct_block(&self, length_bytes: u64) -> Option<AlignedBlock> {
        let length = usize::try_from(length_bytes).unwrap_or(usize::MAX);
        let bytes = self.share_bytes().min(DIRECT_BYTES_MAX).min(length);
        (bytes >= DIRECT_BYTES_MIN).then(|| AlignedBlock::new(bytes))
    }
}

impl Drop for OnTheWay {
    fn drop(&mut self) {
        self.0.bodies.fetch_sub(1, Ordering::Relaxed);
    }
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
        remove_old(&temporary)?;
        let temporaries = Temporaries::new(temporary);
        let publisher = Publisher::start(root, temporaries.clone())?;
        let inner = Inner { root: root.to_owned(), temporaries, publisher, bodies: AtomicUsize::new(0) };
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

impl Inner {
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
        let mut walk = Walk::new(prefix, after, max);
        // Where the prefix names folders, the others beside them are not even looked at.
        match prefix.rsplit_once('/') {
            Some((folder, _)) if is_plain(folder) => drop(walk.below(&self.root, folder)?),
            _ => {
                for folder in OBJECT_FOLDERS {
                    if !walk.below(&self.root, folder)? {
                        break;
                    }
                }
            }
        }
        Ok(walk.into_page())
    }
}

/// Whether a path leads into a folder with store objects, and nowhere else.
fn is_plain(path: &str) -> bool {
    let mut parts = path.split('/');
    let first = parts.next().unwrap_or_default();
    OBJECT_FOLDERS.contains(&first) && parts.all(|part| !part.is_empty() && part != "." && part != "..")
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

/// Gathers the next block of a body: what has arrived, up to about `max` bytes, so that a slow body holds no memory
/// while it is waited for. The flag tells that the body has ended.
async fn next_block(body: &mut ByteStream, max: usize) -> Result<(Vec<Bytes>, bool), BackendError> {
    let (mut block, mut length) = (Vec::new(), 0);
    while length < max {
        let next = if block.is_empty() { Some(body.next().await) } else { body.next().now_or_never() };
        match next {
            Some(Some(bytes)) => {
                let bytes = bytes.map_err(BackendError::Source)?;
                length += bytes.len();
                block.push(bytes);
            }
            Some(None) => return Ok((block, true)),
            None => break,
        }
    }
    Ok((block, false))
}

fn wrong_length() -> BackendError {
    BackendError::Source(io::Error::new(io::ErrorKind::InvalidData, "the body has not the announced length"))
}

impl DirectoryBackend {
    /// Writes a large body to a temporary file, past the system's cache.
    async fn write_large(
        &self,
        length_bytes: u64,
        body: &mut ByteStream,
        mut block: AlignedBlock,
    ) -> Result<Temporary, BackendError> {
        let temporaries = self.0.temporaries.clone();
        let mut temporary = blocking(move || temporaries.create_direct()).await?;
        let (mut received, mut written) = (0, 0);
        while let Some(bytes) = body.next().await {
            let mut bytes = bytes.map_err(BackendError::Source)?;
            received += bytes.len() as u64;
            if received > length_bytes {
                return Err(wrong_length());
            }
            while !bytes.is_empty() {
                block.fill(&mut bytes);
                if block.is_full() || (bytes.is_empty() && received == length_bytes) {
                    (temporary, block, written) = blocking(move || {
                        temporary.write_aligned(block.bytes(), written)?;
                        let written = written + block.bytes().len() as u64;
                        block.clear();
                        Ok((temporary, block, written))
                    })
                    .await?;
                }
            }
        }
        if written == length_bytes { Ok(temporary) } else { Err(wrong_length()) }
    }
}

impl Backend for DirectoryBackend {
    async fn put(&self, name: &ObjectKey, length_bytes: u64, mut body: ByteStream) -> Result<(), BackendError> {
        let way = OnTheWay::new(&self.0);
        if let Some(block) = way.direct_block(length_bytes) {
            let temporary = self.write_large(length_bytes, &mut body, block).await?;
            let content = Content::Written(temporary);
            return self.0.publisher.publish(content, name.to_string()).await.map_err(backend_error);
        }
        let mut state: Option<Temporary> = None;
        let mut received = 0;
        loop {
            let (block, ended) = next_block(&mut body, way.block_bytes()).await?;
            received += block.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
            if received > length_bytes || (ended && received != length_bytes) {
                return Err(wrong_length());
            }
            let content = match state.take() {
                None if ended => Content::Small(block),
                state => {
                    let inner = self.0.clone();
                    let written = blocking(move || {
                        let mut temporary = state.map_or_else(|| inner.temporaries.create(), Ok)?;
                        temporary.append(&block)?;
                        Ok(temporary)
                    });
                    Content::Written(written.await?)
                }
            };
            match content {
                Content::Written(temporary) if !ended => state = Some(temporary),
                content => return self.0.publisher.publish(content, name.to_string()).await.map_err(backend_error),
            }
        }
    }

    async fn get(&self, name: &ObjectKey, range: Range<u64>) -> Result<ByteStream, BackendError> {
        let text = name.to_string();
        let path = self.0.root.join(&text);
        let opened = match cached::open(&path) {
            Some(file) => Ok(file),
            None => blocking(move || File::open(path)).await,
        };
        let file = opened.map_err(|error| match error {
            BackendError::NotFound(_) => BackendError::NotFound(text),
            other => other,
        })?;
        let mut reading = Reading { file: Arc::new(file), range, way: OnTheWay::new(&self.0) };
        let first = reading.next_block().await.map_err(backend_error)?;
        if reading.range.is_empty() {
            return Ok(stream::iter([Ok(first)]).boxed());
        }
        let rest = stream::try_unfold(reading, |mut reading| async move {
            if reading.range.is_empty() {
                return Ok(None);
            }
            Ok(Some((reading.next_block().await?, reading)))
        });
        Ok(stream::iter([Ok(first)]).chain(rest).boxed())
    }

    async fn delete(&self, name: &ObjectKey) -> Result<(), BackendError> {
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

/// A file that is being read block by block.
struct Reading {
    file: Arc<File>,
    /// What is still to be read.
    range: Range<u64>,
    way: OnTheWay,
}

impl Reading {
    /// Reads the next block; a file that ends too early is an error, never a short answer.
    async fn next_block(&mut self) -> io::Result<Bytes> {
        let left = usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX);
        let mut block = vec![0; left.min(self.way.block_bytes())];
        let at = self.range.start;
        self.range.start += block.len() as u64;
        if cached::read_exact_at(&self.file, &mut block, at) {
            return Ok(block.into());
        }
        let file = self.file.clone();
        let read = tokio::task::spawn_blocking(move || file.read_exact_at(&mut block, at).map(|()| block.into()));
        read.await.map_err(io::Error::other)?
    }
}
