//! `cargo dev bench`: builds what is measured and what measures, both with optimization, and starts it.

use anyhow::Result;

use super::go::MINIO;
use super::steps::execute;
use super::tools::{cargo, provide_postgres};

/// Runs the benchmark with its own arguments.
pub fn run(arguments: &[String]) -> Result<()> {
    if !cfg!(debug_assertions) {
        return crate::bench::main(arguments);
    }
    // A load generator without optimization would measure itself.
    execute(cargo().args(["build", "--release", "--package", "leasehold-server", "--package", "leasehold-e2e"]))?;
    let again = ["run", "--quiet", "--release", "--package", "leasehold-e2e", "--bin", "dev", "--", "bench"];
    let mut command = cargo();
    let wants = |option: &str| arguments.iter().any(|argument| argument == option);
    if wants("--crawl") {
        provide_postgres()?;
    }
    if wants("--pods") {
        provide_postgres()?;
        command.env(MINIO.variable, MINIO.provide()?);
    }
    execute(command.args(again).args(arguments))
}
