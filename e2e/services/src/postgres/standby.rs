//! Standby servers: a copy that follows its primary over a stream and can take its place.

use std::fs;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{LAST_WILL, Postgres, SUPERUSER};
use crate::process::{run_ok, wait_until};
use crate::scratch::{Scratch, free_address, give};

const COPY_TIMEOUT: Duration = Duration::from_secs(120);
const STREAM_TIMEOUT: Duration = Duration::from_secs(60);
const PROMOTE_TIMEOUT_SECONDS: u32 = 30;

/// How a standby follows.
#[derive(Clone, Debug, Default)]
pub struct StandbyOptions {
    /// Whether the primary answers a commit only after the standby has it. Without, a failover may lose the last
    /// commits that were answered.
    pub synchronous: bool,
    /// The address by which the standby reaches its primary, if not directly: that of a proxy.
    pub through: Option<SocketAddr>,
}

impl Postgres {
    /// Makes a standby of this server and starts it; returns when it streams.
    pub fn standby(&self, options: &StandbyOptions) -> Result<Self> {
        let scratch = Scratch::new("pg", LAST_WILL)?;
        scratch.give_to(self.programs.owner)?;
        let data = scratch.path().join("data");
        let mut copy = self.programs.command("pg_basebackup", scratch.path());
        copy.args(["--no-sync", "--checkpoint=fast", "--wal-method=stream", "--no-password"]);
        copy.args(["--host", "127.0.0.1", "--port", &self.port().to_string(), "--username", SUPERUSER]);
        run_ok(copy.arg("--pgdata").arg(&data), COPY_TIMEOUT)?;
        let signal = data.join("standby.signal");
        fs::write(&signal, "").with_context(|| format!("write {}", signal.display()))?;
        give(&signal, self.programs.owner)?;
        let primary = options.through.unwrap_or(self.address);
        let connection = format!("host={} port={} user={SUPERUSER} sslmode=disable", primary.ip(), primary.port());
        let mut settings = self.settings.clone();
        settings.retain(|(name, _)| name != "primary_conninfo");
        settings.push(("primary_conninfo".to_owned(), connection));
        let mut standby = Self {
            server: Mutex::new(None),
            programs: self.programs.clone(),
            address: free_address()?,
            password: self.password.clone(),
            settings,
            has_tls: self.has_tls,
            scratch,
        };
        standby.start_on_free_port()?;
        self.wait_replicating("streaming")?;
        if options.synchronous {
            self.set_synchronous(true)?;
        }
        Ok(standby)
    }

    /// Makes commits on this primary wait for a standby, or no longer.
    pub fn set_synchronous(&self, is_synchronous: bool) -> Result<()> {
        let names = if is_synchronous { "*" } else { "" };
        let mut session = self.session(SUPERUSER)?;
        session.query(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"))?;
        session.query("SELECT pg_reload_conf()")?;
        self.wait_replicating(if is_synchronous { "sync" } else { "async" })
    }

    /// Waits until every standby has replayed all that this primary has committed by now.
    pub fn wait_replicated(&self) -> Result<()> {
        let position = self.query(SUPERUSER, "SELECT pg_current_wal_lsn()")?;
        let position = position.first().and_then(|row| row.first()?.clone()).context("no position in the log")?;
        let behind = format!("SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= '{position}'::pg_lsn");
        wait_until("the standby has caught up", STREAM_TIMEOUT, || {
            let count = self.query(SUPERUSER, &behind)?;
            Ok((count != [[Some("0".to_owned())]]).then_some(()))
        })
    }

    /// Makes this standby a primary. The old one must be dead, or there are two.
    pub fn promote(&self) -> Result<()> {
        let done = self.query(SUPERUSER, &format!("SELECT pg_promote(true, {PROMOTE_TIMEOUT_SECONDS})"))?;
        ensure!(done == [[Some("t".to_owned())]], "the standby did not take over\n{}", self.log_tail());
        Ok(())
    }

    /// Whether this is a standby that was not promoted.
    pub fn is_standby(&self) -> Result<bool> {
        Ok(self.query(SUPERUSER, "SELECT pg_is_in_recovery()")? == [[Some("t".to_owned())]])
    }

    /// Waits until a standby's stream is in this state, or is synchronous in this way.
    fn wait_replicating(&self, state: &str) -> Result<()> {
        let statement = format!("SELECT 1 FROM pg_stat_replication WHERE state = '{state}' OR sync_state = '{state}'");
        wait_until(&format!("a standby is {state}"), STREAM_TIMEOUT, || {
            Ok((!self.query(SUPERUSER, &statement)?.is_empty()).then_some(()))
        })
    }
}
