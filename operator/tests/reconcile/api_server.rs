//! An API server in memory: objects by their paths, resource versions, watches, server-side apply as far as one field manager
//! needs it.
//!
//! It keeps what an operator relies on: a write on an older state is a conflict, what is made twice is a conflict, a status is written
//! apart. It records every request, so that rights can be compared with what is really asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, watch};
use tower_test::mock::SendResponse;

/// What was asked for: the verb, the API group, the resource with its subresource.
pub type Call = (String, String, String);

type Answer = UnsyncBoxBody<Bytes, Infallible>;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    versions: u64,
    calls: BTreeSet<Call>,
    writes: Vec<String>,
    /// What has changed, for watches that begin later than the list they follow.
    events: Vec<(u64, String, Value)>,
    watches: Vec<Watch>,
    /// Lists of these wait until the server is told to answer them.
    held: BTreeMap<String, watch::Receiver<bool>>,
}

struct Watch {
    of: Collection,
    send: mpsc::UnboundedSender<Value>,
}

/// Objects that are listed or watched together.
#[derive(Clone)]
struct Collection {
    path: String,
    label: Option<(String, String)>,
}

impl Collection {
    /// What a request without an object's name is about; `None` if it names one.
    fn of(uri: &http::Uri) -> Option<Self> {
        let query = uri.query().unwrap_or_default();
        let values = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        let is_one = values("limit").is_none() && values("labelSelector").is_none() && values("watch").is_none();
        let label = values("labelSelector").map(|text| text.replace("%2F", "/").replace("%3D", "=")).map(|text| {
            let (name, value) = text.split_once('=').expect("a label and its value");
            (name.to_owned(), value.to_owned())
        });
        (!is_one).then(|| Self { path: uri.path().to_owned(), label })
    }

    fn has(&self, path: &str, object: &Value) -> bool {
        let Some((folder, _)) = path.rsplit_once('/') else { return false };
        let is_here = folder == self.path || everywhere(folder).as_deref() == Some(&self.path);
        is_here && self.label.as_ref().is_none_or(|(name, value)| object["metadata"]["labels"][name] == *value)
    }
}

/// The path of the same collection in all namespaces.
fn everywhere(folder: &str) -> Option<String> {
    let (group, rest) = folder.split_once("/namespaces/")?;
    let (_, plural) = rest.split_once('/')?;
    Some(format!("{group}/{plural}"))
}

impl State {
    fn store(&mut self, path: &str, object: Value) {
        let kind = if self.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        self.tell(path, kind, &object);
        self.objects.insert(path.to_owned(), object);
    }

    fn remove(&mut self, path: &str) -> Option<Value> {
        let object = self.objects.remove(path)?;
        self.versions += 1;
        self.tell(path, "DELETED", &object);
        Some(object)
    }

    fn tell(&mut self, path: &str, kind: &str, object: &Value) {
        let event = json!({ "type": kind, "object": object });
        self.watches.retain(|watch| !watch.of.has(path, object) || watch.send.send(event.clone()).is_ok());
        self.events.push((self.versions, path.to_owned(), event));
    }

    fn list(&self, of: &Collection) -> Value {
        let items: Vec<&Value> =
            self.objects.iter().filter(|(path, object)| of.has(path, object)).map(|(_, object)| object).collect();
        json!({ "metadata": { "resourceVersion": self.versions.to_string() }, "items": items })
    }

    fn watch(&mut self, of: Collection, since: u64) -> mpsc::UnboundedReceiver<Value> {
        let (send, receive) = mpsc::unbounded_channel();
        for (version, path, event) in &self.events {
            if *version > since && of.has(path, &event["object"]) {
                send.send(event.clone()).expect("the receiver is here");
            }
        }
        self.watches.push(Watch { of, send });
        receive
    }
}

/// When a client's process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Before its write of this number reaches the server.
    Before(usize),
    /// After its write of this number was carried out, before it learns of that.
    After(usize),
}

/// The server; clones are the same one.
#[derive(Clone, Default)]
pub struct ApiServer(Arc<Mutex<State>>);

impl ApiServer {
    /// A client of it.
    pub fn client(&self) -> Client {
        self.mortal_client(None).0
    }

