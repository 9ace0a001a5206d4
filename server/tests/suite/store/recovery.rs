//! Whatever is written, removed or dies, and wherever the lease database goes back to: clients see the last acknowledged
//! state of each slot or a later one that was never answered, whole; and every share whose upload was acknowledged, and no
//! share whose upload was aborted (`review.md` C1).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use leasehold_core::accountant::Session;
use leasehold_core::id::{ShareId, ShareNumber, StorageIndex};
use leasehold_core::leasedb::TickOutcome;
use leasehold_core::share::ShareKind;
use leasehold_core::slot::{ReadTestWrite, ShareVectors, WriteVector};
use leasehold_core::store::StoreError;
use leasehold_core::testing::faulty::{Fault, Faults, FaultyBackend, FaultyLeaseDb};
use leasehold_core::testing::{body, enabler, seed, share_id, storage_index, upload_secret};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use super::beats::{beat, beats};
use super::pattern;
use super::site::{Pod, Site};
use crate::ground::{Ground, OneMachine, Pods};

const SLOTS: [u8; 3] = [1, 2, 3];
/// Storage indexes of buckets begin here; each upload has one of its own.
const BUCKETS_FROM: u8 = 100;

/// The shares of a slot.
type State = BTreeMap<u8, Vec<u8>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It must be there.
    Acknowledged,
    /// It may be there.
    Unanswered,
    /// It must not be there.
    Aborted,
}

/// What clients know.
#[derive(Default)]
struct Known {
    /// For each slot the last acknowledged state, and later ones that may be.
    slots: BTreeMap<u8, (State, Vec<State>)>,
    uploads: BTreeMap<u8, Fate>,
}

struct Trial<G: Ground> {
    site: Site<G>,
    session: Arc<Session>,
    random: StdRng,
    known: Known,
    trace: Vec<String>,
}

impl<G: Ground> Trial<G> {
    async fn new(seed: u64) -> Self {
        let site = Site::make().await;
        let session = site.account("alice").await;
        let known = Known { slots: SLOTS.map(|slot| (slot, (State::new(), Vec::new()))).into(), ..Known::default() };
        Self { site, session, random: StdRng::seed_from_u64(seed), known, trace: Vec::new() }
    }

    /// Runs an operation on a new process, which may die at any call: `None` then.
    async fn on_a_process<T>(
        &mut self,
        operation: impl AsyncFnOnce(&Pod<FaultyLeaseDb<G::Db>, FaultyBackend<G::Objects>>) -> Result<T, StoreError>,
    ) -> Option<T> {
        let faults = Faults::new();
        let db = FaultyLeaseDb::new(self.site.db.clone(), faults.clone());
        let pod = Pod { store: self.site.store(db, FaultyBackend::new(self.site.objects.clone(), faults.clone())) };
        pod.store.refresh_space().await.expect("room is known");
        let fault = *[Fault::CrashBefore, Fault::CrashAfter].choose(&mut self.random).expect("two");
        let plan = self.random.random_bool(0.3).then(|| (self.random.random_range(0..8), fault));
        faults.begin("operation", plan);
        let answer = faults.run(operation(&pod)).await;
        let died = faults.end().struck;
        self.trace.push(format!("    {}", died.map_or("answered".to_owned(), |died| format!("died: {died:?}"))));
        answer.map(|answer| answer.unwrap_or_else(|error| panic!("{error:?}\n{}", self.trace.join("\n"))))
    }

    async fn seen(&self, slot: u8) -> State {
        let pod = self.site.told_pod().await;
        let mut state = State::new();
        for number in pod.numbers(ShareKind::Mutable, share_id(slot, 0)).await {
            let share = ShareId::new(storage_index(slot), number);
            state.insert(number.get(), pod.read(ShareKind::Mutable, share).await);
        }
        state
    }

