//! `leasehold migrate`: brings the schema up to date and gives each role what it needs.
//!
//! Migrations are append-only and safe while older pods serve. Two runs at once wait for each other.

use leasehold_core::leasedb::{LeaseDbError, Result};

use super::PgOptions;

mod embedded {
    #![allow(missing_docs, reason = "generated")]
    refinery::embed_migrations!("migrations/postgres");
}

/// Taken by whoever migrates, in a transaction of its own on a second connection.
const LOCK: i64 = 0x4c45_4153_4548_4f4c;

/// Roles that get rights, beside the owner that migrates. A role that is not named gets none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// Serving pods.
    pub server: Option<String>,
    /// The operator: accounts, credentials and usage only.
    pub operator: Option<String>,
    /// Jobs: everything but the schema.
    pub maintenance: Option<String>,
}

/// What a migration did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// The versions applied now, ascending.
    pub applied: Vec<i32>,
    /// The version of the schema.
    pub version: u32,
}

const DEPLOYMENT_OF_SERVER: &str =
    "SELECT, UPDATE (deployment_id, epoch, mode, backed_up_until, surveyed_epoch, settled_epoch, complete_since)";
/// Tables with the rights of the server, the operator and maintenance on them. Who locks a row needs UPDATE on a column.
const RIGHTS: [(&str, [&str; 3]); 21] = [
    ("deployment", [DEPLOYMENT_OF_SERVER, "SELECT, UPDATE (accounts_version)", DEPLOYMENT_OF_SERVER]),
    ("beats", ["SELECT, UPDATE", "SELECT", "SELECT, UPDATE"]),
    ("losses", ["SELECT, INSERT", "SELECT", "SELECT, INSERT"]),
    ("accounts", ["SELECT", "SELECT, INSERT, UPDATE", "SELECT"]),
    // Whoever begins a database on an old backend skips the numbers of its accounts.
    ("accounts_account_id_seq", ["USAGE, UPDATE", "", "USAGE, UPDATE"]),
    ("account_usage", ["SELECT, UPDATE", "SELECT, INSERT", "SELECT, UPDATE"]),
    ("account_credentials", ["SELECT, UPDATE (last_used_at)", "SELECT, INSERT, UPDATE, DELETE", "SELECT"]),
    ("shares", ["SELECT, INSERT, UPDATE, DELETE", "", "SELECT, INSERT, UPDATE, DELETE"]),
    ("leases", ["SELECT, INSERT, UPDATE, DELETE", "", "SELECT, INSERT, UPDATE, DELETE"]),
    ("slots", ["SELECT, INSERT, UPDATE, DELETE", "", "SELECT, INSERT, UPDATE, DELETE"]),
    ("uploads", ["SELECT, INSERT, UPDATE, DELETE", "", "SELECT, INSERT, UPDATE, DELETE"]),
    ("upload_chunks", ["SELECT, INSERT, DELETE", "", "SELECT, INSERT, DELETE"]),
    ("scattered", ["SELECT, INSERT, UPDATE, DELETE", "", "SELECT, INSERT, UPDATE, DELETE"]),
    ("garbage", ["SELECT, INSERT, UPDATE, DELETE", "", "SELECT, INSERT, UPDATE, DELETE"]),
    ("recovered", ["SELECT, INSERT, UPDATE, DELETE", "", "SELECT, INSERT, UPDATE, DELETE"]),
    ("crawl_units", ["SELECT, INSERT, UPDATE, DELETE", "", "SELECT, INSERT, UPDATE, DELETE"]),
    ("runs", ["SELECT, INSERT, UPDATE, DELETE", "SELECT", "SELECT, INSERT, UPDATE, DELETE"]),
    ("expired_leases", ["SELECT, INSERT, UPDATE, DELETE", "", "SELECT, INSERT, UPDATE, DELETE"]),
    ("unleased", ["SELECT, INSERT, DELETE", "", "SELECT, INSERT, DELETE"]),
    ("damaged_objects", ["SELECT, INSERT, UPDATE, DELETE", "", "SELECT, INSERT, UPDATE, DELETE"]),
    ("corruption_advisories", ["SELECT, INSERT", "", "SELECT, INSERT, UPDATE, DELETE"]),
];

/// Migrates the schema as its owner and gives `roles` their rights. Runs at once wait for each other.
///
/// # Errors
/// The database cannot be reached, the role may not do this, or the schema is newer than this program.
pub async fn migrate(options: &PgOptions, roles: &Roles) -> Result<Migrated> {
    check_name(&options.schema)?;
    for role in [&roles.server, &roles.operator, &roles.maintenance].into_iter().flatten() {
        check_name(role)?;
    }
    // Migrations may take longer than requests may.
    let patient = PgOptions {
        statement_timeout: std::time::Duration::from_secs(24 * 3600),
        idle_in_transaction: std::time::Duration::from_secs(24 * 3600),
        ..options.clone()
    };
    let lock = patient.connect_once().await?;
    execute(&lock, &format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK})")).await?;
    let mut client = patient.connect_once().await?;
    let schema = &options.schema;
    execute(&client, &format!("CREATE SCHEMA IF NOT EXISTS \"{schema}\"; SET search_path = \"{schema}\"")).await?;
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name("leasehold_migrations");
    let report = runner.run_async(&mut client).await.map_err(|error| LeaseDbError::Unavailable(Box::new(error)))?;
    grant(&client, schema, roles).await?;
    execute(&lock, "COMMIT").await?;
    let version = runner.get_migrations().iter().map(|m| m.version()).max().unwrap_or_default();
    let applied = report.applied_migrations().iter().map(|m| m.version()).collect();
    Ok(Migrated { applied, version: u32::try_from(version).unwrap_or_default() })
}

async fn grant(client: &tokio_postgres::Client, schema: &str, roles: &Roles) -> Result<()> {
    for (column, role) in [&roles.server, &roles.operator, &roles.maintenance].into_iter().enumerate() {
        let Some(role) = role else { continue };
        let mut text = format!(
            "BEGIN; REVOKE ALL ON ALL TABLES IN SCHEMA \"{schema}\" FROM \"{role}\"; \
             GRANT USAGE ON SCHEMA \"{schema}\" TO \"{role}\"; \
             GRANT SELECT ON \"{schema}\".leasehold_migrations TO \"{role}\"; "
        );
        for (table, rights) in &RIGHTS {
            let rights = rights[column];
            if !rights.is_empty() {
                text.push_str(&format!("GRANT {rights} ON \"{schema}\".{table} TO \"{role}\"; "));
            }
        }
        text.push_str("COMMIT");
        execute(client, &text).await?;
    }
    Ok(())
}

async fn execute(client: &tokio_postgres::Client, text: &str) -> Result<()> {
    client.batch_execute(text).await.map_err(|error| LeaseDbError::Unavailable(Box::new(error)))
}

/// Names stand in statements of ours, so they are plain.
fn check_name(name: &str) -> Result<()> {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
    if plain && name.bytes().next().is_some_and(|first| first.is_ascii_lowercase() || first == b'_') && name.len() <= 63
    {
        return Ok(());
    }
    Err(LeaseDbError::Invalid(format!("{name:?} must consist of a-z, 0-9, _ and -, and begin with a letter")))
}
