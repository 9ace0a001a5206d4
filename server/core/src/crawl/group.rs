//! Immutable shares by what is stored of them: objects of one upload together, and whether they are a whole share.

use std::collections::{BTreeMap, HashMap};

use super::Stored;
use crate::chunk::{ObjectName, Piece, StoreObject};
use crate::clock::Timestamp;
use crate::id::{AccountId, ObjectId, ShareId, ShareNumber};
use crate::leasedb::ShareRow;
use crate::locator::{Extent, Locator};
use crate::share::ShareKind;

/// All objects of one upload of one share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The share.
    pub number: ShareNumber,
    /// The upload.
    pub upload: ObjectId,
    /// Who uploaded.
    pub account: AccountId,
    /// When the last of them was stored: a group is judged by its youngest object (`review.md` C3).
    pub youngest: Timestamp,
    /// The objects.
    pub objects: Vec<StoreObject>,
    /// Size of the share in bytes and where its bytes are, if all are there.
    pub copy: Option<(u64, Locator)>,
}

/// Puts the objects of immutable shares together, by share number and upload. Others are left out.
pub fn groups<'a>(stored: impl IntoIterator<Item = &'a Stored>) -> Vec<Group> {
    let mut by_upload: BTreeMap<(ShareNumber, [u8; 16]), Vec<Stored>> = BTreeMap::new();
    for object in stored {
        let is_immutable = matches!(object.name.object, StoreObject::Whole { .. } | StoreObject::Piece(_));
        if let Some(upload) = object.name.object.group().filter(|_| is_immutable) {
            by_upload.entry((object.name.share.number, *upload.as_bytes())).or_default().push(*object);
        }
    }
    by_upload.into_values().filter_map(|stored| group(&stored)).collect()
}

fn group(stored: &[Stored]) -> Option<Group> {
    let first = stored.first()?.name;
    Some(Group {
        number: first.share.number,
        upload: first.object.group()?,
        account: first.object.account()?,
        youngest: stored.iter().filter_map(|object| object.name.object.made_at()).max()?,
        objects: stored.iter().map(|object| object.name.object).collect(),
        copy: whole(stored).or_else(|| pieced(stored)),
    })
}

/// The newest object that is the share by itself.
fn whole(stored: &[Stored]) -> Option<(u64, Locator)> {
    let wholes = stored.iter().filter(|object| matches!(object.name.object, StoreObject::Whole { .. }));
    let newest = wholes.max_by_key(|object| object.name.object.put_id().map(|put| *put.as_bytes()))?;
    let size_bytes = newest.length_bytes;
    if size_bytes == 0 {
        return Some((0, Locator::default()));
    }
    let extent = Extent { range: 0..size_bytes, object: newest.name.object };
    Some((size_bytes, Locator::new(vec![extent]).ok()?))
}

/// Pieces that cover every byte. The least size that one of them tells governs (`review.md` A14).
fn pieced(stored: &[Stored]) -> Option<(u64, Locator)> {
    let mut pieces: Vec<(Piece, u64)> = Vec::new();
    for object in stored {
        if let StoreObject::Piece(piece) = object.name.object {
            pieces.push((piece, piece.offset.saturating_add(object.length_bytes)));
        }
    }
    let size_bytes = pieces.iter().map(|(piece, _)| piece.size_bytes).min()?;
    pieces.sort_by_key(|(piece, end)| (piece.offset, *end));
    let mut rest = pieces.into_iter().peekable();
    let (mut extents, mut at) = (Vec::new(), 0);
    let mut reach: Option<(Piece, u64)> = None;
    while at < size_bytes {
        while let Some(next) = rest.next_if(|(piece, _)| piece.offset <= at) {
            if reach.is_none_or(|(_, end)| next.1 > end) {
                reach = Some(next);
            }
        }
        // Where nothing reaches on from here, there is a hole.
        let (piece, end) = reach.filter(|(_, end)| *end > at)?;
        let end = end.min(size_bytes);
        extents.push(Extent { range: at..end, object: StoreObject::Piece(piece) });
        at = end;
    }
    Some((size_bytes, Locator::new(extents).ok()?))
}

