//! StorageServer: everything that makes a server run, but its data and its identity, which outlive it.

mod apply;
mod build;
pub(crate) mod dereference;
mod identity;
mod status;
mod updates;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use kube::runtime::controller::Action;
use leasehold_core::run::RunKind;
use leasehold_crds::{ExpirationMode, StorageServer, StorageServerSpec, UpdatePolicy};

use crate::context::Context;
use crate::error::Result;
use crate::names::{Key, Owner};

pub use build::{Built, build};
pub use identity::{IDENTITY_SECRET_SUFFIX, secret_name};
pub use validate::{Validated, validate};

/// Waits while there are Accounts of the server: they would lose it.
pub const FINALIZER: &str = "leasehold.dev/server-cleanup";
/// Pods where the spec says nothing of them.
const REPLICAS_DEFAULT: i32 = 2;

/// The most pods that a server may have, as its spec says.
pub fn replicas_max(spec: &StorageServerSpec) -> i32 {
    match &spec.autoscaling {
        Some(autoscaling) => autoscaling.max_replicas,
        None => spec.replicas.unwrap_or(REPLICAS_DEFAULT),
    }
}

/// Brings a server, what it owns and its status up to date.
///
/// # Errors
/// The API server or the lease database refused or does not answer.
pub async fn reconcile(server: Arc<StorageServer>, context: Arc<Context>) -> Result<Action> {
    context.stores.ready().await;
    let key = Key::of(&*server);
    if server.metadata.deletion_timestamp.is_some() {
        return delete(&server, &context).await;
    }
    if crate::controller::is_paused(&*server) {
        status::write(&server, &context, status::paused(&server, context.now())).await?;
        return Ok(Action::requeue(context.resync(&key)));
    }
    context.writer.finalizer(&*server, FINALIZER, true).await?;
    let owner = Owner::of(&*server)?;
    // The identity comes first: whatever else is missing, it can be backed up and handed out.
    let identity = identity::ensure(&server, &context).await?;
    let references = dereference::dereference(&server, &context).await?;
    let validated = match validate(&server, owner, &identity, &references, &context.settings) {
        Ok(validated) => validated,
        Err(refusal) => {
            let new = status::refused(&server, &identity, &refusal, context.now());
            status::tell(&server, &new, &context).await;
            status::write(&server, &context, new).await?;
            return Ok(Action::requeue(Duration::from_secs(10)));
        }
    };
    let mut built = build(&validated)?;
    let live = match validated.spec.updates.policy {
        UpdatePolicy::Manual => context.read::<Deployment>(&key).await?,
        UpdatePolicy::WithOperator => None,
    };
    let change = updates::hold(&validated, &mut built, live.as_ref())?;
    let applied = apply::apply(&validated.owner, built, change, &context).await?;
    let runs = dereference::runs(&validated.database_key, &context).await;
    let new = status::observed(&server, &validated, &applied, runs.as_deref(), &context);
    status::tell(&server, &new, &context).await;
    let is_ready = crate::condition::holds(&new.conditions, "Ready");
    status::write(&server, &context, new).await?;
    // Deployments and Services are watched; a balancer's address or a run's end may come unseen.
    Ok(Action::requeue(if is_ready { Duration::from_secs(300) } else { Duration::from_secs(10) }))
}

/// Whether a job is to run without being asked for.
pub fn runs_by_itself(spec: &StorageServerSpec, kind: RunKind) -> bool {
    match kind {
        // A backup is worth as much when all else is at rest.
        RunKind::Backup => true,
        RunKind::Expire => !spec.maintenance.suspend && spec.expiration.mode != ExpirationMode::Disabled,
        RunKind::Collect | RunKind::Reconcile | RunKind::Audit => !spec.maintenance.suspend,
    }
}

async fn delete(server: &StorageServer, context: &Context) -> Result<Action> {
    let accounts = dereference::accounts(&Key::of(server), context);
    if accounts.is_empty() && !crate::controller::is_protected(server) {
        context.totals.forget(&Key::of(server));
        let last = server.status.as_ref().map_or(&[][..], |status| &status.conditions);
        context.metrics.forget("StorageServer", &Key::of(server), last);
        // What it owns goes by owner reference; the identity has none and stays.
        context.writer.finalizer(server, FINALIZER, false).await?;
        return Ok(Action::await_change());
    }
    status::write(server, context, status::deleting(server, &accounts, context.now())).await?;
    Ok(Action::requeue(Duration::from_secs(15)))
}
