//! The whole database, out of PostgreSQL and into it: one read-only snapshot, one transaction.

use futures_util::stream::{self, StreamExt};
use leasehold_core::backup::recount::Recount;
use leasehold_core::backup::row::{Row, Value};
use leasehold_core::backup::table::{ACCOUNTS, Column, Kind, Page, Role, TABLES, Table};
use leasehold_core::backup::walk::{Ask, Walk};
use leasehold_core::backup::{Export, Import, ImportOutcome, Instant, Pages};
use leasehold_core::clock::Timestamp;
use leasehold_core::id::ObjectId;
use leasehold_core::leasedb::{Epoch, LeaseDbError, Result};
use tokio_postgres::types::Type;

use super::PgLeaseDb;
use super::apply::stripe;
use super::load::{get, now};
use super::sql::{Param, Uuid, call, sql};
use super::tx::LongTx;
use crate::columns::{damaged, mode_of, unsigned};
use crate::export::{Dialect, END_RUNS, IS_EMPTY, misfit, names};
use crate::plan::integer;

const DIALECT: Dialect = Dialect {
    mark: '$',
    column: |column| match column.kind {
        Kind::Integer => format!("{}::bigint", column.name),
        Kind::Flag => format!("{}::int::bigint", column.name),
        Kind::Id | Kind::Bytes | Kind::Text => column.name.to_owned(),
    },
    counters:
        "(SELECT account_id, sum(leased_bytes)::bigint AS leased_bytes, sum(leased_shares)::bigint AS leased_shares
      FROM account_usage GROUP BY account_id) counters",
};

sql!(IS_EMPTY_NOW, [], IS_EMPTY);
sql!(
    NOTE_BACKUP,
    [INT8, INT8],
    "-- note_backup
    UPDATE deployment
    SET backed_up_until = greatest(backed_up_until, $2)
    WHERE epoch = $1"
);

const INSTANT: &str = concat!(
    "-- instant
    SELECT d.deployment_id, d.epoch, d.mode, d.accounts_version, b.beat, ",
    now!(),
    "
    FROM deployment d, beats b"
);

/// Whoever else fills the database at the same time waits, and then finds it filled.
const LOCK_DEPLOYMENT: &str = "-- lock_deployment
    SELECT epoch
    FROM deployment
    FOR UPDATE";

fn instant(db: &PgLeaseDb, row: &tokio_postgres::Row) -> Result<Instant> {
    Ok(Instant {
        deployment: ObjectId::new(get::<Uuid>(row, 0, "deployment")?.0),
        epoch: Epoch(unsigned(get(row, 1, "deployment")?)),
        mode: mode_of(get(row, 2, "deployment")?),
        accounts_version: unsigned(get(row, 3, "deployment")?),
        beat: unsigned(get(row, 4, "beats")?),
        taken_at: db.time(get(row, 5, "time")?),
    })
}

fn value_of(row: &tokio_postgres::Row, at: usize, column: &Column) -> Result<Value> {
    let name = column.name;
    let value = match column.kind {
        Kind::Id => get::<Option<Uuid>>(row, at, name)?.map(|id| Value::Bytes(id.0.to_vec())),
        Kind::Integer | Kind::Flag => get::<Option<i64>>(row, at, name)?.map(Value::Integer),
        Kind::Bytes => get::<Option<Vec<u8>>>(row, at, name)?.map(Value::Bytes),
        Kind::Text => get::<Option<String>>(row, at, name)?.map(Value::Text),
    };
    Ok(value.unwrap_or(Value::Null))
}

/// A value of a key as a parameter.
fn key_param(column: &Column, value: &Value) -> Option<(Param, Type)> {
    Some(match (column.kind, value) {
        (Kind::Id, value) => (Box::new(Uuid(value.array()?)), Type::UUID),
        (_, Value::Integer(number)) => (Box::new(*number), Type::INT8),
        _ => return None,
    })
}

