//! The operator, installed by the chart, and the servers that it makes of custom resources.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use data_encoding::BASE64;
use leasehold_e2e::cluster::Cluster;
use leasehold_e2e::cluster::kubectl::has_condition;
use leasehold_e2e::gbs::Nurl;
use leasehold_e2e::image::product::TAG;
use leasehold_e2e::process::{run_ok, wait_until};
use leasehold_e2e::tahoe::Client;
use leasehold_e2e::venv::workspace_root;
use serde_json::{Value, json};

use super::resources::{merged, resource};
use super::world::{PODS_TIMEOUT, World, database_host, node_port, store_host};

/// The release of the chart, and where it is installed.
pub const RELEASE: &str = "leasehold";
pub const OPERATOR_NAMESPACE: &str = "leasehold-system";

/// The name of the one server of a story.
pub const SERVER: &str = "main";

/// What an account takes is measured and told; it is waited for so long.
const ACCOUNT_TIMEOUT: Duration = Duration::from_secs(120);
const HELM_TIMEOUT: Duration = Duration::from_secs(300);

/// A role of the database and what it may do is what a person who installs would make: an owner, and three with less.
const ROLES: [&str; 4] = ["owner", "server", "operator", "maintenance"];

/// A server in a namespace of its own.
pub struct Server {
    pub world: World,
}

/// An account and what its owner was given.
pub struct Account {
    pub name: String,
    pub nurl: Nurl,
    pub servers_yaml: PathBuf,
}

impl Server {
    /// Makes a server with two pods whose spec has `change` over the least that is accepted; returns when it is ready.
    pub fn start(name: &str, change: &Value) -> Result<Self> {
        let world = World::start(name)?;
        install(&world.cluster)?;
        let stores = world.kubectl.namespace().to_owned();
        world.managed.store.make_bucket(&stores)?;
        let mut objects = make_roles(&world, &stores)?;
        let port = node_port();
        objects.extend(services(&world, &stores)?);
        let spec = json!({
            "backendRef": {"name": "shares"},
            "leaseDatabaseRef": {"name": "leases"},
            "replicas": 2,
            "exposure": {"type": "NodePort", "hosts": ["127.0.0.1"], "port": port, "service": {"nodePort": port}},
            "shutdown": {"endpointPropagationSeconds": 5, "requestSeconds": 20},
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        });
        objects.push(resource("StorageServer", SERVER, merged(spec, change)));
        world.kubectl.apply_all(&objects)?;
        let server = Self { world };
        server.story(|| server.wait_ready("storageserver", SERVER, PODS_TIMEOUT).map(drop))?;
        Ok(server)
    }

    /// Runs a story; its failure comes with what the pods and the operator have to say.
    pub fn story(&self, story: impl FnOnce() -> Result<()>) -> Result<()> {
        let told = self.world.story(story);
        told.with_context(|| {
            let operator = self.world.cluster.kubectl().in_namespace(OPERATOR_NAMESPACE).log_tails("");
            let ours = self.world.kubectl.run(&["get", "leasehold", "--output", "yaml"]);
            format!("{}\n=== operator ===\n{operator}", ours.unwrap_or_else(|error| format!("({error:#})")))
        })
    }

    /// Waits until an object is ready in its newest generation, and gives it.
    pub fn wait_ready(&self, kind: &str, name: &str, within: Duration) -> Result<Value> {
        self.world.kubectl.wait(&[kind, name], "is ready", within, |object| {
            let observed = &object["status"]["observedGeneration"];
            has_condition(object, "Ready") && *observed == object["metadata"]["generation"]
        })
    }

    /// Makes an account, and says how long that took until its owner could be given something.
    pub fn account(&self, name: &str, change: &Value) -> Result<Account> {
        let spec = merged(json!({"serverRef": {"name": SERVER}}), change);
        let begin = Instant::now();
        self.world.kubectl.apply_all(&[resource("Account", name, spec)])?;
        self.wait_ready("account", name, ACCOUNT_TIMEOUT)?;
        let account = self.read_account(name)?;
        println!("account {name}: ready and handed out {:.1} s after it was asked for", begin.elapsed().as_secs_f64());
        Ok(account)
    }

    /// What an account's Secret holds now.
    pub fn read_account(&self, name: &str) -> Result<Account> {
        let secret = self.world.kubectl.get(&["secret", &format!("{name}-tahoe")])?;
        let text = |key: &str| -> Result<String> {
            let encoded = secret["data"][key].as_str().with_context(|| format!("the Secret has no {key}"))?;
            Ok(String::from_utf8(BASE64.decode(encoded.as_bytes())?)?)
        };
        let servers_yaml = self.world.directory.path().join(format!("{name}-servers.yaml"));
        fs::write(&servers_yaml, text("servers.yaml")?)?;
        Ok(Account { name: name.to_owned(), nurl: text("nurl")?.trim().parse()?, servers_yaml })
    }

    /// A client of an account, connected.
    pub fn client(&self, account: &Account) -> Result<Client> {
        self.world.client(&account.name, account.servers_yaml.clone())
    }

