//! A PostgreSQL that is killed, restarted, frozen, full, read-only or replaced by a standby, each a server of its own.

use std::time::{Duration, Instant};

use leasehold_core::account::Usage;
use leasehold_core::beat::BeatName;
use leasehold_core::id::{AccountId, ObjectId};
use leasehold_core::leasedb::{LeaseDb, LeaseDbError, Mode, Tick, TickOutcome};
use leasehold_core::testing::storage_index;
use leasehold_e2e_services::postgres::{PostgresOptions, StandbyOptions};
use leasehold_e2e_services::{Postgres, TcpProxy};
use leasehold_leasedb::postgres::{PgOptions, Roles, migrate};

use crate::pg;
use crate::pg_world::{PATIENCE, World, blocking};

const DATABASE: &str = "leasehold";
/// More than a call may take here: every limit is two seconds.
const BOUND: Duration = Duration::from_secs(15);

/// A server of one test, a proxy before it, and a lease database with short limits that goes through it.
struct Hurt {
    postgres: Postgres,
    proxy: TcpProxy,
    options: PgOptions,
    world: World,
    account: AccountId,
}

impl Hurt {
    async fn make(max_connections: u32) -> Self {
        let settings = PostgresOptions { max_connections, ..PostgresOptions::default() };
        let postgres = blocking(|| Postgres::start(&settings)).await;
        let proxy = blocking(|| TcpProxy::start(postgres.address())).await;
        blocking(|| postgres.create_database(DATABASE)).await;
        let options = PgOptions {
            connections_max: 4,
            connect_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(2),
            idle_in_transaction: Duration::from_secs(2),
            ..pg::options(proxy.address(), &postgres, DATABASE)
        };
        migrate(&options, &Roles::default()).await.expect("migrated");
        let world = World::open(&options, 0).await.expect("opens");
        let account = world.account("alice", Some(1_000_000)).await;
        Self { postgres, proxy, options, world, account }
    }

    /// One acknowledged change, of a storage index of its own.
    async fn change(&self, number: u8) -> leasehold_core::leasedb::Result<()> {
        let request = self.world.allocation(self.account, storage_index(number), &[0], 88);
        self.world.db.allocate(request).await.map(drop)
    }

    async fn usage(&self) -> leasehold_core::leasedb::Result<Usage> {
        self.world.db.usage(self.account).await
    }

    /// Asks until a change works, which the pool must come to by itself.
    async fn recovers(&self, number: u8) {
        let begin = Instant::now();
        // An attempt may have taken effect without saying so; then the next one finds the upload and is content.
        while let Err(error) = bounded(self.change(number)).await {
            assert!(begin.elapsed() < PATIENCE, "the pool does not recover: {error:?}");
        }
    }

    /// What is reserved: 100 bytes for each change.
    async fn expect_changes(&self, count: u64) {
        assert_eq!(self.usage().await.expect("usage").reserved_bytes, 100 * count);
    }
}

/// Every answer comes in bounded time, good or bad.
async fn bounded<T>(call: impl Future<Output = T>) -> T {
    let begin = Instant::now();
    let answer = tokio::time::timeout(BOUND * 2, call).await.expect("an answer");
    assert!(begin.elapsed() < BOUND, "{:?}", begin.elapsed());
    answer
}

