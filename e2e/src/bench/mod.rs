//! The benchmark: ours and the Python 1.20.0 server side by side on one machine, in one run, on one disk.
//!
//! Rounds alternate between the two, so that a disturbance of the machine hits both. The server's CPU time per operation
//! is the figure that noise spoils least. A benchmark prints; it never asserts.

mod crawl;
mod disk;
mod foolscap;
mod load;
mod memory;
mod pods;
mod process_stat;
mod raw_postgres;
mod raw_s3;
mod report;
mod workloads;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::gbs::Nurl;
use crate::leasehold::Server;
use crate::reference::PythonServer;
use crate::venv::{Venv, workspace_root};
use load::{Loaded, Sample, Shape};
use report::{Report, RowResult};
use workloads::{Operation, Prepared};

const WARM_UP: Duration = Duration::from_millis(500);
/// Workers of the latency figures and of the rows that name this number.
const MANY_WORKERS: usize = 64;
const NO_SLACK: &str = "[leases]\nrenewal_slack_seconds = 0\n";

/// Compares the server with the Python 1.20.0 server and prints a table.
#[derive(Debug, Parser)]
#[command(name = "cargo dev bench", no_binary_name = true)]
struct Arguments {
    /// Instead of the Python server, measure pods against their own PostgreSQL and S3 server.
    #[arg(long)]
    pods: bool,
    /// Instead of the Python server's requests, measure the accounting crawler on large stores.
    #[arg(long, conflicts_with_all = ["pods", "foolscap"])]
    crawl: bool,
    /// Shares of the larger store that the crawler is measured on; there is one of a tenth as well.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(100..=10_000_000))]
    shares: u64,
    /// With --crawl: keep what is made in this folder, and use what is there, so that parts can be measured one by one.
    #[arg(long, value_name = "DIR", requires = "crawl")]
    keep: Option<PathBuf>,
    /// Speak Foolscap with both servers, as old clients do.
    #[arg(long, conflicts_with = "pods")]
    foolscap: bool,
    /// Length of one round in seconds; each row has as many rounds on each server as --rounds says.
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    seconds: f64,
    /// Rounds of each row on each server.
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Only the rows (and `disk`, `memory`) whose name contains one of these. With --crawl: `tenth/` or `whole/` with
    /// `making`, `python`, `python-with-pauses`, `sqlite` or `postgresql`; and `clients`.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Workers of the rows that do not name a number.
    #[arg(long, default_value_t = 8)]
    workers: usize,
    /// Threads of the load generator.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Which server to measure.
    #[arg(long, value_enum, default_value_t = Which::Both)]
    server: Which,
    /// Where to make the data directories of all servers; they are removed at the end.
    #[arg(long)]
    data_dir_base: Option<PathBuf>,
    /// Connections of the memory test.
    #[arg(long, default_value_t = 500)]
    connections: usize,
    /// Also write all figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Arguments {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if value > 0.0 && value <= 600.0 { Ok(value) } else { Err("must be above 0 and at most 600".to_owned()) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    Leasehold,
    Python,
    Both,
}

/// A row of the table: what is done, by how many workers, and what is asked of it.
struct Row {
    name: &'static str,
    operation: Operation,
    /// `None`: what the command line says.
    workers: Option<usize>,
    no_slack: bool,
    asked_ratio: f64,
    asked_cpu_ratio: f64,
}

const ROWS: [Row; 8] = [
    row("version", Operation::Version, None, 8.0, 10.0),
    row("list", Operation::List, None, 6.0, 8.0),
    row("lease", Operation::Lease, None, 6.0, 8.0),
    Row { no_slack: true, ..row("lease, slack 0", Operation::Lease, None, 6.0, 8.0) },
    row("share 1 KiB", Operation::SmallShare, Some(MANY_WORKERS), 5.0, 8.0),
    row("rtw 4 KiB", Operation::ReadTestWrite, Some(MANY_WORKERS), 4.0, 6.0),
    row("64 MiB up, by MiB", Operation::Upload, None, 1.5, 2.0),
    row("64 MiB down, by MiB", Operation::Download, None, 2.0, 2.0),
];

const fn row(name: &'static str, operation: Operation, workers: Option<usize>, ratio: f64, cpu: f64) -> Row {
    Row { name, operation, workers, no_slack: false, asked_ratio: ratio, asked_cpu_ratio: cpu }
}

/// A running server with what the workers need.
struct Target {
    /// Held, so that the process is killed at the end.
    _server: Running,
    nurl: Nurl,
    pid: u32,
    prepared: Prepared,
}

