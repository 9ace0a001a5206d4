//! Just enough of PostgreSQL's protocol to count statements and to see a COMMIT go by and come back.
//!
//! Messages are followed by their lengths, so that nothing inside them is taken for another. A connection that goes
//! over to TLS cannot be read; it passes uncounted.

use std::collections::{BTreeMap, HashMap};

/// How much of a message is looked at; the rest is data.
const LOOK_BYTES: usize = 64 << 10;
/// Codes in the place of a protocol version: requests for TLS and for GSSAPI encryption, and a cancellation.
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// A message: its kind, and as much of its body as is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The kind; 0 for one at the start of a connection, which has none.
    pub kind: u8,
    /// The beginning of the body.
    pub body: Vec<u8>,
}

/// Cuts a stream of bytes into messages.
#[derive(Debug)]
pub struct Messages {
    state: State,
    /// The head, or the part of the body that is looked at.
    seen: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the start of a connection: messages without a kind.
    Start,
    /// At the head of a message.
    Head,
    /// Within a body of which so many bytes are missing.
    Body { kind: u8, missing: usize },
    /// A server's answer of one byte to a request for encryption may come.
    Answer,
    /// Encrypted, or not PostgreSQL.
    Opaque,
}

impl Messages {
    /// What a client sends.
    pub fn of_client() -> Self {
        Self { state: State::Start, seen: Vec::new() }
    }

    /// What a server sends.
    pub fn of_server() -> Self {
        Self { state: State::Answer, seen: Vec::new() }
    }

    /// Takes the next bytes and gives the messages that end in them, each with the offset of its end in `bytes`.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<(Message, usize)> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < bytes.len() && self.state != State::Opaque {
            match self.state {
                State::Body { kind, missing } => {
                    let taken = missing.min(bytes.len() - at);
                    let looked = taken.min(LOOK_BYTES.saturating_sub(self.seen.len()));
                    self.seen.extend_from_slice(&bytes[at..at + looked]);
                    at += taken;
                    self.state = State::Body { kind, missing: missing - taken };
                    self.end_message(at, &mut found);
                }
                State::Start | State::Head | State::Answer => {
                    self.seen.push(bytes[at]);
                    at += 1;
                    self.read_head();
                    self.end_message(at, &mut found);
                }
                State::Opaque => {}
            }
        }
        found
    }

    /// Goes on to the body once a head is complete.
    fn read_head(&mut self) {
        let begins_tls = self.state == State::Start && self.seen == [TLS_HANDSHAKE];
        match (self.state, self.seen.as_slice()) {
            _ if begins_tls => self.state = State::Opaque,
            // The server agrees to encrypt ('S'), or not and waits for another try. Other messages that begin with
            // 'S' come after the log-in, when no answer is awaited any more.
            (State::Answer, [b'S' | b'G']) => self.state = State::Opaque,
            (State::Answer, [b'N']) => self.seen.clear(),
            (State::Answer, [_]) => self.state = State::Head,
            (State::Start, &[a, b, c, d]) => self.begin_body(0, [a, b, c, d]),
            (State::Head, &[kind, a, b, c, d]) => self.begin_body(kind, [a, b, c, d]),
            _ => {}
        }
    }

    fn begin_body(&mut self, kind: u8, length: [u8; 4]) {
        self.seen.clear();
        self.state = match (u32::from_be_bytes(length) as usize).checked_sub(4) {
            Some(missing) => State::Body { kind, missing },
            None => State::Opaque,
        };
    }

    fn end_message(&mut self, at: usize, found: &mut Vec<(Message, usize)>) {
        let State::Body { kind, missing: 0 } = self.state else { return };
        let body = std::mem::take(&mut self.seen);
        let code = body.first_chunk::<4>().map(|code| u32::from_be_bytes(*code));
        let is_request = kind == 0 && matches!(code, Some(SSL_REQUEST | GSS_REQUEST));
        self.state = if is_request { State::Start } else { State::Head };
        found.push((Message { kind, body }, at));
    }
}

/// How many of what clients have sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that were accepted.
    pub connections: u64,
    /// Messages of any kind, log-ins included.
    pub messages: u64,
    /// Requests for an answer: simple queries and syncs. Those that are sent together travel together, so this is an
    /// upper bound of the round trips.
    pub syncs: u64,
    /// Executions by label: the name in a statement's first line if that is a comment (`-- name`), else its first
    /// word in capitals.
    pub statements: BTreeMap<String, u64>,
    /// Transactions that clients have asked to commit.
    pub commits: u64,
}

impl Counts {
    /// What was added since `earlier`; labels that did not grow are left out.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |label: &String| earlier.statements.get(label).copied().unwrap_or_default();
        let grown = self.statements.iter().map(|(label, count)| (label.clone(), count - before(label)));
        Self {
            connections: self.connections - earlier.connections,
            messages: self.messages - earlier.messages,
            syncs: self.syncs - earlier.syncs,
            statements: grown.filter(|(_, count)| *count > 0).collect(),
            commits: self.commits - earlier.commits,
        }
    }
}

