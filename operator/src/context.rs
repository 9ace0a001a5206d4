//! All that a reconciler may touch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource};
use leasehold_core::clock::{Clock, Entropy, Timestamp};
use leasehold_crds::{Account, LeaseDatabase, StorageBackend, StorageServer};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::apply::Writer;
use crate::databases::Databases;
use crate::error::Result;
use crate::metrics::Metrics;
use crate::names::Key;
use crate::sweep::Totals;

/// The first wait after a failure; it doubles with each further one.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest wait after a failure.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Accounts that rest are together looked at no more often than this, where nothing depends on it.
const LOOK: Duration = Duration::from_secs(1);

/// The custom resources as they were last seen; nobody asks the API server for them.
#[derive(Clone, Debug)]
pub struct Stores {
    /// Backends.
    pub backends: Store<StorageBackend>,
    /// Databases.
    pub databases: Store<LeaseDatabase>,
    /// Servers.
    pub servers: Store<StorageServer>,
    /// Accounts.
    pub accounts: Store<Account>,
    /// Whether all of them have been listed.
    pub listed: Listed,
}

/// How many kinds have been listed since the operator began.
///
/// Everybody waits here and nobody with `Store::wait_until_ready`, which wakes only the last of the tasks that wait for a store:
/// a reconcile that waited with it could sleep for ever, or rob the controller of its own wake-up.
#[derive(Clone, Debug)]
pub struct Listed(watch::Receiver<usize>);

impl Listed {
    /// Kinds of objects that are held in stores.
    pub const KINDS: usize = 4;

    /// Counts with the sender: one for each kind whose first list is complete.
    pub fn new() -> (watch::Sender<usize>, Self) {
        let (sender, receiver) = watch::channel(0);
        (sender, Self(receiver))
    }
}

impl Stores {
    /// Waits until all of them have been listed once.
    pub async fn ready(&self) {
        // A sender that is gone leaves nothing to wait for: the process ends.
        drop(self.listed.0.clone().wait_for(|kinds| *kinds >= Listed::KINDS).await);
    }
}

/// What an object of a kind looks like in its store.
pub fn find<K>(store: &Store<K>, key: &Key) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    store.get(&ObjectRef::new(&key.name).within(&key.namespace))
}

/// What the operator was told when it began.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The image that servers and jobs run.
    pub image: String,
    /// Whether the cluster knows PodMonitors and PrometheusRules.
    pub has_monitoring: bool,
    /// Where the runbook is, if anywhere.
    pub runbook_url: Option<String>,
    /// How often everything is looked at again without a reason.
    pub resync: Duration,
    /// Whether customers' Secrets are watched, so that a change of them is a reason.
    pub watches_secrets: bool,
}

/// All that a reconciler may touch.
pub struct Context {
    /// Reads from the API server what is in no store.
    pub client: Client,
    /// Writes.
    pub writer: Writer,
    /// The custom resources as they were last seen.
    pub stores: Stores,
    /// Lease databases.
    pub databases: Databases,
    /// What all accounts of each server use, as last counted.
    pub totals: Totals,
    /// Settings.
    pub settings: Settings,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness, for swissnums.
    pub entropy: Entropy,
    failures: Mutex<HashMap<(&'static str, Key), u32>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Context {
    /// Puts together what reconcilers may touch.
    pub fn new(
        client: Client,
        stores: Stores,
        settings: Settings,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
        entropy: Entropy,
    ) -> Self {
        let writer = Writer::new(client.clone(), std::env::var("POD_NAME").ok());
        Self {
            client,
            writer,
            stores,
            databases: Databases::default(),
            totals: Totals::default(),
            settings,
            metrics,
            clock,
            entropy,
            failures: Mutex::default(),
        }
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Reads an object that is in no store.
    ///
    /// # Errors
    /// The API server refused or does not answer.
    pub async fn read<K>(&self, key: &Key) -> Result<Option<K>>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
        Ok(api.get_opt(&key.name).await?)
    }

    /// How long to wait before an object that failed once more is tried again.
    pub fn after_failure(&self, kind: &'static str, key: Key) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry((kind, key)).or_default();
        let wait = RETRY_FIRST.saturating_mul(1 << (*count).min(6)).min(RETRY_MAX);
        *count = count.saturating_add(1);
        wait
    }

    /// Notes that an object did not fail.
    pub fn succeeded(&self, kind: &'static str, key: &Key) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&(kind, key.clone()));
    }

    /// When to look again without a reason.
    pub fn resync(&self, key: &Key) -> Duration {
        spread(self.settings.resync, key)
    }

    /// The same for an Account. Where Secrets are watched, a look finds out nothing that would not be a reason by itself, and
    /// thousands of Accounts share about one look a second. Elsewhere it is the look that finds a Secret that was changed.
    pub fn resync_account(&self, key: &Key) -> Duration {
        let accounts = u32::try_from(self.stores.accounts.len()).unwrap_or(u32::MAX);
        let rested = if self.settings.watches_secrets { LOOK.saturating_mul(accounts) } else { Duration::ZERO };
        spread(self.settings.resync.max(rested), key)
    }
}

/// Between half of an interval and all of it: each object at its own time.
fn spread(interval: Duration, key: &Key) -> Duration {
    let digest = crate::names::digest([key.namespace.as_str(), key.name.as_str()]);
    let part = u32::from_str_radix(&digest[..4], 16).unwrap_or_default();
    interval / 2 + interval / 2 * part / 0xffff
}
