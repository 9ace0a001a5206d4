//! The plain model: maps and arrays, and what each operation ought to make of them.

use std::collections::{BTreeMap, BTreeSet};

use leasehold_core::account::AccountState;
use leasehold_core::lease::LEASE_DURATION_SECONDS;
use leasehold_core::share::ShareKind;

use super::operation::{Arrival, Operation, Specimen, Vectors, content};

/// How long uploads of the model may rest, in seconds.
pub const IDLE_SECONDS: i64 = 1800;
/// The largest mutable share of the model, in bytes.
pub const MUTABLE_MAX_BYTES: u64 = 3 << 20;

/// A share by the numbers of its storage index and its own.
pub type Key = (u8, u8);

/// A finished share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    pub kind: ShareKind,
    pub bytes: Vec<u8>,
    /// The accounts that lease it.
    pub leases: BTreeSet<usize>,
}

/// A share that is coming.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    pub account: usize,
    pub secret: u8,
    pub deadline: i64,
    pub bytes: Vec<Option<u8>>,
}

/// What clients and operators can see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plain {
    pub shares: BTreeMap<Key, Share>,
    pub uploads: BTreeMap<Key, Upload>,
    /// By storage index.
    pub enablers: BTreeMap<u8, u8>,
}

/// An account as the tests have set it.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub state: AccountState,
    pub quota: Option<u64>,
}

/// What an operation answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Sets(Vec<u8>, Vec<u8>),
    Written(bool, Vec<(u64, u64)>),
    Numbers(Vec<u8>),
    Bytes(Vec<u8>),
    Vectors(bool, Vec<(u8, Vec<Vec<u8>>)>),
    Ended(u64),
    /// By the name of the error's variant.
    Refused(&'static str),
}

/// An answer with the state it goes with.
pub type Outcome = (Answer, Plain);

impl Plain {
    /// Bytes that an account uses and has reserved, and how many shares it leases.
    pub fn usage(&self, account: usize) -> (u64, u64, u64) {
        let leased = self.shares.values().filter(|share| share.leases.contains(&account));
        let (mut used, mut count) = (0, 0);
        for share in leased {
            used += share.kind.charged_bytes(share.bytes.len() as u64);
            count += 1;
        }
        let uploads = self.uploads.values().filter(|upload| upload.account == account);
        let reserved = uploads.map(|upload| ShareKind::Immutable.charged_bytes(upload.bytes.len() as u64)).sum();
        (used, reserved, count)
    }

    fn left(&self, account: usize, quota: Option<u64>) -> u64 {
        let (used, reserved, _) = self.usage(account);
        quota.map_or(u64::MAX, |quota| quota.saturating_sub(used + reserved))
    }

    fn of_index(&self, index: u8) -> impl Iterator<Item = (u8, &Share)> {
        self.shares.range((index, 0)..=(index, u8::MAX)).map(|((_, number), share)| (*number, share))
    }

    fn numbers(&self, index: u8, kind: ShareKind) -> Vec<u8> {
        self.of_index(index).filter(|(_, share)| share.kind == kind).map(|(number, _)| number).collect()
    }

    /// Adds or renews a lease; false if a first lease does not fit.
    fn lease(&mut self, key: Key, account: usize, quota: Option<u64>) -> bool {
        let left = self.left(account, quota);
        let share = self.shares.get_mut(&key).expect("a share to lease");
        if !share.leases.contains(&account) && share.kind.charged_bytes(share.bytes.len() as u64) > left {
            return false;
        }
        share.leases.insert(account);
        true
    }

    /// Uploads whose time is over.
    pub fn overdue(&self, now: i64) -> Vec<Key> {
        self.uploads.iter().filter(|(_, upload)| upload.deadline <= now).map(|(key, _)| *key).collect()
    }

    /// Every outcome that is right where nothing fails; the first is the usual one.
    pub fn outcomes(&self, operation: &Operation, accounts: &[Settings], now: i64) -> Vec<Outcome> {
        let refused = |name| vec![(Answer::Refused(name), self.clone())];
        match operation {
            Operation::Allocate { account, index, numbers, size, secret } => {
                vec![self.allocate(*account, accounts[*account], *index, numbers, (*size, *secret), now)]
            }
            Operation::Write { share, secret, tag, arrival, .. } => {
                let mut outcomes = vec![self.write(*share, *secret, operation.range(self), (*tag, *arrival), now)];
                if self.overdue(now).contains(share) {
                    outcomes.extend(refused("NotFound"));
                }
                outcomes
            }
            Operation::Abort { share, secret } => vec![self.abort(*share, *secret)],
            Operation::List { kind, index } => vec![(Answer::Numbers(self.numbers(*index, *kind)), self.clone())],
            Operation::Read { kind, share, range } => {
                let Some(found) = self.shares.get(share).filter(|found| found.kind == *kind) else {
                    return refused("NotFound");
                };
                vec![(Answer::Bytes(clip(&found.bytes, range.clone()).to_vec()), self.clone())]
            }
            Operation::Renew { account, index } => vec![self.renew(*account, accounts[*account], *index)],
            Operation::ReadTestWrite { account, index, enabler, vectors, reads } => {
                vec![self.read_test_write((*account, accounts[*account]), *index, *enabler, vectors, reads)]
            }
            Operation::Advise { kind, share, .. } => match self.shares.get(share) {
                Some(found) if found.kind == *kind => vec![(Answer::Done, self.clone())],
                _ => refused("NotFound"),
            },
            Operation::Sweep => {
                let mut after = self.clone();
                let overdue = self.overdue(now);
                overdue.iter().for_each(|key| drop(after.uploads.remove(key)));
                vec![(Answer::Ended(overdue.len() as u64), after)]
            }
            Operation::RefreshSpace | Operation::Claim | Operation::Tick => vec![(Answer::Done, self.clone())],
            Operation::Step { .. } | Operation::SetQuota { .. } | Operation::SetState { .. } => {
                vec![(Answer::Done, self.clone())]
            }
        }
    }

