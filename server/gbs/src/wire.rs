//! Bodies of requests and responses as CBOR (`gbs.md` 5). The only module that knows their schemas.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;

use bytes::Bytes;
use ciborium_ll::{Encoder, Header};
use leasehold_core::id::ShareNumber;
use leasehold_core::slot::{ReadTestWrite, ShareVectors, TestVector, WriteVector};
use leasehold_core::store::{Allocated, ReadTestWriteOutcome, ShareSlice, Space};

use crate::cbor::{Malformed, Reader};

/// Largest allocate request, in bytes (the released server's limit).
pub const ALLOCATE_BODY_MAX: u64 = 8192;
/// Largest corruption report, in bytes (the released server's limit).
pub const CORRUPT_BODY_MAX: u64 = 32_768;
const SHARES_MAX: usize = 256;
const VECTORS_MAX: usize = 30;
/// Longest key of any schema, in bytes.
const KEY_MAX: usize = 24;
/// Bytes of all specimens of a request together; clients send some hundred.
const SPECIMENS_MAX: usize = 16 << 20;
/// Writes of all shares of a request together; clients send some dozens.
const WRITES_MAX: usize = 65_536;

type Result<T> = std::result::Result<T, Malformed>;

/// An allocate request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocateRequest {
    /// The shares wanted, without repetition.
    pub share_numbers: Vec<ShareNumber>,
    /// Size of each in bytes.
    pub allocated_size: u64,
}

fn share_number(number: u64) -> Result<ShareNumber> {
    ShareNumber::try_from(number).map_err(|_| Malformed("a share number is larger than 255"))
}

/// Reads an allocate request.
///
/// # Errors
/// [`Malformed`] if it does not fit the schema.
pub fn read_allocate(body: impl Read) -> Result<AllocateRequest> {
    let (mut numbers, mut size) = (None, None);
    Reader::new(body).map(16, |reader| {
        match reader.text(KEY_MAX)?.as_str() {
            "share-numbers" => {
                let mut set = std::collections::BTreeSet::new();
                reader.set_tag()?;
                reader.array(SHARES_MAX, |reader| {
                    set.insert(share_number(reader.uint()?)?);
                    Ok(())
                })?;
                numbers = Some(set.into_iter().collect());
            }
            "allocated-size" => size = Some(reader.uint()?),
            _ => return Err(Malformed("an allocate request has an unknown key")),
        }
        Ok(())
    })?;
    match (numbers, size) {
        (Some(share_numbers), Some(allocated_size)) => Ok(AllocateRequest { share_numbers, allocated_size }),
        _ => Err(Malformed("an allocate request lacks a key")),
    }
}

/// Reads the reason of a corruption report.
///
/// # Errors
/// [`Malformed`] if it does not fit the schema.
pub fn read_corrupt(body: impl Read) -> Result<String> {
    let mut reason = None;
    Reader::new(body).map(16, |reader| match reader.text(KEY_MAX)?.as_str() {
        "reason" => {
            reason = Some(reader.text(CORRUPT_BODY_MAX as usize)?);
            Ok(())
        }
        _ => Err(Malformed("a corruption report has an unknown key")),
    })?;
    reason.filter(|reason| !reason.is_empty()).ok_or(Malformed("a corruption report lacks a reason"))
}

/// Reads a read-test-write request; the bytes to be written stay where they are in the body.
///
/// # Errors
/// [`Malformed`] if it does not fit the schema.
pub fn read_test_write(body: impl Read) -> Result<ReadTestWrite> {
    let mut budget = Budget { specimens: SPECIMENS_MAX, writes: WRITES_MAX };
    let (mut vectors, mut reads) = (None, None);
    Reader::new(body).map(16, |reader| {
        match reader.text(KEY_MAX)?.as_str() {
            "test-write-vectors" => {
                let mut shares = BTreeMap::new();
                reader.map(SHARES_MAX, |reader| {
                    let number = share_number(reader.uint()?)?;
                    shares.insert(number, share_vectors(reader, &mut budget)?);
                    Ok(())
                })?;
                vectors = Some(shares);
            }
            "read-vector" => {
                reads = Some(reader.list(VECTORS_MAX, read_vector)?);
            }
            _ => return Err(Malformed("a read-test-write request has an unknown key")),
        }
        Ok(())
    })?;
    match (vectors, reads) {
        (Some(vectors), Some(reads)) => Ok(ReadTestWrite { vectors, reads }),
        _ => Err(Malformed("a read-test-write request lacks a key")),
    }
}

struct Budget {
    specimens: usize,
    writes: usize,
}

