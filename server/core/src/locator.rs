//! Where the bytes of a share are: extents of store objects, and their compact stored form.
//!
//! Invariant: extents ascend, do not overlap, and each lies within the share. Bytes of a mutable share that no extent
//! covers read as zeros; an immutable share has no such bytes. A share in the classic form is one extent, even when it is
//! empty, for its container is there all the same.

use std::ops::Range;

use crate::chunk::{Piece, StoreObject};
use crate::classic::header_bytes;
use crate::id::{AccountId, ObjectId};
use crate::range::intersection;
use crate::share::ShareKind;

/// A run of share bytes and the object that holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The share bytes, half open.
    pub range: Range<u64>,
    /// The object; byte `range.start - object.base_offset()` of it is the first.
    pub object: StoreObject,
}

/// Where all bytes of one share are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locator {
    extents: Vec<Extent>,
    /// What comes before share data in the object: a container's header.
    header_bytes: u64,
}

/// A stored locator that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("damaged locator")]
pub struct LocatorError;

/// What to read, or to leave zero, for a range of a share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Bytes of an object, as a range of the object.
    Object(StoreObject, Range<u64>),
    /// So many zeros.
    Zeros(u64),
}

const VERSION: u8 = 1;
const SAME_GROUP: u8 = 0x08;
const OFFSET_IS_START: u8 = 0x10;
/// The kind of a container's extent, which is alone; the length of the header follows.
const CLASSIC: u8 = 5;

impl Locator {
    /// Makes a locator of extents.
    ///
    /// # Errors
    /// [`LocatorError`] if they do not ascend, overlap, are empty, begin before their object does, or are of a container.
    /// One alone may be empty: that of an empty share.
    pub fn new(extents: Vec<Extent>) -> Result<Self, LocatorError> {
        let mut at = 0;
        for extent in &extents {
            if extent.object == StoreObject::Classic {
                return Err(LocatorError);
            }
            let is_empty = extent.range.is_empty() && (extents.len() > 1 || extent.range != (0..0));
            if extent.range.start < at || is_empty || extent.object.base_offset() > extent.range.start {
                return Err(LocatorError);
            }
            at = extent.range.end;
        }
        Ok(Self { extents, header_bytes: 0 })
    }

    /// The locator of a share in the classic form.
    pub fn classic(kind: ShareKind, size_bytes: u64) -> Self {
        let extents = vec![Extent { range: 0..size_bytes, object: StoreObject::Classic }];
        Self { extents, header_bytes: header_bytes(kind) }
    }

    /// Whether the share is in the classic form.
    pub fn is_classic(&self) -> bool {
        self.header_bytes > 0
    }

    /// The extents, ascending.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The distinct objects, in order of first use.
    pub fn objects(&self) -> Vec<StoreObject> {
        let mut seen = std::collections::HashSet::new();
        self.extents.iter().map(|extent| extent.object).filter(|object| seen.insert(*object)).collect()
    }

