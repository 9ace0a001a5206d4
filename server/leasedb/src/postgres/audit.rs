//! Counting again what accounts hold.

use leasehold_core::account::Usage;
use leasehold_core::id::AccountId;
use leasehold_core::leasedb::Result;
use tokio_postgres::Row;

use super::PgLeaseDb;
use super::load::get;
use super::sql::{call, sql};
use super::tx::{Decided, Failure, Tx};
use crate::columns::unsigned;

// Whoever changes what the account holds has either ended, and is seen by the next statement, or waits for these rows and
// will add its change to what they say then.
sql!(
    LOCK_COUNTERS,
    [INT4],
    "-- lock_counters
    SELECT stripe, leased_bytes, reserved_bytes, leased_shares
    FROM account_usage
    WHERE account_id = $1
    ORDER BY stripe
    FOR UPDATE"
);
// By the counter that a storage index falls on: the last three bits.
sql!(
    RECOUNT,
    [INT4],
    "-- recount
    SELECT c.stripe, sum(c.leased_bytes)::bigint, sum(c.reserved_bytes)::bigint, sum(c.leased_shares)::bigint
    FROM (
      SELECT (get_byte(uuid_send(l.si), 15) & 7)::smallint AS stripe,
        s.size_bytes + CASE s.kind WHEN 0 THEN 12 ELSE 472 END AS leased_bytes, 0 AS reserved_bytes, 1 AS leased_shares
      FROM leases l
      JOIN shares s ON s.si = l.si AND s.shnum = l.shnum
      WHERE l.account_id = $1 AND s.state = 1
      UNION ALL
      SELECT (get_byte(uuid_send(u.si), 15) & 7)::smallint, 0, u.size_bytes + 12, 0
      FROM uploads u
      WHERE u.account_id = $1) c
    GROUP BY c.stripe"
);
sql!(
    CORRECT_USAGE,
    [INT4, INT2, INT8, INT8, INT8],
    "-- correct_usage
    UPDATE account_usage
    SET leased_bytes = $3, reserved_bytes = $4, leased_shares = $5
    WHERE account_id = $1 AND stripe = $2"
);

/// A counter's number and what it says.
fn counter(row: &Row) -> Result<(i16, [i64; 3])> {
    let number = |at| get(row, at, "counter");
    Ok((get(row, 0, "counter")?, [number(1)?, number(2)?, number(3)?]))
}

async fn recount(tx: &mut Tx<'_>, account: &AccountId) -> Decided<(Usage, Usage)> {
    let id = account.get() as i32;
    let [counters] = tx.read([call!(LOCK_COUNTERS, id)]).await?;
    // A second statement: it sees what was committed while the first one waited.
    let [recounted] = tx.read([call!(RECOUNT, id)]).await?;
    let recounted: Vec<(i16, [i64; 3])> = recounted.iter().map(counter).collect::<Result<_>>()?;
    let (mut was, mut is, mut calls) = (Usage::default(), Usage::default(), Vec::new());
    for row in &counters {
        let (stripe, says) = counter(row)?;
        let holds = recounted.iter().find(|(number, _)| *number == stripe).map_or([0; 3], |(_, holds)| *holds);
        add(&mut was, says);
        add(&mut is, holds);
        if says != holds {
            calls.push(call!(CORRECT_USAGE, id, stripe, holds[0], holds[1], holds[2]));
        }
    }
    Ok::<_, Failure>(((was, is), calls))
}

fn add(usage: &mut Usage, [leased_bytes, reserved_bytes, leased_shares]: [i64; 3]) {
    usage.used_bytes += unsigned(leased_bytes);
    usage.reserved_bytes += unsigned(reserved_bytes);
    usage.shares += unsigned(leased_shares);
}

impl PgLeaseDb {
    pub(super) async fn change_recount_usage(&self, account: AccountId) -> Result<(Usage, Usage)> {
        self.change("recount_usage", None, &account, |tx, account| Box::pin(recount(tx, account))).await
    }
}
