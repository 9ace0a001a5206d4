//! New secret addresses: old and new are valid together, until the old one is not; or at once, after a theft.

use anyhow::{Result, ensure};
use leasehold_e2e::story::{bytes, ensure_same};
use leasehold_e2e::tahoe::Format;
use serde_json::json;

use super::operated::Server;
use super::pods::{Pods, account};

#[test]
fn rotated_account_keeps_its_files_and_its_running_client() -> Result<()> {
    let server = Server::shared()?;
    let first = server.account("rotation", &json!({}))?;
    let client = server.client(&first)?;
    server.story(|| {
        let file = client.upload(&bytes(1, 100_000))?;
        let slot = client.create_mutable(Format::Sdmf, &bytes(2, 5_000))?;
        server.patch("account", "rotation", &json!({"credentials": {"generation": 2}}))?;
        server.wait_ready("account", "rotation", super::world::PODS_TIMEOUT)?;
        let second = server.read_account("rotation")?;
        ensure!(second.nurl.swissnum != first.nurl.swissnum, "the address is still the old one");
        let pods = Pods::of(server)?;
        for nurl in [&first.nurl, &second.nurl] {
            pods.wait_all(nurl, "the address is valid", |status, _| status == 200)?;
        }
        // The client that runs goes on as if nothing had happened.
        client.overwrite(&slot, &bytes(3, 5_000))?;
        let newcomer = server.world.client("newcomer", second.servers_yaml)?;
        ensure_same("the file by the new address", &newcomer.download(&file)?, &bytes(1, 100_000))?;
        newcomer.overwrite(&slot, &bytes(4, 5_000))?;
        ensure_same("the slot by the old address", &client.download(&slot)?, &bytes(4, 5_000))?;
        let status = server.world.kubectl.wait(&["account", "rotation"], "says when it was used", super::world::PODS_TIMEOUT, |object| {
            object["status"]["credentials"][1]["retiresAt"].is_string()
        })?["status"]
            .clone();
        ensure!(status["credentials"][0]["generation"] == 2 && status["credentials"][1]["state"] == "Retiring", "{status:#}");
        // The two weeks are over.
        server.query("UPDATE account_credentials SET not_after = 1 WHERE not_after IS NOT NULL; UPDATE deployment SET accounts_version = accounts_version + 1")?;
        pods.wait_all(&first.nurl, "the old address has lapsed", |status, _| status == 401)?;
        pods.wait_all(&second.nurl, "the new one is valid", |status, _| status == 200)?;
        // Somebody has stolen it: no overlap.
        let stolen = json!({"credentials": {"generation": 3, "overlapHours": 0}});
        server.patch("account", "rotation", &stolen)?;
        for nurl in [&first.nurl, &second.nurl] {
            pods.wait_all(nurl, "the address is revoked", |status, _| status == 401)?;
        }
        server.wait_ready("account", "rotation", super::world::PODS_TIMEOUT)?;
        let third = server.read_account("rotation")?;
        let (status, _) = account(&third.nurl)?;
        ensure!(status == 200, "the third address gets {status}");
        Ok(())
    })
}
