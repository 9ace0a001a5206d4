//! Counts what all accounts of each server use, one query for hundreds of them, and points out the Accounts whose status is
//! worth a look. So ten thousand Accounts cost the API server nothing while nothing happens.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use leasehold_core::account::{Account as Ledger, AccountState, Usage};
use leasehold_core::clock::Timestamp;
use leasehold_core::id::AccountId;
use leasehold_core::leasedb::{LeaseDb, Result};
use leasehold_crds::{Account, StorageServer};
use tokio::sync::mpsc::Sender;

use crate::account;
use crate::context::{Context, Stores};
use crate::names::Key;

/// How often everything is counted.
const INTERVAL: Duration = Duration::from_secs(60);
/// How often what was counted is written down, in seconds.
const REPORT_SECONDS: i64 = 300;
const PAGE: u32 = 500;

/// What all accounts of a server use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerTotals {
    /// How many accounts there are, the built-in ones left out.
    pub accounts: u64,
    /// At or over their quota.
    pub over_quota: u64,
    /// Suspended.
    pub suspended: u64,
    /// Bytes leased.
    pub used_bytes: u64,
    /// Shares leased.
    pub shares: u64,
    /// When this was counted.
    pub measured_at: Timestamp,
}

impl ServerTotals {
    const fn none(measured_at: Timestamp) -> Self {
        Self { accounts: 0, over_quota: 0, suspended: 0, used_bytes: 0, shares: 0, measured_at }
    }

    fn add(&mut self, account: &Ledger, usage: &Usage) {
        self.used_bytes += usage.used_bytes;
        self.shares += usage.shares;
        if account.id >= AccountId::FIRST_DECLARED {
            self.accounts += 1;
            self.over_quota += u64::from(account.quota_bytes.is_some() && usage.left(account.quota_bytes) == 0);
            self.suspended += u64::from(account.state == AccountState::Suspended);
        }
    }
}

/// What was last counted, by server.
#[derive(Debug, Default)]
pub struct Totals(Mutex<HashMap<Key, ServerTotals>>);

impl Totals {
    fn map(&self) -> std::sync::MutexGuard<'_, HashMap<Key, ServerTotals>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of a server.
    pub fn of_server(&self, server: &Key) -> Option<ServerTotals> {
        self.map().get(server).copied()
    }

    /// Of the server whose backend this is.
    pub fn of_backend(&self, backend: &Key, stores: &Stores) -> Option<ServerTotals> {
        let servers = stores.servers.state();
        let server = servers.iter().find(|server| {
            server.namespace().as_deref() == Some(&backend.namespace) && server.spec.backend_ref.name == backend.name
        })?;
        self.of_server(&Key::of(&**server))
    }

    /// How many accounts a database holds.
    pub fn of_database(&self, _database: &Key, servers: &[Arc<StorageServer>]) -> Option<i64> {
        // All servers of a database see the same accounts.
        let first = servers.first()?;
        self.of_server(&Key::of(&**first)).map(|totals| i64::try_from(totals.accounts).unwrap_or(i64::MAX))
    }

    /// Forgets a server that is gone.
    pub fn forget(&self, server: &Key) {
        self.map().remove(server);
    }

    /// Notes what was counted, unless the last report is still fresh; whether it was noted.
    fn note(&self, server: Key, counted: ServerTotals) -> bool {
        let mut totals = self.map();
        let is_due = totals.get(&server).is_none_or(|old| {
            old.accounts != counted.accounts
                || counted.measured_at.seconds() - old.measured_at.seconds() >= REPORT_SECONDS
        });
        if is_due {
            totals.insert(server, counted);
        }
        is_due
    }
}

/// Where to say which objects are worth a look.
#[derive(Clone, Debug)]
pub struct Pointers {
    /// Accounts.
    pub accounts: Sender<ObjectRef<Account>>,
    /// Servers.
    pub servers: Sender<ObjectRef<StorageServer>>,
}

impl Pointers {
    fn account(&self, found: &Account) {
        // A full channel means that there is enough to do already.
        drop(self.accounts.try_send(ObjectRef::from_obj(found)));
    }
}

/// Counts again and again, until the process ends.
pub async fn run(context: Arc<Context>, pointers: Pointers) {
    context.stores.ready().await;
    loop {
        for server in context.stores.servers.state() {
            if let Err(error) = sweep(&server, &context, &pointers).await {
                tracing::warn!(server = %Key::of(&*server), error = crate::database::sentence(&error), "cannot count usage");
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn sweep(server: &StorageServer, context: &Context, pointers: &Pointers) -> Result<()> {
    let key = Key::of(server);
    let database = key.beside(&server.spec.lease_database_ref.name);
    let Some(db) = context.databases.find(&database).await else { return Ok(()) };
    let now = context.now();
    let mut by_name = by_ledger_name(&key, context);
    let mut totals = ServerTotals::none(now);
    let mut after = None;
    loop {
        let page = db.list_accounts(after, PAGE).await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.id);
        for (ledger, usage) in &page {
            totals.add(ledger, usage);
            let Some(found) = by_name.remove(&ledger.name) else { continue };
            if is_worth_a_look(&found, ledger, usage, now) {
                pointers.account(&found);
            }
        }
    }
    // What is left and was made once: the database is a backup from before that.
    by_name.values().filter(|found| was_made(found)).for_each(|found| pointers.account(found));
    context.metrics.server(&key, &totals);
    if let Some(runs) = crate::server::dereference::runs(&database, context).await {
        context.metrics.runs(&key, &database, &runs, |kind| crate::server::runs_by_itself(&server.spec, kind));
    }
    if context.totals.note(key, totals) {
        drop(pointers.servers.try_send(ObjectRef::from_obj(server)));
    }
    Ok(())
}

fn by_ledger_name(server: &Key, context: &Context) -> HashMap<String, Arc<Account>> {
    let accounts = context.stores.accounts.state();
    let of_server = accounts.into_iter().filter(|found| account::target(found) == *server);
    of_server.filter_map(|found| Some((account::ledger_name(&found).ok()?, found))).collect()
}

fn was_made(found: &Account) -> bool {
    found.status.as_ref().is_some_and(|status| status.account_id.is_some())
}

fn is_worth_a_look(found: &Account, ledger: &Ledger, usage: &Usage, now: Timestamp) -> bool {
    let old = found.status.as_ref().and_then(|status| status.usage.as_ref());
    old.is_some_and(|old| {
        account::is_worth_writing(old, usage.used_bytes, usage.reserved_bytes, ledger.quota_bytes, now)
    })
}
