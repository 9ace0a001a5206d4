//! What can be wrong with a token.

use crate::failure::Violation;
use crate::token::TokenError;

/// The protocol is broken; the connection ends with this text as its last words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fatal(pub(super) String);

impl Fatal {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl From<TokenError> for Fatal {
    fn from(error: TokenError) -> Self {
        Self(error.to_string())
    }
}

/// What is wrong with a token.
#[derive(Debug)]
pub(super) enum Problem {
    /// The call fails.
    Violation(Violation),
    /// The connection ends.
    Fatal(Fatal),
}

impl From<Violation> for Problem {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl From<Fatal> for Problem {
    fn from(fatal: Fatal) -> Self {
        Self::Fatal(fatal)
    }
}

pub(super) fn fatal<T>(text: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Fatal(Fatal::new(text)))
}

pub(super) fn violation<T>(text: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Violation(Violation::new(text)))
}
