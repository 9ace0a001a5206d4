//! The server's configuration as the operator writes it: specs to TOML. Pure.

use std::net::SocketAddr;
use std::path::PathBuf;

use leasehold_config as config;
use leasehold_crds::{
    Addressing, BackupRetention, Checksums, ConnectionParameters, Expiration, ExpirationMode, LeaseDatabaseSpec,
    Pooler, Replication, S3, ShareType, StorageServerSpec, TlsMode,
};

use crate::error::{Error, Result};
use crate::pod::{DATABASE_CA_FILE, DATABASE_PASSWORD_FILE, S3_CA_FILE, S3_KEY_FILE, S3_SECRET_FILE};
use crate::quantity::bytes;

/// Where pods serve clients.
pub const CLIENT_PORT: u16 = 8443;
/// Where pods serve metrics and health.
pub const ADMIN_PORT: u16 = 9090;

/// The names of the roles of a database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleNames {
    /// Who connects.
    pub user: String,
    /// Who gets rights when the schema is migrated.
    pub granted: config::DatabaseRoles,
}

/// The S3 bucket.
pub fn s3(spec: &S3) -> config::S3 {
    let has_secret = spec.credentials.secret_ref.is_some();
    config::S3 {
        bucket: spec.bucket.clone(),
        prefix: spec.prefix.clone(),
        region: spec.region.clone(),
        endpoint: spec.endpoint.clone(),
        allow_insecure: spec.allow_insecure,
        addressing: match spec.addressing {
            Addressing::Auto => config::Addressing::Auto,
            Addressing::Path => config::Addressing::Path,
            Addressing::VirtualHosted => config::Addressing::VirtualHosted,
        },
        access_key_id_file: has_secret.then(|| PathBuf::from(S3_KEY_FILE)),
        secret_access_key_file: has_secret.then(|| PathBuf::from(S3_SECRET_FILE)),
        ca_file: spec.tls.is_some().then(|| PathBuf::from(S3_CA_FILE)),
        checksums: match spec.checksums {
            Checksums::Default => config::Checksums::Default,
            Checksums::WhenRequired => config::Checksums::WhenRequired,
        },
        timeout_seconds: natural(spec.requests.timeout_seconds),
        attempts_max: natural(spec.requests.max_attempts),
        concurrent_max: natural(spec.requests.max_concurrent_per_pod),
        ..config::S3::default()
    }
}

/// The database, for the role `names.user`.
pub fn database(spec: &LeaseDatabaseSpec, names: RoleNames) -> config::Database {
    let ConnectionParameters { host, port, database, tls, pooler } = &spec.connection.parameters;
    config::Database {
        host: host.clone(),
        port: natural(*port),
        name: database.clone(),
        user: names.user,
        password_file: Some(PathBuf::from(DATABASE_PASSWORD_FILE)),
        schema: spec.schema.clone(),
        tls: match tls.mode {
            TlsMode::VerifyFull => config::TlsMode::VerifyFull,
            TlsMode::VerifyCa => config::TlsMode::VerifyCa,
            TlsMode::Require => config::TlsMode::Require,
            TlsMode::Disable => config::TlsMode::Disable,
        },
        ca_file: tls.ca_secret_ref.is_some().then(|| PathBuf::from(DATABASE_CA_FILE)),
        connections_max: natural(spec.pool.max_per_pod),
        connect_timeout_seconds: natural(spec.pool.connect_timeout_seconds),
        statement_timeout_seconds: natural(spec.pool.statement_timeout_seconds),
        idle_in_transaction_seconds: natural(spec.pool.idle_in_transaction_seconds),
        pooler: *pooler == Pooler::Transaction,
        synchronous_standby: spec.replication == Replication::Synchronous,
        roles: names.granted,
    }
}

/// What serving pods and jobs are told; they differ in the role they connect as.
pub fn server(
    spec: &StorageServerSpec,
    s3: config::S3,
    database: config::Database,
    backup: &BackupRetention,
) -> config::Config {
    let retention = config::Backup {
        keep_hourly: natural(backup.hourly),
        keep_daily: natural(backup.daily),
        keep_weekly: natural(backup.weekly),
        ..config::Backup::default()
    };
    let limits = &spec.limits;
    let advertise = spec.exposure.hosts.first().map(|host| format!("{host}:{}", spec.exposure.port));
    config::Config {
        server: config::Server {
            listen: SocketAddr::from(([0, 0, 0, 0], CLIENT_PORT)),
            advertise,
            admin_listen: SocketAddr::from(([0, 0, 0, 0], ADMIN_PORT)),
            nickname: spec.identity.nickname.clone(),
            drain_notice_seconds: natural(spec.shutdown.endpoint_propagation_seconds),
            drain_seconds: natural(spec.shutdown.request_seconds),
        },
        limits: config::Limits {
            connections_max: natural(limits.max_connections_per_pod),
            header_timeout_seconds: natural(limits.header_timeout_seconds),
            body_bytes_per_second_min: natural(limits.min_body_bytes_per_second),
            immutable_share_max: config::Size(bytes(&limits.max_immutable_share_size).unwrap_or_default()),
            mutable_share_max: config::Size(bytes(&limits.max_mutable_share_size).unwrap_or_default()),
            ..config::Limits::default()
        },
        uploads: config::Uploads { idle_timeout_seconds: natural::<u32>(limits.upload_idle_minutes) * 60 },
        expire: expire(&spec.expiration),
        backup: config::Backup { interval_seconds: 0, ..retention },
        leases: config::Leases { duration_days: natural(spec.expiration.lease_days), ..config::Leases::default() },
        storage: config::Storage { s3: Some(s3), ..config::Storage::default() },
        database: Some(database),
        jobs: jobs(),
        log: log(),
    }
}

/// CronJobs run what is due at set times; pods only clean up after uploads, which cannot wait.
fn jobs() -> config::Jobs {
    config::Jobs {
        expire_interval_seconds: 0,
        reconcile_interval_seconds: 0,
        audit_interval_seconds: 0,
        ..config::Jobs::default()
    }
}

fn expire(spec: &Expiration) -> config::Expire {
    config::Expire {
        enabled: spec.mode != ExpirationMode::Disabled,
        mode: if spec.mode == ExpirationMode::CutoffDate {
            config::ExpireMode::CutoffDate
        } else {
            config::ExpireMode::Age
        },
        override_lease_days: spec.override_days.map(natural),
        cutoff_date: spec.cutoff_date.clone(),
        immutable: spec.share_types.contains(&ShareType::Immutable),
        mutable: spec.share_types.contains(&ShareType::Mutable),
        brake_percent: natural(spec.max_delete_percent),
    }
}

fn log() -> config::Log {
    config::Log { format: config::LogFormat::Json, ..config::Log::default() }
}

/// What a probe of a backend is told.
pub fn probe(s3: config::S3) -> config::Config {
    let storage = config::Storage { s3: Some(s3), ..config::Storage::default() };
    // Nothing is served; loopback keeps the check from warning of it.
    config::Config { storage, log: log(), ..config::Config::default() }
}

/// What a migration is told.
pub fn migration(database: config::Database) -> config::Config {
    config::Config { database: Some(database), log: log(), ..config::Config::default() }
}

/// The file's text.
///
/// # Errors
/// [`Error::Encode`], which plain values do not cause.
pub fn text(config: &config::Config) -> Result<String> {
    toml::to_string(config).map_err(|_| Error::Encode("a configuration"))
}

/// The API server lets nothing negative or too large through.
fn natural<T: TryFrom<i32> + Default>(number: i32) -> T {
    T::try_from(number).unwrap_or_default()
}
