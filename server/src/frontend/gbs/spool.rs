//! Request bodies that must be whole before they are acted on: small ones in memory, larger ones in a file without a
//! name, so that memory stays bounded.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, StreamExt};
use http::StatusCode;
use leasehold_core::backend::ByteStream;
use leasehold_core::slot::ReadTestWrite;
use leasehold_core::store::{Payload, StoreError};
use leasehold_gbs::wire;

use super::error::Refusal;
use crate::frontend::body::RequestBody;

/// Bodies up to this length stay in memory.
const MEMORY_MAX: u64 = 256 << 10;
/// Bytes written to the file, or read from it, at once.
const BLOCK_BYTES: usize = 128 << 10;

fn too_large(max: u64) -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body may have at most {max} bytes"))
}

fn broken(error: io::Error) -> Refusal {
    StoreError::BodyBroken(error).into()
}

fn spool_failed(error: &io::Error) -> Refusal {
    tracing::error!(%error, "cannot spool a request body");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the server cannot take this now; try again later")
}

/// Collects a body of at most `max` bytes in memory.
pub(super) async fn collect(body: &RequestBody, max: u64) -> Result<Bytes, Refusal> {
    if body.announced_bytes().is_some_and(|length| length > max) {
        return Err(too_large(max));
    }
    let mut stream = body.stream();
    let mut collected = BytesMut::new();
    while let Some(bytes) = stream.next().await {
        let bytes = bytes.map_err(broken)?;
        if collected.len() as u64 + bytes.len() as u64 > max {
            return Err(too_large(max));
        }
        collected.extend_from_slice(&bytes);
    }
    Ok(collected.freeze())
}

/// A body that is whole.
pub(super) enum Spool {
    Memory(Bytes),
    File(Arc<File>),
}

impl Spool {
    /// Receives a body of at most `max` bytes.
    pub(super) async fn receive(body: &RequestBody, max: u64, folder: &Path) -> Result<Self, Refusal> {
        match body.announced_bytes() {
            Some(length) if length > max => Err(too_large(max)),
            Some(length) if length <= MEMORY_MAX => collect(body, max).await.map(Self::Memory),
            _ => receive_into_file(body, max, folder).await.map(|file| Self::File(Arc::new(file))),
        }
    }

    /// Reads the request out of the body.
    pub(super) async fn decode(&self) -> Result<ReadTestWrite, Refusal> {
        match self {
            Self::Memory(bytes) => Ok(wire::read_test_write(&bytes[..])?),
            Self::File(file) => {
                let file = file.clone();
                let decoded = blocking(move || {
                    let reader = BufReader::with_capacity(BLOCK_BYTES, FileReader { file: &file, at: 0 });
                    Ok(wire::read_test_write(reader))
                });
                Ok(decoded.await.map_err(|error| spool_failed(&error))??)
            }
        }
    }
}

async fn receive_into_file(body: &RequestBody, max: u64, folder: &Path) -> Result<File, Refusal> {
    let folder = folder.to_owned();
    let created = blocking(move || create_unnamed(&folder)).await;
    let mut file = created.map_err(|error| spool_failed(&error))?;
    let mut stream = body.stream();
    let mut received = 0;
    loop {
        let mut block = Vec::new();
        let mut length = 0;
        while length < BLOCK_BYTES {
            let Some(bytes) = stream.next().await else { break };
            let bytes = bytes.map_err(broken)?;
            length += bytes.len();
            block.push(bytes);
        }
        received += length as u64;
        if received > max {
            return Err(too_large(max));
        }
        if block.is_empty() {
            return Ok(file);
        }
        let written = blocking(move || {
            block.iter().try_for_each(|bytes| file.write_all(bytes))?;
            Ok(file)
        });
        file = written.await.map_err(|error| spool_failed(&error))?;
    }
}

/// A file that vanishes with its last handle. Where the file system cannot make one without a name, its name is taken
/// away at once.
fn create_unnamed(folder: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let mode = Mode::RUSR | Mode::WUSR;
    match rustix::fs::open(folder, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode) {
        Ok(file) => Ok(File::from(file)),
        Err(_) => {
            static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
            let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let path = folder.join(format!("spool-{}-{number}", std::process::id()));
            let file = File::options().read(true).write(true).create_new(true).open(&path)?;
            std::fs::remove_file(path)?;
            Ok(file)
        }
    }
}

struct FileReader<'a> {
    file: &'a File,
    at: u64,
}

impl io::Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Payload for Spool {
    fn read(&self, range: Range<u64>) -> ByteStream {
        match self {
            Self::Memory(bytes) => bytes.read(range),
            Self::File(file) => stream::try_unfold((file.clone(), range), |(file, range)| async move {
                if range.is_empty() {
                    return Ok(None);
                }
                let end = range.end.min(range.start + BLOCK_BYTES as u64);
                let rest = end..range.end;
                let read = blocking(move || {
                    let mut block = vec![0; (end - range.start) as usize];
                    file.read_exact_at(&mut block, range.start)?;
                    Ok((Bytes::from(block), file))
                });
                let (block, file) = read.await?;
                Ok(Some((block, (file, rest))))
            })
            .boxed(),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
