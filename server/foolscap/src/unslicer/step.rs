//! What reading leads to, and what it must know.

use bytes::Bytes;

use crate::failure::{Failure, Violation};
use crate::reference::RemoteReference;
use crate::schema::{Constraint, Interface};
use crate::value::{LocalReference, Value};

/// What the reader must know of the connection.
pub trait Objects {
    /// The interface of an object of this side.
    fn interface(&self, clid: u64) -> Option<&'static Interface>;
    /// An object of this side.
    fn local(&self, clid: u64) -> Option<LocalReference>;
    /// An object of the other side, as it was announced.
    ///
    /// # Errors
    /// There are too many of them.
    fn remote(&self, clid: u64, interface: Option<Bytes>) -> Result<RemoteReference, Violation>;
    /// Whether the other side still waits for the answer to that request.
    fn is_unanswered(&self, request: u64) -> bool;
    /// What the answer to a request of this side may be, if one is waited for.
    fn awaited(&self, request: u64) -> Option<&'static Constraint>;
}

/// What was read.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Answer with a PONG of that number.
    Ping(u64),
    /// The other side's last words.
    LastWords(String),
    /// The message wants to hold so many bytes more: answer with [`grant`] or [`refuse`].
    ///
    /// [`grant`]: super::Unslicer::grant
    /// [`refuse`]: super::Unslicer::refuse
    Reserve(u64),
    /// A call that fits its method.
    Call(IncomingCall),
    /// A call failed; request number 0 is not answered.
    CallViolated {
        /// Its number.
        request: u64,
        /// Why.
        violation: Violation,
    },
    /// An answer that was waited for.
    Answer {
        /// To which request.
        request: u64,
        /// The answer: the other side's value or failure, or what was wrong with it.
        answer: Result<Value, AnswerError>,
    },
}

/// Why there is no value in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerError {
    /// The other side says so.
    Failed(Failure),
    /// The answer is not one that is taken.
    Violation(Violation),
}

/// A call that fits its method.
#[derive(Debug, PartialEq)]
pub struct IncomingCall {
    /// Its number; 0 wants no answer.
    pub request: u64,
    /// The object's number.
    pub clid: u64,
    /// The name of the method.
    pub method: &'static str,
    /// The values, in the order of the method's arguments.
    pub arguments: Vec<Value>,
    /// What it holds in memory, about.
    pub bytes: u64,
}
