//! The grid: five servers and a client that spreads five shares, any two of which suffice.

mod accounts;
mod backup;
mod classic;
mod commands;
mod crashes;
mod directories;
mod draining;
mod files;
mod logs;
mod mutable;
mod pods;
mod quota;
mod repair;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result};
use leasehold_e2e::leasehold::Server;
use leasehold_e2e::process::Watchdog;
use leasehold_e2e::tahoe::{Client, Encoding, Protocol};
use leasehold_e2e::venv::Venv;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tempfile::TempDir;

/// Servers in the grid, and shares of a file.
pub const SERVERS: usize = 5;

/// Two of five shares suffice; an upload needs four servers, so it survives the loss of one.
pub const ENCODING: Encoding = Encoding { needed: 2, happy: 4, total: 5 };

pub const KIB: usize = 1 << 10;
pub const MIB: usize = 1 << 20;

/// Asks for more of the same.
const LONG_VARIABLE: &str = "LEASEHOLD_LONG";

/// Keeps the files of all stories when it is set.
const KEEP_VARIABLE: &str = "LEASEHOLD_KEEP";

/// Makes two tests of each story: one over HTTPS, one as old clients have it.
macro_rules! over_both_protocols {
    ($($story:ident),* $(,)?) => {
        mod over_https {
            $(#[test]
            fn $story() -> anyhow::Result<()> {
                super::$story(leasehold_e2e::tahoe::Protocol::Https)
            })*
        }
        mod over_foolscap {
            $(#[test]
            fn $story() -> anyhow::Result<()> {
                super::$story(leasehold_e2e::tahoe::Protocol::Foolscap)
            })*
        }
    };
}
pub(crate) use over_both_protocols;

/// Servers, one client and the folder they live in.
pub struct Grid {
    protocol: Protocol,
    pub client: Client,
    pub servers: Vec<Server>,
    pub directory: Scratch,
}

impl Grid {
    /// Starts five servers, and a client that uses the first account of each.
    pub fn start(name: &str, config: Option<&str>) -> Result<Self> {
        Self::start_over(name, config, Protocol::Https)
    }

    /// The same with clients that speak this protocol.
    pub fn start_over(name: &str, config: Option<&str>, protocol: Protocol) -> Result<Self> {
        let directory = Scratch::new(name)?;
        let servers = (0..SERVERS)
            .map(|index| Server::start(&format!("server-{index}"), directory.path(), config))
            .collect::<Result<Vec<_>>>()?;
        let client = Client::create(venv()?, "client", directory.path(), &ENCODING)?;
        let mut grid = Self { protocol, client, servers, directory };
        grid.client.speak(protocol)?;
        grid.client.set_servers(&grid.servers_yaml())?;
        grid.client.start(SERVERS)?;
        Ok(grid)
    }

    /// The grid of all stories that leave it as they found it.
    pub fn shared(protocol: Protocol) -> Result<&'static Self> {
        static GRIDS: [OnceLock<Result<Grid, String>>; 2] = [OnceLock::new(), OnceLock::new()];
        let start = || Self::start_over("shared", None, protocol).map_err(|error| format!("{error:#}"));
        GRIDS[protocol as usize]
            .get_or_init(start)
            .as_ref()
            .map_err(|error| anyhow::anyhow!("the shared grid did not start: {error}"))
    }

    /// One more client, with these `servers.yaml` files, started.
    pub fn add_client(&self, name: &str, servers_yaml: &[PathBuf]) -> Result<Client> {
        let mut client = Client::create(venv()?, name, self.directory.path(), &ENCODING)?;
        client.speak(self.protocol)?;
        client.set_servers(servers_yaml)?;
        client.set_convergence_secret(&self.client.convergence_secret()?)?;
        client.start(servers_yaml.len())?;
        Ok(client)
    }

    /// The `servers.yaml` of each server's first account.
    pub fn servers_yaml(&self) -> Vec<PathBuf> {
        self.servers.iter().map(|server| server.announcement().credentials.servers_yaml.clone()).collect()
    }

    /// Runs a story; its failure comes with the ends of all logs.
    pub fn story(&self, story: impl FnOnce() -> Result<()>) -> Result<()> {
        story().with_context(|| self.log_tails())
    }

    pub fn log_tails(&self) -> String {
        let servers = self.servers.iter().map(|server| format!("=== {}\n{}", server.name(), server.log_tail()));
        servers.chain([format!("=== client\n{}", self.client.log_tail())]).collect::<Vec<_>>().join("\n")
    }
}

/// `long` in a long run, else `short`.
pub fn by_length(short: usize, long: usize) -> usize {
    if std::env::var_os(LONG_VARIABLE).is_some() { long } else { short }
}

/// The Python environment, found or made once.
pub fn venv() -> Result<&'static Venv> {
    static VENV: OnceLock<Result<Venv, String>> = OnceLock::new();
    let venv = VENV.get_or_init(|| Venv::find_or_make().map_err(|error| format!("{error:#}")));
    venv.as_ref().map_err(|error| anyhow::anyhow!("no Python environment (run cargo dev test): {error}"))
}

/// A folder that is removed at the end, also when it belongs to a static.
pub struct Scratch {
    path: PathBuf,
    _owner: Option<(TempDir, Watchdog)>,
}

impl Scratch {
    fn new(name: &str) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix(&format!("leasehold-{name}-")).tempdir()?;
        let path = directory.path().to_owned();
        if std::env::var_os(KEEP_VARIABLE).is_some() {
            eprintln!("files of {name} are kept in {}", directory.keep().display());
            return Ok(Self { path, _owner: None });
        }
        // The servers' own watchdogs come first.
        let watchdog = Watchdog::start(&format!("sleep 3; rm -rf '{}'", path.display()))?;
        Ok(Self { path, _owner: Some((directory, watchdog)) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Bytes that nobody has seen before, the same for the same seed.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    StdRng::seed_from_u64(seed).fill_bytes(&mut data);
    data
}

/// Compares without printing megabytes.
pub fn ensure_same(what: &str, got: &[u8], expected: &[u8]) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    let first = got.iter().zip(expected).position(|(left, right)| left != right);
    let lengths = (got.len(), expected.len());
    anyhow::bail!("{what} came back different: lengths (got, expected) {lengths:?}, first difference at {first:?}")
}
