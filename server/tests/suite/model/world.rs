//! The store under test between its doubles, and what can be seen of it without them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use leasehold_core::accountant::{Accountant, Session};
use leasehold_core::backend::Backend;
use leasehold_core::chunk::{ObjectName, StoreObject};
use leasehold_core::clock::{Clock, Entropy};
use leasehold_core::id::{AccountId, ShareId, ShareNumber};
use leasehold_core::leasedb::{AccountChange, CreateOutcome, LeaseDb, LeaseDbError, Mode, TickOutcome};
use leasehold_core::share::{ShareKind, ShareState};
use leasehold_core::slot::{ReadTestWrite, ShareVectors, TestVector, WriteVector};
use leasehold_core::store::{Claim, ReadTestWriteOutcome, ShareSlice, Store, StoreError, StoreOptions};
use leasehold_core::testing::clock::{ManualClock, ManualSteadyClock};
use leasehold_core::testing::faulty::{Faults, FaultyBackend, FaultyLeaseDb};
use leasehold_core::testing::{body, broken_body, credential, enabler, share_id, storage_index, upload_secret};

use super::operation::{ACCOUNTS, Arrival, INDEXES, NUMBERS, Operation, Specimen, Vectors, content};
use super::plain::{Answer, IDLE_SECONDS, Key, MUTABLE_MAX_BYTES, Plain, Settings, Share, Upload, clip};
use crate::ground::Ground;

type FaultyStore<G> = Store<FaultyLeaseDb<<G as Ground>::Db>, FaultyBackend<<G as Ground>::Objects>>;
/// When leases end, by share and account.
type Ends = BTreeMap<(Key, usize), i64>;
type PlainStore<G> = Store<<G as Ground>::Db, <G as Ground>::Objects>;

/// What an operation gave back before it is looked at: slices are read when no fault can strike any more.
pub enum Raw {
    Answer(Answer),
    Vectors(ReadTestWriteOutcome),
}

/// A store under test.
pub struct World<G: Ground> {
    pub clock: ManualClock,
    pub faults: Faults,
    pub settings: Vec<Settings>,
    accounts: Vec<AccountId>,
    db: G::Db,
    objects: G::Objects,
    store: FaultyStore<G>,
    plain: PlainStore<G>,
    accountant: Accountant<G::Db>,
    incarnation: u64,
    ground: G,
}

fn options() -> StoreOptions {
    StoreOptions {
        upload_idle_seconds: IDLE_SECONDS,
        mutable_share_max_bytes: MUTABLE_MAX_BYTES,
        // Small, so that a write takes several objects.
        object_max_bytes: 50,
        // The largest shares are merged into two.
        merged_max_bytes: 120,
        ..StoreOptions::default()
    }
}

fn failed(what: &str, error: LeaseDbError) -> String {
    format!("{what}: {error:?}")
}

/// Nobody refreshes it: for it no time passes.
async fn accountant<L: LeaseDb + Clone>(db: &L) -> Accountant<L> {
    let clock = Arc::new(ManualSteadyClock::default());
    Accountant::open_with_clock(Arc::new(db.clone()), clock).await.expect("an accountant")
}

fn share(key: Key) -> ShareId {
    share_id(key.0, key.1)
}

impl<G: Ground> World<G> {
    /// An empty store with its accounts.
    pub async fn new() -> Self {
        let (ground, clock, faults) = (G::make().await, ManualClock::default(), Faults::new());
        let db = ground.open_db(&clock).await;
        let mut accounts = Vec::new();
        for name in ["alice", "bob", "carol"] {
            let change = AccountChange { quota_bytes: Some(None), ..AccountChange::default() };
            let made = db.create_account(name.to_owned(), change, credential(name)).await;
            let CreateOutcome::Created(account) = made.expect("create_account") else { panic!("{name} is new") };
            accounts.push(account.id);
        }
        let objects = ground.open_objects();
        let settings = vec![Settings { state: leasehold_core::account::AccountState::Active, quota: None }; ACCOUNTS];
        let accountant = accountant(&db).await;
        let (store, plain) = Self::stores(&db, &objects, &faults, 1);
        let world =
            Self { clock, faults, settings, accounts, db, objects, store, plain, accountant, incarnation: 1, ground };
        // As every server does before anything else.
        world.plain.claim_backend().await.expect("the backend is ours");
        world.store.refresh_space().await.expect("room is known");
        world
    }

