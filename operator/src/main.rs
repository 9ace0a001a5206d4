//! The `leasehold-operator` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    leasehold_operator::cli::main()
}
