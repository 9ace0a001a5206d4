//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

/// Leasehold's operator for Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "leasehold-operator", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the custom resources as YAML
    ///
    /// With a folder, writes one file a kind into it; a test fails where the committed ones are stale.
    Crds {
        /// Where to write files
        folder: Option<PathBuf>,
    },
}

/// Runs the command line: exit code 0 if all went well, 2 with one line on standard error if not.
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("leasehold-operator: {}", format!("{error:#}").replace('\n', " "));
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Crds { folder } => write_crds(folder),
    }
}

fn write_crds(folder: Option<PathBuf>) -> anyhow::Result<()> {
    for definition in leasehold_crds::all() {
        let (name, text) = leasehold_crds::yaml(&definition);
        match &folder {
            Some(folder) => {
                let path = folder.join(name);
                std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            }
            None => print!("---\n{text}"),
        }
    }
    Ok(())
}
