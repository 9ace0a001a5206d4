//! Reads and transactions on storage indexes: load, decide by [`crate::plan`], apply.

use std::collections::HashSet;

use leasehold_core::bucket::Upload;
use leasehold_core::chunk::{ObjectName, StoreObject};
use leasehold_core::clock::Timestamp;
use leasehold_core::expiry::Amount;
use leasehold_core::id::{AccountId, ObjectId, ShareId, ShareNumber, StorageIndex};
use leasehold_core::leasedb::{
    Advisory, Allocate, AllocateOutcome, CommitOutcome, CommitSlot, Epoch, LeaseRow, RecordChunks, RecordOutcome,
    Relocate, RenewOutcome, Result, ShareRow, SlotSnapshot,
};
use leasehold_core::share::ShareKind;
use tokio_postgres::Row;

use super::PgLeaseDb;
use super::apply::{calls, shnum, si};
use super::expiry::held_by;
use super::load::{self, get};
use super::sql::call;
use super::tx::{Decided, Failure, Tx};
use crate::columns::{kind_number, lease_of, mode_of, names_of};
use crate::plan::{self, Held, HeldBy, View, Write, slots::SlotView, uploads::Recording};

use load::{
    ADVISE, CALLER, CHUNKS, FIND_SHARE, FIND_UPLOAD, GARBAGE_NAMES, HELD_SHARES, HOLDERS, LIST_LEASES, LIST_NUMBERS,
    LIST_SHARES, LOCK_USAGE, LOCK_USAGE_OF_SLOT, NOW, OPEN_UPLOADS, READ_SLOT, RENEWAL, RESERVED_BY_ALL, SLOT,
    UPLOADER, UPLOADER_SHARES, UPLOADS,
};

/// How many open reports one share may have.
const ADVISORIES_MAX: i64 = 8;

fn decided<T>((value, writes): (T, Vec<Write>)) -> Decided<T> {
    Ok((value, calls(writes)?))
}

fn number(account: AccountId) -> i32 {
    account.get() as i32
}

async fn allocate(tx: &mut Tx<'_>, request: &Allocate) -> Decided<AllocateOutcome> {
    let (index, account) = (si(request.storage_index), number(request.account));
    let reads =
        [call!(CALLER, account), call!(LOCK_USAGE, account), call!(HELD_SHARES, index, account), call!(UPLOADS, index)];
    let [first, usage, shares, uploads] = tx.read(reads).await?;
    let view = load::view(tx.db(), &first, &usage, &shares, request.account)?;
    let upload = |row: &Row| load::upload(row, 0, request.storage_index, view.epoch);
    let uploads: Vec<Option<Upload>> = uploads.iter().map(upload).collect::<Result<_>>()?;
    let uploads: Vec<Upload> = uploads.into_iter().flatten().collect();
    // Most backends have no limit; then nobody need add up.
    let reserved_by_all = if request.backend_available_bytes == u64::MAX {
        0
    } else {
        let [rows] = tx.read([call!(RESERVED_BY_ALL)]).await?;
        rows.first().map_or(Ok(0), |row| get::<i64>(row, 0, "sum"))?.unsigned_abs()
    };
    decided(plan::uploads::allocate(view, &uploads, reserved_by_all, request)?)
}

async fn record(tx: &mut Tx<'_>, request: &RecordChunks) -> Decided<RecordOutcome> {
    let share = request.share;
    let (index, shnum) = (si(share.storage_index), shnum(share));
    let reads = [call!(UPLOADER, index, shnum), call!(UPLOADER_SHARES, index, shnum)];
    // Chunks are read along where the caller has seen some. Where it has seen none, an upload that has some by now is
    // stale, and then nobody looks at them.
    let [first, shares, chunks] = if request.seen_received_bytes > 0 {
        let [first, shares] = reads;
        tx.read([first, shares, call!(CHUNKS, index, shnum)]).await?
    } else {
        let [first, shares] = tx.read(reads).await?;
        [first, shares, Vec::new()]
    };
    let (epoch, _) = load::header(tx.db(), &first)?;
    let Some(mut upload) = load::upload(&first[0], 10, share.storage_index, epoch)? else {
        return decided((RecordOutcome::Gone, Vec::new()));
    };
    let view = load::view(tx.db(), &first, &[], &shares, upload.account)?;
    for row in &chunks {
        upload.chunks.extend(load::chunk(row, 0)?);
    }
    let garbage = if request.found { garbage_names(tx, share).await? } else { HashSet::new() };
    let holders = if has_lost(&view, share.number) { holders(tx, share.storage_index).await? } else { Vec::new() };
    let holders: Vec<_> = holders.iter().filter(|held| held.number == share.number).map(|held| held.account).collect();
    decided(plan::uploads::record(view, Recording { upload, garbage, holders: &holders }, request)?)
}

