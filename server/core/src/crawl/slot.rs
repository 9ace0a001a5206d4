//! Which commit of a slot was the last, told by the manifests in its objects (`review.md` C1).
//!
//! A database that has lost commits may have an older row or none. A commit that was built on another one proves that the
//! other held; a rival of one that held did not hold itself, since both swapped the same token. Of what remains, the newest
//! counts: whoever read a later state of the slot has a later id, so all that is undecided is a write that was under way
//! when commits were lost and has a complete rival.

use std::collections::{HashMap, HashSet};

use super::ReadManifest;
use super::group::is_whole;
use crate::chunk::ObjectName;
use crate::clock::Timestamp;
use crate::id::ShareId;
use crate::leasedb::{NAME_FENCE_SECONDS, SlotToken};
use crate::manifest::Manifest;

/// The slot as its rows have it.
#[derive(Debug)]
pub struct SlotRows<'a> {
    /// Its token; `None`: there are no shares.
    pub token: Option<SlotToken>,
    /// The objects that its rows name.
    pub named: &'a HashSet<ObjectName>,
    /// When the last commit that is certain to be known was made; what is much older is not a commit that was lost.
    pub known_until: Option<Timestamp>,
}

/// A commit that was stored.
#[derive(Clone, Copy, Debug)]
pub struct Commit<'a> {
    /// An object that carries its manifest.
    pub carrier: ObjectName,
    /// What the slot is after it.
    pub manifest: &'a Manifest,
}

impl Commit<'_> {
    fn made_at(&self) -> Timestamp {
        self.manifest.generation.made_at()
    }

    fn order(&self) -> (Timestamp, [u8; 16]) {
        (self.made_at(), *self.manifest.generation.as_bytes())
    }

    fn is_end(&self) -> bool {
        self.manifest.shares.is_empty()
    }
}

/// The commit that was the last one, if the rows are not it already. `there` has the objects that may be named, with
/// their lengths.
pub fn last_commit<'a>(
    read: &'a [ReadManifest],
    rows: &SlotRows<'_>,
    there: &HashMap<ObjectName, u64>,
) -> Option<Commit<'a>> {
    let mut commits: Vec<Commit<'a>> = Vec::new();
    for (carrier, manifest) in read {
        if let Some(manifest) = manifest
            && !commits.iter().any(|commit| commit.manifest.generation == manifest.generation)
        {
            commits.push(Commit { carrier: *carrier, manifest });
        }
    }
    let of_rows: HashSet<[u8; 16]> = read
        .iter()
        .filter(|(carrier, _)| rows.named.contains(carrier))
        .filter_map(|(_, manifest)| Some(manifest.as_ref()?.token.0))
        .chain(rows.token.map(|token| token.0))
        .collect();
    let known: Vec<&Commit<'_>> = commits.iter().filter(|commit| of_rows.contains(&commit.manifest.token.0)).collect();
    let rows_at = known.iter().map(|commit| commit.made_at()).max();
    let before_rows = ancestors(&commits, &of_rows);
    let held: HashSet<[u8; 16]> =
        commits.iter().filter_map(|commit| Some(commit.manifest.base?.0)).chain(of_rows.iter().copied()).collect();
    let may_be_last = |commit: &&Commit<'_>| {
        let token = commit.manifest.token.0;
        let late = rows.token.is_none()
            || rows.known_until.is_none_or(|until| commit.made_at().seconds() >= until.seconds() - NAME_FENCE_SECONDS);
        late && !of_rows.contains(&token)
            && !before_rows.contains(&token)
            && rows_at.is_none_or(|at| commit.made_at() >= at)
            && is_complete(commit, rows, there)
            && !is_refuted(commit, &commits, &held)
    };
    let candidates: Vec<&Commit<'a>> = commits.iter().filter(may_be_last).collect();
    let mut last = *candidates.iter().max_by_key(|commit| commit.order())?;
    // Of equal times, or where a clock was set back, what was built on a commit is later than it.
    for _ in 0..candidates.len() {
        let built_on = candidates.iter().filter(|commit| commit.manifest.base == Some(last.manifest.token));
        match built_on.max_by_key(|commit| commit.order()) {
            Some(next) => last = next,
            None => break,
        }
    }
    Some(*last)
}

