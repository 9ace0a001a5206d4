//! Taking over shares of another server by copying them: their containers become shares in our own form.
//!
//! An import is what a client would do, on behalf of an account: uploads of immutable shares, one write for all shares of a
//! slot. So every rule of those holds, quota and crashes included. What is there is never overwritten, only leased; to
//! import again goes on where the last import ended.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;

use super::{Payload, Result, Store, StoreError};
use crate::accountant::Session;
use crate::backend::{Backend, ByteStream};
use crate::classic::{Container, LeaseRecord};
use crate::clock::Timestamp;
use crate::id::{ShareId, ShareNumber, StorageIndex};
use crate::lease::LEASE_DURATION_SECONDS;
use crate::leasedb::{LeaseDb, ShareRow};
use crate::secret::{UploadSecret, WriteEnabler};
use crate::share::{ShareKind, ShareState};
use crate::slot::{ReadTestWrite, ShareVectors, TestVector, WriteVector};

/// How often a slot is looked at again because clients were writing to it.
const ATTEMPTS_MAX: usize = 5;

/// A container to be copied.
#[derive(Clone)]
pub struct Incoming {
    /// The share's number.
    pub number: ShareNumber,
    /// Its header.
    pub container: Container,
    /// Its leases.
    pub leases: Vec<LeaseRecord>,
    /// The whole of it.
    pub bytes: Arc<dyn Payload>,
}

/// What became of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Imported {
    /// It is a share of ours now; in a dry run: it would be.
    Copied,
    /// The share was there, and is leased now.
    There,
    /// Nothing was changed, for this reason.
    Refused(Refusal),
}

/// Why a container was not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The share that is there has another size.
    #[error("another share of this number is there")]
    Other,
    /// The storage index has shares of the other kind.
    #[error("the storage index holds shares of the other kind")]
    OtherKind,
    /// The slot has another write enabler.
    #[error("the slot has another write enabler")]
    OtherEnabler,
    /// An immutable share without bytes cannot be uploaded.
    #[error("it holds no data")]
    Empty,
    /// A client is uploading this share.
    #[error("a client is uploading this share")]
    InUpload,
    /// Quota or backend have no room for it.
    #[error("there is no room for it")]
    NoRoom,
    /// Larger than any share may be.
    #[error("it is larger than any share may be")]
    TooLarge,
}

impl<L: LeaseDb, B: Backend> Store<L, B> {
    /// Copies the containers of one storage index, ascending, and leases the shares to the session's account: until their
    /// own leases end, and for the time of a renewal at least.
    ///
    /// # Errors
    /// Lease database or backend fail, the bytes cannot be read, or the account may not store anything.
    pub async fn import_shares(
        &self,
        session: &Session,
        storage_index: StorageIndex,
        incoming: &[Incoming],
        dry_run: bool,
    ) -> Result<Vec<(ShareNumber, Imported)>> {
        if !session.account.state.may_write() {
            return Err(StoreError::Refused(session.account.state));
        }
        self.touch(storage_index).await?;
        let mut outcomes = Vec::new();
        let mut slot = Vec::new();
        for container in incoming {
            let there = self.db.list_shares(storage_index).await?;
            match judge(container, &there).or_else(|| slot_refusal(&slot, container)) {
                Some(outcome) => outcomes.push((container.number, outcome)),
                None if container.container.kind == ShareKind::Mutable => slot.push(container),
                None if dry_run => outcomes.push((container.number, Imported::Copied)),
                None => outcomes.push((container.number, self.upload(session, storage_index, container).await?)),
            }
        }
        if !slot.is_empty() {
            outcomes.extend(self.import_slot(session, storage_index, &slot, dry_run).await?);
        }
        outcomes.sort_by_key(|(number, _)| *number);
        if !dry_run {
            self.lease(session, storage_index, incoming, &outcomes).await?;
        }
        Ok(outcomes)
    }

