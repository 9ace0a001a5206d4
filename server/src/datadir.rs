//! The data directory of a server on one machine, and opening what is in it.
//!
//! ```text
//! identity/           TLS key and certificate, tub id, node key: back it up, never lose it
//! leases.sqlite       the lease database, unless PostgreSQL is configured
//! shares/ meta/ tmp/  store objects, unless an S3 bucket is configured; request bodies and uploads on their way
//! accounts/NAME/      swissnum and servers.yaml of each account, as handed to its owner
//! server.json         what clients are told: address and name
//! lock                held by the serving process
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::identity::{Identity, write_private};

/// A server's data directory.
#[derive(Clone, Debug)]
pub struct DataDir(PathBuf);

/// What clients are told about where and who the server is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Published {
    /// `HOST:PORT` to connect to.
    pub advertise: String,
    /// The server's name for people.
    pub nickname: String,
}

/// Proof that this process alone serves a data directory; released with the process.
#[derive(Debug)]
pub struct ServeLock(#[allow(dead_code, reason = "held, not read")] File);

impl DataDir {
    /// Opens the directory, making it if need be.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("cannot make the data directory {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    /// Opens a directory that a server has used.
    ///
    /// # Errors
    /// It is not there or no server has used it.
    pub fn existing(path: &Path) -> anyhow::Result<Self> {
        if !path.join("identity").is_dir() {
            bail!("{} is not the data directory of a server; `leasehold serve` makes one", path.display());
        }
        Ok(Self(path.to_owned()))
    }

    /// Stands for a data directory where nothing in it is needed.
    pub fn nowhere() -> Self {
        Self(PathBuf::new())
    }

    /// The directory itself, which is also the root of the store objects.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The folder of the identity.
    pub fn identity_folder(&self) -> PathBuf {
        self.0.join("identity")
    }

    /// The folder of all accounts' files.
    pub fn accounts_folder(&self) -> PathBuf {
        self.0.join("accounts")
    }

    /// The file of the lease database.
    pub fn database(&self) -> PathBuf {
        self.0.join("leases.sqlite")
    }

    /// The folder of temporary files.
    pub fn spool_folder(&self) -> PathBuf {
        self.0.join("tmp")
    }

    /// Makes the folder of temporary files.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make_spool(&self) -> anyhow::Result<()> {
        let path = self.spool_folder();
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))
    }

    /// Takes the lock of the serving process.
    ///
    /// # Errors
    /// Another process serves this directory.
    pub fn lock(&self) -> anyhow::Result<ServeLock> {
        let path = self.0.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| anyhow::anyhow!("another process is serving {}", self.0.display()))?;
        Ok(ServeLock(file))
    }

    /// The identity of an existing server.
    ///
    /// # Errors
    /// It is missing or damaged.
    pub fn identity(&self) -> anyhow::Result<Identity> {
        Identity::load(&self.identity_folder())
    }

    /// What clients were last told.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn published(&self) -> anyhow::Result<Published> {
        let path = self.0.join("server.json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display())),
            Err(_) => bail!("{} is missing: start the server once, so that it notes its address", path.display()),
        }
    }

    /// Notes what clients are told from now on.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn publish(&self, published: &Published) -> anyhow::Result<()> {
        let path = self.0.join("server.json");
        let text = serde_json::to_vec_pretty(published).context("plain values")?;
        write_private(&path, &text).with_context(|| format!("cannot write {}", path.display()))
    }
}
