//! Whether a database can be asked at all, and as whom. Pure.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use leasehold_config as config;
use leasehold_crds::{LeaseDatabase, LeaseDatabaseSpec, RoleRef, TlsMode};
use leasehold_leasedb::postgres::{Authorities, PgOptions, Tls};

use super::dereference::References;
use crate::condition::Obstacle;
use crate::config::RoleNames;
use crate::databases::CONNECTIONS_MAX;

/// A role that pods connect as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// Its name.
    pub user: String,
    /// The Secret with its password.
    pub secret: String,
    /// What changes when the Secret does.
    pub version: String,
}

/// A database that can be asked.
#[derive(Clone, Debug)]
pub struct Validated {
    /// How the operator connects.
    pub operator: PgOptions,
    /// Who migrates.
    pub owner: Role,
    /// Who serves.
    pub server: Role,
    /// Who runs jobs.
    pub maintenance: Role,
    /// Who gets rights when the schema is migrated.
    pub granted: config::DatabaseRoles,
}

impl Validated {
    /// What the configuration of a program that connects as `role` says of the database.
    pub fn config(&self, spec: &LeaseDatabaseSpec, role: &Role) -> config::Database {
        crate::config::database(spec, RoleNames { user: role.user.clone(), granted: self.granted.clone() })
    }
}

/// Checks the spec with what it refers to.
///
/// # Errors
/// What keeps the database from being asked.
pub fn validate(database: &LeaseDatabase, references: &References) -> Result<Validated, Obstacle> {
    let spec = &database.spec;
    let roles = &spec.roles;
    let (owner, owner_password) = role(&roles.owner, references.owner.as_ref())?;
    let or_owner = |wanted: &Option<RoleRef>, found: &Option<Secret>| match wanted {
        Some(wanted) => role(wanted, found.as_ref()),
        None => Ok((owner.clone(), owner_password.clone())),
    };
    let (server, _) = or_owner(&roles.server, &references.server)?;
    let (maintenance, _) = or_owner(&roles.maintenance, &references.maintenance)?;
    let (operator, operator_password) = or_owner(&roles.operator, &references.operator)?;
    // The owner has all rights already, and taking them away would take them from itself.
    let granted = |role: &Role| (role.user != owner.user).then(|| role.user.clone());
    let granted = config::DatabaseRoles {
        server: granted(&server),
        operator: granted(&operator),
        maintenance: granted(&maintenance),
    };
    let parameters = &spec.connection.parameters;
    let config = crate::config::database(spec, RoleNames { user: operator.user.clone(), granted: granted.clone() });
    config.validate().map_err(|error| Obstacle::Lasting("InvalidSpec", error.to_string()))?;
    let seconds = Duration::from_secs;
    let operator = PgOptions {
        host: parameters.host.clone(),
        port: config.port,
        database: parameters.database.clone(),
        user: operator.user,
        password: Some(operator_password),
        schema: spec.schema.clone(),
        tls: tls(spec, references)?,
        connections_max: CONNECTIONS_MAX,
        connect_timeout: seconds(config.connect_timeout_seconds),
        statement_timeout: seconds(config.statement_timeout_seconds),
        idle_in_transaction: seconds(config.idle_in_transaction_seconds),
        pooler: config.pooler,
    };
    Ok(Validated { operator, owner, server, maintenance, granted })
}

fn role(wanted: &RoleRef, found: Option<&Secret>) -> Result<(Role, String), Obstacle> {
    let name = &wanted.secret_ref.name;
    let Some(secret) = found else {
        let text = format!("the Secret {name} does not exist; make it with the keys username and password");
        return Err(Obstacle::Lasting("SecretNotFound", text));
    };
    let read = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        let text = bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).map(|text| text.trim_end().to_owned());
        text.filter(|text| !text.is_empty())
            .ok_or_else(|| Obstacle::Lasting("SecretKeyMissing", format!("the Secret {name} lacks the key {key}")))
    };
    let version = secret.resource_version().unwrap_or_default();
    Ok((Role { user: read("username")?, secret: name.clone(), version }, read("password")?))
}

fn tls(spec: &LeaseDatabaseSpec, references: &References) -> Result<Tls, Obstacle> {
    let settings = &spec.connection.parameters.tls;
    let authorities = || {
        let wanted = settings.ca_secret_ref.as_ref();
        let data = references.authorities.as_ref().and_then(|secret| secret.data.as_ref());
        let bytes = wanted.and_then(|wanted| data.and_then(|data| data.get(&wanted.key)));
        let text = bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok());
        text.map(|text| Authorities::Pem(text.to_owned())).ok_or_else(|| {
            let (name, key) = wanted.map_or(("", ""), |wanted| (wanted.name.as_str(), wanted.key.as_str()));
            let text = format!("the Secret {name} with the key {key} (certificates in PEM) does not exist");
            Obstacle::Lasting("AuthorityNotFound", text)
        })
    };
    Ok(match settings.mode {
        TlsMode::VerifyFull => Tls::VerifyFull(authorities()?),
        TlsMode::VerifyCa => Tls::VerifyCa(authorities()?),
        TlsMode::Require => Tls::Require,
        TlsMode::Disable => Tls::Disable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(name: &str, user: &str) -> Secret {
        let data = json!({ "username": base64(user), "password": base64("hunter2") });
        let value = json!({ "metadata": { "name": name, "resourceVersion": "7" }, "data": data });
        serde_json::from_value(value).expect("a secret")
    }

    fn base64(text: &str) -> serde_json::Value {
        serde_json::to_value(k8s_openapi::ByteString(text.as_bytes().to_vec())).expect("plain")
    }

    fn database(roles: serde_json::Value) -> LeaseDatabase {
        let spec = json!({
            "connection": { "parameters": { "host": "db", "database": "d", "tls": { "mode": "Disable" } } },
            "roles": roles,
        });
        LeaseDatabase::new("leases", serde_json::from_value(spec).expect("a spec"))
    }

    #[test]
    fn roles_that_are_absent_are_stood_in_for_by_the_owner_and_granted_nothing() {
        let database = database(json!({ "owner": { "secretRef": { "name": "o" } } }));
        let references = References { owner: Some(secret("o", "boss")), ..References::default() };
        let validated = validate(&database, &references).expect("valid");
        assert_eq!((validated.server.user.as_str(), validated.operator.user.as_str()), ("boss", "boss"));
        assert_eq!(validated.granted, config::DatabaseRoles::default());
        assert!(!format!("{validated:?}").contains("hunter2"), "{validated:?}");
    }

    #[test]
    fn each_role_of_its_own_is_granted_its_rights() {
        let role = |name: &str| json!({ "secretRef": { "name": name } });
        let database = database(json!({ "owner": role("o"), "server": role("s"), "operator": role("p") }));
        let references = References {
            owner: Some(secret("o", "boss")),
            server: Some(secret("s", "pods")),
            operator: Some(secret("p", "oper")),
            ..References::default()
        };
        let validated = validate(&database, &references).expect("valid");
        assert_eq!(validated.granted.server.as_deref(), Some("pods"));
        assert_eq!(validated.granted.operator.as_deref(), Some("oper"));
        assert_eq!((validated.maintenance.user.as_str(), validated.granted.maintenance), ("boss", None));
    }

    #[test]
    fn a_missing_secret_is_named() {
        let database = database(json!({ "owner": { "secretRef": { "name": "o" } } }));
        let Err(Obstacle::Lasting(reason, text)) = validate(&database, &References::default()) else {
            panic!("it was accepted");
        };
        assert_eq!(reason, "SecretNotFound");
        assert!(text.contains("the Secret o"), "{text}");
    }
}
