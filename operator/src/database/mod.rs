//! LeaseDatabase: looks whether it can be used, brings its schema up to date, counts its connections.

mod build;
pub mod dereference;
mod status;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use kube::runtime::controller::Action;
use leasehold_crds::{LeaseDatabase, MigrationPolicy};
use leasehold_leasedb::postgres::{PgFacts, facts};

use crate::context::Context;
use crate::error::Result;
use crate::job::JobState;
use crate::names::{Key, Owner};

pub use status::{connection_needs, replicas_that_fit, sentence};
pub use validate::{Role, Validated, validate};

/// Waits while any StorageServer refers to the database. No row is ever dropped.
pub const FINALIZER: &str = "leasehold.dev/database-in-use";

/// What was found of a database that could be asked.
#[derive(Clone, Debug)]
pub struct Observed {
    /// What the server says of itself; why it does not, in a sentence.
    pub facts: std::result::Result<PgFacts, String>,
    /// How the migration to this version stands.
    pub migration: JobState,
    /// Which migration that is.
    pub migration_digest: String,
    /// Why it cannot be opened as the operator's role, in a sentence.
    pub unusable: Option<String>,
}

/// Brings a database and its status up to date.
///
/// # Errors
/// The API server refused or does not answer.
pub async fn reconcile(database: Arc<LeaseDatabase>, context: Arc<Context>) -> Result<Action> {
    context.stores.ready().await;
    let key = Key::of(&*database);
    let servers = dereference::servers(&key, &context);
    if database.metadata.deletion_timestamp.is_some() {
        if servers.is_empty() {
            context.databases.forget(&key);
            let last = database.status.as_ref().map_or(&[][..], |status| &status.conditions);
            context.metrics.forget("LeaseDatabase", &key, last);
            context.writer.finalizer(&*database, FINALIZER, false).await?;
            return Ok(Action::await_change());
        }
        status::write(&database, &context, status::deleting(&database, &servers, context.now())).await?;
        return Ok(Action::requeue(Duration::from_secs(15)));
    }
    if crate::controller::is_paused(&*database) {
        status::write(&database, &context, status::paused(&database, context.now())).await?;
        return Ok(Action::requeue(context.resync(&key)));
    }
    context.writer.finalizer(&*database, FINALIZER, true).await?;
    let references = dereference::dereference(&database, &context).await?;
    let validated = match validate(&database, &references) {
        Ok(validated) => validated,
        Err(obstacle) => {
            let new = status::refused(&database, obstacle, &servers, context.now());
            status::write(&database, &context, new).await?;
            return Ok(Action::requeue(Duration::from_secs(15)));
        }
    };
    let observed = observe(&database, &validated, &context).await?;
    let new = status::observed(&database, &observed, &servers, &context);
    status::tell(&database, &new, &context).await;
    let is_ready = crate::condition::holds(&new.conditions, "Ready");
    status::write(&database, &context, new).await?;
    Ok(Action::requeue(if is_ready {
        Duration::from_secs(60).min(context.resync(&key))
    } else {
        Duration::from_secs(5)
    }))
}

/// Asks the database, and migrates it if that is due.
async fn observe(database: &LeaseDatabase, validated: &Validated, context: &Context) -> Result<Observed> {
    let owner = Owner::of(database)?;
    let digest = build::migration_digest(validated, &context.settings.image)?;
    let facts = match facts(&validated.operator).await {
        Ok(facts) => facts,
        Err(error) => {
            let why = Err(status::sentence(&error));
            return Ok(Observed { facts: why, migration: JobState::Absent, migration_digest: digest, unusable: None });
        }
    };
    let migrated = database.status.as_ref().map(|status| status.migrated.as_str()).unwrap_or_default();
    let is_due = (status::is_behind(&facts) || migrated != digest) && !status::is_ahead(&facts);
    let mut migration = JobState::Absent;
    if is_due && database.spec.migrations.policy == MigrationPolicy::Automatic && !facts.read_only {
        let name = build::job_name(&owner, &digest);
        migration = crate::job::observe(context, &owner.key.beside(&name)).await?;
        if matches!(migration, JobState::Succeeded { .. }) && migrated == digest {
            // It migrated a database that has been lost since: it makes way for another, which the next look makes.
            context.writer.remove::<Job>(&owner, &name).await?;
            migration = JobState::Running;
        }
        if migration == JobState::Absent {
            let (config_map, job) = build::build(&owner, &name, database, validated, &context.settings.image)?;
            context.writer.apply(&config_map).await?;
            context.writer.apply(&job).await?;
            context
                .writer
                .event(database, false, "MigrationStarted", format!("the Job {name} migrates the schema"))
                .await;
            migration = JobState::Running;
        }
    }
    let unusable = if status::is_behind(&facts) {
        None
    } else {
        context.databases.open(&owner.key, &validated.operator).await.err().map(|error| status::sentence(&error))
    };
    Ok(Observed { facts: Ok(facts), migration, migration_digest: digest, unusable })
}
