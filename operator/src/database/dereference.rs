//! What a database refers to, and who refers to it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use leasehold_crds::{LeaseDatabase, RoleRef, StorageServer};

use crate::context::Context;
use crate::error::Result;
use crate::names::Key;

/// The Secrets of a database's roles and authorities, as far as they are there.
#[derive(Clone, Debug, Default)]
pub struct References {
    /// Of the schema's owner.
    pub owner: Option<Secret>,
    /// Of the pods.
    pub server: Option<Secret>,
    /// Of the operator.
    pub operator: Option<Secret>,
    /// Of jobs.
    pub maintenance: Option<Secret>,
    /// The authorities.
    pub authorities: Option<Secret>,
}

/// Reads what the database refers to.
///
/// # Errors
/// The API server refused or does not answer.
pub async fn dereference(database: &LeaseDatabase, context: &Context) -> Result<References> {
    let key = Key::of(database);
    let roles = &database.spec.roles;
    let read = async |role: Option<&RoleRef>| match role {
        Some(role) => context.read::<Secret>(&key.beside(&role.secret_ref.name)).await,
        None => Ok(None),
    };
    let authorities = match &database.spec.connection.parameters.tls.ca_secret_ref {
        Some(secret) => context.read(&key.beside(&secret.name)).await?,
        None => None,
    };
    Ok(References {
        owner: read(Some(&roles.owner)).await?,
        server: read(roles.server.as_ref()).await?,
        operator: read(roles.operator.as_ref()).await?,
        maintenance: read(roles.maintenance.as_ref()).await?,
        authorities,
    })
}

/// The servers that refer to the database, by name.
pub fn servers(key: &Key, context: &Context) -> Vec<Arc<StorageServer>> {
    let mut servers = context.stores.servers.state();
    servers.retain(|server| {
        server.namespace().as_deref() == Some(&key.namespace) && server.spec.lease_database_ref.name == key.name
    });
    servers.sort_by_key(|server| server.name_any());
    servers
}
