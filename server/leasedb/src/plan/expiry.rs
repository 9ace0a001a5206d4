//! Leases that end, shares that nobody leases any more, and their way back.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use leasehold_core::clock::Timestamp;
use leasehold_core::expiry::{
    Amount, ExpireLeases, ExpireOutcome, Holder, LeaseOnShare, LeasePage, RETIRE_AGE_SECONDS, RetireOutcome,
    RetireShares, Undo, UndoRefusal, Undone,
};
use leasehold_core::id::{AccountId, ShareId, ShareNumber, StorageIndex};
use leasehold_core::lease::{Lease, LeaseTerms};
use leasehold_core::leasedb::{Epoch, GarbageReason, Mode, Result, ShareRow, UNDO_SECONDS};
use leasehold_core::share::{ShareKind, ShareState};

use super::{Draft, HeldBy, MERGE_AFTER_SECONDS, SlotRow, UsageChange, Write, counted, integer, object_names, stripe};
use crate::removed::Removed;

/// A storage index, locked, with everything about its finished shares.
#[derive(Clone, Debug)]
pub(crate) struct ShareSet {
    pub(crate) storage_index: StorageIndex,
    /// Ascending, with the time each was made at.
    pub(crate) shares: Vec<(ShareRow, Timestamp)>,
    pub(crate) leases: Vec<HeldBy>,
    pub(crate) slot: Option<SlotRow>,
}

/// What a transaction that removes has read.
#[derive(Clone, Debug)]
pub(crate) struct Clearing {
    pub(crate) now: Timestamp,
    pub(crate) epoch: Epoch,
    pub(crate) mode: Mode,
    pub(crate) last_loss: Option<Timestamp>,
    /// Those asked for that nobody else is changing.
    pub(crate) sets: Vec<ShareSet>,
    /// Whoever holds a lease on them; looked at by expiry only.
    pub(crate) holders: HashMap<AccountId, Holder>,
}

impl Clearing {
    fn is_forbidden(&self, epoch: Epoch) -> bool {
        self.mode != Mode::Normal || self.epoch != epoch
    }

    fn find(&self, storage_index: StorageIndex) -> Option<&ShareSet> {
        let at = self.sets.binary_search_by_key(&storage_index, |set| set.storage_index).ok()?;
        self.sets.get(at)
    }
}

/// Removes those leases that have ended, by a second look at each.
pub(crate) fn expire(view: &Clearing, request: &ExpireLeases) -> Result<(ExpireOutcome, Vec<Write>)> {
    if view.is_forbidden(request.epoch) {
        return Ok((ExpireOutcome::Forbidden, Vec::new()));
    }
    let page =
        LeasePage { now: view.now, last_loss: view.last_loss, leases: Vec::new(), holders: view.holders.clone() };
    let mut gone: HashSet<(ShareId, AccountId)> = HashSet::new();
    let mut usage: BTreeMap<(AccountId, u8), (StorageIndex, UsageChange)> = BTreeMap::new();
    let mut leases = Amount::default();
    for seen in &request.leases {
        let Some(found) = view.find(seen.share.storage_index).and_then(|set| set.lease(seen)) else { continue };
        // Renewed since, or not ended by the rule of this moment.
        if found.lease != seen.lease || !page.has_ended(&request.policy, &found) {
            continue;
        }
        if !gone.insert((seen.share, seen.account)) {
            continue;
        }
        let bytes = found.counted_bytes();
        leases.add(bytes);
        let index = seen.share.storage_index;
        let (_, change) = usage.entry((seen.account, stripe(index))).or_insert((index, UsageChange::default()));
        change.leased_bytes -= integer(bytes)?;
        change.leased_shares -= i64::from(found.state == ShareState::Stable);
    }
    if gone.is_empty() {
        return Ok((ExpireOutcome::Removed { leases, unleased: 0 }, Vec::new()));
    }
    let shares: BTreeSet<ShareId> = gone.iter().map(|(share, _)| *share).collect();
    let is_left = |share: &ShareId| {
        let set = view.find(share.storage_index);
        let mut held = set.into_iter().flat_map(|set| &set.leases).filter(|held| held.number == share.number);
        held.any(|held| !gone.contains(&(*share, held.account)))
    };
    let unleased: Vec<ShareId> = shares.into_iter().filter(|share| !is_left(share)).collect();
    let outcome = ExpireOutcome::Removed { leases, unleased: unleased.len() as u64 };
    let mut ended: Vec<_> = gone.into_iter().collect();
    ended.sort_unstable();
    let mut writes = vec![Write::Expire { run: request.run, leases: ended, at: view.now }];
    if !unleased.is_empty() {
        writes.push(Write::QueueUnleased(unleased, view.now));
    }
    // The counters last, in the one order of everybody.
    let changes = usage.into_iter().map(|((account, _), (storage_index, change))| (account, storage_index, change));
    writes.extend(changes.map(|(account, storage_index, change)| Write::Usage { storage_index, account, change }));
    Ok((outcome, writes))
}

impl ShareSet {
    fn share(&self, number: ShareNumber) -> Option<&(ShareRow, Timestamp)> {
        self.shares.iter().find(|(row, _)| row.number == number)
    }

