//! A real browser without a screen: what a person's page has become after it was laid out.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::run_ok;
use crate::scratch::Scratch;

const NAME: &str = "chromium";
const PATIENCE: Duration = Duration::from_secs(60);
/// Keeps the browser from talking to anybody but the page's server.
const QUIET: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
];

/// Demands the program and says where it is.
///
/// # Errors
/// Says what to install.
pub fn find_program() -> Result<PathBuf> {
    let folders = env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    folders
        .map(|folder| folder.join(NAME))
        .find(|program| program.is_file())
        .context("Chromium was not found; on Debian: apt-get install chromium (`cargo dev test` does it)")
}

/// Opens `url` in a fresh browser and gives the document as it stands then.
///
/// # Errors
/// The browser is missing, fails, or does not end in time.
pub fn document(url: &str) -> Result<String> {
    let profile = Scratch::new("browser", "")?;
    let mut command = Command::new(find_program()?);
    command.current_dir(profile.path());
    command.args(QUIET).arg(format!("--user-data-dir={}", profile.path().display())).args(["--dump-dom", url]);
    run_ok(&mut command, PATIENCE)
}
