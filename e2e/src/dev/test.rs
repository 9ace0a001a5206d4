//! `cargo dev test`: everything that must hold before a change is taken, cheap checks first.

use std::iter;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::go::{CHECKER, MINIO};
use super::steps::{Steps, execute};
use super::tools::{
    CARGO_DENY, cargo, development_folder, provide_browser, provide_compilers, provide_newest_postgres,
    provide_postgres,
};
use super::{Missing, cluster, fuzz};
use crate::cluster::Cluster;
use crate::cluster::programs::RULES;
use crate::image::product;
use crate::leasehold::BINARY_VARIABLE;
use crate::story::LONG_VARIABLE;
use crate::venv::{VENV_VARIABLE, Venv, workspace_root};

/// Files of stories on a cluster that every run tells, in minutes; the others take longer, and are told when they are asked for.
const SHORT_STORIES: [&str; 10] = [
    "accounts",
    "deletion",
    "foundation",
    "handed_out",
    "install",
    "limits",
    "operator",
    "refused",
    "release",
    "rotation",
];
const NEWEST_POSTGRES: &str = "lease database on PostgreSQL 18";
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
        execute(cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))?;
        // `--all-targets` leaves out what is not run by default.
        let cluster = ["clippy", "--package", "leasehold-e2e", "--test", "cluster", "--", "--deny", "warnings"];
        execute(cargo().args(cluster))
    })?;
    steps.run("dependencies", check_dependencies)?;
    // What is shipped is what the tests of finished programs run.
    steps.run("release build", || product::build().map(drop))?;
    steps.run("tests of the server", || {
        let mut command = with_services(tests(long))?;
        execute(command.args(["--workspace", "--exclude", "leasehold-e2e", "--no-fail-fast"]))
    })?;
    if long || only.iter().any(|word| NEWEST_POSTGRES.contains(word.as_str())) {
        steps.run(NEWEST_POSTGRES, test_newest_postgres)?;
    }
    steps.run("checker of histories", || CHECKER.test())?;
    steps.run("end-to-end tests", || {
        let venv = make_venv()?;
        let mut command = with_services(tests(long))?;
        command.args(["--package", "leasehold-e2e", "--no-fail-fast"]);
        command.env(VENV_VARIABLE, venv.root()).env(BINARY_VARIABLE, product::program("leasehold"));
        command.env(CHECKER.variable, CHECKER.provide()?).env(RULES.variable, RULES.provide()?);
        execute(&mut command)
    })?;
    steps.run("fuzz targets", || fuzz::run(if long { FUZZ_TIME_LONG } else { FUZZ_TIME }, &[]))?;
    if only.is_empty() || only.iter().any(|word| "cluster".contains(word.as_str())) {
        let stories = if long || !only.is_empty() { &[][..] } else { &SHORT_STORIES };
        run_on_cluster(&mut steps, long, stories)?;
    }
    steps.finish()
}

/// What depends on PostgreSQL alone, on the newest that we say we support; all other tests run on Debian's.
fn test_newest_postgres() -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = iter::once(provide_newest_postgres()?).chain(std::env::split_paths(&path));
    let mut command = with_services(tests(false))?;
    command.env("PATH", std::env::join_paths(folders)?);
    command.args(["--package", "leasehold-server", "--test", "suite", "--", "contract_leasedb::postgres"]);
    execute(command.args(["pg_races", "pg_cuts", "pg_statements", "pg_faults"]))
}

/// Starts a Kubernetes if none runs, and then ends it as well, whatever happens in between.
fn run_on_cluster(steps: &mut Steps, long: bool, stories: &[&str]) -> Result<()> {
    let here = Cluster::of_workspace();
    let was_up = here.expect_up().is_ok();
    let outcome = cluster::start(&here, steps)
        .and_then(|()| cluster::provide_images(&here, steps))
        .and_then(|()| steps.run("cluster: stories", || tell_stories(long, stories)));
    let ended = if was_up { Ok(()) } else { steps.run("cluster: down", || here.down()) };
    outcome.and(ended)
}

/// Tells the stories of some files, or all of them if none is named.
fn tell_stories(long: bool, files: &[&str]) -> Result<()> {
    let mut command = with_services(tests(long))?;
    command.args(["--package", "leasehold-e2e", "--test", "cluster", "--no-fail-fast", "--", "--test-threads=1"]);
    command.args(files.iter().map(|file| format!("cluster::{file}::")));
    command.env(VENV_VARIABLE, make_venv()?.root()).env(BINARY_VARIABLE, product::program("leasehold"));
    execute(&mut command)
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
