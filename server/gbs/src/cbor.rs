//! A pull reader for CBOR that follows a schema: no value is built that the schema does not name, so nesting, counts and
//! lengths are bounded by the schema, not by the input. Definite and indefinite lengths both pass (`gbs.md` 5).

use std::io::Read;

use ciborium_ll::{Decoder, Error, Header};

/// A body that does not fit its schema, with a word on where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

type Result<T> = std::result::Result<T, Malformed>;

/// Reads CBOR values one after the other.
pub struct Reader<R: Read>(Decoder<ciborium_reader::Source<R>>);

mod ciborium_reader {
    //! Lets any `std::io::Read` be decoded without a copy of it in memory.

    pub struct Source<R>(pub R);

    impl<R: std::io::Read> ciborium_io::Read for Source<R> {
        type Error = std::io::Error;

        fn read_exact(&mut self, data: &mut [u8]) -> Result<(), Self::Error> {
            self.0.read_exact(data)
        }
    }
}

/// Where a byte string lies in the body.
pub type Place = std::ops::Range<u64>;

impl<R: Read> Reader<R> {
    /// Reads from the start of `source`.
    pub fn new(source: R) -> Self {
        Self(Decoder::from(ciborium_reader::Source(source)))
    }

    fn pull(&mut self) -> Result<Header> {
        self.0.pull().map_err(|error: Error<_>| match error {
            Error::Io(_) => Malformed("the body ends early"),
            Error::Syntax(_) => Malformed("the body is not CBOR"),
        })
    }

    /// Calls `entry` for each entry of a map, which must read key and value.
    pub fn map(&mut self, max: usize, mut entry: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        match self.pull()? {
            Header::Map(length) => self.items(length, max, &mut entry),
            _ => Err(Malformed("a map is expected")),
        }
    }

    /// Calls `item` for each item of an array, which must read it.
    pub fn array(&mut self, max: usize, mut item: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        match self.pull()? {
            Header::Array(length) => self.items(length, max, &mut item),
            _ => Err(Malformed("an array is expected")),
        }
    }

    /// Reads an array of what `item` reads.
    pub fn list<T>(&mut self, max: usize, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut list = Vec::new();
        self.array(max, |reader| {
            list.push(item(reader)?);
            Ok(())
        })?;
        Ok(list)
    }

    fn items(
        &mut self,
        length: Option<usize>,
        max: usize,
        item: &mut impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<()> {
        if length.is_some_and(|length| length > max) {
            return Err(Malformed("too many items"));
        }
        for count in 0.. {
            if length == Some(count) {
                break;
            }
            if length.is_none() {
                match self.pull()? {
                    Header::Break => break,
                    other => self.0.push(other),
                }
            }
            if count == max {
                return Err(Malformed("too many items"));
            }
            item(self)?;
        }
        Ok(())
    }

    /// Reads tag 258, which marks a set.
    pub fn set_tag(&mut self) -> Result<()> {
        if self.pull()? == Header::Tag(258) { Ok(()) } else { Err(Malformed("a set is expected")) }
    }

    /// Reads an unsigned integer.
    pub fn uint(&mut self) -> Result<u64> {
        match self.pull()? {
            Header::Positive(value) => Ok(value),
            _ => Err(Malformed("an unsigned integer is expected")),
        }
    }

    /// Reads an unsigned integer or null.
    pub fn uint_or_null(&mut self) -> Result<Option<u64>> {
        match self.pull()? {
            Header::Positive(value) => Ok(Some(value)),
            Header::Simple(ciborium_ll::simple::NULL) => Ok(None),
            _ => Err(Malformed("an unsigned integer or null is expected")),
        }
    }

    /// Reads a text of at most `max` bytes.
    pub fn text(&mut self, max: usize) -> Result<String> {
        let Header::Text(length) = self.pull()? else { return Err(Malformed("a text is expected")) };
        if length.is_some_and(|length| length > max) {
            return Err(Malformed("a text is too long"));
        }
        let mut text = String::new();
        let mut buffer = [0; 4096];
        let mut segments = self.0.text(length);
        let broken = |_| Malformed("a text is not UTF-8, or ends early");
        while let Some(mut segment) = segments.pull().map_err(broken)? {
            while let Some(part) = segment.pull(&mut buffer).map_err(broken)? {
                if text.len() + part.len() > max {
                    return Err(Malformed("a text is too long"));
                }
                text.push_str(part);
            }
        }
        Ok(text)
    }

    /// Reads a byte string of at most `max` bytes into memory.
    pub fn bytes(&mut self, max: usize) -> Result<Vec<u8>> {
        let Header::Bytes(length) = self.pull()? else { return Err(Malformed("a byte string is expected")) };
        if length.is_some_and(|length| length > max) {
            return Err(Malformed("a byte string is too long"));
        }
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        let mut segments = self.0.bytes(length);
        let broken = |_| Malformed("a byte string ends early");
        while let Some(mut segment) = segments.pull().map_err(broken)? {
            while let Some(part) = segment.pull(&mut buffer).map_err(broken)? {
                if bytes.len() + part.len() > max {
                    return Err(Malformed("a byte string is too long"));
                }
                bytes.extend_from_slice(part);
            }
        }
        Ok(bytes)
    }

    /// Passes over a byte string and tells where its segments lie; at most `max` of them.
    pub fn place_of_bytes(&mut self, max: usize) -> Result<Vec<Place>> {
        let Header::Bytes(length) = self.pull()? else { return Err(Malformed("a byte string is expected")) };
        let mut places = Vec::new();
        match length {
            Some(length) => places.push(self.skip(length)?),
            None => loop {
                match self.pull()? {
                    Header::Break => break,
                    Header::Bytes(Some(length)) if places.len() < max => places.push(self.skip(length)?),
                    _ => return Err(Malformed("a byte string is expected")),
                }
            },
        }
        Ok(places)
    }

    fn skip(&mut self, length: usize) -> Result<Place> {
        let start = self.0.offset() as u64;
        let mut buffer = [0; 4096];
        let mut segments = self.0.bytes(Some(length));
        let broken = |_| Malformed("a byte string ends early");
        while let Some(mut segment) = segments.pull().map_err(broken)? {
            while segment.pull(&mut buffer).map_err(broken)?.is_some() {}
        }
        Ok(start..start + length as u64)
    }
}