fn has_lost(view: &View, number: ShareNumber) -> bool {
    let lost = |held: &Held| held.row.number == number && held.row.state != leasehold_core::share::ShareState::Stable;
    view.shares.iter().any(lost)
}

async fn garbage_names(tx: &mut Tx<'_>, share: ShareId) -> Result<HashSet<ObjectName>, Failure> {
    let [rows] = tx.read([call!(GARBAGE_NAMES, si(share.storage_index), shnum(share))]).await?;
    let mut names = HashSet::new();
    for row in &rows {
        names.extend(names_of(get(row, 0, "garbage")?)?);
    }
    Ok(names)
}

async fn holders(tx: &mut Tx<'_>, index: StorageIndex) -> Result<Vec<HeldBy>, Failure> {
    let [rows] = tx.read([call!(HOLDERS, si(index))]).await?;
    Ok(rows.iter().map(held_by).collect::<Result<_>>()?)
}

struct EndUpload {
    share: ShareId,
    id: ObjectId,
    strays: Vec<StoreObject>,
    overdue_only: bool,
}

async fn end_upload(tx: &mut Tx<'_>, request: &EndUpload) -> Decided<bool> {
    let share = request.share;
    let key = (si(share.storage_index), shnum(share));
    // Under the lock, so the chunk rows read are all there are (`review.md` A12).
    let [rows] = tx.read([call!(FIND_UPLOAD, key.0, key.1)]).await?;
    let (now, upload) = upload_of(tx.db(), &rows, share)?;
    let Some(upload) = upload.filter(|upload| upload.id == request.id) else {
        return decided((false, Vec::new()));
    };
    decided(plan::uploads::end(&upload, now, &request.strays, request.overdue_only)?)
}

fn upload_of(db: &PgLeaseDb, rows: &[Row], share: ShareId) -> Result<(Timestamp, Option<Upload>)> {
    let (epoch, now) = load::header(db, rows)?;
    let Some(mut upload) = load::upload(&rows[0], 2, share.storage_index, epoch)? else { return Ok((now, None)) };
    for row in rows {
        upload.chunks.extend(load::chunk(row, 9)?);
    }
    Ok((now, Some(upload)))
}

async fn renew(tx: &mut Tx<'_>, (index, account): (StorageIndex, AccountId)) -> Decided<RenewOutcome> {
    let id = number(account);
    let reads = [call!(CALLER, id), call!(LOCK_USAGE, id), call!(HELD_SHARES, si(index), id)];
    let [first, usage, shares] = tx.read(reads).await?;
    let view = load::view(tx.db(), &first, &usage, &shares, account)?;
    decided(plan::renew(view, index)?)
}

struct Prolong {
    storage_index: StorageIndex,
    account: AccountId,
    ends: Vec<(ShareNumber, Timestamp)>,
}

async fn prolong(tx: &mut Tx<'_>, request: &Prolong) -> Decided<()> {
    let (index, account) = (request.storage_index, number(request.account));
    let [first, shares] = tx.read([call!(CALLER, account), call!(HELD_SHARES, si(index), account)]).await?;
    let view = load::view(tx.db(), &first, &[], &shares, request.account)?;
    decided(((), plan::prolong(&view, index, &request.ends)))
}

async fn commit_slot(tx: &mut Tx<'_>, request: &CommitSlot) -> Decided<CommitOutcome> {
    let (index, account) = (si(request.storage_index), number(request.account));
    let reads = [
        call!(CALLER, account),
        call!(LOCK_USAGE_OF_SLOT, account, index),
        call!(HELD_SHARES, index, account),
        call!(SLOT, index),
        call!(HOLDERS, index),
    ];
    let [first, usage, shares, slot, holders] = tx.read(reads).await?;
    let view = load::view(tx.db(), &first, &usage, &shares, request.account)?;
    let slot = slot.first().map(load::slot).transpose()?;
    let holders = holders.iter().map(held_by).collect::<Result<_>>()?;
    decided(plan::slots::commit(SlotView { view, slot, holders }, request)?)
}

