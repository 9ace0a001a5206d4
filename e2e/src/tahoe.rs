//! The released Tahoe-LAFS client: a node of its own, used through its web API and its command line.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::process::{Explain, Process, run_ok, wait_until};
use crate::venv::Venv;

/// Long enough for the largest file, short enough that a client that hangs is noticed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(240);
const NODE_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(90);
const CLI_TIMEOUT: Duration = Duration::from_secs(240);

/// Puts the entries of several `servers.yaml` files into one, with the parser that the client uses.
const MERGE: &str = "import sys, yaml
servers = {}
for path in sys.argv[2:]:
    servers.update(yaml.safe_load(open(path))['storage'])
yaml.safe_dump({'storage': servers}, open(sys.argv[1], 'w'))";

/// How a client spreads its files.
#[derive(Clone, Debug)]
pub struct Encoding {
    /// Shares that suffice to read a file.
    pub needed: u8,
    /// Servers that an upload must reach.
    pub happy: u8,
    /// Shares made of a file.
    pub total: u8,
}

/// A format of mutable files and directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Small, one segment.
    Sdmf,
    /// Of many segments, changed in part.
    Mdmf,
}

impl Format {
    fn word(self) -> &'static str {
        match self {
            Self::Sdmf => "sdmf",
            Self::Mdmf => "mdmf",
        }
    }
}

/// What a client and its servers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// What released clients speak by themselves.
    Https,
    /// What old clients speak, and newer ones when they are told to.
    Foolscap,
}

/// What a check is to do beside counting shares.
#[derive(Clone, Copy, Debug, Default)]
pub struct Check {
    /// Read every share, not only the lists.
    pub verify: bool,
    /// Make missing shares anew.
    pub repair: bool,
    /// Renew the leases.
    pub add_lease: bool,
}

/// A client node.
pub struct Client {
    name: String,
    venv: Venv,
    directory: PathBuf,
    process: Option<Process>,
    url: String,
    agent: ureq::Agent,
}

impl Client {
    /// Makes a node in `<parent>/<name>`; it does not run yet and knows no server.
    pub fn create(venv: &Venv, name: &str, parent: &Path, encoding: &Encoding) -> Result<Self> {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        let directory = parent.join(name);
        let mut command = venv.tahoe();
        command.arg("create-client").arg("--basedir").arg(&directory).args(["--webport", "tcp:0:interface=127.0.0.1"]);
        command.args(["--shares-needed", &encoding.needed.to_string()]);
        command.args(["--shares-happy", &encoding.happy.to_string()]);
        command.args(["--shares-total", &encoding.total.to_string()]);
        run_ok(&mut command, NODE_TIMEOUT)?;
        let config =
            ureq::Agent::config_builder().timeout_global(Some(REQUEST_TIMEOUT)).http_status_as_error(false).build();
        let (name, venv) = (name.to_owned(), venv.clone());
        Ok(Self { name, venv, directory, process: None, url: String::new(), agent: config.into() })
    }

    /// Gives the node the servers of these `servers.yaml` files and no others; takes effect at its next start.
    pub fn set_servers<P: AsRef<Path>>(&self, files: &[P]) -> Result<()> {
        let target = self.directory.join("private").join("servers.yaml");
        let mut command = self.venv.python();
        command.arg("-c").arg(MERGE).arg(target).args(files.iter().map(AsRef::as_ref));
        run_ok(&mut command, NODE_TIMEOUT).map(|_| ())
    }

    /// Makes the node speak this protocol; takes effect at its next start.
    pub fn speak(&self, protocol: Protocol) -> Result<()> {
        let path = self.directory.join("tahoe.cfg");
        let config = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let line = format!("[client]\nforce_foolscap = {}\n", protocol == Protocol::Foolscap);
        ensure!(config.matches("[client]\n").count() == 1, "no place for a setting in {}", path.display());
        Ok(fs::write(&path, config.replace("[client]\n", &line))?)
    }