    fn stores(db: &G::Db, objects: &G::Objects, faults: &Faults, incarnation: u64) -> (FaultyStore<G>, PlainStore<G>) {
        let faulty_db = Arc::new(FaultyLeaseDb::new(db.clone(), faults.clone()));
        let faulty_objects = Arc::new(FaultyBackend::new(objects.clone(), faults.clone()));
        let store = Store::new(faulty_db, faulty_objects, Entropy::from_seed(incarnation), options());
        let plain =
            Store::new(Arc::new(db.clone()), Arc::new(objects.clone()), Entropy::from_seed(!incarnation), options());
        (store, plain)
    }

    /// The process died: another one begins with what it left.
    pub async fn restart(&mut self) {
        self.incarnation += 1;
        self.db = self.ground.open_db(&self.clock).await;
        self.objects = self.ground.open_objects();
        self.accountant = accountant(&self.db).await;
        (self.store, self.plain) = Self::stores(&self.db, &self.objects, &self.faults, self.incarnation);
        self.store.refresh_space().await.expect("room is known");
    }

    /// Asks for the backend's room again, without faults.
    pub async fn refresh_space(&self) {
        self.store.refresh_space().await.expect("room is known");
    }

    /// Whole seconds since 1970.
    pub fn now(&self) -> i64 {
        self.clock.now().seconds()
    }

    async fn session(&self, account: usize) -> Arc<Session> {
        let name = ["alice", "bob", "carol"][account];
        let session = self.accountant.session(&credential(name)).await.expect("session");
        session.expect("the credential is valid")
    }

    /// What is not an operation of the store: the clock and the accounts.
    pub async fn arrange(&mut self, operation: &Operation) {
        let (account, change) = match operation {
            Operation::Step { seconds } => return self.clock.advance(*seconds),
            Operation::SetQuota { account, quota } => {
                self.settings[*account].quota = *quota;
                (*account, AccountChange { quota_bytes: Some(*quota), ..AccountChange::default() })
            }
            Operation::SetState { account, state } => {
                self.settings[*account].state = *state;
                (*account, AccountChange { state: Some(*state), ..AccountChange::default() })
            }
            _ => return,
        };
        assert!(self.db.change_account(self.accounts[account], change).await.expect("change_account"));
        self.accountant.refresh().await.expect("refresh");
    }

