//! Connections go from one pod to another in the middle of things, because pods drain: the client repeats no write whose
//! connection is closed under it, and it never is.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leasehold_e2e::process::{Explain, wait_until};
use leasehold_e2e::tahoe::Format;
use leasehold_e2e_services::s3_proxy::{Fault, Operation, Rule, When};

use super::{ENCODING, Kept, PODS, World};
use crate::grid::{KIB, MIB, bytes, ensure_same};

/// A second of notice, then six in which every answer closes its connection.
const DRAINING: &str = "drain_notice_seconds = 1\ndrain_seconds = 6\n";
/// What the store takes for a piece of a file, so that an upload takes a while.
const PIECE_TIME: Duration = Duration::from_millis(400);
const MOVED_BYTES: usize = 12 * MIB;
const FILE_BYTES: usize = 3 * MIB;
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn upload_goes_on_when_its_connections_move() -> Result<()> {
    let mut world = World::start("pods-moved", DRAINING, "", &ENCODING)?;
    let World { client, pods, .. } = &mut world;
    let client = &*client;
    let kept = Kept::default();
    // Connections to all pods are there to be kept.
    let warm: Result<()> = (1..4).try_for_each(|seed| kept.upload(client, seed, 300 * KIB));
    // Long enough that the upload outlasts the notice of those that drain.
    pods.services.s3.add_rule(Rule::new(Operation::Put, When::Always, Fault::Delay(PIECE_TIME)));
    let outcome = warm.and_then(|()| {
        thread::scope(|scope| {
            let upload = scope.spawn(|| kept.upload(client, 4, MOVED_BYTES));
            let begun = wait_until("an upload has begun", PROGRESS_TIMEOUT, || {
                let server = &pods.servers[0];
                Ok((server.account_bytes("default", "reserved_bytes")? > 0).then_some(()))
            });
            let before = pods.balancer.counts()[PODS - 1].connections;
            let drained = begun.and_then(|()| {
                for pod in 0..PODS - 1 {
                    pods.balancer.mark_down(pod);
                    pods.servers[pod].drain()?;
                }
                Ok(())
            });
            upload.join().expect("nobody panics").context("an upload whose connections moved")?;
            drained?;
            let moved = pods.balancer.counts()[PODS - 1].connections - before;
            ensure!(moved > 0, "no connection moved while a file was uploaded");
            Ok(())
        })
    });
    outcome.explain(|| world.log_tails())?;
    world.pods.services.s3.clear_rules();
    for pod in 0..PODS - 1 {
        world.pods.servers[pod].drained()?;
        world.pods.servers[pod].restart()?;
    }
    world.on_each_pod(&world.client, || kept.ensure_there(&world.client)).explain(|| world.log_tails())?;
    world.ensure_exact_usage("default")
}

#[test]
fn replacing_pods_in_turn_fails_nothing() -> Result<()> {
    let mut world = World::start("pods-rolled", DRAINING, "", &ENCODING)?;
    let World { client, pods, .. } = &mut world;
    let client = &*client;
    let (kept, failed, stop) = (Kept::default(), Mutex::new(None), AtomicBool::new(false));
    kept.upload(client, 1, FILE_BYTES)?;
    let slot = client.create_mutable(Format::Sdmf, &bytes(0, 5_000))?;
    let work = |act: &dyn Fn(u64) -> Result<()>| {
        for number in 2.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            if let Err(error) = act(number) {
                failed.lock().expect("no holder panics").get_or_insert(error);
                return;
            }
        }
    };
    let (rolled, last) = thread::scope(|scope| {
        scope.spawn(|| work(&|number| kept.upload(client, number, 300 * KIB + number as usize)));
        scope.spawn(|| work(&|_| kept.ensure_there(client)));
        let written = scope.spawn(|| {
            let last = Mutex::new(Vec::new());
            work(&|number| {
                let data = bytes(number, 5_000);
                client.overwrite(&slot, &data)?;
                ensure_same("a slot", &client.download(&slot)?, &data)?;
                *last.lock().expect("no holder panics") = data;
                Ok(())
            });
            last.into_inner().expect("no holder panics")
        });
        let rolled = (0..PODS).try_for_each(|pod| {
            let before = kept.len();
            pods.servers[pod].drain()?;
            pods.balancer.mark_down(pod);
            wait_until("files were uploaded while a pod drains", PROGRESS_TIMEOUT, || {
                ensure!(failed.lock().expect("no holder panics").is_none(), "an operation failed");
                Ok((kept.len() >= before + 2).then_some(()))
            })?;
            pods.servers[pod].drained()?;
            pods.servers[pod].restart()?;
            pods.balancer.mark_up(pod);
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        (rolled, written.join().expect("nobody panics"))
    });
    let failed: Result<()> = failed.into_inner().expect("no holder panics").map_or(Ok(()), Err);
    failed.context("while pods were replaced").and(rolled).explain(|| world.log_tails())?;
    world
        .on_each_pod(&world.client, || {
            ensure_same("the slot", &world.client.download(&slot)?, &last)?;
            kept.ensure_there(&world.client)
        })
        .explain(|| world.log_tails())?;
    world.ensure_exact_usage("default")
}
