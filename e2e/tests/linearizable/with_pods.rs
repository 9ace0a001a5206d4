//! Histories through three pods: while they are killed, while one stands still, while their database and their object
//! store fail.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use leasehold_e2e::pods::{Pods, PodsOptions};

use crate::faults::{OF_DATABASE, OF_STORE, befall, freeze_again_and_again, kill_again_and_again, random};
use crate::run::{Plan, Recorded, record, seed};
use crate::{PLAN, alone, by_length};
use leasehold_e2e::process::Explain;

/// So long a process stands still: longer than clients wait, and than the database lets a transaction rest.
const FREEZE_TIME: Duration = Duration::from_secs(30);
/// Clients do not wait for a pod that stands still.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(6);
/// Connections go to another pod so often.
const MOVE_TIME: Duration = Duration::from_millis(700);
const LONG: Duration = Duration::from_secs(600);

/// What every run must have reached.
const LEAST: &[(&str, u64)] =
    &[("read_test_write: success", 50), ("read_test_write: test failed", 20), ("write: 200", 5), ("write: 201", 3)];

/// Lets clients work on three pods while something happens to them, and judges. Connections that are moved by the
/// balancer end between two requests, or so it looks from there: now and then one has just begun.
fn story(
    name: &str,
    options: &PodsOptions,
    time: Duration,
    moves: bool,
    happen: impl FnOnce(&mut Pods, u64, Instant) -> Result<()>,
) -> Result<Recorded> {
    let _alone = alone();
    let folder = tempfile::tempdir()?;
    let mut pods = Pods::start(name, folder.path(), options)?;
    pods.balancer.shuffle_every(moves.then_some(MOVE_TIME));
    let (nurl, seed) = (pods.nurl().clone(), seed()?);
    let plan = Plan { time: by_length(time, LONG), timeout: CLIENT_TIMEOUT, ..PLAN };
    let recorded =
        record(name, &nurl, &plan, seed, |deadline| happen(&mut pods, seed, deadline)).explain(|| pods.log_tails())?;
    pods.servers.iter_mut().try_for_each(|server| server.expect_running())?;
    recorded.expect_linearizable().explain(|| pods.log_tails())?;
    recorded.expect_counts(LEAST)?;
    let odd = recorded.counts.keys().find(|outcome| outcome.starts_with("status: ") && *outcome != "status: 503");
    ensure!(odd.is_none(), "a failing service is 503 to clients, not {odd:?}");
    let connections = pods.balancer.counts().iter().map(|pod| pod.connections).min();
    ensure!(connections >= Some(8), "a pod had no clients: {:?}", pods.balancer.counts());
    Ok(recorded)
}

#[test]
fn clients_of_three_pods_see_one_order() -> Result<()> {
    let recorded = story("pods", &PodsOptions::default(), Duration::from_secs(8), false, |_, _, _| Ok(()))?;
    let unknown = recorded.counts.iter().find(|(outcome, _)| outcome.contains("status") || outcome.contains("unknown"));
    ensure!(unknown.is_none(), "though nothing happened: {unknown:?}");
    Ok(())
}

#[test]
fn clients_of_pods_that_are_killed_again_and_again_see_one_order() -> Result<()> {
    let options = PodsOptions::default();
    story("killed-pods", &options, Duration::from_secs(20), true, |pods, seed, deadline| {
        kill_again_and_again(&mut pods.servers, &mut random(seed, 1), deadline)
    })?
    .expect_counts(&[("read_test_write: unknown", 3)])
}

/// What a process began before it stood still must not take effect against what others have done meanwhile.
#[test]
fn clients_of_pods_of_which_one_stands_still_see_one_order() -> Result<()> {
    let options = PodsOptions::default();
    story("frozen-pod", &options, Duration::from_secs(25), true, |pods, seed, deadline| {
        let (frozen, others) = pods.servers.split_at_mut(1);
        thread::scope(|scope| {
            let killed = scope.spawn(|| kill_again_and_again(others, &mut random(seed, 1), deadline));
            freeze_again_and_again(&mut frozen[0], &mut random(seed, 2), FREEZE_TIME, deadline)?;
            killed.join().expect("nobody panics")
        })
    })?
    .expect_counts(&[("read_test_write: unknown", 3)])
}

#[test]
fn clients_of_pods_whose_database_fails_see_one_order() -> Result<()> {
    let options = PodsOptions { standby: true, ..PodsOptions::default() };
    story("database-faults", &options, Duration::from_secs(20), true, |pods, seed, deadline| {
        befall(&mut pods.services, OF_DATABASE, &mut random(seed, 1), deadline)
    })?
    .expect_counts(&[("read_test_write: unknown", 10)])
}

#[test]
fn clients_of_pods_whose_object_store_fails_see_one_order() -> Result<()> {
    let options = PodsOptions::default();
    story("store-faults", &options, Duration::from_secs(20), true, |pods, seed, deadline| {
        befall(&mut pods.services, OF_STORE, &mut random(seed, 1), deadline)
    })
    .map(drop)
}

/// All of it at the same time.
#[test]
fn clients_of_pods_see_one_order_whatever_happens() -> Result<()> {
    let options = PodsOptions { standby: true, ..PodsOptions::default() };
    story("all-faults", &options, Duration::from_secs(30), true, |pods, seed, deadline| {
        let Pods { servers, services, .. } = pods;
        let (frozen, killed) = servers.split_at_mut(1);
        let misfortunes: Vec<_> = OF_DATABASE.iter().chain(OF_STORE).copied().collect();
        thread::scope(|scope| {
            let killing = scope.spawn(|| kill_again_and_again(killed, &mut random(seed, 1), deadline));
            let freezing = scope.spawn(|| {
                let time = by_length(Duration::from_secs(8), FREEZE_TIME);
                freeze_again_and_again(&mut frozen[0], &mut random(seed, 2), time, deadline)
            });
            befall(services, &misfortunes, &mut random(seed, 3), deadline)?;
            killing.join().expect("nobody panics")?;
            freezing.join().expect("nobody panics")
        })
    })
    .map(drop)
}
