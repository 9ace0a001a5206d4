//! Whatever many clients do at once, and whatever happens to the server meanwhile, it looks to all of them as if one
//! thing had happened after another: histories of slots and of immutable shares are linearizable.
//!
//! Clients are recorded while they work on a few slots and buckets; `e2e/checker` (Porcupine) decides. An operation
//! without an answer may take effect later, or never. The seed is printed, and `LEASEHOLD_SEED` draws the same requests
//! again; `LEASEHOLD_LONG=1` makes runs long.

// Real processes take real time.
#![allow(clippy::disallowed_methods)]

#[path = "linearizable/buckets.rs"]
mod buckets;
#[path = "linearizable/faults.rs"]
mod faults;
#[path = "linearizable/member.rs"]
mod member;
#[path = "linearizable/planted.rs"]
mod planted;
#[path = "linearizable/run.rs"]
mod run;
#[path = "linearizable/slots.rs"]
mod slots;
#[path = "linearizable/with_pods.rs"]
mod with_pods;

use std::path::Path;
use std::slice;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leasehold_e2e::gbs::Nurl;
use leasehold_e2e::leasehold::Server;
use leasehold_e2e::pods::copy_folder;
use leasehold_e2e::process::Explain;
use leasehold_e2e_services::Balancer;

use faults::{kill_again_and_again, random};
use run::{Plan, record, seed};

const PLAN: Plan =
    Plan { clients: 8, time: Duration::from_secs(10), timeout: Duration::from_secs(10), slots_percent: 65 };

/// Held by the run that has the machine to itself: runs side by side would only slow each other down.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn by_length(short: Duration, long: Duration) -> Duration {
    if std::env::var_os("LEASEHOLD_LONG").is_some_and(|value| value == "1") { long } else { short }
}

fn start(name: &str, parent: &Path) -> Result<(Server, Nurl)> {
    let server = Server::start(name, parent, None)?;
    let nurl = server.announcement().credentials.nurl.parse()?;
    Ok((server, nurl))
}

#[test]
fn many_clients_of_one_process_see_one_order() -> Result<()> {
    let _alone = alone();
    let folder = tempfile::tempdir()?;
    let (mut server, nurl) = start("undisturbed", folder.path())?;
    let plan = Plan { time: by_length(PLAN.time, Duration::from_secs(300)), ..PLAN };
    let recorded = record("one-process", &nurl, &plan, seed()?, |_| Ok(()))?;
    server.expect_running()?;
    recorded.expect_linearizable().explain(|| server.log_tail())?;
    ensure!(!recorded.counts.keys().any(|outcome| outcome.contains("unknown")), "requests had no answer");
    recorded.expect_counts(&[
        ("read_test_write: success", 200),
        ("read_test_write: test failed", 100),
        ("read_test_write: 401", 5),
        ("write: 201", 10),
        ("write: 200", 20),
        ("write: 409", 1),
        ("write: 404", 5),
        ("abort: 200", 3),
        ("allocate: already", 10),
    ])?;
    planted::FAULTS.iter().try_for_each(|(name, fault)| {
        let with_fault = recorded.path.with_extension("planted.jsonl");
        planted::plant(&recorded.path, *fault, &with_fault).with_context(|| format!("plant a {name}"))?;
        let verdict = recorded.check(&with_fault)?;
        ensure!(verdict.is_bad(), "a {name} in {} went unseen: {}", with_fault.display(), verdict.verdict);
        Ok(())
    })
}

#[test]
fn clients_of_a_process_that_is_killed_again_and_again_see_one_order() -> Result<()> {
    let _alone = alone();
    let folder = tempfile::tempdir()?;
    let (mut server, nurl) = start("killed", folder.path())?;
    let plan = Plan { time: by_length(Duration::from_secs(15), Duration::from_secs(600)), ..PLAN };
    let seed = seed()?;
    let recorded = record("killed-process", &nurl, &plan, seed, |deadline| {
        kill_again_and_again(slice::from_mut(&mut server), &mut random(seed, 1), deadline)
    })?;
    server.expect_running()?;
    recorded.expect_linearizable().explain(|| server.log_tail())?;
    recorded.expect_counts(&[
        ("read_test_write: success", 100),
        ("read_test_write: test failed", 50),
        ("read_test_write: unknown", 5),
        ("write: 201", 5),
        ("write: unknown", 1),
    ])
}

/// What would be wrong with pods if they kept anything to themselves must be seen: here they keep everything.
#[test]
fn clients_of_two_processes_that_share_nothing_see_no_order() -> Result<()> {
    let _alone = alone();
    let folder = tempfile::tempdir()?;
    let (mut first, mut nurl) = start("first", folder.path())?;
    first.terminate()?;
    copy_folder(&first.data_dir(), &folder.path().join("second").join("data"))?;
    first.restart()?;
    let (mut second, _) = start("second", folder.path())?;
    let addresses = [&first, &second].map(|server| server.announcement().listen.parse());
    let [one, other] = addresses;
    let balancer = Balancer::start(&[one?, other?])?;
    nurl.port = balancer.address().port();
    let recorded =
        record("nothing-shared", &nurl, &Plan { time: Duration::from_secs(2), ..PLAN }, seed()?, |_| Ok(()))?;
    first.expect_running()?;
    second.expect_running()?;
    let verdict = recorded.check(&recorded.path)?;
    ensure!(verdict.is_bad(), "nobody saw that two servers share nothing: {}", verdict.verdict);
    ensure!(verdict.expect_good().is_err_and(|error| error.to_string().contains(&verdict.key)), "nobody is told where");
    Ok(())
}
