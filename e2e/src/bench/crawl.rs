//! The accounting crawler on large stores: what it takes for a million shares, on both lease databases, beside the crawler
//! of the Python server on the same tree, and what clients notice of it.
//!
//! The tree is a classic one of small immutable shares, each with a lease, so both crawlers walk the same files. Ours takes
//! it over first (that is a figure as well), and is then measured on what is in order.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use leasehold_e2e_services::{Postgres, PostgresOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;

use super::load::{self, Loaded, Shape};
use super::process_stat;
use super::workloads::{self, Operation, Prepared};
use super::{Arguments, WARM_UP};
use crate::gbs::storage_index_text;
use crate::leasehold::{Server, binary};
use crate::process::run_ok;
use crate::venv::Venv;

const PYTHON_CYCLE: &str = include_str!("../../python/crawl_cycle.py");
const SHARE_BYTES: usize = 100;
/// A command may take so long.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How often is looked how much memory a command has.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const DATABASE: &str = "leasehold";
const WORKERS: usize = 16;
/// No job runs by itself.
const QUIET: &str = "[jobs]\ncollect_interval_seconds = 0\nexpire_interval_seconds = 0\nreconcile_interval_seconds = 0\n\
                     audit_interval_seconds = 0\n[backup]\ninterval_seconds = 0\n";

/// Recovery lasts a quarter of an hour at the least, and in it nothing ends.
const AT_PEACE: &str = "UPDATE deployment SET mode = 0";

/// What a command took.
struct Took {
    seconds: f64,
    cpu_seconds: f64,
    peak_bytes: u64,
}

#[derive(Deserialize)]
struct PythonCycle {
    seconds: f64,
    shares: u64,
}

/// One lease database over the tree.
struct Place<'a> {
    name: &'static str,
    data: PathBuf,
    config: PathBuf,
    postgres: Option<&'a Postgres>,
}

/// Measures and gives the table.
///
/// # Errors
/// If something does not start, or fails.
pub fn run(arguments: &Arguments, directory: &Path) -> Result<String> {
    let mut text = String::new();
    let processors = thread::available_parallelism().map_or(1, usize::from);
    writeln!(
        text,
        "{processors} processors, shared by crawler, PostgreSQL and, where there is one, the load generator"
    )?;
    writeln!(text, "shares    | on         | what                         |  seconds | shares/s | CPU s | peak MiB")?;
    let postgres = Postgres::start(&PostgresOptions { durable: true, ..PostgresOptions::default() })?;
    for shares in [arguments.shares / 10, arguments.shares] {
        // Where a server of this name has its data.
        let data = directory.join(format!("crawl-{shares}")).join("data");
        say(&format!("making a tree of {shares} shares"));
        make_tree(&data, shares)?;
        if shares < arguments.shares {
            python_row(&mut text, &data, shares)?;
        }
        begin_data(&format!("crawl-{shares}"), directory)?;
        let database = format!("{DATABASE}_{shares}");
        postgres.create_database(&database)?;
        let sqlite = Place::new("SQLite", &data, directory, None)?;
        sqlite.rows(&mut text, shares)?;
        if shares == arguments.shares {
            usage_row(&mut text, &sqlite, directory, shares)?;
        }
        // Only now: it takes the first deployment's mark away.
        Place::new("PostgreSQL", &data, directory, Some((&postgres, &database)))?.rows(&mut text, shares)?;
        fs::remove_dir_all(&data).context("cannot remove the tree")?;
    }
    foreground(&mut text, arguments, directory)?;
    Ok(text)
}

/// A classic storage directory: one share of each storage index, with one lease.
fn make_tree(root: &Path, shares: u64) -> Result<()> {
    let mut random = StdRng::seed_from_u64(shares);
    let expires = now_seconds() as u32 + 31 * 86_400;
    for _ in 0..shares {
        let index = storage_index_text(&random.random());
        let folder = root.join("shares").join(&index[..2]).join(&index);
        fs::create_dir_all(&folder)?;
        let mut share = Vec::with_capacity(12 + SHARE_BYTES + 72);
        for word in [1, SHARE_BYTES as u32, 1] {
            share.extend_from_slice(&word.to_be_bytes());
        }
        share.extend((0..SHARE_BYTES).map(|_| random.random::<u8>()));
        share.extend_from_slice(&0u32.to_be_bytes());
        share.extend((0..64).map(|_| random.random::<u8>()));
        share.extend_from_slice(&expires.to_be_bytes());
        fs::File::create(folder.join("0"))?.write_all(&share)?;
    }
    Ok(())
}

/// Makes the tree of this name a server's data directory, as its first start does.
fn begin_data(name: &str, directory: &Path) -> Result<()> {
    Server::start(name, directory, Some(QUIET))?.terminate()
}

