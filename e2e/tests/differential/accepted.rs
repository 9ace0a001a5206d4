//! The differences that are meant to be, each with its reason. Everything else fails the test.

use crate::answer::Answer;
use crate::world::{Endpoint, Step};
use leasehold_e2e::gbs::cbor::{SET, Value};

/// A difference that is meant to be.
pub struct Accepted {
    /// What it is called in the report.
    pub name: &'static str,
    /// Why it is meant to be; [W] and [S] are the marks of the protocol's specification.
    pub reason: &'static str,
    /// Whether the two servers may hold different things afterwards.
    pub retires: bool,
    /// Whether it is this one: the step, Python's answer, ours.
    matches: fn(&Step, &Answer, &Answer) -> bool,
}

/// The first entry that accepts a difference.
pub fn find(step: &Step, python: &Answer, ours: &Answer) -> Option<&'static Accepted> {
    TABLE.iter().find(|accepted| (accepted.matches)(step, python, ours))
}

/// The name of the difference that even two equal servers show.
pub const VERSION: &str = "numbers and name of the version";

/// All of them. The first that fits counts.
pub static TABLE: &[Accepted] = &[
    Accepted {
        name: VERSION,
        reason: "free space changes from one request to the next, quota belongs into it, and the name is ours (7.1)",
        retires: false,
        matches: |step, python, ours| {
            step.endpoint == Endpoint::Version && same_shape(&python.decoded(), &ours.decoded())
        },
    },
    Accepted {
        name: "type of a refusal",
        reason: "Python gives none, or text/html for unknown routes; 15: send none of that. The text is for people",
        retires: false,
        matches: |step, python, ours| {
            let fine = match step.endpoint {
                // The client looks at the type of these before it looks at the status.
                Endpoint::Read => is_type(ours, Some("application/octet-stream")),
                _ => {
                    is_type(ours, None)
                        || is_type(ours, Some("text/plain"))
                        || is_type(ours, Some("text/plain; charset=utf-8"))
                }
            };
            python.status == ours.status && ours.status >= 400 && fine && ours.body.len() <= 10_000
        },
    },
    Accepted {
        name: "request line without a path",
        reason: "that is no HTTP request; Python answers 400, here the connection may be closed instead",
        retires: false,
        matches: |step, python, ours| {
            step.request.path.is_empty() && python.status == 400 && matches!(ours.status, 0 | 400 | 404)
        },
    },
    Accepted {
        name: "type of an answer without body",
        reason: "Python gives a type to 204 when a share is read; the client does not look at it (6.1)",
        retires: false,
        matches: |_, python, ours| (python.status, ours.status) == (204, 204) && ours.body.is_empty(),
    },
    Accepted {
        name: "total in Content-Range",
        reason: "Python says `*`; a number is fine (6.1)",
        retires: false,
        matches: |_, python, ours| {
            let range =
                |answer: &Answer| answer.content_range.as_ref().map(|text| text.split('/').next().map(str::to_owned));
            python.status == ours.status && python.decoded() == ours.decoded() && range(python) == range(ours)
        },
    },
    Accepted {
        name: "write beyond the size",
        reason: "Python: 500, or 409 if an earlier piece conflicts, and may keep some; 416 [W], nothing kept (8.2)",
        retires: true,
        matches: |step, python, ours| is(step, "beyond the size", python, &[500, 409], ours, &[416]),
    },
    Accepted {
        name: "body shorter than its range",
        reason: "Python: 500 after keeping what came; 400 [W], nothing kept (8.2)",
        retires: true,
        matches: |step, python, ours| is(step, "body shorter than its range", python, &[500, 409], ours, &[400]),
    },
    Accepted {
        name: "body longer than its range",
        reason: "Python ignores the rest [S], or 400 (8.2)",
        retires: true,
        matches: |step, python, ours| is(step, "body longer than its range", python, &[200, 201, 409], ours, &[400]),
    },
    Accepted {
        name: "Content-Range without a range",
        reason: "`bytes */n`: 500 in Python once an upload is found, 416 [W] before it is looked for (8.2)",
        retires: false,
        matches: |step, python, ours| is(step, "no range but a total", python, &[500, 404, 401], ours, &[416]),
    },
    Accepted {
        name: "Content-Range beyond its own total",
        reason: "`a-b/t` with b ≥ t: accepted by Python, 416 [W] (8.2)",
        retires: true,
        matches: |step, python, ours| {
            is(step, "range beyond its own total", python, &[200, 201, 401, 404, 409, 500], ours, &[416])
        },
    },
    Accepted {
        name: "Content-Range of large numbers",
        reason: "beyond the size: 500 in Python, 416 [W] (8.2)",
        retires: true,
        matches: |step, python, ours| is(step, "range of large numbers", python, &[500], ours, &[416]),
    },
    Accepted {
        name: "write beyond the largest slot",
        reason: "Python: 500 after writing the shares before it; 413 [W] before anything is looked at (9.1)",
        retires: true,
        matches: |step, python, ours| is(step, "write beyond the largest slot", python, &[500, 200, 401], ours, &[413]),
    },
    Accepted {
        name: "empty Range",
        reason: "416 or 200 (6.1)",
        retires: false,
        matches: |step, python, ours| is(step, "empty Range", python, &[200, 416], ours, &[200, 416]),
    },
    Accepted {
        name: "Accept without CBOR",
        reason: "Python: 406 when the work is done; refuse first [W]; being generous is fine (5)",
        retires: true,
        matches: |step, python, ours| {
            step.tag == "Accept" && (ours.status == 406 || python.status == 406 && ours.status < 300)
        },
    },
    Accepted {
        name: "a kind of secret twice",
        reason: "Python takes the last [S]; 400 [W] (4.2)",
        retires: true,
        matches: |step, python, ours| {
            step.tag == "a kind of secret twice" && python.status != 400 && ours.status == 400
        },
    },
    Accepted {
        name: "secret with characters outside the alphabet",
        reason: "Python drops them when decoding [S]; 400 [W] (4.2)",
        retires: true,
        matches: |step, python, ours| {
            let tags = ["secret with characters outside the alphabet", "two spaces before a secret"];
            tags.contains(&step.tag) && python.status != 400 && ours.status == 400
        },
    },
    Accepted {
        name: "secret that is not UTF-8",
        reason: "Python: 500 [S]; 400 [W] (4.2)",
        retires: false,
        matches: |step, python, ours| is(step, "secret that is not UTF-8", python, &[500], ours, &[400]),
    },
    Accepted {
        name: "upload secret of 257 bytes",
        reason: "Python takes any length; above some bound 400 [W] (4.2)",
        retires: false,
        matches: |step, python, ours| is(step, "upload secret of 257 bytes", python, &[200], ours, &[400]),
    },
    Accepted {
        name: "write enabler not of 32 bytes",
        reason: "Python pads or cuts it and never matches it again; 400 [W] (4.2)",
        retires: true,
        matches: |step, python, ours| {
            is(step, "write enabler not of 32 bytes", python, &[200, 400, 401, 500], ours, &[400])
        },
    },
    Accepted {
        name: "bignum",
        reason: "Python: 500, or takes a small one; 400 [W] (5)",
        retires: false,
        matches: |step, python, ours| is(step, "bignum", python, &[500, 200], ours, &[400]),
    },
    Accepted {
        name: "additional key in an entry",
        reason: "Python lets it through inside test, write and read entries [S]; 400 [W] (5)",
        retires: false,
        matches: |step, python, ours| is(step, "additional key in an entry", python, &[200], ours, &[400]),
    },
    Accepted {
        name: "share number that is no number",
        reason: "text or negative: 500 or a strange success in Python [S]; 400 [W] (5)",
        retires: false,
        matches: |step, python, ours| is(step, "share number that is no number", python, &[500, 200], ours, &[400]),
    },
    Accepted {
        name: "share number above 255",
        reason: "no bound in Python; a number we cannot hold: 400 in a body [W] (1.2)",
        retires: false,
        matches: |step, python, ours| is(step, "share number above 255", python, &[200, 500], ours, &[400]),
    },
    Accepted {
        name: "undefined for null",
        reason: "Python's decoder makes both the same; the schema says null, no client sends undefined: 400 (5)",
        retires: false,
        matches: |step, python, ours| is(step, "undefined for null", python, &[200], ours, &[400]),
    },
    Accepted {
        name: "reason as bytes",
        reason: "passes Python's schema and fails with 500; 400 [W] (5)",
        retires: false,
        matches: |step, python, ours| is(step, "reason as bytes", python, &[500], ours, &[400]),
    },
    Accepted {
        name: "path that has to be brought into form",
        reason: "Python drops double slashes and decodes %XX first; no client sends such, here they are unknown routes",
        retires: true,
        matches: |step, python, ours| {
            let path = step.request.path.as_str();
            let odd = path.starts_with("//") || path.contains('%');
            step.tag == "odd path" && odd && python.status != 404 && ours.status == 404
        },
    },
    Accepted {
        name: "path that is not ASCII",
        reason: "no URL at all: 400 in Python, an unknown route here",
        retires: false,
        matches: |step, python, ours| {
            !step.request.path.is_ascii() && is(step, "odd path", python, &[400], ours, &[404])
        },
    },
    Accepted {
        name: "storage index with loose low bits, method of another route",
        reason: "404 with the right method (1.2); with another one Python looks at the method first",
        retires: false,
        matches: |step, python, ours| is(step, "odd path", python, &[405], ours, &[404]),
    },
    Accepted {
        name: "empty Content-Type",
        reason: "Python takes it for absent; it is not CBOR: 415 (5)",
        retires: true,
        matches: |step, _, ours| {
            let empty = |(name, value): &(String, Vec<u8>)| name == "Content-Type" && value.is_empty();
            step.request.headers.iter().any(empty) && ours.status == 415
        },
    },
    Accepted {
        name: "one storage index, two kinds",
        reason: "Python mostly fails with 500, or lists the other kind; shares of the other kind do not exist here [W] (6.2)",
        retires: true,
        matches: |step, python, ours| step.tag == "other kind" && other_kind(step, python, ours),
    },
];

