//! Which calls go wrong, and how.

use std::time::Duration;

use super::call::{Call, Operation};

/// What is done to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with this status and this code, and does not reach the server.
    Answer {
        /// The status.
        status: u16,
        /// The code in the error's document.
        code: &'static str,
    },
    /// The connection is reset before the server hears of it.
    ResetBefore,
    /// The server does it, and the connection is reset before its answer: it took effect, and nobody knows.
    ResetAfter,
    /// The connection is reset after so many bytes of the answer's body.
    CutResponse {
        /// How many bytes arrive.
        bytes: u64,
    },
    /// The answer's body ends after so many bytes and the head says that this is all.
    ShortenResponse {
        /// How many bytes arrive.
        bytes: u64,
    },
    /// One bit of the answer's body arrives changed; if the body is shorter, its last byte does.
    FlipByte {
        /// Which byte.
        at: u64,
    },
    /// The connection to the server is reset after so many bytes of the request's body, and the client's with it.
    CutRequest {
        /// How many bytes reach the server.
        bytes: u64,
    },
    /// It is passed on only after this time.
    Delay(Duration),
    /// The answer stands still for this time after the first half of its body; one without a body, before its head.
    Stall(Duration),
    /// A listing is answered from what [`S3Proxy::snapshot_listing`](super::S3Proxy::snapshot_listing) saw. Applies
    /// only to version 2 of the call without a delimiter; others pass.
    StaleListing,
    /// `If-Match` and `If-None-Match` are taken out of the request.
    IgnoreConditions,
}

impl Fault {
    /// S3's own failure, which clients try again.
    pub const INTERNAL_ERROR: Self = Self::Answer { status: 500, code: "InternalError" };
    /// S3's refusal of too many calls, which clients try again later.
    pub const SLOW_DOWN: Self = Self::Answer { status: 503, code: "SlowDown" };
}

/// Which of the calls that match a rule it applies to, counted from when the rule was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// All.
    Always,
    /// The n-th alone; 1 is the next.
    Nth(u64),
    /// The next n.
    First(u64),
    /// Each k-th.
    Every(u64),
}

/// One way in which calls go wrong.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The operation; `None` for all.
    pub operation: Option<Operation>,
    /// What the key contains, or the prefix of a listing.
    pub key_contains: String,
    /// Which of these calls.
    pub when: When,
    /// What is done to them.
    pub fault: Fault,
}

impl Rule {
    /// A rule about all keys.
    pub fn new(operation: Operation, when: When, fault: Fault) -> Self {
        Self { operation: Some(operation), key_contains: String::new(), when, fault }
    }

    /// A rule about all operations.
    pub fn any(when: When, fault: Fault) -> Self {
        Self { operation: None, key_contains: String::new(), when, fault }
    }

    /// Restricts the rule to keys, or prefixes of listings, that contain `part`.
    pub fn on_keys_with(mut self, part: &str) -> Self {
        part.clone_into(&mut self.key_contains);
        self
    }

    fn matches(&self, call: &Call) -> bool {
        let name = if call.operation == Operation::List { call.parameter("prefix").unwrap_or("") } else { &call.key };
        self.operation.is_none_or(|operation| operation == call.operation) && name.contains(&self.key_contains)
    }
}

/// The rules in force, each with the number of calls that it has matched.
#[derive(Debug, Default)]
pub struct Rules {
    rules: Vec<(Rule, u64)>,
}

impl Rules {
    /// Adds a rule after the others.
    pub fn add(&mut self, rule: Rule) {
        self.rules.push((rule, 0));
    }

    /// Removes all rules.
    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// What is to be done to a call. Every rule that matches counts it; the first that applies decides.
    pub fn choose(&mut self, call: &Call) -> Option<Fault> {
        let mut chosen = None;
        for (rule, count) in self.rules.iter_mut().filter(|(rule, _)| rule.matches(call)) {
            *count += 1;
            let applies = match rule.when {
                When::Always => true,
                When::Nth(n) => *count == n,
                When::First(n) => *count <= n,
                When::Every(k) => count.is_multiple_of(k.max(1)),
            };
            if applies && chosen.is_none() {
                chosen = Some(rule.fault.clone());
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::Head;

    #[test]
    fn rules_count_only_what_they_match() {
        let mut rules = Rules::default();
        rules.add(Rule::new(Operation::Get, When::Nth(2), Fault::ResetAfter).on_keys_with("x"));
        rules.add(Rule::any(When::Every(3), Fault::SLOW_DOWN));
        let mut choose = |request: &str| rules.choose(&Call::of(&Head::new(format!("{request} HTTP/1.1"))));
        assert_eq!(choose("GET /b/x"), None);
        assert_eq!(choose("GET /b/y"), None);
        assert_eq!(choose("PUT /b/x"), Some(Fault::SLOW_DOWN));
        assert_eq!(choose("GET /b/x"), Some(Fault::ResetAfter));
        assert_eq!(choose("GET /b/x"), None);
        assert_eq!(choose("GET /b/x"), Some(Fault::SLOW_DOWN));
    }
}
