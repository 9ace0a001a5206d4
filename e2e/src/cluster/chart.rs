//! The chart, installed from the workspace.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::Cluster;
use crate::image::product::{self, REGISTRY};
use crate::process::{Explain, run_ok};
use crate::venv::workspace_root;

/// The release of the chart.
pub const RELEASE: &str = "leasehold";
/// Where the operator is.
pub const NAMESPACE: &str = "leasehold-system";

const TIMEOUT: Duration = Duration::from_secs(300);

/// Where the chart is.
pub fn folder() -> PathBuf {
    workspace_root().join("charts").join("leasehold")
}

/// Installs the chart with the images of the workspace, or brings it up to date; returns when the operator is ready.
///
/// # Errors
/// With what the operator's pods have to say.
pub fn install(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let metadata = json!({"name": NAMESPACE, "labels": labels});
    kubectl.apply_all(&[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})])?;
    let mut helm = cluster.helm(NAMESPACE);
    helm.args(["upgrade", "--install", RELEASE]).arg(folder()).args(["--wait", "--timeout", "280s"]);
    for (image, program) in [("image", "leasehold-operator"), ("serverImage", "leasehold")] {
        let tag = product::tag(program)?;
        helm.args(["--set-string", &format!("{image}.registry={REGISTRY},{image}.tag={tag}")]);
    }
    run_ok(&mut helm, TIMEOUT).explain(|| kubectl.in_namespace(NAMESPACE).log_tails()).map(drop)
}

/// Changes values of the release (`a.b=x,c=y`) and leaves the others; returns when the operator is ready. [`install`] takes the
/// changes back.
///
/// # Errors
/// With what the operator's pods have to say.
pub fn change(cluster: &Cluster, values: &str) -> Result<()> {
    let mut helm = cluster.helm(NAMESPACE);
    helm.args(["upgrade", RELEASE]).arg(folder()).args(["--reuse-values", "--set", values]);
    helm.args(["--wait", "--timeout", "200s"]);
    run_ok(&mut helm, TIMEOUT).explain(|| cluster.kubectl().in_namespace(NAMESPACE).log_tails()).map(drop)
}
