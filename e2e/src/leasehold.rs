//! The server under test: one process with a data directory, started, killed and questioned as an operator would.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::process::{Explain, Process, run, run_ok, tail, wait_until};
use crate::venv::workspace_root;

/// Names the server program to test.
pub const BINARY_VARIABLE: &str = "LEASEHOLD_BIN";

/// The account that a server makes on its first start is asked for by the name it gives itself.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// The server program: `LEASEHOLD_BIN`, else the release build of this workspace.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os(BINARY_VARIABLE) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "{BINARY_VARIABLE} names {}, which is no file", path.display());
        return Ok(path);
    }
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace_root().join("target"), PathBuf::from);
    let path = target.join("release").join("leasehold");
    if !path.is_file() {
        bail!("there is no server program at {}: run cargo dev test", path.display());
    }
    Ok(path)
}

/// An account's addresses, as the server and `account create` print them.
#[derive(Clone, Debug, Deserialize)]
pub struct Credentials {
    /// The account's id, never given to another account.
    pub account_id: String,
    /// The account's name.
    pub name: String,
    /// The address for GBS.
    pub nurl: String,
    /// The address for Foolscap; names the tub id for GBS clients too.
    pub furl: String,
    /// A file for a client's `private` folder that makes it use this account.
    pub servers_yaml: PathBuf,
}

impl Credentials {
    /// The secret part of the addresses.
    pub fn swissnum(&self) -> Result<&str> {
        let path = self.nurl.split('#').next().unwrap_or_default();
        let (_, swissnum) = path.rsplit_once('/').with_context(|| format!("no swissnum in {}", self.nurl))?;
        Ok(swissnum)
    }
}

/// The line that the server prints when it accepts connections.
#[derive(Clone, Debug, Deserialize)]
pub struct Announcement {
    /// The first account.
    #[serde(flatten)]
    pub credentials: Credentials,
    /// Where clients connect, as really bound.
    pub listen: String,
    /// Where metrics and health are, as really bound.
    pub admin: String,
}

/// A server with a data directory; running or not.
pub struct Server {
    name: String,
    root: PathBuf,
    announcement: Announcement,
    process: Option<Process>,
}

impl Server {
    /// Starts a server for the first time. Everything it has is below `<parent>/<name>`; `config` is TOML text.
    pub fn start(name: &str, parent: &Path, config: Option<&str>) -> Result<Self> {
        let root = parent.join(name);
        fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
        if let Some(text) = config {
            fs::write(root.join("config.toml"), text)?;
        }
        let (process, announcement) = launch(name, &root, "127.0.0.1:0")?;
        Ok(Self { name: name.to_owned(), root, announcement, process: Some(process) })
    }

