//! Every table and column of either schema is in the backup, or left out for a reason.

use std::collections::BTreeSet;

use leasehold_core::backup::table::{LEFT_OUT, Role, TABLES};
use leasehold_core::clock::SystemClock;
use leasehold_core::lease::LeaseTerms;
use leasehold_e2e_services::Postgres;

use crate::pg::PgDatabase;
use crate::places;

/// Compares the `TABLE.COLUMN`s of a schema with the list of core.
fn compare(schema: &BTreeSet<(String, String)>) {
    let columns = TABLES.iter().flat_map(|table| table.columns.iter().map(move |column| (*table, column)));
    let known: BTreeSet<_> =
        columns.clone().map(|(table, column)| (table.name.to_owned(), column.name.to_owned())).collect();
    let is_left_out = |table: &str, column: &str| {
        LEFT_OUT.iter().any(|(name, _)| *name == table || *name == format!("{table}.{column}"))
    };
    for found in schema {
        assert!(
            known.contains(found) || is_left_out(&found.0, &found.1),
            "{found:?} is neither in core's backup::table::TABLES nor in LEFT_OUT"
        );
    }
    // Each database counts in tables of its own.
    for (table, column) in columns.filter(|(table, _)| table.role != Role::Recounted) {
        let expected = (table.name.to_owned(), column.name.to_owned());
        assert!(schema.contains(&expected), "{expected:?} is in core's backup::table::TABLES, but not in the schema");
    }
    assert!(LEFT_OUT.iter().all(|(_, reason)| !reason.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_sqlite() {
    let folder = places::folder();
    drop(places::lease_db(folder.path(), std::sync::Arc::new(SystemClock), LeaseTerms::default()));
    let file = rusqlite::Connection::open(places::lease_db_file(folder.path())).expect("a connection");
    let sql = "SELECT t.name, c.name FROM sqlite_schema t, pragma_table_info(t.name) c
        WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'";
    let mut statement = file.prepare(sql).expect("a statement");
    let columns = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows");
    compare(&columns.collect::<Result<_, _>>().expect("columns"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_postgresql() {
    let database = PgDatabase::make().await;
    let sql = "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'leasehold'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
          AND a.attnum > 0 AND NOT a.attisdropped";
    let rows = tokio::task::block_in_place(|| Postgres::shared()?.query(&database.name, sql)).expect("an answer");
    let text = |row: &Vec<Option<String>>, at: usize| row[at].clone().expect("a name");
    compare(&rows.iter().map(|row| (text(row, 0), text(row, 1))).collect());
}
