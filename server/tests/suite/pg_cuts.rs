//! Connections to PostgreSQL that are cut: before each COMMIT, after each COMMIT, and in the middle of each statement.
//!
//! `review.md` A3: after a cut the caller does not know; a look afterwards shows all or nothing; the same request does
//! no harm.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use leasehold_core::backup::table::Page;
use leasehold_core::backup::{Import, ImportOutcome};
use leasehold_core::leasedb::{Epoch, LeaseDb, LeaseDbError};
use leasehold_e2e_services::postgres::Session;
use leasehold_e2e_services::{Postgres, TcpProxy};
use leasehold_leasedb::postgres::PgOptions;

use crate::pg::PgDatabase;
use crate::pg_cases::{Case, EXEMPT, Single, ledger, prepare_singles, singles, transactions};
use crate::pg_world::{PATIENCE, World, blocking, copy, release, rows, session, waiting};

fn through(database: &PgDatabase, proxy: SocketAddr) -> PgOptions {
    PgOptions { port: proxy.port(), connections_max: 2, ..database.options.clone() }
}

async fn proxy() -> TcpProxy {
    blocking(|| TcpProxy::start(Postgres::shared()?.address())).await
}

async fn all_rows(database: &PgDatabase, case: &Case) -> String {
    let text = rows(Postgres::shared().expect("a server"), &database.name).await;
    if case.name != "create_account" {
        return text;
    }
    // The number of an attempt that did not hold is not given again.
    text.lines().filter(|line| !line.starts_with("account")).collect::<Vec<_>>().join("\n")
}

