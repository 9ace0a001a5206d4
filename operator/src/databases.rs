//! Connections to lease databases, one pool for each LeaseDatabase, kept between reconciles.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex as PlainMutex;
use std::time::{Duration, Instant};

use leasehold_core::lease::LeaseTerms;
use leasehold_core::leasedb::LeaseDbError;
use leasehold_leasedb::AnyLeaseDb;
use leasehold_leasedb::postgres::{PgLeaseDb, PgMetrics, PgOptions};
use tokio::sync::Mutex;

use crate::names::{Key, digest};

/// A database that did not answer is not asked again for so long: thousands of accounts may wait for it.
const REST_AFTER_FAILURE: Duration = Duration::from_secs(5);
/// Connections of the operator to one database.
pub const CONNECTIONS_MAX: usize = 4;

#[derive(Default)]
struct Entry {
    opened: Option<(String, AnyLeaseDb)>,
    failed: Option<(String, Instant, Arc<LeaseDbError>)>,
}

/// Open lease databases.
#[derive(Default)]
pub struct Databases(PlainMutex<HashMap<Key, Arc<Mutex<Entry>>>>);

impl std::fmt::Debug for Databases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Databases")
    }
}

impl Databases {
    fn entry(&self, key: &Key) -> Arc<Mutex<Entry>> {
        let mut entries = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        entries.entry(key.clone()).or_default().clone()
    }

    /// The database that is open under this key, whatever its options.
    pub async fn find(&self, key: &Key) -> Option<AnyLeaseDb> {
        self.entry(key).lock().await.opened.as_ref().map(|(_, db)| db.clone())
    }

    /// Opens a database, or gives the one that is open already if its options are the same.
    ///
    /// # Errors
    /// It cannot be used; within some seconds after a failure the same error again.
    pub async fn open(&self, key: &Key, options: &PgOptions) -> Result<AnyLeaseDb, Arc<LeaseDbError>> {
        let entry = self.entry(key);
        let mut entry = entry.lock().await;
        let fingerprint = fingerprint(options);
        if let Some((seen, db)) = &entry.opened
            && *seen == fingerprint
        {
            return Ok(db.clone());
        }
        if let Some((seen, at, error)) = &entry.failed
            && *seen == fingerprint
            && at.elapsed() < REST_AFTER_FAILURE
        {
            return Err(error.clone());
        }
        // Leases are none of the operator's business, so neither are their terms.
        let terms = LeaseTerms { duration_seconds: 0, slack_seconds: 0 };
        match PgLeaseDb::open(options, terms, PgMetrics::default()).await {
            Ok(db) => {
                let db = AnyLeaseDb::Postgres(db);
                *entry = Entry { opened: Some((fingerprint, db.clone())), failed: None };
                Ok(db)
            }
            Err(error) => {
                let error = Arc::new(error);
                *entry = Entry { opened: None, failed: Some((fingerprint, Instant::now(), error.clone())) };
                Err(error)
            }
        }
    }

    /// Forgets a database whose LeaseDatabase is gone.
    pub fn forget(&self, key: &Key) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(key);
    }

    /// Holds a database that was opened elsewhere.
    pub async fn hold(&self, key: &Key, db: AnyLeaseDb) {
        self.entry(key).lock().await.opened = Some((String::new(), db));
    }
}

/// Tells options apart; of the password only a digest is kept.
fn fingerprint(options: &PgOptions) -> String {
    let shape = format!("{options:?} {:?} {}", options.tls, options.pooler);
    digest([shape.as_str(), options.password.as_deref().unwrap_or_default()])
}
