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

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use leasehold_e2e::leasehold::Server;
pub use leasehold_e2e::story::{KIB, MIB, Scratch, by_length, bytes, ensure_same, venv};
use leasehold_e2e::tahoe::{Client, Encoding};

/// Servers in the grid, and shares of a file.
pub const SERVERS: usize = 5;

/// Two of five shares suffice; an upload needs four servers, so it survives the loss of one.
pub const ENCODING: Encoding = Encoding { needed: 2, happy: 4, total: 5 };

/// Servers, one client and the folder they live in.
pub struct Grid {
    pub client: Client,
    pub servers: Vec<Server>,
    pub directory: Scratch,
}

impl Grid {
    /// Starts five servers, and a client that uses the first account of each.
    pub fn start(name: &str, config: Option<&str>) -> Result<Self> {
        let directory = Scratch::new(name)?;
        let servers = (0..SERVERS)
            .map(|index| Server::start(&format!("server-{index}"), directory.path(), config))
            .collect::<Result<Vec<_>>>()?;
        let client = Client::create(venv()?, "client", directory.path(), &ENCODING)?;
        let mut grid = Self { client, servers, directory };
        grid.client.set_servers(&grid.servers_yaml())?;
        grid.client.start(SERVERS)?;
        Ok(grid)
    }

    /// The grid of all stories that leave it as they found it.
    pub fn shared() -> Result<&'static Self> {
        static GRID: OnceLock<Result<Grid, String>> = OnceLock::new();
        let grid = GRID.get_or_init(|| Self::start("shared", None).map_err(|error| format!("{error:#}")));
        grid.as_ref().map_err(|error| anyhow::anyhow!("the shared grid did not start: {error}"))
    }

    /// One more client, with these `servers.yaml` files, started.
    pub fn add_client(&self, name: &str, servers_yaml: &[PathBuf]) -> Result<Client> {
        let mut client = Client::create(venv()?, name, self.directory.path(), &ENCODING)?;
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
