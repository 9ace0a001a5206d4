//! Going: objects that wait to be deleted, and shares whose objects wait to be merged.

use std::collections::HashSet;

use leasehold_core::backup::deletable_until;
use leasehold_core::chunk::ObjectName;
use leasehold_core::clock::Timestamp;
use leasehold_core::id::{ObjectId, ShareId, StorageIndex};
use leasehold_core::leasedb::{Epoch, Garbage, Result, Scattered};
use leasehold_core::tub::TubConnection;

use super::PgLeaseDb;
use super::load::{self, get, now};
use super::sql::{Uuid, call, sql};
use super::tx::{Decided, Failure, Tx};
use crate::columns::{damaged, extent_of, names_of};
use leasehold_core::locator::Locator;

/// How long a row outlives its objects (`review.md` A1).
const KEEP_DONE_SECONDS: i64 = 30 * 86_400;
const PURGE_AT_ONCE: i64 = 1000;

sql!(
    OVERDUE,
    [INT8, INT8],
    "-- overdue_uploads
    SELECT si, shnum, upload_id
    FROM uploads
    WHERE deadline <= $1
    ORDER BY deadline
    LIMIT $2"
);
sql!(
    ABANDONED,
    [BYTEA, UUID, INT8],
    "-- abandoned_uploads
    SELECT si, shnum, upload_id
    FROM uploads
    WHERE tub_id = $1 AND connection_id <> $2
    LIMIT $3"
);
sql!(
    DUE_GARBAGE,
    [INT8],
    "-- has_due_garbage
    SELECT 1
    FROM garbage
    WHERE done_at IS NULL AND not_before <= $1 AND claimed_until <= $1
    LIMIT 1"
);
// Whoever sets the mode waits for this transaction, and this one for whoever sets it (`review.md` B1).
sql!(
    MAY_DELETE,
    [INT8],
    "-- may_delete
    SELECT backed_up_until
    FROM deployment
    WHERE mode = 0 AND epoch = $1
    FOR SHARE"
);
sql!(
    CLAIM_GARBAGE,
    [INT8, INT8, INT8, INT8],
    "-- claim_garbage
    UPDATE garbage
    SET claimed_until = $1 + $2, attempts = attempts + 1
    WHERE garbage_id IN (
      SELECT garbage_id
      FROM garbage
      WHERE done_at IS NULL AND not_before <= $1 AND claimed_until <= $1
        AND ($4::bigint IS NULL OR created_at <= $4)
      ORDER BY not_before
      LIMIT $3
      FOR UPDATE SKIP LOCKED)
    RETURNING garbage_id, si, objects"
);
sql!(
    NAMED_SHARES,
    [UUID_ARRAY],
    "-- named_shares
    SELECT si, shnum, locator
    FROM shares
    WHERE si = ANY($1)"
);
sql!(
    NAMED_CHUNKS,
    [UUID_ARRAY],
    "-- named_chunks
    SELECT si, shnum, object
    FROM upload_chunks
    WHERE si = ANY($1)"
);
sql!(
    NAMED_MARKERS,
    [UUID_ARRAY],
    "-- named_markers
    SELECT marker
    FROM slots
    WHERE si = ANY($1) AND marker IS NOT NULL"
);
sql!(
    FINISH_GARBAGE,
    [INT8_ARRAY, INT8],
    "-- finish_garbage
    UPDATE garbage
    SET done_at = $2
    WHERE garbage_id = ANY($1)"
);
sql!(
    PURGE_GARBAGE,
    [INT8, INT8],
    "-- purge_garbage
    DELETE FROM garbage
    WHERE garbage_id IN (
      SELECT garbage_id
      FROM garbage
      WHERE done_at < $1
      ORDER BY done_at
      LIMIT $2
      FOR UPDATE SKIP LOCKED)"
);
sql!(
    CLAIM_SCATTERED,
    [INT8, INT8, INT8],
    concat!(
        "-- claim_scattered
    WITH claimed AS (
      UPDATE scattered
      SET claimed_until = $1 + $2
      WHERE (si, shnum) IN (
        SELECT si, shnum
        FROM scattered
        WHERE due_at <= $1 AND claimed_until <= $1
        ORDER BY due_at
        LIMIT $3
        FOR UPDATE SKIP LOCKED)
      RETURNING si, shnum)
    SELECT s.shnum, s.kind, s.state, s.size_bytes, s.locator, c.si, ",
        now!(),
        "
    FROM claimed c
    JOIN shares s ON s.si = c.si AND s.shnum = c.shnum"
    )
);

