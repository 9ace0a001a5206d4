//! Runs of expiry, by the policy of the configuration.

use leasehold_config::{Config, Expire, ExpireMode as Configured, Size};
use leasehold_core::clock::Timestamp;
use leasehold_core::expiry::{ExpireMode, ExpirePolicy};
use leasehold_core::lease::DAY_SECONDS;
use leasehold_core::store::{ExpireProgress, ExpireRequest, Expired};

use super::progress::Progress;
use crate::places::AnyStore;

/// The policy that is configured; `None` where nothing ever ends.
pub fn policy(config: &Config) -> Option<ExpirePolicy> {
    let Expire { enabled, mode, immutable, mutable, .. } = config.expire;
    let mode = match (mode, config.expire.override_lease_days, config.expire.cutoff_seconds()) {
        (Configured::Age, None, _) => ExpireMode::Age,
        (Configured::Age, Some(days), _) => ExpireMode::Override(i64::from(days) * DAY_SECONDS),
        // There is one, or the configuration was refused; without it nothing was renewed before the beginning of time.
        (Configured::CutoffDate, _, seconds) => {
            ExpireMode::Cutoff(Timestamp::from_seconds(seconds.unwrap_or_default()))
        }
    };
    enabled.then_some(ExpirePolicy { mode, immutable, mutable })
}

/// Makes a run and shows how far it is.
///
/// # Errors
/// As [`Store::expire`](leasehold_core::store::Store::expire).
pub async fn expire(store: &AnyStore, request: ExpireRequest, progress: Progress) -> anyhow::Result<Expired> {
    let expired = store.expire(request, |so_far| progress.show_part(so_far.done, so_far.whole, || text(so_far))).await;
    progress.end();
    Ok(expired?)
}

fn text(so_far: &ExpireProgress) -> String {
    format!(
        "{} leases looked at, {} have ended ({}), {} removed",
        so_far.examined.count,
        so_far.ended.count,
        Size(so_far.ended.bytes),
        so_far.removed.count
    )
}
