//! Immutable files of all sizes.

use anyhow::{Result, ensure};
use leasehold_e2e::tahoe::{Check, Client, Protocol};

use super::{Grid, KIB, MIB, SERVERS, bytes, ensure_same, over_both_protocols};

/// The largest file that is a capability by itself and never reaches a server.
const LITERAL_MAX: usize = 55;

over_both_protocols!(
    immutable_files_of_all_sizes_come_back,
    hundred_mebibytes_come_back,
    parts_of_a_file_can_be_read,
    same_file_twice_is_stored_once
);

fn immutable_files_of_all_sizes_come_back(protocol: Protocol) -> Result<()> {
    let grid = Grid::shared(protocol)?;
    grid.story(|| {
        for length in [1, LITERAL_MAX, LITERAL_MAX + 1, KIB, MIB, 10 * MIB] {
            let data = bytes(length as u64, length);
            let capability = round_trip(&grid.client, &data)?;
            let literal = capability.starts_with("URI:LIT:");
            ensure!(literal == (length <= LITERAL_MAX), "{length} bytes became {capability}");
            if !literal {
                ensure_spread(&grid.client, &capability)?;
            }
        }
        Ok(())
    })
}

fn hundred_mebibytes_come_back(protocol: Protocol) -> Result<()> {
    let grid = Grid::shared(protocol)?;
    grid.story(|| {
        let data = bytes(100, 100 * MIB);
        let capability = round_trip(&grid.client, &data)?;
        ensure_spread(&grid.client, &capability)
    })
}

fn parts_of_a_file_can_be_read(protocol: Protocol) -> Result<()> {
    let grid = Grid::shared(protocol)?;
    grid.story(|| {
        let data = bytes(7, 3 * MIB + 12_345);
        let capability = grid.client.upload(&data)?;
        let end = data.len();
        for range in [0..1, 1_000_000..1_300_000, 131_071..131_073, end - 1..end] {
            let got = grid.client.download_range(&capability, range.start as u64..range.end as u64)?;
            ensure_same(&format!("bytes {range:?}"), &got, &data[range])?;
        }
        Ok(())
    })
}

fn same_file_twice_is_stored_once(protocol: Protocol) -> Result<()> {
    let grid = Grid::shared(protocol)?;
    grid.story(|| {
        let data = bytes(8, 300 * KIB);
        let first = grid.client.upload(&data)?;
        let second = grid.client.upload(&data)?;
        ensure!(first == second, "{first} and {second} for the same bytes");
        ensure_spread(&grid.client, &first)
    })
}

fn round_trip(client: &Client, data: &[u8]) -> Result<String> {
    let capability = client.upload(data)?;
    ensure_same(&format!("file of {} bytes", data.len()), &client.download(&capability)?, data)?;
    Ok(capability)
}

/// Demands that every server has one share.
pub fn ensure_spread(client: &Client, capability: &str) -> Result<()> {
    let report = client.check(capability, Check::default())?;
    let results = &report["results"];
    ensure!(results["healthy"] == true, "not healthy: {report:#}");
    ensure!(results["count-good-share-hosts"] == SERVERS, "not on {SERVERS} servers: {report:#}");
    Ok(())
}
