//! The chart as a release: tried, upgraded, taken away and brought back; and what tools see that only know objects.

use std::time::Duration;

use anyhow::{Result, ensure};
use leasehold_e2e::cluster::chart::{self, RELEASE};
use leasehold_e2e::process::run_ok;
use leasehold_e2e::story::{bytes, ensure_same};
use serde_json::{Value, json};

use super::operated::{SERVER, Server};
use super::pods::account;
use super::world::PODS_TIMEOUT;

const HELM_TIMEOUT: Duration = Duration::from_secs(240);

fn helm(server: &Server, arguments: &[&str]) -> Result<String> {
    let mut command = server.world.cluster.helm(chart::NAMESPACE);
    run_ok(command.args(arguments), HELM_TIMEOUT)
}

#[test]
fn release_is_tried_upgraded_taken_away_and_brought_back() -> Result<()> {
    let server = Server::shared()?;
    let alice = server.account("released", &json!({}))?;
    let client = server.client(&alice)?;
    server.story(|| {
        let file = client.upload(&bytes(1, 100_000))?;
        let (pods, identity) =
            (server.pods()?, server.world.kubectl.get(&["secret", "main-identity"])?["data"].clone());
        // A change of the operator alone, and back. What is tried is the server of this story, whatever else there is.
        let changed = format!("podLabels.upgraded=yes,tests.server={}/{SERVER}", server.world.kubectl.namespace());
        chart::change(&server.world.cluster, &changed)?;
        let said = helm(server, &["test", RELEASE, "--timeout", "200s"])?;
        ensure!(said.contains("Succeeded"), "{said}");
        helm(server, &["rollback", RELEASE, "--wait", "--timeout=200s"])?;
        ensure!(server.pods()? == pods, "an upgrade of the operator has replaced the servers' pods");
        // Without the chart everything that was declared stays, and is served.
        helm(server, &["uninstall", RELEASE, "--wait", "--timeout=200s"])?;
        let kept = server.world.kubectl.run(&["get", "customresourcedefinitions", "--output=name"])?;
        ensure!(kept.matches("leasehold.dev").count() == 4, "{kept}");
        ensure!(server.world.kubectl.get(&["account", "released"])?["status"]["accountID"].is_string());
        ensure_same("a file", &client.download(&file)?, &bytes(1, 100_000))?;
        chart::install(&server.world.cluster)?;
        let bob = server.account("released-later", &json!({}))?;
        ensure!(bob.nurl.spki_hash == alice.nurl.spki_hash && account(&bob.nurl)?.0 == 200);
        ensure!(server.world.kubectl.get(&["secret", "main-identity"])?["data"] == identity, "another identity");
        ensure!(server.pods()? == pods, "pods were replaced");
        ensure!(server.read_account("released")?.nurl == alice.nurl, "another address");
        Ok(())
    })
}

#[test]
fn chart_is_sound_and_refuses_values_that_mean_nothing() -> Result<()> {
    let server = Server::shared()?;
    let chart = chart::folder().display().to_string();
    let said = helm(server, &["lint", "--strict", &chart])?;
    ensure!(said.contains("0 chart(s) failed"), "{said}");
    for (value, told) in [("nonsense=1", "nonsense"), ("replicas=none", "replicas"), ("server.port=0", "port")] {
        let refusal = helm(server, &["template", &chart, "--set", value]).err();
        ensure!(refusal.is_some_and(|error| format!("{error:#}").contains(told)), "{value} is taken");
    }
    Ok(())
}

/// Settled, as kstatus says it.
fn is_current(object: &Value) -> bool {
    let status = &object["status"];
    let is_true = |kind: &str| leasehold_e2e::cluster::kubectl::has_condition(object, kind);
    status["observedGeneration"] == object["metadata"]["generation"]
        && !is_true("Reconciling")
        && !is_true("Stalled")
        && is_true("Ready")
}

#[test]
fn tools_that_only_know_objects_see_that_all_is_settled() -> Result<()> {
    let server = Server::shared()?;
    server.account("declared", &json!({"quota": {"hard": "1Gi"}}))?;
    server.story(|| {
        let kubectl = &server.world.kubectl;
        for kind in ["storagebackend/shares", "leasedatabase/leases", "storageserver/main", "account/declared"] {
            kubectl.wait(&[kind], "is settled", PODS_TIMEOUT, is_current)?;
        }
        // What was declared can be declared again by a tool, and nothing changes.
        let spec = json!({"serverRef": {"name": SERVER}, "quota": {"hard": "1Gi"}});
        let object = leasehold_e2e::cluster::stores::resource("Account", "declared", spec);
        let file = server.world.directory.path().join("declared.json");
        std::fs::write(&file, object.to_string())?;
        let file = file.display().to_string();
        let apply = || {
            let manager = ["--server-side", "--force-conflicts", "--field-manager=gitops"];
            kubectl.run(&[&["apply", "--filename", &file], &manager[..]].concat())?;
            Ok::<_, anyhow::Error>(kubectl.get(&["account", "declared"])?["metadata"]["resourceVersion"].clone())
        };
        ensure!(apply()? == apply()?, "the second apply has changed something");
        let impossible = json!({"serverRef": {"name": "nowhere"}});
        kubectl.apply_all(&[leasehold_e2e::cluster::stores::resource("Account", "stalled", impossible)])?;
        kubectl.wait(&["account", "stalled"], "is stalled", PODS_TIMEOUT, |object| {
            leasehold_e2e::cluster::kubectl::has_condition(object, "Stalled") && !is_current(object)
        })?;
        kubectl.run(&["delete", "account", "stalled", "--timeout=60s"]).map(drop)
    })
}

/// The rights of the chart are all that is used, and what the API server has written down of every story so far.
#[test]
fn operator_was_refused_nothing() -> Result<()> {
    let server = Server::shared()?;
    let operator = format!("system:serviceaccount:{}:leasehold-operator", chart::NAMESPACE);
    let forbidden = server.world.cluster.forbidden_to(&operator)?;
    ensure!(forbidden.is_empty(), "the operator may not do what it tried: {:#}", forbidden[0]);
    Ok(())
}
