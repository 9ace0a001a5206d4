//! An established connection: its tasks read, run calls and write, until one of them ends or somebody closes it.
//!
//! Source: `foolscap.md` 7, 8, 10 and 11.

mod reader;
mod requests;
mod turns;
mod writer;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::call::Names;
use crate::failure::{Failure, Violation};
use crate::furl::TubId;
use crate::limits::Limits;
use crate::memory::{Budget, Held};
use crate::reference::{References, RemoteReference};
use crate::schema::{Argument, Constraint, Interface, Method};
use crate::unslicer::{Fatal, Objects};
use crate::value::{LocalReference, Value};
use crate::vocabulary::Vocabulary;
use reader::Reader;
pub use requests::CallError;
use requests::Requests;
use writer::Writer;

/// How long the last words of a connection may take.
const FAREWELL: Duration = Duration::from_secs(5);
/// Messages that wait to be written; whoever has more to say waits.
const OUTGOING_MAX: usize = 64;

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its tub id, proven by TLS.
    pub tub_id: TubId,
    /// Its run, as it says.
    pub incarnation: Option<String>,
    /// Our number of the connection; later ones have greater numbers.
    pub number: u64,
    /// Whether its key is large enough to be trusted with its other connections.
    pub is_strong: bool,
}

/// Why a connection ended, if not in peace.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The network.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// The other side broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Protocol(#[from] Fatal),
    /// The other side says that we did.
    #[error("the peer ended the connection: {0}")]
    LastWords(String),
    /// Nothing came for too long, or nothing could be sent.
    #[error("the peer is silent")]
    Silent,
    /// It did not come about.
    #[error("negotiation failed")]
    Negotiation(#[from] crate::tub::NegotiationError),
}

/// A connection; clones are the same one.
#[derive(Clone)]
pub struct Connection(Arc<Shared>);

struct Shared {
    peer: Peer,
    limits: Limits,
    /// Who we are and where, for the FURLs of named objects.
    address: Option<(TubId, String)>,
    outgoing: mpsc::Sender<Outgoing>,
    releases: mpsc::UnboundedSender<(u64, u64)>,
    references: Mutex<References>,
    requests: Mutex<Requests>,
    /// Calls of the other side that were not answered yet.
    unanswered: Mutex<HashSet<u64>>,
    has_called: AtomicBool,
    /// Whether the other side knew the name of an object.
    has_name: AtomicBool,
    heard: Mutex<Instant>,
    busy: watch::Sender<usize>,
    retired: CancellationToken,
    closing: CancellationToken,
    lost: CancellationToken,
}

/// While it lives its connection is not idle.
#[derive(Debug)]
pub struct Hold(watch::Sender<usize>);

