//! Mutable shares: test, read and write vectors, and what a write makes of a share.
//!
//! Pure rules of `gbs.md` 9.1. Offsets count bytes of share data. Tests and reads see the state before any write.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use crate::id::ShareNumber;

/// A test: the bytes at `offset`, at most `size` of them and cut off at the end of the share, equal `specimen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestVector {
    /// Where, in bytes.
    pub offset: u64,
    /// How many bytes to compare at the most.
    pub size: u64,
    /// What they must equal.
    pub specimen: Bytes,
}

/// A write of `length` bytes that lie at `source` of the request's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteVector {
    /// Where in the share, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
    /// Where in the payload the bytes are.
    pub source: u64,
}

/// What a request asks of one share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShareVectors {
    /// All must hold, or nothing is written anywhere.
    pub tests: Vec<TestVector>,
    /// Applied in order, later over earlier.
    pub writes: Vec<WriteVector>,
    /// Cuts the share; 0 removes it; never extends.
    pub new_length: Option<u64>,
}

/// A whole read-test-write request, bytes to be written aside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadTestWrite {
    /// By share; a share that is named without writes is made if it does not exist.
    pub vectors: BTreeMap<ShareNumber, ShareVectors>,
    /// `offset..offset + size` to read of every share of the slot.
    pub reads: Vec<Range<u64>>,
}

/// Where a run of new share bytes comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The same bytes of the share as it was.
    Old,
    /// The request's payload, from this place on.
    Payload(u64),
    /// Zeros.
    Zeros,
}

/// A share after a write: runs that ascend, touch, and cover `0..size`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composition {
    runs: BTreeMap<u64, (u64, Source)>,
    size: u64,
}

impl Composition {
    /// What `vectors` make of a share of `old_size` bytes (0: none), or `None` if they remove it.
    ///
    /// A write behind the end fills the gap with zeros, an empty one too; `new_length` then only cuts.
    /// The caller has checked that no `offset + length` overflows or exceeds the largest share.
    pub fn of(old_size: u64, vectors: &ShareVectors) -> Option<Self> {
        if vectors.new_length == Some(0) {
            return None;
        }
        let mut share = Self { runs: BTreeMap::new(), size: 0 };
        share.overlay(0..old_size, Source::Old);
        for write in &vectors.writes {
            if write.offset > share.size {
                share.overlay(share.size..write.offset, Source::Zeros);
            }
            share.overlay(write.offset..write.offset + write.length, Source::Payload(write.source));
        }
        if let Some(length) = vectors.new_length
            && length < share.size
        {
            share.cut(length);
            let kept = share.runs.split_off(&length);
            drop(kept);
            share.size = length;
        }
        Some(share)
    }

    /// Size of the share in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// All runs, ascending.
    pub fn runs(&self) -> impl Iterator<Item = (Range<u64>, Source)> {
        self.runs.iter().map(|(start, (end, source))| (*start..*end, *source))
    }

    /// The runs within `range`, clipped to it.
    pub fn runs_within(&self, range: Range<u64>) -> Vec<(Range<u64>, Source)> {
        let first = self.runs.range(..=range.start).next_back().map_or(0, |(start, _)| *start);
        let clip = |(start, (end, source)): (&u64, &(u64, Source))| {
            let part = (*start).max(range.start)..(*end).min(range.end);
            let moved = match source {
                Source::Payload(from) => Source::Payload(from + (part.start - start)),
                other => *other,
            };
            (part, moved)
        };
        let runs = self.runs.range(first..range.end.max(first)).map(clip);
        runs.filter(|(part, _)| part.start < part.end).collect()
    }

    /// Whether nothing of the old share remains.
    pub fn replaces_all(&self) -> bool {
        self.runs.values().all(|(_, source)| *source != Source::Old)
    }

