//! What the operator has found out about an account.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator has found out.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountStatus {
    /// The generation of the spec that this describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The account's number in its server's lease database. Permanent; never derived from the name.
    #[serde(default, rename = "accountID", skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// The server, `NAMESPACE/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The Secret for the customer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// The same, as Service Binding wants to find it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
    /// What holds, all things considered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective: Option<AccountEffective>,
    /// What it uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<AccountUsage>,
    /// When one of its addresses was last used, to within some minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_activity_time: Option<Time>,
    /// Its secret addresses, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<AccountCredential>,
    /// How it stands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A Secret, as Service Binding wants to find it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct Binding {
    /// Its name.
    pub name: String,
}

/// What holds, all things considered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountEffective {
    /// What it may do.
    pub access: String,
    /// The quota, as people read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard: Option<String>,
    /// What keeps its leases.
    pub lease_mode: String,
    /// Days that a renewal promises.
    pub lease_days: i64,
}

/// What an account uses. Written when it has moved by a percent of the quota or when something else changes.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountUsage {
    /// Bytes leased, as people read them.
    pub storage: String,
    /// The same in bytes.
    pub storage_bytes: i64,
    /// Bytes of unfinished uploads.
    pub reserved_bytes: i64,
    /// Shares leased.
    pub shares: i64,
    /// Percent of the quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<i64>,
    /// When this was counted.
    pub measured_at: Time,
}

/// A secret address.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountCredential {
    /// `spec.credentials.generation` when it was made, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// The first digits of its hash: safe to quote.
    pub fingerprint: String,
    /// Whether it stays.
    pub state: CredentialState,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retires_at: Option<Time>,
    /// When it was last used, to within some minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_time: Option<Time>,
}

/// Whether a secret address stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum CredentialState {
    /// It does.
    Active,
    /// It ends at a set time.
    Retiring,
}
