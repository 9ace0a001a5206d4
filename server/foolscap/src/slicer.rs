//! Values to bytes. Long strings are not copied: what comes out is a row of pieces.
//!
//! Source: `foolscap.md` 5 and 6.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use crate::token::{Kind, write_head};
use crate::value::{Integer, LocalReference, Value};
use crate::vocabulary::Vocabulary;

/// Strings from this length on are passed on instead of being copied.
const COPIED_BYTES_MAX: usize = 4096;

/// How an object of this side is announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Its number on this connection.
    pub clid: u64,
    /// Its interface and its FURL, the first time.
    pub introduction: Option<(&'static str, Option<String>)>,
}

/// Writes tokens; one for each direction of a connection, as OPEN tokens are counted.
#[derive(Debug, Default)]
pub struct Slicer {
    vocabulary: Vocabulary,
    opens: u64,
    pieces: Vec<Bytes>,
    last: BytesMut,
}

impl Slicer {
    /// A writer for a new connection.
    pub fn new(vocabulary: Vocabulary) -> Self {
        Self { vocabulary, ..Self::default() }
    }

    /// Takes what has been written.
    pub fn take(&mut self) -> Vec<Bytes> {
        self.end_piece();
        std::mem::take(&mut self.pieces)
    }

    /// Writes a call.
    pub fn call(
        &mut self,
        request: u64,
        clid: u64,
        method: &str,
        arguments: &Arguments<'_>,
        announce: &mut Announce<'_>,
    ) {
        self.sequence(&["call"], |slicer| {
            slicer.unsigned(request);
            slicer.unsigned(clid);
            slicer.bytes(method.as_bytes());
            slicer.sequence(&["arguments"], |slicer| {
                slicer.unsigned(arguments.positional.len() as u64);
                for value in arguments.positional {
                    slicer.value(value, announce);
                }
                for (name, value) in arguments.named {
                    slicer.bytes(name.as_bytes());
                    slicer.value(value, announce);
                }
            });
        });
    }

    /// Writes an answer.
    pub fn answer(&mut self, request: u64, value: &Value, announce: &mut Announce<'_>) {
        self.sequence(&["answer"], |slicer| {
            slicer.unsigned(request);
            slicer.value(value, announce);
        });
    }

    /// Writes that a call failed; `failure` is a copyable.
    pub fn error(&mut self, request: u64, failure: &Value) {
        self.sequence(&["error"], |slicer| {
            slicer.unsigned(request);
            slicer.value(failure, &mut |_| unreachable!("a failure has no references in it"));
        });
    }

    /// Writes a PING.
    pub fn ping(&mut self, number: u64) {
        write_head(&mut self.last, Kind::Ping, number);
    }

    /// Writes a PONG.
    pub fn pong(&mut self, number: u64) {
        write_head(&mut self.last, Kind::Pong, number);
    }

    /// Writes last words; they must be short.
    pub fn last_words(&mut self, text: &str) {
        let text = &text.as_bytes()[..text.len().min(1000)];
        write_head(&mut self.last, Kind::Error, text.len() as u64);
        self.last.put_slice(text);
    }

