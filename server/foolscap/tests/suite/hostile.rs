//! Bytes that nobody means well with: bounded, and no harm to the call after them.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use leasehold_foolscap::slicer::{Arguments, Slicer};
use leasehold_foolscap::unslicer::{Objects, Step, Unslicer};
use leasehold_foolscap::{
    Argument, Constraint, Copyable, Integer, Interface, LocalReference, Method, RemoteReference, SizeLimits, Value,
    Violation, Vocabulary,
};
use proptest::prelude::*;

use crate::banana::Asker;

const DATA: Constraint = Constraint::Bytes { min: 0, max: 1 << 20 };
const ANY_LIST: Constraint = Constraint::List { of: &Constraint::Any, count_max: 1 << 20 };

static OPEN: Interface = Interface {
    name: "RIOpen",
    methods: &[
        Method { name: "data", arguments: &[Argument { name: "data", takes: DATA }] },
        Method { name: "any", arguments: &[Argument { name: "any", takes: Constraint::Any }] },
        Method {
            name: "two",
            arguments: &[
                Argument { name: "first", takes: ANY_LIST },
                Argument { name: "second", takes: Constraint::List { of: &DATA, count_max: 3 } },
            ],
        },
    ],
};

/// One object, number 1, and request 99 under way.
struct OneObject;

impl Objects for OneObject {
    fn interface(&self, clid: u64) -> Option<&'static Interface> {
        (clid == 1).then_some(&OPEN)
    }

    fn local(&self, _: u64) -> Option<LocalReference> {
        None
    }

    fn remote(&self, _: u64, _: Option<Bytes>) -> Result<RemoteReference, Violation> {
        Err(Violation::new("too many references on this connection"))
    }

    fn is_unanswered(&self, request: u64) -> bool {
        request == 99
    }

    fn awaited(&self, _: u64) -> Option<&'static Constraint> {
        None
    }
}

/// Reads everything, granting all memory that is asked for.
fn read(unslicer: &mut Unslicer, input: &mut BytesMut) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    while let Some(step) = unslicer.step(input, &OneObject).map_err(|fatal| fatal.to_string())? {
        match step {
            Step::Reserve(bytes) => unslicer.grant(bytes),
            step => steps.push(step),
        }
    }
    Ok(steps)
}

fn unslicer() -> Unslicer {
    Unslicer::new(Vocabulary::Words, SizeLimits::default())
}

fn no_object(_: &LocalReference) -> leasehold_foolscap::slicer::Announcement {
    panic!("no objects here")
}

fn call(slicer: &mut Slicer, request: u64, method: &str, positional: &[Value]) -> Bytes {
    slicer.call(request, 1, method, &Arguments { positional, named: &[] }, &mut no_object);
    slicer.take().concat().into()
}

/// A call of `any` up to where its argument begins, and what ends it.
const HEAD: &[u8] = b"\x00\x88\x0b\x87\x07\x81\x01\x81\x03\x82any\x01\x88\x0c\x87\x01\x81";
const TAIL: &[u8] = b"\x01\x89\x00\x89";

fn around(argument: &[u8]) -> BytesMut {
    BytesMut::from(&[HEAD, argument, TAIL].concat()[..])
}

/// The steps are a violation of call 7 and nothing else, and the next call is read.
fn assert_violated(unslicer: &mut Unslicer, steps: &[Step], about: &str) {
    match steps {
        [Step::CallViolated { request: 7, violation }] => assert!(violation.text().contains(about), "{violation}"),
        other => panic!("{about}: {other:?}"),
    }
    assert!(unslicer.is_between_messages());
    let mut next = BytesMut::from(&call(&mut Slicer::new(Vocabulary::Words), 8, "any", &[Value::None])[..]);
    assert!(matches!(read(unslicer, &mut next).unwrap()[..], [Step::Call(_)]));
}

