//! Whole connections between our own two sides, and a raw client where bytes matter.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use leasehold_foolscap::client::{self, Canary};
use leasehold_foolscap::{
    Argument, Call, CallError, Connection, ConnectionError, Constraint, Failure, Hold, Interface, Limits, Method,
    Names, NegotiationError, PeerCertificate, Referenceable, RemoteReference, Tub, Turn, Value,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::node::Node;
use crate::support::{HIGH, LOW, NAME, Notes, OneName, Raw, SERVER, certificate, serve, tub, tub_id, until};

static TOY: Interface = Interface {
    name: "RIToy",
    methods: &[
        Method { name: "echo", arguments: &[BYTES] },
        Method { name: "in_turn", arguments: &[BYTES] },
        Method { name: "wait", arguments: &[BYTES] },
        Method { name: "keep", arguments: &[Argument { name: "canary", takes: Constraint::Remote }] },
        Method { name: "drop", arguments: &[] },
        Method { name: "make", arguments: &[Argument { name: "count", takes: Constraint::Integer { bytes_max: 8 } }] },
        Method { name: "hold", arguments: &[] },
        Method { name: "take_back", arguments: &[Argument { name: "toy", takes: Constraint::Local }] },
        Method {
            name: "reserve",
            arguments: &[Argument { name: "bytes", takes: Constraint::Integer { bytes_max: 8 } }],
        },
        Method { name: "panic", arguments: &[] },
        Method { name: "fail", arguments: &[] },
    ],
};

const BYTES: Argument = Argument { name: "bytes", takes: Constraint::Bytes { min: 0, max: 8 << 20 } };

/// An object with a method for each thing that a test wants to see.
#[derive(Default)]
struct Toy {
    notes: Notes,
    gate: Arc<Notify>,
    canaries: Mutex<Vec<RemoteReference>>,
    holds: Mutex<Vec<Hold>>,
    connections: Mutex<Vec<Connection>>,
}

impl Referenceable for Toy {
    fn interface(&self) -> &'static Interface {
        &TOY
    }

    fn turn(&self, call: &Call) -> Turn {
        match call.method() {
            "in_turn" => Turn::Object,
            "wait" => Turn::Key(call.arguments()[0].as_bytes().unwrap().clone()),
            _ => Turn::Free,
        }
    }

    fn call(self: Arc<Self>, mut call: Call) -> BoxFuture<'static, Result<Value, Failure>> {
        async move {
            self.connections.lock().unwrap().push(call.connection().clone());
            match call.method() {
                "echo" => {
                    let [bytes] = call.take()?;
                    return Ok(bytes);
                }
                "in_turn" | "wait" => {
                    let word = String::from_utf8_lossy(call.arguments()[0].as_bytes()?).into_owned();
                    self.notes.say(format!("begin {word}"));
                    self.gate.notified().await;
                    self.notes.say(format!("end {word}"));
                }
                "keep" => self.canaries.lock().unwrap().push(call.arguments()[0].as_remote()?.clone()),
                "drop" => self.canaries.lock().unwrap().clear(),
                "make" => {
                    let count = call.arguments()[0].as_u64()?;
                    return Ok(Value::list((0..count).map(|_| toy(Arc::default()))));
                }
                "hold" => self.holds.lock().unwrap().push(call.connection().hold()),
                "take_back" => return Ok(call.take::<1>()?[0].clone()),
                "reserve" => call.reserve(call.arguments()[0].as_u64()?).await?,
                "panic" => panic!("as asked"),
                _ => return Err(Failure::new("builtins.ValueError", "as asked")),
            }
            Ok(Value::None)
        }
        .boxed()
    }
}

fn toy(toy: Arc<Toy>) -> Value {
    Value::from(toy as Arc<dyn Referenceable>)
}

struct World {
    server: Arc<Tub>,
    toy: Arc<Toy>,
    limits: Limits,
}

type Served = JoinHandle<Result<(), ConnectionError>>;

