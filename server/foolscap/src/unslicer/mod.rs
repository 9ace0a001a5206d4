//! Bytes to calls and answers, under limits: a call that does not fit its method is refused at the first token that
//! shows it, its remaining bytes are skipped without being stored, and the connection goes on.
//!
//! Source: `foolscap.md` 5 to 7 and 11.

mod call;
mod frame;
mod problem;
mod step;

use std::collections::HashMap;

use bytes::{Buf, Bytes, BytesMut};

use crate::failure::Violation;
use crate::limits::SizeLimits;
use crate::token::{Head, Kind, read_head};
use crate::value::{Integer, Value};
use crate::vocabulary::Vocabulary;
use frame::{Finished, Frame, Opened};
pub use problem::Fatal;
use problem::{Problem, fatal, violation};
pub use step::{AnswerError, IncomingCall, Objects, Step};

/// Whether the body of a token is wanted.
enum Admission {
    Wanted,
    /// It belongs to a message that has failed.
    Unwanted,
    /// There must be memory for it first.
    Reserve(u64),
}

/// Reads tokens; one for each direction of a connection.
#[derive(Debug)]
pub struct Unslicer {
    limits: SizeLimits,
    vocabulary: Vocabulary,
    /// OPEN tokens so far, which number what may be referred to.
    opens: u64,
    /// Bytes of a body that nobody wants.
    skipped_body: u64,
    /// An OPEN whose type has not come yet: its number, and our count of it.
    opening: Option<Opening>,
    stack: Vec<Open>,
    /// How deep in a message that nobody wants.
    skipped_depth: u64,
    message: Message,
}

#[derive(Clone, Debug)]
struct Opening {
    number: u64,
    count: u64,
    /// The first of the two words of a copyable.
    is_copyable: bool,
}

/// A sequence that is being read.
#[derive(Debug)]
struct Open {
    /// The number with which it must be closed.
    number: u64,
    /// Our count of it.
    count: u64,
    /// What had been counted before it.
    bytes_before: u64,
    frame: Frame,
}

/// What the top level sequence has cost so far.
#[derive(Debug, Default)]
struct Message {
    opens: u32,
    /// Memory held, about.
    bytes: u64,
    /// What references stand for, though they hold no memory.
    referred_bytes: u64,
    /// What may be held.
    granted_bytes: u64,
    /// Whether more was asked for and refused.
    refused: Option<Violation>,
    /// Bytes on the wire.
    wire_bytes: u64,
    /// Containers that are complete, by our count of OPENs, and what each holds.
    containers: HashMap<u64, (Value, u64)>,
}

/// More nesting than this ends the connection, even where nobody wants what is nested.
const SKIPPED_DEPTH_MAX: u64 = 1_000_000;
/// What a sequence holds beside its items: its frame, and its place among what may be referred to.
const OPEN_BYTES: u64 = 256;
/// What a value holds beside its bytes.
const VALUE_BYTES: u64 = size_of::<Value>() as u64;
/// Memory is asked for in steps of at least so much.
const RESERVED_BYTES_MIN: u64 = 256 << 10;
/// Shorter strings are copied, so that they do not keep a whole buffer alive.
const COPIED_BYTES_MAX: usize = 1024;
/// Longer strings get a buffer of their own, which they do not share with what comes behind them.
const LARGE_BYTES: usize = 64 << 10;

impl Unslicer {
    /// A reader for a new connection.
    pub fn new(vocabulary: Vocabulary, limits: SizeLimits) -> Self {
        Self {
            limits,
            vocabulary,
            opens: 0,
            skipped_body: 0,
            opening: None,
            stack: Vec::new(),
            skipped_depth: 0,
            message: Message::default(),
        }
    }

    /// Sets other limits, from the next token on.
    pub fn set_limits(&mut self, limits: SizeLimits) {
        self.limits = limits;
    }

    /// Allows what [`Step::Reserve`] asked for.
    pub fn grant(&mut self, bytes: u64) {
        self.message.granted_bytes += bytes;
    }

    /// Denies what [`Step::Reserve`] asked for: the message fails.
    pub fn refuse(&mut self, violation: Violation) {
        self.message.refused = Some(violation);
    }

    /// Whether nothing is under way: the bytes so far end with a whole message.
    pub fn is_between_messages(&self) -> bool {
        self.stack.is_empty() && self.opening.is_none() && self.skipped_depth == 0 && self.skipped_body == 0
    }

