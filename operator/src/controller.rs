//! The controllers: which object is reconciled when, what a failure costs, and how all of them end.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_util::{FutureExt, StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{self, ObjectRef, reflector};
use kube::runtime::{Predicate, PredicateConfig, WatchStreamExt, predicates, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use leasehold_crds::{Account, DELETION_PROTECTION, LeaseDatabase, PAUSED, StorageBackend, StorageServer};
use tokio::sync::{mpsc, watch};

use crate::context::{Context, Listed, Stores};
use crate::error::Result;
use crate::names::{Key, LEASEHOLD, MANAGED_BY};
use crate::sweep::{self, Pointers};
use crate::{account, backend, database, server};

/// Accounts reconciled at once: enough that thousands do not take an hour, few enough for the database's connections.
const ACCOUNTS_AT_ONCE: u16 = 8;
const OTHERS_AT_ONCE: u16 = 4;
/// Accounts that wait for a look because of their usage.
const POINTERS_MAX: usize = 1000;

/// Whether nothing may be written for an object.
pub fn is_paused<K: ResourceExt>(object: &K) -> bool {
    object.annotations().get(PAUSED).is_some_and(|value| value == "true")
}

/// Whether a deletion must wait.
pub fn is_protected<K: ResourceExt>(object: &K) -> bool {
    object.annotations().get(DELETION_PROTECTION).is_some_and(|value| value == "true")
}

/// The controllers, before they run.
pub struct Controllers {
    backends: Controller<StorageBackend>,
    databases: Controller<LeaseDatabase>,
    servers: Controller<StorageServer>,
    accounts: Controller<Account>,
    listed: Listed,
}

/// Makes the controllers. `watches_secrets`: customers' Secrets are watched, so that a change is noticed at once.
pub fn controllers(client: &Client, watches_secrets: bool) -> Controllers {
    let ours = watcher::Config::default().labels(&format!("{MANAGED_BY}={LEASEHOLD}"));
    let (count, listed) = Listed::new();
    let mut accounts = watching(client, &count, declared).with_config(Config::default().concurrency(ACCOUNTS_AT_ONCE));
    if watches_secrets {
        accounts = accounts.owns(Api::<Secret>::all(client.clone()), ours.clone());
    }
    let others = || Config::default().concurrency(OTHERS_AT_ONCE);
    Controllers {
        backends: watching(client, &count, predicates::resource_version)
            .with_config(others())
            .owns(Api::<Job>::all(client.clone()), ours.clone()),
        databases: watching(client, &count, predicates::resource_version)
            .with_config(others())
            .owns(Api::<Job>::all(client.clone()), ours.clone()),
        servers: watching(client, &count, predicates::resource_version)
            .with_config(others())
            .owns(Api::<Deployment>::all(client.clone()), ours),
        accounts,
        listed,
    }
}

/// What people say of an Account; the rest of it is our own hand. Looking at thousands again because of what was just written
/// would double their cost.
fn declared(account: &Account) -> Option<u64> {
    predicates::generation.combine(predicates::annotations).hash_property(account)
}

/// A controller of one kind, which counts itself as soon as its store is complete. It looks at an object whenever `matters`
/// gives something else.
fn watching<K, P>(client: &Client, count: &watch::Sender<usize>, matters: P) -> Controller<K>
where
    P: Predicate<K> + Send + 'static,
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let (reader, writer) = reflector::store();
    let events = reflector(writer, watcher(Api::all(client.clone()), watcher::Config::default()));
    let mut count = Some(count.clone());
    let counted = events.inspect_ok(move |event| {
        if matches!(event, watcher::Event::InitDone)
            && let Some(count) = count.take()
        {
            count.send_modify(|kinds| *kinds += 1);
        }
    });
    Controller::for_stream(counted.applied_objects().predicate_filter(matters, PredicateConfig::default()), reader)
}

impl Controllers {
    /// Where the objects are to be found.
    pub fn stores(&self) -> Stores {
        Stores {
            backends: self.backends.store(),
            databases: self.databases.store(),
            servers: self.servers.store(),
            accounts: self.accounts.store(),
            listed: self.listed.clone(),
        }
    }

    /// Runs until `stop` says so; reconciles under way come to their end.
    pub async fn run(self, context: Arc<Context>, stop: watch::Receiver<bool>) {
        let (pointers, pointed) = pointers();
        let client = context.client.clone();
        let stopped = move || {
            let mut stop = stop.clone();
            // A sender that is gone is a process that ends.
            async move { drop(stop.wait_for(|stop| *stop).await) }
        };
        let users = Users { stores: context.stores.clone() };
        let backends =
            self.backends.watches(Api::<StorageServer>::all(client.clone()), watcher::Config::default(), |server| {
                [beside::<StorageBackend>(&server, &server.spec.backend_ref.name)]
            });
        let databases =
            self.databases.watches(Api::<StorageServer>::all(client.clone()), watcher::Config::default(), |server| {
                [beside::<LeaseDatabase>(&server, &server.spec.lease_database_ref.name)]
            });
        let servers = self
            .servers
            .watches(Api::<StorageBackend>::all(client.clone()), watcher::Config::default(), users.of_backend())
            .watches(Api::<LeaseDatabase>::all(client.clone()), watcher::Config::default(), users.of_database())
            .reconcile_on(stream(pointed.servers));
        let accounts = self
            .accounts
            .watches(Api::<StorageServer>::all(client), watcher::Config::default(), users.of_server())
            .reconcile_on(stream(pointed.accounts));
        let sweep = tokio::spawn(sweep::run(context.clone(), pointers));
        tokio::join!(
            drive(backends.graceful_shutdown_on(stopped()), "StorageBackend", context.clone(), backend::reconcile),
            drive(databases.graceful_shutdown_on(stopped()), "LeaseDatabase", context.clone(), database::reconcile),
            drive(servers.graceful_shutdown_on(stopped()), "StorageServer", context.clone(), server::reconcile),
            drive(accounts.graceful_shutdown_on(stopped()), "Account", context, account::reconcile),
        );
        sweep.abort();
    }
}

