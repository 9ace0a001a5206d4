//! Counts the rows of a backup, and what accounts hold by them, as they pass by.

use std::collections::{BTreeMap, HashMap};

use super::row::{Row, Value};
use super::table::{ACCOUNT_USAGE, LEASES, Page, SHARES, TABLES, index_of};
use crate::id::{AccountId, StorageIndex};
use crate::share::ShareKind;

/// How a stable share's state stands in a row.
const STABLE: i64 = 1;
/// How the kinds of share stand in a row.
const KINDS: [ShareKind; 2] = [ShareKind::Immutable, ShareKind::Mutable];

/// What an account holds, or one of its counters says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Container lengths of the stable shares that it leases, in bytes.
    pub bytes: u64,
    /// How many these are.
    pub shares: u64,
}

impl Held {
    fn add(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.shares = self.shares.saturating_add(other.shares);
    }
}

/// Rows that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Contradiction(pub &'static str);

/// The counts so far.
#[derive(Debug)]
pub struct Recount {
    rows: [u64; TABLES.len()],
    counter_of: fn(StorageIndex) -> u8,
    /// What the shares of the last page cost; nothing where they are lost.
    shares: HashMap<([u8; 16], i64), Option<u64>>,
    held: BTreeMap<(AccountId, u8), Held>,
    counters: BTreeMap<AccountId, Held>,
}

impl Default for Recount {
    fn default() -> Self {
        Self::by(|_| 0)
    }
}

impl Recount {
    /// Counts for accounts that have several counters, each for some storage indexes.
    pub fn by(counter_of: fn(StorageIndex) -> u8) -> Self {
        let (rows, shares, held) = ([0; TABLES.len()], HashMap::new(), BTreeMap::new());
        Self { rows, counter_of, shares, held, counters: BTreeMap::new() }
    }

    /// Counts a page. Pages come in the order of [`Walk`](super::walk::Walk).
    ///
    /// # Errors
    /// [`Contradiction`]: a lease without its share, or values that mean nothing.
    pub fn page(&mut self, page: &Page) -> Result<(), Contradiction> {
        self.rows[index_of(page.table)] += page.rows.len() as u64;
        if page.table == &SHARES && !page.continued {
            self.shares.clear();
        }
        let count = match page.table {
            table if table == &SHARES => Self::share,
            table if table == &LEASES => Self::lease,
            table if table == &ACCOUNT_USAGE => Self::counter,
            _ => return Ok(()),
        };
        page.rows.iter().try_for_each(|row| count(self, row).ok_or(Contradiction(WRONG)))
    }

    fn share(&mut self, row: &Row) -> Option<()> {
        let at = |name| &row[SHARES.at(name)];
        let kind = KINDS.get(usize::try_from(at("kind").integer()?).ok()?)?;
        let charged = kind.charged_bytes(at("size_bytes").unsigned()?);
        let key = (at("si").array()?, at("shnum").integer()?);
        self.shares.insert(key, (*at("state") == Value::Integer(STABLE)).then_some(charged));
        Some(())
    }

    fn lease(&mut self, row: &Row) -> Option<()> {
        let at = |name| &row[LEASES.at(name)];
        let index = at("si").array()?;
        // A lost share costs nobody anything.
        let Some(bytes) = *self.shares.get(&(index, at("shnum").integer()?))? else { return Some(()) };
        let key = (account(at("account_id"))?, (self.counter_of)(StorageIndex::new(index)));
        self.held.entry(key).or_default().add(Held { bytes, shares: 1 });
        Some(())
    }

    fn counter(&mut self, row: &Row) -> Option<()> {
        let at = |name| &row[ACCOUNT_USAGE.at(name)];
        let held = Held { bytes: at("leased_bytes").unsigned()?, shares: at("leased_shares").unsigned()? };
        self.counters.insert(account(at("account_id"))?, held);
        Some(())
    }

    /// How many rows of each of [`TABLES`] there were.
    pub const fn rows(&self) -> &[u64; TABLES.len()] {
        &self.rows
    }

    /// What each counter of each account comes to, by the leases.
    pub const fn by_counter(&self) -> &BTreeMap<(AccountId, u8), Held> {
        &self.held
    }

    /// What each account holds, by the leases. Accounts that hold nothing are left out.
    pub fn held(&self) -> BTreeMap<AccountId, Held> {
        let mut sums: BTreeMap<AccountId, Held> = BTreeMap::new();
        for ((account, _), held) in &self.held {
            sums.entry(*account).or_default().add(*held);
        }
        sums
    }

    /// Accounts whose counters say something else than their leases: the account, the counters, the leases.
    pub fn disagreements(&self) -> Vec<(AccountId, Held, Held)> {
        let held = self.held();
        let of = |sums: &BTreeMap<AccountId, Held>, account| sums.get(&account).copied().unwrap_or_default();
        let mut accounts: Vec<AccountId> = self.counters.keys().chain(held.keys()).copied().collect();
        accounts.sort_unstable();
        accounts.dedup();
        let both = accounts.into_iter().map(|account| (account, of(&self.counters, account), of(&held, account)));
        both.filter(|(_, counters, leases)| counters != leases).collect()
    }
}

const WRONG: &str = "a lease is on a share that is not there, or a value means nothing";

fn account(value: &Value) -> Option<AccountId> {
    u32::try_from(value.integer()?).ok().map(AccountId::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(number: i64, kind: i64, state: i64, size: i64) -> Row {
        let numbers = [number, kind, state, size].map(Value::Integer);
        let [number, kind, state, size] = numbers;
        vec![
            Value::Bytes(vec![7; 16]),
            number,
            kind,
            state,
            size,
            Value::Bytes(Vec::new()),
            Value::Integer(0),
            Value::Null,
        ]
    }

    fn lease(number: i64, account: i64) -> Row {
        let mut row = vec![Value::Bytes(vec![7; 16])];
        row.extend([number, account, 0, 0].map(Value::Integer));
        row
    }

    fn page(table: &'static super::super::table::Table, rows: Vec<Row>) -> Page {
        Page { table, rows, continued: false }
    }

    #[test]
    fn what_accounts_hold_is_the_container_length_of_stable_shares_they_lease() {
        let mut recount = Recount::default();
        let shares = vec![share(0, 0, 1, 100), share(1, 1, 1, 10), share(2, 0, 3, 1000)];
        recount.page(&page(&SHARES, shares)).expect("shares");
        let leases = vec![lease(0, 16), lease(0, 17), lease(1, 16), lease(2, 16)];
        recount.page(&page(&LEASES, leases)).expect("leases");
        let held = recount.held();
        assert_eq!(held[&AccountId::new(16)], Held { bytes: 112 + 482, shares: 2 });
        assert_eq!(held[&AccountId::new(17)], Held { bytes: 112, shares: 1 });
        let counters = vec![[16, 594, 2].map(Value::Integer).to_vec(), [18, 1, 1].map(Value::Integer).to_vec()];
        recount.page(&page(&ACCOUNT_USAGE, counters)).expect("counters");
        let wrong: Vec<u32> = recount.disagreements().iter().map(|(account, ..)| account.get()).collect();
        assert_eq!(wrong, [17, 18]);
    }

    #[test]
    fn a_lease_without_its_share_is_a_contradiction() {
        let mut recount = Recount::default();
        recount.page(&page(&SHARES, vec![share(0, 0, 1, 100)])).expect("a share");
        assert!(recount.page(&page(&LEASES, vec![lease(1, 16)])).is_err());
    }
}
