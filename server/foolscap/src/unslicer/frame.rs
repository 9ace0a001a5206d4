//! The sequences that are being read, each a small state of its own.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use super::call::{ArgumentsFrame, CallFrame};
use super::problem::{Fatal, Problem, fatal, violation};
use super::step::{AnswerError, Objects, Step};
use crate::failure::{FAILURE, Failure, Violation};
use crate::schema::{Constraint, Sequence};
use crate::token::{Head, Kind};
use crate::value::{Copyable, Integer, Value};

/// No type of a sequence has a longer name; a class of a copyable may.
const INDEX_BYTES_MAX: u64 = 15;
const CLASS_BYTES_MAX: u64 = 200;
/// Names of attributes, and what is said of a reference, are not longer.
const NAME_BYTES_MAX: u64 = 1000;

/// A sequence that is being read.
#[derive(Debug)]
pub(super) enum Frame {
    Call(CallFrame),
    Arguments(ArgumentsFrame),
    Answer(AnswerFrame),
    Items {
        sequence: Sequence,
        takes: &'static Constraint,
        items: Vec<Value>,
    },
    Dict {
        takes: &'static Constraint,
        entries: Vec<(Value, Value)>,
        key: Option<Value>,
        keys: HashSet<Key>,
    },
    Copyable {
        class: Bytes,
        attributes: Vec<(Bytes, Value)>,
        name: Option<Bytes>,
    },
    /// A sequence of one or a few tokens.
    Plain {
        sequence: Sequence,
        takes: &'static Constraint,
        tokens: Vec<Value>,
    },
}

/// What was opened.
pub(super) enum Opened {
    Frame(Frame),
    /// A copyable, whose class comes next.
    SecondWord,
}

/// What a sequence becomes.
pub(super) enum Finished {
    Value(Value),
    Arguments(Vec<Option<Value>>),
    /// The container with that number.
    Reference(u64),
}

/// An answer, or an error, to a request of this side.
#[derive(Debug)]
pub(super) struct AnswerFrame {
    is_error: bool,
    request: Option<u64>,
    takes: Option<&'static Constraint>,
    value: Option<Value>,
}

/// A key of a dictionary, to find equal ones.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    None,
    Boolean(bool),
    Integer(Integer),
    Bytes(Bytes),
    Text(Arc<str>),
}

/// Whether a token may name the type of a sequence.
pub(super) fn admit_index(head: Head, is_class: bool) -> Result<(), Problem> {
    let length_max = if is_class { CLASS_BYTES_MAX } else { INDEX_BYTES_MAX };
    match head.kind {
        Kind::Vocab => Ok(()),
        Kind::String if head.number <= length_max => Ok(()),
        Kind::String => violation("the type of a sequence has too long a name"),
        _ => violation("the type of a sequence must be a string"),
    }
}

impl Frame {
    /// A sequence at top level.
    pub fn of_message(word: &[u8]) -> Option<Self> {
        let answer = |is_error| Self::Answer(AnswerFrame { is_error, request: None, takes: None, value: None });
        match word {
            b"call" => Some(Self::Call(CallFrame::default())),
            b"answer" => Some(answer(false)),
            b"error" => Some(answer(true)),
            _ => None,
        }
    }

    pub fn copyable(class: Bytes) -> Self {
        Self::Copyable { class, attributes: Vec::new(), name: None }
    }

