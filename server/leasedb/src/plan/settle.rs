//! What follows from comparing the rows of a storage index with the objects in its folder.
//!
//! Two modes, one rule each for a share: a complete copy that nobody gave up on purpose gets a row, a row whose objects
//! are gone gets other objects if there is a copy. In normal mode, besides, shares without objects are lost and objects
//! without rows are garbage, both only when they are old; in recovery mode, where the database may not know what was
//! acknowledged, a slot takes its last commit from manifests, and nothing is thrown away.

mod containers;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use leasehold_core::account::AccountState;
use leasehold_core::chunk::{ObjectName, StoreObject};
use leasehold_core::clock::Timestamp;
use leasehold_core::crawl::group::{Group, groups, is_empty_share, is_whole};
use leasehold_core::crawl::slot::{Commit, SlotRows, last_commit};
use leasehold_core::crawl::{Findings, ORPHAN_AGE_SECONDS, Settle, SettleOutcome, Stored};
use leasehold_core::id::{AccountId, ObjectId, ShareId, ShareNumber};
use leasehold_core::lease::{Lease, LeaseTerms};
use leasehold_core::leasedb::{Epoch, GarbageReason, Mode, Result, SUPERSEDED_GRACE_SECONDS, ShareRow, UNDO_SECONDS};
use leasehold_core::secret::SecretHash;
use leasehold_core::share::{ShareKind, ShareState};
use leasehold_core::trouble::DamagedObject;

use super::{Draft, HeldBy, MERGE_AFTER_SECONDS, SlotRow, Write, counted, integer, object_names};

/// What a transaction has read of a storage index under its lock.
pub(crate) struct SettleView {
    pub(crate) now: Timestamp,
    pub(crate) epoch: Epoch,
    pub(crate) mode: Mode,
    /// The first of the times since the last recovery after which commits may have been lost.
    pub(crate) known_until: Option<Timestamp>,
    pub(crate) shares: Vec<ShareRow>,
    pub(crate) slot: Option<SlotRow>,
    /// Who leases which share.
    pub(crate) holders: Vec<HeldBy>,
    /// Uploads in progress.
    pub(crate) uploads: Vec<(ShareNumber, ObjectId)>,
    pub(crate) garbage: Vec<Discarded>,
    /// The accounts that the names of listed objects tell, and the one for what is found, with the days they are granted.
    pub(crate) accounts: Vec<(AccountId, AccountState, u32)>,
    pub(crate) terms: LeaseTerms,
}

/// A garbage row, done or not.
pub(crate) struct Discarded {
    pub(crate) number: ShareNumber,
    pub(crate) reason: GarbageReason,
    pub(crate) done: bool,
    /// The upload that was given up with it.
    pub(crate) upload: Option<ObjectId>,
    pub(crate) objects: Vec<ObjectName>,
}

/// The accounts to look up for a [`Settle`].
pub(crate) fn accounts_of(settle: &Settle) -> Vec<AccountId> {
    let named = settle.listed.iter().filter_map(|stored| stored.name.object.account());
    let all: BTreeSet<AccountId> = named.chain([AccountId::STARTER]).collect();
    all.into_iter().collect()
}

/// Decides what a [`Settle`] does.
pub(crate) fn settle(view: SettleView, request: &Settle) -> Result<(SettleOutcome, Vec<Write>)> {
    let seen = &request.seen;
    let token = view.slot.as_ref().map(|slot| slot.token);
    let same_slot = token == seen.slot.map(|(token, _)| token);
    if (view.epoch, view.mode) != (seen.epoch, seen.mode) || view.shares != seen.shares || !same_slot {
        return Ok((SettleOutcome::Changed, Vec::new()));
    }
    let mut settling = Settling::new(&view, request);
    settling.slot()?;
    settling.buckets()?;
    if view.mode == Mode::Recovery {
        settling.draft.push(Write::Recovered(request.storage_index, view.epoch));
    } else {
        settling.orphans();
        settling.late_objects();
    }
    settling.containers()?;
    if !settling.findings.damaged.is_empty() {
        settling.draft.push(Write::Damaged(settling.findings.damaged.clone(), view.now));
    }
    let writes = if request.dry_run { Vec::new() } else { settling.draft.into_writes() };
    Ok((SettleOutcome::Settled(settling.findings), writes))
}

