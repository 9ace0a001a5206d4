//! A throw-away PostgreSQL: a cluster in a folder of its own, which a test may kill, freeze, restart and fail over.
//!
//! Without [`PostgresOptions::durable`] the server leaves syncing to the operating system. That is safe here: tests
//! end processes, which loses nothing that was written, and never the machine.

mod client;
pub(crate) mod programs;
mod standby;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

pub use self::client::{Row, Session};
use self::programs::Programs;
pub use self::standby::StandbyOptions;
use crate::certificates::Authority;
use crate::process::{Process, descendants, has_ended, run, run_ok, wait_until, wait_until_stopped, wait_until_up};
use crate::scratch::{Scratch, free_address, give};
use crate::secret;

/// The role that may do everything; tests that need less make roles of their own.
pub const SUPERUSER: &str = "postgres";

const INITDB_TIMEOUT: Duration = Duration::from_secs(120);
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const GONE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a template may still have users: pools close their connections in the background.
const TEMPLATE_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a new cluster looks for another port when somebody else was faster.
const PORT_TRIES: u32 = 5;
/// Removes the few bytes of System V shared memory that a killed server leaves in the system.
const LAST_WILL: &str = r#"set -- $(sed -n 7p "$folder/data/postmaster.pid")
[ -z "$2" ] || ipcrm -m "$2""#;

/// Demands that PostgreSQL's programs are on this machine, and a user to run them as.
///
/// # Errors
/// Says what to install.
pub fn find_programs() -> Result<()> {
    Programs::find().map(drop)
}

/// How a cluster is set up.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// How many clients may be connected at once.
    pub max_connections: u32,
    /// Whether commits are synced to the disk, as in production. Costs time, and matters only to a machine's crash.
    pub durable: bool,
    /// Whether clients on TCP need a password (SCRAM-SHA-256); it is in the URLs.
    pub password: bool,
    /// A certificate for the server, by which TLS can be spoken.
    pub tls: Option<PostgresTls>,
    /// More settings, as in `postgresql.conf`.
    pub settings: Vec<(String, String)>,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self { max_connections: 200, durable: false, password: false, tls: None, settings: Vec::new() }
    }
}

/// The certificate of a cluster, which a new test authority signs.
#[derive(Clone, Debug)]
pub struct PostgresTls {
    /// The host names and IP addresses the certificate is for.
    pub names: Vec<String>,
    /// Whether clients without TLS are refused.
    pub required: bool,
}

impl Default for PostgresTls {
    fn default() -> Self {
        Self { names: vec!["127.0.0.1".to_owned(), "localhost".to_owned()], required: false }
    }
}

/// A running, or killed, cluster.
pub struct Postgres {
    // The server ends before its folder goes.
    server: Mutex<Option<Process>>,
    programs: Programs,
    address: SocketAddr,
    password: Option<String>,
    /// The lines of `postgresql.conf` that this cluster was started with.
    settings: Vec<(String, String)>,
    has_tls: bool,
    scratch: Scratch,
}

impl Postgres {
    /// Makes a new cluster and starts it; returns when it answers.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, or does not start; then with the end of its log.
    pub fn start(options: &PostgresOptions) -> Result<Self> {
        let programs = Programs::find()?;
        let scratch = Scratch::new("pg", LAST_WILL)?;
        scratch.give_to(programs.owner)?;
        let data = scratch.path().join("data");
        let mut initdb = programs.command("initdb", scratch.path());
        initdb.args(["--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C", "--auth=trust"]);
        run_ok(initdb.args(["--username", SUPERUSER, "--pgdata"]).arg(&data), INITDB_TIMEOUT)?;
        fs::write(data.join("pg_hba.conf"), access_rules(options)).context("write the access rules")?;
        let mut cluster = Self {
            server: Mutex::new(None),
            address: free_address()?,
            password: options.password.then(secret::random).transpose()?,
            settings: settings(options),
            has_tls: options.tls.is_some(),
            programs,
            scratch,
        };
        if let Some(tls) = &options.tls {
            cluster.write_certificate(tls)?;
        }
        cluster.start_on_free_port()?;
        if let Some(password) = &cluster.password {
            cluster.query(SUPERUSER, &format!("ALTER ROLE {SUPERUSER} PASSWORD '{password}'"))?;
        }
        Ok(cluster)
    }

