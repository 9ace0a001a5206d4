//! CBOR bodies: an encoder that writes what it is told, even nonsense, and decoders for the answers.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail, ensure};
pub use ciborium::Value;

/// The tag that makes an array a set.
pub const SET: u64 = 258;

/// Writes CBOR item by item; nothing checks that they fit together.
#[derive(Debug, Default, Clone)]
pub struct Encoder(pub Vec<u8>);

impl Encoder {
    /// The head of an item: major type (0 to 7) and argument, in the shortest form.
    pub fn head(&mut self, major: u8, argument: u64) -> &mut Self {
        let major = major << 5;
        match argument {
            0..24 => self.0.push(major | argument as u8),
            24..0x100 => self.0.extend([major | 24, argument as u8]),
            0x100..0x1_0000 => {
                self.0.push(major | 25);
                self.0.extend((argument as u16).to_be_bytes());
            }
            0x1_0000..0x1_0000_0000 => {
                self.0.push(major | 26);
                self.0.extend((argument as u32).to_be_bytes());
            }
            _ => {
                self.0.push(major | 27);
                self.0.extend(argument.to_be_bytes());
            }
        }
        self
    }

    /// An unsigned number.
    pub fn uint(&mut self, value: u64) -> &mut Self {
        self.head(0, value)
    }

    /// A byte string.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.head(2, value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// A text string.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.head(3, value.len() as u64);
        self.0.extend_from_slice(value.as_bytes());
        self
    }

    /// The head of an array.
    pub fn array(&mut self, length: usize) -> &mut Self {
        self.head(4, length as u64)
    }

    /// The head of a map.
    pub fn map(&mut self, length: usize) -> &mut Self {
        self.head(5, length as u64)
    }

    /// A tag before the next item.
    pub fn tag(&mut self, tag: u64) -> &mut Self {
        self.head(6, tag)
    }

    /// Null.
    pub fn null(&mut self) -> &mut Self {
        self.0.push(0xf6);
        self
    }

    /// A set of numbers, with its tag.
    pub fn set(&mut self, numbers: &[u64]) -> &mut Self {
        self.tag(SET).array(numbers.len());
        for number in numbers {
            self.uint(*number);
        }
        self
    }
}

/// The body of an allocation.
pub fn allocate(share_numbers: &[u64], allocated_size: u64) -> Vec<u8> {
    let mut encoder = Encoder::default();
    encoder.map(2).text("share-numbers").set(share_numbers).text("allocated-size").uint(allocated_size);
    encoder.0
}

/// The body of a corruption report.
pub fn corrupt(reason: &str) -> Vec<u8> {
    let mut encoder = Encoder::default();
    encoder.map(1).text("reason").text(reason);
    encoder.0
}

/// What a read-test-write asks of one share.
#[derive(Debug, Default, Clone)]
pub struct TestWrite {
    /// Offset, size and what should be there.
    pub tests: Vec<(u64, u64, Vec<u8>)>,
    /// Offset and what to write there.
    pub writes: Vec<(u64, Vec<u8>)>,
    /// Cut to this length at the end; 0 removes the share.
    pub new_length: Option<u64>,
}

/// A read-test-write.
#[derive(Debug, Default, Clone)]
pub struct ReadTestWrite {
    /// Share number and what is asked of it, in the order in which they are sent.
    pub shares: Vec<(u64, TestWrite)>,
    /// Offset and size of what to read from every share.
    pub reads: Vec<(u64, u64)>,
}

/// The body of a read-test-write, appended to `encoder`.
pub fn encode_read_test_write(request: &ReadTestWrite, encoder: &mut Encoder) {
    encoder.map(2).text("test-write-vectors").map(request.shares.len());
    for (number, share) in &request.shares {
        encoder.uint(*number).map(3).text("test").array(share.tests.len());
        for (offset, size, specimen) in &share.tests {
            encoder.map(3).text("offset").uint(*offset).text("size").uint(*size).text("specimen").bytes(specimen);
        }
        encoder.text("write").array(share.writes.len());
        for (offset, data) in &share.writes {
            encoder.map(2).text("offset").uint(*offset).text("data").bytes(data);
        }
        encoder.text("new-length");
        match share.new_length {
            Some(length) => encoder.uint(length),
            None => encoder.null(),
        };
    }
    encoder.text("read-vector").array(request.reads.len());
    for (offset, size) in &request.reads {
        encoder.map(2).text("offset").uint(*offset).text("size").uint(*size);
    }
}

