//! What the operator counts.

mod maintenance;

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use leasehold_core::run::{Run, RunKind};
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::names::Key;
use crate::sweep::ServerTotals;
use maintenance::Maintenance;

/// A kind and how a reconcile of it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reconcile {
    kind: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfObject {
    kind: &'static str,
    namespace: String,
    name: String,
    r#type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfServer {
    namespace: String,
    server: String,
}

impl OfObject {
    fn new(kind: &'static str, key: &Key, condition: &Condition) -> Self {
        let (namespace, name) = (key.namespace.clone(), key.name.clone());
        Self { kind, namespace, name, r#type: condition.type_.clone() }
    }
}

fn of_server(key: &Key) -> OfServer {
    OfServer { namespace: key.namespace.clone(), server: key.name.clone() }
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What the operator counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    reconciles: Family<Reconcile, Counter>,
    durations: Family<Kind, Histogram, fn() -> Histogram>,
    conditions: Family<OfObject, Gauge>,
    accounts: Family<OfServer, Gauge>,
    over_quota: Family<OfServer, Gauge>,
    storage_bytes: Family<OfServer, Gauge>,
    shares: Family<OfServer, Gauge>,
    maintenance: Maintenance,
    /// Whether this process leads.
    pub leader: Gauge,
    /// Whether custom resources are missing.
    pub crd_missing: Gauge,
}

fn seconds() -> Histogram {
    Histogram::new([0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0])
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("leasehold")),
            reconciles: Family::default(),
            durations: Family::new_with_constructor(seconds),
            conditions: Family::default(),
            accounts: Family::default(),
            over_quota: Family::default(),
            storage_bytes: Family::default(),
            shares: Family::default(),
            maintenance: Maintenance::default(),
            leader: Gauge::default(),
            crd_missing: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let registry = &mut *registry;
        registry.register("operator_reconciles", "Reconciles, by kind and result", self.reconciles.clone());
        registry.register("operator_reconcile_duration_seconds", "How long they took", self.durations.clone());
        registry.register("operator_leader", "Whether this process leads", self.leader.clone());
        registry.register("operator_crd_missing", "Whether custom resources are missing", self.crd_missing.clone());
        registry.register("resource_condition", "1: holds, 0: does not, -1: unknown", self.conditions.clone());
        registry.register("accounts", "Accounts of a server", self.accounts.clone());
        registry.register("accounts_over_quota", "Accounts at or over their quota", self.over_quota.clone());
        registry.register("server_storage_bytes", "Bytes leased at a server", self.storage_bytes.clone());
        registry.register("server_shares", "Shares leased at a server", self.shares.clone());
        self.maintenance.register(registry);
        for kind in ["StorageBackend", "LeaseDatabase", "StorageServer", "Account"] {
            for result in ["ok", "error"] {
                self.reconciles.get_or_create(&Reconcile { kind, result }).inc_by(0);
            }
        }
    }

    /// Counts a reconcile.
    pub fn reconciled(&self, kind: &'static str, is_good: bool, took: Duration) {
        let result = if is_good { "ok" } else { "error" };
        self.reconciles.get_or_create(&Reconcile { kind, result }).inc();
        self.durations.get_or_create(&Kind { kind }).observe(took.as_secs_f64());
    }

    /// Shows the conditions of an object.
    pub fn conditions(&self, kind: &'static str, key: &Key, conditions: &[Condition]) {
        for condition in conditions {
            let labels = OfObject::new(kind, key, condition);
            let value = match condition.status.as_str() {
                "True" => 1,
                "False" => 0,
                _ => -1,
            };
            self.conditions.get_or_create(&labels).set(value);
        }
    }

    /// Shows what all accounts of a server use.
    pub fn server(&self, key: &Key, totals: &ServerTotals) {
        let labels = of_server(key);
        self.accounts.get_or_create(&labels).set(number(totals.accounts));
        self.over_quota.get_or_create(&labels).set(number(totals.over_quota));
        self.storage_bytes.get_or_create(&labels).set(number(totals.used_bytes));
        self.shares.get_or_create(&labels).set(number(totals.shares));
    }

    /// Shows what the jobs of a server have done, as its lease database tells; `is_wanted` says which are to run at all.
    pub fn runs(&self, server: &Key, database: &Key, runs: &[Run], is_wanted: impl Fn(RunKind) -> bool) {
        self.maintenance.show(server, database, runs, is_wanted);
    }

    /// Forgets an object that is gone, with the conditions that it last had: nobody shall be called because of it.
    pub fn forget(&self, kind: &'static str, key: &Key, conditions: &[Condition]) {
        for condition in conditions {
            self.conditions.remove(&OfObject::new(kind, key, condition));
        }
        match kind {
            "StorageServer" => {
                for family in [&self.accounts, &self.over_quota, &self.storage_bytes, &self.shares] {
                    family.remove(&of_server(key));
                }
                self.maintenance.forget(key);
            }
            "LeaseDatabase" => self.maintenance.forget_database(key),
            _ => {}
        }
    }

    /// Everything, as Prometheus reads it.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing into a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absence_is_visible() {
        let metrics = Metrics::default();
        metrics.reconciled("Account", false, Duration::from_millis(3));
        let text = metrics.render();
        for line in [
            "leasehold_operator_reconciles_total{kind=\"Account\",result=\"error\"} 1",
            "leasehold_operator_reconciles_total{kind=\"StorageServer\",result=\"ok\"} 0",
            "leasehold_operator_leader 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
