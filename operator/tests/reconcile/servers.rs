//! Servers, backends and databases.

use leasehold_crds::StorageServer;
use leasehold_operator::{backend, database, server};
use serde_json::{Value, json};

use crate::accounts::with_account;
use crate::world::World;

const IDENTITY: &str = "/api/v1/namespaces/tahoe/secrets/main-identity";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/tahoe/deployments/main";
const CONFIG: &str = "/api/v1/namespaces/tahoe/configmaps/main-config";

async fn reconcile(world: &World) {
    let context = world.connected().await;
    server::reconcile(world.object("StorageServer", "main"), context).await.expect("reconciled");
}

/// Lets the controllers of the cluster do their work.
fn roll_out(world: &World) {
    let mut deployment = world.api.get(DEPLOYMENT).expect("a Deployment");
    deployment["status"] = json!({
        "observedGeneration": 1, "replicas": 2, "readyReplicas": 2, "availableReplicas": 2, "updatedReplicas": 2,
    });
    world.api.put(DEPLOYMENT, deployment);
    let path = "/api/v1/namespaces/tahoe/services/main";
    let mut service = world.api.get(path).expect("a Service");
    service["spec"]["clusterIP"] = json!("10.0.0.1");
    world.api.put(path, service);
}

fn status(world: &World) -> Value {
    world.api.get(&World::path("StorageServer", "main")).expect("it is there")["status"].clone()
}

#[tokio::test]
async fn a_server_gets_an_identity_once_and_everything_that_makes_it_run() {
    let world = World::new().await;
    reconcile(&world).await;
    let identity = world.api.get(IDENTITY).expect("an identity");
    assert!(identity["metadata"]["ownerReferences"].is_null(), "it outlives the server");
    for path in [
        DEPLOYMENT,
        "/api/v1/namespaces/tahoe/services/main",
        "/api/v1/namespaces/tahoe/services/main-metrics",
        "/api/v1/namespaces/tahoe/configmaps/main-config",
        "/api/v1/namespaces/tahoe/configmaps/main-jobs-config",
        "/api/v1/namespaces/tahoe/serviceaccounts/main-server",
        "/apis/policy/v1/namespaces/tahoe/poddisruptionbudgets/main",
        "/apis/networking.k8s.io/v1/namespaces/tahoe/networkpolicies/main",
        "/apis/monitoring.coreos.com/v1/namespaces/tahoe/podmonitors/main",
    ] {
        let object = world.api.get(path).unwrap_or_else(|| panic!("{path} is missing"));
        assert_eq!(object["metadata"]["ownerReferences"][0]["kind"], "StorageServer", "{path}");
    }
    assert_eq!(world.api.paths("/cronjobs/").len(), 5);
    assert_eq!(world.condition("StorageServer", "main", "Ready").0, "False");
    roll_out(&world);
    reconcile(&world).await;
    assert_eq!(world.condition("StorageServer", "main", "Ready"), ("True".to_owned(), "Serving".to_owned()));
    assert_eq!(world.api.get(IDENTITY).expect("an identity")["data"], identity["data"]);
    assert_eq!(status(&world)["ready"], "2/2");
}

#[tokio::test]
async fn another_identity_stops_everything_until_the_old_one_is_back() {
    let world = World::new().await;
    reconcile(&world).await;
    let identity = world.api.get(IDENTITY).expect("an identity");
    let other = World::new().await;
    reconcile(&other).await;
    world.api.put(IDENTITY, other.api.get(IDENTITY).expect("an identity"));
    world.api.writes();
    reconcile(&world).await;
    assert!(!world.api.writes().iter().any(|write| write.contains(DEPLOYMENT)), "nothing is rolled");
    let found = world.condition("StorageServer", "main", "IdentityReady");
    assert_eq!(found, ("False".to_owned(), "IdentityChanged".to_owned()));
    world.api.take(IDENTITY);
    reconcile(&world).await;
    assert_eq!(world.condition("StorageServer", "main", "IdentityReady").1, "SecretMissing");
    assert!(world.api.get(IDENTITY).is_none(), "it is never made twice");
    world.api.put(IDENTITY, identity);
    reconcile(&world).await;
    assert_eq!(world.condition("StorageServer", "main", "IdentityReady").0, "True");
}

