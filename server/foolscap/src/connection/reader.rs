//! The one task that reads from a connection and begins the calls that come.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::turns::Turns;
use super::{Charge, Connection, ConnectionError, Outgoing, lock};
use crate::call::{Call, Names, Referenceable};
use crate::failure::{Failure, Violation};
use crate::memory::{Budget, Held};
use crate::unslicer::{Fatal, IncomingCall, Step, Unslicer};
use crate::value::Value;
use crate::vocabulary::Vocabulary;

const READ_BYTES: usize = 16 << 10;

pub(super) struct Reader {
    connection: Connection,
    unslicer: Unslicer,
    names: Arc<dyn Names>,
    turns: Turns,
    /// Calls that may begin.
    slots: Arc<Semaphore>,
    /// Memory of this connection's calls.
    parts: Budget,
    /// Memory of all connections' calls.
    memory: Budget,
    /// What the message that is being read has taken of it.
    held: Held,
    calls_before_name: u32,
    began: Instant,
}

impl Reader {
    pub fn new(connection: Connection, vocabulary: Vocabulary, names: Arc<dyn Names>, memory: Budget) -> Self {
        let limits = &connection.0.limits;
        Self {
            unslicer: Unslicer::new(vocabulary, limits.unnamed_sizes),
            names,
            turns: Turns::default(),
            slots: Arc::new(Semaphore::new(limits.calls_max)),
            parts: Budget::new(limits.calls_bytes_max),
            held: memory.hold_nothing(),
            memory,
            calls_before_name: 0,
            began: Instant::now(),
            connection,
        }
    }