/// Forgets a lost share: as if its client had removed it.
pub(crate) fn forget(
    share: ShareId,
    now: Timestamp,
    shares: &[ShareRow],
    slot: Option<&SlotRow>,
    token: leasehold_core::leasedb::SlotToken,
) -> Vec<Write> {
    let mut draft = Draft::new(share.storage_index, now);
    let Some(row) = shares.iter().find(|row| row.number == share.number) else { return Vec::new() };
    draft.push(Write::RemoveLeases(share));
    draft.push(Write::Merged(share));
    draft.push(Write::RemoveShare(share));
    draft.add_garbage(share, GarbageReason::Removed, UNDO_SECONDS, object_names(share, row.locator.objects()));
    if let Some(slot) = slot {
        if shares.len() == 1 {
            draft.push(Write::RemoveSlot(share.storage_index));
            if let Some(marker) = slot.marker {
                draft.add_garbage(marker.share, GarbageReason::Superseded, UNDO_SECONDS + 86_400, vec![marker]);
            }
        } else {
            draft.push(slot.with_token(share.storage_index, token));
        }
    }
    draft.into_writes()
}

/// Why an object that a slot's name has is no part of any slot.
const UNREADABLE: &str = "it says nothing readable of its slot";

struct Settling<'a> {
    view: &'a SettleView,
    request: &'a Settle,
    draft: Draft,
    findings: Findings,
    /// Names in garbage rows, done or not: never named by a row again (`review.md` A1, A7).
    wasted: HashSet<ObjectName>,
    /// What is listed, with its length.
    listed: HashMap<ObjectName, u64>,
    /// What of it rows may come to name.
    there: HashMap<ObjectName, u64>,
    /// The shares as they are after what was decided so far.
    shares: BTreeMap<ShareNumber, ShareRow>,
    marker: Option<ObjectName>,
    slot_has_changed: bool,
    /// The write enabler of a slot that begins with a container.
    begun: Option<SecretHash>,
}

impl<'a> Settling<'a> {
    fn new(view: &'a SettleView, request: &'a Settle) -> Self {
        let wasted: HashSet<ObjectName> = view.garbage.iter().flat_map(|row| row.objects.iter().copied()).collect();
        let listed: HashMap<_, _> = request.listed.iter().map(|stored| (stored.name, stored.length_bytes)).collect();
        let there = listed.iter().filter(|(name, _)| !wasted.contains(*name)).map(|(name, length)| (*name, *length));
        Self {
            view,
            request,
            draft: Draft::new(request.storage_index, view.now),
            findings: Findings::default(),
            there: there.collect(),
            listed,
            wasted,
            shares: view.shares.iter().map(|row| (row.number, row.clone())).collect(),
            marker: view.slot.as_ref().and_then(|slot| slot.marker),
            slot_has_changed: false,
            begun: None,
        }
    }

    const fn is_recovery(&self) -> bool {
        matches!(self.view.mode, Mode::Recovery)
    }

    fn is_old(&self, at: Timestamp) -> bool {
        at.seconds() <= self.view.now.seconds() - ORPHAN_AGE_SECONDS
    }

    fn has(&self, kind: ShareKind) -> bool {
        self.shares.values().any(|row| row.kind == kind)
    }

    /// What the rows name, as far as it was decided.
    fn named(&self) -> HashSet<ObjectName> {
        let mut named: HashSet<ObjectName> = self.marker.into_iter().collect();
        for row in self.shares.values() {
            named.extend(object_names(self.draft.share(row.number), row.locator.objects()));
        }
        named
    }

