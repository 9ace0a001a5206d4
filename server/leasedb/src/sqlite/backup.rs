//! The whole database, out of the file and into it.
//!
//! Both have a connection and a thread of their own: a long read must not keep a reader from others, and an import is
//! one transaction.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt};
use leasehold_core::backup::recount::Recount;
use leasehold_core::backup::row::{Row, Value};
use leasehold_core::backup::table::{ACCOUNTS, Column, Page, Role, TABLES, Table};
use leasehold_core::backup::walk::{Ask, Walk};
use leasehold_core::backup::{Export, Import, ImportOutcome, Instant, Pages};
use leasehold_core::clock::{Clock, Timestamp};
use leasehold_core::lease::LeaseTerms;
use leasehold_core::leasedb::{Epoch, LeaseDbError, Result};
use rusqlite::Connection;
use rusqlite::types::{ToSqlOutput, Value as SqlValue, ValueRef};
use tokio::sync::{mpsc, oneshot};

use super::{Tx, connect, run, spawn, unavailable};
use crate::columns::unsigned;
use crate::export::{Dialect, END_RUNS, IS_EMPTY, misfit, names};
use crate::plan::integer;

/// How many pages may wait for whoever reads or writes them.
const PAGES_AHEAD: usize = 2;

const DIALECT: Dialect = Dialect { mark: '?', column: |column| column.name.to_owned(), counters: "accounts" };

/// What a thread needs to open the database by itself.
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) terms: LeaseTerms,
}

fn tx<'a>(connection: &'a Connection, file: &File) -> Tx<'a> {
    Tx { connection, now: file.clock.now(), terms: file.terms }
}

/// Reads everything at one instant.
pub(super) async fn export(file: Arc<File>) -> Result<Export> {
    let (instant_sender, instant) = oneshot::channel();
    let (pages_sender, pages) = mpsc::channel::<Result<Page>>(PAGES_AHEAD);
    spawn("leasedb-export", move || {
        let opened = connect(&file.path, true).and_then(|connection| run(&connection, "BEGIN").map(|()| connection));
        let begun = opened.map_err(unavailable).and_then(|connection| {
            // The first read is what fixes the instant.
            let instant = tx(&connection, &file).instant()?;
            Ok((connection, instant))
        });
        let connection = match begun {
            Ok((connection, instant)) => {
                drop(instant_sender.send(Ok(instant)));
                connection
            }
            Err(error) => return drop(instant_sender.send(Err(error))),
        };
        let tx = tx(&connection, &file);
        let mut walk = Walk::default();
        while let Some(ask) = walk.ask() {
            let page = tx.page(&ask);
            let rows = page.as_ref().map_or(&[][..], |page| &page.rows);
            walk.took(rows);
            let (is_empty, is_last) = (page.is_ok() && rows.is_empty(), page.is_err());
            // Where nobody listens any more, the read ends with the connection.
            if !is_empty && pages_sender.blocking_send(page).is_err() || is_last {
                return;
            }
        }
    })?;
    let instant = instant.await.map_err(|_| stopped())??;
    let pages = stream::unfold(pages, |mut pages| async { pages.recv().await.map(|page| (page, pages)) });
    Ok(Export { instant, pages: pages.boxed() })
}

/// Fills an empty file in one transaction.
pub(super) async fn import(file: Arc<File>, import: Import, mut pages: Pages) -> Result<ImportOutcome> {
    let (answer_sender, answer) = oneshot::channel();
    // `None` stands for the end: a channel that closes without it leaves the file as it was.
    let (sender, receiver) = mpsc::channel::<Option<Page>>(PAGES_AHEAD);
    spawn("leasedb-import", move || {
        drop(answer_sender.send(import_here(&file, &import, receiver)));
    })?;
    while let Some(page) = pages.next().await {
        if sender.send(Some(page?)).await.is_err() {
            break;
        }
    }
    drop(sender.send(None).await);
    answer.await.map_err(|_| stopped())?
}

fn import_here(file: &File, import: &Import, mut pages: mpsc::Receiver<Option<Page>>) -> Result<ImportOutcome> {
    let connection = connect(&file.path, false).map_err(unavailable)?;
    run(&connection, "BEGIN IMMEDIATE").map_err(unavailable)?;
    let tx = tx(&connection, file);
    if !tx.is_empty()? {
        return Ok(ImportOutcome::NotEmpty);
    }
    // The accounts that every new database has come back with the others.
    tx.execute("-- clear_accounts\nDELETE FROM accounts", [])?;
    let mut recount = Recount::default();
    loop {
        let Some(page) = pages.blocking_recv() else {
            return Err(LeaseDbError::Unavailable("the rows to import did not arrive".into()));
        };
        let Some(page) = page else { break };
        recount.page(&page).map_err(|error| LeaseDbError::Invalid(error.to_string()))?;
        if page.table.role != Role::Recounted {
            page.rows.iter().try_for_each(|row| tx.put_row(page.table, row))?;
        }
    }
    tx.finish_import(import, &recount)?;
    run(&connection, "COMMIT").map_err(|error| LeaseDbError::OutcomeUnknown(Box::new(error)))?;
    Ok(ImportOutcome::Done)
}

