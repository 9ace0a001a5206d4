//! A throw-away PgBouncer in transaction mode before a PostgreSQL: each transaction may run on another connection of
//! the server, and what a session would remember is lost in between.

use std::env;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::postgres::programs::owner;
use crate::postgres::{Postgres, SUPERUSER};
use crate::process::{Process, wait_until_up};
use crate::scratch::{Scratch, free_address, give};

const NAME: &str = "pgbouncer";
/// Where Debian puts it, which is not in everybody's `PATH`.
const DEBIAN_FOLDER: &str = "/usr/sbin";
const READY_TIMEOUT: Duration = Duration::from_secs(20);
const PORT_TRIES: u32 = 5;
/// Connections to the server for each database: few, so that clients meet each other's.
const POOL_SIZE: u32 = 3;

/// Demands the program and says where it is.
///
/// # Errors
/// Says what to install.
pub fn find_program() -> Result<PathBuf> {
    let in_path = env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    let folders = in_path.chain([PathBuf::from(DEBIAN_FOLDER)]);
    folders
        .map(|folder| folder.join(NAME))
        .find(|program| program.is_file())
        .context("PgBouncer was not found; on Debian: apt-get install pgbouncer (`cargo dev test` does it)")
}

/// A running pooler. Whoever connects is the superuser of the server behind it.
pub struct PgBouncer {
    // The process ends before its folder goes.
    _process: Process,
    address: SocketAddr,
    _scratch: Scratch,
}

impl PgBouncer {
    /// Starts a pooler before all databases of `postgres`, which must not ask for a password.
    ///
    /// # Errors
    /// When the program is missing, or does not start; then with the end of its log.
    pub fn start(postgres: &Postgres) -> Result<Self> {
        let program = find_program()?;
        let scratch = Scratch::new("pool", "")?;
        let mut tries = 1;
        loop {
            let address = free_address()?;
            match start_at(address, &program, postgres, scratch.path()) {
                Ok(process) => return Ok(Self { _process: process, address, _scratch: scratch }),
                // Somebody else was faster and has the port.
                Err(_) if tries < PORT_TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The one pooler of this process, before [`Postgres::shared`]; it ends with the process.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<PgBouncer, String>> = OnceLock::new();
        let start = || Postgres::shared().and_then(Self::start).map_err(|error| format!("{error:#}"));
        SHARED.get_or_init(start).as_ref().map_err(|error| anyhow!("{error}"))
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn start_at(address: SocketAddr, program: &Path, postgres: &Postgres, folder: &Path) -> Result<Process> {
    let owner = owner()?;
    let settings = folder.join("pgbouncer.ini");
    fs::write(&settings, settings_text(address, postgres)).context("write the pooler's settings")?;
    give(&settings, owner)?;
    give(folder, owner)?;
    let mut command = Command::new(program);
    command.current_dir(folder).arg(&settings);
    if let Some(owner) = owner {
        command.uid(owner.user).gid(owner.group);
    }
    let mut process = Process::start(NAME, &mut command, &folder.join("logs"))?;
    wait_until_up(&mut process, READY_TIMEOUT, || Ok(TcpStream::connect(address).map(drop)?))?;
    Ok(process)
}

fn settings_text(address: SocketAddr, postgres: &Postgres) -> String {
    let server = postgres.address();
    format!(
        "[databases]\n\
         * = host={} port={} user={SUPERUSER}\n\
         [pgbouncer]\n\
         listen_addr = {}\n\
         listen_port = {}\n\
         unix_socket_dir =\n\
         auth_type = any\n\
         pool_mode = transaction\n\
         default_pool_size = {POOL_SIZE}\n\
         max_client_conn = 500\n\
         server_idle_timeout = 2\n",
        server.ip(),
        server.port(),
        address.ip(),
        address.port()
    )
}
