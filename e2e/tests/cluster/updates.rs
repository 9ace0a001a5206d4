//! Who lets a new version into the pods.

use anyhow::{Result, ensure};
use leasehold_e2e::cluster::chart;
use leasehold_e2e::cluster::kubectl::condition;
use leasehold_e2e::image::product::{self, REGISTRY};
use leasehold_e2e::story::{bytes, ensure_same};
use serde_json::json;

use super::operated::{SERVER, Server};
use super::world::PODS_TIMEOUT;

/// The server's program, after which its image is called.
pub const PROGRAM: &str = "leasehold";
const NEXT: &str = "next";

/// Makes an image of the server that has another tag, and the same content.
pub fn release(server: &Server, tag: &str) -> Result<()> {
    server.world.cluster.tag(&product::reference(PROGRAM)?, &format!("{REGISTRY}/{PROGRAM}:{tag}"))
}

/// Waits until the server's condition says so of updates, and gives the whole sentence.
fn wait_told(server: &Server, status: &str, reason: &str) -> Result<String> {
    let wanted = format!("says {status} {reason} of updates");
    let found = server.world.kubectl.wait(&["storageserver", SERVER], &wanted, PODS_TIMEOUT, |object| {
        let told = condition(object, "UpdateWaiting");
        told.is_some_and(|told| told["status"] == status && told["reason"] == reason)
    })?;
    let told = condition(&found, "UpdateWaiting").and_then(|told| told["message"].as_str());
    Ok(told.unwrap_or_default().to_owned())
}

#[test]
fn upgraded_operator_replaces_only_pods_that_follow_it() -> Result<()> {
    let following = Server::shared()?;
    let server =
        Server::start("manual", &json!({"updates": {"policy": "Manual"}, "image": {"tag": product::tag(PROGRAM)?}}))?;
    let account = server.account("alice", &json!({}))?;
    let client = server.client(&account)?;
    server.story(|| {
        let file = client.upload(&bytes(1, 100_000))?;
        let (pods, uids, others) = (server.pods()?, server.pod_uids()?, following.pods()?);
        wait_told(&server, "False", "UpToDate")?;
        release(&server, NEXT)?;
        chart::change(&server.world.cluster, &format!("serverImage.tag={NEXT}"))?;
        let told = wait_told(&server, "True", "AnotherVersion")?;
        ensure!(told.contains(&format!(":{NEXT}")) && told.contains("spec.image"), "{told}");
        following.wait_pods(others.len(), &others)?;
        ensure!(server.pod_uids()? == uids, "pods were replaced though nobody wanted it");
        ensure_same("a file", &client.download(&file)?, &bytes(1, 100_000))?;
        // A person lets it in.
        server.patch("storageserver", SERVER, &json!({"image": {"tag": NEXT}}))?;
        server.wait_pods(2, &pods)?;
        wait_told(&server, "False", "UpToDate")?;
        ensure_same("a file", &client.download(&file)?, &bytes(1, 100_000))?;
        let (uids, others) = (server.pod_uids()?, following.pods()?);
        chart::install(&server.world.cluster)?;
        following.wait_pods(others.len(), &others)?;
        ensure!(server.pod_uids()? == uids, "an operator that went back has replaced pods");
        Ok(())
    })
}
