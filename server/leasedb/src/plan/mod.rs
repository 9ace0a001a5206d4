//! What a transaction writes, decided from what it has read: pure, and the same for every database.
//!
//! A transaction that changes what belongs to a storage index takes that storage index's lock, reads a [`View`], calls
//! one function of this module, and applies the [`Write`]s it returns in their order. Nothing here knows SQL.

pub(crate) mod expiry;
pub(crate) mod settle;
pub(crate) mod slots;
pub(crate) mod uploads;

use std::collections::BTreeMap;

use leasehold_core::account::{Account, Usage};
use leasehold_core::bucket::{Chunk, Upload};
use leasehold_core::chunk::{ObjectName, StoreObject};
use leasehold_core::clock::Timestamp;
use leasehold_core::crawl::unit::{FinishUnit, Prefix, UnitEnd};
use leasehold_core::id::{AccountId, ObjectId, ShareId, ShareNumber, StorageIndex};
use leasehold_core::lease::{Lease, LeaseTerms};
use leasehold_core::leasedb::{
    Epoch, GarbageReason, LeaseDbError, NAME_FENCE_SECONDS, Relocate, RenewOutcome, Result, SUPERSEDED_GRACE_SECONDS,
    ShareRow, SlotToken, UNDO_SECONDS,
};
use leasehold_core::locator::Locator;
use leasehold_core::run::{RunId, Totals};
use leasehold_core::secret::SecretHash;
use leasehold_core::share::{ShareKind, ShareState};
use leasehold_core::trouble::DamagedObject;
use leasehold_core::tub::TubConnection;

use crate::removed::Removed;

/// How long a share rests before its pieces are merged, in seconds: most of what is deleted young is never merged.
pub(crate) const MERGE_AFTER_SECONDS: i64 = 86_400;

/// The account that a transaction is for.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) account: Account,
    /// Exact where the account has a quota; not to be relied on where it has none.
    pub(crate) usage: Usage,
    pub(crate) terms: LeaseTerms,
}

/// A share, and the caller's lease on it.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) row: ShareRow,
    pub(crate) lease: Option<Lease>,
}

/// Who leases which share of a storage index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeldBy {
    pub(crate) number: ShareNumber,
    pub(crate) account: AccountId,
    pub(crate) lease: Lease,
}

/// The row of a mutable storage index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlotRow {
    pub(crate) token: SlotToken,
    pub(crate) write_enabler: SecretHash,
    /// The object that holds only the manifest, if there is one.
    pub(crate) marker: Option<ObjectName>,
}

impl SlotRow {
    /// The slot with another token: whatever was read of it before commits nothing.
    fn with_token(&self, storage_index: StorageIndex, token: SlotToken) -> Write {
        Write::PutSlot { storage_index, token, write_enabler: self.write_enabler, marker: self.marker }
    }
}

/// What a transaction has read under the lock of its storage index.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) now: Timestamp,
    pub(crate) epoch: Epoch,
    pub(crate) caller: Caller,
    /// All shares of the storage index, ascending.
    pub(crate) shares: Vec<Held>,
}

