//! What a story puts over the least that a custom resource needs.

use serde_json::{Value, json};

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