#[test]
fn nesting_is_bounded_and_the_rest_is_skipped_without_a_stack() {
    for depth in [13, 1000, 900_000] {
        let mut argument = Vec::new();
        for _ in 0..depth {
            argument.extend_from_slice(b"\x05\x88\x04\x87");
        }
        for _ in 0..depth {
            argument.extend_from_slice(b"\x05\x89");
        }
        let mut unslicer = unslicer();
        let steps = read(&mut unslicer, &mut around(&argument)).unwrap();
        assert_violated(&mut unslicer, &steps, "nested too deeply");
    }
    let endless = b"\x05\x88\x04\x87".repeat(1_100_000);
    assert!(read(&mut unslicer(), &mut around(&endless)).is_err());
}

#[test]
fn a_string_that_is_too_long_is_never_stored() {
    let mut unslicer = unslicer();
    let mut input = BytesMut::from(&b"\x00\x88\x0b\x87\x07\x81\x01\x81\x04\x82data\x01\x88\x0c\x87\x01\x81"[..]);
    let length = 300_000_000_u64;
    leasehold_foolscap::token::write_head(&mut input, leasehold_foolscap::token::Kind::String, length);
    // It is refused before the first byte of it is there.
    let mut steps = read(&mut unslicer, &mut input).unwrap();
    assert_eq!(steps.len(), 1);
    let mut sent = 0;
    while sent < length {
        input.extend_from_slice(&[7; 100_000]);
        sent += 100_000;
        steps.extend(read(&mut unslicer, &mut input).unwrap());
        assert!(input.is_empty());
    }
    input.extend_from_slice(TAIL);
    steps.extend(read(&mut unslicer, &mut input).unwrap());
    assert_violated(&mut unslicer, &steps, "too large");
}

#[test]
fn a_call_holds_no_more_than_it_may() {
    let limits = SizeLimits { call_bytes_max: 1 << 20, ..SizeLimits::default() };
    let numbers = [b"\x05\x88\x04\x87".to_vec(), b"\x01\x81".repeat(500_000), b"\x05\x89".to_vec()].concat();
    let empty_lists = b"\x05\x88\x04\x87\x05\x89".repeat(60_000);
    let lists = [b"\x05\x88\x04\x87".to_vec(), empty_lists, b"\x05\x89".to_vec()].concat();
    for argument in [numbers, lists] {
        let mut unslicer = Unslicer::new(Vocabulary::Words, limits);
        let steps = read(&mut unslicer, &mut around(&argument)).unwrap();
        assert_violated(&mut unslicer, &steps, "too many bytes");
    }
    let mut unslicer = unslicer();
    let many = b"\x05\x88\x00\x87\x05\x89".repeat(70_000);
    let argument = [b"\x05\x88\x04\x87".to_vec(), many, b"\x05\x89".to_vec()].concat();
    let steps = read(&mut unslicer, &mut around(&argument)).unwrap();
    assert_violated(&mut unslicer, &steps, "too many sequences");
}

#[test]
fn memory_that_is_refused_fails_the_call() {
    let mut unslicer = unslicer();
    let mut input = around(&[&b"\x00\x00\x40\x82"[..], &vec![7; 1 << 20]].concat());
    let step = unslicer.step(&mut input, &OneObject).unwrap();
    assert!(matches!(step, Some(Step::Reserve(bytes)) if bytes >= (1 << 20) - (16 << 10)), "{step:?}");
    unslicer.refuse(Violation::new("not now"));
    let steps = read(&mut unslicer, &mut input).unwrap();
    assert_violated(&mut unslicer, &steps, "not now");
}