    /// What may come next as a value; other frames have rules of their own.
    fn next(&self) -> Result<&'static Constraint, Problem> {
        match self {
            Self::Arguments(frame) => frame.next(),
            Self::Answer(AnswerFrame { takes: Some(takes), value: None, .. }) => Ok(takes),
            Self::Answer(_) => fatal("an answer has a number and one value"),
            Self::Items { takes, items, .. } => Ok(takes.item(items.len())?),
            Self::Dict { takes, entries, key, .. } => Ok(takes.item(entries.len() * 2 + usize::from(key.is_some()))?),
            Self::Copyable { name: Some(_), .. } => Ok(&Constraint::Any),
            Self::Copyable { name: None, .. } => fatal("the name of an attribute must be a string"),
            Self::Call(_) => fatal("a call has a number, an object, a method and arguments"),
            Self::Plain { .. } => fatal("no sequence may stand here"),
        }
    }

    /// Whether a sequence may begin here.
    pub fn admit_open(&self) -> Result<(), Problem> {
        match self {
            Self::Call(frame) => frame.admit_open(),
            Self::Answer(frame) if frame.request.is_none() => fatal("request ID must be an INT"),
            Self::Arguments(_) | Self::Answer(_) | Self::Items { .. } | Self::Dict { .. } | Self::Copyable { .. } => {
                self.next().map(|_| ())
            }
            Self::Plain { .. } => fatal("no sequence may stand here"),
        }
    }

    /// Begins a sequence of that type.
    pub fn open(&self, word: &[u8]) -> Result<Opened, Problem> {
        if let Self::Call(frame) = self {
            return frame.open(word);
        }
        if word == b"their-reference" {
            return violation("gifts are prohibited in this Tub");
        }
        let name = || String::from_utf8_lossy(word).into_owned();
        let Some(sequence) = Sequence::from_word(word) else {
            return violation(format!("unknown sequence type {}", name()));
        };
        let Some(takes) = self.next()?.of_sequence(sequence) else {
            return violation(format!("{} is not taken here", name()));
        };
        Ok(match sequence {
            Sequence::List | Sequence::Tuple | Sequence::Set | Sequence::FrozenSet => {
                Opened::Frame(Self::Items { sequence, takes, items: Vec::new() })
            }
            Sequence::Dict => Opened::Frame(Self::Dict { takes, entries: Vec::new(), key: None, keys: HashSet::new() }),
            Sequence::Copyable => Opened::SecondWord,
            _ => Opened::Frame(Self::Plain { sequence, takes, tokens: Vec::new() }),
        })
    }

    /// Whether a token that is no sequence may stand here; its body is stored only then.
    pub fn admit(&self, head: Head) -> Result<(), Problem> {
        let is_text = matches!(head.kind, Kind::String | Kind::Vocab);
        match self {
            Self::Call(frame) => frame.admit(head, is_text),
            Self::Arguments(frame) => frame.admit(head, is_text),
            Self::Answer(AnswerFrame { request: None, .. }) if head.kind != Kind::Int => {
                fatal("request ID must be an INT")
            }
            Self::Answer(AnswerFrame { request: None, .. }) => Ok(()),
            Self::Copyable { name: None, .. } => match head.kind {
                Kind::String if head.number > NAME_BYTES_MAX => violation("an attribute has too long a name"),
                _ if is_text => Ok(()),
                _ => fatal("the name of an attribute must be a string"),
            },
            Self::Plain { sequence, takes, tokens } => admit_plain(*sequence, takes, tokens.len(), head, is_text),
            _ => Ok(self.next()?.admit(head)?),
        }
    }

    /// Whether a value that was read elsewhere may stand here.
    pub fn check(&self, value: &Value) -> Result<(), Problem> {
        Ok(self.next()?.check(value)?)
    }

    /// Takes the arguments of a call.
    pub fn put_arguments(&mut self, arguments: Vec<Option<Value>>) -> Result<(), Problem> {
        match self {
            Self::Call(frame) => frame.arguments = Some(arguments),
            _ => return fatal("arguments stand in calls"),
        }
        Ok(())
    }

    /// Takes a token, or what a sequence became.
    pub fn put(&mut self, value: Value, objects: &dyn Objects) -> Result<(), Problem> {
        match self {
            Self::Call(frame) => return frame.put(&value, objects),
            Self::Arguments(frame) => return frame.put(value),
            Self::Answer(frame) => return frame.put(value, objects),
            Self::Items { items, .. } => items.push(value),
            Self::Dict { entries, key, keys, .. } => match key.take() {
                Some(key) => entries.push((key, value)),
                None => {
                    if !keys.insert(Key::of(&value)?) {
                        return fatal("duplicate key in a dictionary");
                    }
                    *key = Some(value);
                }
            },
            Self::Copyable { attributes, name, .. } => match (name.take(), value) {
                (Some(name), value) => attributes.push((name, value)),
                (None, value) => *name = Some(value.as_bytes()?.clone()),
            },
            Self::Plain { tokens, .. } => tokens.push(value),
        }
        Ok(())
    }

    /// Whether what it becomes may be referred to.
    pub fn is_container(&self) -> bool {
        matches!(self, Self::Items { .. } | Self::Dict { .. })
    }

    /// Ends a sequence within a message.
    pub fn finish(self, objects: &dyn Objects) -> Result<Finished, Problem> {
        Ok(Finished::Value(match self {
            Self::Arguments(frame) => return frame.finish(),
            Self::Items { sequence, items, .. } => match sequence {
                Sequence::Tuple => Value::Tuple(items.into()),
                Sequence::Set => Value::Set(items.into()),
                Sequence::FrozenSet => Value::FrozenSet(items.into()),
                _ => Value::List(items.into()),
            },
            Self::Dict { key: Some(_), .. } => return violation("a dictionary ends with a key"),
            Self::Dict { entries, .. } => Value::Dict(entries.into()),
            Self::Copyable { name: Some(_), .. } => return violation("a copyable ends with a name"),
            Self::Copyable { class, attributes, .. } => Value::Copyable(Arc::new(Copyable { class, attributes })),
            Self::Plain { sequence, tokens, .. } => return finish_plain(sequence, &tokens, objects),
            Self::Call(_) | Self::Answer(_) => return fatal("a call stands at top level"),
        }))
    }

    /// Ends a message.
    pub fn finish_message(&self, bytes: u64) -> Result<Option<Step>, Problem> {
        match self {
            Self::Call(frame) => frame.finish(bytes).map(Some),
            Self::Answer(frame) => frame.finish(),
            _ => fatal("only calls and answers stand at top level"),
        }
    }

    /// What becomes of a message with a violation in it.
    pub fn violated(&self, violation: Violation) -> Option<Step> {
        match self {
            Self::Call(frame) => Some(Step::CallViolated { request: frame.request?, violation }),
            Self::Answer(frame) => {
                frame.takes?;
                Some(Step::Answer { request: frame.request?, answer: Err(AnswerError::Violation(violation)) })
            }
            _ => None,
        }
    }

    /// What becomes of a message that its sender gave up.
    pub fn aborted(&self) -> Option<Step> {
        match self {
            Self::Answer(_) => self.violated(Violation::new("the answer was given up")),
            _ => None,
        }
    }
}

