//! The contract of backends, over each that there is.

use std::fs;

use leasehold_core::testing::Tasks;
use leasehold_core::testing::backend_contract::{MakeBackend, Place};
use leasehold_server::backend::cached_blocks::CachedBlocks;
use leasehold_server::backend::directory::DirectoryBackend;
use leasehold_server::backend::s3::S3Backend;
use tempfile::TempDir;

use crate::places;
use crate::s3_bucket::S3Bucket;

struct Directory;

struct Folder(TempDir);

impl Place for Folder {
    fn leftovers(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path().join("objects/tmp")).expect("the folder for temporary files");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    fn remove_empty_folder(&self, folder: &str) {
        // Fails unless the folder is there and empty: no matter.
        drop(fs::remove_dir(self.0.path().join("objects").join(folder)));
    }
}

impl MakeBackend for Directory {
    type Backend = DirectoryBackend;
    type Place = Folder;

    async fn make() -> (DirectoryBackend, Folder) {
        let folder = places::folder();
        (places::backend(folder.path()), Folder(folder))
    }

    async fn open_again(place: &Folder) -> Option<DirectoryBackend> {
        Some(places::backend(place.0.path()))
    }

    async fn run_all(tasks: Tasks) {
        places::run_all(tasks).await;
    }
}

struct S3;

impl Place for S3Bucket {}

impl MakeBackend for S3 {
    type Backend = S3Backend;
    type Place = S3Bucket;

    async fn make() -> (S3Backend, S3Bucket) {
        let bucket = S3Bucket::make();
        (bucket.open(), bucket)
    }

    async fn open_again(place: &S3Bucket) -> Option<S3Backend> {
        Some(place.open())
    }

    async fn run_all(tasks: Tasks) {
        places::run_all(tasks).await;
    }
}

struct CachedS3;

impl MakeBackend for CachedS3 {
    type Backend = CachedBlocks<S3Backend>;
    type Place = S3Bucket;

    async fn make() -> (CachedBlocks<S3Backend>, S3Bucket) {
        let bucket = S3Bucket::make();
        (bucket.open_cached(), bucket)
    }

    async fn open_again(place: &S3Bucket) -> Option<CachedBlocks<S3Backend>> {
        Some(place.open_cached())
    }

    async fn run_all(tasks: Tasks) {
        places::run_all(tasks).await;
    }
}

mod directory {
    use super::Directory;

    leasehold_core::backend_contract!(Directory);
}

mod s3 {
    use super::S3;

    leasehold_core::backend_contract!(S3);
}

mod cached_s3 {
    use super::CachedS3;

    leasehold_core::backend_contract!(CachedS3);
}
