//! What the database itself does, without any server of ours: transactions that change nothing, one after another on
//! kept connections.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use leasehold_e2e_services::Postgres;
use leasehold_e2e_services::postgres::SUPERUSER;
use tokio_postgres::NoTls;

use super::workloads::block_on;
use crate::pods::DATABASE;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A transaction without an effect, in one message to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Empty {
    /// Nothing between the two words. The server writes nothing for it.
    Nothing,
    /// With nothing but an empty message in the log, so that it gets a number and its end is synced, as for every one that
    /// changes a row. (A number alone is not enough: the server does not wait for the end of what has logged nothing.)
    Synced,
}

impl Empty {
    const fn text(self) -> &'static str {
        match self {
            Self::Nothing => "BEGIN; COMMIT",
            Self::Synced => "BEGIN; SELECT pg_logical_emit_message(true, '', ''); COMMIT",
        }
    }
}

/// The rate of such transactions on so many connections, in transactions a second.
///
/// # Errors
/// If the database refuses one.
pub fn rate(database: &Postgres, empty: Empty, connections: usize, warm_up: Duration, window: Duration) -> Result<f64> {
    let address = database.address();
    let config = format!("host={} port={} user={SUPERUSER} dbname={DATABASE}", address.ip(), address.port());
    let counted = block_on(async {
        let mut clients = Vec::with_capacity(connections);
        for _ in 0..connections {
            let connecting = tokio::time::timeout(CONNECT_TIMEOUT, tokio_postgres::connect(&config, NoTls)).await;
            let (client, connection) = connecting.context("connecting to the database took too long")??;
            tokio::spawn(connection);
            clients.push(client);
        }
        let start = Instant::now() + warm_up;
        let end = start + window;
        let mut running = tokio::task::JoinSet::new();
        for client in clients {
            running.spawn(async move {
                let mut counted = 0_u64;
                loop {
                    client.batch_execute(empty.text()).await?;
                    let now = Instant::now();
                    counted += u64::from(now >= start && now < end);
                    if now >= end {
                        return Ok::<_, tokio_postgres::Error>(counted);
                    }
                }
            });
        }
        let mut counted = 0;
        while let Some(done) = running.join_next().await {
            counted += done.context("a client of the database panicked")??;
        }
        Ok(counted)
    })?;
    Ok(counted as f64 / window.as_secs_f64())
}
