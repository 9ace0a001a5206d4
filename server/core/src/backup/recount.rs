//! Counts the rows of a backup, and what accounts hold by them, as they pass by.

use std::collections::{BTreeMap, HashMap};

use super::row::{Row, Value};
use super::table::{ACCOUNT_USAGE, LEASES, Page, SHARES, TABLES, index_of};
use crate::id::{AccountId, ShareId, ShareNumber, StorageIndex};
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

/// A share of the last page.
#[derive(Clone, Copy, Debug)]
struct Counted {
    /// What it costs; nothing where it is lost.
    bytes: Option<u64>,
    leased: bool,
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
    /// The shares of the last page.
    shares: HashMap<([u8; 16], i64), Counted>,
    held: BTreeMap<(AccountId, u8), Held>,
    leased: Held,
    storage_indexes: u64,
    last_index: Option<[u8; 16]>,
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
        Self {
            rows: [0; TABLES.len()],
            counter_of,
            shares: HashMap::new(),
            held: BTreeMap::new(),
            leased: Held::default(),
            storage_indexes: 0,
            last_index: None,
            counters: BTreeMap::new(),
        }
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
        if self.last_index.replace(key.0) != Some(key.0) {
            self.storage_indexes += 1;
        }
        let bytes = (*at("state") == Value::Integer(STABLE)).then_some(charged);
        self.shares.insert(key, Counted { bytes, leased: false });
        Some(())
    }

    fn lease(&mut self, row: &Row) -> Option<()> {
        let at = |name| &row[LEASES.at(name)];
        let index = at("si").array()?;
        let share = self.shares.get_mut(&(index, at("shnum").integer()?))?;
        if !std::mem::replace(&mut share.leased, true) {
            self.leased.add(Held { bytes: share.bytes.unwrap_or_default(), shares: 1 });
        }
        // A lost share costs nobody anything.
        let Some(bytes) = share.bytes else { return Some(()) };
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

    /// Those of the last page's shares that no lease was seen of, once; to be asked when all leases on them have passed.
    pub fn take_unleased(&mut self) -> Vec<ShareId> {
        let shares = self.shares.drain().filter(|(_, share)| !share.leased);
        let number = |number: i64| u8::try_from(number).map(ShareNumber::new).ok();
        shares.filter_map(|((index, at), _)| Some(ShareId::new(StorageIndex::new(index), number(at)?))).collect()
    }

    /// Shares that somebody leases, each once.
    pub const fn leased(&self) -> Held {
        self.leased
    }

    /// How many storage indexes have shares.
    pub const fn storage_indexes(&self) -> u64 {
        self.storage_indexes
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
        assert!(recount.take_unleased().is_empty());
        assert_eq!(
            (recount.leased(), recount.storage_indexes()),
            (Held { bytes: 112 + 482, shares: 3 }, 1),
            "each once"
        );
        let held = recount.held();
        assert_eq!(held[&AccountId::new(16)], Held { bytes: 112 + 482, shares: 2 });
        assert_eq!(held[&AccountId::new(17)], Held { bytes: 112, shares: 1 });
        let counters = vec![[16, 594, 2].map(Value::Integer).to_vec(), [18, 1, 1].map(Value::Integer).to_vec()];
        recount.page(&page(&ACCOUNT_USAGE, counters)).expect("counters");
        let wrong: Vec<u32> = recount.disagreements().iter().map(|(account, ..)| account.get()).collect();
        assert_eq!(wrong, [17, 18]);
    }

    #[test]
    fn shares_without_a_lease_are_told_once() {
        let mut recount = Recount::default();
        recount
            .page(&page(&SHARES, vec![share(0, 0, 1, 100), share(1, 0, 1, 100), share(2, 0, 3, 9)]))
            .expect("shares");
        recount.page(&page(&LEASES, vec![lease(1, 16)])).expect("a lease");
        let mut unleased = recount.take_unleased();
        unleased.sort_unstable();
        let of = |number| ShareId::new(StorageIndex::new([7; 16]), ShareNumber::new(number));
        assert_eq!(unleased, [of(0), of(2)]);
        assert!(recount.take_unleased().is_empty());
    }

    #[test]
    fn a_lease_without_its_share_is_a_contradiction() {
        let mut recount = Recount::default();
        recount.page(&page(&SHARES, vec![share(0, 0, 1, 100)])).expect("a share");
        assert!(recount.page(&page(&LEASES, vec![lease(1, 16)])).is_err());
    }
}
