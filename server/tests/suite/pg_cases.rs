//! Every transaction and every single statement of the PostgreSQL lease database, each as a case that tests of faults,
//! of rights and of poolers run.
//!
//! The names are those that the metrics tell. [`ledger`] reads them out of the source, so one without a case fails.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use leasehold_core::beat::BeatName;
use leasehold_core::chunk::StoreObject;
use leasehold_core::clock::{Clock, Timestamp};
use leasehold_core::crawl::unit::{ClaimUnitOutcome, FinishUnit, Prefix, UnitEnd};
use leasehold_core::crawl::{Settle, SettleOutcome, TakeOver};
use leasehold_core::expiry::{ExpireLeases, ExpireMode, ExpirePolicy, RetireShares, Undo};
use leasehold_core::id::{AccountId, ObjectId};
use leasehold_core::leasedb::{AccountChange, Advisory, Epoch, LeaseDb, Relocate, Result, SlotToken, Tick};
use leasehold_core::locator::{Extent, Locator};
use leasehold_core::run::{BeginRun, BeginRunOutcome, FinishRun, RunId, RunKind, RunState, Totals};
use leasehold_core::share::ShareKind;
use leasehold_core::testing::{credential, share_id, storage_index};
use leasehold_core::tub::{TubConnection, TubId};
use leasehold_leasedb::postgres::PgLeaseDb;

use crate::pg_world::{FIRST_EPOCH, World, name_of};

/// A request that can be made again, of any connection; answers with its outcome as text.
pub type Deed = Arc<dyn Fn(PgLeaseDb) -> BoxFuture<'static, Result<String>> + Send + Sync>;

/// Who works on a unit.
const WORKER: ObjectId = ObjectId::new([9; 16]);

/// One transaction.
pub struct Case {
    /// As the metrics call it.
    pub name: &'static str,
    /// Makes what it needs.
    pub prepare: fn(World) -> BoxFuture<'static, ()>,
    /// Reads what a caller would have read before, and makes the request.
    pub deed: fn(World) -> BoxFuture<'static, Deed>,
    /// What it answers.
    pub answer: &'static str,
    /// What the same request answers when the first one took effect, `Err` included.
    pub again: &'static str,
    /// Whether the repetition leaves everything as it is.
    pub settled: bool,
}

fn text<T: Debug>(result: Result<T>) -> Result<String> {
    result.map(|outcome| format!("{outcome:?}"))
}

macro_rules! deed {
    (|$db:ident| $call:expr) => {
        Arc::new(move |$db: PgLeaseDb| async move { text($call.await) }.boxed()) as Deed
    };
    (|$db:ident, $request:ident| $call:expr) => {{
        let shared = $request.clone();
        Arc::new(move |$db: PgLeaseDb| {
            let $request = shared.clone();
            async move { text($call.await) }.boxed()
        }) as Deed
    }};
}

async fn with_alice(world: World) {
    world.account("alice", Some(1_000_000)).await;
}

async fn with_share(world: World) {
    let alice = world.account("alice", Some(1_000_000)).await;
    world.account("bob", Some(1_000_000)).await;
    world.upload(alice, share_id(1, 0), 100, 2).await;
}

async fn with_upload(world: World) {
    let alice = world.account("alice", Some(1_000_000)).await;
    let request = world.allocation(alice, storage_index(1), &[0], 100);
    world.db.allocate(request).await.expect("allocate");
    let request = world.recording(share_id(1, 0), 0..60).await;
    world.db.record_chunks(request).await.expect("record_chunks");
}

async fn with_slot(world: World) {
    let alice = world.account("alice", Some(1_000_000)).await;
    let bob = world.account("bob", Some(1_000_000)).await;
    world.write(alice, storage_index(1), &[(0, Some(100)), (1, Some(200))]).await;
    world.db.renew_leases(storage_index(1), bob).await.expect("renew_leases");
}

/// A policy by which every lease has ended.
const ALL: ExpirePolicy = ExpirePolicy { mode: ExpireMode::Override(-1000 * 86_400), immutable: true, mutable: true };

