//! The custom resources of Leasehold: what people and programs may ask of it on Kubernetes, and nothing else.
//!
//! A type is a field of the API: its documentation is what `kubectl explain` shows, its rules are sentences that the API
//! server answers with. The YAML beside this crate is generated from it. Rules that need more than the object itself are the
//! operator's, which says what it found in conditions.

#![allow(clippy::duplicated_attributes, reason = "the columns of one kind have the same types")]

mod account;
mod common;
mod lease_database;
mod storage_backend;
mod storage_server;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

pub use account::{
    Access, Account, AccountClient, AccountCredential, AccountCredentials, AccountEffective, AccountLeases,
    AccountSpec, AccountStatus, AccountUsage, Administrative, Binding, CredentialState, Deletion, DeletionPolicy,
    LeaseMode, ObjectMetadata, Quota, ServerRef,
};
pub use common::{ConfigMapKeyRef, LocalRef, SecretKeyRef};
pub use lease_database::{
    Backup, BackupRetention, Connection, ConnectionParameters, Connections, DatabaseRoleRefs, DatabaseTls,
    LeaseDatabase, LeaseDatabaseSpec, LeaseDatabaseStatus, MigrationPolicy, Migrations, Pool, Pooler, Replication,
    RoleRef, SchemaVersion, TlsMode,
};
pub use storage_backend::{
    Addressing, BackendProbeStatus, BackendUsage, Checksums, CredentialsType, Probe, S3, S3Credentials, S3Requests,
    S3Tls, StorageBackend, StorageBackendSpec, StorageBackendStatus,
};
pub use storage_server::{
    AllowedFrom, AllowedNamespaces, AuditSchedule, Autoscaling, CollectSchedule, Expiration, ExpirationMode, Exposure,
    ExposureService, ExposureType, Identity, Image, JobSchedule, Maintenance, Monitoring, NetworkPolicyMode,
    NetworkPolicySettings, PodMetadata, PullPolicy, ReconcileSchedule, RunResult, ScaleDown, Scheduling,
    ServerAccounts, ServerAccountsStatus, ServerUsage, ServiceAccountMetadata, ShareLimits, ShareType, Shutdown,
    StorageServer, StorageServerSpec, StorageServerStatus, Switch, TrafficPolicy, UpdatePolicy, Updates,
};

/// The API group.
pub const GROUP: &str = "leasehold.dev";
/// The API version.
pub const VERSION: &str = "v1alpha1";

/// Annotation: `"true"` stops the operator from writing anything for the object; its status goes on.
pub const PAUSED: &str = "leasehold.dev/paused";
/// Annotation: any new text makes the operator look at the object at once.
pub const RECONCILE_AT: &str = "leasehold.dev/reconcile-at";
/// Annotation: `"true"` makes a deletion wait until it is removed.
pub const DELETION_PROTECTION: &str = "leasehold.dev/deletion-protection";
/// Annotation of an Account: its own `status.accountID` ends its deletion without the lease database.
pub const FORCE_FINALIZE: &str = "leasehold.dev/force-finalize";
/// All kinds, as the API server wants to know them.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![StorageBackend::crd(), LeaseDatabase::crd(), StorageServer::crd(), Account::crd()]
}

/// A kind's file name and its YAML.
///
/// # Panics
/// Never: a definition is plain values.
pub fn yaml(definition: &CustomResourceDefinition) -> (String, String) {
    let text = serde_saphyr::to_string(definition).expect("a definition is plain values");
    let head = "# Generated from the sources beside it by `leasehold-operator crds`; do not edit.\n";
    (format!("{}.yaml", definition.spec.names.plural), format!("{head}{text}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_committed_yaml_is_what_the_types_say() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        for definition in all() {
            let (name, text) = yaml(&definition);
            let committed = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
            assert!(committed == text, "crds/{name} is stale: run `cargo run -p leasehold-operator -- crds crds`");
        }
    }

    #[test]
    fn every_kind_has_what_people_type() {
        for definition in all() {
            let names = &definition.spec.names;
            assert_eq!(names.categories.as_deref(), Some(&["leasehold".to_owned()][..]), "{}", names.kind);
            assert_eq!(names.short_names.as_ref().map(Vec::len), Some(1), "{}", names.kind);
            let version = &definition.spec.versions[0];
            let columns = version.additional_printer_columns.as_deref().unwrap_or_default();
            assert!(columns.iter().any(|column| column.name == "Ready"), "{}", names.kind);
            assert!(version.subresources.as_ref().is_some_and(|all| all.status.is_some()), "{}", names.kind);
        }
    }

    /// A rule without a sentence leaves people with an expression; one with a sentence tells what to do.
    #[test]
    fn every_rule_has_a_sentence() {
        fn walk(value: &serde_json::Value, found: &mut usize) {
            if let Some(rules) = value.get("x-kubernetes-validations").and_then(|rules| rules.as_array()) {
                for rule in rules {
                    let message = rule["message"].as_str().unwrap_or_default();
                    assert!(message.len() > 10, "{rule}");
                    *found += 1;
                }
            }
            match value {
                serde_json::Value::Object(fields) => fields.values().for_each(|value| walk(value, found)),
                serde_json::Value::Array(items) => items.iter().for_each(|value| walk(value, found)),
                _ => {}
            }
        }
        let mut found = 0;
        for definition in all() {
            walk(&serde_json::to_value(&definition).expect("plain values"), &mut found);
        }
        assert!(found > 20, "{found} rules");
    }
}