struct Pointed {
    accounts: mpsc::Receiver<ObjectRef<Account>>,
    servers: mpsc::Receiver<ObjectRef<StorageServer>>,
}

fn pointers() -> (Pointers, Pointed) {
    let (accounts, of_accounts) = mpsc::channel(POINTERS_MAX);
    let (servers, of_servers) = mpsc::channel(POINTERS_MAX);
    (Pointers { accounts, servers }, Pointed { accounts: of_accounts, servers: of_servers })
}

fn stream<T: Send + 'static>(mut receiver: mpsc::Receiver<T>) -> impl futures_util::Stream<Item = T> + Send + 'static {
    futures_util::stream::poll_fn(move |context| receiver.poll_recv(context))
}

fn beside<K: Resource<DynamicType = ()>>(object: &impl ResourceExt, name: &str) -> ObjectRef<K> {
    ObjectRef::new(name).within(&object.namespace().unwrap_or_default())
}

/// Which objects must be looked at again because one that they refer to has changed.
struct Users {
    stores: Stores,
}

impl Users {
    fn servers_where(
        &self,
        uses: impl Fn(&StorageServer) -> String + Send + Sync + 'static,
    ) -> impl Fn(&Key) -> Vec<ObjectRef<StorageServer>> + Send + Sync + 'static {
        let servers = self.stores.servers.clone();
        move |key| {
            let all = servers.state();
            let users = all.iter().filter(|server| Key::of(&***server).beside(&uses(server)) == *key);
            users.map(|server| ObjectRef::from_obj(&**server)).collect()
        }
    }

    fn of_backend(&self) -> impl Fn(StorageBackend) -> Vec<ObjectRef<StorageServer>> + Send + Sync + 'static {
        let users = self.servers_where(|server| server.spec.backend_ref.name.clone());
        let seen = Changes::default();
        move |backend| {
            let ready = backend.status.as_ref().map(|status| crate::condition::holds(&status.conditions, "Ready"));
            let key = Key::of(&backend);
            if seen.is_new(&key, (backend.metadata.generation, ready)) { users(&key) } else { Vec::new() }
        }
    }

    fn of_database(&self) -> impl Fn(LeaseDatabase) -> Vec<ObjectRef<StorageServer>> + Send + Sync + 'static {
        let users = self.servers_where(|server| server.spec.lease_database_ref.name.clone());
        let seen = Changes::default();
        move |database| {
            let status = database.status.as_ref();
            let ready = status.map(|status| crate::condition::holds(&status.conditions, "Ready"));
            let budget = status.and_then(|status| status.connections.as_ref()).map(|found| found.budget);
            let key = Key::of(&database);
            if seen.is_new(&key, (database.metadata.generation, ready, budget)) { users(&key) } else { Vec::new() }
        }
    }

    /// Accounts see of a server what is in their Secrets, and who may have any; its status changes all the time.
    fn of_server(&self) -> impl Fn(StorageServer) -> Vec<ObjectRef<Account>> + Send + Sync + 'static {
        let accounts = self.stores.accounts.clone();
        let seen = Changes::default();
        move |server| {
            let identity = server.status.as_ref().and_then(|status| status.server_id.clone());
            let key = Key::of(&server);
            if !seen.is_new(&key, (server.metadata.generation, identity)) {
                return Vec::new();
            }
            let all = accounts.state();
            let users = all.iter().filter(|found| account::target(found) == key);
            users.map(|found| ObjectRef::from_obj(&**found)).collect()
        }
    }
}

/// What matters of objects, as last seen.
struct Changes<T>(Mutex<HashMap<Key, T>>);

impl<T> Default for Changes<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: PartialEq> Changes<T> {
    fn is_new(&self, key: &Key, now: T) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.get(key) == Some(&now) {
            return false;
        }
        seen.insert(key.clone(), now);
        true
    }
}

/// Runs one controller to its end.
async fn drive<K, F>(
    controller: Controller<K>,
    kind: &'static str,
    context: Arc<Context>,
    reconcile: impl Fn(Arc<K>, Arc<Context>) -> F + Send + Sync + Copy + 'static,
) where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Eq + Hash,
    F: Future<Output = Result<Action>> + Send + 'static,
{
    let one = move |object: Arc<K>, context: Arc<Context>| {
        async move {
            let (key, begin) = (Key::of(&*object), Instant::now());
            let result = reconcile(object, context.clone()).await;
            context.metrics.reconciled(kind, result.is_ok(), begin.elapsed());
            if result.is_ok() {
                context.succeeded(kind, &key);
            }
            result
        }
        .boxed()
    };
    let on_error = move |object: Arc<K>, error: &crate::error::Error, context: Arc<Context>| {
        let key = Key::of(&*object);
        let wait = context.after_failure(kind, key.clone());
        if error.is_conflict() {
            tracing::debug!(kind, object = %key, "somebody was first");
        } else {
            tracing::warn!(kind, object = %key, %error, wait_seconds = wait.as_secs(), "cannot reconcile");
        }
        Action::requeue(wait)
    };
    controller
        .run(one, on_error, context)
        .for_each(|result| {
            // What a reconcile said was logged by `on_error`.
            if let Err(error @ kube::runtime::controller::Error::QueueError(_)) = &result {
                tracing::warn!(kind, %error, "watching");
            }
            std::future::ready(())
        })
        .await;
}