/// All names that rows of these storage indexes name.
pub(super) async fn named_objects(tx: &mut Tx<'_>, indexes: &[StorageIndex]) -> Result<HashSet<ObjectName>, Failure> {
    let all: Vec<Uuid> = indexes.iter().map(|index| Uuid(*index.as_bytes())).collect();
    let reads = [call!(NAMED_SHARES, all.clone()), call!(NAMED_CHUNKS, all.clone()), call!(NAMED_MARKERS, all)];
    let [shares, chunks, markers] = tx.read(reads).await?;
    let share =
        |row| Ok::<_, Failure>(ShareId::new(load::storage_index(row, 0)?, load::share_number(get(row, 1, "share")?)?));
    let mut named = HashSet::new();
    for row in &shares {
        let (share, locator) = (share(row)?, Locator::decode(get(row, 2, "locator")?).map_err(|_| damaged("locator"))?);
        named.extend(locator.objects().into_iter().map(|object| ObjectName::new(share, object)));
    }
    for row in &chunks {
        named.insert(ObjectName::new(share(row)?, extent_of(get(row, 2, "chunk")?)?.object));
    }
    for row in &markers {
        named.insert(get::<&str>(row, 0, "marker")?.parse().map_err(|_| damaged("marker"))?);
    }
    Ok(named)
}

struct Claim {
    epoch: Epoch,
    now: i64,
    max: u32,
    claim_seconds: i64,
}

async fn claim(tx: &mut Tx<'_>, &Claim { epoch, now, max, claim_seconds }: &Claim) -> Decided<Vec<Garbage>> {
    let epoch = i64::try_from(epoch.0).unwrap_or(i64::MAX);
    let [allowed] = tx.read([call!(MAY_DELETE, epoch)]).await?;
    let Some(deployment) = allowed.first() else { return Ok((Vec::new(), Vec::new())) };
    let backed_up_until = get::<Option<i64>>(deployment, 0, "deployment")?.map(Timestamp::from_seconds);
    let until = deletable_until(backed_up_until).map(Timestamp::seconds);
    let [rows] = tx.read([call!(CLAIM_GARBAGE, now, claim_seconds, i64::from(max), until)]).await?;
    let mut indexes: Vec<StorageIndex> = rows.iter().map(|row| load::storage_index(row, 1)).collect::<Result<_>>()?;
    indexes.sort_unstable();
    indexes.dedup();
    // A second statement: it sees what was committed while the claim waited (`review.md` A7, R9).
    let named = named_objects(tx, &indexes).await?;
    let mut garbage = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut objects = names_of(get(row, 2, "garbage")?)?;
        objects.retain(|name| !named.contains(name));
        garbage.push(Garbage { id: get(row, 0, "garbage")?, objects });
    }
    // The claim itself was the write; the commit still has to be made.
    Ok((garbage, vec![call!(MAY_DELETE, epoch)]))
}

/// Share and id of an upload of `si, shnum, upload_id`.
fn upload_key(row: &tokio_postgres::Row) -> Result<(ShareId, ObjectId)> {
    let share = ShareId::new(load::storage_index(row, 0)?, load::share_number(get(row, 1, "upload")?)?);
    Ok((share, ObjectId::new(get::<Uuid>(row, 2, "upload")?.0)))
}

impl PgLeaseDb {
    pub(super) async fn read_overdue_uploads(&self, max: u32) -> Result<Vec<(ShareId, ObjectId)>> {
        let now = self.read_now().await?.seconds();
        let rows = self.query("overdue_uploads", call!(OVERDUE, now, i64::from(max))).await?;
        rows.iter().map(upload_key).collect()
    }

    pub(super) async fn read_abandoned_uploads(
        &self,
        connection: &TubConnection,
        max: u32,
    ) -> Result<Vec<(ShareId, ObjectId)>> {
        let call = call!(ABANDONED, connection.tub_id.0.to_vec(), Uuid(connection.id), i64::from(max));
        self.query("abandoned_uploads", call).await?.iter().map(upload_key).collect()
    }

    pub(super) async fn change_claim_garbage(
        &self,
        epoch: Epoch,
        max: u32,
        claim_seconds: i64,
    ) -> Result<Vec<Garbage>> {
        let now = self.read_now().await?.seconds();
        if self.query("has_due_garbage", call!(DUE_GARBAGE, now)).await?.is_empty() {
            return Ok(Vec::new());
        }
        let request = Claim { epoch, now, max, claim_seconds };
        self.change("claim_garbage", None, &request, |tx, request| Box::pin(claim(tx, request))).await
    }

    pub(super) async fn change_finish_garbage(&self, ids: Vec<i64>) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let now = self.read_now().await?.seconds();
        self.query("finish_garbage", call!(FINISH_GARBAGE, ids, now)).await?;
        self.query("purge_garbage", call!(PURGE_GARBAGE, now - KEEP_DONE_SECONDS, PURGE_AT_ONCE)).await.map(drop)
    }

    pub(super) async fn change_claim_scattered(&self, max: u32, claim_seconds: i64) -> Result<Vec<Scattered>> {
        let now = self.read_now().await?.seconds();
        let rows = self.query("claim_scattered", call!(CLAIM_SCATTERED, now, claim_seconds, i64::from(max))).await?;
        let scattered = |row: &tokio_postgres::Row| {
            let share_row = load::share(row, 0)?;
            let share = ShareId::new(load::storage_index(row, 5)?, share_row.number);
            Ok(Scattered { share, row: share_row, now: self.time(get(row, 6, "time")?) })
        };
        rows.iter().map(scattered).collect()
    }
}
