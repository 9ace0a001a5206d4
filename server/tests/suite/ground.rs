//! What stores stand on in tests: a lease database and a backend that outlive processes, and histories that are lost.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use leasehold_core::backend::Backend;
use leasehold_core::clock::Clock;
use leasehold_core::lease::LeaseTerms;
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::testing::clock::ManualClock;
use leasehold_e2e_services::Postgres;
use leasehold_leasedb::postgres::PgLeaseDb;
use leasehold_leasedb::sqlite::SqliteLeaseDb;
use leasehold_server::backend::directory::DirectoryBackend;
use leasehold_server::backend::s3::S3Backend;
use tempfile::TempDir;

use crate::pg::PgDatabase;
use crate::pg_world;
use crate::places;
use crate::s3_bucket::S3Bucket;

/// A lease database and a backend.
pub trait Ground: Send + Sync + Sized + 'static {
    type Db: LeaseDb + Clone;
    type Objects: Backend + Clone;
    /// The lease database as it once was.
    type Past;
    /// Whether all of it is files of this machine, so that megabytes are nothing.
    const IS_ONE_MACHINE: bool;
    /// Sets all accounts' used bytes to nothing.
    const UNCHARGE: &'static str;

    /// Sixteen bytes as they stand in a statement.
    fn bytes(bytes: &[u8; 16]) -> String {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        if Self::IS_ONE_MACHINE { format!("x'{hex}'") } else { format!("'{hex}'") }
    }

    /// An empty one.
    async fn make() -> Self;

    /// Opens the lease database as another process would.
    async fn open_db(&self, clock: &ManualClock) -> Self::Db;

    /// Opens the backend as another process would.
    fn open_objects(&self) -> Self::Objects;

    /// Keeps a copy of the lease database as it is now.
    async fn keep(&self) -> Self::Past;

    /// Puts an older lease database under whoever uses it.
    async fn roll_back(&self, past: &Self::Past);

    /// One number of the lease database, past all traits; -1 if there is none.
    async fn number(&self, sql: &str) -> i64;

    /// Changes the lease database past all traits.
    async fn execute(&self, sql: &str);

    /// All rows but those of runs, as text, to be compared.
    async fn dump(&self) -> String;
}

/// A file and a directory.
pub struct OneMachine {
    folder: TempDir,
}

impl OneMachine {
    fn file(&self) -> PathBuf {
        places::lease_db_file(self.folder.path())
    }

    fn connection(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.file()).expect("a connection of our own")
    }
}

impl Ground for OneMachine {
    type Db = SqliteLeaseDb;
    type Objects = DirectoryBackend;
    type Past = TempDir;
    const IS_ONE_MACHINE: bool = true;
    const UNCHARGE: &'static str = "UPDATE accounts SET leased_bytes = 0, leased_shares = 0";

    async fn make() -> Self {
        Self { folder: places::folder() }
    }

    async fn open_db(&self, clock: &ManualClock) -> SqliteLeaseDb {
        places::lease_db(self.folder.path(), Arc::new(clock.clone()), LeaseTerms::default())
    }

    fn open_objects(&self) -> DirectoryBackend {
        places::backend(self.folder.path())
    }

    async fn keep(&self) -> TempDir {
        let past = places::folder();
        let file = places::lease_db_file(past.path());
        self.connection().backup("main", file, None::<fn(_)>).expect("a copy of the file");
        past
    }

    async fn roll_back(&self, past: &TempDir) {
        let file = places::lease_db_file(past.path());
        // Page by page into the file that others have open, in one transaction.
        self.connection().restore("main", file, None::<fn(_)>).expect("the older file");
    }

    async fn number(&self, sql: &str) -> i64 {
        self.connection().query_row(sql, [], |row| row.get(0)).unwrap_or(-1)
    }

    async fn execute(&self, sql: &str) {
        self.connection().execute_batch(sql).expect("a change");
    }

    async fn dump(&self) -> String {
        let connection = self.connection();
        let mut lines = Vec::new();
        let tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('runs', 'sqlite_sequence')";
        let mut tables = connection.prepare(tables).expect("a list of tables");
        let names = tables.query_map([], |row| row.get::<_, String>(0)).expect("names");
        for name in names.map(|name| name.expect("a name")) {
            let mut table = connection.prepare(&format!("SELECT * FROM {name}")).expect("a table");
            let columns = table.column_count();
            let mut rows = table.query([]).expect("rows");
            while let Some(row) = rows.next().expect("a row") {
                let values: Vec<_> = (0..columns).map(|at| row.get_ref(at).expect("a value")).collect();
                lines.push(format!("{name} {values:?}"));
            }
        }
        lines.sort();
        lines.join("\n")
    }
}

/// A PostgreSQL database and an S3 bucket.
pub struct Pods {
    database: PgDatabase,
    bucket: S3Bucket,
    /// How many copies were kept.
    pasts: AtomicU32,
}

impl Pods {
    /// Runs statements on the shared server.
    fn query(database: &str, sql: &str) {
        let postgres = Postgres::shared().expect("a PostgreSQL server");
        tokio::task::block_in_place(|| postgres.query(database, sql)).expect("PostgreSQL does as it is told");
    }

    fn clone_database(template: &str, name: &str) {
        // Whoever is connected to the template keeps it from being copied.
        let cut = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{template}'");
        Self::query("postgres", &cut);
        let postgres = Postgres::shared().expect("a PostgreSQL server");
        tokio::task::block_in_place(|| postgres.clone_database(template, name)).expect("a copy");
    }
}

impl Ground for Pods {
    type Db = PgLeaseDb;
    type Objects = S3Backend;
    type Past = String;
    const IS_ONE_MACHINE: bool = false;
    const UNCHARGE: &'static str = "UPDATE account_usage SET leased_bytes = 0, leased_shares = 0";

    async fn make() -> Self {
        let (database, bucket) = (PgDatabase::make().await, tokio::task::block_in_place(S3Bucket::make));
        Self { database, bucket, pasts: AtomicU32::new(0) }
    }

    async fn open_db(&self, clock: &ManualClock) -> PgLeaseDb {
        let clock: Arc<dyn Clock> = Arc::new(clock.clone());
        self.database.open(LeaseTerms::default(), Some(clock)).await
    }

    fn open_objects(&self) -> S3Backend {
        self.bucket.open()
    }

    async fn keep(&self) -> String {
        let past = format!("{}_past{}", self.database.name, self.pasts.fetch_add(1, Ordering::Relaxed));
        Self::clone_database(&self.database.name, &past);
        past
    }

    async fn roll_back(&self, past: &String) {
        let name = &self.database.name;
        Self::query("postgres", &format!("DROP DATABASE \"{name}\" WITH (FORCE)"));
        Self::clone_database(past, name);
    }

    async fn number(&self, sql: &str) -> i64 {
        self.database.number(sql).await
    }

    async fn execute(&self, sql: &str) {
        Self::query(&self.database.name, &format!("SET search_path = leasehold; {sql}"));
    }

    async fn dump(&self) -> String {
        let rows = pg_world::rows(Postgres::shared().expect("a PostgreSQL server"), &self.database.name).await;
        rows.lines().filter(|line| !line.starts_with("runs ")).collect::<Vec<_>>().join("\n")
    }
}

/// Makes a test of each generic function, on one machine and on PostgreSQL with S3.
macro_rules! on_every_ground {
    ($($test:ident),* $(,)?) => {
        mod one_machine {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test::<crate::ground::OneMachine>().await;
            })*
        }
        mod pods {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test::<crate::ground::Pods>().await;
            })*
        }
    };
}
pub(crate) use on_every_ground;
