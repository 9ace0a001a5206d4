//! Mutable shares: the swap of a slot's token and everything with it.

use leasehold_core::id::{AccountId, ShareId, ShareNumber};
use leasehold_core::leasedb::{
    CommitOutcome, CommitSlot, GarbageReason, Result, SUPERSEDED_GRACE_SECONDS, ShareRow, SlotChange, UNDO_SECONDS,
};
use leasehold_core::locator::Locator;
use leasehold_core::share::{ShareKind, ShareState};

use super::{Draft, Held, HeldBy, SlotRow, View, Write, check_fence, counted, integer, object_names};
use crate::removed::Removed;
use leasehold_core::chunk::ObjectName;

/// What a commit needs beside the view.
pub(crate) struct SlotView {
    pub(crate) view: View,
    pub(crate) slot: Option<SlotRow>,
    /// Who leases which share.
    pub(crate) holders: Vec<HeldBy>,
}

impl SlotView {
    fn find(&self, number: ShareNumber) -> Option<&Held> {
        self.view.shares.iter().find(|held| held.row.number == number)
    }

    fn holders(&self, number: ShareNumber) -> impl Iterator<Item = AccountId> + '_ {
        self.holders.iter().filter(move |held| held.number == number).map(|held| held.account)
    }
}

/// Swaps a slot's token (`design.md` 4.2).
pub(crate) fn commit(mut slot: SlotView, request: &CommitSlot) -> Result<(CommitOutcome, Vec<Write>)> {
    let nothing = |outcome| Ok((outcome, Vec::new()));
    let state = slot.view.caller.account.state;
    if !state.may_write() {
        return nothing(CommitOutcome::Refused(state));
    }
    // A slot row without shares counts as no slot (`review.md` A8).
    let shares = &slot.view.shares;
    let token = slot.slot.as_ref().filter(|_| !shares.is_empty()).map(|row| row.token);
    let has_immutable = shares.iter().any(|held| held.row.kind == ShareKind::Immutable);
    if has_immutable || token != request.base || slot.view.epoch != request.epoch {
        return nothing(CommitOutcome::Conflict);
    }
    for object in &request.fresh {
        check_fence(object, slot.view.now)?;
    }
    if exceeds_quota(&slot, request) {
        return nothing(CommitOutcome::OverQuota);
    }
    let mut draft = Draft::new(request.storage_index, slot.view.now);
    let old_marker = slot.slot.as_ref().filter(|_| token.is_some()).and_then(|row| row.marker);
    let ends = removes_all(&slot, request);
    if !ends {
        // A commit that stores nothing keeps the older manifest, which still tells the truth.
        let kept = old_marker.filter(|_| request.fresh.is_empty());
        draft.push(Write::PutSlot {
            storage_index: request.storage_index,
            token: request.token,
            write_enabler: request.write_enabler,
            marker: request.marker.or(kept),
        });
    }
    let mut superseded = Vec::new();
    for (number, change) in &request.changes {
        match change {
            SlotChange::Put { size_bytes, locator } => {
                superseded.extend(put_share(&mut draft, &mut slot, *number, *size_bytes, locator)?);
            }
            SlotChange::Remove => remove_share(&mut draft, &slot, *number, ends)?,
        }
    }
    superseded.extend(old_marker.filter(|_| !request.fresh.is_empty()));
    if let Some(first) = superseded.first() {
        draft.add_garbage(first.share, GarbageReason::Superseded, SUPERSEDED_GRACE_SECONDS, superseded);
    }
    if ends {
        draft.push(Write::RemoveSlot(request.storage_index));
        // The last manifest says that nothing is left, and outlives the objects it speaks of by a day.
        if let Some(marker) = request.marker {
            draft.add_garbage(marker.share, GarbageReason::Superseded, UNDO_SECONDS + 86_400, vec![marker]);
        }
    }
    Ok((CommitOutcome::Done, draft.into_writes()))
}

fn removes_all(slot: &SlotView, request: &CommitSlot) -> bool {
    let puts = request.changes.iter().any(|(_, change)| matches!(change, SlotChange::Put { .. }));
    let removed = |number| request.changes.iter().any(|(changed, _)| *changed == number);
    !puts && slot.view.shares.iter().all(|held| removed(held.row.number))
}

/// Whether the writer's own usage would grow beyond its quota. Others' may: their leases are on what is written.
fn exceeds_quota(slot: &SlotView, request: &CommitSlot) -> bool {
    let (mut more, mut less) = (0u64, 0u64);
    for (number, change) in &request.changes {
        if let Some(held) = slot.find(*number).filter(|held| held.lease.is_some()) {
            less += counted(&held.row);
        }
        if let SlotChange::Put { size_bytes, .. } = change {
            more = more.saturating_add(ShareKind::Mutable.charged_bytes(*size_bytes));
        }
    }
    let caller = &slot.view.caller;
    more > less && more - less > caller.usage.left(caller.account.quota_bytes)
}

/// Puts new bytes under a share; returns the objects that nothing names any more.
fn put_share(
    draft: &mut Draft,
    slot: &mut SlotView,
    number: ShareNumber,
    size_bytes: u64,
    locator: &Locator,
) -> Result<Vec<ObjectName>> {
    let share = ShareId::new(draft.storage_index, number);
    let fresh =
        ShareRow { number, kind: ShareKind::Mutable, state: ShareState::Stable, size_bytes, locator: locator.clone() };
    let mut superseded = Vec::new();
    let old = slot.find(number).cloned();
    match &old {
        None => draft.push(Write::InsertShare(share, ShareKind::Mutable, size_bytes, locator.clone(), draft.now)),
        Some(old) => {
            draft.push(Write::UpdateShare(share, size_bytes, locator.clone()));
            let bytes = integer(counted(&fresh))? - integer(counted(&old.row))?;
            let shares = i64::from(old.row.state != ShareState::Stable);
            for holder in slot.holders(number) {
                draft.add_usage(holder, bytes, shares, 0);
            }
            let kept: std::collections::HashSet<_> = locator.objects().into_iter().collect();
            let gone = old.row.locator.objects().into_iter().filter(|object| !kept.contains(object));
            superseded = object_names(share, gone);
        }
    }
    // The quota was looked at for the whole call, so that no order of its shares matters.
    let held = Held { row: fresh, lease: old.and_then(|old| old.lease) };
    draft.lease_share(&held, &mut slot.view.caller, false)?;
    Ok(superseded)
}

/// Removes a share; its slot goes with it if `ends`.
fn remove_share(draft: &mut Draft, slot: &SlotView, number: ShareNumber, ends: bool) -> Result<()> {
    let Some(old) = slot.find(number) else { return Ok(()) };
    let share = draft.share(number);
    let bytes = integer(counted(&old.row))?;
    let shares = i64::from(old.row.state == ShareState::Stable);
    for holder in slot.holders(number) {
        draft.add_usage(holder, -bytes, -shares, 0);
    }
    draft.push(Write::RemoveLeases(share));
    draft.push(Write::RemoveShare(share));
    let leases = slot.holders.iter().filter(|held| held.number == number).map(|held| (held.account, held.lease));
    // Its marker, if it has one, is superseded by this very commit.
    let row = slot.slot.clone().map(|row| (SlotRow { marker: None, ..row }, ends));
    let removed = Removed::new(&old.row, row, leases.collect());
    draft.retire(share, GarbageReason::Removed, object_names(share, old.row.locator.objects()), removed);
    Ok(())
}
