//! What pods and jobs are told, and who they are.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use leasehold_config::Config;

use super::super::validate::Validated;
use super::SERVER;
use crate::error::Result;
use crate::names::suffixed;
use crate::pod::CONFIG_KEY;

pub(super) fn server_name(validated: &Validated) -> String {
    suffixed(&validated.owner.key.name, "config")
}

pub(super) fn jobs_name(validated: &Validated) -> String {
    suffixed(&validated.owner.key.name, "jobs-config")
}

pub(super) fn service_account_name(validated: &Validated) -> String {
    suffixed(&validated.owner.key.name, SERVER)
}

fn config_map(validated: &Validated, name: String, config: &Config) -> Result<ConfigMap> {
    let text = crate::config::text(config)?;
    Ok(ConfigMap {
        metadata: validated.owner.owned(name, SERVER),
        data: Some(BTreeMap::from([(CONFIG_KEY.to_owned(), text)])),
        ..ConfigMap::default()
    })
}

pub(super) fn server(validated: &Validated) -> Result<ConfigMap> {
    config_map(validated, server_name(validated), &validated.server_config)
}

pub(super) fn jobs(validated: &Validated) -> Result<ConfigMap> {
    config_map(validated, jobs_name(validated), &validated.jobs_config)
}

pub(super) fn service_account(validated: &Validated) -> ServiceAccount {
    let mut metadata = validated.owner.owned(service_account_name(validated), SERVER);
    let annotations = validated.spec.service_account.annotations.clone();
    metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    ServiceAccount { metadata, automount_service_account_token: Some(false), ..ServiceAccount::default() }
}
