//! What people are told of an account.

use std::time::Duration;

use leasehold_core::clock::Timestamp;
use leasehold_core::secret::Swissnum;
use leasehold_crds::{
    Access, Account, AccountCredential, AccountEffective, AccountStatus, AccountUsage, Binding, CredentialState,
};

use super::credentials::Swissnums;
use super::ledger::Known;
use super::secret_name;
use super::validate::Validated;
use crate::condition::{self, Finding, Obstacle, merge, summary, time};
use crate::context::Context;
use crate::error::Result;
use crate::quantity::shown;

const DAY_SECONDS: i64 = 86_400;
/// Usage alone is written at most so often, in seconds.
const USAGE_REST_SECONDS: i64 = 300;

/// What was found of an account that is as it shall be.
#[derive(Clone, Debug)]
pub struct Observed {
    /// What the lease database knows.
    pub known: Known,
    /// What the Secret holds.
    pub swissnums: Swissnums,
}

fn old(account: &Account) -> AccountStatus {
    account.status.clone().unwrap_or_default()
}

fn with(account: &Account, found: Vec<Finding>, now: Timestamp) -> AccountStatus {
    let old = old(account);
    let generation = account.metadata.generation;
    let conditions = merge(&old.conditions, found, generation, now);
    AccountStatus { observed_generation: generation, conditions, ..old }
}

/// The status of a paused account.
pub fn paused(account: &Account, now: Timestamp) -> AccountStatus {
    with(account, condition::paused(), now)
}

/// The status of an account that its server does not accept.
pub fn refused(account: &Account, obstacle: Obstacle, now: Timestamp) -> AccountStatus {
    let (Obstacle::Passing(reason, message) | Obstacle::Lasting(reason, message)) = obstacle;
    // Only a person can help, but he may do so elsewhere.
    let mut found = summary(Some(Obstacle::Lasting("NotAccepted", message.clone())), "", "");
    found.push(Finding::new("Accepted", false, reason, message));
    AccountStatus { target: Some(super::target(account).to_string()), ..with(account, found, now) }
}

fn accepted() -> Finding {
    Finding::new("Accepted", true, "Accepted", "the server accepts the account")
}

/// The status while the lease database does not answer.
pub fn without_database(account: &Account, validated: &Validated, why: String, now: Timestamp) -> AccountStatus {
    let mut found = summary(Some(Obstacle::Passing("DatabaseUnavailable", why)), "", "");
    found.push(accepted());
    AccountStatus { target: Some(validated.target.to_string()), ..with(account, found, now) }
}

/// The status of an account whose Secret cannot be made.
pub fn without_secret(account: &Account, validated: &Validated, obstacle: Obstacle, now: Timestamp) -> AccountStatus {
    let (Obstacle::Passing(reason, message) | Obstacle::Lasting(reason, message)) = obstacle.clone();
    let mut found = summary(Some(obstacle), "", "");
    found.push(accepted());
    found.push(Finding::new("CredentialsReady", false, reason, message));
    AccountStatus { target: Some(validated.target.to_string()), ..with(account, found, now) }
}

/// The status of an account that cannot be deleted yet.
pub fn blocked(account: &Account, reason: &'static str, message: String, now: Timestamp) -> AccountStatus {
    let mut found = vec![Finding::new("DeletionBlocked", true, reason, message.clone())];
    found.extend(summary(Some(Obstacle::Passing(reason, message)), "", ""));
    with(account, found, now)
}

