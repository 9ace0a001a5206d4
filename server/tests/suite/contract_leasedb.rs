//! The contract of lease databases, over each that there is.

use std::sync::Arc;

use leasehold_core::clock::Clock;
use leasehold_core::id::ShareId;
use leasehold_core::lease::LeaseTerms;
use leasehold_core::testing::leasedb_contract::MakeLeaseDb;
use leasehold_core::testing::{Guard, Tasks};
use leasehold_leasedb::postgres::PgLeaseDb;
use leasehold_leasedb::sqlite::SqliteLeaseDb;
use tempfile::TempDir;

use crate::pg::PgDatabase;
use crate::places;

pub struct Sqlite;

impl MakeLeaseDb for Sqlite {
    type Db = SqliteLeaseDb;

    async fn make(clock: Arc<dyn Clock>, terms: LeaseTerms) -> (SqliteLeaseDb, Guard) {
        let folder = places::folder();
        (places::lease_db(folder.path(), clock, terms), Box::new(folder))
    }

    async fn open_advisories(guard: &Guard, share: ShareId) -> Option<u64> {
        let folder: &TempDir = guard.downcast_ref().expect("what make returned");
        let file = rusqlite::Connection::open(places::lease_db_file(folder.path())).expect("a second connection");
        let sql = "SELECT count(*) FROM corruption_advisories WHERE si = ?1 AND shnum = ?2 AND verdict = 0";
        let key = (share.storage_index.as_bytes(), share.number.get());
        let count: i64 = file.query_row(sql, key, |row| row.get(0)).expect("the count");
        u64::try_from(count).ok()
    }

    async fn run_all(tasks: Tasks) {
        places::run_all(tasks).await;
    }
}

pub struct Pg;

impl MakeLeaseDb for Pg {
    type Db = PgLeaseDb;

    async fn make(clock: Arc<dyn Clock>, terms: LeaseTerms) -> (PgLeaseDb, Guard) {
        let database = PgDatabase::make().await;
        (database.open(terms, Some(clock)).await, Box::new(database))
    }

    async fn open_advisories(guard: &Guard, share: ShareId) -> Option<u64> {
        let database: &PgDatabase = guard.downcast_ref().expect("what make returned");
        let hex: String = share.storage_index.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let number = share.number;
        let sql = format!(
            "SELECT count(*) FROM corruption_advisories WHERE si = '{hex}' AND shnum = {number} AND verdict = 0"
        );
        u64::try_from(database.number(&sql).await).ok()
    }

    async fn run_all(tasks: Tasks) {
        places::run_all(tasks).await;
    }
}

mod postgres {
    use super::Pg;

    leasehold_core::leasedb_contract!(Pg);
}

mod sqlite {
    use super::Sqlite;

    leasehold_core::leasedb_contract!(Sqlite);
}