    /// The one cluster of this process, with default options; it ends with the process.
    ///
    /// Tests take a database each, see [`Postgres::create_database`] and [`Postgres::clone_database`], and leave the
    /// server alone.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<Postgres, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Self::start(&PostgresOptions::default()).map_err(|e| format!("{e:#}")));
        shared.as_ref().map_err(|error| anyhow!("{error}"))
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port the server listens on; it stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The password of the superuser, if clients need one.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The URL of `database` for the superuser.
    pub fn url(&self, database: &str) -> String {
        self.url_at(self.address, database)
    }

    /// As [`Postgres::url`], but through `address`: that of a proxy.
    pub fn url_at(&self, address: SocketAddr, database: &str) -> String {
        let password = self.password.as_ref().map_or_else(String::new, |password| format!(":{password}"));
        format!("postgres://{SUPERUSER}{password}@{address}/{database}")
    }

    /// The certificate of the authority that signed the server's, as a PEM file; `None` without TLS.
    pub fn authority_file(&self) -> Option<PathBuf> {
        self.has_tls.then(|| self.data().join("authority.pem"))
    }

    /// Makes an empty database and gives its URL.
    pub fn create_database(&self, name: &str) -> Result<String> {
        self.query(SUPERUSER, &format!("CREATE DATABASE \"{name}\""))?;
        Ok(self.url(name))
    }

    /// Makes a database as a copy of `template` and gives its URL. Waits for the last user of the template to go.
    pub fn clone_database(&self, template: &str, name: &str) -> Result<String> {
        let statement = format!("CREATE DATABASE \"{name}\" TEMPLATE \"{template}\"");
        let what = format!("{template} can be copied to {name}");
        wait_until(&what, TEMPLATE_TIMEOUT, || self.query(SUPERUSER, &statement).map(Some))?;
        Ok(self.url(name))
    }

    /// Removes a database, whoever is connected to it.
    pub fn drop_database(&self, name: &str) -> Result<()> {
        self.query(SUPERUSER, &format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)")).map(drop)
    }

    /// Runs statements in `database` on a connection of their own, past every proxy, and gives the rows.
    pub fn query(&self, database: &str, sql: &str) -> Result<Vec<Row>> {
        self.session(database)?.query(sql)
    }

    /// A connection to `database` that stays open, past every proxy.
    pub fn session(&self, database: &str) -> Result<Session> {
        Session::open(&self.scratch.path().join(format!(".s.PGSQL.{}", self.port())), SUPERUSER, database)
    }

    /// Ends the server and all its backends at once, as a crash would (`kill -9`).
    pub fn kill(&self) -> Result<()> {
        let Some(server) = self.server().take() else { bail!("the server does not run") };
        // A stopped postmaster starts no further backends.
        server.freeze()?;
        let backends = descendants(server.id())?;
        server.kill()?;
        for &backend in &backends {
            // One that is gone already is as good.
            let _ = kill_process(backend, Signal::KILL);
        }
        wait_until("all backends are gone", GONE_TIMEOUT, || {
            Ok(backends.iter().all(|&backend| has_ended(backend)).then_some(()))
        })
    }

    /// Ends the server without a checkpoint (SIGQUIT, as `pg_ctl stop -m immediate`): clients are cut off.
    pub fn stop(&self) -> Result<()> {
        let Some(server) = self.server().take() else { bail!("the server does not run") };
        server.end_by(Signal::QUIT).map(drop)
    }

    /// Starts a stopped or killed server again, on the same port and with the same data; returns when it answers.
    pub fn start_again(&self) -> Result<()> {
        // Somebody else may hold the port for a moment, as the port of an outgoing connection.
        wait_until("the server is back", READY_TIMEOUT, || self.start_server().map(Some))
    }

    /// Stops at once and starts again on the same port. Commits that were answered are there.
    pub fn restart(&self) -> Result<()> {
        self.stop()?;
        self.start_again()
    }

    /// Stops the server and all backends without ending them: connections stay, answers do not come.
    pub fn freeze(&self) -> Result<()> {
        let server = self.server();
        let server = server.as_ref().context("the server does not run")?;
        server.freeze()?;
        let backends = descendants(server.id())?;
        send_all(&backends, Signal::STOP);
        backends.into_iter().try_for_each(wait_until_stopped)
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) -> Result<()> {
        let server = self.server();
        let server = server.as_ref().context("the server does not run")?;
        send_all(&descendants(server.id())?, Signal::CONT);
        server.thaw()
    }