impl AnswerFrame {
    fn put(&mut self, value: Value, objects: &dyn Objects) -> Result<(), Problem> {
        if self.request.is_some() {
            self.value = Some(value);
            return Ok(());
        }
        let request = value.as_u64()?;
        self.request = Some(request);
        self.takes = objects.awaited(request).map(|takes| if self.is_error { &FAILURE } else { takes });
        // Nobody waits: the rest is skipped.
        if self.takes.is_none() { violation("an answer nobody waits for") } else { Ok(()) }
    }

    fn finish(&self) -> Result<Option<Step>, Problem> {
        let (Some(request), Some(takes), Some(value)) = (self.request, self.takes, &self.value) else {
            return fatal("an answer has a number and one value");
        };
        takes.check(value)?;
        let answer =
            if self.is_error { Err(AnswerError::Failed(Failure::from_value(value))) } else { Ok(value.clone()) };
        Ok(Some(Step::Answer { request, answer }))
    }
}

impl Key {
    fn of(value: &Value) -> Result<Self, Problem> {
        Ok(match value {
            Value::None => Self::None,
            Value::Boolean(boolean) => Self::Boolean(*boolean),
            Value::Integer(integer) => Self::Integer(integer.clone()),
            Value::Bytes(bytes) => Self::Bytes(bytes.clone()),
            Value::Text(text) => Self::Text(text.clone()),
            _ => return violation("a key of a dictionary must be a number, bytes or text"),
        })
    }
}

/// Whether a token may stand in a short sequence that has `count` of them.
fn admit_plain(
    sequence: Sequence,
    takes: &'static Constraint,
    count: usize,
    head: Head,
    is_text: bool,
) -> Result<(), Problem> {
    match (sequence, count) {
        (Sequence::Boolean | Sequence::Reference | Sequence::YourReference | Sequence::MyReference, 0)
            if head.kind == Kind::Int =>
        {
            Ok(())
        }
        (Sequence::YourReference | Sequence::MyReference, 0) if head.kind == Kind::Neg => {
            violation("only objects with positive numbers are known here")
        }
        (Sequence::MyReference, 1 | 2) if is_text => {
            if head.kind == Kind::String && head.number > NAME_BYTES_MAX {
                return violation("too much is said of a reference");
            }
            Ok(())
        }
        (Sequence::Text, 0) if is_text => match takes {
            Constraint::Text { max } if head.kind == Kind::String && head.number > *max as u64 => {
                violation("the text is too long")
            }
            _ => Ok(()),
        },
        _ => fatal(format!("{sequence:?} sequence with a wrong token")),
    }
}

fn finish_plain(sequence: Sequence, tokens: &[Value], objects: &dyn Objects) -> Result<Finished, Problem> {
    Ok(Finished::Value(match (sequence, tokens) {
        (Sequence::None, []) => Value::None,
        (Sequence::Boolean, [number]) => Value::Boolean(number.as_u64()? != 0),
        (Sequence::Text, [bytes]) => match std::str::from_utf8(bytes.as_bytes()?) {
            Ok(text) => Value::Text(text.into()),
            Err(_) => return fatal("text must be UTF-8"),
        },
        (Sequence::Reference, [count]) => return Ok(Finished::Reference(count.as_u64()?)),
        (Sequence::YourReference, [clid]) => {
            let clid = clid.as_u64()?;
            Value::Local(objects.local(clid).ok_or_else(|| Violation::new(format!("unknown CLID {clid}")))?)
        }
        (Sequence::MyReference, [clid, about @ ..]) => {
            let interface = about.first().map(|name| name.as_bytes().cloned()).transpose()?;
            Value::Remote(objects.remote(clid.as_u64()?, interface)?)
        }
        _ => return Err(Problem::Fatal(Fatal::new(format!("{sequence:?} sequence ends early")))),
    }))
}
