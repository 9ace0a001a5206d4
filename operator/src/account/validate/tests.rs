use serde_json::json;

use super::super::fixtures::{account, references, server, validated};
use super::*;

fn refusal(account: &Account, references: &References) -> (&'static str, String) {
    match validate(account, references) {
        Ok(_) => panic!("it was accepted"),
        Err(Obstacle::Passing(reason, text) | Obstacle::Lasting(reason, text)) => (reason, text),
    }
}

#[test]
fn the_stricter_of_the_two_switches_wins() {
    for (own, provider, access, by_provider) in [
        ("ReadWrite", "ReadWrite", Access::ReadWrite, true),
        ("ReadOnly", "ReadWrite", Access::ReadOnly, false),
        ("ReadWrite", "Disabled", Access::Disabled, true),
        ("Disabled", "ReadOnly", Access::Disabled, false),
    ] {
        let found = validated(&account(&json!({ "access": own, "administrative": { "access": provider } })));
        assert_eq!((found.access, found.by_provider), (access, by_provider), "{own} {provider}");
        assert_eq!(found.change.state, Some(state(access)));
    }
}

#[test]
fn settings_reach_the_lease_database_whole() {
    let found = validated(&account(&json!({
        "quota": { "hard": "50Gi", "soft": "45Gi" },
        "leases": { "mode": "AccountCheckIn", "days": 60 },
        "administrative": { "message": "hello" },
    })));
    assert_eq!(found.change.quota_bytes, Some(Some(50 << 30)));
    assert_eq!(found.change.lease_days, Some(60));
    assert_eq!(found.change.keep_alive, Some(KeepAlive::Days(90)));
    assert_eq!(found.change.message.as_deref(), Some("hello"));
    assert_eq!(found.addresses, ["a.example:4443", "b.example:4443"]);
    let none = validated(&account(&json!({})));
    assert_eq!(none.change.quota_bytes, Some(None), "a quota that was taken away is lifted");
}

#[test]
fn namespaces_are_let_in_as_the_server_says() {
    let account = account(&json!({}));
    let allowed =
        |allowed: serde_json::Value| references(server(&json!({ "accounts": { "allowedNamespaces": allowed } })));
    let (reason, text) = refusal(&account, &allowed(json!({ "from": "Same" })));
    assert_eq!(reason, "NamespaceNotAllowed");
    assert!(text.contains("\"customer\" is not"), "{text}");
    let by_label = json!({ "from": "Selector", "selector": { "matchLabels": { "tahoe-customers": "true" } } });
    let mut found = allowed(by_label);
    let (_, text) = refusal(&account, &found);
    assert!(text.contains("labelled tahoe-customers=true") && text.contains("label the namespace"), "{text}");
    let labelled = json!({ "metadata": { "name": "customer", "labels": { "tahoe-customers": "true" } } });
    found.namespace = Some(serde_json::from_value(labelled).expect("a namespace"));
    assert!(validate(&account, &found).is_ok());
    let unknown =
        json!({ "from": "Selector", "selector": { "matchExpressions": [{ "key": "a", "operator": "Like" }] } });
    found.server = allowed(unknown).server;
    refusal(&account, &found);
}

#[test]
fn what_is_missing_is_named() {
    let account = account(&json!({}));
    let nothing = References { server: None, ..references(server(&json!({}))) };
    assert_eq!(refusal(&account, &nothing).0, "ServerNotFound");
    let mut young = server(&json!({}));
    young.status = None;
    assert_eq!(refusal(&account, &references(young)).0, "ServerNotReady");
}