    /// Changes the spec of an object.
    pub fn patch(&self, kind: &str, name: &str, spec: &Value) -> Result<()> {
        let patch = json!({"spec": spec}).to_string();
        self.world.kubectl.run(&["patch", kind, name, "--type=merge", "--patch", &patch]).map(drop)
    }

    /// The names of the pods that serve or are ending.
    pub fn pods(&self) -> Result<Vec<String>> {
        let pods = self.world.kubectl.get(&["pods", "--selector", "app.kubernetes.io/component=server"])?;
        let names = pods["items"].as_array().into_iter().flatten().filter_map(|pod| pod["metadata"]["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// Waits until exactly the pods that are wanted are there, and nothing of what was before.
    pub fn wait_pods(&self, count: usize, gone: &[String]) -> Result<()> {
        wait_until(&format!("there are {count} pods, all new"), PODS_TIMEOUT, || {
            let pods = self.pods()?;
            Ok((pods.len() == count && !pods.iter().any(|pod| gone.contains(pod))).then_some(()))
        })?;
        self.world.kubectl.wait_rolled_out(SERVER, PODS_TIMEOUT)
    }
}

/// Installs the chart, once for all stories; what an earlier run installed is brought up to date.
pub fn install(cluster: &Cluster) -> Result<()> {
    static INSTALLED: OnceLock<Result<(), String>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| install_chart(cluster).map_err(|error| format!("{error:#}")));
    installed.as_ref().copied().map_err(|error| anyhow!("{error}"))
}

fn install_chart(cluster: &Cluster) -> Result<()> {
    let begin = Instant::now();
    let kubectl = cluster.kubectl();
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let metadata = json!({"name": OPERATOR_NAMESPACE, "labels": labels});
    kubectl.apply_all(&[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})])?;
    let mut helm = cluster.helm(OPERATOR_NAMESPACE);
    helm.args(["upgrade", "--install", RELEASE]).arg(workspace_root().join("charts").join("leasehold"));
    helm.args(["--wait", "--timeout", "280s"]);
    for (value, text) in [
        ("image.registry", "localhost"),
        ("image.tag", TAG),
        ("serverImage.registry", "localhost"),
        ("serverImage.tag", TAG),
    ] {
        helm.arg("--set-string").arg(format!("{value}={text}"));
    }
    let logs = || kubectl.in_namespace(OPERATOR_NAMESPACE).log_tails("");
    run_ok(&mut helm, HELM_TIMEOUT).with_context(logs)?;
    println!("chart: installed after {:.1} s", begin.elapsed().as_secs_f64());
    Ok(())
}

/// A database with an owner and roles with fewer rights, and a Secret for each.
fn make_roles(world: &World, name: &str) -> Result<Vec<Value>> {
    let database = &world.managed.database;
    let mut secrets = Vec::new();
    for role in ROLES {
        let (user, password) = (format!("{name}-{role}"), format!("{name}-{role}-{}", std::process::id()));
        database.query("postgres", &format!("CREATE ROLE \"{user}\" LOGIN PASSWORD '{password}'"))?;
        let data = json!({"username": user, "password": password});
        secrets.push(secret(&format!("leases-{role}"), data));
    }
    database.query("postgres", &format!("CREATE DATABASE \"{name}\" OWNER \"{name}-owner\""))?;
    Ok(secrets)
}

/// The backend, the lease database and what they refer to.
fn services(world: &World, stores: &str) -> Result<Vec<Value>> {
    let credentials = world.managed.store.credentials();
    let store_authority = json!({"ca.crt": world.managed.store_authority()?});
    let store_port = world.managed.store_proxy.address().port();
    let database_port = world.managed.database_proxy.address().port();
    let roles = ROLES.map(|role| (role.to_owned(), json!({"secretRef": {"name": format!("leases-{role}")}})));
    let backend = json!({"s3": {
        "bucket": stores,
        "endpoint": format!("https://{}:{store_port}", store_host()),
        "credentials": {"type": "Secret", "secretRef": {"name": "shares-s3"}},
        "tls": {"caBundleRef": {"name": "shares-ca", "key": "ca.crt"}},
    }});
    let database = json!({
        "connection": {"parameters": {
            "host": database_host(), "port": database_port, "database": stores,
            "tls": {"mode": "VerifyFull", "caSecretRef": {"name": "leases-ca", "key": "ca.crt"}},
        }},
        "roles": Value::Object(roles.into_iter().collect()),
        "connectionReserve": 5,
        "pool": {"maxPerPod": 8},
    });
    let access = json!({"accessKeyID": credentials.access_key, "secretAccessKey": credentials.secret_key});
    Ok(vec![
        secret("shares-s3", access),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shares-ca"}, "data": store_authority}),
        secret("leases-ca", json!({"ca.crt": world.managed.database_authority()?})),
        resource("StorageBackend", "shares", backend),
        resource("LeaseDatabase", "leases", database),
    ])
}

fn secret(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})
}
