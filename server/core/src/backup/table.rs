//! Which tables and columns of the lease database a backup has, and which it leaves out.
//!
//! This is the one list. Both databases read and write their tables by it, and a test compares it with their schemas:
//! a column that is in neither list fails.

use super::row::Row;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sixteen bytes: a storage index, an id, a token.
    Id,
    /// A number.
    Integer,
    /// Yes or no; 1 or 0 in a row.
    Flag,
    /// Bytes.
    Bytes,
    /// Text.
    Text,
}

/// What an older backup that does not have a column stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// Every backup has the column.
    Never,
    /// Nothing.
    Null,
    /// This number.
    Integer(i64),
}

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name, the same in every database.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether it may hold nothing.
    pub nullable: bool,
    /// What it is where a backup does not have it.
    pub absent: Absent,
}

impl Column {
    const fn of(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, nullable: false, absent: Absent::Never }
    }

    const fn null(self) -> Self {
        Self { nullable: true, ..self }
    }

    /// For columns added later: what they are in backups made before.
    const fn or(self, absent: Absent) -> Self {
        Self { absent, ..self }
    }
}

const fn id(name: &'static str) -> Column {
    Column::of(name, Kind::Id)
}

const fn integer(name: &'static str) -> Column {
    Column::of(name, Kind::Integer)
}

const fn flag(name: &'static str) -> Column {
    Column::of(name, Kind::Flag)
}

const fn bytes(name: &'static str) -> Column {
    Column::of(name, Kind::Bytes)
}

const fn text(name: &'static str) -> Column {
    Column::of(name, Kind::Text)
}

/// A table of the lease database.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name, the same in every database.
    pub name: &'static str,
    /// Its columns; the first ones are the key, in whose order rows are read.
    pub columns: &'static [Column],
    /// How many columns the key has.
    pub key: usize,
    /// What becomes of its rows.
    pub role: Role,
}

/// What becomes of the rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// They are put back.
    Plain,
    /// They are put back; the first column numbers them, and numbers are never given away twice.
    Numbered,
    /// They are put back; they belong to rows of the table before, whose whole key theirs begins with, and are read along
    /// with them.
    Follower,
    /// They are counted anew from the others: kept to compare.
    Recounted,
}

impl Table {
    /// Where a column stands in a row.
    ///
    /// # Panics
    /// There is no such column: names are written in programs.
    pub fn at(&self, column: &str) -> usize {
        self.columns.iter().position(|c| c.name == column).expect("a column of the table")
    }

    /// The columns of the key.
    pub fn key_columns(&self) -> &'static [Column] {
        &self.columns[..self.key]
    }
}

/// Rows of one table.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The table.
    pub table: &'static Table,
    /// The rows, each with a value for each column.
    pub rows: Vec<Row>,
    /// Whether these rows go on with the page before, which was cut in two.
    pub continued: bool,
}

/// Accounts: what they may do.
pub static ACCOUNTS: Table = Table {
    name: "accounts",
    columns: &[
        integer("account_id"),
        text("name"),
        integer("state"),
        integer("quota_bytes").null(),
        integer("lease_days"),
        text("message"),
        integer("created_at"),
        integer("keep_days").null().or(Absent::Null),
        integer("thawed_at").null().or(Absent::Null),
        integer("release_at").null().or(Absent::Null),
    ],
    key: 1,
    role: Role::Numbered,
};

/// What the counters of accounts say they hold.
pub static ACCOUNT_USAGE: Table = Table {
    name: "account_usage",
    columns: &[integer("account_id"), integer("leased_bytes"), integer("leased_shares")],
    key: 1,
    role: Role::Recounted,
};

static ACCOUNT_CREDENTIALS: Table = Table {
    name: "account_credentials",
    columns: &[
        integer("credential_id"),
        bytes("secret_hash"),
        integer("account_id"),
        integer("not_after").null(),
        integer("created_at"),
        integer("last_used_at").null(),
    ],
    key: 1,
    role: Role::Numbered,
};

static LOSSES: Table = Table {
    name: "losses",
    columns: &[integer("epoch"), integer("from_at"), integer("to_at")],
    key: 1,
    role: Role::Plain,
};

static RUNS: Table = Table {
    name: "runs",
    columns: &[
        integer("run_id"),
        integer("kind"),
        integer("state"),
        integer("permission"),
        flag("dry_run"),
        text("policy"),
        integer("started_at"),
        integer("alive_at"),
        integer("finished_at").null(),
        text("totals"),
        text("reason"),
    ],
    key: 1,
    role: Role::Numbered,
};

/// Shares, stable and lost.
pub static SHARES: Table = Table {
    name: "shares",
    columns: &[
        id("si"),
        integer("shnum"),
        integer("kind"),
        integer("state"),
        integer("size_bytes"),
        bytes("locator"),
        integer("created_at"),
        integer("lost_at").null().or(Absent::Null),
    ],
    key: 2,
    role: Role::Plain,
};