    /// For each extent its object, and how long that must be at the least, in bytes.
    pub fn lengths(&self) -> impl Iterator<Item = (StoreObject, u64)> + '_ {
        let length = |extent: &Extent| extent.range.end - extent.object.base_offset() + self.header_bytes;
        self.extents.iter().map(move |extent| (extent.object, length(extent)))
    }

    /// What to read for `range` of the share, in order.
    pub fn segments(&self, range: Range<u64>) -> Vec<Segment> {
        let mut segments = Vec::new();
        let mut at = range.start;
        let first = self.extents.partition_point(|extent| extent.range.end <= range.start);
        for extent in &self.extents[first..] {
            let Some(part) = intersection(&extent.range, &range) else { break };
            if part.start > at {
                segments.push(Segment::Zeros(part.start - at));
            }
            let in_object = |offset| offset - extent.object.base_offset() + self.header_bytes;
            segments.push(Segment::Object(extent.object, in_object(part.start)..in_object(part.end)));
            at = part.end;
        }
        if at < range.end {
            segments.push(Segment::Zeros(range.end - at));
        }
        segments
    }

    /// The stored form: about 20 bytes for each piece.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_varint(&mut out, self.extents.len() as u64);
        let (mut group, mut at) = (None, 0);
        for extent in &self.extents {
            let Some((kind, this_group, put)) = parts(&extent.object) else {
                out.push(CLASSIC);
                put_varint(&mut out, self.header_bytes);
                put_varint(&mut out, extent.range.end);
                break;
            };
            let offset_is_start = extent.object.base_offset() == extent.range.start;
            let same = group == Some(this_group);
            let flags = if same { SAME_GROUP } else { 0 } | if offset_is_start { OFFSET_IS_START } else { 0 };
            out.push(kind | flags);
            if !same {
                out.extend_from_slice(this_group.0.as_bytes());
                put_varint(&mut out, this_group.1.get().into());
                put_varint(&mut out, this_group.2);
                group = Some(this_group);
            }
            if let Some(put) = put {
                out.extend_from_slice(put.as_bytes());
            }
            put_varint(&mut out, extent.range.start - at);
            put_varint(&mut out, extent.range.end - extent.range.start);
            if !offset_is_start {
                put_varint(&mut out, extent.object.base_offset());
            }
            at = extent.range.end;
        }
        out
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`LocatorError`] for anything that [`encode`](Self::encode) does not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, LocatorError> {
        let mut input = Input(bytes);
        if input.byte()? != VERSION {
            return Err(LocatorError);
        }
        let count = input.varint()?;
        // An extent takes at least three bytes, so the count cannot make us allocate more than a few times the input.
        if count > bytes.len() as u64 / 3 {
            return Err(LocatorError);
        }
        let mut extents = Vec::with_capacity(count as usize);
        if count == 1 && input.0.first() == Some(&CLASSIC) {
            return Self::decode_classic(&input.0[1..]);
        }
        let (mut group, mut at) = (None, 0u64);
        for _ in 0..count {
            let tag = input.byte()?;
            if tag & SAME_GROUP == 0 {
                let id = input.id()?;
                let account = u32::try_from(input.varint()?).map_err(|_| LocatorError)?;
                group = Some((id, AccountId::new(account), input.varint()?));
            }
            let extent = decode_extent(tag, group.ok_or(LocatorError)?, at, &mut input)?;
            at = extent.range.end;
            extents.push(extent);
        }
        if input.0.is_empty() { Self::new(extents) } else { Err(LocatorError) }
    }

    fn decode_classic(bytes: &[u8]) -> Result<Self, LocatorError> {
        let mut input = Input(bytes);
        let (header, size_bytes) = (input.varint()?, input.varint()?);
        let kind = [ShareKind::Immutable, ShareKind::Mutable].into_iter().find(|kind| header_bytes(*kind) == header);
        match kind {
            Some(kind) if input.0.is_empty() => Ok(Self::classic(kind, size_bytes)),
            _ => Err(LocatorError),
        }
    }
}

type Group = (ObjectId, AccountId, u64);

/// What is stored of one of our objects.
fn parts(object: &StoreObject) -> Option<(u8, Group, Option<ObjectId>)> {
    Some(match object {
        StoreObject::Whole { upload, account, put } => (0, (*upload, *account, 0), Some(*put)),
        StoreObject::Piece(p) => (1, (p.group, p.account, p.size_bytes), Some(p.chunk)),
        StoreObject::Generation { generation, account } => (2, (*generation, *account, 0), None),
        StoreObject::GenerationPiece(p) => (3, (p.group, p.account, p.size_bytes), Some(p.chunk)),
        StoreObject::SlotMarker { generation, account } => (4, (*generation, *account, 0), None),
        StoreObject::Classic => return None,
    })
}

