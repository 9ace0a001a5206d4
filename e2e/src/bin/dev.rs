//! `cargo dev`: the developer's tool of this workspace.

use std::process::ExitCode;

fn main() -> ExitCode {
    leasehold_e2e::dev::main()
}
