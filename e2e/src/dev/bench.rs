//! `cargo dev bench`: builds what is measured and what measures, both with optimization, and starts it.

use anyhow::Result;

use super::steps::execute;
use super::tools::cargo;

/// Runs the benchmark with its own arguments.
pub fn run(arguments: &[String]) -> Result<()> {
    if !cfg!(debug_assertions) {
        return crate::bench::main(arguments);
    }
    // A load generator without optimization would measure itself.
    execute(cargo().args(["build", "--release", "--package", "leasehold-server", "--package", "leasehold-e2e"]))?;
    let again = ["run", "--quiet", "--release", "--package", "leasehold-e2e", "--bin", "dev", "--", "bench"];
    execute(cargo().args(again).args(arguments))
}
