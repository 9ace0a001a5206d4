//! Each value as the real library encodes it, both ways.

use bytes::{Bytes, BytesMut};
use leasehold_foolscap::slicer::Slicer;
use leasehold_foolscap::unslicer::{Objects, Step, Unslicer};
use leasehold_foolscap::{
    Constraint, Integer, Interface, LocalReference, RemoteReference, SizeLimits, Value, Violation, Vocabulary,
};
use serde_json::Value as Json;

use crate::node::unhex;

const FILE: &str = include_str!("../vectors/banana.json");

/// Waits for the answer to request 1, and knows no objects.
pub struct Asker;

impl Objects for Asker {
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

    fn awaited(&self, request: u64) -> Option<&'static Constraint> {
        (request == 1).then_some(&Constraint::Any)
    }
}

/// `answer(1, …)` around the bytes of a value; OPEN numbers need not count up to be understood.
fn answer(vocabulary: Vocabulary, value: &[u8]) -> BytesMut {
    let word: &[u8] = if vocabulary == Vocabulary::Empty { b"\x06\x82answer" } else { b"\x0d\x87" };
    let mut bytes = BytesMut::from(&b"\x64\x88"[..]);
    for part in [word, b"\x01\x81", value, b"\x64\x89"] {
        bytes.extend_from_slice(part);
    }
    bytes
}

fn value(json: &Json) -> Option<Value> {
    let (key, content) = json.as_object().unwrap().iter().next().unwrap();
    let text = || content.as_str().unwrap();
    let all = || content.as_array().unwrap().iter().map(|item| value(item).unwrap());
    Some(match key.as_str() {
        "int" => Value::Integer(integer(text())),
        "float" => Value::Float(text().parse().unwrap()),
        "bytes_hex" => Value::from(unhex(text())),
        "text" => Value::Text(text().into()),
        "py" => match text() {
            "None" => Value::None,
            word => Value::Boolean(word == "True"),
        },
        "list" => Value::list(all()),
        "tuple" => Value::tuple(all()),
        "set" => Value::set(all()),
        "frozenset" => Value::FrozenSet(all().collect()),
        "dict" => Value::dict(
            content.as_array().unwrap().iter().map(|pair| (value(&pair[0]).unwrap(), value(&pair[1]).unwrap())),
        ),
        "decimal" => return None,
        other => panic!("an unknown kind of value: {other}"),
    })
}

/// A decimal number of any length.
fn integer(text: &str) -> Integer {
    if let Ok(number) = text.parse() {
        return Integer::Small(number);
    }
    let mut magnitude: Vec<u8> = Vec::new(); // little-endian
    for digit in text.trim_start_matches('-').bytes() {
        let mut carry = u16::from(digit - b'0');
        for byte in &mut magnitude {
            carry += u16::from(*byte) * 10;
            *byte = carry.to_le_bytes()[0];
            carry >>= 8;
        }
        if carry > 0 {
            magnitude.push(carry.to_le_bytes()[0]);
        }
    }
    magnitude.reverse();
    Integer::from_magnitude(text.starts_with('-'), &magnitude.into())
}

#[test]
fn values_are_encoded_and_decoded_as_the_library_does() {
    let file: Json = serde_json::from_str(FILE).unwrap();
    let mut count = 0;
    for vector in file["values"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        let vocabulary = Vocabulary::from_index(vector["vocab"].as_u64().unwrap()).unwrap();
        let bytes = unhex(vector["hex"].as_str().unwrap());
        let mut input = answer(vocabulary, &bytes);
        let mut unslicer = Unslicer::new(vocabulary, SizeLimits::default());
        let step = unslicer.step(&mut input, &Asker).unwrap().unwrap();
        let Some(value) = value(&vector["value"]) else {
            assert!(matches!(step, Step::Answer { answer: Err(_), .. }), "{name}: of an unknown type");
            continue;
        };
        assert_eq!(step, Step::Answer { request: 1, answer: Ok(value.clone()) }, "{name}");
        assert!(input.is_empty() || unslicer.step(&mut input, &Asker).unwrap().is_none());

        let mut slicer = Slicer::new(vocabulary);
        slicer.value(&value, &mut |_| panic!("no references here"));
        assert_eq!(slicer.take().concat(), bytes, "{name}");
        count += 1;
    }
    assert!(count >= 80, "{count}");
}

#[test]
fn what_the_library_refuses_is_refused() {
    let file: Json = serde_json::from_str(FILE).unwrap();
    for vector in file["errors"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        let bytes = unhex(vector["input"].as_str().unwrap());
        // Sequences of unknown types are skipped at top level, so most is tried within an answer.
        let mut input =
            if name == "bare-close" { BytesMut::from(&bytes[..]) } else { answer(Vocabulary::Words, &bytes) };
        let result = Unslicer::new(Vocabulary::Words, SizeLimits::default()).step(&mut input, &Asker);
        if vector["reply"] == "" {
            assert!(result.is_ok(), "{name}: {result:?}");
        } else {
            assert!(result.is_err(), "{name}: {result:?}");
        }
    }
}

#[test]
fn open_numbers_count_over_everything_that_is_sent() {
    let file: Json = serde_json::from_str(FILE).unwrap();
    let vector =
        |name: &str| file["sequences"].as_array().unwrap().iter().find(|vector| vector["name"] == name).unwrap();
    let mut slicer = Slicer::new(Vocabulary::Words);
    for number in [1, 2] {
        slicer.value(&Value::list([Value::from(number)]), &mut |_| panic!("no references here"));
    }
    assert_eq!(slicer.take().concat(), unhex(vector("two-items")["hex"].as_str().unwrap()));
    for number in [0, 1, 300] {
        slicer.ping(number);
        slicer.pong(number);
        let expected = unhex(vector(&format!("ping-pong-{number}"))["hex"].as_str().unwrap());
        assert_eq!(slicer.take().concat(), expected);
    }
    slicer.last_words("went wrong");
    assert_eq!(slicer.take().concat(), unhex(vector("error-token")["hex"].as_str().unwrap()));
    // A Tub skips a new vocabulary, and goes on with the old one.
    let mut input = BytesMut::from(&unhex(vector("set-vocab")["hex"].as_str().unwrap())[..]);
    let mut unslicer = Unslicer::new(Vocabulary::Words, SizeLimits::default());
    assert_eq!(unslicer.step(&mut input, &Asker), Ok(None));
    assert!(input.is_empty() && unslicer.is_between_messages());
}