    fn allocate(
        &self,
        account: usize,
        settings: Settings,
        index: u8,
        numbers: &[u8],
        (size, secret): (u64, u8),
        now: i64,
    ) -> Outcome {
        if !settings.state.may_renew() {
            return (Answer::Refused("Refused"), self.clone());
        }
        let mut after = self.clone();
        let here = self.numbers(index, ShareKind::Immutable);
        let already: Vec<u8> =
            here.iter().copied().filter(|number| after.lease((index, *number), account, settings.quota)).collect();
        let mut allocated = Vec::new();
        // A slot takes no uploads: buckets and slots do not mix.
        let begins = settings.state.may_write() && self.numbers(index, ShareKind::Mutable).is_empty();
        for number in numbers.iter().filter(|_| begins) {
            let key = (index, *number);
            if self.shares.contains_key(&key) || after.uploads.get(&key).is_some_and(|old| old.deadline > now) {
                continue;
            }
            after.uploads.remove(&key);
            if ShareKind::Immutable.charged_bytes(size) > after.left(account, settings.quota) {
                continue;
            }
            let bytes = vec![None; size as usize];
            after.uploads.insert(key, Upload { account, secret, deadline: now + IDLE_SECONDS, bytes });
            allocated.push(*number);
        }
        (Answer::Sets(already, allocated), after)
    }

    fn write(
        &self,
        key: Key,
        secret: u8,
        range: std::ops::Range<u64>,
        (tag, arrival): (u8, Arrival),
        now: i64,
    ) -> Outcome {
        let refused = |name| (Answer::Refused(name), self.clone());
        let Some(upload) = self.uploads.get(&key) else { return refused("NotFound") };
        if upload.secret != secret {
            return refused("WrongUploadSecret");
        }
        if range.end > upload.bytes.len() as u64 {
            return refused("OutOfBounds");
        }
        match arrival {
            Arrival::Whole => {}
            Arrival::Broken => return refused("BodyBroken"),
            Arrival::Short | Arrival::Long => return refused("BodyLength"),
        }
        let mut after = self.clone();
        let upload = after.uploads.get_mut(&key).expect("looked at above");
        for (at, byte) in range.clone().zip(content(tag, range)) {
            if upload.bytes[at as usize].is_some_and(|known| known != byte) {
                return refused("Conflict");
            }
            upload.bytes[at as usize] = Some(byte);
        }
        upload.deadline = upload.deadline.max(now + IDLE_SECONDS);
        let missing = missing(&upload.bytes);
        if !missing.is_empty() {
            return (Answer::Written(false, missing), after);
        }
        let upload = after.uploads.remove(&key).expect("looked at above");
        if after.shares.contains_key(&key) || !after.numbers(key.0, ShareKind::Mutable).is_empty() {
            return (Answer::Refused("Conflict"), after);
        }
        let bytes = upload.bytes.into_iter().flatten().collect();
        let leases = BTreeSet::from([upload.account]);
        after.shares.insert(key, Share { kind: ShareKind::Immutable, bytes, leases });
        (Answer::Written(true, Vec::new()), after)
    }

    fn abort(&self, key: Key, secret: u8) -> Outcome {
        let refused = |name| (Answer::Refused(name), self.clone());
        match self.uploads.get(&key) {
            Some(upload) if upload.secret != secret => refused("WrongUploadSecret"),
            Some(_) => {
                let mut after = self.clone();
                after.uploads.remove(&key);
                (Answer::Done, after)
            }
            None if self.shares.get(&key).is_some_and(|share| share.kind == ShareKind::Immutable) => {
                refused("AlreadyComplete")
            }
            None => refused("NotFound"),
        }
    }

    fn renew(&self, account: usize, settings: Settings, index: u8) -> Outcome {
        let refused = |name| (Answer::Refused(name), self.clone());
        if !settings.state.may_renew() {
            return refused("Refused");
        }
        let numbers: Vec<u8> = self.of_index(index).map(|(number, _)| number).collect();
        if numbers.is_empty() {
            return refused("NotFound");
        }
        let mut after = self.clone();
        let mut all = true;
        for number in numbers {
            all &= after.lease((index, number), account, settings.quota);
        }
        (if all { Answer::Done } else { Answer::Refused("OverQuota") }, after)
    }

