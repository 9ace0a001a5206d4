//! What people are told of a database.

use std::sync::Arc;

use kube::ResourceExt;
use leasehold_core::clock::Timestamp;
use leasehold_core::leasedb::LeaseDbError;
use leasehold_crds::{
    Connections, LeaseDatabase, LeaseDatabaseStatus, MigrationPolicy, Replication, SchemaVersion, StorageServer,
};
use leasehold_leasedb::postgres::{PgFacts, SCHEMA_VERSION};

use super::Observed;
use crate::condition::{self, Finding, Obstacle, Truth, merge, summary};
use crate::context::Context;
use crate::databases::CONNECTIONS_MAX;
use crate::error::Result;
use crate::job::JobState;
use crate::names::Key;

/// The oldest PostgreSQL that is supported.
const POSTGRES_MIN: u32 = 14;

fn old(database: &LeaseDatabase) -> LeaseDatabaseStatus {
    database.status.clone().unwrap_or_default()
}

fn with(database: &LeaseDatabase, found: Vec<Finding>, now: Timestamp) -> LeaseDatabaseStatus {
    let old = old(database);
    let generation = database.metadata.generation;
    let conditions = merge(&old.conditions, found, generation, now);
    LeaseDatabaseStatus { observed_generation: generation, conditions, ..old }
}

/// The status of a paused database.
pub fn paused(database: &LeaseDatabase, now: Timestamp) -> LeaseDatabaseStatus {
    with(database, condition::paused(), now)
}

/// The status of a database that cannot be asked.
pub fn refused(
    database: &LeaseDatabase,
    obstacle: Obstacle,
    servers: &[Arc<StorageServer>],
    now: Timestamp,
) -> LeaseDatabaseStatus {
    let reason = match &obstacle {
        Obstacle::Passing(reason, _) | Obstacle::Lasting(reason, _) => *reason,
    };
    let mut found = summary(Some(obstacle), reason, "");
    found.push(Finding::new("Reachable", Truth::Unknown, reason, "nobody has asked it"));
    LeaseDatabaseStatus { used_by: names(servers), ..with(database, found, now) }
}

/// The status of a database that waits to be deleted.
pub fn deleting(database: &LeaseDatabase, servers: &[Arc<StorageServer>], now: Timestamp) -> LeaseDatabaseStatus {
    let message = format!("StorageServers refer to it: {}; delete them first", names(servers).join(", "));
    let mut found = vec![Finding::new("DeletionBlocked", true, "InUse", message.clone())];
    found.extend(summary(Some(Obstacle::Passing("InUse", message)), "InUse", ""));
    with(database, found, now)
}

fn names(servers: &[Arc<StorageServer>]) -> Vec<String> {
    servers.iter().map(|server| server.name_any()).collect()
}

/// Whether the schema is missing or older than this program's.
pub fn is_behind(facts: &PgFacts) -> bool {
    facts.schema_version.is_none_or(|version| version < SCHEMA_VERSION)
}

