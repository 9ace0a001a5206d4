//! Deleted accounts: the address is worth nothing, the Secret is gone, and the shares can be had again by adoption.

use anyhow::{Context, Result, ensure};
use leasehold_e2e::process::wait_until;
use leasehold_e2e::story::{bytes, ensure_same};
use serde_json::json;

use super::operated::Server;
use super::pods::Forwards;
use super::world::PODS_TIMEOUT;

#[test]
fn deleted_account_is_refused_and_can_be_adopted() -> Result<()> {
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
        // Whoever has the same name inherits nothing; whoever names the id has everything.
        let stranger = server.account("alice", &json!({}))?;
        ensure!(stranger.nurl.swissnum != account.nurl.swissnum);
        let heir = server.account("heir", &json!({"adopt": {"accountID": id}}))?;
        let adopted = server.world.kubectl.get(&["account", "heir"])?;
        ensure!(adopted["status"]["accountID"] == id, "the heir is another account: {}", adopted["status"]);
        let client = server.client(&heir)?;
        ensure_same("the file of the deleted account", &client.download(&file)?, &bytes(1, 200_000))
    })
}
