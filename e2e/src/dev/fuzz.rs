//! `cargo dev fuzz`: builds the fuzz targets with the stable compiler and runs each for a while.
//!
//! cargo-fuzz wants unstable compiler flags; `RUSTC_BOOTSTRAP` lets the stable compiler take them, so no second
//! toolchain is needed. What a run finds stays in `.leasehold-dev/fuzz`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::steps::execute;
use super::tools::{CARGO_FUZZ, development_folder};
use crate::process::run_ok;
use crate::venv::workspace_root;

/// Memory at which a target counts as greedy: decoders must not allocate what a few bytes claim.
const MEMORY_MEGABYTES_MAX: u32 = 1_024;
/// Time for one input at which a target counts as hanging.
const INPUT_SECONDS_MAX: u32 = 10;

/// Runs each target, or each of `only`, for `time`.
pub fn run(time: Duration, only: &[String]) -> Result<()> {
    let folder = workspace_root().join("server").join("fuzz");
    ensure!(folder.join("Cargo.toml").is_file(), "there are no fuzz targets in {}", folder.display());
    let program = CARGO_FUZZ.provide()?;
    let listed = run_ok(&mut cargo_fuzz(&program, "list", &folder), Duration::from_secs(60))?;
    let targets: Vec<&str> = listed.split_whitespace().collect();
    for name in only {
        ensure!(targets.contains(&name.as_str()), "there is no fuzz target {name}; there are {}", targets.join(", "));
    }
    let chosen = targets.iter().filter(|target| only.is_empty() || only.iter().any(|name| name == *target));
    execute(&mut cargo_fuzz(&program, "build", &folder))?;
    for target in chosen {
        run_target(&program, &folder, target, time)?;
    }
    Ok(())
}

fn run_target(program: &Path, folder: &Path, target: &str, time: Duration) -> Result<()> {
    let corpus = made(development_folder().join("fuzz").join("corpus").join(target))?;
    let findings = made(development_folder().join("fuzz").join("findings").join(target))?;
    let mut command = cargo_fuzz(program, "run", folder);
    command.arg(target).arg(&corpus);
    let seeds = folder.join("seeds").join(target);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    command.arg("--").arg(format!("-artifact_prefix={}/", findings.display()));
    command.arg(format!("-max_total_time={}", time.as_secs().max(1)));
    command.arg(format!("-rss_limit_mb={MEMORY_MEGABYTES_MAX}")).arg(format!("-timeout={INPUT_SECONDS_MAX}"));
    command.args(["-print_final_stats=1", "-verbosity=0"]);
    execute(&mut command)
}

fn cargo_fuzz(program: &Path, subcommand: &str, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["fuzz", subcommand, "--fuzz-dir"]).arg(folder);
    // The build folder of the workspace must not be mixed with one built under other flags.
    command.env("RUSTC_BOOTSTRAP", "1").env_remove("CARGO_TARGET_DIR").current_dir(workspace_root());
    command
}

fn made(folder: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&folder)?;
    Ok(folder)
}