async fn expiry(world: &World) -> ExpireLeases {
    let leases = world.db.lease_page(None, 10).await.expect("lease_page").leases;
    ExpireLeases { run: RunId(7), policy: ALL, epoch: FIRST_EPOCH, leases }
}

async fn with_unleased(world: World) {
    with_share(world.clone()).await;
    let request = expiry(&world).await;
    world.db.expire_leases(request).await.expect("expire_leases");
}

async fn with_removed(world: World) {
    with_slot(world.clone()).await;
    world.write(world.find("alice").await, storage_index(1), &[(0, None)]).await;
}

async fn with_garbage(world: World) {
    with_upload(world.clone()).await;
    let share = share_id(1, 0);
    let upload = world.db.find_upload(share).await.expect("find_upload").1.expect("begun").id;
    assert!(world.db.end_upload(share, upload, Vec::new(), false).await.expect("end_upload"));
}

async fn recording(world: World, end: u64) -> Deed {
    let request = world.recording(share_id(1, 0), 60..end).await;
    deed!(|db, request| db.record_chunks(request))
}

async fn ending(world: World) -> Deed {
    let share = share_id(1, 0);
    let upload = world.db.find_upload(share).await.expect("find_upload").1.expect("begun").id;
    deed!(|db| db.end_upload(share, upload, Vec::new(), false))
}

async fn committing(world: World, changes: &[(u8, Option<u64>)]) -> Deed {
    let request = world.commit(world.find("alice").await, storage_index(1), changes).await;
    deed!(|db, request| db.commit_slot(request))
}

async fn discarding(world: World) -> Deed {
    let generation = StoreObject::Generation { generation: world.id(), account: world.find("alice").await };
    let stored = vec![name_of(share_id(1, 0), generation)];
    deed!(|db, stored| db.discard_objects(stored))
}

async fn relocating(world: World) -> Deed {
    let (share, account) = (share_id(1, 0), world.find("alice").await);
    let row = world.db.find_share(share).await.expect("find_share").expect("it is there");
    let object = StoreObject::Whole { upload: world.id(), account, put: world.id() };
    let to = Locator::new(vec![Extent { range: 0..row.size_bytes, object }]).expect("one extent");
    let request = Relocate { share, from: row.locator, to, epoch: FIRST_EPOCH };
    deed!(|db, request| db.relocate(request))
}

async fn ticking(_: World) -> Deed {
    let tick = Tick { listed: Vec::<BeatName>::new(), nonce: ObjectId::new([7; 16]), standby_is_synchronous: true };
    deed!(|db, tick| async move { db.tick(tick).await.map(drop) })
}

async fn claiming(_: World) -> Deed {
    deed!(|db| async move {
        let rows = db.claim_garbage(FIRST_EPOCH, 10, 60).await?;
        Ok(rows.iter().map(|row| row.objects.len()).collect::<Vec<_>>())
    })
}

async fn with_wrong_counters(world: World) {
    with_share(world.clone()).await;
    world.execute("UPDATE account_usage SET leased_bytes = 7 WHERE account_id = 16").await;
}

async fn recounting(world: World) -> Deed {
    let alice = world.find("alice").await;
    deed!(|db| async move { db.recount_usage(alice).await.map(|(was, is)| was != is) })
}

async fn beginning(_: World) -> Deed {
    let begin = BeginRun { kind: RunKind::Audit, dry_run: false, policy: String::new() };
    deed!(
        |db, begin| async move { db.begin_run(begin).await.map(|outcome| matches!(outcome, BeginRunOutcome::Begun(_))) }
    )
}

async fn with_braked_run(world: World) {
    let begin = BeginRun { kind: RunKind::Audit, dry_run: false, policy: String::new() };
    let BeginRunOutcome::Begun(run) = world.db.begin_run(begin).await.expect("begin_run") else {
        panic!("it is the first")
    };
    let end = FinishRun { id: run.id, state: RunState::Braked, totals: Totals::default(), reason: String::new() };
    assert!(world.db.finish_run(end).await.expect("finish_run"));
}

async fn permitting(_: World) -> Deed {
    deed!(|db| async move { db.permit_run(RunId(1)).await })
}

