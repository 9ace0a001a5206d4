//! The customer's Secret. Pure.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use leasehold_core::secret::Swissnum;
use leasehold_crds::{Account, AccountClient};
use leasehold_identity::Name;
use serde_json::json;

use super::credentials::{FINGERPRINT, GENERATION, RETIRING, SWISSNUM, Swissnums};
use super::secret_name;
use super::validate::Validated;
use crate::names::{Owner, labels};

/// The type of the Secret, by which Service Binding knows it.
const TYPE: &str = "servicebinding.io/tahoe-lafs";
/// Where nothing else is said: what a client with one server can do.
const CLIENT: AccountClient = AccountClient { shares_needed: 1, shares_happy: 1, shares_total: 1 };

/// The Secret with all that the customer's client needs (`api.md` 11).
pub fn secret(account: &Account, validated: &Validated, swissnums: &Swissnums, owner: &Owner) -> Secret {
    let name = Name { identity: &validated.identity, addresses: &validated.addresses, nickname: &validated.nickname };
    let newest = swissnums.newest.reveal();
    let handout = name.handout(newest, swissnums.retiring.as_ref().map(Swissnum::reveal));
    let (host, port) = validated.addresses.first().and_then(|address| address.rsplit_once(':')).unwrap_or_default();
    let mut texts = vec![
        ("type", "tahoe-lafs".to_owned()),
        ("provider", "leasehold".to_owned()),
        ("host", host.to_owned()),
        ("port", port.to_owned()),
        ("nurl", handout.nurls.first().cloned().unwrap_or_default()),
        ("nurls", lines(&handout.nurls)),
        ("furl", handout.furl.clone()),
        (SWISSNUM, newest.to_owned()),
        ("servers.yaml", name.servers_yaml(&handout)),
        ("tahoe.cfg", tahoe_cfg(account)),
        ("announcement.json", announcement(&name, &handout).to_string()),
        ("gridsync.json", gridsync(account, &name, &handout).to_string()),
        ("README.txt", readme(account, validated)),
    ];
    texts.extend(swissnums.retiring.as_ref().map(|retiring| (RETIRING, retiring.reveal().to_owned())));
    let data: BTreeMap<_, _> =
        texts.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).collect();
    Secret {
        metadata: metadata(account, swissnums, owner),
        type_: Some(TYPE.to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

fn metadata(account: &Account, swissnums: &Swissnums, owner: &Owner) -> ObjectMeta {
    let own = &account.spec.credentials.secret_metadata;
    let mut all_labels = own.labels.clone();
    all_labels.extend(labels(&account.spec.server_ref.name, "account"));
    let mut annotations = own.annotations.clone();
    let fingerprint = Swissnum::fingerprint(&swissnums.newest.credential_hash());
    annotations.insert(GENERATION.to_owned(), swissnums.generation.to_string());
    annotations.insert(FINGERPRINT.to_owned(), fingerprint);
    ObjectMeta {
        labels: Some(all_labels),
        annotations: Some(annotations),
        ..owner.owned(secret_name(account), "account")
    }
}

/// Whether a Secret has all that is wanted. What others have added does not count.
pub fn is_as_wanted(seen: &Secret, wanted: &Secret) -> bool {
    let has_all = |seen: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>| {
        wanted.iter().all(|(key, value)| seen.get(key) == Some(value))
    };
    let empty = BTreeMap::new();
    let (seen_data, wanted_data) = (seen.data.as_ref().unwrap_or(&empty_data()).clone(), wanted.data.as_ref());
    let same_data = wanted_data.is_none_or(|wanted| {
        wanted.iter().all(|(key, value)| seen_data.get(key) == Some(value))
            && seen_data.contains_key(RETIRING) == wanted.contains_key(RETIRING)
    });
    same_data
        && has_all(seen.labels(), wanted.metadata.labels.as_ref().unwrap_or(&empty))
        && has_all(seen.annotations(), wanted.metadata.annotations.as_ref().unwrap_or(&empty))
}

const fn empty_data() -> BTreeMap<String, ByteString> {
    BTreeMap::new()
}

fn lines(texts: &[String]) -> String {
    texts.iter().map(|text| format!("{text}\n")).collect()
}

fn client(account: &Account) -> &AccountClient {
    account.spec.client.as_ref().unwrap_or(&CLIENT)
}

fn display_name(account: &Account) -> String {
    account.spec.display_name.clone().unwrap_or_else(|| account.name_any())
}

fn tahoe_cfg(account: &Account) -> String {
    let AccountClient { shares_needed, shares_happy, shares_total } = client(account);
    format!(
        "[client]\nshares.needed = {shares_needed}\nshares.happy = {shares_happy}\nshares.total = {shares_total}\n\n\
         [grid_managers]\n"
    )
}

fn announcement(name: &Name<'_>, handout: &leasehold_identity::Handout) -> serde_json::Value {
    json!({
        "nickname": name.nickname,
        "anonymous-storage-FURL": handout.furl,
        "anonymous-storage-NURLs": handout.nurls,
        "grid-manager-certificates": [],
    })
}

/// GridSync's settings, with both spellings of the numbers of shares.
fn gridsync(account: &Account, name: &Name<'_>, handout: &leasehold_identity::Handout) -> serde_json::Value {
    let AccountClient { shares_needed, shares_happy, shares_total } = client(account);
    let (needed, happy, total) = (shares_needed.to_string(), shares_happy.to_string(), shares_total.to_string());
    json!({
        "nickname": display_name(account),
        "shares-needed": needed, "shares-happy": happy, "shares-total": total,
        "needed": needed, "happy": happy, "total": total,
        "icon_url": "",
        "storage": { name.identity.server_id.as_str(): {
            "nickname": name.nickname,
            "anonymous-storage-FURL": handout.furl,
            "anonymous-storage-NURLs": handout.nurls,
        } },
    })
}

fn readme(account: &Account, validated: &Validated) -> String {
    format!(
        "Storage for {} at {}.\n\n\
         servers.yaml   put it into the folder `private` of a Tahoe-LAFS client, then restart the client\n\
         tahoe.cfg      settings to paste into the client's tahoe.cfg\n\
         nurl, nurls    the secret addresses for clients that speak HTTPS; the newest comes first\n\
         furl           the secret address for older clients\n\
         gridsync.json  settings for GridSync\n\n\
         Whoever knows one of these addresses can use the account: keep them to yourself. If one has leaked, ask your\n\
         provider to raise spec.credentials.generation of the Account.\n",
        display_name(account),
        validated.nickname,
    )
}

#[cfg(test)]
mod tests;
