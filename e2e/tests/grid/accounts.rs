//! Several accounts on the same servers: shared shares, rotation, read-only and suspended accounts.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leasehold_e2e::leasehold::{Credentials, Server};
use leasehold_e2e::process::wait_until;
use leasehold_e2e::tahoe::{Client, Format, Protocol};
use serde_json::Value;

use super::{Grid, MIB, SERVERS, bytes, ensure_same, over_both_protocols};

/// A change of an account is noticed within seconds.
const EFFECT_TIMEOUT: Duration = Duration::from_secs(30);

#[test]
fn accounts_share_what_both_have() -> Result<()> {
    let grid = Grid::start("accounts", None)?;
    let bob = accounts(&grid.servers, "bob")?;
    let second = grid.add_client("client-of-bob", &servers_yaml(&bob))?;
    grid.story(|| {
        let data = bytes(300, 2 * MIB);
        let file = grid.client.upload(&data)?;
        let stored = total(&grid.servers, first_account, "used_bytes")?;
        ensure!(stored >= 2 * MIB as u64 / 2 * 5, "{stored} bytes used after an upload");
        ensure!(total(&grid.servers, |_| "bob".to_owned(), "used_bytes")? == 0, "bob has used something already");

        ensure!(second.upload(&data)? == file, "the same bytes became another capability");
        let used = total(&grid.servers, |_| "bob".to_owned(), "used_bytes")?;
        ensure!(used == stored, "bob has used {used} bytes of shares that take the first account {stored}");
        shares_are_held_by_two(&grid, &file, &bob)?;

        // What the first account wrote can be changed by whoever has the capability.
        let slot = grid.client.create_mutable(Format::Sdmf, &bytes(301, 2_000))?;
        second.overwrite(&slot, &bytes(302, 3_000))?;
        ensure_same("a slot changed by another account", &grid.client.download(&slot)?, &bytes(302, 3_000))?;
        shares_are_held_by_two(&grid, &slot, &bob)
    })
}

over_both_protocols!(restricted_accounts_read_and_do_not_write);

fn restricted_accounts_read_and_do_not_write(protocol: Protocol) -> Result<()> {
    let grid = Grid::start_over("restricted", None, protocol)?;
    let carol = accounts(&grid.servers, "carol")?;
    let client = grid.add_client("client-of-carol", &servers_yaml(&carol))?;
    grid.story(|| {
        let data = bytes(310, MIB);
        let held = Held {
            file: client.upload(&data)?,
            data,
            slot: client.create_mutable(Format::Sdmf, &bytes(311, 9_000))?,
            slot_data: bytes(311, 9_000),
        };
        held.all_is_possible(&client, 320)?;
        let restrictions: [(&[&str], &[&str]); 2] = [
            (&["set", "carol", "--access", "read-only"], &["set", "carol", "--access", "read-write"]),
            (&["suspend", "carol"], &["resume", "carol"]),
        ];
        for (number, (restrict, lift)) in restrictions.into_iter().enumerate() {
            let seed = 330 + 100 * number as u64;
            each(&grid.servers, restrict)?;
            wait_until("writing is refused", EFFECT_TIMEOUT, || held.only_reading_is_possible(&client, seed).map(Some))
                .with_context(|| format!("after {restrict:?}"))?;
            each(&grid.servers, lift)?;
            wait_until("writing works again", EFFECT_TIMEOUT, || held.all_is_possible(&client, seed + 50).map(Some))
                .with_context(|| format!("after {lift:?}"))?;
        }
        Ok(())
    })
}

#[test]
fn rotated_account_works_under_both_addresses() -> Result<()> {
    let grid = Grid::start("rotation", None)?;
    let old = accounts(&grid.servers, "dave")?;
    let before = grid.add_client("client-before", &servers_yaml(&old))?;
    grid.story(|| {
        let data = bytes(340, MIB);
        let file = before.upload(&data)?;
        let new = credentials(&grid.servers, &["rotate", "dave"])?;
        for (old, new) in old.iter().zip(&new) {
            ensure!(old.account_id == new.account_id, "rotation made another account: {old:?} {new:?}");
            ensure!(old.nurl != new.nurl && old.furl != new.furl, "rotation did not change the addresses");
        }
        let after = grid.add_client("client-after", &servers_yaml(&new))?;
        ensure_same("a file, by the new address", &after.download(&file)?, &data)?;
        ensure_same("a file, by the old address", &before.download(&file)?, &data)?;
        for (seed, client) in [(341, &before), (342, &after)] {
            let file = client.upload(&bytes(seed, MIB))?;
            ensure_same("a file made after the rotation", &client.download(&file)?, &bytes(seed, MIB))?;
        }
        // Without an overlap both addresses are revoked at once; deleting the account revokes the last one.
        let newest = credentials(&grid.servers, &["rotate", "dave", "--overlap-hours", "0"])?;
        before.wait_connected(0)?;
        after.wait_connected(0)?;
        ensure!(after.download(&file).is_err(), "a revoked address still reads");
        let last = grid.add_client("client-last", &servers_yaml(&newest))?;
        ensure_same("a file, by the newest address", &last.download(&file)?, &data)?;
        each(&grid.servers, &["delete", "dave"])?;
        last.wait_connected(0)?;
        ensure!(last.download(&file).is_err(), "the address of a deleted account still reads");
        Ok(())
    })
}