#[tokio::test]
async fn what_is_no_longer_wanted_is_removed_but_not_what_is_somebody_elses() {
    let world = World::new().await;
    reconcile(&world).await;
    let budget = "/apis/policy/v1/namespaces/tahoe/poddisruptionbudgets/main";
    let autoscaler = "/apis/autoscaling/v2/namespaces/tahoe/horizontalpodautoscalers/main";
    let theirs = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "name": "main", "namespace": "tahoe" },
    });
    world.api.put(autoscaler, theirs);
    let mut spec = serde_json::to_value(&world.object::<StorageServer>("StorageServer", "main").spec).expect("plain");
    spec["replicas"] = json!(1);
    world.declare("StorageServer", "main", spec);
    reconcile(&world).await;
    assert!(world.api.get(budget).is_none(), "a single pod must not keep nodes from being drained");
    assert!(world.api.get(autoscaler).is_some());
}

/// As an operator of an earlier version would have made it: without a probe, and told something else.
fn made_earlier(world: &World) {
    let mut deployment = world.api.get(DEPLOYMENT).expect("a Deployment");
    deployment["metadata"]["annotations"]["leasehold.dev/made"] = json!("earlier");
    deployment["spec"]["template"]["spec"]["containers"][0]["startupProbe"] = Value::Null;
    world.api.put(DEPLOYMENT, deployment);
    let mut config = world.api.get(CONFIG).expect("a ConfigMap");
    config["data"]["leasehold.toml"] = json!("earlier");
    world.api.put(CONFIG, config);
}

/// Whether pods and what they are told are as they were made earlier; how many pods are wanted.
fn is_earlier(world: &World) -> (bool, Value) {
    let spec = world.api.get(DEPLOYMENT).expect("a Deployment")["spec"].clone();
    let probe = &spec["template"]["spec"]["containers"][0]["startupProbe"];
    let told = &world.api.get(CONFIG).expect("a ConfigMap")["data"]["leasehold.toml"];
    assert_eq!(probe.is_null(), *told == json!("earlier"), "pods and what they are told are of one version");
    (probe.is_null(), spec["replicas"].clone())
}

#[tokio::test]
async fn another_operator_replaces_no_pods_before_people_let_it() {
    let world = World::new().await;
    let mut spec = serde_json::to_value(&world.object::<StorageServer>("StorageServer", "main").spec).expect("plain");
    spec["updates"] = json!({ "policy": "Manual" });
    spec["image"]["tag"] = json!("1");
    let waiting = |world: &World| world.condition("StorageServer", "main", "UpdateWaiting");
    let told = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
    world.declare("StorageServer", "main", spec.clone());
    reconcile(&world).await;
    assert_eq!(waiting(&world), told("False", "UpToDate"));
    made_earlier(&world);
    for replicas in [2, 3] {
        // How many there are is another matter.
        spec["replicas"] = json!(replicas);
        world.declare("StorageServer", "main", spec.clone());
        for _ in 0..2 {
            reconcile(&world).await;
            assert_eq!(is_earlier(&world), (true, json!(replicas)));
            assert_eq!(waiting(&world), told("True", "AnotherOperator"));
        }
    }
    // Whoever asks for something else gets it from the operator that is there now.
    spec["shutdown"] = json!({ "requestSeconds": 30 });
    world.declare("StorageServer", "main", spec.clone());
    reconcile(&world).await;
    assert!(!is_earlier(&world).0);
    assert_eq!(waiting(&world), told("False", "UpToDate"));
    made_earlier(&world);
    reconcile(&world).await;
    assert!(is_earlier(&world).0);
    spec["updates"] = json!({ "policy": "WithOperator" });
    world.declare("StorageServer", "main", spec.clone());
    reconcile(&world).await;
    assert!(!is_earlier(&world).0);
    assert_eq!(waiting(&world), told("False", "WithOperator"));
    spec["updates"] = json!({ "policy": "Manual" });
    spec["image"]["tag"] = json!("0.9");
    world.declare("StorageServer", "main", spec);
    reconcile(&world).await;
    assert_eq!(waiting(&world), told("True", "AnotherVersion"));
}

