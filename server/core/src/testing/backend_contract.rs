//! What every backend must do, case by case.
//!
//! A new one joins with a type that implements [`MakeBackend`] and the line `backend_contract!(ThatType);` in a test
//! binary.
#![allow(missing_docs, reason = "the names of the cases say it")]

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt};

use super::values::{Tasks, body, broken_body, read_all, share_id};
use crate::backend::{Backend, BackendError, ListedObject};
use crate::beat::{BEAT_FOLDER, BeatName, MARK_FOLDER, mark};
use crate::chunk::{ObjectKey, ObjectName, StoreObject, folder};
use crate::clock::{Clock, Entropy};
use crate::id::{AccountId, ShareId};
use crate::leasedb::Epoch;
use crate::testing::clock::ManualClock;

/// Where a backend under test keeps its objects, as far as a case may look behind the trait.
pub trait Place: Send + Sync + 'static {
    /// What failed puts have left behind.
    fn leftovers(&self) -> Vec<String> {
        Vec::new()
    }

    /// Removes a folder if it is empty; where there are folders.
    fn remove_empty_folder(&self, _folder: &str) {}
}

/// Makes backends for the contract.
pub trait MakeBackend: Send + Sync + 'static {
    /// What it makes.
    type Backend: Backend;
    /// Where that keeps its objects; dropped when the case ends.
    type Place: Place;

    /// Makes an empty backend.
    fn make() -> impl Future<Output = (Self::Backend, Self::Place)> + Send;

    /// Opens the same place once more, as another process would; `None` where that makes no sense.
    fn open_again(_place: &Self::Place) -> impl Future<Output = Option<Self::Backend>> + Send {
        std::future::ready(None)
    }

    /// Runs all tasks at the same time, each on whatever thread there is, and panics if one does.
    fn run_all(tasks: Tasks) -> impl Future<Output = ()> + Send;
}

/// Expands to one test for each case of the contract.
#[macro_export]
macro_rules! backend_contract {
    ($make:ty) => {
        $crate::backend_contract! { $make;
            what_was_put_is_read_back_in_any_range,
            an_empty_object_is_an_object,
            what_is_not_there_is_not_found_and_counts_as_deleted,
            a_body_of_wrong_length_leaves_nothing,
            a_body_that_breaks_off_leaves_nothing,
            a_dropped_put_leaves_nothing_or_all,
            a_put_is_all_or_nothing_to_lists_and_gets,
            many_puts_at_once_into_a_new_folder_succeed,
            listings_are_paged_in_order,
            a_prefix_is_no_more_than_a_prefix,
            objects_that_belong_to_no_share_are_listed_too,
            deleting_one_share_leaves_shares_with_longer_numbers,
            a_folder_that_vanishes_under_a_put_is_made_again,
            two_processes_on_one_place_do_not_disturb_each_other,
            room_is_reported,
        }
    };
    ($make:ty; $($case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::testing::backend_contract::$case::<$make>().await;
            }
        )*
    };
}

struct Names {
    entropy: Entropy,
    clock: ManualClock,
}

impl Names {
    fn new() -> Self {
        Self { entropy: Entropy::from_seed(11), clock: ManualClock::default() }
    }

    fn next(&self, share: ShareId) -> ObjectKey {
        let generation = self.entropy.object_id(self.clock.now());
        ObjectName::new(share, StoreObject::Generation { generation, account: AccountId::new(16) }).key()
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 ^ (at / 251 % 256) as u8).collect()
}

async fn put(backend: &impl Backend, name: &ObjectKey, bytes: &[u8]) {
    backend.put(name, bytes.len() as u64, body(bytes)).await.expect("put");
}

async fn get(backend: &impl Backend, name: &ObjectKey, range: std::ops::Range<usize>) -> Vec<u8> {
    let stream = backend.get(name, range.start as u64..range.end as u64).await.expect("get");
    read_all(stream).await.expect("a whole stream")
}

