//! Deleted accounts: the address is worth nothing and the Secret is gone; the shares age, and the name inherits nothing.

use anyhow::{Context, Result, ensure};
use leasehold_e2e::process::wait_until;
use leasehold_e2e::story::{bytes, ensure_same};
use serde_json::json;

use super::operated::Server;
use super::pods::{Pods, account, wait_used};
use super::world::PODS_TIMEOUT;

#[test]
fn deleted_account_is_refused_and_its_name_inherits_nothing() -> Result<()> {
    let server = Server::shared()?;
    let deleted = server.account("deletion", &json!({}))?;
    let client = server.client(&deleted)?;
    server.story(|| {
        let file = client.upload(&bytes(1, 200_000))?;
        let id = server.world.kubectl.get(&["account", "deletion"])?["status"]["accountID"].clone();
        let id = id.as_str().context("the account has no id")?.to_owned();
        let pods = Pods::of(server)?;
        server.world.kubectl.run(&["delete", "account", "deletion", "--timeout=60s"])?;
        pods.wait_all(&deleted.nurl, "the account is gone", |status, _| status == 401)?;
        wait_until("the Secret is gone", PODS_TIMEOUT, || {
            let left = server.world.kubectl.run(&["get", "secret", "--output=name"])?;
            Ok((!left.contains("deletion-tahoe")).then_some(()))
        })?;
        // Whoever has the same name inherits nothing: it is another account.
        let successor = server.account("deletion", &json!({}))?;
        ensure!(successor.nurl.swissnum != deleted.nurl.swissnum, "the address of the deleted account was given again");
        let now = server.world.kubectl.get(&["account", "deletion"])?["status"]["accountID"].clone();
        ensure!(now != id.as_str(), "the id of the deleted account was given again");
        // Its leases stay and age, so that what others know by its capability is still there.
        let client = server.world.client("successor", successor.servers_yaml)?;
        ensure_same("a file of the deleted account", &client.download(&file)?, &bytes(1, 200_000))?;
        ensure!(account(&successor.nurl)?.1["used_bytes"] == 0, "the successor pays for what it never stored");
        // Until somebody says that it is to be his: then it is, with its number and what it uses.
        let heir = server.account("heir", &json!({"adopt": {"accountID": id}}))?;
        let now = server.world.kubectl.get(&["account", "heir"])?["status"]["accountID"].clone();
        ensure!(now == id.as_str(), "the heir has another number");
        wait_used(&heir.nurl, |used| used > 200_000)?;
        ensure_same("a file of the heir", &server.client(&heir)?.download(&file)?, &bytes(1, 200_000))
    })
}
