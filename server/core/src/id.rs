//! Storage indexes, share numbers, accounts and object ids, with their text forms.
//!
//! Everything here is a plain value. Parsing accepts exactly what `Display` prints, nothing looser.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, Encoding, Specification};

use crate::clock::Timestamp;

/// Lower-case RFC 4648 base32 without padding, as Tahoe-LAFS writes storage indexes and tub ids.
///
/// Loose trailing bits are refused, so every value has exactly one text.
pub fn base32() -> &'static Encoding {
    static ENCODING: std::sync::LazyLock<Encoding> = std::sync::LazyLock::new(|| {
        let mut specification: Specification = BASE32_NOPAD.specification();
        specification.symbols.make_ascii_lowercase();
        specification.encoding().expect("lower-case base32 is a valid specification")
    });
    &ENCODING
}

/// A text that is not the text form of the type it was parsed as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {what}")]
pub struct ParseIdError {
    /// What was expected, in the field's words.
    pub what: &'static str,
}

fn parse_16(text: &str, what: &'static str) -> Result<[u8; 16], ParseIdError> {
    let error = ParseIdError { what };
    if text.len() != 26 {
        return Err(error);
    }
    let bytes = base32().decode(text.as_bytes()).map_err(|_| error.clone())?;
    bytes.try_into().map_err(|_| error)
}

/// The 16 bytes that address a bucket or slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorageIndex([u8; 16]);

impl StorageIndex {
    /// Wraps the raw bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for StorageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32().encode(&self.0))
    }
}

impl fmt::Debug for StorageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for StorageIndex {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        parse_16(text, "storage index").map(Self)
    }
}

/// The number of a share within its storage index, 0..=255.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareNumber(u8);

impl ShareNumber {
    /// Wraps the number.
    pub const fn new(number: u8) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u64> for ShareNumber {
    type Error = ParseIdError;

    fn try_from(number: u64) -> Result<Self, ParseIdError> {
        u8::try_from(number).map(Self).map_err(|_| ParseIdError { what: "share number" })
    }
}

impl fmt::Display for ShareNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ShareNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One share: a storage index and a share number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareId {
    /// The bucket or slot.
    pub storage_index: StorageIndex,
    /// The share within it.
    pub number: ShareNumber,
}

impl ShareId {
    /// Puts the two parts together.
    pub const fn new(storage_index: StorageIndex, number: ShareNumber) -> Self {
        Self { storage_index, number }
    }
}

impl fmt::Display for ShareId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.storage_index, self.number)
    }
}

/// The number of an account in the lease database; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(u32);

impl AccountId {
    /// The account behind the public address, if one is published.
    pub const ANONYMOUS: Self = Self(0);
    /// The account whose leases keep what was found without a lease; nobody can log in as it.
    pub const STARTER: Self = Self(1);
    /// The first number given to an account that somebody created.
    pub const FIRST_DECLARED: Self = Self(16);

    /// Wraps the number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A time-ordered random id (UUID version 7) that makes a store object's name unique for ever.
///
/// The first 48 bits are the lease database's clock in milliseconds, so an object's age can be read off its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId([u8; 16]);

impl ObjectId {
    /// Makes an id from a time and ten random bytes.
    pub fn from_parts(at: Timestamp, random: [u8; 10]) -> Self {
        let millis = u64::try_from(at.millis().max(0)).expect("not negative");
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random);
        bytes[6] = 0x70 | (bytes[6] & 0x0f);
        bytes[8] = 0x80 | (bytes[8] & 0x3f);
        Self(bytes)
    }

    /// Wraps stored bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The time the id was made at, by the lease database's clock.
    pub fn made_at(&self) -> Timestamp {
        let mut millis = [0; 8];
        millis[2..].copy_from_slice(&self.0[..6]);
        Timestamp::from_millis(i64::from_be_bytes(millis))
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32().encode(&self.0))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ObjectId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        parse_16(text, "object id").map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn storage_index_text_is_strict() {
        for bad in [
            "",
            "aaaaaaaaaaaaaaaaaaaaaaaaa",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "AAAAAAAAAAAAAAAAAAAAAAAAAA",
            "aaaaaaaaaaaaaaaaaaaaaaaaab",
            "aaaaaaaaaaaaaaaaaaaaaaaaa0",
            "aaaaaaaaaaaaaaaaaaaaaaaaa_",
            "nomd2a65ylxjbqzsw7gcfh4ivr",
        ] {
            assert!(bad.parse::<StorageIndex>().is_err(), "{bad}");
        }
        for good in "aeimquy4".chars() {
            let text = format!("{}{good}", "a".repeat(25));
            assert_eq!(text.parse::<StorageIndex>().expect("allowed last character").to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn text_forms_round_trip(bytes: [u8; 16]) {
            let index = StorageIndex::new(bytes);
            prop_assert_eq!(index.to_string().parse::<StorageIndex>(), Ok(index));
            let object = ObjectId::new(bytes);
            prop_assert_eq!(object.to_string().parse::<ObjectId>(), Ok(object));
        }

        #[test]
        fn any_text_parses_or_fails_cleanly(text in "\\PC{0,40}") {
            if let Ok(index) = text.parse::<StorageIndex>() {
                prop_assert_eq!(index.to_string(), text);
            }
        }

        #[test]
        fn object_ids_tell_their_time(millis in 0i64..(1 << 48), random: [u8; 10]) {
            let at = Timestamp::from_millis(millis);
            prop_assert_eq!(ObjectId::from_parts(at, random).made_at(), at);
        }
    }
}