    /// The lease that was seen, as it is now.
    fn lease(&self, seen: &LeaseOnShare) -> Option<LeaseOnShare> {
        let (number, account) = (seen.share.number, seen.account);
        let held = self.leases.iter().find(|held| held.number == number && held.account == account)?;
        let (row, _) = self.share(number)?;
        let (kind, state, size_bytes) = (row.kind, row.state, row.size_bytes);
        Some(LeaseOnShare { share: seen.share, account, lease: held.lease, kind, state, size_bytes })
    }

    fn is_leased(&self, number: ShareNumber) -> bool {
        self.leases.iter().any(|held| held.number == number)
    }
}

/// Retires shares that nobody leases, by a second look at each: *stable* or *lost* to *going*.
pub(crate) fn retire(view: &Clearing, request: &RetireShares) -> Result<(RetireOutcome, Vec<Write>)> {
    if view.is_forbidden(request.epoch) {
        return Ok((RetireOutcome::Forbidden, Vec::new()));
    }
    let (mut retired, mut unqueued, mut writes) = (Amount::default(), Vec::new(), Vec::new());
    for set in &view.sets {
        let asked = request.shares.iter().filter(|share| share.storage_index == set.storage_index);
        let mut going: Vec<&ShareRow> = Vec::new();
        for share in asked {
            match set.share(share.number) {
                Some(_) if set.is_leased(share.number) => unqueued.push(*share),
                None => unqueued.push(*share),
                Some((_, made_at)) if made_at.seconds() > view.now.seconds() - RETIRE_AGE_SECONDS => {}
                Some((row, _)) => {
                    unqueued.push(*share);
                    going.push(row);
                }
            }
        }
        if going.is_empty() {
            continue;
        }
        for row in &going {
            retired.add(counted(row));
        }
        let mut draft = Draft::new(set.storage_index, view.now);
        let ends = going.len() == set.shares.len();
        retire_set(&mut draft, set, &going, ends);
        if let Some(slot) = &set.slot {
            // Whatever a write was built on has changed (`review.md` A4, A8).
            draft.push(if ends { Write::RemoveSlot(set.storage_index) } else { put_slot(set, slot, request) });
        }
        writes.extend(draft.into_writes());
    }
    if !unqueued.is_empty() {
        writes.push(Write::Unqueue(unqueued));
    }
    Ok((RetireOutcome::Retired(retired), writes))
}

fn put_slot(set: &ShareSet, slot: &SlotRow, request: &RetireShares) -> Write {
    let (write_enabler, marker) = (slot.write_enabler, slot.marker);
    Write::PutSlot { storage_index: set.storage_index, token: request.token, write_enabler, marker }
}

fn retire_set(draft: &mut Draft, set: &ShareSet, going: &[&ShareRow], ends: bool) {
    for (at, row) in going.iter().enumerate() {
        let share = draft.share(row.number);
        let mut objects = object_names(share, row.locator.objects());
        if ends && at == 0 {
            objects.extend(set.slot.as_ref().and_then(|slot| slot.marker));
        }
        draft.push(Write::Merged(share));
        draft.push(Write::RemoveShare(share));
        if row.state == ShareState::Stable {
            let slot = set.slot.clone().filter(|_| row.kind == ShareKind::Mutable).map(|slot| (slot, ends));
            draft.retire(share, GarbageReason::Unleased, objects, Removed::new(row, slot, Vec::new()));
        } else {
            // Of a share whose objects have vanished nothing can be put back.
            draft.add_garbage(share, GarbageReason::Unleased, UNDO_SECONDS, objects);
        }
    }
}

/// Garbage of a removed share.
#[derive(Clone, Debug)]
pub(crate) struct Grave {
    pub(crate) id: i64,
    pub(crate) number: ShareNumber,
    pub(crate) reason: GarbageReason,
    /// Whether somebody has begun to delete its objects.
    pub(crate) claimed: bool,
    /// What can be put back; nothing of objects that were no share.
    pub(crate) removed: Option<Removed>,
}

/// What an undo has read under the lock of its storage index.
#[derive(Clone, Debug)]
pub(crate) struct UndoView {
    pub(crate) now: Timestamp,
    pub(crate) set: ShareSet,
    /// Numbers of uploads in progress.
    pub(crate) uploads: Vec<ShareNumber>,
    /// Garbage of removed shares, oldest first.
    pub(crate) graves: Vec<Grave>,
    /// Leases that the named run has removed.
    pub(crate) expired: Vec<HeldBy>,
    /// What a lease of the starter account promises.
    pub(crate) starter: LeaseTerms,
}

