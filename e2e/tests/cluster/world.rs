//! The world of a story: a namespace that allows restricted pods only, the managed services, and a folder for clients.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};
use leasehold_e2e::cluster::kubectl::Kubectl;
use leasehold_e2e::cluster::managed::Managed;
use leasehold_e2e::cluster::{Cluster, stores};
use leasehold_e2e::process::Explain;
use leasehold_e2e::story::{Scratch, venv};
use leasehold_e2e::tahoe::{Client, Encoding};
use serde_json::json;

/// Pods come up within this, on a machine that has other things to do.
pub const PODS_TIMEOUT: Duration = Duration::from_secs(240);

/// One server, and so one share.
pub const ENCODING: Encoding = Encoding { needed: 1, happy: 1, total: 1 };

/// Where the managed services have their names; those of a server that a person tries are elsewhere.
const MANAGED_NAMESPACE: &str = "managed-by-stories";

/// The label of stories' namespaces.
const STORY: &str = "leasehold.dev/story";

/// A namespace for one story; it goes when the story ends.
pub struct World {
    pub cluster: Cluster,
    pub kubectl: Kubectl,
    pub managed: &'static Managed,
    pub directory: Scratch,
}

impl World {
    /// Makes the namespace of a story.
    pub fn start(name: &str) -> Result<Self> {
        let cluster = Cluster::of_workspace();
        cluster.expect_up()?;
        let managed = managed(&cluster)?;
        let kubectl = cluster.kubectl().in_namespace(&format!("{name}-{}", std::process::id()));
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted", STORY: "yes"});
        let metadata = json!({"name": kubectl.namespace(), "labels": labels});
        kubectl.apply_all(&[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})])?;
        Ok(Self { cluster, kubectl, managed, directory: Scratch::new(name)? })
    }

    /// Runs a story; its failure comes with the logs of the pods in the namespace.
    pub fn story(&self, story: impl FnOnce() -> Result<()>) -> Result<()> {
        story().explain(|| self.kubectl.log_tails())
    }

    /// Makes an empty database and an empty bucket of one name.
    pub fn make_stores(&self, name: &str) -> Result<()> {
        self.managed.database.create_database(name)?;
        self.managed.store.make_bucket(name)
    }

    /// A client of one server, connected.
    pub fn client(&self, name: &str, servers_yaml: PathBuf) -> Result<Client> {
        let mut client = Client::create(venv()?, name, self.directory.path(), &ENCODING)?;
        client.set_servers(&[servers_yaml])?;
        client.start(1).explain(|| self.kubectl.log_tails())?;
        Ok(client)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Pods drain for a while; nobody waits for them. What is left goes with the cluster.
        let _ = self.kubectl.run(&["delete", "namespace", self.kubectl.namespace(), "--wait=false"]);
    }
}

/// A node port that no other story of this run has, nor one of a run whose namespaces are still going.
pub fn node_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() % 200).expect("below 200");
    30_000 + 10 * own + NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The managed services of this run, with names in the cluster; they end with the process.
fn managed(cluster: &Cluster) -> Result<&'static Managed> {
    static MANAGED: OnceLock<Result<Managed, String>> = OnceLock::new();
    let start = || {
        // What another run has left stores in services that are gone.
        cluster.kubectl().run(&["delete", "namespaces", "--selector", STORY, "--wait=false"])?;
        stores::start_managed(cluster, MANAGED_NAMESPACE)
    };
    let managed = MANAGED.get_or_init(|| start().map_err(|error| format!("{error:#}")));
    managed.as_ref().map_err(|error| anyhow!("{error}"))
}
