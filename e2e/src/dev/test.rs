//! `cargo dev test`: everything that must hold before a change is taken, cheap checks first.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::go::{CHECKER, MINIO};
use super::steps::{Steps, execute};
use super::tools::{CARGO_DENY, cargo, development_folder, provide_browser, provide_compilers, provide_postgres};
use super::{Missing, fuzz};
use crate::leasehold::BINARY_VARIABLE;
use crate::venv::{VENV_VARIABLE, Venv, workspace_root};

/// Tells all tests that they may take long.
const LONG_VARIABLE: &str = "LEASEHOLD_LONG";

const FUZZ_TIME: Duration = Duration::from_secs(5);
const FUZZ_TIME_LONG: Duration = Duration::from_secs(120);

/// Runs all steps, or those whose name contains a word of `only`.
pub fn run(long: bool, only: &[String]) -> Result<()> {
    let mut steps = Steps::new(only);
    steps.run("compilers", provide_compilers)?;
    steps.run("Python environment", || make_venv().map(|_| ()))?;
    steps.run("PostgreSQL", provide_postgres)?;
    steps.run("browser", provide_browser)?;
    steps.run("MinIO", || MINIO.provide().map(drop))?;
    steps.run("format", || execute(cargo().args(["fmt", "--all", "--check"])))?;
    steps.run("lints", || {
        execute(cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))
    })?;
    steps.run("dependencies", check_dependencies)?;
    steps.run("release build", || execute(cargo().args(["build", "--release", "--package", "leasehold-server"])))?;
    steps.run("tests of the server", || {
        let mut command = with_services(tests(long))?;
        execute(command.args(["--workspace", "--exclude", "leasehold-e2e", "--no-fail-fast"]))
    })?;
    steps.run("checker of histories", || CHECKER.test())?;
    steps.run("end-to-end tests", || {
        let venv = make_venv()?;
        let mut command = with_services(tests(long))?;
        command.args(["--package", "leasehold-e2e", "--no-fail-fast"]);
        command.env(VENV_VARIABLE, venv.root()).env(BINARY_VARIABLE, release_binary());
        command.env(CHECKER.variable, CHECKER.provide()?);
        execute(&mut command)
    })?;
    steps.run("fuzz targets", || fuzz::run(if long { FUZZ_TIME_LONG } else { FUZZ_TIME }, &[]))?;
    steps.finish()
}

fn make_venv() -> Result<Venv> {
    Venv::make(&development_folder()).map_err(|error| Missing(format!("{error:#}")).into())
}

/// Licences, duplicates and sources. The advisories are left out: they need a database from the network.
fn check_dependencies() -> Result<()> {
    let mut command = Command::new(CARGO_DENY.provide()?);
    command.current_dir(workspace_root());
    execute(command.args(["check", "licenses", "bans", "sources"]))
}

fn tests(long: bool) -> Command {
    let mut command = cargo();
    // Backtraces of errors bury the logs that come with them.
    command.arg("test").env("RUST_LIB_BACKTRACE", "0");
    if long {
        command.env(LONG_VARIABLE, "1");
    }
    command
}

/// Provides the services that tests start, and tells the tests where their programs are.
fn with_services(mut command: Command) -> Result<Command> {
    provide_postgres()?;
    provide_browser()?;
    command.env(MINIO.variable, MINIO.provide()?);
    Ok(command)
}

fn release_binary() -> std::path::PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace_root().join("target"), Into::into);
    workspace_root().join(target).join("release").join("leasehold")
}
