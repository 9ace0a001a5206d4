//! More pods when there is work for them, and fewer when there is less.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::clients::under_load;
use super::operated::{SERVER, Server};
use super::wire::{at_pace, beside};

/// Metrics come every 15 seconds, and of a new pod only after a minute.
const SCALE_TIMEOUT: Duration = Duration::from_secs(400);
const PODS_MAX: i64 = 3;
/// An operator that set the number itself would do so each time.
const LOOKS: usize = 100;
/// Little work: one client that rests most of the time.
const REST: Duration = Duration::from_secs(1);

/// Waits until the autoscaler has brought the server to so many pods, and no others are left.
fn wait_scaled(server: &Server, pods: i64) -> Result<()> {
    let begin = Instant::now();
    server.world.kubectl.wait(&["deployment", SERVER], &format!("has {pods} pods"), SCALE_TIMEOUT, |deployment| {
        deployment["spec"]["replicas"] == pods && deployment["status"]["readyReplicas"] == pods
    })?;
    println!("{pods} pods after {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}

/// The number of pods is the autoscaler's, however often the operator looks at the server.
fn look_again_and_again(server: &Server) -> Result<()> {
    for look in 0..LOOKS {
        let looked = format!("example.org/look={look}");
        server.world.kubectl.run(&["annotate", "storageserver", SERVER, "--overwrite", &looked])?;
        let replicas = server.world.kubectl.get(&["deployment", SERVER])?["spec"]["replicas"].clone();
        ensure!(
            replicas == PODS_MAX,
            "{replicas} pods are wanted after {look} looks, and the autoscaler wants {PODS_MAX}"
        );
    }
    Ok(())
}

#[test]
fn busy_server_gets_more_pods_and_gives_them_back() -> Result<()> {
    let scale_down = json!({"stabilizationSeconds": 30, "podsPerMinute": 2});
    let autoscaling = json!({
        "minReplicas": 1, "maxReplicas": PODS_MAX, "targetCPUUtilizationPercent": 20, "scaleDown": scale_down,
    });
    let requests = json!({"requests": {"cpu": "200m", "memory": "64Mi"}});
    // Replicas are a person's or the autoscaler's, never both.
    let change = json!({"replicas": null, "autoscaling": autoscaling, "resources": requests});
    let server = Server::start("autoscaling", &change)?;
    let (account, other) = (server.account("alice", &json!({}))?, server.account("bob", &json!({}))?);
    let client = server.client(&account)?;
    server.story(|| {
        let mut requests = 0;
        let rounds = under_load(&client, 1_000, || {
            ((), requests) = beside(&other.nurl, 1, || {
                wait_scaled(&server, PODS_MAX)?;
                look_again_and_again(&server)
            })?;
            Ok(())
        })?;
        println!("{rounds} operations and {requests} requests until there were {PODS_MAX} pods");
        let ((), requests) = at_pace(&other.nurl, 100, 1, REST, || {
            wait_scaled(&server, 1)?;
            server.wait_pods(1, &[])
        })?;
        println!("{requests} requests until there was one again");
        Ok(())
    })
}
