//! How pods run.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// As many pods as there is work for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "self.minReplicas <= self.maxReplicas", "message": "minReplicas must not be above maxReplicas"},
]))]
#[serde(rename_all = "camelCase", default)]
pub struct Autoscaling {
    /// The fewest pods.
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: i32,
    /// The most pods; lowered to what the lease database's connections allow.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// How busy pods shall be, in percent of the CPU they request.
    #[serde(rename = "targetCPUUtilizationPercent")]
    #[schemars(range(min = 1, max = 100))]
    pub target_cpu_utilization_percent: i32,
    /// How fast pods are taken away.
    pub scale_down: ScaleDown,
}

impl Default for Autoscaling {
    fn default() -> Self {
        Self { min_replicas: 2, max_replicas: 10, target_cpu_utilization_percent: 65, scale_down: ScaleDown::default() }
    }
}

/// How fast pods are taken away.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ScaleDown {
    /// How long there must be too little work first.
    #[schemars(range(min = 0, max = 3600))]
    pub stabilization_seconds: i32,
    /// How many pods go in a minute.
    #[schemars(range(min = 1, max = 100))]
    pub pods_per_minute: i32,
}

impl Default for ScaleDown {
    fn default() -> Self {
        Self { stabilization_seconds: 300, pods_per_minute: 1 }
    }
}

/// How a pod ends: it serves on while balancers notice, then asks clients to leave with every answer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Shutdown {
    /// How long balancers may go on sending new connections.
    #[schemars(range(min = 1, max = 600))]
    pub endpoint_propagation_seconds: i32,
    /// How long clients then have to leave.
    #[schemars(range(min = 1, max = 3600))]
    pub request_seconds: i32,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { endpoint_propagation_seconds: 15, request_seconds: 65 }
    }
}

/// Whether something is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Switch {
    /// If the cluster knows its kind.
    #[default]
    Auto,
    /// Not at all.
    Disabled,
}

/// What is made for Prometheus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Monitoring {
    /// A PodMonitor.
    pub pod_monitor: Switch,
    /// A PrometheusRule with the server's alerts.
    pub prometheus_rule: Switch,
}

/// Who may talk to pods, and to whom they may.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicySettings {
    /// Whether there is a NetworkPolicy.
    pub mode: NetworkPolicyMode,
    /// Namespaces that may read metrics; all if empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitoring_namespace_selector: Option<LabelSelector>,
}

/// Whether there is a NetworkPolicy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum NetworkPolicyMode {
    /// Pods reach DNS, the lease database and the store, and are reached by clients and monitoring; nothing else.
    #[default]
    Enabled,
    /// There is none.
    Disabled,
}

/// On which nodes pods run. They are spread over zones and hosts in any case.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Scheduling {
    /// Labels that a node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that pods put up with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// An affinity, as pods write it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub affinity: Option<Value>,
    /// A PriorityClass; the cluster's default if empty.
    pub priority_class_name: String,
}

/// The API server checks an affinity where it is used; repeating its schema would make the definition ten times as long.
fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "An affinity, as pods write it.",
        "type": "object",
        "nullable": true,
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

/// What pods carry beside what the operator sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodMetadata {
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What the pods' ServiceAccount carries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceAccountMetadata {
    /// Annotations by which a cloud gives pods an identity.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What pods run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Image {
    /// The repository; the operator's pair if empty.
    pub repository: String,
    /// The tag; the operator's pair if empty.
    pub tag: String,
    /// The digest, `sha256:…`; wins over the tag.
    #[schemars(regex(pattern = "^$|^sha256:[0-9a-f]{64}$"))]
    pub digest: String,
    /// When nodes pull it.
    pub pull_policy: PullPolicy,
    /// Secrets for the registry.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pull_secrets: Vec<crate::common::LocalRef>,
}

/// When nodes pull an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum PullPolicy {
    /// Always.
    Always,
    /// If they do not have it.
    #[default]
    IfNotPresent,
    /// Never.
    Never,
}

impl PullPolicy {
    /// The word that pods use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// When pods get a new version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Updates {
    /// Who decides.
    pub policy: UpdatePolicy,
}

/// Who decides when pods get a new version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum UpdatePolicy {
    /// They follow the operator.
    #[default]
    WithOperator,
    /// They run `image`, and an upgrade of the operator never restarts them: what it would change waits for the next change of
    /// the spec. The condition `UpdateWaiting` tells.
    Manual,
}
