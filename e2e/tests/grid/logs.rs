//! What servers write for people never holds a secret.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use leasehold_e2e::leasehold::{Credentials, Server, binary};
use leasehold_e2e::process::run;
use leasehold_e2e::tahoe::{Check, Client, Format};

use super::accounts::{accounts, first_account, servers_yaml};
use super::{Grid, KIB, MIB, bytes};

/// Everything that servers can be made to say in operation.
const CONFIG: &str = "[log]\nlevel = \"debug\"\n";

/// Computes all secrets that the client has sent, and prints each in the forms in which it could be written.
const SECRETS: &str = "import sys, base64
from allmydata import uri
from allmydata.util import base32, hashutil
from allmydata.client import SecretHolder
node, capabilities, furls = sys.argv[1], sys.argv[2].split(), sys.argv[3].split()
lease_secret = base32.a2b(open(node + '/private/secret').read().strip().encode())
holder = SecretHolder(lease_secret, b'')
secrets = set()
for furl in furls:
    tub_id, swissnum = furl.split('://')[1].split('@')[0], furl.rsplit('/', 1)[1]
    seed = base32.a2b(tub_id.encode())
    secrets.add(swissnum.encode())
    for capability in capabilities:
        cap = uri.from_string(capability.encode())
        si = cap.get_storage_index()
        renew = hashutil.file_renewal_secret_hash(holder.get_renewal_secret(), si)
        cancel = hashutil.file_cancel_secret_hash(holder.get_cancel_secret(), si)
        secrets.add(hashutil.bucket_renewal_secret_hash(renew, seed))
        secrets.add(hashutil.bucket_cancel_secret_hash(cancel, seed))
        if hasattr(cap, 'writekey'):
            secrets.add(hashutil.ssk_write_enabler_hash(cap.writekey, seed))
for secret in sorted(secrets):
    print(base64.b64encode(secret).decode())
    print(base64.urlsafe_b64encode(secret).decode().rstrip('='))
    print(base32.b2a(secret).decode())
    print(secret.hex())
    print(', '.join(str(byte) for byte in secret))
    if secret.isascii():
        print(secret.decode())";

#[test]
fn logs_hold_no_secret() -> Result<()> {
    let mut grid = Grid::start("logs", Some(CONFIG))?;
    let erin = accounts(&grid.servers, "erin")?;
    let mut capabilities = Vec::new();
    grid.story(|| {
        capabilities = exercise(&grid.client)?;
        let second = grid.add_client("client-of-erin", &servers_yaml(&erin))?;
        capabilities.push(second.upload(&bytes(500, 100 * KIB))?);
        Ok(())
    })?;
    let mut all: Vec<Credentials> = erin;
    for server in &mut grid.servers {
        all.push(server.announcement().credentials.clone());
        all.push(serde_json::from_value(server.account(&["rotate", "erin"])?)?);
        server.account(&["suspend", "erin"])?;
        server.kill()?;
        server.restart()?;
    }
    grid.client.wait_connected(grid.servers.len())?;
    grid.client.download(&capabilities[0])?;

    let forms = secret_forms(&grid.client, &capabilities, &all)?;
    ensure!(forms.len() > 100, "only {} forms of secrets", forms.len());
    let mut texts = Vec::new();
    for server in &mut grid.servers {
        texts.push((format!("metrics of {}", server.name()), server.admin_page("/metrics")?));
        texts.push((format!("readiness of {}", server.name()), server.admin_page("/healthz/ready")?));
        let first = first_account(server);
        for words in [&["list"][..], &["show", "erin"], &["show", &first]] {
            texts.push((format!("account {}", words.join(" ")), human_output(server, words)?));
        }
        server.terminate()?;
        texts.push((format!("log of {}", server.name()), fs::read_to_string(server.log_path())?));
    }
    // The search finds a secret where one belongs.
    let addresses = fs::read_to_string(&all[0].servers_yaml)?;
    ensure!(first_secret(&addresses, &forms).is_some(), "the search overlooks the swissnum in servers.yaml");
    for (name, text) in &texts {
        if let Some(line) = first_secret(text, &forms) {
            bail!("{name} holds a secret, near line {line}");
        }
    }
    Ok(())
}

/// The number of the line in which the first of the secrets is.
fn first_secret(text: &str, forms: &[String]) -> Option<usize> {
    let position = forms.iter().filter_map(|form| text.find(form.as_str())).min()?;
    Some(text[..position].lines().count())
}

/// Uses every kind of request that carries a secret.
fn exercise(client: &Client) -> Result<Vec<String>> {
    let file = client.upload(&bytes(501, 2 * MIB))?;
    let small = client.create_mutable(Format::Sdmf, &bytes(502, 5_000))?;
    let large = client.create_mutable(Format::Mdmf, &bytes(503, 300 * KIB))?;
    client.overwrite(&small, &bytes(504, 6_000))?;
    client.overwrite_at(&large, 10, b"some other bytes")?;
    for capability in [&file, &small, &large] {
        client.download(capability)?;
        client.check(capability, Check { verify: true, add_lease: true, ..Check::default() })?;
    }
    Ok(vec![file, small, large])
}

fn secret_forms(client: &Client, capabilities: &[String], accounts: &[Credentials]) -> Result<Vec<String>> {
    let furls: Vec<&str> = accounts.iter().map(|account| account.furl.as_str()).collect();
    let node = client.directory().to_string_lossy().into_owned();
    let printed = client.python(SECRETS, &[&node, &capabilities.join(" "), &furls.join(" ")])?;
    let forms: Vec<String> = printed.lines().map(str::to_owned).collect();
    // The program's arithmetic is right at least where we know the answer.
    for account in accounts {
        let swissnum = account.swissnum()?;
        ensure!(forms.iter().any(|form| form == swissnum), "a swissnum is missing among the secrets");
    }
    Ok(forms)
}

/// What an account command prints for people.
fn human_output(server: &Server, words: &[&str]) -> Result<String> {
    let mut command = Command::new(binary()?);
    command.arg("account").args(words).arg("--data-dir").arg(server.data_dir());
    let output = run(&mut command, Duration::from_secs(60))?;
    ensure!(output.status.success(), "account {words:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}
