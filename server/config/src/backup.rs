//! Backups of the lease database.

use serde::{Deserialize, Serialize};

/// Backups of the lease database, in the storage backend under `meta/backup/`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Backup {
    /// How often a serving process takes one. 0 leaves that to `leasehold backup`.
    pub interval_seconds: u64,
    /// Of how many hours the last backup is kept.
    pub keep_hourly: u32,
    /// Of how many days the last backup is kept.
    pub keep_daily: u32,
    /// Of how many weeks the last backup is kept.
    pub keep_weekly: u32,
    /// Only where the lease database is backed up by other means: how far back a restore may reach. Deleting waits that
    /// long, instead of for our next backup. 0 where there are no backups at all.
    pub restore_horizon_seconds: Option<u64>,
}

impl Default for Backup {
    fn default() -> Self {
        Self { interval_seconds: 3600, keep_hourly: 24, keep_daily: 14, keep_weekly: 8, restore_horizon_seconds: None }
    }
}

impl Backup {
    /// Checks the values against each other.
    pub(crate) fn validate(&self) -> Result<(), super::ConfigError> {
        let invalid = |key, problem: &str| Err(super::ConfigError::Invalid { key, problem: problem.to_owned() });
        if self.restore_horizon_seconds.is_some() && self.interval_seconds > 0 {
            return invalid(
                "backup.restore_horizon_seconds",
                "is for databases that are backed up by other means; set backup.interval_seconds = 0 with it",
            );
        }
        if self.restore_horizon_seconds.is_some_and(|seconds| seconds > 10 * 365 * 86_400) {
            return invalid("backup.restore_horizon_seconds", "must be at most ten years");
        }
        Ok(())
    }
}
