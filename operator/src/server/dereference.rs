//! What a server refers to, who refers to it, and what its jobs did.

use std::sync::Arc;

use leasehold_core::leasedb::LeaseDb;
use leasehold_core::run::{Run, RunKind};
use leasehold_crds::{LeaseDatabase, StorageBackend, StorageServer};

use crate::backend;
use crate::context::{Context, find};
use crate::database;
use crate::error::Result;
use crate::names::Key;

/// What was found.
#[derive(Clone, Debug)]
pub struct References {
    /// The backend, and what it refers to.
    pub backend: Option<(Arc<StorageBackend>, backend::References)>,
    /// The database, and what it refers to.
    pub database: Option<(Arc<LeaseDatabase>, database::dereference::References)>,
    /// How many servers the database has.
    pub servers_of_database: usize,
}

/// Reads what the server refers to.
///
/// # Errors
/// The API server refused or does not answer.
pub async fn dereference(server: &StorageServer, context: &Context) -> Result<References> {
    let key = Key::of(server);
    let backend = match find(&context.stores.backends, &key.beside(&server.spec.backend_ref.name)) {
        Some(backend) => {
            let references = backend::dereference(&backend, context).await?;
            Some((backend, references))
        }
        None => None,
    };
    let database_key = key.beside(&server.spec.lease_database_ref.name);
    let database = match find(&context.stores.databases, &database_key) {
        Some(database) => {
            let references = database::dereference::dereference(&database, context).await?;
            Some((database, references))
        }
        None => None,
    };
    let servers_of_database = database::dereference::servers(&database_key, context).len();
    Ok(References { backend, database, servers_of_database })
}

/// The Accounts that refer to a server, as `NAMESPACE/NAME`, by name.
pub fn accounts(server: &Key, context: &Context) -> Vec<String> {
    let accounts = context.stores.accounts.state();
    let of_server = accounts.iter().filter(|account| crate::account::target(account) == *server);
    let mut names: Vec<String> = of_server.map(|account| Key::of(&**account).to_string()).collect();
    names.sort();
    names
}

/// The last runs of all jobs, newest first; `None` while the database does not tell.
pub async fn runs(database: &Key, context: &Context) -> Option<Vec<Run>> {
    /// Enough to find the last one that came to its end.
    const RUNS_LOOKED_AT: u32 = 10;
    let db = context.databases.find(database).await?;
    let mut runs = Vec::new();
    for kind in RunKind::ALL {
        runs.extend(db.list_runs(Some(kind), RUNS_LOOKED_AT).await.ok()?);
    }
    Some(runs)
}