    /// Reads on. `None`: all bytes are read, as far as they are complete.
    ///
    /// # Errors
    /// The protocol is broken.
    pub fn step(&mut self, input: &mut BytesMut, objects: &dyn Objects) -> Result<Option<Step>, Fatal> {
        loop {
            if self.skipped_body > 0 {
                let here = self.skipped_body.min(input.len() as u64);
                input.advance(usize::try_from(here).expect("not more than is there"));
                self.skipped_body -= here;
                if self.skipped_body > 0 {
                    return Ok(None);
                }
            }
            let Some((head, head_bytes)) = read_head(input)? else { return Ok(None) };
            self.limit_wire_bytes(head, head_bytes)?;
            let result = match self.admit(head) {
                Ok(Admission::Reserve(bytes)) => return Ok(Some(Step::Reserve(bytes))),
                Ok(Admission::Wanted) => {
                    let body_bytes = usize::try_from(head.body_bytes()).map_err(|_| Fatal::new("too large"))?;
                    let missing = (head_bytes + body_bytes).saturating_sub(input.len());
                    if missing > LARGE_BYTES {
                        // There is memory for it, which need not be found by doubling.
                        input.reserve(missing + LARGE_BYTES);
                    }
                    if missing > 0 {
                        return Ok(None);
                    }
                    input.advance(head_bytes);
                    self.count_wire_bytes(head, head_bytes);
                    self.take(head, take_body(input, body_bytes), objects)
                }
                unwanted => {
                    input.advance(head_bytes);
                    self.count_wire_bytes(head, head_bytes);
                    self.skipped_body = head.body_bytes();
                    unwanted.map(|_| None)
                }
            };
            let step = match result {
                Ok(step) => step,
                Err(Problem::Fatal(fatal)) => return Err(fatal),
                Err(Problem::Violation(violation)) => self.give_up(head, violation),
            };
            if step.is_some() {
                return Ok(step);
            }
        }
    }

    /// Decides of a token by its head whether its body is wanted, and whether there is memory for it.
    fn admit(&mut self, head: Head) -> Result<Admission, Problem> {
        let bytes = match head.kind {
            Kind::Ping | Kind::Pong | Kind::Error => return Ok(Admission::Wanted),
            _ if self.skipped_depth > 0 && head.body_bytes() > 0 => return Ok(Admission::Unwanted),
            _ if self.skipped_depth > 0 => return Ok(Admission::Wanted),
            Kind::Close | Kind::Abort => return Ok(Admission::Wanted),
            Kind::Open => self.admit_open()?,
            _ => self.admit_token(head)?,
        };
        if let Some(violation) = self.message.refused.take() {
            return Err(Problem::Violation(violation));
        }
        self.limit_call_bytes(bytes)?;
        // The token is looked at again after a grant, so it is counted only when it is taken.
        let total = self.message.bytes + bytes;
        let allowed = self.limits.unreserved_bytes + self.message.granted_bytes;
        if total > allowed {
            return Ok(Admission::Reserve((total - allowed).max(RESERVED_BYTES_MIN)));
        }
        Ok(Admission::Wanted)
    }

    fn admit_open(&self) -> Result<u64, Problem> {
        if self.opening.is_some() {
            return fatal("OPEN token followed by OPEN");
        }
        let Some(top) = self.stack.last() else { return Ok(0) };
        top.frame.admit_open()?;
        if self.stack.len() >= self.limits.nesting_max {
            return violation("nested too deeply");
        }
        if self.message.opens >= self.limits.opens_max {
            return violation("too many sequences in a call");
        }
        Ok(OPEN_BYTES)
    }

    fn admit_token(&self, head: Head) -> Result<u64, Problem> {
        if let Some(opening) = &self.opening {
            frame::admit_index(head, opening.is_copyable)?;
            return Ok(0);
        }
        let Some(top) = self.stack.last() else { return fatal("top-level must be OPEN") };
        top.frame.admit(head)?;
        if head.body_bytes() > self.limits.string_bytes_max {
            return violation(format!("a STRING token is too large ({} bytes)", head.body_bytes()));
        }
        Ok(VALUE_BYTES + head.body_bytes())
    }

