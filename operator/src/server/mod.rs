//! StorageServer: everything that makes a server run, but its data and its identity, which outlive it.

mod apply;
mod build;
mod dereference;
mod identity;
mod status;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::controller::Action;
use leasehold_crds::{StorageServer, StorageServerSpec};

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
    let applied = apply::apply(&validated.owner, build(&validated)?, &context).await?;
    let runs = dereference::runs(&validated.database_key, &context).await;
    let new = status::observed(&server, &validated, &applied, runs.as_deref(), &context);
    status::tell(&server, &new, &context).await;
    let is_ready = crate::condition::holds(&new.conditions, "Ready");
    status::write(&server, &context, new).await?;
    // Deployments and Services are watched; a balancer's address or a run's end may come unseen.
    Ok(Action::requeue(if is_ready { Duration::from_secs(300) } else { Duration::from_secs(10) }))
}

async fn delete(server: &StorageServer, context: &Context) -> Result<Action> {
    let accounts = dereference::accounts(&Key::of(server), context);
    if accounts.is_empty() && !crate::controller::is_protected(server) {
        context.totals.forget(&Key::of(server));
        // What it owns goes by owner reference; the identity has none and stays.
        context.writer.finalizer(server, FINALIZER, false).await?;
        return Ok(Action::await_change());
    }
    status::write(server, context, status::deleting(server, &accounts, context.now())).await?;
    Ok(Action::requeue(Duration::from_secs(15)))
}
