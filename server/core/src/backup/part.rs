//! Parts of a backup: pages of rows, compressed, with a checksum.
//!
//! A page begins with a row of its own, `[null, TABLE, CONTINUED]`; no key of a table begins with null. Tables are
//! numbered as the manifest lists them.

use std::io::Read;

use super::manifest::{Layout, Unreadable};
use super::row::{self, Row, Value};
use super::table::{Page, Table, index_of};
use super::walk::PAGE_ROWS;

/// How many bytes of rows end a part: few enough to compress within milliseconds.
const FULL_BYTES: usize = 2 << 20;
/// The most bytes of rows that a part may have: one row may be large.
pub const PART_BYTES_MAX: u64 = 512 << 20;
/// Compression by zstd: three quarters of the rows' bytes are random, so more effort gains little.
const LEVEL: i32 = 3;
/// The largest window that is accepted, as a power of two: [`LEVEL`] needs less.
const WINDOW_LOG_MAX: u32 = 24;

/// What the manifest says of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Length of its object in bytes.
    pub packed_bytes: u64,
    /// Length of its rows in bytes.
    pub row_bytes: u64,
    /// How many rows it has.
    pub rows: u64,
    /// BLAKE3 of its object.
    pub digest: [u8; 32],
}

/// Gathers rows to a part.
#[derive(Debug, Default)]
pub struct PartWriter {
    bytes: Vec<u8>,
    rows: u64,
}

impl PartWriter {
    /// Begins a page, or goes on with the one that the part before ended in.
    pub fn begin(&mut self, table: &Table, continued: bool) {
        let table = i64::try_from(index_of(table)).expect("few tables");
        row::put(&mut self.bytes, &[Value::Null, Value::Integer(table), Value::Integer(i64::from(continued))]);
    }

    /// Adds a row to the page.
    pub fn push(&mut self, row: &Row) {
        row::put(&mut self.bytes, row);
        self.rows += 1;
    }

    /// Whether the part has enough.
    pub const fn is_full(&self) -> bool {
        self.bytes.len() >= FULL_BYTES
    }

    /// Packs what was gathered and begins anew; `None` if there is nothing.
    ///
    /// # Errors
    /// The compressor has no memory.
    pub fn take(&mut self) -> std::io::Result<Option<(Vec<u8>, Part)>> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let packed = zstd::bulk::compress(&self.bytes, LEVEL)?;
        let part = Part {
            packed_bytes: packed.len() as u64,
            row_bytes: self.bytes.len() as u64,
            rows: std::mem::take(&mut self.rows),
            digest: blake3::hash(&packed).into(),
        };
        self.bytes.clear();
        Ok(Some((packed, part)))
    }
}

/// Reads a part back: its checksum first, then nothing that the manifest does not foresee.
///
/// # Errors
/// [`Unreadable`] if any byte of it is not as the manifest says.
pub fn unpack(packed: &[u8], part: &Part, layout: &Layout) -> Result<Vec<Page>, Unreadable> {
    let damaged = |what: &str| Unreadable::Damaged(what.to_owned());
    if packed.len() as u64 != part.packed_bytes || blake3::hash(packed) != part.digest {
        return Err(damaged("its checksum is not the one in the manifest"));
    }
    if part.row_bytes > PART_BYTES_MAX {
        return Err(damaged("it claims to hold more than a part may"));
    }
    let unpacking = || {
        let mut decoder = zstd::stream::read::Decoder::new(packed)?;
        decoder.window_log_max(WINDOW_LOG_MAX)?;
        let mut bytes = Vec::new();
        decoder.take(part.row_bytes + 1).read_to_end(&mut bytes).map(|_| bytes)
    };
    let bytes = unpacking().map_err(|_: std::io::Error| damaged("it cannot be decompressed"))?;
    if bytes.len() as u64 != part.row_bytes {
        return Err(damaged("it has not the length that the manifest says"));
    }
    let pages = read_pages(&bytes, layout)?;
    let rows: usize = pages.iter().map(|page| page.rows.len()).sum();
    if rows as u64 == part.rows { Ok(pages) } else { Err(damaged("it has not as many rows as the manifest says")) }
}

fn read_pages(mut bytes: &[u8], layout: &Layout) -> Result<Vec<Page>, Unreadable> {
    let malformed = || Unreadable::Damaged("it holds a row that is none".to_owned());
    let mut pages: Vec<(usize, Page)> = Vec::new();
    while let Some(row) = row::take(&mut bytes).map_err(|_| malformed())? {
        if let [Value::Null, Value::Integer(table), Value::Integer(continued @ (0 | 1))] = row.as_slice() {
            let number = usize::try_from(*table).map_err(|_| malformed())?;
            let table = layout.table(number).ok_or_else(malformed)?;
            pages.push((number, Page { table, rows: Vec::new(), continued: *continued == 1 }));
            continue;
        }
        let (number, page) = pages.last_mut().ok_or_else(malformed)?;
        if page.rows.len() == PAGE_ROWS {
            return Err(malformed());
        }
        page.rows.push(layout.row(*number, row).ok_or_else(malformed)?);
    }
    Ok(pages.into_iter().map(|(_, page)| page).collect())
}