    /// Reads until the other side has nothing more to say.
    pub async fn run(mut self, mut stream: impl AsyncRead + Unpin, mut input: BytesMut) -> Result<(), ConnectionError> {
        loop {
            loop {
                if self.has_name() {
                    self.unslicer.set_limits(self.connection.0.limits.sizes);
                }
                let Some(step) = self.unslicer.step(&mut input, &self.connection)? else { break };
                self.handle(step).await?;
            }
            if self.read(&mut stream, &mut input).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Waits for bytes; a silent peer is asked for a sign of life.
    async fn read(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        input: &mut BytesMut,
    ) -> Result<usize, ConnectionError> {
        let limits = &self.connection.0.limits;
        let lost_at = Instant::now() + limits.lost_after;
        let unnamed_until = self.began + limits.unnamed_time_max;
        input.reserve(READ_BYTES);
        loop {
            let now = Instant::now();
            let mut wake_at = lost_at.min(now + limits.ping_after);
            if !self.has_name() {
                wake_at = wake_at.min(unnamed_until);
            }
            if let Ok(count) = tokio::time::timeout_at(wake_at, stream.read_buf(input)).await {
                *lock(&self.connection.0.heard) = Instant::now();
                return Ok(count?);
            }
            let now = Instant::now();
            if now >= lost_at {
                return Err(ConnectionError::Silent);
            }
            if now >= unnamed_until && !self.has_name() {
                return Err(Fatal::new("no object was asked for in time").into());
            }
            // If the queue is full, enough is being said.
            let _ = self.connection.0.outgoing.try_send(Outgoing::Ping);
        }
    }

    async fn handle(&mut self, step: Step) -> Result<(), ConnectionError> {
        match step {
            Step::Ping(number) => {
                // Nobody listens any more if the connection has ended.
                let _ = self.connection.0.outgoing.send(Outgoing::Pong(number)).await;
            }
            Step::LastWords(text) => return Err(ConnectionError::LastWords(text)),
            Step::Reserve(bytes) => match self.held.reserve(bytes).await {
                Ok(()) => self.unslicer.grant(bytes),
                Err(violation) => self.unslicer.refuse(violation),
            },
            Step::Call(call) => {
                self.count_call()?;
                self.call(call).await;
            }
            Step::CallViolated { request, violation } => {
                self.count_call()?;
                self.held = self.memory.hold_nothing();
                self.connection.answer(request, Err(violation.into()), None, None).await;
            }
            Step::Answer { request, answer } => {
                self.held = self.memory.hold_nothing();
                lock(&self.connection.0.requests).finish(request, answer);
            }
        }
        Ok(())
    }

    fn has_name(&self) -> bool {
        self.connection.0.has_name.load(Ordering::Relaxed)
    }

    fn count_call(&mut self) -> Result<(), Fatal> {
        self.connection.0.has_called.store(true, Ordering::Relaxed);
        if !self.has_name() {
            self.calls_before_name += 1;
            if self.calls_before_name > self.connection.0.limits.unnamed_calls_max {
                return Err(Fatal::new("too many calls before an object was asked for"));
            }
        }
        Ok(())
    }

    /// Begins a call, when there is room for it.
    async fn call(&mut self, mut call: IncomingCall) {
        let held = Arc::new(std::mem::replace(&mut self.held, self.memory.hold_nothing()));
        if call.clid == 0 && call.method != "getReferenceByName" {
            let result = self.forget(&call);
            return self.connection.answer(call.request, result.map_err(Failure::from), None, None).await;
        }
        let (Ok(slot), part) = (self.slots.clone().acquire_owned().await, self.parts.take_part(call.bytes).await)
        else {
            return; // These are never closed.
        };
        let charge = Charge { _slot: slot, _part: part, _held: held.clone(), _hold: self.connection.hold() };
        if call.request != 0 {
            lock(&self.connection.0.unanswered).insert(call.request);
        }
        if call.clid == 0 {
            let name = call.arguments.pop().and_then(|name| name.as_bytes().ok().cloned()).unwrap_or_default();
            tokio::spawn(find(self.connection.clone(), self.names.clone(), call.request, name, charge));
            return;
        }
        // It was there when the call's head was read, but a reference may have been given back since.
        let Some(object) = lock(&self.connection.0.references).local(call.clid) else {
            let failure = Violation::new(format!("unknown CLID {}", call.clid)).into();
            return self.connection.answer(call.request, Err(failure), None, Some(charge)).await;
        };
        self.begin(object, call, charge, held);
    }

    fn begin(&mut self, object: Arc<dyn Referenceable>, incoming: IncomingCall, charge: Charge, held: Arc<Held>) {
        let IncomingCall { request, clid, method, arguments, .. } = incoming;
        let connection = self.connection.clone();
        let call = Call { method, arguments, connection: connection.clone(), held };
        let mut place = self.turns.enter(clid, object.turn(&call));
        tokio::spawn(async move {
            place.wait().await;
            if connection.lost().is_cancelled() {
                return;
            }
            let running = AssertUnwindSafe(async move { object.call(call).await });
            let result = running.catch_unwind().await.unwrap_or_else(|_| Err(internal()));
            drop(place);
            connection.answer(request, result, None, Some(charge)).await;
        });
    }

    /// The other side forgets an object, or a gift (of which there are none).
    fn forget(&self, call: &IncomingCall) -> Result<Value, Violation> {
        let numbers: Result<Vec<u64>, _> = call.arguments.iter().map(Value::as_u64_saturating).collect();
        if let ("decref", [clid, count]) = (call.method, numbers?.as_slice()) {
            let object = lock(&self.connection.0.references).give_back(*clid, *count);
            drop(object);
        }
        Ok(Value::None)
    }
}

/// Answers `getReferenceByName`.
async fn find(connection: Connection, names: Arc<dyn Names>, request: u64, name: Bytes, charge: Charge) {
    let finding = AssertUnwindSafe(async { names.find(name.clone(), &connection).await });
    let result = match finding.catch_unwind().await.unwrap_or_else(|_| Err(internal())) {
        Ok(Some(object)) => {
            connection.0.has_name.store(true, Ordering::Relaxed);
            Ok(Value::from(object))
        }
        Ok(None) => Err(unknown_name(&name)),
        Err(failure) => Err(failure),
    };
    connection.answer(request, result, Some(name), Some(charge)).await;
}

/// The words of the reference implementation; of the name, which is a secret, they tell what the asker has said.
fn unknown_name(name: &[u8]) -> Failure {
    let beginning: String = String::from_utf8_lossy(name).chars().take(2).collect();
    Failure::new("builtins.KeyError", format!("\"unable to find reference for name starting with '{beginning}'\""))
}

fn internal() -> Failure {
    Failure::new("builtins.RuntimeError", "internal error")
}
