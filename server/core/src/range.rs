//! Byte ranges, half open everywhere, and sets of them.

use std::ops::Range;

/// The larger start and smaller end of two ranges, or `None` if they share no byte.
pub fn intersection(a: &Range<u64>, b: &Range<u64>) -> Option<Range<u64>> {
    let range = a.start.max(b.start)..a.end.min(b.end);
    (range.start < range.end).then_some(range)
}

/// A set of bytes as disjoint, ascending ranges that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet(Vec<Range<u64>>);

impl RangeSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a range, merging it with those it overlaps or touches.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|r| r.end < range.start);
        let last = self.0.partition_point(|r| r.start <= range.end);
        let mut merged = range;
        if first < last {
            merged.start = merged.start.min(self.0[first].start);
            merged.end = merged.end.max(self.0[last - 1].end);
        }
        self.0.splice(first..last, [merged]);
    }

    /// The bytes of `within` that are not in the set, ascending.
    pub fn missing(&self, within: Range<u64>) -> Vec<Range<u64>> {
        let mut missing = Vec::new();
        let mut at = within.start;
        for range in &self.0 {
            if range.end <= at {
                continue;
            }
            if range.start >= within.end {
                break;
            }
            if range.start > at {
                missing.push(at..range.start);
            }
            at = range.end;
        }
        if at < within.end {
            missing.push(at..within.end);
        }
        missing
    }

    /// How many bytes are in the set.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|r| r.end - r.start).sum()
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &Range<u64>> {
        self.0.iter()
    }
}

impl FromIterator<Range<u64>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut set = Self::new();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_set_of_numbers(
            ranges in proptest::collection::vec((0u64..40, 0u64..40), 0..12),
            within in (0u64..45, 0u64..45),
        ) {
            let mut model = [false; 50];
            let mut set = RangeSet::new();
            for (a, b) in ranges {
                let range = a.min(b)..a.max(b);
                for byte in range.clone() {
                    model[byte as usize] = true;
                }
                set.insert(range);
            }
            prop_assert_eq!(set.count(), model.iter().filter(|x| **x).count() as u64);
            prop_assert!(set.0.windows(2).all(|w| w[0].end < w[1].start));
            let within = within.0.min(within.1)..within.0.max(within.1);
            let missing = set.missing(within.clone());
            prop_assert!(missing.windows(2).all(|w| w[0].end < w[1].start));
            let listed: Vec<u64> = missing.into_iter().flatten().collect();
            let expected: Vec<u64> = within.filter(|b| !model[*b as usize]).collect();
            prop_assert_eq!(listed, expected);
        }
    }
}
