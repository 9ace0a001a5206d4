//! An old client's uploads end with its connection. When the pod of that connection cannot notice, because it hangs, the
//! pod that the client comes back through ends them: the client wants the same shares again.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use leasehold_e2e::process::{Explain, wait_until};
use leasehold_e2e::tahoe::Protocol;
use leasehold_e2e_services::s3_proxy::{Fault, Operation, Rule, When};

use super::{ENCODING, PODS, World};
use crate::grid::{MIB, bytes, ensure_same};

/// What the store takes for a piece of a file, so that an upload takes a while.
const PIECE_TIME: Duration = Duration::from_millis(400);
const FILE_BYTES: usize = 12 * MIB;
/// Far less than an upload may rest, and than a pod waits for a silent connection.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn client_of_a_hanging_pod_uploads_through_another() -> Result<()> {
    let world = World::start_over("pods-returned", "", "", &ENCODING, Protocol::Foolscap)?;
    story(&world).explain(|| world.log_tails())
}

fn story(world: &World) -> Result<()> {
    let World { client, pods, probe, .. } = world;
    for pod in 1..PODS {
        pods.balancer.mark_down(pod);
        pods.balancer.cut(pod);
    }
    wait_until("the client is connected to the first pod", PATIENCE, || client.download(probe).map(Some))?;
    let reserved = |pod: usize| pods.servers[pod].account_bytes("default", "reserved_bytes");
    let data = bytes(1, FILE_BYTES);
    pods.services.s3.add_rule(Rule::new(Operation::Put, When::Always, Fault::Delay(PIECE_TIME)));
    thread::scope(|scope| -> Result<()> {
        let upload = scope.spawn(|| client.upload(&data));
        let begun = wait_until("an upload has begun", PATIENCE, || Ok((reserved(0)? > 0).then_some(())));
        let frozen = begun.and_then(|()| pods.servers[0].freeze());
        pods.balancer.mark_up(1);
        pods.balancer.mark_down(0);
        pods.balancer.cut(0);
        let outcome = upload.join().expect("nobody panics");
        frozen?;
        ensure!(outcome.is_err(), "an upload whose connection was cut succeeded");
        Ok(())
    })?;
    pods.services.s3.clear_rules();
    wait_until("what the hanging pod was uploading is free", PATIENCE, || Ok((reserved(1)? == 0).then_some(())))?;
    let file = wait_until("the file is uploaded through the other pod", PATIENCE, || client.upload(&data).map(Some))?;
    pods.servers[0].thaw()?;
    pods.balancer.mark_up(0);
    ensure_same("the file", &client.download(&file)?, &data)?;
    world.ensure_exact_usage("default")
}
