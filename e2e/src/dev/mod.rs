//! The developer tool behind `cargo dev`: installs what the tests need and runs them, the benchmark and the fuzzer.
//!
//! Tools and the Python environment go to `.leasehold-dev` in the workspace, which git ignores; removing that folder
//! undoes everything but Debian packages.

mod bench;
mod cluster;
mod fuzz;
pub(crate) mod go;
pub(crate) mod steps;
mod test;
pub(crate) mod tools;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Installs what is needed to work on Leasehold and runs its checks.
#[derive(Debug, Parser)]
#[command(name = "cargo dev", bin_name = "cargo dev")]
struct Arguments {
    #[command(subcommand)]
    command: DevCommand,
}

#[derive(Debug, Subcommand)]
enum DevCommand {
    /// Installs what the tests need and runs every check and test.
    Test(TestArguments),
    /// What the continuous integration runs: the same as `test`.
    Ci(TestArguments),
    /// Compares the server with the Python 1.20.0 server and prints a table.
    Bench {
        /// Passed to the benchmark; try `-- --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Starts and ends a real Kubernetes on this machine; needs root and Debian.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Builds static programs, packs them as OCI archives and prints their digests.
    Images,
    /// Runs the fuzz targets of the server.
    Fuzz {
        /// How long each target runs.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        /// Only these targets.
        targets: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
struct TestArguments {
    /// Larger counts and longer times; the kinds of tests are the same.
    #[arg(long)]
    long: bool,
    /// Only the steps whose name contains one of these words; without any, all of them.
    steps: Vec<String>,
}

/// Something that is missing on this machine and that a person has to provide.
#[derive(Debug)]
pub struct Missing(pub String);

impl std::fmt::Display for Missing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// Runs the tool. The exit code is 2 for bad arguments and for something missing on the machine, 1 for a failed check.
pub fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.downcast_ref::<Missing>().is_some() { 2 } else { 1 })
        }
    }
}

fn run(command: DevCommand) -> Result<()> {
    match command {
        DevCommand::Test(arguments) | DevCommand::Ci(arguments) => test::run(arguments.long, &arguments.steps),
        DevCommand::Bench { arguments } => bench::run(&arguments),
        DevCommand::Cluster(command) => cluster::run(&command),
        DevCommand::Images => cluster::build_images(),
        DevCommand::Fuzz { seconds, targets } => fuzz::run(Duration::from_secs(seconds), &targets),
    }
}
