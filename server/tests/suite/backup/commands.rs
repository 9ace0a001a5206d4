//! `leasehold backup`, `leasehold backup list` and `leasehold restore` as a stranger types them.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::places;
use crate::support::Server;

fn leasehold(folder: &Path, arguments: &[&str]) -> Output {
    let folder = folder.to_str().expect("a plain path");
    let arguments = [arguments, &["--data-dir", folder]].concat();
    Command::new(env!("CARGO_BIN_EXE_leasehold")).args(arguments).output().expect("the program starts")
}

fn json(folder: &Path, arguments: &[&str]) -> Value {
    let output = leasehold(folder, &[arguments, &["--output", "json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = leasehold(folder, arguments);
    let error = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
    let last = error.trim_end().lines().last().expect("one line").to_owned();
    assert!(last.starts_with("leasehold: ") || last.contains("--help"), "{error}");
    error
}

/// A server that takes no backups by itself.
async fn without_schedule() -> Server {
    Server::start_with(|config| config.backup.interval_seconds = 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_backed_up_lost_and_restored_by_commands() {
    let server = without_schedule().await;
    let folder = server.folder().to_owned();
    let made = json(&folder, &["account", "create", "alice", "--quota", "10MiB"]);
    assert!(refused(&folder, &["backup"]).contains("another process is serving"), "its server does it");
    server.running.stop().await;

    let backup = json(&folder, &["backup"]);
    let name = backup["name"].as_str().expect("a name").to_owned();
    assert_eq!((backup["accounts"].as_u64(), backup["parts"].as_u64()), (Some(4), Some(1)));
    let listed = json(&folder, &["backup", "list"]);
    assert_eq!((listed.as_array().map(Vec::len), &listed[0]["name"]), (Some(1), &backup["name"]));
    let text = leasehold(&folder, &["backup", "list"]);
    assert!(String::from_utf8(text.stdout).expect("text").contains(&name));
    assert!(refused(&folder, &["restore"]).contains("the lease database is not empty"));
    assert!(refused(&folder, &["restore", "--from", "yesterday"]).contains("nor `latest`"));
    let unknown = name.replace(".000000000001.", ".000000000009.");
    assert!(refused(&folder, &["restore", "--from", &unknown]).contains("leasehold backup list"));

    // Verifying needs no database, and makes none.
    for file in ["leases.sqlite", "leases.sqlite-wal", "leases.sqlite-shm"] {
        drop(std::fs::remove_file(folder.join(file)));
    }
    assert_eq!(json(&folder, &["restore", "--verify"])["name"], backup["name"]);
    assert!(!folder.join("leases.sqlite").exists());
    let part = folder.join("meta/backup").join(&name).join("part-000000");
    let good = std::fs::read(&part).expect("the part");
    std::fs::write(&part, [&good[..good.len() - 1], b"x"].concat()).expect("written");
    for arguments in [["restore", "--verify"].as_slice(), &["restore"]] {
        assert!(refused(&folder, arguments).contains("part 0: its checksum"), "{arguments:?}");
    }
    std::fs::write(&part, good).expect("written");
    let restored = json(&folder, &["restore", "--from", &name]);
    assert_eq!(
        (restored["new_epoch"].as_u64(), restored["wrong_counters"].as_array().map(Vec::len)),
        (Some(2), Some(0))
    );
    let shown = json(&folder, &["account", "show", "alice"]);
    assert_eq!((&shown["account_id"], shown["quota_bytes"].as_u64()), (&made["account_id"], Some(10 << 20)));
    assert_eq!(json(&folder, &["backup"])["epoch"], 2);
    assert!(leasehold(&folder, &["check"]).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_backup_the_commands_say_so() {
    let server = without_schedule().await;
    let folder = server.folder().to_owned();
    assert_eq!(json(&folder, &["backup", "list"]), Value::Array(Vec::new()));
    assert!(refused(&folder, &["restore", "--verify"]).contains("there is no complete backup"));
    let empty = places::folder();
    assert!(refused(empty.path(), &["backup"]).contains("is not the data directory of a server"));
    server.running.stop().await;
}
