//! What one server stores in: a database and a bucket of the managed services, and the objects by which the operator
//! learns of them.

use anyhow::Result;
use serde_json::{Value, json};

use super::Cluster;
use super::managed::{MINIO, Managed, POSTGRES};
use super::objects;

/// The API version of our kinds.
pub const API: &str = "leasehold.dev/v1alpha1";
/// The name of a story's StorageBackend.
pub const BACKEND: &str = "shares";
/// The name of a story's LeaseDatabase.
pub const DATABASE: &str = "leases";

/// What a person who installs would make: an owner, and three roles with less rights.
const ROLES: [&str; 4] = ["owner", "server", "operator", "maintenance"];

/// Starts managed services that pods find by their names in this namespace, which nobody else's services share.
pub fn start_managed(cluster: &Cluster, namespace: &str) -> Result<Managed> {
    let managed = Managed::start(namespace)?;
    let kubectl = cluster.kubectl();
    kubectl.apply_all(&[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})])?;
    kubectl.apply(&objects::managed(namespace, POSTGRES, managed.database_proxy.address().port()))?;
    kubectl.apply(&objects::managed(namespace, MINIO, managed.store_proxy.address().port()))?;
    Ok(managed)
}

/// Makes a database with its roles and a bucket, both of this name, and gives the objects that lead to them: Secrets,
/// authorities, a StorageBackend and a LeaseDatabase.
pub fn make(managed: &Managed, name: &str) -> Result<Vec<Value>> {
    managed.store.make_bucket(name)?;
    let mut objects = Vec::new();
    for role in ROLES {
        let (user, password) = (format!("{name}-{role}"), leasehold_e2e_services::secret::random()?);
        managed.database.query("postgres", &format!("CREATE ROLE \"{user}\" LOGIN PASSWORD '{password}'"))?;
        objects.push(secret(&role_secret(role), json!({"username": user, "password": password})));
    }
    managed.database.query("postgres", &format!("CREATE DATABASE \"{name}\" OWNER \"{name}-owner\""))?;
    objects.extend([store_access(managed), authority("shares-ca", &managed.store_authority()?)]);
    objects.push(secret("leases-ca", json!({"ca.crt": managed.database_authority()?})));
    objects.extend([backend(managed, name), database(managed, name)]);
    Ok(objects)
}

/// An object of ours with this spec.
pub fn resource(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn backend(managed: &Managed, bucket: &str) -> Value {
    let port = managed.store_proxy.address().port();
    let spec = json!({"s3": {
        "bucket": bucket,
        "endpoint": format!("https://{}:{port}", managed.store_host()),
        "credentials": {"type": "Secret", "secretRef": {"name": "shares-s3"}},
        "tls": {"caBundleRef": {"name": "shares-ca", "key": "ca.crt"}},
    }});
    resource("StorageBackend", BACKEND, spec)
}

fn database(managed: &Managed, name: &str) -> Value {
    let roles = ROLES.map(|role| (role.to_owned(), json!({"secretRef": {"name": role_secret(role)}})));
    let spec = json!({
        "connection": {"parameters": {
            "host": managed.database_host(),
            "port": managed.database_proxy.address().port(),
            "database": name,
            "tls": {"mode": "VerifyFull", "caSecretRef": {"name": "leases-ca", "key": "ca.crt"}},
        }},
        "roles": Value::Object(roles.into_iter().collect()),
        "connectionReserve": 5,
        "pool": {"maxPerPod": 8},
    });
    resource("LeaseDatabase", DATABASE, spec)
}

fn role_secret(role: &str) -> String {
    format!("leases-{role}")
}

fn store_access(managed: &Managed) -> Value {
    let credentials = managed.store.credentials();
    secret("shares-s3", json!({"accessKeyID": credentials.access_key, "secretAccessKey": credentials.secret_key}))
}

fn authority(name: &str, certificate: &str) -> Value {
    let data = json!({"ca.crt": certificate});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn secret(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})
}
