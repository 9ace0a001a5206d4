//! The races of `review.md` A5, A8, A9, A10, A12 and A13 on two connections that are held apart: the test holds the
//! lock of the storage index until both wait for it, in a known order. Each is run in both orders.

use std::time::Duration;

use leasehold_core::clock::Clock;
use leasehold_core::id::AccountId;
use leasehold_core::leasedb::{
    AllocateOutcome, CommitOutcome, LeaseDb, LeaseDbError, RecordOutcome, RenewOutcome, Result,
};
use leasehold_core::share::ShareKind;
use leasehold_core::testing::{share_id, storage_index};
use leasehold_e2e_services::process::wait_until;
use leasehold_e2e_services::{Postgres, TcpProxy};
use leasehold_leasedb::postgres::PgOptions;

use crate::pg::PgDatabase;
use crate::pg_world::{PATIENCE, World, blocking, hold, release, session, waiting};

/// Two processes of one database, and two accounts.
struct Race {
    database: PgDatabase,
    left: World,
    right: World,
    alice: AccountId,
    bob: AccountId,
}

impl Race {
    async fn make() -> Self {
        let database = PgDatabase::make().await;
        let left = World::open(&database.options, 0).await.expect("opens");
        let right = World::open(&database.options, 0).await.expect("opens");
        let (alice, bob) = (left.account("alice", None).await, left.account("bob", None).await);
        Self { database, left, right, alice, bob }
    }

    /// Lets `first` and then `second` wait for the lock of a storage index, and then go.
    async fn run<A, B>(&self, index: u8, first: A, second: B) -> (A::Output, B::Output)
    where
        A: Future<Output: Send> + Send + 'static,
        B: Future<Output: Send> + Send + 'static,
    {
        let postgres = Postgres::shared().expect("a server");
        let mut session = session(&self.database).await;
        hold(&mut session, storage_index(index)).await;
        let first = tokio::spawn(first);
        waiting(postgres, &self.database.name, 1).await;
        let second = tokio::spawn(second);
        waiting(postgres, &self.database.name, 2).await;
        release(&mut session).await;
        (first.await.expect("no panic"), second.await.expect("no panic"))
    }

    async fn audit(&self) {
        self.left.audit(&self.database, self.alice).await;
        self.left.audit(&self.database, self.bob).await;
    }
}

/// A5: a lapsed lease that somebody is just removing is there again after a renewal that was answered with yes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_never_says_yes_to_a_lease_that_is_gone() {
    let race = Race::make().await;
    race.left.upload(race.alice, share_id(1, 0), 88, 1).await;
    race.left.clock.advance(40 * 86_400);
    let mut expire = session(&race.database).await;
    hold(&mut expire, storage_index(1)).await;
    // As the job will do it: the lease and what it counts, not yet committed.
    let sql = format!(
        "DELETE FROM leases WHERE account_id = {0}; \
         UPDATE account_usage SET leased_bytes = 0, leased_shares = 0 WHERE account_id = {0}",
        race.alice
    );
    blocking(|| expire.query(&sql)).await;
    let (db, alice) = (race.left.db.clone(), race.alice);
    let renewing = tokio::spawn(async move { db.renew_leases(storage_index(1), alice).await });
    waiting(Postgres::shared().expect("a server"), &race.database.name, 1).await;
    release(&mut expire).await;
    assert_eq!(renewing.await.expect("no panic").expect("renewed"), RenewOutcome::Done);
    let leases = race.left.db.list_leases(storage_index(1)).await.expect("list_leases");
    assert!(leases.len() == 1 && leases[0].lease.expires_at > race.left.clock.now());
    race.audit().await;
}

/// A5, A10: allocate says "already have" of what it leases only, whether the share comes before or after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn allocate_against_the_last_write_leases_what_it_says_is_there() {
    let race = Race::make().await;
    for (index, allocate_first) in [(1, true), (2, false)] {
        let share = share_id(index, 0);
        let request = race.left.allocation(race.alice, share.storage_index, &[0], 88);
        race.left.db.allocate(request).await.expect("allocate");
        let recording = race.left.recording(share, 0..88).await;
        let allocation = race.right.allocation(race.bob, share.storage_index, &[0], 88);
        let (left, right) = (race.left.db.clone(), race.right.db.clone());
        let record = async move { left.record_chunks(recording).await };
        let allocate = async move { right.allocate(allocation).await };
        let (recorded, allocated) = if allocate_first {
            let (allocated, recorded) = race.run(index, allocate, record).await;
            (recorded, allocated)
        } else {
            race.run(index, record, allocate).await
        };
        assert_eq!(recorded.expect("record_chunks"), RecordOutcome::Finished);
        let AllocateOutcome::Done { already_have, allocated, .. } = allocated.expect("allocate") else {
            panic!("nobody is refused");
        };
        assert!(allocated.is_empty(), "the number was never free");
        assert_eq!(already_have.is_empty(), allocate_first);
        let leases = race.left.db.list_leases(share.storage_index).await.expect("list_leases");
        let is_leased = leases.iter().any(|lease| lease.account == race.bob);
        assert_eq!(is_leased, !allocate_first, "already have means leased");
        race.audit().await;
    }
}

