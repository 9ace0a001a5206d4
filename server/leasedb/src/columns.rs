//! How core's values stand in columns of any database.

use leasehold_core::account::AccountState;
use leasehold_core::chunk::{ObjectName, StoreObject};
use leasehold_core::clock::Timestamp;
use leasehold_core::lease::Lease;
use leasehold_core::leasedb::{GarbageReason, LeaseDbError, Mode, Result};
use leasehold_core::locator::{Extent, Locator};
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
