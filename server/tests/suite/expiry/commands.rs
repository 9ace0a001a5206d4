//! The commands of expiry as a stranger types them, beside a running server.

use serde_json::Value;

use crate::commands::{json, leasehold};
use crate::support::{Server, index};

/// A server with one share, whose lease ended long ago; and the file of a configuration under which leases end.
async fn lapsed() -> (Server, String, String) {
    let server = Server::start_with(|config| config.jobs.collect_interval_seconds = 0).await;
    let share = index(20);
    server.upload(&share, 3, &[1; 88]).await;
    let data = leasehold_server::datadir::DataDir::existing(server.folder()).expect("a data directory");
    let file = rusqlite::Connection::open(data.database()).expect("a second connection");
    let past = "UPDATE leases SET renewed_at = 1, expires_at = 2; UPDATE shares SET created_at = 1";
    file.execute_batch(past).expect("long ago");
    let config = server.folder().join("expire.toml");
    std::fs::write(&config, "[expire]\nenabled = true\n").expect("written");
    let config = config.to_str().expect("a plain path").to_owned();
    (server, share, config)
}

fn with<'a>(arguments: &[&'a str], config: &'a str) -> Vec<&'a str> {
    [arguments, &["--config", config]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_and_comes_back_by_commands() {
    let (server, share, config) = lapsed().await;
    let folder = server.folder();
    let run = json(folder, &with(&["expire", "--dry-run"], &config));
    assert_eq!((&run["dry_run"], &run["ended_leases"], &run["removed_leases"]), (&true.into(), &1.into(), &0.into()));
    assert_eq!((&run["accounts"][0]["name"], &run["accounts"][0]["ended_bytes"]), (&"default".into(), &100.into()));
    let run = json(folder, &with(&["expire"], &config));
    assert_eq!(
        (&run["state"], &run["removed_leases"], &run["unleased_shares"]),
        (&"done".into(), &1.into(), &1.into())
    );
    assert_eq!(json(folder, &["share", "show", &share])["shares"][0]["leases"], Value::Array(Vec::new()));
    let number = run["run"].to_string();
    let undone = json(folder, &["undo", "--run", &number]);
    assert_eq!((&undone["leases"], &undone["shares"]), (&1.into(), &0.into()));
    assert_eq!(server.usage("default").await.used_bytes, 100);
    let runs = json(folder, &["runs", "--kind", "expire"]);
    let runs = runs.as_array().expect("a list");
    assert_eq!((runs.len(), &runs[0]["run"], &runs[1]["dry_run"]), (2, &run["run"], &true.into()));
    assert_eq!(runs[0]["totals"]["leases_removed"], 1);
    server.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_to_people_says_what_to_do_next() {
    let (server, share, config) = lapsed().await;
    let folder = server.folder().to_str().expect("a plain path").to_owned();
    let say = |arguments: &[&str]| {
        let output = leasehold(&[arguments, &["--data-dir", &folder]].concat());
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).expect("text"))
    };
    let (code, text) = say(&["expire"]);
    assert!(code == Some(2) && text.contains("expire.enabled"), "off: {text}");
    let (code, text) = say(&with(&["expire"], &config));
    assert!(code == Some(0) && text.contains("default  1") && text.contains("run it again"), "{text}");
    let (code, text) = say(&["allow", "1"]);
    assert!(code == Some(2) && text.contains("no brake has stopped run 1"), "{text}");
    let (code, text) = say(&["allow", "99"]);
    assert!(code == Some(2) && text.contains("leasehold runs"), "{text}");
    let (_, text) = say(&["runs"]);
    assert!(text.contains("expire (dry)") && text.contains("leases_ended 1"), "{text}");
    let (code, text) = say(&["undo", &format!("{share}/3")]);
    assert!(code == Some(0) && text.contains("0 shares and 0 leases are back"), "{text}");
    for bad in [&["undo"][..], &["undo", "x"], &["undo", &format!("{share}/300")], &["runs", "--kind", "nonsense"]] {
        assert_eq!(say(bad).0, Some(2), "{bad:?}");
    }
    server.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_are_kept_and_released() {
    let server = Server::start().await;
    let folder = server.folder();
    json(folder, &["account", "create", "alice", "--keep-days", "90"]);
    assert_eq!(json(folder, &["account", "show", "alice"])["keep_days"], 90);
    assert_eq!(json(folder, &["account", "set", "alice", "--keep-days", "never"])["keep_days"], "never");
    assert_eq!(json(folder, &["account", "set", "alice", "--keep-days", "none"])["keep_days"], Value::Null);
    for bad in
        [&["account", "set", "alice", "--keep-days", "0"][..], &["account", "delete", "alice", "--grace-days", "3"]]
    {
        let output = leasehold(&[bad, &["--data-dir", folder.to_str().expect("a plain path")]].concat());
        assert_eq!(output.status.code(), Some(2), "{bad:?}");
    }
    let deleted = json(folder, &["account", "delete", "alice", "--release", "--grace-days", "3"]);
    assert_eq!((&deleted["state"], &deleted["released_in_days"]), (&"closed".into(), &3.into()));
    server.running.stop().await;
}
