//! The reference implementation: the storage server of Tahoe-LAFS 1.20.0 as a process on loopback.
//!
//! It is the oracle of the differential test and the baseline of the benchmark. What runs is the released code, started
//! by `python/storage_server.py` without the rest of a node.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;

use crate::gbs::Nurl;
use crate::leasehold::Credentials;
use crate::process::{Explain, Process, wait_until};
use crate::venv::Venv;

/// The release that everything is compared with.
pub const VERSION: &str = "1.20.0";

const SCRIPT: &str = include_str!("../python/storage_server.py");
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running Python storage server. It is killed when dropped.
pub struct PythonServer {
    process: Process,
    nurl: Nurl,
    furl: String,
    storage: PathBuf,
}

/// Where a server of this name keeps its shares.
pub fn storage_of(name: &str, parent: &Path) -> PathBuf {
    parent.join(name).join("data").join("storage")
}

/// The line that the script prints.
#[derive(Deserialize)]
struct Announcement {
    nurl: String,
    furl: String,
    version: String,
}

impl PythonServer {
    /// Starts a server with everything it has below `<parent>/<name>`.
    ///
    /// # Errors
    /// If it does not accept connections in time or is another release.
    pub fn start(venv: &Venv, name: &str, parent: &Path) -> Result<Self> {
        let root = parent.join(name);
        fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
        let script = root.join("storage_server.py");
        fs::write(&script, SCRIPT)?;
        let mut process = Process::start(name, venv.python().arg(&script).arg(root.join("data")), &root.join("logs"))?;
        let stdout = process.stdout().to_owned();
        let mut ended = None;
        let line = wait_until("the reference server accepts connections", START_TIMEOUT, || {
            if let Err(error) = process.expect_running() {
                ended = Some(error);
                return Ok(Some(String::new()));
            }
            let text = fs::read_to_string(&stdout)?;
            Ok(text.split_once('\n').map(|(line, _)| line.to_owned()))
        });
        if let Some(error) = ended {
            return Err(error);
        }
        let line = line.explain(|| process.log_tail())?;
        let announcement: Announcement = serde_json::from_str(&line).with_context(|| format!("printed {line:?}"))?;
        ensure!(announcement.version == VERSION, "reference is {}, not {VERSION}", announcement.version);
        let (nurl, storage) = (announcement.nurl.parse()?, storage_of(name, parent));
        Ok(Self { process, nurl, furl: announcement.furl, storage })
    }

    /// The address of its only account.
    pub fn nurl(&self) -> &Nurl {
        &self.nurl
    }

    /// The storage folder: the one with `shares` in it.
    pub fn storage(&self) -> &Path {
        &self.storage
    }

    /// Writes a `servers.yaml` in which this server stands in for another: same tub id, same server id, other address.
    ///
    /// # Errors
    /// If files cannot be read or written.
    pub fn stand_in_for(&self, other: &Credentials, target: &Path) -> Result<()> {
        let hash = BASE64URL_NOPAD.encode(&self.nurl.spki_hash);
        let address = format!("pb://{hash}@{}/{}#v=1", self.nurl.authority(), self.nurl.swissnum);
        let text = fs::read_to_string(&other.servers_yaml)?;
        ensure!(text.contains(&other.nurl), "{} has no NURL of its account", other.servers_yaml.display());
        Ok(fs::write(target, text.replace(&other.nurl, &address))?)
    }

    /// Ends the server.
    ///
    /// # Errors
    /// If it cannot be ended.
    pub fn stop(self) -> Result<()> {
        self.process.kill()
    }

    /// The same for clients of Foolscap.
    pub fn furl(&self) -> &str {
        &self.furl
    }

    /// The id of the process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The end of its logs.
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }
}
