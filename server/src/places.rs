//! Opens the lease database and the backend that the configuration names.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use leasehold_config::{Config, Database, TlsMode};
use leasehold_core::clock::{Entropy, SystemClock, SystemSteadyClock};
use leasehold_core::expiry::Brakes;
use leasehold_core::lease::{DAY_SECONDS, LeaseTerms};
use leasehold_core::leasedb::{LeaseDb, LeaseDbError, Mode};
use leasehold_core::store::{Claim, SILENCE_SECONDS, Store, StoreOptions};
use leasehold_leasedb::AnyLeaseDb;
use leasehold_leasedb::postgres::{Authorities, Migrated, PgLeaseDb, PgMetrics, PgOptions, Roles, Tls, migrate};
use leasehold_leasedb::sqlite::SqliteLeaseDb;
use prometheus_client::registry::Registry;

use crate::backend::any::AnyBackend;
use crate::backend::cached_blocks::{CacheMetrics, CachedBlocks};
use crate::backend::directory::DirectoryBackend;
use crate::backend::s3::{S3Backend, S3Metrics};
use crate::backend::watched::Watched;
use crate::datadir::DataDir;

/// The largest object on S3: the whole of it is in memory while it is sent, so that it can be signed and repeated.
const S3_OBJECT_MAX_BYTES: u64 = 8 << 20;
const OBJECT_MAX_BYTES: u64 = 64 << 20;

/// The store of this program.
pub type AnyStore = Store<AnyLeaseDb, AnyBackend>;

/// What leases promise.
fn terms(config: &Config) -> LeaseTerms {
    LeaseTerms {
        duration_seconds: i64::from(config.leases.duration_days) * DAY_SECONDS,
        slack_seconds: i64::from(config.leases.renewal_slack_seconds),
    }
}

/// Opens the lease database: PostgreSQL if one is configured, else the file in the data directory.
///
/// # Errors
/// A sentence for the operator.
pub async fn open_lease_db(config: &Config, data: &DataDir, registry: &mut Registry) -> anyhow::Result<AnyLeaseDb> {
    if let Some(database) = &config.database {
        let metrics = PgMetrics::default();
        metrics.register(registry);
        let opened = PgLeaseDb::open(&pg_options(database)?, terms(config), metrics).await;
        let db = opened.map_err(plainly).with_context(|| format!("cannot use the database {}", shown(database)))?;
        db.show_pool(registry);
        return Ok(AnyLeaseDb::Postgres(db));
    }
    let path = data.database();
    let db = SqliteLeaseDb::open(&path, std::sync::Arc::new(SystemClock), terms(config));
    Ok(AnyLeaseDb::Sqlite(db.with_context(|| format!("cannot open the lease database {}", path.display()))?))
}

/// Opens the backend: the S3 bucket if one is configured, else the data directory.
///
/// # Errors
/// A sentence for the operator.
pub fn open_backend(config: &Config, data: &DataDir, registry: &mut Registry) -> anyhow::Result<AnyBackend> {
    if let Some(s3) = &config.storage.s3 {
        let backend = S3Backend::open(s3, S3Metrics::register(registry))
            .with_context(|| format!("cannot use the S3 bucket {}", s3.bucket))?;
        let cached = CachedBlocks::new(backend, s3.read_cache.0, CacheMetrics::register(registry));
        return Ok(AnyBackend::S3(Watched::new(cached, std::sync::Arc::new(SystemSteadyClock::default()))));
    }
    let backend = DirectoryBackend::open(data.path());
    let backend = backend.with_context(|| format!("cannot use {} for shares", data.path().display()))?;
    Ok(AnyBackend::Directory(backend))
}

/// Puts the store together and makes sure that its backend belongs to its database.
///
/// # Errors
/// They do not belong together, or one of them does not answer.
pub async fn open_store(config: &Config, db: AnyLeaseDb, backend: AnyBackend) -> anyhow::Result<AnyStore> {
    let store = unclaimed_store(config, db, backend);
    match store.claim_backend().await.context("cannot find out whose the backend is")? {
        Claim::Ours => {}
        Claim::Foreign { theirs, ours, silent_seconds } => bail!(foreign(&theirs, &ours, silent_seconds)),
    }
    if store.db().deployment().await?.mode == Mode::Recovery {
        tracing::warn!(
            "the lease database may not know all shares: each is looked for when it is asked for; nothing is \
                        deleted until `leasehold reconcile` has compared everything"
        );
    }
    store.refresh_space().await.context("cannot measure the backend's room")?;
    Ok(store)
}

