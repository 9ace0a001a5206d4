//! One server that is three pods over PostgreSQL and S3: what people do with it while pods die, are replaced, and
//! while connections go from one to another.

mod killed;
mod moved;
mod quota;
mod returned;

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leasehold_e2e::pods::{DATABASE, Pods, PodsOptions};
use leasehold_e2e::process::wait_until;
use leasehold_e2e::tahoe::{Client, Encoding, Protocol};

use super::{Scratch, bytes, ensure_same, venv};

/// All shares of a file are on the one server, so that each upload and each write is several shares at once. The client
/// is content with any of them, so each must suffice.
const ENCODING: Encoding = Encoding { needed: 1, happy: 1, total: 3 };
const PODS: usize = 3;
const SPACE_TIMEOUT: Duration = Duration::from_secs(60);
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);

/// What the leases say an account uses: 12 bytes are charged beside the data of an immutable share, 472 beside that of
/// a mutable one.
const RECOUNT: &str = "SELECT coalesce(sum(s.size_bytes + CASE s.kind WHEN 0 THEN 12 ELSE 472 END), 0)
  FROM leasehold.leases l JOIN leasehold.shares s USING (si, shnum)
  JOIN leasehold.accounts a USING (account_id) WHERE a.state <> 3 AND a.name = ";

/// Three pods and a client.
struct World {
    protocol: Protocol,
    client: Client,
    pods: Pods,
    /// A file to see by whether the client reaches the server.
    probe: String,
    directory: Scratch,
}

impl World {
    /// Starts pods with these lines of `[server]` and these other tables of the configuration, and a client of their
    /// first account.
    fn start(name: &str, server: &str, config: &str, encoding: &Encoding) -> Result<Self> {
        Self::start_over(name, server, config, encoding, Protocol::Https)
    }

    /// The same with clients that speak this protocol.
    fn start_over(name: &str, server: &str, config: &str, encoding: &Encoding, protocol: Protocol) -> Result<Self> {
        let directory = Scratch::new(name)?;
        let options = PodsOptions { server: server.to_owned(), config: config.to_owned(), ..PodsOptions::default() };
        let pods = Pods::start(name, directory.path(), &options)?;
        let servers_yaml = pods.servers[0].announcement().credentials.servers_yaml.clone();
        let client = start_client("client", &directory, servers_yaml, encoding, protocol)?;
        let probe = client.upload(&bytes(900, 1_000))?;
        Ok(Self { protocol, client, pods, probe, directory })
    }

    fn add_client(&self, name: &str, servers_yaml: PathBuf, encoding: &Encoding) -> Result<Client> {
        start_client(name, &self.directory, servers_yaml, encoding, self.protocol)
    }

    fn log_tails(&self) -> String {
        format!("{}\n=== client ===\n{}", self.pods.log_tails(), self.client.log_tail())
    }

    /// Demands that the account is charged for exactly what it leases.
    fn ensure_exact_usage(&self, account: &str) -> Result<()> {
        let server = &self.pods.servers[0];
        wait_until("unfinished uploads give their space back", SPACE_TIMEOUT, || {
            Ok((server.account_bytes(account, "reserved_bytes")? == 0).then_some(()))
        })?;
        let used = server.account_bytes(account, "used_bytes")?;
        let rows = self.pods.services.primary.query(DATABASE, &format!("{RECOUNT}'{account}'"))?;
        let counted = rows.first().and_then(|row| row.first()?.clone()).context("no sum of leases")?;
        ensure!(used > 0 && counted == used.to_string(), "{used} bytes used, but leases on {counted}");
        Ok(())
    }

    /// Does something with each pod alone: with all connections led to it.
    fn on_each_pod(&self, client: &Client, mut work: impl FnMut() -> Result<()>) -> Result<()> {
        for one in 0..PODS {
            for pod in 0..PODS {
                if pod == one {
                    self.pods.balancer.mark_up(pod);
                } else {
                    self.pods.balancer.mark_down(pod);
                    self.pods.balancer.cut(pod);
                }
            }
            // The client notices that its connections are gone, and makes new ones.
            client.wait_connected(1)?;
            wait_until("the client reads again", PROBE_TIMEOUT, || client.download(&self.probe).map(Some))?;
            work().with_context(|| format!("through pod {one} alone"))?;
        }
        (0..PODS).for_each(|pod| self.pods.balancer.mark_up(pod));
        Ok(())
    }
}

fn start_client(
    name: &str,
    directory: &Scratch,
    servers_yaml: PathBuf,
    encoding: &Encoding,
    protocol: Protocol,
) -> Result<Client> {
    let mut client = Client::create(venv()?, name, directory.path(), encoding)?;
    client.speak(protocol)?;
    client.set_servers(&[servers_yaml])?;
    client.start(1)?;
    Ok(client)
}

/// Files whose upload was acknowledged, by the seeds of their bytes.
#[derive(Default)]
struct Kept(Mutex<Vec<(String, u64, usize)>>);

impl Kept {
    fn upload(&self, client: &Client, seed: u64, length: usize) -> Result<()> {
        let capability = client.upload(&bytes(seed, length))?;
        self.add(capability, seed, length);
        Ok(())
    }

    fn add(&self, capability: String, seed: u64, length: usize) {
        self.0.lock().expect("no holder panics").push((capability, seed, length));
    }

    fn len(&self) -> usize {
        self.0.lock().expect("no holder panics").len()
    }

    fn ensure_there(&self, client: &Client) -> Result<()> {
        let kept = self.0.lock().expect("no holder panics");
        kept.iter().try_for_each(|(capability, seed, length)| {
            ensure_same("an acknowledged file", &client.download(capability)?, &bytes(*seed, *length))
        })
    }
}
