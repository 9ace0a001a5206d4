//! The reference implementation: the storage server of Tahoe-LAFS 1.20.0 as a process on loopback.
//!
//! It is the oracle of the differential test and the baseline of the benchmark. What runs is the released code, started
//! by `python/storage_server.py` without the rest of a node.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::gbs::Nurl;
use crate::process::{Process, wait_until};
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
        let line = line.with_context(|| process.log_tail())?;
        let announcement: Announcement = serde_json::from_str(&line).with_context(|| format!("printed {line:?}"))?;
        ensure!(announcement.version == VERSION, "reference is {}, not {VERSION}", announcement.version);
        Ok(Self { process, nurl: announcement.nurl.parse()?, furl: announcement.furl })
    }

    /// The address of its only account.
    pub fn nurl(&self) -> &Nurl {
        &self.nurl
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