/// Of names of one storage index.
async fn discard(tx: &mut Tx<'_>, objects: &[ObjectName]) -> Decided<()> {
    let index = objects[0].share.storage_index;
    let now = match tx.read([call!(NOW)]).await? {
        [rows] => tx.db().time(rows.first().map_or(Ok(0), |row| get(row, 0, "time"))?),
    };
    let named = super::garbage::named_objects(tx, &[index]).await?;
    decided(((), plan::discard(index, now, objects, &named)))
}

async fn relocate(tx: &mut Tx<'_>, request: &Relocate) -> Decided<bool> {
    let share = request.share;
    let reads = [call!(CALLER, -1_i32), call!(FIND_SHARE, si(share.storage_index), shnum(share))];
    let [first, rows] = tx.read(reads).await?;
    let (epoch, now) = load::header(tx.db(), &first)?;
    let row = rows.first().map(|row| load::share(row, 0)).transpose()?;
    decided(plan::relocate(request, row.as_ref(), now, epoch)?)
}

impl PgLeaseDb {
    pub(super) async fn read_now(&self) -> Result<Timestamp> {
        let rows = self.query("now", call!(NOW)).await?;
        Ok(self.time(rows.first().map_or(Ok(0), |row| get(row, 0, "time"))?))
    }

    pub(super) async fn change_allocate(&self, request: &Allocate) -> Result<AllocateOutcome> {
        self.change("allocate", Some(request.storage_index), request, |tx, request| Box::pin(allocate(tx, request)))
            .await
    }

    pub(super) async fn read_upload(&self, share: ShareId) -> Result<(Timestamp, Option<Upload>)> {
        let rows = self.query("find_upload", call!(FIND_UPLOAD, si(share.storage_index), shnum(share))).await?;
        upload_of(self, &rows, share)
    }

    pub(super) async fn read_open_uploads(&self) -> Result<Amount> {
        let rows = self.query("open_uploads", call!(OPEN_UPLOADS)).await?;
        let row = rows.first().ok_or_else(|| super::invalid("a sum is no row".to_owned()))?;
        Ok(Amount {
            count: get::<i64>(row, 0, "sum")?.unsigned_abs(),
            bytes: get::<i64>(row, 1, "sum")?.unsigned_abs(),
        })
    }

    pub(super) async fn change_record(&self, request: &RecordChunks) -> Result<RecordOutcome> {
        self.change("record_chunks", Some(request.share.storage_index), request, |tx, request| {
            Box::pin(record(tx, request))
        })
        .await
    }

    pub(super) async fn change_end_upload(
        &self,
        share: ShareId,
        id: ObjectId,
        strays: Vec<StoreObject>,
        overdue_only: bool,
    ) -> Result<bool> {
        let request = EndUpload { share, id, strays, overdue_only };
        let lock = Some(share.storage_index);
        self.change("end_upload", lock, &request, |tx, request| Box::pin(end_upload(tx, request))).await
    }

    pub(super) async fn read_shares(&self, index: StorageIndex) -> Result<Vec<ShareRow>> {
        let rows = self.query("list_shares", call!(LIST_SHARES, si(index))).await?;
        rows.iter().map(|row| load::share(row, 0)).collect()
    }

    pub(super) async fn read_numbers(&self, index: StorageIndex, kind: ShareKind) -> Result<Vec<ShareNumber>> {
        let rows = self.query("list_numbers", call!(LIST_NUMBERS, si(index), kind_number(kind))).await?;
        rows.iter().map(|row| load::share_number(get(row, 0, "share")?)).collect()
    }

    pub(super) async fn read_share(&self, share: ShareId) -> Result<Option<ShareRow>> {
        let rows = self.query("find_share", call!(FIND_SHARE, si(share.storage_index), shnum(share))).await?;
        rows.first().map(|row| load::share(row, 0)).transpose()
    }