#[test]
fn references_that_multiply_are_counted() {
    // Each list holds the one before ten times: a few bytes that stand for 10^8 values.
    let mut argument = b"\x02\x88\x04\x87".to_vec();
    argument.extend_from_slice(b"\x03\x88\x04\x87\x00\x81\x03\x89");
    let (mut last, mut opens) = (3_u8, 4_u8);
    for _ in 0..8 {
        let list = opens;
        opens += 1;
        argument.extend_from_slice(&[list, 0x88, 0x04, 0x87]);
        for _ in 0..10 {
            argument.extend_from_slice(&[opens, 0x88, 0x02, 0x87, last, 0x81, opens, 0x89]);
            opens += 1;
        }
        argument.extend_from_slice(&[list, 0x89]);
        last = list;
    }
    argument.extend_from_slice(b"\x02\x89");
    let mut unslicer = unslicer();
    let steps = read(&mut unslicer, &mut around(&argument)).unwrap();
    assert_violated(&mut unslicer, &steps, "too many bytes");
}

#[test]
fn references_are_resolved_within_their_call_and_only_to_what_is_complete() {
    // list(list(5), reference to it)
    let good = b"\x02\x88\x04\x87\x03\x88\x04\x87\x05\x81\x03\x89\x04\x88\x02\x87\x03\x81\x04\x89\x02\x89";
    let steps = read(&mut unslicer(), &mut around(good)).unwrap();
    let inner = Value::list([Value::from(5)]);
    match &steps[..] {
        [Step::Call(call)] => assert_eq!(call.arguments, [Value::list([inner.clone(), inner])]),
        other => panic!("{other:?}"),
    }
    for number in [2, 9] {
        let mut cycle = b"\x02\x88\x04\x87\x03\x88\x02\x87\x00\x81\x03\x89\x02\x89".to_vec();
        cycle[8] = number;
        let mut unslicer = unslicer();
        let steps = read(&mut unslicer, &mut around(&cycle)).unwrap();
        assert_violated(&mut unslicer, &steps, "not complete");
    }
    // What is referred to must fit where it is referred to: the second argument takes only bytes.
    let mut input = BytesMut::from(
        &b"\x00\x88\x0b\x87\x07\x81\x01\x81\x03\x82two\x01\x88\x0c\x87\x02\x81\x02\x88\x04\x87\x05\x81\x02\x89\
           \x03\x88\x02\x87\x02\x81\x03\x89\x01\x89\x00\x89"[..],
    );
    let mut unslicer = unslicer();
    let steps = read(&mut unslicer, &mut input).unwrap();
    assert_violated(&mut unslicer, &steps, "not of the kind");
}

#[test]
fn what_breaks_the_protocol_is_fatal() {
    let cases: [(&str, Vec<u8>); 9] = [
        ("an unknown word", around(b"\x63\x87").to_vec()),
        ("a duplicate key", around(b"\x02\x88\x03\x87\x01\x81\x01\x81\x01\x81\x01\x81\x02\x89").to_vec()),
        ("text that is no UTF-8", around(b"\x02\x88\x08\x87\x01\x82\xff\x02\x89").to_vec()),
        ("boolean of bytes", around(b"\x02\x88\x01\x87\x01\x82x\x02\x89").to_vec()),
        ("two arguments where one was counted", around(b"\x01\x81\x01\x81").to_vec()),
        ("a request number that is unanswered", b"\x00\x88\x0b\x87\x63\x81".to_vec()),
        ("an object number that is a string", b"\x00\x88\x0b\x87\x01\x81\x01\x82x".to_vec()),
        ("a token at top level", b"\x01\x81".to_vec()),
        ("another CLOSE", around(b"\x02\x88\x04\x87\x03\x89").to_vec()),
    ];
    for (name, bytes) in cases {
        let result = read(&mut unslicer(), &mut BytesMut::from(&bytes[..]));
        assert!(result.is_err(), "{name}: {result:?}");
    }
}

#[test]
fn a_large_request_number_is_answered_as_it_came() {
    let mut slicer = Slicer::new(Vocabulary::Words);
    slicer.call(1 << 40, 1, "any", &Arguments { positional: &[Value::None], named: &[] }, &mut no_object);
    let mut input = BytesMut::from(&slicer.take().concat()[..]);
    match &read(&mut unslicer(), &mut input).unwrap()[..] {
        [Step::Call(call)] => assert_eq!(call.request, 1 << 40),
        other => panic!("{other:?}"),
    }
}

