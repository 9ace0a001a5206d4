//! What travels in calls and answers.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::call::Referenceable;
use crate::failure::Violation;
use crate::reference::RemoteReference;

/// A value of a call or an answer. Clones are cheap: containers and bytes are shared.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    None,
    /// True or false; not a number.
    Boolean(bool),
    /// A whole number of any size.
    Integer(Integer),
    /// A double.
    Float(f64),
    /// Bytes.
    Bytes(Bytes),
    /// Text; not bytes.
    Text(Arc<str>),
    /// A list.
    List(Arc<[Value]>),
    /// A tuple.
    Tuple(Arc<[Value]>),
    /// A set.
    Set(Arc<[Value]>),
    /// A set that does not change.
    FrozenSet(Arc<[Value]>),
    /// A dictionary: pairs of key and value, in the order in which they travel.
    Dict(Arc<[(Value, Value)]>),
    /// An object of this side.
    Local(LocalReference),
    /// An object of the other side.
    Remote(RemoteReference),
    /// An object that travels by its attributes.
    Copyable(Arc<Copyable>),
}

/// An object that travels by its attributes. The only one in use is a failure.
#[derive(Clone, Debug, PartialEq)]
pub struct Copyable {
    /// The name of its class.
    pub class: Bytes,
    /// Names and values.
    pub attributes: Vec<(Bytes, Value)>,
}

/// An object of this side, equal only to itself.
#[derive(Clone)]
pub struct LocalReference(pub Arc<dyn Referenceable>);

impl PartialEq for LocalReference {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for LocalReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LocalReference").field(&self.0.interface().name).finish()
    }
}

/// A whole number of any size. Equal numbers have equal forms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Integer {
    /// One of up to 127 bits.
    Small(i128),
    /// A larger one: its magnitude, big-endian, without leading zeros.
    Large {
        /// Whether it is below zero.
        negative: bool,
        /// Its magnitude.
        magnitude: Bytes,
    },
}

impl Integer {
    /// Makes a number of its sign and its magnitude, big-endian.
    pub fn from_magnitude(negative: bool, magnitude: &Bytes) -> Self {
        let zeros = magnitude.iter().take_while(|byte| **byte == 0).count();
        let digits = magnitude.slice(zeros..);
        let mut small = [0; 16];
        if digits.len() > small.len() || (digits.len() == small.len() && digits[0] >= 0x80) {
            return Self::Large { negative, magnitude: digits };
        }
        small[16 - digits.len()..].copy_from_slice(&digits);
        let number = i128::from_be_bytes(small);
        Self::Small(if negative { -number } else { number })
    }

    /// The number, if it fits.
    pub fn to_u64(&self) -> Option<u64> {
        match self {
            Self::Small(number) => u64::try_from(*number).ok(),
            Self::Large { .. } => None,
        }
    }
}

impl Value {
    /// Makes a list.
    pub fn list(items: impl IntoIterator<Item = Value>) -> Self {
        Self::List(items.into_iter().collect())
    }

    /// Makes a tuple.
    pub fn tuple(items: impl IntoIterator<Item = Value>) -> Self {
        Self::Tuple(items.into_iter().collect())
    }

    /// Makes a set; the items must differ.
    pub fn set(items: impl IntoIterator<Item = Value>) -> Self {
        Self::Set(items.into_iter().collect())
    }

    /// Makes a dictionary; the keys must differ, and travel in this order.
    pub fn dict(entries: impl IntoIterator<Item = (Value, Value)>) -> Self {
        Self::Dict(entries.into_iter().collect())
    }

