//! Nothing that is secret is told: not by logs, not by events, not by the objects that people look at.

use anyhow::{Context, Result, ensure};
use data_encoding::BASE64;
use leasehold_e2e::cluster::chart;

use super::world::World;

/// Shorter values are found by chance.
const SECRET_MIN: usize = 16;
/// Keys of Secrets whose values are no secrets: names, and what everybody may know.
const PUBLIC: [&str; 12] = [
    "type",
    "provider",
    "host",
    "port",
    "tahoe.cfg",
    "README.txt",
    "username",
    "accessKeyID",
    "ca.crt",
    "tls.crt",
    "tub.id",
    "tls.pem",
];

/// Looks for every value of every Secret of the story in all that can be read without the right to read Secrets.
pub fn expect_untold(world: &World) -> Result<()> {
    let secrets = world.kubectl.get(&["secrets"])?;
    let operator = world.cluster.kubectl().in_namespace(chart::NAMESPACE);
    let told = [
        ("objects", world.kubectl.run(&["get", "leasehold,pods,jobs,configmaps,events,deployments", "--output=yaml"])?),
        ("the pods' logs", world.kubectl.run(&["logs", "--selector", "none!=none", "--tail=-1", "--ignore-errors"])?),
        ("the operator's logs", operator.run(&["logs", "--selector", "none!=none", "--tail=-1", "--ignore-errors"])?),
    ];
    let mut count = 0;
    for secret in secrets["items"].as_array().into_iter().flatten() {
        let name = secret["metadata"]["name"].as_str().unwrap_or_default();
        for (key, value) in secret["data"].as_object().into_iter().flatten() {
            let value = BASE64.decode(value.as_str().context("a value that is no text")?.as_bytes())?;
            let value = String::from_utf8_lossy(&value).trim().to_owned();
            // A whole file is never printed; its lines could be.
            for line in value.lines().filter(|line| line.len() >= SECRET_MIN && !PUBLIC.contains(&key.as_str())) {
                count += 1;
                for (place, text) in &told {
                    ensure!(!text.contains(line.trim()), "{place} tell {key} of the Secret {name}");
                }
            }
        }
    }
    ensure!(count > 0, "there was no secret to look for");
    Ok(())
}
