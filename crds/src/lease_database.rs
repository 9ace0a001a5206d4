//! LeaseDatabase: where leases and accounts live.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{LocalRef, SecretKeyRef};

/// A PostgreSQL database, versions 14 to 18, that somebody else runs.
#[derive(Clone, Debug, PartialEq, CustomResource, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "leasehold.dev",
    version = "v1alpha1",
    kind = "LeaseDatabase",
    namespaced,
    status = "LeaseDatabaseStatus",
    derive = "PartialEq",
    shortname = "lhdb",
    category = "leasehold",
    doc = "Where leases and accounts live: a PostgreSQL database that somebody else runs. Deleting it drops nothing.",
    annotation("helm.sh/resource-policy", "keep"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Postgres", type_ = "string", json_path = ".status.serverVersion"),
    printcolumn(name = "Schema", type_ = "integer", json_path = ".status.schemaVersion.current"),
    printcolumn(name = "Accounts", type_ = "integer", json_path = ".status.accounts"),
    printcolumn(name = "Connections", type_ = "integer", json_path = ".status.connections.budget", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "self.schema == oldSelf.schema", "message": "the schema cannot be changed, because the tables are in it; make another LeaseDatabase and another StorageServer"},
]))]
#[serde(rename_all = "camelCase")]
pub struct LeaseDatabaseSpec {
    /// How to reach it.
    pub connection: Connection,
    /// Who asks, for what. Roles that are absent are stood in for by `owner`, with more rights than they need.
    pub roles: DatabaseRoleRefs,
    /// The schema with this deployment's tables. Several servers may share a database, each with a schema of its own.
    /// Cannot be changed.
    #[serde(default = "default_schema")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z_][a-z0-9_]*$"))]
    pub schema: String,
    /// Connections of each pod.
    #[serde(default)]
    pub pool: Pool,
    /// Connections left for people and the provider.
    #[serde(default = "default_reserve")]
    #[schemars(range(min = 0, max = 10_000))]
    pub connection_reserve: i32,
    /// Whether a commit that was acknowledged survives the primary's death.
    #[serde(default)]
    pub replication: Replication,
    /// Who brings the schema up to date.
    #[serde(default)]
    pub migrations: Migrations,
    /// Copies of the lease database, kept beside the shares.
    #[serde(default)]
    pub backup: Backup,
}

fn default_schema() -> String {
    "leasehold".to_owned()
}

const fn default_reserve() -> i32 {
    20
}

/// How to reach the database.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// Host, port and name.
    pub parameters: ConnectionParameters,
}

/// Host, port and name of a database.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionParameters {
    /// Host name or address of the primary; never of a standby.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9.:_-]+$"))]
    pub host: String,
    /// Port.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,
    /// The database's name.
    #[schemars(length(min = 1, max = 63))]
    pub database: String,
    /// How the connection is protected.
    pub tls: DatabaseTls,
    /// What stands between the pods and PostgreSQL.
    #[serde(default)]
    pub pooler: Pooler,
}

const fn default_port() -> i32 {
    5432
}

/// What stands between the pods and PostgreSQL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Pooler {
    /// Nothing, or something that gives each client a connection of its own.
    #[default]
    None,
    /// PgBouncer or its like, in transaction mode. Time limits and search path must then be set for the roles themselves.
    Transaction,
}

/// How the connection is protected.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "has(self.caSecretRef) == (self.mode == 'VerifyFull' || self.mode == 'VerifyCA')", "message": "set caSecretRef exactly when mode is VerifyFull or VerifyCA: a key of a Secret with the authorities in PEM"},
]))]
#[serde(rename_all = "camelCase")]
pub struct DatabaseTls {
    /// What is checked.
    #[serde(default)]
    pub mode: TlsMode,
    /// The authorities that may vouch for the server, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
}

