//! Where PostgreSQL's programs are and under which user they run.

use std::env;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::geteuid;

use crate::scratch::Owner;

/// Where Debian puts the programs of each major version.
const DEBIAN_FOLDER: &str = "/usr/lib/postgresql";
const NEEDED: [&str; 3] = ["initdb", "postgres", "pg_basebackup"];
/// Users to run as instead of root, in this order: the one of Debian's package, and the one that exists everywhere.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// The programs of one installation, and the user to run them as.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
    /// `None` if they run as whoever runs this.
    pub owner: Option<Owner>,
}

impl Programs {
    /// Finds PostgreSQL in `PATH` or where Debian puts it, there in the highest version.
    ///
    /// # Errors
    /// When it is not installed; the message says what to install.
    pub fn find() -> Result<Self> {
        let missing = "PostgreSQL's server programs were not found; on Debian: apt-get install postgresql \
                       (`cargo dev test` does it)";
        let in_path = env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
        let folder = in_path.chain(debian_folders()).find(|folder| is_complete(folder)).context(missing)?;
        Ok(Self { folder, owner: owner()? })
    }

    /// A command that runs one of the programs as the right user, in `folder`.
    pub fn command(&self, program: &str, folder: &Path) -> Command {
        let mut command = Command::new(self.folder.join(program));
        command.current_dir(folder);
        // What the surroundings say about other clusters is not meant for this one.
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        if let Some(owner) = self.owner {
            command.uid(owner.user).gid(owner.group);
        }
        command
    }
}

/// The user to run as where this is root, which neither the server nor its pooler will work for.
pub fn owner() -> Result<Option<Owner>> {
    if geteuid().is_root() { other_user().map(Some) } else { Ok(None) }
}

fn is_complete(folder: &Path) -> bool {
    NEEDED.iter().all(|program| folder.join(program).is_file())
}

/// Debian's folders, the highest version first.
fn debian_folders() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(DEBIAN_FOLDER) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut versions: Vec<u32> = names.filter_map(|name| name.parse().ok()).collect();
    versions.sort_unstable_by(|left, right| right.cmp(left));
    versions.iter().map(|version| Path::new(DEBIAN_FOLDER).join(version.to_string()).join("bin")).collect()
}

/// PostgreSQL refuses to run as root.
fn other_user() -> Result<Owner> {
    let users = fs::read_to_string("/etc/passwd").context("read the users of this machine")?;
    USERS
        .iter()
        .find_map(|name| owner_in(&users, name))
        .with_context(|| format!("neither of the users {} exists", USERS.join(" and ")))
}

fn owner_in(users: &str, name: &str) -> Option<Owner> {
    let mut fields = users.lines().map(|line| line.split(':')).find_map(|mut fields| {
        let is_it = fields.next()? == name;
        is_it.then_some(fields)
    })?;
    let user = fields.nth(1)?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    Some(Owner { user, group })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_is_found_by_its_whole_name() {
        let users = "root:x:0:0:root:/root:/bin/sh\npostgres2:x:7:8::/:/bin/sh\npostgres:x:101:104:,,,:/var:/bin/sh\n";
        assert_eq!(owner_in(users, "postgres"), Some(Owner { user: 101, group: 104 }));
        assert_eq!(owner_in(users, "nobody"), None);
    }
}
