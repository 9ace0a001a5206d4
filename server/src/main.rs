//! The `leasehold` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    leasehold_server::cli::main()
}
