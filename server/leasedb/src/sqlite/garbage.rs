//! Going: objects that wait to be deleted, and shares whose objects wait to be merged.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use leasehold_core::backup::deletable_until;
use leasehold_core::chunk::ObjectName;
use leasehold_core::clock::Timestamp;
use leasehold_core::id::{ShareId, ShareNumber, StorageIndex};
use leasehold_core::leasedb::{Epoch, Garbage, Mode, Result, Scattered};

use super::Tx;
use crate::columns::names_of;
use crate::plan::upload_objects;

/// How long a row outlives its objects (`review.md` A1).
const KEEP_DONE_SECONDS: i64 = 30 * 86_400;
const PURGE_AT_ONCE: u32 = 1000;

impl Tx<'_> {
    /// All names that rows of a storage index name.
    pub(super) fn named_objects(&self, storage_index: StorageIndex) -> Result<HashSet<ObjectName>> {
        let mut named = HashSet::new();
        for row in self.list_shares(storage_index)? {
            let share = ShareId::new(storage_index, row.number);
            named.extend(row.locator.objects().into_iter().map(|object| ObjectName::new(share, object)));
        }
        for mut upload in self.uploads(storage_index)? {
            upload.chunks = self.chunks(upload.share)?;
            named.extend(upload_objects(&upload));
        }
        named.extend(self.slot_row(storage_index)?.and_then(|slot| slot.marker));
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

    pub(super) fn claim_garbage(&self, epoch: Epoch, max: u32, claim_seconds: i64) -> Result<Vec<Garbage>> {
        let deployment = self.deployment()?;
        if deployment.mode != Mode::Normal || deployment.epoch != epoch {
            return Ok(Vec::new());
        }
        let sql = "-- claim_garbage
            UPDATE garbage
            SET claimed_until = ?1 + ?2, attempts = attempts + 1
            WHERE garbage_id IN (
              SELECT garbage_id
              FROM garbage
              WHERE done_at IS NULL AND not_before <= ?1 AND claimed_until <= ?1
                AND (?4 IS NULL OR created_at <= ?4)
              ORDER BY not_before
              LIMIT ?3)
            RETURNING garbage_id, objects";
        let until = deletable_until(deployment.backed_up_until).map(Timestamp::seconds);
        let params = (self.now_seconds(), claim_seconds, max, until);
        let claimed = self.query(sql, params, |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
        let mut named: HashMap<StorageIndex, HashSet<ObjectName>> = HashMap::new();
        let mut garbage = Vec::with_capacity(claimed.len());
        for (id, text) in claimed {
            let mut objects = Vec::new();
            // The last look before anything is deleted (`review.md` A7, R9).
            for name in names_of(&text)? {
                let named = match named.entry(name.share.storage_index) {
                    Entry::Occupied(names) => names.into_mut(),
                    Entry::Vacant(names) => names.insert(self.named_objects(name.share.storage_index)?),
                };
                if !named.contains(&name) {
                    objects.push(name);
                }
            }
            garbage.push(Garbage { id, objects });
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

    pub(super) fn has_scattered(&self) -> Result<bool> {
        let sql = "-- has_scattered
            SELECT 1
            FROM scattered
            WHERE due_at <= ?1 AND claimed_until <= ?1
            LIMIT 1";
        Ok(!self.query(sql, [self.now_seconds()], |_| Ok(()))?.is_empty())
    }

    pub(super) fn claim_scattered(&self, max: u32, claim_seconds: i64) -> Result<Vec<Scattered>> {
        let sql = "-- claim_scattered
            UPDATE scattered
            SET claimed_until = ?1 + ?2
            WHERE (si, shnum) IN (
              SELECT si, shnum
              FROM scattered
              WHERE due_at <= ?1 AND claimed_until <= ?1
              ORDER BY due_at
              LIMIT ?3)
            RETURNING si, shnum";
        let claimed = self.query(sql, (self.now_seconds(), claim_seconds, max), |row| {
            Ok(ShareId::new(StorageIndex::new(row.get(0)?), ShareNumber::new(row.get(1)?)))
        })?;
        let mut scattered = Vec::new();
        for share in claimed {
            scattered.extend(self.find_share(share)?.map(|row| Scattered { share, row, now: self.now }));
        }
        Ok(scattered)
    }
}