/// A8: two removals, of one share each, leave no slot with an old write enabler.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_removals_leave_no_empty_slot() {
    let race = Race::make().await;
    race.left.write(race.alice, storage_index(1), &[(0, Some(10)), (1, Some(10))]).await;
    let first = race.left.commit(race.alice, storage_index(1), &[(0, None)]).await;
    let second = race.left.commit(race.alice, storage_index(1), &[(1, None)]).await;
    let again = second.clone();
    let (left, right) = (race.left.db.clone(), race.right.db.clone());
    let (first, second) =
        race.run(1, async move { left.commit_slot(first).await }, async move { right.commit_slot(second).await }).await;
    assert_eq!(first.expect("commit_slot"), CommitOutcome::Done);
    assert_eq!(second.expect("commit_slot"), CommitOutcome::Conflict, "it saw a share that is gone");
    let token = race.left.db.read_slot(storage_index(1)).await.expect("read_slot").slot.map(|(token, _)| token);
    let again = leasehold_core::leasedb::CommitSlot { base: token, ..again };
    assert_eq!(race.right.db.commit_slot(again).await.expect("commit_slot"), CommitOutcome::Done);
    assert_eq!(race.database.number("SELECT count(*) FROM slots").await, 0);
    race.audit().await;
}

/// A9: a first lease while the share grows is charged with what the share is, in both orders.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_lease_while_the_share_grows_is_charged_right() {
    let race = Race::make().await;
    for (index, lease_first) in [(1, true), (2, false)] {
        race.left.write(race.alice, storage_index(index), &[(0, Some(100))]).await;
        let growing = race.left.commit(race.alice, storage_index(index), &[(0, Some(500))]).await;
        let (left, right, bob) = (race.left.db.clone(), race.right.db.clone(), race.bob);
        let grow = async move { left.commit_slot(growing).await };
        let lease = async move { right.renew_leases(storage_index(index), bob).await };
        let (grown, leased) = if lease_first {
            let (leased, grown) = race.run(index, lease, grow).await;
            (grown, leased)
        } else {
            race.run(index, grow, lease).await
        };
        assert_eq!(grown.expect("commit_slot"), CommitOutcome::Done);
        assert_eq!(leased.expect("renew_leases"), RenewOutcome::Done);
        race.audit().await;
    }
    assert_eq!(race.left.db.usage(race.bob).await.expect("usage").used_bytes, 2 * (500 + 472));
}

/// A9: a lease that is just being removed is not charged with the growth of its share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growth_while_a_lease_is_removed_charges_nobody_for_it() {
    let race = Race::make().await;
    race.left.write(race.alice, storage_index(1), &[(0, Some(100))]).await;
    race.left.db.renew_leases(storage_index(1), race.bob).await.expect("renew_leases");
    let growing = race.left.commit(race.alice, storage_index(1), &[(0, Some(500))]).await;
    let mut expire = session(&race.database).await;
    hold(&mut expire, storage_index(1)).await;
    let sql = format!(
        "DELETE FROM leases WHERE account_id = {0}; \
         UPDATE account_usage SET leased_bytes = 0, leased_shares = 0 WHERE account_id = {0}",
        race.bob
    );
    blocking(|| expire.query(&sql)).await;
    let db = race.left.db.clone();
    let growing = tokio::spawn(async move { db.commit_slot(growing).await });
    waiting(Postgres::shared().expect("a server"), &race.database.name, 1).await;
    release(&mut expire).await;
    assert_eq!(growing.await.expect("no panic").expect("commit_slot"), CommitOutcome::Done);
    race.audit().await;
}

/// A10: where another share took the number of an upload, its last write says whether it is the same one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_whose_number_was_taken_is_displaced() {
    let race = Race::make().await;
    for (index, kind, size, same) in [(1, 0, 88, true), (2, 0, 77, false), (3, 1, 88, false)] {
        let share = share_id(index, 0);
        let request = race.left.allocation(race.alice, share.storage_index, &[0], 88);
        race.left.db.allocate(request).await.expect("allocate");
        let recording = race.left.recording(share, 0..88).await;
        // What no rule of ours lets happen in the ordinary course: a share that was restored beside its upload.
        let mut repair = session(&race.database).await;
        hold(&mut repair, share.storage_index).await;
        let hex: String = share.storage_index.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let sql = format!(
            "INSERT INTO shares (si, shnum, kind, state, size_bytes, locator, created_at) \
             SELECT '{hex}', 0, {kind}, 1, {size}, locator, 0 FROM ({}) AS l (locator)",
            locator_of(size)
        );
        blocking(|| repair.query(&sql)).await;
        let db = race.left.db.clone();
        let record = tokio::spawn(async move { db.record_chunks(recording).await });
        waiting(Postgres::shared().expect("a server"), &race.database.name, 1).await;
        release(&mut repair).await;
        let outcome = record.await.expect("no panic").expect("record_chunks");
        assert_eq!(outcome, RecordOutcome::Displaced { same });
        assert_eq!(race.database.number("SELECT count(*) FROM uploads").await, 0);
        let garbage = format!("SELECT count(*) FROM garbage WHERE si = '{hex}' AND objects <> ''");
        assert_eq!(race.database.number(&garbage).await, 1, "its pieces are garbage");
        race.audit().await;
    }
}

