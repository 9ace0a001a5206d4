//! What accounts of one server have in common, and what they know of one another.

use anyhow::{Context, Result, ensure};
use leasehold_e2e::cluster::kubectl::{condition, has_condition};
use leasehold_e2e::cluster::stores::resource;
use leasehold_e2e::gbs::Nurl;
use leasehold_e2e::story::{bytes, ensure_same};
use leasehold_e2e::tahoe::Format;
use serde_json::json;

use super::operated::{SERVER, Server};
use super::pods::{Pods, account, wait_used};
use super::world::PODS_TIMEOUT;

/// Of a tub id and of a server's id in base32.
const TUB_ID_LENGTH: usize = 32;
const SERVER_ID_LENGTH: usize = 55;

#[test]
fn addresses_of_all_accounts_name_one_server() -> Result<()> {
    let server = Server::shared()?;
    server.story(|| {
        let status = server.world.kubectl.get(&["storageserver", SERVER])?["status"].clone();
        let (server_id, tub_id) = (status["serverID"].as_str().unwrap_or(""), status["tubID"].as_str().unwrap_or(""));
        ensure!(tub_id.len() == TUB_ID_LENGTH, "clients take write enablers from 20 bytes: {tub_id}");
        ensure!(server_id.len() == SERVER_ID_LENGTH && server_id.starts_with("v0-"), "{server_id}");
        for name in ["shape-1", "shape-2"] {
            let account = server.account(name, &json!({}))?;
            let servers = std::fs::read_to_string(&account.servers_yaml)?;
            ensure!(servers.contains(server_id), "{name} knows another server");
            let furl = servers.lines().find_map(|line| line.trim().strip_prefix("anonymous-storage-FURL: "));
            let furl = furl.context("clients fail without a FURL")?.trim_matches('"').trim_matches('\'');
            ensure!(furl.starts_with(&format!("pb://{tub_id}@tcp:")), "{name}: the FURL names another tub");
            ensure!(furl.ends_with(&format!("/{}", account.nurl.swissnum)), "{name}: two swissnums");
            ensure!(account.nurl.swissnum.len() == 52, "{name}: a short swissnum");
        }
        Ok(())
    })
}

#[test]
fn account_learns_nothing_of_others() -> Result<()> {
    let server = Server::shared()?;
    let (alice, bob) = (server.account("isolated-a", &json!({}))?, server.account("isolated-b", &json!({}))?);
    let client = server.client(&bob)?;
    server.story(|| {
        client.upload(&bytes(1, 200_000))?;
        wait_used(&bob.nurl, |used| used > 200_000)?;
        ensure!(account(&alice.nurl)?.1["used_bytes"] == 0, "usage of one account is another's");
        let pods = Pods::of(server)?;
        server.patch("account", &bob.name, &json!({"credentials": {"generation": 2, "overlapHours": 0}}))?;
        pods.wait_all(&bob.nurl, "the address is revoked", |status, _| status == 401)?;
        for guess in ["", "a", &"a".repeat(51), &"a".repeat(52), &"a".repeat(5000), &alice.nurl.swissnum[..51]] {
            let nurl = Nurl { swissnum: guess.to_owned(), ..alice.nurl.clone() };
            let (status, body) = account(&nurl)?;
            ensure!(matches!(status, 401 | 431), "{} characters get {status}", guess.len());
            ensure!(!body.to_string().contains("isolated"), "{body}");
        }
        Ok(())
    })
}

#[test]
fn two_accounts_change_one_directory_and_both_pay_for_it() -> Result<()> {
    let server = Server::shared()?;
    let accounts = [server.account("shared-a", &json!({}))?, server.account("shared-b", &json!({}))?];
    let [first, second] = [server.client(&accounts[0])?, server.client(&accounts[1])?];
    server.story(|| {
        let directory = first.make_directory(Format::Sdmf, &json!({}))?;
        first.upload_child(&directory, "of-a", &bytes(1, 10_000))?;
        // The write enabler is the same, whoever comes.
        second.upload_child(&directory, "of-b", &bytes(2, 10_000))?;
        first.upload_child(&directory, "of-a-again", &bytes(3, 10_000))?;
        let names: Vec<String> = second.list(&directory)?.keys().cloned().collect();
        ensure!(names == ["of-a", "of-a-again", "of-b"], "{names:?}");
        ensure_same("a child", &second.download_path(&directory, "of-a")?, &bytes(1, 10_000))?;
        for found in &accounts {
            // Its own child, and the directory.
            wait_used(&found.nurl, |used| used > 10_000 + 472)?;
        }
        Ok(())
    })
}