/// One column of many rows as a parameter.
fn column_param(column: &Column, at: usize, rows: &[Row]) -> Option<(Param, Type)> {
    let values = rows.iter().map(|row| row.get(at));
    fn all<'a, T>(
        values: impl Iterator<Item = Option<&'a Value>>,
        of: impl Fn(&'a Value) -> Option<T>,
    ) -> Option<Vec<Option<T>>> {
        values.map(|value| if value? == &Value::Null { Some(None) } else { of(value?).map(Some) }).collect()
    }
    Some(match column.kind {
        Kind::Id => (Box::new(all(values, |value| value.array().map(Uuid))?), Type::UUID_ARRAY),
        Kind::Integer => (Box::new(all(values, Value::integer)?), Type::INT8_ARRAY),
        Kind::Flag => (Box::new(all(values, |value| value.integer().map(|number| number == 1))?), Type::BOOL_ARRAY),
        Kind::Bytes => (Box::new(all(values, |value| value.bytes().map(<[u8]>::to_vec))?), Type::BYTEA_ARRAY),
        Kind::Text => (Box::new(all(values, |value| value.text().map(str::to_owned))?), Type::TEXT_ARRAY),
    })
}

async fn read_page(tx: &mut LongTx, ask: &Ask) -> Result<Page> {
    let Ask { table, after, until } = ask;
    let keyed = |values: &[Value]| -> Option<Vec<_>> {
        table.columns.iter().zip(values).map(|(column, value)| key_param(column, value)).collect()
    };
    let mut params = keyed(after).ok_or_else(|| misfit(table))?;
    params.extend(keyed(until).ok_or_else(|| misfit(table))?);
    let rows = tx.run(&DIALECT.select(ask), &params).await?;
    let row = |row: &tokio_postgres::Row| -> Result<Row> {
        table.columns.iter().enumerate().map(|(at, column)| value_of(row, at, column)).collect()
    };
    Ok(Page { table, rows: rows.iter().map(row).collect::<Result<_>>()?, continued: false })
}

async fn write_page(tx: &mut LongTx, table: &Table, rows: &[Row]) -> Result<()> {
    let params: Option<Vec<_>> =
        table.columns.iter().enumerate().map(|(at, column)| column_param(column, at, rows)).collect();
    let (columns, marks) = (names(table.columns), DIALECT.marks(1, table.columns.len()));
    let sql = format!(
        "-- import_{}\nINSERT INTO {} ({columns})\nOVERRIDING SYSTEM VALUE\nSELECT *\nFROM unnest({marks})",
        table.name, table.name
    );
    tx.run(&sql, &params.ok_or_else(|| misfit(table))?).await.map(drop)
}

/// What is not rows: counters, numbers to go on with, and the new epoch.
async fn finish(tx: &mut LongTx, import: &Import, recount: &Recount, now: i64) -> Result<()> {
    let counters = "-- import_counters
        INSERT INTO account_usage (account_id, stripe)
        SELECT account_id, stripe
        FROM accounts, generate_series(0, 7) stripe";
    tx.run(counters, &[]).await?;
    let (mut accounts, mut stripes, mut bytes, mut shares) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for ((account, stripe), held) in recount.by_counter() {
        accounts.push(i64::from(account.get()));
        stripes.push(i64::from(*stripe));
        bytes.push(integer(held.bytes)?);
        shares.push(integer(held.shares)?);
    }
    let count = "-- count_again
        UPDATE account_usage u
        SET leased_bytes = c.bytes, leased_shares = c.shares
        FROM unnest($1, $2, $3, $4) c (account_id, stripe, bytes, shares)
        WHERE u.account_id = c.account_id AND u.stripe = c.stripe";
    let params = [accounts, stripes, bytes, shares].map(|column| (Box::new(column) as Param, Type::INT8_ARRAY));
    tx.run(count, &params).await?;
    let skipped = integer(import.numbers_skipped)?;
    for table in TABLES.iter().filter(|table| table.role == Role::Numbered) {
        let (name, column, floor) = (table.name, table.columns[0].name, if *table == &ACCOUNTS { 15i64 } else { 0 });
        let sql = format!(
            "-- skip_numbers
            SELECT setval(pg_get_serial_sequence('{name}', '{column}'), greatest(max({column}), $1) + $2)
            FROM {name}"
        );
        tx.run(&sql, &[(Box::new(floor), Type::INT8), (Box::new(skipped), Type::INT8)]).await?;
    }
    tx.run(END_RUNS, &[]).await?;
    let (epoch, taken_at) = (integer(import.epoch.0)?, import.taken_at.seconds());
    let loss = "-- add_loss
        INSERT INTO losses (epoch, from_at, to_at)
        VALUES ($1, $2, $3)";
    let params = [epoch, taken_at, now].map(|number| (Box::new(number) as Param, Type::INT8));
    tx.run(loss, &params).await?;
    let become_restored = "-- become_restored
        UPDATE deployment
        SET deployment_id = $1, epoch = $2, mode = 1, accounts_version = $3, backed_up_until = $4";
    let mut params: Vec<(Param, Type)> = vec![(Box::new(Uuid(*import.deployment.as_bytes())), Type::UUID)];
    let numbers = [epoch, integer(import.accounts_version)?, taken_at];
    params.extend(numbers.map(|number| (Box::new(number) as Param, Type::INT8)));
    tx.run(become_restored, &params).await.map(drop)
}