async fn changing(world: World) -> Deed {
    let alice = world.find("alice").await;
    let change = AccountChange { quota_bytes: Some(Some(7_000_000)), ..AccountChange::default() };
    deed!(|db, change| db.change_account(alice, change))
}

async fn rotating(world: World) -> Deed {
    let alice = world.find("alice").await;
    deed!(|db| db.rotate_credential(alice, credential("another"), 3600))
}

async fn closing(world: World) -> Deed {
    let alice = world.find("alice").await;
    deed!(|db| db.close_account(alice, None))
}

async fn with_closed(world: World) {
    with_share(world.clone()).await;
    assert_eq!(world.find("alice").await, AccountId::FIRST_DECLARED);
    assert!(world.db.close_account(AccountId::FIRST_DECLARED, None).await.expect("close_account"));
}

async fn reopening(_: World) -> Deed {
    deed!(|db| async move {
        db.reopen_account(AccountId::FIRST_DECLARED, "alice".to_owned(), AccountChange::default(), credential("again"))
            .await
    })
}

async fn renewing(world: World) -> Deed {
    let bob = world.find("bob").await;
    deed!(|db| db.renew_leases(storage_index(1), bob))
}

async fn expiring(world: World) -> Deed {
    let request = expiry(&world).await;
    deed!(|db, request| db.expire_leases(request))
}

async fn retiring(_: World) -> Deed {
    let shares = vec![share_id(1, 0)];
    let request = RetireShares { epoch: FIRST_EPOCH, shares, token: SlotToken([5; 16]) };
    deed!(|db, request| db.retire_shares(request))
}

async fn undoing(_: World) -> Deed {
    let request = Undo { storage_index: storage_index(1), number: None, run: None, token: SlotToken([6; 16]) };
    deed!(|db, request| db.undo(request))
}

async fn settling(world: World) -> Deed {
    let seen = world.db.survey(storage_index(1)).await.expect("survey");
    // Its object is not there any more.
    let settle = Settle {
        storage_index: storage_index(1),
        seen,
        listed: Vec::new(),
        manifests: Vec::new(),
        containers: Vec::new(),
        token: SlotToken([8; 16]),
        dry_run: false,
    };
    deed!(|db, settle| async move {
        Ok(match db.settle(settle).await? {
            SettleOutcome::Settled(findings) => Some(findings.lost.len()),
            SettleOutcome::Changed => None,
        })
    })
}

async fn with_nothing(_: World) {}

async fn with_reconcile_run(world: World) {
    let begin = BeginRun { kind: RunKind::Reconcile, dry_run: false, policy: String::new() };
    let begun = world.db.begin_run(begin).await.expect("begin_run");
    assert!(matches!(begun, BeginRunOutcome::Begun(_)));
}

async fn with_claimed_unit(world: World) {
    with_reconcile_run(world.clone()).await;
    let claimed = world.db.claim_unit(RunId(1), WORKER, 60).await.expect("claim_unit");
    assert!(matches!(claimed, ClaimUnitOutcome::Claimed(..)));
}

async fn claiming_unit(_: World) -> Deed {
    deed!(|db| async move {
        let claimed = db.claim_unit(RunId(1), WORKER, 60).await?;
        Ok(matches!(claimed, ClaimUnitOutcome::Claimed(..)))
    })
}

async fn keeping_unit(_: World) -> Deed {
    deed!(|db| db.keep_unit(RunId(1), Prefix::default(), WORKER, 600))
}

async fn finishing_unit(_: World) -> Deed {
    let (unit, end) = (Prefix::default(), UnitEnd::Done(Totals::default()));
    let finish = FinishUnit { run: RunId(1), unit, worker: WORKER, end };
    deed!(|db, finish| db.finish_unit(finish))
}

async fn taking_over(_: World) -> Deed {
    let take_over = TakeOver { deployment: None, epoch: Epoch(2), accounts_after: AccountId::new(0) };
    deed!(|db, take_over| db.take_over(take_over))
}

