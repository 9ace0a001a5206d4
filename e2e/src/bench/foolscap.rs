//! The same comparison for old clients: both servers over Foolscap.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::sync::Barrier;

use super::load::{self, Announced, Sample, Shape};
use super::report::{Report, RowResult};
use super::{Arguments, MANY_WORKERS, Row, Running, WARM_UP, workloads};
use crate::foolscap::{OldClient, Storage, close, read, write};
use crate::leasehold::Server;
use crate::reference::PythonServer;
use crate::venv::Venv;

/// Connections of the rows with small operations.
const CONNECTIONS: usize = 16;
const SMALL_BYTES: usize = 1024;
const SLOT_BYTES: usize = 4096;
/// What a client reads at once of a file of 3-of-10 with segments of 128 KiB.
const READ_BYTES: u64 = 44_000;
const LARGE_BYTES: u64 = 64 << 20;
/// What the released client writes at once.
const PIECE_BYTES: u64 = 1 << 20;
const READ_SHARE_BYTES: u64 = 8 << 20;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldOperation {
    /// A share of 1 KiB: allocated, written, closed.
    SmallShare,
    /// A slot of one share of 4 KiB, written whole.
    SlotWrite,
    /// A part of a share.
    Read,
    /// A share of 64 MiB, written by MiB; counted are the MiB.
    Upload,
}

const ROWS: [(OldOperation, Row); 4] = [
    (OldOperation::SmallShare, asked("share 1 KiB", CONNECTIONS, 5.0, 5.0)),
    (OldOperation::SlotWrite, asked("slot 4 KiB", CONNECTIONS, 5.0, 5.0)),
    (OldOperation::Read, asked("read 44 kB", CONNECTIONS, 5.0, 5.0)),
    (OldOperation::Upload, asked("64 MiB up, by MiB", 4, 3.0, 1.0)),
];

const fn asked(name: &'static str, workers: usize, ratio: f64, cpu: f64) -> Row {
    // The operation of the other protocol is not looked at.
    super::row(name, workloads::Operation::Version, Some(workers), ratio, cpu)
}

/// Measures all rows that are wanted.
///
/// # Errors
/// If a server cannot be started or fails.
pub fn run(arguments: &Arguments, directory: &Path) -> Result<Report> {
    let mut report = Report::new(arguments.rounds, arguments.seconds);
    let venv = Venv::find_or_make()?;
    let wants =
        |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|part| name.contains(part.as_str()));
    for (operation, row) in ROWS.iter().filter(|(_, row)| wants(row.name)) {
        let folder = directory.join(format!("{operation:?}"));
        let workers = row.workers.unwrap_or(arguments.workers);
        let python = PythonServer::start(&venv, "python", &folder)?;
        let (furl, pid) = (python.furl().to_owned(), python.pid());
        let python = Target::prepare(*operation, Running::Python(python), furl, pid)?;
        let ours = Server::start("leasehold", &folder, None)?;
        let (furl, pid) = (ours.announcement().credentials.furl.clone(), ours.pid().context("just started")?);
        let ours = Target::prepare(*operation, Running::Leasehold(ours), furl, pid)?;
        let (mut theirs, mut mine) = (Sample::default(), Sample::default());
        for round in 1..=arguments.rounds {
            for (name, target, sample) in [("Python", &python, &mut theirs), ("ours", &ours, &mut mine)] {
                eprintln!("{}: {name}, round {round}", row.name);
                sample.add(target.load(*operation, workers, arguments)?);
            }
        }
        let many = if workers == MANY_WORKERS || *operation == OldOperation::Upload {
            mine.clone()
        } else {
            eprintln!("{}: ours with {MANY_WORKERS} connections", row.name);
            ours.load(*operation, MANY_WORKERS, arguments)?
        };
        report.rows.push(RowResult::new(row, workers, &theirs, &mine, &many));
    }
    Ok(report)
}

/// A running server with what the workers need.
struct Target {
    _server: Running,
    furl: String,
    pid: u32,
    /// The bucket that is read.
    index: [u8; 16],
}

