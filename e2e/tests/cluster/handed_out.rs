//! Customers' Secrets: what belongs to somebody else is not touched, and what was lost or changed comes back.

use std::time::Instant;

use anyhow::{Result, ensure};
use leasehold_e2e::cluster::chart;
use leasehold_e2e::cluster::kubectl::condition;
use leasehold_e2e::cluster::stores::resource;
use leasehold_e2e::story::{bytes, ensure_same};
use serde_json::{Value, json};

use super::operated::{SERVER, Server};
use super::pods::account;
use super::world::PODS_TIMEOUT;

#[test]
fn foreign_secret_is_left_alone_and_the_account_goes_on_when_it_has_gone() -> Result<()> {
    let server = Server::shared()?;
    server.story(|| {
        let kubectl = &server.world.kubectl;
        kubectl.run(&["create", "secret", "generic", "taken-tahoe", "--from-literal=swissnum=of-somebody-else"])?;
        let foreign = || kubectl.get(&["secret", "taken-tahoe"]);
        let before = foreign()?;
        kubectl.apply_all(&[resource("Account", "taken", json!({"serverRef": {"name": SERVER}}))])?;
        kubectl.wait(&["account", "taken"], "says whose Secret that is", PODS_TIMEOUT, |object| {
            condition(object, "Ready").is_some_and(|found| {
                found["reason"] == "SecretConflict"
                    && found["message"].as_str().is_some_and(|text| text.contains("taken-tahoe"))
            })
        })?;
        ensure!(foreign()? == before, "somebody else's Secret was touched");
        kubectl.run(&["delete", "secret", "taken-tahoe"])?;
        let begin = Instant::now();
        server.wait_ready("account", "taken", PODS_TIMEOUT)?;
        println!("ready {:.1} s after the other Secret had gone", begin.elapsed().as_secs_f64());
        let (status, _) = account(&server.read_account("taken")?.nurl)?;
        ensure!(status == 200, "its address gets {status}");
        Ok(())
    })
}

/// Only an operator that may watch Secrets notices at once, so the chart is told to let it.
#[test]
fn secret_that_was_changed_or_lost_comes_back_and_running_clients_go_on() -> Result<()> {
    let server = Server::shared()?;
    let first = server.account("restored", &json!({}))?;
    let client = server.client(&first)?;
    server.story(|| {
        let file = client.upload(&bytes(1, 100_000))?;
        chart::change(&server.world.cluster, "rbac.watchSecrets=true")?;
        // When this is ready, one of the new operators leads.
        server.account("restored-first", &json!({}))?;
        let outcome = secret_comes_back(server);
        chart::install(&server.world.cluster)?;
        outcome?;
        // Its owner has a new address, and who did not notice goes on with the old one.
        let second = server.read_account("restored")?;
        ensure!(second.nurl.swissnum != first.nurl.swissnum, "a swissnum that the database keeps no copy of came back");
        for nurl in [&first.nurl, &second.nurl] {
            let (status, _) = account(nurl)?;
            ensure!(status == 200, "an address gets {status}");
        }
        ensure_same("the file by the old address", &client.download(&file)?, &bytes(1, 100_000))?;
        let newcomer = server.world.client("restored-newcomer", second.servers_yaml)?;
        ensure_same("the file by the new address", &newcomer.download(&file)?, &bytes(1, 100_000))
    })
}

fn secret_comes_back(server: &Server) -> Result<()> {
    let kubectl = &server.world.kubectl;
    let before = kubectl.get(&["secret", "restored-tahoe"])?["data"].clone();
    let wait = |what: &str, accept: &dyn Fn(&Value) -> bool| -> Result<()> {
        let begin = Instant::now();
        kubectl.wait(&["secret", "--field-selector=metadata.name=restored-tahoe"], what, PODS_TIMEOUT, |found| {
            found["items"].get(0).is_some_and(|secret| accept(&secret["data"]))
        })?;
        println!("the Secret {what} after {:.1} s", begin.elapsed().as_secs_f64());
        Ok(())
    };
    let nonsense = json!({"data": {"servers.yaml": "bm9uc2Vuc2U=", "nurl": null}}).to_string();
    kubectl.run(&["patch", "secret", "restored-tahoe", "--type=merge", "--patch", &nonsense])?;
    wait("is as it was", &|data| *data == before)?;
    kubectl.run(&["delete", "secret", "restored-tahoe"])?;
    wait("is there again", &|data| data["swissnum"].is_string())?;
    let told = ["event", "--field-selector=reason=SecretRestored"];
    kubectl.wait(&told, "tells of it", PODS_TIMEOUT, |found| {
        found["items"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|event| event["regarding"]["name"] == "restored" || event["involvedObject"]["name"] == "restored")
    })?;
    server.wait_ready("account", "restored", PODS_TIMEOUT).map(drop)
}