    fn limit_call_bytes(&self, bytes: u64) -> Result<(), Violation> {
        let total = self.message.bytes.saturating_add(self.message.referred_bytes).saturating_add(bytes);
        if total > self.limits.call_bytes_max { Err(Violation::new("a call of too many bytes")) } else { Ok(()) }
    }

    fn limit_wire_bytes(&self, head: Head, head_bytes: usize) -> Result<(), Fatal> {
        let Some(limit) = self.limits.wire_bytes_max else { return Ok(()) };
        let total = self.message.wire_bytes.saturating_add(head_bytes as u64).saturating_add(head.body_bytes());
        if total > limit { Err(Fatal::new("too many bytes in a call before an object was asked for")) } else { Ok(()) }
    }

    fn count_wire_bytes(&mut self, head: Head, head_bytes: usize) {
        if !matches!(head.kind, Kind::Ping | Kind::Pong | Kind::Error) {
            self.message.wire_bytes =
                self.message.wire_bytes.saturating_add(head_bytes as u64).saturating_add(head.body_bytes());
        }
    }

    fn take(&mut self, head: Head, body: Bytes, objects: &dyn Objects) -> Result<Option<Step>, Problem> {
        match head.kind {
            Kind::Ping => return Ok(Some(Step::Ping(head.number))),
            Kind::Pong => return Ok(None),
            Kind::Error => return Ok(Some(Step::LastWords(String::from_utf8_lossy(&body).into_owned()))),
            _ => {}
        }
        if self.skipped_depth > 0 {
            return Ok(self.skip(head.kind)?);
        }
        match head.kind {
            Kind::Open => {
                self.message.bytes += if self.stack.is_empty() { 0 } else { OPEN_BYTES };
                self.message.opens += 1;
                self.opening = Some(Opening { number: head.number, count: self.opens, is_copyable: false });
                self.opens += 1;
                Ok(None)
            }
            Kind::Close => self.close(head.number, objects),
            Kind::Abort if self.stack.is_empty() && self.opening.is_none() => fatal("ABORT outside of a sequence"),
            Kind::Abort => Ok(self.abort()),
            _ => self.token(head, body, objects),
        }
    }

    fn token(&mut self, head: Head, body: Bytes, objects: &dyn Objects) -> Result<Option<Step>, Problem> {
        let value = self.read_value(head, body)?;
        if let Some(opening) = self.opening.take() {
            self.index(opening, value)?;
            return Ok(None);
        }
        self.message.bytes += VALUE_BYTES + head.body_bytes();
        let top = self.stack.last_mut().expect("admitted under a sequence");
        top.frame.put(value, objects)?;
        Ok(None)
    }

    fn read_value(&self, head: Head, body: Bytes) -> Result<Value, Problem> {
        Ok(match head.kind {
            Kind::Int => Value::from(head.number),
            Kind::Neg => Value::Integer(Integer::Small(-i128::from(head.number))),
            Kind::LongInt | Kind::LongNeg => Value::Integer(Integer::from_magnitude(head.kind == Kind::LongNeg, &body)),
            Kind::Float => Value::Float(f64::from_be_bytes(body.as_ref().try_into().expect("eight bytes"))),
            Kind::Vocab => match self.vocabulary.word(head.number) {
                Some(word) => {
                    let head = Head { kind: Kind::String, number: word.len() as u64 };
                    if let (None, Some(top)) = (&self.opening, self.stack.last()) {
                        top.frame.admit(head)?;
                    }
                    Value::Bytes(Bytes::from_static(word.as_bytes()))
                }
                None => return fatal("unknown word of the vocabulary"),
            },
            _ => Value::Bytes(body),
        })
    }

    /// A word that names the type of the sequence that was opened.
    fn index(&mut self, opening: Opening, word: Value) -> Result<(), Problem> {
        let Value::Bytes(word) = word else {
            self.opening = Some(opening);
            return violation("the type of a sequence must be a string");
        };
        let opened = match self.stack.last() {
            None => match Frame::of_message(&word) {
                Some(frame) => Opened::Frame(frame),
                None => {
                    // What nobody knows is skipped without an answer.
                    self.skipped_depth = 1;
                    return Ok(());
                }
            },
            Some(_) if opening.is_copyable => Opened::Frame(Frame::copyable(word)),
            Some(top) => {
                let opened = top.frame.open(&word);
                if matches!(opened, Err(Problem::Violation(_))) {
                    // Counted as open while it is skipped.
                    self.opening = Some(opening.clone());
                }
                opened?
            }
        };
        match opened {
            Opened::SecondWord => self.opening = Some(Opening { is_copyable: true, ..opening }),
            Opened::Frame(frame) => self.stack.push(Open {
                number: opening.number,
                count: opening.count,
                bytes_before: self.message.bytes + self.message.referred_bytes,
                frame,
            }),
        }
        Ok(())
    }