fn is_unavailable<T>(result: &leasehold_core::leasedb::Result<T>) -> bool {
    matches!(result, Err(LeaseDbError::Unavailable(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_frozen_or_full_server_is_recovered_from() {
    let hurt = Hurt::make(20).await;
    hurt.change(1).await.expect("it works");
    killed(&hurt).await;
    restarted(&hurt).await;
    frozen(&hurt).await;
    read_only(&hurt).await;
    full(&hurt).await;
    busy(&hurt).await;
    hurt.expect_changes(6).await;
}

async fn killed(hurt: &Hurt) {
    blocking(|| hurt.postgres.kill()).await;
    let outcome = bounded(hurt.change(2)).await;
    assert!(is_unavailable(&outcome), "nothing was sent: {outcome:?}");
    assert!(is_unavailable(&bounded(hurt.usage()).await));
    blocking(|| hurt.postgres.start_again()).await;
    hurt.recovers(2).await;
    hurt.expect_changes(2).await;
}

async fn restarted(hurt: &Hurt) {
    blocking(|| hurt.postgres.restart()).await;
    // Every connection of the pool was closed; the first call already finds another one.
    bounded(hurt.change(3)).await.expect("no error shows");
    hurt.expect_changes(3).await;
}

async fn frozen(hurt: &Hurt) {
    // Several connections, so that it shows how many of them a call waits for.
    let outcomes = tokio::join!(hurt.usage(), hurt.usage(), hurt.usage());
    assert!(outcomes.0.is_ok() && outcomes.1.is_ok() && outcomes.2.is_ok());
    blocking(|| hurt.postgres.freeze()).await;
    assert!(is_unavailable(&bounded(hurt.usage()).await), "a read gives up");
    let outcome = bounded(hurt.change(4)).await;
    assert!(is_unavailable(&outcome), "it came to no COMMIT: {outcome:?}");
    blocking(|| hurt.postgres.thaw()).await;
    hurt.recovers(4).await;
    hurt.expect_changes(4).await;
}

/// A primary that was told to write no more, as before a switch to another.
async fn read_only(hurt: &Hurt) {
    let sql = |is_on: &str| format!("ALTER DATABASE {DATABASE} SET default_transaction_read_only = {is_on}");
    blocking(|| hurt.postgres.query("postgres", &sql("on"))).await;
    hurt.proxy.cut_all();
    assert!(is_unavailable(&bounded(hurt.change(5)).await));
    assert!(is_unavailable(&bounded(hurt.usage()).await), "not even a read, which may be old");
    blocking(|| hurt.postgres.query("postgres", &sql("off"))).await;
    hurt.recovers(5).await;
}

/// Others have taken all connections.
async fn full(hurt: &Hurt) {
    hurt.proxy.cut_all();
    let mut sessions = Vec::new();
    while let Ok(session) = tokio::task::block_in_place(|| hurt.postgres.session("postgres")) {
        sessions.push(session);
        assert!(sessions.len() < 100, "the server has a limit");
    }
    let outcome = bounded(hurt.usage()).await;
    assert!(is_unavailable(&outcome), "{outcome:?}");
    drop(sessions);
    hurt.recovers(6).await;
}

/// We have taken all connections of our own.
async fn busy(hurt: &Hurt) {
    let mut session = blocking(|| hurt.postgres.session(DATABASE)).await;
    blocking(|| session.query("BEGIN; LOCK TABLE leasehold.account_usage IN ACCESS EXCLUSIVE MODE")).await;
    let calls: Vec<_> = (0..12).map(|_| Box::pin(bounded(hurt.usage()))).collect();
    let outcomes = futures_util::future::join_all(calls).await;
    assert!(outcomes.iter().all(is_unavailable), "waiting for a connection and for a lock ends: {outcomes:?}");
    blocking(|| session.query("ROLLBACK")).await;
    bounded(hurt.usage()).await.expect("usage");
}

fn tick(listed: Vec<BeatName>, nonce: u8, standby_is_synchronous: bool) -> Tick {
    Tick { listed, nonce: ObjectId::new([nonce; 16]), standby_is_synchronous }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_standby_takes_over_with_everything() {
    let hurt = Hurt::make(30).await;
    let standby = blocking(|| hurt.postgres.standby(&StandbyOptions { synchronous: true, through: None })).await;
    let TickOutcome::Beat { beat, .. } = hurt.world.db.tick(tick(Vec::new(), 1, true)).await.expect("tick") else {
        panic!("a beat");
    };
    for number in 0..10 {
        hurt.change(number).await.expect("it works");
    }
    blocking(|| hurt.postgres.kill()).await;
    hurt.proxy.set_target(standby.address());
    hurt.proxy.cut_all();
    // The standby answers, but nothing is written to it, and nothing old is read from it.
    assert!(is_unavailable(&bounded(hurt.change(10)).await));
    assert!(is_unavailable(&bounded(hurt.usage()).await));
    let refused = World::open(&hurt.options, 0).await.map(drop);
    assert!(is_unavailable(&refused), "{refused:?}");
    blocking(|| standby.promote()).await;
    hurt.recovers(10).await;
    hurt.expect_changes(11).await;
    // Another timeline, but the standby had everything.
    let outcome = hurt.world.db.tick(tick(vec![beat], 2, true)).await.expect("tick");
    assert!(matches!(outcome, TickOutcome::Beat { .. }), "{outcome:?}");
    // Where nobody says so, a takeover is a loss.
    blocking(|| standby.query(DATABASE, "UPDATE leasehold.beats SET timeline = '00000001'")).await;
    let outcome = hurt.world.db.tick(tick(vec![beat], 3, false)).await.expect("tick");
    assert!(matches!(outcome, TickOutcome::Loss(_)), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lagging_standby_takes_over_and_the_loss_is_noticed() {
    let hurt = Hurt::make(30).await;
    let stream = blocking(|| TcpProxy::start(hurt.postgres.address())).await;
    let options = StandbyOptions { synchronous: false, through: Some(stream.address()) };
    let standby = blocking(|| hurt.postgres.standby(&options)).await;
    hurt.change(1).await.expect("it works");
    let TickOutcome::Beat { beat: kept, .. } = hurt.world.db.tick(tick(Vec::new(), 1, true)).await.expect("tick")
    else {
        panic!("a beat");
    };
    blocking(|| hurt.postgres.wait_replicated()).await;
    stream.stall();
    hurt.change(2).await.expect("acknowledged, and lost");
    let TickOutcome::Beat { beat: lost, .. } = hurt.world.db.tick(tick(vec![kept], 2, true)).await.expect("tick")
    else {
        panic!("a beat");
    };
    blocking(|| hurt.postgres.kill()).await;
    stream.cut_all();
    blocking(|| standby.promote()).await;
    hurt.proxy.set_target(standby.address());
    hurt.proxy.cut_all();
    hurt.recovers(3).await;
    hurt.expect_changes(2).await;
    // The operator says that the standby is synchronous, and errs; the beats show it (`review.md` B1).
    let before = hurt.world.db.deployment().await.expect("deployment");
    let outcome = hurt.world.db.tick(tick(vec![kept, lost], 3, true)).await.expect("tick");
    let after = hurt.world.db.deployment().await.expect("deployment");
    assert_eq!(outcome, TickOutcome::Loss(after.epoch));
    assert!(after.epoch > before.epoch && after.mode == Mode::Recovery);
}
