//! What clients are told while the lease database or the backend does not answer (`api.md` 10.2, 10.8): "not now", never
//! "there is no such thing"; and what goes on from memory, for how long.

mod stand;

use std::sync::Arc;

use ciborium::Value;
use leasehold_core::account::AccountState;
use leasehold_core::accountant::Accountant;
use leasehold_core::leasedb::{AccountChange, LeaseDb};
use leasehold_core::testing::clock::ManualSteadyClock;
use leasehold_core::testing::credential;
use leasehold_core::testing::faulty::{Fault, Faults, FaultyLeaseDb, Outage};

use crate::store::site::Site;
use crate::support::{ENABLER, LEASE, Request, Response, UPLOAD, allocate, encode, index, put_body, request, write};
use stand::{Stand, hash};

const SHARE: &[u8] = b"the bytes of a share";

impl Stand {
    fn get(&self, path: &str) -> Request {
        request(&self.authorization, "GET", path)
    }

    fn read(&self, kind: &str, index: &str) -> Request {
        self.get(&format!("/storage/v1/{kind}/{index}/0")).header("Range", "bytes=0-19")
    }

    fn put(&self, index: &str) -> Request {
        let path = format!("/storage/v1/mutable/{index}/read-test-write");
        let request = request(&self.authorization, "POST", &path).secrets(&[ENABLER]).secrets(&LEASE);
        request.header("Content-Type", "application/cbor").body(&encode(&put_body(0, 0, SHARE, None)))
    }

    fn write(&self, index: &str) -> Request {
        write(&self.authorization, index, 0, 0, SHARE)
    }

    async fn begin(&self, index: &str) {
        let allocate = allocate(&self.authorization, index, &[0], SHARE.len() as u64);
        assert_eq!(self.ask(&allocate).await.status, 200);
    }

    async fn upload(&self, index: &str) {
        self.begin(index).await;
        assert_eq!(self.ask(&self.write(index)).await.status, 201);
    }