impl PgLeaseDb {
    pub(super) async fn read_everything(&self) -> Result<Export> {
        let mut tx = LongTx::begin(self, "REPEATABLE READ READ ONLY").await?;
        let rows = tx.run(INSTANT, &[]).await?;
        let instant = instant(self, rows.first().ok_or_else(|| damaged("deployment"))?)?;
        let reading = (Some(tx), Walk::default(), self.clone());
        let pages = stream::try_unfold(reading, |(tx, mut walk, db)| async move {
            let Some(mut tx) = tx else { return Ok(None) };
            while let Some(ask) = walk.ask() {
                let page = read_page(&mut tx, &ask).await?;
                walk.took(&page.rows);
                if !page.rows.is_empty() {
                    return Ok(Some((page, (Some(tx), walk, db))));
                }
            }
            tx.commit(&db, "export").await?;
            Ok(None)
        });
        Ok(Export { instant, pages: pages.boxed() })
    }

    pub(super) async fn become_restored(&self, import: Import, mut pages: Pages) -> Result<ImportOutcome> {
        let mut tx = LongTx::begin(self, "READ COMMITTED").await?;
        tx.run(LOCK_DEPLOYMENT, &[]).await?;
        let rows = tx.run(IS_EMPTY, &[]).await?;
        if !is_yes(&rows)? {
            return Ok(ImportOutcome::NotEmpty);
        }
        // The accounts that every new database has come back with the others.
        tx.run("-- clear_counters\nDELETE FROM account_usage", &[]).await?;
        tx.run("-- clear_accounts\nDELETE FROM accounts", &[]).await?;
        let mut recount = Recount::by(|index| stripe(index).unsigned_abs() as u8);
        while let Some(page) = pages.next().await {
            let page = page?;
            recount.page(&page).map_err(|error| LeaseDbError::Invalid(error.to_string()))?;
            if page.table.role != Role::Recounted {
                write_page(&mut tx, page.table, &page.rows).await?;
            }
        }
        let now = self.read_now().await?.seconds();
        finish(&mut tx, &import, &recount, now).await?;
        tx.commit(self, "import").await?;
        Ok(ImportOutcome::Done)
    }

    pub(super) async fn read_is_empty(&self) -> Result<bool> {
        is_yes(&self.query("is_empty", call!(IS_EMPTY_NOW)).await?)
    }

    pub(super) async fn change_note_backup(&self, epoch: Epoch, until: Timestamp) -> Result<()> {
        let call = call!(NOTE_BACKUP, integer(epoch.0)?, until.seconds());
        self.query("note_backup", call).await.map(drop)
    }
}

fn is_yes(rows: &[tokio_postgres::Row]) -> Result<bool> {
    let row = rows.first().ok_or_else(|| damaged("answer"))?;
    Ok(get::<i32>(row, 0, "answer")? == 1)
}
