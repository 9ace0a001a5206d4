//! The configuration of a Leasehold server: one TOML file, every key with a default.
//!
//! The operator writes it, the server reads it. Secrets are never in it.

mod backup;
mod database;
mod expire;
mod s3;
mod size;

use std::net::SocketAddr;
use std::path::Path;

pub use backup::Backup;
pub use database::{Database, DatabaseRoles, TlsMode};
pub use expire::{Expire, Mode as ExpireMode};
pub use s3::{Addressing, Checksums, S3};
pub use size::{Size, SizeError};

use serde::{Deserialize, Serialize};

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Addresses and names.
    pub server: Server,
    /// How much of what one client, and all together, may take.
    pub limits: Limits,
    /// Shares that are coming.
    pub uploads: Uploads,
    /// Leases.
    pub leases: Leases,
    /// When leases end.
    pub expire: Expire,
    /// Where shares are.
    pub storage: Storage,
    /// PostgreSQL for leases and accounts; without it they are in a SQLite file in the data directory.
    pub database: Option<Database>,
    /// Work beside requests.
    pub jobs: Jobs,
    /// Backups of the lease database.
    pub backup: Backup,
    /// Logging.
    pub log: Log,
}

/// Addresses and names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Where clients are served.
    pub listen: SocketAddr,
    /// `HOST:PORT` that clients are told to connect to; the address really bound if not set.
    pub advertise: Option<String>,
    /// Where metrics and health are served; keep it away from clients.
    pub admin_listen: SocketAddr,
    /// Shown to clients as the server's name.
    pub nickname: String,
    /// How long after SIGTERM the server goes on as before, but is not ready: balancers must notice within this time.
    pub drain_notice_seconds: u64,
    /// How long it then waits at most for clients to leave, who are asked to with every answer.
    pub drain_seconds: u64,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 4443)),
            advertise: None,
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 9090)),
            nickname: "Leasehold".to_owned(),
            drain_notice_seconds: 15,
            drain_seconds: 65,
        }
    }
}

/// How much of what one client, and all together, may take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections served at once; more get a 503.
    pub connections_max: usize,
    /// How long a request head, or a TLS handshake, may take to arrive.
    pub header_timeout_seconds: u64,
    /// How long a kept connection may rest. Clients keep theirs for 240 s, so less than that fails uploads.
    pub idle_timeout_seconds: u64,
    /// How long either side may be silent in the middle of a request or response.
    pub stall_timeout_seconds: u64,
    /// The slowest that a body may arrive on average, after the first seconds.
    pub body_bytes_per_second_min: u64,
    /// The largest read-test-write request.
    pub read_test_write_body_max: Size,
    /// The largest immutable share.
    pub immutable_share_max: Size,
    /// The largest mutable share.
    pub mutable_share_max: Size,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            header_timeout_seconds: 10,
            idle_timeout_seconds: 300,
            stall_timeout_seconds: 60,
            body_bytes_per_second_min: 1024,
            read_test_write_body_max: Size(1 << 30),
            immutable_share_max: Size(1 << 40),
            mutable_share_max: Size(64 << 30),
        }
    }
}

/// Shares that are coming.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Uploads {
    /// How long an upload may rest before the server ends it and frees its space.
    pub idle_timeout_seconds: u32,
}

impl Default for Uploads {
    fn default() -> Self {
        Self { idle_timeout_seconds: 30 * 60 }
    }
}

/// Leases.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Leases {
    /// Days that a renewal promises; clients count on 31.
    pub duration_days: u32,
    /// How long one written renewal stands in for later ones; 0 writes every renewal.
    pub renewal_slack_seconds: u32,
}

impl Default for Leases {
    fn default() -> Self {
        Self { duration_days: 31, renewal_slack_seconds: 86_400 }
    }
}

/// Where shares are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// Room to leave free on the disk.
    pub reserved_space: Size,
    /// An S3 bucket to keep store objects in; they are in the data directory if it is not set.
    pub s3: Option<S3>,
}