#[test]
fn suspended_customer_reads_why_and_cannot_lift_it() -> Result<()> {
    let server = Server::shared()?;
    let found = server.account("suspended", &json!({}))?;
    server.story(|| {
        let kubectl = &server.world.kubectl;
        let pods = Pods::of(server)?;
        let suspended = json!({"administrative": {"access": "Disabled", "message": "the bill of May is open"}});
        server.patch("account", &found.name, &suspended)?;
        pods.wait_all(&found.nurl, "it is suspended", |_, body| body["state"] == "suspended")?;
        ensure!(account(&found.nurl)?.1["message"] == "the bill of May is open");
        kubectl.wait(&["account", &found.name], "says so", PODS_TIMEOUT, |object| {
            condition(object, "Suspended").is_some_and(|it| it["status"] == "True" && it["reason"] == "ByProvider")
        })?;
        // The customer's own administrator, as the chart's roles make him.
        kubectl.run(&[
            "create",
            "rolebinding",
            "customer",
            "--clusterrole=leasehold-account-editor",
            "--user=customer",
        ])?;
        kubectl.run(&[
            "create",
            "rolebinding",
            "viewer",
            "--clusterrole=leasehold-account-viewer",
            "--user=customer",
        ])?;
        let lift = json!({"spec": {"administrative": {"access": "ReadWrite"}}}).to_string();
        let lifted = kubectl.run(&["patch", "account", &found.name, "--type=merge", "--patch", &lift, "--as=customer"]);
        let refusal = format!("{:#}", lifted.err().context("a customer has lifted his suspension")?);
        ensure!(refusal.contains("needs the verb administer"), "{refusal}");
        let own = json!({"spec": {"displayName": "me"}}).to_string();
        kubectl.run(&["patch", "account", &found.name, "--type=merge", "--patch", &own, "--as=customer"])?;
        ensure!(kubectl.run(&["get", "secret", &format!("{}-tahoe", found.name), "--as=customer"]).is_err());
        server.patch("account", &found.name, &json!({"administrative": {"access": "ReadWrite", "message": ""}}))?;
        pods.wait_all(&found.nurl, "it is active", |_, body| body["state"] == "active")
    })
}

/// Nobody touches the Account: the label is enough.
#[test]
fn account_waits_until_its_namespace_is_let_in() -> Result<()> {
    let server = Server::shared()?;
    server.story(|| {
        let all = server.world.cluster.kubectl();
        let name = format!("customer-{}", std::process::id());
        let customer = all.in_namespace(&name);
        let labels = json!({"leasehold.dev/story": "yes"});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        all.apply_all(&[namespace])?;
        let server_ref = json!({"name": SERVER, "namespace": server.world.kubectl.namespace()});
        customer.apply_all(&[resource("Account", "carol", json!({"serverRef": server_ref}))])?;
        let refused = customer.wait(&["account", "carol"], "is refused", PODS_TIMEOUT, |object| {
            condition(object, "Accepted").is_some_and(|it| it["reason"] == "NamespaceNotAllowed")
        })?;
        let message = condition(&refused, "Accepted").and_then(|it| it["message"].as_str()).unwrap_or_default();
        ensure!(message.contains("tahoe-customers=yes") && message.contains("label the namespace"), "{message}");
        all.run(&["label", "namespace", &name, "tahoe-customers=yes"])?;
        customer.wait(&["account", "carol"], "is ready", PODS_TIMEOUT, |object| has_condition(object, "Ready"))?;
        all.run(&["delete", "namespace", &name, "--timeout=90s"]).map(drop)
    })
}