/// A locator of one whole object of this size.
fn locator_of(size: u64) -> String {
    use leasehold_core::chunk::StoreObject;
    use leasehold_core::id::ObjectId;
    use leasehold_core::locator::{Extent, Locator};
    let (upload, put) = (ObjectId::new([1; 16]), ObjectId::new([2; 16]));
    let object = StoreObject::Whole { upload, account: AccountId::new(16), put };
    let locator = Locator::new(vec![Extent { range: 0..size, object }]).expect("one extent");
    let hex: String = locator.encode().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("VALUES ('\\x{hex}'::bytea)")
}

/// A12: an abort and a write of a piece, in both orders, leave no row of a piece behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_against_a_piece_leaves_no_row() {
    let race = Race::make().await;
    for (index, abort_first) in [(1, true), (2, false)] {
        let share = share_id(index, 0);
        let request = race.left.allocation(race.alice, share.storage_index, &[0], 88);
        race.left.db.allocate(request).await.expect("allocate");
        let recording = race.left.recording(share, 0..40).await;
        let upload = recording.upload;
        let (left, right) = (race.left.db.clone(), race.right.db.clone());
        let record = async move { left.record_chunks(recording).await };
        let abort = async move { right.end_upload(share, upload, Vec::new(), false).await };
        let (recorded, aborted) = if abort_first {
            let (aborted, recorded) = race.run(index, abort, record).await;
            (recorded, aborted)
        } else {
            race.run(index, record, abort).await
        };
        assert!(aborted.expect("end_upload"));
        let gone = recorded.expect("record_chunks") == RecordOutcome::Gone;
        assert_eq!(gone, abort_first);
        assert_eq!(race.database.number("SELECT count(*) FROM upload_chunks").await, 0);
        let named = "SELECT count(*) FROM garbage WHERE objects <> ''";
        assert_eq!(race.database.number(named).await, i64::from(!abort_first), "a recorded piece is garbage");
        race.audit().await;
    }
}

/// A13: a transaction whose process sleeps after its reads is ended by the server; another one gets the lock, and the
/// sleeper changes nothing when it wakes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_sleeps_is_ended() {
    let race = Race::make().await;
    let postgres = Postgres::shared().expect("a server");
    let share = share_id(1, 0);
    let request = race.left.allocation(race.alice, share.storage_index, &[0], 88);
    race.left.db.allocate(request).await.expect("allocate");
    let proxy = blocking(|| TcpProxy::start(postgres.address())).await;
    let options = PgOptions {
        port: proxy.address().port(),
        idle_in_transaction: Duration::from_millis(300),
        ..race.database.options.clone()
    };
    let sleeper = World::open(&options, 0).await.expect("opens");
    let recording = sleeper.recording(share, 0..88).await;
    let upload = recording.upload;
    let mut session = session(&race.database).await;
    hold(&mut session, share.storage_index).await;
    let db = sleeper.db.clone();
    let asleep = tokio::spawn(async move { db.record_chunks(recording).await });
    waiting(postgres, &race.database.name, 1).await;
    proxy.stall();
    release(&mut session).await;
    // Its reads were answered, but the answer does not reach it: it holds the lock and rests.
    let ended: Result<bool> = race.right.db.end_upload(share, upload, Vec::new(), false).await;
    assert!(ended.expect("the lock is free again"));
    let gone = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND state LIKE 'idle in transaction%'",
        race.database.name
    );
    let none = [[Some("0".to_owned())]];
    blocking(|| {
        wait_until("no session rests", PATIENCE, || Ok((postgres.query("postgres", &gone)? == none).then_some(())))
    })
    .await;
    proxy.resume();
    let outcome = asleep.await.expect("no panic");
    let harmless = matches!(&outcome, Ok(RecordOutcome::Gone) | Err(LeaseDbError::OutcomeUnknown(_)));
    assert!(harmless, "{outcome:?}");
    let numbers = race.left.db.list_numbers(share.storage_index, ShareKind::Immutable).await.expect("list_numbers");
    assert!(numbers.is_empty(), "the sleeper changed nothing");
    race.audit().await;
}