/// The Python server's crawler goes through the tree, at full speed.
fn python_row(text: &mut String, data: &Path, shares: u64) -> Result<()> {
    say("the crawler of the Python server");
    let script = data.join("crawl_cycle.py");
    fs::write(&script, PYTHON_CYCLE)?;
    let printed = run_ok(Venv::find_or_make()?.python().arg(&script).arg(data), PATIENCE)?;
    let cycle: PythonCycle = serde_json::from_str(&printed).context("the Python crawler printed no JSON")?;
    ensure!(cycle.shares == shares, "the Python crawler examined {} shares of {shares}", cycle.shares);
    let rate = shares as f64 / cycle.seconds;
    let what = "a cycle, without its pauses";
    writeln!(text, "{shares:<9} | {:<10} | {what:<28} | {:>8.1} | {rate:>8.0} |       |", "Python", cycle.seconds)?;
    for file in ["crawl_cycle.py", "lease_checker.state.json", "lease_checker.history.json"] {
        drop(fs::remove_file(data.join(file)));
    }
    Ok(())
}

impl<'a> Place<'a> {
    fn new(name: &'static str, data: &Path, directory: &Path, postgres: Option<(&'a Postgres, &str)>) -> Result<Self> {
        let mut config = "[expire]\nenabled = true\nmode = \"age\"\n".to_owned();
        if let Some((postgres, database)) = postgres {
            let tls = "disable";
            write!(
                config,
                "[database]\nhost = \"127.0.0.1\"\nport = {}\nname = \"{database}\"\nuser = \"{}\"\ntls = \"{tls}\"\n",
                postgres.port(),
                leasehold_e2e_services::postgres::SUPERUSER,
            )?;
        }
        let file = directory.join(format!("{name}.toml"));
        fs::write(&file, config)?;
        let place = Self { name, data: data.to_owned(), config: file, postgres: postgres.map(|(server, _)| server) };
        if place.postgres.is_some() {
            // Another deployment on the same tree: the first one's mark must not be in its way.
            drop(fs::remove_dir_all(data.join("meta")));
            place.command(&["migrate"])?;
        }
        Ok(place)
    }

    fn rows(&self, text: &mut String, shares: u64) -> Result<()> {
        let mut row = |what: &str, took: &Took| {
            let rate = shares as f64 / took.seconds;
            let peak = took.peak_bytes as f64 / f64::from(1 << 20);
            writeln!(
                text,
                "{shares:<9} | {:<10} | {what:<28} | {:>8.1} | {rate:>8.0} | {:>5.1} | {peak:>8.1}",
                self.name, took.seconds, took.cpu_seconds
            )
        };
        row("reconcile, taking over", &self.command(&["reconcile"])?)?;
        row("reconcile, all in order", &self.command(&["reconcile"])?)?;
        row("audit", &self.command(&["audit"])?)?;
        row("backup", &self.command(&["backup"])?)?;
        self.let_a_tenth_lapse()?;
        row("expire, dry run", &self.command(&["expire", "--dry-run"])?)?;
        row("expire, a tenth lapsed", &self.command(&["expire"])?)?;
        row("collect, a tenth unleased", &self.command(&["collect"])?)?;
        Ok(())
    }

    /// Runs a command of the program to its end.
    fn command(&self, arguments: &[&str]) -> Result<Took> {
        say(&format!("{}: leasehold {}", self.name, arguments.join(" ")));
        let mut command = Command::new(binary()?);
        command.args(arguments).arg("--data-dir").arg(&self.data).arg("--config").arg(&self.config);
        let begin = Instant::now();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("cannot start")?;
        let (mut peak_bytes, mut cpu) = (0, Duration::ZERO);
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            ensure!(begin.elapsed() < PATIENCE, "{command:?} does not end");
            if let (Ok(memory), Ok(time)) = (process_stat::memory(child.id()), process_stat::cpu_time(child.id())) {
                (peak_bytes, cpu) = (memory.peak_bytes, time);
            }
            thread::sleep(LOOK_EVERY);
        };
        let seconds = begin.elapsed().as_secs_f64();
        let mut errors = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            std::io::Read::read_to_string(&mut stderr, &mut errors)?;
        }
        ensure!(status.success(), "{command:?} ended with {status}: {errors}");
        Ok(Took { seconds, cpu_seconds: cpu.as_secs_f64(), peak_bytes })
    }

    /// Moves the leases of a tenth of all storage indexes into the past.
    fn let_a_tenth_lapse(&self) -> Result<()> {
        let past = now_seconds() - 100 * 86_400;
        let set = format!("UPDATE leases SET renewed_at = {past}, expires_at = {past} + 5356800 WHERE si <");
        match self.postgres {
            Some(postgres) => {
                let database = fs::read_to_string(&self.config)?;
                let name = database.split("name = \"").nth(1).and_then(|rest| rest.split('"').next());
                let name = name.context("a database")?;
                let sql = format!("{set} '19999999-9999-9999-9999-999999999999'");
                postgres.query(name, &format!("SET search_path = leasehold; {AT_PEACE}; {sql}; ANALYZE"))?;
            }
            None => self.sqlite(&format!("{AT_PEACE}; {set} x'19999999999999999999999999999999'"))?,
        }
        Ok(())
    }

    fn sqlite(&self, sql: &str) -> Result<()> {
        let program = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\nc.executescript(sys.argv[2])\nc.commit()";
        let file = self.data.join("leases.sqlite");
        let mut command = Venv::find_or_make()?.python();
        run_ok(command.args(["-c", program]).arg(file).arg(sql), PATIENCE).map(drop)
    }
}

