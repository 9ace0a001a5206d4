//! What an account sees of itself, and what its state allows, over the wire.

use std::time::Duration;

use ciborium::Value;
use leasehold_core::account::AccountState;
use leasehold_core::leasedb::{AccountChange, LeaseDb};
use leasehold_core::secret::Swissnum;

use crate::support::{LEASE, Request, Server, authorization, index};

async fn state(server: &Server, state: AccountState) {
    server.change_account("default", AccountChange { state: Some(state), ..AccountChange::default() }).await;
    server
        .eventually("the change takes effect", || async {
            let account = server.get("/account/v1").without("Accept");
            server.ask(&account).await.text().contains(&format!("\"state\":\"{state}\""))
        })
        .await;
}

async fn statuses(server: &Server) -> [u16; 5] {
    let mut all = [0; 5];
    let requests = [
        server.read(&format!("/storage/v1/immutable/{}/0", index(1)), 0, 3),
        server.request("PUT", &format!("/storage/v1/lease/{}", index(1))).secrets(&LEASE),
        server.allocate(&index(1), &[1], 3),
        server.put(&index(2), 0, 0, b"new bytes that grow the slot"),
        server.get("/storage/v1/version"),
    ];
    for (status, request) in all.iter_mut().zip(requests) {
        *status = server.ask(&request).await.status;
    }
    all
}

#[tokio::test]
async fn states_allow_what_they_should() {
    let server = Server::start().await;
    server.upload(&index(1), 0, b"share").await;
    assert_eq!(server.ask(&server.put(&index(2), 0, 0, b"slot")).await.status, 200);
    state(&server, AccountState::ReadOnly).await;
    assert_eq!(statuses(&server).await, [206, 204, 200, 403, 200], "read-only");
    assert_eq!(allocated(&server).await, 0);
    assert_eq!(server.ask(&server.write(&index(1), 1, 0, b"new")).await.status, 403, "before an upload is looked for");
    state(&server, AccountState::Suspended).await;
    let [read, renew, allocate, write, version] = statuses(&server).await;
    assert_eq!([read, renew, write, version], [206, 403, 403, 200], "suspended");
    assert!(allocate == 403 || allocated(&server).await == 0);
    state(&server, AccountState::Active).await;
    assert_eq!(statuses(&server).await, [206, 204, 200, 200, 200], "active");
}

/// How many shares an allocation of one is granted.
async fn allocated(server: &Server) -> usize {
    let answer = server.ask(&server.allocate(&index(9), &[1], 3)).await.cbor();
    let (_, set) = &answer.as_map().expect("a map")[1];
    let Value::Tag(258, set) = set else { panic!("{set:?}") };
    set.as_array().expect("a set").len()
}

#[tokio::test]
async fn a_change_takes_effect_within_seconds_and_a_closed_account_is_nobody() {
    let server = Server::start().await;
    server.create_account("leaving", "swissnum-of-leaving", AccountChange::default()).await;
    let version =
        Request::new("GET", "/storage/v1/version").header("Authorization", &authorization("swissnum-of-leaving"));
    assert_eq!(server.ask(&version).await.status, 200);
    let account = server.db.find_account("leaving".to_owned()).await.expect("answers").expect("exists");
    assert!(server.db.close_account(account.id, None).await.expect("answers"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let list = Request::new("GET", &format!("/storage/v1/mutable/{}/shares", index(1)));
    let list = list.header("Authorization", &authorization("swissnum-of-leaving"));
    assert_eq!(server.ask(&list).await.status, 401);
}

#[tokio::test]
async fn a_full_account_reads_renews_and_shrinks() {
    let server = Server::start().await;
    server.upload(&index(1), 0, b"share").await;
    assert_eq!(server.ask(&server.put(&index(2), 0, 0, &[7; 100])).await.status, 200);
    let full = AccountChange { quota_bytes: Some(Some(1)), ..AccountChange::default() };
    server.change_account("default", full).await;
    assert_eq!(statuses(&server).await[..3], [206, 204, 200]);
    assert_eq!(allocated(&server).await, 0);
    assert_eq!(server.ask(&server.put(&index(2), 0, 90, &[7; 100])).await.status, 507, "grows");
    assert_eq!(server.ask(&server.put(&index(2), 0, 0, &[8; 100])).await.status, 200, "keeps its size");
}

#[tokio::test]
async fn rotation_overlaps() {
    let server = Server::start().await;
    let hash = |swissnum: &str| Swissnum::new(swissnum.into()).expect("short").credential_hash();
    let account = server.create_account("rotating", "first", AccountChange::default()).await;
    let status = |swissnum: &str| {
        let request = Request::new("GET", "/storage/v1/version").header("Authorization", &authorization(swissnum));
        let server = &server;
        async move { server.ask(&request).await.status }
    };
    assert!(server.db.rotate_credential(account.id, hash("second"), 3600).await.expect("answers"));
    assert_eq!((status("first").await, status("second").await), (200, 200));
    assert!(server.db.rotate_credential(account.id, hash("third"), 0).await.expect("answers"));
    server
        .eventually("old addresses end", || async { status("first").await == 401 && status("second").await == 401 })
        .await;
    assert_eq!(status("third").await, 200);
}

#[tokio::test]
async fn services_and_account_come_in_json_and_cbor() {
    let server = Server::start().await;
    for path in ["/services/v1", "/account/v1"] {
        let json = server.ask(&server.get(path).without("Accept")).await;
        assert_eq!((json.status, json.content_type()), (200, Some("application/json")));
        let json: serde_json::Value = serde_json::from_slice(&json.body).expect("JSON");
        let cbor: serde_json::Value =
            server.ask(&server.get(path)).await.cbor().deserialized().expect("the same shape");
        assert_eq!(json, cbor, "{path}");
        assert_eq!(server.ask(&Request::new("GET", path)).await.status, 401);
    }
    let services = server.ask(&server.get("/services/v1").without("Accept")).await.text();
    assert!(services.contains("/storage/v1") && services.contains("/account/v1"), "{services}");
}
