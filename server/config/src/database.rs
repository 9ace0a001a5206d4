//! Where leases are kept when they are kept in PostgreSQL.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ConfigError;

/// A PostgreSQL database, versions 14 to 18. Several servers may share one, each with a schema of its own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// Host name or address of the primary; never of a standby.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The database's name.
    pub name: String,
    /// The role to connect as.
    pub user: String,
    /// A file with the role's password, if it has one.
    pub password_file: Option<PathBuf>,
    /// The schema with this deployment's tables.
    pub schema: String,
    /// How the connection is protected.
    pub tls: TlsMode,
    /// A PEM file with the authorities that may vouch for the server; needed by `verify-full` and `verify-ca`.
    pub ca_file: Option<PathBuf>,
    /// The most connections that one process opens. Processes times this must stay below the server's
    /// `max_connections`.
    pub connections_max: usize,
    /// How long to wait for a new connection.
    pub connect_timeout_seconds: u64,
    /// How long one statement, or one wait for a lock, may take.
    pub statement_timeout_seconds: u64,
    /// How long a transaction may rest between statements.
    pub idle_in_transaction_seconds: u64,
    /// Whether a transaction pooler (PgBouncer) stands in between. Set `search_path` to the schema, the three limits, and
    /// `jit = off` for the role then.
    pub pooler: bool,
    /// Whether no acknowledged commit is lost when a standby takes over. Where this is false, a takeover is treated as
    /// a loss: nothing is deleted until somebody has looked.
    pub synchronous_standby: bool,
    /// Who gets which rights when the schema is migrated.
    pub roles: DatabaseRoles,
}

/// Roles beside the owner, which migrates; one that is not named gets no rights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatabaseRoles {
    /// Serving processes.
    pub server: Option<String>,
    /// The operator: accounts, credentials and usage only.
    pub operator: Option<String>,
    /// Jobs.
    pub maintenance: Option<String>,
}

/// How the connection to the database is protected; the words of PostgreSQL's `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// An authority vouches for the server and its name.
    VerifyFull,
    /// An authority vouches for the server, whatever its name.
    VerifyCa,
    /// Encrypted, to whoever answers.
    Require,
    /// Not encrypted.
    Disable,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            host: String::new(),
            port: 5432,
            name: "leasehold".to_owned(),
            user: "leasehold".to_owned(),
            password_file: None,
            schema: "leasehold".to_owned(),
            tls: TlsMode::VerifyFull,
            ca_file: None,
            connections_max: 16,
            connect_timeout_seconds: 5,
            statement_timeout_seconds: 10,
            idle_in_transaction_seconds: 15,
            pooler: false,
            synchronous_standby: false,
            roles: DatabaseRoles::default(),
        }
    }
}

impl Database {
    /// Checks values against each other.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for the first key at fault.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let invalid = |key, problem: &str| Err(ConfigError::Invalid { key, problem: problem.to_owned() });
        if self.host.is_empty() {
            return invalid("database.host", "must be set");
        }
        if !is_plain(&self.schema) {
            return invalid("database.schema", "must consist of a-z, 0-9 and _, and begin with a letter");
        }
        let verifies = matches!(self.tls, TlsMode::VerifyFull | TlsMode::VerifyCa);
        if verifies && self.ca_file.is_none() {
            return invalid("database.ca_file", "must be set: database.tls asks for a server that is vouched for");
        }
        if self.connections_max == 0 {
            return invalid("database.connections_max", "must be at least 1");
        }
        for (key, seconds) in [
            ("database.connect_timeout_seconds", self.connect_timeout_seconds),
            ("database.statement_timeout_seconds", self.statement_timeout_seconds),
            ("database.idle_in_transaction_seconds", self.idle_in_transaction_seconds),
        ] {
            if !(1..=30).contains(&seconds) {
                return invalid(key, "must be 1 to 30: a process that sleeps longer must find its transaction ended");
            }
        }
        Ok(())
    }
}

fn is_plain(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    plain && name.bytes().next().is_some_and(|first| !first.is_ascii_digit()) && name.len() <= 63
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_name_the_key() {
        let good = Database { host: "db".to_owned(), tls: TlsMode::Require, ..Database::default() };
        good.validate().expect("good");
        let cases: [(Database, &str); 5] = [
            (Database { host: String::new(), ..good.clone() }, "database.host"),
            (Database { schema: "a; drop".to_owned(), ..good.clone() }, "database.schema"),
            (Database { tls: TlsMode::VerifyFull, ..good.clone() }, "database.ca_file"),
            (Database { connections_max: 0, ..good.clone() }, "database.connections_max"),
            (Database { idle_in_transaction_seconds: 60, ..good.clone() }, "database.idle_in_transaction_seconds"),
        ];
        for (database, key) in cases {
            let error = database.validate().expect_err(key).to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
