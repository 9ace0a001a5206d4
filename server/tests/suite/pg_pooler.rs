//! The contract of lease databases through a real transaction pooler: PgBouncer between PostgreSQL and us.
//!
//! Each transaction may run on another connection of the server, so nothing of a session may be relied upon.

use std::sync::Arc;

use leasehold_core::clock::Clock;
use leasehold_core::lease::LeaseTerms;
use leasehold_core::testing::leasedb_contract::MakeLeaseDb;
use leasehold_core::testing::{Guard, Tasks};
use leasehold_e2e_services::{PgBouncer, Postgres};
use leasehold_leasedb::postgres::{PgLeaseDb, PgMetrics, PgOptions};

use crate::pg::PgDatabase;
use crate::pg_world::blocking;
use crate::places;

struct Pooled;

/// What an operator sets who puts a pooler in between: a client cannot set it for a session that it does not have.
async fn set_limits(database: &str) {
    let settings = [
        ("search_path", "leasehold"),
        ("statement_timeout", "'10s'"),
        ("lock_timeout", "'10s'"),
        ("idle_in_transaction_session_timeout", "'15s'"),
        ("jit", "off"),
    ];
    for (name, value) in settings {
        let sql = format!("ALTER DATABASE \"{database}\" SET {name} = {value}");
        blocking(|| Postgres::shared()?.query("postgres", &sql)).await;
    }
}

impl MakeLeaseDb for Pooled {
    type Db = PgLeaseDb;

    async fn make(clock: Arc<dyn Clock>, terms: LeaseTerms) -> (PgLeaseDb, Guard) {
        let database = PgDatabase::make().await;
        set_limits(&database.name).await;
        let port = blocking(|| Ok(PgBouncer::shared()?.address().port())).await;
        let options = PgOptions { port, pooler: true, ..database.options.clone() };
        let opened = PgLeaseDb::open_with_clock(&options, terms, PgMetrics::default(), Some(clock)).await;
        (opened.expect("opens through the pooler"), Box::new(database))
    }

    async fn run_all(tasks: Tasks) {
        places::run_all(tasks).await;
    }
}

leasehold_core::leasedb_contract!(Pooled);
