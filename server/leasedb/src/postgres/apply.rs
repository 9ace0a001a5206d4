//! The writes of a plan as statements.

use leasehold_core::id::{ShareId, StorageIndex};
use leasehold_core::leasedb::Result;

use super::sql::{Call, Param, Uuid, call, sql};
use crate::columns::{kind_number, names_to_text, object_to_blob, reason_number};
use crate::plan::{Write, integer};

sql!(
    PUT_LEASE,
    [UUID, INT2, INT4, INT8, INT8],
    "-- put_lease
    INSERT INTO leases (si, shnum, account_id, renewed_at, expires_at)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (si, shnum, account_id) DO UPDATE
    SET renewed_at = greatest(leases.renewed_at, excluded.renewed_at),
        expires_at = greatest(leases.expires_at, excluded.expires_at)"
);
sql!(
    REMOVE_LEASES,
    [UUID, INT2],
    "-- remove_leases
    DELETE FROM leases
    WHERE si = $1 AND shnum = $2"
);
sql!(
    INSERT_UPLOAD,
    [UUID, INT2, UUID, INT4, INT8, BYTEA, INT8, BYTEA, UUID, TEXT],
    "-- insert_upload
    INSERT INTO uploads (si, shnum, upload_id, account_id, size_bytes, secret_hash, created_at, deadline,
                         tub_id, connection_id, incarnation)
    VALUES ($1, $2, $3, $4, $5, $6, extract(epoch FROM now())::bigint, $7, $8, $9, $10)"
);
sql!(
    INSERT_CHUNK,
    [UUID, INT2, INT8, INT8, BYTEA, BYTEA],
    "-- insert_chunk
    INSERT INTO upload_chunks (si, shnum, begin_off, end_off, object, digest)
    VALUES ($1, $2, $3, $4, $5, $6)"
);
sql!(
    RECEIVED,
    [UUID, INT2, INT8, INT8],
    "-- received
    UPDATE uploads
    SET received_bytes = $3, deadline = $4
    WHERE si = $1 AND shnum = $2"
);
sql!(
    REMOVE_UPLOAD,
    [UUID, INT2],
    "-- remove_upload
    DELETE FROM uploads
    WHERE si = $1 AND shnum = $2"
);
sql!(
    INSERT_SHARE,
    [UUID, INT2, INT2, INT8, BYTEA, INT8],
    "-- insert_share
    INSERT INTO shares (si, shnum, kind, state, size_bytes, locator, created_at)
    VALUES ($1, $2, $3, 1, $4, $5, $6)"
);
sql!(
    UPDATE_SHARE,
    [UUID, INT2, INT8, BYTEA],
    "-- update_share
    UPDATE shares
    SET size_bytes = $3, locator = $4, state = 1, lost_at = NULL
    WHERE si = $1 AND shnum = $2"
);
sql!(
    LOSE_SHARE,
    [UUID, INT2, INT8],
    "-- lose_share
    UPDATE shares
    SET state = 3, lost_at = $3
    WHERE si = $1 AND shnum = $2"
);
sql!(
    REMOVE_SHARE,
    [UUID, INT2],
    "-- remove_share
    DELETE FROM shares
    WHERE si = $1 AND shnum = $2"
);
sql!(
    PUT_SLOT,
    [UUID, UUID, BYTEA, TEXT],
    "-- put_slot
    INSERT INTO slots (si, token, write_enabler_hash, marker)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT (si) DO UPDATE
    SET token = excluded.token, write_enabler_hash = excluded.write_enabler_hash, marker = excluded.marker"
);
sql!(
    REMOVE_SLOT,
    [UUID],
    "-- remove_slot
    DELETE FROM slots
    WHERE si = $1"
);
sql!(
    ADD_USAGE,
    [INT4, INT2, INT8, INT8, INT8],
    "-- add_usage
    UPDATE account_usage
    SET leased_bytes = leased_bytes + $3, leased_shares = leased_shares + $4, reserved_bytes = reserved_bytes + $5
    WHERE account_id = $1 AND stripe = $2"
);
sql!(
    ADD_GARBAGE,
    [UUID, INT2, INT2, INT8, INT8, UUID, TEXT, INT8, BYTEA],
    "-- add_garbage
    INSERT INTO garbage (si, shnum, reason, created_at, not_before, upload_id, objects, bytes, undo)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
);
sql!(
    RECOVERED,
    [UUID, INT8],
    "-- recovered
    INSERT INTO recovered (si, epoch)
    VALUES ($1, $2)
    ON CONFLICT (si) DO UPDATE
    SET epoch = excluded.epoch"
);
sql!(
    NOTE_DAMAGED,
    [UUID, INT2_ARRAY, TEXT_ARRAY, TEXT_ARRAY, INT8],
    "-- note_damaged
    INSERT INTO damaged_objects (si, shnum, object, reason, seen_at)
    SELECT $1, u.shnum, u.object, u.reason, $5
    FROM unnest($2, $3, $4) AS u (shnum, object, reason)
    ON CONFLICT (si, object) DO UPDATE
    SET reason = excluded.reason, seen_at = excluded.seen_at"
);
sql!(
    REMOVE_GARBAGE,
    [INT8],
    "-- remove_garbage
    DELETE FROM garbage
    WHERE garbage_id = $1"
);
// Between the least and the greatest storage index, so that few partitions are looked at.
sql!(
    EXPIRE,
    [UUID_ARRAY, INT2_ARRAY, INT4_ARRAY, INT8, INT8, UUID, UUID],
    "-- expire
    WITH gone AS (
      DELETE FROM leases l
      USING unnest($1, $2, $3) AS u (si, shnum, account_id)
      WHERE l.si = u.si AND l.shnum = u.shnum AND l.account_id = u.account_id AND l.si BETWEEN $6 AND $7
      RETURNING l.si, l.shnum, l.account_id, l.renewed_at, l.expires_at)
    INSERT INTO expired_leases (run_id, removed_at, si, shnum, account_id, renewed_at, expires_at)
    SELECT $4, $5, si, shnum, account_id, renewed_at, expires_at
    FROM gone
    ON CONFLICT (run_id, si, shnum, account_id) DO NOTHING"
);
sql!(
    FORGET_EXPIRED,
    [INT8, UUID],
    "-- forget_expired
    DELETE FROM expired_leases
    WHERE run_id = $1 AND si = $2"
);
sql!(
    QUEUE_UNLEASED,
    [UUID_ARRAY, INT2_ARRAY, INT8],
    "-- queue_unleased
    INSERT INTO unleased (si, shnum, since)
    SELECT u.si, u.shnum, $3
    FROM unnest($1, $2) AS u (si, shnum)
    ON CONFLICT (si, shnum) DO NOTHING"
);
sql!(
    UNQUEUE,
    [UUID_ARRAY, INT2_ARRAY],
    "-- unqueue
    DELETE FROM unleased q
    USING unnest($1, $2) AS u (si, shnum)
    WHERE q.si = u.si AND q.shnum = u.shnum"
);
sql!(
    SCATTERED,
    [UUID, INT2, INT8],
    "-- scattered
    INSERT INTO scattered (si, shnum, due_at)
    VALUES ($1, $2, $3)
    ON CONFLICT (si, shnum) DO UPDATE
    SET due_at = excluded.due_at, claimed_until = 0"
);
sql!(
    MERGED,
    [UUID, INT2],
    "-- merged
    DELETE FROM scattered
    WHERE si = $1 AND shnum = $2"
);