    /// Waits until the server answers.
    pub fn wait_ready(&self) -> Result<()> {
        wait_until("PostgreSQL answers", READY_TIMEOUT, || {
            if let Some(server) = self.server().as_mut() {
                server.expect_running()?;
            }
            self.session(SUPERUSER).map(Some)
        })
        .map(drop)
    }

    /// The end of the server's log, for a failure message.
    pub fn log_tail(&self) -> String {
        crate::process::tail(&self.logs().join("postgres.err"))
    }

    fn start_on_free_port(&mut self) -> Result<()> {
        for _ in 1..PORT_TRIES {
            if self.start_server().is_ok() {
                return Ok(());
            }
            self.address = free_address()?;
        }
        self.start_server()
    }

    /// Starts the server and waits until it answers, or until it has ended.
    fn start_server(&self) -> Result<()> {
        let mut command = self.programs.command("postgres", self.scratch.path());
        command.arg("-D").arg(self.data());
        let folder = self.scratch.path().display().to_string();
        let own = [("port", self.port().to_string()), ("unix_socket_directories", folder)];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        for (name, value) in self.settings.iter().chain(&own) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let mut server = Process::start("postgres", &mut command, &self.logs())?;
        wait_until_up(&mut server, READY_TIMEOUT, || self.session(SUPERUSER).map(drop))?;
        *self.server() = Some(server);
        Ok(())
    }

    fn write_certificate(&self, tls: &PostgresTls) -> Result<()> {
        let authority = Authority::new()?;
        let names: Vec<&str> = tls.names.iter().map(String::as_str).collect();
        let issued = authority.issue(&names)?;
        let data = self.data();
        fs::write(data.join("server.crt"), issued.certificate)?;
        fs::write(data.join("server.key"), issued.key)?;
        authority.write_certificate(&data)?;
        for name in ["server.crt", "server.key", "authority.pem"] {
            give(&data.join(name), self.programs.owner)?;
        }
        Ok(())
    }

    fn server(&self) -> MutexGuard<'_, Option<Process>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    fn logs(&self) -> PathBuf {
        self.scratch.path().join("logs")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Failures leave things to the watchdogs.
        let _ = self.thaw();
        if self.stop().is_err() {
            forget_shared_memory(&self.data());
        }
    }
}

fn settings(options: &PostgresOptions) -> Vec<(String, String)> {
    let on = |is_on: bool| if is_on { "on" } else { "off" };
    let max_connections = options.max_connections.to_string();
    let mut settings = vec![
        ("listen_addresses", "127.0.0.1"),
        ("max_connections", max_connections.as_str()),
        ("shared_buffers", "64MB"),
        // Not in /dev/shm, where a killed server would leave it for ever.
        ("dynamic_shared_memory_type", "mmap"),
        ("fsync", on(options.durable)),
        ("full_page_writes", on(options.durable)),
        ("logging_collector", "off"),
        ("log_destination", "stderr"),
        ("log_line_prefix", "%m [%p] %d "),
    ];
    if options.tls.is_some() {
        settings.extend([("ssl", "on"), ("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key")]);
    }
    let settings = settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    settings.chain(options.settings.iter().cloned()).collect()
}

fn access_rules(options: &PostgresOptions) -> String {
    let kind = if options.tls.as_ref().is_some_and(|tls| tls.required) { "hostssl" } else { "host" };
    let method = if options.password { "scram-sha-256" } else { "trust" };
    // The socket lies in a folder that nobody else may enter.
    format!(
        "local all all trust\nlocal replication all trust\nhost replication all 127.0.0.1/32 trust\n\
         {kind} all all 127.0.0.1/32 {method}\n"
    )
}

fn send_all(processes: &[Pid], signal: Signal) {
    for &process in processes {
        // Backends come and go.
        let _ = kill_process(process, signal);
    }
}

/// Removes the few bytes of System V shared memory that a killed server leaves; only its next start would do so else.
fn forget_shared_memory(data: &Path) {
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else { return };
    let segment = text.lines().nth(6).and_then(|line| line.split_whitespace().nth(1));
    if let Some(segment) = segment {
        let _ = run(Command::new("ipcrm").args(["-m", segment]), Duration::from_secs(10));
    }
}

#[cfg(test)]
mod tests;
