//! How core's values stand in columns of any database.

use leasehold_core::account::AccountState;
use leasehold_core::chunk::{ObjectName, StoreObject};
use leasehold_core::clock::Timestamp;
use leasehold_core::expiry::KeepAlive;
use leasehold_core::lease::Lease;
use leasehold_core::leasedb::{GarbageReason, LeaseDbError, Mode, Result};
use leasehold_core::locator::{Extent, Locator};
use leasehold_core::run::{PermitOutcome, RunKind, RunState};
use leasehold_core::share::{ShareKind, ShareState};

pub(crate) fn damaged(what: &str) -> LeaseDbError {
    LeaseDbError::Invalid(format!("a row holds a damaged {what}"))
}

pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

pub(crate) const fn kind_number(kind: ShareKind) -> i16 {
    match kind {
        ShareKind::Immutable => 0,
        ShareKind::Mutable => 1,
    }
}

pub(crate) const fn kind_of(number: i16) -> ShareKind {
    if number == 0 { ShareKind::Immutable } else { ShareKind::Mutable }
}

pub(crate) const fn share_state_of(number: i16) -> ShareState {
    if number == 1 { ShareState::Stable } else { ShareState::Lost }
}

pub(crate) const fn reason_number(reason: GarbageReason) -> i16 {
    match reason {
        GarbageReason::Unleased => 1,
        GarbageReason::Removed => 2,
        GarbageReason::Superseded => 3,
        GarbageReason::Aborted => 4,
        GarbageReason::Orphan => 5,
    }
}

pub(crate) const fn reason_of(number: i16) -> GarbageReason {
    match number {
        1 => GarbageReason::Unleased,
        2 => GarbageReason::Removed,
        3 => GarbageReason::Superseded,
        4 => GarbageReason::Aborted,
        _ => GarbageReason::Orphan,
    }
}

/// A mode that is not known forbids what it can.
pub(crate) const fn mode_of(number: i16) -> Mode {
    if number == 0 { Mode::Normal } else { Mode::Recovery }
}

pub(crate) fn state_number(state: AccountState) -> i16 {
    AccountState::ALL.iter().position(|s| *s == state).map_or(0, |index| index as i16)
}

/// A state that is not known forbids what it can.
pub(crate) fn state_of(number: i16) -> AccountState {
    let index = usize::try_from(number).unwrap_or(usize::MAX);
    AccountState::ALL.get(index).copied().unwrap_or(AccountState::Suspended)
}

pub(crate) fn run_kind_number(kind: RunKind) -> i16 {
    RunKind::ALL.iter().position(|k| *k == kind).map_or(0, |index| index as i16)
}

pub(crate) fn run_kind_of(number: i16) -> RunKind {
    usize::try_from(number).ok().and_then(|index| RunKind::ALL.get(index)).copied().unwrap_or(RunKind::Expire)
}

pub(crate) fn run_state_number(state: RunState) -> i16 {
    RunState::ALL.iter().position(|s| *s == state).map_or(0, |index| index as i16)
}

pub(crate) fn run_state_of(number: i16) -> RunState {
    usize::try_from(number).ok().and_then(|index| RunState::ALL.get(index)).copied().unwrap_or(RunState::Failed)
}

/// Why a run is abandoned, for people.
pub(crate) const ABANDONED: &str = "it gave no sign of life for five minutes";

/// Whether a run may be permitted: its state, and whether a later one of its kind has begun.
pub(crate) const fn permit_outcome(found: Option<(RunState, bool)>) -> PermitOutcome {
    match found {
        None => PermitOutcome::Unknown,
        Some((RunState::Braked, true)) => PermitOutcome::Superseded,
        Some((RunState::Braked, false)) => PermitOutcome::Permitted,
        Some(_) => PermitOutcome::NotBraked,
    }
}

/// The stored form of an account's promise: days, -1 for ever, nothing for none.
pub(crate) fn keep_days(keep_alive: KeepAlive) -> Option<i32> {
    match keep_alive {
        KeepAlive::None => None,
        KeepAlive::Days(days) => Some(i32::try_from(days).unwrap_or(i32::MAX)),
        KeepAlive::Always => Some(-1),
    }
}

pub(crate) fn keep_alive_of(days: Option<i32>) -> KeepAlive {
    days.map_or(KeepAlive::None, |days| u32::try_from(days).map_or(KeepAlive::Always, KeepAlive::Days))
}

pub(crate) fn lease_of(renewed_at: i64, expires_at: i64) -> Lease {
    Lease { renewed_at: Timestamp::from_seconds(renewed_at), expires_at: Timestamp::from_seconds(expires_at) }
}

pub(crate) fn object_to_blob(range: std::ops::Range<u64>, object: StoreObject) -> Result<Vec<u8>> {
    let locator = Locator::new(vec![Extent { range, object }]).map_err(|_| damaged("chunk"))?;
    Ok(locator.encode())
}

pub(crate) fn extent_of(blob: &[u8]) -> Result<Extent> {
    let locator = Locator::decode(blob).map_err(|_| damaged("chunk"))?;
    locator.extents().first().cloned().ok_or_else(|| damaged("chunk"))
}

/// Names of objects in a text column, one a line.
pub(crate) fn names_to_text(names: &[ObjectName]) -> String {
    names.iter().map(ObjectName::to_string).collect::<Vec<_>>().join("\n")
}

pub(crate) fn names_of(text: &str) -> Result<Vec<ObjectName>> {
    text.lines().map(str::parse).collect::<std::result::Result<_, _>>().map_err(|_| damaged("object name"))
}
