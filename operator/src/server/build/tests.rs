use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PodSpec, Secret};
use leasehold_crds::{LeaseDatabase, StorageBackend, StorageServer};
use leasehold_identity::PublicIdentity;
use serde_json::{Value, json};

use super::super::dereference::References;
use super::super::validate::validate;
use super::*;
use crate::context::Settings;
use crate::names::Owner;

fn object<K: serde::de::DeserializeOwned>(kind: &str, name: &str, spec: &Value, status: &Value) -> K {
    let value = json!({
        "apiVersion": "leasehold.dev/v1alpha1", "kind": kind,
        "metadata": { "name": name, "namespace": "tahoe", "uid": "u", "generation": 1 },
        "spec": spec, "status": status,
    });
    serde_json::from_value(value).expect("an object of this kind")
}

fn ready(truth: &str) -> Value {
    json!([{
        "type": "Ready", "status": truth, "reason": "R", "message": "because", "lastTransitionTime": "2026-01-01T00:00:00Z",
    }])
}

fn role(user: &str) -> Secret {
    let bytes = |text: &str| k8s_openapi::ByteString(text.as_bytes().to_vec());
    let data = [("username".to_owned(), bytes(user)), ("password".to_owned(), bytes("hunter2"))].into();
    Secret { data: Some(data), ..Secret::default() }
}

fn server(spec: &Value) -> StorageServer {
    let mut whole = json!({
        "backendRef": { "name": "shares" }, "leaseDatabaseRef": { "name": "leases" },
        "exposure": { "hosts": ["a.example"] },
    });
    whole.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
    object("StorageServer", "main", &whole, &json!({}))
}

fn references(backend_ready: &str, budget: i64) -> References {
    let s3 =
        json!({ "bucket": "shares", "credentials": { "type": "WorkloadIdentity" }, "endpoint": "https://s3:9000" });
    let backend: StorageBackend =
        object("StorageBackend", "shares", &json!({ "s3": s3 }), &json!({ "conditions": ready(backend_ready) }));
    let roles = json!({ "owner": { "secretRef": { "name": "o" } }, "maintenance": { "secretRef": { "name": "m" } } });
    let parameters = json!({ "host": "db", "database": "d", "tls": { "mode": "Disable" } });
    let spec = json!({ "connection": { "parameters": parameters }, "roles": roles });
    let connections = json!({ "max": budget + 20, "budget": budget, "perPod": 16 });
    let status = json!({ "conditions": ready("True"), "connections": connections });
    let database: LeaseDatabase = object("LeaseDatabase", "leases", &spec, &status);
    let secrets = crate::database::dereference::References {
        owner: Some(role("boss")),
        maintenance: Some(role("jobs")),
        ..Default::default()
    };
    References {
        backend: Some((Arc::new(backend), Default::default())),
        database: Some((Arc::new(database), secrets)),
        servers_of_database: 1,
    }
}

fn settings() -> Settings {
    Settings {
        image: "registry.example/leasehold:1".to_owned(),
        has_monitoring: true,
        runbook_url: Some("https://example.org/RUNBOOK.md".to_owned()),
        resync: std::time::Duration::from_secs(1800),
        watches_secrets: false,
    }
}

fn validated_with(spec: &Value, references: &References) -> Result<Validated, super::super::validate::Refusal> {
    let server = server(spec);
    let identity = PublicIdentity { spki_hash: "s".to_owned(), tub_id: "t".to_owned(), server_id: "v0-x".to_owned() };
    validate(&server, Owner::of(&server).expect("it has a uid"), &Ok(identity), references, &settings())
}

fn built(spec: &Value) -> Built {
    build(&validated_with(spec, &references("True", 1000)).expect("valid")).expect("plain values")
}

fn pods(built: &Built) -> Vec<PodSpec> {
    let jobs = built.cron_jobs.iter().filter_map(|job| job.spec.clone()?.job_template.spec?.template.spec);
    let server = built.deployment.spec.clone().and_then(|spec| spec.template.spec);
    server.into_iter().chain(jobs).collect()
}

#[test]
fn every_pod_is_restricted_and_has_no_token() {
    let built = built(&json!({}));
    assert_eq!(pods(&built).len(), 6);
    for pod in pods(&built) {
        assert_eq!(pod.automount_service_account_token, Some(false));
        let security = pod.security_context.expect("a context");
        assert_eq!(security.run_as_non_root, Some(true));
        assert_eq!(security.seccomp_profile.map(|profile| profile.type_).as_deref(), Some("RuntimeDefault"));
        let container = &pod.containers[0];
        let security = container.security_context.as_ref().expect("a context");
        assert_eq!(security.read_only_root_filesystem, Some(true));
        assert_eq!(security.allow_privilege_escalation, Some(false));
        assert_eq!(container.image.as_deref(), Some("registry.example/leasehold:1"));
    }
}

