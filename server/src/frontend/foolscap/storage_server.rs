//! The storage of one account as clients call it (`foolscap.md` 12).

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use leasehold_core::backend::Backend;
use leasehold_core::id::{ShareId, ShareNumber, StorageIndex};
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::secret::WriteEnabler;
use leasehold_core::share::ShareKind;
use leasehold_core::slot::{ReadTestWrite, ShareVectors, TestVector, WriteVector};
use leasehold_core::store::{ShareSlice, Space, StoreError};
use leasehold_core::tub::TubConnection;
use leasehold_foolscap::{Call, Failure, Interface, Referenceable, Turn, Value, Violation};

use super::bucket_reader::BucketReader;
use super::bucket_writer::BucketWriter;
use super::error::failure;
use super::interfaces::STORAGE_SERVER;
use super::payload::Strings;
use super::{Caller, range_of, text_of};
use crate::frontend::APPLICATION_VERSION;

/// How many places of shares are read at the same time for one call.
const READS_AT_ONCE: usize = 8;

/// The storage of one account, on one connection.
pub(super) struct StorageServer<L, B> {
    pub(super) caller: Caller<L, B>,
    pub(super) connection: TubConnection,
}

impl<L: LeaseDb, B: Backend> StorageServer<L, B> {
    async fn get_version(&self) -> Result<Value, Failure> {
        Ok(version(&self.caller.space().await?))
    }

    async fn allocate_buckets(self: Arc<Self>, mut call: Call) -> Result<Value, Failure> {
        let [index, _renew, _cancel, numbers, size, canary] = call.take()?;
        let (index, numbers) = (index_of(&index)?, numbers_of(numbers.items()?)?);
        let size = size_of(&size)?;
        let session = self.caller.session().await?;
        let store = &self.caller.front.store;
        let opened = store.open_writers(&session, index, &numbers, size, &self.connection).await;
        let (already_have, writers) = opened.map_err(failure)?;
        let writers = writers.into_iter().map(|(number, writer)| {
            let writer: Arc<dyn Referenceable> = BucketWriter::new(self.caller.clone(), writer, canary.clone(), &call);
            (value_of(number), Value::from(writer))
        });
        Ok(Value::tuple([Value::set(already_have.into_iter().map(value_of)), Value::dict(writers)]))
    }

    async fn add_lease(self: Arc<Self>, mut call: Call) -> Result<Value, Failure> {
        let [index, _renew, _cancel] = call.take()?;
        let session = self.caller.session().await?;
        match self.caller.front.store.renew_leases(&session, index_of(&index)?).await {
            Ok(()) | Err(StoreError::NotFound) => Ok(Value::None),
            Err(error) => Err(failure(error)),
        }
    }

    async fn get_buckets(&self, call: &mut Call) -> Result<Value, Failure> {
        let [index] = call.take()?;
        let index = index_of(&index)?;
        self.caller.session().await?;
        let numbers = self.caller.front.store.open_bucket(index).await.map_err(failure)?;
        let readers = numbers.into_iter().map(|number| {
            let (caller, share) = (self.caller.clone(), ShareId::new(index, number));
            let reader: Arc<dyn Referenceable> = Arc::new(BucketReader { caller, share });
            (value_of(number), Value::from(reader))
        });
        Ok(Value::dict(readers))
    }

    async fn slot_readv(&self, call: &mut Call) -> Result<Value, Failure> {
        let [index, numbers, reads] = call.take()?;
        let (numbers, reads) = (numbers_of(numbers.items()?)?, reads_of(&reads)?);
        self.caller.session().await?;
        let found = self.caller.front.store.read_slot(index_of(&index)?, &numbers, &reads).await;
        self.read_all(found.map_err(failure)?, call).await
    }

    async fn slot_write(self: Arc<Self>, mut call: Call) -> Result<Value, Failure> {
        let [index, secrets, vectors, reads] = call.take()?;
        let index = index_of(&index)?;
        let [enabler, _renew, _cancel] = secrets.fields()?;
        let enabler = WriteEnabler::new(enabler.as_bytes()?.to_vec());
        let enabler = enabler.map_err(|error| Violation::new(error.to_string()))?;
        let mut payload = Strings::default();
        let mut request = ReadTestWrite { reads: reads_of(&reads)?, ..ReadTestWrite::default() };
        for (number, vectors) in vectors.entries()? {
            request.vectors.insert(number_of(number)?, vectors_of(vectors, &mut payload)?);
        }
        let session = self.caller.session().await?;
        let store = &self.caller.front.store;
        let outcome = store.read_test_write(&session, index, &enabler, &request, &payload).await.map_err(failure)?;
        let data = self.read_all(outcome.data, &call).await?;
        Ok(Value::tuple([Value::from(outcome.success), data]))
    }

    async fn advise(&self, call: &mut Call) -> Result<Value, Failure> {
        let [kind, index, number, reason] = call.take()?;
        let kinds = [ShareKind::Immutable, ShareKind::Mutable];
        let word: &[u8] = kind.as_bytes()?;
        let kind = kinds.into_iter().find(|kind| kind.as_str().as_bytes() == word);
        let kind = kind.ok_or_else(|| Violation::new("a share is immutable or mutable"))?;
        self.caller.advise(kind, ShareId::new(index_of(&index)?, number_of(&number)?), text_of(&reason)?).await
    }

