//! One lease database over a tree, and the commands that are measured on it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use leasehold_e2e_services::Postgres;
use leasehold_e2e_services::postgres::SUPERUSER;
use serde_json::Value;

use super::tree::{Tree, now_seconds};
use super::{PATIENCE, clients, row, say};
use crate::leasehold::{Server, binary};
use crate::process::run_ok;
use crate::venv::Venv;

/// How often is looked how much memory a command has.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const DATABASE: &str = "leasehold";
/// No job runs by itself; leases end, and a tenth of all may go at once.
const CONFIG: &str = "[jobs]\ncollect_interval_seconds = 0\nexpire_interval_seconds = 0\nreconcile_interval_seconds = 0\n\
                      audit_interval_seconds = 0\ncollect_brake_percent = 50\n[backup]\ninterval_seconds = 0\n\
                      [expire]\nenabled = true\nmode = \"age\"\n";

/// What a command took, and what it printed.
pub(super) struct Took {
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    pub(super) peak_bytes: u64,
    answer: Value,
}

/// A server's folder with a lease database; the shares are those of a tree.
pub(super) struct Place<'a> {
    tree: &'a Tree,
    name: &'static str,
    postgres: Option<&'a Postgres>,
}

impl<'a> Place<'a> {
    /// Recovery lasts a quarter of an hour at the least, and in it nothing ends; nor does any lease for its whole length
    /// after a loss, nor goes a share that is younger than a day.
    pub(super) const AT_PEACE: &'static str =
        "UPDATE deployment SET mode = 0; DELETE FROM losses; UPDATE shares SET created_at = created_at - 200000";

    /// The place of this name as it is.
    pub(super) fn of(tree: &'a Tree, name: &'static str, postgres: Option<&'a Postgres>) -> Result<Self> {
        let place = Self { tree, name, postgres };
        let mut config = CONFIG.to_owned();
        if let Some(postgres) = postgres {
            let port = postgres.port();
            write!(
                config,
                "[database]\nhost = \"127.0.0.1\"\nport = {port}\nname = \"{DATABASE}\"\nuser = \"{SUPERUSER}\"\ntls = \"disable\"\n"
            )?;
        }
        fs::create_dir_all(place.root())?;
        fs::write(place.config(), config)?;
        Ok(place)
    }

    /// A copy of the prepared one.
    pub(super) fn sqlite(tree: &'a Tree, name: &'static str) -> Result<Self> {
        let place = Self::of(tree, name, None)?;
        place.copy_prepared()?;
        Ok(place)
    }

    /// One that is filled from the backup of the prepared one.
    pub(super) fn postgres(tree: &'a Tree, name: &'static str, postgres: &'a Postgres) -> Result<Self> {
        let place = Self::of(tree, name, Some(postgres))?;
        place.copy_prepared()?;
        for file in ["leases.sqlite", "leases.sqlite-wal", "leases.sqlite-shm"] {
            drop(fs::remove_file(place.data().join(file)));
        }
        postgres.create_database(DATABASE)?;
        place.command(&["migrate"])?;
        row(tree.shares(), place.shown(), "restore from a backup", &place.command(&["restore"])?);
        place.execute(&format!("{}; ANALYZE", Self::AT_PEACE))?;
        Ok(place)
    }

    fn copy_prepared(&self) -> Result<()> {
        drop(fs::remove_dir_all(self.data()));
        run_ok(Command::new("cp").arg("-a").arg(self.tree.prepared()).arg(self.data()), PATIENCE).map(drop)
    }

    fn root(&self) -> PathBuf {
        self.tree.folder().join(self.name)
    }

    pub(super) fn data(&self) -> PathBuf {
        self.root().join("data")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.root().join("config.toml")
    }

