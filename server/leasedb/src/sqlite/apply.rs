//! The writes of a plan as statements.

use leasehold_core::bucket::Chunk;
use leasehold_core::clock::Timestamp;
use leasehold_core::id::{AccountId, ShareId};
use leasehold_core::leasedb::Result;
use leasehold_core::run::RunId;
use leasehold_core::trouble::DamagedObject;
use leasehold_core::tub::TubConnection;

use super::Tx;
use crate::columns::{kind_number, names_to_text, object_to_blob, reason_number};
use crate::plan::{NewUpload, Write, integer};

impl Tx<'_> {
    /// Applies a plan and passes its value on.
    pub(super) fn apply<T>(&self, (value, writes): (T, Vec<Write>)) -> Result<T> {
        for write in writes {
            self.apply_one(write)?;
        }
        Ok(value)
    }

    fn apply_one(&self, write: Write) -> Result<()> {
        match write {
            Write::Lease(share, account, lease) => {
                let sql = "-- put_lease
                    INSERT INTO leases (si, shnum, account_id, renewed_at, expires_at)
                    VALUES (?1, ?2, ?3, ?4, ?5)
                    ON CONFLICT (si, shnum, account_id) DO UPDATE
                    SET renewed_at = max(renewed_at, excluded.renewed_at),
                        expires_at = max(expires_at, excluded.expires_at)";
                let (index, number) = (share.storage_index.as_bytes(), share.number.get());
                let times = (lease.renewed_at.seconds(), lease.expires_at.seconds());
                self.execute(sql, (index, number, account.get(), times.0, times.1)).map(drop)
            }
            Write::RemoveLeases(share) => {
                self.delete_of("-- remove_leases\nDELETE FROM leases WHERE si = ?1 AND shnum = ?2", share)
            }
            Write::InsertUpload(new) => self.insert_upload(&new),
            Write::InsertChunk(share, chunk) => self.insert_chunk(share, &chunk),
            Write::Received { share, received_bytes, deadline } => {
                let sql = "-- received
                    UPDATE uploads
                    SET received_bytes = ?3, deadline = ?4
                    WHERE si = ?1 AND shnum = ?2";
                let key = (share.storage_index.as_bytes(), share.number.get());
                self.execute(sql, (key.0, key.1, integer(received_bytes)?, deadline.seconds())).map(drop)
            }
            Write::RemoveUpload(share) => {
                self.delete_of("-- remove_chunks\nDELETE FROM upload_chunks WHERE si = ?1 AND shnum = ?2", share)?;
                self.delete_of("-- remove_upload\nDELETE FROM uploads WHERE si = ?1 AND shnum = ?2", share)
            }
            Write::InsertShare(share, kind, size_bytes, locator, made_at) => {
                let sql = "-- insert_share
                    INSERT INTO shares (si, shnum, kind, state, size_bytes, locator, created_at)
                    VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6)";
                let key = (share.storage_index.as_bytes(), share.number.get());
                let (kind, size) = (kind_number(kind), integer(size_bytes)?);
                self.execute(sql, (key.0, key.1, kind, size, locator.encode(), made_at.seconds())).map(drop)
            }
            Write::UpdateShare(share, size_bytes, locator) => {
                let sql = "-- update_share
                    UPDATE shares
                    SET size_bytes = ?3, locator = ?4, state = 1, lost_at = NULL
                    WHERE si = ?1 AND shnum = ?2";
                let key = (share.storage_index.as_bytes(), share.number.get());
                self.execute(sql, (key.0, key.1, integer(size_bytes)?, locator.encode())).map(drop)
            }
            Write::LoseShare(share, at) => {
                let sql = "-- lose_share
                    UPDATE shares
                    SET state = 3, lost_at = ?3
                    WHERE si = ?1 AND shnum = ?2";
                let key = (share.storage_index.as_bytes(), share.number.get());
                self.execute(sql, (key.0, key.1, at.seconds())).map(drop)
            }
            Write::RemoveShare(share) => {
                self.delete_of("-- remove_share\nDELETE FROM shares WHERE si = ?1 AND shnum = ?2", share)
            }
            Write::PutSlot { storage_index, token, write_enabler, marker } => {
                let sql = "-- put_slot
                    INSERT INTO slots (si, token, write_enabler_hash, marker)
                    VALUES (?1, ?2, ?3, ?4)
                    ON CONFLICT (si) DO UPDATE
                    SET token = excluded.token, write_enabler_hash = excluded.write_enabler_hash,
                        marker = excluded.marker";
                let marker = marker.map(|name| name.to_string());
                self.execute(sql, (storage_index.as_bytes(), token.0, write_enabler.as_bytes(), marker)).map(drop)
            }
            Write::RemoveSlot(index) => {
                self.execute("-- remove_slot\nDELETE FROM slots WHERE si = ?1", [index.as_bytes()]).map(drop)
            }
            Write::Usage { account, change, .. } => {
                let sql = "-- add_usage
                    UPDATE accounts
                    SET leased_bytes = leased_bytes + ?2, leased_shares = leased_shares + ?3,
                        reserved_bytes = reserved_bytes + ?4
                    WHERE account_id = ?1";
                let params = (account.get(), change.leased_bytes, change.leased_shares, change.reserved_bytes);
                self.execute(sql, params).map(drop)
            }
            Write::Recovered(index, epoch) => {
                let sql = "-- recovered
                    INSERT INTO recovered (si, epoch)
                    VALUES (?1, ?2)
                    ON CONFLICT (si) DO UPDATE
                    SET epoch = excluded.epoch";
                self.execute(sql, (index.as_bytes(), integer(epoch.0)?)).map(drop)
            }
            Write::Garbage { share, reason, created_at, not_before, upload, objects, undo } => {
                let sql = "-- add_garbage
                    INSERT INTO garbage (si, shnum, reason, created_at, not_before, upload_id, objects, bytes, undo)
                    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
                let key = (share.storage_index.as_bytes(), share.number.get());
                let names = names_to_text(&objects);
                let bytes = undo.as_ref().map_or(0, |removed| removed.kind.charged_bytes(removed.size_bytes));
                let (bytes, undo) = (integer(bytes)?, undo.map(|removed| removed.encode()));
                let times = (created_at.seconds(), not_before.seconds());
                let upload = upload.map(|upload| *upload.as_bytes());
                let params = (key.0, key.1, reason_number(reason), times.0, times.1, upload, names, bytes, undo);
                self.execute(sql, params).map(drop)
            }
            Write::Damaged(objects, seen_at) => {
                let sql = "-- note_damaged
                    INSERT INTO damaged_objects (si, shnum, object, reason, seen_at)
                    VALUES (?1, ?2, ?3, ?4, ?5)
                    ON CONFLICT (si, object) DO UPDATE
                    SET reason = excluded.reason, seen_at = excluded.seen_at";
                let one = |object: &DamagedObject| {
                    let (share, name) = (object.name.share, object.name.to_string());
                    let key = (share.storage_index.as_bytes(), share.number.get());
                    self.execute(sql, (key.0, key.1, name, &object.reason, seen_at.seconds())).map(drop)
                };
                objects.iter().try_for_each(one)
            }
            Write::RemoveGarbage(id) => {
                self.execute("-- remove_garbage\nDELETE FROM garbage WHERE garbage_id = ?1", [id]).map(drop)
            }
            Write::Expire { run, leases, at } => self.expire(run, &leases, at),
            Write::ForgetExpired(run, index) => {
                let sql = "-- forget_expired\nDELETE FROM expired_leases WHERE run_id = ?1 AND si = ?2";
                self.execute(sql, (integer(run.0)?, index.as_bytes())).map(drop)
            }
            Write::QueueUnleased(shares, since) => {
                let sql = "-- queue_unleased
                    INSERT OR IGNORE INTO unleased (si, shnum, since)
                    VALUES (?1, ?2, ?3)";
                let one = |share: &ShareId| {
                    let key = (share.storage_index.as_bytes(), share.number.get());
                    self.execute(sql, (key.0, key.1, since.seconds())).map(drop)
                };
                shares.iter().try_for_each(one)
            }
            Write::Unqueue(shares) => {
                let sql = "-- unqueue\nDELETE FROM unleased WHERE si = ?1 AND shnum = ?2";
                shares.iter().try_for_each(|share| self.delete_of(sql, *share))
            }
            Write::Scattered(share, due) => {
                let sql = "-- scattered
                    INSERT INTO scattered (si, shnum, due_at)
                    VALUES (?1, ?2, ?3)
                    ON CONFLICT (si, shnum) DO UPDATE
                    SET due_at = excluded.due_at, claimed_until = 0";
                self.execute(sql, (share.storage_index.as_bytes(), share.number.get(), due.seconds())).map(drop)
            }
            Write::Merged(share) => {
                self.delete_of("-- merged\nDELETE FROM scattered WHERE si = ?1 AND shnum = ?2", share)
            }
        }
    }

    fn expire(&self, run: RunId, leases: &[(ShareId, AccountId)], at: Timestamp) -> Result<()> {
        let keep = "-- keep_expired
            INSERT OR IGNORE INTO expired_leases (run_id, removed_at, si, shnum, account_id, renewed_at, expires_at)
            SELECT ?1, ?2, si, shnum, account_id, renewed_at, expires_at
            FROM leases
            WHERE si = ?3 AND shnum = ?4 AND account_id = ?5";
        let remove = "-- remove_lease
            DELETE FROM leases
            WHERE si = ?1 AND shnum = ?2 AND account_id = ?3";
        let run = integer(run.0)?;
        for (share, account) in leases {
            let key = (share.storage_index.as_bytes(), share.number.get(), account.get());
            self.execute(keep, (run, at.seconds(), key.0, key.1, key.2))?;
            self.execute(remove, key)?;
        }
        Ok(())
    }

    fn delete_of(&self, sql: &str, share: ShareId) -> Result<()> {
        self.execute(sql, (share.storage_index.as_bytes(), share.number.get())).map(drop)
    }

    fn insert_upload(&self, new: &NewUpload) -> Result<()> {
        let sql = "-- insert_upload
            INSERT INTO uploads (si, shnum, upload_id, account_id, size_bytes, secret_hash, created_at, deadline,
                                 tub_id, connection_id, incarnation)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        let connection = new.connection.as_ref();
        let params = (
            new.share.storage_index.as_bytes(),
            new.share.number.get(),
            new.id.as_bytes(),
            new.account.get(),
            integer(new.size_bytes)?,
            new.secret.as_bytes(),
            self.now_seconds(),
            new.deadline.seconds(),
            connection.map(|connection| connection.tub_id.0),
            connection.map(|connection| connection.id),
            connection.map(TubConnection::incarnation),
        );
        self.execute(sql, params).map(drop)
    }

    fn insert_chunk(&self, share: ShareId, chunk: &Chunk) -> Result<()> {
        let sql = "-- insert_chunk
            INSERT INTO upload_chunks (si, shnum, begin_off, end_off, object, digest)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let key = (share.storage_index.as_bytes(), share.number.get());
        let object = object_to_blob(chunk.range.clone(), chunk.object)?;
        let (begin, end) = (integer(chunk.range.start)?, integer(chunk.range.end)?);
        self.execute(sql, (key.0, key.1, begin, end, object, chunk.digest)).map(drop)
    }
}
