//! The migration: a Job that runs `leasehold migrate` as the schema's owner. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use leasehold_crds::LeaseDatabase;

use super::validate::Validated;
use crate::error::Result;
use crate::job::JobLimits;
use crate::names::{Owner, digest, suffixed};
use crate::pod::{self, CONFIG_KEY, Mounts, Program};

const COMPONENT: &str = "migrate";
/// A migration may take long on a large database; one that failed is tried again when its Job has gone.
const LIMITS: JobLimits = JobLimits { retries: 2, seconds_max: 24 * 3600, kept_seconds: 300 };

/// Tells migrations apart: another version, or other roles, make another one.
///
/// # Errors
/// [`crate::error::Error::Encode`], which plain values do not cause.
pub fn migration_digest(validated: &Validated, image: &str) -> Result<String> {
    let granted = &validated.granted;
    let name = |role: &Option<String>| role.clone().unwrap_or_default();
    let (server, operator, maintenance) = (name(&granted.server), name(&granted.operator), name(&granted.maintenance));
    let options = &validated.operator;
    let place = format!("{}:{} {} {}", options.host, options.port, options.database, options.schema);
    let texts = [image, &place, &validated.owner.user, &server, &operator, &maintenance];
    Ok(digest(texts)[..10].to_owned())
}

/// The name of a migration.
pub fn job_name(owner: &Owner, digest: &str) -> String {
    suffixed(&owner.key.name, &format!("migrate-{digest}"))
}

/// The migration and its configuration.
///
/// # Errors
/// As [`migration_digest`].
pub fn build(
    owner: &Owner,
    name: &str,
    database: &LeaseDatabase,
    validated: &Validated,
    image: &str,
) -> Result<(ConfigMap, Job)> {
    let config = crate::config::migration(validated.config(&database.spec, &validated.owner));
    let config_map_name = suffixed(&owner.key.name, COMPONENT);
    let config_map = ConfigMap {
        metadata: owner.owned(&config_map_name, COMPONENT),
        data: Some(BTreeMap::from([(CONFIG_KEY.to_owned(), crate::config::text(&config)?)])),
        ..ConfigMap::default()
    };
    let source = pod::operators_image();
    let parameters = &database.spec.connection.parameters;
    let program = Program {
        image: image.to_owned(),
        source: &source,
        arguments: vec!["migrate".to_owned()],
        mounts: Mounts::default().config(&config_map_name).database(parameters, &validated.owner.secret),
        resources: pod::job_resources(),
    };
    Ok((config_map, crate::job::build(owner, name, COMPONENT, pod::spec(program), &LIMITS)))
}
