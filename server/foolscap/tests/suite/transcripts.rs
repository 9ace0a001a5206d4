//! What real clients said to a real server, said again to ours, in both master roles.

use std::sync::Arc;

use leasehold_foolscap::Limits;
use serde_json::Value as Json;

use crate::node::{Node, unhex};
use crate::script::Script;
use crate::support::{DECISION, HIGH, LOW, OneName, PATIENCE, Raw, SERVER, certificate, serve, tub};

struct Transcript {
    name: &'static str,
    json: Json,
}

macro_rules! transcript {
    ($name:literal) => {
        Transcript {
            name: $name,
            json: serde_json::from_str(include_str!(concat!("../vectors/transcripts/", $name, ".json"))).unwrap(),
        }
    };
}

/// Who decides: whoever did in the transcript, or always the client.
#[derive(Clone, Copy, PartialEq)]
enum Master {
    AsRecorded,
    Client,
}

/// A message of a transcript.
struct Message<'a> {
    is_ours: bool,
    kind: &'a str,
    json: &'a Json,
}

impl Message<'_> {
    fn bytes(&self) -> Vec<u8> {
        unhex(self.json["hex"].as_str().unwrap())
    }

    fn node(&self) -> Node {
        Node::from_json(&self.json["decoded"])
    }
}

/// What was sent too late to be complete stands behind the answer that it got; it is moved before it.
fn messages(connection: &Json) -> Vec<Message<'_>> {
    let mut messages = Vec::new();
    for json in connection["messages"].as_array().unwrap() {
        if let (Some(kind), Some(direction)) = (json["kind"].as_str(), json["dir"].as_str()) {
            let message = Message { is_ours: direction == "c2s", kind, json };
            let last = messages.len().saturating_sub(1);
            if kind == "incomplete" { messages.insert(last, message) } else { messages.push(message) }
        }
    }
    messages
}

fn is_closed_by_server(connection: &Json) -> bool {
    connection["messages"].as_array().unwrap().iter().any(|message| message["note"] == "server closes")
}

fn client_id(connection: &Json) -> &str {
    let hello = messages(connection).into_iter().find(|message| message.is_ours && message.kind == "hello");
    match hello.and_then(|hello| hello.json["block"]["my-tub-id"].as_str()) {
        Some(HIGH) => HIGH,
        _ => LOW,
    }
}

async fn replay(transcript: &Transcript, master: Master) {
    // Wall time passes while a slow machine replays; it must not decide which connection survives.
    let limits = Limits { replaced_after: PATIENCE * 60, ..Limits::default() };
    let tub = tub(SERVER, "5e5e5e5e5e5e5e5e", limits);
    let mut open = Vec::new();
    for connection in transcript.json["connections"].as_array().unwrap() {
        let title = format!("{}: {}", transcript.name, connection["title"]);
        let messages = messages(connection);
        let of = |is_ours| {
            let banana = messages.iter().filter(|message| message.kind == "banana" && message.is_ours == is_ours);
            banana.map(Message::node).collect::<Vec<_>>()
        };
        let script = Script::new(&of(true), &of(false));
        let client = if master == Master::Client { HIGH } else { client_id(connection) };
        let has_certificate = !title.contains("without a certificate");
        let certificate = has_certificate.then(|| certificate(client));
        let (stream, _task) = serve(&tub, certificate, Arc::new(OneName(script.storage())), 1 << 20);
        let mut raw = Raw::new(stream);
        let mut waiting = Vec::new();
        for message in messages.iter().filter(|message| message.kind != "plaintext") {
            if message.is_ours {
                let mut bytes = message.bytes();
                if master == Master::Client && message.kind == "hello" {
                    bytes = String::from_utf8(bytes).unwrap().replace(LOW, HIGH).into_bytes();
                    bytes.extend_from_slice(DECISION.as_bytes());
                } else if master == Master::Client && message.kind == "decision" {
                    continue;
                }
                raw.send(&bytes).await;
            } else {
                expect(&mut raw, message, master, &mut waiting, &title).await;
            }
        }
        let is_replaced = transcript.name == "duplicates";
        if is_closed_by_server(connection) && !is_replaced {
            raw.end().await;
        } else {
            open.push((raw, is_closed_by_server(connection)));
        }
    }
    for (mut raw, is_closed) in open {
        if is_closed {
            raw.end().await;
        }
    }
}

