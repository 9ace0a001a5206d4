//! Folders and ports that a service uses for as long as it runs.

use std::env;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::process::Watchdog;

/// The longest path under which a socket still fits into a socket address (108 bytes), with room for its name.
const PATH_LENGTH_MAX: usize = 60;

/// Kills what works in `$folder`: the folder is new and has a random name, so that is nothing but the service. Twice,
/// because the first round may meet a process that is just about to start another.
const KILL_ALL: &str = r#"for round in 1 2; do
    for process in /proc/[0-9]*; do
        case "$(readlink "$process/cwd")" in "$folder"|"$folder"/*) kill -9 "${process#/proc/}";; esac
    done
    sleep 0.2
done"#;

/// A folder that is gone when its owner is: when it is dropped, and when the process ends without dropping it.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    watchdog: Option<Watchdog>,
}

impl Scratch {
    /// Makes an empty folder for `name` whose path is short enough to hold sockets.
    ///
    /// When this process ends without dropping it, all processes that work in the folder are killed, `last_will` (lines
    /// for `sh`, which may name the folder `$folder`) is run, and the folder is removed.
    pub fn new(name: &str, last_will: &str) -> Result<Self> {
        let usual = env::temp_dir();
        let parent = if usual.as_os_str().len() <= PATH_LENGTH_MAX { usual } else { PathBuf::from("/tmp") };
        let folder = tempfile::Builder::new()
            .prefix(&format!("leasehold-{name}-"))
            .tempdir_in(&parent)
            .with_context(|| format!("make a folder for {name} in {}", parent.display()))?;
        let script = format!("folder={}\n{KILL_ALL}\n{last_will}\nrm -rf \"$folder\"", quoted(folder.path()));
        let watchdog = Some(Watchdog::start(&script)?);
        Ok(Self { folder, watchdog })
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Hands the folder to the user under whom the service runs.
    pub fn give_to(&self, owner: Option<Owner>) -> Result<()> {
        give(self.path(), owner)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The folder removes itself after this.
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.dismiss();
        }
    }
}

/// The user and the group under whom a service runs that refuses to run as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The number of the user.
    pub user: u32,
    /// The number of the user's group.
    pub group: u32,
}

/// Hands one file or folder to `owner`, if there is one, and lets nobody else look into it.
pub fn give(path: &Path, owner: Option<Owner>) -> Result<()> {
    if let Some(owner) = owner {
        chown(path, Some(owner.user), Some(owner.group)).with_context(|| format!("hand over {}", path.display()))?;
    }
    let mode = if path.is_dir() { 0o700 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the permissions of {}", path.display()))
}

/// A loopback address whose port the kernel says is free.
///
/// It may be taken by another program before the caller uses it: a service that does not come up on it should be
/// started again on another one.
pub fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr()?)
}

/// A path as one word for `sh`.
pub fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_folder_is_gone() -> Result<()> {
        let scratch = Scratch::new("test", "")?;
        let path = scratch.path().to_owned();
        std::fs::write(path.join("file"), b"content")?;
        drop(scratch);
        assert!(!path.exists());
        Ok(())
    }

    #[test]
    fn quotes_in_paths_survive_the_shell() -> Result<()> {
        let path = Path::new("/a 'b'/$c");
        let echoed = crate::process::run_ok(
            std::process::Command::new("sh").arg("-c").arg(format!("printf %s {}", quoted(path))),
            std::time::Duration::from_secs(10),
        )?;
        assert_eq!(Path::new(&echoed), path);
        Ok(())
    }
}
