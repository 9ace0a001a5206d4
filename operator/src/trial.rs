//! `leasehold-operator trial`: what `helm test` does. Makes an Account, stores a share through the Service with what the Account's
//! Secret says, reads it back, and deletes the Account.

mod storage;

use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use leasehold_core::clock::Entropy;
use leasehold_crds::{Account, StorageServer};
use serde_json::json;

use self::storage::Storage;
use crate::condition;

/// The Account's name; its Secret's follows from it, so that the right to read it can name it.
const NAME: &str = "leasehold-helm-test";
/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(500);
const SHARE_BYTES: usize = 100_000;

/// Tries out a server; `server` is `NAMESPACE/NAME`, or the first that is ready.
///
/// # Errors
/// A sentence about the step that failed.
pub async fn run(client: &Client, server: Option<&str>) -> anyhow::Result<()> {
    let server = find_server(client, server).await?;
    let namespace = server.namespace().unwrap_or_default();
    println!("trying the StorageServer {namespace}/{}", server.name_any());
    let accounts: Api<Account> = Api::namespaced(client.clone(), &namespace);
    remove(&accounts).await.context("an Account of an earlier trial does not go")?;
    let account = json!({
        "apiVersion": "leasehold.dev/v1alpha1", "kind": "Account", "metadata": { "name": NAME },
        "spec": {
            "serverRef": { "name": server.name_any() }, "quota": { "hard": "10Mi" },
            "deletion": { "policy": "Release", "graceDays": 0 },
        },
    });
    let account: Account = serde_json::from_value(account)?;
    until("an Account can be made", async || match accounts.create(&PostParams::default(), &account).await {
        // Made by a request whose answer was lost: the name was free.
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(Some(())),
        made => Ok(made.map(|_| Some(()))?),
    })
    .await?;
    let tried = try_out(client, &accounts, &server, &namespace).await;
    let removed = remove(&accounts).await.context("the Account does not go");
    tried.and(removed)?;
    println!("a share of {SHARE_BYTES} bytes was stored and read; the Account is gone again");
    Ok(())
}

async fn find_server(client: &Client, wanted: Option<&str>) -> anyhow::Result<StorageServer> {
    let all: Api<StorageServer> = Api::all(client.clone());
    let all = until("StorageServers can be listed", async || Ok(Some(all.list(&ListParams::default()).await?))).await?;
    let is_ready = |server: &StorageServer| {
        server.metadata.deletion_timestamp.is_none()
            && server.status.as_ref().is_some_and(|status| condition::holds(&status.conditions, "Ready"))
    };
    let name = |server: &StorageServer| format!("{}/{}", server.namespace().unwrap_or_default(), server.name_any());
    match wanted {
        Some(wanted) => {
            let found = all.items.into_iter().find(|server| name(server) == wanted);
            found.with_context(|| format!("there is no StorageServer {wanted}"))
        }
        None => all.items.into_iter().find(is_ready).context("there is no StorageServer that is ready; make one first"),
    }
}

async fn try_out(
    client: &Client,
    accounts: &Api<Account>,
    server: &StorageServer,
    namespace: &str,
) -> anyhow::Result<()> {
    let account = until("the Account is ready", async || {
        let account = accounts.get(NAME).await?;
        let ready = account.status.as_ref().is_some_and(|status| condition::holds(&status.conditions, "Ready"));
        Ok(ready.then_some(account))
    });
    account.await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = format!("{NAME}-tahoe");
    let secret = until("the Account's Secret can be read", async || Ok(Some(secrets.get(&secret).await?))).await?;
    let nurl = secret.data.as_ref().and_then(|data| data.get("nurl")).context("the Secret has no nurl")?;
    let nurl = std::str::from_utf8(&nurl.0).context("the NURL is not text")?;
    let entropy = Entropy::from_os();
    let mut share = Vec::with_capacity(SHARE_BYTES);
    while share.len() < SHARE_BYTES {
        share.extend(entropy.bytes::<32>());
    }
    let address = format!("{}.{namespace}.svc:{}", server.name_any(), server.spec.exposure.port);
    let reached = format!("{address} can be reached");
    let mut storage = until(&reached, async || Ok(Some(Storage::connect(nurl, &address).await?))).await?;
    let index = storage.store(&share, &entropy).await.context("cannot store a share")?;
    let read = storage.read(&index).await.context("cannot read the share")?;
    ensure!(read == share, "the share came back changed");
    Ok(())
}

async fn remove(accounts: &Api<Account>) -> anyhow::Result<()> {
    until("the Account is gone", async || match accounts.delete(NAME, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Some(())),
        deleted => Ok(deleted.map(|_| None)?),
    })
    .await
}

/// Tries again and again until there is an answer, but not for ever: names, addresses and rights that were just made reach
/// everybody in a cluster a moment later.
async fn until<T>(what: &str, attempt: impl AsyncFn() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let begin = std::time::Instant::now();
    loop {
        let outcome = attempt().await;
        if let Ok(Some(found)) = outcome {
            return Ok(found);
        }
        if begin.elapsed() > PATIENCE {
            let told = format!("waited {} s in vain until {what}", PATIENCE.as_secs());
            return Err(match outcome {
                Err(error) => error.context(told),
                Ok(_) => anyhow!(told),
            });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