/// Waits until the server has noticed that nobody wants the transaction that was cut off: what removes many things leaves
/// out those whose locks are taken.
async fn forgotten(database: &PgDatabase) {
    let locks = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
        WHERE l.locktype = 'advisory' AND d.datname = current_database()";
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while database.number(locks).await > 0 {
        assert!(tokio::time::Instant::now() < deadline, "a lock outlives its connection");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// A case on three copies of one database: undisturbed, cut before its COMMIT, cut after it.
async fn run(case: &Case) {
    let origin = PgDatabase::make().await;
    (case.prepare)(World::open(&origin.options, 0).await.expect("opens")).await;
    let before = all_rows(&origin, case).await;
    let undisturbed = copy(&origin, "undisturbed").await;
    let world = World::open(&undisturbed.options, 1).await.expect("opens");
    let deed = (case.deed)(world.clone()).await;
    assert_eq!(deed(world.db.clone()).await.expect(case.name), case.answer, "{}", case.name);
    let after = all_rows(&undisturbed, case).await;
    assert_ne!(before, after, "{} changes something", case.name);
    for is_sent in [false, true] {
        let what = format!("{}, cut {} COMMIT", case.name, if is_sent { "after" } else { "before" });
        let database = copy(&origin, if is_sent { "after" } else { "before" }).await;
        let proxy = proxy().await;
        let world = World::open(&through(&database, proxy.address()), 1).await.expect("opens");
        let deed = (case.deed)(world.clone()).await;
        if is_sent {
            proxy.cut_after_commit_sent(1)
        } else {
            proxy.cut_before_commit(1)
        }
        let outcome = deed(world.db.clone()).await;
        assert!(matches!(outcome, Err(LeaseDbError::OutcomeUnknown(_))), "{what}: {outcome:?}");
        assert_eq!(proxy.commits_cut(), 1, "{what}");
        assert_eq!(all_rows(&database, case).await, *if is_sent { &after } else { &before }, "{what}: all or nothing");
        forgotten(&database).await;
        let again = deed(world.db.clone()).await.unwrap_or_else(|_| "Err".to_owned());
        assert_eq!(again, if is_sent { case.again } else { case.answer }, "{what}, then again");
        if !is_sent || case.settled {
            assert_eq!(all_rows(&database, case).await, after, "{what}, then again");
        }
        if let Ok(Some(alice)) = world.db.find_account("alice".to_owned()).await {
            world.audit(&database, alice.id).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_cut_off_is_all_or_nothing() {
    for case in transactions() {
        run(&case).await;
    }
}

#[test]
fn no_transaction_is_without_a_case() {
    let cases = transactions().iter().map(|case| case.name.to_owned()).collect();
    assert_eq!(ledger("change"), cases, "a new transaction needs a case in pg_cases.rs");
    let singles = singles();
    let cases = singles.iter().map(|single| single.name).chain(EXEMPT.map(|(name, _)| name)).map(str::to_owned);
    assert_eq!(ledger("query"), cases.collect(), "a new statement needs a case in pg_cases.rs");
}

async fn lock_table(session: &mut Session, table: &str) {
    let sql = format!("BEGIN; LOCK TABLE leasehold.{table} IN ACCESS EXCLUSIVE MODE");
    blocking(|| session.query(&sql)).await;
}

/// Cuts the connection while the statement waits, in the server, for a table.
async fn cut_in_the_middle(single: &Single, database: &PgDatabase, proxy: &TcpProxy, world: &World) {
    let postgres = Postgres::shared().expect("a server");
    let deed = (single.deed)(world.clone()).await;
    let expected = deed(world.db.clone()).await.expect(single.name);
    let mut session = session(database).await;
    lock_table(&mut session, single.table).await;
    let call = tokio::spawn(deed(world.db.clone()));
    waiting(postgres, &database.name, 1).await;
    proxy.cut_all();
    // The second try waits as well; the server has not noticed yet that nobody wants to hear of the first.
    waiting(postgres, &database.name, 2).await;
    release(&mut session).await;
    let answer = call.await.expect("no panic").expect(single.name);
    assert!(!single.reads || answer == expected, "{}: {answer} instead of {expected}", single.name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_is_cut_off_is_tried_again() {
    let database = PgDatabase::make().await;
    prepare_singles(World::open(&database.options, 0).await.expect("opens")).await;
    let proxy = proxy().await;
    let world = World::open(&through(&database, proxy.address()), 1).await.expect("opens");
    for single in singles() {
        cut_in_the_middle(&single, &database, &proxy, &world).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opening_survives_a_cut() {
    let database = PgDatabase::make().await;
    let proxy = proxy().await;
    let mut session = session(&database).await;
    lock_table(&mut session, "leasehold_migrations").await;
    let options = through(&database, proxy.address());
    let opening = tokio::spawn(async move { World::open(&options, 0).await.map(drop) });
    let postgres = Postgres::shared().expect("a server");
    waiting(postgres, &database.name, 1).await;
    proxy.cut_all();
    waiting(postgres, &database.name, 2).await;
    release(&mut session).await;
    opening.await.expect("no panic").expect("the second try opens it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_cut_off_in_its_reads_is_tried_again() {
    let database = PgDatabase::make().await;
    let setup = World::open(&database.options, 0).await.expect("opens");
    let alice = setup.account("alice", Some(1_000_000)).await;
    let proxy = proxy().await;
    let world = World::open(&through(&database, proxy.address()), 1).await.expect("opens");
    let index = leasehold_core::testing::storage_index(1);
    let mut session = session(&database).await;
    crate::pg_world::hold(&mut session, index).await;
    let (request, db) = (world.allocation(alice, index, &[0], 100), world.db.clone());
    let call = tokio::spawn(async move { db.allocate(request).await });
    let postgres = Postgres::shared().expect("a server");
    waiting(postgres, &database.name, 1).await;
    proxy.cut_all();
    waiting(postgres, &database.name, 2).await;
    release(&mut session).await;
    let answer = format!("{:?}", call.await.expect("no panic").expect("the second try"));
    assert_eq!(answer, "Done { already_have: [], allocated: [0], over_quota: false }");
    assert_eq!(database.number("SELECT count(*) FROM uploads").await, 1);
    world.audit(&database, alice).await;
}

/// An import is one transaction of many statements: whichever of them is cut off, nothing of it is there, and the next one
/// fills the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_is_cut_off_anywhere_changes_nothing() {
    let origin = PgDatabase::make().await;
    prepare_singles(World::open(&origin.options, 0).await.expect("opens")).await;
    let source = World::open(&origin.options, 0).await.expect("opens").db;
    let export = source.export().await.expect("export");
    let (instant, pages) = (export.instant, export.pages.try_collect::<Vec<Page>>().await.expect("pages"));
    assert!(pages.len() >= 5, "there is something in many tables");
    let target = PgDatabase::make().await;
    let before = rows(Postgres::shared().expect("a server"), &target.name).await;
    let proxy = Arc::new(proxy().await);
    let world = World::open(&through(&target, proxy.address()), 1).await.expect("opens");
    let import = || Import::new(&instant, Epoch(7));
    for cut_before in 0..=pages.len() {
        let (cutter, cut) = (proxy.clone(), Arc::new(AtomicBool::new(false)));
        let told = cut.clone();
        let fed = stream::iter(pages.clone().into_iter().enumerate()).map(move |(at, page)| {
            if at == cut_before {
                cutter.cut_all();
                told.store(true, Ordering::SeqCst);
            }
            Ok(page)
        });
        if cut_before == pages.len() {
            // Behind the last page: what is cut is the COMMIT.
            proxy.cut_before_commit(1);
        }
        let outcome = world.db.import(import(), fed.boxed()).await;
        assert!(outcome.is_err(), "cut before page {cut_before}: {outcome:?}");
        assert!(cut.load(Ordering::SeqCst) || cut_before == pages.len());
        assert_eq!(rows(Postgres::shared().expect("a server"), &target.name).await, before, "page {cut_before}");
        assert!(world.db.is_empty().await.expect("is_empty"));
    }
    let whole = world.db.import(import(), stream::iter(pages.into_iter().map(Ok)).boxed()).await;
    assert_eq!(whole.expect("import"), ImportOutcome::Done);
    assert!(!world.db.is_empty().await.expect("is_empty"));
}
