//! Temporary places for lease databases and backends, in memory where the machine allows it: SQLite and the directory
//! backend sync every change, and on a disk that would be all the time the tests take.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use leasehold_core::clock::Clock;
use leasehold_core::lease::LeaseTerms;
use leasehold_core::testing::Tasks;
use leasehold_leasedb::sqlite::SqliteLeaseDb;
use leasehold_server::backend::directory::DirectoryBackend;
use tempfile::TempDir;

/// A new temporary folder.
pub fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary folder")
}

/// The file of a folder's lease database.
pub fn lease_db_file(folder: &Path) -> PathBuf {
    folder.join("leases.sqlite")
}

/// Opens the lease database of a folder; makes it the first time.
pub fn lease_db(folder: &Path, clock: Arc<dyn Clock>, terms: LeaseTerms) -> SqliteLeaseDb {
    SqliteLeaseDb::open(&lease_db_file(folder), clock, terms).expect("the lease database opens")
}

/// Opens the backend of a folder; makes it the first time.
pub fn backend(folder: &Path) -> DirectoryBackend {
    DirectoryBackend::open(&folder.join("objects")).expect("the backend opens")
}

/// Runs all tasks at the same time; panics if one does.
pub async fn run_all(tasks: Tasks) {
    let running: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
    for task in running {
        if let Err(error) = task.await {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}
