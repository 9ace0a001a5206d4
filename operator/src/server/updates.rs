//! Who lets a new version into the pods: with `updates.policy: Manual` an upgrade of the operator never restarts them. Pure.
//!
//! Two digests stand at the Deployment: of what people have asked for, and of what was made of it. Where the same asking makes
//! something else now, that is the operator's doing, and it waits until people ask for something.

use k8s_openapi::api::apps::v1::Deployment;
use leasehold_crds::{StorageServerSpec, UpdatePolicy};
use serde_json::{Value, json};

use super::build::Built;
use super::validate::Validated;
use crate::condition::Finding;
use crate::error::{Error, Result};
use crate::names::digest;

const ASKED: &str = "leasehold.dev/asked";
const MADE: &str = "leasehold.dev/made";

/// Whether what pods and jobs are made of stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It becomes what this operator makes of the spec.
    Through,
    /// It stays as an earlier operator has made it.
    Waits,
}

/// Marks what was built. Where it has to wait, the Deployment keeps the pods that it has; their number is people's.
///
/// # Errors
/// [`Error::Encode`], which plain values do not cause.
pub fn hold(validated: &Validated, built: &mut Built, live: Option<&Deployment>) -> Result<Change> {
    let (asked, mut made) = (asked(validated)?, made(built)?);
    let mark = |name: &str| live?.metadata.annotations.as_ref()?.get(name).cloned();
    let is_as_asked = validated.spec.updates.policy == UpdatePolicy::Manual && mark(ASKED).as_ref() == Some(&asked);
    let before = mark(MADE).filter(|before| is_as_asked && *before != made);
    let change = if before.is_some() { Change::Waits } else { Change::Through };
    if let (Some(before), Some(spec), Some(live)) =
        (before, &mut built.deployment.spec, live.and_then(|live| live.spec.as_ref()))
    {
        spec.template = live.template.clone();
        made = before;
    }
    built.deployment.metadata.annotations = Some([(ASKED.to_owned(), asked), (MADE.to_owned(), made)].into());
    Ok(change)
}

/// What is said of updates.
pub fn finding(validated: &Validated, change: Change) -> Finding {
    let Validated { image, operators_image, spec, .. } = validated;
    let type_ = "UpdateWaiting";
    if spec.updates.policy == UpdatePolicy::WithOperator {
        return Finding::new(type_, false, "WithOperator", "pods follow the operator");
    }
    if image != operators_image {
        let message = format!(
            "pods run {image}, this operator comes with {operators_image}; pods are replaced when spec.image names another version"
        );
        return Finding::new(type_, true, "AnotherVersion", message);
    }
    match change {
        Change::Through => Finding::new(type_, false, "UpToDate", "pods are as this operator makes them"),
        Change::Waits => {
            let message = "this operator would make the pods differently; they are replaced when updates.policy is WithOperator, or \
                           with the next change of the spec";
            Finding::new(type_, true, "AnotherOperator", message)
        }
    }
}

/// What people have asked for. How many pods is asked for too, but replaces none.
fn asked(validated: &Validated) -> Result<String> {
    let encode = |spec: &StorageServerSpec| serde_json::to_value(spec).map_err(|_| Error::Encode("a spec"));
    let least =
        json!({ "backendRef": { "name": "" }, "leaseDatabaseRef": { "name": "" }, "exposure": { "hosts": [] } });
    let least: StorageServerSpec = serde_json::from_value(least).map_err(|_| Error::Encode("a spec"))?;
    let spec = StorageServerSpec { replicas: None, autoscaling: None, ..validated.spec.clone() };
    // A later version has more fields, with defaults that nobody has asked for.
    let spec = beyond(encode(&spec)?, &encode(&least)?).unwrap_or_default().to_string();
    let generations = format!("{:?}", validated.generations);
    let role = &validated.server_role;
    Ok(digest([spec.as_str(), &generations, &role.secret, &role.version, &validated.identity.server_id]))
}

/// What of a value differs from the default.
fn beyond(value: Value, default: &Value) -> Option<Value> {
    match (value, default) {
        (value, default) if value == *default => None,
        (Value::Object(fields), Value::Object(defaults)) => {
            let differing = fields.into_iter().filter_map(|(name, value)| {
                let differing = beyond(value, defaults.get(&name).unwrap_or(&Value::Null))?;
                Some((name, differing))
            });
            Some(Value::Object(differing.collect()))
        }
        (value, _) => Some(value),
    }
}

/// What was made of it: pods, jobs, and what they are told.
fn made(built: &Built) -> Result<String> {
    let template = built.deployment.spec.as_ref().map(|spec| &spec.template);
    let configs = [&built.server_config.data, &built.jobs_config.data];
    let text =
        serde_json::to_string(&(template, configs, &built.cron_jobs)).map_err(|_| Error::Encode("a Deployment"))?;
    Ok(digest([text.as_str()]))
}