    async fn upload(&self, session: &Session, index: StorageIndex, incoming: &Incoming) -> Result<Imported> {
        let Container { size_bytes, .. } = incoming.container;
        if size_bytes > self.options.immutable_share_max_bytes {
            return Ok(Imported::Refused(Refusal::TooLarge));
        }
        let secret = upload_secret(index, incoming);
        self.allocate_bucket(session, index, &[incoming.number], size_bytes, &secret).await?;
        // Where nothing was allocated, an earlier import may have been.
        let body = incoming.bytes.read(incoming.container.data_at());
        match self.write_bucket(ShareId::new(index, incoming.number), &secret, 0..size_bytes, body).await {
            Ok(_) => Ok(Imported::Copied),
            Err(StoreError::WrongUploadSecret) => Ok(Imported::Refused(Refusal::InUpload)),
            Err(StoreError::NotFound | StoreError::Full) => Ok(Imported::Refused(Refusal::NoRoom)),
            Err(StoreError::Conflict) => Ok(Imported::Refused(Refusal::Other)),
            Err(error) => Err(error),
        }
    }

    /// Writes all shares of a slot that are not there, in one commit.
    async fn import_slot(
        &self,
        session: &Session,
        index: StorageIndex,
        slot: &[&Incoming],
        dry_run: bool,
    ) -> Result<Vec<(ShareNumber, Imported)>> {
        let all = |outcome| slot.iter().map(|incoming| (incoming.number, outcome)).collect();
        let Some(write_enabler) = enabler(slot[0]) else { return Ok(Vec::new()) };
        if dry_run {
            let held = self.db.read_slot(index).await?.slot;
            let same = held.is_none_or(|(_, enabler)| enabler == write_enabler.hash());
            return Ok(all(if same { Imported::Copied } else { Imported::Refused(Refusal::OtherEnabler) }));
        }
        for _ in 0..ATTEMPTS_MAX {
            let rows = self.db.list_shares(index).await?;
            let is_there = |incoming: &&&Incoming| find(&rows, incoming.number).is_some();
            let missing: Vec<&Incoming> = slot.iter().filter(|incoming| !is_there(incoming)).copied().collect();
            if missing.is_empty() {
                return Ok(all(Imported::There));
            }
            let request = write_all(&missing);
            let payload = Joined::new(&missing);
            match self.read_test_write(session, index, write_enabler, &request, &payload).await {
                Ok(outcome) if outcome.success => return Ok(all(Imported::Copied)),
                Ok(_) => {}
                Err(StoreError::WrongWriteEnabler) => return Ok(all(Imported::Refused(Refusal::OtherEnabler))),
                Err(StoreError::WrongKind) => return Ok(all(Imported::Refused(Refusal::OtherKind))),
                Err(StoreError::OverQuota | StoreError::Full) => return Ok(all(Imported::Refused(Refusal::NoRoom))),
                Err(StoreError::TooLarge { .. }) => return Ok(all(Imported::Refused(Refusal::TooLarge))),
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Busy)
    }

    /// Leases what was there already, and prolongs leases to what those of the containers were.
    async fn lease(
        &self,
        session: &Session,
        index: StorageIndex,
        incoming: &[Incoming],
        outcomes: &[(ShareNumber, Imported)],
    ) -> Result<()> {
        if outcomes.iter().any(|(_, outcome)| *outcome == Imported::There) {
            self.renew_leases(session, index).await?;
        }
        // A renewal is granted at least as long as a classic server grants one: few leases end later.
        let granted = self.recent_time().await?.seconds() + LEASE_DURATION_SECONDS;
        let is_held = |number| outcomes.iter().any(|(held, outcome)| *held == number && !is_refused(*outcome));
        let held = incoming.iter().filter(|incoming| is_held(incoming.number));
        let ends = held.filter_map(|incoming| Some((incoming.number, latest_end(incoming)?)));
        let late: Vec<_> = ends.filter(|(_, end)| end.seconds() > granted).collect();
        if late.is_empty() {
            return Ok(());
        }
        Ok(self.db.prolong_leases(index, session.account.id, late).await?)
    }
}

const fn is_refused(outcome: Imported) -> bool {
    matches!(outcome, Imported::Refused(_))
}

fn latest_end(incoming: &Incoming) -> Option<Timestamp> {
    incoming.leases.iter().map(|lease| lease.expires_at).max()
}

fn enabler(incoming: &Incoming) -> Option<&WriteEnabler> {
    incoming.container.slot.as_ref().map(|slot| &slot.write_enabler)
}

fn find(rows: &[ShareRow], number: ShareNumber) -> Option<&ShareRow> {
    rows.iter().find(|row| row.number == number && row.state == ShareState::Stable)
}

/// What can be said of a container before anything is done.
fn judge(incoming: &Incoming, there: &[ShareRow]) -> Option<Imported> {
    let Container { kind, size_bytes, .. } = incoming.container;
    if there.iter().any(|row| row.kind != kind) {
        return Some(Imported::Refused(Refusal::OtherKind));
    }
    match (kind, find(there, incoming.number)) {
        // A slot may have been written to since.
        (ShareKind::Mutable, Some(_)) => Some(Imported::There),
        (ShareKind::Immutable, Some(row)) if row.size_bytes == size_bytes => Some(Imported::There),
        (ShareKind::Immutable, Some(_)) => Some(Imported::Refused(Refusal::Other)),
        (ShareKind::Immutable, None) if size_bytes == 0 => Some(Imported::Refused(Refusal::Empty)),
        (_, None) => None,
    }
}

/// One slot has one write enabler: the first container's. The server that has them apart lets nobody write to it.
fn slot_refusal(slot: &[&Incoming], incoming: &Incoming) -> Option<Imported> {
    let first = slot.first()?;
    if incoming.container.kind == ShareKind::Immutable {
        return Some(Imported::Refused(Refusal::OtherKind));
    }
    let hash = |incoming| enabler(incoming).map(WriteEnabler::hash);
    (hash(first) != hash(incoming)).then_some(Imported::Refused(Refusal::OtherEnabler))
}

/// The same for the same container, so that an import that was cut off goes on. Where a container has leases, nobody else
/// can know it; where it has none, whoever guesses it could only make the import say that the bytes differ.
fn upload_secret(index: StorageIndex, incoming: &Incoming) -> UploadSecret {
    let mut hasher = blake3::Hasher::new_derive_key("leasehold import, upload secret v1");
    hasher.update(index.as_bytes());
    hasher.update(&[incoming.number.get()]);
    for lease in &incoming.leases {
        hasher.update(&*lease.secrets);
    }
    UploadSecret::new(hasher.finalize().as_bytes().to_vec()).expect("a hash is as long as a secret may be")
}

/// Writes each share whole, if none of them is there.
fn write_all(incoming: &[&Incoming]) -> ReadTestWrite {
    let mut source = 0;
    let mut vectors = BTreeMap::new();
    for incoming in incoming {
        let length = incoming.container.size_bytes;
        let tests = vec![TestVector { offset: 0, size: 1, specimen: Bytes::new() }];
        let writes = if length == 0 { Vec::new() } else { vec![WriteVector { offset: 0, length, source }] };
        vectors.insert(incoming.number, ShareVectors { tests, writes, new_length: None });
        source += length;
    }
    ReadTestWrite { vectors, reads: Vec::new() }
}

/// The data of several containers, one behind the other.
struct Joined(Vec<(Range<u64>, u64, Arc<dyn Payload>)>);

impl Joined {
    fn new(incoming: &[&Incoming]) -> Self {
        let mut at = 0;
        Self(Vec::from_iter(incoming.iter().map(|incoming| {
            let data = incoming.container.data_at();
            let range = at..at + (data.end - data.start);
            at = range.end;
            (range, data.start, incoming.bytes.clone())
        })))
    }
}

impl Payload for Joined {
    fn read(&self, range: Range<u64>) -> ByteStream {
        let overlapping = self.0.iter().filter_map(|(part, data_from, bytes)| {
            let common = crate::range::intersection(part, &range)?;
            let in_container = |at| at - part.start + data_from;
            Some(bytes.read(in_container(common.start)..in_container(common.end)))
        });
        futures_util::stream::iter(Vec::from_iter(overlapping)).flatten().boxed()
    }
}