fn share_vectors<R: Read>(reader: &mut Reader<R>, budget: &mut Budget) -> Result<ShareVectors> {
    let (mut tests, mut writes, mut new_length) = (None, None, None);
    reader.map(16, |reader| {
        match reader.text(KEY_MAX)?.as_str() {
            "test" => {
                tests = Some(reader.list(VECTORS_MAX, |reader| test_vector(reader, budget))?);
            }
            "write" => {
                let mut vectors = Vec::new();
                reader.array(WRITES_MAX, |reader| write_vector(reader, budget, &mut vectors))?;
                writes = Some(vectors);
            }
            "new-length" => new_length = Some(reader.uint_or_null()?),
            _ => return Err(Malformed("a test-write vector has an unknown key")),
        }
        Ok(())
    })?;
    match (tests, writes, new_length) {
        (Some(tests), Some(writes), Some(new_length)) => Ok(ShareVectors { tests, writes, new_length }),
        _ => Err(Malformed("a test-write vector lacks a key")),
    }
}

fn test_vector<R: Read>(reader: &mut Reader<R>, budget: &mut Budget) -> Result<TestVector> {
    let (mut offset, mut size, mut specimen) = (None, None, None);
    reader.map(16, |reader| {
        match reader.text(KEY_MAX)?.as_str() {
            "offset" => offset = Some(reader.uint()?),
            "size" => size = Some(reader.uint()?),
            "specimen" => {
                let bytes = reader.bytes(budget.specimens)?;
                budget.specimens -= bytes.len();
                specimen = Some(Bytes::from(bytes));
            }
            _ => return Err(Malformed("a test vector has an unknown key")),
        }
        Ok(())
    })?;
    match (offset, size, specimen) {
        (Some(offset), Some(size), Some(specimen)) => Ok(TestVector { offset, size, specimen }),
        _ => Err(Malformed("a test vector lacks a key")),
    }
}

fn write_vector<R: Read>(reader: &mut Reader<R>, budget: &mut Budget, writes: &mut Vec<WriteVector>) -> Result<()> {
    let (mut offset, mut places) = (None, None);
    reader.map(16, |reader| {
        match reader.text(KEY_MAX)?.as_str() {
            "offset" => offset = Some(reader.uint()?),
            "data" => places = Some(reader.place_of_bytes(budget.writes)?),
            _ => return Err(Malformed("a write vector has an unknown key")),
        }
        Ok(())
    })?;
    let (Some(mut offset), Some(places)) = (offset, places) else {
        return Err(Malformed("a write vector lacks a key"));
    };
    budget.writes = budget.writes.checked_sub(places.len().max(1)).ok_or(Malformed("too many writes"))?;
    // A byte string in segments is as many writes, one behind the other; without any it still is an empty write.
    if places.is_empty() {
        writes.push(WriteVector { offset, length: 0, source: 0 });
    }
    for place in places {
        let length = place.end - place.start;
        writes.push(WriteVector { offset, length, source: place.start });
        // Beyond the largest number it is beyond any share as well, which the store says.
        offset = offset.saturating_add(length);
    }
    Ok(())
}

fn read_vector<R: Read>(reader: &mut Reader<R>) -> Result<Range<u64>> {
    let (mut offset, mut size) = (None, None);
    reader.map(16, |reader| {
        match reader.text(KEY_MAX)?.as_str() {
            "offset" => offset = Some(reader.uint()?),
            "size" => size = Some(reader.uint()?),
            _ => return Err(Malformed("a read vector has an unknown key")),
        }
        Ok(())
    })?;
    match (offset, size) {
        (Some(offset), Some(size)) => Ok(offset..u64::saturating_add(offset, size)),
        _ => Err(Malformed("a read vector lacks a key")),
    }
}

/// Writes CBOR into memory, which cannot fail.
struct Writer(Vec<u8>);

impl Writer {
    fn new() -> Self {
        Self(Vec::with_capacity(256))
    }

    fn encoder(&mut self) -> Encoder<&mut Vec<u8>> {
        Encoder::from(&mut self.0)
    }

    fn push(&mut self, header: Header) -> &mut Self {
        self.encoder().push(header).expect("memory takes everything");
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.encoder().text(text, None).expect("memory takes everything");
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.encoder().bytes(bytes, None).expect("memory takes everything");
        self
    }

    fn set(&mut self, numbers: &[ShareNumber]) -> &mut Self {
        self.push(Header::Tag(258)).push(Header::Array(Some(numbers.len())));
        for number in numbers {
            self.push(Header::Positive(number.get().into()));
        }
        self
    }

    fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.0).into()
    }
}

/// The set of share numbers that a listing answers with.
pub fn write_list(numbers: &[ShareNumber]) -> Bytes {
    Writer::new().set(numbers).take()
}

