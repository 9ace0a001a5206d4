//! Alerts and dashboards name metrics that exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use leasehold_core::clock::Timestamp;
use leasehold_operator::condition::{Finding, merge};
use leasehold_operator::metrics::Metrics;
use leasehold_operator::names::Key;
use leasehold_operator::sweep::ServerTotals;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names of metrics in a text, without what a kind of metric adds.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let metrics = words.filter_map(|word| word.strip_prefix("leasehold_")).filter(|word| !word.is_empty());
    metrics.map(|word| word.trim_end_matches("_total").trim_end_matches("_bucket").to_owned()).collect()
}

/// What an operator shows that has seen a server.
fn rendered() -> String {
    let metrics = Metrics::default();
    let key = Key { namespace: "tahoe".to_owned(), name: "main".to_owned() };
    let found = vec![Finding::new("Ready", true, "Test", "")];
    let now = Timestamp::from_seconds(0);
    metrics.conditions("StorageServer", &key, &merge(&[], found, Some(1), now));
    let totals = ServerTotals { accounts: 1, over_quota: 0, suspended: 0, used_bytes: 1, shares: 1, measured_at: now };
    metrics.server(&key, &totals);
    metrics.reconciled("StorageServer", true, Duration::from_millis(1));
    metrics.render()
}

#[test]
fn alerts_and_dashboards_name_metrics_that_exist() {
    // What the server registers stands in its sources; the operator says it itself.
    let sources =
        ["server/src/metrics.rs", "server/src/backend/s3/metrics.rs", "server/leasedb/src/postgres/metrics.rs"];
    let mut known: BTreeSet<String> = sources
        .iter()
        .flat_map(|path| {
            let text = read(path);
            let names = text.split('"').map(str::to_owned).collect::<Vec<_>>();
            names.into_iter().filter(|name| !name.is_empty() && !name.contains(' '))
        })
        .collect();
    let rendered = rendered();
    known.extend(rendered.lines().filter_map(|line| {
        let name = line.strip_prefix("# TYPE leasehold_")?;
        name.split(' ').next().map(str::to_owned)
    }));
    for path in [
        "charts/leasehold/files/alerts.yaml",
        "charts/leasehold/files/dashboards/service.json",
        "charts/leasehold/files/dashboards/storage.json",
        "operator/src/server/build/monitoring.rs",
    ] {
        // A crate's name looks like a metric's.
        let text: Vec<String> =
            read(path).lines().filter(|line| !line.starts_with("use ")).map(str::to_owned).collect();
        let named = named(&text.join("\n"));
        assert!(!named.is_empty(), "{path} names no metric");
        let unknown: Vec<&String> = named.difference(&known).collect();
        assert!(unknown.is_empty(), "{path} names metrics that nobody has: {unknown:?}");
    }
    for dashboard in ["service", "storage"] {
        let text = read(&format!("charts/leasehold/files/dashboards/{dashboard}.json"));
        let json: serde_json::Value = serde_json::from_str(&text).expect("a dashboard is JSON");
        assert!(json["panels"].as_array().is_some_and(|panels| panels.len() > 4), "{dashboard}");
    }
}