    /// Writes a value. Objects of this side are numbered by `announce`.
    pub fn value(&mut self, value: &Value, announce: &mut Announce<'_>) {
        match value {
            Value::None => self.sequence(&["none"], |_| ()),
            Value::Boolean(boolean) => self.sequence(&["boolean"], |slicer| slicer.unsigned(u64::from(*boolean))),
            Value::Integer(integer) => self.integer(integer),
            Value::Float(float) => {
                write_head(&mut self.last, Kind::Float, 0);
                self.last.put_f64(*float);
            }
            Value::Bytes(bytes) => self.shared_bytes(bytes),
            Value::Text(text) => self.sequence(&["unicode"], |slicer| slicer.bytes(text.as_bytes())),
            Value::List(items) => self.items("list", items, announce),
            Value::Tuple(items) => self.items("tuple", items, announce),
            Value::Set(items) => self.items("set", items, announce),
            Value::FrozenSet(items) => self.items("immutable-set", items, announce),
            Value::Dict(entries) => self.sequence(&["dict"], |slicer| {
                for (key, value) in entries.iter() {
                    slicer.value(key, announce);
                    slicer.value(value, announce);
                }
            }),
            Value::Local(object) => {
                let announcement = announce(object);
                self.sequence(&["my-reference"], |slicer| {
                    slicer.unsigned(announcement.clid);
                    if let Some((interface, furl)) = announcement.introduction {
                        slicer.bytes(interface.as_bytes());
                        if let Some(furl) = furl {
                            slicer.bytes(furl.as_bytes());
                        }
                    }
                });
            }
            Value::Remote(reference) => {
                self.sequence(&["your-reference"], |slicer| slicer.unsigned(reference.clid()));
            }
            Value::Copyable(copyable) => {
                let class = copyable.class.clone();
                self.open(|slicer| {
                    slicer.bytes(b"copyable");
                    slicer.bytes(&class);
                    for (name, value) in &copyable.attributes {
                        slicer.bytes(name);
                        slicer.value(value, announce);
                    }
                });
            }
        }
    }

    fn items(&mut self, word: &str, items: &[Value], announce: &mut Announce<'_>) {
        self.sequence(&[word], |slicer| {
            for item in items {
                slicer.value(item, announce);
            }
        });
    }

    fn sequence(&mut self, words: &[&str], content: impl FnOnce(&mut Self)) {
        self.open(|slicer| {
            for word in words {
                slicer.bytes(word.as_bytes());
            }
            content(slicer);
        });
    }

    fn open(&mut self, content: impl FnOnce(&mut Self)) {
        let number = self.opens;
        self.opens += 1;
        write_head(&mut self.last, Kind::Open, number);
        content(self);
        write_head(&mut self.last, Kind::Close, number);
    }

    /// A number of the protocol itself, which is an INT whatever its size.
    fn unsigned(&mut self, number: u64) {
        write_head(&mut self.last, Kind::Int, number);
    }

    fn integer(&mut self, integer: &Integer) {
        const SHORT: Range<i128> = -(1 << 31)..1 << 31;
        match integer {
            Integer::Small(number) if SHORT.contains(number) => {
                let kind = if *number < 0 { Kind::Neg } else { Kind::Int };
                let magnitude = u64::try_from(number.unsigned_abs()).expect("32 bits fit 64");
                write_head(&mut self.last, kind, magnitude);
            }
            Integer::Small(number) => {
                let bytes = number.unsigned_abs().to_be_bytes();
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                self.long(*number < 0, &bytes[zeros..]);
            }
            Integer::Large { negative, magnitude } => self.long(*negative, magnitude),
        }
    }

    fn long(&mut self, negative: bool, magnitude: &[u8]) {
        let kind = if negative { Kind::LongNeg } else { Kind::LongInt };
        write_head(&mut self.last, kind, magnitude.len() as u64);
        self.last.put_slice(magnitude);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if let Some(number) = self.vocabulary.number(bytes) {
            write_head(&mut self.last, Kind::Vocab, number);
        } else {
            write_head(&mut self.last, Kind::String, bytes.len() as u64);
            self.last.put_slice(bytes);
        }
    }

    fn shared_bytes(&mut self, bytes: &Bytes) {
        if bytes.len() <= COPIED_BYTES_MAX {
            return self.bytes(bytes);
        }
        write_head(&mut self.last, Kind::String, bytes.len() as u64);
        self.end_piece();
        self.pieces.push(bytes.clone());
    }

    fn end_piece(&mut self) {
        if !self.last.is_empty() {
            self.pieces.push(self.last.split().freeze());
        }
    }
}

/// What a call is made with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arguments<'a> {
    /// By their place.
    pub positional: &'a [Value],
    /// By their name; sorted.
    pub named: &'a [(&'a str, Value)],
}

/// Numbers an object of this side.
pub type Announce<'a> = dyn FnMut(&LocalReference) -> Announcement + 'a;
