//! What dies while clients work: pods by eviction and by SIGKILL, the database.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use leasehold_e2e::process::wait_until;
use leasehold_e2e::story::{by_length, bytes, ensure_same};
use leasehold_e2e::tahoe::Format;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::clients::under_load;
use super::gbs::{Hand, asked};
use super::operated::{SERVER, Server};
use super::world::PODS_TIMEOUT;

const LENGTH: usize = 20_000;
const RETRY_TIMEOUT: Duration = Duration::from_secs(90);

/// Asks for a pod's eviction, as a drain does; whether it was granted.
fn evict(server: &Server, pod: &str) -> Result<bool> {
    let kubectl = &server.world.kubectl;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
    let file = server.world.directory.path().join("eviction.json");
    std::fs::write(&file, eviction.to_string())?;
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", kubectl.namespace());
    match kubectl.run(&["create", "--raw", &path, "--filename", &file.display().to_string()]) {
        Ok(_) => Ok(true),
        Err(error) if format!("{error:#}").contains("disruption budget") => Ok(false),
        Err(error) => Err(error),
    }
}

/// With one node, a drained pod comes back on the same one; what counts is the order in which they may go.
#[test]
fn evicted_pods_go_one_by_one_and_fail_no_operation() -> Result<()> {
    let server = Server::start("evicted", &json!({}))?;
    let account = server.account("alice", &json!({}))?;
    let client = server.client(&account)?;
    server.story(|| {
        let old = server.pods()?;
        let rounds = under_load(&client, 1_000, || {
            let begin = Instant::now();
            ensure!(evict(&server, &old[0])?, "the first pod may go");
            ensure!(!evict(&server, &old[1])?, "the second pod may not go before the first has a successor");
            wait_until("the second pod may go", PODS_TIMEOUT, || Ok(evict(&server, &old[1])?.then_some(())))?;
            server.wait_pods(2, &old)?;
            println!("both pods were drained after {:.0} s", begin.elapsed().as_secs_f64());
            Ok(())
        })?;
        println!("{rounds} operations meanwhile");
        // Who wants one pod only wants his node to be drained all the same.
        server.patch("storageserver", SERVER, &json!({"replicas": 1}))?;
        server.wait_pods(1, &[])?;
        let last = server.pods()?.pop().context("no pod")?;
        ensure!(evict(&server, &last)?, "a single pod keeps its node from being drained");
        server.wait_pods(1, &[last])
    })
}

/// The processes in a pod whose command begins so, as this machine sees them.
pub fn processes_of(command: &str, pod: &str) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<i32>() else { continue };
        // Processes end while one looks.
        let of = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let is_there = of("environ").split('\0').any(|it| it.strip_prefix("HOSTNAME=") == Some(pod));
        if is_there && of("cmdline").starts_with(command) {
            found.extend(Pid::from_raw(pid));
        }
    }
    Ok(found)
}

/// What was acknowledged is there, whatever happens to whom.
#[test]
fn acknowledged_shares_outlive_killed_pods_and_a_killed_database() -> Result<()> {
    let server = Server::start("killed", &json!({}))?;
    let account = server.account("alice", &json!({}))?;
    let client = server.client(&account)?;
    server.story(|| {
        let slot = client.create_mutable(Format::Sdmf, &bytes(1, 5_000))?;
        let (rounds, database) = (by_length(3, 30), &server.world.managed.database);
        let stored = thread::scope(|scope| -> Result<u64> {
            let (stop, stopped) = std::sync::mpsc::channel::<()>();
            let nurl = &account.nurl;
            let worker = scope.spawn(move || {
                asked(async {
                    let (mut hand, mut number) = (Hand::new(nurl)?, 0);
                    while stopped.try_recv().is_err_and(|error| error == std::sync::mpsc::TryRecvError::Empty) {
                        let deadline = Instant::now() + RETRY_TIMEOUT;
                        // A client that is not answered asks again: the same share, the same secrets.
                        loop {
                            let refusal = match hand.store(number, LENGTH).await {
                                Ok(true) => break,
                                Ok(false) => "there is no room".to_owned(),
                                Err(error) => format!("{error:#}"),
                            };
                            ensure!(Instant::now() < deadline, "share {number} cannot be stored: {refusal}");
                            tokio::time::sleep(Duration::from_millis(200)).await;
                        }
                        number += 1;
                    }
                    Ok(number)
                })
            });
            let kill = || -> Result<()> {
                for round in 0..rounds {
                    let pods = server.pods()?;
                    let pod = pods.get(round % pods.len().max(1)).context("no pod")?;
                    // One that was killed lately is started again a while later.
                    let pid = wait_until("the pod has a process", PODS_TIMEOUT, || {
                        Ok(processes_of("/leasehold\0serve", pod)?.pop())
                    })?;
                    kill_process(pid, Signal::KILL)?;
                    server.world.kubectl.wait_rolled_out(SERVER, PODS_TIMEOUT)?;
                }
                database.kill()?;
                database.start_again()?;
                database.wait_ready()?;
                let begin = Instant::now();
                wait_until("slots are written again", RETRY_TIMEOUT, || {
                    client.overwrite(&slot, &bytes(2, 5_000)).map(Some)
                })?;
                println!("written again {:.1} s after the database was", begin.elapsed().as_secs_f64());
                Ok(())
            };
            let killed = kill();
            drop(stop);
            let stored = worker.join().map_err(|_| anyhow::anyhow!("the worker panicked"))?;
            killed.and(stored)
        })?;
        println!("{stored} shares were acknowledged");
        asked(async {
            let mut hand = Hand::new(&account.nurl)?;
            for number in 0..stored {
                ensure!(hand.has(number, LENGTH).await?, "share {number} was acknowledged and is gone");
            }
            Ok(())
        })?;
        ensure_same("the slot", &client.download(&slot)?, &bytes(2, 5_000))?;
        // Counters are exact: an audit finds nothing to mend.
        let usage = "SELECT account_id, sum(leased_bytes), sum(leased_shares) FROM account_usage GROUP BY account_id ORDER BY 1";
        let before = server.query(usage)?;
        let (is_done, said) = server.run_job("audit")?;
        ensure!(is_done && server.query(usage)? == before, "usage was not exact: {said}");
        Ok(())
    })
}
