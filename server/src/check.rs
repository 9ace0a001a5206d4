//! `leasehold check`: says what is wrong with a configuration or a data directory, and changes nothing.

use std::path::Path;

use leasehold_config::{Config, Size};
use leasehold_core::clock::{Entropy, SystemClock};
use leasehold_core::leasedb::{Deployment, LeaseDb, Mode};
use leasehold_core::store::{Claim, Store, StoreOptions};
use leasehold_leasedb::AnyLeaseDb;
use prometheus_client::registry::Registry;

use crate::backend::s3::{S3Backend, S3Metrics};
use crate::datadir::DataDir;
use crate::places::{foreign, open_backend, open_lease_db};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but somebody should look.
    Warning,
    /// Does not work.
    Error,
}

impl Level {
    /// The word before a finding.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was found, in a sentence.
    pub text: String,
}

/// Looks at a configuration and, if there is one yet, a data directory.
pub async fn check(config: &Config, path: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |level, text: String| findings.push(Finding { level, text });
    found(Level::Ok, "the configuration is valid".to_owned());
    if config.server.listen.ip().is_unspecified() && config.server.advertise.is_none() {
        let text = "server.advertise is not set: clients will be told 127.0.0.1, which only works on this machine";
        found(Level::Warning, text.to_owned());
    }
    if !config.server.admin_listen.ip().is_loopback() {
        let text = "server.admin_listen is not loopback: whoever reaches it can read metrics";
        found(Level::Warning, text.to_owned());
    }
    let needs_data = config.database.is_none() || config.storage.s3.is_none();
    let data = match DataDir::existing(path) {
        Ok(data) => Some(data),
        Err(_) if !path.exists() => {
            found(Level::Ok, format!("{} does not exist yet; `leasehold serve` will make it", path.display()));
            None
        }
        Err(error) => {
            found(Level::Error, format!("{error:#}"));
            None
        }
    };
    if let Some(data) = &data {
        match data.identity() {
            Ok(identity) => found(Level::Ok, format!("the identity is {}", identity.public.server_id)),
            Err(error) => found(Level::Error, format!("{error:#}")),
        }
        if needs_data {
            check_disk(config, data, &mut found);
        }
    }
    if let Some(s3) = &config.storage.s3 {
        match S3Backend::open(s3, S3Metrics::register(&mut Registry::default())) {
            Ok(backend) => findings.extend(backend.probe(&SystemClock, &Entropy::from_os()).await),
            Err(error) => {
                let text = format!("the S3 bucket {} cannot be used: {error}", s3.bucket);
                findings.push(Finding { level: Level::Error, text });
            }
        }
    }
    let mut found = |level, text: String| findings.push(Finding { level, text });
    let nowhere = DataDir::nowhere();
    let db = match &data {
        Some(data) => check_database(config, data, &mut found).await,
        None if config.database.is_some() => check_database(config, &nowhere, &mut found).await,
        None => None,
    };
    let data = data.as_ref().unwrap_or(&nowhere);
    let has_backend = config.storage.s3.is_some() || data.path().join("shares").is_dir();
    if let Some(db) = db.filter(|_| has_backend) {
        check_owner(config, data, db, &mut found).await;
    }
    findings
}

/// Looks whether the backend belongs to the lease database.
async fn check_owner(config: &Config, data: &DataDir, db: AnyLeaseDb, found: &mut impl FnMut(Level, String)) {
    // What keeps it from being opened was told before.
    let Ok(backend) = open_backend(config, data, &mut Registry::default()) else { return };
    let store = Store::new(db.into(), backend.into(), Entropy::from_os(), StoreOptions::default());
    match store.backend_owner().await {
        Ok(Some(Claim::Ours)) => found(Level::Ok, "the backend belongs to the lease database".to_owned()),
        Ok(Some(Claim::Foreign { theirs, ours, silent_seconds })) => {
            found(Level::Error, foreign(&theirs, &ours, silent_seconds));
        }
        Ok(None) => {}
        Err(error) => found(Level::Error, format!("cannot find out whose the backend is: {error}")),
    }
}

fn check_disk(config: &Config, data: &DataDir, found: &mut impl FnMut(Level, String)) {
    let probe = data.path().join("tmp").join(format!("check-{}", std::process::id()));
    match std::fs::write(&probe, b"probe").and_then(|()| std::fs::remove_file(&probe)) {
        Ok(()) => found(Level::Ok, format!("{} can be written", data.path().display())),
        Err(error) => found(Level::Error, format!("{} cannot be written: {error}", data.path().display())),
    }
    match rustix::fs::statvfs(data.path()) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let left = free.saturating_sub(config.storage.reserved_space.0);
            let level = if left == 0 { Level::Error } else { Level::Ok };
            let text = "of the disk can still be used for shares";
            found(level, format!("{} {text} ({} free)", Size(left), Size(free)));
        }
        Err(error) => found(Level::Error, format!("free space cannot be measured: {error}")),
    }
}

/// Looks at the lease database; gives it if it can be opened.
async fn check_database(config: &Config, data: &DataDir, found: &mut impl FnMut(Level, String)) -> Option<AnyLeaseDb> {
    let db = match open_lease_db(config, data, &mut Registry::default()).await {
        Ok(db) => db,
        Err(error) => {
            found(Level::Error, format!("{error:#}"));
            return None;
        }
    };
    if let AnyLeaseDb::Sqlite(db) = &db {
        match db.check_integrity().await {
            Ok(problems) if problems.is_empty() => found(Level::Ok, "the lease database is sound".to_owned()),
            Ok(problems) => {
                let problems = problems.join("; ");
                found(Level::Error, format!("the lease database is damaged: {problems}; restore a backup"));
            }
            Err(error) => found(Level::Error, format!("the lease database cannot be read: {error}")),
        }
    }
    match db.deployment().await {
        Ok(Deployment { mode: Mode::Normal, .. }) => {}
        Ok(Deployment { epoch, .. }) => {
            let text =
                "the lease database may have lost commits; nothing is deleted until `leasehold reconcile` has run";
            found(Level::Warning, format!("{text} (epoch {})", epoch.0));
        }
        Err(error) => found(Level::Error, format!("the lease database cannot be read: {error}")),
    }
    match db.list_accounts(None, 1000).await {
        Ok(accounts) => {
            let used: u64 = accounts.iter().map(|(_, usage)| usage.used_bytes).sum();
            found(Level::Ok, format!("{} accounts use {}", accounts.len(), Size(used)));
        }
        Err(error) => found(Level::Error, format!("accounts cannot be listed: {error}")),
    }
    Some(db)
}
