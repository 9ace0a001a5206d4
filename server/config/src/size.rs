//! Byte amounts as people write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes; in text a number with an optional unit (`10MiB`, `5GB`, `4096`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A text that is not a number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size: write a number with an optional unit, such as 500MB or 10GiB")]
pub struct SizeError(String);

const UNITS: [(&str, u64); 12] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
    ("kB", 1000),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
    ("B", 1),
];

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let error = || SizeError(text.to_owned());
        let trimmed = text.trim();
        let unit = UNITS.iter().find_map(|(name, factor)| trimmed.strip_suffix(name).map(|rest| (rest, *factor)));
        let (number, factor) = unit.unwrap_or((trimmed, 1));
        let number = number.trim_end();
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 || number.ends_with('.') {
            return Err(error());
        }
        let whole: u64 = whole.parse().map_err(|_| error())?;
        let part: u64 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| error())? };
        let scale = 10u128.pow(fraction.len() as u32);
        let bytes = u128::from(whole) * u128::from(factor) + u128::from(part) * u128::from(factor) / scale;
        // Databases count in signed numbers.
        u64::try_from(bytes).ok().filter(|bytes| *bytes <= i64::MAX as u64).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for Size {
    /// Two decimals of the largest binary unit, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS[..5].iter().rev().find(|(_, factor)| self.0 >= *factor) {
            Some((name, factor)) => write!(f, "{:.2} {name}", self.0 as f64 / *factor as f64),
            None => write!(f, "{} B", self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(bytes) => Ok(Self(bytes)),
            Form::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_written() {
        for (text, bytes) in [("0", 0), ("10MiB", 10 << 20), ("1.5 GB", 1_500_000_000), ("7B", 7), ("4096", 4096)] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for bad in ["", "x", "-1", "1.", ".5", "1e3", "10 parsecs", "9999999999 TB", "1.0000000001GB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
        assert_eq!(Size(44_312_000_000).to_string(), "41.27 GiB");
    }
}