    /// Runs an operation; the plain model gives the sizes and specimens it needs.
    pub async fn run(&self, operation: &Operation, plain: &Plain) -> Result<Raw, StoreError> {
        let store = &self.store;
        let answer = match operation {
            Operation::Allocate { account, index, numbers, size, secret } => {
                let session = self.session(*account).await;
                let numbers: Vec<ShareNumber> = numbers.iter().copied().map(ShareNumber::new).collect();
                let secret = upload_secret(*secret);
                let sets = store.allocate_bucket(&session, storage_index(*index), &numbers, *size, &secret).await?;
                let plain_numbers = |set: Vec<ShareNumber>| set.into_iter().map(ShareNumber::get).collect();
                Answer::Sets(plain_numbers(sets.already_have), plain_numbers(sets.allocated))
            }
            Operation::Write { share: key, secret, tag, arrival, .. } => {
                let range = operation.range(plain);
                let mut bytes = content(*tag, range.clone());
                let body = match arrival {
                    Arrival::Whole => body(&bytes),
                    Arrival::Short => body(&bytes[1..]),
                    Arrival::Long => {
                        bytes.push(0);
                        body(&bytes)
                    }
                    Arrival::Broken => broken_body(&bytes[..bytes.len() / 2]),
                };
                let written = store.write_bucket(share(*key), &upload_secret(*secret), range, body).await?;
                let missing = written.missing.into_iter().map(|range| (range.start, range.end)).collect();
                Answer::Written(written.finished, missing)
            }
            Operation::Abort { share: key, secret } => {
                store.abort_bucket(share(*key), &upload_secret(*secret)).await?;
                Answer::Done
            }
            Operation::List { kind, index } => {
                let numbers = store.list_shares(*kind, storage_index(*index)).await?;
                Answer::Numbers(numbers.into_iter().map(ShareNumber::get).collect())
            }
            Operation::Read { kind, share: key, range } => {
                let row = store.stable_share(*kind, share(*key)).await?;
                let slice = ShareSlice::new(storage_index(key.0), &row, range.clone());
                Answer::Bytes(store.read_slice(&slice).await?.to_vec())
            }
            Operation::Renew { account, index } => {
                store.renew_leases(&*self.session(*account).await, storage_index(*index)).await?;
                Answer::Done
            }
            Operation::ReadTestWrite { account, index, enabler: number, vectors, reads } => {
                let session = self.session(*account).await;
                let (request, payload) = request(*index, vectors, reads, plain);
                let (index, enabler) = (storage_index(*index), enabler(*number));
                let outcome = store.read_test_write(&session, index, &enabler, &request, &payload).await?;
                return Ok(Raw::Vectors(outcome));
            }
            Operation::Advise { account, kind, share: key } => {
                let session = self.session(*account).await;
                store.advise(&session, *kind, share(*key), "looks bad".to_owned()).await?;
                Answer::Done
            }
            Operation::Sweep => Answer::Ended(store.collect(|_| ()).await?.uploads_ended),
            Operation::RefreshSpace => {
                store.refresh_space().await?;
                Answer::Done
            }
            Operation::Claim => match store.claim_backend().await? {
                Claim::Ours => Answer::Done,
                Claim::Foreign { .. } => Answer::Refused("Foreign"),
            },
            Operation::Tick => match store.tick().await? {
                Some(TickOutcome::Loss(_)) => Answer::Refused("Loss"),
                Some(TickOutcome::Beat { .. } | TickOutcome::Elsewhere) | None => Answer::Done,
            },
            Operation::Step { .. } | Operation::SetQuota { .. } | Operation::SetState { .. } => Answer::Done,
        };
        Ok(Raw::Answer(answer))
    }

    /// The answer as plain values; what a read vector named is readable after the write as well.
    pub async fn answer(&self, result: Result<Raw, StoreError>) -> Result<Answer, String> {
        match result {
            Ok(Raw::Answer(answer)) => Ok(answer),
            Ok(Raw::Vectors(outcome)) => {
                let mut data = Vec::new();
                for (number, slices) in outcome.data {
                    let mut read = Vec::new();
                    for slice in slices {
                        let bytes = self.plain.read_slice(&slice).await;
                        read.push(bytes.map_err(|error| format!("a read vector's slice: {error:?}"))?.to_vec());
                    }
                    data.push((number.get(), read));
                }
                Ok(Answer::Vectors(outcome.success, data))
            }
            Err(error) => Ok(Answer::Refused(variant(&error))),
        }
    }

    /// Everything that can be seen, and with it the leases' ends.
    pub async fn observe(&self) -> Result<(Plain, Ends), String> {
        let deployment = self.db.deployment().await.map_err(|error| failed("deployment", error))?;
        if deployment.mode != Mode::Normal {
            return Err("commits seem to be lost".to_owned());
        }
        let (mut seen, mut ends) = (Plain::default(), BTreeMap::new());
        for (plain, of_index) in try_join_all((0..INDEXES).map(|index| self.observe_index(index))).await? {
            seen.shares.extend(plain.shares);
            seen.uploads.extend(plain.uploads);
            seen.enablers.extend(plain.enablers);
            ends.extend(of_index);
        }
        Ok((seen, ends))
    }

