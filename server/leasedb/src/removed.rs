//! A removed share with all that is needed to put it back, as it stands beside its garbage.

use leasehold_core::id::AccountId;
use leasehold_core::lease::Lease;
use leasehold_core::leasedb::{Result, ShareRow, SlotToken};
use leasehold_core::locator::Locator;
use leasehold_core::secret::SecretHash;
use leasehold_core::share::{ShareKind, ShareState};

use crate::columns::{damaged, kind_number, kind_of, lease_of};
use crate::plan::SlotRow;

const VERSION: u8 = 1;
const SLOT_STAYED: u8 = 1;
const SLOT_WENT: u8 = 2;

/// A stable share that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) kind: ShareKind,
    pub(crate) size_bytes: u64,
    pub(crate) locator: Locator,
    /// Of a mutable share: its slot, and whether that went with it.
    pub(crate) slot: Option<(SlotRow, bool)>,
    pub(crate) leases: Vec<(AccountId, Lease)>,
}

impl Removed {
    pub(crate) fn new(row: &ShareRow, slot: Option<(SlotRow, bool)>, leases: Vec<(AccountId, Lease)>) -> Self {
        Self { kind: row.kind, size_bytes: row.size_bytes, locator: row.locator.clone(), slot, leases }
    }

    pub(crate) fn row(&self, number: leasehold_core::id::ShareNumber) -> ShareRow {
        ShareRow {
            number,
            kind: self.kind,
            state: ShareState::Stable,
            size_bytes: self.size_bytes,
            locator: self.locator.clone(),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, kind_number(self.kind) as u8];
        out.extend_from_slice(&self.size_bytes.to_be_bytes());
        match &self.slot {
            None => out.push(0),
            Some((slot, went)) => {
                out.push(if *went { SLOT_WENT } else { SLOT_STAYED });
                out.extend_from_slice(&slot.token.0);
                out.extend_from_slice(slot.write_enabler.as_bytes());
                let marker = slot.marker.map(|name| name.to_string()).unwrap_or_default();
                out.extend_from_slice(&(marker.len() as u32).to_be_bytes());
                out.extend_from_slice(marker.as_bytes());
            }
        }
        out.extend_from_slice(&(self.leases.len() as u32).to_be_bytes());
        for (account, lease) in &self.leases {
            out.extend_from_slice(&account.get().to_be_bytes());
            out.extend_from_slice(&lease.renewed_at.seconds().to_be_bytes());
            out.extend_from_slice(&lease.expires_at.seconds().to_be_bytes());
        }
        out.extend_from_slice(&self.locator.encode());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        decode(bytes).ok_or_else(|| damaged("removed share"))
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn count(&mut self) -> Option<usize> {
        usize::try_from(u32::from_be_bytes(self.array()?)).ok()
    }
}

fn decode(bytes: &[u8]) -> Option<Removed> {
    let mut input = Input(bytes);
    let [VERSION, kind @ 0..=1] = input.array()? else { return None };
    let size_bytes = u64::from_be_bytes(input.array()?);
    let slot = match input.array()? {
        [0] => None,
        [went @ (SLOT_STAYED | SLOT_WENT)] => {
            let (token, write_enabler) = (SlotToken(input.array()?), SecretHash::new(input.array()?));
            let length = input.count()?;
            let marker = std::str::from_utf8(input.take(length)?).ok()?;
            let marker = if marker.is_empty() { None } else { Some(marker.parse().ok()?) };
            Some((SlotRow { token, write_enabler, marker }, went == SLOT_WENT))
        }
        _ => return None,
    };
    let mut leases = Vec::new();
    for _ in 0..input.count()? {
        let account = AccountId::new(u32::from_be_bytes(input.array()?));
        let (renewed_at, expires_at) = (i64::from_be_bytes(input.array()?), i64::from_be_bytes(input.array()?));
        leases.push((account, lease_of(renewed_at, expires_at)));
    }
    let locator = Locator::decode(input.0).ok()?;
    Some(Removed { kind: kind_of(kind.into()), size_bytes, locator, slot, leases })
}

#[cfg(test)]
mod tests {
    use super::*;
    use leasehold_core::chunk::{ObjectName, StoreObject};
    use leasehold_core::id::{ObjectId, ShareId, ShareNumber, StorageIndex};
    use leasehold_core::locator::Extent;

    fn removed(marker: bool, leases: u32) -> Removed {
        let (generation, account) = (ObjectId::new([3; 16]), AccountId::new(17));
        let share = ShareId::new(StorageIndex::new([9; 16]), ShareNumber::new(4));
        let name = ObjectName::new(share, StoreObject::SlotMarker { generation, account });
        let slot = SlotRow {
            token: SlotToken([1; 16]),
            write_enabler: SecretHash::new([2; 32]),
            marker: marker.then_some(name),
        };
        let object = StoreObject::Generation { generation, account };
        let locator = Locator::new(vec![Extent { range: 0..70, object }]).expect("one extent");
        let leases =
            (0..leases).map(|number| (AccountId::new(number), lease_of(100, 200 + i64::from(number)))).collect();
        Removed { kind: ShareKind::Mutable, size_bytes: 70, locator, slot: Some((slot, marker)), leases }
    }

    #[test]
    fn what_was_removed_is_read_back() {
        for removed in [removed(true, 0), removed(false, 3), Removed { slot: None, ..removed(false, 1) }] {
            assert_eq!(Removed::decode(&removed.encode()).expect("our own"), removed);
        }
    }

    #[test]
    fn what_is_cut_short_or_strange_is_refused() {
        let bytes = removed(true, 2).encode();
        for end in 0..bytes.len() {
            assert!(Removed::decode(&bytes[..end]).is_err(), "{end}");
        }
        for at in [0, 1, 10] {
            let mut bytes = bytes.clone();
            bytes[at] = 77;
            assert!(Removed::decode(&bytes).is_err(), "byte {at}");
        }
        // A count that promises more than there is makes nobody allocate for it.
        let mut bytes = removed(false, 0).encode();
        let at = 2 + 8 + 1 + 16 + 32 + 4;
        bytes[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(Removed::decode(&bytes).is_err());
    }
}
