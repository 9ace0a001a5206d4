//! What one pod says, asked past the service: so that a change can be seen on each.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leasehold_e2e::gbs::{Client, Nurl, Request};
use leasehold_e2e::process::{Process, wait_until};
use serde_json::Value;

use super::operated::Server;

const FORWARD_TIMEOUT: Duration = Duration::from_secs(30);
/// Effects are to be seen within ten seconds; a busy machine is given more.
const EFFECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Ways to all pods of a server, at ports of this machine.
pub struct Forwards {
    pods: Vec<(String, u16)>,
    _processes: Vec<Process>,
}

impl Forwards {
    /// Opens a way to each pod there is.
    pub fn open(server: &Server) -> Result<Self> {
        let (mut pods, mut processes) = (Vec::new(), Vec::new());
        for pod in server.pods()? {
            let logs = server.world.directory.path().join("forwards").join(&pod);
            let forward = ["port-forward", "--address=127.0.0.1", &format!("pod/{pod}"), ":8443"];
            let mut command: Command = server.world.kubectl.command(&forward);
            let mut process = Process::start("port-forward", &mut command, &logs)?;
            let port = wait_until("a port leads to the pod", FORWARD_TIMEOUT, || {
                process.expect_running()?;
                let said = std::fs::read_to_string(process.stdout())?;
                let port = said.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
                Ok(Some(port.context("it has not said which")?.parse()?))
            })?;
            pods.push((pod, port));
            processes.push(process);
        }
        Ok(Self { pods, _processes: processes })
    }

    /// Waits until each pod gives an answer about the account that `accept` takes.
    pub fn wait_all(&self, nurl: &Nurl, wanted: &str, accept: impl Fn(u16, &Value) -> bool) -> Result<()> {
        for (pod, port) in &self.pods {
            let nurl = Nurl { port: *port, ..nurl.clone() };
            wait_until(&format!("{pod} knows that {wanted}"), EFFECT_TIMEOUT, || {
                let (status, body) = account(&nurl)?;
                ensure!(accept(status, &body), "it answers {status}: {body}");
                Ok(Some(()))
            })?;
        }
        Ok(())
    }
}

/// Asks about an account with its own address: the status, and what it says of itself.
pub fn account(nurl: &Nurl) -> Result<(u16, Value)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = Client::new(nurl.clone())?.with_timeout(Duration::from_secs(10));
        let request = Request::new("GET", "/account/v1").header("Accept", "application/json");
        let response = client.send(&request).await?;
        Ok((response.status, serde_json::from_slice(&response.body).unwrap_or_default()))
    })
}