/// Puts back shares that were removed, and leases.
pub(crate) fn undo(mut view: UndoView, request: &Undo) -> Result<(Undone, Vec<Write>)> {
    let mut draft = Draft::new(request.storage_index, view.now);
    let mut undone = Undone::default();
    let mut slot = view.set.slot.clone();
    let mut slot_is_new = false;
    for grave in newest(&view, request) {
        let number = grave.number;
        let removed = match admit(&view, &grave, slot.as_ref(), slot_is_new) {
            Ok(removed) => removed,
            Err(refusal) => {
                undone.refused.push((number, refusal));
                continue;
            }
        };
        let row = removed.row(number);
        slot_is_new |= removed.slot.is_some() && slot.is_none();
        slot = slot.or_else(|| removed.slot.as_ref().map(|(slot, _)| slot.clone()));
        let share = draft.share(number);
        draft.push(Write::InsertShare(share, row.kind, row.size_bytes, row.locator.clone(), view.now));
        if row.kind == ShareKind::Immutable && row.locator.objects().len() > 1 {
            let due = draft.after(MERGE_AFTER_SECONDS);
            draft.push(Write::Scattered(share, due));
        }
        draft.push(Write::RemoveGarbage(grave.id));
        let leases = if request.run.is_some() { Vec::new() } else { removed.leases.clone() };
        for (account, lease) in leases {
            put_lease(&mut draft, &mut view.set, &row, account, lease)?;
            undone.leases += 1;
        }
        view.set.shares.push((row, view.now));
        undone.shares.push(number);
    }
    if let (Some(slot), false) = (&slot, undone.shares.is_empty()) {
        let (storage_index, marker) = (request.storage_index, slot.marker);
        draft.push(Write::PutSlot { storage_index, token: request.token, write_enabler: slot.write_enabler, marker });
    }
    undone.leases += put_expired(&mut draft, &mut view, request)?;
    for number in undone.shares.clone() {
        undone.leases += u64::from(give_starter(&mut draft, &mut view, number)?);
    }
    Ok((undone, draft.into_writes()))
}

/// The newest garbage of each share that is asked for.
fn newest(view: &UndoView, request: &Undo) -> Vec<Grave> {
    let mut newest: BTreeMap<ShareNumber, Grave> = BTreeMap::new();
    for grave in &view.graves {
        let of_run = view.expired.iter().any(|held| held.number == grave.number);
        let asked = match request.run {
            Some(_) => grave.reason == GarbageReason::Unleased && of_run,
            None => request.number.is_none_or(|number| number == grave.number),
        };
        if asked {
            newest.insert(grave.number, grave.clone());
        }
    }
    newest.into_values().collect()
}

/// Whether a removed share may come back (`review.md` D4). `slot` is the one that is there by now; it `is_new` if this
/// very undo has put it back.
fn admit(view: &UndoView, grave: &Grave, slot: Option<&SlotRow>, is_new: bool) -> Result<Removed, UndoRefusal> {
    let removed = grave.removed.clone().filter(|_| !grave.claimed).ok_or(UndoRefusal::Deleted)?;
    if view.set.share(grave.number).is_some() {
        return Err(UndoRefusal::ShareExists);
    }
    if view.uploads.contains(&grave.number) {
        return Err(UndoRefusal::UploadExists);
    }
    let other_kind = view.set.shares.iter().any(|(row, _)| row.kind != removed.kind);
    let is_slot = removed.kind == ShareKind::Mutable;
    // A slot that went and is there again is another one; one that stayed must be the same.
    let other_slot = match (&removed.slot, slot) {
        (Some((old, went)), Some(now)) => !is_new && *went || old.write_enabler != now.write_enabler,
        (None, Some(_)) => true,
        (_, None) => false,
    };
    if other_kind || other_slot || is_slot && (removed.slot.is_none() || !view.uploads.is_empty()) {
        return Err(UndoRefusal::SlotExists);
    }
    Ok(removed)
}

fn put_lease(draft: &mut Draft, set: &mut ShareSet, row: &ShareRow, account: AccountId, lease: Lease) -> Result<()> {
    draft.push(Write::Lease(draft.share(row.number), account, lease));
    if !set.leases.iter().any(|held| held.number == row.number && held.account == account) {
        let shares = i64::from(row.state == ShareState::Stable);
        draft.add_usage(account, integer(counted(row))?, shares, 0);
        set.leases.push(HeldBy { number: row.number, account, lease });
    }
    Ok(())
}

/// Leases that a run has removed from shares that are there. The greater of an old and a newer one holds.
fn put_expired(draft: &mut Draft, view: &mut UndoView, request: &Undo) -> Result<u64> {
    let Some(run) = request.run else { return Ok(0) };
    let mut count = 0;
    for held in view.expired.clone() {
        let Some((row, _)) = view.set.share(held.number).cloned() else { continue };
        put_lease(draft, &mut view.set, &row, held.account, held.lease)?;
        count += 1;
    }
    draft.push(Write::ForgetExpired(run, request.storage_index));
    Ok(count)
}

/// A share that is back has a lease that holds: the starter account's where there is no other.
fn give_starter(draft: &mut Draft, view: &mut UndoView, number: ShareNumber) -> Result<bool> {
    let now = view.now;
    let holds = |held: &HeldBy| held.number == number && held.lease.expires_at > now;
    let Some((row, _)) = view.set.share(number).filter(|_| !view.set.leases.iter().any(holds)).cloned() else {
        return Ok(false);
    };
    put_lease(draft, &mut view.set, &row, AccountId::STARTER, view.starter.grant(now, None))?;
    Ok(true)
}
