//! An answer in the form in which two are compared.

use std::collections::BTreeMap;

use leasehold_foolscap::{CallError, Integer, RemoteReference, Value};

/// What came back, with sets and dictionaries in order and references by their interface.
#[derive(Clone, PartialEq)]
pub enum Answer {
    Value(Plain),
    /// The class of a failure; texts are for people.
    Failed(String),
    Violation,
    Lost,
}

/// A value without objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plain {
    None,
    Boolean(bool),
    Number(i128),
    Bytes(Vec<u8>),
    List(Vec<Plain>),
    Tuple(Vec<Plain>),
    Set(Vec<Plain>),
    Dict(BTreeMap<Plain, Plain>),
    Reference(Option<String>),
    Other,
}

impl Answer {
    /// Takes an answer, and the objects that came with it by their keys.
    pub fn of(result: Result<Value, CallError>) -> (Self, Vec<(u64, RemoteReference)>) {
        match result {
            Ok(value) => {
                let mut references = Vec::new();
                collect(&value, &mut references);
                (Self::Value(plain(&value)), references)
            }
            Err(CallError::Failed(failure)) => (Self::Failed(failure.class().to_owned()), Vec::new()),
            Err(CallError::Violation(_)) => (Self::Violation, Vec::new()),
            Err(CallError::Lost) => (Self::Lost, Vec::new()),
        }
    }

    /// Whether two answers are equal in all that a client looks at: of failures, that they are some.
    pub fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Failed(ours), Self::Failed(theirs)) => {
                let told_apart = |class: &str| class.starts_with("allmydata.") || class.starts_with("foolscap.");
                ours == theirs || !(told_apart(ours) || told_apart(theirs))
            }
            _ => self == other,
        }
    }

    /// In one word.
    pub fn kind(&self) -> &str {
        match self {
            Self::Value(_) => "answered",
            Self::Failed(class) => class.rsplit('.').next().unwrap_or(class),
            Self::Violation => "unreadable",
            Self::Lost => "lost",
        }
    }

    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_))
    }

    pub fn is_violation(&self) -> bool {
        matches!(self, Self::Failed(class) if class == "foolscap.tokens.Violation")
    }

    pub fn is_none(&self) -> bool {
        *self == Self::Value(Plain::None)
    }

    /// An empty dictionary.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Value(Plain::Dict(entries)) if entries.is_empty())
    }

    /// Whether the same keys are there, with values of the same kind.
    pub fn has_shape_of(&self, other: &Self) -> bool {
        fn same(left: &Plain, right: &Plain) -> bool {
            match (left, right) {
                (Plain::Dict(left), Plain::Dict(right)) => {
                    left.keys().eq(right.keys()) && left.values().zip(right.values()).all(|(l, r)| same(l, r))
                }
                (Plain::Number(_), Plain::Number(_)) | (Plain::Bytes(_), Plain::Bytes(_)) => true,
                _ => left == right,
            }
        }
        matches!((self, other), (Self::Value(left), Self::Value(right)) if same(left, right))
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Value(value) => f.write_str(&format!("{value:?}").chars().take(300).collect::<String>()),
            Self::Failed(class) => f.write_str(class),
            Self::Violation | Self::Lost => f.write_str(self.kind()),
        }
    }
}

fn plain(value: &Value) -> Plain {
    let all = |values: &[Value]| values.iter().map(plain).collect::<Vec<_>>();
    match value {
        Value::None => Plain::None,
        Value::Boolean(boolean) => Plain::Boolean(*boolean),
        Value::Integer(Integer::Small(number)) => Plain::Number(*number),
        Value::Bytes(bytes) => Plain::Bytes(bytes.to_vec()),
        Value::List(values) => Plain::List(all(values)),
        Value::Tuple(values) => Plain::Tuple(all(values)),
        Value::Set(values) => {
            let mut values = all(values);
            values.sort_unstable();
            Plain::Set(values)
        }
        Value::Dict(entries) => Plain::Dict(entries.iter().map(|(key, value)| (plain(key), plain(value))).collect()),
        Value::Remote(reference) => Plain::Reference(reference.interface().map(str::to_owned)),
        _ => Plain::Other,
    }
}

fn collect(value: &Value, into: &mut Vec<(u64, RemoteReference)>) {
    match value {
        Value::Dict(entries) => {
            for (key, value) in entries.iter() {
                if let (Ok(key), Value::Remote(reference)) = (key.as_u64(), value) {
                    into.push((key, reference.clone()));
                }
            }
        }
        Value::Tuple(values) => values.iter().for_each(|value| collect(value, into)),
        _ => {}
    }
}
