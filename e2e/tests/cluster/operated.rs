//! The operator, installed by the chart, and the servers that it makes of custom resources.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use data_encoding::BASE64;
use leasehold_e2e::cluster::kubectl::has_condition;
use leasehold_e2e::cluster::stores::{self, BACKEND, DATABASE, resource};
use leasehold_e2e::cluster::{Cluster, chart};
use leasehold_e2e::gbs::Nurl;
use leasehold_e2e::process::{Explain, wait_until};
use leasehold_e2e::tahoe::Client;
use leasehold_e2e_services::postgres::Row;
use serde_json::{Value, json};

use super::resources::merged;
use super::world::{PODS_TIMEOUT, World, node_port};

/// The name of the one server of a story.
pub const SERVER: &str = "main";

/// Selects the pods of servers in their namespace.
pub const PODS_OF_SERVER: &str = "app.kubernetes.io/component=server";

/// What an account takes is measured and told; it is waited for so long.
const ACCOUNT_TIMEOUT: Duration = Duration::from_secs(120);

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
        let server = Self::declare(name, change, |_| Ok(()))?;
        server.story(|| server.wait_ready("storageserver", SERVER, PODS_TIMEOUT).map(drop))?;
        Ok(server)
    }

    /// As [`Server::start`], without waiting for anything; `prepare` finds the database empty, and no operator knows it yet.
    pub fn declare(name: &str, change: &Value, prepare: impl FnOnce(&World) -> Result<()>) -> Result<Self> {
        let world = World::start(name)?;
        install(&world.cluster)?;
        let port = node_port();
        let mut objects = stores::make(world.managed, world.kubectl.namespace())?;
        let spec = json!({
            "backendRef": {"name": BACKEND},
            "leaseDatabaseRef": {"name": DATABASE},
            "replicas": 2,
            "exposure": {"type": "NodePort", "hosts": ["127.0.0.1"], "port": port, "service": {"nodePort": port}},
            "shutdown": {"endpointPropagationSeconds": 5, "requestSeconds": 20},
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        });
        objects.push(resource("StorageServer", SERVER, merged(spec, change)));
        prepare(&world)?;
        world.kubectl.apply_all(&objects)?;
        Ok(Self { world })
    }

    /// A server with two pods that stories use together which change nothing but accounts of their own. Its namespace goes with
    /// the cluster, or when stories are told the next time.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<Server, String>> = OnceLock::new();
        let start = || {
            let selector = json!({"matchLabels": {"tahoe-customers": "yes"}});
            Self::start(
                "shared",
                &json!({"accounts": {"allowedNamespaces": {"from": "Selector", "selector": selector}}}),
            )
        };
        let shared = SHARED.get_or_init(|| start().map_err(|error| format!("{error:#}")));
        shared.as_ref().map_err(|error| anyhow!("{error}"))
    }

    /// Runs a story, and demands that no secret was told while it went on; its failure comes with what the pods and the operator
    /// have to say.
    pub fn story(&self, story: impl FnOnce() -> Result<()>) -> Result<()> {
        let told = self.world.story(|| story().and_then(|()| super::secrets::expect_untold(&self.world)));
        told.explain(|| {
            let operator = self.world.cluster.kubectl().in_namespace(chart::NAMESPACE).log_tails();
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

    /// Runs one of the server's jobs now, and gives what it said; whether it came to a good end.
    pub fn run_job(&self, kind: &str) -> Result<(bool, String)> {
        static COUNT: AtomicU16 = AtomicU16::new(0);
        let job = format!("{kind}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.world.kubectl.run(&["create", "job", &job, &format!("--from=cronjob/{SERVER}-{kind}")])?;
        let ended = self.world.kubectl.wait(&["job", &job], "has ended", PODS_TIMEOUT, |found| {
            has_condition(found, "Complete") || has_condition(found, "Failed") || found["status"]["failed"].is_number()
        })?;
        let said = self.world.kubectl.run(&["logs", &format!("job/{job}")])?;
        // Once is enough: it would be started again.
        self.world.kubectl.run(&["delete", "job", &job, "--wait=false"])?;
        Ok((has_condition(&ended, "Complete"), said))
    }

    /// Asks the server's database, as its owner would.
    pub fn query(&self, sql: &str) -> Result<Vec<Row>> {
        self.world
            .managed
            .database
            .query(self.world.kubectl.namespace(), &format!("SET search_path TO leasehold; {sql}"))
    }

    /// The names of the pods that serve or are ending.
    pub fn pods(&self) -> Result<Vec<String>> {
        let pods = self.pod_objects()?;
        Ok(pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).map(str::to_owned).collect())
    }

    /// The same pods as objects.
    pub fn pod_objects(&self) -> Result<Vec<Value>> {
        let mut pods = self.world.kubectl.get(&["pods", "--selector", PODS_OF_SERVER])?;
        serde_json::from_value(pods["items"].take()).context("a list of pods")
    }

    /// Who the pods are: a pod that was replaced under its old name is another one.
    pub fn pod_uids(&self) -> Result<String> {
        let uids = "--output=jsonpath={.items[*].metadata.uid}";
        self.world.kubectl.run(&["get", "pods", "--selector", PODS_OF_SERVER, uids])
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

/// The number in a row of one, by itself.
pub fn count(rows: &[Row]) -> Result<u64> {
    let first = rows.last().and_then(|row| row.first()).and_then(Option::as_ref);
    Ok(first.context("no row")?.parse()?)
}

/// Installs the chart, once for all stories; what an earlier run installed is brought up to date.
pub fn install(cluster: &Cluster) -> Result<()> {
    static INSTALLED: OnceLock<Result<(), String>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| install_chart(cluster).map_err(|error| format!("{error:#}")));
    installed.as_ref().copied().map_err(|error| anyhow!("{error}"))
}

fn install_chart(cluster: &Cluster) -> Result<()> {
    let begin = Instant::now();
    chart::install(cluster)?;
    println!("chart: installed after {:.1} s", begin.elapsed().as_secs_f64());
    Ok(())
}
