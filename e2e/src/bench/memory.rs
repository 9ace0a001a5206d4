//! What our server holds in memory: at rest, and while many connections move large shares.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;

use super::load::{self, Loaded, Shape};
use super::process_stat::{self, Memory};
use super::workloads::{self, Operation, Prepared};
use crate::leasehold::Server;

/// How long after its start a server counts as at rest.
const REST: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_secs(1);

/// The memory of a server without and with load.
#[derive(Debug, serde::Serialize)]
pub struct MemorySample {
    connections: usize,
    at_rest: Memory,
    loaded: Memory,
    megabytes_per_second: f64,
}

/// Starts a server, looks, loads it with half of the connections up and half down, and looks again.
///
/// # Errors
/// If the server fails.
pub fn measure(directory: &Path, connections: usize, window: Duration, random: &mut StdRng) -> Result<MemorySample> {
    let directory = directory.join("memory");
    let server = Server::start("leasehold", &directory, None)?;
    let pid = server.pid().context("the server was just started")?;
    let nurl = server.announcement().credentials.nurl.parse()?;
    thread::sleep(REST);
    let at_rest = process_stat::memory(pid)?;
    let prepared = workloads::block_on(Prepared::store(&nurl, &[Operation::Download], random))?;
    process_stat::reset_peak(pid)?;
    let mut workers = prepared.workers(Operation::Upload, connections / 2, random);
    workers.extend(prepared.workers(Operation::Download, connections - connections / 2, random));
    let shape = Shape { threads: 2, warm_up: WARM_UP, window };
    let sample = load::run(&[Loaded { nurl, pid }], workers, shape)?;
    let loaded = process_stat::memory(pid)?;
    drop(server);
    std::fs::remove_dir_all(&directory).context("cannot remove the data of the memory test")?;
    Ok(MemorySample { connections, at_rest, loaded, megabytes_per_second: sample.megabytes_per_second() })
}

impl MemorySample {
    /// For people.
    pub fn to_text(&self) -> String {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        format!(
            "memory at rest: {:.1} MiB resident (asked < 64), {:.1} MiB of it anonymous\n\
             memory with {} connections moving shares of 64 MiB: peak {:.1} MiB resident (asked < 256), \
             {:.1} MiB anonymous at the end, {:.0} MB/s\n",
            mebibytes(self.at_rest.resident_bytes),
            mebibytes(self.at_rest.anonymous_bytes),
            self.connections,
            mebibytes(self.loaded.peak_bytes),
            mebibytes(self.loaded.anonymous_bytes),
            self.megabytes_per_second,
        )
    }
}
