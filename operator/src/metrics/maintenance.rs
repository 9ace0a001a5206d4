//! What jobs have left in lease databases. They are gone before anybody could ask them, so the operator tells.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use leasehold_core::clock::Timestamp;
use leasehold_core::run::{Run, RunId, RunKind, RunState};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{OfServer, number, of_server};
use crate::names::Key;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfJob {
    namespace: String,
    server: String,
    job: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDatabase {
    namespace: String,
    database: String,
}

fn of_job(server: &Key, kind: RunKind) -> OfJob {
    OfJob { namespace: server.namespace.clone(), server: server.name.clone(), job: kind.as_str() }
}

fn of_database(key: &Key) -> OfDatabase {
    OfDatabase { namespace: key.namespace.clone(), database: key.name.clone() }
}

/// Gauges and counters of all servers' jobs. What has never happened is absent.
#[derive(Debug, Default)]
pub(super) struct Maintenance {
    last_success: Family<OfJob, Gauge>,
    durations: Family<OfJob, Gauge<f64, AtomicU64>>,
    leases_expired: Family<OfServer, Counter>,
    shares_deleted: Family<OfServer, Counter>,
    reclaimed_bytes: Family<OfServer, Counter>,
    halted: Family<OfServer, Gauge>,
    orphans: Family<OfServer, Gauge>,
    drift_bytes: Family<OfServer, Gauge>,
    backup_configured: Family<OfDatabase, Gauge>,
    backup_last_success: Family<OfDatabase, Gauge>,
    /// The last run of each job that the counters know.
    counted: Mutex<HashMap<(Key, RunKind), RunId>>,
}

impl Maintenance {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "When a job last came to its end";
        registry.register("maintenance_last_success_timestamp_seconds", help, self.last_success.clone());
        let help = "How long it took then";
        registry.register("maintenance_duration_seconds", help, self.durations.clone());
        let help = "Leases that ended, as far as this operator has seen runs end";
        registry.register("gc_leases_expired", help, self.leases_expired.clone());
        let help = "Shares that nobody leased any more, likewise";
        registry.register("gc_shares_deleted", help, self.shares_deleted.clone());
        let help = "Bytes of these shares";
        registry.register("gc_reclaimed_bytes", help, self.reclaimed_bytes.clone());
        let help = "Whether the last run of a job was stopped by a brake";
        registry.register("gc_halted", help, self.halted.clone());
        let help = "Objects that nothing named, in the last reconcile";
        registry.register("reconcile_orphans", help, self.orphans.clone());
        let help = "By how much the last audit corrected counters";
        registry.register("usage_drift_bytes", help, self.drift_bytes.clone());
        registry.register("backup_configured", "Whether backups are wanted", self.backup_configured.clone());
        let help = "When a backup last came to its end";
        registry.register("backup_last_success_timestamp_seconds", help, self.backup_last_success.clone());
    }

    /// Shows the runs that a server's lease database knows; `is_wanted` says which jobs are to run at all.
    pub(super) fn show(&self, server: &Key, database: &Key, runs: &[Run], is_wanted: impl Fn(RunKind) -> bool) {
        for kind in RunKind::ALL {
            let labels = of_job(server, kind);
            match last_done(runs, kind).and_then(|run| Some((run, run.finished_at?))).filter(|_| is_wanted(kind)) {
                Some((run, end)) => {
                    self.last_success.get_or_create(&labels).set(end.seconds());
                    self.durations.get_or_create(&labels).set(seconds_between(run.started_at, end));
                }
                None => {
                    self.last_success.remove(&labels);
                    self.durations.remove(&labels);
                }
            }
            self.count(server, kind, runs);
        }
        let labels = of_server(server);
        let is_braked = |kind| last(runs, kind, |_| true).is_some_and(|run| run.state == RunState::Braked);
        self.halted.get_or_create(&labels).set(RunKind::ALL.into_iter().any(is_braked).into());
        let shown =
            [(RunKind::Reconcile, "orphans", &self.orphans), (RunKind::Audit, "drift_bytes", &self.drift_bytes)];
        for (kind, name, family) in shown {
            if let Some(run) = last_done(runs, kind) {
                family.get_or_create(&labels).set(number(run.totals.of(name)));
            }
        }
        let labels = of_database(database);
        self.backup_configured.get_or_create(&labels).set(1);
        if let Some(end) = last_done(runs, RunKind::Backup).and_then(|run| run.finished_at) {
            self.backup_last_success.get_or_create(&labels).set(end.seconds());
        }
    }

    /// Counts what runs did that have ended since the last look. Those from before the first look are history.
    fn count(&self, server: &Key, kind: RunKind, runs: &[Run]) {
        let labels = of_server(server);
        let counters = [
            (RunKind::Expire, "leases_removed", self.leases_expired.get_or_create_owned(&labels)),
            (RunKind::Collect, "shares_retired", self.shares_deleted.get_or_create_owned(&labels)),
            (RunKind::Collect, "bytes_retired", self.reclaimed_bytes.get_or_create_owned(&labels)),
        ];
        let ended = || runs.iter().filter(|run| run.kind == kind && run.state != RunState::Running);
        let newest = ended().map(|run| run.id).max().unwrap_or(RunId(0));
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = counted.insert((server.clone(), kind), newest) else { return };
        for run in ended().filter(|run| run.id > before && !run.dry_run) {
            for (_, name, counter) in counters.iter().filter(|(of, ..)| *of == kind) {
                counter.inc_by(run.totals.of(name));
            }
        }
    }

    /// Forgets a server that is gone.
    pub(super) fn forget(&self, server: &Key) {
        let labels = of_server(server);
        for family in [&self.halted, &self.orphans, &self.drift_bytes] {
            family.remove(&labels);
        }
        for kind in RunKind::ALL {
            let labels = of_job(server, kind);
            self.last_success.remove(&labels);
            self.durations.remove(&labels);
        }
    }

    /// Forgets a lease database that is gone.
    pub(super) fn forget_database(&self, database: &Key) {
        let labels = of_database(database);
        self.backup_configured.remove(&labels);
        self.backup_last_success.remove(&labels);
    }
}