    pub(super) fn shown(&self) -> &'static str {
        if self.postgres.is_some() { "PostgreSQL" } else { "SQLite" }
    }

    /// Starts a server on it, in which no job runs by itself.
    pub(super) fn serve(&self) -> Result<Server> {
        Server::start(self.name, self.tree.folder(), None)
    }

    pub(super) fn measure(&self) -> Result<()> {
        let shares = self.tree.shares();
        let measured = |what: &str, arguments: &[&str]| -> Result<Value> {
            let took = self.command(arguments)?;
            row(shares, self.shown(), what, &took);
            Ok(took.answer)
        };
        let reconciled = measured("reconcile, all in order", &["reconcile"])?;
        ensure!(reconciled["totals"]["shares"] == shares, "not all was compared: {reconciled}");
        measured("audit", &["audit"])?;
        measured("backup", &["backup"])?;
        self.give_all_to_one()?;
        clients::usage(self)?;
        self.let_a_tenth_lapse()?;
        let dry = measured("expire, dry run", &["expire", "--dry-run"])?;
        let expired = measured("expire, a tenth lapsed", &["expire"])?;
        let lapsed = expired["removed_leases"].as_u64().unwrap_or_default();
        ensure!(lapsed.abs_diff(shares / 10) < shares / 50, "not a tenth lapsed: {expired}");
        ensure!(dry["ended_leases"] == lapsed && expired["leases"] == shares, "the dry run said {dry}");
        let collected = measured("collect, a tenth unleased", &["collect"])?;
        ensure!(collected["shares_retired"] == lapsed, "not all were retired: {collected}");
        Ok(())
    }

    /// Runs a command of the program to its end.
    pub(super) fn command(&self, arguments: &[&str]) -> Result<Took> {
        say(&format!("{}: leasehold {}", self.shown(), arguments.join(" ")));
        let printed = self.root().join("printed.json");
        let mut command = Command::new(binary()?);
        command.args(arguments).arg("--config").arg(self.config()).args(["--output", "json", "--data-dir"]);
        command.arg(self.data()).stdout(fs::File::create(&printed)?).stderr(Stdio::piped());
        let begin = Instant::now();
        let mut child = command.spawn().context("cannot start")?;
        let (mut peak_bytes, mut cpu) = (0, Duration::ZERO);
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            ensure!(begin.elapsed() < PATIENCE, "{command:?} does not end");
            if let (Ok(memory), Ok(time)) =
                (super::super::process_stat::memory(child.id()), super::super::process_stat::cpu_time(child.id()))
            {
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
        let answer = serde_json::from_str(&fs::read_to_string(&printed)?).unwrap_or_default();
        Ok(Took { seconds, cpu_seconds: cpu.as_secs_f64(), peak_bytes, answer })
    }

    /// Moves the leases of a tenth of all storage indexes into the past.
    fn let_a_tenth_lapse(&self) -> Result<()> {
        let past = now_seconds() - 100 * 86_400;
        let set = format!("UPDATE leases SET renewed_at = {past}, expires_at = {past} + 5356800 WHERE si <");
        match self.postgres {
            Some(_) => self.execute(&format!("{set} '19999999-9999-9999-9999-999999999999'; ANALYZE")),
            None => self.execute(&format!("{set} x'19999999999999999999999999999999'")),
        }
    }

    /// The first account holds all leases from now on.
    fn give_all_to_one(&self) -> Result<()> {
        let one = "(SELECT account_id FROM accounts WHERE name = 'default')";
        let sums = "(SELECT sum(size_bytes + 12) FROM shares), leased_shares = (SELECT count(*) FROM leases)";
        let counters = if self.postgres.is_some() { "account_usage" } else { "accounts" };
        let stripe = if self.postgres.is_some() { " AND stripe = 0" } else { "" };
        self.execute(&format!(
            "UPDATE leases SET account_id = {one}; UPDATE {counters} SET leased_bytes = 0, leased_shares = 0; \
             UPDATE {counters} SET leased_bytes = {sums} WHERE account_id = {one}{stripe}"
        ))
    }

    /// Changes the lease database behind the program's back.
    pub(super) fn execute(&self, sql: &str) -> Result<()> {
        match self.postgres {
            Some(postgres) => postgres.query(DATABASE, &format!("SET search_path = leasehold; {sql}")).map(drop),
            None => execute_sqlite(&self.data().join("leases.sqlite"), sql),
        }
    }
}

fn execute_sqlite(file: &Path, sql: &str) -> Result<()> {
    let program = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\nc.executescript(sys.argv[2])\nc.commit()";
    let mut command = Venv::find_or_make()?.python();
    run_ok(command.args(["-c", program]).arg(file).arg(sql), PATIENCE).map(drop)
}