/// The status of a database that was asked.
pub fn observed(
    database: &LeaseDatabase,
    observed: &Observed,
    servers: &[Arc<StorageServer>],
    context: &Context,
) -> LeaseDatabaseStatus {
    let now = context.now();
    let mut found = Vec::new();
    let mut obstacle = None;
    let mut hinder = |found: &mut Vec<Finding>, type_, obstacle_now: Obstacle| {
        let (Obstacle::Passing(reason, message) | Obstacle::Lasting(reason, message)) = obstacle_now.clone();
        found.push(Finding::new(type_, false, reason, message));
        obstacle.get_or_insert(obstacle_now);
    };
    let facts = observed.facts.as_ref().ok();
    match &observed.facts {
        Err(why) => hinder(&mut found, "Reachable", Obstacle::Passing("ConnectFailed", why.clone())),
        Ok(facts) if facts.read_only => {
            let text = "the server is read-only: a standby, or a primary that was replaced; connection.parameters.host must name the primary";
            hinder(&mut found, "Reachable", Obstacle::Passing("ReadOnly", text.to_owned()));
        }
        Ok(_) => found.push(Finding::new("Reachable", true, "Answers", "a writable primary answers")),
    }
    if let Some(facts) = facts {
        let major = facts.server_version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        match major {
            Some(major) if major < POSTGRES_MIN => {
                let text =
                    format!("PostgreSQL {} is too old; {POSTGRES_MIN} to 18 are supported", facts.server_version);
                hinder(&mut found, "VersionSupported", Obstacle::Lasting("TooOld", text));
            }
            _ => found.push(Finding::new("VersionSupported", true, "Supported", "")),
        }
        match schema_obstacle(database, facts, observed) {
            Some(obstacle) => hinder(&mut found, "SchemaReady", obstacle),
            None => found.push(Finding::new("SchemaReady", true, "Migrated", "the schema is what this version wants")),
        }
        found.push(budget(database, facts, servers));
    }
    found.push(replication(database));
    let mut all = summary(obstacle, "Answers", "the lease database can serve");
    all.append(&mut found);
    let is_migrated = matches!(observed.migration, JobState::Succeeded { .. });
    let before = old(database);
    LeaseDatabaseStatus {
        server_version: facts.map(|facts| facts.server_version.clone()).or(before.server_version),
        schema_version: facts.map_or(before.schema_version, |facts| {
            let current = facts.schema_version.map(i64::from);
            Some(SchemaVersion { current, wanted: i64::from(SCHEMA_VERSION) })
        }),
        migrated: if is_migrated { observed.migration_digest.clone() } else { before.migrated },
        connections: facts.map(|facts| connections(database, facts)).or(before.connections),
        accounts: context.totals.of_database(&Key::of(database), servers).or(before.accounts),
        used_by: names(servers),
        ..with(database, all, now)
    }
}

/// Whether a newer version has migrated the database: who went back finds it so.
pub fn is_ahead(facts: &PgFacts) -> bool {
    facts.schema_version.is_some_and(|version| version > SCHEMA_VERSION)
}

fn schema_obstacle(database: &LeaseDatabase, facts: &PgFacts, observed: &Observed) -> Option<Obstacle> {
    let version = facts.schema_version.map_or("missing".to_owned(), |version| format!("version {version}"));
    if is_ahead(facts) {
        let text = format!(
            "the schema is {version}, made by a newer version; this one knows up to {SCHEMA_VERSION}: upgrade again; pods that run \
             go on"
        );
        return Some(Obstacle::Lasting("SchemaTooNew", text));
    }
    match &observed.migration {
        JobState::Failed { message, .. } => {
            return Some(Obstacle::Passing("MigrationFailed", format!("the migration failed: {message}")));
        }
        JobState::Running => {
            return Some(Obstacle::Passing(
                "MigrationPending",
                format!("a Job migrates the schema, which is {version}"),
            ));
        }
        JobState::Absent | JobState::Succeeded { .. } => {}
    }
    if is_behind(facts) {
        let text = format!("the schema is {version}, {SCHEMA_VERSION} is wanted");
        return Some(match database.spec.migrations.policy {
            MigrationPolicy::Manual => {
                Obstacle::Lasting("MigrationPending", format!("{text}; run `leasehold migrate` as its owner"))
            }
            MigrationPolicy::Automatic => Obstacle::Passing("MigrationPending", text),
        });
    }
    observed.unusable.clone().map(|why| Obstacle::Passing("Unusable", why))
}

fn connections(database: &LeaseDatabase, facts: &PgFacts) -> Connections {
    let max = i64::from(facts.connections_max);
    let budget = (max - i64::from(database.spec.connection_reserve)).max(0);
    Connections { max, budget, per_pod: i64::from(database.spec.pool.max_per_pod) }
}

/// How many pods a server has at most, and how many connections all servers' pods and the operator open at most.
pub fn connection_needs<'a>(per_pod: i64, servers: impl Iterator<Item = &'a StorageServer>) -> i64 {
    let pods: i64 = servers.map(|server| i64::from(crate::server::replicas_max(&server.spec))).sum();
    // A Deployment that is rolled has a quarter more pods for a while.
    (pods + (pods + 3) / 4) * per_pod + CONNECTIONS_MAX as i64
}

