//! Account: one customer of a server.

mod status;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::SecretKeyRef;

pub use status::{AccountCredential, AccountEffective, AccountStatus, AccountUsage, Binding, CredentialState};

/// One customer of a server: secret addresses, quota, access, lease policy.
#[derive(Clone, Debug, PartialEq, CustomResource, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "leasehold.dev",
    version = "v1alpha1",
    kind = "Account",
    namespaced,
    status = "AccountStatus",
    derive = "PartialEq",
    shortname = "lhaccount",
    category = "leasehold",
    doc = "One customer of a StorageServer. The operator makes a Secret with all that a Tahoe-LAFS client needs.",
    annotation("helm.sh/resource-policy", "keep"),
    selectable = ".status.accountID",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Access", type_ = "string", json_path = ".status.effective.access"),
    printcolumn(name = "Used", type_ = "string", json_path = ".status.usage.storage"),
    printcolumn(name = "Quota", type_ = "string", json_path = ".status.effective.hard"),
    printcolumn(name = "Use%", type_ = "integer", json_path = ".status.usage.percent"),
    printcolumn(name = "Server", type_ = "string", json_path = ".status.target", priority = "1"),
    printcolumn(name = "Last-Seen", type_ = "date", json_path = ".status.lastActivityTime", priority = "1"),
    printcolumn(name = "Secret", type_ = "string", json_path = ".status.secretName", priority = "1"),
    printcolumn(name = "Account-ID", type_ = "string", json_path = ".status.accountID", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "self.serverRef == oldSelf.serverRef", "message": "serverRef cannot be changed, because the account's shares are there; make another Account"},
    { "rule": "has(self.adopt) == has(oldSelf.adopt) && (!has(self.adopt) || self.adopt == oldSelf.adopt)", "message": "adopt can only be set when the Account is made"},
]))]
#[serde(rename_all = "camelCase")]
pub struct AccountSpec {
    /// The StorageServer; one of another namespace only if it allows this one. Cannot be changed.
    pub server_ref: ServerRef,
    /// A name for people, shown to the customer; never in logs or metrics. The Account's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 120), regex(pattern = r"^[^\x00-\x1f\x7f]*$"))]
    pub display_name: Option<String>,
    /// What the account may do: the customer's own switch.
    #[serde(default)]
    pub access: Access,
    /// The provider's switch; the stricter of the two wins.
    #[serde(default)]
    pub administrative: Administrative,
    /// How much it may store; as much as there is room for if absent.
    #[serde(default)]
    pub quota: Quota,
    /// How long its leases hold.
    #[serde(default)]
    pub leases: AccountLeases,
    /// Its secret addresses.
    #[serde(default)]
    pub credentials: AccountCredentials,
    /// What its client is advised to do; nothing if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<AccountClient>,
    /// What becomes of its leases when it is deleted.
    #[serde(default)]
    pub deletion: Deletion,
    /// A deleted Account of this namespace whose shares and leases this one takes over. Only when the Account is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<Adopt>,
}

/// A deleted Account that is taken over.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct Adopt {
    /// Its `status.accountID`; an event of its deletion named it.
    #[serde(rename = "accountID")]
    #[schemars(length(max = 20), regex(pattern = r"^[1-9][0-9]*$"))]
    pub account_id: String,
}

/// A StorageServer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its namespace; the Account's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// What an account may do, from most to least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum Access {
    /// Everything.
    #[default]
    ReadWrite,
    /// Reads and lease renewals, no new bytes.
    ReadOnly,
    /// Reads at most; leases cannot be renewed and do not lapse.
    Disabled,
}

impl Access {
    /// The word, as the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadWrite => "ReadWrite",
            Self::ReadOnly => "ReadOnly",
            Self::Disabled => "Disabled",
        }
    }
}

/// The provider's switch. Changing it needs the verb `administer` on the Account, where admission policies are installed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Administrative {
    /// What the account may do at most.
    pub access: Access,
    /// A text that the customer can read.
    #[schemars(length(max = 256), regex(pattern = r"^[^\x00-\x1f\x7f]*$"))]
    pub message: String,
}

