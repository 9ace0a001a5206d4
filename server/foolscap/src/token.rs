//! Banana tokens: a number in base 128, a type byte, and for some types a body. Pure; bodies are never copied here.
//!
//! Source: `foolscap.md` 5.1 and 5.2.

use bytes::{BufMut, BytesMut};

/// A header longer than this, without a type byte, ends the connection.
pub const HEADER_BYTES_MAX: usize = 64;

/// The longest text of an ERROR token.
pub const ERROR_BYTES_MAX: u64 = 1000;

/// The types of tokens, by their byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A whole number from zero on.
    Int = 0x81,
    /// Bytes.
    String = 0x82,
    /// A negative whole number.
    Neg = 0x83,
    /// A double, big-endian.
    Float = 0x84,
    /// A large number: its magnitude, big-endian.
    LongInt = 0x85,
    /// A large negative number: its magnitude, big-endian.
    LongNeg = 0x86,
    /// A word of the vocabulary instead of its bytes.
    Vocab = 0x87,
    /// Begins a sequence.
    Open = 0x88,
    /// Ends the sequence with that number.
    Close = 0x89,
    /// The sender gave up on the innermost sequence.
    Abort = 0x8a,
    /// Last words.
    Error = 0x8d,
    /// Asks for a PONG.
    Ping = 0x8e,
    /// Answers a PING.
    Pong = 0x8f,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x81 => Self::Int,
            0x82 => Self::String,
            0x83 => Self::Neg,
            0x84 => Self::Float,
            0x85 => Self::LongInt,
            0x86 => Self::LongNeg,
            0x87 => Self::Vocab,
            0x88 => Self::Open,
            0x89 => Self::Close,
            0x8a => Self::Abort,
            0x8d => Self::Error,
            0x8e => Self::Ping,
            0x8f => Self::Pong,
            _ => return None,
        })
    }
}

/// What stands before a token's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The type.
    pub kind: Kind,
    /// The number; `u64::MAX` stands for all that are greater.
    pub number: u64,
}

impl Head {
    /// How many bytes of body follow.
    pub fn body_bytes(self) -> u64 {
        match self.kind {
            Kind::String | Kind::LongInt | Kind::LongNeg | Kind::Error => self.number,
            Kind::Float => 8,
            _ => 0,
        }
    }
}

/// Bytes that are no token; the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// More than 64 bytes without a type byte.
    #[error("token prefix is limited to 64 bytes")]
    HeaderTooLong,
    /// A type byte that is not in use.
    #[error("invalid type byte {0:#x}")]
    UnknownType(u8),
    /// Last words over 1000 bytes.
    #[error("oversized ERROR token")]
    ErrorTooLong,
}

/// Reads the head of a token at the beginning of `bytes`, and how long it is. `None`: more bytes are needed.
///
/// # Errors
/// See [`TokenError`].
pub fn read_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, TokenError> {
    let mut number = 0_u64;
    let mut overflow = false;
    for (position, byte) in bytes.iter().enumerate().take(HEADER_BYTES_MAX + 1) {
        if *byte >= 0x80 {
            let kind = Kind::from_byte(*byte).ok_or(TokenError::UnknownType(*byte))?;
            let head = Head { kind, number: if overflow { u64::MAX } else { number } };
            if kind == Kind::Error && head.number > ERROR_BYTES_MAX {
                return Err(TokenError::ErrorTooLong);
            }
            return Ok(Some((head, position + 1)));
        }
        let group = u64::from(*byte);
        let shift = 7 * u32::try_from(position).expect("a header is short");
        match group.checked_shl(shift).filter(|shifted| shifted >> shift == group) {
            Some(shifted) => number |= shifted,
            None => overflow |= group != 0,
        }
    }
    if bytes.len() > HEADER_BYTES_MAX { Err(TokenError::HeaderTooLong) } else { Ok(None) }
}

/// Writes the head of a token, in the shortest form.
pub fn write_head(out: &mut BytesMut, kind: Kind, number: u64) {
    let mut rest = number;
    // Zero is one byte, but not where the reference implementation leaves it out.
    if rest == 0 && !matches!(kind, Kind::Ping | Kind::Pong | Kind::Float) {
        out.put_u8(0);
    }
    while rest > 0 {
        out.put_u8((rest & 0x7f) as u8);
        rest >>= 7;
    }
    out.put_u8(kind as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_is_read_least_significant_group_first() {
        assert_eq!(read_head(&[0x00, 0x01, 0x81]), Ok(Some((Head { kind: Kind::Int, number: 128 }, 3))));
        assert_eq!(read_head(&[0x05, 0x00, 0x81]), Ok(Some((Head { kind: Kind::Int, number: 5 }, 3))));
        assert_eq!(read_head(&[0x8e]), Ok(Some((Head { kind: Kind::Ping, number: 0 }, 1))));
        assert_eq!(read_head(&[0x05]), Ok(None));
    }

    #[test]
    fn sixty_four_bytes_of_header_are_enough() {
        let mut bytes = vec![0; 64];
        assert_eq!(read_head(&bytes), Ok(None));
        bytes.push(0x81);
        assert_eq!(read_head(&bytes), Ok(Some((Head { kind: Kind::Int, number: 0 }, 65))));
        bytes.insert(0, 0);
        assert_eq!(read_head(&bytes), Err(TokenError::HeaderTooLong));
        assert_eq!(read_head(&[1; 65]), Err(TokenError::HeaderTooLong));
    }

    #[test]
    fn a_number_of_too_many_bits_is_the_greatest() {
        let mut bytes = vec![0x7f; 64];
        bytes.push(0x82);
        assert_eq!(read_head(&bytes), Ok(Some((Head { kind: Kind::String, number: u64::MAX }, 65))));
    }

    #[test]
    fn unused_type_bytes_are_refused() {
        for byte in [0x80, 0x8b, 0x8c, 0x90, 0xff] {
            assert_eq!(read_head(&[1, byte]), Err(TokenError::UnknownType(byte)));
        }
        assert_eq!(read_head(&[0x69, 0x07, 0x8d]), Err(TokenError::ErrorTooLong));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(number in any::<u64>()) {
            let mut out = BytesMut::new();
            write_head(&mut out, Kind::Int, number);
            prop_assert_eq!(read_head(&out), Ok(Some((Head { kind: Kind::Int, number }, out.len()))));
            for end in 0..out.len() {
                prop_assert_eq!(read_head(&out[..end]), Ok(None));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(Some((_, length))) = read_head(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
