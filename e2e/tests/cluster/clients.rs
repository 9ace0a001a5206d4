//! Clients that work while a story changes the world around them; none of their operations may fail.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use leasehold_e2e::process::Explain;
use leasehold_e2e::story::{KIB, bytes, ensure_same};
use leasehold_e2e::tahoe::{Client, Format};
use serde_json::json;

/// Files of this size are uploaded in several requests.
const FILE_BYTES: usize = 300 * KIB;
const SLOT_BYTES: usize = 5_000;
/// No worker has so many rounds.
const SEEDS: u64 = 1 << 32;
/// How often a reader looks whether there is something to read.
const LOOK: Duration = Duration::from_millis(50);

/// Lets `client` upload, read and change things without pause while `change` happens, and demands that all of it worked
/// and that everything is there at the end.
///
/// Two uploads, a download, a mutable file and a directory are at work at any moment. Gives how many rounds there were.
pub fn under_load(client: &Client, seed: u64, change: impl FnOnce() -> Result<()>) -> Result<u64> {
    let (is_over, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let directory = client.make_directory(Format::Sdmf, &json!({}))?;
    let files = Mutex::new(Vec::new());
    let work = [Work::Upload, Work::Upload, Work::Read, Work::Overwrite, Work::Link];
    let outcome = thread::scope(|scope| {
        let mut seed = seed;
        let workers = work.map(|work| {
            // No two of them make the same content.
            seed += SEEDS;
            let (is_over, rounds, files, directory) = (&is_over, &rounds, &files, directory.as_str());
            scope.spawn(move || {
                let outcome = work.go_on(client, seed, directory, files, is_over, rounds);
                // Nobody waits for the change when it has failed already.
                is_over.fetch_or(outcome.is_err(), Ordering::SeqCst);
                outcome.with_context(|| format!("{work:?}"))
            })
        });
        let changed = change();
        is_over.store(true, Ordering::SeqCst);
        let worked: Result<()> =
            workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?);
        changed.and(worked)
    });
    outcome.explain(|| client.log_tail())?;
    let files = files.into_inner().map_err(|_| anyhow!("a worker panicked"))?;
    ensure!(!files.is_empty(), "nothing was uploaded meanwhile");
    for (seed, capability) in files {
        ensure_same("an acknowledged file", &client.download(&capability)?, &bytes(seed, FILE_BYTES))?;
    }
    Ok(rounds.into_inner())
}

#[derive(Clone, Copy, Debug)]
enum Work {
    Upload,
    Read,
    Overwrite,
    Link,
}

impl Work {
    fn go_on(
        self,
        client: &Client,
        seed: u64,
        directory: &str,
        files: &Mutex<Vec<(u64, String)>>,
        is_over: &AtomicBool,
        rounds: &AtomicU64,
    ) -> Result<()> {
        let slot = client.create_mutable(Format::Sdmf, &bytes(seed, SLOT_BYTES))?;
        let mut number = 0;
        while !is_over.load(Ordering::SeqCst) {
            number += 1;
            let own = seed + number;
            match self {
                Self::Upload => {
                    let capability = client.upload(&bytes(own, FILE_BYTES))?;
                    ensure_same("a file", &client.download(&capability)?, &bytes(own, FILE_BYTES))?;
                    files.lock().map_err(|_| anyhow!("a worker panicked"))?.push((own, capability));
                }
                Self::Read => {
                    let known = {
                        let files = files.lock().map_err(|_| anyhow!("a worker panicked"))?;
                        files.get(usize::try_from(number)? % files.len().max(1)).cloned()
                    };
                    let Some((seed, capability)) = known else {
                        thread::sleep(LOOK);
                        continue;
                    };
                    ensure_same("a file", &client.download(&capability)?, &bytes(seed, FILE_BYTES))?;
                }
                Self::Overwrite => {
                    client.overwrite(&slot, &bytes(own, SLOT_BYTES))?;
                    ensure_same("a mutable file", &client.download(&slot)?, &bytes(own, SLOT_BYTES))?;
                }
                Self::Link => {
                    let name = format!("child-{number}");
                    client.upload_child(directory, &name, &bytes(own, SLOT_BYTES))?;
                    ensure!(client.list(directory)?.contains_key(&name), "{name} is not in the directory");
                }
            }
            rounds.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }
}