/// How much an account may store.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "!has(self.hard) || (isQuantity(string(self.hard)) && quantity(string(self.hard)).isGreaterThan(quantity('0')))", "message": "quota.hard must be an amount above 0, such as 50Gi; to stop new uploads set access: ReadOnly"},
    { "rule": "!has(self.soft) || isQuantity(string(self.soft))", "message": "quota.soft must be an amount, such as 45Gi"},
    { "rule": "!has(self.soft) || !has(self.hard) || !isQuantity(string(self.soft)) || !isQuantity(string(self.hard)) || quantity(string(self.soft)).compareTo(quantity(string(self.hard))) <= 0", "message": "quota.soft must not be above quota.hard"},
]))]
#[serde(rename_all = "camelCase", default)]
pub struct Quota {
    /// The most bytes that its shares and its unfinished uploads may come to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hard: Option<Quantity>,
    /// From here on a condition warns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft: Option<Quantity>,
}

/// How long leases hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "self.mode == 'AccountCheckIn' || !has(self.checkInDays)", "message": "checkInDays only counts with mode AccountCheckIn; remove it or set the mode"},
]))]
#[serde(rename_all = "camelCase", default)]
pub struct AccountLeases {
    /// What keeps a lease.
    pub mode: LeaseMode,
    /// Days that a renewal promises where that is more than the server's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 31, max = 3650))]
    pub days: Option<i32>,
    /// With `AccountCheckIn`: days after the account was last used that its leases hold; 90 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 31, max = 3650))]
    pub check_in_days: Option<i32>,
}

/// What keeps a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum LeaseMode {
    /// Its own renewal.
    #[default]
    PerLease,
    /// Any use of the account.
    AccountCheckIn,
    /// The account, as long as it exists.
    Never,
}

impl LeaseMode {
    /// The word, as the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PerLease => "PerLease",
            Self::AccountCheckIn => "AccountCheckIn",
            Self::Never => "Never",
        }
    }
}

/// Secret addresses.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "self.generation >= oldSelf.generation && self.generation <= oldSelf.generation + 1", "message": "credentials.generation can only be raised, by one: each step is one rotation"},
    { "rule": "has(self.secretName) == has(oldSelf.secretName) && (!has(self.secretName) || self.secretName == oldSelf.secretName)", "message": "credentials.secretName cannot be changed, because clients read that Secret; make another Account"},
    { "rule": "has(self.importFrom) == has(oldSelf.importFrom) && (!has(self.importFrom) || self.importFrom == oldSelf.importFrom)", "message": "credentials.importFrom can only be set when the Account is made"},
]))]
#[serde(rename_all = "camelCase", default)]
pub struct AccountCredentials {
    /// The Secret that the operator makes; `NAME-tahoe` if absent. Cannot be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// Raise it by one to get a new secret address.
    #[schemars(range(min = 1))]
    pub generation: i64,
    /// How long the old address stays valid after that; 0 revokes it at once.
    #[schemars(range(min = 0, max = 8760))]
    pub overlap_hours: i32,
    /// A swissnum to begin with, of an account that moves here. Only when the Account is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub import_from: Option<SecretKeyRef>,
    /// What the Secret carries beside what the operator sets.
    pub secret_metadata: ObjectMetadata,
}

impl Default for AccountCredentials {
    fn default() -> Self {
        Self {
            secret_name: None,
            generation: 1,
            overlap_hours: 336,
            import_from: None,
            secret_metadata: ObjectMetadata::default(),
        }
    }
}

/// Labels and annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMetadata {
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What a client is advised to do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "self.sharesNeeded <= self.sharesHappy && self.sharesHappy <= self.sharesTotal", "message": "sharesNeeded must not be above sharesHappy, nor sharesHappy above sharesTotal"},
]))]
#[serde(rename_all = "camelCase")]
pub struct AccountClient {
    /// How many shares make a file.
    #[schemars(range(min = 1, max = 255))]
    pub shares_needed: i32,
    /// On how many servers they must be.
    #[schemars(range(min = 1, max = 255))]
    pub shares_happy: i32,
    /// How many are made.
    #[schemars(range(min = 1, max = 255))]
    pub shares_total: i32,
}

/// What becomes of an account's leases when it is deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "self.policy == 'Release' || !has(self.graceDays)", "message": "graceDays only counts with policy Release; remove it or set the policy"},
]))]
#[serde(rename_all = "camelCase", default)]
pub struct Deletion {
    /// Which of the two.
    pub policy: DeletionPolicy,
    /// With `Release`: days until the leases end; 7 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 365))]
    pub grace_days: Option<i32>,
}

/// What becomes of an account's leases when it is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum DeletionPolicy {
    /// They stay and age.
    #[default]
    Retain,
    /// They end soon.
    Release,
}