fn integers() -> impl Strategy<Value = Integer> {
    prop_oneof![
        any::<i32>().prop_map(|number| Integer::Small(number.into())),
        any::<i128>().prop_filter("has a magnitude", |number| *number != i128::MIN).prop_map(Integer::Small),
        (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(negative, bytes)| Integer::from_magnitude(negative, &bytes.into())),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Boolean),
        integers().prop_map(Value::Integer),
        (-1e300..1e300).prop_map(Value::Float),
        proptest::collection::vec(any::<u8>(), 0..6000).prop_map(Value::from),
        prop_oneof![Just("list"), Just("my-reference")].prop_map(|word| Value::from(word.as_bytes())),
        ".{0,20}".prop_map(|text| Value::Text(text.into())),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        let items = || proptest::collection::vec(inner.clone(), 0..8);
        let entries = proptest::collection::btree_map(any::<i64>(), inner.clone(), 0..8);
        prop_oneof![
            items().prop_map(Value::list),
            items().prop_map(Value::tuple),
            items().prop_map(Value::set),
            items().prop_map(|items| Value::FrozenSet(items.into())),
            entries.prop_map(|entries| Value::dict(entries.into_iter().map(|(key, value)| (key.into(), value)))),
            items().prop_map(|items| {
                let attributes = items.into_iter().map(|item| (Bytes::from_static(b"name"), item)).collect();
                Value::Copyable(Arc::new(Copyable { class: Bytes::from_static(b"a.Class"), attributes }))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn values_come_out_as_they_went_in(value in values(), cut in 1_usize..5000) {
        let bytes = call(&mut Slicer::new(Vocabulary::Words), 3, "any", std::slice::from_ref(&value));
        let mut unslicer = unslicer();
        let mut input = BytesMut::new();
        let mut steps = Vec::new();
        for piece in bytes.chunks(cut) {
            input.extend_from_slice(piece);
            steps.extend(read(&mut unslicer, &mut input).unwrap());
        }
        match &steps[..] {
            [Step::Call(call)] => prop_assert_eq!(&call.arguments, &[value]),
            other => prop_assert!(false, "{:?}", other),
        }
        prop_assert!(unslicer.is_between_messages() && input.is_empty());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&mut unslicer(), &mut BytesMut::from(&bytes[..]));
        let _ = unslicer().step(&mut BytesMut::from(&bytes[..]), &Asker);
    }

    /// Tokens that mean something are more likely to get far than any bytes.
    #[test]
    fn any_tokens_are_read_or_refused(tokens in proptest::collection::vec((0_u8..30, 0x81_u8..0x90), 0..200)) {
        let mut bytes = HEAD.to_vec();
        for (number, kind) in tokens {
            bytes.extend_from_slice(&[number, kind]);
            if matches!(kind, 0x82 | 0x85 | 0x86 | 0x8d) {
                bytes.extend(std::iter::repeat_n(b'a', number.into()));
            }
        }
        let _ = read(&mut unslicer(), &mut BytesMut::from(&bytes[..]));
    }

    /// A call with anything in it that is not taken is one violation, and the next call is read.
    #[test]
    fn violations_end_with_their_call(value in values()) {
        let mut slicer = Slicer::new(Vocabulary::Words);
        let violating = call(&mut slicer, 7, "two", &[Value::list([]), Value::list([Value::list([value])])]);
        let good = call(&mut slicer, 8, "data", &[Value::from(b"x")]);
        let mut input = BytesMut::from(&[violating, good].concat()[..]);
        let steps = read(&mut unslicer(), &mut input).unwrap();
        prop_assert!(
            matches!(&steps[..], [Step::CallViolated { request: 7, .. }, Step::Call(call)] if call.request == 8),
            "{:?}", steps
        );
    }
}
