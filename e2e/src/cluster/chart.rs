//! The chart, installed from the workspace.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::Cluster;
use crate::image::product::TAG;
use crate::process::run_ok;
use crate::venv::workspace_root;

/// The release of the chart.
pub const RELEASE: &str = "leasehold";
/// Where the operator is.
pub const NAMESPACE: &str = "leasehold-system";

const TIMEOUT: Duration = Duration::from_secs(300);

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
    helm.args(["upgrade", "--install", RELEASE]).arg(workspace_root().join("charts").join("leasehold"));
    helm.args(["--wait", "--timeout", "280s"]);
    for image in ["image", "serverImage"] {
        helm.args(["--set-string", &format!("{image}.registry=localhost,{image}.tag={TAG}")]);
    }
    run_ok(&mut helm, TIMEOUT).with_context(|| kubectl.in_namespace(NAMESPACE).log_tails()).map(drop)
}