impl Hold {
    fn new(busy: &watch::Sender<usize>) -> Self {
        busy.send_modify(|count| *count += 1);
        Self(busy.clone())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// What a reference needs of its connection, without keeping it alive.
#[derive(Clone, Default)]
pub(crate) struct Link {
    shared: Weak<Shared>,
}

impl Link {
    /// Tells the other side that it may forget an object.
    pub(crate) fn release(&self, clid: u64, count: u64) {
        if let Some(shared) = self.shared.upgrade() {
            // Nobody listens any more if the connection has ended.
            let _ = shared.releases.send((clid, count));
        }
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.shared.ptr_eq(&other.shared)
    }

    fn connection(&self) -> Option<Connection> {
        self.shared.upgrade().map(Connection)
    }
}

/// What is to be written.
enum Outgoing {
    Answer { request: u64, result: Result<Value, Failure>, name: Option<Bytes>, _charge: Option<Charge> },
    Call { request: u64, clid: u64, method: String, positional: Vec<Value>, named: Vec<(&'static str, Value)> },
    Ping,
    Pong(u64),
    End { last_words: Option<String> },
}

/// What a call occupies until its answer is written.
struct Charge {
    _slot: OwnedSemaphorePermit,
    _part: Option<OwnedSemaphorePermit>,
    _held: Arc<Held>,
    _hold: Hold,
}

/// What a connection begins with.
pub(crate) struct Setting {
    pub peer: Peer,
    pub limits: Limits,
    pub address: Option<(TubId, String)>,
    /// Whether the other side is trusted without the name of an object.
    pub is_trusted: bool,
}

/// The ends of a connection's channels that its tasks hold.
pub(crate) struct Ends {
    outgoing: mpsc::Receiver<Outgoing>,
    releases: mpsc::UnboundedReceiver<(u64, u64)>,
}

/// What the tasks of a connection work with.
pub(crate) struct Surroundings {
    pub vocabulary: Vocabulary,
    /// Bytes that came behind the negotiation.
    pub input: BytesMut,
    pub names: Arc<dyn Names>,
    pub memory: Budget,
    pub draining: CancellationToken,
}

impl Connection {
    pub(crate) fn new(setting: Setting) -> (Self, Ends) {
        let (outgoing, outgoing_end) = mpsc::channel(OUTGOING_MAX);
        let (releases, releases_end) = mpsc::unbounded_channel();
        let shared = Shared {
            peer: setting.peer,
            address: setting.address,
            outgoing,
            releases,
            references: Mutex::new(References::new(setting.limits.references_max)),
            limits: setting.limits,
            requests: Mutex::default(),
            unanswered: Mutex::default(),
            has_called: AtomicBool::new(false),
            has_name: AtomicBool::new(setting.is_trusted),
            heard: Mutex::new(Instant::now()),
            busy: watch::Sender::new(0),
            retired: CancellationToken::new(),
            closing: CancellationToken::new(),
            lost: CancellationToken::new(),
        };
        (Self(Arc::new(shared)), Ends { outgoing: outgoing_end, releases: releases_end })
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.0.peer
    }

    /// Cancelled when the connection has ended, however it did. What lives only as long as the connection ends then.
    pub fn lost(&self) -> &CancellationToken {
        &self.0.lost
    }

    /// Keeps the connection from being idle, and so from being closed by [`crate::tub::Tub::drain`].
    pub fn hold(&self) -> Hold {
        Hold::new(&self.0.busy)
    }

    /// Ends the connection when it has rested for a while, so that the client makes a new one, perhaps to another process
    /// of this Tub (`foolscap.md` 18.8).
    pub fn retire(&self) {
        self.0.retired.cancel();
    }

    /// Ends the connection. It counts as lost at once.
    pub fn close(&self) {
        self.0.lost.cancel();
        self.0.closing.cancel();
    }

    /// Asks the other side for the object of a name.
    ///
    /// # Errors
    /// It has none, or does not answer.
    pub async fn find(&self, name: &str) -> Result<RemoteReference, CallError> {
        let named = vec![("name", Value::from(name.as_bytes()))];
        let call = OutgoingCall { clid: 0, method: "getReferenceByName", positional: Vec::new(), named };
        let value = self.ask(call, &Constraint::Remote).await?;
        Ok(value.as_remote()?.clone())
    }

    /// Whether a call ever came.
    pub(crate) fn has_called(&self) -> bool {
        self.0.has_called.load(Ordering::Relaxed)
    }

    /// For how long nothing was received.
    pub(crate) fn silent_for(&self) -> Duration {
        lock(&self.0.heard).elapsed()
    }

    async fn ask(&self, call: OutgoingCall, takes: &'static Constraint) -> Result<Value, CallError> {
        let (request, answer) = lock(&self.0.requests).begin(takes);
        let OutgoingCall { clid, method, positional, named } = call;
        let message = Outgoing::Call { request, clid, method: method.to_owned(), positional, named };
        if self.0.outgoing.send(message).await.is_err() {
            lock(&self.0.requests).forget(request);
            return Err(CallError::Lost);
        }
        answer.await.unwrap_or(Err(CallError::Lost))
    }

    async fn answer(&self, request: u64, result: Result<Value, Failure>, name: Option<Bytes>, charge: Option<Charge>) {
        lock(&self.0.unanswered).remove(&request);
        if request != 0 {
            // Nobody listens any more if the connection has ended.
            let _ = self.0.outgoing.send(Outgoing::Answer { request, result, name, _charge: charge }).await;
        }
    }

    /// Waits until nothing is under way, and nothing begins for this long.
    async fn rest(&self, pause: Duration) {
        let mut busy = self.0.busy.subscribe();
        // The sender lives as long as the connection.
        while busy.wait_for(|count| *count == 0).await.is_ok() {
            if tokio::time::timeout(pause, busy.changed()).await.is_err() {
                return;
            }
        }
    }

    fn furl(&self, name: &[u8]) -> Option<String> {
        let (tub_id, location) = self.0.address.as_ref()?;
        Some(format!("pb://{tub_id}@{location}/{}", std::str::from_utf8(name).ok()?))
    }

    /// Serves the connection until it ends.
    pub(crate) async fn run<S>(self, stream: S, ends: Ends, surroundings: Surroundings) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Send,
    {
        let Surroundings { vocabulary, input, names, memory, draining } = surroundings;
        // Also when whoever serves it stops doing so.
        let _lost = self.0.lost.clone().drop_guard();
        let (read_half, write_half) = tokio::io::split(stream);
        let writing = Writer::new(self.clone(), vocabulary, ends).run(write_half);
        let reading = Reader::new(self.clone(), vocabulary, names, memory).run(read_half, input);
        let mut writing = std::pin::pin!(writing);
        let drained = async {
            draining.cancelled().await;
            self.rest(Duration::ZERO).await;
        };
        let retired = async {
            self.0.retired.cancelled().await;
            self.rest(self.0.limits.retired_rest).await;
        };
        let (result, is_there) = tokio::select! {
            biased;
            () = self.0.closing.cancelled() => (Ok(()), true),
            result = reading => { let is_there = result.is_err(); (result, is_there) }
            result = &mut writing => (result, false),
            () = drained => (Ok(()), true),
            () = retired => (Ok(()), true),
        };
        self.0.lost.cancel();
        if is_there {
            let last_words = match &result {
                Err(ConnectionError::Protocol(fatal)) => Some(fatal.to_string()),
                _ => None,
            };
            let farewell = async {
                if self.0.outgoing.send(Outgoing::End { last_words }).await.is_ok() {
                    let _ = writing.await;
                }
            };
            let _ = tokio::time::timeout(FAREWELL, farewell).await;
        }
        lock(&self.0.requests).clear();
        let forgotten = lock(&self.0.references).clear();
        drop(forgotten);
        result
    }
}

impl RemoteReference {
    /// Calls a method with arguments by their place, and waits for its answer.
    ///
    /// # Errors
    /// The call fails, or the connection ends.
    pub async fn call(&self, method: &'static str, arguments: Vec<Value>) -> Result<Value, CallError> {
        self.call_for(method, arguments, &Constraint::Any).await
    }

    /// The same for an answer of a certain kind.
    ///
    /// # Errors
    /// The call fails, its answer is of another kind, or the connection ends.
    pub async fn call_for(
        &self,
        method: &'static str,
        arguments: Vec<Value>,
        takes: &'static Constraint,
    ) -> Result<Value, CallError> {
        let connection = self.link().connection().ok_or(CallError::Lost)?;
        let call = OutgoingCall { clid: self.clid(), method, positional: arguments, named: Vec::new() };
        connection.ask(call, takes).await
    }

    /// Calls a method that shall not be answered.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn call_quietly(&self, method: &'static str, arguments: Vec<Value>) -> Result<(), CallError> {
        let connection = self.link().connection().ok_or(CallError::Lost)?;
        let message = Outgoing::Call {
            request: 0,
            clid: self.clid(),
            method: method.to_owned(),
            positional: arguments,
            named: Vec::new(),
        };
        connection.0.outgoing.send(message).await.map_err(|_| CallError::Lost)
    }
}

struct OutgoingCall {
    clid: u64,
    method: &'static str,
    positional: Vec<Value>,
    named: Vec<(&'static str, Value)>,
}

/// The interface of object 0: the connection itself.
static BROKER: Interface = Interface {
    name: "RIBroker",
    methods: &[
        Method { name: "getReferenceByName", arguments: &[Argument { name: "name", takes: NAME }] },
        Method {
            name: "decref",
            arguments: &[Argument { name: "clid", takes: NUMBER }, Argument { name: "count", takes: NUMBER }],
        },
        Method {
            name: "decgift",
            arguments: &[Argument { name: "giftID", takes: NUMBER }, Argument { name: "count", takes: NUMBER }],
        },
    ],
};
const NAME: Constraint = Constraint::Bytes { min: 0, max: 200 };
const NUMBER: Constraint = Constraint::Integer { bytes_max: 1024 };

impl Objects for Connection {
    fn interface(&self, clid: u64) -> Option<&'static Interface> {
        if clid == 0 { Some(&BROKER) } else { self.local(clid).map(|object| object.0.interface()) }
    }

    fn local(&self, clid: u64) -> Option<LocalReference> {
        lock(&self.0.references).local(clid).map(LocalReference)
    }

    fn remote(&self, clid: u64, interface: Option<Bytes>) -> Result<RemoteReference, Violation> {
        let link = Link { shared: Arc::downgrade(&self.0) };
        lock(&self.0.references).receive(clid, interface, &link)
    }

    fn is_unanswered(&self, request: u64) -> bool {
        lock(&self.0.unanswered).contains(&request)
    }

    fn awaited(&self, request: u64) -> Option<&'static Constraint> {
        lock(&self.0.requests).awaited(request)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.0.peer).finish()
    }
}

/// A panic in another task leaves nothing half done under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
