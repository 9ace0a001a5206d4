//! The only code that writes to Kubernetes: server-side apply with one field manager, removal of what is no longer wanted,
//! status, finalizers, events.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::names::{Key, OPERATOR, Owner};

/// Writes to Kubernetes.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    recorder: Recorder,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

/// What the operator writes into namespaces.
pub trait Namespaced:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Serialize + DeserializeOwned + std::fmt::Debug
{
}

impl<K> Namespaced for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug
{
}

impl Writer {
    /// Writes with this client; `instance` names this process in events.
    pub fn new(client: Client, instance: Option<String>) -> Self {
        let recorder = Recorder::new(client.clone(), Reporter { controller: OPERATOR.to_owned(), instance });
        Self { client, recorder }
    }

    fn api<K: Namespaced>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Makes an object what it shall be, and gives it as it is then. What others have set beside stays.
    ///
    /// # Errors
    /// The API server refused or does not answer.
    pub async fn apply<K: Namespaced>(&self, object: &K) -> Result<K> {
        let key = Key::of(object);
        let parameters = PatchParams::apply(OPERATOR).force();
        Ok(self.api(&key.namespace).patch(&key.name, &parameters, &Patch::Apply(object)).await?)
    }

    /// As [`apply`](Self::apply), or removes the object of this name where it is not wanted and is the owner's.
    ///
    /// # Errors
    /// The API server refused or does not answer.
    pub async fn apply_or_remove<K: Namespaced>(&self, owner: &Owner, name: &str, wanted: Option<&K>) -> Result<()> {
        match wanted {
            Some(object) => self.apply(object).await.map(drop),
            None => self.remove::<K>(owner, name).await,
        }
    }

    /// Removes an object, if it is there and is the owner's.
    ///
    /// # Errors
    /// The API server refused or does not answer.
    pub async fn remove<K: Namespaced>(&self, owner: &Owner, name: &str) -> Result<()> {
        let api: Api<K> = self.api(&owner.key.namespace);
        let Some(object) = api.get_opt(name).await? else { return Ok(()) };
        if !object.owner_references().iter().any(|reference| reference.uid == owner.reference.uid) {
            return Ok(());
        }
        // The very one that was looked at.
        let preconditions = Preconditions { uid: object.uid(), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        match api.delete(name, &parameters).await {
            Err(error) if !Error::is_not_found(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Makes an object that must not be there yet; a conflict if it is.
    ///
    /// # Errors
    /// The API server refused or does not answer.
    pub async fn create<K: Namespaced>(&self, object: &K) -> Result<K> {
        let parameters = PostParams { field_manager: Some(OPERATOR.to_owned()), ..PostParams::default() };
        Ok(self.api(&Key::of(object).namespace).create(&parameters, object).await?)
    }

    /// Applies a Secret to the very state of it that was read; a conflict if somebody was first. Without a state, it must not be
    /// there yet. So of two operators that give an account another swissnum, one does.
    ///
    /// # Errors
    /// The API server refused or does not answer.
    pub async fn swap_secret(&self, wanted: Secret, seen: Option<&Secret>) -> Result<Secret> {
        let Some(seen) = seen else { return self.create(&wanted).await };
        let mut wanted = wanted;
        wanted.metadata.resource_version = seen.resource_version();
        wanted.metadata.uid = seen.uid();
        self.apply(&wanted).await
    }

    /// Writes the status of an object, if it differs from the one it has.
    ///
    /// # Errors
    /// The API server refused or does not answer.
    pub async fn status<K: Namespaced, S: Serialize>(&self, object: &K, old: &S, new: &S) -> Result<()> {
        let encode = |status: &S| serde_json::to_value(status).map_err(|_| Error::Encode("a status"));
        let new = encode(new)?;
        if encode(old)? == new {
            return Ok(());
        }
        let key = Key::of(object);
        let document = document::<K>(&key, json!({ "status": new }));
        let parameters = PatchParams::apply(OPERATOR).force();
        self.api::<K>(&key.namespace).patch_status(&key.name, &parameters, &Patch::Apply(document)).await?;
        Ok(())
    }

    /// Sets or removes a finalizer; a conflict if the object has changed since it was read.
    ///
    /// # Errors
    /// The API server refused or does not answer.
    pub async fn finalizer<K: Namespaced>(&self, object: &K, finalizer: &str, present: bool) -> Result<()> {
        let is_there = object.finalizers().iter().any(|name| name == finalizer);
        if is_there == present {
            return Ok(());
        }
        let mut finalizers: Vec<&str> =
            object.finalizers().iter().map(String::as_str).filter(|name| *name != finalizer).collect();
        if present {
            finalizers.push(finalizer);
        }
        let key = Key::of(object);
        let metadata = json!({ "resourceVersion": object.resource_version(), "finalizers": finalizers });
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        let parameters = PatchParams { field_manager: Some(OPERATOR.to_owned()), ..PatchParams::default() };
        match self.api::<K>(&key.namespace).patch(&key.name, &parameters, &patch).await {
            Err(error) if present || !Error::is_not_found(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Tells of a change. A failure to tell is logged and passed over: events are for people.
    pub async fn event<K: Namespaced>(&self, object: &K, is_warning: bool, reason: &str, note: impl Into<String>) {
        let event = Event {
            type_: if is_warning { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            note: Some(note.into().chars().take(1000).collect()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        match self.recorder.publish(&event, &object.object_ref(&())).await {
            // A namespace that ends takes no events.
            Err(kube::Error::Api(_)) if object.meta().deletion_timestamp.is_some() => {}
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, reason, object = %Key::of(object), "cannot write an event"),
        }
    }
}

fn document<K: Namespaced>(key: &Key, content: Value) -> Value {
    let mut document = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": key.name, "namespace": key.namespace },
    });
    if let (Some(fields), Value::Object(more)) = (document.as_object_mut(), content) {
        fields.extend(more);
    }
    document
}
