//! Read-test-write on slots (`gbs.md` 9.1, `design.md` 4.2).
//!
//! Reads a snapshot, evaluates on it, stores new objects under fresh names, and commits all shares of the call by
//! swapping the slot's token. If another writer was first, starts again from the new snapshot.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};

use super::body::{self, Payload, Side};
use super::read::{ShareSlice, open_segments};
use super::stage::{PlannedPut, plan_share};
use super::{Result, Store, StoreError};
use crate::accountant::Session;
use crate::backend::{Backend, BackendError, ByteStream};
use crate::chunk::{ObjectName, StoreObject};
use crate::id::{ShareId, ShareNumber, StorageIndex};
use crate::leasedb::{
    CommitOutcome, CommitSlot, LeaseDb, LeaseDbError, Mode, ShareRow, SlotChange, SlotSnapshot, SlotToken,
};
use crate::locator::Locator;
use crate::manifest::Manifest;
use crate::observe::{Event, QuotaKind, SlotWrite as Told};
use crate::secret::{SecretHash, WriteEnabler};
use crate::share::ShareState;
use crate::slot::{Composition, ReadTestWrite, ShareVectors, Source, TestVector};

/// How often a write starts again because others were first; each time somebody else's write succeeded.
const ATTEMPTS_MAX: usize = 20;

/// The answer to a read-test-write.
#[derive(Clone, Debug)]
pub struct ReadTestWriteOutcome {
    /// Whether all tests held, and so everything was written.
    pub success: bool,
    /// What the read vector reads of every share of the slot as it was before, in the vector's order.
    pub data: Vec<(ShareNumber, Vec<ShareSlice>)>,
}

struct Plan {
    changes: Vec<(ShareNumber, SlotChange)>,
    puts: Vec<(ShareNumber, PlannedPut)>,
    compositions: BTreeMap<ShareNumber, Composition>,
}

impl<L: LeaseDb, B: Backend> Store<L, B> {
    /// Tests, reads and writes all shares of a slot as one atomic operation.
    ///
    /// `payload` holds the bytes that the request's write vectors point into.
    ///
    /// # Errors
    /// [`WrongWriteEnabler`](StoreError::WrongWriteEnabler), [`WrongKind`](StoreError::WrongKind),
    /// [`TooLarge`](StoreError::TooLarge), [`OverQuota`](StoreError::OverQuota),
    /// [`Refused`](StoreError::Refused), [`Busy`](StoreError::Busy).
    pub async fn read_test_write(
        &self,
        session: &Session,
        storage_index: StorageIndex,
        write_enabler: &WriteEnabler,
        request: &ReadTestWrite,
        payload: &dyn Payload,
    ) -> Result<ReadTestWriteOutcome> {
        let result = self.try_read_test_write(session, storage_index, write_enabler, request, payload).await;
        let told = match &result {
            Ok(outcome) if !outcome.success => Some(Told::TestFailed),
            Ok(_) => (!request.vectors.is_empty()).then_some(Told::Applied),
            Err(StoreError::WrongWriteEnabler) => Some(Told::WrongEnabler),
            Err(StoreError::OverQuota) => Some(Told::OverQuota),
            Err(_) => None,
        };
        if let Some(told) = told {
            self.observer.notice(Event::SlotWrite(told));
        }
        if told == Some(Told::OverQuota) {
            self.observer.notice(Event::OverQuota(QuotaKind::Slot));
        }
        result
    }

