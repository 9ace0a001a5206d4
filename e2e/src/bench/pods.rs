//! Pods over PostgreSQL and S3, against what these do by themselves in the same run: one pod, and three.
//!
//! Rounds alternate between the store alone, one pod and three pods. PostgreSQL syncs its commits here. Pods are reached
//! directly, not through the tests' balancer, which would take its share of the machine.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::load::{self, Loaded, Sample, Shape};
use super::process_stat::{self, Memory};
use super::raw_postgres::{self, Empty};
use super::raw_s3::{self, Direct};
use super::workloads::{self, Operation, Prepared};
use super::{Arguments, MANY_WORKERS, WARM_UP};
use crate::gbs::Nurl;
use crate::leasehold::Server;
use crate::pods::{Pods, PodsOptions};
use crate::process::Explain;

/// Pods of the larger deployment.
const MANY_PODS: usize = 3;
/// Connections to the database that all pods of a deployment have together, and as many without any pod.
const CONNECTIONS: usize = 24;
/// Every read shall be a read of the store. Background work is a job of its own, and left to it.
const S3: &str = "read_cache = 0";
const CONFIG: &str = "[jobs]\ncollect_interval_seconds = 0\n";

/// What the store alone is asked for.
#[derive(Clone, Copy)]
enum Raw {
    /// One request for each of the operations.
    Objects(Direct),
    /// So many commits for each of the operations.
    Commits(u32),
}

struct Row {
    name: &'static str,
    operation: Operation,
    workers: Option<usize>,
    raw: Raw,
    asked_ratio: f64,
}

const ROWS: [Row; 4] = [
    Row {
        name: "64 MiB up, by MiB",
        operation: Operation::Upload,
        workers: None,
        raw: Raw::Objects(Direct::Put),
        asked_ratio: 0.7,
    },
    Row {
        name: "64 MiB down, by MiB",
        operation: Operation::Download,
        workers: None,
        raw: Raw::Objects(Direct::Get),
        asked_ratio: 0.7,
    },
    Row {
        name: "share 1 KiB",
        operation: Operation::SmallShare,
        workers: Some(MANY_WORKERS),
        raw: Raw::Commits(2),
        asked_ratio: 0.6,
    },
    Row {
        name: "rtw 4 KiB",
        operation: Operation::ReadTestWrite,
        workers: Some(MANY_WORKERS),
        raw: Raw::Commits(1),
        asked_ratio: 0.6,
    },
];

/// A deployment with what its workers need.
struct Target {
    pods: Pods,
    loaded: Vec<Loaded>,
    prepared: Prepared,
}

/// What was measured of one row.
#[derive(Default)]
struct Measured {
    /// What the store alone reaches, in operations a second.
    raw: f64,
    /// The same with transactions that are truly empty.
    raw_nothing: Option<f64>,
    /// How many objects of 1 KiB the store takes in a second: each small share and each write is one beside its commits.
    raw_objects: Option<f64>,
    one: Sample,
    many: Sample,
}

/// Measures and gives the table.
///
/// # Errors
/// If a service or a pod does not start, or fails.
pub fn run(arguments: &Arguments, directory: &Path) -> Result<String> {
    let mut random = StdRng::from_os_rng();
    let wants =
        |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|part| name.contains(part.as_str()));
    let rows: Vec<&Row> = ROWS.iter().filter(|row| wants(row.name)).collect();
    let mut text = String::new();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    writeln!(
        text,
        "{processors} processors, shared by pods, PostgreSQL, MinIO and the load generator; {} rounds of {} s each; \
         {CONNECTIONS} connections to a PostgreSQL that syncs its commits; no read cache, no merging meanwhile",
        arguments.rounds, arguments.seconds
    )?;
    if !rows.is_empty() {
        let one = Target::start("one", 1, directory, &mut random)?;
        let many = Target::start("many", MANY_PODS, directory, &mut random)?;
        raw_s3::prepare(one.pods.services.store, &one.pods.services.bucket)?;
        let mut lines = vec![headings()];
        for row in rows {
            let cells = measure(row, arguments, &one, &many, &mut random)?.cells(row, arguments);
            // Not to be lost if a later row fails.
            say(&cells.join(" | "));
            lines.push(cells);
        }
        write_table(&mut text, &lines);
        text.push_str(
            "asked is the ratio to the store alone: signed requests for objects of 1 MiB, or synced commits of \
             nothing divided by those that the operation needs; in brackets by transactions that sync nothing either\n\
             objects alone: signed requests that write 1 KiB, of which a small share and a write of a slot need one beside their commits\n\
             CPU per operation; services and others is what PostgreSQL, MinIO and everybody else on the machine took\n",
        );
    }
    if wants("memory") {
        text.push_str(&memory(arguments, directory, &mut random)?);
    }
    Ok(text)
}

