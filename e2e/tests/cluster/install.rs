//! From nothing to a stored file: the chart, three services' objects, an account, and the client as it is released.

use anyhow::{Context, Result, ensure};
use leasehold_e2e::story::{bytes, ensure_same};
use leasehold_e2e::tahoe::{Check, Format};
use serde_json::json;

use super::operated::Server;

#[test]
fn secret_of_an_account_is_all_that_a_client_needs() -> Result<()> {
    let server = Server::start("install", &json!({}))?;
    let account = server.account("alice", &json!({"quota": {"hard": "100Mi"}}))?;
    let other = server.account("bob", &json!({}))?;
    // One server to its clients: the same key, however many accounts.
    ensure!(account.nurl.spki_hash == other.nurl.spki_hash && account.nurl.swissnum != other.nurl.swissnum);
    let client = server.client(&account)?;
    server.story(|| {
        let data = bytes(1, 3_000_000);
        let file = server.world.directory.path().join("file");
        std::fs::write(&file, &data)?;
        let path = file.display().to_string();
        let capability = client.cli(&["put", &path])?.lines().last().context("no capability")?.to_owned();
        let back = server.world.directory.path().join("back").display().to_string();
        client.cli(&["get", &capability, &back])?;
        ensure_same("a file", &std::fs::read(&back)?, &data)?;
        let directory = client.make_directory(Format::Sdmf, &json!({}))?;
        client.upload_child(&directory, "child", &bytes(2, 100_000))?;
        ensure_same("a child", &client.download_path(&directory, "child")?, &bytes(2, 100_000))?;
        ensure!(client.list(&directory)?.contains_key("child"));
        let check = client.check(&capability, Check { verify: true, add_lease: true, ..Check::default() })?;
        ensure!(check["results"]["healthy"] == true, "the file is not healthy: {check}");
        Ok(())
    })
}
