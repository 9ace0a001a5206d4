//! Accounts: what they may do, what they use, and what still fits.

use crate::clock::Timestamp;
use crate::expiry::KeepAlive;
use crate::id::AccountId;

/// What an account may do at present (`accounting.md` 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AccountState {
    /// Everything.
    #[default]
    Active,
    /// Reads and renewals, no new bytes.
    ReadOnly,
    /// Reads only; leases are not renewable, and do not lapse either.
    Suspended,
    /// Nothing; the account was deleted and its leases age away.
    Closed,
}

impl AccountState {
    /// All states, in the order of their stored numbers.
    pub const ALL: [Self; 4] = [Self::Active, Self::ReadOnly, Self::Suspended, Self::Closed];

    /// Whether shares and listings may be read.
    pub const fn may_read(self) -> bool {
        !matches!(self, Self::Closed)
    }

    /// Whether leases may be added or renewed.
    pub const fn may_renew(self) -> bool {
        matches!(self, Self::Active | Self::ReadOnly)
    }

    /// Whether bytes may be stored or changed.
    pub const fn may_write(self) -> bool {
        matches!(self, Self::Active)
    }

    /// The word shown to people and machines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::ReadOnly => "read-only",
            Self::Suspended => "suspended",
            Self::Closed => "closed",
        }
    }
}

impl std::fmt::Display for AccountState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An account as the lease database knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its number.
    pub id: AccountId,
    /// Its unique name.
    pub name: String,
    /// What it may do.
    pub state: AccountState,
    /// The most that used and reserved bytes together may come to; `None`: no limit.
    pub quota_bytes: Option<u64>,
    /// Days granted by each renewal where that is more than the protocol's 31.
    pub lease_days: u32,
    /// Shown to the account's owner by `GET /account/v1`.
    pub message: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether its leases outlive what was granted.
    pub keep_alive: KeepAlive,
}

/// What an account holds, exact at the moment of the answer (`accounting.md` 11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Container lengths of the stable shares that the account leases, in bytes.
    pub used_bytes: u64,
    /// Container lengths of its unfinished uploads, in bytes.
    pub reserved_bytes: u64,
    /// How many stable shares it leases.
    pub shares: u64,
}

impl Usage {
    /// How many more bytes fit under `quota_bytes`; `u64::MAX` where there is no quota.
    pub fn left(&self, quota_bytes: Option<u64>) -> u64 {
        match quota_bytes {
            None => u64::MAX,
            Some(quota) => quota.saturating_sub(self.used_bytes).saturating_sub(self.reserved_bytes),
        }
    }
}

/// The rules an account's name must keep.
///
/// # Errors
/// A sentence that says what is wrong with the name.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 63 {
        return Err("an account name has 1 to 63 characters");
    }
    if !name.chars().all(good) || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err("an account name consists of a-z, 0-9, '-', '_' and '.', and begins with a letter or digit");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_never_goes_below_zero() {
        let usage = Usage { used_bytes: 70, reserved_bytes: 20, shares: 3 };
        assert_eq!(usage.left(Some(100)), 10);
        assert_eq!(usage.left(Some(80)), 0, "a quota lowered below usage leaves nothing");
        assert_eq!(usage.left(None), u64::MAX);
    }

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for bad in ["", "..", "../x", "a/b", "A", "é", "-a", &"a".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_name("alice-2.example").is_ok());
    }
}
