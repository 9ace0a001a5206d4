//! Shares that are coming: allocation, chunks, the step to a stable share, and the ways an upload ends.

use std::collections::HashSet;

use leasehold_core::bucket::{self, Chunk, Upload};
use leasehold_core::chunk::{ObjectName, StoreObject};
use leasehold_core::clock::Timestamp;
use leasehold_core::id::AccountId;
use leasehold_core::leasedb::{
    Allocate, AllocateOutcome, GarbageReason, LeaseDbError, RecordChunks, RecordOutcome, Result, ShareRow,
};
use leasehold_core::share::{ShareKind, ShareState};

use super::{Draft, Held, Leased, MERGE_AFTER_SECONDS, NewUpload, View, Write, check_fence, integer, object_names};

/// Aborted uploads wait no longer than it takes requests in flight to end.
const ABORTED_GRACE_SECONDS: i64 = 60;

fn is_finished(row: &ShareRow) -> bool {
    row.state == ShareState::Stable && row.kind == ShareKind::Immutable
}

/// Begins uploads, and leases what is there already. `uploads` are those in progress (their chunks are not looked at),
/// `reserved_by_all` the bytes that all open uploads have reserved.
pub(crate) fn allocate(
    mut view: View,
    uploads: &[Upload],
    reserved_by_all: u64,
    request: &Allocate,
) -> Result<(AllocateOutcome, Vec<Write>)> {
    let state = view.caller.account.state;
    if !state.may_renew() {
        return Ok((AllocateOutcome::Refused(state), Vec::new()));
    }
    // A storage index never gets shares of both kinds: the first kind stays (`gbs.md` 6.2).
    let is_slot = view.shares.iter().any(|held| held.row.kind == ShareKind::Mutable);
    let finished = |number| view.shares.iter().any(|held| held.row.number == number && is_finished(&held.row));
    let wanted: Vec<_> = request.shares.iter().filter(|(number, _)| !finished(*number)).collect();
    let may_begin = state.may_write() && !is_slot;
    let resting = |number| uploads.iter().find(|upload| upload.share.number == number);
    let overdue = wanted.iter().filter_map(|(number, _)| resting(*number));
    let overdue: Vec<_> = overdue
        .filter(|upload| upload.deadline.seconds() <= view.now.seconds())
        .map(|upload| (upload.share.number, upload.id))
        .collect();
    if may_begin && !overdue.is_empty() {
        return Ok((AllocateOutcome::Overdue(overdue), Vec::new()));
    }
    let mut draft = Draft::new(request.storage_index, view.now);
    let (mut already_have, mut over_quota) = (Vec::new(), false);
    for held in view.shares.iter().filter(|held| is_finished(&held.row)) {
        if draft.lease_share(held, &mut view.caller, true)? == Leased::OverQuota {
            over_quota = true;
        } else {
            already_have.push(held.row.number);
        }
    }
    let mut allocated = Vec::new();
    let mut room = request.backend_available_bytes.saturating_sub(reserved_by_all);
    let bytes = ShareKind::Immutable.charged_bytes(request.size_bytes);
    for (number, id) in wanted {
        let caller = &mut view.caller;
        if !may_begin || resting(*number).is_some() {
            continue;
        }
        let is_within = bytes <= caller.usage.left(caller.account.quota_bytes);
        over_quota |= !is_within;
        if !is_within || bytes > room {
            continue;
        }
        draft.push(Write::InsertUpload(NewUpload {
            share: draft.share(*number),
            id: *id,
            account: caller.account.id,
            size_bytes: request.size_bytes,
            secret: request.secret,
            connection: request.connection.clone(),
            deadline: draft.after(request.idle_seconds),
        }));
        draft.add_usage(caller.account.id, 0, 0, integer(bytes)?);
        caller.usage.reserved_bytes += bytes;
        room -= bytes;
        allocated.push(*number);
    }
    Ok((AllocateOutcome::Done { already_have, allocated, over_quota }, draft.into_writes()))
}

/// What [`record`] needs beside the view: the upload with its chunks, and what lies around it.
pub(crate) struct Recording<'a> {
    /// The upload in progress.
    pub(crate) upload: Upload,
    /// Names in garbage of this share, done or not; looked at for chunks that were found only.
    pub(crate) garbage: HashSet<ObjectName>,
    /// Who leases the share, if it is there but lost.
    pub(crate) holders: &'a [AccountId],
}

