//! The operator is killed and comes back: pods do not notice, and what was asked for meanwhile is done.

use anyhow::{Result, ensure};
use leasehold_e2e::cluster::chart;
use leasehold_e2e::cluster::stores::resource;
use leasehold_e2e::story::{bytes, ensure_same};
use serde_json::json;

use super::operated::{SERVER, Server};
use super::world::PODS_TIMEOUT;

#[test]
fn killed_operator_loses_nothing_and_disturbs_nobody() -> Result<()> {
    let server = Server::start("operator", &json!({}))?;
    let account = server.account("alice", &json!({}))?;
    let client = server.client(&account)?;
    server.story(|| {
        let (pods, uids) = (server.pods()?, server.world.kubectl.run(&["get", "pods", "--output=jsonpath={..uid}"])?);
        let file = client.upload(&bytes(1, 100_000))?;
        let operator = server.world.cluster.kubectl().in_namespace(chart::NAMESPACE);
        let begun = json!({"serverRef": {"name": SERVER}});
        for round in 0..3 {
            let name = format!("round-{round}");
            server.world.kubectl.apply_all(&[resource("Account", &name, begun.clone())])?;
            // At a different moment of its work each time; all of its pods at once.
            operator.run(&["delete", "pods", "--all", "--grace-period=0", "--force"])?;
            server.wait_ready("account", &name, PODS_TIMEOUT)?;
            let account = server.read_account(&name)?;
            ensure!(super::pods::account(&account.nurl)?.0 == 200, "{name} has an address that is not valid");
        }
        ensure!(server.pods()? == pods, "pods of the server were replaced");
        let now = server.world.kubectl.run(&["get", "pods", "--output=jsonpath={..uid}"])?;
        ensure!(now == uids, "pods of the server were replaced");
        ensure_same("a file", &client.download(&file)?, &bytes(1, 100_000))?;
        // The chart gives it every right that it uses, here and in the stories before.
        let account = format!("system:serviceaccount:{}:leasehold-operator", chart::NAMESPACE);
        let forbidden = server.world.cluster.forbidden_to(&account)?;
        ensure!(forbidden.is_empty(), "the operator may not do what it tried: {:#}", forbidden[0]);
        Ok(())
    })
}
