//! The manifest of a backup: what it is a backup of, which tables and columns it has, and what its parts must be.
//!
//! ```text
//! LhBackup FORMAT(4)  rows: [0, …] the instant, [1, …] a table, [2, …] a part, [3, …] an account  BLAKE3(32) of all before
//! ```

use std::collections::BTreeMap;

use super::part::Part;
use super::recount::{Held, Recount};
use super::row::{self, Row, Value};
use super::table::{Absent, Column, Role, TABLES, Table};
use super::{BackupName, Instant};
use crate::clock::Timestamp;
use crate::id::{AccountId, ObjectId};
use crate::leasedb::{Epoch, Mode};

/// The format that this program writes. It grows when older programs would misread a backup; added tables and columns
/// do not change it.
const FORMAT: u32 = 1;
const MAGIC: &[u8; 8] = b"LhBackup";
const DIGEST_BYTES: usize = 32;
/// The longest manifest that is read, in bytes: that of a hundred thousand parts and a million accounts.
pub const MANIFEST_BYTES_MAX: u64 = 64 << 20;

const INSTANT: i64 = 0;
const TABLE: i64 = 1;
const PART: i64 = 2;
const ACCOUNT: i64 = 3;

/// Why a backup, or one object of it, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Written by a newer program.
    #[error("{0}; restore it with the Leasehold that wrote it, or a newer one")]
    Newer(String),
    /// Not what was written.
    #[error("{0}")]
    Damaged(String),
}

impl Unreadable {
    fn damaged(what: &str) -> Self {
        Self::Damaged(what.to_owned())
    }
}

/// A table as a backup has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableEntry {
    /// Its name.
    pub name: String,
    /// How many rows of it there are.
    pub rows: u64,
    /// Its columns, in the order of the rows' values.
    pub columns: Vec<String>,
}

/// What a backup is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Which one.
    pub name: BackupName,
    /// What the database was.
    pub instant: Instant,
    /// The tables; parts number them in this order.
    pub tables: Vec<TableEntry>,
    /// The parts, in their order.
    pub parts: Vec<Part>,
    /// What each account holds by its leases.
    pub held: BTreeMap<AccountId, Held>,
}

impl Manifest {
    /// The manifest of a backup whose rows were all counted.
    pub fn new(name: BackupName, instant: Instant, parts: Vec<Part>, recount: &Recount) -> Self {
        let entry = |(table, rows): (&&Table, &u64)| TableEntry {
            name: table.name.to_owned(),
            rows: *rows,
            columns: table.columns.iter().map(|column| column.name.to_owned()).collect(),
        };
        let tables = TABLES.iter().zip(recount.rows()).map(entry).collect();
        Self { name, instant, tables, parts, held: recount.held() }
    }

    /// How many rows a table has.
    pub fn rows_of(&self, table: &Table) -> u64 {
        self.tables.iter().find(|entry| entry.name == table.name).map_or(0, |entry| entry.rows)
    }

    /// How many rows there are.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|entry| entry.rows).sum()
    }

    /// Length of all parts in bytes.
    pub fn packed_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.packed_bytes).sum()
    }

    /// Whether counting the rows came to what the manifest says.
    ///
    /// # Errors
    /// [`Unreadable`] with what differs.
    pub fn compare(&self, recount: &Recount) -> Result<(), Unreadable> {
        for (table, rows) in TABLES.iter().zip(recount.rows()) {
            let expected = self.rows_of(table);
            if *rows != expected {
                return Err(Unreadable::Damaged(format!("it has {rows} rows of {}, not {expected}", table.name)));
            }
        }
        if recount.held() != self.held {
            return Err(Unreadable::damaged("what accounts hold does not add up to what the manifest says"));
        }
        Ok(())
    }

    /// The manifest as an object.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = [MAGIC.as_slice(), &FORMAT.to_be_bytes()].concat();
        let Instant { deployment, epoch, mode, accounts_version, beat, taken_at } = self.instant;
        let mode = if mode == Mode::Normal { 0 } else { 1 };
        row::put(
            &mut out,
            &[
                Value::Integer(INSTANT),
                number(self.name.epoch.0),
                number(self.name.number),
                Value::Bytes(self.name.id.as_bytes().to_vec()),
                Value::Bytes(deployment.as_bytes().to_vec()),
                number(epoch.0),
                Value::Integer(mode),
                number(accounts_version),
                number(beat),
                Value::Integer(taken_at.millis()),
            ],
        );
        for TableEntry { name, rows, columns } in &self.tables {
            let mut row = vec![Value::Integer(TABLE), Value::Text(name.clone()), number(*rows)];
            row.extend(columns.iter().cloned().map(Value::Text));
            row::put(&mut out, &row);
        }
        for Part { packed_bytes, row_bytes, rows, digest } in &self.parts {
            let [packed_bytes, row_bytes, rows] = [*packed_bytes, *row_bytes, *rows].map(number);
            row::put(&mut out, &[Value::Integer(PART), packed_bytes, row_bytes, rows, Value::Bytes(digest.to_vec())]);
        }
        for (account, Held { bytes, shares }) in &self.held {
            row::put(
                &mut out,
                &[Value::Integer(ACCOUNT), number(account.get().into()), number(*bytes), number(*shares)],
            );
        }
        let digest = blake3::hash(&out);
        out.extend_from_slice(digest.as_bytes());
        out
    }

    /// Reads a manifest that was found under a name.
    ///
    /// # Errors
    /// [`Unreadable`] for anything that [`encode`](Self::encode) did not write for that name.
    pub fn decode(object: &[u8], name: BackupName) -> Result<Self, Unreadable> {
        let malformed = || Unreadable::damaged("its manifest is not one");
        let rest = object.strip_prefix(MAGIC).ok_or_else(malformed)?;
        let (format, _) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
        let format = u32::from_be_bytes(*format);
        if format > FORMAT {
            return Err(Unreadable::Newer(format!(
                "it is written in format {format}, this program reads up to {FORMAT}"
            )));
        }
        let (covered, digest) = object.split_last_chunk::<DIGEST_BYTES>().ok_or_else(malformed)?;
        if blake3::hash(covered) != *digest {
            return Err(Unreadable::damaged("the checksum of its manifest is wrong"));
        }
        let rows = covered.get(MAGIC.len() + 4..).ok_or_else(malformed)?;
        let manifest = decode_rows(rows).ok_or_else(malformed)?;
        if manifest.name != name || manifest.instant.epoch != name.epoch {
            return Err(Unreadable::Damaged(format!("its manifest is that of {}", manifest.name)));
        }
        Ok(manifest)
    }
}

