//! The program itself as a process, for what only a process has: signals, an exit code, a log.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;
use tempfile::TempDir;

use super::{Connection, PATIENCE, Tls, authorization, nurl_parts};
use crate::places;

/// A server in a process of its own, killed when dropped.
pub struct Program {
    child: Child,
    listen: String,
    tls: Tls,
    /// Opens the first account.
    pub swissnum: String,
    /// The `Authorization` of that.
    pub authorization: String,
    /// Where clients of Foolscap find it.
    pub furl: leasehold_foolscap::Furl,
    log: PathBuf,
    /// Kept as long as it runs.
    _folder: Option<TempDir>,
}

impl Program {
    /// Starts a server with this configuration and waits until it serves.
    pub fn start(config: &str) -> Self {
        let folder = places::folder();
        let mut program = Self::start_in(folder.path(), config, &folder.path().join("data"));
        program._folder = Some(folder);
        program
    }

    /// As [`start`](Self::start), with configuration and log in a folder of the caller's, and this data directory.
    pub fn start_in(folder: &Path, config: &str, data: &Path) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        let (file, log) = (folder.join("config.toml"), folder.join("log"));
        std::fs::write(&file, config).expect("written");
        let output = std::fs::File::create(&log).expect("a log");
        let mut child = Command::new(env!("CARGO_BIN_EXE_leasehold"))
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--output", "json", "--config"])
            .arg(&file)
            .arg("--data-dir")
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::from(output))
            .spawn()
            .expect("the program starts");
        let mut line = Vec::new();
        let mut stdout = child.stdout.take().expect("piped");
        let mut byte = [0];
        while stdout.read(&mut byte).expect("readable") == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        let started: Json = serde_json::from_slice(&line).expect("one line of JSON");
        let (pinned, swissnum) = nurl_parts(started["nurl"].as_str().expect("a NURL"));
        let listen = started["listen"].as_str().expect("an address").to_owned();
        let (authorization, tls) = (authorization(&swissnum), Tls::pinning(&pinned));
        let furl = started["furl"].as_str().expect("a FURL").parse().expect("well formed");
        Self { child, listen, tls, swissnum, authorization, furl, log, _folder: None }
    }

    pub async fn connect(&self) -> Connection {
        let stream = tokio::net::TcpStream::connect(&self.listen).await.expect("connects");
        self.tls.connect(stream).await.expect("a TLS handshake")
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it runs");
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }

    /// Waits for the end; gives how it ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status;
            }
            assert!(tokio::time::Instant::now() < deadline, "still runs: {}", self.log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("text")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