/// The answer to an allocate request.
pub fn write_allocated(allocated: &Allocated) -> Bytes {
    let mut writer = Writer::new();
    writer.push(Header::Map(Some(2)));
    writer.text("already-have").set(&allocated.already_have);
    writer.text("allocated").set(&allocated.allocated).take()
}

/// The answer to a write: what is still missing.
pub fn write_required(missing: &[Range<u64>]) -> Bytes {
    let mut writer = Writer::new();
    writer.push(Header::Map(Some(1))).text("required").push(Header::Array(Some(missing.len())));
    for range in missing {
        writer.push(Header::Map(Some(2)));
        writer.text("begin").push(Header::Positive(range.start));
        writer.text("end").push(Header::Positive(range.end));
    }
    writer.take()
}

/// The version document: all keys are byte strings, and there may be no others (`gbs.md` 5).
pub fn write_version(space: &Space, application_version: &str) -> Bytes {
    let mut writer = Writer::new();
    writer.push(Header::Map(Some(2)));
    writer.bytes(b"http://allmydata.org/tahoe/protocols/storage/v1").push(Header::Map(Some(3)));
    let mut entry = |key: &[u8], value| {
        writer.bytes(key).push(Header::Positive(value));
    };
    entry(b"maximum-immutable-share-size", space.immutable_share_max_bytes);
    entry(b"maximum-mutable-share-size", space.mutable_share_max_bytes);
    entry(b"available-space", space.available_bytes);
    writer.bytes(b"application-version").bytes(application_version.as_bytes()).take()
}

/// A response in parts: bytes, and slices of shares whose bytes belong in between.
pub enum Part {
    /// These bytes.
    Bytes(Bytes),
    /// The bytes of this slice.
    Slice(ShareSlice),
}

impl Part {
    /// How long it is in the response, in bytes.
    pub const fn length_bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Slice(slice) => slice.length_bytes,
        }
    }
}

/// The answer to a read-test-write request.
pub fn write_read_test_write(outcome: &ReadTestWriteOutcome) -> Vec<Part> {
    let mut writer = Writer::new();
    let mut parts = Vec::new();
    writer.push(Header::Map(Some(2)));
    let success = if outcome.success { ciborium_ll::simple::TRUE } else { ciborium_ll::simple::FALSE };
    writer.text("success").push(Header::Simple(success));
    writer.text("data").push(Header::Map(Some(outcome.data.len())));
    for (number, slices) in &outcome.data {
        writer.push(Header::Positive(number.get().into())).push(Header::Array(Some(slices.len())));
        for slice in slices {
            writer.push(Header::Bytes(usize::try_from(slice.length_bytes).ok()));
            if slice.length_bytes > 0 {
                parts.push(Part::Bytes(writer.take()));
                parts.push(Part::Slice(slice.clone()));
            }
        }
    }
    parts.push(Part::Bytes(writer.take()));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn write_data_stays_in_the_body() {
        // {"test-write-vectors": {3: {"test": [], "write": [{"offset": 7, "data": (_ h'0102', h'03')}], "new-length": null}},
        //  "read-vector": []}
        let mut body = Writer::new();
        body.push(Header::Map(Some(2))).text("test-write-vectors").push(Header::Map(Some(1)));
        body.push(Header::Positive(3)).push(Header::Map(Some(3))).text("test").push(Header::Array(Some(0)));
        body.text("write").push(Header::Array(Some(1))).push(Header::Map(Some(2)));
        body.text("offset").push(Header::Positive(7)).text("data").push(Header::Bytes(None));
        body.bytes(&[1, 2]).bytes(&[3]).push(Header::Break);
        body.text("new-length").push(Header::Simple(ciborium_ll::simple::NULL));
        body.text("read-vector").push(Header::Array(Some(0)));
        let body = body.take();
        let request = read_test_write(&body[..]).expect("fits the schema");
        let writes = &request.vectors[&ShareNumber::new(3)].writes;
        let read: Vec<(u64, &[u8])> =
            writes.iter().map(|w| (w.offset, &body[w.source as usize..][..w.length as usize])).collect();
        assert_eq!(read, [(7, &[1, 2][..]), (9, &[3][..])]);
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_or_read(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read_allocate(&body[..]);
            let _ = read_corrupt(&body[..]);
            let _ = read_test_write(&body[..]);
        }

        #[test]
        fn damaged_requests_are_refused_or_read(at in 0usize..70, byte: u8) {
            let mut body = write_allocated(&Allocated::default()).to_vec();
            let at = at % body.len();
            body[at] = byte;
            let _ = read_allocate(&body[..]);
        }
    }
}
