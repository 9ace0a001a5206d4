use proptest::prelude::*;

use super::*;
use crate::backup::part::{PartWriter, unpack};
use crate::backup::row::tests::any_value;
use crate::backup::table::{ACCOUNTS, Page, SHARES, index_of};

fn name() -> BackupName {
    BackupName { epoch: Epoch(2), number: 7, id: ObjectId::new([9; 16]) }
}

fn manifest(parts: Vec<Part>) -> Manifest {
    let (deployment, taken_at) = (ObjectId::new([1; 16]), Timestamp::from_millis(5006));
    let instant = Instant { deployment, epoch: Epoch(2), mode: Mode::Normal, accounts_version: 3, beat: 4, taken_at };
    Manifest::new(name(), instant, parts, &Recount::default())
}

fn share(number: i64) -> Row {
    let [number, kind, state, size, at] = [number, 0, 1, 100, 5].map(Value::Integer);
    vec![Value::Bytes(vec![7; 16]), number, kind, state, size, Value::Bytes(vec![1, 2]), at, Value::Null]
}

/// A part with a page of shares.
fn part() -> (Vec<u8>, Part) {
    let mut writer = PartWriter::default();
    writer.begin(&SHARES, false);
    for number in 0..3 {
        writer.push(&share(number));
    }
    writer.take().expect("memory").expect("rows")
}

#[test]
fn a_manifest_is_read_back() {
    let (_, part) = part();
    let mut manifest = manifest(vec![part, part]);
    manifest.held.insert(AccountId::new(16), Held { bytes: 112, shares: 1 });
    assert_eq!(Manifest::decode(&manifest.encode(), name()), Ok(manifest));
}

#[test]
fn no_bit_of_a_manifest_can_be_flipped() {
    let object = manifest(vec![part().1]).encode();
    for bit in 0..object.len() * 8 {
        let mut flipped = object.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Manifest::decode(&flipped, name()).is_err(), "bit {bit}");
    }
    for length in 0..object.len() {
        assert!(Manifest::decode(&object[..length], name()).is_err(), "cut to {length}");
    }
}

#[test]
fn a_manifest_belongs_to_its_name() {
    let other = BackupName { number: 8, ..name() };
    let error = Manifest::decode(&manifest(Vec::new()).encode(), other).expect_err("another's");
    assert!(error.to_string().contains(&name().to_string()), "{error}");
}

#[test]
fn newer_formats_tables_and_columns_are_refused_in_words() {
    let mut object = manifest(Vec::new()).encode();
    object[8..12].copy_from_slice(&2u32.to_be_bytes());
    let error = Manifest::decode(&object, name()).expect_err("newer").to_string();
    assert!(error.contains("format 2") && error.contains("newer one"), "{error}");
    let mut with_table = manifest(Vec::new());
    with_table.tables.push(TableEntry { name: "moods".to_owned(), rows: 0, columns: Vec::new() });
    let error = Layout::of(&with_table).expect_err("unknown").to_string();
    assert!(error.contains("\"moods\"") && error.contains("newer one"), "{error}");
    let mut with_column = manifest(Vec::new());
    with_column.tables[0].columns.push("mood".to_owned());
    let error = Layout::of(&with_column).expect_err("unknown").to_string();
    assert!(error.contains("\"mood\" of accounts"), "{error}");
}

#[test]
fn columns_are_found_by_name_and_missing_ones_refused() {
    let (packed, entry) = part();
    let mut manifest = manifest(vec![entry]);
    let pages = unpack(&packed, &entry, &Layout::of(&manifest).expect("a layout")).expect("a part");
    assert_eq!(pages, [Page { table: &SHARES, rows: (0..3).map(share).collect(), continued: false }]);
    // A backup from before a column was added, and one that lacks what every backup has.
    let at = index_of(&ACCOUNTS);
    manifest.tables[at].columns.retain(|name| name != "keep_days");
    let older = Layout::of(&manifest).expect("a layout");
    let [id, name, message] = [Value::Integer(16), Value::Text("alice".to_owned()), Value::Text(String::new())];
    let [zero, null] = [Value::Integer(0), Value::Null];
    let row = [&id, &name, &zero, &null, &zero, &message, &zero, &null, &null].map(Clone::clone).to_vec();
    let read = older.row(at, row.clone()).expect("it fits");
    assert_eq!((read.len(), &read[..7], &read[7]), (10, &row[..7], &Value::Null));
    manifest.tables[at].columns.retain(|name| name != "message");
    let error = Layout::of(&manifest).expect_err("incomplete").to_string();
    assert!(error.contains("message of accounts"), "{error}");
}

#[test]
fn no_bit_of_a_part_can_be_flipped_and_none_is_missed() {
    let (packed, entry) = part();
    let layout = Layout::of(&manifest(vec![entry])).expect("a layout");
    for bit in 0..packed.len() * 8 {
        let mut flipped = packed.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(unpack(&flipped, &entry, &layout).is_err(), "bit {bit}");
    }
    for wrong in [
        Part { rows: 2, ..entry },
        Part { row_bytes: entry.row_bytes - 1, ..entry },
        Part { row_bytes: entry.row_bytes + 1, ..entry },
        Part { row_bytes: u64::MAX, ..entry },
        Part { packed_bytes: 1, ..entry },
    ] {
        assert!(unpack(&packed, &wrong, &layout).is_err(), "{wrong:?}");
    }
}

/// A part that says of itself whatever is true of these bytes.
fn honest(bytes: &[u8]) -> (Vec<u8>, Part) {
    let packed = zstd::bulk::compress(bytes, 3).expect("memory");
    let (packed_bytes, digest) = (packed.len() as u64, blake3::hash(&packed).into());
    (packed, Part { packed_bytes, row_bytes: bytes.len() as u64, rows: 1, digest })
}

#[test]
fn a_small_part_cannot_become_a_large_one() {
    let (packed, entry) = honest(&vec![0; 64 << 20]);
    let layout = Layout::of(&manifest(Vec::new())).expect("a layout");
    assert!(packed.len() < 10_000);
    let claimed = Part { row_bytes: 100, ..entry };
    assert!(unpack(&packed, &claimed, &layout).is_err(), "read no further than it claims");
}

proptest! {
    #[test]
    fn any_rows_with_a_good_checksum_are_read_or_refused(
        rows in prop::collection::vec(prop::collection::vec(any_value(), 0..9), 0..6),
        table in 0i64..14,
    ) {
        let mut bytes = Vec::new();
        row::put(&mut bytes, &[Value::Null, Value::Integer(table), Value::Integer(0)]);
        rows.iter().for_each(|row| row::put(&mut bytes, row));
        let (packed, mut entry) = honest(&bytes);
        entry.rows = rows.len() as u64;
        let layout = Layout::of(&manifest(Vec::new())).expect("a layout");
        if let Ok(pages) = unpack(&packed, &entry, &layout) {
            for page in pages {
                for row in &page.rows {
                    prop_assert!(row.iter().zip(page.table.columns).all(|(value, column)| value.fits(column)));
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_no_manifest(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Manifest::decode(&bytes, name()).is_err());
        let mut object = [MAGIC.as_slice(), &FORMAT.to_be_bytes()].concat();
        object.append(&mut bytes);
        let digest = blake3::hash(&object);
        object.extend_from_slice(digest.as_bytes());
        if let Ok(manifest) = Manifest::decode(&object, name()) {
            prop_assert_eq!(manifest.name, name());
        }
    }
}
