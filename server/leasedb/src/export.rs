//! How the tables of a backup are read and written in SQL, whatever the database.

use leasehold_core::backup::table::{Column, Role, Table};
use leasehold_core::backup::walk::{Ask, PAGE_ROWS};
use leasehold_core::leasedb::LeaseDbError;

/// The words in which a database differs from the other.
pub(crate) struct Dialect {
    /// What parameters begin with.
    pub(crate) mark: char,
    /// A column as it is selected.
    pub(crate) column: fn(&Column) -> String,
    /// What stands for the table of accounts' counters, which each database has in a form of its own.
    pub(crate) counters: &'static str,
}

impl Dialect {
    /// The statement that answers an ask. Its parameters are the values of `after`, then those of `until`.
    pub(crate) fn select(&self, ask: &Ask) -> String {
        let table = ask.table;
        let columns: Vec<String> = table.columns.iter().map(self.column).collect();
        let from = if table.role == Role::Recounted { self.counters } else { table.name };
        let mut conditions = Vec::new();
        let mut next = 1;
        for (comparison, values) in [(">", &ask.after), ("<=", &ask.until)] {
            if !values.is_empty() {
                let (names, marks) = (names(&table.columns[..values.len()]), self.marks(next, values.len()));
                conditions.push(format!("({names}) {comparison} ({marks})"));
                next += values.len();
            }
        }
        let condition = if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") };
        let (columns, key) = (columns.join(", "), names(table.key_columns()));
        format!(
            "-- export_{}\nSELECT {columns}\nFROM {from}\nWHERE {condition}\nORDER BY {key}\nLIMIT {PAGE_ROWS}",
            table.name
        )
    }

    /// So many parameters, from the one of a number on.
    pub(crate) fn marks(&self, first: usize, count: usize) -> String {
        let marks: Vec<String> = (first..first + count).map(|number| format!("{}{number}", self.mark)).collect();
        marks.join(", ")
    }
}

/// The names of columns, with commas.
pub(crate) fn names(columns: &[Column]) -> String {
    columns.iter().map(|column| column.name).collect::<Vec<_>>().join(", ")
}

/// A row that does not fit its table.
pub(crate) fn misfit(table: &Table) -> LeaseDbError {
    LeaseDbError::Invalid(format!("a row does not fit the table {}", table.name))
}

/// Whether anything is in the database that a restore would have to throw away.
pub(crate) const IS_EMPTY: &str = "-- is_empty
    SELECT CASE WHEN
      NOT EXISTS (SELECT 1 FROM accounts WHERE account_id >= 16)
      AND NOT EXISTS (SELECT 1 FROM shares)
      AND NOT EXISTS (SELECT 1 FROM uploads)
      AND NOT EXISTS (SELECT 1 FROM garbage)
      AND (SELECT beat FROM beats) = 0
    THEN 1 ELSE 0 END";

/// Ends the runs that were under way: their processes know another database.
pub(crate) const END_RUNS: &str = "-- end_runs
    UPDATE runs
    SET state = 4, finished_at = alive_at, reason = 'the database was restored to a time when it was under way'
    WHERE state = 0";
