//! A PostgreSQL database for one test, in the server of this test process: cloned from one that was migrated once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use leasehold_core::clock::Clock;
use leasehold_core::lease::LeaseTerms;
use leasehold_e2e_services::Postgres;
use leasehold_leasedb::postgres::{PgLeaseDb, PgMetrics, PgOptions, Roles, Tls, migrate};
use tokio::sync::OnceCell;

static MADE: AtomicU32 = AtomicU32::new(0);
static TEMPLATE: OnceCell<()> = OnceCell::const_new();
const TEMPLATE_NAME: &str = "leasehold_template";

/// How the tests connect.
pub fn options(address: SocketAddr, postgres: &Postgres, database: &str) -> PgOptions {
    PgOptions {
        host: address.ip().to_string(),
        port: address.port(),
        database: database.to_owned(),
        user: "postgres".to_owned(),
        password: postgres.password().map(str::to_owned),
        schema: "leasehold".to_owned(),
        tls: Tls::Disable,
        connections_max: 8,
        connect_timeout: Duration::from_secs(5),
        statement_timeout: Duration::from_secs(10),
        idle_in_transaction: Duration::from_secs(15),
        pooler: false,
    }
}

/// An empty, migrated database; removed when it is dropped, or some hundred of them would need gigabytes.
pub struct PgDatabase {
    /// Its name.
    pub name: String,
    /// How to connect to it.
    pub options: PgOptions,
}

impl PgDatabase {
    /// Makes one in the shared server.
    pub async fn make() -> Self {
        let postgres = Postgres::shared().expect("a PostgreSQL server");
        TEMPLATE
            .get_or_init(|| async {
                blocking(move || postgres.create_database(TEMPLATE_NAME).map(drop)).await;
                let options = options(postgres.address(), postgres, TEMPLATE_NAME);
                migrate(&options, &Roles::default()).await.expect("a migrated template");
            })
            .await;
        let name = format!("test_{}", MADE.fetch_add(1, Ordering::Relaxed));
        let clone = name.clone();
        blocking(move || {
            postgres.clone_database(TEMPLATE_NAME, &clone)?;
            // A copy is a deployment of its own.
            postgres.query(&clone, "UPDATE leasehold.deployment SET deployment_id = gen_random_uuid()").map(drop)
        })
        .await;
        Self { options: options(postgres.address(), postgres, &name), name }
    }

    /// Opens it as another process would.
    pub async fn open(&self, terms: LeaseTerms, clock: Option<Arc<dyn Clock>>) -> PgLeaseDb {
        let opened = PgLeaseDb::open_with_clock(&self.options, terms, PgMetrics::default(), clock).await;
        opened.expect("the lease database opens")
    }

    /// One number of it, as its superuser sees it.
    pub async fn number(&self, sql: &str) -> i64 {
        let (name, sql) = (self.name.clone(), format!("SET search_path = leasehold; {sql}"));
        let mut number = 0;
        blocking(|| {
            let rows = Postgres::shared()?.query(&name, &sql)?;
            number =
                rows.first().and_then(|row| row.first()).and_then(|text| text.as_ref()?.parse().ok()).unwrap_or(-1);
            Ok(())
        })
        .await;
        number
    }
}

impl Drop for PgDatabase {
    fn drop(&mut self) {
        // What cannot be removed now goes with the server.
        let statement = format!("DROP DATABASE \"{}\" WITH (FORCE)", self.name);
        let _ = Postgres::shared().and_then(|postgres| postgres.query("postgres", &statement));
    }
}

async fn blocking(work: impl FnOnce() -> anyhow::Result<()> + Send) {
    tokio::task::block_in_place(work).expect("PostgreSQL does as it is told");
}
