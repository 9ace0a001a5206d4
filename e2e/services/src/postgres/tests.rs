//! Tests of the throw-away cluster itself.

use std::time::Instant;

use anyhow::Result;

use super::*;
use crate::proxy::TcpProxy;

fn count(cluster: &Postgres, database: &str) -> Result<usize> {
    Ok(cluster.query(database, "SELECT * FROM notes")?.len())
}

#[test]
fn databases_are_made_and_copied() -> Result<()> {
    let cluster = Postgres::shared()?;
    assert!(cluster.create_database("template_notes")?.ends_with("/template_notes"));
    cluster.query("template_notes", "CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('a'), (NULL)")?;
    cluster.clone_database("template_notes", "copy_of_notes")?;
    assert_eq!(cluster.query("copy_of_notes", "SELECT * FROM notes")?, [vec![Some("a".to_owned())], vec![None]]);
    cluster.drop_database("copy_of_notes")?;
    assert!(cluster.session("copy_of_notes").is_err());
    Ok(())
}

#[test]
fn killed_and_restarted_server_keeps_its_port_and_its_commits() -> Result<()> {
    let cluster = Postgres::start(&PostgresOptions::default())?;
    cluster.query(SUPERUSER, "CREATE TABLE notes (text TEXT)")?;
    let port = cluster.port();
    cluster.query(SUPERUSER, "INSERT INTO notes VALUES ('before the kill')")?;
    cluster.kill()?;
    assert!(cluster.session(SUPERUSER).is_err());
    cluster.start_again()?;
    assert_eq!(count(&cluster, SUPERUSER)?, 1);
    cluster.query(SUPERUSER, "INSERT INTO notes VALUES ('before the restart')")?;
    let mut open = cluster.session(SUPERUSER)?;
    cluster.restart()?;
    assert!(open.query("SELECT 1").is_err());
    assert_eq!((count(&cluster, SUPERUSER)?, cluster.port()), (2, port));
    Ok(())
}

#[test]
fn frozen_server_answers_after_it_thaws() -> Result<()> {
    let cluster = Postgres::start(&PostgresOptions::default())?;
    let mut session = cluster.session(SUPERUSER)?;
    cluster.freeze()?;
    let frozen_for = Duration::from_millis(300);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| session.query("SELECT 1"));
        std::thread::sleep(frozen_for);
        assert!(!answer.is_finished());
        cluster.thaw()?;
        answer.join().expect("the thread does not panic").map(drop)
    })?;
    assert!(begin.elapsed() >= frozen_for);
    Ok(())
}

#[test]
fn standby_takes_over_with_what_was_committed() -> Result<()> {
    let primary = Postgres::start(&PostgresOptions::default())?;
    primary.query(SUPERUSER, "CREATE TABLE notes (text TEXT)")?;
    let standby = primary.standby(&StandbyOptions { synchronous: true, through: None })?;
    primary.query(SUPERUSER, "INSERT INTO notes VALUES ('a')")?;
    assert!(standby.is_standby()?);
    primary.kill()?;
    standby.promote()?;
    standby.query(SUPERUSER, "INSERT INTO notes VALUES ('b')")?;
    assert_eq!(count(&standby, SUPERUSER)?, 2);
    standby.restart()?;
    assert!(!standby.is_standby()?);
    Ok(())
}

#[test]
fn asynchronous_standby_catches_up() -> Result<()> {
    let primary = Postgres::start(&PostgresOptions::default())?;
    let standby = primary.standby(&StandbyOptions::default())?;
    primary.query(SUPERUSER, "CREATE TABLE notes (text TEXT)")?;
    primary.wait_replicated()?;
    assert_eq!(count(&standby, SUPERUSER)?, 0);
    Ok(())
}

#[test]
fn failover_without_synchronous_commits_loses_the_last_ones() -> Result<()> {
    let primary = Postgres::start(&PostgresOptions::default())?;
    let proxy = TcpProxy::start(primary.address())?;
    let standby = primary.standby(&StandbyOptions { synchronous: false, through: Some(proxy.address()) })?;
    primary.query(SUPERUSER, "CREATE TABLE notes (text TEXT)")?;
    primary.wait_replicated()?;
    proxy.stall();
    primary.query(SUPERUSER, "INSERT INTO notes VALUES ('lost')")?;
    primary.kill()?;
    proxy.cut_all();
    standby.promote()?;
    assert_eq!(count(&standby, SUPERUSER)?, 0);
    Ok(())
}

#[test]
fn cluster_with_password_and_certificate_starts() -> Result<()> {
    let tls = PostgresTls { required: true, ..PostgresTls::default() };
    let options = PostgresOptions { password: true, tls: Some(tls), ..PostgresOptions::default() };
    let cluster = Postgres::start(&options)?;
    let password = cluster.password().context("a password was asked for")?;
    assert!(cluster.url("db").contains(password));
    assert_eq!(cluster.query(SUPERUSER, "SHOW ssl")?, [[Some("on".to_owned())]]);
    let psql = |mode: &str| -> Result<std::process::Output> {
        let authority = cluster.authority_file().context("TLS was asked for")?;
        let url = format!("{}?sslmode={mode}&sslrootcert={}", cluster.url(SUPERUSER), authority.display());
        run(Command::new("psql").args(["--no-psqlrc", "--command=SELECT 1", &url]), Duration::from_secs(20))
    };
    let full = psql("verify-full")?;
    assert!(full.status.success(), "{}", String::from_utf8_lossy(&full.stderr));
    assert!(!psql("disable")?.status.success());
    Ok(())
}
