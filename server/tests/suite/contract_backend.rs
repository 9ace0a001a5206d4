//! The contract of backends, over each that there is.

use std::fs;

use leasehold_core::testing::Tasks;
use leasehold_core::testing::backend_contract::{MakeBackend, Place};
use leasehold_server::backend::directory::DirectoryBackend;
use tempfile::TempDir;

use crate::places;

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

mod directory {
    use super::Directory;

    leasehold_core::backend_contract!(Directory);
}
