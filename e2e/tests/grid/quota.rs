//! Accounts with a quota.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use leasehold_e2e::leasehold::{Credentials, Server};
use leasehold_e2e::tahoe::{Client, Format, Protocol};

use super::accounts::servers_yaml;
use super::{Grid, KIB, MIB, SERVERS, bytes, ensure_same, over_both_protocols};

const QUOTA: &str = "1MiB";
const QUOTA_BYTES: u64 = 1 << 20;
const ACCOUNT: &str = "erin";

/// A refusal takes a client this long at most; a hang would take minutes.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn upload_passes_by_a_server_whose_quota_is_too_small() -> Result<()> {
    let grid = Grid::start("one-quota", None)?;
    let limited = grid.servers[0].create_account(ACCOUNT, Some(QUOTA))?;
    let mut files = grid.servers_yaml();
    files[0] = limited.servers_yaml;
    let client = grid.add_client("limited-client", &files)?;
    grid.story(|| {
        let data = bytes(400, 4 * MIB);
        let file = client.upload(&data)?;
        ensure_same("a file on four servers", &client.download(&file)?, &data)?;
        let shown = grid.servers[0].show_shares(&client.storage_index(&file)?);
        let shares = shown.ok().and_then(|shown| shown["shares"].as_array().map(Vec::len)).unwrap_or_default();
        ensure!(shares == 0, "a server has {shares} shares of a file larger than the quota");
        ensure_within_quota(&grid.servers[..1])
    })
}

over_both_protocols!(full_account_is_refused_and_keeps_what_it_has);

fn full_account_is_refused_and_keeps_what_it_has(protocol: Protocol) -> Result<()> {
    let grid = Grid::start_over("quota", None, protocol)?;
    let create = |server: &Server| server.create_account(ACCOUNT, Some(QUOTA));
    let accounts = grid.servers.iter().map(create).collect::<Result<Vec<Credentials>>>()?;
    let mut client = grid.add_client("limited-client", &servers_yaml(&accounts))?;
    grid.story(|| {
        ensure_refused(&client, &bytes(410, 4 * MIB))?;
        ensure_within_quota(&grid.servers)?;
        ensure_all_free(&grid.servers)?;

        let kept = fill(&grid, &client)?;
        ensure!((2..=4).contains(&kept.len()), "{} files of 512 KiB fit into the quota", kept.len());

        let large = client.create_mutable(Format::Sdmf, &bytes(450, 2 * MIB));
        ensure!(large.is_err(), "a slot larger than the quota was made");
        ensure_within_quota(&grid.servers)?;
        for (seed, file) in &kept {
            ensure_same("a file of a full account", &client.download(file)?, &bytes(*seed, 512 * KIB))?;
        }

        // More quota, and what was refused goes through.
        for server in &grid.servers {
            server.account(&["set", ACCOUNT, "--quota", "100MiB"])?;
        }
        if protocol == Protocol::Foolscap {
            // Old clients ask once for each connection how large a share may be.
            client.stop()?;
            client.start(SERVERS)?;
        }
        let data = bytes(410, 4 * MIB);
        let file =
            leasehold_e2e::process::wait_until("an upload fits", REFUSAL_TIMEOUT, || client.upload(&data).map(Some))?;
        ensure_same("a file after the quota was raised", &client.download(&file)?, &data)
    })
}

/// Uploads until the account is full; gives what was stored, by seed.
fn fill(grid: &Grid, client: &Client) -> Result<Vec<(u64, String)>> {
    let mut kept = Vec::new();
    for seed in 420..440 {
        let outcome = client.upload(&bytes(seed, 512 * KIB));
        ensure_within_quota(&grid.servers)?;
        match outcome {
            Ok(file) => kept.push((seed, file)),
            Err(_) => return Ok(kept),
        }
    }
    bail!("{} files fit into a quota of {QUOTA}", kept.len())
}

fn ensure_refused(client: &Client, data: &[u8]) -> Result<()> {
    let begin = Instant::now();
    let Err(error) = client.upload(data) else {
        bail!("{} bytes were taken by accounts with a quota of {QUOTA} each", data.len());
    };
    let reason = format!("{error:#}");
    ensure!(reason.contains("UploadUnhappinessError"), "the client failed for another reason: {reason}");
    ensure!(begin.elapsed() < REFUSAL_TIMEOUT, "the refusal took {:?}", begin.elapsed());
    Ok(())
}

fn ensure_within_quota(servers: &[Server]) -> Result<()> {
    for server in servers {
        let used = server.account_bytes(ACCOUNT, "used_bytes")?;
        let reserved = server.account_bytes(ACCOUNT, "reserved_bytes")?;
        ensure!(server.account_bytes(ACCOUNT, "quota_bytes")? == QUOTA_BYTES, "{} has another quota", server.name());
        ensure!(used + reserved <= QUOTA_BYTES, "{} bytes used and {reserved} reserved of {QUOTA}", used);
    }
    Ok(())
}

fn ensure_all_free(servers: &[Server]) -> Result<()> {
    for server in servers {
        for key in ["used_bytes", "reserved_bytes"] {
            let bytes = server.account_bytes(ACCOUNT, key)?;
            ensure!(bytes == 0, "{} has {key} = {bytes} after a refusal", server.name());
        }
    }
    Ok(())
}