    /// Starts the node and waits until it is connected to `servers` servers.
    pub fn start(&mut self, servers: usize) -> Result<()> {
        let url_file = self.directory.join("node.url");
        for file in [&url_file, &self.directory.join("running.process")] {
            if file.exists() {
                fs::remove_file(file)?;
            }
        }
        let mut command = self.venv.tahoe();
        command.args(["run", "--allow-stdin-close"]).arg(&self.directory);
        let mut process = Process::start(&self.name, &mut command, &self.directory.join("logs-of-tests"))?;
        let url = wait_until("the client's web API is there", NODE_TIMEOUT, || {
            process.expect_running()?;
            let url = fs::read_to_string(&url_file)?;
            self.agent.get(format!("{}?t=json", url.trim())).call()?;
            Ok(Some(url.trim().trim_end_matches('/').to_owned()))
        });
        self.url = url.explain(|| process.log_tail())?;
        self.process = Some(process);
        self.wait_connected(servers)
    }

    /// Ends the node.
    pub fn stop(&mut self) -> Result<()> {
        // The client has nothing to save; ending it politely takes seconds.
        self.process.take().with_context(|| format!("{} is not started", self.name))?.kill()
    }

    /// Ends the node as a crash would, also in the middle of requests.
    pub fn crash(&self) -> Result<()> {
        self.process.as_ref().with_context(|| format!("{} is not started", self.name))?.crash()
    }

    /// Waits until exactly `servers` servers are connected.
    pub fn wait_connected(&self, servers: usize) -> Result<()> {
        let what = format!("{} is connected to {servers} servers", self.name);
        let mut state = Value::Null;
        let outcome = wait_until(&what, CONNECT_TIMEOUT, || {
            state = self.get_json("/?t=json")?;
            let all = state["servers"].as_array().context("no list of servers")?;
            let connected = |server: &&Value| is_connected(&server["connection_status"]);
            Ok((all.iter().filter(connected).count() == servers).then_some(()))
        });
        outcome.explain(|| format!("{state:#}\n{}", self.log_tail()))
    }

    /// The node's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The end of the node's logs.
    pub fn log_tail(&self) -> String {
        self.process.as_ref().map(Process::log_tail).unwrap_or_default()
    }

    /// The secret that makes equal files of this client equal shares.
    pub fn convergence_secret(&self) -> Result<String> {
        Ok(fs::read_to_string(self.directory.join("private").join("convergence"))?)
    }

    /// Sets the convergence secret; takes effect at the next start.
    pub fn set_convergence_secret(&self, secret: &str) -> Result<()> {
        Ok(fs::write(self.directory.join("private").join("convergence"), secret)?)
    }

    /// Uploads an immutable file and gives its capability.
    pub fn upload(&self, data: &[u8]) -> Result<String> {
        self.put("/uri", data)
    }

    /// Makes a mutable file and gives its capability.
    pub fn create_mutable(&self, format: Format, data: &[u8]) -> Result<String> {
        self.put(&format!("/uri?format={}", format.word()), data)
    }

    /// Replaces what a mutable file holds.
    pub fn overwrite(&self, capability: &str, data: &[u8]) -> Result<()> {
        self.put(&format!("/uri/{}", escape(capability)), data).map(|_| ())
    }

    /// Changes a mutable file in part.
    pub fn overwrite_at(&self, capability: &str, offset: u64, data: &[u8]) -> Result<()> {
        self.put(&format!("/uri/{}?offset={offset}", escape(capability)), data).map(|_| ())
    }

    /// Reads a whole file.
    pub fn download(&self, capability: &str) -> Result<Vec<u8>> {
        self.fetch(&format!("/uri/{}", escape(capability)), None)
    }

    /// Reads a part of a file.
    pub fn download_range(&self, capability: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.fetch(&format!("/uri/{}", escape(capability)), Some(range))
    }

    /// Reads a file in a directory.
    pub fn download_path(&self, directory: &str, path: &str) -> Result<Vec<u8>> {
        self.fetch(&format!("/uri/{}/{path}", escape(directory)), None)
    }

    /// Makes a directory with these children (`t=mkdir-with-children`) and gives its capability.
    pub fn make_directory(&self, format: Format, children: &Value) -> Result<String> {
        let path = format!("/uri?t=mkdir-with-children&format={}", format.word());
        self.post(&path, children.to_string().as_bytes())
    }

    /// Adds children to a directory in one change.
    pub fn add_children(&self, directory: &str, children: &Value) -> Result<()> {
        let path = format!("/uri/{}?t=set_children&overwrite=true", escape(directory));
        self.post(&path, children.to_string().as_bytes()).map(|_| ())
    }

