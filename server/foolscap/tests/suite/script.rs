//! Objects that answer as a transcript says, and compare what they are called with.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use leasehold_foolscap::{Argument, Call, Constraint, Failure, Interface, Method, Referenceable, Value};

use crate::node::Node;

const ANY_BYTES: Constraint = Constraint::Bytes { min: 0, max: 1 << 20 };
const STORAGE_INDEX: Constraint = Constraint::Bytes { min: 0, max: 16 };
const SECRET: Constraint = Constraint::Bytes { min: 32, max: 32 };
const OFFSET: Constraint = Constraint::Integer { bytes_max: 8 };
const NUMBER: Constraint = Constraint::Integer { bytes_max: 1024 };
const READS: Constraint = Constraint::List { of: &Constraint::Tuple(&[OFFSET, NUMBER]), count_max: 1000 };
const TESTS: Constraint =
    Constraint::List { of: &Constraint::Tuple(&[OFFSET, NUMBER, ANY_BYTES, ANY_BYTES]), count_max: 1000 };
const WRITES: Constraint = Constraint::List { of: &Constraint::Tuple(&[OFFSET, ANY_BYTES]), count_max: 1000 };

const fn argument(name: &'static str, takes: Constraint) -> Argument {
    Argument { name, takes }
}

pub static STORAGE: Interface = Interface {
    name: "RIStorageServer.tahoe.allmydata.com",
    methods: &[
        Method { name: "get_version", arguments: &[] },
        Method {
            name: "allocate_buckets",
            arguments: &[
                argument("storage_index", STORAGE_INDEX),
                argument("renew_secret", SECRET),
                argument("cancel_secret", SECRET),
                argument("sharenums", Constraint::Set { of: &NUMBER, count_max: 256 }),
                argument("allocated_size", OFFSET),
                argument("canary", Constraint::Remote),
            ],
        },
        Method {
            name: "add_lease",
            arguments: &[
                argument("storage_index", STORAGE_INDEX),
                argument("renew_secret", SECRET),
                argument("cancel_secret", SECRET),
            ],
        },
        Method { name: "get_buckets", arguments: &[argument("storage_index", STORAGE_INDEX)] },
        Method {
            name: "slot_readv",
            arguments: &[
                argument("storage_index", STORAGE_INDEX),
                argument("shares", Constraint::List { of: &NUMBER, count_max: 256 }),
                argument("readv", READS),
            ],
        },
        Method {
            name: "slot_testv_and_readv_and_writev",
            arguments: &[
                argument("storage_index", STORAGE_INDEX),
                argument("secrets", Constraint::Tuple(&[SECRET, SECRET, SECRET])),
                argument(
                    "tw_vectors",
                    Constraint::Dict {
                        key: &NUMBER,
                        value: &Constraint::Tuple(&[TESTS, WRITES, Constraint::OneOf(&[Constraint::None, OFFSET])]),
                        count_max: 256,
                    },
                ),
                argument("r_vector", READS),
            ],
        },
        Method {
            name: "advise_corrupt_share",
            arguments: &[
                argument("share_type", ANY_BYTES),
                argument("storage_index", STORAGE_INDEX),
                argument("shnum", NUMBER),
                argument("reason", ANY_BYTES),
            ],
        },
    ],
};

pub static WRITER: Interface = Interface {
    name: "RIBucketWriter",
    methods: &[
        Method { name: "write", arguments: &[argument("offset", OFFSET), argument("data", ANY_BYTES)] },
        Method { name: "close", arguments: &[] },
        Method { name: "abort", arguments: &[] },
    ],
};

static READER: Interface = Interface {
    name: "RIBucketReader",
    methods: &[
        Method { name: "read", arguments: &[argument("offset", OFFSET), argument("length", NUMBER)] },
        Method { name: "advise_corrupt_share", arguments: &[argument("reason", ANY_BYTES)] },
    ],
};

