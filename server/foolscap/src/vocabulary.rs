//! The words that both sides may send as a number.
//!
//! Source: `foolscap.md` 5.4.

/// The words of table 1, by their number.
const WORDS: [&str; 25] = [
    "none",
    "boolean",
    "reference",
    "dict",
    "list",
    "tuple",
    "set",
    "immutable-set",
    "unicode",
    "set-vocab",
    "add-vocab",
    "call",
    "arguments",
    "answer",
    "error",
    "my-reference",
    "your-reference",
    "their-reference",
    "copyable",
    "instance",
    "module",
    "class",
    "method",
    "function",
    "attrdict",
];

/// No word is longer.
const WORD_BYTES_MAX: usize = 15;

/// One of the two tables that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Vocabulary {
    /// Table 0: no words.
    Empty,
    /// Table 1.
    #[default]
    Words,
}

impl Vocabulary {
    /// The table with that number.
    pub fn from_index(index: u64) -> Option<Self> {
        match index {
            0 => Some(Self::Empty),
            1 => Some(Self::Words),
            _ => None,
        }
    }

    /// The table's number.
    pub fn index(self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Words => 1,
        }
    }

    /// The first four digits of the SHA-1 of the words, by which both sides see that they mean the same table.
    pub fn hash(self) -> &'static str {
        match self {
            Self::Empty => "da39",
            Self::Words => "bb33",
        }
    }

    /// The word with that number.
    pub fn word(self, number: u64) -> Option<&'static str> {
        match self {
            Self::Empty => None,
            Self::Words => WORDS.get(usize::try_from(number).ok()?).copied(),
        }
    }

    /// The number of a word.
    pub fn number(self, bytes: &[u8]) -> Option<u64> {
        if self == Self::Empty || bytes.len() > WORD_BYTES_MAX {
            return None;
        }
        WORDS.iter().position(|word| word.as_bytes() == bytes).map(|position| position as u64)
    }
}

#[cfg(test)]
mod tests {
    use sha1::{Digest, Sha1};

    use super::*;

    #[test]
    fn hashes_are_those_of_the_words() {
        let hash = |words: &[&str]| data_encoding::HEXLOWER.encode(&Sha1::digest(words.join("\0")))[..4].to_owned();
        assert_eq!(hash(&[]), Vocabulary::Empty.hash());
        assert_eq!(hash(&WORDS), Vocabulary::Words.hash());
        assert_eq!(WORDS.iter().map(|word| word.len()).max(), Some(WORD_BYTES_MAX));
    }

    #[test]
    fn each_word_has_its_number() {
        for (number, word) in WORDS.iter().enumerate() {
            assert_eq!(Vocabulary::Words.number(word.as_bytes()), Some(number as u64));
            assert_eq!(Vocabulary::Words.word(number as u64), Some(*word));
            assert_eq!(Vocabulary::Empty.number(word.as_bytes()), None);
        }
        assert_eq!(Vocabulary::Words.word(25), None);
    }
}