/// Makes chunks part of an upload, and the share stable when nothing is missing. The view is the uploader's.
pub(crate) fn record(
    view: View,
    recording: Recording<'_>,
    request: &RecordChunks,
) -> Result<(RecordOutcome, Vec<Write>)> {
    let Recording { upload, garbage, holders } = recording;
    if upload.id != request.upload || view.epoch != request.epoch {
        return Ok((RecordOutcome::Gone, Vec::new()));
    }
    if upload.received_bytes != request.seen_received_bytes {
        return Ok((RecordOutcome::Stale, Vec::new()));
    }
    let mut fresh = request.chunks.clone();
    if request.found {
        fresh.retain(|chunk| !garbage.contains(&ObjectName::new(request.share, chunk.object)));
    } else {
        for chunk in &fresh {
            check_fence(&chunk.object, view.now)?;
        }
    }
    let more: u64 = fresh.iter().map(|chunk| chunk.range.end - chunk.range.start).sum();
    let received_bytes = upload.received_bytes + more;
    let mut chunks = [upload.chunks.as_slice(), &fresh].concat();
    chunks.sort_by_key(|chunk| chunk.range.start);
    if received_bytes < upload.size_bytes {
        let mut draft = Draft::new(request.share.storage_index, view.now);
        let deadline = draft.after(request.idle_seconds).max(upload.deadline);
        draft.writes.extend(fresh.into_iter().map(|chunk| Write::InsertChunk(request.share, chunk)));
        draft.push(Write::Received { share: request.share, received_bytes, deadline });
        let missing = bucket::missing(upload.size_bytes, &chunks);
        return Ok((RecordOutcome::Incomplete(missing), draft.into_writes()));
    }
    finish(view, &upload, &chunks, holders)
}

/// Coming to stable: the share, its lease and the account's usage in this one transaction.
fn finish(
    mut view: View,
    upload: &Upload,
    chunks: &[Chunk],
    holders: &[AccountId],
) -> Result<(RecordOutcome, Vec<Write>)> {
    let share = upload.share;
    let locator = bucket::complete_locator(upload.size_bytes, chunks)
        .map_err(|_| LeaseDbError::Invalid(format!("the chunks of share {share} do not cover it")))?;
    let mut draft = Draft::new(share.storage_index, view.now);
    forget(&mut draft, upload)?;
    let is_slot = view.shares.iter().any(|held| held.row.kind == ShareKind::Mutable);
    let other = view.shares.iter().find(|held| held.row.number == share.number);
    let finished = other.filter(|held| held.row.state == ShareState::Stable);
    // Leases are not refused here: the reservation that was just given back held the same room.
    if is_slot || finished.is_some() {
        let same = finished.filter(|held| !is_slot && held.row.size_bytes == upload.size_bytes);
        if let Some(held) = same {
            draft.lease_share(held, &mut view.caller, false)?;
        }
        let names = object_names(share, chunks.iter().map(|chunk| chunk.object));
        draft.add_garbage(share, GarbageReason::Aborted, ABORTED_GRACE_SECONDS, names);
        return Ok((RecordOutcome::Displaced { same: same.is_some() }, draft.into_writes()));
    }
    let fresh = ShareRow {
        number: share.number,
        kind: ShareKind::Immutable,
        state: ShareState::Stable,
        size_bytes: upload.size_bytes,
        locator,
    };
    let lease = other.and_then(|held| held.lease);
    match other {
        Some(lost) => replace_lost(&mut draft, &lost.row, &fresh, holders)?,
        None => {
            draft.push(Write::InsertShare(
                share,
                ShareKind::Immutable,
                fresh.size_bytes,
                fresh.locator.clone(),
                draft.now,
            ));
        }
    }
    if fresh.locator.objects().len() > 1 {
        let due = draft.after(MERGE_AFTER_SECONDS);
        draft.push(Write::Scattered(share, due));
    }
    draft.lease_share(&Held { row: fresh, lease }, &mut view.caller, false)?;
    Ok((RecordOutcome::Finished, draft.into_writes()))
}

/// A lost share that was uploaded again keeps its leases, which count again.
fn replace_lost(draft: &mut Draft, lost: &ShareRow, fresh: &ShareRow, holders: &[AccountId]) -> Result<()> {
    let share = draft.share(lost.number);
    let names = object_names(share, lost.locator.objects());
    draft.add_garbage(share, GarbageReason::Superseded, ABORTED_GRACE_SECONDS, names);
    draft.push(Write::UpdateShare(share, fresh.size_bytes, fresh.locator.clone()));
    let bytes = integer(fresh.kind.charged_bytes(fresh.size_bytes))?;
    for holder in holders {
        draft.add_usage(*holder, bytes, 1, 0);
    }
    Ok(())
}

fn forget(draft: &mut Draft, upload: &Upload) -> Result<()> {
    draft.push(Write::RemoveUpload(upload.share));
    let bytes = ShareKind::Immutable.charged_bytes(upload.size_bytes);
    draft.add_usage(upload.account, 0, 0, -integer(bytes)?);
    Ok(())
}

/// Ends an upload: its chunks and `strays` become garbage.
pub(crate) fn end(
    upload: &Upload,
    now: Timestamp,
    strays: &[StoreObject],
    overdue_only: bool,
) -> Result<(bool, Vec<Write>)> {
    if overdue_only && upload.deadline.seconds() > now.seconds() {
        return Ok((false, Vec::new()));
    }
    let mut draft = Draft::new(upload.share.storage_index, now);
    let recorded = upload.chunks.iter().map(|chunk| chunk.object);
    let names = object_names(upload.share, recorded.chain(strays.iter().copied()));
    forget(&mut draft, upload)?;
    // A row even without names: it tells adoption that this upload was given up (`review.md` A11).
    draft.push(Write::Garbage {
        share: upload.share,
        reason: GarbageReason::Aborted,
        created_at: now,
        not_before: draft.after(ABORTED_GRACE_SECONDS),
        upload: Some(upload.id),
        objects: names,
        undo: None,
    });
    Ok((true, draft.into_writes()))
}
