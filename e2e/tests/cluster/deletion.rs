//! Deleted accounts: the address is worth nothing and the Secret is gone; the shares age, and the name inherits nothing.

use anyhow::{Context, Result, ensure};
use leasehold_e2e::process::wait_until;
use leasehold_e2e::story::{bytes, ensure_same};
use serde_json::json;

use super::operated::Server;
use super::pods::Forwards;
use super::world::PODS_TIMEOUT;

#[test]
fn deleted_account_is_refused_and_its_name_inherits_nothing() -> Result<()> {
    let server = Server::start("deletion", &json!({}))?;
    let account = server.account("alice", &json!({}))?;
    let client = server.client(&account)?;
    server.story(|| {
        let file = client.upload(&bytes(1, 200_000))?;
        let id = server.world.kubectl.get(&["account", "alice"])?["status"]["accountID"].clone();
        let id = id.as_str().context("the account has no id")?.to_owned();
        let forwards = Forwards::open(&server)?;
        server.world.kubectl.run(&["delete", "account", "alice", "--timeout=60s"])?;
        forwards.wait_all(&account.nurl, "the account is gone", |status, _| status == 401)?;
        wait_until("the Secret is gone", PODS_TIMEOUT, || {
            let left = server.world.kubectl.run(&["get", "secret", "--output=name"])?;
            Ok((!left.contains("alice-tahoe")).then_some(()))
        })?;
        // Whoever has the same name inherits nothing: it is another account.
        let successor = server.account("alice", &json!({}))?;
        ensure!(successor.nurl.swissnum != account.nurl.swissnum, "the address of the deleted account was given again");
        let now = server.world.kubectl.get(&["account", "alice"])?["status"]["accountID"].clone();
        ensure!(now != id.as_str(), "the id of the deleted account was given again");
        // Its leases stay and age, so that what others know by its capability is still there.
        let client = server.world.client("successor", successor.servers_yaml)?;
        ensure_same("a file of the deleted account", &client.download(&file)?, &bytes(1, 200_000))
    })
}
