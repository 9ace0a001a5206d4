//! Shares in the classic form: which containers become shares, and which are of no use any more.
//!
//! A container tells neither its age nor whether somebody gave it up. So whatever is known here goes before it: a share of
//! ours, a slot that was written to here, a share that was removed. A container that is refused is kept and told of.

use leasehold_core::chunk::ObjectName;
use leasehold_core::classic::ClassicShare;
use leasehold_core::clock::Timestamp;
use leasehold_core::crawl::group::is_whole;
use leasehold_core::id::{AccountId, ShareNumber};
use leasehold_core::leasedb::{GarbageReason, Result, ShareRow, UNDO_SECONDS};
use leasehold_core::locator::Locator;
use leasehold_core::secret::SecretHash;
use leasehold_core::share::{ShareKind, ShareState};
use leasehold_core::trouble::DamagedObject;

use super::Settling;
use crate::plan::Write;

/// Why a sound container is refused.
const UNFIT: &str = "it does not fit the other shares of its storage index";

/// What a container is good for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// A row names it.
    Taken,
    /// Nothing will ever need it.
    Superfluous,
    /// It was given up on purpose, and waits for that to be final.
    GivenUp,
    /// It does not fit what is known.
    Refused,
}

impl Settling<'_> {
    /// Looks at each container that was read, ascending: the first one of a slot decides who may write to it.
    pub(super) fn containers(&mut self) -> Result<()> {
        let request = self.request;
        for (name, read) in &request.containers {
            if self.wasted.contains(name) {
                continue;
            }
            let found = match read {
                Ok(found) => found,
                Err(damage) => {
                    self.note_damage(*name, damage.to_string());
                    continue;
                }
            };
            match self.judge(found)? {
                Verdict::Superfluous if !self.is_recovery() => self.throw_away(*name),
                Verdict::Refused => self.note_damage(*name, UNFIT.to_owned()),
                Verdict::Taken | Verdict::GivenUp | Verdict::Superfluous => {}
            }
        }
        Ok(())
    }

    /// When the last lease ends that the container of a row tells of.
    pub(super) fn container_end(&self, row: &ShareRow) -> Option<Timestamp> {
        let reads = self.request.containers.iter().filter(|(name, _)| name.share.number == row.number);
        let found = reads.filter_map(|(_, read)| read.as_ref().ok()).next().filter(|_| row.locator.is_classic());
        found.and_then(|found| found.lease_expires_at)
    }

    fn judge(&mut self, found: &ClassicShare) -> Result<Verdict> {
        let number = found.share.number;
        if let Some(row) = self.shares.get(&number).cloned() {
            return self.beside(&row, found);
        }
        if self.was_removed(number) {
            return Ok(Verdict::GivenUp);
        }
        if self.shares.values().any(|row| row.kind != found.kind) {
            return Ok(Verdict::Refused);
        }
        if let Some(write_enabler) = found.write_enabler {
            let verdict = self.join_slot(write_enabler);
            if verdict != Verdict::Taken {
                return Ok(verdict);
            }
        }
        self.findings.adopted += 1;
        self.insert(classic_row(found), AccountId::STARTER, found.lease_expires_at)?;
        Ok(Verdict::Taken)
    }

    /// A container of a share that has a row.
    fn beside(&mut self, row: &ShareRow, found: &ClassicShare) -> Result<Verdict> {
        if row.locator.is_classic() {
            return Ok(Verdict::Taken);
        }
        if row.kind != found.kind {
            return Ok(Verdict::Refused);
        }
        if row.state == ShareState::Stable && is_whole(found.share, &row.locator, &self.listed) {
            return Ok(Verdict::Superfluous);
        }
        // A mutable share may have been written to since; the bytes of an immutable one are always the same.
        if row.kind == ShareKind::Mutable || row.size_bytes != found.size_bytes {
            return Ok(Verdict::Refused);
        }
        self.findings.lost.retain(|lost| *lost != found.share);
        self.findings.repaired += 1;
        self.update(row, classic_row(found))?;
        Ok(Verdict::Taken)
    }

    fn was_removed(&self, number: ShareNumber) -> bool {
        let on_purpose = |reason| matches!(reason, GarbageReason::Removed | GarbageReason::Unleased);
        self.view.garbage.iter().any(|row| row.number == number && on_purpose(row.reason))
    }

    /// Whether a container may be a share of the slot; the first one makes the slot.
    fn join_slot(&mut self, write_enabler: SecretHash) -> Verdict {
        let is_ours = |row: &ShareRow| row.kind == ShareKind::Mutable && !row.locator.is_classic();
        let newest = self.request.manifests.iter().filter_map(|(_, manifest)| manifest.as_ref());
        let newest = newest.max_by_key(|manifest| *manifest.generation.as_bytes());
        if !self.has(ShareKind::Mutable) && newest.is_some_and(|manifest| manifest.shares.is_empty()) {
            return Verdict::Superfluous;
        }
        // Its manifests say which shares it has: others were removed, though no row may remember that.
        if newest.is_some() || self.marker.is_some() || self.shares.values().any(is_ours) {
            return Verdict::Refused;
        }
        let index = self.request.storage_index;
        let rows = self.view.slot.as_ref().filter(|_| !self.view.shares.is_empty());
        match self.begun.or(rows.map(|slot| slot.write_enabler)) {
            Some(held) if held != write_enabler => return Verdict::Refused,
            Some(_) => {}
            None => {
                let (token, marker) = (self.request.token, None);
                self.draft.push(Write::PutSlot { storage_index: index, token, write_enabler, marker });
                self.begun = Some(write_enabler);
            }
        }
        // A write that was built on fewer shares must start again (`review.md` A4).
        if let Some(slot) = rows {
            self.draft.push(slot.with_token(index, self.request.token));
        }
        Verdict::Taken
    }

    fn note_damage(&mut self, name: ObjectName, reason: String) {
        self.findings.damaged.push(DamagedObject { name, reason });
    }

    fn throw_away(&mut self, name: ObjectName) {
        self.findings.orphans += 1;
        self.draft.add_garbage(name.share, GarbageReason::Orphan, UNDO_SECONDS, vec![name]);
    }
}

fn classic_row(found: &ClassicShare) -> ShareRow {
    ShareRow {
        number: found.share.number,
        kind: found.kind,
        state: ShareState::Stable,
        size_bytes: found.size_bytes,
        locator: Locator::classic(found.kind, found.size_bytes),
    }
}
