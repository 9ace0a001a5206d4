//! What one pod says, asked past the service: so that a change can be seen on each.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leasehold_e2e::gbs::{Nurl, Request};
use leasehold_e2e::process::wait_until;
use serde_json::Value;

use super::gbs::{Hand, asked};
use super::operated::Server;

/// Where pods serve clients.
const PORT: u16 = 8443;
/// Effects are to be seen within ten seconds; a busy machine is given more.
const EFFECT_TIMEOUT: Duration = Duration::from_secs(60);

/// All pods of a server by their addresses, which this machine reaches.
pub struct Pods(Vec<(String, String)>);

impl Pods {
    /// Those there are now.
    pub fn of(server: &Server) -> Result<Self> {
        let names = server.pods()?.into_iter();
        let found = names.map(|name| {
            let pod = server.world.kubectl.get(&["pod", &name])?;
            let address = pod["status"]["podIP"].as_str().context("a pod without an address")?.to_owned();
            Ok((name, address))
        });
        Ok(Self(found.collect::<Result<_>>()?))
    }

    /// Waits until each pod gives an answer about the account that `accept` takes.
    pub fn wait_all(&self, nurl: &Nurl, wanted: &str, accept: impl Fn(u16, &Value) -> bool) -> Result<()> {
        for (pod, host) in &self.0 {
            let nurl = Nurl { host: host.clone(), port: PORT, ..nurl.clone() };
            wait_until(&format!("{pod} knows that {wanted}"), EFFECT_TIMEOUT, || {
                let (status, body) = account(&nurl)?;
                ensure!(accept(status, &body), "it answers {status}: {body}");
                Ok(Some(()))
            })?;
        }
        Ok(())
    }
}

/// Waits until the account says that it uses so much: pods may know usage some seconds late.
pub fn wait_used(nurl: &Nurl, accept: impl Fn(u64) -> bool) -> Result<()> {
    wait_until("the account says what it uses", EFFECT_TIMEOUT, || {
        let (status, body) = account(nurl)?;
        let used = body["used_bytes"].as_u64();
        ensure!(used.is_some_and(&accept), "it answers {status}: {body}");
        Ok(Some(()))
    })
    .map(drop)
}

/// Asks about an account with its own address: the status, and what it says of itself.
pub fn account(nurl: &Nurl) -> Result<(u16, Value)> {
    asked(async { account_by(&mut Hand::new(nurl)?).await })
}

/// The same by a client that is connected.
pub async fn account_by(hand: &mut Hand) -> Result<(u16, Value)> {
    let request = Request::new("GET", "/account/v1").header("Accept", "application/json");
    let response = hand.client().send(&request).await?;
    Ok((response.status, serde_json::from_slice(&response.body).unwrap_or_default()))
}
