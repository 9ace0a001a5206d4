//! The lease database is lost and made anew, empty: what the backend has is found again, and nothing is deleted for it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use leasehold_e2e::cluster::kubectl::{condition, has_condition};
use leasehold_e2e::gbs::storage_index_text;
use leasehold_e2e::process::wait_until;
use leasehold_e2e::story::{by_length, bytes, ensure_same};
use leasehold_e2e::tahoe::Format;
use serde_json::json;

use super::operated::{PODS_OF_SERVER, Server, count};
use super::world::PODS_TIMEOUT;

/// Five minutes of silence, and the pause that the kubelet makes before it starts a program that failed again.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(900);
const BEATS: &str = "meta/beat/";
/// Longer than a backend must have been silent.
const SILENCE: Duration = Duration::from_secs(600);
/// Leases of what was found again last 60 days.
const STARTER: &str = "SELECT count(DISTINCT si) FROM leases WHERE account_id = 1 AND expires_at > extract(epoch FROM now()) + 59 * 86400";
const INDEXES: &str = "SELECT count(DISTINCT si) FROM shares";

/// Moves the last beat of the old database's heart back, as if nobody had written for ten minutes.
fn age_beats(server: &Server) -> Result<()> {
    let (store, bucket) = (&server.world.managed.store, server.world.kubectl.namespace());
    let list =
        store.request("GET", &format!("/{bucket}?list-type=2&prefix={}", BEATS.replace('/', "%2F")), &[], b"")?;
    let text = list.text();
    let names: Vec<&str> = text.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()).collect();
    let last = names.iter().max().context("no beat")?;
    let (number, _) = last.rsplit_once('.').context("a beat without a name")?;
    // Names begin with the time they were made at.
    let made_at = (SystemTime::now() - SILENCE).duration_since(UNIX_EPOCH)?.as_millis() as u64;
    let mut nonce = [0x80; 16];
    nonce[..6].copy_from_slice(&made_at.to_be_bytes()[2..]);
    let aged = format!("{number}.{}", storage_index_text(&nonce));
    ensure!(store.request("PUT", &format!("/{bucket}/{aged}"), &[], b"")?.status() == 200, "a beat cannot be put");
    for name in names {
        ensure!(store.request("DELETE", &format!("/{bucket}/{name}"), &[], b"")?.status() == 204, "{name} stays");
    }
    Ok(())
}

/// What the programs of the server's pods said when they ended last.
fn last_words(server: &Server) -> Result<String> {
    let state = "--output=jsonpath={.items[*].status.containerStatuses[*].lastState.terminated.message}";
    server.world.kubectl.run(&["get", "pods", "--selector", PODS_OF_SERVER, state])
}

#[test]
fn lost_database_is_made_anew_from_what_the_backend_has() -> Result<()> {
    let server = Server::start("rebuilt", &json!({"expiration": {"mode": "Age"}}))?;
    let account = server.account("alice", &json!({}))?;
    let client = server.client(&account)?;
    server.story(|| {
        let (kubectl, name) = (&server.world.kubectl, server.world.kubectl.namespace());
        let file = client.upload(&bytes(1, 300_000))?;
        let slot = client.create_mutable(Format::Sdmf, &bytes(2, 5_000))?;
        let directory = client.make_directory(Format::Sdmf, &json!({}))?;
        client.upload_child(&directory, "child", &bytes(3, 100_000))?;
        let (indexes, database) = (count(&server.query(INDEXES)?)?, &server.world.managed.database);
        database.query("postgres", &format!("DROP DATABASE \"{name}\" WITH (FORCE)"))?;
        database.query("postgres", &format!("CREATE DATABASE \"{name}\" OWNER \"{name}-owner\""))?;
        // The operator migrates it at once, and makes no account before a pod has taken the backend over: its names carry
        // the numbers of the accounts that are lost.
        kubectl.wait(&["leasedatabase", "leases"], "has its schema again", PODS_TIMEOUT, |object| {
            has_condition(object, "SchemaReady")
                && server.query("SELECT 1 FROM deployment").is_ok_and(|rows| !rows.is_empty())
        })?;
        kubectl.run(&["annotate", "account", "alice", "--overwrite", "leasehold.dev/reconcile-at=now"])?;
        kubectl.wait(&["account", "alice"], "waits for a pod", PODS_TIMEOUT, |object| {
            let ready = condition(object, "Ready").and_then(|it| it["message"].as_str());
            ready.is_some_and(|why| why.contains("nobody has written to the backend for five minutes"))
        })?;
        wait_until("the pods say what they wait for", PODS_TIMEOUT, || {
            Ok(last_words(&server)?.contains("another server was at work on it").then_some(()))
        })?;
        if by_length(0, 1) == 0 {
            age_beats(&server)?;
        }
        server.wait_ready("account", "alice", TAKE_OVER_TIMEOUT)?;
        ensure!(server.read_account("alice")?.nurl == account.nurl, "the address has changed");
        let known = count(&server.query("SELECT max(account_id) FROM accounts")?)?;
        ensure!(known > 1 << 20, "the number {known} may be another account's in the backend");
        server.world.kubectl.wait_rolled_out(super::operated::SERVER, TAKE_OVER_TIMEOUT)?;
        let (is_done, said) = server.run_job("reconcile")?;
        ensure!(is_done, "{said}");
        ensure!(count(&server.query(INDEXES)?)? == indexes, "{said}");
        ensure!(count(&server.query(STARTER)?)? == indexes, "what was found again is not kept for starterLeaseDays");
        for job in ["expire", "collect"] {
            println!("{job}: {}", server.run_job(job)?.1);
        }
        ensure!(count(&server.query(INDEXES)?)? == indexes, "a job has deleted what was found again");
        ensure_same("the file", &client.download(&file)?, &bytes(1, 300_000))?;
        ensure_same("the slot", &client.download(&slot)?, &bytes(2, 5_000))?;
        ensure_same("the child", &client.download_path(&directory, "child")?, &bytes(3, 100_000))?;
        // It goes on as if nothing had been.
        client.overwrite(&slot, &bytes(4, 5_000))?;
        client.upload_child(&directory, "later", &bytes(5, 100_000))?;
        ensure_same("the slot", &client.download(&slot)?, &bytes(4, 5_000))
    })
}
