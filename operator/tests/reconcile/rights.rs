//! The chart gives the operator the rights that it uses, and no others.

use std::collections::BTreeSet;
use std::path::Path;

use leasehold_crds::Account;
use leasehold_operator::{account, backend, database, server};
use serde_json::{Value, json};

use crate::accounts::{reconcile, with_account};
use crate::api_server::Call;
use crate::world::World;

/// What the chart grants, one verb on one resource each.
fn granted() -> BTreeSet<Call> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/leasehold/files/operator-rules.yaml");
    let text = std::fs::read_to_string(file).expect("the chart's rules");
    // The file is flow sequences under three keys, so that it can be read without a parser of YAML.
    let list = |line: &str| -> Vec<String> {
        let inner = line.split_once('[').and_then(|(_, rest)| rest.strip_suffix(']')).expect("a list");
        inner.split(',').map(|word| word.trim().trim_matches('"').to_owned()).collect()
    };
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let mut granted = BTreeSet::new();
    for rule in lines.chunks(3) {
        let [groups, resources, verbs] = rule else { panic!("a rule of three lines: {rule:?}") };
        for group in list(groups) {
            for resource in list(resources) {
                granted.extend(list(verbs).into_iter().map(|verb| (verb, group.clone(), resource.clone())));
            }
        }
    }
    granted
}

/// Watches are the controllers' own, which do not run here; finalizers are what owner references with `blockOwnerDeletion` need.
fn is_beyond_reconciles((verb, _, resource): &Call) -> bool {
    matches!(verb.as_str(), "watch" | "list") || resource.ends_with("/finalizers")
}

#[tokio::test]
async fn the_operator_asks_for_what_it_may_and_may_what_it_asks_for() {
    let world = with_account(json!({ "serverRef": { "name": "main", "namespace": "tahoe" } })).await;
    let context = world.connected().await;
    // All ways: an autoscaler and its removal, pods that only people replace, a probe that is repeated, an account by namespace labels, ends.
    let server = |change: Value| {
        let mut spec = world.api.get(&World::path("StorageServer", "main")).expect("it is there")["spec"].clone();
        spec.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        world.declare("StorageServer", "main", spec);
    };
    for change in [
        json!({ "autoscaling": { "minReplicas": 2, "maxReplicas": 4 } }),
        json!({
            "autoscaling": null, "replicas": 1, "networkPolicy": { "mode": "Disabled" },
            "monitoring": { "podMonitor": "Disabled", "prometheusRule": "Disabled" },
        }),
        json!({ "updates": { "policy": "Manual" }, "image": { "tag": "1" } }),
    ] {
        server(change);
        let context = world.connected().await;
        server::reconcile(world.object("StorageServer", "main"), context).await.expect("reconciled");
    }
    reconcile(&world, &context).await;
    let mut rotated = json!({ "serverRef": { "name": "main" }, "credentials": { "generation": 2 } });
    world.declare("Account", "alice", rotated.take());
    reconcile(&world, &context).await;
    probe_again(&world).await;
    database::reconcile(world.object("LeaseDatabase", "leases"), world.operator().await).await.expect("reconciled");
    by_labels(&world).await;
    // An event that is told again counts the first one on.
    for _ in 0..2 {
        context.writer.event(&*world.object::<Account>("Account", "alice"), true, "Again", "and again").await;
    }

    let (granted, asked) = (granted(), world.api.calls());
    let refused: Vec<&Call> = asked.difference(&granted).collect();
    assert!(refused.is_empty(), "the chart does not let the operator do {refused:?}");
    let unused: Vec<&Call> = granted.difference(&asked).filter(|call| !is_beyond_reconciles(call)).collect();
    assert!(unused.is_empty(), "the chart lets the operator do what it does not: {unused:?}");
}

/// A probe that failed long ago makes way for another.
async fn probe_again(world: &World) {
    let s3 = json!({
        "bucket": "shares", "credentials": { "type": "Secret", "secretRef": { "name": "s3" } },
        "tls": { "caBundleRef": { "name": "authorities", "key": "ca.crt" } },
    });
    let path = "/api/v1/namespaces/tahoe/configmaps/authorities";
    let metadata = json!({ "name": "authorities", "namespace": "tahoe" });
    world
        .api
        .put(path, json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { "ca.crt": "x" } }));
    world.declare("StorageBackend", "shares", json!({ "s3": s3 }));
    let look = async || {
        let context = world.connected().await;
        backend::reconcile(world.object("StorageBackend", "shares"), context).await.expect("reconciled");
    };
    look().await;
    let path = world.api.paths("/jobs/").swap_remove(0);
    let mut job = world.api.get(&path).expect("a probe");
    let ended = json!({ "type": "Failed", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" });
    job["status"] = json!({ "conditions": [ended] });
    world.api.put(&path, job);
    look().await;
    assert!(world.api.get(&path).is_none(), "the old probe makes way");
}

/// An account in another namespace, which the server lets in by its labels.
async fn by_labels(world: &World) {
    let mut spec = world.api.get(&World::path("StorageServer", "main")).expect("it is there")["spec"].clone();
    spec["accounts"] =
        json!({ "allowedNamespaces": { "from": "Selector", "selector": { "matchLabels": { "a": "b" } } } });
    world.declare("StorageServer", "main", spec);
    let account = json!({
        "apiVersion": "leasehold.dev/v1alpha1", "kind": "Account",
        "metadata": { "name": "bob", "namespace": "customer" },
        "spec": { "serverRef": { "name": "main", "namespace": "tahoe" } },
    });
    let path = "/apis/leasehold.dev/v1alpha1/namespaces/customer/accounts/bob";
    world.api.put(path, account);
    let object = serde_json::from_value(world.api.get(path).expect("it was put")).expect("an Account");
    account::reconcile(std::sync::Arc::new(object), world.connected().await).await.expect("reconciled");
    let found = world.api.get(path).expect("it is there");
    assert_eq!(found["status"]["conditions"][2]["reason"], "NamespaceNotAllowed", "{found}");
}
