//! A cluster without pods: an API server in memory, a lease database in a file, and operators.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::{reflector, watcher};
use kube::{Client, Resource};
use leasehold_core::clock::{Clock, Entropy, SystemClock};
use leasehold_core::lease::{DAY_SECONDS, LeaseTerms};
use leasehold_core::leasedb::{LeaseDb, Tick};
use leasehold_crds::{Account, LeaseDatabase, StorageBackend, StorageServer};
use leasehold_leasedb::AnyLeaseDb;
use leasehold_leasedb::sqlite::SqliteLeaseDb;
use leasehold_operator::context::{Context, Listed, Settings, Stores};
use leasehold_operator::metrics::Metrics;
use leasehold_operator::names::Key;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api_server::ApiServer;

const GROUP: &str = "/apis/leasehold.dev/v1alpha1/namespaces/tahoe";

/// What reconcilers may touch, of an operator with these stores.
pub fn context(client: Client, stores: Stores) -> Arc<Context> {
    let settings = Settings {
        image: "registry.example/leasehold:1".to_owned(),
        has_monitoring: true,
        runbook_url: Some("https://example.org/RUNBOOK.md".to_owned()),
        resync: Duration::from_secs(1800),
        watches_secrets: false,
    };
    let (metrics, clock) = (Arc::new(Metrics::default()), Arc::new(SystemClock));
    Arc::new(Context::new(client, stores, settings, metrics, clock, Entropy::from_os()))
}

fn empty_database() -> (tempfile::TempDir, AnyLeaseDb) {
    let folder = tempfile::tempdir().expect("a folder");
    let terms = LeaseTerms { duration_seconds: 31 * DAY_SECONDS, slack_seconds: 0 };
    let db = SqliteLeaseDb::open(&folder.path().join("leases.sqlite"), Arc::new(SystemClock), terms);
    (folder, AnyLeaseDb::Sqlite(db.expect("a database")))
}

/// The cluster.
pub struct World {
    pub api: ApiServer,
    pub db: AnyLeaseDb,
    folder: tempfile::TempDir,
}

impl World {
    /// A backend, a database and a server, all of them ready.
    pub async fn new() -> Self {
        let world = Self::declared();
        world.begin().await;
        world
    }

    /// A pod that serves from the database for the first time.
    pub async fn begin(&self) {
        let nonce = Entropy::from_os().object_id(SystemClock.now());
        self.db.tick(Tick { listed: Vec::new(), nonce, standby_is_synchronous: true }).await.expect("a beat");
    }

