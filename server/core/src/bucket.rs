//! Immutable shares: what an upload has received, what a write adds to it, when it is complete.
//!
//! Pure rules. [`crate::store`] moves the bytes, [`crate::leasedb`] keeps the rows.

use std::ops::Range;

use crate::chunk::StoreObject;
use crate::clock::Timestamp;
use crate::id::{AccountId, ObjectId, ShareId};
use crate::leasedb::Epoch;
use crate::locator::{Extent, Locator, LocatorError};
use crate::range::{RangeSet, intersection};
use crate::secret::SecretHash;

/// A BLAKE3 hash over the bytes of one store object: as strong as SHA-256, at a fraction of its cost for every byte that
/// is uploaded.
pub type Digest = [u8; 32];

/// Bytes that an upload has received and the object that holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The share bytes, half open.
    pub range: Range<u64>,
    /// The object that holds them, at their natural place.
    pub object: StoreObject,
    /// The digest of exactly these bytes; `None` where the row covers only part of its object.
    pub digest: Option<Digest>,
}

/// A share that is coming.
#[derive(Clone, Debug)]
pub struct Upload {
    /// Which share.
    pub share: ShareId,
    /// Names this upload's objects; another upload of the same share has another.
    pub id: ObjectId,
    /// Who uploads, and is charged.
    pub account: AccountId,
    /// Size of the share in bytes.
    pub size_bytes: u64,
    /// How many bytes the chunks cover; the compare-and-set value of `review.md` A2.
    pub received_bytes: u64,
    /// Hash of the upload secret.
    pub secret: SecretHash,
    /// When the upload may be ended for lack of progress.
    pub deadline: Timestamp,
    /// What was received, ascending and disjoint.
    pub chunks: Vec<Chunk>,
    /// The epoch of the database it was read in.
    pub epoch: Epoch,
}

/// How one run of an incoming write relates to what is already there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// These bytes are new and must be stored.
    New(Range<u64>),
    /// These bytes were received before; the new ones must equal them.
    Known(Range<u64>, Chunk),
}

impl Part {
    /// The share bytes of the part.
    pub const fn range(&self) -> &Range<u64> {
        match self {
            Self::New(range) | Self::Known(range, _) => range,
        }
    }
}

/// Splits a write of `range` into runs that are new and runs that `chunks` (ascending, disjoint) already hold.
pub fn split_write(range: &Range<u64>, chunks: &[Chunk]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut at = range.start;
    let first = chunks.partition_point(|chunk| chunk.range.end <= range.start);
    for chunk in &chunks[first..] {
        let Some(known) = intersection(&chunk.range, range) else { break };
        if known.start > at {
            parts.push(Part::New(at..known.start));
        }
        at = known.end;
        parts.push(Part::Known(known, chunk.clone()));
    }
    if at < range.end {
        parts.push(Part::New(at..range.end));
    }
    parts
}

/// What is still missing of a share of `size_bytes`: disjoint, ascending, not touching (`gbs.md` 8.2).
pub fn missing(size_bytes: u64, chunks: &[Chunk]) -> Vec<Range<u64>> {
    let received: RangeSet = chunks.iter().map(|chunk| chunk.range.clone()).collect();
    received.missing(0..size_bytes)
}

/// The locator of a share whose `chunks` (ascending) cover all of it. An empty share lies in one empty object, so that
/// it can be rebuilt (`review.md` A14).
///
/// # Errors
/// [`LocatorError`] if they overlap or leave a hole: such a share is never published (`review.md` A2).
pub fn complete_locator(size_bytes: u64, chunks: &[Chunk]) -> Result<Locator, LocatorError> {
    let extents = chunks.iter().map(|chunk| Extent { range: chunk.range.clone(), object: chunk.object });
    let locator = Locator::new(extents.collect())?;
    let complete = !chunks.is_empty() && missing(size_bytes, chunks).is_empty();
    if complete { Ok(locator) } else { Err(LocatorError) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(range: Range<u64>) -> Chunk {
        let object = StoreObject::Whole {
            upload: ObjectId::new([1; 16]),
            account: AccountId::new(16),
            put: ObjectId::new([2; 16]),
        };
        Chunk { range, object, digest: None }
    }

    #[test]
    fn overlapping_halves_with_the_right_total_are_not_a_share() {
        // 0..60 and 40..80 of 100 bytes: the counts add up to 100, bytes 80..100 never came.
        assert!(complete_locator(100, &[chunk(0..60), chunk(40..80)]).is_err());
        assert!(complete_locator(100, &[chunk(0..60), chunk(60..100)]).is_ok());
    }

    #[test]
    fn a_write_is_split_at_what_is_known() {
        let chunks = [chunk(10..20), chunk(30..40)];
        assert_eq!(
            split_write(&(15..35), &chunks),
            [Part::Known(15..20, chunks[0].clone()), Part::New(20..30), Part::Known(30..35, chunks[1].clone()),]
        );
        assert_eq!(split_write(&(40..50), &chunks), [Part::New(40..50)]);
    }
}
