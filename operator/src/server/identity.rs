//! The identity of a server: in a Secret that is made once, never changed, and owned by nobody, so that it outlives all.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use leasehold_crds::{StorageServer, StorageServerStatus};
use leasehold_identity::{IdentityTexts, PublicIdentity};

use crate::condition::Obstacle;
use crate::context::Context;
use crate::error::Result;
use crate::names::{Key, labels};

/// What follows a server's name in the name of its identity's Secret, where the spec does not name one.
pub const IDENTITY_SECRET_SUFFIX: &str = "-identity";

/// The name of the Secret with a server's identity.
pub fn secret_name(server: &StorageServer) -> String {
    let name = server.spec.identity.secret_name.clone();
    name.unwrap_or_else(|| format!("{}{IDENTITY_SECRET_SUFFIX}", server.name_any()))
}

/// Reads the identity, or makes it if there has never been one.
///
/// # Errors
/// The API server refused or does not answer.
pub async fn ensure(
    server: &StorageServer,
    context: &Context,
) -> Result<std::result::Result<PublicIdentity, Obstacle>> {
    let key = Key::of(server).beside(&secret_name(server));
    let known = server.status.as_ref().filter(|status| status.server_id.is_some());
    if let Some(secret) = context.read::<Secret>(&key).await? {
        return Ok(judge(&secret, known));
    }
    if known.is_some() {
        let text = format!("the Secret {} is gone; restore it from a backup: clients know the server by it", key.name);
        return Ok(Err(Obstacle::Lasting("SecretMissing", text)));
    }
    let texts = IdentityTexts::generate()?;
    let public = texts.public()?;
    context.writer.create(&secret(&key, &server.name_any(), &texts)).await?;
    let note = format!("{} is in the Secret {}; back it up, for ever", public.server_id, key.name);
    context.writer.event(server, false, "IdentityGenerated", note).await;
    Ok(Ok(public))
}

/// Whether a Secret is the identity that clients know. Pure.
fn judge(secret: &Secret, known: Option<&StorageServerStatus>) -> std::result::Result<PublicIdentity, Obstacle> {
    let name = secret.name_any();
    let data = secret.data.as_ref();
    let texts = IdentityTexts::read(|key| {
        let bytes = data.and_then(|data| data.get(key)).ok_or_else(|| format!("it lacks the key {key}"))?;
        String::from_utf8(bytes.0.clone()).map_err(|_| format!("its key {key} is not text"))
    });
    let public = texts.and_then(|texts| texts.public().map_err(|error| error.to_string()));
    let public = public.map_err(|problem| {
        Obstacle::Lasting(
            "Malformed",
            format!("the Secret {name} holds no identity: {problem}; restore it from a backup"),
        )
    })?;
    let is_same = known.is_none_or(|known| {
        known.server_id.as_ref() == Some(&public.server_id)
            && known.tub_id.as_ref() == Some(&public.tub_id)
            && known.spki_hash.as_ref() == Some(&public.spki_hash)
    });
    if is_same {
        return Ok(public);
    }
    let text = format!(
        "the Secret {name} holds another identity than the one clients know (status.serverID); nothing is rolled: restore \
         the old Secret"
    );
    Err(Obstacle::Lasting("IdentityChanged", text))
}

/// The Secret of a new identity. Pure.
fn secret(key: &Key, server: &str, texts: &IdentityTexts) -> Secret {
    let texts = IdentityTexts::NAMES.into_iter().zip(texts.texts());
    let data: BTreeMap<_, _> =
        texts.map(|(name, text)| (name.to_owned(), ByteString(text.as_bytes().to_vec()))).collect();
    Secret {
        metadata: ObjectMeta {
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()),
            labels: Some(labels(server, "identity")),
            ..ObjectMeta::default()
        },
        type_: Some("leasehold.dev/identity".to_owned()),
        immutable: Some(true),
        data: Some(data),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key { namespace: "tahoe".to_owned(), name: "main-identity".to_owned() }
    }

    fn known(public: &PublicIdentity) -> StorageServerStatus {
        StorageServerStatus {
            server_id: Some(public.server_id.clone()),
            tub_id: Some(public.tub_id.clone()),
            spki_hash: Some(public.spki_hash.clone()),
            ..StorageServerStatus::default()
        }
    }

    fn reason(found: std::result::Result<PublicIdentity, Obstacle>) -> &'static str {
        match found {
            Ok(_) => "",
            Err(Obstacle::Passing(reason, _) | Obstacle::Lasting(reason, _)) => reason,
        }
    }

    #[test]
    fn another_identity_than_the_one_clients_know_is_refused() {
        let (texts, other) = (IdentityTexts::generate().expect("made"), IdentityTexts::generate().expect("made"));
        let public = texts.public().expect("sound");
        let made = secret(&key(), "main", &texts);
        assert_eq!(reason(judge(&made, None)), "");
        assert_eq!(reason(judge(&made, Some(&known(&public)))), "");
        let other = secret(&key(), "main", &other);
        assert_eq!(reason(judge(&other, Some(&known(&public)))), "IdentityChanged");
        assert_eq!(reason(judge(&Secret::default(), None)), "Malformed");
        assert!(made.metadata.owner_references.is_none(), "it outlives its server");
    }
}