pub(super) fn si(index: StorageIndex) -> Uuid {
    Uuid(*index.as_bytes())
}

pub(super) fn shnum(share: ShareId) -> i16 {
    i16::from(share.number.get())
}

/// Keys of many shares, as one statement takes them.
pub(super) fn keys(shares: &[ShareId]) -> (Vec<Uuid>, Vec<i16>) {
    shares.iter().map(|share| (si(share.storage_index), shnum(*share))).unzip()
}

/// The row of an account's counters that a storage index falls on.
pub(super) fn stripe(index: StorageIndex) -> i16 {
    i16::from(crate::plan::stripe(index))
}

fn on_share(share: ShareId) -> Vec<Param> {
    vec![Box::new(si(share.storage_index)), Box::new(shnum(share))]
}

/// The statements of a plan, in its order.
pub(super) fn calls(writes: Vec<Write>) -> Result<Vec<Call>> {
    writes.into_iter().map(call_of).collect()
}

fn call_of(write: Write) -> Result<Call> {
    let keyed = |sql, share| Call { sql, params: on_share(share) };
    Ok(match write {
        Write::Lease(share, account, lease) => {
            let (index, number) = (si(share.storage_index), shnum(share));
            let times = (lease.renewed_at.seconds(), lease.expires_at.seconds());
            call!(PUT_LEASE, index, number, account.get() as i32, times.0, times.1)
        }
        Write::RemoveLeases(share) => keyed(&REMOVE_LEASES, share),
        Write::InsertUpload(new) => call!(
            INSERT_UPLOAD,
            si(new.share.storage_index),
            shnum(new.share),
            Uuid(*new.id.as_bytes()),
            new.account.get() as i32,
            integer(new.size_bytes)?,
            new.secret.as_bytes().to_vec(),
            new.deadline.seconds(),
            new.connection.as_ref().map(|connection| connection.tub_id.0.to_vec()),
            new.connection.as_ref().map(|connection| Uuid(connection.id)),
            new.connection.as_ref().map(|connection| connection.incarnation().to_owned()),
        ),
        Write::InsertChunk(share, chunk) => call!(
            INSERT_CHUNK,
            si(share.storage_index),
            shnum(share),
            integer(chunk.range.start)?,
            integer(chunk.range.end)?,
            object_to_blob(chunk.range.clone(), chunk.object)?,
            chunk.digest.map(Vec::from),
        ),
        Write::Received { share, received_bytes, deadline } => {
            call!(RECEIVED, si(share.storage_index), shnum(share), integer(received_bytes)?, deadline.seconds())
        }
        Write::RemoveUpload(share) => keyed(&REMOVE_UPLOAD, share),
        Write::InsertShare(share, kind, size, locator, made_at) => {
            let (index, number) = (si(share.storage_index), shnum(share));
            let (kind, size) = (kind_number(kind), integer(size)?);
            call!(INSERT_SHARE, index, number, kind, size, locator.encode(), made_at.seconds())
        }
        Write::UpdateShare(share, size, locator) => {
            call!(UPDATE_SHARE, si(share.storage_index), shnum(share), integer(size)?, locator.encode())
        }
        Write::LoseShare(share, at) => call!(LOSE_SHARE, si(share.storage_index), shnum(share), at.seconds()),
        Write::RemoveShare(share) => keyed(&REMOVE_SHARE, share),
        Write::PutSlot { storage_index, token, write_enabler, marker } => {
            let marker = marker.map(|name| name.to_string());
            call!(PUT_SLOT, si(storage_index), Uuid(token.0), write_enabler.as_bytes().to_vec(), marker)
        }
        Write::RemoveSlot(storage_index) => call!(REMOVE_SLOT, si(storage_index)),
        Write::Usage { storage_index, account, change } => call!(
            ADD_USAGE,
            account.get() as i32,
            stripe(storage_index),
            change.leased_bytes,
            change.leased_shares,
            change.reserved_bytes,
        ),
        Write::Garbage { share, reason, created_at, not_before, upload, objects, undo } => {
            let (index, number, names) = (si(share.storage_index), shnum(share), names_to_text(&objects));
            let bytes =
                undo.as_ref().map_or(Ok(0), |removed| integer(removed.kind.charged_bytes(removed.size_bytes)))?;
            let undo = undo.map(|removed| removed.encode());
            let times = (created_at.seconds(), not_before.seconds());
            let upload = upload.map(|upload| Uuid(*upload.as_bytes()));
            call!(ADD_GARBAGE, index, number, reason_number(reason), times.0, times.1, upload, names, bytes, undo)
        }
        Write::Damaged(objects, seen_at) => {
            let index = objects.first().map(|object| si(object.name.share.storage_index));
            let numbers: Vec<i16> = objects.iter().map(|object| shnum(object.name.share)).collect();
            let names: Vec<String> = objects.iter().map(|object| object.name.to_string()).collect();
            let reasons: Vec<String> = objects.into_iter().map(|object| object.reason).collect();
            call!(NOTE_DAMAGED, index, numbers, names, reasons, seen_at.seconds())
        }
        Write::RemoveGarbage(id) => call!(REMOVE_GARBAGE, id),
        Write::Expire { run, leases, at } => {
            let (shares, accounts): (Vec<ShareId>, Vec<i32>) =
                leases.iter().map(|(share, account)| (*share, account.get() as i32)).unzip();
            let least = shares.iter().map(|share| share.storage_index).min().map(si);
            let greatest = shares.iter().map(|share| share.storage_index).max().map(si);
            let (indexes, numbers) = keys(&shares);
            call!(EXPIRE, indexes, numbers, accounts, integer(run.0)?, at.seconds(), least, greatest)
        }
        Write::ForgetExpired(run, index) => call!(FORGET_EXPIRED, integer(run.0)?, si(index)),
        Write::QueueUnleased(shares, since) => {
            let (indexes, numbers) = keys(&shares);
            call!(QUEUE_UNLEASED, indexes, numbers, since.seconds())
        }
        Write::Unqueue(shares) => {
            let (indexes, numbers) = keys(&shares);
            call!(UNQUEUE, indexes, numbers)
        }
        Write::Recovered(index, epoch) => call!(RECOVERED, si(index), integer(epoch.0)?),
        Write::Scattered(share, due) => call!(SCATTERED, si(share.storage_index), shnum(share), due.seconds()),
        Write::Merged(share) => keyed(&MERGED, share),
    })
}
