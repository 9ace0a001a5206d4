//! Slicers: whatever the values, they are written as answers and read again as the same, with any vocabulary, one behind
//! the other on one connection.

#![no_main]

use bytes::{Bytes, BytesMut};
use leasehold_foolscap::slicer::Slicer;
use leasehold_foolscap::unslicer::{Objects, Step, Unslicer};
use leasehold_foolscap::{
    Constraint, Integer, Interface, LocalReference, RemoteReference, SizeLimits, Value, Violation, Vocabulary,
};
use libfuzzer_sys::fuzz_target;

/// Less than a message may be deep.
const DEPTH_MAX: usize = 8;
const VALUES_MAX: usize = 200;

/// Every answer is waited for.
struct Waiting;

impl Objects for Waiting {
    fn interface(&self, _: u64) -> Option<&'static Interface> {
        None
    }

    fn local(&self, _: u64) -> Option<LocalReference> {
        None
    }

    fn remote(&self, _: u64, _: Option<Bytes>) -> Result<RemoteReference, Violation> {
        Err(Violation::new("no references here"))
    }

    fn is_unanswered(&self, _: u64) -> bool {
        false
    }

    fn awaited(&self, _: u64) -> Option<&'static Constraint> {
        Some(&Constraint::Any)
    }
}

/// Bytes as a description of values.
struct Recipe<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl Recipe<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.bytes.split_first().unwrap_or((&0, &[]));
        self.bytes = rest;
        *first
    }

    /// A few of the bytes, many times over if they shall be many.
    fn string(&mut self) -> Vec<u8> {
        let (length, times) = (usize::from(self.byte() % 32), [1, 1, 1, 400][usize::from(self.byte() % 4)]);
        let (string, rest) = self.bytes.split_at(length.min(self.bytes.len()));
        self.bytes = rest;
        string.repeat(times)
    }

    fn value(&mut self, depth: usize) -> Value {
        self.left = self.left.saturating_sub(1);
        let kinds = if depth == DEPTH_MAX || self.left == 0 { 6 } else { 11 };
        match self.byte() % kinds {
            0 => Value::None,
            1 => Value::Boolean(self.byte() % 2 == 1),
            2 => {
                let (negative, mut magnitude) = (self.byte() % 2 == 1, self.string());
                magnitude.truncate(100);
                Value::Integer(Integer::from_magnitude(negative, &magnitude.into()))
            }
            3 => Value::Float(f64::from(self.byte()) / 3.0),
            4 => Value::Text(String::from_utf8_lossy(&self.string()).as_ref().into()),
            5 => Value::from(self.string()),
            6 => Value::List(self.values(depth).into()),
            7 => Value::Tuple(self.values(depth).into()),
            8 => Value::Set(self.values(depth).into()),
            9 => Value::FrozenSet(self.values(depth).into()),
            _ => Value::dict((0u64..).map(Value::from).zip(self.values(depth))),
        }
    }

    fn values(&mut self, depth: usize) -> Vec<Value> {
        (0..self.byte() % 6).map(|_| self.value(depth + 1)).collect()
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut recipe = Recipe { bytes, left: VALUES_MAX };
    let vocabulary = if recipe.byte() % 2 == 0 { Vocabulary::Empty } else { Vocabulary::Words };
    let mut slicer = Slicer::new(vocabulary);
    let mut unslicer = Unslicer::new(vocabulary, SizeLimits::default());
    for number in 1..=3 {
        let value = recipe.value(0);
        slicer.answer(number, &value, &mut |_| unreachable!("no objects here"));
        let mut input = BytesMut::new();
        for piece in slicer.take() {
            assert!(!piece.is_empty());
            input.extend_from_slice(&piece);
        }
        loop {
            match unslicer.step(&mut input, &Waiting).expect("what we write is no breach of the protocol") {
                Some(Step::Reserve(bytes)) => unslicer.grant(bytes),
                Some(Step::Answer { request, answer }) => {
                    assert_eq!(request, number);
                    assert_eq!(answer.expect("within the limits"), value);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(input.is_empty() && unslicer.is_between_messages());
    }
});