/// Work beside requests.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Jobs {
    /// How often a serving process collects: ends overdue uploads, deletes due garbage, merges pieces. 0 leaves that to
    /// `leasehold collect`. Any number of processes may do it.
    pub collect_interval_seconds: u64,
    /// The most bytes of shares that nobody leases that may go within a day, in per cent of what is stored, before a person
    /// must look.
    pub collect_brake_percent: u8,
    /// How often leases that have ended are removed, where `[expire]` says so. 0, here and below: only by the command.
    pub expire_interval_seconds: u64,
    /// How often rows are compared with the backend.
    pub reconcile_interval_seconds: u64,
    /// How often what accounts use is counted again.
    pub audit_interval_seconds: u64,
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            collect_interval_seconds: 30,
            collect_brake_percent: 10,
            expire_interval_seconds: 3600,
            reconcile_interval_seconds: 86_400,
            audit_interval_seconds: 86_400,
        }
    }
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `text` for people, `json` for machines.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter like `info,leasehold_server=debug`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned() }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why a configuration cannot be used: one sentence that names the key at fault.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML, or has an unknown key or a value of a wrong kind.
    #[error("configuration {path}: {message}")]
    Parse {
        /// The file.
        path: String,
        /// Where and why, on one line.
        message: String,
    },
    /// A value that cannot work.
    #[error("configuration: {key} {problem}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] with what a person needs to mend it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: shown.clone(), source })?;
        let config: Self = toml::from_str(&text).map_err(|error| {
            let at = error.span().map_or(0, |span| text[..span.start].matches('\n').count());
            let line: String = text.lines().nth(at).unwrap_or_default().trim().chars().take(80).collect();
            let problem = error.message().replace('\n', " ");
            ConfigError::Parse { path: shown, message: format!("line {} ({line}): {problem}", at + 1) }
        })?;
        config.validate()?;
        Ok(config)
    }

    /// Checks values against each other and against what clients need.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for the first key at fault.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let invalid = |key, problem: String| Err(ConfigError::Invalid { key, problem });
        if let Some(advertise) = &self.server.advertise
            && let Err(problem) = check_host_port(advertise)
        {
            return invalid("server.advertise", problem);
        }
        if self.server.nickname.is_empty() || self.server.nickname.chars().any(char::is_control) {
            return invalid("server.nickname", "must not be empty or contain control characters".to_owned());
        }
        if let Some(database) = &self.database {
            database.validate()?;
        }
        self.backup.validate()?;
        if self.limits.connections_max == 0 {
            return invalid("limits.connections_max", "must be at least 1".to_owned());
        }
        if self.limits.idle_timeout_seconds <= 240 {
            return invalid(
                "limits.idle_timeout_seconds",
                "must be above 240: clients keep idle connections that long, and an upload on one you closed fails"
                    .into(),
            );
        }
        for (key, value) in [
            ("limits.header_timeout_seconds", self.limits.header_timeout_seconds),
            ("limits.stall_timeout_seconds", self.limits.stall_timeout_seconds),
            ("uploads.idle_timeout_seconds", u64::from(self.uploads.idle_timeout_seconds)),
            ("server.drain_seconds", self.server.drain_seconds),
        ] {
            if value == 0 {
                return invalid(key, "must be at least 1".to_owned());
            }
        }
        if !(31..=3650).contains(&self.leases.duration_days) {
            return invalid("leases.duration_days", "must be 31 to 3650: clients count on 31 days".to_owned());
        }
        if self.leases.renewal_slack_seconds > 14 * 86_400 {
            return invalid("leases.renewal_slack_seconds", "must be at most 14 days (1209600)".to_owned());
        }
        if self.jobs.collect_brake_percent > 100 {
            return invalid("jobs.collect_brake_percent", "must be at most 100".to_owned());
        }
        self.expire.validate()?;
        self.storage.s3.as_ref().map_or(Ok(()), S3::validate)
    }
}

/// Checks a `HOST:PORT` that clients shall connect to.
///
/// # Errors
/// What is wrong with it.
pub fn check_host_port(text: &str) -> Result<(), String> {
    let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("must be HOST:PORT, not {text:?}"))?;
    if port.parse::<u16>().ok().is_none_or(|port| port == 0) {
        return Err(format!("must end in a port from 1 to 65535, not {port:?}"));
    }
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(address) = bracketed {
        return address.parse::<std::net::Ipv6Addr>().map(drop).map_err(|_| format!("has no IPv6 address in {host}"));
    }
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    if host.is_empty() || !host.chars().all(good) {
        return Err(format!("must begin with a host name or address (IPv6 in brackets), not {host:?}"));
    }
    if host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_unspecified()) {
        return Err(format!("must be an address that clients can reach, not {host}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_round_trip() {
        let config = Config::default();
        config.validate().expect("defaults");
        let text = toml::to_string(&config).expect("serializable");
        assert_eq!(toml::from_str::<Config>(&text).expect("own output"), config);
    }

    #[test]
    fn mistakes_name_the_key() {
        let cases = [
            ("[server]\nlisten = \"nonsense\"", "line 2"),
            ("[server]\nlistn = \"x\"", "listn"),
            ("[limits]\nidle_timeout_seconds = 60", "limits.idle_timeout_seconds"),
            ("[limits]\nimmutable_share_max = \"12 parsecs\"", "parsecs"),
            ("[leases]\nduration_days = 7", "leases.duration_days"),
            ("[server]\nadvertise = \"0.0.0.0:1\"", "server.advertise"),
            ("[server]\nadvertise = \"nowhere\"", "server.advertise"),
            ("[backup]\nrestore_horizon_seconds = 60", "backup.restore_horizon_seconds"),
        ];
        for (text, expected) in cases {
            let path = std::env::temp_dir().join(format!("leasehold-config-{}.toml", std::process::id()));
            std::fs::write(&path, text).expect("temporary file");
            let error = Config::load(&path).expect_err(text).to_string();
            assert!(error.contains(expected) && !error.contains('\n'), "{text:?}: {error:?}");
            std::fs::remove_file(path).expect("written above");
        }
    }
}