/// Waits for what the real server said.
async fn expect(raw: &mut Raw, message: &Message<'_>, master: Master, waiting: &mut Vec<Node>, title: &str) {
    match message.kind {
        "decision" if master == Master::Client => {}
        "hello" | "decision" => {
            let expected = String::from_utf8(message.bytes()).unwrap();
            assert_eq!(raw.block().await + "\r\n\r\n", expected, "{title}");
        }
        _ => {
            let expected = message.node();
            if expected.body("call").is_some() {
                return; // A `decref`, which we send without waiting for its answer, when the canary is dropped.
            }
            loop {
                if let Some(place) = waiting.iter().position(|found| is_same_answer(found, &expected)) {
                    let found = waiting.remove(place);
                    return assert_eq!(plain(&found), plain(&expected), "{title}");
                }
                let found = raw.item().await.unwrap_or_else(|| panic!("{title}: closed instead of {expected:?}"));
                waiting.push(found);
            }
        }
    }
}

/// Whether both answer the same request. Answers may come in any order.
fn is_same_answer(found: &Node, expected: &Node) -> bool {
    match (found, expected) {
        (Node::Sequence(kind, found), Node::Sequence(expected_kind, expected)) => {
            let is_answer = |kind: &str| kind == "answer" || kind == "error";
            is_answer(kind) && is_answer(expected_kind) && found.first() == expected.first()
        }
        _ => found == expected,
    }
}

/// What must be the same: not FURLs of buckets, and of a failure its type and, unless it is a violation, its value.
fn plain(node: &Node) -> Node {
    match node {
        Node::Sequence(kind, body) if kind == "my-reference" && body.first() != Some(&Node::Int(1)) => {
            Node::Sequence(kind.clone(), body.iter().take(2).cloned().collect())
        }
        Node::Sequence(kind, _) if kind.starts_with("copyable/") => {
            let class = node.attribute("type").unwrap();
            assert!(node.attribute("traceback").is_some());
            let value = if class.ends_with("Violation") { String::new() } else { node.attribute("value").unwrap() };
            Node::Sequence(kind.clone(), vec![Node::Bytes(class.into()), Node::Bytes(value.into())])
        }
        // The storage server reported a conflicting write as a value; objects of ours fail.
        Node::Sequence(kind, body) => {
            let is_failure = body.len() == 2 && body[1].attribute("type").is_some();
            let kind = if kind == "answer" && is_failure { "error" } else { kind };
            Node::Sequence(kind.to_owned(), body.iter().map(plain).collect())
        }
        other => other.clone(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_calls_are_understood_and_answered_as_recorded() {
    for transcript in [
        transcript!("add-lease"),
        transcript!("immutable-abort"),
        transcript!("immutable-read"),
        transcript!("immutable-write"),
        transcript!("mutable"),
        transcript!("pipelined"),
        transcript!("ping-decref"),
        transcript!("disconnect"),
        transcript!("negotiation-server-master"),
        transcript!("negotiation-client-master"),
    ] {
        replay(&transcript, Master::AsRecorded).await;
        replay(&transcript, Master::Client).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn violations_fail_one_call() {
    let transcript = transcript!("violations");
    replay(&transcript, Master::AsRecorded).await;
    replay(&transcript, Master::Client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_the_protocol_ends_the_connection() {
    let mut transcript = transcript!("fatal");
    let connections = transcript.json["connections"].as_array_mut().unwrap();
    // The library dies of an `immutable-set`; we take it.
    let all = connections.len();
    connections.retain(|connection| !connection["title"].as_str().unwrap().starts_with("immutable-set"));
    assert_eq!(connections.len(), all - 1);
    replay(&transcript, Master::AsRecorded).await;
    replay(&transcript, Master::Client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hellos_are_refused_in_the_same_words() {
    replay(&transcript!("refused-hello"), Master::AsRecorded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_connection_of_a_client_survives() {
    replay(&transcript!("duplicates"), Master::AsRecorded).await;
}

#[tokio::test]
async fn requests_in_clear_text_are_answered_in_the_same_words() {
    for transcript in [transcript!("refused-plaintext"), transcript!("negotiation-server-master")] {
        let tub = tub(SERVER, "5e5e5e5e5e5e5e5e", Limits::default());
        for connection in transcript.json["connections"].as_array().unwrap() {
            let (mut ours, theirs) = tokio::io::duplex(1 << 16);
            let server = tub.clone();
            let task = tokio::spawn(async move { server.upgrade(&mut ours).await });
            let mut raw = Raw::new(theirs);
            for message in messages(connection).iter().filter(|message| message.kind != "hello") {
                match (message.kind, message.is_ours) {
                    ("plaintext" | "incomplete", true) => raw.send(&message.bytes()).await,
                    ("plaintext", false) => {
                        let expected = String::from_utf8(message.bytes()).unwrap();
                        assert_eq!(raw.block().await + "\r\n\r\n", expected, "{}", connection["title"]);
                    }
                    _ => break,
                }
            }
            assert_eq!(task.await.unwrap().is_err(), is_closed_by_server(connection), "{}", connection["title"]);
        }
    }
}
