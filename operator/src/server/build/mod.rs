//! What a server consists of on Kubernetes. Pure.

mod autoscaler;
mod config_map;
mod cron_job;
mod deployment;
mod monitoring;
mod network_policy;
mod service;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use leasehold_crds::NetworkPolicyMode;

use super::validate::Validated;
use crate::error::Result;

pub use monitoring::{PodMonitor, PrometheusRule};

/// The pods that serve.
pub const SERVER: &str = "server";

/// All objects of a server. Where one may be absent, it is removed if it is there.
#[derive(Clone, Debug)]
pub struct Built {
    /// Who pods are, where a cloud wants to know.
    pub service_account: ServiceAccount,
    /// What pods are told.
    pub server_config: ConfigMap,
    /// What jobs are told.
    pub jobs_config: ConfigMap,
    /// Where clients come in.
    pub service: Service,
    /// The pods one by one, for metrics.
    pub headless: Service,
    /// The pods.
    pub deployment: Deployment,
    /// How many there are.
    pub autoscaler: Option<HorizontalPodAutoscaler>,
    /// How many may be away.
    pub disruption_budget: Option<PodDisruptionBudget>,
    /// Who may talk to whom.
    pub network_policy: Option<NetworkPolicy>,
    /// The jobs.
    pub cron_jobs: Vec<CronJob>,
    /// Where Prometheus finds metrics.
    pub pod_monitor: Option<PodMonitor>,
    /// The alerts.
    pub prometheus_rule: Option<PrometheusRule>,
}

/// Makes all objects of a server.
///
/// # Errors
/// [`crate::error::Error::Encode`], which plain values do not cause.
pub fn build(validated: &Validated) -> Result<Built> {
    let has_policy = validated.spec.network_policy.mode == NetworkPolicyMode::Enabled;
    Ok(Built {
        service_account: config_map::service_account(validated),
        server_config: config_map::server(validated)?,
        jobs_config: config_map::jobs(validated)?,
        service: service::clients(validated),
        headless: service::headless(validated),
        deployment: deployment::deployment(validated)?,
        autoscaler: autoscaler::autoscaler(validated),
        disruption_budget: autoscaler::disruption_budget(validated),
        network_policy: has_policy.then(|| network_policy::network_policy(validated)),
        cron_jobs: cron_job::cron_jobs(validated),
        pod_monitor: monitoring::pod_monitor(validated),
        prometheus_rule: monitoring::prometheus_rule(validated)?,
    })
}

#[cfg(test)]
pub(super) mod tests;
