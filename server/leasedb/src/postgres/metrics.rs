//! What the lease database counts: transactions by name and result, retries, statements, round trips, waiting.

use std::fmt;
use std::time::Duration;

use deadpool_postgres::Pool;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// All transactions and single statements by name, so that each is there from the start.
const NAMES: [&str; 79] = [
    "abandoned_uploads",
    "accounts_version",
    "advise",
    "allocate",
    "beat_at",
    "begin_run",
    "change_account",
    "claim_garbage",
    "claim_scattered",
    "claim_unit",
    "close_account",
    "commit_slot",
    "create_account",
    "damaged_objects",
    "deployment",
    "discard_objects",
    "end_recovery",
    "end_upload",
    "expire_leases",
    "expiry_time",
    "export",
    "find_account",
    "find_closed_account",
    "find_credentials",
    "find_share",
    "find_upload",
    "finish_garbage",
    "finish_run",
    "finish_unit",
    "forget_lost",
    "has_due_garbage",
    "holders_by_number",
    "import",
    "is_empty",
    "keep_unit",
    "lease_page",
    "limits",
    "list_accounts",
    "list_credentials",
    "list_expired",
    "list_leases",
    "list_numbers",
    "list_runs",
    "list_shares",
    "list_unleased",
    "lost_shares",
    "note_backup",
    "note_run",
    "note_use",
    "now",
    "open_advisories",
    "open_uploads",
    "overdue_uploads",
    "page_shares",
    "permit_run",
    "prolong_leases",
    "purge_expired",
    "purge_garbage",
    "queue_unleased",
    "read_slot",
    "record_chunks",
    "recount_usage",
    "relocate",
    "renew_leases",
    "renewal_without_write",
    "reopen_account",
    "retire_shares",
    "rotate_credential",
    "schema",
    "settle",
    "shares_between",
    "spared_garbage",
    "survey",
    "take_over",
    "tick",
    "undo",
    "unleased_totals",
    "upload_ids",
    "usage",
];
/// How they end.
const RESULTS: [&str; 3] = ["done", "failed", "unknown"];

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
        for name in NAMES {
            for result in RESULTS {
                drop(self.transactions.get_or_create(&Transaction { name, result }));
            }
            drop(self.retries.get_or_create(&Named { name }));
        }
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
        debug_assert!(
            NAMES.contains(&name) && RESULTS.contains(&result),
            "{name} {result} is not known from the start"
        );
        self.transactions.get_or_create(&Transaction { name, result }).inc();
    }

    pub(super) fn retried(&self, name: &'static str) {
        self.retries.get_or_create(&Named { name }).inc();
    }

    pub(super) fn waited(&self, time: Duration) {
        self.pool_wait.observe(time.as_secs_f64());
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

/// Looks at a pool whenever somebody reads the counters.
pub(super) struct PoolCollector(pub(super) Pool);

impl fmt::Debug for PoolCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolCollector").finish_non_exhaustive()
    }
}

impl Collector for PoolCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = self.0.status();
        let gauge = |count: usize| ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
        let help = "Connections to the lease database";
        let kind = gauge(0).metric_type();
        let mut family = encoder.encode_descriptor("db_pool_connections", help, None, kind)?;
        for (state, count) in [("idle", status.available), ("busy", status.size.saturating_sub(status.available))] {
            gauge(count).encode(family.encode_family(&State { state })?)?;
        }
        Ok(())
    }
}
