//! What the operator has found out about a server.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator has found out.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageServerStatus {
    /// The generation of the spec that this describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The server id, by which clients order servers. Permanent.
    #[serde(default, rename = "serverID", skip_serializing_if = "Option::is_none")]
    pub server_id: Option<String>,
    /// The tub id, from which clients derive write enablers. Permanent.
    #[serde(default, rename = "tubID", skip_serializing_if = "Option::is_none")]
    pub tub_id: Option<String>,
    /// The hash of the TLS key, which clients pin. Permanent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spki_hash: Option<String>,
    /// Hosts that clients are told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Where the Service is reached: its balancer's address, or its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// How many pods there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// How many of them are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// How many of them run the present template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_replicas: Option<i32>,
    /// Ready and wanted pods, as people read them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// What selects the pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// What the pods run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// How many accounts there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accounts: Option<ServerAccountsStatus>,
    /// What all accounts use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<ServerUsage>,
    /// The last run of each job, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub maintenance: BTreeMap<String, RunResult>,
    /// How it stands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// How many accounts there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerAccountsStatus {
    /// All, the built-in ones left out.
    pub total: i64,
    /// At or over their quota.
    pub over_quota: i64,
    /// Suspended.
    pub suspended: i64,
}

/// What all accounts use.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerUsage {
    /// Bytes leased, as people read them. A share that several accounts lease counts for each.
    pub storage: String,
    /// The same in bytes.
    pub storage_bytes: i64,
    /// Shares leased.
    pub shares: i64,
    /// When this was counted.
    pub measured_at: Time,
}

/// A run of a job.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunResult {
    /// Its number; `leasehold allow` and the annotation `leasehold.dev/allow-deletions` name it.
    #[serde(rename = "runID")]
    pub run_id: String,
    /// `running`, `done`, `braked`, `failed` or `abandoned`.
    pub last_result: String,
    /// When it began.
    pub last_start: Time,
    /// When the last one that came to its end did so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<Time>,
    /// Why it ended as it did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}
