//! New secret addresses: old and new are valid together, until the old one is not; or at once, after a theft.

use anyhow::{Result, ensure};
use leasehold_e2e::story::{bytes, ensure_same};
use leasehold_e2e::tahoe::Format;
use serde_json::json;

use super::operated::Server;
use super::pods::{Forwards, account};

#[test]
fn rotated_account_keeps_its_files_and_its_running_client() -> Result<()> {
    let server = Server::start("rotation", &json!({}))?;
    let first = server.account("alice", &json!({}))?;
    let client = server.client(&first)?;
    server.story(|| {
        let file = client.upload(&bytes(1, 100_000))?;
        let slot = client.create_mutable(Format::Sdmf, &bytes(2, 5_000))?;
        server.patch("account", "alice", &json!({"credentials": {"generation": 2}}))?;
        server.wait_ready("account", "alice", super::world::PODS_TIMEOUT)?;
        let second = server.read_account("alice")?;
        ensure!(second.nurl.swissnum != first.nurl.swissnum, "the address is still the old one");
        let forwards = Forwards::open(&server)?;
        for nurl in [&first.nurl, &second.nurl] {
            forwards.wait_all(nurl, "the address is valid", |status, _| status == 200)?;
        }
        // The client that runs goes on as if nothing had happened.
        client.overwrite(&slot, &bytes(3, 5_000))?;
        let newcomer = server.world.client("newcomer", second.servers_yaml)?;
        ensure_same("the file by the new address", &newcomer.download(&file)?, &bytes(1, 100_000))?;
        newcomer.overwrite(&slot, &bytes(4, 5_000))?;
        ensure_same("the slot by the old address", &client.download(&slot)?, &bytes(4, 5_000))?;
        // Somebody has stolen it: no overlap.
        let stolen = json!({"credentials": {"generation": 3, "overlapHours": 0}});
        server.patch("account", "alice", &stolen)?;
        for nurl in [&first.nurl, &second.nurl] {
            forwards.wait_all(nurl, "the address is revoked", |status, _| status == 401)?;
        }
        server.wait_ready("account", "alice", super::world::PODS_TIMEOUT)?;
        let third = server.read_account("alice")?;
        let (status, _) = account(&third.nurl)?;
        ensure!(status == 200, "the third address gets {status}");
        Ok(())
    })
}
