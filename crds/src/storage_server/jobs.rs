//! When leases end and when jobs run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When leases end. Off until asked for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "has(self.cutoffDate) == (self.mode == 'CutoffDate')", "message": "set cutoffDate exactly when mode is CutoffDate"},
    { "rule": "self.mode == 'Age' || self.mode == 'DryRun' || !has(self.overrideDays)", "message": "overrideDays only counts with mode Age or DryRun; remove it"},
]))]
#[serde(rename_all = "camelCase", default)]
pub struct Expiration {
    /// Whether, and by what, leases end.
    pub mode: ExpirationMode,
    /// Days that a renewal promises; clients count on 31.
    #[schemars(range(min = 31, max = 3650))]
    pub lease_days: i32,
    /// Leases end this many days after their renewal, whatever was promised.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 31, max = 3650))]
    pub override_days: Option<i32>,
    /// Leases that were last renewed before this day (`2026-01-31`) end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"))]
    pub cutoff_date: Option<String>,
    /// Of which shares.
    #[schemars(length(min = 1, max = 2))]
    pub share_types: Vec<ShareType>,
    /// The most leases that may end in one run, in percent of an account's or of all, before a person must look.
    #[schemars(range(min = 0, max = 100))]
    pub max_delete_percent: i32,
}

impl Default for Expiration {
    fn default() -> Self {
        Self {
            mode: ExpirationMode::Disabled,
            lease_days: 31,
            override_days: None,
            cutoff_date: None,
            share_types: vec![ShareType::Immutable, ShareType::Mutable],
            max_delete_percent: 25,
        }
    }
}

/// Whether, and by what, leases end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ExpirationMode {
    /// They do not.
    #[default]
    Disabled,
    /// They do not, but each run says who would lose what.
    DryRun,
    /// When their time is over.
    Age,
    /// When they were last renewed before a day.
    CutoffDate,
}

/// A kind of shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ShareType {
    /// Of files that do not change.
    Immutable,
    /// Of files and directories that do.
    Mutable,
}

/// When jobs run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Maintenance {
    /// Removes leases that have ended.
    pub expire: JobSchedule,
    /// Removes shares that nobody leases, and deletes what is due.
    pub collect: CollectSchedule,
    /// Compares the lease database with the backend.
    pub reconcile: ReconcileSchedule,
    /// Counts again what accounts use.
    pub audit: AuditSchedule,
    /// In which time zone all schedules are.
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: String,
    /// Whether no job begins.
    pub suspend: bool,
}

impl Default for Maintenance {
    fn default() -> Self {
        Self {
            expire: JobSchedule::default(),
            collect: CollectSchedule::default(),
            reconcile: ReconcileSchedule::default(),
            audit: AuditSchedule::default(),
            time_zone: "Etc/UTC".to_owned(),
            suspend: false,
        }
    }
}

macro_rules! schedule {
    ($(#[$doc:meta])* $name:ident, $schedule:literal, $minutes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            /// When it begins, as cron writes it.
            #[schemars(length(min = 9, max = 100))]
            pub schedule: String,
            /// How long it may take.
            #[schemars(range(min = 1, max = 10_080))]
            pub max_duration_minutes: i32,
        }

        impl Default for $name {
            fn default() -> Self {
                Self { schedule: $schedule.to_owned(), max_duration_minutes: $minutes }
            }
        }
    };
}

schedule!(
    /// When `expire` runs.
    JobSchedule, "23 * * * *", 50
);
schedule!(
    /// When `collect` runs.
    CollectSchedule, "*/15 * * * *", 14
);
schedule!(
    /// When `audit` runs.
    AuditSchedule, "41 4 * * *", 600
);

/// When `reconcile` runs, and in how many pods.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReconcileSchedule {
    /// When it begins, as cron writes it.
    #[schemars(length(min = 9, max = 100))]
    pub schedule: String,
    /// In how many pods, which share the work.
    #[schemars(range(min = 1, max = 64))]
    pub parallelism: i32,
    /// How long it may take.
    #[schemars(range(min = 1, max = 10_080))]
    pub max_duration_minutes: i32,
}

impl Default for ReconcileSchedule {
    fn default() -> Self {
        Self { schedule: "11 1 * * 6".to_owned(), parallelism: 2, max_duration_minutes: 1440 }
    }
}