/// Whether all bytes that a share's row names are there.
pub fn is_whole(share: ShareId, locator: &Locator, there: &HashMap<ObjectName, u64>) -> bool {
    locator
        .lengths()
        .all(|(object, needed)| there.get(&ObjectName::new(share, object)).is_some_and(|length| *length >= needed))
}

/// Whether an object is the one that stands for a share without bytes: no row can name it.
pub fn is_empty_share(row: &ShareRow, object: &StoreObject) -> bool {
    row.kind == ShareKind::Immutable && row.size_bytes == 0 && matches!(object, StoreObject::Whole { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::StorageIndex;
    use proptest::prelude::*;

    fn id(seconds: i64, random: u8) -> ObjectId {
        ObjectId::from_parts(Timestamp::from_seconds(seconds), [random; 10])
    }

    fn piece(offset: u64, length_bytes: u64, size_bytes: u64, at: i64) -> Stored {
        let account = AccountId::new(16);
        let object =
            StoreObject::Piece(Piece { group: id(1, 1), account, size_bytes, offset, chunk: id(at, offset as u8) });
        Stored {
            name: ObjectName::new(ShareId::new(StorageIndex::new([1; 16]), ShareNumber::new(1)), object),
            length_bytes,
        }
    }

    fn whole(length_bytes: u64, at: i64) -> Stored {
        let object = StoreObject::Whole { upload: id(1, 1), account: AccountId::new(16), put: id(at, 9) };
        Stored {
            name: ObjectName::new(ShareId::new(StorageIndex::new([1; 16]), ShareNumber::new(1)), object),
            length_bytes,
        }
    }

    #[test]
    fn the_youngest_object_gives_a_group_its_age_and_a_whole_one_wins() {
        let stored = [piece(0, 40, 100, 10), piece(40, 60, 100, 90), whole(100, 50)];
        let [group] = &groups(&stored)[..] else { panic!("one upload") };
        assert_eq!(group.youngest, Timestamp::from_seconds(90));
        let (size_bytes, locator) = group.copy.clone().expect("complete");
        assert_eq!((size_bytes, locator.objects()), (100, vec![stored[2].name.object]));
        let [group] = &groups(&stored[..2])[..] else { panic!("one upload") };
        assert_eq!(group.copy.clone().expect("complete").1.objects().len(), 2);
        assert!(groups(&stored[1..2])[0].copy.is_none(), "the beginning is missing");
    }

    #[test]
    fn the_least_size_told_governs() {
        // A bucket closed at 70 bytes that had been allocated with 100: its last piece tells the final size.
        let stored = [piece(0, 40, 100, 1), piece(40, 30, 70, 2)];
        assert_eq!(groups(&stored)[0].copy.as_ref().map(|(size, _)| *size), Some(70));
        assert_eq!(groups(&[whole(0, 1)])[0].copy, Some((0, Locator::default())));
    }

    proptest! {
        #[test]
        fn pieces_are_a_share_exactly_if_they_cover_it(
            parts in proptest::collection::vec((0u64..30, 1u64..12), 0..12),
            size in 1u64..30,
        ) {
            let part = |(at, (offset, length)): (usize, &(u64, u64))| piece(*offset, *length, size, at as i64);
            let stored: Vec<Stored> = parts.iter().enumerate().map(part).collect();
            let covered = (0..size).all(|at| parts.iter().any(|(offset, length)| (*offset..offset + length).contains(&at)));
            let copy = groups(&stored).first().and_then(|group| group.copy.clone());
            prop_assert_eq!(copy.is_some(), covered);
            if let Some((found, locator)) = copy {
                prop_assert_eq!(found, size);
                let there = stored.iter().map(|object| (object.name, object.length_bytes)).collect();
                prop_assert!(is_whole(stored[0].name.share, &locator, &there));
                let zeros = locator.segments(0..size).iter().any(|s| matches!(s, crate::locator::Segment::Zeros(_)));
                prop_assert!(!zeros, "no hole is published");
            }
        }
    }
}
