//! A quota is one quota, whichever pods a client reaches.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use leasehold_e2e::process::{Explain, wait_until};
use leasehold_e2e::tahoe::{Encoding, Format, Protocol};

use super::{Kept, PODS, World};
use crate::grid::{KIB, MIB, bytes, ensure_same, over_both_protocols};

const ACCOUNT: &str = "erin";
const QUOTA: &str = "4MiB";
const QUOTA_BYTES: u64 = 4 << 20;
/// A share is a little larger than that, so seven fit.
const FILE_BYTES: usize = 512 * KIB;
const FILES_MAX: usize = 7;
/// With one share for a file, either all of it is stored or nothing.
const ONE_SHARE: Encoding = Encoding { needed: 1, happy: 1, total: 1 };
const EFFECT_TIMEOUT: Duration = Duration::from_secs(60);

over_both_protocols!(full_account_is_refused_by_all_pods);

fn full_account_is_refused_by_all_pods(protocol: Protocol) -> Result<()> {
    let world = World::start_over("pods-quota", "", "", &ONE_SHARE, protocol)?;
    let erin = world.pods.servers[0].create_account(ACCOUNT, Some(QUOTA))?;
    let mut client = world.add_client("client-of-erin", erin.servers_yaml, &ONE_SHARE)?;
    let within = || -> Result<()> {
        let server = &world.pods.servers[0];
        let (used, reserved) =
            (server.account_bytes(ACCOUNT, "used_bytes")?, server.account_bytes(ACCOUNT, "reserved_bytes")?);
        ensure!(used + reserved <= QUOTA_BYTES, "{used} bytes used and {reserved} reserved of {QUOTA}");
        Ok(())
    };
    let mut story = || {
        ensure!(client.upload(&bytes(500, 6 * MIB)).is_err(), "6 MiB were taken by an account with {QUOTA}");
        within()?;
        let (kept, seeds) = (Kept::default(), AtomicU64::new(510));
        // Each through its own connection, until there is no room.
        thread::scope(|scope| {
            for _ in 0..PODS {
                scope
                    .spawn(|| while kept.upload(&client, seeds.fetch_add(1, Ordering::Relaxed), FILE_BYTES).is_ok() {});
            }
        });
        within()?;
        // Uploads of the same moment may have stood in each other's way.
        while kept.upload(&client, seeds.fetch_add(1, Ordering::Relaxed), FILE_BYTES).is_ok() {}
        ensure!(kept.len() == FILES_MAX, "{} files fit into {QUOTA}", kept.len());
        world.ensure_exact_usage(ACCOUNT)?;
        let slot = client.create_mutable(Format::Sdmf, &bytes(501, 2 * MIB));
        ensure!(slot.is_err(), "a slot larger than what is left was made");
        world.on_each_pod(&client, || kept.ensure_there(&client))?;

        world.pods.servers[1].account(&["set", ACCOUNT, "--quota", "100MiB"])?;
        if protocol == Protocol::Foolscap {
            // Old clients ask once for each connection how large a share may be.
            client.stop()?;
            client.start(1)?;
        }
        let data = bytes(500, 6 * MIB);
        let file = wait_until("an upload fits", EFFECT_TIMEOUT, || client.upload(&data).map(Some))?;
        ensure_same("a file after the quota was raised", &client.download(&file)?, &data)?;
        world.ensure_exact_usage(ACCOUNT)
    };
    story().explain(|| world.log_tails())
}