    fn close(&mut self, number: u64, objects: &dyn Objects) -> Result<Option<Step>, Problem> {
        if self.opening.is_some() {
            return fatal("CLOSE token followed by OPEN");
        }
        let expected = self.stack.last().map(|open| open.number);
        if expected != Some(number) {
            return fatal(format!("lost sync, got CLOSE({number}) but expecting {expected:?}"));
        }
        let open = self.stack.pop().expect("one is open");
        if !self.stack.is_empty() {
            self.finish(open, objects)?;
            return Ok(None);
        }
        let step = match open.frame.finish_message(self.message.bytes) {
            Err(Problem::Violation(violation)) => open.frame.violated(violation),
            finished => finished?,
        };
        self.end_message();
        Ok(step)
    }

    /// Hands a complete sequence to the one around it.
    fn finish(&mut self, open: Open, objects: &dyn Objects) -> Result<(), Problem> {
        let held = VALUE_BYTES + self.message.bytes + self.message.referred_bytes - open.bytes_before;
        let is_container = open.frame.is_container();
        let top = self.stack.last_mut().expect("within a message");
        match open.frame.finish(objects)? {
            Finished::Arguments(arguments) => top.frame.put_arguments(arguments),
            Finished::Value(value) => {
                if is_container {
                    self.message.containers.insert(open.count, (value.clone(), held));
                }
                top.frame.put(value, objects)
            }
            Finished::Reference(count) => {
                let Some((value, bytes)) = self.message.containers.get(&count) else {
                    return violation("a reference to what is not complete or not in this call");
                };
                // It costs no memory to say it again, but whoever walks through it takes his time.
                self.message.referred_bytes = self.message.referred_bytes.saturating_add(*bytes);
                top.frame.check(value)?;
                top.frame.put(value.clone(), objects)?;
                Ok(self.limit_call_bytes(0)?)
            }
        }
    }

    /// The sender gave up: what was begun is skipped, and nobody answers.
    fn abort(&mut self) -> Option<Step> {
        let step = match self.stack.first().map(|open| &open.frame) {
            Some(frame) => frame.aborted(),
            None => None,
        };
        self.begin_skipping();
        step
    }

    /// A violation fails the message at once; its rest is skipped.
    fn give_up(&mut self, head: Head, violation: Violation) -> Option<Step> {
        if self.skipped_depth > 0 {
            return None;
        }
        let step = self.stack.first().and_then(|open| open.frame.violated(violation));
        if head.kind == Kind::Open {
            // The OPEN that was refused is open all the same.
            self.opening = Some(Opening { number: head.number, count: self.opens, is_copyable: false });
            self.opens += 1;
        }
        self.begin_skipping();
        step
    }

    fn begin_skipping(&mut self) {
        self.skipped_depth = self.stack.len() as u64 + u64::from(self.opening.is_some());
        self.opening = None;
        self.stack.clear();
        self.message.containers = HashMap::new();
    }

    fn skip(&mut self, kind: Kind) -> Result<Option<Step>, Fatal> {
        match kind {
            Kind::Open => {
                self.opens += 1;
                self.skipped_depth += 1;
                if self.skipped_depth > SKIPPED_DEPTH_MAX {
                    return Err(Fatal::new("nested too deeply"));
                }
            }
            Kind::Close => {
                self.skipped_depth -= 1;
                if self.skipped_depth == 0 {
                    self.end_message();
                }
            }
            _ => {}
        }
        Ok(None)
    }

    fn end_message(&mut self) {
        self.stack.clear();
        self.opening = None;
        self.message = Message::default();
    }
}

fn take_body(input: &mut BytesMut, length: usize) -> Bytes {
    let body = input.split_to(length);
    if length <= COPIED_BYTES_MAX {
        return Bytes::copy_from_slice(&body);
    }
    if length > LARGE_BYTES {
        *input = BytesMut::from(&input[..]);
    }
    body.freeze()
}