/// Leases, each behind the share that it is on.
pub static LEASES: Table = Table {
    name: "leases",
    columns: &[id("si"), integer("shnum"), integer("account_id"), integer("renewed_at"), integer("expires_at")],
    key: 3,
    role: Role::Follower,
};

static SLOTS: Table = Table {
    name: "slots",
    columns: &[id("si"), id("token"), bytes("write_enabler_hash"), text("marker").null()],
    key: 1,
    role: Role::Plain,
};

static SCATTERED: Table =
    Table { name: "scattered", columns: &[id("si"), integer("shnum"), integer("due_at")], key: 2, role: Role::Plain };

static GARBAGE: Table = Table {
    name: "garbage",
    columns: &[
        integer("garbage_id"),
        id("si"),
        integer("shnum"),
        integer("reason"),
        integer("created_at"),
        integer("not_before"),
        integer("attempts"),
        integer("done_at").null(),
        text("objects"),
        integer("bytes").or(Absent::Integer(0)),
        bytes("undo").null().or(Absent::Null),
        id("upload_id").null().or(Absent::Null),
    ],
    key: 1,
    role: Role::Numbered,
};

static EXPIRED_LEASES: Table = Table {
    name: "expired_leases",
    columns: &[
        integer("run_id"),
        id("si"),
        integer("shnum"),
        integer("account_id"),
        integer("renewed_at"),
        integer("expires_at"),
        integer("removed_at"),
    ],
    key: 4,
    role: Role::Plain,
};

static UNLEASED: Table =
    Table { name: "unleased", columns: &[id("si"), integer("shnum"), integer("since")], key: 2, role: Role::Plain };

static CORRUPTION_ADVISORIES: Table = Table {
    name: "corruption_advisories",
    columns: &[
        integer("advisory_id"),
        id("si"),
        integer("shnum"),
        integer("kind"),
        integer("account_id"),
        text("reason"),
        integer("verdict"),
        integer("received_at"),
    ],
    key: 1,
    role: Role::Numbered,
};

/// All tables of a backup, in the order in which they are written and can be read back.
pub static TABLES: [&Table; 13] = [
    &ACCOUNTS,
    &ACCOUNT_USAGE,
    &ACCOUNT_CREDENTIALS,
    &LOSSES,
    &RUNS,
    &SHARES,
    &LEASES,
    &SLOTS,
    &SCATTERED,
    &GARBAGE,
    &EXPIRED_LEASES,
    &UNLEASED,
    &CORRUPTION_ADVISORIES,
];

/// Tables, and columns as `TABLE.COLUMN`, that no backup has, with the reason.
pub const LEFT_OUT: [(&str, &str); 16] = [
    ("deployment", "what is to be kept of it is in the manifest"),
    ("beats", "a restored database begins an epoch with a heart of its own"),
    ("uploads", "an upload does not outlive a restore: its pieces may be gone (review.md C3)"),
    ("upload_chunks", "see uploads"),
    ("accounts.leased_bytes", "counted anew; what it says is in account_usage"),
    ("accounts.leased_shares", "counted anew; what it says is in account_usage"),
    ("accounts.reserved_bytes", "there are no uploads after a restore"),
    ("account_usage.reserved_bytes", "there are no uploads after a restore"),
    ("account_usage.stripe", "the number of counters an account has is each database's own business"),
    ("recovered", "what was settled in an older epoch says nothing of this one"),
    ("crawl_units", "the parts of a run end with it"),
    ("damaged_objects", "found anew by the next reconcile run"),
    ("scattered.claimed_until", "no claim outlives a restore"),
    ("garbage.claimed_until", "no claim outlives a restore"),
    ("leasehold_migrations", "the schema's history is the database's own"),
    ("refinery_schema_history", "the schema's history is the database's own"),
];

/// The place of a table in [`TABLES`].
///
/// # Panics
/// It is not in there: tables are made in this module only.
pub fn index_of(table: &Table) -> usize {
    TABLES.iter().position(|t| t.name == table.name).expect("a table of this module")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_first_and_followers_are_found_by_their_leaders_key() {
        for (index, table) in TABLES.iter().enumerate() {
            assert!(table.key >= 1 && table.key <= table.columns.len(), "{}", table.name);
            assert!(table.key_columns().iter().all(|column| !column.nullable), "{}", table.name);
            if table.role == Role::Numbered {
                assert_eq!((table.key, table.columns[0].kind), (1, Kind::Integer), "{}", table.name);
            }
            if table.role == Role::Follower {
                let leader = TABLES[index - 1];
                assert_eq!(leader.key_columns(), &table.columns[..leader.key], "{}", table.name);
            }
        }
    }
}
