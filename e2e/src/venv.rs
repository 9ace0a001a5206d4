//! The Python environment with the reference implementation, made once and used again.
//!
//! It lives in `.leasehold-dev/venv` of the workspace and belongs to the tests alone. A copy of `requirements.txt` is
//! written into it last, so a half-made or outdated environment is recognized and made anew.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{run, run_ok};

/// Names the environment to use instead of the one made here.
pub const VENV_VARIABLE: &str = "LEASEHOLD_VENV";

const REQUIREMENTS: &str = include_str!("../requirements.txt");
const MARKER: &str = "leasehold-requirements.txt";
const INSTALL_TIMEOUT: Duration = Duration::from_secs(1_200);

/// What Debian calls the things that `python -m venv` and the one package without a wheel (netifaces) need.
const DEBIAN_PACKAGES: [&str; 4] = ["python3", "python3-venv", "python3-dev", "gcc"];

/// A Python that can make the environment: newest name first, the plain one last.
const PYTHONS: [&str; 5] = ["python3.13", "python3.12", "python3.11", "python3.10", "python3"];

/// Exits with 0 if this Python can make environments, build C extensions and run the pinned packages.
const PROBE: &str = "import sys, os, venv, ensurepip, sysconfig
sys.exit(0 if (3, 10) <= sys.version_info[:2] <= (3, 13) and os.path.exists(
    os.path.join(sysconfig.get_path('include'), 'Python.h')) else 1)";

/// An environment in which the packages of `requirements.txt` are installed.
#[derive(Clone, Debug)]
pub struct Venv {
    root: PathBuf,
}

impl Venv {
    /// The environment named by `LEASEHOLD_VENV`, else the workspace's own, which is made if need be.
    pub fn find_or_make() -> Result<Self> {
        match env::var_os(VENV_VARIABLE) {
            Some(root) => Ok(Self { root: root.into() }),
            None => Self::make(&workspace_root().join(".leasehold-dev")),
        }
    }

    /// Makes `<parent>/venv`, or finds it made. Several processes may do so at once; one of them works.
    pub fn make(parent: &Path) -> Result<Self> {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        let lock = File::create(parent.join("venv.lock")).context("open the lock file of the Python environment")?;
        lock.lock().context("lock the Python environment")?;
        let venv = Self { root: parent.join("venv") };
        if venv.is_current() {
            return Ok(venv);
        }
        let python = find_python()?;
        if venv.root.exists() {
            fs::remove_dir_all(&venv.root).with_context(|| format!("remove {}", venv.root.display()))?;
        }
        run_ok(Command::new(&python).args(["-m", "venv"]).arg(&venv.root), INSTALL_TIMEOUT)?;
        let requirements = venv.root.join("requirements.txt");
        fs::write(&requirements, REQUIREMENTS)?;
        let mut install = venv.python();
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
        run_ok(install.arg(&requirements), INSTALL_TIMEOUT)?;
        fs::rename(&requirements, venv.root.join(MARKER))?;
        Ok(venv)
    }

    /// The folder of the environment.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A command that runs the environment's Python.
    pub fn python(&self) -> Command {
        let mut command = Command::new(self.root.join("bin").join("python"));
        // No files beside the sources, no buffered logs, nothing from the surroundings.
        command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUNBUFFERED", "1");
        command.env_remove("PYTHONPATH").env_remove("PYTHONHOME");
        command
    }

    /// A command that runs the `tahoe` program.
    pub fn tahoe(&self) -> Command {
        let mut command = self.python();
        command.arg(self.root.join("bin").join("tahoe"));
        command
    }

    fn is_current(&self) -> bool {
        fs::read_to_string(self.root.join(MARKER)).is_ok_and(|text| text == REQUIREMENTS)
    }
}

/// The folder with the workspace's `Cargo.toml`.
pub fn workspace_root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package is in a folder of the workspace").to_owned()
}

/// Whether Debian packages can be installed here.
pub fn can_install_packages() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    is_root && Path::new("/etc/debian_version").exists()
}

/// Installs Debian packages.
pub fn install_packages(packages: &[&str]) -> Result<()> {
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    run_ok(apt().args(["update", "--quiet"]), INSTALL_TIMEOUT)?;
    run_ok(apt().args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(packages), INSTALL_TIMEOUT)?;
    Ok(())
}

fn find_python() -> Result<PathBuf> {
    if let Some(python) = usable_python() {
        return Ok(python);
    }
    if can_install_packages() {
        install_packages(&DEBIAN_PACKAGES)?;
        if let Some(python) = usable_python() {
            return Ok(python);
        }
    }
    bail!(
        "no Python 3.10 to 3.13 with venv and C headers was found; on Debian: apt-get install {}",
        DEBIAN_PACKAGES.join(" ")
    )
}

fn usable_python() -> Option<PathBuf> {
    let system = ["/usr/bin/python3"];
    PYTHONS.iter().chain(&system).map(PathBuf::from).find(|python| {
        let probe = run(Command::new(python).args(["-c", PROBE]), Duration::from_secs(30));
        probe.is_ok_and(|output| output.status.success())
    })
}
