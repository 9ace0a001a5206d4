//! Which swissnums an account has: what to do about its Secret. Pure, but for randomness and events.
//!
//! The Secret says which swissnum is the newest, and for which `spec.credentials.generation` it was made. A swissnum that is
//! lost cannot be had back, since the lease database keeps hashes: then there is another, and the lost one lapses as after a
//! rotation.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use leasehold_core::clock::Entropy;
use leasehold_core::leasedb::Credential;
use leasehold_core::secret::Swissnum;
use leasehold_crds::Account;

use super::dereference::References;
use crate::condition::Obstacle;
use crate::context::Context;
use crate::names::Owner;

/// The key of the newest swissnum.
pub const SWISSNUM: &str = "swissnum";
/// The key of the one before, while it lapses.
pub const RETIRING: &str = "swissnum.retiring";
/// Annotation: the generation of the newest swissnum.
pub const GENERATION: &str = "leasehold.dev/generation";
/// Annotation: the first digits of the newest swissnum's hash.
pub const FINGERPRINT: &str = "leasehold.dev/fingerprint";

/// The swissnums that a Secret holds.
#[derive(Clone, Debug)]
pub struct Swissnums {
    /// The newest.
    pub newest: Swissnum,
    /// The one before, while it lapses.
    pub retiring: Option<Swissnum>,
    /// For which generation the newest was made.
    pub generation: i64,
}

/// What to do about an account's swissnums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// They are as they shall be.
    Keep,
    /// The account is new.
    Begin,
    /// The spec asks for another; the present one lapses.
    Rotate,
    /// The Secret was lost, or is not as we left it.
    Replace,
}

/// What a Secret of ours holds; `None` if it is not as we left it.
pub fn held(secret: &Secret) -> Option<Swissnums> {
    let read = |key: &str| {
        let bytes = secret.data.as_ref()?.get(key)?;
        Swissnum::new(bytes.0.clone()).ok()
    };
    let newest = read(SWISSNUM)?;
    let annotations = secret.annotations();
    // Somebody who put a swissnum of his own into the Secret gets another one: it may be one that others know.
    if annotations.get(FINGERPRINT)? != &Swissnum::fingerprint(&newest.credential_hash()) {
        return None;
    }
    Some(Swissnums { newest, retiring: read(RETIRING), generation: annotations.get(GENERATION)?.parse().ok()? })
}

/// What to do, given the Secret, the generation that the spec asks for, and what the lease database knows.
pub fn next(held: Option<&Swissnums>, wanted: i64, account_exists: bool, known: &[Credential]) -> Step {
    let Some(held) = held else {
        return if account_exists { Step::Replace } else { Step::Begin };
    };
    if held.generation < wanted {
        return Step::Rotate;
    }
    let hash = held.newest.credential_hash();
    match known.iter().find(|credential| credential.hash == hash) {
        // An older Secret was put back: its swissnum lapses, or has.
        Some(credential) if credential.not_after.is_some() => Step::Replace,
        // Unknown: the last reconcile ended between Secret and database, or the database was lost.
        Some(_) | None => Step::Keep,
    }
}

/// Whether a Secret of that name belongs to somebody else.
pub fn conflict(secret: Option<&Secret>, owner: &Owner) -> Option<Obstacle> {
    let secret = secret?;
    if secret.owner_references().iter().any(|reference| reference.uid == owner.reference.uid) {
        return None;
    }
    let text = format!(
        "there is a Secret {} that is not this Account's; it is not touched: remove it, or make the Account anew with another \
         credentials.secretName",
        secret.name_any()
    );
    Some(Obstacle::Lasting("SecretConflict", text))
}

/// The swissnum to begin with, if the spec names one.
///
/// # Errors
/// It is not there.
pub fn imported(account: &Account, references: &References, step: &Step) -> Result<Option<Swissnum>, Obstacle> {
    let Some(from) = account.spec.credentials.import_from.as_ref().filter(|_| *step == Step::Begin) else {
        return Ok(None);
    };
    let bytes = references.import.as_ref().and_then(|secret| secret.data.as_ref()).and_then(|data| data.get(&from.key));
    let text = bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).map(str::trim);
    // Shorter ones can be guessed; odd characters break addresses.
    let good = text.filter(|text| text.len() >= 26 && text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    let swissnum = good.and_then(|text| Swissnum::new(text.as_bytes().to_vec()).ok());
    swissnum.map(Some).ok_or_else(|| {
        let text = format!(
            "the Secret {} has no swissnum under the key {}: at least 26 letters and digits are wanted",
            from.name, from.key
        );
        Obstacle::Passing("ImportMissing", text)
    })
}

/// The swissnums after a step.
pub fn carry_out(
    step: &Step,
    held: Option<Swissnums>,
    imported: Option<Swissnum>,
    wanted: i64,
    entropy: &Entropy,
) -> Swissnums {
    let fresh = || imported.unwrap_or_else(|| Swissnum::generate(entropy));
    match (step, held) {
        (Step::Keep, Some(held)) => held,
        (Step::Rotate, Some(held)) => Swissnums { newest: fresh(), retiring: Some(held.newest), generation: wanted },
        (Step::Keep | Step::Rotate | Step::Begin | Step::Replace, _) => {
            Swissnums { newest: fresh(), retiring: None, generation: wanted }
        }
    }
}

impl Swissnums {
    /// Without a retiring one that opens nothing any more. `valid` are the account's credentials that hold.
    pub fn without_lapsed(self, valid: &[Credential]) -> Self {
        let retiring = self.retiring.filter(|retiring| {
            let hash = retiring.credential_hash();
            valid.iter().any(|credential| credential.hash == hash)
        });
        Self { retiring, ..self }
    }
}

/// An event for a step that changed something.
pub async fn tell(account: &Account, step: &Step, context: &Context) {
    let hours = account.spec.credentials.overlap_hours;
    match step {
        Step::Keep => {}
        Step::Begin => context.writer.event(account, false, "Provisioned", "the account has an address").await,
        Step::Rotate => {
            let note = format!("there is a new address; the old one stays valid for {hours} hours");
            context.writer.event(account, false, "CredentialRotated", note).await;
        }
        Step::Replace => {
            let note = format!(
                "the Secret was lost or changed: there is a new address; clients that use the old one go on for {hours} hours"
            );
            context.writer.event(account, true, "SecretRestored", note).await;
        }
    }
}

#[cfg(test)]
mod tests;