    /// The name given at the start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        data_dir(&self.root)
    }

    /// What the server printed at its latest start.
    pub fn announcement(&self) -> &Announcement {
        &self.announcement
    }

    /// Whether a process is meant to run.
    pub fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// The id of the running process.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Fails, with the end of the log, if the server has ended by itself.
    pub fn expect_running(&mut self) -> Result<()> {
        match &mut self.process {
            Some(process) => process.expect_running(),
            None => bail!("{} is not started", self.name),
        }
    }

    /// Ends the server as a crash would (`kill -9`).
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().with_context(|| format!("{} is not started", self.name))?.kill()
    }

    /// Stops the process in the middle of whatever it does (SIGSTOP): connections stay, answers do not come.
    pub fn freeze(&self) -> Result<()> {
        self.process.as_ref().with_context(|| format!("{} is not started", self.name))?.freeze()
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self) -> Result<()> {
        self.process.as_ref().with_context(|| format!("{} is not started", self.name))?.thaw()
    }

    /// Ends the server with SIGINT and demands that it ends well. (After SIGTERM it would drain for as long as clients
    /// come, and the tests' clients always do.)
    pub fn terminate(&mut self) -> Result<()> {
        let status = self.process.take().with_context(|| format!("{} is not started", self.name))?.interrupt()?;
        ensure!(status.success(), "{} ended with {status} after SIGINT\n{}", self.name, tail(&self.log_path()));
        Ok(())
    }

    /// Begins to drain the server (SIGTERM); it goes on serving meanwhile.
    pub fn drain(&self) -> Result<()> {
        self.process.as_ref().with_context(|| format!("{} is not started", self.name))?.ask_to_end()
    }

    /// Waits for the end of a server that drains and demands that it ends well.
    pub fn drained(&mut self) -> Result<()> {
        // Another SIGTERM changes nothing.
        let status = self.process.take().with_context(|| format!("{} is not started", self.name))?.terminate()?;
        ensure!(status.success(), "{} ended with {status} after draining\n{}", self.name, tail(&self.log_path()));
        Ok(())
    }

    /// Starts the server again on the port it had. Its addresses must be the same as before.
    pub fn restart(&mut self) -> Result<()> {
        let before = self.announcement.credentials.clone();
        self.begin_anew()?;
        let now = &self.announcement.credentials;
        ensure!(now.nurl == before.nurl, "{} has another NURL after a restart", self.name);
        ensure!(now.furl == before.furl, "{} has another FURL after a restart", self.name);
        Ok(())
    }

    /// Starts the server on the port it had, with whatever data it has now; its first account may be another.
    pub fn begin_anew(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} still runs", self.name);
        let listen = self.announcement.listen.clone();
        // Another process may hold the port for a moment as the source of a connection.
        let (process, announcement) =
            wait_until("the server is up again", START_TIMEOUT, || launch(&self.name, &self.root, &listen).map(Some))?;
        self.announcement = announcement;
        self.process = Some(process);
        Ok(())
    }

    /// Makes another account.
    pub fn create_account(&self, name: &str, quota: Option<&str>) -> Result<Credentials> {
        let mut arguments = vec!["create", name];
        if let Some(quota) = quota {
            arguments.extend(["--quota", quota]);
        }
        Ok(serde_json::from_value(self.account(&arguments)?)?)
    }

    /// Runs `leasehold account <arguments>` and gives what it prints.
    pub fn account(&self, arguments: &[&str]) -> Result<Value> {
        self.run(&[&["account"], arguments].concat())
    }

    /// Runs `leasehold share show`.
    pub fn show_shares(&self, storage_index: &str) -> Result<Value> {
        self.run(&["share", "show", storage_index])
    }

    /// An account's bytes, by the key of `account show`: `used_bytes`, `reserved_bytes`, `quota_bytes`.
    pub fn account_bytes(&self, account: &str, key: &str) -> Result<u64> {
        let shown = self.account(&["show", account])?;
        shown[key].as_u64().with_context(|| format!("no number {key} in {shown}"))
    }

    /// The body of a page on the admin port.
    pub fn admin_page(&self, path: &str) -> Result<String> {
        let url = format!("http://{}{path}", self.announcement.admin);
        let mut response = ureq::get(&url).call().with_context(|| format!("GET {url}"))?;
        Ok(response.body_mut().read_to_string()?)
    }

    /// The server's log, of all its runs.
    pub fn log_path(&self) -> PathBuf {
        self.root.join("logs").join(format!("{}.err", self.name))
    }

    /// The end of the server's logs.
    pub fn log_tail(&self) -> String {
        self.process.as_ref().map_or_else(|| tail(&self.log_path()), Process::log_tail)
    }

    /// Runs a command of the program on the server's data directory and gives what it prints.
    pub fn run(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(binary()?);
        command.args(arguments).arg("--data-dir").arg(self.data_dir()).args(["--output", "json"]);
        // It says where the lease database is, if that is not in the data directory.
        let config = self.root.join("config.toml");
        if config.exists() {
            command.arg("--config").arg(config);
        }
        let text = run_ok(&mut command, COMMAND_TIMEOUT)?;
        serde_json::from_str(&text).with_context(|| format!("{command:?} printed no JSON: {text}"))
    }
}

/// Runs the program with bad arguments or without a server; gives its exit code and what it wrote to standard error.
pub fn run_program<S: AsRef<OsStr>>(arguments: &[S]) -> Result<(Option<i32>, String)> {
    let output = run(Command::new(binary()?).args(arguments), COMMAND_TIMEOUT)?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn data_dir(root: &Path) -> PathBuf {
    root.join("data")
}

/// Starts the process and waits for its line.
fn launch(name: &str, root: &Path, listen: &str) -> Result<(Process, Announcement)> {
    let mut command = Command::new(binary()?);
    command.args(["serve", "--listen", listen, "--admin-listen", "127.0.0.1:0", "--output", "json", "--data-dir"]);
    command.arg(data_dir(root));
    let config = root.join("config.toml");
    if config.exists() {
        command.arg("--config").arg(config);
    }
    let logs = root.join("logs");
    // Output is appended to; the line we want is the one after what an earlier run wrote.
    let seen = fs::read_to_string(logs.join(format!("{name}.out"))).unwrap_or_default().len();
    let mut process = Process::start(name, &mut command, &logs)?;
    let stdout = process.stdout().to_owned();
    let mut ended = None;
    let line = wait_until(&format!("{name} accepts connections"), START_TIMEOUT, || {
        if let Err(error) = process.expect_running() {
            ended = Some(error);
            return Ok(Some(String::new()));
        }
        let text = fs::read_to_string(&stdout)?;
        let line = text[seen..].split_inclusive('\n').find(|line| line.ends_with('\n'));
        Ok(line.map(str::to_owned))
    });
    if let Some(error) = ended {
        return Err(error);
    }
    let line = line.explain(|| process.log_tail())?;
    let announcement = serde_json::from_str(&line).with_context(|| format!("{name} printed {line:?}"))?;
    Ok((process, announcement))
}
