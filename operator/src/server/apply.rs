//! Writes all objects of a server.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;

use super::Built;
use super::build::{PodMonitor, PrometheusRule};
use super::updates::Change;
use crate::context::Context;
use crate::error::Result;
use crate::names::Owner;

/// What the API server says of the objects that tell how a server stands.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The pods.
    pub deployment: Deployment,
    /// Where clients come in.
    pub service: Service,
    /// Whether something waits for people.
    pub change: Change,
}

/// Writes all objects but those that have to wait; those that are not wanted are removed.
///
/// # Errors
/// The API server refused or does not answer.
pub async fn apply(owner: &Owner, built: Built, change: Change, context: &Context) -> Result<Applied> {
    // No `..`: an object that is forgotten here does not compile.
    let Built {
        service_account,
        server_config,
        jobs_config,
        service,
        headless,
        deployment,
        autoscaler,
        disruption_budget,
        network_policy,
        cron_jobs,
        pod_monitor,
        prometheus_rule,
    } = built;
    let (writer, name) = (&context.writer, owner.key.name.as_str());
    writer.apply(&service_account).await?;
    // What pods and jobs are told is for the version that they run.
    if change == Change::Through {
        writer.apply(&server_config).await?;
        writer.apply(&jobs_config).await?;
        for cron_job in &cron_jobs {
            writer.apply(cron_job).await?;
        }
    }
    let service = writer.apply(&service).await?;
    writer.apply(&headless).await?;
    writer.apply_or_remove(owner, name, network_policy.as_ref()).await?;
    let deployment = writer.apply(&deployment).await?;
    writer.apply_or_remove(owner, name, autoscaler.as_ref()).await?;
    writer.apply_or_remove(owner, name, disruption_budget.as_ref()).await?;
    // Where the cluster does not know these kinds, there is nothing to remove.
    if context.settings.has_monitoring {
        writer.apply_or_remove::<PodMonitor>(owner, name, pod_monitor.as_ref()).await?;
        writer.apply_or_remove::<PrometheusRule>(owner, name, prometheus_rule.as_ref()).await?;
    }
    Ok(Applied { deployment, service, change })
}
