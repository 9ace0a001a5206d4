//! Accounts: made, rotated, suspended, deleted; and what is left alone.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use kube::runtime::controller::Action;
use leasehold_core::account::AccountState;
use leasehold_core::leasedb::{Credential, LeaseDb};
use leasehold_core::secret::Swissnum;
use leasehold_crds::Account;
use leasehold_operator::account::{self, FINALIZER};
use leasehold_operator::context::Context;
use leasehold_operator::server;
use serde_json::{Value, json};

use crate::world::World;

pub const SECRET: &str = "/api/v1/namespaces/tahoe/secrets/alice-tahoe";

/// A server with its identity, and an Account that was declared.
pub async fn with_account(spec: Value) -> World {
    with_account_in(World::new().await, spec).await
}

async fn with_account_in(world: World, spec: Value) -> World {
    let context = world.connected().await;
    server::reconcile(world.object("StorageServer", "main"), context).await.expect("reconciled");
    world.declare("Account", "alice", spec);
    world
}

/// Looks at the Account as the last look left it; when the next one is due.
pub async fn reconcile(world: &World, context: &Arc<Context>) -> Action {
    account::reconcile(world.object::<Account>("Account", "alice"), context.clone()).await.expect("reconciled")
}

pub fn text(world: &World, key: &str) -> String {
    let secret = world.api.get(SECRET).expect("a Secret");
    let bytes: ByteString = serde_json::from_value(secret["data"][key].clone()).expect(key);
    String::from_utf8(bytes.0).expect("text")
}

pub async fn credentials(world: &World) -> Vec<Credential> {
    let object = world.object::<Account>("Account", "alice");
    let name = account::ledger_name(&object).expect("it has a uid");
    let found = world.db.find_account(name).await.expect("an answer").expect("an account");
    let now = world.db.now().await.expect("an answer");
    let mut credentials = world.db.list_credentials(found.id).await.expect("an answer");
    credentials.retain(|credential| credential.is_valid(now));
    credentials
}

pub fn opens(swissnum: &str, credential: &Credential) -> bool {
    Swissnum::new(swissnum.as_bytes().to_vec()).expect("a swissnum").credential_hash() == credential.hash
}

fn spec() -> Value {
    json!({ "serverRef": { "name": "main" }, "quota": { "hard": "50Gi" } })
}

#[tokio::test]
async fn an_account_gets_an_address_that_opens_it_and_then_rests() {
    let world = with_account(spec()).await;
    let context = world.connected().await;
    reconcile(&world, &context).await;
    assert_eq!(world.condition("Account", "alice", "Ready"), ("True".to_owned(), "Provisioned".to_owned()));
    let found = credentials(&world).await;
    assert!(found.len() == 1 && opens(&text(&world, "swissnum"), &found[0]));
    assert_eq!(found[0].account.quota_bytes, Some(50 << 30));
    assert!(text(&world, "nurl").contains("@a.example:443/"));
    let secret = world.api.get(SECRET);
    reconcile(&world, &context).await;
    world.api.writes();
    reconcile(&world, &context).await;
    assert_eq!(world.api.writes(), Vec::<String>::new(), "what is settled costs no write");
    assert_eq!(world.api.get(SECRET), secret);
}

#[tokio::test]
async fn a_rotation_hands_out_both_addresses_and_an_emergency_only_the_new_one() {
    for (hours, addresses) in [(336, 2), (0, 1)] {
        let world = with_account(spec()).await;
        let context = world.connected().await;
        reconcile(&world, &context).await;
        let old = text(&world, "swissnum");
        let mut rotated = spec();
        rotated["credentials"] = json!({ "generation": 2, "overlapHours": hours });
        world.declare("Account", "alice", rotated);
        reconcile(&world, &context).await;
        reconcile(&world, &context).await;
        let (new, found) = (text(&world, "swissnum"), credentials(&world).await);
        assert_ne!(new, old);
        assert!(opens(&new, &found[0]) && found[0].not_after.is_none());
        assert_eq!((found.len(), text(&world, "nurls").lines().count()), (addresses, addresses));
        let status = world.api.get(&World::path("Account", "alice")).expect("it is there")["status"].clone();
        assert_eq!(status["credentials"][0]["generation"], 2);
    }
}

