//! A node is drained as a person drains it: with everything on it, the operator included.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use leasehold_e2e::cluster::chart;
use leasehold_e2e::cluster::kubectl::Kubectl;
use leasehold_e2e::cluster::layout::NODE;
use leasehold_e2e::process::{run_ok, wait_until};
use serde_json::json;

use super::clients::under_load;
use super::operated::Server;
use super::wire::beside;
use super::world::PODS_TIMEOUT;

const DRAIN_TIMEOUT: Duration = Duration::from_secs(300);

/// The node takes pods again when this goes, whatever has happened.
struct Uncordon(Kubectl);

impl Drop for Uncordon {
    fn drop(&mut self) {
        let _ = self.0.run(&["uncordon", NODE]);
    }
}

/// There is one node. Once its first pod has gone it takes pods again, as another node would; the drain goes on with the rest.
#[test]
fn drained_node_gives_up_its_pods_one_by_one() -> Result<()> {
    let server = Server::start("drained", &json!({}))?;
    let (account, other) = (server.account("alice", &json!({}))?, server.account("bob", &json!({}))?);
    let client = server.client(&account)?;
    server.story(|| {
        let all = server.world.cluster.kubectl();
        let (old, begin) = (server.pods()?, Instant::now());
        let mut requests = 0;
        let rounds = under_load(&client, 1_000, || {
            ((), requests) = beside(&other.nurl, 1, || {
                std::thread::scope(|scope| {
                    let uncordon = Uncordon(all.clone());
                    let drain = ["drain", NODE, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=280s"];
                    let mut drain = all.command(&drain);
                    let drained = scope.spawn(move || run_ok(&mut drain, DRAIN_TIMEOUT));
                    wait_until("a pod is leaving", PODS_TIMEOUT, || {
                        let pods = server.pod_objects()?;
                        let leaving =
                            pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_string()).count();
                        ensure!(leaving < old.len(), "all pods leave at once");
                        Ok((leaving > 0).then_some(()))
                    })?;
                    drop(uncordon);
                    drained.join().map_err(|_| anyhow::anyhow!("the drain panicked"))??;
                    server.wait_pods(old.len(), &old)
                })
            })?;
            Ok(())
        })?;
        println!(
            "drained after {:.0} s; {rounds} operations and {requests} requests meanwhile",
            begin.elapsed().as_secs_f64()
        );
        let operator = all.in_namespace(chart::NAMESPACE);
        operator.wait_rolled_out("leasehold-operator", PODS_TIMEOUT)
    })
}