/// What is checked of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum TlsMode {
    /// An authority vouches for the server and its name.
    #[default]
    VerifyFull,
    /// An authority vouches for the server, whatever its name.
    #[serde(rename = "VerifyCA")]
    VerifyCa,
    /// Encrypted, to whoever answers.
    Require,
    /// Not encrypted.
    Disable,
}

/// Who asks, for what.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseRoleRefs {
    /// Owns the schema and migrates it.
    pub owner: RoleRef,
    /// The pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<RoleRef>,
    /// The operator: accounts, credentials and usage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<RoleRef>,
    /// Jobs: expiry, collection, reconciliation, audit, backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<RoleRef>,
}

/// A role and its password.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoleRef {
    /// A Secret with the keys `username` and `password`. Pods are rolled when it changes.
    pub secret_ref: LocalRef,
}

/// Connections of each pod, and how long they wait.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Pool {
    /// The most connections of one pod.
    #[schemars(range(min = 1, max = 1000))]
    pub max_per_pod: i32,
    /// How long to wait for a new connection.
    #[schemars(range(min = 1, max = 30))]
    pub connect_timeout_seconds: i32,
    /// How long one statement, or one wait for a lock, may take.
    #[schemars(range(min = 1, max = 30))]
    pub statement_timeout_seconds: i32,
    /// How long a transaction may rest between statements.
    #[schemars(range(min = 1, max = 30))]
    pub idle_in_transaction_seconds: i32,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            max_per_pod: 16,
            connect_timeout_seconds: 5,
            statement_timeout_seconds: 10,
            idle_in_transaction_seconds: 15,
        }
    }
}

/// Whether a commit that was acknowledged survives the primary's death.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Replication {
    /// Not for certain: a standby that takes over may lack the last commits. A takeover is then treated as a loss.
    #[default]
    Asynchronous,
    /// Always: a standby that takes over never lacks an acknowledged commit.
    Synchronous,
}

/// Who brings the schema up to date.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Migrations {
    /// Who does it.
    pub policy: MigrationPolicy,
}

/// Who brings the schema up to date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum MigrationPolicy {
    /// The operator, with a Job.
    #[default]
    Automatic,
    /// Somebody, with `leasehold migrate`.
    Manual,
}

/// Copies of the lease database, kept beside the shares.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Backup {
    /// When, as cron writes it.
    #[schemars(length(min = 9, max = 100))]
    pub schedule: String,
    /// In which time zone.
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: String,
    /// How many are kept.
    pub retention: BackupRetention,
}

impl Default for Backup {
    fn default() -> Self {
        Self {
            schedule: "17 * * * *".to_owned(),
            time_zone: "Etc/UTC".to_owned(),
            retention: BackupRetention::default(),
        }
    }
}

/// How many backups are kept.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupRetention {
    /// Of the last hours, one each.
    #[schemars(range(min = 1, max = 1000))]
    pub hourly: i32,
    /// Of the last days, one each.
    #[schemars(range(min = 0, max = 1000))]
    pub daily: i32,
    /// Of the last weeks, one each.
    #[schemars(range(min = 0, max = 1000))]
    pub weekly: i32,
}

impl Default for BackupRetention {
    fn default() -> Self {
        Self { hourly: 24, daily: 14, weekly: 8 }
    }
}

/// What the operator has found out.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaseDatabaseStatus {
    /// The generation of the spec that this describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// PostgreSQL's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// Versions of the schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<SchemaVersion>,
    /// A digest of the version and the roles for which the schema was last migrated.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub migrated: String,
    /// What connections there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<Connections>,
    /// How many accounts there are, the built-in ones left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accounts: Option<i64>,
    /// StorageServers that refer to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used_by: Vec<String>,
    /// How it stands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Versions of the schema.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SchemaVersion {
    /// What the database has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<i64>,
    /// What this operator's servers want.
    pub wanted: i64,
}

/// What connections there are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// PostgreSQL's `max_connections`.
    pub max: i64,
    /// What may be used: `max` without the reserve.
    pub budget: i64,
    /// What one pod may use.
    pub per_pod: i64,
}