    fn holders(&self, number: ShareNumber) -> impl Iterator<Item = AccountId> + 'a {
        self.view.holders.iter().filter(move |held| held.number == number).map(|held| held.account)
    }

    /// Who leases what is found: the account in its name, if there is one that may hold leases.
    fn leaseholder(&self, account: AccountId) -> (AccountId, LeaseTerms) {
        let find =
            |id| self.view.accounts.iter().find(|(found, state, _)| *found == id && *state != AccountState::Closed);
        let (id, days) =
            find(account).or_else(|| find(AccountId::STARTER)).map_or((AccountId::STARTER, 60), |a| (a.0, a.2));
        (id, self.view.terms.for_days(days))
    }

    /// Gives a share that had none a row and a lease, which ends at `until` at the earliest.
    fn insert(&mut self, row: ShareRow, account: AccountId, until: Option<Timestamp>) -> Result<()> {
        let share = self.draft.share(row.number);
        self.draft.push(Write::InsertShare(share, row.kind, row.size_bytes, row.locator.clone(), self.view.now));
        let (account, terms) = self.leaseholder(account);
        let granted = terms.grant(self.view.now, None);
        let expires_at = until.map_or(granted.expires_at, |until| until.max(granted.expires_at));
        self.draft.push(Write::Lease(share, account, Lease { expires_at, ..granted }));
        self.draft.add_usage(account, integer(counted(&row))?, 1, 0);
        self.scatter(&row);
        self.shares.insert(row.number, row);
        Ok(())
    }

    /// Puts other bytes, or the same that were away, under a row; its leases stay and count.
    fn update(&mut self, old: &ShareRow, row: ShareRow) -> Result<()> {
        self.draft.push(Write::UpdateShare(self.draft.share(row.number), row.size_bytes, row.locator.clone()));
        let bytes = integer(counted(&row))? - integer(counted(old))?;
        let shares = i64::from(old.state != ShareState::Stable);
        for holder in self.holders(row.number) {
            self.draft.add_usage(holder, bytes, shares, 0);
        }
        self.scatter(&row);
        self.shares.insert(row.number, row);
        Ok(())
    }

    fn scatter(&mut self, row: &ShareRow) {
        if row.kind == ShareKind::Immutable && row.locator.objects().len() > 1 {
            let due = self.draft.after(MERGE_AFTER_SECONDS);
            self.draft.push(Write::Scattered(self.draft.share(row.number), due));
        }
    }

    fn lose(&mut self, row: &ShareRow) -> Result<()> {
        let share = self.draft.share(row.number);
        self.draft.push(Write::LoseShare(share, self.view.now));
        let bytes = integer(counted(row))?;
        for holder in self.holders(row.number) {
            self.draft.add_usage(holder, -bytes, -1, 0);
        }
        self.findings.lost.push(share);
        self.shares.insert(row.number, ShareRow { state: ShareState::Lost, ..row.clone() });
        Ok(())
    }

    /// Mutable shares: in recovery mode the slot's last commit; then each share by itself.
    fn slot(&mut self) -> Result<()> {
        let request = self.request;
        if self.is_recovery() && !self.has(ShareKind::Immutable) {
            let named = self.named();
            let token = self.view.slot.as_ref().filter(|_| !self.shares.is_empty()).map(|slot| slot.token);
            let rows = SlotRows { token, named: &named, known_until: self.view.known_until };
            if let Some(commit) = last_commit(&request.manifests, &rows, &self.there)
                && !self.began_a_bucket_since(&commit)
            {
                return self.promote(&commit);
            }
        }
        let rows: Vec<ShareRow> = self.shares.values().filter(|row| row.kind == ShareKind::Mutable).cloned().collect();
        for row in rows {
            let is_whole = is_whole(self.draft.share(row.number), &row.locator, &self.listed);
            match row.state {
                ShareState::Lost if is_whole => self.find(&row)?,
                ShareState::Stable if !is_whole && !self.is_recovery() => self.lose(&row)?,
                _ => continue,
            }
            self.slot_has_changed = true;
        }
        // A write that was built on what was there before must start again (`review.md` A4).
        if let Some(slot) = self.view.slot.as_ref().filter(|_| self.slot_has_changed) {
            self.draft.push(slot.with_token(request.storage_index, request.token));
        }
        if !self.has(ShareKind::Mutable) {
            let unreadable = request.manifests.iter().filter(|(_, manifest)| manifest.is_none());
            let unreadable = unreadable.map(|(name, _)| *name).filter(|name| !self.wasted.contains(name));
            let damaged = unreadable.map(|name| DamagedObject { name, reason: UNREADABLE.to_owned() });
            self.findings.damaged.extend(damaged);
        }
        Ok(())
    }

    /// Whether immutable shares were stored after a slot had its last commit: then the slot had ended.
    fn began_a_bucket_since(&self, commit: &Commit<'_>) -> bool {
        let at = commit.manifest.generation.made_at();
        self.complete_groups().iter().any(|group| group.youngest > at)
    }

    /// The slot becomes what it was after a commit that the database has lost.
    fn promote(&mut self, commit: &Commit<'_>) -> Result<()> {
        let manifest = commit.manifest;
        let index = self.request.storage_index;
        for row in self.view.shares.iter().filter(|row| manifest.shares.iter().all(|share| share.0 != row.number)) {
            let share = self.draft.share(row.number);
            let (bytes, shares) = (integer(counted(row))?, i64::from(row.state == ShareState::Stable));
            for holder in self.holders(row.number) {
                self.draft.add_usage(holder, -bytes, -shares, 0);
            }
            self.draft.push(Write::RemoveLeases(share));
            self.draft.push(Write::RemoveShare(share));
            self.shares.remove(&row.number);
        }
        for (number, size_bytes, locator) in &manifest.shares {
            let row = ShareRow {
                number: *number,
                kind: ShareKind::Mutable,
                state: ShareState::Stable,
                size_bytes: *size_bytes,
                locator: locator.clone(),
            };
            match self.shares.get(number).cloned() {
                Some(old) if old == row => {}
                Some(old) => self.update(&old, row)?,
                None => {
                    let newest =
                        locator.objects().into_iter().max_by_key(|object| object.put_id().map(|put| *put.as_bytes()));
                    let account = newest.and_then(|object| object.account()).or(commit.carrier.object.account());
                    let until = self.container_end(&row);
                    self.insert(row, account.unwrap_or(AccountId::STARTER), until)?;
                }
            }
        }
        let is_marker = matches!(commit.carrier.object, StoreObject::SlotMarker { .. });
        if !manifest.shares.is_empty() {
            self.marker = Some(commit.carrier).filter(|_| is_marker);
            self.draft.push(Write::PutSlot {
                storage_index: index,
                token: manifest.token,
                write_enabler: manifest.write_enabler,
                marker: self.marker,
            });
        } else if self.view.slot.is_some() {
            self.draft.push(Write::RemoveSlot(index));
        }
        if !manifest.shares.is_empty() || !self.view.shares.is_empty() {
            self.findings.promoted += 1;
        }
        Ok(())
    }

    fn find(&mut self, row: &ShareRow) -> Result<()> {
        self.findings.found += 1;
        self.update(row, ShareRow { state: ShareState::Stable, ..row.clone() })
    }

    /// Uploads that are whole shares, by what is there and may be named, and that nobody gave up (`review.md` A11).
    fn complete_groups(&self) -> Vec<Group> {
        let usable: Vec<Stored> =
            self.there.iter().map(|(name, length_bytes)| Stored { name: *name, length_bytes: *length_bytes }).collect();
        let is_live = |group: &Group| self.view.uploads.contains(&(group.number, group.upload));
        let mut complete = groups(&usable);
        complete.retain(|group| group.copy.is_some() && !is_live(group) && !self.is_given_up(group));
        complete
    }

    fn is_given_up(&self, group: &Group) -> bool {
        use GarbageReason::{Aborted, Orphan, Removed, Superseded, Unleased};
        self.view.garbage.iter().filter(|row| row.number == group.number).any(|row| {
            let on_purpose = match row.reason {
                Unleased | Removed | Aborted => true,
                Superseded | Orphan => false,
            };
            let is_of_group = |name: &ObjectName| name.object.group() == Some(group.upload);
            on_purpose && (row.upload == Some(group.upload) || row.objects.iter().any(is_of_group))
        })
    }

    /// Immutable shares.
    fn buckets(&mut self) -> Result<()> {
        let groups = self.complete_groups();
        let rows: Vec<ShareRow> =
            self.shares.values().filter(|row| row.kind == ShareKind::Immutable).cloned().collect();
        for row in &rows {
            if is_whole(self.draft.share(row.number), &row.locator, &self.listed) {
                if row.state == ShareState::Lost {
                    self.find(row)?;
                }
            } else if let Some((copy, _)) = self.copy(&groups, row.number) {
                self.findings.repaired += 1;
                self.update(row, copy)?;
            } else if row.state == ShareState::Stable && !self.is_recovery() {
                self.lose(row)?;
            }
        }
        if self.has(ShareKind::Mutable) {
            return Ok(());
        }
        let numbers: BTreeSet<ShareNumber> = groups.iter().map(|group| group.number).collect();
        for number in numbers {
            let is_coming = self.view.uploads.iter().any(|(coming, _)| *coming == number);
            if self.shares.contains_key(&number) || (is_coming && !self.is_recovery()) {
                continue;
            }
            if let Some((copy, account)) = self.copy(&groups, number) {
                self.findings.adopted += 1;
                self.insert(copy, account, None)?;
            }
        }
        Ok(())
    }

    /// The newest complete copy of a share that may be used now, and who uploaded it.
    fn copy(&self, groups: &[Group], number: ShareNumber) -> Option<(ShareRow, AccountId)> {
        let of_share = groups.iter().filter(|group| group.number == number);
        let usable = of_share.filter(|group| self.is_recovery() || self.is_old(group.youngest));
        let newest = usable.max_by_key(|group| (group.youngest, *group.upload.as_bytes()))?;
        let (size_bytes, locator) = newest.copy.clone()?;
        let (kind, state) = (ShareKind::Immutable, ShareState::Stable);
        Some((ShareRow { number, kind, state, size_bytes, locator }, newest.account))
    }

    /// Objects that nothing names become garbage, when the youngest of their group is old.
    fn orphans(&mut self) {
        let named = self.named();
        let mut youngest: HashMap<(ShareNumber, ObjectId), Timestamp> = HashMap::new();
        for name in self.there.keys() {
            if let Some((group, made_at)) = name.object.group().zip(name.object.made_at()) {
                let at = youngest.entry((name.share.number, group)).or_insert(made_at);
                *at = (*at).max(made_at);
            }
        }
        let mut by_share: BTreeMap<(ShareNumber, i64), Vec<ObjectName>> = BTreeMap::new();
        for name in self.there.keys().filter(|name| !named.contains(*name)) {
            // Containers are judged by themselves.
            let Some(group) = name.object.group().map(|group| (name.share.number, group)) else { continue };
            let row = self.shares.get(&name.share.number);
            let spared = !self.is_old(youngest[&group])
                || self.view.uploads.contains(&group)
                || row.is_some_and(|row| is_empty_share(row, &name.object))
                || (is_of_slot(&name.object) && !self.findings.damaged.is_empty());
            if !spared {
                // A marker outlives what it says is gone.
                let is_marker = matches!(name.object, StoreObject::SlotMarker { .. });
                let seconds = UNDO_SECONDS + if is_marker { 86_400 } else { 0 };
                by_share.entry((name.share.number, seconds)).or_default().push(*name);
            }
        }
        for ((number, seconds), mut names) in by_share {
            names.sort_unstable_by_key(|name| name.object.put_id().map(|put| *put.as_bytes()));
            self.findings.orphans += names.len() as u64;
            self.draft.add_garbage(self.draft.share(number), GarbageReason::Orphan, seconds, names);
        }
    }

    /// Objects that were deleted and are there again: their put was late (`review.md` A1).
    fn late_objects(&mut self) {
        let mut waiting = self.named();
        waiting.extend(self.view.garbage.iter().filter(|row| !row.done).flat_map(|row| &row.objects));
        let mut by_share: BTreeMap<ShareNumber, Vec<ObjectName>> = BTreeMap::new();
        for stored in &self.request.listed {
            let name = stored.name;
            // The name of a container may be used again: this is not the one that was deleted.
            let is_ours = name.object != StoreObject::Classic;
            if is_ours && self.wasted.contains(&name) && !waiting.contains(&name) {
                by_share.entry(name.share.number).or_default().push(name);
            }
        }
        for (number, names) in by_share {
            self.findings.late += names.len() as u64;
            self.draft.add_garbage(self.draft.share(number), GarbageReason::Orphan, SUPERSEDED_GRACE_SECONDS, names);
        }
    }
}

const fn is_of_slot(object: &StoreObject) -> bool {
    match object {
        StoreObject::Generation { .. } | StoreObject::GenerationPiece(_) | StoreObject::SlotMarker { .. } => true,
        StoreObject::Whole { .. } | StoreObject::Piece(_) | StoreObject::Classic => false,
    }
}
