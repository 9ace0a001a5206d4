//! What all stories need: a folder, bytes nobody has seen before, the Python environment, and how long they may take.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Result, anyhow, bail};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tempfile::TempDir;

use crate::process::Watchdog;
use crate::venv::Venv;

/// Bytes in a KiB.
pub const KIB: usize = 1 << 10;
/// Bytes in a MiB.
pub const MIB: usize = 1 << 20;

/// Asks for more of the same.
pub const LONG_VARIABLE: &str = "LEASEHOLD_LONG";

/// Keeps the files of all stories when it is set.
const KEEP_VARIABLE: &str = "LEASEHOLD_KEEP";

/// `long` in a long run, else `short`.
pub fn by_length(short: usize, long: usize) -> usize {
    if env::var_os(LONG_VARIABLE).is_some() { long } else { short }
}

/// The Python environment, found or made once.
pub fn venv() -> Result<&'static Venv> {
    static VENV: OnceLock<Result<Venv, String>> = OnceLock::new();
    let venv = VENV.get_or_init(|| Venv::find_or_make().map_err(|error| format!("{error:#}")));
    venv.as_ref().map_err(|error| anyhow!("no Python environment (run cargo dev test): {error}"))
}

/// A folder that is removed at the end, also when it belongs to a static.
pub struct Scratch {
    path: PathBuf,
    _owner: Option<(TempDir, Watchdog)>,
}

impl Scratch {
    /// Makes an empty folder for a story.
    pub fn new(name: &str) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix(&format!("leasehold-{name}-")).tempdir()?;
        let path = directory.path().to_owned();
        if env::var_os(KEEP_VARIABLE).is_some() {
            eprintln!("files of {name} are kept in {}", directory.keep().display());
            return Ok(Self { path, _owner: None });
        }
        // The servers' own watchdogs come first.
        let watchdog = Watchdog::start(&format!("sleep 3; rm -rf '{}'", path.display()))?;
        Ok(Self { path, _owner: Some((directory, watchdog)) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Bytes that nobody has seen before, the same for the same seed.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    StdRng::seed_from_u64(seed).fill_bytes(&mut data);
    data
}

/// Compares without printing megabytes.
pub fn ensure_same(what: &str, got: &[u8], expected: &[u8]) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    let first = got.iter().zip(expected).position(|(left, right)| left != right);
    let lengths = (got.len(), expected.len());
    bail!("{what} came back different: lengths (got, expected) {lengths:?}, first difference at {first:?}")
}
