//! Quota and access are what the Account says, on every pod, soon after it says so.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use leasehold_e2e::process::wait_until;
use leasehold_e2e::story::{MIB, bytes, ensure_same};
use leasehold_e2e::tahoe::Client;
use serde_json::{Value, json};

use super::operated::{Account, Server};
use super::pods::Forwards;

const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Changes the account and says how long it took until all pods knew.
fn change(
    server: &Server,
    forwards: &Forwards,
    account: &Account,
    spec: &Value,
    accept: impl Fn(u16, &Value) -> bool,
) -> Result<()> {
    let begin = Instant::now();
    server.patch("account", &account.name, spec)?;
    forwards.wait_all(&account.nurl, &spec.to_string(), accept)?;
    println!("{spec}: effective on all pods after {:.1} s", begin.elapsed().as_secs_f64());
    Ok(())
}

/// The client asks what there is room for every second, so it learns of a change a little later than the pods.
fn ensure_taken(client: &Client, seed: u64, length: usize) -> Result<()> {
    wait_until("the client stores again", CLIENT_TIMEOUT, || client.upload(&bytes(seed, length)).map(Some)).map(drop)
}

fn ensure_refused(client: &Client, seed: u64, length: usize) -> Result<()> {
    ensure!(client.upload(&bytes(seed, length)).is_err(), "{length} bytes were taken");
    Ok(())
}

#[test]
fn quota_and_access_hold_on_all_pods() -> Result<()> {
    let server = Server::start("limits", &json!({}))?;
    let account = server.account("alice", &json!({"quota": {"hard": "4Mi"}}))?;
    let client = server.client(&account)?;
    server.story(|| {
        let forwards = Forwards::open(&server)?;
        let kept = client.upload(&bytes(1, 2 * MIB))?;
        ensure_refused(&client, 2, 3 * MIB)?;
        change(&server, &forwards, &account, &json!({"quota": {"hard": "100Mi"}}), |_, body| {
            body["quota_bytes"] == 100 << 20
        })?;
        ensure_taken(&client, 2, 3 * MIB)?;
        // Less than is used: nothing is lost, nothing is taken.
        change(&server, &forwards, &account, &json!({"quota": {"hard": "1Mi"}}), |_, body| {
            body["quota_bytes"] == 1 << 20
        })?;
        ensure_refused(&client, 3, MIB / 2)?;
        ensure_same("a file of a full account", &client.download(&kept)?, &bytes(1, 2 * MIB))?;
        let roomy = json!({"quota": {"hard": "100Mi"}, "access": "ReadOnly"});
        change(&server, &forwards, &account, &roomy, |_, body| body["state"] != "active")?;
        ensure_refused(&client, 4, MIB)?;
        ensure_same("a file of one who may read", &client.download(&kept)?, &bytes(1, 2 * MIB))?;
        change(&server, &forwards, &account, &json!({"access": "ReadWrite"}), |_, body| body["state"] == "active")?;
        ensure_taken(&client, 5, MIB)
    })
}
