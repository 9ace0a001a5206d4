//! Alerts and dashboards name metrics and labels that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use leasehold_core::clock::Timestamp;
use leasehold_core::run::{Run, RunId, RunKind, RunState, Totals};
use leasehold_leasedb::postgres::PgMetrics;
use leasehold_operator::condition::{Finding, merge};
use leasehold_operator::metrics::Metrics;
use leasehold_operator::names::Key;
use leasehold_operator::sweep::ServerTotals;
use leasehold_server::backend::cached_blocks::CacheMetrics;
use leasehold_server::backend::s3::S3Metrics;

/// What PodMonitors add, and what is told only while a pool is open.
const GIVEN: [&str; 3] = ["namespace", "pod", "le"];

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn run(kind: RunKind) -> Run {
    let at = Timestamp::from_seconds(0);
    Run {
        id: RunId(1),
        kind,
        dry_run: false,
        state: RunState::Done,
        permitted: false,
        allowed: false,
        policy: String::new(),
        started_at: at,
        alive_at: at,
        finished_at: Some(at),
        totals: Totals::default(),
        reason: String::new(),
    }
}

/// What an operator shows that has seen a server.
fn of_operator() -> String {
    let metrics = Metrics::default();
    let key = Key { namespace: "tahoe".to_owned(), name: "main".to_owned() };
    let found = vec![Finding::new("Ready", true, "Test", "")];
    let now = Timestamp::from_seconds(0);
    metrics.conditions("StorageServer", &key, &merge(&[], found, Some(1), now));
    let totals = ServerTotals { accounts: 1, over_quota: 0, suspended: 0, used_bytes: 1, shares: 1, measured_at: now };
    metrics.server(&key, &totals);
    metrics.runs(&key, &key, &RunKind::ALL.map(run), |_| true);
    metrics.reconciled("StorageServer", true, Duration::from_millis(1));
    metrics.render()
}

/// What a server over PostgreSQL and S3 shows before its first request.
fn of_server() -> String {
    let mut metrics = leasehold_server::metrics::Metrics::default();
    drop(S3Metrics::register(metrics.registry()));
    drop(CacheMetrics::register(metrics.registry()));
    PgMetrics::default().register(metrics.registry());
    metrics.expect_requests("version", "GET", &[200]);
    metrics.expect_call("close");
    metrics.render()
}

/// The labels of each series by its name, as Prometheus sees it.
fn known() -> BTreeMap<String, BTreeSet<String>> {
    let text = of_server() + &of_operator();
    let mut known = BTreeMap::<String, BTreeSet<String>>::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').expect("a sample");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels.split(',').filter_map(|label| label.split_once('=')).map(|(label, _)| label.to_owned());
        known.entry(name.to_owned()).or_default().extend(labels);
    }
    let of_pool = BTreeSet::from(["state".to_owned()]);
    known.insert("leasehold_db_pool_connections".to_owned(), of_pool);
    known
}

/// The metrics that an expression names, each with the labels that it selects by.
fn selectors(expression: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find("leasehold_") {
        rest = &rest[at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (name, tail) = rest.split_at(end);
        let inside = tail.strip_prefix('{').and_then(|tail| tail.split_once('}')).map_or("", |(inside, _)| inside);
        let label = |part: &str| part.split(['=', '!']).next().unwrap_or_default().trim().to_owned();
        let labels = inside.split(',').map(label).filter(|label| !label.is_empty() && label != "PODS");
        found.push((name.to_owned(), labels.collect()));
        rest = tail;
    }
    found
}

/// The labels that an expression sums by.
fn groupings(expression: &str) -> Vec<String> {
    let lists = expression.split("by (").skip(1).filter_map(|tail| tail.split_once(')'));
    lists.flat_map(|(list, _)| list.split(',').map(|label| label.trim().to_owned())).collect()
}

fn check(path: &str, expressions: &[String]) {
    let known = known();
    assert!(expressions.len() > 4, "{path} has few expressions");
    for expression in expressions {
        let mut labels: BTreeSet<String> = GIVEN.map(str::to_owned).into();
        for (name, selected) in selectors(expression) {
            let has = known.get(&name).unwrap_or_else(|| panic!("{path}: nobody has {name}"));
            labels.extend(has.iter().cloned());
            for label in selected {
                assert!(has.contains(&label) || GIVEN.contains(&&*label), "{path}: {name} has no label {label}");
            }
        }
        for label in groupings(expression) {
            assert!(labels.contains(&label), "{path}: nothing has the label {label} in {expression}");
        }
    }
}

#[test]
fn alerts_name_metrics_and_labels_that_exist() {
    for path in ["charts/leasehold/files/alerts.yaml", "charts/leasehold/files/server-alerts.yaml"] {
        let rules: serde_json::Value = serde_saphyr::from_str(&read(path)).expect("rules are YAML");
        let groups = rules["groups"].as_array().expect("groups").iter();
        let rules = groups.flat_map(|group| group["rules"].as_array().expect("rules"));
        let expressions: Vec<String> = rules.map(|rule| rule["expr"].as_str().expect("a text").to_owned()).collect();
        check(path, &expressions);
    }
}

#[test]
fn dashboards_name_metrics_and_labels_that_exist() {
    for dashboard in ["service", "dependencies", "storage", "operator"] {
        let path = format!("charts/leasehold/files/dashboards/{dashboard}.json");
        let json: serde_json::Value = serde_json::from_str(&read(&path)).expect("a dashboard is JSON");
        let panels = json["panels"].as_array().expect("panels").iter();
        let targets = panels.flat_map(|panel| panel["targets"].as_array().expect("targets"));
        let expressions: Vec<String> =
            targets.map(|target| target["expr"].as_str().expect("a text").to_owned()).collect();
        check(&path, &expressions);
    }
}
