//! An API server in memory: objects by their paths, resource versions, server-side apply as far as one field manager needs it.
//!
//! It keeps what an operator relies on: a write on an older state is a conflict, what is made twice is a conflict, a status is written
//! apart. It records every request, so that rights can be compared with what is really asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// What was asked for: the verb, the API group, the resource with its subresource.
pub type Call = (String, String, String);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    versions: u64,
    calls: BTreeSet<Call>,
    writes: Vec<String>,
}

/// The server; clones are the same one.
#[derive(Clone, Default)]
pub struct ApiServer(Arc<Mutex<State>>);

impl ApiServer {
    /// A client of it.
    pub fn client(&self) -> Client {
        let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let server = self.clone();
        tokio::spawn(async move {
            while let Some((request, send)) = handle.next_request().await {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.expect("a request's body");
                let (status, answer) = server.answer(&parts.method, &parts.uri, &body);
                let response = Response::builder().status(status).body(Body::from(answer.to_string().into_bytes()));
                send.send_response(response.expect("a response"));
            }
        });
        Client::new(service, "default")
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no test panicked while it held this")
    }

    /// The object at a path such as `/api/v1/namespaces/n/secrets/s`.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.state().objects.get(path).cloned()
    }

    /// Puts an object there as if somebody else had.
    pub fn put(&self, path: &str, mut object: Value) {
        let mut state = self.state();
        stamp(&mut state, &mut object);
        state.objects.insert(path.to_owned(), object);
    }

    /// Takes an object away as if somebody else had.
    pub fn take(&self, path: &str) {
        self.state().objects.remove(path);
    }

    /// All paths that contain a text.
    pub fn paths(&self, part: &str) -> Vec<String> {
        self.state().objects.keys().filter(|path| path.contains(part)).cloned().collect()
    }

    /// The writes since the last time this was asked.
    pub fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.state().writes)
    }

    /// Everything that was ever asked for.
    pub fn calls(&self) -> BTreeSet<Call> {
        self.state().calls.clone()
    }

    fn answer(&self, method: &Method, uri: &http::Uri, body: &[u8]) -> (StatusCode, Value) {
        let path = uri.path().trim_end_matches('/').to_owned();
        let mut state = self.state();
        let is_list = uri.query().is_some_and(|query| query.contains("labelSelector"));
        state.calls.insert(call(method, &path, is_list));
        if method != Method::GET {
            state.writes.push(format!("{method} {path}"));
        }
        let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(body).expect("JSON") };
        match *method {
            Method::GET if is_list => (StatusCode::OK, json!({ "metadata": {}, "items": [] })),
            Method::GET => state.objects.get(&path).map_or_else(not_found, |found| (StatusCode::OK, found.clone())),
            Method::POST => create(&mut state, &path, body),
            Method::PATCH | Method::PUT => change(&mut state, &path, body),
            Method::DELETE => match state.objects.remove(&path) {
                Some(object) => (StatusCode::OK, object),
                None => not_found(),
            },
            _ => panic!("{method} {path} is not known"),
        }
    }
}

fn create(state: &mut State, path: &str, mut object: Value) -> (StatusCode, Value) {
    let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
    let path = format!("{path}/{name}");
    if state.objects.contains_key(&path) {
        return failure(StatusCode::CONFLICT, "AlreadyExists");
    }
    stamp(state, &mut object);
    state.objects.insert(path, object.clone());
    (StatusCode::CREATED, object)
}

fn change(state: &mut State, path: &str, patch: Value) -> (StatusCode, Value) {
    let (path, of_status) = path.strip_suffix("/status").map_or((path, false), |path| (path, true));
    let mut object = state.objects.get(path).cloned().unwrap_or(Value::Null);
    if of_status && object.is_null() {
        return not_found();
    }
    let expected = &patch["metadata"]["resourceVersion"];
    if expected.is_string() && *expected != object["metadata"]["resourceVersion"] {
        return failure(StatusCode::CONFLICT, "Conflict");
    }
    let before = object.clone();
    if before.is_null() {
        // Whoever applies what is not there needs the right to make it as well.
        let (_, group, resource) = call(&Method::PATCH, path, false);
        state.calls.insert(("create".to_owned(), group, resource));
    }
    if of_status {
        object["status"] = patch["status"].clone();
    } else {
        let kept = (object["metadata"].clone(), object["status"].clone());
        merge(&mut object, &patch);
        // What an apply leaves out of the data goes: it was applied by nobody else.
        if patch["kind"].is_string() && patch["data"].is_object() {
            object["data"] = patch["data"].clone();
        }
        for key in ["uid", "finalizers", "creationTimestamp"] {
            if object["metadata"][key].is_null() && !kept.0[key].is_null() {
                object["metadata"][key] = kept.0[key].clone();
            }
        }
        if !kept.1.is_null() {
            object["status"] = kept.1;
        }
    }
    // An apply that changes nothing is no new version.
    let mut same = object.clone();
    same["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
    if same == before {
        return (StatusCode::OK, before);
    }
    stamp(state, &mut object);
    state.objects.insert(path.to_owned(), object.clone());
    (StatusCode::OK, object)
}

/// Gives an object a new version, and what the API server gives every object.
fn stamp(state: &mut State, object: &mut Value) {
    state.versions += 1;
    object["metadata"]["resourceVersion"] = json!(state.versions.to_string());
    if object["metadata"]["uid"].is_null() {
        object["metadata"]["uid"] = json!(format!("uid-{}", state.versions));
    }
    if object["metadata"]["generation"].is_null() {
        object["metadata"]["generation"] = json!(1);
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().expect("an object").remove(name);
        } else {
            merge(&mut target[name], value);
        }
    }
}

fn not_found() -> (StatusCode, Value) {
    failure(StatusCode::NOT_FOUND, "NotFound")
}

fn failure(status: StatusCode, reason: &str) -> (StatusCode, Value) {
    let body = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "message": reason, "reason": reason, "code": status.as_u16(),
    });
    (status, body)
}

/// A request in the words of RBAC.
fn call(method: &Method, path: &str, is_list: bool) -> Call {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (group, rest) = if parts[0] == "api" { ("", &parts[2..]) } else { (parts[1], &parts[3..]) };
    let of_resource = if rest[0] == "namespaces" && rest.len() > 2 { &rest[2..] } else { rest };
    let resource = match of_resource {
        [resource, _, subresource] => format!("{resource}/{subresource}"),
        [resource, ..] => (*resource).to_owned(),
        [] => String::new(),
    };
    let verb = match *method {
        Method::GET if is_list => "list",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        _ => "delete",
    };
    (verb.to_owned(), group.to_owned(), resource)
}