/// One change of rows. Those of one list are applied in order, in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Lease(ShareId, AccountId, Lease),
    RemoveLeases(ShareId),
    InsertUpload(NewUpload),
    InsertChunk(ShareId, Chunk),
    Received {
        share: ShareId,
        received_bytes: u64,
        deadline: Timestamp,
    },
    /// The upload with its chunk rows.
    RemoveUpload(ShareId),
    /// With the time it is made at.
    InsertShare(ShareId, ShareKind, u64, Locator, Timestamp),
    /// Stable from now on, with these bytes.
    UpdateShare(ShareId, u64, Locator),
    /// Its objects are gone, as was noticed at this time; it keeps its leases.
    LoseShare(ShareId, Timestamp),
    RemoveShare(ShareId),
    PutSlot {
        storage_index: StorageIndex,
        token: SlotToken,
        write_enabler: SecretHash,
        marker: Option<ObjectName>,
    },
    RemoveSlot(StorageIndex),
    Usage {
        storage_index: StorageIndex,
        account: AccountId,
        change: UsageChange,
    },
    Garbage {
        share: ShareId,
        reason: GarbageReason,
        created_at: Timestamp,
        not_before: Timestamp,
        /// The upload that was given up with it.
        upload: Option<ObjectId>,
        objects: Vec<ObjectName>,
        /// The share, where it can be put back.
        undo: Option<Box<Removed>>,
    },
    /// Settled in this epoch.
    Recovered(StorageIndex, Epoch),
    /// Objects that cannot be read or used, as seen at this time.
    Damaged(Vec<DamagedObject>, Timestamp),
    RemoveGarbage(i64),
    /// Leases that have ended, kept for a while under the run that removes them.
    Expire {
        run: RunId,
        leases: Vec<(ShareId, AccountId)>,
        at: Timestamp,
    },
    /// The leases of a storage index that a run has removed are not kept any more.
    ForgetExpired(RunId, StorageIndex),
    /// Nobody leases these shares any more.
    QueueUnleased(Vec<ShareId>, Timestamp),
    Unqueue(Vec<ShareId>),
    /// The share lies in several objects, to be merged some day.
    Scattered(ShareId, Timestamp),
    Merged(ShareId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewUpload {
    pub(crate) share: ShareId,
    pub(crate) id: ObjectId,
    pub(crate) account: AccountId,
    pub(crate) size_bytes: u64,
    pub(crate) secret: SecretHash,
    pub(crate) connection: Option<TubConnection>,
    pub(crate) deadline: Timestamp,
}

/// What is added to an account's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UsageChange {
    pub(crate) leased_bytes: i64,
    pub(crate) leased_shares: i64,
    pub(crate) reserved_bytes: i64,
}

/// What becomes of a request for a lease.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leased {
    Held,
    Added,
    OverQuota,
}

/// The writes of one transaction as they are decided.
pub(crate) struct Draft {
    storage_index: StorageIndex,
    now: Timestamp,
    writes: Vec<Write>,
    usage: BTreeMap<AccountId, UsageChange>,
}

/// Which of an account's counters a storage index falls on, where there are several.
pub(crate) fn stripe(index: StorageIndex) -> u8 {
    index.as_bytes()[15] & 7
}

/// Sizes in rows are signed; every size we store is far below that.
pub(crate) fn integer(value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| LeaseDbError::Invalid(format!("{value} is too large to store")))
}

/// A share's part in its leaseholders' usage, in bytes: lost shares are not charged.
pub(crate) fn counted(row: &ShareRow) -> u64 {
    match row.state {
        ShareState::Stable => row.kind.charged_bytes(row.size_bytes),
        ShareState::Lost | ShareState::Coming | ShareState::Going => 0,
    }
}

/// Refuses an object that is too old to be put into a row: its writer may have slept (`design.md` 3.5). A container is
/// never written, so it has no age.
pub(crate) fn check_fence(object: &StoreObject, now: Timestamp) -> Result<()> {
    if object.made_at().is_some_and(|made_at| made_at.seconds() > now.seconds() - NAME_FENCE_SECONDS) {
        return Ok(());
    }
    Err(LeaseDbError::Invalid("an object was stored too long ago to be named now".to_owned()))
}

/// The distinct objects behind chunks: one object may stand behind several rows.
pub(crate) fn object_names(share: ShareId, objects: impl IntoIterator<Item = StoreObject>) -> Vec<ObjectName> {
    let mut seen = std::collections::HashSet::new();
    let distinct = objects.into_iter().filter(|object| seen.insert(*object));
    distinct.map(|object| ObjectName::new(share, object)).collect()
}

