//! The custom resources of stories: the least that is accepted, and what a story adds.

use serde_json::{Value, json};

/// The API version of all kinds.
pub const API: &str = "leasehold.dev/v1alpha1";

/// An object of ours with this spec.
pub fn resource(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// Puts `patch` over `target`, as a JSON merge patch does.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, change) in changes {
        match (change, target.as_object_mut()) {
            (Value::Null, Some(object)) => drop(object.remove(name)),
            _ => merge(&mut target[name], change),
        }
    }
}

/// `base` with `patch` over it.
pub fn merged(mut base: Value, patch: &Value) -> Value {
    merge(&mut base, patch);
    base
}