/// What an account has stored while it could.
struct Held {
    file: String,
    data: Vec<u8>,
    slot: String,
    slot_data: Vec<u8>,
}

impl Held {
    fn can_be_read(&self, client: &Client) -> Result<()> {
        ensure_same("a file", &client.download(&self.file)?, &self.data)?;
        ensure_same("a slot", &client.download(&self.slot)?, &self.slot_data)
    }

    fn all_is_possible(&self, client: &Client, seed: u64) -> Result<()> {
        self.can_be_read(client)?;
        client.upload(&bytes(seed, 50_000))?;
        client.overwrite(&self.slot, &self.slot_data)
    }

    fn only_reading_is_possible(&self, client: &Client, seed: u64) -> Result<()> {
        self.can_be_read(client)?;
        ensure!(client.upload(&bytes(seed, 60_000)).is_err(), "an upload succeeded");
        ensure!(client.overwrite(&self.slot, b"other bytes than before").is_err(), "a slot was changed");
        self.can_be_read(client)
    }
}

/// Makes an account of this name on every server.
pub fn accounts(servers: &[Server], name: &str) -> Result<Vec<Credentials>> {
    servers.iter().map(|server| server.create_account(name, None)).collect()
}

pub fn servers_yaml(accounts: &[Credentials]) -> Vec<PathBuf> {
    accounts.iter().map(|account| account.servers_yaml.clone()).collect()
}

/// The name of the account that a server made by itself.
pub fn first_account(server: &Server) -> String {
    server.announcement().credentials.name.clone()
}

/// Runs an account command that gives new addresses on every server.
fn credentials(servers: &[Server], arguments: &[&str]) -> Result<Vec<Credentials>> {
    servers.iter().map(|server| Ok(serde_json::from_value(server.account(arguments)?)?)).collect()
}

/// Runs an account command on every server.
fn each(servers: &[Server], arguments: &[&str]) -> Result<()> {
    servers.iter().try_for_each(|server| server.account(arguments).map(|_| ()))
}

fn total(servers: &[Server], account: impl Fn(&Server) -> String, key: &str) -> Result<u64> {
    servers.iter().map(|server| server.account_bytes(&account(server), key)).sum()
}

/// Demands that each server has one share of this file and that both accounts have a lease on it.
fn shares_are_held_by_two(grid: &Grid, capability: &str, others: &[Credentials]) -> Result<()> {
    let storage_index = grid.client.storage_index(capability)?;
    let mut numbers = Vec::new();
    for (server, other) in grid.servers.iter().zip(others) {
        let shown = server.show_shares(&storage_index)?;
        ensure!(shown["storage_index"] == storage_index.as_str(), "shares of another storage index: {shown}");
        let shares = shown["shares"].as_array().context("no list of shares")?;
        ensure!(shares.len() == 1, "{} shows {shown}", server.name());
        let share = &shares[0];
        ensure!(share["size_bytes"].as_u64().is_some_and(|size| size > 0), "no size in {share}");
        numbers.extend(share["share_number"].as_u64());
        let leases = share["leases"].as_array().context("no list of leases")?;
        for account in [&server.announcement().credentials, other] {
            let holds = |lease: &&Value| lease["account"] == *account.name || lease["account"] == *account.account_id;
            ensure!(leases.iter().filter(holds).count() == 1, "not one lease of {} in {share}", account.name);
        }
        ensure!(leases.iter().all(|lease| !lease["expires_at"].is_null()), "a lease without an end in {share}");
    }
    numbers.sort_unstable();
    ensure!(numbers == (0..SERVERS as u64).collect::<Vec<_>>(), "share numbers {numbers:?}");
    Ok(())
}
