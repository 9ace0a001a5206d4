//! What methods take: static tables, by which a call is refused before its bytes are stored.
//!
//! Source: `foolscap.md` 7.2 and 14.

use crate::failure::Violation;
use crate::token::{Head, Kind};
use crate::value::{Integer, Value};

/// The most bytes of a whole number where any value is taken.
const ANY_INTEGER_BYTES_MAX: usize = 1024;

/// A set of methods under a name that both sides know.
#[derive(Debug)]
pub struct Interface {
    /// The name, compared as it is.
    pub name: &'static str,
    /// What can be called.
    pub methods: &'static [Method],
}

/// A method.
#[derive(Debug)]
pub struct Method {
    /// Its name.
    pub name: &'static str,
    /// What it takes, all of it required, in the order of positional arguments.
    pub arguments: &'static [Argument],
}

/// An argument, which may be given by its place or by its name.
#[derive(Debug)]
pub struct Argument {
    /// Its name.
    pub name: &'static str,
    /// What it may be.
    pub takes: Constraint,
}

/// What a value may be. Sizes are checked at the header of a token, so that nothing too large is ever stored.
#[derive(Debug)]
pub enum Constraint {
    /// Nothing.
    None,
    /// True or false.
    Boolean,
    /// A whole number whose magnitude has at most so many bytes, if it does not fit 32 bits.
    Integer {
        /// The most bytes.
        bytes_max: usize,
    },
    /// A double.
    Float,
    /// Bytes.
    Bytes {
        /// The fewest; too few are found after the whole call was read.
        min: usize,
        /// The most.
        max: usize,
    },
    /// Text.
    Text {
        /// The most bytes of UTF-8.
        max: usize,
    },
    /// A list.
    List {
        /// What each item may be.
        of: &'static Constraint,
        /// The most items.
        count_max: usize,
    },
    /// A set of either kind.
    Set {
        /// What each item may be.
        of: &'static Constraint,
        /// The most items.
        count_max: usize,
    },
    /// A tuple of exactly these.
    Tuple(&'static [Constraint]),
    /// A dictionary.
    Dict {
        /// What each key may be.
        key: &'static Constraint,
        /// What each value may be.
        value: &'static Constraint,
        /// The most pairs.
        count_max: usize,
    },
    /// An object of the other side.
    Remote,
    /// An object of this side.
    Local,
    /// One of several.
    OneOf(&'static [Constraint]),
    /// Whatever the connection's limits allow.
    Any,
}

/// The types of sequences that are values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sequence {
    None,
    Boolean,
    Text,
    List,
    Tuple,
    Set,
    FrozenSet,
    Dict,
    Reference,
    MyReference,
    YourReference,
    Copyable,
}

impl Sequence {
    pub(crate) fn from_word(word: &[u8]) -> Option<Self> {
        Some(match word {
            b"none" => Self::None,
            b"boolean" => Self::Boolean,
            b"unicode" => Self::Text,
            b"list" => Self::List,
            b"tuple" => Self::Tuple,
            b"set" => Self::Set,
            b"immutable-set" => Self::FrozenSet,
            b"dict" => Self::Dict,
            b"reference" => Self::Reference,
            b"my-reference" => Self::MyReference,
            b"your-reference" => Self::YourReference,
            b"copyable" => Self::Copyable,
            _ => return None,
        })
    }
}

impl Interface {
    /// The method of that name.
    pub(crate) fn method(&self, name: &[u8]) -> Option<&'static Method> {
        self.methods.iter().find(|method| method.name.as_bytes() == name)
    }
}

