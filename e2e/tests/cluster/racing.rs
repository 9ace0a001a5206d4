//! Clients renew what is about to end while the jobs take away what has ended: a renewal that was acknowledged is kept.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use leasehold_e2e::cluster::kubectl::has_condition;
use leasehold_e2e::gbs::Nurl;
use leasehold_e2e::process::wait_until;
use leasehold_e2e::story::by_length;
use serde_json::json;

use super::dying::processes_of;
use super::gbs::{Hand, asked};
use super::operated::{SERVER, Server, count};
use super::world::PODS_TIMEOUT;

const LENGTH: usize = 1_000;
/// Brakes do not hold for less than a hundred.
const SHARES: u64 = 90;
/// Those after it are renewed by nobody, and must go.
const RENEWED: u64 = 80;
/// Clients that renew at once, each what is its own.
const CLIENTS: u64 = 3;
/// How many milliseconds a client rests before each renewal, in one round after the other: a job's program runs for a moment.
const REST_MILLIS: [u64; 4] = [0, 10, 30, 60];
/// Everything becomes 40 days older, as if nobody had come since; so what went in an earlier round holds no brake.
const AGE: &str = "UPDATE shares SET created_at = created_at - 3456000;
UPDATE garbage SET created_at = created_at - 3456000, not_before = not_before - 3456000;
UPDATE leases SET renewed_at = renewed_at - 3456000, expires_at = expires_at - 3456000";

/// Begins a job and gives its name once its program runs.
fn begin(server: &Server, kind: &str, round: usize) -> Result<String> {
    let kubectl = &server.world.kubectl;
    let job = format!("racing-{kind}-{round}");
    kubectl.run(&["create", "job", &job, &format!("--from=cronjob/{SERVER}-{kind}")])?;
    let selector = format!("batch.kubernetes.io/job-name={job}");
    let name = wait_until("the job has a pod", PODS_TIMEOUT, || {
        let pods = kubectl.get(&["pods", "--selector", &selector])?;
        Ok(pods["items"][0]["metadata"]["name"].as_str().map(str::to_owned))
    })?;
    wait_until("its program runs", PODS_TIMEOUT, || {
        // It may have been too fast to be seen.
        let pod = kubectl.get(&["pod", &name])?;
        let has_ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        Ok((has_ended || !processes_of(&format!("/leasehold\0{kind}"), &name)?.is_empty()).then_some(()))
    })?;
    Ok(job)
}

fn end(server: &Server, job: &str) -> Result<()> {
    let ended = server.world.kubectl.wait(&["job", job], "has ended", PODS_TIMEOUT, |job| {
        has_condition(job, "Complete") || has_condition(job, "Failed")
    })?;
    ensure!(has_condition(&ended, "Complete"), "{}", server.world.kubectl.run(&["logs", &format!("job/{job}")])?);
    Ok(())
}

/// Renews every second number from `first`, by all clients at once; gives those whose renewal was acknowledged.
fn renew(nurl: &Nurl, first: u64, rest: Duration) -> Result<Vec<u64>> {
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    asked(async {
                        let (mut hand, mut kept) = (Hand::new(nurl)?, Vec::new());
                        loop {
                            let number = first + 2 * next.fetch_add(1, Ordering::SeqCst);
                            if number >= RENEWED {
                                return Ok(kept);
                            }
                            tokio::time::sleep(rest).await;
                            match hand.renew(number).await? {
                                204 => kept.push(number),
                                status => ensure!(status == 404, "a renewal gets {status}"),
                            }
                        }
                    })
                })
            })
            .collect();
        let mut kept = Vec::new();
        for client in clients {
            kept.extend(client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
        }
        Ok(kept)
    })
}

#[test]
fn renewal_that_was_acknowledged_outruns_expiry_and_collection() -> Result<()> {
    let server = Server::start("racing", &json!({"expiration": {"mode": "Age"}, "replicas": 2}))?;
    let account = server.account("alice", &json!({}))?;
    server.story(|| {
        // The first run of a policy only tells.
        ensure!(server.run_job("expire")?.0);
        let (mut acknowledged, mut gone) = (0, 0);
        for round in 0..by_length(4, 20) {
            asked(async {
                let mut hand = Hand::new(&account.nurl)?;
                for number in 0..SHARES {
                    ensure!(hand.store(number, LENGTH).await?, "there is no room");
                    ensure!(hand.renew(number).await? == 204);
                }
                Ok(())
            })?;
            server.query(AGE)?;
            let rest = Duration::from_millis(REST_MILLIS[round % REST_MILLIS.len()]);
            // One half while leases are looked at, the other while shares without a lease are taken away.
            let expire = begin(&server, "expire", round)?;
            let mut kept = renew(&account.nurl, 0, rest)?;
            end(&server, &expire)?;
            let collect = begin(&server, "collect", round)?;
            kept.extend(renew(&account.nurl, 1, rest)?);
            end(&server, &collect)?;
            ensure!(server.run_job("collect")?.0);
            asked(async {
                let mut hand = Hand::new(&account.nurl)?;
                for number in &kept {
                    ensure!(
                        hand.has(*number, LENGTH).await?,
                        "the renewal of share {number} was acknowledged, and it is gone"
                    );
                }
                for number in RENEWED..SHARES {
                    ensure!(!hand.has(number, LENGTH).await?, "share {number} is there though nobody renewed it");
                }
                Ok(())
            })?;
            let leases = count(&server.query("SELECT count(*) FROM leases")?)?;
            ensure!(
                leases == kept.len() as u64,
                "{} renewals were acknowledged, {leases} leases are there",
                kept.len()
            );
            acknowledged += kept.len() as u64;
            gone += RENEWED - kept.len() as u64;
        }
        println!("{acknowledged} renewals came first, {gone} came too late");
        Ok(())
    })
}