    pub(super) async fn read_renewal(&self, index: StorageIndex, account: AccountId) -> Result<Option<RenewOutcome>> {
        let rows = self.query("renewal_without_write", call!(RENEWAL, si(index), number(account))).await?;
        let (_, now) = load::header(self, &rows)?;
        let found = load::account(&rows[0], 2)?;
        let found = found.ok_or_else(|| super::invalid(format!("there is no account {account}")))?;
        let mut leases = Vec::new();
        for row in &rows {
            if get::<Option<i16>>(row, 10, "share")?.is_some() {
                let times: (Option<i64>, Option<i64>) = (get(row, 11, "lease")?, get(row, 12, "lease")?);
                leases.push(times.0.zip(times.1).map(|(renewed_at, expires_at)| lease_of(renewed_at, expires_at)));
            }
        }
        Ok(plan::renewal_without_write(&found, self.terms().for_days(found.lease_days), now, &leases))
    }

    pub(super) async fn change_renew(&self, index: StorageIndex, account: AccountId) -> Result<RenewOutcome> {
        self.change("renew_leases", Some(index), &(index, account), |tx, request| Box::pin(renew(tx, *request))).await
    }

    pub(super) async fn read_leases(&self, index: StorageIndex) -> Result<Vec<LeaseRow>> {
        let rows = self.query("list_leases", call!(LIST_LEASES, si(index))).await?;
        let lease = |row: &Row| {
            Ok(LeaseRow {
                number: load::share_number(get(row, 0, "lease")?)?,
                account: load::account_number(row, 1)?,
                account_name: get(row, 2, "lease")?,
                lease: lease_of(get(row, 3, "lease")?, get(row, 4, "lease")?),
            })
        };
        rows.iter().map(lease).collect()
    }

    pub(super) async fn change_prolong(
        &self,
        storage_index: StorageIndex,
        account: AccountId,
        ends: Vec<(ShareNumber, Timestamp)>,
    ) -> Result<()> {
        let request = Prolong { storage_index, account, ends };
        self.change("prolong_leases", Some(storage_index), &request, |tx, request| Box::pin(prolong(tx, request))).await
    }

    pub(super) async fn read_slot_snapshot(&self, index: StorageIndex) -> Result<SlotSnapshot> {
        let rows = self.query("read_slot", call!(READ_SLOT, si(index))).await?;
        let (epoch, now): (Epoch, _) = load::header(self, &rows)?;
        let mut shares = Vec::new();
        for row in &rows {
            if get::<Option<i16>>(row, 5, "share")?.is_some() {
                shares.push(load::share(row, 5)?);
            }
        }
        let has_immutable = shares.iter().any(|row| row.kind == ShareKind::Immutable);
        shares.retain(|row| row.kind == ShareKind::Mutable);
        let token: Option<super::sql::Uuid> = get(&rows[0], 2, "slot")?;
        // A slot row without shares counts as no slot (`review.md` A8).
        let slot = match token.filter(|_| !shares.is_empty()) {
            Some(token) => Some((leasehold_core::leasedb::SlotToken(token.0), load::credential_hash(&rows[0], 3)?)),
            None => None,
        };
        let mode = mode_of(get(&rows[0], 4, "mode")?);
        Ok(SlotSnapshot { now, slot, shares, has_immutable, epoch, mode })
    }

    pub(super) async fn change_commit_slot(&self, request: &CommitSlot) -> Result<CommitOutcome> {
        self.change("commit_slot", Some(request.storage_index), request, |tx, request| {
            Box::pin(commit_slot(tx, request))
        })
        .await
    }

    pub(super) async fn change_discard(&self, mut objects: Vec<ObjectName>) -> Result<()> {
        objects.sort_by_key(|name| *name.share.storage_index.as_bytes());
        for names in objects.chunk_by(|a, b| a.share.storage_index == b.share.storage_index) {
            let index = names[0].share.storage_index;
            let names = names.to_vec();
            self.change("discard_objects", Some(index), &names, |tx, names| Box::pin(discard(tx, names))).await?;
        }
        Ok(())
    }

    pub(super) async fn change_relocate(&self, request: &Relocate) -> Result<bool> {
        self.change("relocate", Some(request.share.storage_index), request, |tx, request| {
            Box::pin(relocate(tx, request))
        })
        .await
    }

    pub(super) async fn change_advise(&self, advisory: Advisory) -> Result<()> {
        let (share, kind) = (advisory.share, kind_number(advisory.kind));
        let call = call!(
            ADVISE,
            si(share.storage_index),
            shnum(share),
            kind,
            number(advisory.account),
            // PostgreSQL has no text with a zero byte.
            advisory.reason.replace('\0', "\u{fffd}"),
            ADVISORIES_MAX,
        );
        self.query("advise", call).await.map(drop)
    }
}
