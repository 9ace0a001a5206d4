//! Comparing rows with the backend: what is read for it, its transaction, and the units of a run.

use leasehold_core::account::AccountState;
use leasehold_core::chunk::ObjectName;
use leasehold_core::clock::Timestamp;
use leasehold_core::crawl::unit::{ClaimUnitOutcome, FinishUnit, Prefix, UnitEnd};
use leasehold_core::crawl::{
    CYCLES_BEFORE_FORGETTING, Crawled, ForgetOutcome, RECOVERY_SECONDS_MIN, Settle, SettleOutcome, Spared, Survey,
    TakeOver,
};
use leasehold_core::id::{AccountId, ObjectId, ShareId, ShareNumber, StorageIndex};
use leasehold_core::leasedb::{Epoch, Result, SlotToken};
use leasehold_core::run::{RunId, RunState, Totals};
use leasehold_core::share::ShareState;

use super::Tx;
use super::rows::share_of;
use crate::columns::{damaged, names_of, reason_of, run_state_number, state_of};
use crate::plan::settle::{Discarded, SettleView, accounts_of, forget, settle};
use crate::plan::{add_unit, integer};

impl Tx<'_> {
    pub(super) fn survey(&self, storage_index: StorageIndex) -> Result<Survey> {
        let deployment = self.deployment()?;
        let sql = "-- is_settled
            SELECT 1
            FROM recovered
            WHERE si = ?1 AND epoch = ?2";
        let settled = self.query(sql, (storage_index.as_bytes(), integer(deployment.epoch.0)?), |_| Ok(()))?;
        Ok(Survey {
            now: self.now,
            epoch: deployment.epoch,
            mode: deployment.mode,
            settled: !settled.is_empty(),
            shares: self.list_shares(storage_index)?,
            slot: self.slot_row(storage_index)?.map(|slot| (slot.token, slot.marker)),
        })
    }

    pub(super) fn settle(&self, request: &Settle) -> Result<SettleOutcome> {
        let index = request.storage_index;
        let deployment = self.deployment()?;
        let known_until = "-- known_until
            SELECT min(from_at)
            FROM losses
            WHERE epoch > (SELECT settled_epoch FROM deployment)";
        let known_until = self.query(known_until, [], |row| row.get::<_, Option<i64>>(0))?.pop().flatten();
        let uploads = self.uploads(index)?.into_iter().map(|upload| (upload.share.number, upload.id)).collect();
        let view = SettleView {
            now: self.now,
            epoch: deployment.epoch,
            mode: deployment.mode,
            known_until: known_until.map(Timestamp::from_seconds),
            shares: self.list_shares(index)?,
            slot: self.slot_row(index)?,
            holders: self.holders(index)?,
            uploads,
            garbage: self.discarded(index)?,
            accounts: self.account_days(&accounts_of(request))?,
            terms: self.terms,
        };
        self.apply(settle(view, request)?)
    }

    fn discarded(&self, storage_index: StorageIndex) -> Result<Vec<Discarded>> {
        let sql = "-- discarded
            SELECT shnum, reason, done_at IS NOT NULL, upload_id, objects
            FROM garbage
            WHERE si = ?1";
        let rows = self.query(sql, [storage_index.as_bytes()], |row| {
            let upload = row.get::<_, Option<[u8; 16]>>(3)?.map(ObjectId::new);
            Ok((ShareNumber::new(row.get(0)?), row.get(1)?, row.get(2)?, upload, row.get::<_, String>(4)?))
        })?;
        let discarded = |(number, reason, done, upload, names): (_, i16, bool, _, String)| {
            Ok(Discarded { number, reason: reason_of(reason), done, upload, objects: names_of(&names)? })
        };
        rows.into_iter().map(discarded).collect()
    }

    fn account_days(&self, ids: &[AccountId]) -> Result<Vec<(AccountId, AccountState, u32)>> {
        let sql = "-- account_days
            SELECT state, lease_days
            FROM accounts
            WHERE account_id = ?1";
        let mut accounts = Vec::new();
        for id in ids {
            accounts.extend(self.query(sql, [id.get()], |row| Ok((*id, state_of(row.get(0)?), row.get(1)?)))?);
        }
        Ok(accounts)
    }

    pub(super) fn page_shares(&self, unit: &Prefix, after: Option<ShareId>, max: u32) -> Result<Vec<Crawled>> {
        let (first, last) = unit.bounds();
        // Nothing is behind the last number of a storage index, and all of the first is behind -1.
        let (index, number) = after.map_or((first, -1), |share| (share.storage_index, i16::from(share.number.get())));
        let sql = "-- page_shares
            SELECT s.shnum, s.kind, s.state, s.size_bytes, s.locator, s.si, t.marker
            FROM shares s
            LEFT JOIN slots t ON t.si = s.si AND s.kind = 1
            WHERE (s.si, s.shnum) > (?1, ?2) AND s.si <= ?3
            ORDER BY s.si, s.shnum
            LIMIT ?4";
        let rows = self.query(sql, (index.as_bytes(), number, last.as_bytes(), max), |row| {
            Ok((share_of(row)?, StorageIndex::new(row.get(5)?), row.get::<_, Option<String>>(6)?))
        })?;
        let crawled = |(row, index, marker): (Result<_>, _, Option<String>)| {
            let row: leasehold_core::leasedb::ShareRow = row?;
            let marker = marker.map(|name| name.parse::<ObjectName>().map_err(|_| damaged("marker"))).transpose()?;
            Ok(Crawled { share: ShareId::new(index, row.number), row, marker })
        };
        rows.into_iter().map(crawled).collect()
    }

    pub(super) fn spared(&self, indexes: &[StorageIndex]) -> Result<Spared> {
        let sql = "-- spared_garbage
            SELECT objects
            FROM garbage
            WHERE si = ?1 AND done_at IS NULL";
        let mut spared = Spared::default();
        for index in indexes {
            spared.uploads.extend(self.uploads(*index)?.into_iter().map(|upload| (upload.share, upload.id)));
            for names in self.query(sql, [index.as_bytes()], |row| row.get::<_, String>(0))? {
                spared.garbage.extend(names_of(&names)?);
            }
        }
        Ok(spared)
    }

    /// The totals of a run that is under way, which gives a sign of life.
    fn running(&self, run: RunId) -> Result<Option<Totals>> {
        let sql = "-- run_lives
            UPDATE runs
            SET alive_at = ?2
            WHERE run_id = ?1 AND state = 0
            RETURNING totals";
        let totals = self.query(sql, (integer(run.0)?, self.now_seconds()), |row| row.get::<_, String>(0))?.pop();
        totals.map(|text| Totals::decode(&text).map_err(|_| damaged("list of totals"))).transpose()
    }

    pub(super) fn claim_unit(&self, run: RunId, worker: ObjectId, claim_seconds: i64) -> Result<ClaimUnitOutcome> {
        let Some(totals) = self.running(run)? else { return Ok(ClaimUnitOutcome::Ended) };
        let (id, now) = (integer(run.0)?, self.now_seconds());
        let count = "-- count_units
            SELECT count(*), coalesce(sum(state = 0), 0), coalesce(sum(state = 2), 0), coalesce(max(reason), '')
            FROM crawl_units
            WHERE run_id = ?1";
        let counts = self.query(count, [id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        let (all, open, failed, reason): (i64, i64, i64, String) = counts.into_iter().next().unwrap_or_default();
        if all == 0 {
            // The parts of the run before are everything, in sizes that have proven right.
            let of_last = "-- units_of_last
                INSERT INTO crawl_units (run_id, prefix)
                SELECT ?1, prefix
                FROM crawl_units
                WHERE run_id = (SELECT max(run_id) FROM crawl_units WHERE run_id < ?1)";
            if self.execute(of_last, [id])? == 0 {
                self.execute("-- first_unit\nINSERT INTO crawl_units (run_id, prefix) VALUES (?1, '')", [id])?;
            }
            self.execute("-- forget_units\nDELETE FROM crawl_units WHERE run_id < ?1", [id])?;
        } else if open == 0 {
            return Ok(ClaimUnitOutcome::Finished(totals, failed.unsigned_abs(), reason));
        }
        let claim = "-- claim_unit
            UPDATE crawl_units
            SET worker = ?2, claimed_until = ?3 + ?4
            WHERE run_id = ?1 AND prefix = (
              SELECT prefix
              FROM crawl_units
              WHERE run_id = ?1 AND state = 0 AND claimed_until <= ?3
              ORDER BY prefix
              LIMIT 1)
            RETURNING prefix";
        let params = (id, worker.as_bytes(), now, claim_seconds);
        match self.query(claim, params, |row| row.get::<_, String>(0))?.pop() {
            Some(prefix) => Ok(ClaimUnitOutcome::Claimed(prefix.parse().map_err(|_| damaged("prefix"))?, totals)),
            None => Ok(ClaimUnitOutcome::AllClaimed(totals)),
        }
    }

    pub(super) fn keep_unit(&self, run: RunId, unit: &Prefix, worker: ObjectId, seconds: i64) -> Result<bool> {
        if self.running(run)?.is_none() {
            return Ok(false);
        }
        let sql = "-- keep_unit
            UPDATE crawl_units
            SET claimed_until = ?4
            WHERE run_id = ?1 AND prefix = ?2 AND worker = ?3 AND state = 0";
        let until = self.now_seconds() + seconds;
        Ok(self.execute(sql, (integer(run.0)?, unit.to_string(), worker.as_bytes(), until))? > 0)
    }

    pub(super) fn finish_unit(&self, finish: &FinishUnit) -> Result<bool> {
        let Some(mut totals) = self.running(finish.run)? else { return Ok(false) };
        let (run, prefix) = (integer(finish.run.0)?, finish.unit.to_string());
        let sql = "-- finish_unit
            UPDATE crawl_units
            SET state = ?4, reason = ?5
            WHERE run_id = ?1 AND prefix = ?2 AND worker = ?3 AND state = 0";
        let (state, reason) = match &finish.end {
            UnitEnd::Failed(reason) => (2, reason.as_str()),
            UnitEnd::Done(_) | UnitEnd::Split | UnitEnd::Braked(_) => (1, ""),
        };
        if self.execute(sql, (run, &prefix, finish.worker.as_bytes(), state, reason))? == 0 {
            return Ok(false);
        }
        add_unit(&mut totals, finish);
        match &finish.end {
            UnitEnd::Done(_) => {
                let (first, last) = finish.unit.bounds();
                let forget = "-- forget_recovered
                    DELETE FROM recovered
                    WHERE si BETWEEN ?1 AND ?2 AND (SELECT mode FROM deployment) = 0";
                self.execute(forget, (first.as_bytes(), last.as_bytes()))?;
                self.forget_damaged(finish.run, first, last)?;
            }
            UnitEnd::Split => {
                self.execute(
                    "-- drop_unit\nDELETE FROM crawl_units WHERE run_id = ?1 AND prefix = ?2",
                    (run, &prefix),
                )?;
                for part in finish.unit.split() {
                    let insert = "-- add_unit\nINSERT INTO crawl_units (run_id, prefix) VALUES (?1, ?2)";
                    self.execute(insert, (run, part.to_string()))?;
                }
            }
            UnitEnd::Braked(reason) => {
                let brake = "-- brake_run
                    UPDATE runs
                    SET state = ?2, finished_at = ?3, reason = ?4
                    WHERE run_id = ?1";
                self.execute(brake, (run, run_state_number(RunState::Braked), self.now_seconds(), reason))?;
            }
            UnitEnd::Failed(_) => {}
        }
        self.execute("-- count_unit\nUPDATE runs SET totals = ?2 WHERE run_id = ?1", (run, totals.encode()))?;
        Ok(true)
    }

    pub(super) fn end_recovery(&self, epoch: Epoch, run: RunId) -> Result<bool> {
        let sql = "-- end_recovery
            UPDATE deployment
            SET surveyed_epoch = epoch
            WHERE mode = 1 AND epoch = ?1
              AND (SELECT started_at FROM runs WHERE run_id = ?2 AND state = 0 AND NOT dry_run)
                >= (SELECT coalesce(max(to_at), 0) FROM losses WHERE epoch = ?1)
              AND EXISTS (SELECT 1 FROM crawl_units WHERE run_id = ?2)
              AND NOT EXISTS (SELECT 1 FROM crawl_units WHERE run_id = ?2 AND state <> 1)";
        Ok(self.execute(sql, (integer(epoch.0)?, integer(run.0)?))? > 0)
    }

    /// Recovery ends when everything was compared and no request of before can be obeyed any more.
    pub(super) fn leave_recovery(&self) -> Result<()> {
        let sql = "-- leave_recovery
            UPDATE deployment
            SET mode = 0, settled_epoch = epoch, complete_since = ?1
            WHERE mode = 1 AND surveyed_epoch = epoch
              AND NOT EXISTS (SELECT 1 FROM losses l WHERE l.epoch = deployment.epoch AND l.to_at > ?1 - ?2)";
        self.execute(sql, (self.now_seconds(), RECOVERY_SECONDS_MIN)).map(drop)
    }

    pub(super) fn take_over(&self, request: &TakeOver) -> Result<bool> {
        let sql = "-- is_new
            SELECT (SELECT beat FROM beats) = 0 AND NOT EXISTS (SELECT 1 FROM shares) AND NOT EXISTS (SELECT 1 FROM uploads),
                   NOT EXISTS (SELECT 1 FROM accounts WHERE account_id >= ?1)";
        let found = self.query(sql, [AccountId::FIRST_DECLARED.get()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (unused, without_accounts): (bool, bool) = found.into_iter().next().unwrap_or_default();
        if !unused || (request.deployment.is_some() && !without_accounts) {
            return Ok(false);
        }
        let epoch = integer(request.epoch.0)?;
        let begin = "-- take_over
            UPDATE deployment
            SET deployment_id = coalesce(?1, deployment_id), epoch = ?2, mode = 1";
        let id = request.deployment.map(|id| *id.as_bytes());
        self.execute(begin, (id, epoch))?;
        let loss = "-- add_loss
            INSERT INTO losses (epoch, from_at, to_at)
            VALUES (?1, 0, ?2)";
        self.execute(loss, (epoch, self.now_seconds()))?;
        let accounts = "-- skip_accounts
            UPDATE sqlite_sequence
            SET seq = max(seq, ?1)
            WHERE name = 'accounts'";
        self.execute(accounts, [request.accounts_after.get()])?;
        Ok(true)
    }

    pub(super) fn forget_lost(&self, share: ShareId, token: SlotToken) -> Result<ForgetOutcome> {
        let shares = self.list_shares(share.storage_index)?;
        if !shares.iter().any(|row| row.number == share.number && row.state == ShareState::Lost) {
            return Ok(ForgetOutcome::NotLost);
        }
        let sql = "-- cycles_missed
            SELECT count(*)
            FROM runs
            WHERE kind = 2 AND state = 1 AND NOT dry_run
              AND started_at > (SELECT lost_at FROM shares WHERE si = ?1 AND shnum = ?2)";
        let key = (share.storage_index.as_bytes(), share.number.get());
        let missed: u32 = self.query(sql, key, |row| row.get(0))?.pop().unwrap_or_default();
        if missed < CYCLES_BEFORE_FORGETTING {
            return Ok(ForgetOutcome::TooEarly(CYCLES_BEFORE_FORGETTING - missed));
        }
        let slot = self.slot_row(share.storage_index)?;
        self.apply((ForgetOutcome::Forgotten, forget(share, self.now, &shares, slot.as_ref(), token)))
    }
}
