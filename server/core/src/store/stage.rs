//! Decides which objects a slot write stores: pure, before anything is stored.
//!
//! A share of moderate size that is replaced whole, and any small share, becomes one object. Of a larger one only the
//! windows that the write touches become new objects; the rest keeps its older ones (`design.md` 4.2).

use std::ops::Range;

use crate::chunk::{Piece, StoreObject};
use crate::id::{AccountId, ObjectId};
use crate::locator::{Extent, Locator, Segment};
use crate::range::RangeSet;
use crate::slot::{Composition, Source};

/// Larger shares are never one object.
pub(super) const WHOLE_MAX_BYTES: u64 = 8 << 20;
/// Shares up to this size are rewritten whole even when only some bytes change.
pub(super) const REWRITE_MAX_BYTES: u64 = 256 << 10;
/// What a write touches is rewritten in windows of this size.
const WINDOW_BYTES: u64 = 1 << 20;

/// A new state of one share: where its bytes will be, and what must be stored before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StagedShare {
    pub(super) size_bytes: u64,
    pub(super) locator: Locator,
    pub(super) puts: Vec<PlannedPut>,
}

/// An object to store: bytes `range` of the share as composed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlannedPut {
    pub(super) object: StoreObject,
    pub(super) range: Range<u64>,
}

/// Plans the objects of one share. `fresh_id` draws an id for each object; the whole share's is also its generation.
pub(super) fn plan_share(
    composition: &Composition,
    old: &Locator,
    account: AccountId,
    mut fresh_id: impl FnMut() -> ObjectId,
) -> StagedShare {
    let size_bytes = composition.size();
    if size_bytes == 0 {
        // No object: no locator could name it, so it would never become garbage. The manifest tells of the share.
        return StagedShare { size_bytes, locator: Locator::default(), puts: Vec::new() };
    }
    // What another server has left is copied whole, so that nothing of ours depends on it any longer.
    let rewrites = size_bytes <= REWRITE_MAX_BYTES || composition.replaces_all() || old.is_classic();
    if size_bytes <= WHOLE_MAX_BYTES && rewrites {
        let object = StoreObject::Generation { generation: fresh_id(), account };
        let range = 0..size_bytes;
        let locator = Locator::new(vec![Extent { range: range.clone(), object }]).expect("one extent from 0");
        return StagedShare { size_bytes, locator, puts: vec![PlannedPut { object, range }] };
    }
    let touched = if old.is_classic() { [0..size_bytes].into_iter().collect() } else { touched_windows(composition) };
    let group = fresh_id();
    let mut puts = Vec::new();
    for window in touched.iter() {
        let mut at = window.start;
        while at < window.end {
            let end = window.end.min(at + WHOLE_MAX_BYTES);
            let piece = Piece { group, account, size_bytes, offset: at, chunk: fresh_id() };
            puts.push(PlannedPut { object: StoreObject::GenerationPiece(piece), range: at..end });
            at = end;
        }
    }
    let mut extents: Vec<Extent> =
        puts.iter().map(|put| Extent { range: put.range.clone(), object: put.object }).collect();
    extents.extend(kept_extents(composition, old, &touched));
    extents.sort_by_key(|extent| extent.range.start);
    let locator = Locator::new(extents).expect("touched windows and what lies between them do not overlap");
    StagedShare { size_bytes, locator, puts }
}

fn touched_windows(composition: &Composition) -> RangeSet {
    let windows = composition.runs().filter(|(_, source)| matches!(source, Source::Payload(_))).map(|(range, _)| {
        let start = range.start / WINDOW_BYTES * WINDOW_BYTES;
        let end = range.end.div_ceil(WINDOW_BYTES) * WINDOW_BYTES;
        start..end.min(composition.size())
    });
    windows.collect()
}

fn kept_extents(composition: &Composition, old: &Locator, touched: &RangeSet) -> Vec<Extent> {
    let mut kept = Vec::new();
    for (run, _) in composition.runs().filter(|(_, source)| *source == Source::Old) {
        for gap in touched.missing(run) {
            let mut at = gap.start;
            for segment in old.segments(gap) {
                match segment {
                    Segment::Zeros(count) => at += count,
                    Segment::Object(object, range) => {
                        let end = at + (range.end - range.start);
                        kept.push(Extent { range: at..end, object });
                        at = end;
                    }
                }
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::ShareKind;
    use crate::slot::{ShareVectors, WriteVector};

    fn ids() -> impl FnMut() -> ObjectId {
        let mut next = 0u8;
        move || {
            next += 1;
            ObjectId::new([next; 16])
        }
    }

    fn write(old_size: u64, offset: u64, length: u64, new_length: Option<u64>) -> Composition {
        let writes = vec![WriteVector { offset, length, source: 0 }];
        let vectors = ShareVectors { writes, new_length, ..ShareVectors::default() };
        Composition::of(old_size, &vectors).expect("not removed")
    }

    const ACCOUNT: AccountId = AccountId::new(16);
    const MIB: u64 = 1 << 20;

    #[test]
    fn a_small_change_of_a_large_share_stores_one_window_and_keeps_the_rest() {
        let first = plan_share(&write(0, 0, 20 * MIB, None), &Locator::default(), ACCOUNT, ids());
        let lengths: Vec<u64> = first.puts.iter().map(|put| put.range.end - put.range.start).collect();
        assert_eq!(lengths, [8 * MIB, 8 * MIB, 4 * MIB]);
        let second = plan_share(&write(20 * MIB, 9 * MIB + 5, 10, None), &first.locator, ACCOUNT, ids());
        assert_eq!(second.puts.len(), 1);
        assert_eq!(second.puts[0].range, 9 * MIB..10 * MIB);
        let ranges: Vec<_> = second.locator.extents().iter().map(|e| e.range.clone()).collect();
        assert_eq!(ranges, [0..8 * MIB, 8 * MIB..9 * MIB, 9 * MIB..10 * MIB, 10 * MIB..16 * MIB, 16 * MIB..20 * MIB]);
    }

    #[test]
    fn the_first_write_to_a_container_leaves_nothing_in_it() {
        for (size, objects) in [(2 * MIB, 1), (20 * MIB, 3)] {
            let container = Locator::classic(ShareKind::Mutable, size);
            let staged = plan_share(&write(size, MIB, 10, None), &container, ACCOUNT, ids());
            assert_eq!((staged.size_bytes, staged.puts.len()), (size, objects));
            assert!(!staged.locator.is_classic() && !staged.locator.objects().contains(&StoreObject::Classic));
            assert_eq!(staged.locator.segments(0..size).len(), objects, "all of it is covered");
        }
    }

    #[test]
    fn bytes_cut_off_are_not_named_any_more() {
        let first = plan_share(&write(0, 0, 20 * MIB, None), &Locator::default(), ACCOUNT, ids());
        let cut = plan_share(&write(20 * MIB, 0, 1, Some(10 * MIB)), &first.locator, ACCOUNT, ids());
        assert_eq!(cut.locator.extents().last().expect("some").range.end, 10 * MIB);
        let grown = plan_share(&write(10 * MIB, 18 * MIB, 1, None), &cut.locator, ACCOUNT, ids());
        let holes = grown.locator.segments(10 * MIB..18 * MIB);
        assert_eq!(holes, [Segment::Zeros(8 * MIB)]);
    }
}