/// Puts the store together for who makes the database belong to the backend.
pub fn unclaimed_store(config: &Config, db: AnyLeaseDb, backend: AnyBackend) -> AnyStore {
    let store = Store::new(db.into(), backend.into(), Entropy::from_os(), options(config));
    store.with_host_clock(std::sync::Arc::new(SystemClock))
}

/// Says that a backend belongs to another deployment, and what may be done about it.
pub(crate) fn foreign(theirs: &str, ours: &str, silent_seconds: Option<i64>) -> String {
    let advice = match silent_seconds {
        Some(seconds) if seconds < SILENCE_SECONDS => format!(
            "another server was at work on it {seconds} seconds ago. If it is gone for good and so is its database, run \
             `leasehold restore` on an empty one, or start an empty one in {} seconds",
            SILENCE_SECONDS - seconds
        ),
        _ => "use an empty S3 bucket or prefix, or the database that knows what is in this one; if that is lost, run \
              `leasehold restore` on an empty one"
            .to_owned(),
    };
    format!(
        "the backend belongs to another deployment: it is marked {theirs}, this database's mark would be {ours}; {advice}"
    )
}

fn options(config: &Config) -> StoreOptions {
    let object_max_bytes = if config.storage.s3.is_some() { S3_OBJECT_MAX_BYTES } else { OBJECT_MAX_BYTES };
    StoreOptions {
        upload_idle_seconds: config.uploads.idle_timeout_seconds as i64,
        immutable_share_max_bytes: config.limits.immutable_share_max.0,
        mutable_share_max_bytes: config.limits.mutable_share_max.0,
        object_max_bytes,
        merged_max_bytes: OBJECT_MAX_BYTES,
        reserved_bytes: config.storage.reserved_space.0,
        brakes: Brakes {
            leases_percent: config.expire.brake_percent as u64,
            retired_percent: config.jobs.collect_brake_percent as u64,
            ..Brakes::USUAL
        },
        // There is none of the file in the data directory.
        standby_is_synchronous: match &config.database {
            Some(database) => database.synchronous_standby,
            None => true,
        },
        restore_horizon_seconds: config.backup.restore_horizon_seconds.map(|seconds| seconds as i64),
    }
}

/// Brings the schema of the configured database up to date.
///
/// # Errors
/// There is none configured, or it refuses.
pub async fn migrate_database(config: &Config) -> anyhow::Result<Migrated> {
    let Some(database) = &config.database else {
        bail!("there is no [database] in the configuration; a SQLite file is migrated when the server starts");
    };
    let roles = Roles {
        server: database.roles.server.clone(),
        operator: database.roles.operator.clone(),
        maintenance: database.roles.maintenance.clone(),
    };
    let migrated = migrate(&pg_options(database)?, &roles).await.map_err(plainly);
    migrated.with_context(|| format!("cannot migrate the database {}", shown(database)))
}

fn shown(database: &Database) -> String {
    format!("{} on {}:{}", database.name, database.host, database.port)
}

/// The cause, where the error itself says only that there was one.
fn plainly(error: LeaseDbError) -> anyhow::Error {
    match error {
        LeaseDbError::Invalid(text) => anyhow::anyhow!(text),
        LeaseDbError::Unavailable(cause) | LeaseDbError::OutcomeUnknown(cause) => anyhow::Error::from_boxed(cause),
    }
}

fn pg_options(database: &Database) -> anyhow::Result<PgOptions> {
    let ca_file = || database.ca_file.clone().map(Authorities::File).context("database.ca_file must be set");
    let seconds = Duration::from_secs;
    Ok(PgOptions {
        host: database.host.clone(),
        port: database.port,
        database: database.name.clone(),
        user: database.user.clone(),
        password: database.password_file.as_deref().map(read_password).transpose()?,
        schema: database.schema.clone(),
        tls: match database.tls {
            TlsMode::VerifyFull => Tls::VerifyFull(ca_file()?),
            TlsMode::VerifyCa => Tls::VerifyCa(ca_file()?),
            TlsMode::Require => Tls::Require,
            TlsMode::Disable => Tls::Disable,
        },
        connections_max: database.connections_max,
        connect_timeout: seconds(database.connect_timeout_seconds),
        statement_timeout: seconds(database.statement_timeout_seconds),
        idle_in_transaction: seconds(database.idle_in_transaction_seconds),
        pooler: database.pooler,
    })
}

fn read_password(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("cannot read the database's password from {}", path.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