#[tokio::test]
async fn a_secret_that_was_deleted_or_tampered_with_is_replaced_and_clients_go_on() {
    for is_deleted in [true, false] {
        let world = with_account(spec()).await;
        let context = world.connected().await;
        reconcile(&world, &context).await;
        let old = text(&world, "swissnum");
        if is_deleted {
            world.api.take(SECRET);
        } else {
            let mut secret = world.api.get(SECRET).expect("a Secret");
            secret["data"]["swissnum"] = serde_json::to_value(ByteString(b"guessme".to_vec())).expect("plain");
            world.api.put(SECRET, secret);
        }
        reconcile(&world, &context).await;
        let (new, found) = (text(&world, "swissnum"), credentials(&world).await);
        assert!(new != old && new != "guessme");
        assert!(opens(&new, &found[0]) && opens(&old, &found[1]) && found[1].not_after.is_some());
    }
}

#[tokio::test]
async fn a_lost_lease_database_learns_the_address_from_the_secret() {
    let world = with_account(spec()).await;
    reconcile(&world, &world.connected().await).await;
    let before = text(&world, "swissnum");
    let other = World::new().await;
    let context = world.operator().await;
    let key = leasehold_operator::names::Key { namespace: "tahoe".to_owned(), name: "leases".to_owned() };
    context.databases.hold(&key, other.db.clone()).await;
    reconcile(&world, &context).await;
    assert_eq!(text(&world, "swissnum"), before);
    let object = world.object::<Account>("Account", "alice");
    let name = account::ledger_name(&object).expect("it has a uid");
    assert!(other.db.find_account(name).await.expect("an answer").is_some());
}

#[tokio::test]
async fn two_operators_at_once_make_one_credential() {
    for round in 0..20 {
        let world = with_account(spec()).await;
        let (a, b) = (world.connected().await, world.connected().await);
        let object = || world.object::<Account>("Account", "alice");
        // One of them may find that it was not first; it tries again.
        let (first, second) =
            tokio::join!(account::reconcile(object(), a.clone()), account::reconcile(object(), b.clone()));
        assert!(first.is_ok() || second.is_ok(), "{first:?} {second:?}");
        reconcile(&world, &a).await;
        reconcile(&world, &b).await;
        let found = credentials(&world).await;
        assert_eq!(found.len(), 1, "round {round}");
        assert!(opens(&text(&world, "swissnum"), &found[0]), "round {round}");
    }
}

#[tokio::test]
async fn a_foreign_secret_is_not_touched_and_the_account_goes_on_when_it_has_gone() {
    let world = with_account(spec()).await;
    let context = world.connected().await;
    let foreign = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "alice-tahoe", "namespace": "tahoe" }, "data": {},
    });
    world.api.put(SECRET, foreign);
    let before = world.api.get(SECRET);
    let next = reconcile(&world, &context).await;
    assert_eq!(world.api.get(SECRET), before);
    assert_eq!(next, Action::requeue(Duration::from_secs(10)), "nobody tells the operator when it goes");
    assert_eq!(world.condition("Account", "alice", "Ready"), ("False".to_owned(), "SecretConflict".to_owned()));
    world.api.take(SECRET);
    reconcile(&world, &context).await;
    assert_eq!(world.condition("Account", "alice", "Ready").0, "True");
}