impl World {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        Self { server: tub(SERVER, "5e5e5e5e5e5e5e5e", limits), toy: Arc::default(), limits }
    }

    fn names(&self) -> Arc<dyn Names> {
        Arc::new(OneName(self.toy.clone()))
    }

    async fn connect(&self, id: &str, incarnation: &str) -> Result<(Connection, Served), NegotiationError> {
        let (stream, served) = serve(&self.server, Some(certificate(id)), self.names(), 1 << 16);
        let client = tub(id, incarnation, self.limits);
        Ok((client::connect(&client, stream, tub_id(SERVER)).await?, served))
    }

    /// A client that has asked for the toy.
    async fn client(&self) -> (Connection, RemoteReference, Served) {
        let (connection, served) = self.connect(LOW, "c1c1c1c1c1c1c1c1").await.unwrap();
        let toy = connection.find(NAME).await.unwrap();
        (connection, toy, served)
    }

    async fn raw(&self) -> (Raw, Served) {
        let (stream, served) = serve(&self.server, Some(certificate(LOW)), self.names(), 1 << 16);
        let mut raw = Raw::new(stream);
        raw.negotiate(LOW, "c1c1c1c1c1c1c1c1", "none 0").await;
        (raw, served)
    }
}

/// `call(request, clid, method, arguments(0, name, NAME))` as bytes.
fn call(request: u8, clid: u8, method: &str, arguments: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0x88, 0x0b, 0x87, request, 0x81, clid, 0x81, u8::try_from(method.len()).unwrap(), 0x82];
    bytes.extend_from_slice(method.as_bytes());
    bytes.extend_from_slice(&[1, 0x88, 0x0c, 0x87]);
    bytes.extend_from_slice(arguments);
    bytes.extend_from_slice(&[1, 0x89, 0, 0x89]);
    bytes
}

fn find() -> Vec<u8> {
    call(1, 0, "getReferenceByName", &[&[1, 0x81, 32, 0x82][..], NAME.as_bytes()].concat())
}

/// `my-reference(5, "")`, as canaries are.
const CANARY: &[u8] = &[1, 0x81, 2, 0x88, 0x0f, 0x87, 5, 0x81, 0, 0x82, 2, 0x89];

#[tokio::test]
async fn a_call_is_answered_in_both_master_roles() {
    for id in [LOW, HIGH] {
        let world = World::new();
        let (connection, served) = world.connect(id, "c1c1c1c1c1c1c1c1").await.unwrap();
        let toy = connection.find(NAME).await.unwrap();
        assert_eq!(toy.interface(), Some("RIToy"));
        for length in [0, 1, 4096, 4097, 3 << 20] {
            let bytes = Value::from(vec![7; length]);
            assert_eq!(toy.call("echo", vec![bytes.clone()]).await, Ok(bytes));
        }
        assert_eq!(world.toy.connections.lock().unwrap()[0].peer().tub_id, tub_id(id));
        connection.close();
        assert!(served.await.unwrap().is_ok());
    }
}

#[tokio::test]
async fn objects_travel_and_come_back() {
    let world = World::new();
    let (_connection, toy, _served) = world.client().await;
    let made = toy.call("make", vec![Value::from(2)]).await.unwrap();
    let [first, second] = made.items().unwrap() else { panic!("two objects") };
    assert_ne!(first, second);
    assert_eq!(toy.call("take_back", vec![first.clone()]).await.as_ref(), Ok(first));
    assert_eq!(first.as_remote().unwrap().call("echo", vec![Value::from(b"x")]).await, Ok(Value::from(b"x")));
}

