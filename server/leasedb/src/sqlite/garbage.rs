//! Going: objects that wait to be deleted.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use leasehold_core::chunk::ObjectName;
use leasehold_core::id::{ShareId, StorageIndex};
use leasehold_core::leasedb::{Garbage, GarbageReason, Result, SUPERSEDED_GRACE_SECONDS};

use super::Tx;
use super::rows::{damaged, reason_number};

/// How long a row outlives its objects (`review.md` A1).
const KEEP_DONE_SECONDS: i64 = 30 * 86_400;
const PURGE_AT_ONCE: u32 = 1000;

impl Tx<'_> {
    pub(super) fn add_garbage(
        &self,
        share: ShareId,
        reason: GarbageReason,
        wait_seconds: i64,
        objects: &[ObjectName],
    ) -> Result<()> {
        let sql = "-- add_garbage
            INSERT INTO garbage (si, shnum, reason, not_before, objects)
            VALUES (?1, ?2, ?3, ?4, ?5)";
        let names: Vec<String> = objects.iter().map(ObjectName::to_string).collect();
        let params = (
            share.storage_index.as_bytes(),
            share.number.get(),
            reason_number(reason),
            self.now_seconds() + wait_seconds,
            names.join("\n"),
        );
        self.execute(sql, params).map(drop)
    }

    pub(super) fn discard_objects(&self, objects: Vec<ObjectName>) -> Result<()> {
        let mut by_share: HashMap<ShareId, Vec<ObjectName>> = HashMap::new();
        for name in self.unnamed(objects)? {
            by_share.entry(name.share).or_default().push(name);
        }
        for (share, names) in by_share {
            self.add_garbage(share, GarbageReason::Orphan, SUPERSEDED_GRACE_SECONDS, &names)?;
        }
        Ok(())
    }

    /// Leaves out the names that some row names: the last look before anything is deleted (`review.md` A7, R9).
    fn unnamed(&self, objects: Vec<ObjectName>) -> Result<Vec<ObjectName>> {
        let mut named: HashMap<StorageIndex, HashSet<ObjectName>> = HashMap::new();
        let mut unnamed = Vec::new();
        for name in objects {
            let index = name.share.storage_index;
            let names = match named.entry(index) {
                Entry::Occupied(names) => names.into_mut(),
                Entry::Vacant(names) => names.insert(self.named_objects(index)?),
            };
            if !names.contains(&name) {
                // An upload's chunks may be of a share that has no row yet.
                if !self.upload_objects(name.share)?.contains(&name.object) {
                    unnamed.push(name);
                }
            }
        }
        Ok(unnamed)
    }

    fn named_objects(&self, storage_index: StorageIndex) -> Result<HashSet<ObjectName>> {
        let mut named = HashSet::new();
        for row in self.list_shares(storage_index)? {
            let share = ShareId::new(storage_index, row.number);
            named.extend(row.locator.objects().into_iter().map(|object| ObjectName::new(share, object)));
        }
        if let Some(marker) = self.slot_marker(storage_index)? {
            named.insert(marker.parse().map_err(|_| damaged("marker"))?);
        }
        Ok(named)
    }

    pub(super) fn has_due_garbage(&self) -> Result<bool> {
        let sql = "-- has_due_garbage
            SELECT 1
            FROM garbage
            WHERE done_at IS NULL AND not_before <= ?1 AND claimed_until <= ?1
            LIMIT 1";
        Ok(!self.query(sql, [self.now_seconds()], |_| Ok(()))?.is_empty())
    }

    pub(super) fn claim_garbage(&self, max: u32, claim_seconds: i64) -> Result<Vec<Garbage>> {
        let now = self.now_seconds();
        let sql = "-- claim_garbage
            UPDATE garbage
            SET claimed_until = ?1 + ?2, attempts = attempts + 1
            WHERE garbage_id IN (
              SELECT garbage_id
              FROM garbage
              WHERE done_at IS NULL AND not_before <= ?1 AND claimed_until <= ?1
              ORDER BY not_before
              LIMIT ?3)
            RETURNING garbage_id, objects";
        let claimed = self.query(sql, (now, claim_seconds, max), |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
        let mut garbage = Vec::with_capacity(claimed.len());
        for (id, text) in claimed {
            let names: std::result::Result<Vec<ObjectName>, _> = text.lines().map(str::parse).collect();
            let names = names.map_err(|_| damaged("object name"))?;
            garbage.push(Garbage { id, objects: self.unnamed(names)? });
        }
        Ok(garbage)
    }

    pub(super) fn finish_garbage(&self, ids: &[i64]) -> Result<()> {
        let now = self.now_seconds();
        let finish = "-- finish_garbage
            UPDATE garbage
            SET done_at = ?2
            WHERE garbage_id = ?1";
        for id in ids {
            self.execute(finish, (id, now))?;
        }
        let purge = "-- purge_garbage
            DELETE FROM garbage
            WHERE garbage_id IN (SELECT garbage_id FROM garbage WHERE done_at < ?1 ORDER BY done_at LIMIT ?2)";
        self.execute(purge, (now - KEEP_DONE_SECONDS, PURGE_AT_ONCE)).map(drop)
    }
}