fn stopped() -> LeaseDbError {
    LeaseDbError::Unavailable("the lease database's thread ended".into())
}

/// A value on its way in.
struct Bound<'a>(&'a Value);

impl rusqlite::ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Bytes(bytes) => ValueRef::Blob(bytes),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

fn value_of(column: &Column, value: SqlValue) -> Option<Value> {
    let value = match value {
        SqlValue::Null => Value::Null,
        SqlValue::Integer(number) => Value::Integer(number),
        SqlValue::Blob(bytes) => Value::Bytes(bytes),
        SqlValue::Text(text) => Value::Text(text),
        SqlValue::Real(_) => return None,
    };
    value.fits(column).then_some(value)
}

impl Tx<'_> {
    fn instant(&self) -> Result<Instant> {
        let deployment = self.deployment()?;
        let beat = self.query("-- last_beat\nSELECT beat FROM beats", [], |row| row.get(0))?;
        Ok(Instant {
            deployment: deployment.id,
            epoch: deployment.epoch,
            mode: deployment.mode,
            accounts_version: self.accounts_version()?,
            beat: beat.first().copied().map_or(0, unsigned),
            taken_at: self.now,
        })
    }

    fn page(&self, ask: &Ask) -> Result<Page> {
        let Ask { table, after, until } = ask;
        let params = rusqlite::params_from_iter(after.iter().chain(until).map(Bound));
        let columns = table.columns;
        let rows = self.query(&DIALECT.select(ask), params, |row| {
            columns.iter().enumerate().map(|(at, _)| row.get(at)).collect::<rusqlite::Result<Vec<SqlValue>>>()
        })?;
        let row = |values: Vec<SqlValue>| -> Option<Row> {
            columns.iter().zip(values).map(|(column, value)| value_of(column, value)).collect()
        };
        let rows: Option<Vec<Row>> = rows.into_iter().map(row).collect();
        Ok(Page { table, rows: rows.ok_or_else(|| misfit(table))?, continued: false })
    }

    pub(super) fn is_empty(&self) -> Result<bool> {
        Ok(self.query(IS_EMPTY, [], |row| row.get::<_, i64>(0))?.first() == Some(&1))
    }

    fn put_row(&self, table: &Table, row: &Row) -> Result<()> {
        let (columns, marks) = (names(table.columns), DIALECT.marks(1, table.columns.len()));
        let sql = format!("-- import_{}\nINSERT INTO {} ({columns})\nVALUES ({marks})", table.name, table.name);
        self.execute(&sql, rusqlite::params_from_iter(row.iter().map(Bound))).map(drop)
    }

    /// What is not rows: counters, numbers to go on with, and the new epoch.
    fn finish_import(&self, import: &Import, recount: &Recount) -> Result<()> {
        for ((account, _), held) in recount.by_counter() {
            let sql = "-- import_counters
                UPDATE accounts
                SET leased_bytes = ?2, leased_shares = ?3
                WHERE account_id = ?1";
            self.execute(sql, (account.get(), integer(held.bytes)?, integer(held.shares)?))?;
        }
        for table in TABLES.iter().filter(|table| table.role == Role::Numbered) {
            // SQLite goes on behind what stands here, or behind the greatest row.
            let (name, column) = (table.name, table.columns[0].name);
            let floor = if *table == &ACCOUNTS { 15 } else { 0 };
            self.execute("-- forget_numbers\nDELETE FROM sqlite_sequence WHERE name = ?1", [name])?;
            let sql = format!(
                "-- skip_numbers\nINSERT INTO sqlite_sequence (name, seq)
                SELECT ?1, max(coalesce(max({column}), 0), ?2) + ?3 FROM {name}"
            );
            self.execute(&sql, (name, floor, integer(import.numbers_skipped)?))?;
        }
        self.execute(END_RUNS, [])?;
        let loss = "-- add_loss
            INSERT INTO losses (epoch, from_at, to_at)
            VALUES (?1, ?2, ?3)";
        self.execute(loss, (integer(import.epoch.0)?, import.taken_at.seconds(), self.now_seconds()))?;
        let become_restored = "-- become_restored
            UPDATE deployment
            SET deployment_id = ?1, epoch = ?2, mode = 1, accounts_version = ?3, backed_up_until = ?4";
        let (id, epoch) = (import.deployment.as_bytes(), integer(import.epoch.0)?);
        let version = integer(import.accounts_version)?;
        self.execute(become_restored, (id, epoch, version, import.taken_at.seconds())).map(drop)
    }

    pub(super) fn note_backup(&self, epoch: Epoch, until: Timestamp) -> Result<()> {
        let sql = "-- note_backup
            UPDATE deployment
            SET backed_up_until = max(coalesce(backed_up_until, ?2), ?2)
            WHERE epoch = ?1";
        self.execute(sql, (integer(epoch.0)?, until.seconds())).map(drop)
    }
}
