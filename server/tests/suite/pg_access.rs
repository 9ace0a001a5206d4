//! Who may come in and what they may do: TLS, passwords, roles, migrations.

use std::path::PathBuf;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use leasehold_core::backup::table::Page;
use leasehold_core::backup::{Export, Import, ImportOutcome};
use leasehold_core::leasedb::{Epoch, LeaseDb, LeaseDbError};
use leasehold_e2e_services::Postgres;
use leasehold_e2e_services::certificates::Authority;
use leasehold_e2e_services::postgres::{PostgresOptions, PostgresTls};
use leasehold_leasedb::postgres::{Authorities, Migrated, PgOptions, Roles, SCHEMA_VERSION, Tls, migrate};

use crate::pg::{self, PgDatabase};
use crate::pg_cases::{prepare_singles, singles, transactions};
use crate::pg_world::{World, blocking, copy, rows};

/// The whole chain of an error, as a log shows it.
fn chain(error: &LeaseDbError) -> String {
    let mut text = format!("{error:?} {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// A server whose certificate names `localhost` only, which asks for a password, and speaks nothing but TLS.
async fn guarded() -> (Postgres, PgOptions) {
    let tls = PostgresTls { names: vec!["localhost".to_owned()], required: true };
    let settings = PostgresOptions { password: true, tls: Some(tls), ..PostgresOptions::default() };
    let postgres = blocking(|| Postgres::start(&settings)).await;
    blocking(|| postgres.create_database("leasehold")).await;
    let options = pg::options(postgres.address(), &postgres, "leasehold");
    (postgres, options)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_checks_what_its_mode_says() {
    let (postgres, options) = guarded().await;
    let ours = Authorities::File(postgres.authority_file().expect("it has a certificate"));
    let folder = tempfile::tempdir().expect("a folder");
    let other = Authority::new().and_then(|other| other.write_certificate(folder.path())).expect("another authority");
    let other = Authorities::Pem(std::fs::read_to_string(other).expect("written above"));
    let with = |host: &str, tls: Tls| PgOptions { host: host.to_owned(), tls, ..options.clone() };
    migrate(&with("localhost", Tls::VerifyFull(ours.clone())), &Roles::default()).await.expect("migrated over TLS");
    let good: [(&str, Tls); 5] = [
        ("localhost", Tls::VerifyFull(ours.clone())),
        ("localhost", Tls::VerifyCa(ours.clone())),
        ("127.0.0.1", Tls::VerifyCa(ours.clone())),
        ("127.0.0.1", Tls::Require),
        ("localhost", Tls::Require),
    ];
    for (host, tls) in good {
        let world = World::open(&with(host, tls.clone()), 0).await.unwrap_or_else(|e| panic!("{tls:?}: {}", chain(&e)));
        world.db.now().await.expect("it answers");
    }
    let bad: [(&str, Tls); 5] = [
        ("127.0.0.1", Tls::VerifyFull(ours.clone())),
        ("localhost", Tls::VerifyFull(other.clone())),
        ("localhost", Tls::VerifyCa(other)),
        ("localhost", Tls::Disable),
        ("localhost", Tls::VerifyFull(Authorities::File(PathBuf::from("/nowhere/authority.pem")))),
    ];
    for (host, tls) in bad {
        assert!(World::open(&with(host, tls.clone()), 0).await.is_err(), "{host} {tls:?}");
    }
    passwords_do_not_show(&with("localhost", Tls::VerifyFull(ours))).await;
}

async fn passwords_do_not_show(options: &PgOptions) {
    let right = options.password.clone().expect("it asks for a password");
    assert!(!format!("{options:?}").contains(&right));
    let world = World::open(options, 0).await.expect("opens");
    assert!(!format!("{:?}", world.db).contains(&right));
    for wrong in ["not-the-password", ""] {
        let options = PgOptions { password: Some(wrong.to_owned()), ..options.clone() };
        let Err(error) = World::open(&options, 0).await else { panic!("a wrong password opens nothing") };
        let text = chain(&error);
        assert!(text.contains("password") && !text.contains("not-the-password") && !text.contains(&right), "{text}");
    }
    let elsewhere = PgOptions { port: 1, ..options.clone() };
    let Err(error) = World::open(&elsewhere, 0).await else { panic!("nobody is there") };
    assert!(!chain(&error).contains(&right));
}

const SERVER: &str = "suite_server";
const OPERATOR: &str = "suite_operator";
const MAINTENANCE: &str = "suite_maintenance";
const STRANGER: &str = "suite_stranger";

/// An empty database of the shared server, by name, not migrated.
async fn empty(name: &str) -> PgDatabase {
    let postgres = Postgres::shared().expect("a server");
    blocking(|| postgres.create_database(name)).await;
    PgDatabase { name: name.to_owned(), options: pg::options(postgres.address(), postgres, name) }
}

/// A database that was migrated for these roles.
async fn with_roles() -> PgDatabase {
    for role in [SERVER, OPERATOR, MAINTENANCE, STRANGER] {
        let sql = format!("CREATE ROLE {role} LOGIN");
        blocking(|| Postgres::shared()?.query("postgres", &sql)).await;
    }
    let database = empty("suite_roles").await;
    let name = |role: &str| Some(role.to_owned());
    let roles = Roles { server: name(SERVER), operator: name(OPERATOR), maintenance: name(MAINTENANCE) };
    migrate(&database.options, &roles).await.expect("migrated");
    // Twice gives the same rights.
    migrate(&database.options, &roles).await.expect("migrated");
    database
}

async fn open_as(database: &PgDatabase, role: &str) -> Result<World, LeaseDbError> {
    World::open(&PgOptions { user: role.to_owned(), ..database.options.clone() }, 1).await
}

/// What is an operator's. Everything else is the server's, and what collecting needs is maintenance's as well.
const OPERATORS: [&str; 5] =
    ["create_account", "change_account", "rotate_credential", "close_account", "reopen_account"];
const COLLECTORS: [&str; 9] = [
    "record_chunks",
    "end_upload",
    "discard_objects",
    "relocate",
    "tick",
    "claim_garbage",
    "expire_leases",
    "retire_shares",
    "undo",
];
const OPERATORS_READS: [&str; 8] =
    ["now", "deployment", "beat_at", "find_account", "list_accounts", "list_credentials", "accounts_version", "usage"];
const COLLECTORS_READS: [&str; 17] = [
    "now",
    "open_uploads",
    "deployment",
    "beat_at",
    "find_upload",
    "overdue_uploads",
    "has_due_garbage",
    "finish_garbage",
    "claim_scattered",
    "expiry_time",
    "lease_page",
    "shares_between",
    "holders_by_number",
    "purge_expired",
    "list_unleased",
    "unleased_totals",
    "list_expired",
];
const STOREKEEPERS_READS: [&str; 7] =
    ["find_upload", "list_shares", "list_numbers", "find_share", "list_leases", "read_slot", "overdue_uploads"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_can_do_its_work_and_no_more() {
    let origin = with_roles().await;
    transactions_by_role(&origin).await;
    singles_by_role(&origin).await;
    backups_by_role(&origin).await;
    no_role_changes_the_schema(&origin).await;
    let Err(LeaseDbError::Invalid(text)) = open_as(&origin, STRANGER).await.map(drop) else {
        panic!("who was not named opens nothing");
    };
    assert!(text.contains("leasehold migrate"), "{text}");
}

async fn transactions_by_role(origin: &PgDatabase) {
    for (number, case) in transactions().iter().enumerate() {
        let (may, may_not): (&[&str], &str) = match case.name {
            name if OPERATORS.contains(&name) => (&[OPERATOR], SERVER),
            name if COLLECTORS.contains(&name) => (&[SERVER, MAINTENANCE], OPERATOR),
            _ => (&[SERVER], OPERATOR),
        };
        for role in may {
            let database = copy(origin, &format!("{number}_{role}")).await;
            (case.prepare)(World::open(&database.options, 0).await.expect("opens")).await;
            let deed = (case.deed)(World::open(&database.options, 1).await.expect("opens")).await;
            let before = rows(Postgres::shared().expect("a server"), &database.name).await;
            let outcome = deed(open_as(&database, may_not).await.expect("opens").db).await;
            assert!(matches!(outcome, Err(LeaseDbError::Unavailable(_))), "{} by {may_not}: {outcome:?}", case.name);
            assert_eq!(rows(Postgres::shared().expect("a server"), &database.name).await, before);
            let outcome = deed(open_as(&database, role).await.expect("opens").db).await;
            let outcome = outcome.unwrap_or_else(|e| panic!("{} by {role}: {}", case.name, chain(&e)));
            assert_eq!(outcome, case.answer, "{} by {role}", case.name);
        }
    }
}

async fn singles_by_role(origin: &PgDatabase) {
    let database = copy(origin, "singles").await;
    prepare_singles(World::open(&database.options, 0).await.expect("opens")).await;
    let [server, operator, maintenance] = [SERVER, OPERATOR, MAINTENANCE].map(|role| open_as(&database, role));
    let server = server.await.expect("opens");
    let (operator, maintenance) = (operator.await.expect("opens"), maintenance.await.expect("opens"));
    for single in singles() {
        let deed = (single.deed)(server.clone()).await;
        deed(server.db.clone()).await.unwrap_or_else(|e| panic!("{} by the server: {}", single.name, chain(&e)));
        if OPERATORS_READS.contains(&single.name) {
            deed(operator.db.clone()).await.unwrap_or_else(|e| panic!("{}: {}", single.name, chain(&e)));
        }
        if STOREKEEPERS_READS.contains(&single.name) {
            assert!(deed(operator.db.clone()).await.is_err(), "{} is no operator's business", single.name);
        }
        if COLLECTORS_READS.contains(&single.name) {
            deed(maintenance.db.clone()).await.unwrap_or_else(|e| panic!("{}: {}", single.name, chain(&e)));
        }
    }
}

/// Jobs read everything; only the schema's owner fills a database.
async fn backups_by_role(origin: &PgDatabase) {
    let (source, target) = (copy(origin, "backup_of").await, copy(origin, "backup_to").await);
    prepare_singles(World::open(&source.options, 0).await.expect("opens")).await;
    for role in [SERVER, MAINTENANCE] {
        let db = open_as(&source, role).await.expect("opens").db;
        let Export { instant, pages } = db.export().await.unwrap_or_else(|e| panic!("by {role}: {}", chain(&e)));
        let pages: Vec<Page> = pages.try_collect().await.unwrap_or_else(|e| panic!("by {role}: {}", chain(&e)));
        assert!(pages.iter().any(|page| page.table.name == "leases"));
        db.note_backup(instant.epoch, instant.taken_at).await.unwrap_or_else(|e| panic!("by {role}: {}", chain(&e)));
        let import = Import::new(&instant, Epoch(instant.epoch.0 + 1));
        let all = || stream::iter(pages.clone().into_iter().map(Ok)).boxed();
        let refused = open_as(&target, role).await.expect("opens").db.import(import, all()).await;
        assert!(chain(&refused.expect_err("only the owner may")).contains("permission denied"));
        let owner = World::open(&target.options, 1).await.expect("opens").db;
        assert!(owner.is_empty().await.expect("is_empty"));
        if role == MAINTENANCE {
            assert_eq!(owner.import(import, all()).await.expect("import"), ImportOutcome::Done);
        }
    }
    let operator = open_as(&source, OPERATOR).await.expect("opens").db.export().await.expect("it begins");
    operator.pages.try_collect::<Vec<_>>().await.expect_err("who stores what is no operator's business");
}

async fn no_role_changes_the_schema(database: &PgDatabase) {
    let changes = [
        "CREATE TABLE leasehold.mine (n int)",
        "ALTER TABLE leasehold.shares ADD COLUMN mine int",
        "DROP TABLE leasehold.garbage",
        "TRUNCATE leasehold.leases CASCADE",
        "INSERT INTO leasehold.leasehold_migrations VALUES (99, 'mine', '', '')",
        "DROP SCHEMA leasehold CASCADE",
    ];
    for role in [SERVER, OPERATOR, MAINTENANCE, STRANGER] {
        for change in changes {
            let sql = format!("SET ROLE {role}; {change}");
            let outcome = tokio::task::block_in_place(|| Postgres::shared()?.query(&database.name, &sql));
            let error = outcome.expect_err(change).root_cause().to_string();
            assert!(error.contains("permission denied") || error.contains("must be owner"), "{change}: {error}");
        }
    }
    // Nor does a server help itself to more room.
    for change in ["UPDATE leasehold.accounts SET quota_bytes = NULL", "DELETE FROM leasehold.account_credentials"] {
        for role in [SERVER, MAINTENANCE, STRANGER] {
            let sql = format!("SET ROLE {role}; {change}");
            let outcome = tokio::task::block_in_place(|| Postgres::shared()?.query(&database.name, &sql));
            assert!(outcome.is_err(), "{change} by {role}");
        }
    }
}

fn refusal(outcome: Result<World, LeaseDbError>) -> String {
    match outcome {
        Err(LeaseDbError::Invalid(text)) => text,
        Err(other) => panic!("{}", chain(&other)),
        Ok(_) => panic!("it must be refused"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_wait_for_each_other_and_happen_once() {
    let database = empty("suite_migrated").await;
    let text = refusal(World::open(&database.options, 0).await);
    assert!(text.contains("run `leasehold migrate`"), "{text}");
    let roles = Roles::default();
    let (first, second) = tokio::join!(migrate(&database.options, &roles), migrate(&database.options, &roles));
    let mut applied: Vec<Vec<i32>> = [first, second].map(|done| done.expect("migrated").applied).into();
    applied.sort_unstable();
    assert!(applied[0].is_empty() && applied[1].is_sorted(), "{applied:?}");
    assert_eq!((applied[1].first(), applied[1].last()), (Some(&1), Some(&(SCHEMA_VERSION as i32))));
    let again = migrate(&database.options, &roles).await.expect("migrated");
    assert_eq!(again, Migrated { applied: Vec::new(), version: SCHEMA_VERSION });
    World::open(&database.options, 0).await.expect("opens");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_told_and_what_is_newer_is_accepted() {
    let database = PgDatabase::make().await;
    // Behind a pooler the limits are the role's, and here the role has none.
    let unlimited = PgOptions { pooler: true, ..database.options.clone() };
    let sql = format!("ALTER DATABASE \"{}\" SET search_path = leasehold", database.name);
    blocking(|| Postgres::shared()?.query("postgres", &sql)).await;
    let text = refusal(World::open(&unlimited, 0).await);
    assert!(text.contains("ALTER ROLE") && text.contains("timeout"), "{text}");
    let long = PgOptions { idle_in_transaction: std::time::Duration::from_secs(60), ..database.options.clone() };
    let text = refusal(World::open(&long, 0).await);
    assert!(text.contains("idle_in_transaction_session_timeout is 60000 ms"), "{text}");
    // An older pod beside the newer one that has migrated already.
    let newer = "INSERT INTO leasehold.leasehold_migrations \
                 SELECT 99, 'later', applied_on, checksum FROM leasehold.leasehold_migrations LIMIT 1";
    blocking(|| Postgres::shared()?.query(&database.name, newer)).await;
    World::open(&database.options, 0).await.expect("a newer schema still serves").db.now().await.expect("it answers");
    assert!(migrate(&database.options, &Roles::default()).await.is_err(), "but an older program migrates nothing");
    let name = PgOptions { schema: "Leasehold; DROP".to_owned(), ..database.options.clone() };
    assert!(matches!(migrate(&name, &Roles::default()).await, Err(LeaseDbError::Invalid(_))));
}
