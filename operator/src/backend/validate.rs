//! Whether a backend can be probed at all. Pure.

use kube::ResourceExt;
use leasehold_config as config;
use leasehold_crds::StorageBackend;

use super::dereference::References;
use crate::condition::Obstacle;

/// A backend that can be probed.
#[derive(Clone, Debug, PartialEq)]
pub struct Validated {
    /// What the server's configuration says of it.
    pub s3: config::S3,
    /// What changes when the credentials or authorities do.
    pub versions: [String; 2],
}

/// Checks the spec with what it refers to.
///
/// # Errors
/// What keeps it from being probed.
pub fn validate(backend: &StorageBackend, references: &References) -> Result<Validated, Obstacle> {
    let s3 = &backend.spec.s3;
    if let Some(secret) = &s3.credentials.secret_ref {
        let Some(found) = &references.credentials else {
            let text = format!(
                "the Secret {} does not exist; make it with the keys accessKeyID and secretAccessKey",
                secret.name
            );
            return Err(Obstacle::Lasting("SecretNotFound", text));
        };
        for key in ["accessKeyID", "secretAccessKey"] {
            if !found.data.as_ref().is_some_and(|data| data.contains_key(key)) {
                let text = format!("the Secret {} lacks the key {key}", secret.name);
                return Err(Obstacle::Lasting("SecretKeyMissing", text));
            }
        }
    }
    if let Some(tls) = &s3.tls {
        let wanted = &tls.ca_bundle_ref;
        let data = references.authorities.as_ref().and_then(|found| found.data.as_ref());
        if !data.is_some_and(|data| data.contains_key(&wanted.key)) {
            let text = format!("the ConfigMap {} with the key {} does not exist", wanted.name, wanted.key);
            return Err(Obstacle::Lasting("AuthorityNotFound", text));
        }
    }
    let s3 = crate::config::s3(s3);
    s3.validate().map_err(|error| Obstacle::Lasting("InvalidSpec", error.to_string()))?;
    let version = |version: Option<String>| version.unwrap_or_default();
    let versions = [
        version(references.credentials.as_ref().and_then(ResourceExt::resource_version)),
        version(references.authorities.as_ref().and_then(ResourceExt::resource_version)),
    ];
    Ok(Validated { s3, versions })
}