impl Target {
    fn start(name: &str, pods: usize, directory: &Path, random: &mut StdRng) -> Result<Self> {
        say(&format!("starting {pods} pods"));
        let options = PodsOptions {
            pods,
            durable: true,
            direct: true,
            connections_max: CONNECTIONS / pods,
            s3: S3.to_owned(),
            config: CONFIG.to_owned(),
            ..PodsOptions::default()
        };
        let pods = Pods::start(name, &directory.join(name), &options)?;
        let loaded = loaded(&pods)?;
        let prepared = workloads::block_on(Prepared::store(&loaded[0].nurl, &[Operation::Download], random))?;
        Ok(Self { pods, loaded, prepared })
    }

    fn load(&self, operation: Operation, workers: usize, shape: Shape, random: &mut StdRng) -> Result<Sample> {
        let workers = self.prepared.workers(operation, workers, random);
        load::run(&self.loaded, workers, shape).explain(|| self.pods.log_tails())
    }
}

fn measure(row: &Row, arguments: &Arguments, one: &Target, many: &Target, random: &mut StdRng) -> Result<Measured> {
    let window = Duration::from_secs_f64(arguments.seconds);
    let shape = Shape { threads: arguments.threads, warm_up: WARM_UP, window };
    let workers = row.workers.unwrap_or(arguments.workers);
    let services = &one.pods.services;
    let (mut measured, rounds) = (Measured::default(), arguments.rounds as f64);
    for round in 1..=arguments.rounds {
        say(&format!("{}: the store alone, round {round}", row.name));
        match row.raw {
            Raw::Objects(direct) => {
                let rate =
                    raw_s3::rate(services.store, &services.bucket, direct, random.random(), workers, WARM_UP, window)?;
                measured.raw += rate / rounds;
            }
            Raw::Commits(commits) => {
                let rate = |empty| raw_postgres::rate(&services.primary, empty, CONNECTIONS, WARM_UP, window);
                measured.raw += rate(Empty::Synced)? / f64::from(commits) / rounds;
                let nothing = rate(Empty::Nothing)? / f64::from(commits) / rounds;
                *measured.raw_nothing.get_or_insert_default() += nothing;
                let (store, bucket, run) = (services.store, &services.bucket, random.random());
                let objects = raw_s3::rate(store, bucket, Direct::PutSmall, run, workers, WARM_UP, window)?;
                *measured.raw_objects.get_or_insert_default() += objects / rounds;
            }
        }
        say(&format!("{}: one pod, round {round}", row.name));
        measured.one.add(one.load(row.operation, workers, shape, random)?);
        say(&format!("{}: {MANY_PODS} pods, round {round}", row.name));
        measured.many.add(many.load(row.operation, workers, shape, random)?);
    }
    Ok(measured)
}

fn headings() -> Vec<String> {
    let first = ["operation", "workers", "store alone/s", "one pod/s", "ratio", "three pods/s", "ratio", "asked"];
    let objects = ["objects alone/s", "ratio"];
    let second = ["pods CPU ms", "of three", "generator", "services and others", "p50 ms", "p99 ms", ""];
    first.iter().chain(&objects).chain(&second).map(ToString::to_string).collect()
}