#[tokio::test]
async fn a_server_with_accounts_is_not_deleted() {
    let world = with_account(json!({ "serverRef": { "name": "main" } })).await;
    world.edit("StorageServer", "main", |server| {
        server["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    reconcile(&world).await;
    let blocked = world.condition("StorageServer", "main", "DeletionBlocked");
    assert_eq!(blocked, ("True".to_owned(), "AccountsRemain".to_owned()));
    world.api.take(&World::path("Account", "alice"));
    reconcile(&world).await;
    let server = world.api.get(&World::path("StorageServer", "main")).expect("it is there");
    assert_eq!(server["metadata"]["finalizers"], json!([]));
}

#[tokio::test]
async fn a_backend_is_ready_when_its_probe_has_succeeded() {
    let world = World::new().await;
    world.edit("StorageBackend", "shares", |backend| backend["status"] = Value::Null);
    let look = async || {
        let context = world.connected().await;
        backend::reconcile(world.object("StorageBackend", "shares"), context).await.expect("reconciled");
        world.condition("StorageBackend", "shares", "Ready")
    };
    assert_eq!(look().await, ("False".to_owned(), "Probing".to_owned()));
    let path = world.api.paths("/jobs/").swap_remove(0);
    let mut job = world.api.get(&path).expect("a probe");
    let ended = |type_: &str| {
        let time = k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        json!({ "conditions": [{ "type": type_, "status": "True", "message": "no", "lastTransitionTime": time }] })
    };
    job["status"] = ended("Failed");
    world.api.put(&path, job.clone());
    assert_eq!(look().await, ("False".to_owned(), "ProbeFailed".to_owned()));
    job["status"] = ended("Complete");
    world.api.put(&path, job);
    assert_eq!(look().await.0, "True");
    world.api.take("/api/v1/namespaces/tahoe/secrets/s3");
    assert_eq!(look().await, ("False".to_owned(), "SecretNotFound".to_owned()));
}

#[tokio::test]
async fn a_database_that_does_not_answer_is_told_without_its_password() {
    let world = World::new().await;
    let context = world.operator().await;
    database::reconcile(world.object("LeaseDatabase", "leases"), context).await.expect("reconciled");
    let found = world.condition("LeaseDatabase", "leases", "Reachable");
    assert_eq!(found, ("False".to_owned(), "ConnectFailed".to_owned()));
    let object = world.api.get(&World::path("LeaseDatabase", "leases")).expect("it is there").to_string();
    assert!(!object.contains("hunter2"), "{object}");
}

/// Looks of an operator with nothing to do.
const LOOKS: usize = 100;

#[tokio::test]
async fn replicas_that_an_autoscaler_or_a_person_has_set_are_never_reset() {
    let world = World::new().await;
    let mut spec = world.api.get(&World::path("StorageServer", "main")).expect("it is there")["spec"].clone();
    spec["autoscaling"] = json!({ "minReplicas": 2, "maxReplicas": 9 });
    world.declare("StorageServer", "main", spec);
    reconcile(&world).await;
    let mut deployment = world.api.get(DEPLOYMENT).expect("a Deployment");
    assert!(deployment["spec"]["replicas"].is_null(), "it is the autoscaler's");
    deployment["spec"]["replicas"] = json!(7);
    world.api.put(DEPLOYMENT, deployment);
    for _ in 0..LOOKS {
        reconcile(&world).await;
    }
    assert_eq!(world.api.get(DEPLOYMENT).expect("a Deployment")["spec"]["replicas"], 7);
}
