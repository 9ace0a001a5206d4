//! What the lease database counts: transactions by name and result, retries, statements, round trips, waiting.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Transaction {
    name: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    name: &'static str,
}

/// Counters of one lease database. Clones count together.
#[derive(Clone, Debug)]
pub struct PgMetrics {
    transactions: Family<Transaction, Counter>,
    retries: Family<Named, Counter>,
    statements: Counter,
    round_trips: Counter,
    pool_wait: Histogram,
}

impl Default for PgMetrics {
    fn default() -> Self {
        let bounds = [0.0005, 0.002, 0.008, 0.03, 0.125, 0.5, 2.0, 8.0];
        Self {
            transactions: Family::default(),
            retries: Family::default(),
            statements: Counter::default(),
            round_trips: Counter::default(),
            pool_wait: Histogram::new(bounds),
        }
    }
}

impl PgMetrics {
    /// Adds the counters to a registry, whose prefix they get.
    pub fn register(&self, registry: &mut Registry) {
        let transactions = "Transactions and single statements on the lease database";
        registry.register("db_transactions", transactions, self.transactions.clone());
        let retries = "Transactions tried again because another was in the way or a connection broke";
        registry.register("db_transaction_retries", retries, self.retries.clone());
        registry.register("db_statements", "Statements sent to the lease database", self.statements.clone());
        registry.register("db_round_trips", "Waits for the lease database", self.round_trips.clone());
        registry.register("db_pool_wait_seconds", "Waits for a connection", self.pool_wait.clone());
    }

    /// Statements sent and round trips made so far.
    pub fn sent_so_far(&self) -> (u64, u64) {
        (self.statements.get(), self.round_trips.get())
    }

    pub(super) fn sent(&self, statements: usize) {
        self.statements.inc_by(statements as u64);
        self.round_trips.inc();
    }

    pub(super) fn ended(&self, name: &'static str, result: &'static str) {
        self.transactions.get_or_create(&Transaction { name, result }).inc();
    }

    pub(super) fn retried(&self, name: &'static str) {
        self.retries.get_or_create(&Named { name }).inc();
    }

    pub(super) fn waited(&self, time: Duration) {
        self.pool_wait.observe(time.as_secs_f64());
    }
}