    /// The same, with a database from which no pod has served yet.
    pub fn declared() -> Self {
        let (folder, db) = empty_database();
        let world = Self { api: ApiServer::default(), db, folder };
        let s3 = json!({ "bucket": "shares", "credentials": { "type": "Secret", "secretRef": { "name": "s3" } } });
        world.declare("StorageBackend", "shares", json!({ "s3": s3 }));
        world.set_ready("storagebackends", "shares");
        let parameters = json!({ "host": "127.0.0.1", "port": 1, "database": "d", "tls": { "mode": "Disable" } });
        let roles = json!({ "owner": { "secretRef": { "name": "owner" } } });
        let spec = json!({ "connection": { "parameters": parameters }, "roles": roles });
        world.declare("LeaseDatabase", "leases", spec);
        world.set_ready("leasedatabases", "leases");
        let secret = |name: &str, data: Value| {
            let metadata = json!({ "name": name, "namespace": "tahoe" });
            world.api.put(
                &format!("/api/v1/namespaces/tahoe/secrets/{name}"),
                json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data }),
            );
        };
        // "id", "secret"; "boss", "hunter2".
        secret("s3", json!({ "accessKeyID": "aWQ=", "secretAccessKey": "c2VjcmV0" }));
        secret("owner", json!({ "username": "Ym9zcw==", "password": "aHVudGVyMg==" }));
        world.declare(
            "StorageServer",
            "main",
            json!({
                "backendRef": { "name": "shares" }, "leaseDatabaseRef": { "name": "leases" },
                "exposure": { "type": "ClusterIP", "hosts": ["a.example"] },
            }),
        );
        world
    }

    /// Puts an empty database in the place of the one that there was.
    pub fn lose_database(&mut self) {
        (self.folder, self.db) = empty_database();
    }

    /// The path of one of our objects.
    pub fn path(kind: &str, name: &str) -> String {
        format!("{GROUP}/{}s/{name}", kind.to_lowercase())
    }

    /// Declares an object of ours, or changes its spec.
    pub fn declare(&self, kind: &str, name: &str, spec: Value) {
        let path = Self::path(kind, name);
        let generation = self.api.get(&path).and_then(|old| old["metadata"]["generation"].as_i64()).unwrap_or_default();
        let mut object = self.api.get(&path).unwrap_or_else(|| {
            json!({
                "apiVersion": "leasehold.dev/v1alpha1", "kind": kind,
                "metadata": { "name": name, "namespace": "tahoe" },
            })
        });
        object["metadata"]["generation"] = json!(generation + 1);
        object["spec"] = spec;
        self.api.put(&path, object);
    }

    /// Changes one of our objects otherwise.
    pub fn edit(&self, kind: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let path = Self::path(kind, name);
        let mut object = self.api.get(&path).expect("it was declared");
        change(&mut object);
        self.api.put(&path, object);
    }

    fn set_ready(&self, plural: &str, name: &str) {
        let path = format!("{GROUP}/{plural}/{name}");
        let mut object = self.api.get(&path).expect("it was declared");
        object["status"] = json!({ "conditions": [{
            "type": "Ready", "status": "True", "reason": "Test", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }] });
        self.api.put(&path, object);
    }

    /// An operator that sees the cluster as it is now.
    pub async fn operator(&self) -> Arc<Context> {
        self.operator_with(self.api.client())
    }

    /// An operator that reaches the API server by this client.
    pub fn operator_with(&self, client: Client) -> Arc<Context> {
        let (count, listed) = Listed::new();
        count.send_replace(Listed::KINDS);
        let stores = Stores {
            backends: self.store::<StorageBackend>("storagebackends"),
            databases: self.store::<LeaseDatabase>("leasedatabases"),
            servers: self.store::<StorageServer>("storageservers"),
            accounts: self.store::<Account>("accounts"),
            listed,
        };
        context(client, stores)
    }

    /// An operator to which the lease database answers.
    pub async fn connected(&self) -> Arc<Context> {
        self.connected_with(self.api.client()).await
    }

    /// As [`connected`](Self::connected), by this client.
    pub async fn connected_with(&self, client: Client) -> Arc<Context> {
        let context = self.operator_with(client);
        let key = Key { namespace: "tahoe".to_owned(), name: "leases".to_owned() };
        context.databases.hold(&key, self.db.clone()).await;
        context
    }

    fn store<K>(&self, plural: &str) -> reflector::Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + 'static,
    {
        let (reader, mut writer) = reflector::store::<K>();
        writer.apply_watcher_event(&watcher::Event::Init);
        for path in self.api.paths(&format!("/{plural}/")) {
            let object = serde_json::from_value(self.api.get(&path).expect("listed")).expect("of this kind");
            writer.apply_watcher_event(&watcher::Event::InitApply(object));
        }
        writer.apply_watcher_event(&watcher::Event::InitDone);
        reader
    }

    /// One of our objects as it is now.
    pub fn object<K: DeserializeOwned>(&self, kind: &str, name: &str) -> Arc<K> {
        let found = self.api.get(&Self::path(kind, name)).expect("it was declared");
        Arc::new(serde_json::from_value(found).expect("of this kind"))
    }

    /// The status and reason of a condition.
    pub fn condition(&self, kind: &str, name: &str, type_: &str) -> (String, String) {
        let found = self.api.get(&Self::path(kind, name)).expect("it was declared");
        let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|found| found["type"] == type_);
        let text = |key: &str| found.and_then(|found| found[key].as_str()).unwrap_or("none").to_owned();
        (text("status"), text("reason"))
    }
}
