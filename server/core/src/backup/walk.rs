//! In which order the rows of a lease database are read: table by table, in pages by key, and each page of shares
//! followed by the leases on them.

use super::row::Row;
use super::row::Value;
use super::table::{Role, TABLES, Table};

/// How many rows are read at once.
pub const PAGE_ROWS: usize = 1000;

/// The first values of a key; none stand for before all keys, or behind them.
pub type Key = Vec<Value>;

/// The rows to read next: [`PAGE_ROWS`] of them, in the order of their keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// The table.
    pub table: &'static Table,
    /// Only rows whose keys begin greater than this.
    pub after: Key,
    /// Only rows whose keys do not begin greater than this.
    pub until: Key,
}

/// Where reading a whole lease database has come to.
#[derive(Debug, Default)]
pub struct Walk {
    table: usize,
    after: Key,
    /// What is read of the table behind, for the page that was read last.
    following: Option<Following>,
}

#[derive(Debug)]
struct Following {
    after: Key,
    until: Key,
    /// Whether the page was the last of its table.
    last: bool,
}

impl Walk {
    /// What to read next; `None`: everything was read.
    pub fn ask(&self) -> Option<Ask> {
        let table = TABLES.get(self.table)?;
        Some(match &self.following {
            None => Ask { table, after: self.after.clone(), until: Key::new() },
            Some(following) => {
                Ask { table: TABLES[self.table + 1], after: following.after.clone(), until: following.until.clone() }
            }
        })
    }

    /// Notes the answer to what was asked.
    pub fn took(&mut self, rows: &[Row]) {
        let Some(Ask { table, .. }) = self.ask() else { return };
        let is_last = rows.len() < PAGE_ROWS;
        let end = rows.last().map(|row| row[..table.key].to_vec());
        match &mut self.following {
            Some(following) if !is_last => following.after = end.unwrap_or_default(),
            Some(following) => {
                let last = following.last;
                self.following = None;
                if last {
                    self.next_table(2);
                }
            }
            None => {
                let is_led = TABLES.get(self.table + 1).is_some_and(|next| next.role == Role::Follower);
                match end {
                    Some(end) if is_led => {
                        let after = std::mem::replace(&mut self.after, end.clone());
                        self.following = Some(Following { after, until: end, last: is_last });
                    }
                    Some(end) if !is_last => self.after = end,
                    _ => self.next_table(if is_led { 2 } else { 1 }),
                }
            }
        }
    }

    fn next_table(&mut self, steps: usize) {
        self.table += steps;
        self.after.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::table::{LEASES, SHARES, index_of};
    use std::collections::BTreeMap;

    /// A database of made-up rows that consist of their keys.
    fn read_all(mut tables: BTreeMap<usize, Vec<Vec<i64>>>) -> Vec<(usize, Vec<i64>)> {
        tables.values_mut().for_each(|rows| rows.sort());
        let number = |value: &Value| value.integer().expect("a number");
        let (mut walk, mut read) = (Walk::default(), Vec::new());
        while let Some(ask) = walk.ask() {
            let (after, until): (Vec<i64>, Vec<i64>) =
                (ask.after.iter().map(number).collect(), ask.until.iter().map(number).collect());
            let fits = |row: &&Vec<i64>| {
                (after.is_empty() || row[..after.len()] > after[..])
                    && (until.is_empty() || row[..until.len()] <= until[..])
            };
            let index = index_of(ask.table);
            let rows: Vec<Vec<i64>> =
                tables.get(&index).into_iter().flatten().filter(fits).take(PAGE_ROWS).cloned().collect();
            let values: Vec<Row> = rows.iter().map(|row| row.iter().copied().map(Value::Integer).collect()).collect();
            walk.took(&values);
            read.extend(rows.into_iter().map(|row| (index, row)));
            assert!(read.len() < 100_000, "it goes round in circles");
        }
        read
    }

    #[test]
    fn every_row_is_read_once_and_leases_follow_their_page_of_shares() {
        let (shares, leases) = (index_of(&SHARES), index_of(&LEASES));
        for count in [0, 1, 999, 1000, 1001, 2000, 3500] {
            let mut tables = BTreeMap::new();
            tables.insert(0, (0..count).map(|id| vec![id]).collect::<Vec<_>>());
            tables.insert(shares, (0..count).map(|n| vec![n / 3, n % 3]).collect());
            // The share in the middle has more leases than a page.
            let holders = |n: i64| if n == count / 2 { 2500 } else { n % 3 };
            let of = |n: i64| (0..holders(n)).map(move |account| vec![n / 3, n % 3, account]);
            tables.insert(leases, (0..count).flat_map(of).collect());
            tables.insert(TABLES.len() - 1, (0..count).map(|id| vec![id]).collect());
            let read = read_all(tables.clone());
            for (index, rows) in &tables {
                let of_table: Vec<_> = read.iter().filter(|(i, _)| i == index).map(|(_, row)| row.clone()).collect();
                assert_eq!(&of_table, rows, "table {index} of {count} rows");
            }
            let mut seen = std::collections::HashSet::new();
            for (index, row) in &read {
                if *index == shares {
                    seen.insert(row.clone());
                }
                assert!(*index != leases || seen.contains(&row[..2]), "a lease before its share");
            }
        }
    }
}