    /// A client whose process dies, and the news of that. Nothing of it is answered from then on.
    pub fn mortal_client(&self, death: Option<Death>) -> (Client, Arc<Notify>) {
        let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Answer>>();
        let (server, dead) = (self.clone(), Arc::new(Notify::new()));
        let news = dead.clone();
        tokio::spawn(async move {
            let mut writes = 0;
            while let Some((request, send)) = handle.next_request().await {
                writes += usize::from(request.method() != Method::GET);
                if death == Some(Death::Before(writes)) {
                    break;
                }
                if death == Some(Death::After(writes)) {
                    let (_unheard, nobody) = (send, server.carry_out(request).await);
                    drop(nobody);
                    break;
                }
                server.serve(request, send).await;
            }
            news.notify_one();
            // What is not answered must not look like an answer either.
            std::future::pending::<()>().await;
            drop(handle);
        });
        (Client::new(service, "default"), dead)
    }

    /// Keeps back the answers to lists of what lies at this path, until that is told to be over.
    pub fn hold_lists(&self, path: &str) -> watch::Sender<bool> {
        let (over, is_over) = watch::channel(false);
        self.state().held.insert(path.to_owned(), is_over);
        over
    }

    async fn serve(&self, request: Request<Body>, send: SendResponse<Response<Answer>>) {
        let held = Collection::of(request.uri()).and_then(|of| self.state().held.get(&of.path).cloned());
        match held {
            None => send.send_response(self.carry_out(request).await),
            Some(mut is_over) => {
                let server = self.clone();
                tokio::spawn(async move {
                    is_over.wait_for(|is_over| *is_over).await.expect("the test says so");
                    send.send_response(server.carry_out(request).await);
                });
            }
        }
    }

    async fn carry_out(&self, request: Request<Body>) -> Response<Answer> {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        if query.contains("watch=true") {
            let since = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion=")?.parse().ok());
            let of = Collection::of(&parts.uri).expect("a watch is of a collection");
            return self.watch(of, since.unwrap_or_default());
        }
        let body = body.collect_bytes().await.expect("a request's body");
        let (status, answer) = self.answer(&parts.method, &parts.uri, &body);
        let body = Full::from(answer.to_string()).boxed_unsync();
        Response::builder().status(status).body(body).expect("a response")
    }

    fn watch(&self, of: Collection, since: u64) -> Response<Answer> {
        let mut events = self.state().watch(of, since);
        let lines = stream::poll_fn(move |context| events.poll_recv(context))
            .map(|event| Ok::<_, Infallible>(Frame::data(Bytes::from(format!("{event}\n")))));
        Response::new(StreamBody::new(lines).boxed_unsync())
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
        state.store(path, object);
    }

    /// Takes an object away as if somebody else had.
    pub fn take(&self, path: &str) {
        self.state().remove(path);
    }

    /// All paths that contain a text.
    pub fn paths(&self, part: &str) -> Vec<String> {
        self.state().objects.keys().filter(|path| path.contains(part)).cloned().collect()
    }

    /// The writes since the last time this was asked.
    pub fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.state().writes)
    }

    /// Grows with each change.
    pub fn version(&self) -> u64 {
        self.state().versions
    }

    /// Everything that was ever asked for.
    pub fn calls(&self) -> BTreeSet<Call> {
        self.state().calls.clone()
    }

    fn answer(&self, method: &Method, uri: &http::Uri, body: &[u8]) -> (StatusCode, Value) {
        let path = uri.path().trim_end_matches('/').to_owned();
        let mut state = self.state();
        let collection = Collection::of(uri).filter(|_| method == Method::GET);
        state.calls.insert(call(method, &path, collection.is_some()));
        if method != Method::GET {
            state.writes.push(format!("{method} {path}"));
        }
        let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(body).expect("JSON") };
        match (method, collection) {
            (&Method::GET, Some(collection)) => (StatusCode::OK, state.list(&collection)),
            (&Method::GET, None) => {
                state.objects.get(&path).map_or_else(not_found, |found| (StatusCode::OK, found.clone()))
            }
            (&Method::POST, _) => create(&mut state, &path, body),
            (&Method::PATCH | &Method::PUT, _) => change(&mut state, &path, body),
            (&Method::DELETE, _) => state.remove(&path).map_or_else(not_found, |object| (StatusCode::OK, object)),
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
    state.store(&path, object.clone());
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
    state.store(path, object.clone());
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