    fn cut(&mut self, at: u64) {
        if let Some((&start, &(end, source))) = self.runs.range(..at).next_back()
            && end > at
        {
            let tail = match source {
                Source::Payload(from) => Source::Payload(from + (at - start)),
                other => other,
            };
            self.runs.insert(start, (at, source));
            self.runs.insert(at, (end, tail));
        }
    }

    fn overlay(&mut self, range: Range<u64>, source: Source) {
        if range.is_empty() {
            return;
        }
        self.cut(range.start);
        self.cut(range.end);
        let covered: Vec<u64> = self.runs.range(range.clone()).map(|(start, _)| *start).collect();
        for start in covered {
            self.runs.remove(&start);
        }
        self.size = self.size.max(range.end);
        self.runs.insert(range.start, (range.end, source));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(old: &[u8], payload: &[u8], vectors: &ShareVectors) -> Option<Vec<u8>> {
        if vectors.new_length == Some(0) {
            return None;
        }
        let mut share = old.to_vec();
        for write in &vectors.writes {
            let (offset, length) = (write.offset as usize, write.length as usize);
            if offset > share.len() {
                share.resize(offset, 0);
            }
            if offset + length > share.len() {
                share.resize(offset + length, 0);
            }
            share[offset..offset + length].copy_from_slice(&payload[write.source as usize..][..length]);
        }
        if let Some(length) = vectors.new_length {
            share.truncate(length as usize);
        }
        Some(share)
    }

    fn render(composition: &Composition, old: &[u8], payload: &[u8], within: Range<u64>) -> Vec<u8> {
        let mut out = Vec::new();
        for (range, source) in composition.runs_within(within) {
            let length = (range.end - range.start) as usize;
            match source {
                Source::Old => out.extend_from_slice(&old[range.start as usize..][..length]),
                Source::Payload(from) => out.extend_from_slice(&payload[from as usize..][..length]),
                Source::Zeros => out.resize(out.len() + length, 0),
            }
        }
        out
    }

    fn vectors() -> impl Strategy<Value = ShareVectors> {
        let write =
            (0u64..60, 0u64..20, 0u64..44).prop_map(|(offset, length, source)| WriteVector { offset, length, source });
        (proptest::collection::vec(write, 0..6), proptest::option::of(0u64..80))
            .prop_map(|(writes, new_length)| ShareVectors { tests: Vec::new(), writes, new_length })
    }

    proptest! {
        #[test]
        fn agrees_with_writing_into_an_array(
            old in proptest::collection::vec(any::<u8>(), 0..50),
            payload in proptest::collection::vec(any::<u8>(), 64),
            vectors in vectors(),
            window in (0u64..90, 0u64..90),
        ) {
            let composition = Composition::of(old.len() as u64, &vectors);
            let expected = naive(&old, &payload, &vectors);
            match (composition, expected) {
                (None, None) => {}
                (Some(share), Some(bytes)) => {
                    prop_assert_eq!(share.size(), bytes.len() as u64);
                    prop_assert_eq!(&render(&share, &old, &payload, 0..share.size()), &bytes);
                    let window = window.0.min(window.1)..window.0.max(window.1);
                    let start = window.start.min(share.size()) as usize;
                    let end = window.end.min(share.size()) as usize;
                    prop_assert_eq!(render(&share, &old, &payload, window), &bytes[start..end]);
                }
                (share, bytes) => prop_assert!(false, "{share:?} {bytes:?}"),
            }
        }
    }

    #[test]
    fn an_empty_write_behind_the_end_extends_with_zeros_and_new_length_never_does() {
        let write = WriteVector { offset: 9, length: 0, source: 0 };
        let vectors = ShareVectors { writes: vec![write], new_length: Some(50), ..ShareVectors::default() };
        let share = Composition::of(4, &vectors).expect("not removed");
        assert_eq!(share.runs().collect::<Vec<_>>(), [(0..4, Source::Old), (4..9, Source::Zeros)]);
    }
}
