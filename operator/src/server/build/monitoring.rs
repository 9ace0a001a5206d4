//! What is made for Prometheus, where the cluster knows these kinds.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use leasehold_crds::Switch;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::validate::Validated;
use super::SERVER;
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

/// Alerts; the part of it that we use.
#[derive(Clone, Debug, PartialEq, CustomResource, Deserialize, Serialize)]
#[kube(group = "monitoring.coreos.com", version = "v1", kind = "PrometheusRule", namespaced, schema = "disabled")]
pub struct PrometheusRuleSpec {
    /// Groups of rules.
    pub groups: serde_json::Value,
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

/// An alert of one server.
struct Alert {
    name: &'static str,
    /// With `@` for what selects the server's pods.
    expression: &'static str,
    after: &'static str,
    severity: &'static str,
    summary: &'static str,
}

const ALERTS: [Alert; 5] = [
    Alert {
        name: "LeaseholdServerDown",
        expression: "absent(leasehold_draining{@} == 0)",
        after: "2m",
        severity: "critical",
        summary: "No pod of the storage server serves clients.",
    },
    Alert {
        name: "LeaseholdBackgroundFailures",
        expression: "sum(increase(leasehold_background_failures_total{@}[15m])) > 30",
        after: "5m",
        severity: "warning",
        summary: "The lease database or the store fails again and again; the pods' logs say which.",
    },
    Alert {
        name: "LeaseholdAccountCacheStale",
        expression: "max(leasehold_account_cache_age_seconds{@}) > 60",
        after: "1m",
        severity: "critical",
        summary: "Pods cannot refresh accounts: the lease database does not answer. New accounts and changes do not take effect.",
    },
    Alert {
        name: "LeaseholdDatabasePoolSaturated",
        expression: "histogram_quantile(0.99, sum by (le) (rate(leasehold_db_pool_wait_seconds_bucket{@}[5m]))) > 1",
        after: "10m",
        severity: "warning",
        summary: "Requests wait for connections to the lease database: raise pool.maxPerPod, or the number of pods.",
    },
    Alert {
        name: "LeaseholdRejectingConnections",
        expression: "sum(increase(leasehold_http_connections_refused_total{@}[10m])) > 100",
        after: "10m",
        severity: "warning",
        summary: "Pods turn connections away: raise the number of pods or limits.maxConnectionsPerPod.",
    },
];

pub(super) fn prometheus_rule(validated: &Validated) -> Option<PrometheusRule> {
    let key = &validated.owner.key;
    let wanted = validated.has_monitoring && validated.spec.monitoring.prometheus_rule == Switch::Auto;
    wanted.then(|| {
        let pods = format!("namespace=\"{}\",pod=~\"{}-.*\"", key.namespace, key.name);
        let rules = ALERTS.map(|alert| {
            json!({
                "alert": alert.name,
                "expr": alert.expression.replace('@', &pods),
                "for": alert.after,
                "labels": { "severity": alert.severity, "server": key.to_string() },
                "annotations": { "summary": alert.summary },
            })
        });
        PrometheusRule {
            metadata: validated.owner.owned(&key.name, SERVER),
            spec: PrometheusRuleSpec { groups: json!([{ "name": format!("leasehold.{}", key.name), "rules": rules }]) },
        }
    })
}
