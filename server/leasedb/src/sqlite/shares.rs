//! Reading shares, and their leases.

use leasehold_core::id::{AccountId, ShareId, ShareNumber, StorageIndex};
use leasehold_core::leasedb::{Advisory, LeaseRow, RenewOutcome, Result, ShareRow};
use leasehold_core::share::{ShareKind, ShareState};

use super::Tx;
use super::rows::{Leased, damaged, kind_number, lease_of, share_of};

/// How many open reports one share may have.
const ADVISORIES_MAX: i64 = 8;

impl Tx<'_> {
    pub(super) fn list_shares(&self, storage_index: StorageIndex) -> Result<Vec<ShareRow>> {
        let sql = "-- list_shares
            SELECT shnum, kind, state, size_bytes, locator
            FROM shares
            WHERE si = ?1
            ORDER BY shnum";
        let rows = self.query(sql, [storage_index.as_bytes()], share_of)?;
        rows.into_iter().map(|(row, whole)| if whole { Ok(row) } else { Err(damaged("locator")) }).collect()
    }

    pub(super) fn list_numbers(&self, storage_index: StorageIndex, kind: ShareKind) -> Result<Vec<ShareNumber>> {
        let sql = "-- list_numbers
            SELECT shnum
            FROM shares
            WHERE si = ?1 AND kind = ?2 AND state = 1
            ORDER BY shnum";
        let params = (storage_index.as_bytes(), kind_number(kind));
        self.query(sql, params, |row| Ok(ShareNumber::new(row.get(0)?)))
    }

    pub(super) fn find_share(&self, share: ShareId) -> Result<Option<ShareRow>> {
        let sql = "-- find_share
            SELECT shnum, kind, state, size_bytes, locator
            FROM shares
            WHERE si = ?1 AND shnum = ?2";
        let params = (share.storage_index.as_bytes(), share.number.get());
        match self.query(sql, params, share_of)?.pop() {
            Some((_, false)) => Err(damaged("locator")),
            found => Ok(found.map(|(row, _)| row)),
        }
    }

    pub(super) fn list_leases(&self, storage_index: StorageIndex) -> Result<Vec<LeaseRow>> {
        let sql = "-- list_leases
            SELECT l.shnum, l.account_id, a.name, l.renewed_at, l.expires_at
            FROM leases l
            JOIN accounts a USING (account_id)
            WHERE l.si = ?1
            ORDER BY l.shnum, l.account_id";
        self.query(sql, [storage_index.as_bytes()], |row| {
            Ok(LeaseRow {
                number: ShareNumber::new(row.get(0)?),
                account: AccountId::new(row.get(1)?),
                account_name: row.get(2)?,
                lease: lease_of(row.get(3)?, row.get(4)?),
            })
        })
    }

    /// The answer to a renewal that needs no write: there is no share, or every lease holds long enough.
    pub(super) fn renewal_without_write(
        &self,
        storage_index: StorageIndex,
        account: AccountId,
    ) -> Result<Option<RenewOutcome>> {
        let (account, _) = self.existing_account(account)?;
        if !account.state.may_renew() {
            return Ok(Some(RenewOutcome::Refused(account.state)));
        }
        let sql = "-- renewal_without_write
            SELECT l.renewed_at, l.expires_at
            FROM shares s
            LEFT JOIN leases l ON l.si = s.si AND l.shnum = s.shnum AND l.account_id = ?2
            WHERE s.si = ?1 AND s.state = 1";
        let leases = self.query(sql, (storage_index.as_bytes(), account.id.get()), |row| {
            let times: (Option<i64>, Option<i64>) = (row.get(0)?, row.get(1)?);
            Ok(times.0.zip(times.1).map(|(renewed_at, expires_at)| lease_of(renewed_at, expires_at)))
        })?;
        if leases.is_empty() {
            return Ok(Some(RenewOutcome::NotFound));
        }
        let terms = self.terms_of(&account);
        let all_hold = leases.iter().all(|lease| lease.is_some_and(|lease| terms.holds(lease, self.now)));
        Ok(all_hold.then_some(RenewOutcome::Done))
    }

    pub(super) fn renew_leases(&self, storage_index: StorageIndex, account: AccountId) -> Result<RenewOutcome> {
        let (account, mut usage) = self.existing_account(account)?;
        if !account.state.may_renew() {
            return Ok(RenewOutcome::Refused(account.state));
        }
        let mut outcome = RenewOutcome::NotFound;
        for share in self.list_shares(storage_index)?.iter().filter(|row| row.state == ShareState::Stable) {
            match self.lease_share(storage_index, share, &account, &mut usage)? {
                Leased::OverQuota => outcome = RenewOutcome::OverQuota,
                Leased::Held | Leased::Added if outcome == RenewOutcome::NotFound => outcome = RenewOutcome::Done,
                Leased::Held | Leased::Added => {}
            }
        }
        Ok(outcome)
    }

    pub(super) fn advise(&self, advisory: &Advisory) -> Result<()> {
        let sql = "-- advise
            INSERT INTO corruption_advisories (si, shnum, kind, account_id, reason, received_at)
            SELECT ?1, ?2, ?3, ?4, ?5, ?6
            WHERE (SELECT count(*) FROM corruption_advisories WHERE si = ?1 AND shnum = ?2 AND verdict = 0) < ?7";
        let share = &advisory.share;
        let params = (
            share.storage_index.as_bytes(),
            share.number.get(),
            kind_number(advisory.kind),
            advisory.account.get(),
            &advisory.reason,
            self.now_seconds(),
            ADVISORIES_MAX,
        );
        self.execute(sql, params).map(drop)
    }
}
