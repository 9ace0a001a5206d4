//! Servers are killed while a client uploads and changes files. What was acknowledged must still be there.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use leasehold_e2e::leasehold::Server;
use leasehold_e2e::process::{Explain, wait_until};
use leasehold_e2e::tahoe::{Client, Format, Protocol};

use super::files::ensure_spread;
use super::{Grid, KIB, MIB, SERVERS, by_length, bytes, ensure_same, over_both_protocols};

/// Short enough for the test to see that the space of broken uploads is given back, long enough for a busy machine.
const CONFIG: &str = "[uploads]\nidle_timeout_seconds = 15\n";
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(120);
const UPLOAD_BYTES: usize = 3 * MIB;
const SDMF_BYTES: usize = 100 * KIB;
const MDMF_BYTES: usize = MIB;

over_both_protocols!(acknowledged_writes_survive_killed_servers, killed_client_gives_its_space_back);

fn acknowledged_writes_survive_killed_servers(protocol: Protocol) -> Result<()> {
    let mut grid = Grid::start_over("crashes", Some(CONFIG), protocol)?;
    let uploads = Uploads::default();
    let slots = [
        Slot::create(&grid.client, Format::Sdmf, 1_000_000, SDMF_BYTES)?,
        Slot::create(&grid.client, Format::Mdmf, 2_000_000, MDMF_BYTES)?,
    ];
    let stop = AtomicBool::new(false);
    let Grid { client, servers, .. } = &mut grid;
    let client: &Client = client;

    let outcome = thread::scope(|scope| {
        scope.spawn(|| uploads.work(client, &stop));
        for slot in &slots {
            scope.spawn(|| slot.work(client, &stop));
        }
        let outcome = (0..by_length(1, 6)).try_for_each(|round| {
            let one = round % SERVERS;
            kill_one_then_all(client, servers, one, || Progress::of(&uploads, &slots))
        });
        stop.store(true, Ordering::Relaxed);
        outcome
    });
    outcome.explain(|| grid.log_tails())?;

    grid.story(|| verify(&grid.client, &uploads, &slots))?;
    grid.story(|| unfinished_uploads_give_their_space_back(&grid))?;
    for server in &mut grid.servers {
        server.terminate()?;
        server.restart()?;
    }
    grid.client.wait_connected(SERVERS)?;
    grid.story(|| verify(&grid.client, &uploads, &slots))?;
    grid.servers.iter_mut().try_for_each(|server| server.expect_running())
}

fn killed_client_gives_its_space_back(protocol: Protocol) -> Result<()> {
    let mut grid = Grid::start_over("client-crash", Some(CONFIG), protocol)?;
    let data = bytes(3_000_000, 40 * MIB);
    let outcome = thread::scope(|scope| {
        let upload = scope.spawn(|| grid.client.upload(&data));
        let reserved =
            |server: &Server| server.account_bytes(&server.announcement().credentials.name, "reserved_bytes");
        wait_until("space is reserved", PROGRESS_TIMEOUT, || Ok((reserved(&grid.servers[0])? > 0).then_some(())))?;
        grid.client.crash()?;
        let outcome = upload.join().expect("an upload does not panic");
        ensure!(outcome.is_err(), "the upload was over before its client was killed");
        Ok(())
    });
    outcome.explain(|| grid.log_tails())?;
    grid.story(|| unfinished_uploads_give_their_space_back(&grid))?;

    // Nothing of the broken upload stands in the way of the same file.
    grid.client.stop()?;
    grid.client.start(SERVERS)?;
    grid.story(|| {
        let file = grid.client.upload(&data)?;
        ensure_spread(&grid.client, &file)?;
        ensure_same("a file whose first upload broke off", &grid.client.download(&file)?, &data)
    })
}

/// Immutable files that were uploaded, and how often an upload failed.
#[derive(Default)]
struct Uploads {
    state: Mutex<UploadState>,
}

#[derive(Default)]
struct UploadState {
    acknowledged: Vec<(String, u64)>,
    failures: usize,
}

impl Uploads {
    fn work(&self, client: &Client, stop: &AtomicBool) {
        let mut seed = 0;
        while !stop.load(Ordering::Relaxed) {
            seed += 1;
            let outcome = client.upload(&bytes(seed, UPLOAD_BYTES));
            let mut state = self.state.lock().expect("no holder panics");
            match outcome {
                Ok(capability) => state.acknowledged.push((capability, seed)),
                Err(_) => state.failures += 1,
            }
            drop(state);
            pause();
        }
    }

    fn counts(&self) -> (usize, usize) {
        let state = self.state.lock().expect("no holder panics");
        (state.acknowledged.len(), state.failures)
    }
}

/// A mutable file that is written again and again, each time with other bytes.
struct Slot {
    format: Format,
    capability: String,
    length: usize,
    state: Mutex<SlotState>,
}