/// The tokens of what these commits were built on: they came before, however alike the times.
fn ancestors(commits: &[Commit<'_>], tokens: &HashSet<[u8; 16]>) -> HashSet<[u8; 16]> {
    let mut ancestors = HashSet::new();
    let mut next: Vec<[u8; 16]> = tokens.iter().copied().collect();
    while let Some(token) = next.pop() {
        for commit in commits.iter().filter(|commit| commit.manifest.token.0 == token) {
            next.extend(commit.manifest.base.map(|base| base.0).filter(|base| ancestors.insert(*base)));
        }
    }
    ancestors
}

/// Whether every object of the slot after this commit is there. The end of a slot needs none: where no row is left, its
/// marker counts even while it waits to be deleted.
fn is_complete(commit: &Commit<'_>, rows: &SlotRows<'_>, there: &HashMap<ObjectName, u64>) -> bool {
    if commit.is_end() && rows.token.is_none() {
        return true;
    }
    let index = commit.carrier.share.storage_index;
    let shares = &commit.manifest.shares;
    there.contains_key(&commit.carrier)
        && shares.iter().all(|(number, _, locator)| is_whole(ShareId::new(index, *number), locator, there))
}

/// Whether another commit swapped the token that this one would have had to swap.
fn is_refuted(commit: &Commit<'_>, commits: &[Commit<'_>], held: &HashSet<[u8; 16]>) -> bool {
    commits.iter().any(|rival| {
        let same_base = rival.manifest.base == commit.manifest.base;
        let is_other = rival.manifest.token != commit.manifest.token;
        if !(same_base && is_other && held.contains(&rival.manifest.token.0)) {
            return false;
        }
        // Two slots may begin under one storage index if the first ended in between.
        let between = rival.made_at()..=commit.made_at();
        let ended = |end: &Commit<'_>| end.is_end() && between.contains(&end.made_at());
        commit.manifest.base.is_some() || !commits.iter().any(ended)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::StoreObject;
    use crate::id::{AccountId, ObjectId, ShareNumber, StorageIndex};
    use crate::locator::{Extent, Locator};
    use crate::secret::SecretHash;

    const SHARE: ShareId = ShareId::new(StorageIndex::new([1; 16]), ShareNumber::new(0));

    fn token(number: u8) -> SlotToken {
        SlotToken([number; 16])
    }

    /// Commit `number`, built on `base` (0: none) at a time; its only share has an object of the same number.
    fn commit(number: u8, base: u8, seconds: i64) -> ReadManifest {
        let generation = ObjectId::from_parts(Timestamp::from_seconds(seconds), [number; 10]);
        let object = StoreObject::Generation { generation, account: AccountId::new(16) };
        let locator = Locator::new(vec![Extent { range: 0..5, object }]).expect("one extent");
        let manifest = Manifest {
            generation,
            token: token(number),
            base: (base > 0).then(|| token(base)),
            write_enabler: SecretHash::new([7; 32]),
            shares: vec![(SHARE.number, 5, locator)],
        };
        (ObjectName::new(SHARE, object), Some(manifest))
    }

    fn end(number: u8, base: u8, seconds: i64) -> ReadManifest {
        let (name, manifest) = commit(number, base, seconds);
        let generation = name.object.put_id().expect("one of ours");
        let marker = StoreObject::SlotMarker { generation, account: AccountId::new(16) };
        (ObjectName::new(SHARE, marker), manifest.map(|manifest| Manifest { shares: Vec::new(), ..manifest }))
    }

    /// The commit that counts, where the row (0: none) is of this number; all objects are there but those of `gone`.
    fn last(read: &[ReadManifest], row: u8, gone: &[u8], known_until: Option<i64>) -> Option<u8> {
        let of = |number: u8| read.iter().find(|(_, m)| m.as_ref().is_some_and(|m| m.token == token(number)));
        let is_there = |(name, manifest): &&ReadManifest| {
            let number = manifest.as_ref().map_or(0, |manifest| manifest.token.0[0]);
            !gone.contains(&number)
                && matches!(name.object, StoreObject::Generation { .. } | StoreObject::SlotMarker { .. })
        };
        let there = read.iter().filter(is_there).map(|(name, _)| (*name, 100)).collect();
        let named: HashSet<ObjectName> = of(row).map(|(name, _)| *name).into_iter().collect();
        let known_until = known_until.map(Timestamp::from_seconds);
        let rows = SlotRows { token: (row > 0).then(|| token(row)), named: &named, known_until };
        last_commit(read, &rows, &there).map(|commit| commit.manifest.token.0[0])
    }

    #[test]
    fn lost_commits_are_found_whatever_lies_between() {
        let read = [commit(5, 4, 50), commit(6, 5, 60), commit(7, 6, 70)];
        assert_eq!(last(&read, 5, &[], Some(55)), Some(7));
        assert_eq!(last(&read, 7, &[], Some(55)), None, "the row is the last one");
        assert_eq!(last(&read[1..], 5, &[], Some(55)), Some(7), "C1.1: what the row names is deleted");
        assert_eq!(last(&[commit(5, 4, 50), commit(7, 6, 70)], 5, &[], None), Some(7));
        assert_eq!(last(&read, 0, &[], None), Some(7), "no row at all");
        assert_eq!(last(&read, 0, &[7], None), Some(6), "a third of a call is no commit");
    }

    #[test]
    fn a_rival_of_a_commit_that_held_did_not_hold() {
        let read = [commit(5, 4, 50), commit(8, 4, 52), commit(6, 5, 60)];
        assert_eq!(last(&read[..2], 5, &[], Some(51)), None, "8 swapped the token that the row's commit swapped");
        let read = [commit(6, 5, 60), commit(8, 5, 65), commit(7, 6, 63), commit(5, 4, 50)];
        assert_eq!(last(&read, 5, &[], None), Some(7), "7 was built on 6, so 8 was refused");
        assert_eq!(last(&[commit(6, 5, 60), commit(8, 5, 65)], 0, &[], None), Some(8), "nothing tells: the newer");
    }

    #[test]
    fn a_write_whose_client_gave_up_long_before_the_loss_stays_dead() {
        let read = [commit(5, 4, 50), commit(6, 5, 60)];
        assert_eq!(last(&read, 5, &[], Some(60 + NAME_FENCE_SECONDS)), Some(6));
        assert_eq!(last(&read, 5, &[], Some(61 + NAME_FENCE_SECONDS)), None);
    }

    #[test]
    fn a_removed_slot_stays_removed_and_one_that_began_again_is_there() {
        let read = [commit(5, 0, 50), end(6, 5, 60)];
        assert_eq!(last(&read, 0, &[], None), Some(6));
        assert_eq!(last(&read, 5, &[], Some(55)), Some(6));
        assert_eq!(last(&read, 0, &[6], None), Some(6), "its marker waits to be deleted");
        let read = [commit(5, 0, 50), end(6, 5, 60), commit(7, 0, 70), commit(9, 5, 59)];
        assert_eq!(last(&read, 0, &[], None), Some(7));
        // A slot that began while another one did: the second writer was refused.
        let read = [commit(5, 0, 50), commit(7, 0, 55), commit(6, 5, 60)];
        assert_eq!(last(&read, 5, &[], None), Some(6));
        assert_eq!(last(&read[..2], 5, &[], None), None);
    }

    #[test]
    fn of_equal_times_the_chain_decides() {
        for order in [[5, 6, 7], [7, 6, 5], [6, 5, 7]] {
            let read: Vec<_> = order.iter().map(|number| commit(*number, number - 1, 50)).collect();
            assert_eq!(last(&read, 0, &[], None), Some(7));
            assert_eq!(last(&read, 5, &[], None), Some(7));
            assert_eq!(last(&read, 7, &[], None), None, "6 is what the row was built on");
        }
    }
}
