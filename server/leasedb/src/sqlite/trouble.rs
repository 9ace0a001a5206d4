//! What is wrong with shares.

use leasehold_core::clock::Timestamp;
use leasehold_core::id::{ShareId, ShareNumber, StorageIndex};
use leasehold_core::leasedb::Result;
use leasehold_core::run::RunId;
use leasehold_core::trouble::{DamagedObject, Troubles};

use super::Tx;
use crate::columns::damaged;
use crate::plan::{Write, integer};

impl Tx<'_> {
    pub(super) fn troubles(&self, max: u32) -> Result<Troubles> {
        let lost = "-- lost_shares
            SELECT si, shnum, lost_at
            FROM shares
            WHERE state = 3
            ORDER BY si, shnum
            LIMIT ?1";
        let lost = self.query(lost, [max], |row| Ok((share(row)?, time(row, 2)?)))?;
        let objects = "-- damaged_objects
            SELECT object, reason, seen_at
            FROM damaged_objects
            ORDER BY si, object
            LIMIT ?1";
        let objects = self.query(objects, [max], |row| Ok((row.get::<_, String>(0)?, row.get(1)?, time(row, 2)?)))?;
        let object = |(name, reason, seen_at): (String, String, Timestamp)| {
            let name = name.parse().map_err(|_| damaged("name of an object"))?;
            Ok((DamagedObject { name, reason }, seen_at))
        };
        let reported = "-- open_advisories
            SELECT si, shnum, reason, received_at
            FROM corruption_advisories
            WHERE verdict = 0
            ORDER BY advisory_id DESC
            LIMIT ?1";
        let reported = self.query(reported, [max], |row| Ok((share(row)?, row.get(2)?, time(row, 3)?)))?;
        Ok(Troubles { lost, damaged: objects.into_iter().map(object).collect::<Result<_>>()?, reported })
    }

    /// Forgets damaged objects of a unit that a run has not seen any more. A dry one notes nothing, and so forgets nothing.
    pub(super) fn forget_damaged(&self, run: RunId, first: StorageIndex, last: StorageIndex) -> Result<()> {
        let sql = "-- forget_damaged
            DELETE FROM damaged_objects
            WHERE si BETWEEN ?2 AND ?3
              AND seen_at < (SELECT started_at FROM runs WHERE run_id = ?1 AND NOT dry_run)";
        self.execute(sql, (integer(run.0)?, first.as_bytes(), last.as_bytes())).map(drop)
    }

    pub(super) fn queue_unleased(&self, shares: Vec<ShareId>) -> Result<()> {
        self.apply(((), vec![Write::QueueUnleased(shares, self.now)]))
    }
}

fn share(row: &rusqlite::Row<'_>) -> rusqlite::Result<ShareId> {
    Ok(ShareId::new(StorageIndex::new(row.get(0)?), ShareNumber::new(row.get(1)?)))
}

fn time(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Timestamp> {
    Ok(Timestamp::from_seconds(row.get::<_, Option<i64>>(at)?.unwrap_or_default()))
}