impl Constraint {
    fn alternatives(&'static self) -> &'static [Self] {
        match self {
            Self::OneOf(alternatives) => alternatives,
            _ => std::slice::from_ref(self),
        }
    }

    /// Whether a token that is no sequence may stand here; called before its body is stored.
    pub(crate) fn admit(&'static self, head: Head) -> Result<(), Violation> {
        let length = usize::try_from(head.number).unwrap_or(usize::MAX);
        let mut too_long = false;
        for alternative in self.alternatives() {
            let length_max = match (alternative, head.kind) {
                // The greatest number may stand for a greater one.
                (Self::Integer { .. } | Self::Any, Kind::Int | Kind::Neg) if head.number == u64::MAX => 0,
                (Self::Integer { .. } | Self::Any, Kind::Int | Kind::Neg)
                | (Self::Float | Self::Any, Kind::Float)
                | (Self::Bytes { .. } | Self::Any, Kind::Vocab)
                | (Self::Any, Kind::String) => return Ok(()),
                (Self::Integer { bytes_max }, Kind::LongInt | Kind::LongNeg) => *bytes_max,
                (Self::Any, Kind::LongInt | Kind::LongNeg) => ANY_INTEGER_BYTES_MAX,
                (Self::Bytes { max, .. }, Kind::String) => *max,
                _ => continue,
            };
            if length <= length_max {
                return Ok(());
            }
            too_long = true;
        }
        let problem = if too_long { "is too large" } else { "is not taken here" };
        Err(Violation::new(format!("{} token {problem}", kind_name(head.kind))))
    }

    /// Which of the alternatives a sequence of that type would be.
    pub(crate) fn of_sequence(&'static self, sequence: Sequence) -> Option<&'static Self> {
        self.alternatives().iter().find(|alternative| match (alternative, sequence) {
            (Self::Any, _)
            | (Self::None, Sequence::None)
            | (Self::Boolean, Sequence::Boolean)
            | (Self::Text { .. }, Sequence::Text)
            | (Self::Remote, Sequence::MyReference)
            | (Self::Local, Sequence::YourReference) => true,
            (Self::List { .. }, sequence) => matches!(sequence, Sequence::List | Sequence::Reference),
            (Self::Tuple(_), sequence) => matches!(sequence, Sequence::Tuple | Sequence::Reference),
            (Self::Dict { .. }, sequence) => matches!(sequence, Sequence::Dict | Sequence::Reference),
            (Self::Set { .. }, sequence) => {
                matches!(sequence, Sequence::Set | Sequence::FrozenSet | Sequence::Reference)
            }
            _ => false,
        })
    }

    /// What an item of a sequence may be that already has `count` of them.
    pub(crate) fn item(&'static self, count: usize) -> Result<&'static Self, Violation> {
        let full = || Violation::new(format!("there is no place for item {count} here"));
        match self {
            Self::List { of, count_max } | Self::Set { of, count_max } => {
                (count < *count_max).then_some(*of).ok_or_else(full)
            }
            Self::Tuple(fields) => fields.get(count).ok_or_else(full),
            Self::Dict { key, value, count_max } if count / 2 < *count_max => {
                Ok(if count.is_multiple_of(2) { key } else { value })
            }
            Self::Any => Ok(&Self::Any),
            _ => Err(full()),
        }
    }

    /// Whether a whole value fits: what tokens alone do not tell, and values that came by reference.
    ///
    /// # Errors
    /// It does not.
    pub fn check(&'static self, value: &Value) -> Result<(), Violation> {
        if self.alternatives().iter().any(|alternative| alternative.fits(value)) {
            return Ok(());
        }
        Err(Violation::new(match (self, value) {
            (Self::Bytes { min, .. }, Value::Bytes(bytes)) if bytes.len() < *min => {
                format!("string too short ({} < {min})", bytes.len())
            }
            (Self::Tuple(fields), Value::Tuple(items)) if fields.len() != items.len() => {
                format!("a tuple has {} fields, not {}", fields.len(), items.len())
            }
            _ => "the value is not of the kind that is taken here".to_owned(),
        }))
    }

    fn fits(&'static self, value: &Value) -> bool {
        match (self, value) {
            (Self::Any, _)
            | (Self::None, Value::None)
            | (Self::Boolean, Value::Boolean(_))
            | (Self::Float, Value::Float(_))
            | (Self::Remote, Value::Remote(_))
            | (Self::Local, Value::Local(_)) => true,
            (Self::Integer { bytes_max }, Value::Integer(integer)) => integer_fits(integer, *bytes_max),
            (Self::Bytes { min, max }, Value::Bytes(bytes)) => (*min..=*max).contains(&bytes.len()),
            (Self::Text { max }, Value::Text(text)) => text.len() <= *max,
            (Self::List { of, count_max }, Value::List(items))
            | (Self::Set { of, count_max }, Value::Set(items) | Value::FrozenSet(items)) => {
                items.len() <= *count_max && items.iter().all(|item| of.check(item).is_ok())
            }
            (Self::Tuple(fields), Value::Tuple(items)) => {
                fields.len() == items.len()
                    && fields.iter().zip(&**items).all(|(field, item)| field.check(item).is_ok())
            }
            (Self::Dict { key, value, count_max }, Value::Dict(entries)) => {
                let fits = |pair: &(Value, Value)| key.check(&pair.0).is_ok() && value.check(&pair.1).is_ok();
                entries.len() <= *count_max && entries.iter().all(fits)
            }
            (Self::OneOf(_), _) => self.check(value).is_ok(),
            _ => false,
        }
    }
}

fn integer_fits(integer: &Integer, bytes_max: usize) -> bool {
    match integer {
        Integer::Small(number) => {
            let bits = 128 - number.unsigned_abs().leading_zeros() as usize;
            bits < 32 || bits.div_ceil(8) <= bytes_max
        }
        Integer::Large { magnitude, .. } => magnitude.len() <= bytes_max,
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Int | Kind::Neg | Kind::LongInt | Kind::LongNeg => "a number",
        Kind::String | Kind::Vocab => "a STRING",
        Kind::Float => "a FLOAT",
        Kind::Open | Kind::Close | Kind::Abort | Kind::Error | Kind::Ping | Kind::Pong => "this",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static SECRET: Constraint = Constraint::Bytes { min: 32, max: 32 };
    static NUMBER: Constraint = Constraint::Integer { bytes_max: 8 };
    static LENGTH: Constraint = Constraint::OneOf(&[Constraint::None, Constraint::Integer { bytes_max: 8 }]);
    static PAIR: Constraint =
        Constraint::Tuple(&[Constraint::Integer { bytes_max: 8 }, Constraint::Bytes { min: 0, max: 9 }]);
    static PAIRS: Constraint = Constraint::List { of: &PAIR, count_max: 2 };

    fn head(kind: Kind, number: u64) -> Head {
        Head { kind, number }
    }

    #[test]
    fn too_long_is_told_from_the_wrong_kind() {
        let text = |result: Result<(), Violation>| result.unwrap_err().text().to_owned();
        assert_eq!(SECRET.admit(head(Kind::String, 32)), Ok(()));
        assert_eq!(text(SECRET.admit(head(Kind::String, 33))), "a STRING token is too large");
        assert_eq!(text(SECRET.admit(head(Kind::Int, 3))), "a number token is not taken here");
        assert_eq!(text(LENGTH.admit(head(Kind::LongInt, 9))), "a number token is too large");
        assert_eq!(LENGTH.admit(head(Kind::LongInt, 8)), Ok(()));
        assert_eq!(text(NUMBER.admit(head(Kind::Int, u64::MAX))), "a number token is too large");
        assert_eq!(NUMBER.admit(head(Kind::Neg, u64::MAX - 1)), Ok(()));
    }

    #[test]
    fn the_whole_value_is_checked() {
        let short = SECRET.check(&Value::from(&[0_u8; 31])).unwrap_err();
        assert_eq!(short.text(), "string too short (31 < 32)");
        let pair = |bytes: &[u8]| Value::tuple([Value::from(1), Value::from(bytes)]);
        assert_eq!(PAIRS.check(&Value::list([pair(b"a"), pair(b"b")])), Ok(()));
        assert!(PAIRS.check(&Value::list([pair(b"a"), pair(b"b"), pair(b"c")])).is_err());
        assert!(PAIRS.check(&Value::list([pair(b"0123456789")])).is_err());
        assert!(PAIR.check(&Value::tuple([Value::from(1)])).is_err());
        assert!(PAIR.item(2).is_err() && PAIRS.item(2).is_err());
    }

    #[test]
    fn numbers_are_limited_by_their_bytes() {
        let number = |bytes: &'static [u8]| Value::Integer(Integer::from_magnitude(false, &bytes.into()));
        assert_eq!(NUMBER.check(&number(&[0xff; 8])), Ok(()));
        assert!(NUMBER.check(&number(&[0xff; 9])).is_err());
        assert!(NUMBER.check(&number(&[0xff; 40])).is_err());
        assert!(NUMBER.check(&Value::Boolean(true)).is_err());
    }
}
