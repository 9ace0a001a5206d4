//! What people are told of a backend.

use leasehold_core::clock::Timestamp;
use leasehold_crds::{BackendProbeStatus, BackendUsage, StorageBackend, StorageBackendStatus};

use super::validate::Validated;
use crate::condition::{self, Finding, Obstacle, Truth, merge, summary};
use crate::context::Context;
use crate::error::Result;
use crate::job::JobState;
use crate::names::Key;
use crate::quantity::shown;
use crate::sweep::ServerTotals;

fn old(backend: &StorageBackend) -> StorageBackendStatus {
    backend.status.clone().unwrap_or_default()
}

fn with(backend: &StorageBackend, found: Vec<Finding>, now: Timestamp) -> StorageBackendStatus {
    let old = old(backend);
    let generation = backend.metadata.generation;
    let conditions = merge(&old.conditions, found, generation, now);
    StorageBackendStatus { observed_generation: generation, conditions, ..old }
}

/// The status of a paused backend.
pub fn paused(backend: &StorageBackend, now: Timestamp) -> StorageBackendStatus {
    with(backend, condition::paused(), now)
}

/// The status of a backend that cannot be probed.
pub fn refused(
    backend: &StorageBackend,
    obstacle: Obstacle,
    used_by: Vec<String>,
    now: Timestamp,
) -> StorageBackendStatus {
    let (Obstacle::Passing(reason, message) | Obstacle::Lasting(reason, message)) = obstacle.clone();
    let mut found = summary(Some(obstacle), reason, "");
    found.push(Finding::new("CredentialsValid", false, reason, message));
    found.push(Finding::new("Reachable", Truth::Unknown, "NotProbed", "there has been no probe of these settings"));
    StorageBackendStatus { used_by, ..with(backend, found, now) }
}

/// The status of a backend that waits to be deleted.
pub fn deleting(backend: &StorageBackend, used_by: &[String], now: Timestamp) -> StorageBackendStatus {
    let message = format!("StorageServers refer to it: {}; delete them first", used_by.join(", "));
    let mut found = vec![Finding::new("DeletionBlocked", true, "InUse", message.clone())];
    found.extend(summary(Some(Obstacle::Passing("InUse", message)), "InUse", ""));
    with(backend, found, now)
}

/// The status of a backend that is probed.
pub fn observed(
    backend: &StorageBackend,
    validated: &Validated,
    probed: &JobState,
    used_by: Vec<String>,
    context: &Context,
) -> StorageBackendStatus {
    let now = context.now();
    let settings = super::build::settings(validated, &context.settings.image).unwrap_or_default();
    let mut probe = old(backend).probe.unwrap_or_default();
    let found = match probed {
        JobState::Succeeded { at } => {
            probe = BackendProbeStatus { last_success_time: Some(condition::time(*at)), settings };
            good()
        }
        JobState::Failed { message, .. } => {
            let message = format!("the last probe failed: {message}");
            let mut found = summary(Some(Obstacle::Passing("ProbeFailed", message.clone())), "ProbeFailed", "");
            found.push(Finding::new("Reachable", false, "ProbeFailed", message));
            found
        }
        // Until the next probe has ended, the last one of the same settings holds.
        JobState::Absent | JobState::Running if probe.settings == settings && was_ready(backend) => good(),
        JobState::Absent | JobState::Running => {
            let message = "a Job tries what is relied on";
            let mut found = summary(Some(Obstacle::Passing("Probing", message.to_owned())), "Probing", "");
            found.push(Finding::new("Reachable", Truth::Unknown, "Probing", message));
            found
        }
    };
    let mut found = found;
    if backend.spec.s3.allow_insecure {
        let message = "requests are not encrypted: whoever is on the way can read and change what is stored";
        found.push(Finding::new("InsecureTransport", true, "AllowInsecure", message));
    }
    let totals = context.totals.of_backend(&Key::of(backend), &context.stores);
    let endpoint = backend.spec.s3.endpoint.clone();
    StorageBackendStatus {
        endpoint: Some(endpoint.unwrap_or_else(|| format!("https://s3.{}.amazonaws.com", backend.spec.s3.region))),
        probe: (probe != BackendProbeStatus::default()).then_some(probe),
        usage: totals.map(|totals| usage(&totals)).or(old(backend).usage),
        used_by,
        ..with(backend, found, now)
    }
}

/// What is stored, by the lease database's count.
pub fn usage(totals: &ServerTotals) -> BackendUsage {
    BackendUsage {
        storage: shown(totals.used_bytes),
        shares: i64::try_from(totals.shares).unwrap_or(i64::MAX),
        measured_at: condition::time(totals.measured_at),
    }
}

fn good() -> Vec<Finding> {
    let text = "put, ranged get, list and delete work";
    let mut found = summary(None, "Probed", text);
    found.push(Finding::new("Reachable", true, "Probed", text));
    found.push(Finding::new("CredentialsValid", true, "Probed", "the store accepts the credentials"));
    found
}

fn was_ready(backend: &StorageBackend) -> bool {
    condition::holds(&old(backend).conditions, "Ready")
}

/// Events for what has changed.
pub async fn tell(backend: &StorageBackend, new: &StorageBackendStatus, context: &Context) {
    let ready = |conditions: &[_]| {
        condition::find(conditions, "Ready").map(|ready| (ready.status.clone(), ready.reason.clone()))
    };
    let (before, after) = (ready(&old(backend).conditions), ready(&new.conditions));
    if before == after {
        return;
    }
    let message = condition::find(&new.conditions, "Ready").map(|ready| ready.message.clone()).unwrap_or_default();
    match after {
        Some((_, reason)) if reason == "ProbeFailed" => {
            context.writer.event(backend, true, "ProbeFailed", message).await;
        }
        Some((status, _)) if status == "True" && before.is_some_and(|(_, reason)| reason == "ProbeFailed") => {
            context.writer.event(backend, false, "ProbeRecovered", message).await;
        }
        _ => {}
    }
}

/// Writes the status if it has changed.
///
/// # Errors
/// The API server refused or does not answer.
pub async fn write(backend: &StorageBackend, context: &Context, new: StorageBackendStatus) -> Result<()> {
    context.metrics.conditions("StorageBackend", &Key::of(backend), &new.conditions);
    context.writer.status(backend, &old(backend), &new).await
}