impl Draft {
    pub(crate) fn new(storage_index: StorageIndex, now: Timestamp) -> Self {
        Self { storage_index, now, writes: Vec::new(), usage: BTreeMap::new() }
    }

    fn push(&mut self, write: Write) {
        self.writes.push(write);
    }

    fn share(&self, number: ShareNumber) -> ShareId {
        ShareId::new(self.storage_index, number)
    }

    fn after(&self, seconds: i64) -> Timestamp {
        Timestamp::from_seconds(self.now.seconds() + seconds)
    }

    fn add_usage(&mut self, account: AccountId, bytes: i64, shares: i64, reserved: i64) {
        let change = self.usage.entry(account).or_default();
        change.leased_bytes += bytes;
        change.leased_shares += shares;
        change.reserved_bytes += reserved;
    }

    /// A share that was removed: its objects wait until nobody can want it back.
    fn retire(&mut self, share: ShareId, reason: GarbageReason, objects: Vec<ObjectName>, removed: Removed) {
        let (not_before, undo) = (self.after(UNDO_SECONDS), Some(Box::new(removed)));
        self.push(Write::Garbage { share, reason, created_at: self.now, not_before, upload: None, objects, undo });
    }

    fn add_garbage(&mut self, share: ShareId, reason: GarbageReason, seconds: i64, objects: Vec<ObjectName>) {
        let not_before = self.after(seconds);
        self.push(Write::Garbage {
            share,
            reason,
            created_at: self.now,
            not_before,
            upload: None,
            objects,
            undo: None,
        });
    }

    /// Renews the caller's lease on a stable share, or adds one if it fits; the caller's usage is kept up to date.
    fn lease_share(&mut self, held: &Held, caller: &mut Caller, limited: bool) -> Result<Leased> {
        let share = self.share(held.row.number);
        let account = caller.account.id;
        if let Some(lease) = held.lease {
            if !caller.terms.holds(lease, self.now) {
                self.push(Write::Lease(share, account, caller.terms.grant(self.now, Some(lease))));
            }
            return Ok(Leased::Held);
        }
        let bytes = counted(&held.row);
        if limited && bytes > caller.usage.left(caller.account.quota_bytes) {
            return Ok(Leased::OverQuota);
        }
        self.push(Write::Lease(share, account, caller.terms.grant(self.now, None)));
        self.add_usage(account, integer(bytes)?, 1, 0);
        caller.usage.used_bytes += bytes;
        caller.usage.shares += 1;
        Ok(Leased::Added)
    }

    /// All writes, the counters last and by account: whoever locks several does so in the same order.
    pub(crate) fn into_writes(mut self) -> Vec<Write> {
        let storage_index = self.storage_index;
        let changed = self.usage.into_iter().filter(|(_, change)| *change != UsageChange::default());
        self.writes.extend(changed.map(|(account, change)| Write::Usage { storage_index, account, change }));
        self.writes
    }
}

/// Adds or renews the caller's leases on all stable shares (`gbs.md` 7.2).
pub(crate) fn renew(mut view: View, storage_index: StorageIndex) -> Result<(RenewOutcome, Vec<Write>)> {
    if !view.caller.account.state.may_renew() {
        return Ok((RenewOutcome::Refused(view.caller.account.state), Vec::new()));
    }
    let mut draft = Draft::new(storage_index, view.now);
    let mut outcome = RenewOutcome::NotFound;
    for held in view.shares.iter().filter(|held| held.row.state == ShareState::Stable) {
        match draft.lease_share(held, &mut view.caller, true)? {
            Leased::OverQuota => outcome = RenewOutcome::OverQuota,
            Leased::Held | Leased::Added if outcome == RenewOutcome::NotFound => outcome = RenewOutcome::Done,
            Leased::Held | Leased::Added => {}
        }
    }
    Ok((outcome, draft.into_writes()))
}