/// Follows one client: which statement a message executes.
#[derive(Debug, Default)]
pub struct Client {
    /// Texts by the name of the prepared statement, and names by that of the portal.
    prepared: HashMap<Vec<u8>, String>,
    portals: HashMap<Vec<u8>, Vec<u8>>,
}

impl Client {
    /// Counts a message and says whether it commits.
    pub fn note(&mut self, message: &Message, counts: &mut Counts) -> bool {
        counts.messages += 1;
        let mut words = message.body.splitn(3, |&byte| byte == 0);
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match message.kind {
            b'Q' => {
                counts.syncs += 1;
                let text = String::from_utf8_lossy(first);
                *counts.statements.entry(label(&text)).or_default() += 1;
                let commits = text.split(';').filter(|statement| is_commit(statement)).count() as u64;
                counts.commits += commits;
                commits > 0
            }
            b'P' => {
                self.prepared.insert(first.to_vec(), String::from_utf8_lossy(second).into_owned());
                false
            }
            b'B' => {
                self.portals.insert(first.to_vec(), second.to_vec());
                false
            }
            b'E' => {
                let text = self.portals.get(first).and_then(|name| self.prepared.get(name));
                let text = text.map_or("", String::as_str);
                *counts.statements.entry(label(text)).or_default() += 1;
                counts.commits += u64::from(is_commit(text));
                is_commit(text)
            }
            b'S' => {
                counts.syncs += 1;
                false
            }
            _ => false,
        }
    }
}

/// Whether a server's message is the answer to a COMMIT, good or bad.
pub fn answers_commit(message: &Message) -> bool {
    match message.kind {
        b'C' => message.body.starts_with(b"COMMIT\0") || message.body.starts_with(b"ROLLBACK\0"),
        b'E' => true,
        _ => false,
    }
}

fn label(text: &str) -> String {
    let text = text.trim_start();
    if let Some(comment) = text.strip_prefix("--") {
        return comment.lines().next().unwrap_or_default().trim().to_owned();
    }
    first_word(text)
}

fn is_commit(text: &str) -> bool {
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        rest = rest.split_once('\n').map_or("", |(_, after)| after.trim_start());
    }
    matches!(first_word(rest).as_str(), "COMMIT" | "END")
}

fn first_word(text: &str) -> String {
    let end = text.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(text.len());
    text[..end].to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: &[u8], body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("it is short");
        [kind, &length.to_be_bytes(), body].concat()
    }

    fn kinds(messages: &mut Messages, bytes: &[u8], step: usize) -> Vec<u8> {
        bytes.chunks(step).flat_map(|part| messages.feed(part)).map(|(message, _)| message.kind).collect()
    }

    #[test]
    fn messages_are_found_in_pieces_of_any_size() {
        let ssl = message(b"", &SSL_REQUEST.to_be_bytes());
        let start = message(b"", b"\0\x03\0\0user\0x\0\0");
        let stream = [ssl, start, message(b"Q", b"COMMIT\0"), message(b"X", b"")].concat();
        for step in 1..stream.len() {
            assert_eq!(kinds(&mut Messages::of_client(), &stream, step), [0, 0, b'Q', b'X'], "in steps of {step}");
        }
        let answers = [b"N".to_vec(), message(b"R", &[0; 4]), message(b"S", b"a\0b\0"), message(b"Z", b"I")].concat();
        for step in 1..answers.len() {
            assert_eq!(kinds(&mut Messages::of_server(), &answers, step), [b'R', b'S', b'Z'], "in steps of {step}");
        }
    }

    #[test]
    fn tls_is_not_taken_for_messages() {
        let hello = [TLS_HANDSHAKE, 3, 1, 0, 1, 1];
        assert!(Messages::of_client().feed(&hello).is_empty());
        assert!(Messages::of_server().feed(b"S\x16\x03\x03").is_empty());
    }

    #[test]
    fn commits_are_seen_in_both_protocols() {
        let mut client = Client::default();
        let mut counts = Counts::default();
        let mut note = |kind: u8, body: &[u8]| client.note(&Message { kind, body: body.to_vec() }, &mut counts);
        assert!(note(b'Q', b"COMMIT\0"));
        assert!(note(b'Q', b"UPDATE a SET b = 1; commit;\0"));
        assert!(!note(b'Q', b"-- commit\nSELECT 1\0"));
        assert!(!note(b'P', b"s1\0-- finish\nCOMMIT\0\0\0"));
        assert!(!note(b'B', b"\0s1\0\0\0"));
        assert!(note(b'E', b"\0\0\0\0\0"));
        let labels: Vec<(&str, u64)> =
            counts.statements.iter().map(|(label, count)| (label.as_str(), *count)).collect();
        assert_eq!(labels, [("COMMIT", 1), ("UPDATE", 1), ("commit", 1), ("finish", 1)]);
        assert_eq!((counts.commits, counts.syncs, counts.messages), (3, 3, 6));
    }
}
