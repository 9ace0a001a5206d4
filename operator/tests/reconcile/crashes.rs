//! The operator dies before and after each of its writes; the next one brings everything to the same end.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use kube::Client;
use leasehold_core::leasedb::LeaseDb;
use leasehold_crds::Account;
use leasehold_operator::{account, server};
use serde_json::{Value, json};

use crate::accounts::{SECRET, credentials, text};
use crate::api_server::Death;
use crate::world::World;

/// Looks until nothing is left to write: more would be a quarrel with itself.
const LOOKS_MAX: usize = 12;

/// Most of a life is waiting for a disk.
const LIVES_AT_ONCE: usize = 4;

/// What people ask for, one thing after the other.
const LIFE: [fn(&World); 6] = [
    |world| world.declare("Account", "alice", spec(json!({}))),
    |world| world.declare("Account", "alice", spec(json!({ "credentials": { "generation": 2 } }))),
    |world| {
        let change = json!({ "credentials": { "generation": 2 }, "access": "ReadOnly", "quota": { "hard": "1Gi" } });
        world.declare("Account", "alice", spec(change));
    },
    |world| {
        let stolen = json!({ "credentials": { "generation": 3, "overlapHours": 0 } });
        world.declare("Account", "alice", spec(stolen));
    },
    |world| world.api.take(SECRET),
    |world| {
        world.edit("Account", "alice", |account| {
            account["spec"]["deletion"] = json!({ "policy": "Release" });
            account["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        });
    },
];

fn spec(change: Value) -> Value {
    let mut spec = json!({ "serverRef": { "name": "main" }, "quota": { "hard": "50Gi" } });
    spec.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
    spec
}

/// Looks at server and account again and again, as a controller does, until that writes nothing.
async fn settle(world: &World, client: &Client) {
    for _ in 0..LOOKS_MAX {
        let before = world.api.version();
        // Each look sees the cluster as the last one left it.
        let context = || world.connected_with(client.clone());
        let server = server::reconcile(world.object("StorageServer", "main"), context().await).await;
        let mut is_good = server.is_ok();
        if world.api.get(&World::path("Account", "alice")).is_some() {
            let object: Arc<Account> = world.object("Account", "alice");
            is_good &= account::reconcile(object, context().await).await.is_ok();
        }
        if is_good && world.api.version() == before {
            return;
        }
    }
    panic!("there is always something to write");
}

/// A life with an operator that dies at most once; what there was at the end of each part, and how much was written. It ends with
/// the part in which the operator died: what comes later begins from the same.
async fn live(death: Option<Death>) -> (Vec<Value>, usize) {
    let world = World::new().await;
    let (mut client, dead) = world.api.mortal_client(death);
    let (mut parts, mut writes) = (Vec::new(), 0);
    let nothing: fn(&World) = |_| {};
    for ask in [nothing].into_iter().chain(LIFE) {
        ask(&world);
        let settled = tokio::select! {
            () = settle(&world, &client) => true,
            () = dead.notified() => false,
        };
        if !settled {
            client = world.api.client();
            settle(&world, &client).await;
        }
        writes += world.api.writes().len();
        parts.push(shape(&world).await);
        if !settled {
            break;
        }
    }
    (parts, writes)
}

/// What must be the same whoever did it, however often he began: not random numbers, not times.
async fn shape(world: &World) -> Value {
    // Events are for people, and may be told twice or not at all.
    let paths: Vec<String> = world.api.paths("/").into_iter().filter(|path| !path.contains("/events/")).collect();
    let accounts = world.db.list_accounts(None, 100).await.expect("an answer");
    let Some(alice) = world.api.get(&World::path("Account", "alice")) else { return json!({ "paths": paths }) };
    let conditions = alice["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let conditions: Vec<Value> = conditions.iter().map(|it| json!([it["type"], it["status"], it["reason"]])).collect();
    let mut found = json!({
        "paths": paths,
        "accounts": accounts.len(),
        "states": accounts.iter().map(|(account, _)| format!("{:?} {:?}", account.state, account.quota_bytes)).collect::<Vec<_>>(),
        "finalizers": alice["metadata"]["finalizers"],
        "conditions": conditions,
    });
    if alice["metadata"]["deletionTimestamp"].is_null() {
        let secret = world.api.get(SECRET).unwrap_or_else(|| panic!("no Secret beside {alice:#}"));
        let keys: Vec<&String> = secret["data"].as_object().expect("data").keys().collect();
        let (valid, swissnum) = (credentials(world).await, text(world, "swissnum"));
        found["secret"] = json!([keys, secret["metadata"]["annotations"]["leasehold.dev/generation"]]);
        found["credentials"] = json!(valid.iter().map(|it| it.not_after.is_some()).collect::<Vec<_>>());
        found["opens"] = json!(crate::accounts::opens(&swissnum, &valid[0]));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_dies_at_any_write_leaves_nothing_that_the_next_does_not_mend() {
    let (undisturbed, writes) = live(None).await;
    assert!(undisturbed.iter().skip(1).take(5).all(|part| part["opens"] == true), "{undisturbed:#?}");
    assert!(writes >= 25, "only {writes} writes");
    let deaths = (1..=writes).flat_map(|number| [Death::Before(number), Death::After(number)]);
    let mut lives = stream::iter(deaths)
        .map(|death| async move { (death, tokio::spawn(live(Some(death))).await) })
        .buffer_unordered(LIVES_AT_ONCE);
    while let Some((death, lived)) = lives.next().await {
        let (parts, _) = lived.unwrap_or_else(|error| panic!("{death:?} of {writes}: {error}"));
        for (part, (found, wanted)) in parts.iter().zip(&undisturbed).enumerate() {
            assert_eq!(found, wanted, "{death:?} of {writes}, part {part}");
        }
    }
}