/// What is asked of an object and what it answers, in order.
struct Line {
    method: String,
    /// `None` where references stand in it.
    arguments: Option<Vec<Value>>,
    answer: Result<Node, Failure>,
}

/// The lines of all objects of one connection.
#[derive(Clone, Default)]
pub struct Script {
    lines: Arc<Mutex<HashMap<i128, VecDeque<Line>>>>,
    objects: Arc<Mutex<HashMap<i128, Arc<Actor>>>>,
}

impl Script {
    /// Reads what the client called and what the server answered.
    pub fn new(calls: &[Node], answers: &[Node]) -> Self {
        let script = Self::default();
        for call in calls {
            let Some([Node::Int(request), Node::Int(clid), Node::Bytes(method), arguments]) = call.body("call") else {
                continue; // Given up by its sender, or no call at all.
            };
            let answer = answers.iter().find_map(|answer| find_answer(answer, *request));
            let answer = match answer {
                Some(Err(failure)) if failure.class() == "foolscap.tokens.Violation" => continue,
                Some(answer) => answer,
                None => Ok(Node::Sequence("none".to_owned(), Vec::new())),
            };
            let body = arguments.body("arguments").unwrap();
            let positional = &body[1..];
            let no_reference = &mut |_: &[Node]| Value::Boolean(false);
            let arguments = (body[0] == Node::Int(positional.len() as i128)
                && !format!("{positional:?}").contains("reference"))
            .then(|| positional.iter().map(|node| node.to_value(no_reference).unwrap()).collect());
            let line = Line { method: String::from_utf8(method.clone()).unwrap(), arguments, answer };
            script.lines.lock().unwrap().entry(*clid).or_default().push_back(line);
        }
        script
    }

    /// The storage server, which had number 1.
    pub fn storage(&self) -> Arc<dyn Referenceable> {
        self.object(1, &STORAGE)
    }

    fn object(&self, clid: i128, interface: &'static Interface) -> Arc<Actor> {
        let mut objects = self.objects.lock().unwrap();
        objects.entry(clid).or_insert_with(|| Arc::new(Actor { clid, interface, script: self.clone() })).clone()
    }

    fn reference(&self, body: &[Node]) -> Value {
        let name = body.get(1).map(|name| name.bytes().unwrap());
        let interface = if name == Some(b"RIBucketWriter") { &WRITER } else { &READER };
        Value::from(self.object(body[0].int().unwrap(), interface) as Arc<dyn Referenceable>)
    }
}

fn find_answer(answer: &Node, request: i128) -> Option<Result<Node, Failure>> {
    match (answer.body("answer"), answer.body("error")) {
        (Some([Node::Int(number), value]), _) if *number == request => Some(Ok(value.clone())),
        (_, Some([Node::Int(number), failure])) if *number == request => {
            Some(Err(Failure::new(failure.attribute("type").unwrap(), failure.attribute("value").unwrap())))
        }
        _ => None,
    }
}

/// An object of a script.
struct Actor {
    clid: i128,
    interface: &'static Interface,
    script: Script,
}

impl Referenceable for Actor {
    fn interface(&self) -> &'static Interface {
        self.interface
    }

    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Value, Failure>> {
        let line = self.script.lines.lock().unwrap().get_mut(&self.clid).and_then(VecDeque::pop_front);
        let answer = match line {
            Some(line) => {
                assert_eq!(call.method(), line.method);
                if let Some(arguments) = line.arguments {
                    assert_eq!(call.arguments(), arguments);
                }
                // The transcripts hold a failure as a value of an answer: a value, but none that objects give.
                match line.answer {
                    Ok(node) => match node.to_value(&mut |body| self.script.reference(body)) {
                        Some(value) => Ok(value),
                        None => Err(Failure::new(node.attribute("type").unwrap(), node.attribute("value").unwrap())),
                    },
                    Err(failure) => Err(failure),
                }
            }
            None => Err(Failure::new("builtins.RuntimeError", "not in the script")),
        };
        std::future::ready(answer).boxed()
    }
}