fn decode_extent(tag: u8, group: Group, at: u64, input: &mut Input<'_>) -> Result<Extent, LocatorError> {
    let kind = tag & 0x07;
    if tag & !(0x07 | SAME_GROUP | OFFSET_IS_START) != 0 {
        return Err(LocatorError);
    }
    let (id, account, size_bytes) = group;
    let put = if matches!(kind, 0 | 1 | 3) { Some(input.id()?) } else { None };
    let start = at.checked_add(input.varint()?).ok_or(LocatorError)?;
    let end = start.checked_add(input.varint()?).ok_or(LocatorError)?;
    let offset = if tag & OFFSET_IS_START != 0 { start } else { input.varint()? };
    let piece = |chunk| Piece { group: id, account, size_bytes, offset, chunk };
    let object = match (kind, put) {
        (0, Some(put)) => StoreObject::Whole { upload: id, account, put },
        (1, Some(chunk)) => StoreObject::Piece(piece(chunk)),
        (2, None) => StoreObject::Generation { generation: id, account },
        (3, Some(chunk)) => StoreObject::GenerationPiece(piece(chunk)),
        (4, None) => StoreObject::SlotMarker { generation: id, account },
        _ => return Err(LocatorError),
    };
    if object.base_offset() != offset {
        return Err(LocatorError);
    }
    Ok(Extent { range: start..end, object })
}

/// Appends an unsigned LEB128 number.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A reader of our own compact forms that never reads past the end.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], LocatorError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(LocatorError)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, LocatorError> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], LocatorError> {
        self.take(N)?.try_into().map_err(|_| LocatorError)
    }

    fn id(&mut self) -> Result<ObjectId, LocatorError> {
        Ok(ObjectId::new(self.array()?))
    }

    pub(crate) fn varint(&mut self) -> Result<u64, LocatorError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(LocatorError);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(LocatorError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_locator() -> impl Strategy<Value = Locator> {
        let classic = (any::<bool>(), 0u64..1 << 40).prop_map(|(mutable, size_bytes)| {
            Locator::classic(if mutable { ShareKind::Mutable } else { ShareKind::Immutable }, size_bytes)
        });
        prop_oneof![1 => classic, 9 => any_locator_of_ours()]
    }

    fn any_locator_of_ours() -> impl Strategy<Value = Locator> {
        let ours = crate::chunk::tests::any_object().prop_filter("of ours", |object| *object != StoreObject::Classic);
        let extent = (ours, 0u64..5, 1u64..1 << 40, 0u64..9);
        proptest::collection::vec(extent, 0..9).prop_map(|parts| {
            let mut at = 0;
            let extents = parts.into_iter().map(|(mut object, gap, length, back)| {
                let range = at + gap..at + gap + length;
                at = range.end;
                if let StoreObject::Piece(p) | StoreObject::GenerationPiece(p) = &mut object {
                    p.offset = range.start.saturating_sub(back);
                }
                Extent { range, object }
            });
            Locator::new(extents.collect()).expect("built to ascend")
        })
    }

    proptest! {
        #[test]
        fn stored_form_round_trips(locator in any_locator()) {
            prop_assert_eq!(Locator::decode(&locator.encode()), Ok(locator));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Locator::decode(&bytes);
        }

        #[test]
        fn segments_cover_exactly_the_range(locator in any_locator(), a in 0u64..1 << 41, b in 0u64..1 << 41) {
            let range = a.min(b)..a.max(b);
            let total: u64 = locator.segments(range.clone()).iter().map(|s| match s {
                Segment::Object(_, r) => r.end - r.start,
                Segment::Zeros(n) => *n,
            }).sum();
            prop_assert_eq!(total, range.end - range.start);
        }
    }

    #[test]
    fn share_data_lies_behind_the_header_of_a_container() {
        let locator = Locator::classic(ShareKind::Mutable, 100);
        assert_eq!(locator.segments(10..100), [Segment::Object(StoreObject::Classic, 478..568)]);
        let empty = Locator::classic(ShareKind::Immutable, 0);
        assert_eq!((empty.objects(), empty.segments(0..0)), (vec![StoreObject::Classic], vec![]));
        // Written by the release before: its locators are read as they were.
        let object = StoreObject::Generation { generation: ObjectId::new([7; 16]), account: AccountId::new(16) };
        let stored = [&[1, 1, 0x12][..], &[7; 16], &[16, 0, 0, 5]].concat();
        let old = Locator::new(vec![Extent { range: 0..5, object }]).expect("one extent");
        assert_eq!((Locator::decode(&stored), old.encode()), (Ok(old.clone()), stored));
    }
}
