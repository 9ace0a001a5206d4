//! The program that decides whether a history is linearizable: where it is and what it says.
//!
//! It is written in Go around Porcupine (`e2e/checker`), because that is the checker others trust; `cargo dev test`
//! builds it.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::process::run;
use crate::venv::workspace_root;

/// Names the checker.
pub const CHECKER_VARIABLE: &str = "LEASEHOLD_CHECKER";
/// The file name of the checker.
pub const CHECKER_NAME: &str = "leasehold-checker";

/// How much longer than its search the program may take, to read and to find a short history.
const GRACE: Duration = Duration::from_secs(60);
/// How much of a faulty history is shown.
const SHOWN_MAX: usize = 30;

/// What the checker says of a history.
#[derive(Debug, Clone, Deserialize)]
pub struct Verdict {
    /// `linearizable`, `not linearizable` or `gave up`.
    pub verdict: String,
    /// Operations it has read.
    pub operations: usize,
    /// Those of unknown outcome.
    pub unknown: usize,
    /// Histories it has checked, one for each slot and share.
    pub keys: usize,
    /// How long that took.
    pub seconds: f64,
    /// The slot or share with the fault.
    #[serde(default)]
    pub key: String,
    /// The shortest part of its history that shows the fault.
    #[serde(default)]
    pub partial: Vec<BTreeMap<String, Value>>,
    /// What it holds after the longest run of operations that fit together.
    #[serde(default)]
    pub state: String,
    /// How many these are.
    #[serde(default)]
    pub fitting: usize,
}

impl Verdict {
    /// Whether every key's history is linearizable.
    pub fn is_good(&self) -> bool {
        self.verdict == "linearizable"
    }

    /// Whether a key's history is surely not linearizable.
    pub fn is_bad(&self) -> bool {
        self.verdict == "not linearizable"
    }

    /// Fails unless the history is linearizable, and shows what is wrong with it.
    ///
    /// # Errors
    /// If it is not linearizable, or nobody knows.
    pub fn expect_good(&self) -> Result<()> {
        if self.is_good() {
            return Ok(());
        }
        let skipped = self.partial.len().saturating_sub(SHOWN_MAX);
        let mut text = format!("history of {} is {}\n", self.key, self.verdict);
        for operation in &self.partial[skipped..] {
            text.push_str(&format!("  {}\n", serde_json::to_string(operation)?));
        }
        bail!("{text}{} operations fit together and leave: {}", self.fitting, self.state)
    }
}

/// Checks a history within a time.
///
/// # Errors
/// If there is no checker or it does not understand the history. A bad history is a value.
pub fn check(history: &Path, within: Duration) -> Result<Verdict> {
    let mut command = Command::new(program()?);
    command.arg("-timeout").arg(format!("{}ms", within.as_millis())).arg(history);
    let output = run(&mut command, within + GRACE)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(matches!(output.status.code(), Some(0 | 1 | 3)), "{command:?} ended with {}: {errors}", output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("{command:?} printed no verdict"))
}

/// The checker: `LEASEHOLD_CHECKER`, else the one that `cargo dev test` has built.
fn program() -> Result<PathBuf> {
    if let Some(path) = env::var_os(CHECKER_VARIABLE) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "{CHECKER_VARIABLE} names {}, which is no file", path.display());
        return Ok(path);
    }
    let path = workspace_root().join(".leasehold-dev").join("tools").join("bin").join(CHECKER_NAME);
    ensure!(path.is_file(), "there is no checker at {}: run cargo dev test", path.display());
    Ok(path)
}
