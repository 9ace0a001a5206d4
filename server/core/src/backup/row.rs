//! Rows as bytes: each a length and a CBOR array of null, numbers, byte strings and texts.
//!
//! Only the shortest form of a value is written and read, so that a row has exactly one form. The decoder works on bytes
//! that are in memory already and copies no more than these.

use super::table::{Column, Kind};

/// The most values that a row may have.
const VALUES_MAX: u64 = 64;

/// One value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A number.
    Integer(i64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Text.
    Text(String),
}

/// The values of a row, in the order of its table's columns.
pub type Row = Vec<Value>;

/// Bytes that are no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row is malformed")]
pub struct Malformed;

impl Value {
    /// A number, if it is one.
    pub const fn integer(&self) -> Option<i64> {
        if let Self::Integer(number) = self { Some(*number) } else { None }
    }

    /// A number that is not negative, if it is one.
    pub fn unsigned(&self) -> Option<u64> {
        self.integer().and_then(|number| u64::try_from(number).ok())
    }

    /// Bytes of exactly this length, if it is that.
    pub fn array<const N: usize>(&self) -> Option<[u8; N]> {
        self.bytes()?.try_into().ok()
    }

    /// Bytes, if it is that.
    pub fn bytes(&self) -> Option<&[u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    /// Text, if it is one.
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Whether a column may hold it.
    pub fn fits(&self, column: &Column) -> bool {
        match (column.kind, self) {
            (_, Self::Null) => column.nullable,
            (Kind::Id, Self::Bytes(bytes)) => bytes.len() == 16,
            (Kind::Flag, Self::Integer(number)) => matches!(number, 0 | 1),
            (Kind::Integer, Self::Integer(_)) | (Kind::Bytes, Self::Bytes(_)) | (Kind::Text, Self::Text(_)) => true,
            (Kind::Id | Kind::Integer | Kind::Flag | Kind::Bytes | Kind::Text, _) => false,
        }
    }
}

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const NULL: u8 = 0xf6;

fn put_head(out: &mut Vec<u8>, major: u8, number: u64) {
    let major = major << 5;
    let be = number.to_be_bytes();
    match number {
        0..24 => out.push(major | be[7]),
        24..0x100 => out.extend([major | 24, be[7]]),
        0x100..0x1_0000 => {
            out.push(major | 25);
            out.extend(&be[6..]);
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 26);
            out.extend(&be[4..]);
        }
        _ => {
            out.push(major | 27);
            out.extend(be);
        }
    }
}

/// Appends a row.
///
/// # Panics
/// The row has 4 GiB or more: no column comes near.
pub fn put(out: &mut Vec<u8>, row: &[Value]) {
    let start = out.len();
    out.extend([0; 4]);
    put_head(out, ARRAY, row.len() as u64);
    for value in row {
        match value {
            Value::Null => out.push(NULL),
            Value::Integer(number) => match u64::try_from(*number) {
                Ok(number) => put_head(out, UNSIGNED, number),
                Err(_) => put_head(out, NEGATIVE, !number.cast_unsigned()),
            },
            Value::Bytes(bytes) => {
                put_head(out, BYTES, bytes.len() as u64);
                out.extend_from_slice(bytes);
            }
            Value::Text(text) => {
                put_head(out, TEXT, text.len() as u64);
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
    let length = u32::try_from(out.len() - start - 4).expect("rows are far below 4 GiB");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Takes the next row off the front; `None` at the end.
///
/// # Errors
/// [`Malformed`] for anything that [`put`] does not write.
pub fn take(input: &mut &[u8]) -> Result<Option<Row>, Malformed> {
    if input.is_empty() {
        return Ok(None);
    }
    let (length, rest) = input.split_first_chunk::<4>().ok_or(Malformed)?;
    let (mut body, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or(Malformed)?;
    *input = rest;
    let (ARRAY, count @ 0..=VALUES_MAX) = take_head(&mut body)? else { return Err(Malformed) };
    let mut row = Vec::with_capacity(count as usize);
    for _ in 0..count {
        row.push(take_value(&mut body)?);
    }
    if body.is_empty() { Ok(Some(row)) } else { Err(Malformed) }
}

fn take_head(input: &mut &[u8]) -> Result<(u8, u64), Malformed> {
    let (first, rest) = input.split_first().ok_or(Malformed)?;
    let (major, short) = (first >> 5, first & 0x1f);
    let length = match short {
        0..24 => 0,
        24..28 => 1usize << (short - 24),
        _ => return Err(Malformed),
    };
    let (digits, rest) = rest.split_at_checked(length).ok_or(Malformed)?;
    *input = rest;
    let number = digits.iter().fold(0, |number, digit| number << 8 | u64::from(*digit));
    let number = if length == 0 { u64::from(short) } else { number };
    let shortest = match length {
        0 => true,
        1 => number >= 24,
        _ => number >> (4 * length) != 0,
    };
    if shortest { Ok((major, number)) } else { Err(Malformed) }
}

fn take_value(input: &mut &[u8]) -> Result<Value, Malformed> {
    if let [NULL, rest @ ..] = input {
        *input = rest;
        return Ok(Value::Null);
    }
    let (major, number) = take_head(input)?;
    let signed = || i64::try_from(number).map_err(|_| Malformed);
    match major {
        UNSIGNED => signed().map(Value::Integer),
        NEGATIVE => Ok(Value::Integer(!signed()?)),
        BYTES | TEXT => {
            let length = usize::try_from(number).map_err(|_| Malformed)?;
            let (bytes, rest) = input.split_at_checked(length).ok_or(Malformed)?;
            *input = rest;
            if major == BYTES {
                return Ok(Value::Bytes(bytes.to_vec()));
            }
            std::str::from_utf8(bytes).map(|text| Value::Text(text.to_owned())).map_err(|_| Malformed)
        }
        _ => Err(Malformed),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in crate::backup) fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            prop::sample::select(vec![0, 23, 24, 255, 256, 65_535, 65_536, 4_294_967_295, 4_294_967_296, i64::MAX])
                .prop_flat_map(|number| prop::sample::select(vec![number, !number]))
                .prop_map(Value::Integer),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(Value::Bytes),
            "\\PC{0,40}".prop_map(Value::Text),
        ]
    }

    proptest! {
        #[test]
        fn rows_are_read_back(rows in prop::collection::vec(prop::collection::vec(any_value(), 0..12), 0..8)) {
            let mut bytes = Vec::new();
            for row in &rows {
                put(&mut bytes, row);
            }
            let (mut input, mut read) = (bytes.as_slice(), Vec::new());
            while let Some(row) = take(&mut input).expect("rows of ours") {
                read.push(row);
            }
            prop_assert_eq!(read, rows);
        }

        #[test]
        fn any_bytes_are_refused_or_have_one_form(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut framed = u32::try_from(bytes.len()).expect("short").to_be_bytes().to_vec();
            framed.extend(&bytes);
            for mut input in [framed.as_slice(), bytes.as_slice()] {
                let whole = input;
                if let Ok(Some(row)) = take(&mut input) {
                    let mut again = Vec::new();
                    put(&mut again, &row);
                    prop_assert_eq!(again.as_slice(), &whole[..whole.len() - input.len()]);
                }
            }
        }
    }
}