#[tokio::test]
async fn access_and_quota_reach_the_lease_database() {
    let world = with_account(spec()).await;
    let context = world.connected().await;
    reconcile(&world, &context).await;
    let version = world.db.accounts_version().await.expect("an answer");
    let changed = json!({
        "serverRef": { "name": "main" }, "access": "ReadOnly",
        "administrative": { "access": "Disabled", "message": "unpaid" },
    });
    world.declare("Account", "alice", changed);
    reconcile(&world, &context).await;
    let account = credentials(&world).await.swap_remove(0).account;
    assert_eq!(
        (account.state, account.quota_bytes, account.message.as_str()),
        (AccountState::Suspended, None, "unpaid")
    );
    assert_eq!(world.condition("Account", "alice", "Suspended"), ("True".to_owned(), "ByProvider".to_owned()));
    let after = world.db.accounts_version().await.expect("an answer");
    assert!(after > version);
    reconcile(&world, &context).await;
    assert_eq!(world.db.accounts_version().await.expect("an answer"), after, "pods are not bothered without a change");
}

fn delete(world: &World) {
    world.edit("Account", "alice", |account| account["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
}

fn has_finalizer(world: &World) -> bool {
    let account = world.api.get(&World::path("Account", "alice")).expect("it is there");
    account["metadata"]["finalizers"].as_array().is_some_and(|all| all.iter().any(|name| name == FINALIZER))
}

#[tokio::test]
async fn a_deleted_account_is_closed_before_it_goes() {
    let world = with_account(spec()).await;
    reconcile(&world, &world.connected().await).await;
    let hash = credentials(&world).await[0].hash;
    assert!(has_finalizer(&world));
    delete(&world);
    reconcile(&world, &world.connected().await).await;
    assert!(!has_finalizer(&world));
    let now = world.db.now().await.expect("an answer");
    let found = world.db.find_credential(hash).await.expect("an answer");
    assert!(found.is_none_or(|found| !found.is_valid(now)), "the address is revoked");
}

/// Makes another Account take over what alice has left.
async fn adopt(world: &World, namespace: &str, number: &str) -> Value {
    let spec = json!({ "serverRef": { "name": "main", "namespace": "tahoe" }, "adopt": { "accountID": number } });
    let metadata = json!({ "name": "heir", "namespace": namespace });
    let path = format!("/apis/leasehold.dev/v1alpha1/namespaces/{namespace}/accounts/heir");
    let object = json!({
        "apiVersion": "leasehold.dev/v1alpha1", "kind": "Account", "metadata": metadata, "spec": spec,
    });
    world.api.put(&path, object);
    for _ in 0..2 {
        let object = serde_json::from_value(world.api.get(&path).expect("it was put")).expect("an Account");
        account::reconcile(Arc::new(object), world.connected().await).await.expect("reconciled");
    }
    world.api.get(&path).expect("it is there")["status"].clone()
}

#[tokio::test]
async fn what_a_deleted_account_has_left_is_adopted_in_its_own_namespace_only() {
    let world = with_account(spec()).await;
    let mut server = world.api.get(&World::path("StorageServer", "main")).expect("it is there")["spec"].clone();
    server["accounts"] = json!({ "allowedNamespaces": { "from": "All" } });
    world.declare("StorageServer", "main", server);
    reconcile(&world, &world.connected().await).await;
    let old = credentials(&world).await.swap_remove(0);
    let number = old.account.id.to_string();
    let accepted = |status: &Value| {
        let conditions = status["conditions"].as_array().expect("conditions").clone();
        conditions.into_iter().find(|found| found["type"] == "Accepted").expect("Accepted")["reason"].clone()
    };
    assert_eq!(accepted(&adopt(&world, "tahoe", &number).await), "AdoptionRefused", "it is in use");
    delete(&world);
    reconcile(&world, &world.connected().await).await;
    assert_eq!(accepted(&adopt(&world, "elsewhere", &number).await), "AdoptionRefused", "numbers can be guessed");
    let status = adopt(&world, "tahoe", &number).await;
    assert_eq!((accepted(&status), status["accountID"].clone()), (json!("Accepted"), json!(number)));
    let found = world.db.find_credential(old.hash).await.expect("an answer");
    assert!(found.is_none(), "the old address stays revoked");
    let secret = world.api.get("/api/v1/namespaces/tahoe/secrets/heir-tahoe").expect("a Secret");
    let new: ByteString = serde_json::from_value(secret["data"]["swissnum"].clone()).expect("a swissnum");
    let hash = Swissnum::new(new.0).expect("a swissnum").credential_hash();
    let opened = world.db.find_credential(hash).await.expect("an answer").expect("it opens the account");
    assert_eq!(opened.account.id, old.account.id);
}

#[tokio::test]
async fn a_deletion_waits_for_the_lease_database_and_says_how_to_go_without() {
    let world = with_account(spec()).await;
    reconcile(&world, &world.connected().await).await;
    delete(&world);
    // This operator has no connection, and nothing listens where the database should be.
    let context = world.operator().await;
    reconcile(&world, &context).await;
    assert!(has_finalizer(&world));
    let blocked = world.condition("Account", "alice", "DeletionBlocked");
    assert_eq!(blocked, ("True".to_owned(), "DatabaseUnavailable".to_owned()));
    world.edit("Account", "alice", |account| {
        account["metadata"]["annotations"] = json!({ "leasehold.dev/force-finalize": account["status"]["accountID"] });
    });
    reconcile(&world, &context).await;
    assert!(!has_finalizer(&world));
}

#[tokio::test]
async fn a_namespace_that_goes_with_its_database_does_not_hang() {
    let world = with_account(spec()).await;
    reconcile(&world, &world.connected().await).await;
    delete(&world);
    world.edit("LeaseDatabase", "leases", |database| {
        database["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    reconcile(&world, &world.operator().await).await;
    assert!(!has_finalizer(&world));
}

#[tokio::test]
async fn an_account_of_another_namespace_or_of_no_server_is_refused_with_a_sentence() {
    let world = with_account(json!({ "serverRef": { "name": "elsewhere" } })).await;
    reconcile(&world, &world.connected().await).await;
    assert_eq!(world.condition("Account", "alice", "Accepted"), ("False".to_owned(), "ServerNotFound".to_owned()));
    assert!(world.api.get(SECRET).is_none());
}

#[tokio::test]
async fn nothing_is_written_for_a_paused_account_but_its_status() {
    let world = with_account(spec()).await;
    world.edit("Account", "alice", |account| {
        account["metadata"]["annotations"] = json!({ "leasehold.dev/paused": "true" });
    });
    world.api.writes();
    reconcile(&world, &world.connected().await).await;
    assert_eq!(world.api.writes(), [format!("PATCH {}/status", World::path("Account", "alice"))]);
    assert_eq!(world.condition("Account", "alice", "Ready"), ("Unknown".to_owned(), "Paused".to_owned()));
}

/// It may be about to take over a backend whose names carry the numbers of other accounts.
#[tokio::test]
async fn an_account_waits_until_a_pod_serves_from_the_database() {
    let world = with_account_in(World::declared(), spec()).await;
    let context = world.connected().await;
    for _ in 0..2 {
        let account = world.object::<Account>("Account", "alice");
        assert!(account::reconcile(account, context.clone()).await.is_err(), "it is looked at again soon");
    }
    let known = world.db.list_accounts(None, 10).await.expect("an answer");
    assert_eq!(known.len(), 2, "those that every database has: {known:?}");
    let found = world.api.get(&World::path("Account", "alice")).expect("it is there");
    let said = found["status"]["conditions"][0]["message"].as_str().expect("a reason");
    assert!(said.contains("no pod serves from this lease database yet"), "{said}");
    world.begin().await;
    reconcile(&world, &context).await;
    assert_eq!(world.condition("Account", "alice", "Ready").0, "True");
}