/// Either server.
enum Running {
    Python(#[expect(dead_code, reason = "only held")] PythonServer),
    Leasehold(#[expect(dead_code, reason = "only held")] Server),
}

/// Runs the benchmark with the arguments that follow `cargo dev bench`.
///
/// # Errors
/// If a server cannot be started or fails.
pub fn main(arguments: &[String]) -> Result<()> {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    let base = arguments.data_dir_base.clone().unwrap_or_else(|| workspace_root().join(".leasehold-dev"));
    fs::create_dir_all(&base).with_context(|| format!("create {}", base.display()))?;
    let directory = tempfile::Builder::new().prefix("bench-").tempdir_in(&base)?;
    if arguments.pods {
        print!("{}", pods::run(&arguments, directory.path())?);
        return Ok(());
    }
    if arguments.crawl {
        return crawl::run(&arguments, directory.path());
    }
    let report = if arguments.foolscap {
        foolscap::run(&arguments, directory.path())?
    } else {
        Bench::new(&arguments, directory.path()).run()?
    };
    print!("{}", report.to_text());
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

struct Bench<'a> {
    arguments: &'a Arguments,
    directory: &'a Path,
    random: StdRng,
    progress: ProgressBar,
}

impl<'a> Bench<'a> {
    fn new(arguments: &'a Arguments, directory: &'a Path) -> Self {
        let progress = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{elapsed_precise} {bar:30} {pos}/{len} {wide_msg}");
        progress.set_style(style.expect("a constant template"));
        Self { arguments, directory, random: StdRng::from_os_rng(), progress }
    }

    fn run(mut self) -> Result<Report> {
        let rows: Vec<&Row> = ROWS.iter().filter(|row| self.wants(row.name)).collect();
        let phases = rows.len() * self.arguments.rounds * 2 + rows.len() + 3;
        self.progress.set_length(phases as u64);
        let mut report = Report::new(self.arguments.rounds, self.arguments.seconds);
        if self.wants("disk") {
            self.say("raw disk");
            let window = Duration::from_secs_f64(self.arguments.seconds);
            report.disk = disk::measure(self.directory, self.arguments.workers, MANY_WORKERS, window)?;
        }
        for row in rows {
            let result = self.row(row)?;
            report.rows.push(result);
        }
        if self.wants("memory") && self.measures(Which::Leasehold) {
            self.say("memory");
            let window = Duration::from_secs_f64(self.arguments.seconds * 4.0);
            let connections = self.arguments.connections;
            report.memory = Some(memory::measure(self.directory, connections, window, &mut self.random)?);
        }
        self.progress.finish_and_clear();
        Ok(report)
    }

    /// Measures a row: rounds in turn, and the latencies with many workers if the row has few. Each row has servers and
    /// data directories of its own, so that no row lives with what another left.
    fn row(&mut self, row: &Row) -> Result<RowResult> {
        let workers = row.workers.unwrap_or(self.arguments.workers);
        let (mut python, mut ours) = (Sample::default(), Sample::default());
        let python_target = self.measures(Which::Python).then(|| self.start_python(row)).transpose()?;
        let our_target = self.measures(Which::Leasehold).then(|| self.start_ours(row)).transpose()?;
        for round in 1..=self.arguments.rounds {
            for (name, target, sample) in [("Python", &python_target, &mut python), ("ours", &our_target, &mut ours)] {
                if let Some(target) = target {
                    self.say(&format!("{}: {name}, round {round}", row.name));
                    sample.add(self.load(target, row.operation, workers)?);
                }
            }
        }
        let mut latencies = ours.clone();
        if let Some(target) = our_target.as_ref().filter(|_| workers != MANY_WORKERS) {
            self.say(&format!("{}: ours with {MANY_WORKERS} workers", row.name));
            latencies = self.load(target, row.operation, MANY_WORKERS)?;
        }
        drop((python_target, our_target));
        self.remove_row(row)?;
        Ok(RowResult::new(row, workers, &python, &ours, &latencies))
    }

    fn load(&mut self, target: &Target, operation: Operation, workers: usize) -> Result<Sample> {
        // Python leaves its writes to the kernel; what is still to be written must not burden the next round.
        let _ = Command::new("sync").arg("--file-system").arg(self.directory).status();
        let shape = Shape {
            threads: self.arguments.threads,
            warm_up: WARM_UP,
            window: Duration::from_secs_f64(self.arguments.seconds),
        };
        let workers = target.prepared.workers(operation, workers, &mut self.random);
        load::run(&[Loaded { nurl: target.nurl.clone(), pid: target.pid }], workers, shape)
    }

    fn start_python(&mut self, row: &Row) -> Result<Target> {
        let venv = Venv::find_or_make()?;
        let server = PythonServer::start(&venv, "python", &self.row_directory(row))?;
        let (nurl, pid) = (server.nurl().clone(), server.pid());
        self.prepare(row, Running::Python(server), nurl, pid)
    }

    fn start_ours(&mut self, row: &Row) -> Result<Target> {
        let server = Server::start("leasehold", &self.row_directory(row), row.no_slack.then_some(NO_SLACK))?;
        let nurl = server.announcement().credentials.nurl.parse()?;
        let pid = server.pid().context("the server was just started")?;
        self.prepare(row, Running::Leasehold(server), nurl, pid)
    }

    fn prepare(&mut self, row: &Row, server: Running, nurl: Nurl, pid: u32) -> Result<Target> {
        self.progress.set_message(format!("{}: preparing", row.name));
        let prepared = workloads::block_on(Prepared::store(&nurl, &[row.operation], &mut self.random))?;
        Ok(Target { _server: server, nurl, pid, prepared })
    }

    fn row_directory(&self, row: &Row) -> PathBuf {
        let name: String = row.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        self.directory.join(name)
    }

    fn remove_row(&self, row: &Row) -> Result<()> {
        fs::remove_dir_all(self.row_directory(row)).context("cannot remove the data of a row")
    }

    fn say(&self, what: &str) {
        self.progress.inc(1);
        if self.progress.is_hidden() {
            eprintln!("{what}");
        } else {
            self.progress.set_message(what.to_owned());
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.arguments.wants(name)
    }

    fn measures(&self, which: Which) -> bool {
        self.arguments.server == Which::Both || self.arguments.server == which
    }
}