    async fn try_read_test_write(
        &self,
        session: &Session,
        storage_index: StorageIndex,
        write_enabler: &WriteEnabler,
        request: &ReadTestWrite,
        payload: &dyn Payload,
    ) -> Result<ReadTestWriteOutcome> {
        self.check_sizes(request)?;
        let write_enabler = write_enabler.hash();
        self.touch(storage_index).await?;
        let mut refused: Option<(SlotToken, ReadTestWriteOutcome)> = None;
        for _ in 0..ATTEMPTS_MAX {
            let snapshot = self.db.read_slot(storage_index).await?;
            // Others may have noticed a moment ago that commits were lost.
            if snapshot.mode == Mode::Recovery && !self.is_settled(snapshot.epoch, storage_index) {
                self.settle_first(storage_index).await?;
                continue;
            }
            // A commit that was refused is in force all the same: it was found in the backend and taken for one that was
            // lost.
            if let Some((token, outcome)) = refused.take()
                && snapshot.slot.as_ref().is_some_and(|(now, _)| *now == token)
            {
                return Ok(outcome);
            }
            if snapshot.slot.as_ref().is_some_and(|(_, enabler)| *enabler != write_enabler) {
                return Err(StoreError::WrongWriteEnabler);
            }
            if snapshot.has_immutable {
                return Err(StoreError::WrongKind);
            }
            let success = self.tests_hold(storage_index, &snapshot, request).await?;
            let data = read_stable(storage_index, &snapshot, &request.reads).collect();
            let outcome = ReadTestWriteOutcome { success, data };
            if !success || request.vectors.is_empty() {
                return Ok(outcome);
            }
            if !session.account.state.may_write() {
                return Err(StoreError::Refused(session.account.state));
            }
            let token = SlotToken(self.entropy.bytes());
            let attempt = SlotWrite { store: self, session, storage_index, write_enabler, snapshot: &snapshot, token };
            match attempt.run(request, payload).await? {
                CommitOutcome::Done => return Ok(outcome),
                CommitOutcome::Conflict => refused = Some((token, outcome)),
                CommitOutcome::OverQuota => return Err(StoreError::OverQuota),
                CommitOutcome::Refused(state) => return Err(StoreError::Refused(state)),
            }
        }
        Err(StoreError::Busy)
    }

    fn check_sizes(&self, request: &ReadTestWrite) -> Result<()> {
        let max_bytes = self.options.mutable_share_max_bytes;
        let too_large = |end: Option<u64>| end.is_none_or(|end| end > max_bytes);
        for vectors in request.vectors.values() {
            if vectors.writes.iter().any(|write| too_large(write.offset.checked_add(write.length))) {
                return Err(StoreError::TooLarge { max_bytes });
            }
        }
        Ok(())
    }