/// Lets the caller's leases last until `ends` at least.
pub(crate) fn prolong(view: &View, storage_index: StorageIndex, ends: &[(ShareNumber, Timestamp)]) -> Vec<Write> {
    let mut draft = Draft::new(storage_index, view.now);
    for (number, end) in ends {
        let held = view.shares.iter().find(|held| held.row.number == *number);
        if let Some(lease) = held.and_then(|held| held.lease).filter(|lease| lease.expires_at < *end) {
            let share = draft.share(*number);
            draft.push(Write::Lease(share, view.caller.account.id, Lease { expires_at: *end, ..lease }));
        }
    }
    draft.into_writes()
}

/// The answer to a renewal that needs no write: there is no share, or every lease holds long enough.
pub(crate) fn renewal_without_write(
    account: &Account,
    terms: LeaseTerms,
    now: Timestamp,
    leases: &[Option<Lease>],
) -> Option<RenewOutcome> {
    if !account.state.may_renew() {
        return Some(RenewOutcome::Refused(account.state));
    }
    if leases.is_empty() {
        return Some(RenewOutcome::NotFound);
    }
    let all_hold = leases.iter().all(|lease| lease.is_some_and(|lease| terms.holds(lease, now)));
    all_hold.then_some(RenewOutcome::Done)
}

/// Objects stored for nothing become garbage, save those that are named (`review.md` A3).
pub(crate) fn discard(
    storage_index: StorageIndex,
    now: Timestamp,
    objects: &[ObjectName],
    named: &std::collections::HashSet<ObjectName>,
) -> Vec<Write> {
    let mut by_share: BTreeMap<ShareNumber, Vec<ObjectName>> = BTreeMap::new();
    for name in objects.iter().filter(|name| !named.contains(*name)) {
        by_share.entry(name.share.number).or_default().push(*name);
    }
    let mut draft = Draft::new(storage_index, now);
    for (number, names) in by_share {
        draft.add_garbage(draft.share(number), GarbageReason::Orphan, SUPERSEDED_GRACE_SECONDS, names);
    }
    draft.into_writes()
}

/// Swaps the objects of an immutable share (`review.md` A4). `row` is what the share is now.
pub(crate) fn relocate(
    request: &Relocate,
    row: Option<&ShareRow>,
    now: Timestamp,
    epoch: Epoch,
) -> Result<(bool, Vec<Write>)> {
    let share = request.share;
    let mut draft = Draft::new(share.storage_index, now);
    draft.push(Write::Merged(share));
    let unchanged = |row: &&ShareRow| {
        row.kind == ShareKind::Immutable && row.state == ShareState::Stable && row.locator == request.from
    };
    let Some(row) = row.filter(unchanged).filter(|_| epoch == request.epoch && !request.to.extents().is_empty()) else {
        return Ok((false, draft.into_writes()));
    };
    for object in request.to.objects() {
        check_fence(&object, now)?;
    }
    draft.push(Write::UpdateShare(share, row.size_bytes, request.to.clone()));
    let old = object_names(share, request.from.objects());
    draft.add_garbage(share, GarbageReason::Superseded, SUPERSEDED_GRACE_SECONDS, old);
    Ok((true, draft.into_writes()))
}

/// Adds what became of a unit to the totals of its run.
pub(crate) fn add_unit(totals: &mut Totals, finish: &FinishUnit) {
    match &finish.end {
        UnitEnd::Done(counted) => totals.merge(counted),
        UnitEnd::Failed(_) => totals.add("units_failed", 1),
        UnitEnd::Split | UnitEnd::Braked(_) => return,
    }
    let (done, _) = totals.part().unwrap_or_default();
    totals.set_part(done + finish.unit.billionths(), Prefix::default().billionths());
}

/// Where an upload's chunks are, for whoever asks which objects are named.
pub(crate) fn upload_objects(upload: &Upload) -> impl Iterator<Item = ObjectName> {
    upload.chunks.iter().map(|chunk| ObjectName::new(upload.share, chunk.object))
}
