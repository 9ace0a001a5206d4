//! Giving shares to a classic server: as containers, with a lease for each account that leases them.
//!
//! Of a slot's write enabler we keep the hash; a container must have the enabler itself. It is known only as long as one share
//! of the slot is still in the classic form. Other slots get an enabler that nobody knows: they can be read and not written.

use std::collections::HashMap;

use zeroize::Zeroizing;

use super::{Result, ShareSlice, Store};
use crate::backend::Backend;
use crate::chunk::StoreObject;
use crate::classic::{Container, Frame, LeaseRecord, SlotHead, Version, frame};
use crate::id::{ShareId, ShareNumber, StorageIndex};
use crate::leasedb::{LeaseDb, LeaseRow, ShareRow};
use crate::secret::WriteEnabler;
use crate::share::{ShareKind, ShareState};

/// Classic servers give every lease this owner; 0 would be none.
const OWNER: u32 = 1;

/// A share as a classic server would keep it.
pub struct Outgoing {
    /// Its number.
    pub number: ShareNumber,
    /// What it is.
    pub kind: ShareKind,
    /// What stands around the data.
    pub frame: Frame,
    /// The data.
    pub data: ShareSlice,
    /// Whether its writers can go on writing to it.
    pub writable: bool,
}

type Containers = HashMap<ShareNumber, (Container, Vec<LeaseRecord>)>;

impl<L: LeaseDb, B: Backend> Store<L, B> {
    /// The stable shares of a storage index as containers, ascending. The caller opens the data; where it has vanished, the share
    /// has changed: ask again.
    ///
    /// # Errors
    /// Lease database or backend do not answer.
    pub async fn export_shares(&self, storage_index: StorageIndex) -> Result<Vec<Outgoing>> {
        self.touch(storage_index).await?;
        let mut rows = self.db.list_shares(storage_index).await?;
        rows.retain(|row| row.state == ShareState::Stable);
        let leases = self.db.list_leases(storage_index).await?;
        let containers = if rows.iter().any(|row| row.locator.is_classic()) {
            self.containers(storage_index).await?
        } else {
            Containers::new()
        };
        let enabler = self.known_enabler(storage_index, &containers).await?;
        Ok(rows.iter().map(|row| self.outgoing(storage_index, row, &leases, &containers, enabler)).collect())
    }

    /// The containers that are still there.
    async fn containers(&self, storage_index: StorageIndex) -> Result<Containers> {
        let mut containers = Containers::new();
        for stored in self.list_folder(storage_index).await? {
            let name = stored.name;
            if name.object == StoreObject::Classic
                && let Ok(read) = self.read_container(name.share, stored.length_bytes).await?
            {
                containers.insert(name.share.number, read);
            }
        }
        Ok(containers)
    }

    /// The slot's write enabler, if a container still tells it.
    async fn known_enabler<'a>(
        &self,
        storage_index: StorageIndex,
        containers: &'a Containers,
    ) -> Result<Option<&'a SlotHead>> {
        let mut heads = containers.values().filter_map(|(container, _)| container.slot.as_ref()).peekable();
        if heads.peek().is_none() {
            return Ok(None);
        }
        let slot = self.db.read_slot(storage_index).await?.slot;
        Ok(slot.and_then(|(_, hash)| heads.find(|head| head.write_enabler.hash() == hash)))
    }

    fn outgoing(
        &self,
        storage_index: StorageIndex,
        row: &ShareRow,
        leases: &[LeaseRow],
        containers: &Containers,
        enabler: Option<&SlotHead>,
    ) -> Outgoing {
        // What is still a container keeps its version and its leases, so that their holders can renew them.
        let container = containers.get(&row.number).filter(|_| row.locator.is_classic());
        let (version, mut records) =
            container.map_or((Version::V2, Vec::new()), |(container, leases)| (container.version, leases.clone()));
        let of_share = leases.iter().filter(|lease| lease.number == row.number);
        records.extend(of_share.map(|lease| LeaseRecord {
            owner: OWNER,
            expires_at: lease.lease.expires_at,
            // Clients make secrets for each share and server: none of ours would be theirs. They add leases of their own.
            secrets: Zeroizing::new(self.entropy.bytes()),
            node_id: [0; 20],
        }));
        let slot = (row.kind == ShareKind::Mutable).then(|| enabler.cloned().unwrap_or_else(|| self.nobodys()));
        Outgoing {
            number: row.number,
            kind: row.kind,
            frame: frame(version, slot.as_ref(), row.size_bytes, &records),
            data: ShareSlice::new(storage_index, row, 0..u64::MAX),
            writable: row.kind == ShareKind::Immutable || enabler.is_some(),
        }
    }

    fn nobodys(&self) -> SlotHead {
        let secret = self.entropy.bytes::<32>().to_vec();
        SlotHead { write_enabler: WriteEnabler::new(secret).expect("32 bytes"), node_id: [0; 20] }
    }
}

impl Outgoing {
    /// Which share it is.
    pub const fn share(&self, storage_index: StorageIndex) -> ShareId {
        ShareId::new(storage_index, self.number)
    }
}