/// How many pods of one of `servers` servers fit into what connections there are.
pub fn replicas_that_fit(connections: &Connections, servers: usize) -> i32 {
    let share = (connections.budget - CONNECTIONS_MAX as i64) / i64::try_from(servers.max(1)).unwrap_or(1);
    let with_surge = share / connections.per_pod.max(1) * 4 / 5;
    i32::try_from(with_surge.max(1)).unwrap_or(i32::MAX)
}

fn budget(database: &LeaseDatabase, facts: &PgFacts, servers: &[Arc<StorageServer>]) -> Finding {
    let Connections { max, budget, per_pod } = connections(database, facts);
    let needed = connection_needs(per_pod, servers.iter().map(|server| &**server));
    if needed <= budget {
        let message = format!("at most {needed} of {budget} connections are used");
        return Finding::new("ConnectionBudgetOK", true, "Fits", message);
    }
    let message = format!(
        "all pods at their most would open {needed} connections of {per_pod} each (a quarter more while they are rolled), \
         but PostgreSQL allows {max} and {} are reserved; fewer pods are started: raise max_connections, or lower \
         pool.maxPerPod or autoscaling.maxReplicas",
        database.spec.connection_reserve
    );
    Finding::new("ConnectionBudgetOK", false, "ExceedsMaxConnections", message)
}

fn replication(database: &LeaseDatabase) -> Finding {
    match database.spec.replication {
        Replication::Synchronous => {
            Finding::new("CommitsSurviveFailover", true, "Synchronous", "a standby never lacks an acknowledged commit")
        }
        Replication::Asynchronous => {
            let message = "a standby that takes over may lack the last commits; servers then enter recovery mode, in \
                           which nothing is deleted; set replication: Synchronous only where that cannot happen";
            Finding::new("CommitsSurviveFailover", Truth::Unknown, "Asynchronous", message)
        }
    }
}

/// An error of the database with its causes, in a sentence; they hold no secret.
pub fn sentence(error: &LeaseDbError) -> String {
    let mut text = match error {
        LeaseDbError::Invalid(text) => return text.clone(),
        error => error.to_string(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// Events for what has changed.
pub async fn tell(database: &LeaseDatabase, new: &LeaseDatabaseStatus, context: &Context) {
    let before = old(database);
    if before.migrated != new.migrated {
        let version = new.schema_version.as_ref().and_then(|version| version.current).unwrap_or_default();
        context.writer.event(database, false, "MigrationFinished", format!("the schema is at version {version}")).await;
    }
    for (type_, reason) in [("SchemaReady", "MigrationFailed"), ("ConnectionBudgetOK", "ExceedsMaxConnections")] {
        let has = |conditions: &[_]| condition::find(conditions, type_).is_some_and(|found| found.reason == reason);
        if has(&new.conditions) && !has(&before.conditions) {
            let message = condition::find(&new.conditions, type_).map(|found| found.message.clone());
            let event = if type_ == "SchemaReady" { "MigrationFailed" } else { "ConnectionBudgetExceeded" };
            context.writer.event(database, true, event, message.unwrap_or_default()).await;
        }
    }
}

/// Writes the status if it has changed.
///
/// # Errors
/// The API server refused or does not answer.
pub async fn write(database: &LeaseDatabase, context: &Context, new: LeaseDatabaseStatus) -> Result<()> {
    context.metrics.conditions("LeaseDatabase", &Key::of(database), &new.conditions);
    context.writer.status(database, &old(database), &new).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_as_many_as_connections_allow() {
        let connections = Connections { max: 60, budget: 40, per_pod: 4 };
        // (40 - 4) / 4 = 9 pods, of which a fifth is left for those that are rolled.
        assert_eq!(replicas_that_fit(&connections, 1), 7);
        assert_eq!(replicas_that_fit(&connections, 2), 3);
        assert_eq!(replicas_that_fit(&Connections { budget: 0, ..connections }, 1), 1);
    }

    #[test]
    fn a_cause_is_told_and_a_rule_is_told_plainly() {
        let cause: leasehold_core::leasedb::Cause = "no route to host".into();
        let text = sentence(&LeaseDbError::Unavailable(cause));
        assert!(text.ends_with("no route to host"), "{text}");
        assert_eq!(sentence(&LeaseDbError::Invalid("its schema is old".to_owned())), "its schema is old");
    }
}
