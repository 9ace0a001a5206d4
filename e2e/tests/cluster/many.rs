//! Many accounts: what they cost the operator and the API server, at work and at rest.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use leasehold_e2e::cluster::chart;
use leasehold_e2e::cluster::stores::resource;
use leasehold_e2e::process::wait_until;
use leasehold_e2e::story::by_length;
use serde_json::json;

use super::dying::processes_of;
use super::operated::{SERVER, Server};

const READY_TIMEOUT: Duration = Duration::from_secs(1_200);
/// So many objects in one request of the tool.
const BATCH: usize = 500;
/// Rest is looked at for so long.
const REST: Duration = Duration::from_secs(30);

/// The most memory that an operator's process holds now.
fn resident_mib(server: &Server) -> Result<u64> {
    let operator = server.world.cluster.kubectl().in_namespace(chart::NAMESPACE);
    let lease = operator.get(&["lease", "leasehold-operator"])?;
    let leader = lease["spec"]["holderIdentity"].as_str().context("nobody leads")?.to_owned();
    let pid = processes_of("/leasehold-operator\0run", &leader)?.pop().context("no process of the operator")?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
}

/// Requests that the operators have made so far.
fn requests(server: &Server) -> Result<usize> {
    let operator = format!("system:serviceaccount:{}:leasehold-operator", chart::NAMESPACE);
    server.world.cluster.requests_of(&operator)
}

fn ready_accounts(server: &Server) -> Result<usize> {
    let path = "jsonpath={range .items[*]}{.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}{end}";
    let said = server.world.kubectl.run(&["get", "accounts", "--output", path])?;
    Ok(said.lines().filter(|line| *line == "True").count())
}

#[test]
fn many_accounts_are_made_and_then_cost_nothing() -> Result<()> {
    let count = by_length(100, 10_000);
    let server = Server::start("many", &json!({"replicas": 1}))?;
    // Thousands of Secrets are too many to be looked for in everything; other stories do that.
    server.world.story(|| {
        let begin = Instant::now();
        let numbers: Vec<usize> = (0..count).collect();
        for batch in numbers.chunks(BATCH) {
            let account =
                |number: &usize| resource("Account", &format!("many-{number}"), json!({"serverRef": {"name": SERVER}}));
            server.world.kubectl.create_all(&batch.iter().map(account).collect::<Vec<_>>())?;
        }
        let declared = begin.elapsed();
        // A list of thousands is no small thing to ask for again and again.
        let made = "SELECT count(*) FROM accounts WHERE account_id >= 16";
        wait_until("all accounts are made", READY_TIMEOUT, || {
            Ok((super::operated::count(&server.query(made)?)? == count as u64).then_some(()))
        })?;
        wait_until("all accounts are ready", READY_TIMEOUT, || Ok((ready_accounts(&server)? == count).then_some(())))?;
        println!(
            "{count} accounts: declared after {:.0} s, ready after {:.0} s; operator {} MiB",
            declared.as_secs_f64(),
            begin.elapsed().as_secs_f64(),
            resident_mib(&server)?
        );
        // What stories before this one have left is work, too.
        wait_until("no namespace is on its way out", READY_TIMEOUT, || {
            let phases =
                server.world.kubectl.run(&["get", "namespaces", "--output=jsonpath={.items[*].status.phase}"])?;
            Ok((!phases.contains("Terminating")).then_some(()))
        })?;
        let before = requests(&server)?;
        std::thread::sleep(REST);
        let asked = requests(&server)? - before;
        println!("at rest: {:.2} requests a second of both operators", asked as f64 / REST.as_secs_f64());
        // Whoever takes over finds all of them, and has nothing to do.
        let operator = server.world.cluster.kubectl().in_namespace(chart::NAMESPACE);
        let begin = Instant::now();
        operator.run(&["delete", "pods", "--all", "--grace-period=0", "--force"])?;
        server.account("latecomer", &json!({}))?;
        println!(
            "after a restart the next account took {:.0} s; operator {} MiB",
            begin.elapsed().as_secs_f64(),
            resident_mib(&server)?
        );
        ensure!(ready_accounts(&server)? == count + 1);
        Ok(())
    })
}