#[tokio::test]
async fn calls_fail_each_in_its_way() {
    let world = World::new();
    let (connection, toy, _served) = world.client().await;
    let class = |result: Result<Value, CallError>| match result {
        Err(CallError::Failed(failure)) => failure.class().to_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(class(toy.call("fail", vec![]).await), "builtins.ValueError");
    assert_eq!(class(toy.call("panic", vec![]).await), "builtins.RuntimeError");
    assert_eq!(class(toy.call("nothing", vec![]).await), "foolscap.tokens.Violation");
    assert_eq!(class(toy.call("echo", vec![]).await), "foolscap.tokens.Violation");
    assert_eq!(class(toy.call("echo", vec![Value::from(vec![0; (8 << 20) + 1])]).await), "foolscap.tokens.Violation");
    match connection.find("zzz").await {
        Err(CallError::Failed(failure)) => {
            assert_eq!(failure.class(), "builtins.KeyError");
            assert_eq!(failure.value(), "\"unable to find reference for name starting with 'zz'\"");
        }
        other => panic!("{other:?}"),
    }
    static NUMBER: Constraint = Constraint::Integer { bytes_max: 8 };
    let wrong = toy.call_for("echo", vec![Value::from(b"x")], &NUMBER).await;
    assert!(matches!(wrong, Err(CallError::Violation(_))), "{wrong:?}");
    // None of that has hurt the connection.
    assert_eq!(toy.call("echo", vec![Value::from(b"x")]).await, Ok(Value::from(b"x")));
    connection.close();
    until(|| toy.call("echo", vec![]).now_or_never() == Some(Err(CallError::Lost))).await;
}

#[tokio::test]
async fn calls_wait_for_their_turn_and_no_longer() {
    let world = World::new();
    let (_connection, toy, _served) = world.client().await;
    let say = |method, word: &'static str| toy.call(method, vec![Value::from(word.as_bytes())]);
    let first = ["a", "b", "c"].map(|word| say("in_turn", word));
    let keyed = ["x", "x", "y"].map(|word| say("wait", word));
    let notes = world.toy.notes.clone();
    let gate = world.toy.gate.clone();
    let opening = async {
        until(|| notes.all().len() == 3).await;
        let mut begun = notes.all();
        begun.sort();
        assert_eq!(begun, ["begin a", "begin x", "begin y"]);
        // Each that ends lets the next of its queue begin.
        let mut ended = 0;
        while ended < 6 {
            gate.notify_one();
            ended += 1;
            until(|| notes.all().iter().filter(|note| note.starts_with("end")).count() == ended).await;
        }
    };
    let (in_turn, by_key, ()) = tokio::join!(join_all(first), join_all(keyed), opening);
    assert!(in_turn.iter().chain(&by_key).all(|result| *result == Ok(Value::None)));
    let notes = notes.all();
    let place = |word: &str| notes.iter().position(|note| note == word).unwrap();
    assert!(place("end a") < place("begin b") && place("end b") < place("begin c"));
}

#[tokio::test]
async fn an_answer_that_is_not_wanted_is_not_given() {
    let world = World::new();
    let (_connection, toy, _served) = world.client().await;
    toy.call_quietly("hold", vec![]).await.unwrap();
    toy.call_quietly("fail", vec![]).await.unwrap();
    toy.call_quietly("nothing", vec![]).await.unwrap();
    assert_eq!(toy.call("echo", vec![Value::from(b"x")]).await, Ok(Value::from(b"x")));
    assert_eq!(world.toy.holds.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn the_end_of_a_connection_is_told() {
    let world = World::new();
    for is_polite in [true, false] {
        let (connection, toy, served) = world.client().await;
        toy.call("keep", vec![Canary::value()]).await.unwrap();
        let lost = world.toy.connections.lock().unwrap().pop().unwrap().lost().clone();
        assert!(!lost.is_cancelled());
        if is_polite {
            connection.close()
        } else {
            world.server.close()
        }
        lost.cancelled().await;
        served.await.unwrap().unwrap();
        assert_eq!(toy.call("drop", vec![]).await, Err(CallError::Lost));
    }
}

#[tokio::test]
async fn a_call_that_runs_when_its_connection_ends_is_not_cancelled_but_queued_ones_are() {
    let world = World::new();
    let (connection, toy, _served) = world.client().await;
    for word in [b"a", b"b"] {
        toy.call_quietly("in_turn", vec![Value::from(word)]).await.unwrap();
    }
    until(|| world.toy.notes.all() == ["begin a"]).await;
    let lost = world.toy.connections.lock().unwrap()[0].lost().clone();
    connection.close();
    lost.cancelled().await;
    world.toy.gate.notify_one();
    until(|| world.toy.notes.all().contains(&"end a".to_owned())).await;
    assert_eq!(world.toy.notes.all(), ["begin a", "end a"]);
}

#[tokio::test]
async fn a_connection_that_is_no_longer_served_is_lost() {
    let world = World::new();
    let (_connection, toy, served) = world.client().await;
    toy.call("hold", vec![]).await.unwrap();
    let lost = world.toy.connections.lock().unwrap()[0].lost().clone();
    served.abort();
    lost.cancelled().await;
    assert_eq!(toy.call("hold", vec![]).await, Err(CallError::Lost));
}

#[tokio::test]
async fn a_canary_is_released_as_often_as_it_was_received() {
    let world = World::new();
    let (mut raw, _served) = world.raw().await;
    raw.send(&find()).await;
    raw.item().await.unwrap();
    for request in [2, 3] {
        raw.send(&call(request, 1, "keep", CANARY)).await;
        assert!(raw.item().await.unwrap().body("answer").is_some());
    }
    world.toy.canaries.lock().unwrap().pop();
    raw.send(&call(4, 1, "drop", &[0, 0x81])).await;
    let mut released = None;
    for _ in 0..2 {
        let item = raw.item().await.unwrap();
        if let Some(body) = item.body("call") {
            released = Some(body.to_vec());
        }
    }
    let arguments =
        [Node::Int(0), Node::Bytes(b"clid".to_vec()), Node::Int(5), Node::Bytes(b"count".to_vec()), Node::Int(2)];
    let expected = [
        Node::Int(0),
        Node::Int(0),
        Node::Bytes(b"decref".to_vec()),
        Node::Sequence("arguments".to_owned(), arguments.to_vec()),
    ];
    assert_eq!(released.unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_asked_and_then_lost() {
    let world = World::new();
    let (mut raw, served) = world.raw().await;
    raw.send(&find()).await;
    raw.item().await.unwrap();
    for _ in 0..3 {
        assert_eq!(raw.item().await, Some(Node::Token("PING")));
    }
    // A sign of life, and the time begins anew.
    raw.send(&[0x8f]).await;
    for _ in 0..3 {
        assert_eq!(raw.item().await, Some(Node::Token("PING")));
    }
    raw.end().await;
    assert!(matches!(served.await.unwrap(), Err(ConnectionError::Silent)));
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_read_is_lost() {
    let world = World::new();
    let (mut raw, served) = world.raw().await;
    raw.send(&find()).await;
    raw.item().await.unwrap();
    let big = [&[1, 0x81, 0, 0, 0x40, 0x82][..], &vec![7; 1 << 20]].concat();
    raw.send(&call(2, 1, "echo", &big)).await;
    assert!(matches!(served.await.unwrap(), Err(ConnectionError::Silent)));
}

#[tokio::test(start_paused = true)]
async fn a_stranger_has_little_time_and_few_words() {
    let last = |raw: Raw, served: Served| async move {
        let mut raw = raw;
        let mut items = Vec::new();
        while let Some(item) = raw.item().await {
            items.push(item);
        }
        assert_eq!(items.pop(), Some(Node::Error));
        assert!(matches!(served.await.unwrap(), Err(ConnectionError::Protocol(_))));
        items.len()
    };
    let world = World::new();
    let (raw, served) = world.raw().await;
    assert_eq!(last(raw, served).await, 1, "a PING, and the end after 60 s");

    let (mut raw, served) = world.raw().await;
    for request in 1..=21 {
        raw.send(&call(request, 0, "getReferenceByName", b"\x01\x81\x03\x82abc")).await;
    }
    assert!(last(raw, served).await <= 20);

    let (mut raw, served) = world.raw().await;
    raw.send(&call(1, 0, "getReferenceByName", b"\x01\x81\x00\x40\x82")[..40]).await;
    assert_eq!(last(raw, served).await, 0, "8 KiB are too much, even of what is not stored");
}

#[tokio::test]
async fn a_client_that_hurries_waits() {
    let world = World::with(Limits { calls_max: 2, ..Limits::default() });
    let (_connection, toy, _served) = world.client().await;
    let calls = ["a", "b", "c", "d", "e"].map(|word| toy.call("wait", vec![Value::from(word.as_bytes())]));
    let notes = world.toy.notes.clone();
    let opening = async {
        until(|| notes.all().len() == 2).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(notes.all().len(), 2, "two at a time");
        for ended in 1..=5 {
            world.toy.gate.notify_one();
            until(|| notes.all().iter().filter(|note| note.starts_with("end")).count() == ended).await;
        }
    };
    let (results, ()) = tokio::join!(join_all(calls), opening);
    assert_eq!(results.len(), 5);
}

#[tokio::test]
async fn a_large_call_waits_for_memory_and_a_larger_one_fails() {
    let world = World::new();
    let (_connection, toy, _served) = world.client().await;
    let too_much = toy.call("reserve", vec![Value::from(257_u64 << 20)]).await;
    assert!(matches!(too_much, Err(CallError::Failed(_))), "{too_much:?}");
    for _ in 0..10 {
        // Each gives back what it took.
        assert_eq!(toy.call("reserve", vec![Value::from(200_u64 << 20)]).await, Ok(Value::None));
    }
    let many = join_all((0..4).map(|_| toy.call("reserve", vec![Value::from(200_u64 << 20)]))).await;
    assert!(many.iter().all(Result::is_ok), "{many:?}");
}

#[tokio::test]
async fn a_drained_connection_closes_when_it_is_idle() {
    let world = World::new();
    let (_connection, toy, served) = world.client().await;
    let (_other, other_served) = world.connect(HIGH, "c2c2c2c2c2c2c2c2").await.unwrap();
    toy.call("hold", vec![]).await.unwrap();
    let calling = {
        let toy = toy.clone();
        tokio::spawn(async move { toy.call("wait", vec![Value::from(b"a")]).await })
    };
    until(|| world.toy.notes.all() == ["begin a"]).await;
    world.server.drain();
    other_served.await.unwrap().unwrap();
    assert!(world.connect("2222222222222222222222222222222a", "c3c3c3c3c3c3c3c3").await.is_err());
    // A client that decides by itself learns it a moment later.
    let (late, _) = world.connect(HIGH, "c3c3c3c3c3c3c3c3").await.unwrap();
    assert!(matches!(late.find(NAME).await, Err(CallError::Lost)));
    world.toy.gate.notify_one();
    assert_eq!(calling.await.unwrap(), Ok(Value::None));
    assert_eq!(toy.call("echo", vec![Value::from(b"x")]).await, Ok(Value::from(b"x")), "something holds it");
    world.toy.holds.lock().unwrap().clear();
    served.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_retired_connection_closes_when_it_has_rested() {
    let world = World::new();
    let (connection, toy, served) = world.client().await;
    toy.call("hold", vec![]).await.unwrap();
    world.toy.connections.lock().unwrap()[0].retire();
    let rest = world.limits.retired_rest;
    tokio::time::sleep(rest * 3).await;
    assert!(!connection.lost().is_cancelled(), "something holds it");
    world.toy.holds.lock().unwrap().clear();
    for _ in 0..5 {
        tokio::time::sleep(rest / 2).await;
        assert_eq!(toy.call("echo", vec![Value::from(b"x")]).await, Ok(Value::from(b"x")), "it is in use");
    }
    let began = tokio::time::Instant::now();
    served.await.unwrap().unwrap();
    assert!(began.elapsed() >= rest);
    let (_again, _) = world.connect(LOW, "c1c1c1c1c1c1c1c1").await.expect("the client may come back");
}

#[tokio::test]
async fn too_many_objects_fail_the_call_that_gives_them() {
    let world = World::with(Limits { references_max: 10, ..Limits::default() });
    let (_connection, toy, _served) = world.client().await;
    let nine = toy.call("make", vec![Value::from(9)]).await.unwrap();
    assert!(matches!(toy.call("make", vec![Value::from(1)]).await, Err(CallError::Failed(_))));
    drop(nine);
    // They are given back by and by.
    let mut result = toy.call("make", vec![Value::from(9)]).await;
    while result.is_err() {
        result = toy.call("make", vec![Value::from(9)]).await;
    }
}

#[tokio::test]
async fn a_new_connection_replaces_the_old_one_of_the_same_client() {
    for id in [LOW, HIGH] {
        let world = World::new();
        let (first, first_served) = world.connect(id, "c1c1c1c1c1c1c1c1").await.unwrap();
        first.find(NAME).await.unwrap();
        let (second, _second_served) = world.connect(id, "c2c2c2c2c2c2c2c2").await.unwrap();
        first_served.await.unwrap().unwrap();
        second.find(NAME).await.unwrap();
    }
}

#[tokio::test]
async fn a_weak_key_replaces_nothing() {
    let world = World::new();
    let weak = || Some(PeerCertificate { is_strong: false, ..certificate(LOW) });
    let mut connections = Vec::new();
    for incarnation in ["c1c1c1c1c1c1c1c1", "c2c2c2c2c2c2c2c2"] {
        let (stream, served) = serve(&world.server, weak(), world.names(), 1 << 16);
        let client = tub(LOW, incarnation, world.limits);
        connections.push((client::connect(&client, stream, tub_id(SERVER)).await.unwrap(), served));
    }
    for (connection, _) in &connections {
        connection.find(NAME).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_negotiation_ends_in_time() {
    let world = World::new();
    let (stream, served) = serve(&world.server, Some(certificate(LOW)), world.names(), 1 << 16);
    let mut raw = Raw::new(stream);
    raw.block().await;
    let ended = tokio::time::timeout(Duration::from_secs(61), served).await.unwrap().unwrap();
    assert!(matches!(ended, Err(ConnectionError::Negotiation(NegotiationError::TimedOut))));
}
