//! The lease database is away: deletions wait and say so; and a copy of it can be had.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leasehold_e2e::cluster::kubectl::condition;
use leasehold_e2e::story::bytes;
use serde_json::json;

use super::operated::{SERVER, Server};
use super::world::PODS_TIMEOUT;

const FORCED_TIMEOUT: Duration = Duration::from_secs(120);

#[test]
fn deletion_without_a_database_waits_says_so_and_can_be_forced() -> Result<()> {
    let server = Server::start("away", &json!({"replicas": 1}))?;
    let (patient, forced) = (server.account("patient", &json!({}))?, server.account("forced", &json!({}))?);
    server.story(|| {
        let kubectl = &server.world.kubectl;
        let proxy = &server.world.managed.database_proxy;
        proxy.refuse(true);
        proxy.cut_all();
        let blocked = (|| {
            for name in [&patient.name, &forced.name] {
                kubectl.run(&["delete", "account", name, "--wait=false"])?;
                let object = kubectl.wait(&["account", name], "waits", PODS_TIMEOUT, |object| {
                    condition(object, "DeletionBlocked").is_some_and(|it| it["reason"] == "DatabaseUnavailable")
                })?;
                let said = condition(&object, "DeletionBlocked").and_then(|it| it["message"].as_str()).unwrap_or("");
                let id = object["status"]["accountID"].as_str().context("no id")?;
                let way_out = format!("leasehold.dev/force-finalize={id}");
                ensure!(said.contains(&way_out), "{said}");
                if name == &forced.name {
                    kubectl.run(&["annotate", "account", name, &way_out])?;
                    kubectl.run(&[
                        "wait",
                        "--for=delete",
                        &format!("account/{name}"),
                        &format!("--timeout={}s", FORCED_TIMEOUT.as_secs()),
                    ])?;
                }
            }
            let events = kubectl.run(&["get", "events"])?;
            ensure!(events.contains("ForcedFinalize") && events.contains("DeletionBlocked"), "{events}");
            Ok(())
        })();
        proxy.refuse(false);
        blocked?;
        kubectl.run(&["wait", "--for=delete", &format!("account/{}", patient.name), "--timeout=120s"])?;
        let (status, _) = super::pods::account(&patient.nurl)?;
        ensure!(status == 401, "the address of a deleted account gets {status}");
        Ok(())
    })
}

#[test]
fn backup_is_the_database_as_it_was() -> Result<()> {
    let server = Server::start("backup", &json!({"replicas": 1}))?;
    let account = server.account("alice", &json!({}))?;
    let client = server.client(&account)?;
    server.story(|| {
        client.upload(&bytes(1, 300_000))?;
        let (is_done, said) = server.run_job("backup")?;
        ensure!(is_done, "{said}");
        // It is read again and compared with what it should hold, by the program in a pod.
        let restore = ["exec", &format!("deployment/{SERVER}"), "--", "/leasehold", "restore", "--verify"];
        let place = ["--config", "/etc/leasehold/leasehold.toml", "--data-dir", "/var/lib/leasehold"];
        let said = server.world.kubectl.run(&[&restore[..], &place].concat())?;
        println!("{said}");
        Ok(())
    })
}
