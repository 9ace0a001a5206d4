//! What the tests of the PostgreSQL lease database are made of: a database with a clock of its own, the requests that
//! change it, and looks at all of its rows at once.

use std::sync::Arc;
use std::time::Duration;

use leasehold_core::bucket::Chunk;
use leasehold_core::chunk::{ObjectName, Piece, StoreObject};
use leasehold_core::clock::{Clock, Entropy};
use leasehold_core::id::{AccountId, ObjectId, ShareId, ShareNumber, StorageIndex};
use leasehold_core::lease::LeaseTerms;
use leasehold_core::leasedb::{
    AccountChange, Allocate, CommitOutcome, CommitSlot, CreateOutcome, Epoch, LeaseDb, RecordChunks, RecordOutcome,
    Result, SlotChange, SlotToken,
};
use leasehold_core::locator::{Extent, Locator};
use leasehold_core::testing::clock::ManualClock;
use leasehold_core::testing::{credential, enabler, upload_secret};
use leasehold_e2e_services::Postgres;
use leasehold_e2e_services::postgres::Session;
use leasehold_e2e_services::process::wait_until;
use leasehold_leasedb::postgres::{PgLeaseDb, PgMetrics, PgOptions};

use crate::pg::PgDatabase;

/// How long a condition may take to come true.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The epoch in which a database begins.
pub const FIRST_EPOCH: Epoch = Epoch(1);
const IDLE_SECONDS: i64 = 1800;

/// One process's view of a lease database. Its ids are the same in every run.
#[derive(Clone)]
pub struct World {
    pub db: PgLeaseDb,
    pub clock: ManualClock,
    entropy: Arc<Entropy>,
    database: String,
}

impl World {
    /// Opens a migrated database; `stage` keeps the ids of several worlds of one database apart, and its days pass
    /// before it begins.
    pub async fn open(options: &PgOptions, stage: u64) -> Result<Self> {
        let clock = ManualClock::default();
        clock.advance(i64::try_from(stage).expect("few stages") * 86_400);
        let terms = LeaseTerms::default();
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let db = PgLeaseDb::open_with_clock(options, terms, PgMetrics::default(), Some(shared)).await?;
        let (entropy, database) = (Arc::new(Entropy::from_seed(stage)), options.database.clone());
        Ok(Self { db, clock, entropy, database })
    }

    /// Changes rows past all rules.
    pub async fn execute(&self, sql: &str) {
        let sql = format!("SET search_path = leasehold; {sql}");
        blocking(|| Postgres::shared()?.query(&self.database, &sql)).await;
    }

    pub fn id(&self) -> ObjectId {
        self.entropy.object_id(self.clock.now())
    }

    pub async fn account(&self, name: &str, quota_bytes: Option<u64>) -> AccountId {
        let change = AccountChange { quota_bytes: Some(quota_bytes), ..AccountChange::default() };
        match self.db.create_account(name.to_owned(), change, credential(name)).await.expect("create_account") {
            CreateOutcome::Created(account) => account.id,
            CreateOutcome::NameTaken => panic!("{name} is new"),
        }
    }

    /// The number of an account that was made before.
    pub async fn find(&self, name: &str) -> AccountId {
        self.db.find_account(name.to_owned()).await.expect("find_account").expect("it was made").id
    }

    pub fn allocation(&self, account: AccountId, index: StorageIndex, numbers: &[u8], size: u64) -> Allocate {
        Allocate {
            storage_index: index,
            account,
            shares: numbers.iter().map(|number| (ShareNumber::new(*number), self.id())).collect(),
            size_bytes: size,
            secret: upload_secret(1).hash(),
            connection: None,
            idle_seconds: IDLE_SECONDS,
            backend_available_bytes: u64::MAX,
        }
    }

    /// A recording of these bytes, as one piece that was just stored, for the upload in progress.
    pub async fn recording(&self, share: ShareId, range: std::ops::Range<u64>) -> RecordChunks {
        let upload = self.db.find_upload(share).await.expect("find_upload").1.expect("an upload is in progress");
        let (size_bytes, offset) = (upload.size_bytes, range.start);
        let piece = Piece { group: upload.id, account: upload.account, size_bytes, offset, chunk: self.id() };
        RecordChunks {
            share,
            upload: upload.id,
            seen_received_bytes: upload.received_bytes,
            chunks: vec![Chunk { range, object: StoreObject::Piece(piece), digest: Some([9; 32]) }],
            found: false,
            epoch: FIRST_EPOCH,
            idle_seconds: IDLE_SECONDS,
        }
    }

    /// Uploads a whole share in so many pieces.
    pub async fn upload(&self, account: AccountId, share: ShareId, size: u64, pieces: u64) {
        let request = self.allocation(account, share.storage_index, &[share.number.get()], size);
        self.db.allocate(request).await.expect("allocate");
        for piece in 0..pieces {
            let request = self.recording(share, size * piece / pieces..size * (piece + 1) / pieces).await;
            let outcome = self.db.record_chunks(request).await.expect("record_chunks");
            assert_eq!(outcome == RecordOutcome::Finished, piece + 1 == pieces);
        }
    }