    async fn write_slot(&mut self) {
        let slot = *SLOTS.choose(&mut self.random).expect("some");
        let before = self.seen(slot).await;
        let (mut after, mut payload, mut request) = (before.clone(), Vec::new(), ReadTestWrite::default());
        let mut numbers = [0, 1, 2, 3];
        numbers.shuffle(&mut self.random);
        for number in numbers.into_iter().take(self.random.random_range(1..4)) {
            let mut vectors = ShareVectors::default();
            if before.contains_key(&number) && self.random.random_bool(0.3) {
                vectors.new_length = Some(0);
                after.remove(&number);
            } else {
                let (offset, length) = (self.random.random_range(0..20), self.random.random_range(0..40));
                let source = payload.len() as u64;
                payload.extend((0..length).map(|_| self.random.random::<u8>()));
                vectors.writes.push(WriteVector { offset, length, source });
                let share: &mut Vec<u8> = after.entry(number).or_default();
                let (start, end) = (offset as usize, (offset + length) as usize);
                share.resize(share.len().max(end), 0);
                share[start..end].copy_from_slice(&payload[source as usize..]);
            }
            request.vectors.insert(ShareNumber::new(number), vectors);
        }
        self.trace.push(format!("slot {slot}: {:?}", request.vectors));
        let (session, payload) = (self.session.clone(), Bytes::from(payload));
        let answer = self
            .on_a_process(async |pod| {
                let (index, enabler) = (storage_index(slot), enabler(1));
                pod.store.read_test_write(&session, index, &enabler, &request, &payload).await
            })
            .await;
        let (acknowledged, later) = self.known.slots.get_mut(&slot).expect("known");
        match answer {
            Some(outcome) => {
                assert!(outcome.success);
                (*acknowledged, *later) = (after, Vec::new());
            }
            None => later.push(after),
        }
    }

    async fn upload(&mut self) {
        let bucket = BUCKETS_FROM + self.known.uploads.len() as u8;
        let (size, share) = (self.random.random_range(1..100), share_id(bucket, 0));
        let middle = self.random.random_range(0..size);
        let aborts = self.random.random_bool(0.2);
        self.trace.push(format!("bucket {bucket}: {middle} of {size}{}", if aborts { ", aborted" } else { "" }));
        let session = self.session.clone();
        let answer = self
            .on_a_process(async |pod| {
                let (index, secret) = (share.storage_index, upload_secret(1));
                pod.store.allocate_bucket(&session, index, &[share.number], size, &secret).await?;
                for range in [0..middle, middle..size] {
                    if aborts && range.start > 0 {
                        return pod.store.abort_bucket(share, &secret).await;
                    }
                    if !range.is_empty() {
                        pod.store.write_bucket(share, &secret, range.clone(), body(&pattern(range))).await?;
                    }
                }
                Ok(())
            })
            .await;
        let fate = match answer {
            Some(()) if aborts && middle > 0 => Fate::Aborted,
            Some(()) => Fate::Acknowledged,
            None => Fate::Unanswered,
        };
        self.known.uploads.insert(bucket, fate);
    }

    /// Time passes, and what is due is deleted.
    async fn pass_time(&mut self) {
        let seconds = *[1, 60, 20 * 60, 3 * 3600, 25 * 3600].choose(&mut self.random).expect("some");
        self.trace.push(format!("{seconds} s"));
        self.site.clock.advance(seconds);
        let pod = self.site.told_pod().await;
        pod.store.collect(|_| ()).await.expect("collect");
        if self.random.random_bool(0.5) {
            for index in SLOTS.into_iter().chain(self.known.uploads.keys().copied()) {
                pod.store.settle(storage_index(index), false).await.expect("settled");
            }
        }
        if beat_is_due(&pod).await == Some(false) {
            panic!("commits seem to be lost\n{}", self.trace.join("\n"));
        }
    }

