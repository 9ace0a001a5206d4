//! The command line as a stranger types it: what it prints, and what it says when it cannot.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::places;
use crate::support::Server;

pub fn leasehold(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_leasehold")).args(arguments).output().expect("the program starts")
}

pub fn json(folder: &Path, arguments: &[&str]) -> Value {
    let folder = folder.to_str().expect("a plain path");
    let output = leasehold(&[arguments, &["--data-dir", folder, "--output", "json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

fn refused(arguments: &[&str]) -> String {
    let output = leasehold(arguments);
    let error = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_passes_through_its_life_beside_a_running_server() {
    let server = Server::start().await;
    let folder = server.folder();
    let made = json(folder, &["account", "create", "alice", "--quota", "10MiB"]);
    let yaml = std::fs::read_to_string(made["servers_yaml"].as_str().expect("a path")).expect("is there");
    for key in ["nurl", "furl"] {
        assert!(yaml.contains(made[key].as_str().expect("text")), "{key}");
    }
    assert_eq!(json(folder, &["account", "show", "alice"])["quota_bytes"], 10 << 20);
    assert_eq!(json(folder, &["account", "set", "alice", "--access", "read-only"])["state"], "read-only");
    assert_eq!(json(folder, &["account", "suspend", "alice"])["state"], "suspended");
    assert_eq!(json(folder, &["account", "resume", "alice"])["state"], "active");
    let rotated = json(folder, &["account", "rotate", "alice"]);
    assert_ne!(rotated["nurl"], made["nurl"]);
    let yaml = std::fs::read_to_string(rotated["servers_yaml"].as_str().expect("a path")).expect("is there");
    let (new, old) = (rotated["nurl"].as_str().expect("text"), made["nurl"].as_str().expect("text"));
    assert!(yaml.find(new).expect("the new one") < yaml.find(old).expect("the old one, while it lapses"));
    assert_eq!(json(folder, &["account", "show", "alice"])["credentials"].as_array().expect("list").len(), 2);
    assert_eq!(json(folder, &["account", "list"]).as_array().expect("list").len(), 4);
    assert_eq!(json(folder, &["account", "delete", "alice"])["state"], "closed");
    assert_eq!(json(folder, &["account", "list"]).as_array().expect("list").len(), 3);
    // The name is free, the number is not.
    assert_ne!(json(folder, &["account", "create", "alice"])["account_id"], made["account_id"]);
    server.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_are_shown_with_who_leases_them() {
    let server = Server::start().await;
    let index = crate::support::index(20);
    server.upload(&index, 3, &[1; 77]).await;
    let shown = json(server.folder(), &["share", "show", &index]);
    let share = &shown["shares"][0];
    assert_eq!(
        (&share["share_number"], &share["size_bytes"], &share["state"]),
        (&3.into(), &77.into(), &"stable".into())
    );
    assert_eq!(share["leases"][0]["account"], "default");
    server.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_said_in_one_line_with_exit_code_2() {
    let server = Server::start().await;
    let folder = server.folder().to_str().expect("a plain path").to_owned();
    let config = server.folder().join("bad.toml");
    std::fs::write(&config, "[server]\nlistn = 1\n").expect("written");
    let config = config.to_str().expect("a plain path");
    for (arguments, word) in [
        (&["account", "show", "nobody", "--data-dir", &folder][..], "nobody"),
        (&["account", "create", "../x", "--data-dir", &folder], "account name"),
        (&["account", "create", "default", "--data-dir", &folder], "already"),
        (&["account", "delete", "starter", "--data-dir", &folder], "built in"),
        (&["account", "list", "--data-dir", "/nonexistent"], "leasehold serve"),
        (&["serve", "--data-dir", &folder], "another process"),
        (&["serve", "--config", config], "listn"),
        (&["serve", "--advertise", "nowhere"], "--advertise"),
    ] {
        let error = refused(arguments);
        assert!(error.contains(word) && error.trim_end().lines().count() == 1, "{arguments:?}: {error}");
    }
    // The parser's own messages have a hint below.
    for arguments in [&["account", "set", "x", "--quota", "12 parsecs"][..], &["share", "show", "zzz"], &["nonsense"]] {
        assert!(refused(arguments).starts_with("error: "), "{arguments:?}");
    }
    server.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_is_well_and_what_is_not() {
    let server = Server::start().await;
    let findings = json(server.folder(), &["check"]);
    assert!(findings.as_array().expect("list").iter().all(|finding| finding["level"] == "ok"), "{findings}");
    server.running.stop().await;
    let empty = places::folder();
    let output = leasehold(&["check", "--data-dir", empty.path().to_str().expect("a plain path")]);
    assert_eq!(output.status.code(), Some(2));
}
