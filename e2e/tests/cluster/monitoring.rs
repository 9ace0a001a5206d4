//! Metrics have names as they are usual, and alert rules are such that Prometheus takes them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leasehold_e2e::alerts::{Pod, Target, Watch, check, write_server_rules};
use leasehold_e2e::cluster::chart;
use leasehold_e2e::cluster::kubectl::Kubectl;
use serde_json::{Value, json};

use super::operated::{PODS_OF_SERVER, SERVER, Server};
use super::world::PODS_TIMEOUT;

const TIMEOUT: Duration = Duration::from_secs(240);
const MONITORING: &str = "monitoring.coreos.com";
const UNITS: [&str; 3] = ["_seconds", "_bytes", "_total"];

/// What the Prometheus operator would have defined, as far as ours needs it.
fn definition(kind: &str, plural: &str) -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": schema});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{MONITORING}")},
        "spec": {
            "group": MONITORING, "scope": "Namespaced", "versions": [version],
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
        },
    })
}

/// The families of metrics that a pod shows, with their types.
fn metrics(kubectl: &Kubectl, selector: &str) -> Result<BTreeMap<String, String>> {
    let pods = kubectl.get(&["pods", "--selector", selector])?;
    let address = pods["items"][0]["status"]["podIP"].as_str().context("no pod")?;
    let text = ureq::get(format!("http://{address}:9090/metrics")).call()?.body_mut().read_to_string()?;
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    Ok(types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect())
}

#[test]
fn prometheus_takes_all_rules_and_metrics_are_named_as_usual() -> Result<()> {
    let server = Server::shared()?;
    server.story(|| {
        let all = server.world.cluster.kubectl();
        let operator = all.in_namespace(chart::NAMESPACE);
        all.apply_all(&[definition("PodMonitor", "podmonitors"), definition("PrometheusRule", "prometheusrules")])?;
        for plural in ["podmonitors", "prometheusrules"] {
            let name = format!("customresourcedefinition/{plural}.{MONITORING}");
            all.run(&["wait", "--for=condition=Established", &name, "--timeout=60s"])?;
        }
        let enabled = ["prometheusRule", "podMonitor", "dashboards"].map(|what| format!("metrics.{what}.enabled=true"));
        chart::change(&server.world.cluster, &enabled.join(","))?;
        // An operator learns when it begins what the cluster knows.
        operator.run(&["rollout", "restart", "deployment/leasehold-operator"])?;
        operator.wait_rolled_out("leasehold-operator", PODS_TIMEOUT)?;
        let mut names = Vec::new();
        for (kubectl, rule) in [(&server.world.kubectl, "main"), (&operator, "leasehold-operator")] {
            let found =
                kubectl.wait(&["prometheusrule", rule], "is there", PODS_TIMEOUT, |found| found["spec"].is_object())?;
            let file = server.world.directory.path().join(format!("{rule}-rules.yaml"));
            std::fs::write(&file, found["spec"].to_string())?;
            names.extend(check(&[&file])?);
        }
        ensure!(names.len() > 8, "few alerts: {names:?}");
        ensure!(operator.run(&["get", "configmaps", "--selector", "grafana_dashboard"])?.contains("dashboard"));
        let of_server = metrics(&server.world.kubectl, PODS_OF_SERVER)?;
        let of_operator = metrics(&operator, "app.kubernetes.io/name=leasehold-operator")?;
        for (name, kind) in of_server.iter().chain(&of_operator) {
            ensure!(name.starts_with("leasehold_"), "{name}");
            ensure!(kind != "histogram" || UNITS.iter().any(|unit| name.ends_with(unit)), "{name} has no unit");
            ensure!(kind == "counter" || !name.ends_with("_total"), "{name} is a {kind}");
        }
        println!(
            "{} metrics of pods, {} of the operator; alerts: {}",
            of_server.len(),
            of_operator.len(),
            names.join(" ")
        );
        Ok(())
    })
}

/// The pods of a server as its PodMonitor finds them.
fn targets(server: &Server) -> Result<Vec<Target>> {
    let target = |pod: &Value| {
        let (address, name) = (pod["status"]["podIP"].as_str()?, pod["metadata"]["name"].as_str()?);
        let labels = Pod { namespace: server.world.kubectl.namespace().to_owned(), pod: name.to_owned() };
        Some(Target { url: format!("http://{address}:9090/metrics"), labels })
    };
    Ok(server.pod_objects()?.iter().filter_map(target).collect())
}

/// One minute of the rules' clock is a second here.
#[test]
fn alerts_fire_while_services_are_away_and_clear_afterwards() -> Result<()> {
    let server = Server::start("alerts", &json!({}))?;
    server.story(|| {
        let (managed, folder) = (server.world.managed, server.world.directory.path());
        let rules = write_server_rules(folder, server.world.kubectl.namespace(), SERVER)?;
        let mut watch = Watch::start(folder, &[&rules])?;
        let follow = |watch: &Watch| watch.set_targets(&targets(&server)?);
        watch.wait_quiet(&[], TIMEOUT, follow)?;

        managed.database_proxy.refuse(true);
        managed.database_proxy.cut_all();
        let fire = watch.wait_firing(&["LeaseholdDatabaseUnreachable", "LeaseholdAccountCacheStale"], TIMEOUT, follow);
        managed.database_proxy.refuse(false);
        fire?;
        watch.wait_quiet(&[], TIMEOUT, follow)?;

        managed.store_proxy.refuse(true);
        managed.store_proxy.cut_all();
        let fire = watch.wait_firing(&["LeaseholdS3Errors"], TIMEOUT, follow);
        managed.store_proxy.refuse(false);
        fire?;
        watch.wait_quiet(&[], TIMEOUT, follow)?;

        server.patch("storageserver", SERVER, &json!({"replicas": 0}))?;
        watch.wait_firing(&["LeaseholdServerDown"], TIMEOUT, follow)?;
        server.patch("storageserver", SERVER, &json!({"replicas": 2}))?;
        watch.wait_quiet(&[], TIMEOUT, follow)
    })
}
