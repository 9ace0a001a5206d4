//! Calls of this side that wait for their answers.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::failure::{Failure, Violation};
use crate::schema::Constraint;
use crate::unslicer::AnswerError;
use crate::value::Value;

/// Why a call of ours has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The other side says that it failed.
    #[error("the call failed")]
    Failed(#[source] Failure),
    /// The answer is of another kind than the method's.
    #[error("the answer does not fit")]
    Violation(#[from] Violation),
    /// The connection has ended; whether the call was run is not known.
    #[error("the connection was lost")]
    Lost,
}

#[derive(Default)]
pub(super) struct Requests {
    last: u64,
    waiting: HashMap<u64, Waiting>,
}

struct Waiting {
    takes: &'static Constraint,
    answer: oneshot::Sender<Result<Value, CallError>>,
}

impl Requests {
    /// Numbers a new call.
    pub fn begin(&mut self, takes: &'static Constraint) -> (u64, oneshot::Receiver<Result<Value, CallError>>) {
        self.last += 1;
        let (answer, receiver) = oneshot::channel();
        self.waiting.insert(self.last, Waiting { takes, answer });
        (self.last, receiver)
    }

    pub fn awaited(&self, request: u64) -> Option<&'static Constraint> {
        self.waiting.get(&request).map(|waiting| waiting.takes)
    }

    pub fn finish(&mut self, request: u64, answer: Result<Value, AnswerError>) {
        if let Some(waiting) = self.waiting.remove(&request) {
            // Whoever asked may have gone.
            let _ = waiting.answer.send(answer.map_err(|error| match error {
                AnswerError::Failed(failure) => CallError::Failed(failure),
                AnswerError::Violation(violation) => CallError::Violation(violation),
            }));
        }
    }

    pub fn forget(&mut self, request: u64) {
        self.waiting.remove(&request);
    }

    /// All calls are lost.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }
}