#[test]
fn the_server_reads_the_configuration_that_is_written_and_no_secret_is_in_it() {
    let built = built(&json!({ "expiration": { "mode": "Age" }, "limits": { "maxImmutableShareSize": "1Gi" } }));
    for (config_map, user) in [(&built.server_config, "boss"), (&built.jobs_config, "jobs")] {
        let text = &config_map.data.as_ref().expect("data")["leasehold.toml"];
        assert!(!text.contains("hunter2"), "{text}");
        let folder = std::env::temp_dir().join(format!("leasehold-operator-{}-{user}.toml", std::process::id()));
        std::fs::write(&folder, text).expect("a temporary file");
        let config = leasehold_config::Config::load(&folder).expect("the server takes it");
        std::fs::remove_file(folder).expect("written above");
        assert_eq!(config.database.as_ref().map(|database| database.user.as_str()), Some(user));
        assert_eq!(config.limits.immutable_share_max.0, 1 << 30);
        assert!(config.expire.enabled);
        assert_eq!((config.jobs.expire_interval_seconds, config.backup.interval_seconds), (0, 0), "CronJobs do that");
        assert_eq!(config.server.advertise.as_deref(), Some("a.example:443"));
    }
}

#[test]
fn jobs_run_their_commands_and_expiry_only_when_asked_for() {
    let look = |spec: &Value| -> BTreeMap<String, (Vec<String>, bool)> {
        let built = built(spec);
        let jobs = built.cron_jobs.iter().zip(pods(&built).into_iter().skip(1));
        jobs.map(|(job, pod)| {
            let name = job.metadata.name.clone().expect("a name");
            let suspended = job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true);
            (name, (pod.containers[0].args.clone().expect("arguments"), suspended))
        })
        .collect()
    };
    let jobs = look(&json!({}));
    let names: Vec<&str> = jobs.keys().map(String::as_str).collect();
    assert_eq!(names, ["main-audit", "main-backup", "main-collect", "main-expire", "main-reconcile"]);
    assert_eq!(jobs["main-expire"], (vec!["expire".to_owned()], true));
    assert!(!jobs["main-collect"].1);
    let dry = look(&json!({ "expiration": { "mode": "DryRun" } }));
    assert_eq!(dry["main-expire"], (vec!["expire".to_owned(), "--dry-run".to_owned()], false));
    let resting = look(&json!({ "maintenance": { "suspend": true } }));
    assert!(resting["main-collect"].1 && !resting["main-backup"].1, "backups go on");
}

#[test]
fn the_number_of_pods_is_the_autoscalers_where_there_is_one() {
    let replicas = |built: &Built| built.deployment.spec.as_ref().and_then(|spec| spec.replicas);
    let fixed = built(&json!({ "replicas": 3 }));
    assert_eq!(
        (replicas(&fixed), fixed.autoscaler.is_none(), fixed.disruption_budget.is_some()),
        (Some(3), true, true)
    );
    let alone = built(&json!({ "replicas": 1 }));
    assert!(alone.disruption_budget.is_none(), "a single pod must not keep a node from being drained");
    let scaled = built(&json!({ "autoscaling": { "minReplicas": 2, "maxReplicas": 8 } }));
    assert_eq!(replicas(&scaled), None);
    let autoscaler = scaled.autoscaler.and_then(|autoscaler| autoscaler.spec).expect("one");
    assert_eq!((autoscaler.min_replicas, autoscaler.max_replicas), (Some(2), 8));
    // (100 - 4) / 16 = 6 pods, a fifth of which is left for those that are rolled.
    let spec = json!({ "autoscaling": { "minReplicas": 2, "maxReplicas": 8 } });
    let tight = build(&validated_with(&spec, &references("True", 100)).expect("valid")).expect("plain values");
    assert_eq!(tight.autoscaler.and_then(|autoscaler| autoscaler.spec).map(|spec| spec.max_replicas), Some(4));
}

#[test]
fn pods_have_the_time_to_drain() {
    let built = built(&json!({ "shutdown": { "endpointPropagationSeconds": 30, "requestSeconds": 100 } }));
    let pod = pods(&built).swap_remove(0);
    assert_eq!(pod.termination_grace_period_seconds, Some(150));
}

#[test]
fn nothing_is_changed_while_a_dependency_is_not_ready() {
    let refusal = validated_with(&json!({}), &references("False", 1000)).expect_err("it must wait");
    let crate::condition::Obstacle::Passing(reason, text) = refusal.obstacle else { panic!("it passes by itself") };
    assert_eq!((refusal.type_, reason), ("DependenciesReady", "BackendNotReady"));
    assert!(text.contains("shares is not ready: because"), "{text}");
}

#[test]
fn what_may_be_absent_is_absent_when_nobody_wants_it() {
    let built = built(&json!({
        "networkPolicy": { "mode": "Disabled" },
        "monitoring": { "podMonitor": "Disabled", "prometheusRule": "Disabled" },
    }));
    assert!(built.network_policy.is_none() && built.pod_monitor.is_none() && built.prometheus_rule.is_none());
}
