//! The schema changes: a migration that dies goes on, and pods of the version before bear what the next one adds.

use anyhow::{Context, Result, ensure};
use leasehold_e2e::cluster::kubectl::{condition, has_condition};
use leasehold_e2e::process::wait_until;
use rustix::process::{Signal, kill_process};
use serde_json::json;

use super::clients::under_load;
use super::dying::processes_of;
use super::gbs::{Hand, asked};
use super::operated::{SERVER, Server, count};
use super::world::PODS_TIMEOUT;

const APPLIED: &str = "SELECT count(*) FROM leasehold_migrations";
/// Made by a migration that is neither the first nor harmful to wait in.
const TABLE: &str = "damaged_objects";

/// What the next version adds before anything uses it (`api.md` 21: expand, migrate, contract).
const EXPAND: &str = "BEGIN;
ALTER TABLE shares ADD COLUMN of_next_version text;
ALTER TABLE leases ADD COLUMN of_next_version bigint NOT NULL DEFAULT 7;
ALTER TABLE accounts ADD COLUMN of_next_version text;
CREATE TABLE of_next_version (si uuid PRIMARY KEY);
CREATE INDEX of_next_version_leases ON leases (of_next_version);
INSERT INTO leasehold_migrations (version, name, applied_on, checksum) VALUES (9999, 'next', '2026-01-01T00:00:00Z', '0');
COMMIT";

/// The pod that migrates now, once its program waits in the database.
fn migrating(server: &Server, but: &[String]) -> Result<String> {
    let (kubectl, database) = (&server.world.kubectl, &server.world.managed.database);
    wait_until("a pod migrates", PODS_TIMEOUT, || {
        let pods = kubectl.get(&["pods", "--selector", "app.kubernetes.io/component=migrate"])?;
        let names = pods["items"].as_array().into_iter().flatten().filter_map(|pod| pod["metadata"]["name"].as_str());
        for name in names.filter(|name| !but.iter().any(|it| it == name)) {
            let waiting = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND wait_event_type = 'Lock'",
                kubectl.namespace()
            );
            // What those that were killed have asked for still waits beside it.
            if !processes_of("/leasehold\0migrate", name)?.is_empty()
                && count(&database.query("postgres", &waiting)?)? > but.len() as u64
            {
                return Ok(Some(name.to_owned()));
            }
        }
        Ok(None)
    })
}

#[test]
fn killed_migration_is_gone_on_with() -> Result<()> {
    let mut held = None;
    let server = Server::declare("migrating", &json!({"replicas": 1}), |world| {
        let name = world.kubectl.namespace();
        let mut session = world.managed.database.session(name)?;
        session.query(&format!("CREATE SCHEMA leasehold AUTHORIZATION \"{name}-owner\""))?;
        // Who makes a table of this name waits for the end of this transaction.
        session.query(&format!("BEGIN; CREATE TABLE leasehold.{TABLE} ()"))?;
        held = Some(session);
        Ok(())
    })?;
    server.story(|| {
        let kubectl = &server.world.kubectl;
        let first = migrating(&server, &[])?;
        let done = count(&server.query(APPLIED)?)?;
        ensure!(done > 0, "it was to wait in the middle");
        let object = kubectl.get(&["leasedatabase", "leases"])?;
        ensure!(condition(&object, "SchemaReady").is_some_and(|it| it["reason"] == "MigrationPending"), "{object:#}");
        let process = processes_of("/leasehold\0migrate", &first)?.pop().context("it has ended")?;
        kill_process(process, Signal::KILL)?;
        let second = migrating(&server, std::slice::from_ref(&first))?;
        kubectl.run(&["delete", "pod", &second, "--grace-period=0", "--force"])?;
        migrating(&server, &[first, second])?;
        ensure!(count(&server.query(APPLIED)?)? == done, "nobody could go on");
        held.take().context("no transaction")?.query("ROLLBACK")?;
        server.wait_ready("storageserver", SERVER, PODS_TIMEOUT)?;
        let applied = count(&server.query(APPLIED)?)?;
        ensure!(applied > done && server.query(&format!("SELECT 1 FROM {TABLE}"))?.is_empty());
        println!("{done} migrations of {applied} were done when it was killed");
        let account = server.account("alice", &json!({}))?;
        asked(async { ensure_stored(&mut Hand::new(&account.nurl)?).await })
    })
}

async fn ensure_stored(hand: &mut Hand) -> Result<()> {
    ensure!(hand.store(0, 1_000).await? && hand.has(0, 1_000).await?, "a share cannot be stored");
    Ok(())
}

/// A later version has migrated. Pods and jobs of this one go on, those that begin as well; its operator keeps its hands off.
#[test]
fn pods_and_jobs_go_on_with_the_schema_of_the_next_version() -> Result<()> {
    let server = Server::start("schema", &json!({"expiration": {"mode": "Age"}}))?;
    let account = server.account("alice", &json!({}))?;
    let client = server.client(&account)?;
    server.story(|| {
        let kubectl = &server.world.kubectl;
        let rounds = under_load(&client, 1_000, || {
            let old = server.pods()?;
            server.query(EXPAND)?;
            kubectl.run(&["annotate", "leasedatabase", "leases", "leasehold.dev/reconcile-at=now"])?;
            let found = kubectl.wait(&["leasedatabase", "leases"], "is too new", PODS_TIMEOUT, |object| {
                condition(object, "SchemaReady").is_some_and(|it| it["reason"] == "SchemaTooNew")
            })?;
            ensure!(!has_condition(&found, "Ready"));
            ensure!(server.pods()? == old, "pods that run were disturbed");
            let one = old.first().context("no pod")?;
            kubectl.run(&["delete", "pod", one, "--wait=false"])?;
            server.wait_pods(2, std::slice::from_ref(one))?;
            for job in ["expire", "collect", "reconcile", "audit", "backup"] {
                let (is_done, said) = server.run_job(job)?;
                ensure!(is_done, "{job}: {said}");
            }
            Ok(())
        })?;
        println!("{rounds} operations with the schema of the next version");
        ensure!(count(&server.query("SELECT count(*) FROM leases WHERE of_next_version = 7")?)? > 0);
        server.query("DELETE FROM leasehold_migrations WHERE version = 9999")?;
        server.wait_ready("leasedatabase", "leases", PODS_TIMEOUT).map(drop)
    })
}