fn number(value: u64) -> Value {
    Value::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

fn decode_rows(mut rows: &[u8]) -> Option<Manifest> {
    let first = row::take(&mut rows).ok()??;
    let [Value::Integer(INSTANT), epoch, sequence, id, deployment, current, mode, version, beat, taken_at] =
        first.as_slice()
    else {
        return None;
    };
    let name =
        BackupName { epoch: Epoch(epoch.unsigned()?), number: sequence.unsigned()?, id: ObjectId::new(id.array()?) };
    let mode = if *mode == Value::Integer(0) { Mode::Normal } else { Mode::Recovery };
    let instant = Instant {
        deployment: ObjectId::new(deployment.array()?),
        epoch: Epoch(current.unsigned()?),
        mode,
        accounts_version: version.unsigned()?,
        beat: beat.unsigned()?,
        taken_at: Timestamp::from_millis(taken_at.integer()?),
    };
    let mut manifest = Manifest { name, instant, tables: Vec::new(), parts: Vec::new(), held: BTreeMap::new() };
    while let Some(row) = row::take(&mut rows).ok()? {
        match row.as_slice() {
            [Value::Integer(TABLE), name, rows, columns @ ..] => manifest.tables.push(TableEntry {
                name: name.text()?.to_owned(),
                rows: rows.unsigned()?,
                columns: columns.iter().map(|column| column.text().map(str::to_owned)).collect::<Option<_>>()?,
            }),
            [Value::Integer(PART), packed_bytes, row_bytes, rows, digest] => manifest.parts.push(Part {
                packed_bytes: packed_bytes.unsigned()?,
                row_bytes: row_bytes.unsigned()?,
                rows: rows.unsigned()?,
                digest: digest.array()?,
            }),
            [Value::Integer(ACCOUNT), account, bytes, shares] => {
                let account = AccountId::new(u32::try_from(account.integer()?).ok()?);
                manifest.held.insert(account, Held { bytes: bytes.unsigned()?, shares: shares.unsigned()? });
            }
            _ => return None,
        }
    }
    Some(manifest)
}

/// How the rows of one backup become rows of this program's tables.
#[derive(Debug)]
pub struct Layout(Vec<(&'static Table, Vec<From>, usize)>);

/// Where the value of a column comes from.
#[derive(Clone, Copy, Debug)]
enum From {
    /// So far into the backup's row.
    Row(usize),
    /// The backup does not have it.
    Absent(Absent),
}

impl Layout {
    /// Finds this program's tables in a backup's.
    ///
    /// # Errors
    /// The backup has tables or columns that this program does not know, or lacks some that every backup has.
    pub fn of(manifest: &Manifest) -> Result<Self, Unreadable> {
        manifest.tables.iter().map(table_layout).collect::<Result<_, _>>().map(Self)
    }

    /// The table of a number.
    pub fn table(&self, number: usize) -> Option<&'static Table> {
        self.0.get(number).map(|(table, ..)| *table)
    }

    /// A row of the backup as a row of the table; `None` if it does not fit.
    pub fn row(&self, number: usize, mut row: Row) -> Option<Row> {
        let (table, from, length) = self.0.get(number)?;
        if row.len() != *length {
            return None;
        }
        let value = |(column, from): (&Column, &From)| {
            let value = match from {
                From::Row(at) => std::mem::replace(&mut row[*at], Value::Null),
                From::Absent(Absent::Integer(number)) => Value::Integer(*number),
                From::Absent(Absent::Null | Absent::Never) => Value::Null,
            };
            value.fits(column).then_some(value)
        };
        table.columns.iter().zip(from).map(value).collect()
    }
}

fn table_layout(entry: &TableEntry) -> Result<(&'static Table, Vec<From>, usize), Unreadable> {
    let unknown = |what: String| Unreadable::Newer(format!("it has {what}, which this program does not know"));
    let table = TABLES.into_iter().find(|table| table.name == entry.name);
    let table = table.ok_or_else(|| unknown(format!("a table {:?}", entry.name)))?;
    let is_known = |name: &&String| !table.columns.iter().any(|column| column.name == **name);
    if let Some(name) = entry.columns.iter().find(is_known) {
        return Err(unknown(format!("a column {:?} of {}", name, table.name)));
    }
    let from = |column: &Column| match entry.columns.iter().position(|name| name == column.name) {
        Some(at) => Ok(From::Row(at)),
        None if column.absent == Absent::Never => {
            Err(Unreadable::Damaged(format!("it lacks the column {} of {}", column.name, table.name)))
        }
        None => Ok(From::Absent(column.absent)),
    };
    Ok((table, table.columns.iter().map(from).collect::<Result<_, _>>()?, entry.columns.len()))
}

/// Whether rows of a table are put back by an import.
pub fn is_put_back(table: &Table) -> bool {
    table.role != Role::Recounted
}

#[cfg(test)]
mod tests;
