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

use anyhow::Result;
use leasehold_e2e::leasehold::Server;
use leasehold_e2e::process::Explain;
pub use leasehold_e2e::story::{KIB, MIB, Scratch, by_length, bytes, ensure_same, venv};
use leasehold_e2e::tahoe::{Client, Encoding, Protocol};

/// Servers in the grid, and shares of a file.
pub const SERVERS: usize = 5;

/// Two of five shares suffice; an upload needs four servers, so it survives the loss of one.
pub const ENCODING: Encoding = Encoding { needed: 2, happy: 4, total: 5 };

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
        story().explain(|| self.log_tails())
    }

    pub fn log_tails(&self) -> String {
        let servers = self.servers.iter().map(|server| format!("=== {}\n{}", server.name(), server.log_tail()));
        servers.chain([format!("=== client\n{}", self.client.log_tail())]).collect::<Vec<_>>().join("\n")
    }
}
