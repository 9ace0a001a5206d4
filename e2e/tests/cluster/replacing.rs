//! Pods are replaced and taken away while clients work: none of their operations fails.

use anyhow::Result;
use serde_json::json;

use super::clients::under_load;
use super::operated::{SERVER, Server};

#[test]
fn new_version_and_fewer_pods_fail_no_operation() -> Result<()> {
    let server = Server::start("replacing", &json!({"replicas": 3}))?;
    let account = server.account("alice", &json!({}))?;
    let client = server.client(&account)?;
    server.story(|| {
        let old = server.pods()?;
        let rounds = under_load(&client, 1_000, || {
            // Whatever changes the pods' template replaces them as a new version does.
            server.patch("storageserver", SERVER, &json!({"podMetadata": {"annotations": {"version": "next"}}}))?;
            server.wait_pods(3, &old)
        })?;
        println!("{rounds} operations while three pods were replaced");
        let rounds = under_load(&client, 2_000, || {
            server.world.kubectl.run(&["scale", &format!("storageserver/{SERVER}"), "--replicas=1"])?;
            server.wait_pods(1, &[])
        })?;
        println!("{rounds} operations while two of three pods were taken away");
        Ok(())
    })
}