fn last(runs: &[Run], kind: RunKind, is_meant: impl Fn(&Run) -> bool) -> Option<&Run> {
    runs.iter().filter(|run| run.kind == kind && is_meant(run)).max_by_key(|run| run.id)
}

fn last_done(runs: &[Run], kind: RunKind) -> Option<&Run> {
    last(runs, kind, |run| run.state == RunState::Done)
}

fn seconds_between(start: Timestamp, end: Timestamp) -> f64 {
    (end.millis() - start.millis()) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use leasehold_core::run::Totals;
    use prometheus_client::encoding::text::encode;

    use super::*;

    fn run(id: u64, kind: RunKind, state: RunState, totals: &[(&str, u64)]) -> Run {
        let mut counted = Totals::default();
        totals.iter().for_each(|(name, count)| counted.set(name, *count));
        let at = |seconds| Timestamp::from_seconds(id as i64 * 1000 + seconds);
        Run {
            id: RunId(id),
            kind,
            dry_run: false,
            state,
            permitted: false,
            allowed: false,
            policy: String::new(),
            started_at: at(0),
            alive_at: at(30),
            finished_at: (state != RunState::Running).then_some(at(30)),
            totals: counted,
            reason: String::new(),
        }
    }

    fn key(name: &str) -> Key {
        Key { namespace: "tahoe".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn what_never_happened_is_absent_and_what_happens_is_counted_once() {
        let (maintenance, mut registry) = (Maintenance::default(), Registry::with_prefix("leasehold"));
        maintenance.register(&mut registry);
        let shown = |runs: &[Run], is_wanted: fn(RunKind) -> bool| {
            maintenance.show(&key("main"), &key("accounts"), runs, is_wanted);
            let mut text = String::new();
            encode(&mut text, &registry).expect("a string takes everything");
            text
        };
        let text = shown(&[], |_| true);
        assert!(text.contains("leasehold_backup_configured{namespace=\"tahoe\",database=\"accounts\"} 1"), "{text}");
        assert!(!text.contains("timestamp_seconds{"), "{text}");
        assert!(!text.contains("usage_drift_bytes{"), "{text}");

        let mut runs = vec![
            run(1, RunKind::Expire, RunState::Done, &[("leases_removed", 5)]),
            run(2, RunKind::Audit, RunState::Done, &[("drift_bytes", 12)]),
        ];
        let success =
            "leasehold_maintenance_last_success_timestamp_seconds{namespace=\"tahoe\",server=\"main\",job=\"expire\"}";
        let of_server = "{namespace=\"tahoe\",server=\"main\"}";
        let expired = |count: u64| format!("leasehold_gc_leases_expired_total{of_server} {count}");
        let halted = |is: u8| format!("leasehold_gc_halted{of_server} {is}");
        let text = shown(&runs, |_| true);
        for line in [format!("{success} 1030"), expired(5), halted(0)] {
            assert!(text.contains(&line), "{line} is missing in\n{text}");
        }
        runs.push(run(3, RunKind::Backup, RunState::Done, &[]));
        runs.push(run(4, RunKind::Expire, RunState::Braked, &[("leases_removed", 2)]));
        runs.push(run(5, RunKind::Expire, RunState::Running, &[("leases_removed", 1)]));
        for _ in 0..2 {
            let text = shown(&runs, |_| true);
            let backup =
                "leasehold_backup_last_success_timestamp_seconds{namespace=\"tahoe\",database=\"accounts\"} 3030";
            for line in [format!("{success} 1030"), expired(7), halted(0), backup.to_owned()] {
                assert!(text.contains(&line), "{line} is missing in\n{text}");
            }
            assert!(text.contains(&format!("leasehold_usage_drift_bytes{of_server} 12")), "{text}");
        }
        runs.pop();
        assert!(shown(&runs, |_| true).contains(&halted(1)));
        // Nobody waits for a job that is not wanted.
        assert!(!shown(&runs, |kind| kind != RunKind::Expire).contains(success));
        maintenance.forget(&key("main"));
        maintenance.forget_database(&key("accounts"));
        let mut text = String::new();
        encode(&mut text, &registry).expect("a string takes everything");
        assert!(!text.contains("timestamp_seconds{") && !text.contains("halted{"), "{text}");
    }
}