async fn is_there(backend: &impl Backend, name: &ObjectKey) -> bool {
    match backend.get(name, 0..0).await {
        Ok(_) => true,
        Err(BackendError::NotFound(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

/// All objects with a prefix, listed in pages of `max`.
async fn list(backend: &impl Backend, prefix: &str, max: usize) -> Vec<ListedObject> {
    let (mut objects, mut after) = (Vec::new(), None);
    loop {
        let page = backend.list(prefix, after.as_deref(), max).await.expect("list");
        assert!(page.objects.len() <= max);
        objects.extend(page.objects);
        assert_ne!(after, page.next.clone().or(Some(String::new())), "a listing goes on");
        after = page.next;
        if after.is_none() {
            return objects;
        }
    }
}

async fn names_below(backend: &impl Backend, prefix: &str) -> Vec<String> {
    list(backend, prefix, 1000).await.into_iter().map(|object| object.name).collect()
}

pub async fn what_was_put_is_read_back_in_any_range<M: MakeBackend>() {
    let ((backend, place), names) = (M::make().await, Names::new());
    for length in [1usize, 2, 7, 8, 4095, 4096, 65_535, 65_536, 65_537, 300_001, 2_500_000, 3 << 20] {
        let (name, bytes) = (names.next(share_id(1, 0)), pattern(length));
        put(&backend, &name, &bytes).await;
        for range in [0..length, 0..1, length - 1..length, length / 3..length / 2, length / 2..length, 0..0] {
            assert_eq!(get(&backend, &name, range.clone()).await, bytes[range.clone()], "{range:?} of {length}");
        }
        let listed = list(&backend, &name.to_string(), 10).await;
        assert_eq!(listed, [ListedObject { name: name.to_string(), length_bytes: length as u64 }]);
    }
    assert!(place.leftovers().is_empty());
}

pub async fn an_empty_object_is_an_object<M: MakeBackend>() {
    let ((backend, _place), names) = (M::make().await, Names::new());
    let name = names.next(share_id(1, 0));
    backend.put(&name, 0, stream::empty().boxed()).await.expect("put");
    assert!(get(&backend, &name, 0..0).await.is_empty());
    let listed = list(&backend, "shares/", 10).await;
    assert_eq!(listed, [ListedObject { name: name.to_string(), length_bytes: 0 }]);
}

pub async fn what_is_not_there_is_not_found_and_counts_as_deleted<M: MakeBackend>() {
    let ((backend, _place), names) = (M::make().await, Names::new());
    let (name, other) = (names.next(share_id(1, 0)), names.next(share_id(1, 0)));
    assert!(!is_there(&backend, &name).await);
    backend.delete(&name).await.expect("absent counts as removed");
    put(&backend, &name, b"here").await;
    assert!(!is_there(&backend, &other).await);
    backend.delete(&other).await.expect("absent counts as removed");
    assert!(is_there(&backend, &name).await);
    backend.delete(&name).await.expect("delete");
    backend.delete(&name).await.expect("twice");
    assert!(!is_there(&backend, &name).await);
    assert!(names_below(&backend, "").await.is_empty());
    assert!(names_below(&backend, &folder(share_id(1, 0).storage_index)).await.is_empty());
}

pub async fn a_body_of_wrong_length_leaves_nothing<M: MakeBackend>() {
    let ((backend, place), names) = (M::make().await, Names::new());
    let small = [(100u64, 99), (100, 0), (100, 101), (0, 1), (100_000, 99_999), (100_000, 200_000)];
    let large = [(2_000_000, 1_999_999), (2_000_000, 0), (2_000_000, 2_000_001), (2 << 20, 1 << 20)];
    for (announced, sent) in small.into_iter().chain(large) {
        let name = names.next(share_id(1, 0));
        let answer = backend.put(&name, announced, body(&pattern(sent))).await;
        assert!(matches!(answer, Err(BackendError::Source(_))), "{announced} announced, {sent} sent: {answer:?}");
        assert!(!is_there(&backend, &name).await);
    }
    assert!(names_below(&backend, "").await.is_empty());
    assert_eq!(place.leftovers(), Vec::<String>::new());
}

pub async fn a_body_that_breaks_off_leaves_nothing<M: MakeBackend>() {
    let ((backend, place), names) = (M::make().await, Names::new());
    for (length, sent) in [(100_000, 0), (100_000, 50), (100_000, 100), (100_000, 99_999), (2 << 20, (1 << 20) + 1)] {
        let name = names.next(share_id(1, 0));
        let answer = backend.put(&name, length, broken_body(&pattern(sent))).await;
        let Err(BackendError::Source(error)) = answer else { panic!("{sent} sent: {answer:?}") };
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "the body's own error is passed on");
        assert!(!is_there(&backend, &name).await);
    }
    assert!(names_below(&backend, "").await.is_empty());
    assert_eq!(place.leftovers(), Vec::<String>::new());
}

pub async fn a_dropped_put_leaves_nothing_or_all<M: MakeBackend>() {
    let ((backend, _place), names) = (M::make().await, Names::new());
    for sent in [0, 10, 5000] {
        let name = names.next(share_id(1, 0));
        let stuck = body(&pattern(sent)).chain(stream::once(pending())).boxed();
        let mut put = Box::pin(backend.put(&name, 10_000, stuck));
        for _ in 0..5 {
            assert!(put.as_mut().now_or_never().is_none());
            // Another call in between gives whatever works in the background time to go on.
            assert!(!is_there(&backend, &name).await);
        }
        drop(put);
        assert!(!is_there(&backend, &name).await);
    }
    assert!(names_below(&backend, "shares/").await.is_empty());
    let name = names.next(share_id(1, 0));
    put(&backend, &name, b"goes on").await;
}

pub async fn a_put_is_all_or_nothing_to_lists_and_gets<M: MakeBackend>() {
    const LENGTH: usize = 50_000;
    let (backend, _place) = M::make().await;
    let (backend, names, done) = (Arc::new(backend), Names::new(), Arc::new(AtomicBool::new(false)));
    let writer = {
        let (backend, done) = (backend.clone(), done.clone());
        async move {
            for number in 0..30 {
                let name = names.next(share_id(1, number));
                put(&*backend, &name, &pattern(LENGTH)).await;
                assert!(names_below(&*backend, &name.to_string()).await.len() == 1, "acknowledged means listed");
            }
            done.store(true, Ordering::SeqCst);
        }
        .boxed()
    };
    let reader = {
        let backend = backend.clone();
        async move {
            while !done.load(Ordering::SeqCst) {
                for object in list(&*backend, "shares/", 1000).await {
                    assert_eq!(object.length_bytes, LENGTH as u64, "{}", object.name);
                    let name = object.name.parse::<ObjectName>().expect("one of ours").key();
                    assert_eq!(get(&*backend, &name, LENGTH - 2..LENGTH).await, pattern(LENGTH)[LENGTH - 2..]);
                }
            }
        }
        .boxed()
    };
    M::run_all(vec![writer, reader]).await;
    assert_eq!(names_below(&*backend, "").await.len(), 30);
}

pub async fn many_puts_at_once_into_a_new_folder_succeed<M: MakeBackend>() {
    let (backend, place) = M::make().await;
    let (backend, names) = (Arc::new(backend), Names::new());
    let expected: Vec<(ObjectKey, Vec<u8>)> =
        (0..64u8).map(|number| (names.next(share_id(1, number)), pattern(usize::from(number) * 100))).collect();
    let tasks: Tasks = expected
        .iter()
        .cloned()
        .map(|(name, bytes)| {
            let backend = backend.clone();
            async move { put(&*backend, &name, &bytes).await }.boxed()
        })
        .collect();
    M::run_all(tasks).await;
    for (name, bytes) in &expected {
        assert_eq!(get(&*backend, name, 0..bytes.len()).await, *bytes);
    }
    assert_eq!(names_below(&*backend, "").await.len(), 64);
    assert!(place.leftovers().is_empty());
}

pub async fn listings_are_paged_in_order<M: MakeBackend>() {
    let ((backend, _place), names) = (M::make().await, Names::new());
    let mut expected = BTreeMap::new();
    for index in [1, 2, 9, 77, 200, 255] {
        for number in [0, 1, 2, 10, 11, 100, 255] {
            let (name, bytes) = (names.next(share_id(index, number)), pattern(usize::from(number)));
            put(&backend, &name, &bytes).await;
            expected.insert(name.to_string(), bytes.len() as u64);
        }
    }
    // Not all objects belong to shares.
    for name in ["meta/beat/1.2", "meta/deployment/3"] {
        put(&backend, &ObjectKey::new(name.to_owned()), b"").await;
        expected.insert(name.to_owned(), 0);
    }
    let expected: Vec<ListedObject> =
        expected.into_iter().map(|(name, length_bytes)| ListedObject { name, length_bytes }).collect();
    for max in [1, 2, 5, 41, 42, 43, 1000] {
        assert_eq!(list(&backend, "", max).await, expected, "pages of {max}");
    }
    for prefix in
        ["meta/beat/", "m", "shares", "shares/", "shares/a", &expected[20].name[..12], &expected[20].name[..36]]
    {
        let begins: Vec<_> = expected.iter().filter(|object| object.name.starts_with(prefix)).cloned().collect();
        for max in [1, 3, 1000] {
            assert_eq!(list(&backend, prefix, max).await, begins, "{prefix} in pages of {max}");
        }
    }
    for prefix in ["x", "shares/zz/", "shares/..", &format!("{}x", expected[0].name)] {
        assert!(list(&backend, prefix, 10).await.is_empty(), "{prefix}");
    }
    // A listing may begin anywhere, also behind a name that is gone by then.
    let (first, second) = (&expected[3], &expected[4]);
    backend.delete(&first.name.parse::<ObjectName>().expect("ours").key()).await.expect("delete");
    let page = backend.list("", Some(&first.name), 1).await.expect("list");
    assert_eq!(page.objects, std::slice::from_ref(second));
}

pub async fn a_prefix_is_no_more_than_a_prefix<M: MakeBackend>() {
    let ((backend, _place), names) = (M::make().await, Names::new());
    let index = share_id(1, 0).storage_index;
    let mut all = BTreeMap::new();
    for number in [1, 10, 19, 100, 2] {
        let name = names.next(share_id(1, number));
        put(&backend, &name, b"x").await;
        all.insert(number, name.to_string());
    }
    let below = async |end: &str| {
        let mut names = names_below(&backend, &format!("{}{end}", folder(index))).await;
        names.sort();
        names
    };
    assert_eq!(below("1.").await, [all[&1].clone()], "B-2: share 1 and not 10 to 19");
    assert_eq!(below("10.").await, [all[&10].clone()]);
    let mut ones = vec![all[&1].clone(), all[&10].clone(), all[&19].clone(), all[&100].clone()];
    ones.sort();
    assert_eq!(below("1").await, ones, "a prefix is compared byte by byte");
}

pub async fn objects_that_belong_to_no_share_are_listed_too<M: MakeBackend>() {
    let ((backend, _place), names) = (M::make().await, Names::new());
    let nonce = names.entropy.object_id(names.clock.now());
    let beats = [7, 8].map(|beat| BeatName { epoch: Epoch(1), beat, nonce }.key());
    let all = [&beats[..], &[mark(nonce), names.next(share_id(1, 0))]].concat();
    for name in &all {
        put(&backend, name, b"").await;
    }
    let text = |names: &[ObjectKey]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names_below(&backend, BEAT_FOLDER).await, text(&beats));
    assert_eq!(names_below(&backend, MARK_FOLDER).await, text(&all[2..3]));
    assert_eq!(names_below(&backend, "shares/").await, text(&all[3..]));
    assert_eq!(names_below(&backend, "").await, text(&all));
    backend.delete(&beats[0]).await.expect("delete");
    assert_eq!(names_below(&backend, BEAT_FOLDER).await, text(&beats[1..]));
}

pub async fn deleting_one_share_leaves_shares_with_longer_numbers<M: MakeBackend>() {
    let ((backend, _place), names) = (M::make().await, Names::new());
    let mut kept = Vec::new();
    for number in 10..20 {
        let name = names.next(share_id(1, number));
        put(&backend, &name, b"tail").await;
        kept.push(name);
    }
    let one = names.next(share_id(1, 1));
    put(&backend, &one, b"one").await;
    backend.delete(&one).await.expect("delete");
    assert!(!is_there(&backend, &one).await);
    for name in &kept {
        assert_eq!(get(&backend, name, 0..4).await, b"tail", "B-2");
    }
}

pub async fn a_folder_that_vanishes_under_a_put_is_made_again<M: MakeBackend>() {
    let (backend, place) = M::make().await;
    let (backend, place, names) = (Arc::new(backend), Arc::new(place), Names::new());
    let done = Arc::new(AtomicBool::new(false));
    let index = share_id(1, 0).storage_index;
    let writer = {
        let (backend, done) = (backend.clone(), done.clone());
        async move {
            for _ in 0..60 {
                let name = names.next(share_id(1, 0));
                put(&*backend, &name, b"here").await;
                assert_eq!(get(&*backend, &name, 0..4).await, b"here");
                backend.delete(&name).await.expect("delete");
            }
            done.store(true, Ordering::SeqCst);
        }
        .boxed()
    };
    let remover = {
        let backend = backend.clone();
        async move {
            while !done.load(Ordering::SeqCst) {
                place.remove_empty_folder(&folder(index));
                drop(backend.list("shares/", None, 1).await.expect("list"));
            }
        }
        .boxed()
    };
    M::run_all(vec![writer, remover]).await;
}

pub async fn two_processes_on_one_place_do_not_disturb_each_other<M: MakeBackend>() {
    let ((first, place), names) = (M::make().await, Names::new());
    let Some(second) = M::open_again(&place).await else { return };
    let (one, two) = (names.next(share_id(1, 0)), names.next(share_id(1, 0)));
    let bytes = [pattern(400_000), pattern(300_000).into_iter().rev().collect::<Vec<u8>>()];
    // Both have begun before either ends.
    let (a, b) = futures_util::future::join(
        first.put(&one, bytes[0].len() as u64, body(&bytes[0])),
        second.put(&two, bytes[1].len() as u64, body(&bytes[1])),
    )
    .await;
    a.expect("put");
    b.expect("put");
    for backend in [&first, &second] {
        assert!(get(backend, &one, 0..bytes[0].len()).await == bytes[0], "the first object has its own bytes");
        assert!(get(backend, &two, 0..bytes[1].len()).await == bytes[1], "the second object has its own bytes");
    }
    second.delete(&one).await.expect("delete");
    assert!(!is_there(&first, &one).await);
}

pub async fn room_is_reported<M: MakeBackend>() {
    let (backend, _place) = M::make().await;
    assert!(backend.available_bytes().await.expect("available_bytes") > 0);
}
