//! A server is told to end while a client uploads: as long as it drains, the client notices nothing.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use leasehold_e2e::tahoe::Format;

use super::files::ensure_spread;
use super::{Grid, KIB, SERVERS, bytes, ensure_same};

/// Two seconds of notice, then fifteen in which every answer closes its connection.
const CONFIG: &str = "[server]\ndrain_notice_seconds = 2\ndrain_seconds = 15\n";

/// How long the client goes on, well into the time in which connections are closed.
const UPLOADING: Duration = Duration::from_secs(12);

#[test]
fn draining_fails_no_upload() -> Result<()> {
    let mut grid = Grid::start("draining", Some(CONFIG))?;
    // Connections are there to be kept.
    let mut files = vec![grid.client.upload(&bytes(300, 300 * KIB))?];
    let slot = grid.client.create_mutable(Format::Sdmf, &bytes(0, 5_000))?;
    let began = Instant::now();
    let draining = &grid.servers[..2];
    draining.iter().try_for_each(|server| server.drain())?;
    let mut last = Vec::new();
    grid.story(|| {
        for round in 1.. {
            files.push(grid.client.upload(&bytes(300 + round, 300 * KIB))?);
            last = bytes(round, 5_000);
            grid.client.overwrite(&slot, &last)?;
            // Every share found its server, those that drain as well.
            ensure_spread(&grid.client, files.last().expect("just pushed"))?;
            if began.elapsed() > UPLOADING {
                return Ok(());
            }
        }
        Ok(())
    })?;
    ensure!(files.len() > 3, "only {} files were uploaded while servers drained", files.len());
    grid.servers[..2].iter_mut().try_for_each(|server| server.expect_running())?;
    grid.servers[..2].iter_mut().try_for_each(|server| server.drained())?;
    ensure!(began.elapsed() >= Duration::from_secs(16), "a server with clients ended after {:?}", began.elapsed());
    grid.client.wait_connected(SERVERS - 2)?;
    grid.story(|| ensure_same("the slot", &grid.client.download(&slot)?, &last))?;
    grid.servers[..2].iter_mut().try_for_each(|server| server.restart())?;
    grid.client.wait_connected(SERVERS)?;
    grid.story(|| files.iter().try_for_each(|file| ensure_spread(&grid.client, file)))
}
