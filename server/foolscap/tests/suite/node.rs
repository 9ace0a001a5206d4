//! Banana as a tree, read without the crate's own reader, so that what is recorded and what is sent can be compared.

use bytes::Bytes;
use leasehold_foolscap::token::{Kind, read_head};
use leasehold_foolscap::{Integer, Value, Vocabulary};
use serde_json::Value as Json;

/// A value, a token or a sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Int(i128),
    Bytes(Vec<u8>),
    Sequence(String, Vec<Node>),
    /// PING, PONG, ABORT: without its number, as OPEN numbers are not compared.
    Token(&'static str),
    Error,
}

impl Node {
    /// As a transcript writes it.
    pub fn from_json(json: &Json) -> Self {
        if let Some(number) = json.as_i64() {
            return Self::Int(number.into());
        }
        let (key, value) = json.as_object().unwrap().iter().next().unwrap();
        let text = || value.as_str().unwrap();
        match key.as_str() {
            "int" => Self::Int(text().parse().unwrap()),
            "bytes" => Self::Bytes(text().into()),
            "bytes_hex" => Self::Bytes(unhex(text())),
            "bytes_repeat" => {
                Self::Bytes(vec![unhex(text())[0]; usize::try_from(json["length"].as_u64().unwrap()).unwrap()])
            }
            "PING" => Self::Token("PING"),
            "PONG" => Self::Token("PONG"),
            "ABORT" => Self::Token("ABORT"),
            "ERROR" => Self::Error,
            _ => {
                let body = json["body"].as_array().unwrap().iter().map(Self::from_json).collect();
                Self::Sequence(json["open"].as_str().unwrap().to_owned(), body)
            }
        }
    }

    /// Takes one top level item off the input, if it is complete.
    pub fn take(input: &mut bytes::BytesMut) -> Option<Self> {
        let mut position = 0;
        let node = read(input, &mut position)?;
        let _ = input.split_to(position);
        Some(node)
    }

    /// The words of a sequence, if it is one of that type.
    pub fn body(&self, of: &str) -> Option<&[Node]> {
        match self {
            Self::Sequence(kind, body) if kind == of => Some(body),
            _ => None,
        }
    }

    pub fn int(&self) -> Option<i128> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// An attribute of a failure.
    pub fn attribute(&self, name: &str) -> Option<String> {
        let body = self.body("copyable/twisted.python.failure.Failure")?;
        let pair = body.chunks(2).find(|pair| pair[0].bytes() == Some(name.as_bytes()))?;
        Some(String::from_utf8_lossy(pair[1].bytes()?).into_owned())
    }

    /// As a value, where references of the other side are made by `reference`. `None`: it refers to another part.
    pub fn to_value(&self, reference: &mut dyn FnMut(&[Node]) -> Value) -> Option<Value> {
        let mut all = |nodes: &[Node]| nodes.iter().map(|node| node.to_value(reference)).collect::<Option<Vec<_>>>();
        Some(match self {
            Self::Int(number) => Value::Integer(Integer::Small(*number)),
            Self::Bytes(bytes) => Value::Bytes(Bytes::from(bytes.clone())),
            Self::Sequence(kind, body) => match kind.as_str() {
                "none" => Value::None,
                "boolean" => Value::Boolean(body[0] == Self::Int(1)),
                "unicode" => Value::Text(std::str::from_utf8(body[0].bytes()?).unwrap().into()),
                "list" => Value::list(all(body)?),
                "tuple" => Value::tuple(all(body)?),
                "set" => Value::set(all(body)?),
                "immutable-set" => Value::FrozenSet(all(body)?.into()),
                "dict" => {
                    let flat = all(body)?;
                    Value::dict(flat.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())))
                }
                "my-reference" => reference(body),
                _ => return None,
            },
            Self::Token(_) | Self::Error => return None,
        })
    }
}

fn read(input: &[u8], position: &mut usize) -> Option<Node> {
    let (head, length) = read_head(&input[*position..]).expect("the server sends tokens")?;
    let body_at = *position + length;
    let body = input.get(body_at..body_at + usize::try_from(head.body_bytes()).unwrap())?;
    *position = body_at + body.len();
    Some(match head.kind {
        Kind::Int => Node::Int(head.number.into()),
        Kind::Neg => Node::Int(-i128::from(head.number)),
        Kind::LongInt => Node::Int(body.iter().fold(0, |number, byte| number << 8 | i128::from(*byte))),
        Kind::LongNeg => Node::Int(-body.iter().fold(0, |number, byte| number << 8 | i128::from(*byte))),
        Kind::String => Node::Bytes(body.to_vec()),
        Kind::Vocab => Node::Bytes(Vocabulary::Words.word(head.number).unwrap().into()),
        Kind::Ping => Node::Token("PING"),
        Kind::Pong => Node::Token("PONG"),
        Kind::Abort => Node::Token("ABORT"),
        Kind::Error => Node::Error,
        Kind::Open => {
            let mut words = Vec::new();
            loop {
                let rest = &input[*position..];
                let (next, next_length) = read_head(rest).expect("the server sends tokens")?;
                if next.kind == Kind::Close {
                    assert_eq!(next.number, head.number, "CLOSE has the number of its OPEN");
                    *position += next_length;
                    break;
                }
                words.push(read(input, position)?);
            }
            let word = |node: &Node| String::from_utf8(node.bytes().unwrap().to_vec()).unwrap();
            let mut kind = word(&words[0]);
            let mut used = 1;
            if kind == "copyable" {
                kind = format!("copyable/{}", word(&words[1]));
                used = 2;
            }
            Node::Sequence(kind, words.split_off(used))
        }
        Kind::Float | Kind::Close => panic!("no answer has this here"),
    })
}

pub fn unhex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}
