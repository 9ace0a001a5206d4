//! Either backend, as the configuration decides.

use std::ops::Range;

use leasehold_core::backend::{Backend, BackendError, ByteStream, ListPage};
use leasehold_core::chunk::ObjectKey;
use leasehold_core::clock::Timestamp;

use super::cached_blocks::CachedBlocks;
use super::directory::DirectoryBackend;
use super::s3::S3Backend;
use super::watched::Watched;

/// A backend of a kind that is known at run time only.
#[derive(Debug)]
pub enum AnyBackend {
    /// A directory.
    Directory(DirectoryBackend),
    /// An S3 bucket, with blocks that were read lately in memory.
    S3(Watched<CachedBlocks<S3Backend>>),
}

impl Backend for AnyBackend {
    async fn put(&self, key: &ObjectKey, length_bytes: u64, body: ByteStream) -> Result<(), BackendError> {
        match self {
            Self::Directory(backend) => backend.put(key, length_bytes, body).await,
            Self::S3(backend) => backend.put(key, length_bytes, body).await,
        }
    }

    async fn get(&self, key: &ObjectKey, range: Range<u64>) -> Result<ByteStream, BackendError> {
        match self {
            Self::Directory(backend) => backend.get(key, range).await,
            Self::S3(backend) => backend.get(key, range).await,
        }
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), BackendError> {
        match self {
            Self::Directory(backend) => backend.delete(key).await,
            Self::S3(backend) => backend.delete(key).await,
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, BackendError> {
        match self {
            Self::Directory(backend) => backend.list(prefix, after, max).await,
            Self::S3(backend) => backend.list(prefix, after, max).await,
        }
    }

    async fn available_bytes(&self) -> Result<u64, BackendError> {
        match self {
            Self::Directory(backend) => backend.available_bytes().await,
            Self::S3(backend) => backend.available_bytes().await,
        }
    }

    async fn date(&self) -> Result<Option<Timestamp>, BackendError> {
        match self {
            Self::Directory(backend) => backend.date().await,
            Self::S3(backend) => backend.date().await,
        }
    }
}
