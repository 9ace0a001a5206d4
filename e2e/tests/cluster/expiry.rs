//! Leases that end: exactly those, not many at once without a person, and those of deleted accounts when they asked for it.

use anyhow::{Context, Result, ensure};
use leasehold_e2e::cluster::kubectl::condition;
use serde_json::json;

use super::gbs::{Hand, asked};
use super::operated::{SERVER, Server, count};
use super::world::PODS_TIMEOUT;

const LENGTH: usize = 1_000;
/// More than a handful: brakes do not hold for less than a hundred.
const MANY: u64 = 130;

/// How many leases there are.
fn leases(server: &Server) -> Result<u64> {
    count(&server.query("SELECT count(*) FROM leases")?)
}

/// Runs the job, which must come to its end, and gives what it said.
fn expire(server: &Server) -> Result<String> {
    let (is_done, said) = server.run_job("expire")?;
    ensure!(is_done, "{said}");
    Ok(said)
}

#[test]
fn exactly_what_has_ended_goes_and_never_much_at_once_without_a_person() -> Result<()> {
    let expiration = json!({"expiration": {"mode": "Age"}, "replicas": 1});
    let server = Server::start("expiry", &expiration)?;
    let (alice, bob) = (server.account("alice", &json!({}))?, server.account("bob", &json!({}))?);
    server.story(|| {
        asked(async {
            let (mut of_alice, mut of_bob) = (Hand::new(&alice.nurl)?, Hand::new(&bob.nurl)?);
            for number in 0..MANY {
                ensure!(of_alice.store(number, LENGTH).await?);
            }
            // Two shares have two leaseholders each.
            for number in 0..2 {
                ensure!(of_bob.renew(number).await? == 204);
            }
            Ok(())
        })?;
        ensure!(leases(&server)? == MANY + 2);
        // The first run of a policy only tells.
        expire(&server)?;
        let age = "UPDATE leases SET renewed_at = renewed_at - 3456000, expires_at = expires_at - 3456000";
        let alice_only = "account_id = (SELECT min(account_id) FROM accounts WHERE account_id >= 16)";
        let five = format!("SELECT si FROM leases WHERE {alice_only} ORDER BY si DESC LIMIT 5");
        server.query(&format!("{age} WHERE {alice_only} AND si IN ({five})"))?;
        expire(&server)?;
        ensure!(leases(&server)? == MANY + 2 - 5, "five leases had ended");
        // All the others at once: a clock that is wrong, or a client that could not renew.
        server.query(&format!("{age} WHERE {alice_only}"))?;
        let (is_done, said) = server.run_job("expire")?;
        ensure!(!is_done && said.contains("need a person's consent"), "{said}");
        ensure!(leases(&server)? == MANY + 2 - 5, "a braked run has removed something");
        server.world.kubectl.run(&[
            "annotate",
            "storageserver",
            SERVER,
            "--overwrite",
            "leasehold.dev/reconcile-at=now",
        ])?;
        let halted =
            server.world.kubectl.wait(&["storageserver", SERVER], "tells of the brake", PODS_TIMEOUT, |object| {
                condition(object, "GarbageCollectionHealthy").is_some_and(|it| it["reason"] == "Braked")
            })?;
        let run = halted["status"]["maintenance"]["expire"]["runID"].as_str().context("no run")?.to_owned();
        let allow = ["exec", &format!("deployment/{SERVER}"), "--", "/leasehold", "allow", &run];
        server.world.kubectl.run(
            &[&allow[..], &["--config", "/etc/leasehold/leasehold.toml", "--data-dir", "/var/lib/leasehold"]].concat(),
        )?;
        expire(&server)?;
        ensure!(leases(&server)? == 2, "only bob's two leases were to stay");
        asked(async {
            let mut of_bob = Hand::new(&bob.nurl)?;
            ensure!(of_bob.has(0, LENGTH).await? && of_bob.has(1, LENGTH).await?, "a share that bob leases is gone");
            Ok(())
        })?;
        // He goes, and wants nothing to be kept.
        server.patch("account", "bob", &json!({"deletion": {"policy": "Release", "graceDays": 0}}))?;
        server.world.kubectl.run(&["delete", "account", "bob", "--timeout=60s"])?;
        expire(&server)?;
        ensure!(leases(&server)? == 0, "leases of a released account have stayed");
        Ok(())
    })
}