    /// A commit on the slot's present token that gives each of these shares a new object of this size, or removes it.
    pub async fn commit(&self, account: AccountId, index: StorageIndex, changes: &[(u8, Option<u64>)]) -> CommitSlot {
        let base = self.db.read_slot(index).await.expect("read_slot").slot.map(|(token, _)| token);
        let mut fresh = Vec::new();
        let changes = changes.iter().map(|(number, size)| {
            let change = size.map_or(SlotChange::Remove, |size_bytes| {
                let object = StoreObject::Generation { generation: self.id(), account };
                fresh.push(object);
                let locator = Locator::new(vec![Extent { range: 0..size_bytes, object }]).expect("one extent");
                SlotChange::Put { size_bytes, locator }
            });
            (ShareNumber::new(*number), change)
        });
        let changes = changes.collect();
        CommitSlot {
            storage_index: index,
            account,
            base,
            token: SlotToken(self.entropy.bytes()),
            write_enabler: enabler(1).hash(),
            changes,
            marker: None,
            fresh,
            epoch: FIRST_EPOCH,
        }
    }

    /// Writes or removes shares of a slot.
    pub async fn write(&self, account: AccountId, index: StorageIndex, changes: &[(u8, Option<u64>)]) {
        let commit = self.commit(account, index, changes).await;
        assert_eq!(self.db.commit_slot(commit).await.expect("commit_slot"), CommitOutcome::Done);
    }

    /// Compares what an account is said to use with a recount of its leases and uploads.
    pub async fn audit(&self, database: &PgDatabase, account: AccountId) {
        let sql = |what: &str| {
            format!(
                "SELECT coalesce((SELECT sum({what}) FROM leases l JOIN shares s USING (si, shnum) \
                 WHERE l.account_id = {account} AND s.state = 1), 0)"
            )
        };
        // An immutable share is charged with 12 bytes more than its data, a mutable one with 472: its container.
        let used = database.number(&sql("size_bytes + CASE kind WHEN 0 THEN 12 ELSE 472 END")).await;
        let shares = database.number(&sql("1")).await;
        let reserved = "SELECT coalesce(sum(size_bytes + 12), 0) FROM uploads WHERE account_id =";
        let reserved = database.number(&format!("{reserved} {account}")).await;
        let usage = self.db.usage(account).await.expect("usage");
        let counted = [usage.used_bytes, usage.shares, usage.reserved_bytes].map(|count| count as i64);
        assert_eq!(counted, [used, shares, reserved], "usage of {account} against a recount");
    }
}

/// Every row of ours, as text. Times and numbers that the database itself gives are left out: two runs of the same
/// request differ in nothing else.
pub async fn rows(postgres: &Postgres, database: &str) -> String {
    const TABLES: [&str; 19] = [
        "deployment",
        "beats",
        "losses",
        "accounts",
        "account_usage",
        "account_credentials",
        "shares",
        "leases",
        "slots",
        "uploads",
        "upload_chunks",
        "scattered",
        "garbage",
        "corruption_advisories",
        "runs",
        "expired_leases",
        "unleased",
        "recovered",
        "crawl_units",
    ];
    const GIVEN: &str = "ARRAY['created_at', 'received_at', 'garbage_id', 'credential_id', 'advisory_id', 'run_id', \
        'started_at', 'alive_at']";
    let each = TABLES.map(|table| format!("SELECT '{table} ' || (to_jsonb(t) - {GIVEN})::text AS line FROM {table} t"));
    let sql = format!(
        "SET search_path = leasehold; SELECT string_agg(line, E'\\n' ORDER BY line) FROM ({}) all_rows",
        each.join(" UNION ALL ")
    );
    let rows = blocking(|| postgres.query(database, &sql)).await;
    rows.into_iter().next().and_then(|row| row.into_iter().next().flatten()).expect("the rows")
}

/// A copy of a database that nobody uses any more.
pub async fn copy(database: &PgDatabase, suffix: &str) -> PgDatabase {
    let name = format!("{}_{suffix}", database.name);
    blocking(|| Postgres::shared()?.clone_database(&database.name, &name)).await;
    PgDatabase { options: PgOptions { database: name.clone(), ..database.options.clone() }, name }
}

/// A session of the superuser in a database of the shared server, past every proxy.
pub async fn session(database: &PgDatabase) -> Session {
    blocking(|| Postgres::shared()?.session(&database.name)).await
}

/// Takes the lock of a storage index in an open transaction; whoever would change something of it waits.
pub async fn hold(session: &mut Session, index: StorageIndex) {
    let (high, low) = index.as_bytes().split_at(8);
    let word = |half: &[u8]| i64::from_be_bytes(half.try_into().expect("half of sixteen bytes"));
    let sql = format!("SET search_path = leasehold; BEGIN; SELECT pg_advisory_xact_lock({})", word(high) ^ word(low));
    blocking(|| session.query(&sql)).await;
}

/// Ends what a session holds.
pub async fn release(session: &mut Session) {
    blocking(|| session.query("COMMIT")).await;
}

/// Waits until so many sessions in a database wait for a lock.
pub async fn waiting(postgres: &Postgres, database: &str, count: usize) {
    let sql =
        format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event_type = 'Lock'");
    let wanted = Some(count.to_string());
    let what = format!("{count} sessions wait for a lock");
    blocking(|| {
        wait_until(&what, PATIENCE, || Ok((postgres.query("postgres", &sql)? == [[wanted.clone()]]).then_some(())))
    })
    .await;
}

/// Runs what blocks; panics if it fails.
pub async fn blocking<T>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> T {
    tokio::task::block_in_place(work).expect("the services do as they are told")
}

/// The name of an object of a share.
pub fn name_of(share: ShareId, object: StoreObject) -> ObjectName {
    ObjectName::new(share, object)
}
