//! A watched store keeps the contract of backends, and tells when what it wraps does not answer.

use std::ops::Range;
use std::sync::Arc;

use leasehold_core::backend::{Backend, BackendError, ByteStream, ListPage};
use leasehold_core::chunk::ObjectKey;
use leasehold_core::testing::backend_contract::{MakeBackend, Place};
use leasehold_core::testing::clock::ManualSteadyClock;
use leasehold_core::testing::faulty::{Faults, FaultyBackend, Outage, Site};
use leasehold_core::testing::{Tasks, body, read_all, share_id};
use leasehold_server::backend::directory::DirectoryBackend;
use leasehold_server::backend::watched::Watched;
use tempfile::TempDir;

use crate::places;

/// A store that, as a bucket does, says without being asked that there is room.
struct Roomy<B>(B);

impl<B: Backend> Backend for Roomy<B> {
    async fn put(&self, name: &ObjectKey, length_bytes: u64, body: ByteStream) -> Result<(), BackendError> {
        self.0.put(name, length_bytes, body).await
    }

    async fn get(&self, name: &ObjectKey, range: Range<u64>) -> Result<ByteStream, BackendError> {
        self.0.get(name, range).await
    }

    async fn delete(&self, name: &ObjectKey) -> Result<(), BackendError> {
        self.0.delete(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, BackendError> {
        self.0.list(prefix, after, max).await
    }

    async fn available_bytes(&self) -> Result<u64, BackendError> {
        Ok(u64::MAX)
    }
}

struct WatchedDirectory;

struct Folder(TempDir);

impl Place for Folder {}

impl MakeBackend for WatchedDirectory {
    type Backend = Watched<DirectoryBackend>;
    type Place = Folder;

    async fn make() -> (Watched<DirectoryBackend>, Folder) {
        let folder = places::folder();
        (Watched::new(places::backend(folder.path()), Arc::new(ManualSteadyClock::default())), Folder(folder))
    }

    async fn open_again(place: &Folder) -> Option<Watched<DirectoryBackend>> {
        Some(Watched::new(places::backend(place.0.path()), Arc::new(ManualSteadyClock::default())))
    }

    async fn run_all(tasks: Tasks) {
        places::run_all(tasks).await;
    }
}

leasehold_core::backend_contract!(WatchedDirectory);

fn key(number: u8) -> ObjectKey {
    use leasehold_core::chunk::{ObjectName, StoreObject};
    use leasehold_core::clock::Timestamp;
    use leasehold_core::id::{AccountId, ObjectId};
    let id = ObjectId::from_parts(Timestamp::from_seconds(0), [number; 10]);
    let object = StoreObject::Whole { upload: id, account: AccountId::new(16), put: id };
    ObjectName::new(share_id(1, 0), object).key()
}

#[tokio::test]
async fn silence_is_noticed_by_use_and_by_rest_and_a_store_in_use_is_not_asked() {
    let (folder, faults, clock) = (places::folder(), Faults::new(), ManualSteadyClock::default());
    let store = Roomy(FaultyBackend::new(places::backend(folder.path()), faults.clone()));
    let store = Watched::new(store, Arc::new(clock.clone()));
    let away = |backend| faults.set_outage(Outage { lease_db: false, backend });
    // What the server does every two seconds; and how often it listed something for it.
    let refresh = async || {
        faults.begin("refresh", None);
        let answer = store.available_bytes().await;
        (answer.is_ok(), faults.end().calls.iter().filter(|site| **site == Site::Backend("list")).count())
    };
    assert_eq!(refresh().await, (true, 1), "at the start nothing is known");
    assert_eq!(refresh().await, (true, 0));
    store.put(&key(1), 5, body(b"bytes")).await.expect("put");

    // A call that fails is the sign; who tries next finds out whether it was more than that one call.
    away(true);
    assert_eq!(refresh().await, (true, 0), "not noticed yet");
    assert!(store.get(&key(1), 0..5).await.is_err());
    assert_eq!(refresh().await, (false, 1));
    assert_eq!(refresh().await, (false, 1));
    away(false);
    assert_eq!(refresh().await, (true, 1), "it is back");
    assert_eq!(refresh().await, (true, 0));

    // Nobody uses it: then it is asked now and then.
    away(true);
    clock.advance(29);
    assert_eq!(refresh().await, (true, 0));
    clock.advance(1);
    assert_eq!(refresh().await, (false, 1));
    away(false);
    assert_eq!(refresh().await, (true, 1));
    clock.advance(29);
    store.put(&key(2), 5, body(b"bytes")).await.expect("put");
    clock.advance(29);
    assert_eq!(refresh().await, (true, 0), "a store in use need not be asked");

    // Nothing of this is a sign: the store has answered, and the answer is no.
    assert!(matches!(store.get(&key(3), 0..5).await.map(drop), Err(BackendError::NotFound(_))));
    assert_eq!(refresh().await, (true, 0));
    assert_eq!(read_all(store.get(&key(1), 0..5).await.expect("get")).await.expect("whole"), b"bytes"[..]);
}

#[tokio::test]
async fn a_stream_that_breaks_is_a_sign() {
    use leasehold_core::testing::faulty::Fault;
    let (folder, faults, clock) = (places::folder(), Faults::new(), ManualSteadyClock::default());
    let store = Roomy(FaultyBackend::new(places::backend(folder.path()), faults.clone()));
    let store = Watched::new(store, Arc::new(clock));
    store.put(&key(1), 5, body(b"bytes")).await.expect("put");
    faults.begin("read", Some((0, Fault::BrokenStream)));
    assert!(read_all(store.get(&key(1), 0..5).await.expect("opened")).await.is_err());
    store.available_bytes().await.expect("it was only that one");
    assert_eq!(faults.end().calls, [Site::Backend("get"), Site::Backend("list")]);
}
