//! StorageServer: one Tahoe-LAFS storage server as clients see it, served by any number of pods.

mod exposure;
mod jobs;
mod pods;
mod status;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::LocalRef;

pub use exposure::{Exposure, ExposureService, ExposureType, TrafficPolicy};
pub use jobs::{
    AuditSchedule, CollectSchedule, Expiration, ExpirationMode, JobSchedule, Maintenance, ReconcileSchedule, ShareType,
};
pub use pods::{
    Autoscaling, Image, Monitoring, NetworkPolicyMode, NetworkPolicySettings, PodMetadata, PullPolicy, ScaleDown,
    Scheduling, ServiceAccountMetadata, Shutdown, Switch, UpdatePolicy, Updates,
};
pub use status::{RunResult, ServerAccountsStatus, ServerUsage, StorageServerStatus};

use exposure::default_resources;

/// One Tahoe-LAFS storage server as clients see it.
#[derive(Clone, Debug, PartialEq, CustomResource, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "leasehold.dev",
    version = "v1alpha1",
    kind = "StorageServer",
    namespaced,
    status = "StorageServerStatus",
    derive = "PartialEq",
    shortname = "lhserver",
    category = "leasehold",
    doc = "One Tahoe-LAFS storage server as clients see it, served by any number of pods that keep nothing. Its identity is in a Secret that is never changed and never deleted: back it up.",
    annotation("helm.sh/resource-policy", "keep"),
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Replicas", type_ = "string", json_path = ".status.ready"),
    printcolumn(name = "Accounts", type_ = "integer", json_path = ".status.accounts.total"),
    printcolumn(name = "Used", type_ = "string", json_path = ".status.usage.storage"),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.address", priority = "1"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "self.backendRef == oldSelf.backendRef", "message": "backendRef cannot be changed, because the leases are about the shares in it; make another StorageServer"},
    { "rule": "self.leaseDatabaseRef == oldSelf.leaseDatabaseRef", "message": "leaseDatabaseRef cannot be changed, because only this database knows what is in the backend; make another StorageServer"},
    { "rule": "!(has(self.replicas) && has(self.autoscaling))", "message": "set replicas or autoscaling, not both"},
    { "rule": "self.updates.policy != 'Manual' || self.image.tag != '' || self.image.digest != ''", "message": "updates.policy Manual needs image.tag or image.digest: say which version to run"},
]))]
#[serde(rename_all = "camelCase")]
pub struct StorageServerSpec {
    /// Where shares live. Cannot be changed.
    pub backend_ref: LocalRef,
    /// Where leases and accounts live. Cannot be changed.
    pub lease_database_ref: LocalRef,
    /// Who the server is to its clients.
    #[serde(default)]
    pub identity: Identity,
    /// How clients reach it.
    pub exposure: Exposure,
    /// How many pods; two if neither this nor `autoscaling` is set. The scale subresource sets this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
    /// As many pods as there is work for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// What each pod may use of a node.
    #[serde(default = "default_resources")]
    pub resources: k8s_openapi::api::core::v1::ResourceRequirements,
    /// How a pod ends.
    #[serde(default)]
    pub shutdown: Shutdown,
    /// How much of what one client, and all together, may take.
    #[serde(default)]
    pub limits: ShareLimits,
    /// When leases end. Off until asked for.
    #[serde(default)]
    pub expiration: Expiration,
    /// When jobs run.
    #[serde(default)]
    pub maintenance: Maintenance,
    /// Who may have accounts here.
    #[serde(default)]
    pub accounts: ServerAccounts,
    /// What is made for Prometheus.
    #[serde(default)]
    pub monitoring: Monitoring,
    /// Who may talk to pods, and to whom they may.
    #[serde(default)]
    pub network_policy: NetworkPolicySettings,
    /// On which nodes pods run.
    #[serde(default)]
    pub scheduling: Scheduling,
    /// What pods carry beside what the operator sets.
    #[serde(default)]
    pub pod_metadata: PodMetadata,
    /// What the pods' ServiceAccount carries.
    #[serde(default)]
    pub service_account: ServiceAccountMetadata,
    /// What pods run; the operator's own pair if empty.
    #[serde(default)]
    pub image: Image,
    /// When pods get a new version.
    #[serde(default)]
    pub updates: Updates,
}

/// Who the server is to its clients. They pin it for ever.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "has(self.secretName) == has(oldSelf.secretName) && (!has(self.secretName) || self.secretName == oldSelf.secretName)", "message": "identity.secretName cannot be changed: clients would lose the server"},
]))]
#[serde(rename_all = "camelCase", default)]
pub struct Identity {
    /// The Secret with `tls.key`, `tls.crt`, `tub.id` and `node.key`; `NAME-identity` if absent. If it is there already it is used, so
    /// that a server can move here; else it is made. It is never changed and never deleted. Cannot be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// Shown to clients as the server's name.
    #[schemars(length(min = 1, max = 120))]
    pub nickname: String,
}

impl Default for Identity {
    fn default() -> Self {
        Self { secret_name: None, nickname: "Leasehold".to_owned() }
    }
}

/// How much of what one client, and all together, may take.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "quantity(string(self.maxImmutableShareSize)).isGreaterThan(quantity('0')) && quantity(string(self.maxMutableShareSize)).isGreaterThan(quantity('0'))", "message": "share sizes must be above 0"},
]))]
#[serde(rename_all = "camelCase", default)]
pub struct ShareLimits {
    /// The largest immutable share.
    pub max_immutable_share_size: Quantity,
    /// The largest mutable share.
    pub max_mutable_share_size: Quantity,
    /// How long an upload may rest before its space is free again.
    #[schemars(range(min = 1, max = 1440))]
    pub upload_idle_minutes: i32,
    /// Connections served at once by one pod.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_connections_per_pod: i32,
    /// How long a request's head may take to arrive.
    #[schemars(range(min = 1, max = 600))]
    pub header_timeout_seconds: i32,
    /// The slowest that a body may arrive on average.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub min_body_bytes_per_second: i32,
}

impl Default for ShareLimits {
    fn default() -> Self {
        Self {
            max_immutable_share_size: Quantity("1Ti".to_owned()),
            max_mutable_share_size: Quantity("64Gi".to_owned()),
            upload_idle_minutes: 30,
            max_connections_per_pod: 4096,
            header_timeout_seconds: 10,
            min_body_bytes_per_second: 1024,
        }
    }
}

/// Who may have accounts here.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerAccounts {
    /// Namespaces whose Accounts may refer to this server.
    pub allowed_namespaces: AllowedNamespaces,
}

/// Namespaces whose Accounts may refer to a server.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "has(self.selector) == (self.from == 'Selector')", "message": "set selector exactly when from is Selector"},
]))]
#[serde(rename_all = "camelCase", default)]
pub struct AllowedNamespaces {
    /// Which.
    pub from: AllowedFrom,
    /// The labels that a namespace must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Which namespaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum AllowedFrom {
    /// The server's own.
    #[default]
    Same,
    /// Every one.
    All,
    /// Those with certain labels.
    Selector,
}
