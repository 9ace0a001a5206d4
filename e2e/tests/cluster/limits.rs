//! Quota and access are what the Account says, on every pod, soon after it says so.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use leasehold_e2e::cluster::kubectl::condition;
use leasehold_e2e::gbs::cbor::{ReadTestWrite, TestWrite};
use leasehold_e2e::process::wait_until;
use leasehold_e2e::story::{MIB, bytes, ensure_same};
use leasehold_e2e::tahoe::{Check, Client};
use serde_json::{Value, json};

use super::gbs::{Hand, asked, index};
use super::operated::{Account, Server, count};
use super::pods::{Pods, wait_used};

const UPLOADERS: u64 = 20;
/// What a share of `SHARE` bytes is charged: its header as well.
const SHARE: usize = 50_000;
const CHARGED: u64 = SHARE as u64 + 12;

const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Changes the account and says how long it took until all pods knew.
fn change(
    server: &Server,
    pods: &Pods,
    account: &Account,
    spec: &Value,
    accept: impl Fn(u16, &Value) -> bool,
) -> Result<()> {
    let begin = Instant::now();
    server.patch("account", &account.name, spec)?;
    pods.wait_all(&account.nurl, &spec.to_string(), accept)?;
    println!("{spec}: effective on all pods after {:.1} s", begin.elapsed().as_secs_f64());
    Ok(())
}

/// The client asks what there is room for every second, so it learns of a change a little later than the pods.
fn ensure_taken(client: &Client, seed: u64, length: usize) -> Result<()> {
    wait_until("the client stores again", CLIENT_TIMEOUT, || client.upload(&bytes(seed, length)).map(Some)).map(drop)
}

fn ensure_refused(client: &Client, seed: u64, length: usize) -> Result<()> {
    ensure!(client.upload(&bytes(seed, length)).is_err(), "{length} bytes were taken");
    Ok(())
}

#[test]
fn quota_and_access_hold_on_all_pods() -> Result<()> {
    let server = Server::shared()?;
    let account = server.account("limits", &json!({"quota": {"hard": "4Mi"}}))?;
    let client = server.client(&account)?;
    server.story(|| {
        let pods = Pods::of(server)?;
        let kept = client.upload(&bytes(1, 2 * MIB))?;
        ensure_refused(&client, 2, 3 * MIB)?;
        change(server, &pods, &account, &json!({"quota": {"hard": "100Mi"}}), |_, body| {
            body["quota_bytes"] == 100 << 20
        })?;
        ensure_taken(&client, 2, 3 * MIB)?;
        // Less than is used: nothing is lost, nothing is taken.
        change(server, &pods, &account, &json!({"quota": {"hard": "1Mi"}}), |_, body| body["quota_bytes"] == 1 << 20)?;
        ensure_refused(&client, 3, MIB / 2)?;
        ensure_same("a file of a full account", &client.download(&kept)?, &bytes(1, 2 * MIB))?;
        let renewed = client.check(&kept, Check { add_lease: true, ..Check::default() })?;
        ensure!(renewed["results"]["healthy"] == true, "a lease of a full account is not renewed: {renewed}");
        server.world.kubectl.wait(
            &["account", &account.name],
            "is said to be over its quota",
            CLIENT_TIMEOUT,
            |object| condition(object, "QuotaExceeded").is_some_and(|it| it["reason"] == "OverHard"),
        )?;
        let events = server.world.kubectl.run(&["get", "events"])?;
        ensure!(events.contains("QuotaHardReached"), "no event tells of a full account:\n{events}");
        let roomy = json!({"quota": {"hard": "100Mi"}, "access": "ReadOnly"});
        change(server, &pods, &account, &roomy, |_, body| body["state"] != "active")?;
        ensure_refused(&client, 4, MIB)?;
        ensure_same("a file of one who may read", &client.download(&kept)?, &bytes(1, 2 * MIB))?;
        change(server, &pods, &account, &json!({"access": "ReadWrite"}), |_, body| body["state"] == "active")?;
        ensure_taken(&client, 5, MIB)
    })
}

#[test]
fn parallel_uploaders_stop_at_the_quota() -> Result<()> {
    let server = Server::shared()?;
    // There is room for thirty shares and a half.
    let hard = 30 * CHARGED + CHARGED / 2;
    let account = server.account("crowded", &json!({"quota": {"hard": hard.to_string()}}))?;
    server.story(|| {
        let is_over = AtomicBool::new(false);
        let stored: u64 = std::thread::scope(|scope| {
            // The rows themselves: what pods say of usage is some seconds old.
            let watcher = scope.spawn(|| {
                let taken = format!("SELECT max(taken) FROM (SELECT sum(leased_bytes + reserved_bytes) AS taken FROM account_usage JOIN accounts USING (account_id) WHERE quota_bytes = {hard} GROUP BY account_id) AS sums");
                while !is_over.load(Ordering::SeqCst) {
                    let taken = count(&server.query(&taken)?)?;
                    ensure!(taken <= hard, "{taken} of {hard} bytes are taken");
                }
                Ok(())
            });
            let upload = |uploader: u64| {
                let nurl = &account.nurl;
                asked(async move {
                    let (mut hand, mut stored) = (Hand::new(nurl)?, 0);
                    while hand.store(uploader * 1_000 + stored, SHARE).await? {
                        stored += 1;
                    }
                    Ok(stored)
                })
            };
            let uploaders: Vec<_> = (0..UPLOADERS).map(|uploader| scope.spawn(move || upload(uploader))).collect();
            let joined =
                uploaders.into_iter().map(|it| it.join().map_err(|_| anyhow::anyhow!("an uploader panicked"))?);
            let stored = joined.sum::<Result<u64>>();
            is_over.store(true, Ordering::SeqCst);
            watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))?.and(stored)
        })?;
        ensure!(stored == 30, "{stored} shares were stored where there is room for 30");
        wait_used(&account.nurl, |used| used == 30 * CHARGED)
    })
}

/// Makes the slot these bytes and no more; the status if that was refused.
async fn overwrite(hand: &mut Hand, seed: u64, length: usize) -> Result<Option<u16>> {
    let new_length = Some(length as u64);
    let change = TestWrite { writes: vec![(0, bytes(seed, length))], new_length, ..TestWrite::default() };
    let vectors = ReadTestWrite { shares: vec![(0, change)], reads: Vec::new() };
    Ok(hand.client().read_test_write(&index(1), &[9; 32], &[[1; 32], [2; 32]], &vectors).await?.err())
}

#[test]
fn mutable_share_grows_to_the_quota_and_no_further() -> Result<()> {
    let server = Server::shared()?;
    let account = server.account("growing", &json!({"quota": {"hard": "100Ki"}}))?;
    server.story(|| {
        asked(async {
            let mut hand = Hand::new(&account.nurl)?;
            ensure!(overwrite(&mut hand, 1, 50_000).await?.is_none());
            ensure!(overwrite(&mut hand, 2, 90_000).await?.is_none(), "there is room");
            ensure!(overwrite(&mut hand, 3, 200_000).await? == Some(507), "there is none");
            let kept = hand.client().read("mutable", &index(1), 0, 0, 200_000).await?;
            ensure!(kept.is_ok_and(|kept| kept == bytes(2, 90_000)), "a refused write has changed something");
            ensure!(overwrite(&mut hand, 4, 10_000).await?.is_none(), "less is always taken");
            let kept = hand.client().read("mutable", &index(1), 0, 0, 200_000).await?;
            ensure!(kept.is_ok_and(|kept| kept == bytes(4, 10_000)));
            Ok(())
        })
    })
}
