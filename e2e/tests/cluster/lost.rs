//! The lease database is away, or lost: deletions wait and say so, and shares are found again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leasehold_e2e::cluster::kubectl::{condition, has_condition};
use leasehold_e2e::process::wait_until;
use leasehold_e2e::story::bytes;
use serde_json::json;

use super::operated::{SERVER, Server, count};
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
fn lost_database_is_migrated_anew_and_knows_its_accounts_again() -> Result<()> {
    let server = Server::start("lost", &json!({"replicas": 1}))?;
    let account = server.account("alice", &json!({}))?;
    server.story(|| {
        let (kubectl, name) = (&server.world.kubectl, server.world.kubectl.namespace());
        let database = &server.world.managed.database;
        database.query("postgres", &format!("DROP DATABASE \"{name}\" WITH (FORCE)"))?;
        database.query("postgres", &format!("CREATE DATABASE \"{name}\" OWNER \"{name}-owner\""))?;
        // The operator finds an empty database, migrates it, and puts accounts and their addresses back.
        kubectl.wait(&["leasedatabase", "leases"], "has its schema again", PODS_TIMEOUT, |object| {
            has_condition(object, "SchemaReady")
                && server.query("SELECT 1 FROM deployment").is_ok_and(|rows| !rows.is_empty())
        })?;
        kubectl.run(&["annotate", "account", "alice", "--overwrite", "leasehold.dev/reconcile-at=now"])?;
        wait_until("the account is there again", PODS_TIMEOUT, || {
            let known = count(&server.query(
                "SELECT count(*) FROM account_credentials JOIN accounts USING (account_id) WHERE account_id >= 16",
            )?)?;
            Ok((known == 1).then_some(()))
        })?;
        ensure!(server.read_account("alice")?.nurl == account.nurl, "the address has changed");
        Ok(())
    })
}

/// A later version was here, and somebody went back too far.
#[test]
fn newer_schema_is_left_alone_and_pods_go_on() -> Result<()> {
    let server = Server::start("schema", &json!({"replicas": 1}))?;
    let account = server.account("alice", &json!({}))?;
    server.story(|| {
        let (kubectl, pods) = (&server.world.kubectl, server.pods()?);
        server.query("INSERT INTO leasehold_migrations (version, name, applied_on, checksum) VALUES (99, 'later', '2026-01-01T00:00:00Z', '0')")?;
        kubectl.run(&["annotate", "leasedatabase", "leases", "leasehold.dev/reconcile-at=now"])?;
        let found = kubectl.wait(&["leasedatabase", "leases"], "is too new", PODS_TIMEOUT, |object| {
            condition(object, "SchemaReady").is_some_and(|it| it["reason"] == "SchemaTooNew")
        })?;
        ensure!(!has_condition(&found, "Ready"));
        ensure!(super::pods::account(&account.nurl)?.0 == 200 && server.pods()? == pods, "pods that run were disturbed");
        server.query("DELETE FROM leasehold_migrations WHERE version = 99")?;
        server.wait_ready("leasedatabase", "leases", PODS_TIMEOUT).map(drop)
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
