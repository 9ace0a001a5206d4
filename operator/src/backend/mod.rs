//! StorageBackend: proves that the store does what is relied on, by a Job that tries it.

mod build;
mod dereference;
mod status;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use kube::runtime::controller::Action;
use leasehold_crds::StorageBackend;

use crate::context::Context;
use crate::error::Result;
use crate::job::JobState;
use crate::names::{Key, Owner};

pub use dereference::{References, dereference};
pub use validate::validate;

/// Waits while any StorageServer refers to the backend. Nothing outside the cluster is touched, so it cannot hang.
pub const FINALIZER: &str = "leasehold.dev/backend-in-use";
/// How long a failed probe rests before the next.
const RETRY_SECONDS: i64 = 60;

/// Brings a backend and its status up to date.
///
/// # Errors
/// The API server refused or does not answer.
pub async fn reconcile(backend: Arc<StorageBackend>, context: Arc<Context>) -> Result<Action> {
    context.stores.ready().await;
    let key = Key::of(&*backend);
    let used_by = dereference::used_by(&key, &context);
    if backend.metadata.deletion_timestamp.is_some() {
        return delete(&backend, &context, &used_by).await;
    }
    if crate::controller::is_paused(&*backend) {
        status::write(&backend, &context, status::paused(&backend, context.now())).await?;
        return Ok(Action::requeue(context.resync(&key)));
    }
    context.writer.finalizer(&*backend, FINALIZER, true).await?;
    let references = dereference(&backend, &context).await?;
    let validated = match validate(&backend, &references) {
        Ok(validated) => validated,
        Err(obstacle) => {
            status::write(&backend, &context, status::refused(&backend, obstacle, used_by, context.now())).await?;
            // A Secret that appears is not watched.
            return Ok(Action::requeue(Duration::from_secs(15)));
        }
    };
    let owner = Owner::of(&*backend)?;
    let name = build::job_name(&owner, &validated, &context.settings.image)?;
    let job = key.beside(&name);
    let probed = crate::job::observe(&context, &job).await?;
    let due = due(&probed, &backend, context.now().seconds());
    if due == Due::Now && probed == JobState::Absent {
        let (config_map, job) = build::build(&owner, &name, &backend, &validated, &context.settings.image)?;
        context.writer.apply(&config_map).await?;
        context.writer.apply(&job).await?;
    } else if due == Due::Now {
        // The next look finds none and starts another.
        context.writer.remove::<Job>(&owner, &name).await?;
    }
    let new = status::observed(&backend, &validated, &probed, used_by, &context);
    status::tell(&backend, &new, &context).await;
    status::write(&backend, &context, new).await?;
    Ok(match due {
        Due::Now => Action::requeue(Duration::from_secs(2)),
        Due::In(seconds) => Action::requeue(Duration::from_secs(seconds).min(context.resync(&key))),
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Now,
    In(u64),
}

/// When to probe next.
fn due(probed: &JobState, backend: &StorageBackend, now: i64) -> Due {
    let (at, rest) = match probed {
        JobState::Absent => return Due::Now,
        // Its end is watched.
        JobState::Running => return Due::In(60),
        JobState::Succeeded { at } => (at.seconds(), i64::from(backend.spec.probe.interval_minutes) * 60),
        JobState::Failed { at, .. } => (at.seconds(), RETRY_SECONDS),
    };
    match u64::try_from(at + rest - now) {
        Ok(seconds) if seconds > 0 => Due::In(seconds),
        _ => Due::Now,
    }
}

async fn delete(backend: &StorageBackend, context: &Context, used_by: &[String]) -> Result<Action> {
    if used_by.is_empty() {
        let last = backend.status.as_ref().map_or(&[][..], |status| &status.conditions);
        context.metrics.forget("StorageBackend", &Key::of(backend), last);
        context.writer.finalizer(backend, FINALIZER, false).await?;
        return Ok(Action::await_change());
    }
    status::write(backend, context, status::deleting(backend, used_by, context.now())).await?;
    Ok(Action::requeue(Duration::from_secs(15)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use leasehold_core::clock::Timestamp;

    #[test]
    fn a_probe_that_failed_is_repeated_soon_and_one_that_worked_later() {
        let spec = serde_json::json!({ "s3": { "bucket": "shares" }, "probe": { "intervalMinutes": 10 } });
        let backend = StorageBackend::new("b", serde_json::from_value(spec).expect("a spec"));
        let at = Timestamp::from_seconds(1000);
        let failed = JobState::Failed { at, message: String::new() };
        assert_eq!(due(&JobState::Absent, &backend, 1000), Due::Now);
        assert_eq!(due(&failed, &backend, 1030), Due::In(30));
        assert_eq!(due(&failed, &backend, 1060), Due::Now);
        assert_eq!(due(&JobState::Succeeded { at }, &backend, 1060), Due::In(540));
        assert_eq!(due(&JobState::Succeeded { at }, &backend, 1600), Due::Now);
    }
}
