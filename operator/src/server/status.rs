//! What people are told of a server.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus};
use k8s_openapi::api::core::v1::Service;
use leasehold_core::clock::Timestamp;
use leasehold_core::run::{Run, RunKind, RunState};
use leasehold_crds::{ExposureType, RunResult, ServerAccountsStatus, ServerUsage, StorageServer, StorageServerStatus};
use leasehold_identity::PublicIdentity;

use super::apply::Applied;
use super::build::SERVER;
use super::updates;
use super::validate::{Refusal, Validated};
use crate::condition::{self, Finding, Obstacle, Truth, merge, summary, time};
use crate::context::Context;
use crate::error::Result;
use crate::names::{Key, selector_labels};
use crate::quantity::shown;

/// How long clients keep idle connections; a balancer that closes one earlier fails an upload.
const CLIENT_IDLE_SECONDS: i32 = 240;

fn old(server: &StorageServer) -> StorageServerStatus {
    server.status.clone().unwrap_or_default()
}

fn with(server: &StorageServer, found: Vec<Finding>, now: Timestamp) -> StorageServerStatus {
    let old = old(server);
    let generation = server.metadata.generation;
    let conditions = merge(&old.conditions, found, generation, now);
    StorageServerStatus { observed_generation: generation, conditions, ..old }
}

/// The status of a paused server.
pub fn paused(server: &StorageServer, now: Timestamp) -> StorageServerStatus {
    with(server, condition::paused(), now)
}

/// The status of a server that waits to be deleted.
pub fn deleting(server: &StorageServer, accounts: &[String], now: Timestamp) -> StorageServerStatus {
    let (reason, message) = if accounts.is_empty() {
        ("DeletionProtected", "remove the annotation leasehold.dev/deletion-protection first".to_owned())
    } else {
        let first: Vec<&str> = accounts.iter().take(10).map(String::as_str).collect();
        let message = format!("{} Accounts refer to it; delete them first: {}", accounts.len(), first.join(", "));
        ("AccountsRemain", message)
    };
    let mut found = vec![Finding::new("DeletionBlocked", true, reason, message.clone())];
    found.extend(summary(Some(Obstacle::Passing(reason, message)), reason, ""));
    with(server, found, now)
}

/// The status of a server that cannot be changed at present; its pods, if there are any, go on.
pub fn refused(
    server: &StorageServer,
    identity: &std::result::Result<PublicIdentity, Obstacle>,
    refusal: &Refusal,
    now: Timestamp,
) -> StorageServerStatus {
    let (Obstacle::Passing(reason, message) | Obstacle::Lasting(reason, message)) = refusal.obstacle.clone();
    let mut found = summary(Some(refusal.obstacle.clone()), reason, "");
    if let Ok(identity) = identity {
        found.push(identity_ready(identity));
    }
    found.push(Finding::new(refusal.type_, false, reason, message));
    // What is known of pods is not asked again, but does not become untrue either.
    let kept = ["Available", "Progressing", "ExposureReady", "GarbageCollectionHealthy", "UpdateWaiting"];
    let before = old(server);
    let kept = before.conditions.iter().filter(|old| kept.contains(&old.type_.as_str())).cloned();
    let mut new = with(server, found, now);
    new.conditions.extend(kept);
    match identity {
        Ok(identity) => known_as(new, identity),
        Err(_) => new,
    }
}

fn identity_ready(identity: &PublicIdentity) -> Finding {
    Finding::new("IdentityReady", true, "Loaded", format!("clients know the server as {}", identity.server_id))
}

fn known_as(status: StorageServerStatus, identity: &PublicIdentity) -> StorageServerStatus {
    StorageServerStatus {
        server_id: Some(identity.server_id.clone()),
        tub_id: Some(identity.tub_id.clone()),
        spki_hash: Some(identity.spki_hash.clone()),
        ..status
    }
}