fn is(step: &Step, tag: &str, python: &Answer, theirs: &[u16], ours: &Answer, good: &[u16]) -> bool {
    step.tag == tag && theirs.contains(&python.status) && good.contains(&ours.status)
}

fn is_type(answer: &Answer, expected: Option<&str>) -> bool {
    answer.content_type.as_deref() == expected
}

/// What section 6.2 wants where the two servers differ.
fn other_kind(step: &Step, python: &Answer, ours: &Answer) -> bool {
    let path = step.request.path.as_str();
    if path.ends_with("/shares") {
        let empty = Value::Tag(SET, Box::new(Value::Array(Vec::new())));
        ours.status == 200 && (ours.decoded() == empty || step.request.method == "HEAD")
    } else if path.ends_with("/read-test-write") {
        python.status == 500 && ours.status == 409
    } else if step.request.method == "POST" {
        python.status == 500 && ours.status == 200
    } else {
        python.status == 500 && ours.status == 404
    }
}

/// Whether two values have the same keys and types.
fn same_shape(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Map(one), Value::Map(other)) => {
            one.len() == other.len()
                && one.iter().zip(other).all(|(one, other)| one.0 == other.0 && same_shape(&one.1, &other.1))
        }
        (Value::Integer(_), Value::Integer(_)) | (Value::Bytes(_), Value::Bytes(_)) => true,
        _ => false,
    }
}
