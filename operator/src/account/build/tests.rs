use leasehold_core::clock::Entropy;
use serde_json::json;

use super::super::fixtures::{account, owner, validated};
use super::*;

fn built(spec: &serde_json::Value, has_old: bool) -> (Secret, Swissnums) {
    let account = account(spec);
    let swissnum = |seed| Swissnum::generate(&Entropy::from_seed(seed));
    let swissnums = Swissnums { newest: swissnum(1), retiring: has_old.then(|| swissnum(2)), generation: 2 };
    (secret(&account, &validated(&account), &swissnums, &owner(&account)), swissnums)
}

fn text(secret: &Secret, key: &str) -> String {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key)).unwrap_or_else(|| panic!("no {key}"));
    String::from_utf8(bytes.0.clone()).expect("text")
}

#[test]
fn a_secret_has_all_that_a_client_needs_at_every_address() {
    let (secret, swissnums) = built(&json!({ "displayName": "Alice \"Example\"" }), true);
    let (new, spki, tub) = (swissnums.newest.reveal(), "s".repeat(43), "t".repeat(32));
    assert_eq!(text(&secret, "nurl"), format!("pb://{spki}@a.example:4443/{new}#v=1"));
    assert_eq!(text(&secret, "furl"), format!("pb://{tub}@tcp:a.example:4443,tcp:b.example:4443/{new}"));
    let nurls = text(&secret, "nurls");
    assert_eq!(nurls.lines().count(), 4, "two addresses, and the old swissnum at both");
    assert!(nurls.lines().take(2).all(|nurl| nurl.contains(new)), "the newest come first");
    assert_eq!((text(&secret, "host"), text(&secret, "port")), ("a.example".to_owned(), "4443".to_owned()));
    let yaml = text(&secret, "servers.yaml");
    assert!(yaml.contains("v0-x:") && yaml.contains("anonymous-storage-FURL"), "{yaml}");
    let gridsync: serde_json::Value = serde_json::from_str(&text(&secret, "gridsync.json")).expect("JSON");
    assert_eq!(gridsync["nickname"], "Alice \"Example\"");
    assert_eq!(gridsync["storage"]["v0-x"]["anonymous-storage-NURLs"].as_array().map(Vec::len), Some(4));
    assert!(!text(&secret, "README.txt").contains(new), "no secret in the explanation");
    assert_eq!(secret.annotations()[GENERATION], "2");
    assert_eq!(secret.type_.as_deref(), Some("servicebinding.io/tahoe-lafs"));
}

#[test]
fn what_others_add_is_left_and_what_they_change_is_noticed() {
    let (wanted, _) = built(&json!({ "credentials": { "secretMetadata": { "labels": { "team": "a" } } } }), false);
    assert!(is_as_wanted(&wanted, &wanted));
    let mut more = wanted.clone();
    more.metadata.labels.as_mut().expect("labels").insert("theirs".to_owned(), "x".to_owned());
    more.data.as_mut().expect("data").insert("theirs".to_owned(), ByteString(b"x".to_vec()));
    assert!(is_as_wanted(&more, &wanted));
    let mut edited = wanted.clone();
    edited.data.as_mut().expect("data").insert("nurl".to_owned(), ByteString(b"x".to_vec()));
    assert!(!is_as_wanted(&edited, &wanted));
    let mut old = wanted.clone();
    old.data.as_mut().expect("data").insert(RETIRING.to_owned(), ByteString(b"x".to_vec()));
    assert!(!is_as_wanted(&old, &wanted), "a swissnum that has lapsed is taken out");
}
