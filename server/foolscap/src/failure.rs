//! Why a call is not answered with a value: failures of objects, and violations of the protocol.
//!
//! Source: `foolscap.md` 9.

use std::sync::Arc;

use bytes::Bytes;

use crate::schema::Constraint;
use crate::value::{Copyable, Value};

const CLASS: &[u8] = b"twisted.python.failure.Failure";
const CLASS_BYTES_MAX: usize = 200;
const VALUE_BYTES_MAX: usize = 1000;

/// What the other side may send as an `error`: whatever its size, what is kept of it is small.
pub(crate) const FAILURE: Constraint = Constraint::Any;

/// A call does not fit what its receiver takes. It fails, and the connection goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(String);

impl Violation {
    /// Makes one; the text goes to the other side.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// What is wrong.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// The answer to a call that failed. Its text goes to the other side: no path, no secret, no name of a service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{class}: {value}")]
pub struct Failure {
    class: String,
    value: String,
}

impl Failure {
    /// Makes one of the dotted name of a Python class and a text. Both are cut to the size that clients take.
    pub fn new(class: impl Into<String>, value: impl Into<String>) -> Self {
        Self { class: cut(class.into(), CLASS_BYTES_MAX), value: cut(value.into(), VALUE_BYTES_MAX) }
    }

    /// The dotted name of the class.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// The text.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The four attributes that clients need, and no others.
    pub(crate) fn to_value(&self) -> Value {
        let text = |text: &str| Value::from(text.as_bytes());
        let parents = [&self.class, "builtins.Exception", "builtins.BaseException", "builtins.object"];
        let attributes = vec![
            (Bytes::from_static(b"value"), text(&self.value)),
            (Bytes::from_static(b"type"), text(&self.class)),
            (Bytes::from_static(b"traceback"), text("Traceback unavailable\n")),
            (Bytes::from_static(b"parents"), Value::list(parents.map(text))),
        ];
        Value::Copyable(Arc::new(Copyable { class: Bytes::from_static(CLASS), attributes }))
    }

    /// Reads what the other side sent; what is missing is left empty.
    pub(crate) fn from_value(value: &Value) -> Self {
        let attribute = |name: &str| match value {
            Value::Copyable(copyable) => copyable
                .attributes
                .iter()
                .find(|(found, _)| found == name.as_bytes())
                .and_then(|(_, value)| value.as_bytes().ok())
                .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
                .unwrap_or_default(),
            _ => String::new(),
        };
        Self::new(attribute("type"), attribute("value"))
    }
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Self::new("foolscap.tokens.Violation", format!("Violation: ('{}',)", violation.0))
    }
}

/// Cuts a text at a character's boundary.
fn cut(mut text: String, bytes_max: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_to_what_clients_take() {
        let failure = Failure::new("c".repeat(300), "ä".repeat(600));
        assert_eq!((failure.class().len(), failure.value().len()), (200, 1000));
        assert_eq!(Failure::new("c", format!("x{}", "ä".repeat(600))).value().len(), 999);
    }

    #[test]
    fn a_failure_is_read_as_it_was_written() {
        let failure = Failure::from(Violation::new("no"));
        assert_eq!(failure.value(), "Violation: ('no',)");
        assert_eq!(Failure::from_value(&failure.to_value()), failure);
        assert_eq!(Failure::from_value(&Value::None), Failure::new("", ""));
    }
}
