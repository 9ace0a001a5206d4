//! What is made for Prometheus, where the cluster knows these kinds.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use leasehold_crds::Switch;
use serde::{Deserialize, Serialize};

use super::super::validate::Validated;
use super::SERVER;
use crate::error::{Error, Result};
use crate::names::selector;

/// Where Prometheus finds the metrics of pods; the part of it that we use.
#[derive(Clone, Debug, PartialEq, CustomResource, Deserialize, Serialize)]
#[kube(group = "monitoring.coreos.com", version = "v1", kind = "PodMonitor", namespaced, schema = "disabled")]
#[serde(rename_all = "camelCase")]
pub struct PodMonitorSpec {
    /// Which pods.
    pub selector: LabelSelector,
    /// Where in them.
    pub pod_metrics_endpoints: Vec<PodMetricsEndpoint>,
}

/// Where in a pod metrics are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PodMetricsEndpoint {
    /// The port's name.
    pub port: String,
    /// The path.
    pub path: String,
}

/// Alerts; the part of them that we use.
#[derive(Clone, Debug, PartialEq, CustomResource, Deserialize, Serialize)]
#[kube(group = "monitoring.coreos.com", version = "v1", kind = "PrometheusRule", namespaced, schema = "disabled")]
pub struct PrometheusRuleSpec {
    /// Groups of rules.
    pub groups: Vec<Group>,
}

/// A file of rules.
#[derive(Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

/// Rules that are evaluated together.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Group {
    /// What they are about.
    pub name: String,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// An alert.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Rule {
    /// Its name.
    pub alert: String,
    /// What must hold.
    pub expr: String,
    /// For how long.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// What alerts are sorted by.
    pub labels: BTreeMap<String, String>,
    /// What people read.
    pub annotations: BTreeMap<String, String>,
}

pub(super) fn pod_monitor(validated: &Validated) -> Option<PodMonitor> {
    let name = &validated.owner.key.name;
    let wanted = validated.has_monitoring && validated.spec.monitoring.pod_monitor == Switch::Auto;
    wanted.then(|| PodMonitor {
        metadata: validated.owner.owned(name, SERVER),
        spec: PodMonitorSpec {
            selector: selector(name, SERVER),
            pod_metrics_endpoints: vec![PodMetricsEndpoint { port: "metrics".to_owned(), path: "/metrics".to_owned() }],
        },
    })
}

/// The alerts of a server, as a file of rules with blanks.
const RULES: &str = include_str!("../../../../charts/leasehold/files/server-alerts.yaml");

pub(super) fn prometheus_rule(validated: &Validated) -> Result<Option<PrometheusRule>> {
    if !validated.has_monitoring || validated.spec.monitoring.prometheus_rule != Switch::Auto {
        return Ok(None);
    }
    let key = &validated.owner.key;
    // Only pods of its Deployment: those of another server may begin with the same name.
    let pods = format!(r#"namespace="{}",pod=~"{}-[a-z0-9]+-[a-z0-9]+""#, key.namespace, key.name);
    let text = RULES.replace("PODS", &pods).replace("SERVER", &key.name);
    let mut rules: Rules = serde_saphyr::from_str(&text).map_err(|_| Error::Encode("the alerts of a server"))?;
    for rule in rules.groups.iter_mut().flat_map(|group| &mut group.rules) {
        rule.labels.insert("server".to_owned(), key.to_string());
        if let Some(base) = &validated.runbook_url {
            rule.annotations.insert("runbook_url".to_owned(), format!("{base}#{}", rule.alert.to_lowercase()));
        }
    }
    let metadata = validated.owner.owned(&key.name, SERVER);
    Ok(Some(PrometheusRule { metadata, spec: PrometheusRuleSpec { groups: rules.groups } }))
}