    async fn observe_index(&self, index: u8) -> Result<(Plain, Ends), String> {
        let (mut seen, mut ends) = (Plain::default(), BTreeMap::new());
        let si = storage_index(index);
        for row in self.db.list_shares(si).await.map_err(|error| failed("list_shares", error))? {
            let key = (index, row.number.get());
            if row.state != ShareState::Stable {
                return Err(format!("share {key:?} is {:?}", row.state));
            }
            let slice = ShareSlice::new(si, &row, 0..u64::MAX);
            let bytes = self.plain.read_slice(&slice).await;
            let bytes = bytes.map_err(|error| format!("share {key:?}: {error:?}"))?.to_vec();
            seen.shares.insert(key, Share { kind: row.kind, bytes, leases: BTreeSet::new() });
        }
        for lease in self.db.list_leases(si).await.map_err(|error| failed("list_leases", error))? {
            let key = (index, lease.number.get());
            let account = self.accounts.iter().position(|id| *id == lease.account).ok_or("a stranger's lease")?;
            let share = seen.shares.get_mut(&key).ok_or(format!("a lease on {key:?}, which is not there"))?;
            share.leases.insert(account);
            ends.insert((key, account), lease.lease.expires_at.seconds());
        }
        let kinds: HashSet<ShareKind> = seen.shares.values().map(|share| share.kind).collect();
        if kinds.len() > 1 {
            return Err(format!("storage index {index} has shares of both kinds"));
        }
        let slot = self.db.read_slot(si).await.map_err(|error| failed("read_slot", error))?;
        if let Some((_, hash)) = slot.slot {
            let number = (0..4).find(|number| enabler(*number).hash() == hash).ok_or("a stranger's enabler")?;
            seen.enablers.insert(index, number);
        }
        let uploads = try_join_all((0..NUMBERS).map(|number| self.upload((index, number)))).await?;
        for (number, upload) in (0..NUMBERS).zip(uploads) {
            seen.uploads.extend(upload.map(|upload| ((index, number), upload)));
        }
        Ok((seen, ends))
    }

    async fn upload(&self, key: Key) -> Result<Option<Upload>, String> {
        let found = self.db.find_upload(share(key)).await.map_err(|error| format!("find_upload: {error:?}"))?.1;
        let Some(found) = found else { return Ok(None) };
        let mut bytes = vec![None; found.size_bytes as usize];
        for chunk in &found.chunks {
            let base = chunk.object.base_offset();
            let range = chunk.range.start - base..chunk.range.end - base;
            let stream = self.objects.get(&ObjectName::new(share(key), chunk.object).key(), range).await;
            let stream = stream.map_err(|error| format!("a recorded piece of {key:?}: {error:?}"))?;
            let read = leasehold_core::testing::read_all(stream).await;
            let read = read.map_err(|error| format!("a recorded piece of {key:?}: {error:?}"))?;
            for (at, byte) in chunk.range.clone().zip(read) {
                if bytes[at as usize].replace(byte).is_some() {
                    return Err(format!("byte {at} of {key:?} is recorded twice"));
                }
            }
        }
        let secret =
            (0..4).find(|secret| upload_secret(*secret).hash() == found.secret).ok_or("a stranger's secret")?;
        let account = self.accounts.iter().position(|id| *id == found.account).ok_or("a stranger's upload")?;
        Ok(Some(Upload { account, secret, deadline: found.deadline.seconds(), bytes }))
    }

    /// Compares every account's usage with a recount of what was seen.
    pub async fn check_usage(&self, seen: &Plain) -> Result<(), String> {
        for (account, id) in self.accounts.iter().enumerate() {
            let usage = self.db.usage(*id).await.map_err(|error| format!("usage: {error:?}"))?;
            let recount = seen.usage(account);
            if (usage.used_bytes, usage.reserved_bytes, usage.shares) != recount {
                return Err(format!("usage of account {account} is {usage:?}, a recount gives {recount:?}"));
            }
        }
        Ok(())
    }

    /// Sweeps without faults.
    pub async fn sweep(&self) -> Result<(), String> {
        self.plain.collect(|_| ()).await.map(drop).map_err(|error| format!("sweep: {error:?}"))
    }