/// The status of a server whose objects are as they shall be.
pub fn observed(
    server: &StorageServer,
    validated: &Validated,
    applied: &Applied,
    runs: Option<&[Run]>,
    context: &Context,
) -> StorageServerStatus {
    let now = context.now();
    let pods = applied.deployment.status.clone().unwrap_or_default();
    let address = address(&applied.service, validated);
    let available = available(&applied.deployment, &pods);
    let exposure = exposure(validated, address.as_deref());
    let obstacle = [&available, &exposure]
        .into_iter()
        .find(|finding| finding.truth != Truth::True)
        .map(|finding| Obstacle::Passing(finding.reason, finding.message.clone()));
    let mut found = summary(obstacle, "Serving", "clients can read and write");
    found.push(identity_ready(&validated.identity));
    found.push(Finding::new("DependenciesReady", true, "Ready", "backend and lease database are ready"));
    found.push(available);
    found.push(progressing(&applied.deployment, &pods));
    found.push(exposure);
    found.push(updates::finding(validated, applied.change));
    let maintenance = runs.map_or(old(server).maintenance, maintenance);
    found.push(garbage_collection(&maintenance));

    let totals = context.totals.of_server(&Key::of(server));
    let (ready, wanted) = (pods.ready_replicas.unwrap_or_default(), pods.replicas.unwrap_or_default());
    let selector: Vec<String> = selector_labels(&validated.owner.key.name, SERVER)
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let status = StorageServerStatus {
        hosts: validated.spec.exposure.hosts.clone(),
        address,
        replicas: Some(wanted),
        ready_replicas: Some(ready),
        updated_replicas: Some(pods.updated_replicas.unwrap_or_default()),
        ready: Some(format!("{ready}/{wanted}")),
        selector: Some(selector.join(",")),
        version: Some(version(&validated.image)),
        accounts: totals.as_ref().map(|totals| ServerAccountsStatus {
            total: count(totals.accounts),
            over_quota: count(totals.over_quota),
            suspended: count(totals.suspended),
        }),
        usage: totals.as_ref().map(|totals| ServerUsage {
            storage: shown(totals.used_bytes),
            storage_bytes: count(totals.used_bytes),
            shares: count(totals.shares),
            measured_at: time(totals.measured_at),
        }),
        maintenance,
        ..with(server, found, now)
    };
    let before = old(server);
    let status = StorageServerStatus {
        accounts: status.accounts.or(before.accounts),
        usage: status.usage.or(before.usage),
        ..status
    };
    known_as(status, &validated.identity)
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The tag or digest of an image.
fn version(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    let tail = name.split_once('@').or_else(|| name.split_once(':'));
    tail.map_or(String::new(), |(_, version)| version.to_owned())
}

fn address(service: &Service, validated: &Validated) -> Option<String> {
    let of_balancer = || {
        let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.first()?.clone();
        ingress.hostname.or(ingress.ip)
    };
    match validated.spec.exposure.type_ {
        ExposureType::LoadBalancer => of_balancer(),
        ExposureType::NodePort | ExposureType::ClusterIp => service.spec.as_ref()?.cluster_ip.clone(),
    }
}

fn available(deployment: &Deployment, pods: &DeploymentStatus) -> Finding {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let ready = pods.available_replicas.unwrap_or_default();
    // What the controller says of an older template does not count.
    let is_current = pods.observed_generation >= deployment.metadata.generation;
    if wanted == 0 {
        return Finding::new("Available", false, "ScaledToZero", "spec.replicas is 0: nothing serves");
    }
    if ready > 0 && is_current {
        return Finding::new("Available", true, "PodsReady", format!("{ready} of {wanted} pods serve"));
    }
    let message = format!("{ready} of {wanted} pods serve; `kubectl describe pods -l leasehold.dev/server` tells why");
    Finding::new("Available", false, "NoReadyPods", message)
}

fn progressing(deployment: &Deployment, pods: &DeploymentStatus) -> Finding {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let updated = pods.updated_replicas.unwrap_or_default();
    let conditions = pods.conditions.as_deref().unwrap_or_default();
    let stuck = conditions
        .iter()
        .find(|found| found.type_ == "Progressing" && found.reason.as_deref() == Some("ProgressDeadlineExceeded"));
    if let Some(stuck) = stuck {
        let message = stuck.message.clone().unwrap_or_default();
        return Finding::new("Progressing", false, "ProgressDeadlineExceeded", message);
    }
    if updated < wanted || pods.replicas.unwrap_or_default() > updated {
        return Finding::new("Progressing", true, "RollingOut", format!("{updated} of {wanted} pods are up to date"));
    }
    Finding::new("Progressing", false, "RolledOut", "all pods are up to date")
}

fn exposure(validated: &Validated, address: Option<&str>) -> Finding {
    let exposure = &validated.spec.exposure;
    if exposure.load_balancer_idle_seconds <= CLIENT_IDLE_SECONDS {
        let message = format!(
            "exposure.loadBalancerIdleSeconds is {}: clients keep idle connections for {CLIENT_IDLE_SECONDS} s, and an upload \
             on one that the balancer has closed fails; set the balancer's idle timeout to 350 s, then this",
            exposure.load_balancer_idle_seconds
        );
        return Finding::new("ExposureReady", false, "IdleTimeoutTooShort", message);
    }
    match address {
        Some(address) => Finding::new("ExposureReady", true, "Reachable", format!("the Service is at {address}")),
        None => Finding::new(
            "ExposureReady",
            false,
            "NoAddress",
            "the Service has no address yet: the cloud's balancer has not given one",
        ),
    }
}

/// The last run of each job, and when the last one came to its end.
fn maintenance(runs: &[Run]) -> BTreeMap<String, RunResult> {
    let mut results = BTreeMap::new();
    for kind in RunKind::ALL {
        let of_kind = || runs.iter().filter(|run| run.kind == kind);
        let Some(last) = of_kind().max_by_key(|run| run.id) else { continue };
        let success = of_kind().filter(|run| run.state == RunState::Done).filter_map(|run| run.finished_at).max();
        let result = RunResult {
            run_id: last.id.to_string(),
            last_result: last.state.to_string(),
            last_start: time(last.started_at),
            last_success: success.map(time),
            reason: last.reason.clone(),
        };
        results.insert(kind.as_str().to_owned(), result);
    }
    results
}

fn garbage_collection(maintenance: &BTreeMap<String, RunResult>) -> Finding {
    let is = |state: RunState| maintenance.iter().find(|(_, run)| run.last_result == state.as_str());
    let type_ = "GarbageCollectionHealthy";
    if let Some((kind, run)) = is(RunState::Braked) {
        let message = format!(
            "the {kind} run {} was stopped by a brake: {}; if that is as it should be, `leasehold allow {}` lets the next one go \
             on",
            run.run_id, run.reason, run.run_id
        );
        return Finding::new(type_, false, "Braked", message);
    }
    if let Some((kind, run)) = is(RunState::Failed) {
        return Finding::new(
            type_,
            false,
            "JobFailing",
            format!("the {kind} run {} failed: {}", run.run_id, run.reason),
        );
    }
    if maintenance.is_empty() {
        return Finding::new(type_, Truth::Unknown, "NoRuns", "no job has run yet");
    }
    Finding::new(type_, true, "RunsSucceed", "the last run of each job came to its end")
}

/// Events for what has changed.
pub async fn tell(server: &StorageServer, new: &StorageServerStatus, context: &Context) {
    let before = old(server);
    let look = |status: &StorageServerStatus, type_: &str| {
        condition::find(&status.conditions, type_).map(|found| (found.status.clone(), found.reason.clone()))
    };
    // Condition, its truth, the event, whether that is a warning.
    let told = [
        ("Progressing", "True", "RolloutStarted", false),
        ("Progressing", "False", "RolloutFinished", false),
        ("DependenciesReady", "False", "DependencyDown", true),
        ("DependenciesReady", "True", "DependencyUp", false),
        ("IdentityReady", "False", "IdentityChanged", true),
        ("GarbageCollectionHealthy", "False", "GarbageCollectionHalted", true),
        ("UpdateWaiting", "True", "UpdateWaiting", false),
    ];
    for (type_, truth, event, is_warning) in told {
        let (was, is) = (look(&before, type_), look(new, type_));
        let changed = is.as_ref().is_some_and(|(status, _)| status == truth)
            && was.as_ref().map(|(status, _)| status) != is.as_ref().map(|(status, _)| status);
        // What is good from the start is no news.
        if changed && (is_warning || was.is_some()) {
            let message = condition::find(&new.conditions, type_).map(|found| found.message.clone());
            context.writer.event(server, is_warning, event, message.unwrap_or_default()).await;
        }
    }
}

/// Writes the status if it has changed.
///
/// # Errors
/// The API server refused or does not answer.
pub async fn write(server: &StorageServer, context: &Context, new: StorageServerStatus) -> Result<()> {
    context.metrics.conditions("StorageServer", &Key::of(server), &new.conditions);
    context.writer.status(server, &old(server), &new).await
}
