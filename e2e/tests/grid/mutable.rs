//! Mutable files of both formats.

use anyhow::{Result, ensure};
use leasehold_e2e::tahoe::{Check, Format, Protocol};

use super::files::ensure_spread;
use super::{Grid, KIB, MIB, bytes, ensure_same, over_both_protocols};

/// The client cuts MDMF files into segments of this size.
const SEGMENT: usize = 128 * KIB;

over_both_protocols!(sdmf_file_holds_what_was_written_last, mdmf_file_can_be_changed_in_part);

fn sdmf_file_holds_what_was_written_last(protocol: Protocol) -> Result<()> {
    let grid = Grid::shared(protocol)?;
    grid.story(|| {
        let client = &grid.client;
        let first = bytes(20, 10_000);
        let capability = client.create_mutable(Format::Sdmf, &first)?;
        ensure!(capability.starts_with("URI:SSK:"), "an SDMF file became {capability}");
        ensure_same("a new SDMF file", &client.download(&capability)?, &first)?;
        for length in [300 * KIB, 1, 0, 5_000] {
            let data = bytes(21 + length as u64, length);
            client.overwrite(&capability, &data)?;
            ensure_same(&format!("an SDMF file of {length} bytes"), &client.download(&capability)?, &data)?;
        }
        let mut data = bytes(21 + 5_000, 5_000);
        let patch = bytes(30, 700);
        client.overwrite_at(&capability, 4_900, &patch)?;
        data.truncate(4_900);
        data.extend(&patch);
        ensure_same("an SDMF file changed in part", &client.download(&capability)?, &data)?;
        ensure_spread(client, &capability)
    })
}

fn mdmf_file_can_be_changed_in_part(protocol: Protocol) -> Result<()> {
    let grid = Grid::shared(protocol)?;
    grid.story(|| {
        let client = &grid.client;
        let mut data = bytes(40, 5 * MIB + 321);
        let capability = client.create_mutable(Format::Mdmf, &data)?;
        ensure!(capability.starts_with("URI:MDMF:"), "an MDMF file became {capability}");
        ensure_same("a new MDMF file", &client.download(&capability)?, &data)?;
        // At the front, within a segment, over the edge of two, over several, at the very end and beyond it.
        let end = data.len();
        let changes = [(0, 10), (SEGMENT + 5, 100), (2 * SEGMENT - 3, 6), (3 * MIB, 3 * SEGMENT), (end, 1), (end, MIB)];
        for (seed, (offset, length)) in changes.into_iter().enumerate() {
            let patch = bytes(50 + seed as u64, length);
            client.overwrite_at(&capability, offset as u64, &patch)?;
            data.resize(data.len().max(offset + length), 0);
            data[offset..offset + length].copy_from_slice(&patch);
            let what = format!("an MDMF file after {length} bytes at {offset}");
            ensure_same(&what, &client.download(&capability)?, &data)?;
        }
        let part = client.download_range(&capability, 3 * MIB as u64 - 10..3 * MIB as u64 + 10)?;
        ensure_same("a part of an MDMF file", &part, &data[3 * MIB - 10..3 * MIB + 10])?;
        let smaller = bytes(60, SEGMENT + 1);
        client.overwrite(&capability, &smaller)?;
        ensure_same("an MDMF file that shrank", &client.download(&capability)?, &smaller)?;
        let report = client.check(&capability, Check { verify: true, ..Check::default() })?;
        ensure!(report["results"]["healthy"] == true, "not healthy: {report:#}");
        ensure_spread(client, &capability)
    })
}
