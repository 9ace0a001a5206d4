//! Counting again what accounts hold.

use leasehold_core::account::Usage;
use leasehold_core::id::AccountId;
use leasehold_core::leasedb::Result;

use super::Tx;
use crate::columns::unsigned;

impl Tx<'_> {
    pub(super) fn recount_usage(&self, account: AccountId) -> Result<(Usage, Usage)> {
        let sql = "-- recount_usage
            SELECT a.leased_bytes, a.reserved_bytes, a.leased_shares,
              (SELECT coalesce(sum(s.size_bytes + CASE s.kind WHEN 0 THEN 12 ELSE 472 END), 0)
               FROM leases l
               JOIN shares s USING (si, shnum)
               WHERE l.account_id = a.account_id AND s.state = 1),
              (SELECT coalesce(sum(u.size_bytes + 12), 0) FROM uploads u WHERE u.account_id = a.account_id),
              (SELECT count(*)
               FROM leases l
               JOIN shares s USING (si, shnum)
               WHERE l.account_id = a.account_id AND s.state = 1)
            FROM accounts a
            WHERE a.account_id = ?1";
        let rows = self.query(sql, [account.get()], |row| {
            let usage = |at: usize| {
                Ok::<_, rusqlite::Error>(Usage {
                    used_bytes: unsigned(row.get(at)?),
                    reserved_bytes: unsigned(row.get(at + 1)?),
                    shares: unsigned(row.get(at + 2)?),
                })
            };
            Ok((usage(0)?, usage(3)?))
        })?;
        let Some((was, is)) = rows.into_iter().next() else { return Ok(Default::default()) };
        if was != is {
            let sql = "-- correct_usage
                UPDATE accounts
                SET leased_bytes = ?2, reserved_bytes = ?3, leased_shares = ?4
                WHERE account_id = ?1";
            self.execute(sql, (account.get(), is.used_bytes as i64, is.reserved_bytes as i64, is.shares as i64))?;
        }
        Ok((was, is))
    }
}
