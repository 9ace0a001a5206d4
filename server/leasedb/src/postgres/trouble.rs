//! What is wrong with shares.

use leasehold_core::clock::Timestamp;
use leasehold_core::id::{ShareId, StorageIndex};
use leasehold_core::leasedb::Result;
use leasehold_core::trouble::{DamagedObject, Troubles};
use tokio_postgres::Row;

use super::PgLeaseDb;
use super::apply::{QUEUE_UNLEASED, keys, si};
use super::load::{self, get};
use super::sql::{Call, call, sql};
use crate::columns::damaged;

sql!(
    LOST_SHARES,
    [INT8],
    "-- lost_shares
    SELECT si, shnum, lost_at
    FROM shares
    WHERE state = 3
    ORDER BY si, shnum
    LIMIT $1"
);
sql!(
    DAMAGED_OBJECTS,
    [INT8],
    "-- damaged_objects
    SELECT object, reason, seen_at
    FROM damaged_objects
    ORDER BY si, object
    LIMIT $1"
);
sql!(
    OPEN_ADVISORIES,
    [INT8],
    "-- open_advisories
    SELECT si, shnum, received_at, reason
    FROM corruption_advisories
    WHERE verdict = 0
    ORDER BY advisory_id DESC
    LIMIT $1"
);
// A dry run notes nothing, and so forgets nothing.
sql!(
    FORGET_DAMAGED,
    [INT8, UUID, UUID],
    "-- forget_damaged
    DELETE FROM damaged_objects
    WHERE si BETWEEN $2 AND $3
      AND seen_at < (SELECT started_at FROM runs WHERE run_id = $1 AND NOT dry_run)"
);

/// Forgets damaged objects of a unit that a run has not seen any more.
pub(super) fn forget_damaged(run: i64, first: StorageIndex, last: StorageIndex) -> Call {
    call!(FORGET_DAMAGED, run, si(first), si(last))
}

/// A share of the columns `si, shnum`, and a time behind them.
fn share_at(row: &Row) -> Result<(ShareId, Timestamp)> {
    let share = ShareId::new(load::storage_index(row, 0)?, load::share_number(get(row, 1, "share")?)?);
    Ok((share, Timestamp::from_seconds(get::<Option<i64>>(row, 2, "time")?.unwrap_or_default())))
}

fn object(row: &Row) -> Result<(DamagedObject, Timestamp)> {
    let name = get::<&str>(row, 0, "object")?.parse().map_err(|_| damaged("name of an object"))?;
    let object = DamagedObject { name, reason: get::<&str>(row, 1, "reason")?.to_owned() };
    Ok((object, Timestamp::from_seconds(get(row, 2, "time")?)))
}

fn advisory(row: &Row) -> Result<(ShareId, String, Timestamp)> {
    let (share, at) = share_at(row)?;
    Ok((share, get::<&str>(row, 3, "reason")?.to_owned(), at))
}

impl PgLeaseDb {
    pub(super) async fn read_troubles(&self, max: u32) -> Result<Troubles> {
        let max = i64::from(max);
        let lost = self.query("lost_shares", call!(LOST_SHARES, max)).await?;
        let objects = self.query("damaged_objects", call!(DAMAGED_OBJECTS, max)).await?;
        let reported = self.query("open_advisories", call!(OPEN_ADVISORIES, max)).await?;
        Ok(Troubles {
            lost: lost.iter().map(share_at).collect::<Result<_>>()?,
            damaged: objects.iter().map(object).collect::<Result<_>>()?,
            reported: reported.iter().map(advisory).collect::<Result<_>>()?,
        })
    }

    pub(super) async fn change_queue_unleased(&self, shares: &[ShareId]) -> Result<()> {
        let (indexes, numbers) = keys(shares);
        let now = self.read_now().await?.seconds();
        self.query("queue_unleased", call!(QUEUE_UNLEASED, indexes, numbers, now)).await.map(drop)
    }
}
