//! What an account refers to.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{Api, ResourceExt};
use leasehold_crds::{Account, AllowedFrom, LeaseDatabase, StorageServer};
use leasehold_leasedb::AnyLeaseDb;

use super::{secret_name, target};
use crate::context::{Context, find};
use crate::database;
use crate::error::Result;
use crate::names::Key;

/// What was found.
#[derive(Clone, Debug)]
pub struct References {
    /// The server.
    pub server: Option<Arc<StorageServer>>,
    /// The server's database.
    pub database: Option<Arc<LeaseDatabase>>,
    /// The account's namespace, where the server chooses by labels.
    pub namespace: Option<Namespace>,
    /// The customer's Secret.
    pub secret: Option<Secret>,
    /// The Secret with the swissnum to begin with, if one was named.
    pub import: Option<Secret>,
}

/// Reads what the account refers to.
///
/// # Errors
/// The API server refused or does not answer.
pub async fn dereference(account: &Account, context: &Context) -> Result<References> {
    let key = Key::of(account);
    let target = target(account);
    let server = find(&context.stores.servers, &target);
    let database = server
        .as_ref()
        .and_then(|server| find(&context.stores.databases, &target.beside(&server.spec.lease_database_ref.name)));
    let by_labels = |server: &StorageServer| server.spec.accounts.allowed_namespaces.from == AllowedFrom::Selector;
    let namespace = match &server {
        Some(server) if by_labels(server) && target.namespace != key.namespace => {
            let api: Api<Namespace> = Api::all(context.client.clone());
            api.get_opt(&key.namespace).await?
        }
        _ => None,
    };
    let secret = context.read::<Secret>(&key.beside(&secret_name(account))).await?;
    let import = match (&account.spec.credentials.import_from, &secret) {
        // It only matters before there is a Secret.
        (Some(from), None) => context.read::<Secret>(&key.beside(&from.name)).await?,
        _ => None,
    };
    Ok(References { server, database, namespace, secret, import })
}

/// The lease database, opened if nobody has yet; why it cannot be used, in a sentence.
///
/// # Errors
/// The API server refused or does not answer.
pub async fn lease_db(
    database: &Arc<LeaseDatabase>,
    context: &Context,
) -> Result<std::result::Result<AnyLeaseDb, String>> {
    let key = Key::of(&**database);
    if let Some(db) = context.databases.find(&key).await {
        return Ok(Ok(db));
    }
    let references = database::dereference::dereference(database, context).await?;
    let validated = match database::validate(database, &references) {
        Ok(validated) => validated,
        Err(_) => return Ok(Err(format!("the LeaseDatabase {} is not ready", database.name_any()))),
    };
    let opened = context.databases.open(&key, &validated.operator).await;
    Ok(opened.map_err(|error| format!("the LeaseDatabase {}: {}", database.name_any(), database::sentence(&error))))
}
