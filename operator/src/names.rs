//! Names and labels of what the operator makes. Pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Who the operator is to the API server: its field manager and the reporter of its events.
pub const OPERATOR: &str = "leasehold-operator";
/// The label by which the operator knows what is its own.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`].
pub const LEASEHOLD: &str = "leasehold";
/// The longest name of an object whose name becomes a label or a host name.
const NAME_MAX: usize = 63;

/// An object's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// The key of a namespaced object.
    pub fn of<K: ResourceExt>(object: &K) -> Self {
        Self { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
    }

    /// The key of an object beside this one.
    pub fn beside(&self, name: &str) -> Self {
        Self { namespace: self.namespace.clone(), name: name.to_owned() }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The object on whose behalf others are made.
#[derive(Clone, Debug, PartialEq)]
pub struct Owner {
    /// Where it is.
    pub key: Key,
    /// The reference that its objects carry.
    pub reference: OwnerReference,
}

impl Owner {
    /// An object as an owner.
    ///
    /// # Errors
    /// It does not come from an API server.
    pub fn of<K: Resource<DynamicType = ()>>(object: &K) -> Result<Self> {
        let reference = object.controller_owner_ref(&()).ok_or(Error::Incomplete("uid"))?;
        Ok(Self { key: Key::of(object), reference })
    }

    /// Metadata of an object that goes when its owner goes.
    pub fn owned(&self, name: impl Into<String>, component: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.into()),
            namespace: Some(self.key.namespace.clone()),
            labels: Some(labels(&self.key.name, component)),
            owner_references: Some(vec![self.reference.clone()]),
            ..ObjectMeta::default()
        }
    }
}

/// The labels of an object.
pub fn labels(instance: &str, component: &str) -> BTreeMap<String, String> {
    let mut labels = selector_labels(instance, component);
    labels.insert("app.kubernetes.io/part-of".to_owned(), LEASEHOLD.to_owned());
    labels.insert(MANAGED_BY.to_owned(), LEASEHOLD.to_owned());
    labels
}

/// The labels that select pods; they never change.
pub fn selector_labels(instance: &str, component: &str) -> BTreeMap<String, String> {
    let instance = shortened(instance);
    BTreeMap::from([
        ("app.kubernetes.io/name".to_owned(), LEASEHOLD.to_owned()),
        ("app.kubernetes.io/instance".to_owned(), instance.clone()),
        ("app.kubernetes.io/component".to_owned(), component.to_owned()),
        ("leasehold.dev/server".to_owned(), instance),
    ])
}

/// A selector of those labels.
pub fn selector(instance: &str, component: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(selector_labels(instance, component)), match_expressions: None }
}

/// The name of an object of `owner`, with a suffix; cut so that it fits into a label.
pub fn suffixed(owner: &str, suffix: &str) -> String {
    suffixed_within(owner, suffix, NAME_MAX)
}

/// The name of a CronJob: it must leave room for what its Jobs' and pods' names add.
pub fn cron_name(owner: &str, job: &str) -> String {
    suffixed_within(owner, job, 52)
}

fn suffixed_within(owner: &str, suffix: &str, max: usize) -> String {
    let whole = format!("{owner}-{suffix}");
    if whole.len() <= max {
        return whole;
    }
    // What is cut off still tells apart.
    let tail = format!("-{}-{suffix}", &digest([owner])[..8]);
    let room = max.saturating_sub(tail.len());
    format!("{}{tail}", owner.get(..room).unwrap_or_default().trim_end_matches(['-', '.']))
}

fn shortened(name: &str) -> String {
    if name.len() <= NAME_MAX {
        return name.to_owned();
    }
    let tail = digest([name]);
    format!("{}-{}", name.get(..NAME_MAX - 9).unwrap_or_default(), &tail[..8])
}

/// A digest of texts, in hexadecimal.
pub fn digest<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update((text.len() as u64).to_be_bytes());
        hasher.update(text);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What follows an Account's namespace and name in its name in the lease database; 1 dash and 8 digits.
const UID_DIGITS: usize = 8;

/// The name under which the lease database knows an Account: `NAMESPACE.NAME-DIGEST`.
///
/// It follows from what the API server gives once and never changes, so a reconcile that was interrupted finds what it had made;
/// and another Account of the same name is another account.
pub fn account_name(namespace: &str, name: &str, uid: &str) -> String {
    let readable: String = format!("{namespace}.{name}").chars().take(NAME_MAX - UID_DIGITS - 1).collect();
    format!("{}-{}", readable.trim_end_matches(['-', '.']), &digest([namespace, name, uid])[..UID_DIGITS])
}

/// Whether the lease database's account of this name was an Account in this namespace.
pub fn is_account_of(account_name: &str, namespace: &str) -> bool {
    account_name.strip_prefix(namespace).is_some_and(|rest| rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_stay_apart() {
        assert_eq!(suffixed("main", "identity"), "main-identity");
        let long = "a".repeat(80);
        let other = format!("{}b", "a".repeat(79));
        for cut in [suffixed(&long, "config"), cron_name(&long, "reconcile")] {
            assert!(cut.len() <= 63, "{cut}");
        }
        assert_ne!(suffixed(&long, "config"), suffixed(&other, "config"));
        assert!(cron_name(&long, "reconcile").len() <= 52);
    }

    #[test]
    fn an_account_is_known_by_its_object_not_by_its_name() {
        let name = account_name("customer-a", "alice", "uid-1");
        assert!(name.starts_with("customer-a.alice-"), "{name}");
        assert_ne!(name, account_name("customer-a", "alice", "uid-2"));
        leasehold_core::account::check_name(&name).expect("a name that the lease database takes");
        let long = account_name(&"n".repeat(63), &"x".repeat(253), "uid");
        leasehold_core::account::check_name(&long).expect("cut to fit");
        assert!(is_account_of(&name, "customer-a") && !is_account_of(&name, "customer"));
    }
}
