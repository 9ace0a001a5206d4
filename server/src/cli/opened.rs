//! What commands work on: lease database, backend and both together, outside any server.

use std::str::FromStr;
use std::sync::Arc;

use leasehold_config::Config;
use leasehold_core::id::{ShareNumber, StorageIndex};
use leasehold_leasedb::AnyLeaseDb;
use prometheus_client::registry::Registry;

use super::Common;
use crate::datadir::{DataDir, ServeLock};
use crate::places::{AnyStore, open_backend, open_lease_db, open_store};
use crate::telemetry;

/// The lease database, with what it was found by.
pub(super) async fn open(common: &Common) -> anyhow::Result<(Config, DataDir, AnyLeaseDb)> {
    let config = common.load_config()?;
    let data = match config.database {
        None => DataDir::existing(&common.data_dir)?,
        Some(_) => DataDir::create(&common.data_dir)?,
    };
    let db = open_lease_db(&config, &data, &mut Registry::default()).await?;
    Ok((config, data, db))
}

/// A directory belongs to one process: that of its server, which does by itself what commands would.
pub(super) fn lock(config: &Config, data: &DataDir) -> anyhow::Result<Option<ServeLock>> {
    if config.storage.s3.is_some() { Ok(None) } else { data.lock().map(Some) }
}

/// The store, with what it was found by.
pub(super) struct Opened {
    pub(super) config: Config,
    pub(super) data: DataDir,
    pub(super) store: Arc<AnyStore>,
    _lock: Option<ServeLock>,
}

impl Opened {
    /// For a command that changes no objects, and may run beside a server.
    pub(super) async fn beside_servers(common: &Common) -> anyhow::Result<Self> {
        Self::with(common, |_, _| Ok(None)).await
    }

    /// For a command that must have a directory for itself.
    pub(super) async fn alone(common: &Common) -> anyhow::Result<Self> {
        Self::with(common, lock).await
    }

    async fn with(
        common: &Common,
        lock: impl Fn(&Config, &DataDir) -> anyhow::Result<Option<ServeLock>>,
    ) -> anyhow::Result<Self> {
        let (config, data, db) = open(common).await?;
        telemetry::init(&config.log).map_err(anyhow::Error::msg)?;
        let lock = lock(&config, &data)?;
        let backend = open_backend(&config, &data, &mut Registry::default())?;
        let store = Arc::new(open_store(&config, db, backend).await?);
        Ok(Self { config, data, store, _lock: lock })
    }
}

/// All shares of a storage index, or one of them, as people write it: `INDEX` or `INDEX/NUMBER`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares(pub(super) StorageIndex, pub(super) Option<ShareNumber>);

impl FromStr for Shares {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (index, number) = text.split_once('/').map_or((text, None), |(index, number)| (index, Some(number)));
        let number = number.map(|number| {
            let parsed = number.parse::<u8>().map(ShareNumber::new);
            parsed.map_err(|_| format!("{number:?} is no share number: a share has one from 0 to 255"))
        });
        Ok(Self(index.parse().map_err(|error| format!("{error}"))?, number.transpose()?))
    }
}
