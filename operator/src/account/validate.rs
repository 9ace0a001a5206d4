//! Whether an account may exist, and what holds for it, all things considered. Pure.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use leasehold_core::account::AccountState;
use leasehold_core::expiry::KeepAlive;
use leasehold_core::leasedb::AccountChange;
use leasehold_crds::{Access, Account, AllowedFrom, LeaseDatabase, LeaseMode, StorageServer};
use leasehold_identity::PublicIdentity;

use super::dereference::References;
use super::target;
use crate::condition::Obstacle;
use crate::names::Key;
use crate::quantity::bytes;

/// Days after its last use that an account's leases hold with `AccountCheckIn`, where the spec does not say.
const CHECK_IN_DAYS: i32 = 90;

/// An account that may exist.
#[derive(Clone, Debug)]
pub struct Validated {
    /// The server.
    pub target: Key,
    /// Who the server is to its clients.
    pub identity: PublicIdentity,
    /// `HOST:PORT` of each of its addresses.
    pub addresses: Vec<String>,
    /// Its name for people.
    pub nickname: String,
    /// Its lease database.
    pub database: Arc<LeaseDatabase>,
    /// The account's settings in the lease database.
    pub change: AccountChange,
    /// What it may do.
    pub access: Access,
    /// Whether it is the provider's switch that says so.
    pub by_provider: bool,
    /// The quota in bytes.
    pub hard: Option<u64>,
    /// From here on a condition warns.
    pub soft: Option<u64>,
    /// Days that a renewal promises.
    pub lease_days: i64,
}

/// Checks the spec with what it refers to.
///
/// # Errors
/// What keeps the account from being made or changed.
pub fn validate(account: &Account, references: &References) -> Result<Validated, Obstacle> {
    let target = target(account);
    let Some(server) = &references.server else {
        let text = format!("there is no StorageServer {target}; check serverRef");
        return Err(Obstacle::Passing("ServerNotFound", text));
    };
    check_namespace(account, server, references, &target)?;
    let status = server.status.clone().unwrap_or_default();
    let (Some(server_id), Some(tub_id), Some(spki_hash)) = (status.server_id, status.tub_id, status.spki_hash) else {
        let text = format!("the StorageServer {target} has no identity yet");
        return Err(Obstacle::Passing("ServerNotReady", text));
    };
    let Some(database) = &references.database else {
        let text = format!("the StorageServer {target} has no LeaseDatabase yet");
        return Err(Obstacle::Passing("ServerNotReady", text));
    };
    let spec = &account.spec;
    let amount = |name: &str, quantity: &Option<_>| match quantity {
        None => Ok(None),
        Some(quantity) => bytes(quantity).map(Some).ok_or_else(|| {
            Obstacle::Lasting("InvalidSpec", format!("quota.{name} must be an amount of bytes, such as 50Gi"))
        }),
    };
    let (hard, soft) = (amount("hard", &spec.quota.hard)?, amount("soft", &spec.quota.soft)?);
    let access = spec.access.max(spec.administrative.access);
    let lease_days = spec.leases.days.unwrap_or(0).max(server.spec.expiration.lease_days);
    let exposure = &server.spec.exposure;
    Ok(Validated {
        identity: PublicIdentity { spki_hash, tub_id, server_id },
        addresses: exposure.hosts.iter().map(|host| format!("{host}:{}", exposure.port)).collect(),
        nickname: server.spec.identity.nickname.clone(),
        database: database.clone(),
        change: AccountChange {
            state: Some(state(access)),
            quota_bytes: Some(hard),
            lease_days: Some(u32::try_from(lease_days).unwrap_or_default()),
            message: Some(spec.administrative.message.clone()),
            keep_alive: Some(keep_alive(account)),
        },
        access,
        by_provider: spec.administrative.access >= spec.access,
        hard,
        soft,
        lease_days: i64::from(lease_days),
        target,
    })
}

const fn state(access: Access) -> AccountState {
    match access {
        Access::ReadWrite => AccountState::Active,
        Access::ReadOnly => AccountState::ReadOnly,
        Access::Disabled => AccountState::Suspended,
    }
}

fn keep_alive(account: &Account) -> KeepAlive {
    let leases = &account.spec.leases;
    match leases.mode {
        LeaseMode::PerLease => KeepAlive::None,
        LeaseMode::AccountCheckIn => {
            KeepAlive::Days(u32::try_from(leases.check_in_days.unwrap_or(CHECK_IN_DAYS)).unwrap_or_default())
        }
        LeaseMode::Never => KeepAlive::Always,
    }
}

fn check_namespace(
    account: &Account,
    server: &StorageServer,
    references: &References,
    target: &Key,
) -> Result<(), Obstacle> {
    let namespace = account.namespace().unwrap_or_default();
    if namespace == target.namespace {
        return Ok(());
    }
    let allowed = &server.spec.accounts.allowed_namespaces;
    let refuse = |what: &str, help: &str| {
        let text = format!("StorageServer {target} accepts accounts from {what}; {namespace:?} is not. {help}");
        Err(Obstacle::Passing("NamespaceNotAllowed", text))
    };
    match allowed.from {
        AllowedFrom::All => Ok(()),
        AllowedFrom::Same => refuse("its own namespace only", "Ask its owner to set accounts.allowedNamespaces."),
        AllowedFrom::Selector => {
            let selector = allowed.selector.clone().unwrap_or_default();
            let labels = references.namespace.as_ref().map(|found| found.labels().clone()).unwrap_or_default();
            if matches(&selector, &labels) {
                return Ok(());
            }
            refuse(&format!("namespaces labelled {}", shown(&selector)), "Ask its owner, or label the namespace.")
        }
    }
}

fn matches(selector: &LabelSelector, labels: &std::collections::BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(name, value)| labels.get(name) == Some(value));
    let expressions = selector.match_expressions.iter().flatten().all(|expression| {
        let values = expression.values.as_deref().unwrap_or_default();
        let found = labels.get(&expression.key);
        match expression.operator.as_str() {
            "In" => found.is_some_and(|found| values.contains(found)),
            "NotIn" => found.is_none_or(|found| !values.contains(found)),
            "Exists" => found.is_some(),
            "DoesNotExist" => found.is_none(),
            // What we do not know lets nobody in.
            _ => false,
        }
    });
    equal && expressions
}

fn shown(selector: &LabelSelector) -> String {
    let labels = selector.match_labels.iter().flatten().map(|(name, value)| format!("{name}={value}"));
    let expressions = selector.match_expressions.iter().flatten().map(|expression| {
        let values = expression.values.as_deref().unwrap_or_default().join(",");
        format!("{} {} {values}", expression.key, expression.operator).trim_end().to_owned()
    });
    labels.chain(expressions).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