    /// The bytes of all slices, by share.
    async fn read_all(&self, found: Vec<(ShareNumber, Vec<ShareSlice>)>, call: &Call) -> Result<Value, Failure> {
        let lengths = found.iter().flat_map(|(_, slices)| slices).map(|slice| slice.length_bytes);
        call.reserve(lengths.sum()).await?;
        let mut shares = Vec::with_capacity(found.len());
        for (number, slices) in found {
            let reads = stream::iter(slices).map(|slice| {
                let store = self.caller.front.store.clone();
                async move { store.read_slice(&slice).await }
            });
            let read: Vec<Bytes> = reads.buffered(READS_AT_ONCE).try_collect().await.map_err(failure)?;
            shares.push((value_of(number), Value::list(read.into_iter().map(Value::from))));
        }
        Ok(Value::dict(shares))
    }
}

impl<L: LeaseDb, B: Backend> Referenceable for StorageServer<L, B> {
    fn interface(&self) -> &'static Interface {
        &STORAGE_SERVER
    }

    /// Calls on one slot keep their order; others need none.
    fn turn(&self, call: &Call) -> Turn {
        match (call.method(), call.arguments().first()) {
            ("slot_readv" | "slot_testv_and_readv_and_writev", Some(Value::Bytes(index))) => Turn::Key(index.clone()),
            _ => Turn::Free,
        }
    }

    fn call(self: Arc<Self>, mut call: Call) -> BoxFuture<'static, Result<Value, Failure>> {
        async move {
            let front = self.caller.front.clone();
            let method = call.method();
            match method {
                "get_version" => front.counted(method, self.get_version()).await,
                "allocate_buckets" => front.changing(method, self.allocate_buckets(call)).await,
                "add_lease" => front.changing(method, self.add_lease(call)).await,
                "get_buckets" => front.counted(method, self.get_buckets(&mut call)).await,
                "slot_readv" => front.counted(method, self.slot_readv(&mut call)).await,
                "slot_testv_and_readv_and_writev" => front.changing(method, self.slot_write(call)).await,
                _ => front.counted(method, self.advise(&mut call)).await,
            }
        }
        .boxed()
    }
}

/// The answer to `get_version`: what the reference server says of itself, all keys byte strings.
fn version(space: &Space) -> Value {
    let key = |name: &'static str| Value::from(name.as_bytes());
    let protocol = [
        (key("maximum-immutable-share-size"), Value::from(space.immutable_share_max_bytes)),
        (key("maximum-mutable-share-size"), Value::from(space.mutable_share_max_bytes)),
        (key("available-space"), Value::from(space.available_bytes)),
        (key("tolerates-immutable-read-overrun"), Value::from(true)),
        (key("delete-mutable-shares-with-zero-length-writev"), Value::from(true)),
        (key("fills-holes-with-zero-bytes"), Value::from(true)),
        (key("prevents-read-past-end-of-share-data"), Value::from(true)),
    ];
    Value::dict([
        (key("http://allmydata.org/tahoe/protocols/storage/v1"), Value::dict(protocol)),
        (key("application-version"), key(APPLICATION_VERSION)),
    ])
}

fn index_of(value: &Value) -> Result<StorageIndex, Violation> {
    let bytes = value.as_bytes()?;
    let bytes = bytes.as_ref().try_into().map_err(|_| Violation::new("a storage index has 16 bytes"))?;
    Ok(StorageIndex::new(bytes))
}

fn number_of(value: &Value) -> Result<ShareNumber, Violation> {
    ShareNumber::try_from(value.as_u64()?).map_err(|_| Violation::new("share numbers are 0 to 255"))
}

fn value_of(number: ShareNumber) -> Value {
    Value::from(u64::from(number.get()))
}

fn numbers_of(values: &[Value]) -> Result<Vec<ShareNumber>, Violation> {
    values.iter().map(number_of).collect()
}

/// A size or an offset: the database counts in 63 bits.
fn size_of(value: &Value) -> Result<u64, Violation> {
    let size = value.as_u64()?;
    i64::try_from(size).map(|_| size).map_err(|_| Violation::new("sizes and offsets are below 2^63"))
}

fn reads_of(value: &Value) -> Result<Vec<std::ops::Range<u64>>, Violation> {
    let read = |read: &Value| {
        let [offset, length] = read.fields()?;
        range_of(offset, length)
    };
    value.items()?.iter().map(read).collect()
}

fn vectors_of(value: &Value, payload: &mut Strings) -> Result<ShareVectors, Violation> {
    let [tests, writes, new_length] = value.fields()?;
    let mut vectors = ShareVectors::default();
    for test in tests.items()? {
        let [offset, size, operator, specimen] = test.fields()?;
        if operator.as_bytes()?.as_ref() != b"eq" {
            return Err(Violation::new("the only operator is eq"));
        }
        let (offset, size) = (size_of(offset)?, size.as_u64_saturating()?);
        vectors.tests.push(TestVector { offset, size, specimen: specimen.as_bytes()?.clone() });
    }
    for write in writes.items()? {
        let [offset, data] = write.fields()?;
        let data = data.as_bytes()?;
        let (offset, length) = (size_of(offset)?, data.len() as u64);
        vectors.writes.push(WriteVector { offset, length, source: payload.push(data.clone()) });
    }
    vectors.new_length = if new_length.is_none() { None } else { Some(new_length.as_u64()?) };
    Ok(vectors)
}
