//! The probe: a Job that runs `leasehold check`. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use leasehold_crds::StorageBackend;

use super::validate::Validated;
use crate::error::Result;
use crate::job::JobLimits;
use crate::names::{Owner, digest, suffixed};
use crate::pod::{self, CONFIG_KEY, Mounts, Program};

const COMPONENT: &str = "probe";
const LIMITS: JobLimits = JobLimits { retries: 0, seconds_max: 300, kept_seconds: 2 * 86_400 };

/// Tells settings apart: with others there is another probe.
///
/// # Errors
/// [`crate::error::Error::Encode`], which plain values do not cause.
pub fn settings(validated: &Validated, image: &str) -> Result<String> {
    let text = crate::config::text(&crate::config::probe(validated.s3.clone()))?;
    let [credentials, authorities] = &validated.versions;
    Ok(digest([text.as_str(), credentials.as_str(), authorities.as_str(), image])[..10].to_owned())
}

/// The name of the probe of these settings.
///
/// # Errors
/// As [`settings`].
pub fn job_name(owner: &Owner, validated: &Validated, image: &str) -> Result<String> {
    Ok(suffixed(&owner.key.name, &format!("probe-{}", settings(validated, image)?)))
}

/// The probe and its configuration.
///
/// # Errors
/// As [`settings`].
pub fn build(
    owner: &Owner,
    name: &str,
    backend: &StorageBackend,
    validated: &Validated,
    image: &str,
) -> Result<(ConfigMap, Job)> {
    let text = crate::config::text(&crate::config::probe(validated.s3.clone()))?;
    let config_map_name = suffixed(&owner.key.name, COMPONENT);
    let config_map = ConfigMap {
        metadata: owner.owned(&config_map_name, COMPONENT),
        data: Some(BTreeMap::from([(CONFIG_KEY.to_owned(), text)])),
        ..ConfigMap::default()
    };
    let source = pod::operators_image();
    let program = Program {
        image: image.to_owned(),
        source: &source,
        arguments: vec!["check".to_owned()],
        mounts: Mounts::default().config(&config_map_name).s3(&backend.spec.s3),
        resources: pod::job_resources(),
    };
    Ok((config_map, crate::job::build(owner, name, COMPONENT, pod::spec(program), &LIMITS)))
}