    /// The three sizes of the version answer.
    async fn sizes(&self) -> Vec<u64> {
        let answer = self.ask(&self.get("/storage/v1/version")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let version = answer.cbor();
        let entries = version.as_map().expect("a map")[0].1.as_map().expect("a map");
        entries.iter().map(|(_, size)| u64::try_from(size.as_integer().expect("a size")).expect("positive")).collect()
    }

    fn session_status(&self, swissnum: &str) -> Request {
        request(&crate::support::authorization(swissnum), "GET", "/storage/v1/version")
    }
}

fn is_not_now(answer: &Response) -> bool {
    assert!(answer.status != 503 || answer.header("retry-after").is_some(), "{answer:?}");
    answer.status == 503
}

/// Whoever asks for a thing, there or not, with what they are told when all is well and when the backend is away.
/// Without the lease database it is always 503.
fn requests(stand: &Stand) -> Vec<(&'static str, Request, u16, u16)> {
    let list = |kind: &str, number| stand.get(&format!("/storage/v1/{kind}/{}/shares", index(number)));
    let post = |path: String| request(&stand.authorization, "POST", &path);
    let lease =
        |number| request(&stand.authorization, "PUT", &format!("/storage/v1/lease/{}", index(number))).secrets(&LEASE);
    let reason = encode(&Value::Map(vec![(Value::Text("reason".into()), Value::Text("it is odd".into()))]));
    let corrupt = post(format!("/storage/v1/immutable/{}/0/corrupt", index(1)));
    let abort = request(&stand.authorization, "PUT", &format!("/storage/v1/immutable/{}/0/abort", index(4)));
    vec![
        ("a list", list("immutable", 1), 200, 200),
        ("a list of a slot", list("mutable", 2), 200, 200),
        ("a list of nothing", list("immutable", 9), 200, 200),
        ("a cold share", stand.read("immutable", &index(1)), 206, 503),
        ("a slot", stand.read("mutable", &index(2)), 206, 503),
        ("no share", stand.read("immutable", &index(9)), 404, 404),
        ("no slot", stand.read("mutable", &index(9)), 404, 404),
        ("a lease", lease(1), 204, 204),
        ("a lease on nothing", lease(9), 404, 404),
        ("an allocation", allocate(&stand.authorization, &index(5), &[0], 10), 200, 503),
        ("an allocation of what is there", allocate(&stand.authorization, &index(1), &[0], 20), 200, 200),
        ("a write", stand.write(&index(3)), 201, 503),
        ("a write of no upload", stand.write(&index(9)), 404, 404),
        ("a slot write", stand.put(&index(2)), 200, 503),
        ("a new slot", stand.put(&index(6)), 200, 503),
        ("a report", corrupt.header("Content-Type", "application/cbor").body(&reason), 200, 200),
        ("an abort", abort.secrets(&[UPLOAD]), 200, 200),
        ("the account", stand.get("/account/v1"), 200, 200),
    ]
}

async fn stand_with_shares() -> Stand {
    let stand = Stand::start().await;
    stand.upload(&index(1)).await;
    assert_eq!(stand.ask(&stand.put(&index(2))).await.status, 200);
    for number in [3, 4] {
        stand.begin(&index(number)).await;
    }
    stand
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_lease_database_all_is_503_and_nothing_is_404() {
    let stand = stand_with_shares().await;
    assert!(stand.sizes().await.iter().all(|size| *size > 0));
    stand.outage(true, false).await;
    assert_eq!(stand.sizes().await, [0, 0, 0]);
    for (name, request, _, _) in requests(&stand) {
        let answer = stand.ask(&request).await;
        // The account is known: it is in memory.
        assert!(is_not_now(&answer) != (name == "the account"), "{name}: {}", answer.status);
    }
    assert!(stand.is_ready().await, "a dependency that is away from all pods must not take all from the balancer");
    // All goes on where it was.
    stand.outage(false, false).await;
    assert!(stand.sizes().await.iter().all(|size| *size > 0));
    for (name, request, status, _) in requests(&stand) {
        assert_eq!(stand.ask(&request).await.status, status, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_backend_what_needs_bytes_is_503_and_leases_go_on() {
    let stand = stand_with_shares().await;
    stand.outage(false, true).await;
    assert_eq!(stand.sizes().await, [0, 0, 0]);
    for (name, request, _, status) in requests(&stand) {
        let answer = stand.ask(&request).await;
        assert_eq!((answer.status, is_not_now(&answer)), (status, status == 503), "{name}");
    }
    assert!(stand.is_ready().await);
    stand.begin_again_after_outage().await;
}

impl Stand {
    async fn begin_again_after_outage(&self) {
        self.outage(false, false).await;
        assert!(self.sizes().await.iter().all(|size| *size > 0));
        assert_eq!(self.ask(&self.write(&index(3))).await.status, 201, "the upload was not lost");
        assert_eq!(self.ask(&self.read("immutable", &index(1))).await.body, SHARE);
        assert_eq!(self.ask(&self.read("mutable", &index(2))).await.body, SHARE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_hangs_counts_as_away() {
    let stand = Stand::start().await;
    assert_eq!(stand.ask(&stand.get("/storage/v1/version")).await.status, 200);
    stand.create_account("second").await;
    stand.upload(&index(1)).await;
    let share = stand.read("immutable", &index(1));
    assert_eq!(stand.ask_counting(&share).await.1, 1);
    // Nobody answers for a while, and nobody fails.
    stand.clock.advance(61);
    stand.notice_silence();
    assert_eq!(stand.sizes().await, [0, 0, 0]);
    let (answer, look_ups) = stand.ask_counting(&share).await;
    assert_eq!((answer.body.as_slice(), look_ups), (SHARE, 0), "who has the row does not wait");
    assert!(is_not_now(&stand.ask(&stand.session_status("second")).await));
    stand.refresh().await;
    assert!(stand.sizes().await.iter().all(|size| *size > 0));
    assert_eq!(stand.ask(&stand.session_status("second")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_in_memory_is_told_to_wait_not_that_they_are_nobody() {
    let stand = Stand::start().await;
    assert_eq!(stand.ask(&stand.session_status("second")).await.status, 401, "and that is remembered");
    assert_eq!(stand.ask(&stand.session_status("first")).await.status, 200);
    stand.outage(true, false).await;
    // Meanwhile another pod makes the account.
    stand.create_account("second").await;
    for swissnum in ["second", "third"] {
        assert!(is_not_now(&stand.ask(&stand.session_status(swissnum)).await), "{swissnum}");
    }
    assert_eq!(stand.ask(&stand.session_status("first")).await.status, 200);
    stand.outage(false, false).await;
    assert_eq!(stand.ask(&stand.session_status("second")).await.status, 200);
    assert_eq!(stand.ask(&stand.session_status("third")).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_looked_up_once_a_minute_and_that_of_a_slot_always() {
    let stand = stand_with_shares().await;
    let (share, slot) = (stand.read("immutable", &index(1)), stand.read("mutable", &index(2)));
    for (seconds, look_ups) in [(0, 1), (0, 0), (59, 0), (1, 1), (0, 0)] {
        stand.clock.advance(seconds);
        stand.refresh().await;
        let (answer, counted) = stand.ask_counting(&share).await;
        assert_eq!((answer.body.as_slice(), counted), (SHARE, look_ups));
        assert_eq!(stand.ask_counting(&slot).await.1, 1);
    }
    // That something is not there is never kept.
    for _ in 0..2 {
        let (answer, counted) = stand.ask_counting(&stand.read("immutable", &index(9))).await;
        assert_eq!((answer.status, counted), (404, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_read_before_an_outage_are_read_on_for_ten_minutes() {
    let stand = stand_with_shares().await;
    let (share, slot) = (stand.read("immutable", &index(1)), stand.read("mutable", &index(2)));
    for request in [&share, &slot] {
        assert_eq!(stand.ask(request).await.body, SHARE);
    }
    stand.outage(true, false).await;
    for seconds in [0, 61, 300, 238] {
        stand.clock.advance(seconds);
        stand.refresh().await;
        assert_eq!(stand.ask(&share).await.body, SHARE);
        assert!(is_not_now(&stand.ask(&slot).await), "a slot may have changed");
    }
    // One reader tries now and then, the others do not wait for a database that is away.
    assert_eq!(stand.ask_counting(&share).await.1, 0);
    // 599 seconds have passed.
    stand.clock.advance(1);
    assert!(is_not_now(&stand.ask(&share).await), "an account that may have been closed long ago");
    assert!(is_not_now(&stand.ask(&stand.get("/account/v1")).await));
    assert_eq!(stand.sizes().await, [0, 0, 0], "the version is answered all the same");
    stand.outage(false, false).await;
    assert_eq!(stand.ask(&share).await.body, SHARE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_row_whose_objects_were_replaced_is_read_again() {
    let stand = Stand::start().await;
    let read = stand.read("immutable", &index(1));
    stand.upload(&index(1)).await;
    assert_eq!(stand.ask(&read).await.body, SHARE);
    // The same bytes under other names, as after a merge on another pod.
    stand.lose_share(true);
    stand.upload(&index(1)).await;
    let (answer, look_ups) = stand.ask_counting(&read).await;
    assert_eq!((answer.body.as_slice(), look_ups), (SHARE, 1));
    assert_eq!(stand.ask_counting(&read).await.1, 0, "the new row is kept");
    // Its bytes are gone and its row is not: an error, not an absence.
    stand.lose_share(false);
    assert!(is_not_now(&stand.ask(&read).await));
    stand.lose_share(true);
    assert_eq!(stand.ask(&read).await.status, 404, "it really is not there any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_lapses_in_an_outage_as_well() {
    let stand = Stand::start().await;
    let account = stand.db.find_account("first".to_owned()).await.expect("answers").expect("exists");
    assert!(stand.db.rotate_credential(account.id, hash("newer"), 300).await.expect("answers"));
    for swissnum in ["first", "newer"] {
        assert_eq!(stand.ask(&stand.session_status(swissnum)).await.status, 200);
    }
    stand.outage(true, false).await;
    stand.clock.advance(301);
    assert_eq!(stand.ask(&stand.session_status("first")).await.status, 401);
    assert_eq!(stand.ask(&stand.session_status("newer")).await.status, 200);
}

/// A refresh that fails half-way does not count as one: the next takes over what is left, for those who rest as well.
#[tokio::test]
async fn a_change_is_not_lost_by_a_refresh_that_fails() {
    let site = Site::new().await;
    drop(site.account("alice").await);
    let (faults, clock) = (Faults::new(), ManualSteadyClock::default());
    let db = Arc::new(FaultyLeaseDb::new(site.db.clone(), faults.clone()));
    let accountant = Accountant::open_with_clock(db, Arc::new(clock.clone())).await.expect("an accountant");
    let state = async || accountant.session(&credential("alice")).await.map(|found| found.map(|s| s.account.state));
    assert_eq!(state().await.expect("answers"), Some(AccountState::Active));
    let alice = site.db.find_account("alice".to_owned()).await.expect("answers").expect("exists").id;
    let change = AccountChange { state: Some(AccountState::Suspended), ..AccountChange::default() };
    assert!(site.db.change_account(alice, change).await.expect("answers"));
    // She rests: nothing but the change makes a refresh look at her.
    site.clock.advance(3600);
    let mut call = 0;
    loop {
        faults.begin("refresh", Some((call, Fault::ErrorBefore)));
        let refreshed = accountant.refresh().await;
        if faults.end().struck.is_none() {
            break refreshed.expect("a refresh");
        }
        assert!(refreshed.is_err(), "call {call}");
        assert!(!accountant.has_contact());
        assert_eq!(state().await.expect("in memory"), Some(AccountState::Active));
        clock.advance(100);
        call += 1;
        assert_eq!(accountant.cache_age().as_secs(), 100 * call as u64, "the failure renews nothing");
    }
    assert!(call >= 3, "the beat, the version and the accounts are read: {call} calls");
    assert!(accountant.has_contact() && accountant.cache_age().is_zero());
    assert_eq!(state().await.expect("answers"), Some(AccountState::Suspended));
    faults.set_outage(Outage { lease_db: true, backend: false });
    clock.advance(600);
    assert!(state().await.is_err(), "not refreshed for ten minutes");
}