    fn read_test_write(
        &self,
        (account, settings): (usize, Settings),
        index: u8,
        enabler: u8,
        vectors: &BTreeMap<u8, Vectors>,
        reads: &[std::ops::Range<u64>],
    ) -> Outcome {
        let refused = |name| (Answer::Refused(name), self.clone());
        let mut writes = vectors.values().flat_map(|vectors| &vectors.writes);
        if writes.any(|write| write.offset + write.length > MUTABLE_MAX_BYTES) {
            return refused("TooLarge");
        }
        if self.enablers.get(&index).is_some_and(|set| *set != enabler) {
            return refused("WrongWriteEnabler");
        }
        if !self.numbers(index, ShareKind::Immutable).is_empty() {
            return refused("WrongKind");
        }
        let read = |share: &Share| reads.iter().map(|range| clip(&share.bytes, range.clone()).to_vec()).collect();
        let data: Vec<(u8, Vec<Vec<u8>>)> = self.of_index(index).map(|(number, share)| (number, read(share))).collect();
        let holds = vectors.values().flat_map(|vectors| &vectors.tests).all(|test| test.2 == Specimen::Actual);
        if !holds || vectors.is_empty() {
            return (Answer::Vectors(holds, data), self.clone());
        }
        if !settings.state.may_write() {
            return refused("Refused");
        }
        let mut after = self.clone();
        for (number, vectors) in vectors {
            after.write_mutable((index, *number), vectors, account);
        }
        if after.numbers(index, ShareKind::Mutable).is_empty() {
            after.enablers.remove(&index);
        } else {
            after.enablers.insert(index, enabler);
        }
        let growth = after.usage(account).0.saturating_sub(self.usage(account).0);
        if growth > 0 && growth > self.left(account, settings.quota) {
            return refused("OverQuota");
        }
        (Answer::Vectors(true, data), after)
    }

    fn write_mutable(&mut self, key: Key, vectors: &Vectors, account: usize) {
        if vectors.new_length == Some(0) {
            self.shares.remove(&key);
            return;
        }
        let fresh = || Share { kind: ShareKind::Mutable, bytes: Vec::new(), leases: BTreeSet::new() };
        let share = self.shares.entry(key).or_insert_with(fresh);
        for write in &vectors.writes {
            let (start, end) = (write.offset as usize, (write.offset + write.length) as usize);
            if share.bytes.len() < end {
                share.bytes.resize(end, 0);
            }
            share.bytes[start..end].copy_from_slice(&content(write.tag, write.offset..write.offset + write.length));
        }
        if let Some(length) = vectors.new_length {
            share.bytes.truncate(length as usize);
        }
        share.leases.insert(account);
    }

    /// Whether an operation of which only a part may have been done can have left this.
    pub fn admits_part(&self, operation: &Operation, now: i64, seen: &Self) -> bool {
        // An allocation first ends the overdue uploads that it meets, as a sweep does.
        if !matches!(operation, Operation::Sweep | Operation::Allocate { .. }) {
            return false;
        }
        let overdue = self.overdue(now);
        let without = |plain: &Self| {
            let mut plain = plain.clone();
            overdue.iter().for_each(|key| drop(plain.uploads.remove(key)));
            plain
        };
        without(self) == without(seen) && seen.uploads.keys().all(|key| self.uploads.contains_key(key))
    }

    /// The leases that an operation has promised for 31 days from now, where it was answered with success.
    pub fn promised(&self, operation: &Operation, answer: &Answer) -> Vec<(Key, usize)> {
        match (operation, answer) {
            (Operation::Allocate { account, index, .. }, Answer::Sets(already, _)) => {
                already.iter().map(|number| ((*index, *number), *account)).collect()
            }
            (Operation::Write { share, .. }, Answer::Written(true, _)) => {
                self.shares[share].leases.iter().map(|account| (*share, *account)).collect()
            }
            (Operation::Renew { account, index }, Answer::Done) => {
                self.of_index(*index).map(|(number, _)| ((*index, number), *account)).collect()
            }
            (Operation::ReadTestWrite { account, index, vectors, .. }, Answer::Vectors(true, _)) => {
                let keys = vectors.keys().map(|number| (*index, *number));
                keys.filter(|key| self.shares.contains_key(key)).map(|key| (key, *account)).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// When a lease that was promised now may end at the earliest.
pub const fn promise(now: i64) -> i64 {
    now + LEASE_DURATION_SECONDS
}

/// The part of `range` that there is.
pub fn clip(bytes: &[u8], range: std::ops::Range<u64>) -> &[u8] {
    let end = usize::try_from(range.end).unwrap_or(usize::MAX).min(bytes.len());
    &bytes[usize::try_from(range.start).unwrap_or(usize::MAX).min(end)..end]
}

fn missing(bytes: &[Option<u8>]) -> Vec<(u64, u64)> {
    let mut missing: Vec<(u64, u64)> = Vec::new();
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| byte.is_none()) {
        match missing.last_mut() {
            Some(last) if last.1 == at as u64 => last.1 += 1,
            _ => missing.push((at as u64, at as u64 + 1)),
        }
    }
    missing
}
