//! Pods are killed (`kill -9`) one after another while a client works; what was acknowledged must be there, and the
//! account be charged for exactly what it leases.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use leasehold_e2e::process::{Explain, wait_until};
use leasehold_e2e::tahoe::{Check, Client, Format, Protocol};

use super::{ENCODING, Kept, PODS, World};
use crate::grid::{KIB, by_length, bytes, ensure_same, over_both_protocols};

const PROGRESS_TIMEOUT: Duration = Duration::from_secs(120);
/// Short enough to see that the space of broken uploads is given back.
const CONFIG: &str = "[uploads]\nidle_timeout_seconds = 10\n";
const FILE_BYTES: usize = 600 * KIB;
const CHILD_BYTES: usize = 2_000;

/// Something that is done again and again.
struct Work<'a> {
    name: &'static str,
    act: Box<dyn Fn(u64) -> Result<()> + Sync + Send + 'a>,
    successes: AtomicUsize,
    failures: AtomicUsize,
}

impl<'a> Work<'a> {
    fn new(name: &'static str, act: impl Fn(u64) -> Result<()> + Sync + Send + 'a) -> Self {
        Self { name, act: Box::new(act), successes: AtomicUsize::new(0), failures: AtomicUsize::new(0) }
    }

    fn go_on(&self, stop: &AtomicBool) {
        for number in 1.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let counter = if (self.act)(number).is_ok() { &self.successes } else { &self.failures };
            counter.fetch_add(1, Ordering::Relaxed);
            // A client whose connections are all broken fails at once.
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A mutable file: the content that was acknowledged last, and those that were tried after it.
struct Slot {
    capability: String,
    length: usize,
    possible: Mutex<Vec<u64>>,
}

impl Slot {
    fn create(client: &Client, format: Format, seed: u64, length: usize) -> Result<Self> {
        let capability = client.create_mutable(format, &bytes(seed, length))?;
        Ok(Self { capability, length, possible: Mutex::new(vec![seed]) })
    }

    fn overwrite(&self, client: &Client, number: u64) -> Result<()> {
        let seed = self.possible.lock().expect("no holder panics")[0] + number;
        let outcome = client.overwrite(&self.capability, &bytes(seed, self.length));
        let mut possible = self.possible.lock().expect("no holder panics");
        if outcome.is_ok() {
            possible.clear();
        }
        possible.push(seed);
        outcome
    }

    fn ensure_there(&self, client: &Client) -> Result<()> {
        let got = client.download(&self.capability)?;
        let possible = self.possible.lock().expect("no holder panics");
        let is_known = possible.iter().any(|seed| got == bytes(*seed, self.length));
        ensure!(is_known, "a mutable file holds {} bytes that are none of {possible:?}", got.len());
        Ok(())
    }
}

over_both_protocols!(nothing_acknowledged_is_lost_while_pods_are_killed);

fn nothing_acknowledged_is_lost_while_pods_are_killed(protocol: Protocol) -> Result<()> {
    let mut world = World::start_over("pods-killed", "", CONFIG, &ENCODING, protocol)?;
    let World { client, pods, .. } = &mut world;
    let (client, servers) = (&*client, &mut pods.servers);
    let (files, children) = (Kept::default(), Mutex::new(Vec::new()));
    let slots = [
        Slot::create(client, Format::Sdmf, 1_000_000, 60 * KIB)?,
        Slot::create(client, Format::Mdmf, 2_000_000, 200 * KIB)?,
    ];
    let directory = client.make_directory(Format::Sdmf, &serde_json::json!({}))?;
    let first = client.upload(&bytes(3_000_000, FILE_BYTES))?;
    let check = Check { verify: true, repair: true, add_lease: true };
    let works = [
        Work::new("upload", |number| files.upload(client, number, FILE_BYTES)),
        Work::new("SDMF", |number| slots[0].overwrite(client, number)),
        Work::new("MDMF", |number| slots[1].overwrite(client, number)),
        Work::new("directory", |number| {
            let name = format!("child-{number}");
            client.upload_child(&directory, &name, &bytes(4_000_000 + number, CHILD_BYTES))?;
            children.lock().expect("no holder panics").push((name, 4_000_000 + number));
            Ok(())
        }),
        Work::new("repair", |_| {
            let report = client.check(&first, check)?;
            ensure!(report["post-repair-results"]["results"]["healthy"] == true, "not healthy: {report}");
            Ok(())
        }),
    ];
    let stop = AtomicBool::new(false);
    let outcome = thread::scope(|scope| {
        for work in &works {
            scope.spawn(|| work.go_on(&stop));
        }
        let outcome = (0..by_length(PODS + 1, 60)).try_for_each(|round| {
            await_successes(&works)?;
            let killed = &mut servers[round % PODS];
            killed.kill()?;
            // The others do its work meanwhile.
            await_successes(&works[..1])?;
            killed.restart()
        });
        stop.store(true, Ordering::Relaxed);
        outcome
    });
    drop(works);
    outcome.explain(|| world.log_tails())?;

    let children = children.into_inner().expect("no holder panics");
    ensure!(files.len() > PODS, "only {} files were uploaded", files.len());
    let all_is_there = || {
        files.ensure_there(&world.client)?;
        slots.iter().try_for_each(|slot| slot.ensure_there(&world.client))?;
        for (name, seed) in &children {
            let got = world.client.download_path(&directory, name)?;
            ensure_same("an acknowledged child of a directory", &got, &bytes(*seed, CHILD_BYTES))?;
        }
        let report = world.client.check(&first, Check { verify: true, ..Check::default() })?;
        ensure!(report["results"]["healthy"] == true, "not healthy: {report:#}");
        Ok(())
    };
    world.on_each_pod(&world.client, all_is_there).explain(|| world.log_tails())?;
    world.ensure_exact_usage("default").explain(|| world.log_tails())?;
    world.pods.servers.iter_mut().try_for_each(|server| server.expect_running())
}

/// Waits until each has succeeded once more.
fn await_successes(works: &[Work<'_>]) -> Result<()> {
    let count = |work: &Work<'_>| work.successes.load(Ordering::Relaxed);
    let before: Vec<usize> = works.iter().map(count).collect();
    wait_until("each work has succeeded once more", PROGRESS_TIMEOUT, || {
        let behind = works.iter().zip(&before).find(|(work, before)| count(work) <= **before);
        if let Some((work, _)) = behind {
            let failures = work.failures.load(Ordering::Relaxed);
            anyhow::bail!("{} stands still after {} successes and {failures} failures", work.name, count(work));
        }
        Ok(Some(()))
    })
}