/// The status of an account that is as it shall be.
pub fn observed(account: &Account, validated: &Validated, observed: &Observed, now: Timestamp) -> AccountStatus {
    let Observed { known, swissnums } = observed;
    let mut found = summary(None, "Provisioned", "the Secret is right and the server honours it");
    found.push(accepted());
    let message = format!("the Secret {} holds the newest address", secret_name(account));
    found.push(Finding::new("CredentialsReady", true, "Issued", message));
    found.push(rotation(known, swissnums, now));
    found.extend(quota(validated, known));
    if validated.access != Access::ReadWrite {
        let (reason, who) =
            if validated.by_provider { ("ByProvider", "the provider") } else { ("ByCustomer", "the customer") };
        let message = format!("{who} has set access to {}", validated.access.as_str());
        found.push(Finding::new("Suspended", true, reason, message));
    }
    let credentials: Vec<AccountCredential> =
        known.credentials.iter().map(|credential| shown_credential(credential, swissnums)).collect();
    let last_used = known.credentials.iter().filter_map(|credential| credential.last_used_at).max();
    let secret = secret_name(account);
    AccountStatus {
        account_id: Some(known.account.id.to_string()),
        target: Some(validated.target.to_string()),
        secret_name: Some(secret.clone()),
        binding: Some(Binding { name: secret }),
        effective: Some(AccountEffective {
            access: validated.access.as_str().to_owned(),
            hard: validated.hard.map(shown),
            lease_mode: account.spec.leases.mode.as_str().to_owned(),
            lease_days: validated.lease_days,
        }),
        usage: Some(usage(account, validated, known, now)),
        last_activity_time: last_used.map(time).or(old(account).last_activity_time),
        credentials,
        ..with(account, found, now)
    }
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What it uses; the old report where it has hardly moved, so that nothing need be written.
fn usage(account: &Account, validated: &Validated, known: &Known, now: Timestamp) -> AccountUsage {
    let usage = &known.usage;
    if let Some(old) = old(account).usage
        && !is_worth_writing(&old, usage.used_bytes, usage.reserved_bytes, validated.hard, now)
    {
        return old;
    }
    AccountUsage {
        storage: shown(usage.used_bytes),
        storage_bytes: count(usage.used_bytes),
        reserved_bytes: count(usage.reserved_bytes),
        shares: count(usage.shares),
        percent: validated.hard.map(|hard| percent(usage.used_bytes, hard)),
        measured_at: time(now),
    }
}

fn percent(used: u64, hard: u64) -> i64 {
    i64::try_from(u128::from(used) * 100 / u128::from(hard.max(1))).unwrap_or(i64::MAX)
}

/// Whether usage has moved so far that a status is worth a write: by a percent of the quota (of what was, where there is
/// none), or to the other side of the quota, and not more often than every few minutes.
pub fn is_worth_writing(old: &AccountUsage, used: u64, reserved: u64, hard: Option<u64>, now: Timestamp) -> bool {
    let before = u64::try_from(old.storage_bytes).unwrap_or_default();
    if hard.is_some_and(|hard| (before >= hard) != (used >= hard)) {
        return true;
    }
    if old.percent.is_some() != hard.is_some() || hard.is_some_and(|hard| old.percent != Some(percent(before, hard))) {
        return true;
    }
    let step = hard.unwrap_or(before) / 100;
    let has_moved =
        used.abs_diff(before) > step || (reserved != 0) != (old.reserved_bytes != 0) || (used == 0) != (before == 0);
    has_moved && now.seconds() - old.measured_at.0.as_second() >= USAGE_REST_SECONDS
}

fn shown_credential(credential: &leasehold_core::leasedb::Credential, swissnums: &Swissnums) -> AccountCredential {
    let is_newest = credential.hash == swissnums.newest.credential_hash();
    AccountCredential {
        generation: is_newest.then_some(swissnums.generation),
        fingerprint: Swissnum::fingerprint(&credential.hash),
        state: if credential.not_after.is_none() { CredentialState::Active } else { CredentialState::Retiring },
        retires_at: credential.not_after.map(time),
        last_used_time: credential.last_used_at.map(time),
    }
}

fn rotation(known: &Known, swissnums: &Swissnums, now: Timestamp) -> Finding {
    let newest = swissnums.newest.credential_hash();
    let retiring = known.credentials.iter().find(|credential| credential.hash != newest);
    let Some((retiring, end)) = retiring.and_then(|retiring| Some((retiring, retiring.not_after?))) else {
        return Finding::new("RotationInProgress", false, "Settled", "one address is valid");
    };
    let end = time(end).0;
    let recent = retiring.last_used_at.filter(|used| now.seconds() - used.seconds() < DAY_SECONDS);
    match recent {
        Some(used) => {
            let message =
                format!("the old address is valid until {end}, and was used at {}: hand out the new one", time(used).0);
            Finding::new("RotationInProgress", true, "OldStillInUse", message)
        }
        None => {
            Finding::new("RotationInProgress", true, "OverlapRunning", format!("the old address is valid until {end}"))
        }
    }
}

fn quota(validated: &Validated, known: &Known) -> Vec<Finding> {
    let used = known.usage.used_bytes + known.usage.reserved_bytes;
    let over = |limit: Option<u64>| limit.is_some_and(|limit| used >= limit);
    let mut found = Vec::new();
    if let Some(hard) = validated.hard.filter(|_| over(validated.hard)) {
        let message = format!(
            "{} of {} are used: nothing new is stored; nothing is deleted, and leases are renewed",
            shown(used),
            shown(hard)
        );
        found.push(Finding::new("QuotaExceeded", true, "OverHard", message));
    }
    if let Some(soft) = validated.soft.filter(|_| over(validated.soft)) {
        let message = format!("{} are used, more than the {} of quota.soft", shown(used), shown(soft));
        found.push(Finding::new("QuotaNearLimit", true, "OverSoft", message));
    }
    found
}

/// When to look again without a reason: at the end of an overlap, or at the usual time.
pub fn next_look(status: &AccountStatus, now: Timestamp, resync: Duration) -> Duration {
    let ends = status.credentials.iter().filter_map(|credential| credential.retires_at.as_ref());
    let next = ends.map(|end| end.0.as_second() - now.seconds() + 1).min();
    next.map_or(resync, |seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(1).max(1)).min(resync))
}

/// Events for what has changed.
pub async fn tell(account: &Account, new: &AccountStatus, context: &Context) {
    let before = old(account);
    // Condition, the truth it must come to, the event, whether that is a warning.
    let told = [
        ("Accepted", "False", "NotAccepted", true),
        ("CredentialsReady", "False", "SecretConflict", true),
        ("QuotaExceeded", "True", "QuotaHardReached", true),
        ("QuotaNearLimit", "True", "QuotaSoftReached", true),
        ("Suspended", "True", "Suspended", true),
        ("DeletionBlocked", "True", "DeletionBlocked", true),
    ];
    for (type_, truth, event, is_warning) in told {
        let is = condition::find(&new.conditions, type_).filter(|found| found.status == truth);
        let was = condition::find(&before.conditions, type_).is_some_and(|found| found.status == truth);
        if let Some(found) = is.filter(|_| !was) {
            context.writer.event(account, is_warning, event, format!("{}: {}", found.reason, found.message)).await;
        }
    }
    let access = |status: &AccountStatus| status.effective.as_ref().map(|effective| effective.access.clone());
    if let (Some(was), Some(is)) = (access(&before), access(new))
        && was != is
    {
        context.writer.event(account, false, "AccessChanged", format!("from {was} to {is}")).await;
    }
}

/// Writes the status if it has changed.
///
/// # Errors
/// The API server refused or does not answer.
pub async fn write(account: &Account, context: &Context, new: AccountStatus) -> Result<()> {
    context.writer.status(account, &old(account), &new).await
}

#[cfg(test)]
mod tests;
