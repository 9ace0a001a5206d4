//! The operator is killed and comes back: pods do not notice, and what was asked for meanwhile is done.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use leasehold_e2e::cluster::chart;
use leasehold_e2e::cluster::kubectl::Kubectl;
use leasehold_e2e::cluster::stores::resource;
use leasehold_e2e::process::wait_until;
use leasehold_e2e::story::{bytes, ensure_same};
use rustix::process::{Signal, kill_process};
use serde_json::json;

use super::dying::processes_of;
use super::operated::{SERVER, Server};
use super::world::PODS_TIMEOUT;

const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(120);

/// The pod of the operator that leads.
fn leader(operator: &Kubectl) -> Result<String> {
    let lease = operator.get(&["lease", "leasehold-operator"])?;
    Ok(lease["spec"]["holderIdentity"].as_str().context("nobody leads")?.to_owned())
}

#[test]
fn frozen_leader_that_wakes_rotates_nothing_twice() -> Result<()> {
    let server = Server::shared()?;
    let account = server.account("fenced", &json!({}))?;
    server.story(|| {
        let operator = server.world.cluster.kubectl().in_namespace(chart::NAMESPACE);
        let frozen = leader(&operator)?;
        let pid = processes_of("/leasehold-operator\0run", &frozen)?.pop().context("its process is not to be found")?;
        kill_process(pid, Signal::STOP)?;
        server.patch("account", "fenced", &json!({"credentials": {"generation": 2}}))?;
        let begin = Instant::now();
        let acted = wait_until("another operator has rotated", TAKE_OVER_TIMEOUT, || {
            let object = server.world.kubectl.get(&["account", "fenced"])?;
            Ok((object["status"]["credentials"][0]["generation"] == 2).then_some(()))
        });
        kill_process(pid, Signal::CONT)?;
        acted?;
        println!("another operator acted {:.1} s after the leader froze", begin.elapsed().as_secs_f64());
        let second = server.read_account("fenced")?;
        ensure!(second.nurl.swissnum != account.nurl.swissnum);
        // The one that woke begins anew, and waits.
        wait_until("the one that woke has ended", TAKE_OVER_TIMEOUT, || {
            Ok((!processes_of("/leasehold-operator\0run", &frozen)?.contains(&pid)).then_some(()))
        })?;
        ensure!(leader(&operator)? != frozen, "it leads again");
        server.wait_ready("account", "fenced", PODS_TIMEOUT)?;
        let third = server.read_account("fenced")?;
        ensure!(third.nurl == second.nurl, "the rotation was done twice");
        for nurl in [&account.nurl, &second.nurl] {
            ensure!(super::pods::account(nurl)?.0 == 200, "both addresses were to be valid");
        }
        Ok(())
    })
}

#[test]
fn killed_operator_loses_nothing_and_disturbs_nobody() -> Result<()> {
    let server = Server::start("operator", &json!({}))?;
    let account = server.account("alice", &json!({}))?;
    let client = server.client(&account)?;
    server.story(|| {
        let (pods, uids) = (server.pods()?, server.pod_uids()?);
        let file = client.upload(&bytes(1, 100_000))?;
        let operator = server.world.cluster.kubectl().in_namespace(chart::NAMESPACE);
        let begun = json!({"serverRef": {"name": SERVER}});
        for round in 0..3 {
            let name = format!("round-{round}");
            server.world.kubectl.apply_all(&[resource("Account", &name, begun.clone())])?;
            // At a different moment of its work each time; all of its pods at once.
            operator.run(&["delete", "pods", "--all", "--grace-period=0", "--force"])?;
            server.wait_ready("account", &name, PODS_TIMEOUT)?;
            let account = server.read_account(&name)?;
            ensure!(super::pods::account(&account.nurl)?.0 == 200, "{name} has an address that is not valid");
        }
        ensure!(server.pods()? == pods, "pods of the server were replaced");
        ensure!(server.pod_uids()? == uids, "pods of the server were replaced");
        ensure_same("a file", &client.download(&file)?, &bytes(1, 100_000))?;
        // The chart gives it every right that it uses, here and in the stories before.
        let account = format!("system:serviceaccount:{}:leasehold-operator", chart::NAMESPACE);
        let forbidden = server.world.cluster.forbidden_to(&account)?;
        ensure!(forbidden.is_empty(), "the operator may not do what it tried: {:#}", forbidden[0]);
        Ok(())
    })
}
