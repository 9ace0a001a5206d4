//! Units of a reconcile run: all storage indexes whose text begins alike.
//!
//! A prefix is a range of storage indexes, in the backend as in the lease database, though the orders within differ. The
//! first unit is everything; one that proves too large for memory is split by its next character (`design.md` 9).

use std::fmt;
use std::str::FromStr;

use crate::id::{ObjectId, ParseIdError, StorageIndex, base32};
use crate::run::{RunId, Totals};

/// How many objects or rows a unit may have before it is split.
pub const UNIT_OBJECTS_MAX: usize = 50_000;
/// How long a unit is claimed, in seconds; a worker that lives claims it anew long before.
pub const UNIT_CLAIM_SECONDS: i64 = 300;

const DIGITS: &str = "abcdefghijklmnopqrstuvwxyz234567";
/// Longer ones are not needed: a million storage indexes would have to begin with the same 60 bits.
const LENGTH_MAX: usize = 12;

/// The beginning of storage indexes' text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(String);

impl Prefix {
    /// The prefixes that are one character longer; none where this one cannot be split.
    pub fn split(&self) -> Vec<Self> {
        if self.0.len() >= LENGTH_MAX {
            return Vec::new();
        }
        DIGITS.chars().map(|digit| Self(format!("{}{digit}", self.0))).collect()
    }

    /// What the names of all store objects begin with.
    pub fn folder(&self) -> String {
        match self.0.len() {
            0 | 1 => format!("shares/{}", self.0),
            _ => format!("shares/{}/{}", &self.0[..2], self.0),
        }
    }

    /// The first and the last storage index.
    pub fn bounds(&self) -> (StorageIndex, StorageIndex) {
        let fill = |digit: &str, last: &str| {
            let mut text = self.0.clone();
            text.push_str(&digit.repeat(25 - text.len()));
            // 26 characters have two bits more than 16 bytes: the last one ends in zeros.
            text.push_str(last);
            let bytes = base32().decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
            StorageIndex::new(bytes.unwrap_or([0; 16]))
        };
        (fill("a", "a"), fill("7", "4"))
    }

    /// Which part of everything it is, in billionths.
    pub fn billionths(&self) -> u64 {
        let bits = 5 * u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        1_000_000_000_u64.checked_shr(bits).unwrap_or_default()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Prefix {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let is_digit = |byte: u8| DIGITS.as_bytes().contains(&byte);
        if text.len() <= LENGTH_MAX && text.bytes().all(is_digit) {
            return Ok(Self(text.to_owned()));
        }
        Err(ParseIdError { what: "prefix of storage indexes" })
    }
}

/// What a worker gets that asks for a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimUnitOutcome {
    /// This unit is its own for a while; with what the run has counted so far.
    Claimed(Prefix, Totals),
    /// Others work on all units that are left.
    AllClaimed(Totals),
    /// There is nothing left to do; with how many units failed, and the reason of one of them.
    Finished(Totals, u64, String),
    /// The run has ended.
    Ended,
}

/// The end of a worker's work on a unit.
#[derive(Clone, Debug)]
pub struct FinishUnit {
    /// The run.
    pub run: RunId,
    /// The unit.
    pub unit: Prefix,
    /// Who claimed it.
    pub worker: ObjectId,
    /// How it ended.
    pub end: UnitEnd,
}

/// How work on a unit ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitEnd {
    /// Everything in it was compared; this was counted.
    Done(Totals),
    /// It is too large.
    Split,
    /// It could not be compared, for this reason. Others may be.
    Failed(String),
    /// The run must stop, for this reason.
    Braked(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::folder;
    use proptest::prelude::*;

    #[test]
    fn everything_is_one_unit_and_its_parts_are_all_of_it() {
        let all = Prefix::default();
        assert_eq!(all.bounds(), (StorageIndex::new([0; 16]), StorageIndex::new([255; 16])));
        assert_eq!((all.folder().as_str(), all.billionths()), ("shares/", 1_000_000_000));
        let parts = all.split();
        assert_eq!(parts.len(), 32);
        assert_eq!(parts.iter().map(Prefix::billionths).sum::<u64>(), 1_000_000_000);
        let mut deep = all;
        while let Some(part) = deep.split().pop() {
            deep = part;
        }
        assert_eq!(deep.to_string().len(), LENGTH_MAX);
        for text in ["a b", "A", "aaaaaaaaaaaaaaaaaaaaaaaaaa", "1", "é"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_storage_index_is_in_the_unit_of_its_text(bytes: [u8; 16], length in 0usize..LENGTH_MAX, other: [u8; 16]) {
            let index = StorageIndex::new(bytes);
            let prefix: Prefix = index.to_string()[..length].parse().expect("a prefix");
            let within = |index: StorageIndex| {
                let (first, last) = prefix.bounds();
                (first..=last).contains(&index)
            };
            prop_assert!(within(index) && folder(index).starts_with(&prefix.folder()));
            let other = StorageIndex::new(other);
            prop_assert_eq!(within(other), folder(other).starts_with(&prefix.folder()));
            prop_assert_eq!(prefix.to_string().parse(), Ok(prefix));
        }
    }
}
