//! Whether a server can run, and with what. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use leasehold_config as config;
use leasehold_crds::{Image, LeaseDatabaseSpec, StorageBackendSpec, StorageServer, StorageServerSpec};
use leasehold_identity::PublicIdentity;

use super::dereference::References;
use crate::condition::{self, Obstacle};
use crate::context::Settings;
use crate::database::{self, replicas_that_fit};
use crate::names::{Key, Owner};
use crate::{backend, pod};

/// The longest name of a server: its objects' names must be host names.
const NAME_MAX: usize = 40;

/// A server that can run.
#[derive(Clone, Debug)]
pub struct Validated {
    /// The server, as the owner of what is made.
    pub owner: Owner,
    /// Its spec.
    pub spec: StorageServerSpec,
    /// The image that pods and jobs run.
    pub image: String,
    /// The image that they would run if the spec named no version.
    pub operators_image: String,
    /// Which specs of backend and database these are.
    pub generations: [Option<i64>; 2],
    /// The Secret with its identity.
    pub identity_secret: String,
    /// Who it is.
    pub identity: PublicIdentity,
    /// Its backend.
    pub backend: StorageBackendSpec,
    /// Its database.
    pub database: LeaseDatabaseSpec,
    /// Where its database is.
    pub database_key: Key,
    /// Who serves.
    pub server_role: database::Role,
    /// Who runs jobs.
    pub maintenance_role: database::Role,
    /// What pods are told.
    pub server_config: config::Config,
    /// What jobs are told.
    pub jobs_config: config::Config,
    /// How many pods the database's connections allow, if that is known.
    pub replicas_fit: Option<i32>,
    /// Whether PodMonitor and PrometheusRule are known to the cluster.
    pub has_monitoring: bool,
    /// Where people read what to do about an alert.
    pub runbook_url: Option<String>,
}

/// Why a server cannot run, and about which condition that is.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The condition that explains it.
    pub type_: &'static str,
    /// Why.
    pub obstacle: Obstacle,
}

/// Checks the spec with what it refers to.
///
/// # Errors
/// What keeps the server from being changed; pods that run go on.
pub fn validate(
    server: &StorageServer,
    owner: Owner,
    identity: &Result<PublicIdentity, Obstacle>,
    references: &References,
    settings: &Settings,
) -> Result<Validated, Refusal> {
    let spec = &server.spec;
    let identity = identity.clone().map_err(|obstacle| Refusal { type_: "IdentityReady", obstacle })?;
    let depends = |obstacle| Refusal { type_: "DependenciesReady", obstacle };
    check_name(&owner.key.name).map_err(|text| depends(Obstacle::Lasting("InvalidName", text)))?;
    let missing = |kind: &str, name: &str| {
        let text = format!("there is no {kind} {name} in the namespace {}", owner.key.namespace);
        depends(Obstacle::Passing("DependencyMissing", text))
    };
    let (found_backend, backend_references) =
        references.backend.as_ref().ok_or_else(|| missing("StorageBackend", &spec.backend_ref.name))?;
    let (found_database, database_references) =
        references.database.as_ref().ok_or_else(|| missing("LeaseDatabase", &spec.lease_database_ref.name))?;
    let backend = backend::validate(found_backend, backend_references).map_err(depends)?;
    let roles = database::validate(found_database, database_references).map_err(depends)?;
    let backend_status = found_backend.status.clone().unwrap_or_default();
    ready("BackendNotReady", "StorageBackend", &**found_backend, &backend_status.conditions).map_err(depends)?;
    let database_status = found_database.status.clone().unwrap_or_default();
    ready("DatabaseNotReady", "LeaseDatabase", &**found_database, &database_status.conditions).map_err(depends)?;

    let database_spec = found_database.spec.clone();
    let retention = &database_spec.backup.retention;
    let config_of =
        |role| crate::config::server(spec, backend.s3.clone(), roles.config(&database_spec, role), retention);
    let (server_config, jobs_config) = (config_of(&roles.server), config_of(&roles.maintenance));
    server_config.validate().map_err(|error| depends(Obstacle::Lasting("InvalidSpec", error.to_string())))?;
    let connections = database_status.connections.as_ref();
    Ok(Validated {
        spec: spec.clone(),
        image: pod::image(&settings.image, &spec.image),
        operators_image: {
            let unnamed = Image { tag: String::new(), digest: String::new(), ..spec.image.clone() };
            pod::image(&settings.image, &unnamed)
        },
        generations: [found_backend.metadata.generation, found_database.metadata.generation],
        identity_secret: super::secret_name(server),
        identity,
        backend: found_backend.spec.clone(),
        database_key: owner.key.beside(&spec.lease_database_ref.name),
        server_role: roles.server.clone(),
        maintenance_role: roles.maintenance.clone(),
        server_config,
        jobs_config,
        replicas_fit: connections.map(|connections| replicas_that_fit(connections, references.servers_of_database)),
        has_monitoring: settings.has_monitoring,
        runbook_url: settings.runbook_url.clone(),
        database: database_spec,
        owner,
    })
}

fn check_name(name: &str) -> Result<(), String> {
    let good = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if good && name.starts_with(|first: char| first.is_ascii_lowercase()) && name.len() <= NAME_MAX {
        return Ok(());
    }
    Err(format!(
        "a StorageServer's name becomes part of host names: it must begin with a letter, consist of a-z, 0-9 and '-', and have \
         at most {NAME_MAX} characters; make it anew under another name"
    ))
}

fn ready<K: ResourceExt>(
    reason: &'static str,
    kind: &str,
    object: &K,
    conditions: &[Condition],
) -> Result<(), Obstacle> {
    if condition::holds(conditions, "Ready") {
        return Ok(());
    }
    let why = condition::find(conditions, "Ready").map(|ready| format!(": {}", ready.message)).unwrap_or_default();
    Err(Obstacle::Passing(reason, format!("the {kind} {} is not ready{why}", object.name_any())))
}