struct SlotState {
    /// The content that was acknowledged last, and those that were tried after it and may have come through.
    possible: Vec<u64>,
    successes: usize,
    failures: usize,
}

impl Slot {
    fn create(client: &Client, format: Format, seed: u64, length: usize) -> Result<Self> {
        let capability = client.create_mutable(format, &bytes(seed, length))?;
        let state = Mutex::new(SlotState { possible: vec![seed], successes: 0, failures: 0 });
        Ok(Self { format, capability, length, state })
    }

    fn work(&self, client: &Client, stop: &AtomicBool) {
        let mut seed = self.state.lock().expect("no holder panics").possible[0];
        while !stop.load(Ordering::Relaxed) {
            seed += 1;
            let outcome = client.overwrite(&self.capability, &bytes(seed, self.length));
            let mut state = self.state.lock().expect("no holder panics");
            if outcome.is_ok() {
                state.possible = vec![seed];
                state.successes += 1;
            } else {
                state.possible.push(seed);
                state.failures += 1;
            }
            drop(state);
            pause();
        }
    }

    fn counts(&self) -> (usize, usize) {
        let state = self.state.lock().expect("no holder panics");
        (state.successes, state.failures)
    }
}

/// Leaves the client a moment: failures come at once when no server is there.
fn pause() {
    thread::sleep(Duration::from_millis(100));
}

/// Kills one server and starts it again, then all, each time in the middle of the writers' work.
fn kill_one_then_all<'a>(
    client: &Client,
    servers: &mut [Server],
    one: usize,
    progress: impl Fn() -> Progress<'a>,
) -> Result<()> {
    progress().await_successes(2)?;
    servers[one].kill()?;
    // Four servers are enough: work goes on, with the dead one noticed in the middle of something.
    progress().await_successes(2)?;
    servers[one].restart()?;
    client.wait_connected(SERVERS)?;

    progress().await_successes(1)?;
    servers.iter_mut().try_for_each(Server::kill)?;
    progress().await_failures()?;
    servers.iter_mut().try_for_each(Server::restart)?;
    client.wait_connected(SERVERS)?;
    progress().await_successes(2)
}

/// How often each writer had succeeded and failed at one moment.
struct Progress<'a> {
    uploads: &'a Uploads,
    slots: &'a [Slot],
    before: Vec<(usize, usize)>,
}

impl<'a> Progress<'a> {
    fn of(uploads: &'a Uploads, slots: &'a [Slot]) -> Self {
        let mut progress = Self { uploads, slots, before: Vec::new() };
        progress.before = progress.now();
        progress
    }

    fn now(&self) -> Vec<(usize, usize)> {
        std::iter::once(self.uploads.counts()).chain(self.slots.iter().map(Slot::counts)).collect()
    }

    /// Waits until every writer has had `more` further successes.
    fn await_successes(&self, more: usize) -> Result<()> {
        self.await_counts("each writer has further successes", |before, now| now.0 >= before.0 + more)
    }

    /// Waits until every writer has had a further failure.
    fn await_failures(&self) -> Result<()> {
        self.await_counts("each writer has failed", |before, now| now.1 > before.1)
    }

    fn await_counts(&self, what: &str, reached: impl Fn((usize, usize), (usize, usize)) -> bool) -> Result<()> {
        wait_until(what, PROGRESS_TIMEOUT, || {
            let (before, now) = (&self.before, self.now());
            ensure!(before.iter().zip(&now).all(|(before, now)| reached(*before, *now)), "{before:?} became {now:?}");
            Ok(Some(()))
        })
    }
}

fn verify(client: &Client, uploads: &Uploads, slots: &[Slot]) -> Result<()> {
    for (capability, seed) in &uploads.state.lock().expect("no holder panics").acknowledged {
        ensure_same("an acknowledged upload", &client.download(capability)?, &bytes(*seed, UPLOAD_BYTES))?;
    }
    for slot in slots {
        let possible = &slot.state.lock().expect("no holder panics").possible;
        let got = client.download(&slot.capability)?;
        if !possible.iter().any(|seed| got == bytes(*seed, slot.length)) {
            bail!("the {:?} file holds none of the contents {possible:?}", slot.format);
        }
    }
    Ok(())
}

fn unfinished_uploads_give_their_space_back(grid: &Grid) -> Result<()> {
    for server in &grid.servers {
        let account = &server.announcement().credentials.name;
        wait_until("no space is reserved", PROGRESS_TIMEOUT, || {
            let reserved = server.account_bytes(account, "reserved_bytes")?;
            ensure!(reserved == 0, "{} keeps {reserved} bytes reserved", server.name());
            Ok(Some(()))
        })?;
    }
    Ok(())
}
