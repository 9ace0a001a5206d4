//! More pods when there is work for them.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::clients::under_load;
use super::operated::{SERVER, Server};

/// Metrics come every 15 seconds, and of a new pod only after a minute.
const SCALE_TIMEOUT: Duration = Duration::from_secs(300);

#[test]
fn busy_server_gets_more_pods() -> Result<()> {
    // Replicas are a person's or the autoscaler's, never both.
    let autoscaling = json!({"minReplicas": 1, "maxReplicas": 3, "targetCPUUtilizationPercent": 50});
    let requests = json!({"requests": {"cpu": "10m", "memory": "64Mi"}});
    let change = json!({"replicas": null, "autoscaling": autoscaling, "resources": requests});
    let server = Server::start("autoscaling", &change)?;
    let account = server.account("alice", &json!({}))?;
    let client = server.client(&account)?;
    server.story(|| {
        let rounds = under_load(&client, 1_000, || {
            server
                .world
                .kubectl
                .wait(&["deployment", SERVER], "has more pods", SCALE_TIMEOUT, |deployment| {
                    deployment["status"]["readyReplicas"].as_i64().is_some_and(|ready| ready > 1)
                })
                .map(drop)
        })?;
        println!("{rounds} operations until there were more pods");
        Ok(())
    })
}
