//! A server is lost with all it had; a fresh one takes its place and the client repairs its files.

use anyhow::{Result, ensure};
use leasehold_e2e::leasehold::Server;
use leasehold_e2e::tahoe::{Format, Protocol};

use super::files::ensure_spread;
use super::{Grid, MIB, SERVERS, bytes, ensure_same, over_both_protocols};

over_both_protocols!(lost_server_is_replaced_and_files_are_repaired);

fn lost_server_is_replaced_and_files_are_repaired(protocol: Protocol) -> Result<()> {
    let mut grid = Grid::start_over("repair", None, protocol)?;
    let data = bytes(200, 2 * MIB);
    let sdmf = bytes(201, 20_000);
    let mdmf = bytes(202, 700_000);

    let client = &grid.client;
    let file = client.upload(&data)?;
    let small = client.create_mutable(Format::Sdmf, &sdmf)?;
    let large = client.create_mutable(Format::Mdmf, &mdmf)?;
    let children = serde_json::json!({
        "file": ["filenode", { "ro_uri": file }],
        "small": ["filenode", { "rw_uri": small }],
        "large": ["filenode", { "rw_uri": large }],
    });
    let directory = client.make_directory(Format::Sdmf, &children)?;
    let everything = [&file, &small, &large, &directory];

    replace_server(&mut grid, 1, "server-5")?;
    grid.story(|| {
        let client = &grid.client;
        ensure!(ensure_spread(client, &file).is_err(), "a file is healthy although a server with a share is lost");
        let repaired = client.cli(&["deep-check", "--repair", "--add-lease", &directory])?;
        ensure!(repaired.contains("repair successful"), "deep-check said: {repaired}");
        let again = client.cli(&["deep-check", "--verify", &directory])?;
        ensure!(!again.contains("Not Healthy"), "after the repair deep-check said: {again}");
        everything.iter().try_for_each(|capability| ensure_spread(client, capability))
    })?;

    // With three of the first five gone, what was repaired is needed.
    for index in [0, 2, 3] {
        grid.servers[index].terminate()?;
    }
    grid.client.wait_connected(SERVERS - 3)?;
    grid.story(|| {
        let client = &grid.client;
        ensure_same("a repaired file", &client.download(&file)?, &data)?;
        ensure_same("a repaired SDMF file", &client.download(&small)?, &sdmf)?;
        ensure_same("a repaired MDMF file", &client.download(&large)?, &mdmf)?;
        ensure_same("a file in a repaired directory", &client.download_path(&directory, "file")?, &data)
    })
}

/// Stops a server for good and starts one with another identity for the client instead.
fn replace_server(grid: &mut Grid, index: usize, name: &str) -> Result<()> {
    let fresh = Server::start(name, grid.directory.path(), None)?;
    let mut lost = std::mem::replace(&mut grid.servers[index], fresh);
    lost.terminate()?;
    std::fs::remove_dir_all(lost.data_dir())?;
    grid.client.stop()?;
    grid.client.set_servers(&grid.servers_yaml())?;
    grid.client.start(SERVERS)
}
