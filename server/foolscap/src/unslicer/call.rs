//! A call that is being read: its head, and its arguments by the table of its method.

use super::frame::{Finished, Frame, Opened};
use super::problem::{Problem, fatal, violation};
use super::step::{IncomingCall, Objects, Step};
use crate::failure::Violation;
use crate::schema::{Constraint, Interface, Method};
use crate::token::{Head, Kind};
use crate::value::Value;

/// Names of methods and arguments are not longer.
const NAME_BYTES_MAX: u64 = 1000;

/// A call: its number, its object, its method, its arguments, in this order.
#[derive(Debug, Default)]
pub(super) struct CallFrame {
    pub request: Option<u64>,
    target: Option<(u64, &'static Interface)>,
    method: Option<&'static Method>,
    pub arguments: Option<Vec<Option<Value>>>,
}

/// The arguments of a call: how many come by their place, these, then names and values.
#[derive(Debug)]
pub(super) struct ArgumentsFrame {
    method: &'static Method,
    positional_count: Option<u64>,
    given: usize,
    named: Option<usize>,
    values: Vec<Option<Value>>,
}

impl CallFrame {
    pub fn admit_open(&self) -> Result<(), Problem> {
        match (self.method, &self.arguments) {
            (Some(_), None) => Ok(()),
            _ => fatal("a call has a number, an object, a method and arguments"),
        }
    }

    pub fn open(&self, word: &[u8]) -> Result<Opened, Problem> {
        match (self.method, word) {
            (Some(method), b"arguments") => Ok(Opened::Frame(Frame::Arguments(ArgumentsFrame::new(method)))),
            _ => fatal("a call has arguments"),
        }
    }

    pub fn admit(&self, head: Head, is_text: bool) -> Result<(), Problem> {
        match (self.request, self.target, self.method) {
            (None, ..) if head.kind == Kind::Int => Ok(()),
            (None, ..) => fatal("request ID must be an INT"),
            (_, None, _) if matches!(head.kind, Kind::Int | Kind::Neg) => Ok(()),
            (_, None, _) => fatal("object ID must be an INT or NEG"),
            (.., None) if head.kind == Kind::String && head.number > NAME_BYTES_MAX => {
                violation("a method has too long a name")
            }
            (.., None) if is_text => Ok(()),
            (.., None) => fatal("method name must be a STRING"),
            _ => fatal("a call has arguments"),
        }
    }

    pub fn put(&mut self, token: &Value, objects: &dyn Objects) -> Result<(), Problem> {
        let number = || token.as_u64();
        match (self.request, self.target) {
            (None, _) => {
                let request = number()?;
                if request != 0 && objects.is_unanswered(request) {
                    return fatal("a request number that is still unanswered");
                }
                self.request = Some(request);
            }
            (_, None) => {
                let unknown = || Violation::new("unknown CLID");
                let clid = number().map_err(|_| unknown())?;
                let interface =
                    objects.interface(clid).ok_or_else(|| Violation::new(format!("unknown CLID {clid}")))?;
                self.target = Some((clid, interface));
            }
            (_, Some((_, interface))) => self.method = Some(find_method(interface, token.as_bytes()?)?),
        }
        Ok(())
    }

    /// What is found only when all of a call is there.
    pub fn finish(&self, bytes: u64) -> Result<Step, Problem> {
        let (Some(request), Some((clid, _)), Some(method), Some(given)) =
            (self.request, self.target, self.method, &self.arguments)
        else {
            return fatal("a call ends early");
        };
        let mut arguments = Vec::with_capacity(given.len());
        for (argument, value) in method.arguments.iter().zip(given) {
            let Some(value) = value else {
                return violation(format!("missing required argument {}", argument.name));
            };
            argument.takes.check(value)?;
            arguments.push(value.clone());
        }
        Ok(Step::Call(IncomingCall { request, clid, method: method.name, arguments, bytes }))
    }
}

impl ArgumentsFrame {
    pub fn new(method: &'static Method) -> Self {
        let values = method.arguments.iter().map(|_| None).collect();
        Self { method, positional_count: None, given: 0, named: None, values }
    }

    /// Which argument comes next, if not a name.
    pub fn place(&self) -> Option<usize> {
        match self.positional_count {
            Some(count) if (self.given as u64) < count => Some(self.given),
            _ => self.named,
        }
    }

    pub fn next(&self) -> Result<&'static Constraint, Problem> {
        match self.place() {
            Some(place) => match self.method.arguments.get(place) {
                Some(argument) => Ok(&argument.takes),
                None => violation("too many positional arguments"),
            },
            None if self.positional_count.is_none() => fatal("argument count must be an INT"),
            None => fatal("keyword name must be a STRING"),
        }
    }

    pub fn admit(&self, head: Head, is_text: bool) -> Result<(), Problem> {
        if self.place().is_some() {
            return Ok(self.next()?.admit(head)?);
        }
        match head.kind {
            Kind::Int if self.positional_count.is_none() => Ok(()),
            _ if self.positional_count.is_none() => fatal("argument count must be an INT"),
            Kind::String if head.number > NAME_BYTES_MAX => violation("unknown argument"),
            _ if is_text => Ok(()),
            _ => fatal("keyword name must be a STRING"),
        }
    }

    pub fn put(&mut self, value: Value) -> Result<(), Problem> {
        if let Some(place) = self.place() {
            self.values[place] = Some(value);
            if self.named.take().is_none() {
                self.given += 1;
            }
            return Ok(());
        }
        if self.positional_count.is_none() {
            self.positional_count = Some(value.as_u64()?);
            return Ok(());
        }
        let name = value.as_bytes()?;
        let Ok(text) = std::str::from_utf8(name) else { return fatal("keyword name must be UTF-8") };
        let Some(place) = self.method.arguments.iter().position(|argument| argument.name == text) else {
            return violation(format!("{} has no argument of that name", self.method.name));
        };
        if self.values[place].is_some() {
            return violation(format!("argument {text} was given twice"));
        }
        self.named = Some(place);
        Ok(())
    }

    pub fn finish(self) -> Result<Finished, Problem> {
        if self.positional_count.is_none() || self.place().is_some() {
            return fatal("arguments end early");
        }
        Ok(Finished::Arguments(self.values))
    }
}

/// The method that a call names, if its object has it.
fn find_method(interface: &'static Interface, name: &[u8]) -> Result<&'static Method, Violation> {
    interface.method(name).ok_or_else(|| {
        let name = String::from_utf8_lossy(&name[..name.len().min(100)]).into_owned();
        Violation::new(format!("{} has no method {name}", interface.name))
    })
}
