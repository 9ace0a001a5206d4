//! StorageBackend: where shares live.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{ConfigMapKeyRef, LocalRef};

/// An S3 bucket, or a folder of one, that holds the shares of one StorageServer.
#[derive(Clone, Debug, PartialEq, CustomResource, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "leasehold.dev",
    version = "v1alpha1",
    kind = "StorageBackend",
    namespaced,
    status = "StorageBackendStatus",
    derive = "PartialEq",
    shortname = "lhbackend",
    category = "leasehold",
    doc = "Where shares live: an S3 bucket, or a folder of one. Deleting it never touches what is stored.",
    annotation("helm.sh/resource-policy", "keep"),
    printcolumn(name = "Bucket", type_ = "string", json_path = ".spec.s3.bucket"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Used", type_ = "string", json_path = ".status.usage.storage"),
    printcolumn(name = "Shares", type_ = "integer", json_path = ".status.usage.shares"),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".status.endpoint", priority = "1"),
    printcolumn(name = "Probed", type_ = "date", json_path = ".status.probe.lastSuccessTime", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct StorageBackendSpec {
    /// The S3 bucket.
    pub s3: S3,
    /// How often the operator tries out what it relies on.
    #[serde(default)]
    pub probe: Probe,
}

/// An S3 bucket, of Amazon or of anybody who speaks like it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "self.bucket == oldSelf.bucket", "message": "the bucket cannot be changed, because shares are in it; make another StorageBackend and another StorageServer"},
    { "rule": "self.prefix == oldSelf.prefix", "message": "the prefix cannot be changed, because shares are under it; make another StorageBackend and another StorageServer"},
    { "rule": "!has(self.endpoint) || self.endpoint.startsWith('https://') || (self.allowInsecure && self.endpoint.startsWith('http://'))", "message": "endpoint must begin with https://; for a test without TLS set allowInsecure: true"},
]))]
#[serde(rename_all = "camelCase")]
pub struct S3 {
    /// The S3 bucket's name. Cannot be changed.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub bucket: String,
    /// What the names of all objects begin with: nothing, or folders with their final slash, such as `grids/eu/`. Cannot be
    /// changed.
    #[serde(default)]
    #[schemars(length(max = 512), regex(pattern = r"^([A-Za-z0-9._-]+/)*$"))]
    pub prefix: String,
    /// The region that requests are signed for; stores that have none take any.
    #[serde(default = "default_region")]
    #[schemars(length(min = 1, max = 64))]
    pub region: String,
    /// The store's address, `https://HOST` or `https://HOST:PORT`; Amazon's for the region if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub endpoint: Option<String>,
    /// Allows an endpoint without TLS. Whoever is on the way can then read and change what is stored.
    #[serde(default)]
    pub allow_insecure: bool,
    /// How requests name the S3 bucket.
    #[serde(default)]
    pub addressing: Addressing,
    /// Which requests carry a checksum beside the signature.
    #[serde(default)]
    pub checksums: Checksums,
    /// Who asks.
    #[serde(default)]
    pub credentials: S3Credentials,
    /// Who may vouch for the endpoint; the system's authorities if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<S3Tls>,
    /// How patient and how busy each pod is.
    #[serde(default)]
    pub requests: S3Requests,
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

/// How requests name the S3 bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Addressing {
    /// By host name at Amazon, in the path where an endpoint is set.
    #[default]
    Auto,
    /// In the path.
    Path,
    /// By host name.
    VirtualHosted,
}

/// Which requests carry a checksum beside the signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Checksums {
    /// All that can.
    #[default]
    Default,
    /// Only those that must: for stores that refuse checksums they do not know.
    WhenRequired,
}

/// Who asks the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "has(self.secretRef) == (self.type == 'Secret')", "message": "set secretRef exactly when type is Secret: a Secret with the keys accessKeyID and secretAccessKey"},
]))]
#[serde(rename_all = "camelCase")]
pub struct S3Credentials {
    /// Where the credentials come from.
    #[serde(default, rename = "type")]
    pub type_: CredentialsType,
    /// A Secret with the keys `accessKeyID` and `secretAccessKey`. Pods notice a change without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalRef>,
}

/// Where credentials come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum CredentialsType {
    /// The pods' own identity: their ServiceAccount, as the cloud knows it.
    #[default]
    WorkloadIdentity,
    /// A Secret.
    Secret,
}

/// Who may vouch for the endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3Tls {
    /// A key of a ConfigMap with the only authorities, in PEM.
    pub ca_bundle_ref: ConfigMapKeyRef,
}

/// How patient and how busy each pod is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct S3Requests {
    /// How long the store may be silent in the middle of an answer.
    #[schemars(range(min = 1, max = 600))]
    pub timeout_seconds: i32,
    /// How often a request is sent before it counts as failed.
    #[schemars(range(min = 1, max = 20))]
    pub max_attempts: i32,
    /// Requests of one pod at once; more wait.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_concurrent_per_pod: i32,
}

impl Default for S3Requests {
    fn default() -> Self {
        Self { timeout_seconds: 30, max_attempts: 5, max_concurrent_per_pod: 64 }
    }
}

/// How often the operator tries out what it relies on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Probe {
    /// Minutes between probes that succeed; after one that fails, the next comes within a minute.
    #[schemars(range(min = 1, max = 1440))]
    pub interval_minutes: i32,
}

impl Default for Probe {
    fn default() -> Self {
        Self { interval_minutes: 60 }
    }
}

/// What the operator has found out.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageBackendStatus {
    /// The generation of the spec that this describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where requests go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The last probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<BackendProbeStatus>,
    /// What is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<BackendUsage>,
    /// StorageServers that refer to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used_by: Vec<String>,
    /// How it stands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A probe: put, ranged get, list and delete of an object of its own.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendProbeStatus {
    /// When all of it last worked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success_time: Option<Time>,
    /// A digest of the settings and credentials that worked then.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub settings: String,
}

/// What is stored, by the lease database's count.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendUsage {
    /// Bytes leased, as people read them. A share that several accounts lease counts for each.
    pub storage: String,
    /// Shares leased.
    pub shares: i64,
    /// When this was counted.
    pub measured_at: Time,
}
