//! Objects for tests.

use std::sync::Arc;

use leasehold_crds::{Account, LeaseDatabase, StorageServer};
use serde_json::{Value, json};

use super::dereference::References;
use super::validate::{Validated, validate};
use crate::names::Owner;

/// An Account in the namespace `customer`, with `spec` over the least that is needed.
pub(super) fn account(spec: &Value) -> Account {
    let mut whole = json!({ "serverRef": { "name": "main", "namespace": "tahoe" } });
    whole.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
    object("Account", "customer", "alice", &whole, &json!({}))
}

/// A StorageServer in the namespace `tahoe` that lets every namespace in, with `spec` over that.
pub(super) fn server(spec: &Value) -> StorageServer {
    let mut whole = json!({
        "backendRef": { "name": "shares" }, "leaseDatabaseRef": { "name": "leases" },
        "exposure": { "hosts": ["a.example", "b.example"], "port": 4443 },
        "accounts": { "allowedNamespaces": { "from": "All" } },
    });
    whole.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
    let status = json!({ "serverID": "v0-x", "tubID": "t".repeat(32), "spkiHash": "s".repeat(43) });
    object("StorageServer", "tahoe", "main", &whole, &status)
}

fn object<K: serde::de::DeserializeOwned>(kind: &str, namespace: &str, name: &str, spec: &Value, status: &Value) -> K {
    let value = json!({
        "apiVersion": "leasehold.dev/v1alpha1", "kind": kind,
        "metadata": { "name": name, "namespace": namespace, "uid": format!("uid-of-{name}"), "generation": 1 },
        "spec": spec, "status": status,
    });
    serde_json::from_value(value).expect("an object of this kind")
}

pub(super) fn references(server: StorageServer) -> References {
    let spec = json!({
        "connection": { "parameters": { "host": "db", "database": "d", "tls": { "mode": "Disable" } } },
        "roles": { "owner": { "secretRef": { "name": "owner" } } },
    });
    let database: LeaseDatabase = object("LeaseDatabase", "tahoe", "leases", &spec, &json!({}));
    References {
        server: Some(Arc::new(server)),
        database: Some(Arc::new(database)),
        namespace: None,
        secret: None,
        import: None,
    }
}

pub(super) fn validated(account: &Account) -> Validated {
    validate(account, &references(server(&json!({})))).expect("it is accepted")
}

pub(super) fn owner(account: &Account) -> Owner {
    Owner::of(account).expect("it has a uid")
}