impl Measured {
    fn cells(&self, row: &Row, arguments: &Arguments) -> Vec<String> {
        let ratio = |sample: &Sample| sample.rate() / self.raw;
        let nothing = |sample: &Sample| match self.raw_nothing {
            Some(nothing) => format!("{:.2} ({:.2})", ratio(sample), sample.rate() / nothing),
            None => format!("{:.2}", ratio(sample)),
        };
        let missed = ratio(&self.one).max(ratio(&self.many)) < row.asked_ratio;
        let others = self.one.foreign_cpu.as_secs_f64() * 1e3 / self.one.operations.max(1) as f64;
        vec![
            row.name.to_owned(),
            row.workers.unwrap_or(arguments.workers).to_string(),
            format!("{:.0}", self.raw),
            format!("{:.0}", self.one.rate()),
            nothing(&self.one),
            format!("{:.0}", self.many.rate()),
            nothing(&self.many),
            format!("≥{}", row.asked_ratio),
            self.raw_objects.map_or("-".to_owned(), |objects| format!("{objects:.0}")),
            self.raw_objects.map_or("-".to_owned(), |objects| format!("{:.2}", self.one.rate() / objects)),
            format!("{:.2}", self.one.cpu_ms()),
            format!("{:.2}", self.many.cpu_ms()),
            format!("{:.2}", self.one.generator_cpu_ms()),
            format!("{others:.2}"),
            format!("{:.1}", self.one.quantile_ms(0.5)),
            format!("{:.1}", self.one.quantile_ms(0.99)),
            if missed { "missed".to_owned() } else { String::new() },
        ]
    }
}

fn write_table(text: &mut String, lines: &[Vec<String>]) {
    let widths: Vec<usize> = (0..lines[0].len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    for cells in lines {
        let mut line = format!("{:<width$}", cells[0], width = widths[0]);
        for (cell, width) in cells.iter().zip(&widths).skip(1) {
            let _ = write!(line, " | {cell:>width$}");
        }
        let _ = writeln!(text, "{}", line.trim_end_matches([' ', '|']));
    }
}

/// Loads a pod of the default configuration with many connections, half of them up and half down, and looks at what it
/// holds.
fn memory(arguments: &Arguments, directory: &Path, random: &mut StdRng) -> Result<String> {
    say("memory");
    let options = PodsOptions { pods: 1, durable: true, direct: true, ..PodsOptions::default() };
    let pods = Pods::start("memory", &directory.join("memory"), &options)?;
    let loaded = loaded(&pods)?;
    let prepared = workloads::block_on(Prepared::store(&loaded[0].nurl, &[Operation::Download], random))?;
    process_stat::reset_peak(loaded[0].pid)?;
    let connections = arguments.connections;
    let mut workers = prepared.workers(Operation::Upload, connections / 2, random);
    workers.extend(prepared.workers(Operation::Download, connections - connections / 2, random));
    let window = Duration::from_secs_f64(arguments.seconds * 4.0);
    let shape = Shape { threads: arguments.threads, warm_up: WARM_UP, window };
    let sample = load::run(&loaded, workers, shape).explain(|| pods.log_tails())?;
    let Memory { peak_bytes, anonymous_bytes, .. } = process_stat::memory(loaded[0].pid)?;
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    Ok(format!(
        "memory of a pod with {connections} connections moving shares of 64 MiB: peak {:.1} MiB resident (asked < 256), \
         {:.1} MiB anonymous at the end, {:.0} MB/s\n",
        mebibytes(peak_bytes),
        mebibytes(anonymous_bytes),
        sample.megabytes_per_second()
    ))
}

/// The processes of a deployment, reached past its balancer.
fn loaded(pods: &Pods) -> Result<Vec<Loaded>> {
    let of_server = |server: &Server| {
        let mut nurl: Nurl = server.announcement().credentials.nurl.parse()?;
        nurl.port = server.announcement().listen.parse::<SocketAddr>()?.port();
        Ok(Loaded { nurl, pid: server.pid().context("the pod was just started")? })
    };
    pods.servers.iter().map(of_server).collect()
}

fn say(what: &str) {
    eprintln!("{what}");
}
