//! A first server and a first account in a cluster that a person has started, to look at and to try things with.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::kubectl::has_condition;
use super::stores::{self, BACKEND, DATABASE, resource};
use super::{Cluster, Daemon};

/// Where the example is.
pub const NAMESPACE: &str = "tahoe";

const NAME: &str = "managed-services";
const MANAGED_NAMESPACE: &str = "managed";
const SERVER: &str = "main";
const ACCOUNT: &str = "alice";
/// The node port of the server, at 127.0.0.1 as well.
const PORT: u16 = 30_443;
const READY_TIMEOUT: Duration = Duration::from_secs(240);

/// The process that has the managed services for its children.
pub fn daemon(cluster: &Cluster) -> Daemon<'_> {
    Daemon::new(NAME, &cluster.layout)
}

/// Starts managed services beside the cluster and a server that uses them; returns when the account is ready.
pub fn start(cluster: &Cluster) -> Result<()> {
    let program = std::env::current_exe().context("find this program")?;
    let mut command = std::process::Command::new(program);
    daemon(cluster).start(command.args(["cluster", "services"]))?;
    let kubectl = cluster.kubectl().in_namespace(NAMESPACE);
    daemon(cluster).wait("the first account is ready", READY_TIMEOUT, || {
        let account = kubectl.get(&["account", ACCOUNT])?;
        anyhow::ensure!(has_condition(&account, "Ready"), "{:#}", account["status"]["conditions"]);
        Ok(())
    })
}

/// What a person who reads the status may do next.
pub fn advice() -> String {
    format!(
        "A server on 127.0.0.1:{PORT} and an account are in the namespace {NAMESPACE}. For a client of the account:\n\n\
         kubectl --namespace {NAMESPACE} get secret {ACCOUNT}-tahoe --output 'jsonpath={{.data.servers\\.yaml}}' \
         | base64 --decode > CLIENT/private/servers.yaml\n"
    )
}

/// Is the managed services: starts them, makes the example's objects, and stays until it is killed. Its children end with
/// it.
pub fn serve(cluster: &Cluster) -> Result<()> {
    let managed = stores::start_managed(cluster, MANAGED_NAMESPACE)?;
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}});
    cluster.kubectl().apply_all(&[namespace])?;
    let mut objects = stores::make(&managed, NAMESPACE)?;
    let server = json!({
        "backendRef": {"name": BACKEND},
        "leaseDatabaseRef": {"name": DATABASE},
        "exposure": {"type": "NodePort", "hosts": ["127.0.0.1"], "port": PORT, "service": {"nodePort": PORT}},
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
    });
    objects.push(resource("StorageServer", SERVER, server));
    objects.push(resource("Account", ACCOUNT, json!({"serverRef": {"name": SERVER}, "quota": {"hard": "10Gi"}})));
    cluster.kubectl().in_namespace(NAMESPACE).apply_all(&objects)?;
    loop {
        thread::park();
    }
}