    /// Uploads a file as a child of a directory.
    pub fn upload_child(&self, directory: &str, name: &str, data: &[u8]) -> Result<String> {
        self.put(&format!("/uri/{}/{name}", escape(directory)), data)
    }

    /// Removes a child from a directory.
    pub fn remove_child(&self, directory: &str, name: &str) -> Result<()> {
        let url = format!("{}/uri/{}/{name}", self.url, escape(directory));
        let response = self.agent.delete(&url).call().with_context(|| format!("DELETE {name}"))?;
        body(response, "DELETE").map(|_| ())
    }

    /// The children of a directory by name, as the web API describes them.
    pub fn list(&self, directory: &str) -> Result<serde_json::Map<String, Value>> {
        let described = self.get_json(&format!("/uri/{}?t=json", escape(directory)))?;
        let children = described[1]["children"].as_object();
        children.cloned().with_context(|| format!("no directory: {described}"))
    }

    /// Checks a file or directory and gives the client's report.
    pub fn check(&self, capability: &str, check: Check) -> Result<Value> {
        let Check { verify, repair, add_lease } = check;
        let path = format!(
            "/uri/{}?t=check&output=JSON&verify={verify}&repair={repair}&add-lease={add_lease}",
            escape(capability)
        );
        Ok(serde_json::from_str(&self.post(&path, b"")?)?)
    }

    /// Runs the `tahoe` program with this node and gives its standard output.
    pub fn cli(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.cli_command(arguments);
        run_ok(&mut command, CLI_TIMEOUT).explain(|| self.log_tail())
    }

    /// The `tahoe` program with this node, for callers who want more than its output.
    pub fn cli_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.venv.tahoe();
        command.arg("--node-directory").arg(&self.directory).args(arguments);
        command
    }

    /// Runs a Python program with the client's own libraries, for what only they can compute.
    pub fn python(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.venv.python();
        run_ok(command.arg("-c").arg(program).args(arguments), CLI_TIMEOUT)
    }

    /// The storage index of a file or directory, as servers write it.
    pub fn storage_index(&self, capability: &str) -> Result<String> {
        const PROGRAM: &str = "import sys
from allmydata import uri
from allmydata.storage.common import si_b2a
print(si_b2a(uri.from_string(sys.argv[1].encode()).get_storage_index()).decode())";
        Ok(self.python(PROGRAM, &[capability])?.trim().to_owned())
    }

    fn put(&self, path: &str, data: &[u8]) -> Result<String> {
        let url = format!("{}{path}", self.url);
        let response = self.agent.put(&url).send(data).context("PUT to the client")?;
        text(response, "PUT")
    }

    fn post(&self, path: &str, data: &[u8]) -> Result<String> {
        let url = format!("{}{path}", self.url);
        let response = self.agent.post(&url).send(data).context("POST to the client")?;
        text(response, "POST")
    }

    fn fetch(&self, path: &str, range: Option<Range<u64>>) -> Result<Vec<u8>> {
        let mut request = self.agent.get(format!("{}{path}", self.url));
        if let Some(range) = range {
            ensure!(!range.is_empty(), "an empty range cannot be asked for");
            request = request.header("Range", format!("bytes={}-{}", range.start, range.end - 1));
        }
        body(request.call().context("GET from the client")?, "GET")
    }

    fn get_json(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.fetch(path, None)?)?)
    }
}

/// Whether the web API's word for a connection means that there is one.
fn is_connected(status: &Value) -> bool {
    status.as_str().is_some_and(|status| status.to_lowercase().starts_with("connected"))
}

/// A capability as a segment of a path.
fn escape(capability: &str) -> String {
    capability.replace(':', "%3A").replace('/', "%2F")
}

fn body(mut response: ureq::http::Response<ureq::Body>, what: &str) -> Result<Vec<u8>> {
    let status = response.status();
    let bytes = response.body_mut().with_config().limit(u64::MAX).read_to_vec().context("read the client's answer")?;
    if !status.is_success() {
        let reason = String::from_utf8_lossy(&bytes);
        bail!("{what} answered {status}: {}", reason.chars().take(2_000).collect::<String>());
    }
    Ok(bytes)
}

fn text(response: ureq::http::Response<ureq::Body>, what: &str) -> Result<String> {
    Ok(String::from_utf8(body(response, what)?)?.trim().to_owned())
}