async fn with_lost_share(world: World) {
    with_share(world.clone()).await;
    let run =
        "INSERT INTO runs (kind, state, permission, dry_run, policy, started_at, alive_at, finished_at, totals, reason)
        VALUES (2, 1, 0, false, '', 5, 5, 5, '', '');";
    let lost =
        "UPDATE shares SET state = 3, lost_at = 1; UPDATE account_usage SET leased_bytes = 0, leased_shares = 0;";
    world.execute(&format!("{lost} {run} {run}")).await;
}

async fn forgetting(_: World) -> Deed {
    deed!(|db| db.forget_lost(share_id(1, 0), SlotToken([9; 16])))
}

async fn prolonging(world: World) -> Deed {
    let alice = world.find("alice").await;
    let ends = vec![(share_id(1, 0).number, Timestamp::from_seconds(4_000_000_000))];
    deed!(|db, ends| db.prolong_leases(storage_index(1), alice, ends))
}

async fn allocating(world: World) -> Deed {
    let request = world.allocation(world.find("alice").await, storage_index(1), &[0, 1], 100);
    deed!(|db, request| db.allocate(request))
}

async fn creating(_: World) -> Deed {
    deed!(|db| async move {
        let created = db.create_account("carol".to_owned(), AccountChange::default(), credential("carol")).await?;
        Ok(format!("{created:?}").split(['(', ' ']).next().map(str::to_owned))
    })
}

macro_rules! case {
    ($name:literal, $prepare:expr, $deed:expr, $answer:literal, $again:literal, $settled:literal) => {
        Case {
            name: $name,
            prepare: |world| $prepare(world).boxed(),
            deed: |world| $deed(world).boxed(),
            answer: $answer,
            again: $again,
            settled: $settled,
        }
    };
}

/// Every transaction, some in more than one form.
pub fn transactions() -> Vec<Case> {
    vec![
        case!(
            "allocate",
            with_alice,
            allocating,
            "Done { already_have: [], allocated: [0, 1], over_quota: false }",
            "Done { already_have: [], allocated: [], over_quota: false }",
            true
        ),
        case!("record_chunks", with_upload, |w| recording(w, 80), "Incomplete([80..100])", "Stale", true),
        case!("record_chunks", with_upload, |w| recording(w, 100), "Finished", "Gone", true),
        case!("end_upload", with_upload, ending, "true", "false", true),
        case!("renew_leases", with_share, renewing, "Done", "Done", true),
        case!("commit_slot", with_alice, |w| committing(w, &[(0, Some(50)), (2, Some(5))]), "Done", "Conflict", true),
        case!("commit_slot", with_slot, |w| committing(w, &[(0, Some(50)), (1, None)]), "Done", "Conflict", true),
        case!("commit_slot", with_slot, |w| committing(w, &[(0, None), (1, None)]), "Done", "Conflict", true),
        // What was thrown away twice is deleted twice, which is once.
        case!("discard_objects", with_alice, discarding, "()", "()", false),
        case!("relocate", with_share, relocating, "true", "false", true),
        case!(
            "expire_leases",
            with_share,
            expiring,
            "Removed { leases: Amount { count: 1, bytes: 112 }, unleased: 1 }",
            "Removed { leases: Amount { count: 0, bytes: 0 }, unleased: 0 }",
            true
        ),
        case!(
            "retire_shares",
            with_unleased,
            retiring,
            "Retired(Amount { count: 1, bytes: 112 })",
            "Retired(Amount { count: 0, bytes: 0 })",
            true
        ),
        case!(
            "undo",
            with_removed,
            undoing,
            "Undone { shares: [0], leases: 2, refused: [] }",
            "Undone { shares: [], leases: 0, refused: [] }",
            true
        ),
        case!("settle", with_share, settling, "Some(1)", "None", true),
        case!("claim_unit", with_reconcile_run, claiming_unit, "true", "false", true),
        case!("keep_unit", with_claimed_unit, keeping_unit, "true", "true", true),
        case!("finish_unit", with_claimed_unit, finishing_unit, "true", "false", true),
        // The same epoch begins once.
        case!("take_over", with_nothing, taking_over, "true", "Err", true),
        case!("forget_lost", with_lost_share, forgetting, "Forgotten", "NotLost", true),
        case!("prolong_leases", with_share, prolonging, "()", "()", true),
        // A beat more is as good.
        case!("tick", with_alice, ticking, "()", "()", false),
        // The claim lapses, then somebody has it again.
        case!("claim_garbage", with_garbage, claiming, "[1]", "[]", true),
        case!("recount_usage", with_wrong_counters, recounting, "true", "false", true),
        case!("begin_run", with_alice, beginning, "true", "false", true),
        case!("permit_run", with_braked_run, permitting, "Permitted", "Permitted", true),
        case!("create_account", with_alice, creating, "Some(\"Created\")", "Some(\"NameTaken\")", true),
        case!("change_account", with_alice, changing, "true", "true", false),
        case!("rotate_credential", with_alice, rotating, "true", "Err", true),
        case!("close_account", with_alice, closing, "true", "false", true),
        case!("reopen_account", with_closed, reopening, "true", "false", true),
    ]
}