    /// Whether it is nothing.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Its bytes.
    ///
    /// # Errors
    /// It is something else.
    pub fn as_bytes(&self) -> Result<&Bytes, Violation> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Violation::new("bytes are needed here")),
        }
    }

    /// The whole number it is.
    ///
    /// # Errors
    /// It is something else.
    pub fn as_integer(&self) -> Result<&Integer, Violation> {
        match self {
            Self::Integer(integer) => Ok(integer),
            _ => Err(Violation::new("a whole number is needed here")),
        }
    }

    /// The whole number it is, from 0 on, in 64 bits.
    ///
    /// # Errors
    /// It is something else.
    pub fn as_u64(&self) -> Result<u64, Violation> {
        self.as_integer()?.to_u64().ok_or_else(|| Violation::new("the number is out of range"))
    }

    /// The whole number it is, from 0 on; `u64::MAX` for all greater ones.
    ///
    /// # Errors
    /// It is below zero or something else.
    pub fn as_u64_saturating(&self) -> Result<u64, Violation> {
        match self.as_integer()? {
            Integer::Small(number) if *number > i128::from(u64::MAX) => Ok(u64::MAX),
            Integer::Large { negative: false, .. } => Ok(u64::MAX),
            _ => self.as_u64(),
        }
    }

    /// The items of a list, a tuple or a set.
    ///
    /// # Errors
    /// It is something else.
    pub fn items(&self) -> Result<&[Value], Violation> {
        match self {
            Self::List(items) | Self::Tuple(items) | Self::Set(items) | Self::FrozenSet(items) => Ok(items),
            _ => Err(Violation::new("a list, tuple or set is needed here")),
        }
    }

    /// The `N` items of a tuple.
    ///
    /// # Errors
    /// It is something else.
    pub fn fields<const N: usize>(&self) -> Result<&[Value; N], Violation> {
        match self {
            Self::Tuple(items) => items.as_ref().try_into().map_err(|_| Violation::new("wrong number of fields")),
            _ => Err(Violation::new("a tuple is needed here")),
        }
    }

    /// The pairs of a dictionary.
    ///
    /// # Errors
    /// It is something else.
    pub fn entries(&self) -> Result<&[(Value, Value)], Violation> {
        match self {
            Self::Dict(entries) => Ok(entries),
            _ => Err(Violation::new("a dictionary is needed here")),
        }
    }

    /// The object of the other side.
    ///
    /// # Errors
    /// It is something else.
    pub fn as_remote(&self) -> Result<&RemoteReference, Violation> {
        match self {
            Self::Remote(reference) => Ok(reference),
            _ => Err(Violation::new("a reference to an object of yours is needed here")),
        }
    }

    /// How many objects of this side are in it.
    pub(crate) fn local_count(&self) -> usize {
        match self {
            Self::Local(_) => 1,
            Self::List(items) | Self::Tuple(items) | Self::Set(items) | Self::FrozenSet(items) => {
                items.iter().map(Self::local_count).sum()
            }
            Self::Dict(entries) => entries.iter().map(|(key, value)| key.local_count() + value.local_count()).sum(),
            Self::Copyable(copyable) => copyable.attributes.iter().map(|(_, value)| value.local_count()).sum(),
            _ => 0,
        }
    }
}

impl From<()> for Value {
    fn from((): ()) -> Self {
        Self::None
    }
}

impl From<bool> for Value {
    fn from(boolean: bool) -> Self {
        Self::Boolean(boolean)
    }
}

macro_rules! from_number {
    ($($number:ty),*) => {$(
        impl From<$number> for Value {
            fn from(number: $number) -> Self {
                Self::Integer(Integer::Small(i128::from(number)))
            }
        }
    )*};
}
from_number!(u8, u16, u32, u64, i32, i64);

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(Bytes::copy_from_slice(bytes))
    }
}

impl<const N: usize> From<&[u8; N]> for Value {
    fn from(bytes: &[u8; N]) -> Self {
        Self::from(bytes.as_slice())
    }
}

impl From<Arc<dyn Referenceable>> for Value {
    fn from(object: Arc<dyn Referenceable>) -> Self {
        Self::Local(LocalReference(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_form() {
        let of = |negative, digits: &'static [u8]| Integer::from_magnitude(negative, &Bytes::from_static(digits));
        assert_eq!(of(false, &[0, 0, 1, 0]), Integer::Small(256));
        assert_eq!(of(true, &[0x80, 0, 0, 1]), Integer::Small(-2_147_483_649));
        assert_eq!(of(true, &[]), Integer::Small(0));
        let mut most = [0xff; 16];
        most[0] = 0x7f;
        assert_eq!(Integer::from_magnitude(true, &Bytes::copy_from_slice(&most)), Integer::Small(-i128::MAX));
        assert!(matches!(of(false, &[0x80; 16]), Integer::Large { negative: false, .. }));
        assert_eq!(of(false, &[0x80; 16]), of(false, &[&[0][..], &[0x80; 16]].concat().leak()[..]));
    }

    #[test]
    fn a_huge_number_is_read_as_the_greatest() {
        let huge = Value::Integer(Integer::from_magnitude(false, &Bytes::from_static(&[1; 100])));
        assert_eq!(huge.as_u64_saturating(), Ok(u64::MAX));
        assert!(huge.as_u64().is_err());
        assert!(Value::from(-1).as_u64_saturating().is_err());
        assert_eq!(Value::from(7_u64).as_u64_saturating(), Ok(7));
    }
}