/// How fast the usage of an account is told that has all leases.
fn usage_row(text: &mut String, place: &Place<'_>, directory: &Path, shares: u64) -> Result<()> {
    say("usage of an account");
    let mut server = Server::start(&format!("crawl-{shares}"), directory, Some(QUIET))?;
    let nurl: crate::gbs::Nurl = server.announcement().credentials.nurl.parse()?;
    server.terminate()?;
    place.sqlite(
        "UPDATE leases SET account_id = 16;\
         UPDATE accounts SET leased_bytes = (SELECT sum(size_bytes + 12) FROM shares JOIN leases USING (si, shnum)), \
         leased_shares = (SELECT count(*) FROM leases) WHERE account_id = 16;\
         UPDATE accounts SET leased_bytes = 0, leased_shares = 0 WHERE account_id = 1;",
    )?;
    server.restart()?;
    let pid = server.pid().context("the server was just started")?;
    let mut random = StdRng::from_os_rng();
    let prepared = workloads::block_on(Prepared::store(&nurl, &[Operation::Usage], &mut random))?;
    let workers = prepared.workers(Operation::Usage, 1, &mut random);
    let shape = Shape { threads: 1, warm_up: WARM_UP, window: Duration::from_secs(3) };
    let sample = load::run(&[Loaded { nurl, pid }], workers, shape)?;
    writeln!(
        text,
        "usage of an account that holds the leases of {shares} shares: {:.2} ms in the middle, {:.2} ms at most but one in \
         a hundred (asked < 5)",
        sample.quantile_ms(0.5),
        sample.quantile_ms(0.99)
    )?;
    Ok(())
}

/// What clients notice: listings and small shares while the server crawls without a pause, and while it does not.
fn foreground(text: &mut String, arguments: &Arguments, directory: &Path) -> Result<()> {
    let data = directory.join("foreground").join("data");
    say("making a tree for clients and crawler at once");
    make_tree(&data, arguments.shares / 10)?;
    begin_data("foreground", directory)?;
    Place::new("SQLite", &data, directory, None)?.command(&["reconcile"])?;
    let mut server = Server::start("foreground", directory, Some(QUIET))?;
    let nurl: crate::gbs::Nurl = server.announcement().credentials.nurl.parse()?;
    let mut random = StdRng::from_os_rng();
    let operations = [Operation::List, Operation::SmallShare];
    let prepared = workloads::block_on(Prepared::store(&nurl, &operations, &mut random))?;
    let crawling = QUIET.replace("reconcile_interval_seconds = 0", "reconcile_interval_seconds = 1");
    let mut samples = Vec::new();
    for (what, config) in [("undisturbed", QUIET), ("while crawling", crawling.as_str())] {
        server.terminate()?;
        fs::write(directory.join("foreground").join("config.toml"), config)?;
        server.restart()?;
        let loaded = [Loaded { nurl: nurl.clone(), pid: server.pid().context("the server was just started")? }];
        for operation in operations {
            say(&format!("{operation:?}, {what}"));
            let window = Duration::from_secs_f64(arguments.seconds * arguments.rounds as f64);
            let shape = Shape { threads: 1, warm_up: WARM_UP, window };
            samples.push(load::run(&loaded, prepared.workers(operation, WORKERS, &mut random), shape)?);
        }
    }
    for (at, operation) in operations.iter().enumerate() {
        let (alone, beside) = (&samples[at], &samples[at + operations.len()]);
        let (before, during) = (alone.quantile_ms(0.99), beside.quantile_ms(0.99));
        writeln!(
            text,
            "{operation:?} with {WORKERS} workers: 99 of 100 within {before:.2} ms undisturbed, {during:.2} ms while crawling: \
             {:.2} times (asked ≤ 1.5); {:.0}/s and {:.0}/s",
            during / before,
            alone.rate(),
            beside.rate()
        )?;
    }
    Ok(())
}

fn now_seconds() -> i64 {
    #[allow(clippy::disallowed_methods, reason = "leases of a benchmark are about today")]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

fn say(what: &str) {
    eprintln!("{what}");
}
