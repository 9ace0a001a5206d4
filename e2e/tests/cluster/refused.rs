//! Objects that cannot be meant are refused by the API server, with a sentence that says what to do.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use leasehold_e2e::cluster::stores::resource;
use serde_json::{Value, json};

use super::operated::install;
use super::resources::merged;
use super::world::World;

/// A change that is refused: the kind, what is put over an accepted spec, and the sentence.
type Refused = (&'static str, Value, &'static str);

/// The least that is accepted of each kind.
fn accepted(kind: &str) -> Value {
    match kind {
        "StorageBackend" => json!({"s3": {"bucket": "shares", "endpoint": "https://s3.example.org"}}),
        "LeaseDatabase" => json!({
            "connection": {"parameters": {
                "host": "db.example.org", "database": "leasehold",
                "tls": {"caSecretRef": {"name": "db-ca", "key": "ca.crt"}},
            }},
            "roles": {"owner": {"secretRef": {"name": "db-owner"}}},
        }),
        "StorageServer" => json!({
            "backendRef": {"name": "shares"}, "leaseDatabaseRef": {"name": "leases"},
            "exposure": {"hosts": ["storage.example.org"]},
        }),
        _ => json!({"serverRef": {"name": "main"}, "quota": {"hard": "50Gi"}}),
    }
}

/// What is refused of a new object.
fn never() -> Vec<Refused> {
    let server = "StorageServer";
    vec![
        ("StorageBackend", json!({"s3": {"endpoint": "http://s3.example.org"}}), "endpoint must begin with https://"),
        (
            "StorageBackend",
            json!({"s3": {"credentials": {"type": "Secret"}}}),
            "set secretRef exactly when type is Secret",
        ),
        (
            "LeaseDatabase",
            json!({"connection": {"parameters": {"tls": {"mode": "Require"}}}}),
            "set caSecretRef exactly when mode is VerifyFull or VerifyCA",
        ),
        (server, json!({"replicas": 2, "autoscaling": {}}), "set replicas or autoscaling, not both"),
        (server, json!({"updates": {"policy": "Manual"}}), "say which version to run"),
        (server, json!({"limits": {"maxMutableShareSize": "0"}}), "share sizes must be above 0"),
        (server, json!({"accounts": {"allowedNamespaces": {"from": "Selector"}}}), "set selector exactly when"),
        (server, json!({"autoscaling": {"minReplicas": 5, "maxReplicas": 3}}), "minReplicas must not be above"),
        (server, json!({"expiration": {"mode": "CutoffDate"}}), "set cutoffDate exactly when mode is CutoffDate"),
        (server, json!({"expiration": {"overrideDays": 40}}), "overrideDays only counts with mode Age or DryRun"),
        ("Account", json!({"quota": {"hard": "0"}}), "quota.hard must be an amount above 0"),
        ("Account", json!({"quota": {"soft": "plenty"}}), "quota.soft must be an amount"),
        ("Account", json!({"quota": {"soft": "60Gi"}}), "quota.soft must not be above quota.hard"),
        ("Account", json!({"leases": {"checkInDays": 90}}), "checkInDays only counts with mode AccountCheckIn"),
        ("Account", json!({"deletion": {"graceDays": 7}}), "graceDays only counts with policy Release"),
        (
            "Account",
            json!({"client": {"sharesNeeded": 3, "sharesHappy": 2, "sharesTotal": 3}}),
            "sharesNeeded must not be above sharesHappy",
        ),
    ]
}

/// What is refused of an object that is there.
fn later() -> Vec<Refused> {
    let credentials = |change: Value| json!({"credentials": change});
    vec![
        ("StorageBackend", json!({"s3": {"bucket": "other"}}), "the bucket cannot be changed"),
        ("StorageBackend", json!({"s3": {"prefix": "other/"}}), "the prefix cannot be changed"),
        ("LeaseDatabase", json!({"schema": "other"}), "the schema cannot be changed"),
        ("StorageServer", json!({"backendRef": {"name": "other"}}), "backendRef cannot be changed"),
        ("StorageServer", json!({"leaseDatabaseRef": {"name": "other"}}), "leaseDatabaseRef cannot be changed"),
        ("StorageServer", json!({"identity": {"secretName": "other"}}), "identity.secretName cannot be changed"),
        ("Account", json!({"serverRef": {"name": "other"}}), "serverRef cannot be changed"),
        ("Account", json!({"adopt": {"accountID": "17"}}), "adopt can only be set when the Account is made"),
        ("Account", credentials(json!({"generation": 3})), "credentials.generation can only be raised, by one"),
        ("Account", credentials(json!({"secretName": "other"})), "credentials.secretName cannot be changed"),
        (
            "Account",
            credentials(json!({"importFrom": {"name": "old", "key": "swissnum"}})),
            "credentials.importFrom can only be set when the Account is made",
        ),
    ]
}

#[test]
fn each_rule_refuses_with_a_sentence_that_says_what_to_do() -> Result<()> {
    let world = World::start("refused")?;
    install(&world.cluster)?;
    let kinds = ["StorageBackend", "LeaseDatabase", "StorageServer", "Account"];
    for kind in kinds {
        // Nobody is to act on them: they stand for nothing.
        let mut object = resource(kind, "stays", accepted(kind));
        object["metadata"]["annotations"] = json!({"leasehold.dev/paused": "true"});
        world.kubectl.apply_all(&[object])?;
    }
    for (name, cases) in [("new", never()), ("stays", later())] {
        for (kind, change, sentence) in cases {
            let object = resource(kind, name, merged(accepted(kind), &change));
            let refusal = world.kubectl.dry_run(&object)?;
            let refusal = refusal.unwrap_or_default();
            ensure!(refusal.contains(sentence), "{kind} with {change}: expected {sentence:?}, got {refusal:?}");
        }
    }
    let told: Vec<&str> = never().iter().chain(&later()).map(|(_, _, sentence)| *sentence).collect();
    let definitions = world.kubectl.get(&["customresourcedefinitions"])?;
    let ours =
        definitions["items"].as_array().into_iter().flatten().filter(|it| it["spec"]["group"] == "leasehold.dev");
    let mut sentences = BTreeSet::new();
    ours.for_each(|definition| collect_sentences(definition, &mut sentences));
    ensure!(sentences.len() > 20, "only {} rules were found", sentences.len());
    let untold: Vec<&String> = sentences.iter().filter(|it| !told.iter().any(|told| it.contains(told))).collect();
    ensure!(untold.is_empty(), "rules without a case: {untold:#?}");
    Ok(())
}

/// The sentences of all rules in a schema.
fn collect_sentences(schema: &Value, sentences: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            let rules = fields.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten();
            sentences.extend(rules.filter_map(|rule| Some(rule["message"].as_str()?.to_owned())));
            fields.values().for_each(|field| collect_sentences(field, sentences));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_sentences(item, sentences)),
        _ => {}
    }
}