/// A statement that is run by itself, again where a connection breaks.
pub struct Single {
    /// As the metrics call it.
    pub name: &'static str,
    /// A table that it, and nothing that its method runs before it, cannot do without.
    pub table: &'static str,
    /// Runs it.
    pub deed: fn(World) -> BoxFuture<'static, Deed>,
    /// Whether it answers the same in the same state.
    pub reads: bool,
}

macro_rules! single {
    ($name:literal, $table:literal, $reads:literal, |$db:ident| $call:expr) => {
        Single { name: $name, table: $table, deed: |_| async move { deed!(|$db| $call) }.boxed(), reads: $reads }
    };
}

async fn page_length(db: PgLeaseDb) -> Result<usize> {
    Ok(db.lease_page(None, 10).await?.leases.len())
}

/// A time that no test comes to.
fn far() -> Timestamp {
    Timestamp::from_seconds(1 << 40)
}

/// Every single statement, save those of [`EXEMPT`].
pub fn singles() -> Vec<Single> {
    vec![
        single!("now", "beats", false, |db| async move { db.now().await.map(drop) }),
        single!("find_upload", "uploads", false, |db| async move {
            Ok(db.find_upload(share_id(1, 0)).await?.1.map(|upload| upload.received_bytes))
        }),
        single!("list_shares", "shares", true, |db| db.list_shares(storage_index(2))),
        single!("list_numbers", "shares", true, |db| db.list_numbers(storage_index(2), ShareKind::Mutable)),
        single!("find_share", "shares", true, |db| db.find_share(share_id(2, 0))),
        single!("renewal_without_write", "leases", true, |db| async move {
            let alice = db.find_account("alice".to_owned()).await?.expect("there").id;
            db.renew_leases(storage_index(2), alice).await
        }),
        single!("list_leases", "leases", true, |db| db.list_leases(storage_index(2))),
        single!("read_slot", "slots", true, |db| async move {
            let slot = db.read_slot(storage_index(2)).await?;
            Ok((slot.slot, slot.shares))
        }),
        single!("open_uploads", "uploads", true, |db| db.open_uploads()),
        single!("overdue_uploads", "uploads", true, |db| db.overdue_uploads(5)),
        single!("has_due_garbage", "garbage", true, |db| async move {
            Ok(db.claim_garbage(FIRST_EPOCH, 0, 60).await?.len())
        }),
        single!("expiry_time", "losses", true, |db| page_length(db)),
        single!("lease_page", "leases", true, |db| page_length(db)),
        single!("shares_between", "shares", true, |db| page_length(db)),
        single!("holders_by_number", "accounts", true, |db| page_length(db)),
        single!("purge_expired", "expired_leases", false, |db| db.purge_expired(5)),
        single!("list_unleased", "unleased", true, |db| db.list_unleased(None, far(), 5)),
        single!("queue_unleased", "unleased", true, |db| db.queue_unleased(vec![share_id(2, 0)])),
        single!("lost_shares", "shares", true, |db| db.troubles(5)),
        single!("damaged_objects", "damaged_objects", true, |db| db.troubles(5)),
        single!("open_advisories", "corruption_advisories", true, |db| db.troubles(5)),
        single!("unleased_totals", "unleased", true, |db| db.unleased_totals()),
        single!("list_expired", "expired_leases", true, |db| db.list_expired(RunId(7), None, 5)),
        single!("survey", "shares", false, |db| async move { Ok(db.survey(storage_index(2)).await?.shares.len()) }),
        single!("page_shares", "shares", true, |db| async move {
            Ok(db.page_shares(Prefix::default(), None, 10).await?.len())
        }),
        single!("upload_ids", "uploads", true, |db| async move {
            Ok(db.spared(vec![storage_index(1)]).await?.uploads.len())
        }),
        single!("spared_garbage", "garbage", true, |db| async move {
            Ok(db.spared(vec![storage_index(1)]).await?.garbage.len())
        }),
        single!("end_recovery", "runs", true, |db| db.end_recovery(FIRST_EPOCH, RunId(1))),
        single!("abandoned_uploads", "uploads", true, |db| async move {
            db.abandoned_uploads(TubConnection::new(TubId([7; 20]), "", [8; 16]), 5).await
        }),
        single!("is_empty", "uploads", true, |db| db.is_empty()),
        single!("note_backup", "deployment", true, |db| db.note_backup(FIRST_EPOCH, Timestamp::from_seconds(1))),
        single!("deployment", "deployment", true, |db| db.deployment()),
        single!("beat_at", "beats", true, |db| db.is_tick_due(10)),
        single!("find_credentials", "account_credentials", true, |db| db.find_credential(credential("alice"))),
        single!("accounts_version", "deployment", true, |db| db.accounts_version()),
        single!("find_closed_account", "accounts", true, |db| db.find_closed_account(AccountId::FIRST_DECLARED)),
        single!("find_account", "accounts", true, |db| db.find_account("alice".to_owned())),
        single!("list_accounts", "accounts", true, |db| db.list_accounts(None, 10)),
        single!("list_credentials", "account_credentials", true, |db| async move {
            db.list_credentials(leasehold_core::id::AccountId::new(16)).await
        }),
        single!(
            "usage",
            "account_usage",
            true,
            |db| async move { db.usage(leasehold_core::id::AccountId::new(16)).await }
        ),
        single!("advise", "corruption_advisories", false, |db| async move {
            let (account, reason) = (leasehold_core::id::AccountId::new(16), "bits".to_owned());
            db.advise(Advisory { share: share_id(2, 0), kind: ShareKind::Mutable, account, reason }).await
        }),
        single!("note_use", "account_credentials", false, |db| async move {
            let now = leasehold_core::testing::clock::ManualClock::default().now();
            db.note_use(vec![(credential("alice"), now)]).await
        }),
        single!("note_run", "runs", true, |db| db.note_run(RunId(1), Totals::default())),
        single!("finish_run", "runs", true, |db| async move {
            let (state, reason) = (RunState::Done, String::new());
            db.finish_run(FinishRun { id: RunId(1), state, totals: Totals::default(), reason }).await
        }),
        single!("list_runs", "runs", true, |db| db.list_runs(None, 10)),
        single!("finish_garbage", "garbage", false, |db| db.finish_garbage(vec![1])),
        single!("claim_scattered", "scattered", false, |db| async move { db.claim_scattered(10, 60).await.map(drop) }),
    ]
}

/// What no test can stop by a lock, and why it needs none.
pub const EXEMPT: [(&str, &str); 3] = [
    ("schema", "runs when the database is opened; see the test of that"),
    ("limits", "reads no table; runs right after `schema`"),
    ("purge_garbage", "follows `finish_garbage` in the same method on the same table, and deletes what is done"),
];

/// What [`singles`] look at, before somebody changes it.
pub async fn prepare_singles(world: World) {
    with_upload(world.clone()).await;
    world.write(world.find("alice").await, storage_index(2), &[(0, Some(100)), (3, Some(200))]).await;
}

/// The names in the source of `.method("name", …)`.
pub fn ledger(method: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("leasedb/src/postgres");
    let call = format!(".{method}(");
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("the source of the lease database") {
        let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("a source file");
        let calls = text.split(&call).skip(1);
        names
            .extend(calls.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next().map(str::to_owned)));
    }
    names
}