    async fn step(&mut self) {
        self.site.clock.advance(1);
        match self.random.random_range(0..10) {
            0..=5 => self.write_slot().await,
            6..=7 => self.upload().await,
            _ => self.pass_time().await,
        }
    }

    /// The lease database goes back; everything that clients know is looked at, in any order.
    async fn go_back(&mut self, past: &G::Past) {
        let pod = self.site.told_pod().await;
        beats(&self.site, &pod.store, 1).await;
        self.trace.push("back".to_owned());
        self.site.ground.roll_back(past).await;
        let outcome = beat(&self.site, &self.site.far_pod().await.store).await;
        assert!(matches!(outcome, TickOutcome::Loss(_)), "{outcome:?}");
        let mut slots = SLOTS;
        slots.shuffle(&mut self.random);
        for slot in slots {
            let seen = self.seen(slot).await;
            let trace = self.trace.join("\n");
            let (acknowledged, later) = self.known.slots.get_mut(&slot).expect("known");
            let allowed = seen == *acknowledged || later.contains(&seen);
            assert!(allowed, "{trace}\nslot {slot} is {seen:?}, not {acknowledged:?} or one of {later:?}");
            (*acknowledged, *later) = (seen, Vec::new());
        }
        for (bucket, fate) in &mut self.known.uploads {
            let pod = self.site.told_pod().await;
            let share = share_id(*bucket, 0);
            let is_there = !pod.numbers(ShareKind::Immutable, share).await.is_empty();
            let trace = self.trace.join("\n");
            assert!(!is_there || *fate != Fate::Aborted, "{trace}\nbucket {bucket} was aborted");
            assert!(is_there || *fate != Fate::Acknowledged, "{trace}\nbucket {bucket} was acknowledged");
            if is_there {
                let bytes = pod.read(ShareKind::Immutable, share).await;
                assert_eq!(bytes, pattern(0..bytes.len() as u64), "{trace}\nbucket {bucket}");
                *fate = Fate::Acknowledged;
            }
        }
        let indexes: Vec<StorageIndex> =
            SLOTS.into_iter().chain(self.known.uploads.keys().copied()).map(storage_index).collect();
        self.site.assert_usage(&["alice"], &indexes).await;
    }
}

/// Whether the heart still beats as it should; `None` if it is not time.
async fn beat_is_due<L: leasehold_core::leasedb::LeaseDb, B: leasehold_core::backend::Backend>(
    pod: &Pod<L, B>,
) -> Option<bool> {
    pod.store.tick().await.expect("a tick").map(|outcome| !matches!(outcome, TickOutcome::Loss(_)))
}

async fn trials<G: Ground>(count: u64, steps: usize) {
    let first = seed();
    let long = std::env::var("LEASEHOLD_LONG").is_ok_and(|value| value == "1");
    for seed in first..first + if long { count * 20 } else { count } {
        println!("seed {seed}");
        let mut trial = Trial::<G>::new(seed).await;
        let pod = trial.site.told_pod().await;
        beats(&trial.site, &pod.store, 1).await;
        // From where the database is dropped; and a place somewhere on the way.
        let dropped = trial.site.ground.keep().await;
        for _ in 0..trial.random.random_range(0..steps) {
            trial.step().await;
        }
        let mut past = if G::IS_ONE_MACHINE { Some(trial.site.ground.keep().await) } else { None };
        for _ in 0..3 {
            for _ in 0..trial.random.random_range(0..steps) {
                trial.step().await;
            }
            let back = past.take_if(|_| trial.random.random_bool(0.6));
            trial.go_back(back.as_ref().unwrap_or(&dropped)).await;
            if G::IS_ONE_MACHINE {
                past = Some(trial.site.ground.keep().await);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_clients_see_the_last_acknowledged_state_or_a_later_one_whole() {
    trials::<OneMachine>(12, 14).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_over_postgresql_and_s3_clients_see_the_last_acknowledged_state_or_a_later_one_whole() {
    trials::<Pods>(1, 8).await;
}
