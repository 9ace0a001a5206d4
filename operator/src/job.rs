//! Jobs that the operator starts and waits for: a probe, a migration.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use leasehold_core::clock::Timestamp;

use crate::context::Context;
use crate::error::Result;
use crate::names::{Key, Owner, labels};

/// A Job that runs a pod until it succeeds or has failed for good.
pub fn build(owner: &Owner, name: &str, component: &str, pod: PodSpec, limits: &JobLimits) -> Job {
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels(&owner.key.name, component)), ..ObjectMeta::default() }),
        spec: Some(PodSpec { restart_policy: Some("Never".to_owned()), ..pod }),
    };
    let spec = JobSpec {
        backoff_limit: Some(limits.retries),
        active_deadline_seconds: Some(limits.seconds_max),
        ttl_seconds_after_finished: Some(limits.kept_seconds),
        template,
        ..JobSpec::default()
    };
    Job { metadata: owner.owned(name, component), spec: Some(spec), status: None }
}

/// How long a Job may take, and how long it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobLimits {
    /// How often it is tried again.
    pub retries: i32,
    /// How long all tries together may take.
    pub seconds_max: i64,
    /// How long it stays for people to look at.
    pub kept_seconds: i32,
}

/// How a Job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// There is none.
    Absent,
    /// It runs, or waits to.
    Running,
    /// It succeeded.
    Succeeded {
        /// When.
        at: Timestamp,
    },
    /// It failed for good.
    Failed {
        /// When.
        at: Timestamp,
        /// What the program said last.
        message: String,
    },
}

/// How a Job stands, without what its program said.
pub fn state(job: Option<&Job>) -> JobState {
    let Some(job) = job else { return JobState::Absent };
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ended = |type_: &str| conditions.iter().find(|found| found.type_ == type_ && found.status == "True");
    let time = |found: &k8s_openapi::api::batch::v1::JobCondition| {
        let seconds = found.last_transition_time.as_ref().map_or(0, |time| time.0.as_second());
        Timestamp::from_seconds(seconds)
    };
    if let Some(found) = ended("Complete") {
        return JobState::Succeeded { at: time(found) };
    }
    match ended("Failed") {
        Some(found) => JobState::Failed { at: time(found), message: found.message.clone().unwrap_or_default() },
        None => JobState::Running,
    }
}

/// Reads how a Job stands, and of one that failed what its program said last.
///
/// # Errors
/// The API server refused or does not answer.
pub async fn observe(context: &Context, key: &Key) -> Result<JobState> {
    let state = state(context.read::<Job>(key).await?.as_ref());
    let JobState::Failed { at, message } = state else { return Ok(state) };
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let selector = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={}", key.name));
    let pods = pods.list(&selector).await?;
    let last = pods.items.iter().max_by_key(|pod| pod.creation_timestamp());
    Ok(JobState::Failed { at, message: last.and_then(last_words).unwrap_or(message) })
}

/// What a pod's program said last: its errors if it marked them, else its last line.
fn last_words(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let message = statuses.first()?.state.as_ref()?.terminated.as_ref()?.message.as_ref()?;
    let errors: Vec<&str> = message.lines().filter_map(|line| line.strip_prefix("error: ")).collect();
    if !errors.is_empty() {
        return Some(errors.join("; "));
    }
    let last = message.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(last.strip_prefix("leasehold: ").unwrap_or(last).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(message: &str) -> Pod {
        let state = serde_json::json!({ "terminated": { "exitCode": 2, "message": message } });
        let status = serde_json::json!({ "containerStatuses": [{
            "name": "leasehold", "ready": false, "restartCount": 0, "image": "i", "imageID": "i", "state": state,
        }] });
        serde_json::from_value(serde_json::json!({ "status": status })).expect("a pod")
    }

    #[test]
    fn people_are_told_what_the_program_said() {
        let checked = "ok: the configuration is valid\nerror: access was denied\nerror: no listing\n";
        assert_eq!(last_words(&pod(checked)).as_deref(), Some("access was denied; no listing"));
        let migrated = "leasehold: cannot migrate the database x: no route\n";
        assert_eq!(last_words(&pod(migrated)).as_deref(), Some("cannot migrate the database x: no route"));
        assert_eq!(last_words(&Pod::default()), None);
    }

    #[test]
    fn a_job_ends_by_its_conditions() {
        let job = |type_: &str| -> Job {
            let condition = serde_json::json!({
                "type": type_, "status": "True", "message": "m", "lastTransitionTime": "1970-01-01T00:01:00Z",
            });
            serde_json::from_value(serde_json::json!({ "status": { "conditions": [condition] } })).expect("a job")
        };
        let at = Timestamp::from_seconds(60);
        assert_eq!(state(None), JobState::Absent);
        assert_eq!(state(Some(&job("Suspended"))), JobState::Running);
        assert_eq!(state(Some(&job("Complete"))), JobState::Succeeded { at });
        assert_eq!(state(Some(&job("Failed"))), JobState::Failed { at, message: "m".to_owned() });
    }
}
