//! Rows of immutable shares, kept so that a share read in many pieces is looked up once (`design.md` 4.3), and that
//! reading goes on for a while when the lease database does not answer (`api.md` 10.8).
//!
//! Correct because the bytes of an immutable share never change: the worst is that a share is read that was removed a
//! moment ago. Never kept: mutable rows, and that something does not exist. Bounded in rows and in extents.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::id::ShareId;
use crate::leasedb::{SUPERSEDED_GRACE_SECONDS, ShareRow};

/// How long a row is used without asking again.
pub(super) const FRESH: Duration = Duration::from_secs(60);
/// How long a row is used while the lease database does not answer. Objects that were replaced are deleted later.
pub(super) const WARM: Duration = Duration::from_secs(600);
const _: () = assert!(WARM.as_secs() < SUPERSEDED_GRACE_SECONDS as u64);

/// How many rows are kept at most.
const ROWS_MAX: usize = 100_000;
/// How many extents all rows have together at most: some 30 MB.
const EXTENTS_MAX: usize = 400_000;
/// So many parts with a lock each, so that requests rarely meet at one.
const PARTS: usize = 16;

/// A row and when it was asked for.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) row: Arc<ShareRow>,
    pub(super) seen_at: Duration,
}

/// The rows kept.
#[derive(Debug, Default)]
pub(super) struct RowCache {
    parts: [Mutex<Part>; PARTS],
}

/// Two generations: when the young one is full it becomes the old one, and what was not used since then is forgotten.
#[derive(Debug, Default)]
struct Part {
    young: Generation,
    old: Generation,
}

#[derive(Debug, Default)]
struct Generation {
    rows: HashMap<ShareId, Kept>,
    extents: usize,
}

impl RowCache {
    fn part(&self, share: ShareId) -> MutexGuard<'_, Part> {
        // Storage indexes are hashes: any byte of them is as good as random.
        let number = usize::from(share.storage_index.as_bytes()[15]) % PARTS;
        self.parts[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The row of a share, if it is kept and younger than [`WARM`].
    pub(super) fn find(&self, share: ShareId, now: Duration) -> Option<Kept> {
        let mut part = self.part(share);
        let kept = match part.young.rows.get(&share) {
            Some(kept) => kept.clone(),
            None => {
                let kept = part.old.remove(share)?;
                part.keep(share, kept.clone());
                kept
            }
        };
        (now.saturating_sub(kept.seen_at) < WARM).then_some(kept)
    }

    /// Keeps a stable immutable row, as the lease database knew it at `seen_at`.
    pub(super) fn keep(&self, share: ShareId, row: Arc<ShareRow>, seen_at: Duration) {
        let mut part = self.part(share);
        part.remove(share);
        part.keep(share, Kept { row, seen_at });
    }

    /// Forgets a row that has proved wrong.
    pub(super) fn remove(&self, share: ShareId) {
        self.part(share).remove(share);
    }
}

impl Part {
    fn keep(&mut self, share: ShareId, kept: Kept) {
        const ROWS: usize = ROWS_MAX / PARTS / 2;
        const EXTENTS: usize = EXTENTS_MAX / PARTS / 2;
        let extents = kept.row.locator.extents().len();
        if extents > EXTENTS {
            return;
        }
        if self.young.rows.len() >= ROWS || self.young.extents + extents > EXTENTS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.extents += extents;
        self.young.rows.insert(share, kept);
    }

    fn remove(&mut self, share: ShareId) {
        drop(self.young.remove(share));
        drop(self.old.remove(share));
    }
}

impl Generation {
    fn remove(&mut self, share: ShareId) -> Option<Kept> {
        let kept = self.rows.remove(&share)?;
        self.extents -= kept.row.locator.extents().len();
        Some(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{Piece, StoreObject};
    use crate::clock::Timestamp;
    use crate::id::{AccountId, ObjectId, ShareNumber, StorageIndex};
    use crate::locator::{Extent, Locator};
    use crate::share::{ShareKind, ShareState};

    fn share(number: u32) -> ShareId {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        // All in one part.
        ShareId::new(StorageIndex::new(bytes), ShareNumber::new(0))
    }

    fn row(extents: u64) -> Arc<ShareRow> {
        let extent = |at| Extent { range: at..at + 1, object: object(at) };
        let locator = Locator::new((0..extents).map(extent).collect()).expect("ascending");
        let (kind, state) = (ShareKind::Immutable, ShareState::Stable);
        Arc::new(ShareRow { number: ShareNumber::new(0), kind, state, size_bytes: extents, locator })
    }

    fn object(at: u64) -> StoreObject {
        let id = ObjectId::from_parts(Timestamp::from_seconds(0), [0; 10]);
        StoreObject::Piece(Piece { group: id, account: AccountId::new(16), size_bytes: 1, offset: at, chunk: id })
    }

    fn counts(cache: &RowCache) -> (usize, usize) {
        let part = cache.parts[0].lock().expect("no panic");
        for generation in [&part.young, &part.old] {
            let extents: usize = generation.rows.values().map(|kept| kept.row.locator.extents().len()).sum();
            assert_eq!(generation.extents, extents, "the count is kept");
        }
        (part.young.rows.len() + part.old.rows.len(), part.young.extents + part.old.extents)
    }

    #[test]
    fn rows_and_extents_are_bounded_and_what_is_used_stays() {
        let cache = RowCache::default();
        let (now, used) = (Duration::ZERO, share(0));
        cache.keep(used, row(1), now);
        for number in 1..20_000 {
            cache.keep(share(number), row(1), now);
            assert!(cache.find(used, now).is_some(), "displaced by {number} others");
        }
        assert!(counts(&cache).0 <= ROWS_MAX / PARTS);
        for number in 20_000..20_200 {
            cache.keep(share(number), row(1000), now);
        }
        assert!(counts(&cache).1 <= EXTENTS_MAX / PARTS);
        // One that would displace all others is not kept at all.
        let rows = counts(&cache).0;
        cache.keep(share(30_000), row(20_000), now);
        assert!(cache.find(share(30_000), now).is_none() && counts(&cache).0 == rows);
    }

    #[test]
    fn what_is_too_old_or_removed_is_not_found() {
        let cache = RowCache::default();
        let (seen_at, share) = (Duration::from_secs(5), share(1));
        cache.keep(share, row(1), seen_at);
        assert!(cache.find(share, seen_at + WARM - Duration::from_secs(1)).is_some());
        assert!(cache.find(share, seen_at + WARM).is_none());
        // Seen again.
        cache.keep(share, row(2), seen_at + WARM);
        assert_eq!(cache.find(share, seen_at + WARM).map(|kept| kept.row.size_bytes), Some(2));
        assert_eq!(counts(&cache), (1, 2));
        cache.remove(share);
        assert!(cache.find(share, seen_at).is_none());
        assert_eq!(counts(&cache), (0, 0));
    }
}
