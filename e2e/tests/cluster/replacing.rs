//! Pods are replaced and taken away while clients work: none of their operations fails.

use std::time::Instant;

use anyhow::Result;
use leasehold_e2e::image::product;
use serde_json::json;

use super::clients::under_load;
use super::operated::{SERVER, Server};
use super::updates::{PROGRAM, release};
use super::wire::beside;
use super::world::PODS_TIMEOUT;

const PODS: usize = 3;
const VERSIONS: [&str; 3] = ["first", "second", "third"];

#[test]
fn three_versions_in_a_row_and_fewer_pods_fail_no_operation() -> Result<()> {
    let server = Server::start("replacing", &json!({"replicas": PODS, "image": {"tag": product::tag(PROGRAM)?}}))?;
    let (account, other) = (server.account("alice", &json!({}))?, server.account("bob", &json!({}))?);
    let client = server.client(&account)?;
    server.story(|| {
        let mut requests = 0;
        let rounds = under_load(&client, 1_000, || {
            ((), requests) = beside(&other.nurl, 1, || {
                for version in VERSIONS {
                    let (old, begin) = (server.pods()?, Instant::now());
                    release(&server, version)?;
                    server.patch("storageserver", SERVER, &json!({"image": {"tag": version}}))?;
                    server.world.kubectl.wait(&["deployment", SERVER], "is told", PODS_TIMEOUT, |deployment| {
                        let image = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
                        image.as_str().is_some_and(|image| image.ends_with(version))
                    })?;
                    // The last ones of the old version still leave while the next version comes.
                    server.world.kubectl.wait_rolled_out(SERVER, PODS_TIMEOUT)?;
                    println!("{} pods replaced after {:.0} s", old.len(), begin.elapsed().as_secs_f64());
                }
                server.wait_pods(PODS, &[])
            })?;
            Ok(())
        })?;
        println!("{rounds} operations and {requests} requests while {PODS} pods were replaced three times");
        let rounds = under_load(&client, 2_000, || {
            ((), requests) = beside(&other.nurl, 100, || {
                server.world.kubectl.run(&["scale", &format!("storageserver/{SERVER}"), "--replicas=1"])?;
                server.wait_pods(1, &[])
            })?;
            Ok(())
        })?;
        println!("{rounds} operations and {requests} requests while two of three pods were taken away");
        Ok(())
    })
}