    /// Objects that nothing names, once all garbage is gone: how many there are, and those that have no excuse.
    pub async fn unnamed(&self, excused: &HashSet<ObjectName>) -> Result<(usize, Vec<ObjectName>), String> {
        let (mut named, mut live_slots) = (HashSet::new(), HashSet::new());
        for index in (0..INDEXES).map(storage_index) {
            for row in self.db.list_shares(index).await.map_err(|error| format!("{error:?}"))? {
                live_slots.extend((row.kind == ShareKind::Mutable).then_some(index));
                let id = ShareId::new(index, row.number);
                named.extend(row.locator.objects().into_iter().map(|object| ObjectName::new(id, object)));
            }
        }
        let page = self.objects.list("shares/", None, 100_000).await.map_err(|error| format!("list: {error:?}"))?;
        let (mut count, mut left) = (0, Vec::new());
        for listed in page.objects {
            let name: ObjectName = listed.name.parse().map_err(|_| format!("a strange name: {}", listed.name))?;
            if named.contains(&name) {
                continue;
            }
            // The manifest of a slot's last commit, where that stored no whole share; no trait method shows it.
            let is_marker = matches!(name.object, StoreObject::SlotMarker { .. });
            let excused = excused.contains(&name);
            if !(excused || is_marker && live_slots.remove(&name.share.storage_index)) {
                left.push(name);
            }
            count += 1;
        }
        Ok((count, left))
    }
}

/// The request and its payload; specimens are taken from the plain model.
fn request(
    index: u8,
    vectors: &BTreeMap<u8, Vectors>,
    reads: &[std::ops::Range<u64>],
    plain: &Plain,
) -> (ReadTestWrite, Bytes) {
    let mut payload = vec![0xee; 3];
    let mut request = ReadTestWrite { reads: reads.to_vec(), ..ReadTestWrite::default() };
    for (number, vectors) in vectors {
        let mut of_share = ShareVectors { new_length: vectors.new_length, ..ShareVectors::default() };
        let found = plain.shares.get(&(index, *number)).filter(|share| share.kind == ShareKind::Mutable);
        for (offset, size, specimen) in &vectors.tests {
            let actual = found.map_or(&[][..], |share| clip(&share.bytes, *offset..offset + size));
            let mut bytes = actual.to_vec();
            match (specimen, bytes.last_mut()) {
                (Specimen::Actual, _) => {}
                (Specimen::Wrong, Some(last)) => *last ^= 1,
                (Specimen::Wrong, None) => bytes.push(1),
            }
            of_share.tests.push(TestVector { offset: *offset, size: *size, specimen: bytes.into() });
        }
        for write in &vectors.writes {
            let source = payload.len() as u64;
            payload.extend(content(write.tag, write.offset..write.offset + write.length));
            of_share.writes.push(WriteVector { offset: write.offset, length: write.length, source });
        }
        request.vectors.insert(ShareNumber::new(*number), of_share);
    }
    (request, payload.into())
}

/// The name of an error's variant.
pub const fn variant(error: &StoreError) -> &'static str {
    match error {
        StoreError::NotFound => "NotFound",
        StoreError::WrongUploadSecret => "WrongUploadSecret",
        StoreError::AlreadyComplete => "AlreadyComplete",
        StoreError::Conflict => "Conflict",
        StoreError::OutOfBounds { .. } => "OutOfBounds",
        StoreError::BodyLength => "BodyLength",
        StoreError::BodyBroken(_) => "BodyBroken",
        StoreError::WrongWriteEnabler => "WrongWriteEnabler",
        StoreError::WrongKind => "WrongKind",
        StoreError::Refused(_) => "Refused",
        StoreError::OverQuota => "OverQuota",
        StoreError::Full => "Full",
        StoreError::TooLarge { .. } => "TooLarge",
        StoreError::Busy => "Busy",
        StoreError::Vanished(_) => "Vanished",
        StoreError::AnotherDatabase => "AnotherDatabase",
        StoreError::LeaseDb(_) => "LeaseDb",
        StoreError::Backend(_) => "Backend",
    }
}
