//! What was removed is put back.

use super::{Result, Store};
use crate::backend::Backend;
use crate::expiry::{Undo, UndoRefusal, Undone};
use crate::id::{ShareId, ShareNumber, StorageIndex};
use crate::leasedb::{LeaseDb, SlotToken};
use crate::run::RunId;

const INDEXES_AT_ONCE: u32 = 500;
/// How many refusals are told one by one.
const REFUSALS_MAX: usize = 100;

/// What of a run of expiry is undone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UndoneRun {
    /// Storage indexes looked at.
    pub storage_indexes: u64,
    /// Shares that are back.
    pub shares: u64,
    /// Leases that are back.
    pub leases: u64,
    /// How many shares stay away.
    pub refused: u64,
    /// The first of those.
    pub refusals: Vec<(ShareId, UndoRefusal)>,
}

impl<L: LeaseDb, B: Backend> Store<L, B> {
    /// Puts back the removed shares of a storage index, or one of them, with the leases they had. A share that has no lease
    /// any more gets one of the starter account.
    ///
    /// # Errors
    /// The lease database does not answer.
    pub async fn undo(&self, storage_index: StorageIndex, number: Option<ShareNumber>) -> Result<Undone> {
        let token = SlotToken(self.entropy.bytes());
        Ok(self.db.undo(Undo { storage_index, number, run: None, token }).await?)
    }

    /// Puts back the leases that a run of expiry has removed, and the shares that went for want of them.
    ///
    /// # Errors
    /// The lease database does not answer; what was put back until then is back, and the rest can be.
    pub async fn undo_run(&self, run: RunId, report: impl Fn(&UndoneRun) + Sync) -> Result<UndoneRun> {
        let (mut all, mut after) = (UndoneRun::default(), None);
        loop {
            let page = self.db.list_expired(run, after, INDEXES_AT_ONCE).await?;
            let Some(last) = page.last().copied() else { return Ok(all) };
            after = Some(last);
            for storage_index in page {
                let token = SlotToken(self.entropy.bytes());
                let request = Undo { storage_index, number: None, run: Some(run), token };
                let Undone { shares, leases, refused } = self.db.undo(request).await?;
                all.storage_indexes += 1;
                all.shares += shares.len() as u64;
                all.leases += leases;
                all.refused += refused.len() as u64;
                let room = REFUSALS_MAX.saturating_sub(all.refusals.len());
                let refused = refused.into_iter().take(room);
                all.refusals.extend(refused.map(|(number, why)| (ShareId::new(storage_index, number), why)));
            }
            report(&all);
        }
    }
}