    async fn tests_hold(&self, index: StorageIndex, slot: &SlotSnapshot, request: &ReadTestWrite) -> Result<bool> {
        for (number, vectors) in &request.vectors {
            let row = stable(slot).find(|row| row.number == *number);
            for test in &vectors.tests {
                if !self.test_holds(index, row, test).await? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    async fn test_holds(&self, index: StorageIndex, row: Option<&ShareRow>, test: &TestVector) -> Result<bool> {
        let Some(row) = row else { return Ok(test.specimen.is_empty()) };
        let slice = ShareSlice::new(index, row, test.offset..test.offset.saturating_add(test.size));
        if slice.length_bytes != test.specimen.len() as u64 {
            return Ok(false);
        }
        let specimen = stream::iter([Ok(test.specimen.clone())]).boxed();
        body::equal(self.open_slice(&slice).await?, specimen).await.map_err(|side| match side {
            Side::First(error) | Side::Second(error) => StoreError::Backend(BackendError::Unavailable(error)),
        })
    }
}

fn stable(slot: &SlotSnapshot) -> impl Iterator<Item = &ShareRow> {
    slot.shares.iter().filter(|row| row.state == ShareState::Stable)
}

/// What `reads` find in each share of a slot.
pub(super) fn read_stable(
    index: StorageIndex,
    slot: &SlotSnapshot,
    reads: &[Range<u64>],
) -> impl Iterator<Item = (ShareNumber, Vec<ShareSlice>)> {
    stable(slot)
        .map(move |row| (row.number, reads.iter().map(|range| ShareSlice::new(index, row, range.clone())).collect()))
}

/// One attempt of a write on one snapshot.
struct SlotWrite<'a, L, B> {
    store: &'a Store<L, B>,
    session: &'a Session,
    storage_index: StorageIndex,
    write_enabler: SecretHash,
    snapshot: &'a SlotSnapshot,
    /// What the slot's token shall be.
    token: SlotToken,
}

impl<L: LeaseDb, B: Backend> SlotWrite<'_, L, B> {
    async fn run(&self, request: &ReadTestWrite, payload: &dyn Payload) -> Result<CommitOutcome> {
        let plan = self.plan(request);
        if plan.changes.is_empty() {
            return Ok(CommitOutcome::Done);
        }
        let (marker, trailer) = self.manifest(&plan);
        let mut stored = Vec::new();
        let result = match self.store_objects(&plan, marker, &trailer, payload, &mut stored).await {
            Ok(()) => self.commit(plan.changes, marker, &stored).await,
            Err(error) => Err(error),
        };
        match &result {
            Ok(CommitOutcome::Done) | Err(StoreError::LeaseDb(LeaseDbError::OutcomeUnknown(_))) => {}
            // Known not to hold: the objects are garbage. What a failing database keeps, the orphan duty finds.
            _ => drop(self.store.db.discard_objects(stored).await),
        }
        result
    }

    fn plan(&self, request: &ReadTestWrite) -> Plan {
        let mut plan = Plan { changes: Vec::new(), puts: Vec::new(), compositions: BTreeMap::new() };
        let account = self.session.account.id;
        for (number, vectors) in &request.vectors {
            let old = self.snapshot.shares.iter().find(|row| row.number == *number);
            // A lost share reads as absent: its bytes are gone, and a write replaces them.
            let base = old.filter(|row| row.state == ShareState::Stable);
            if let (Some(row), true) = (base, changes_nothing(vectors)) {
                let kept = SlotChange::Put { size_bytes: row.size_bytes, locator: row.locator.clone() };
                plan.changes.push((*number, kept));
                continue;
            }
            match Composition::of(base.map_or(0, |row| row.size_bytes), vectors) {
                None if old.is_some() => plan.changes.push((*number, SlotChange::Remove)),
                None => {}
                Some(composition) => {
                    let none = Locator::default();
                    let locator = base.map_or(&none, |row| &row.locator);
                    let fresh = || self.store.entropy.object_id(self.snapshot.now);
                    let staged = plan_share(&composition, locator, account, fresh);
                    let put = SlotChange::Put { size_bytes: staged.size_bytes, locator: staged.locator };
                    plan.changes.push((*number, put));
                    plan.puts.extend(staged.puts.into_iter().map(|put| (*number, put)));
                    plan.compositions.insert(*number, composition);
                }
            }
        }
        plan
    }

    /// The manifest's bytes, and a name for it where no whole share carries it.
    fn manifest(&self, plan: &Plan) -> (Option<ObjectName>, Bytes) {
        let carried = plan.puts.iter().any(|(_, put)| matches!(put.object, StoreObject::Generation { .. }));
        let removes = plan.changes.iter().any(|(_, change)| matches!(change, SlotChange::Remove));
        if plan.compositions.is_empty() && !removes {
            return (None, Bytes::new());
        }
        let generation = self.store.entropy.object_id(self.snapshot.now);
        let mut shares: BTreeMap<ShareNumber, (u64, Locator)> =
            stable(self.snapshot).map(|row| (row.number, (row.size_bytes, row.locator.clone()))).collect();
        for (number, change) in &plan.changes {
            match change {
                SlotChange::Put { size_bytes, locator } => {
                    shares.insert(*number, (*size_bytes, locator.clone()));
                }
                SlotChange::Remove => {
                    shares.remove(number);
                }
            }
        }
        let manifest = Manifest {
            generation,
            token: self.token,
            base: self.snapshot.slot.as_ref().map(|(token, _)| *token),
            write_enabler: self.write_enabler,
            shares: shares.into_iter().map(|(number, (size, locator))| (number, size, locator)).collect(),
        };
        let marker = (!carried).then(|| {
            let share = ShareId::new(self.storage_index, plan.changes[0].0);
            ObjectName::new(share, StoreObject::SlotMarker { generation, account: self.session.account.id })
        });
        (marker, manifest.encode_trailer().into())
    }

    /// Stores all objects of the plan; `stored` has those that may be there, also when one fails.
    async fn store_objects(
        &self,
        plan: &Plan,
        marker: Option<ObjectName>,
        trailer: &Bytes,
        payload: &dyn Payload,
        stored: &mut Vec<ObjectName>,
    ) -> Result<()> {
        for (number, put) in &plan.puts {
            let name = ObjectName::new(ShareId::new(self.storage_index, *number), put.object);
            let mut length = put.range.end - put.range.start;
            let mut stream = self.compose(*number, &plan.compositions[number], put, payload);
            if matches!(put.object, StoreObject::Generation { .. }) {
                length += trailer.len() as u64;
                stream = stream.chain(stream::iter([Ok(trailer.clone())])).boxed();
            }
            self.store_object(name, length, stream, stored).await?;
        }
        if let Some(name) = marker {
            let stream = stream::iter([Ok(trailer.clone())]).boxed();
            self.store_object(name, trailer.len() as u64, stream, stored).await?;
        }
        Ok(())
    }

    async fn store_object(
        &self,
        name: ObjectName,
        length: u64,
        stream: ByteStream,
        stored: &mut Vec<ObjectName>,
    ) -> Result<()> {
        let result = self.store.backend.put(&name.key(), length, stream).await;
        // An unanswered put may have stored the object, so it is among what is thrown away then.
        if matches!(result, Ok(()) | Err(BackendError::Unavailable(_))) {
            stored.push(name);
        }
        // The client's bytes arrived long ago: what cannot be read now is the backend's older object.
        Ok(result.map_err(|error| match error {
            BackendError::Source(source) => BackendError::Unavailable(source),
            other => other,
        })?)
    }

    fn compose(
        &self,
        number: ShareNumber,
        composition: &Composition,
        put: &PlannedPut,
        payload: &dyn Payload,
    ) -> ByteStream {
        let share = ShareId::new(self.storage_index, number);
        let old = stable(self.snapshot).find(|row| row.number == number);
        let mut runs = Vec::new();
        for (range, source) in composition.runs_within(put.range.clone()) {
            let length = range.end - range.start;
            runs.push(match (source, old) {
                (Source::Payload(from), _) => payload.read(from..from + length),
                (Source::Old, Some(row)) => {
                    open_segments(self.store.backend.clone(), share, row.locator.segments(range))
                }
                (Source::Zeros, _) | (Source::Old, None) => body::zeros(length),
            });
        }
        if runs.len() == 1 { runs.remove(0) } else { stream::iter(runs).flatten().boxed() }
    }

    async fn commit(
        &self,
        changes: Vec<(ShareNumber, SlotChange)>,
        marker: Option<ObjectName>,
        stored: &[ObjectName],
    ) -> Result<CommitOutcome> {
        let request = CommitSlot {
            storage_index: self.storage_index,
            account: self.session.account.id,
            base: self.snapshot.slot.as_ref().map(|(token, _)| *token),
            token: self.token,
            write_enabler: self.write_enabler,
            changes,
            marker,
            fresh: stored.iter().map(|name| name.object).collect(),
            epoch: self.snapshot.epoch,
        };
        match self.store.db.commit_slot(request).await {
            Ok(outcome) => Ok(outcome),
            // Our token in the row says that our commit holds (`review.md` A3); anything else says nothing.
            Err(LeaseDbError::OutcomeUnknown(cause)) => match self.store.db.read_slot(self.storage_index).await {
                Ok(slot) if slot.slot.as_ref().is_some_and(|(now, _)| *now == self.token) => Ok(CommitOutcome::Done),
                _ => Err(LeaseDbError::OutcomeUnknown(cause).into()),
            },
            Err(error) => Err(error.into()),
        }
    }
}

fn changes_nothing(vectors: &ShareVectors) -> bool {
    vectors.writes.is_empty() && vectors.new_length.is_none()
}