impl Target {
    fn prepare(operation: OldOperation, server: Running, furl: String, pid: u32) -> Result<Self> {
        let target = Self { _server: server, furl, pid, index: StdRng::from_os_rng().random() };
        if operation == OldOperation::Read {
            workloads::block_on(async {
                let storage = OldClient::new(&target.furl)?.enter().await?;
                let mut bytes = vec![0; READ_SHARE_BYTES as usize];
                StdRng::from_os_rng().fill_bytes(&mut bytes);
                upload(&storage, &target.index, &bytes.into(), |_| ()).await
            })?;
        }
        Ok(target)
    }

    fn load(&self, operation: OldOperation, workers: usize, arguments: &Arguments) -> Result<Sample> {
        let window = Duration::from_secs_f64(arguments.seconds);
        let shape = Shape { threads: arguments.threads, warm_up: WARM_UP, window };
        let workers = (0..workers).map(|_| Worker { operation, furl: self.furl.clone(), index: self.index });
        load::measure(&[self.pid], workers.collect(), shape, generate)
    }
}

#[derive(Clone)]
struct Worker {
    operation: OldOperation,
    furl: String,
    index: [u8; 16],
}

/// One thread of the generator.
fn generate(workers: Vec<Worker>, connected: &Barrier, mut window: Announced) -> Result<Sample> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut opened = Vec::new();
        for worker in &workers {
            opened.push(OldClient::new(&worker.furl)?.enter().await);
        }
        // Also after a failure, or the others would wait for ever.
        connected.wait().await;
        let window = (*window.wait_for(Option::is_some).await?).context("the window was announced")?;
        let mut running = tokio::task::JoinSet::new();
        for (worker, storage) in workers.into_iter().zip(opened) {
            running.spawn(worker.work(storage?, window));
        }
        let mut sample = Sample::default();
        while let Some(done) = running.join_next().await {
            sample.add(done.context("a worker panicked")??);
        }
        Ok(sample)
    })
}

impl Worker {
    async fn work(self, storage: Storage, window: load::Window) -> Result<Sample> {
        let mut sample = Sample::default();
        let mut random = StdRng::from_os_rng();
        let length = match self.operation {
            OldOperation::SmallShare => SMALL_BYTES,
            OldOperation::SlotWrite => SLOT_BYTES,
            OldOperation::Read => 0,
            OldOperation::Upload => LARGE_BYTES as usize,
        };
        let mut bytes = vec![0; length];
        random.fill_bytes(&mut bytes);
        let bytes = Bytes::from(bytes);
        let reader = match self.operation {
            OldOperation::Read => Some(storage.buckets(&self.index).await?.pop().context("a share to read")?.1),
            _ => None,
        };
        let slot: [u8; 16] = random.random();
        while window.is_open() {
            let began = Instant::now();
            let index: [u8; 16] = random.random();
            match (self.operation, &reader) {
                (OldOperation::SmallShare, _) => upload(&storage, &index, &bytes, |_| ()).await?,
                (OldOperation::SlotWrite, _) => {
                    storage.write_slot(&slot, bytes.clone()).await?;
                }
                (OldOperation::Read, Some(reader)) => {
                    let offset = random.random_range(0..READ_SHARE_BYTES - READ_BYTES);
                    let got = read(reader, offset, READ_BYTES).await?;
                    ensure!(got.len() as u64 == READ_BYTES, "{} bytes were read", got.len());
                }
                (OldOperation::Read, None) => unreachable!("a reader was made"),
                (OldOperation::Upload, _) => {
                    let mut began = began;
                    let counted = |length| {
                        window.count(&mut sample, std::mem::replace(&mut began, Instant::now()), length);
                    };
                    upload(&storage, &index, &bytes, counted).await?;
                    continue;
                }
            }
            window.count(&mut sample, began, length.max(reader.as_ref().map_or(0, |_| READ_BYTES as usize)) as u64);
        }
        Ok(sample)
    }
}

/// Uploads a share as the released client does; `written` is told of each part.
async fn upload(storage: &Storage, index: &[u8; 16], bytes: &Bytes, mut written: impl FnMut(u64)) -> Result<()> {
    let (_, writers) = storage.allocate(index, &[0], bytes.len() as u64).await?;
    let writer = &writers.first().context("the server grants no share")?.1;
    let mut offset = 0;
    while offset < bytes.len() as u64 {
        let end = (offset + PIECE_BYTES).min(bytes.len() as u64);
        write(writer, offset, bytes.slice(offset as usize..end as usize)).await?;
        written(end - offset);
        offset = end;
    }
    close(writer).await?;
    Ok(())
}