/// The body of a read-test-write.
pub fn read_test_write(request: &ReadTestWrite) -> Vec<u8> {
    let mut encoder = Encoder::default();
    encode_read_test_write(request, &mut encoder);
    encoder.0
}

/// Decodes one item that is the whole of `bytes`.
///
/// # Errors
/// If it is not CBOR or something follows.
pub fn decode(bytes: &[u8]) -> anyhow::Result<Value> {
    let mut rest = bytes;
    let value = ciborium::de::from_reader(&mut rest).context("body is not CBOR")?;
    ensure!(rest.is_empty(), "{} bytes after the CBOR item", rest.len());
    Ok(value)
}

/// Brings a value into one form for comparing: sets and maps sorted.
pub fn normalized(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(normalized).collect()),
        Value::Map(entries) => {
            let mut entries: Vec<_> = entries.into_iter().map(|(k, v)| (normalized(k), normalized(v))).collect();
            entries.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
            Value::Map(entries)
        }
        Value::Tag(SET, inner) => match *inner {
            Value::Array(mut items) => {
                items.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
                Value::Tag(SET, Box::new(Value::Array(items)))
            }
            other => Value::Tag(SET, Box::new(other)),
        },
        other => other,
    }
}

/// A set of numbers.
///
/// # Errors
/// If it is anything else, the tag included.
pub fn number_set(value: &Value) -> anyhow::Result<BTreeSet<u64>> {
    match value {
        Value::Tag(SET, inner) => array(inner)?.iter().map(number).collect(),
        other => bail!("expected a set, got {other:?}"),
    }
}

/// The field of a map with text keys.
///
/// # Errors
/// If it is no map or has no such key.
pub fn field<'a>(value: &'a Value, name: &str) -> anyhow::Result<&'a Value> {
    let entries = value.as_map().with_context(|| format!("expected a map, got {value:?}"))?;
    let found = entries.iter().find(|(key, _)| key.as_text() == Some(name));
    found.map(|(_, value)| value).with_context(|| format!("no field {name}"))
}

/// An array.
///
/// # Errors
/// If it is anything else.
pub fn array(value: &Value) -> anyhow::Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("expected an array, got {value:?}"))
}

/// An unsigned number.
///
/// # Errors
/// If it is anything else.
pub fn number(value: &Value) -> anyhow::Result<u64> {
    let integer = value.as_integer().with_context(|| format!("expected a number, got {value:?}"))?;
    u64::try_from(integer).context("number out of range")
}

/// The answer to a read-test-write: did the tests hold, and what was read of each share.
pub type ReadTestWriteResult = (bool, BTreeMap<u64, Vec<Vec<u8>>>);

/// Decodes the answer to a read-test-write.
///
/// # Errors
/// If the body is something else.
pub fn read_test_write_result(body: &[u8]) -> anyhow::Result<ReadTestWriteResult> {
    let value = decode(body)?;
    let success = field(&value, "success")?.as_bool().context("success is no bool")?;
    let entries = field(&value, "data")?.as_map().context("data is no map")?;
    let mut data = BTreeMap::new();
    for (share, reads) in entries {
        let reads = array(reads)?.iter().map(|read| read.as_bytes().cloned().context("a read is no byte string"));
        data.insert(number(share)?, reads.collect::<anyhow::Result<_>>()?);
    }
    Ok((success, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocation_is_what_the_released_client_sends() {
        // "allocate shares 1 and 7" of the recorded exchanges.
        let expected = "a26d73686172652d6e756d62657273d901028201076e616c6c6f63617465642d73697a651864";
        assert_eq!(data_encoding::HEXLOWER.encode(&allocate(&[1, 7], 100)), expected);
    }

    #[test]
    fn sets_compare_without_order() {
        let (mut a, mut b) = (Encoder::default(), Encoder::default());
        a.set(&[1, 300]);
        b.set(&[300, 1]);
        assert_ne!(decode(&a.0).unwrap(), decode(&b.0).unwrap());
        assert_eq!(normalized(decode(&a.0).unwrap()), normalized(decode(&b.0).unwrap()));
    }
}
