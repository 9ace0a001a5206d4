//! The proxy before a real PostgreSQL, spoken to by its own command-line client.

use std::net::Ipv4Addr;
use std::process::{Command, Output};

use super::*;
use crate::postgres::{Postgres, SUPERUSER};
use crate::process::{run, wait_until};

fn psql(proxy: &TcpProxy, database: &str, sql: &str) -> Result<Output> {
    let url = format!("postgres://{SUPERUSER}@{}/{database}?sslmode=disable", proxy.address());
    let mut command = Command::new("psql");
    command.args(["--no-psqlrc", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", &url]);
    for statement in sql.split(';') {
        command.arg(format!("--command={}", statement.trim()));
    }
    run(&mut command, Duration::from_secs(30))
}

fn set_up(name: &str) -> Result<(&'static Postgres, TcpProxy)> {
    let cluster = Postgres::shared()?;
    cluster.create_database(name)?;
    cluster.query(name, "CREATE TABLE notes (text TEXT)")?;
    Ok((cluster, TcpProxy::start(cluster.address())?))
}

fn rows(cluster: &Postgres, database: &str) -> Result<usize> {
    Ok(cluster.query(database, "SELECT 1 FROM notes")?.len())
}

const INSERT: &str = "BEGIN; INSERT INTO notes VALUES ('x'); COMMIT";

#[test]
fn commit_whose_answer_is_cut_off_has_taken_effect() -> Result<()> {
    let (cluster, proxy) = set_up("proxy_after")?;
    proxy.cut_after_commit_sent(2);
    assert!(psql(&proxy, "proxy_after", INSERT)?.status.success());
    assert!(!psql(&proxy, "proxy_after", INSERT)?.status.success());
    assert_eq!((rows(cluster, "proxy_after")?, proxy.commits_cut()), (2, 1));
    assert!(psql(&proxy, "proxy_after", INSERT)?.status.success());
    Ok(())
}

#[test]
fn commit_that_is_cut_off_has_no_effect() -> Result<()> {
    let (cluster, proxy) = set_up("proxy_before")?;
    proxy.cut_before_commit(1);
    assert!(!psql(&proxy, "proxy_before", INSERT)?.status.success());
    assert_eq!((rows(cluster, "proxy_before")?, proxy.commits_cut()), (0, 1));
    Ok(())
}

#[test]
fn statements_are_counted() -> Result<()> {
    let (_, proxy) = set_up("proxy_counts")?;
    let before = proxy.counts();
    assert!(psql(&proxy, "proxy_counts", INSERT)?.status.success());
    let counts = proxy.counts().since(&before);
    assert_eq!((counts.connections, counts.commits, counts.syncs), (1, 1, 3));
    assert_eq!(counts.statements.get("INSERT"), Some(&1));
    Ok(())
}

#[test]
fn stalled_connection_goes_on_after_the_stall() -> Result<()> {
    let (_, proxy) = set_up("proxy_stall")?;
    proxy.stall();
    let output = std::thread::scope(|scope| {
        let output = scope.spawn(|| psql(&proxy, "proxy_stall", "SELECT 7"));
        let open = wait_until("psql is connected", Duration::from_secs(10), || {
            Ok((proxy.open_connections() == 1).then_some(()))
        });
        std::thread::sleep(Duration::from_millis(200));
        let is_waiting = !output.is_finished();
        proxy.resume();
        let output = output.join().expect("the thread does not panic");
        assert!(open.is_ok() && is_waiting);
        output
    })?;
    assert_eq!(output.stdout, b"7\n");
    Ok(())
}

#[test]
fn refused_and_cut_connections_end_and_new_targets_are_used() -> Result<()> {
    let (cluster, proxy) = set_up("proxy_refuse")?;
    proxy.refuse(true);
    assert!(!psql(&proxy, "proxy_refuse", "SELECT 7")?.status.success());
    proxy.refuse(false);
    proxy.set_target((Ipv4Addr::LOCALHOST, 1).into());
    assert!(!psql(&proxy, "proxy_refuse", "SELECT 7")?.status.success());
    proxy.set_target(cluster.address());
    let output = std::thread::scope(|scope| {
        let output = scope.spawn(|| psql(&proxy, "proxy_refuse", "SELECT pg_sleep(20)"));
        let is_cut = wait_until("psql sleeps", Duration::from_secs(10), || {
            let statement =
                "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(20)%' AND state = 'active'";
            let sleeps = !cluster.query(SUPERUSER, statement)?.is_empty();
            Ok((sleeps && proxy.cut_all() == 1).then_some(()))
        });
        let output = output.join().expect("the thread does not panic");
        assert!(is_cut.is_ok());
        output
    })?;
    assert!(!output.status.success());
    Ok(())
}

#[test]
fn delay_holds_every_answer_back() -> Result<()> {
    let (_, proxy) = set_up("proxy_delay")?;
    let delay = Duration::from_millis(100);
    proxy.delay(delay);
    let begin = Instant::now();
    assert!(psql(&proxy, "proxy_delay", "SELECT 7")?.status.success());
    // At least the log-in and the query, both ways.
    assert!(begin.elapsed() >= 4 * delay);
    Ok(())
}
