//! The image, deployed by hand: names are found, pods share one server, and replacing them disturbs nobody.

use std::time::Duration;

use anyhow::{Result, ensure};
use leasehold_e2e::process::wait_until;
use leasehold_e2e::story::{bytes, ensure_same};
use leasehold_e2e::tahoe::Format;

use super::by_hand::{NAME, deploy};
use super::clients::under_load;
use super::world::{PODS_TIMEOUT, World};

const GONE_TIMEOUT: Duration = Duration::from_secs(120);

#[test]
fn image_serves_in_restricted_pods_and_is_replaced_without_a_failed_operation() -> Result<()> {
    let world = World::start("by-hand")?;
    let account = deploy(&world, 2)?;
    let client = world.client("alice", account.servers_yaml)?;
    world.story(|| {
        let file = client.upload(&bytes(1, 1_000_000))?;
        let slot = client.create_mutable(Format::Mdmf, &bytes(2, 200_000))?;
        under_load(&client, 1_000, || {
            world.kubectl.run(&["rollout", "restart", &format!("deployment/{NAME}")])?;
            world.kubectl.wait_rolled_out(NAME, PODS_TIMEOUT)?;
            // The old ones serve on until their clients have gone.
            wait_for_pods(&world, 2)
        })?;
        under_load(&client, 2_000, || {
            world.kubectl.run(&["scale", "--replicas=1", &format!("deployment/{NAME}")])?;
            wait_for_pods(&world, 1)
        })?;
        ensure_same("the file", &client.download(&file)?, &bytes(1, 1_000_000))?;
        ensure_same("the slot", &client.download(&slot)?, &bytes(2, 200_000))
    })
}

/// Waits until there are `count` pods of the server, those that are ending included.
fn wait_for_pods(world: &World, count: usize) -> Result<()> {
    wait_until(&format!("there are {count} pods"), GONE_TIMEOUT, || {
        let pods = world.kubectl.get(&["pods", "--selector", &format!("app={NAME}")])?;
        let found = pods["items"].as_array().map_or(0, Vec::len);
        ensure!(found == count, "there are {found}");
        Ok(Some(()))
    })
}
