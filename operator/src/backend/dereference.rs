//! What a backend refers to, and who refers to it.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt;
use leasehold_crds::StorageBackend;

use crate::context::Context;
use crate::error::Result;
use crate::names::Key;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct References {
    /// The credentials, if they were named and are there.
    pub credentials: Option<Secret>,
    /// The authorities, if they were named and are there.
    pub authorities: Option<ConfigMap>,
}

/// Reads what the backend refers to.
///
/// # Errors
/// The API server refused or does not answer.
pub async fn dereference(backend: &StorageBackend, context: &Context) -> Result<References> {
    let key = Key::of(backend);
    let s3 = &backend.spec.s3;
    let credentials = match &s3.credentials.secret_ref {
        Some(secret) => context.read(&key.beside(&secret.name)).await?,
        None => None,
    };
    let authorities = match &s3.tls {
        Some(tls) => context.read(&key.beside(&tls.ca_bundle_ref.name)).await?,
        None => None,
    };
    Ok(References { credentials, authorities })
}

/// The names of the servers that refer to the backend.
pub fn used_by(key: &Key, context: &Context) -> Vec<String> {
    let servers = context.stores.servers.state();
    let users = servers.iter().filter(|server| {
        server.namespace().as_deref() == Some(&key.namespace) && server.spec.backend_ref.name == key.name
    });
    let mut names: Vec<String> = users.map(|server| server.name_any()).collect();
    names.sort();
    names
}
