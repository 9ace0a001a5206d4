//! How a connection begins: blocks of lines, the offers of both sides, the decision of one, and which connection of a
//! client survives. Pure.
//!
//! Source: `foolscap.md` 3 and 4.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, BytesMut};

use crate::furl::{Incarnation, TubId};
use crate::vocabulary::Vocabulary;

/// A block of lines may not be longer.
pub const BLOCK_BYTES_MAX: usize = 4096;

const VERSION: u64 = 3;
const INTERNAL_ERROR: &str = "internal server error, see logs";
const END: &[u8] = b"\r\n\r\n";

/// A block that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Over 4096 bytes.
    #[error("a block of the negotiation is longer than 4096 bytes")]
    TooLong,
    /// A line without a colon, or not UTF-8.
    #[error("a block of the negotiation holds a line that is no `key: value`")]
    Malformed,
}

/// Takes a block's lines off the input, without its end. `None`: more bytes are needed.
///
/// # Errors
/// It is too long or no text.
pub fn take_block(input: &mut BytesMut) -> Result<Option<String>, BlockError> {
    let looked_at = &input[..input.len().min(BLOCK_BYTES_MAX)];
    let Some(length) = looked_at.windows(END.len()).position(|window| window == END) else {
        return if input.len() >= BLOCK_BYTES_MAX { Err(BlockError::TooLong) } else { Ok(None) };
    };
    let text = std::str::from_utf8(&input[..length]).map(str::to_owned).map_err(|_| BlockError::Malformed);
    input.advance(length + END.len());
    text.map(Some)
}

/// Why a connection is not taken, in the words of the reference implementation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

impl Refusal {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The end of everything that has no better words.
    pub fn internal() -> Self {
        Self::new(INTERNAL_ERROR)
    }

    /// Another connection of the client survives.
    pub fn duplicate() -> Self {
        Self::new("Duplicate connection")
    }

    /// As an answer to the request in clear text.
    pub fn to_plaintext(&self) -> String {
        format!("HTTP/1.1 500 Internal Server Error: {}\r\n\r\n", self.0)
    }

    /// As a block.
    pub fn to_block(&self) -> String {
        format!("banana-decision-version: 1\r\nerror: {}\r\n\r\n", self.0)
    }
}

/// The request in clear text.
pub fn request(tub_id: &TubId, host: &str) -> String {
    format!("GET /id/{tub_id} HTTP/1.1\r\nHost: {host}\r\nUpgrade: TLS/1.0\r\nConnection: Upgrade\r\n\r\n")
}

/// The answer to it.
pub const UPGRADE: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: TLS/1.0, PB/1.0\r\nConnection: Upgrade\r\n\r\n";

/// Judges a request in clear text; only its first line counts.
///
/// # Errors
/// It asks for another tub id, or for none.
pub fn judge_request(block: &str, ours: &TubId) -> Result<(), Refusal> {
    let mut words = block.lines().next().unwrap_or_default().split(' ');
    let (method, path, version, more) = (words.next(), words.next(), words.next(), words.next());
    let asked = path.and_then(|path| path.strip_prefix("/id/"));
    match (method, asked, version, more) {
        (Some("GET"), Some(asked), Some(_), None) if asked == ours.as_str() => Ok(()),
        (Some("GET"), Some(""), Some(_), None) => Err(Refusal::new("secure Tubs require encryption")),
        (Some("GET"), Some(asked), Some(_), None) => Err(Refusal::new(format!("unknown TubID {}", printable(asked)))),
        _ => Err(Refusal::internal()),
    }
}

/// Whether the answer to a request in clear text lets the client go on.
///
/// # Errors
/// It does not; the text is the server's.
pub fn judge_upgrade(block: &str) -> Result<(), Refusal> {
    let status = block.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("101") && block.contains("Upgrade: TLS/1.0") {
        return Ok(());
    }
    Err(Refusal::new(printable(status)))
}

/// What a side says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The least and the greatest version of banana.
    pub versions: Option<(u64, u64)>,
    /// The least and the greatest number of a vocabulary.
    pub vocabularies: Option<(u64, u64)>,
    /// What a client remembers of the last decision it received.
    pub last_connection: Option<LastConnection>,
    /// Its run.
    pub incarnation: Option<String>,
    /// Its tub id.
    pub tub_id: Option<String>,
    /// It will not go on.
    pub has_failed: bool,
}

/// What a client remembers of the last decision it received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastConnection {
    /// Nothing.
    None,
    /// The master's run and number.
    Known(String, u64),
}

impl Hello {
    /// What we say.
    pub fn ours(tub_id: &TubId, incarnation: &Incarnation, last_connection: Option<LastConnection>) -> Self {
        Self {
            versions: Some((VERSION, VERSION)),
            vocabularies: Some((0, 1)),
            last_connection,
            incarnation: Some(incarnation.as_str().to_owned()),
            tub_id: Some(tub_id.to_string()),
            has_failed: false,
        }
    }

    /// Reads a block.
    ///
    /// # Errors
    /// A line has no colon.
    pub fn parse(block: &str) -> Result<Self, BlockError> {
        let lines = parse_lines(block)?;
        let text = |key: &str| lines.get(key).map(|value| (*value).to_owned());
        Ok(Self {
            versions: lines.get("banana-negotiation-range").and_then(|value| parse_pair(value)),
            vocabularies: lines.get("initial-vocab-table-range").and_then(|value| parse_pair(value)),
            last_connection: lines.get("last-connection").and_then(|value| parse_last_connection(value)),
            incarnation: text("my-incarnation"),
            tub_id: text("my-tub-id"),
            has_failed: lines.contains_key("error"),
        })
    }

    /// Writes a block; lines without a value are left out.
    pub fn to_block(&self) -> String {
        let pair = |pair: (u64, u64)| format!("{} {}", pair.0, pair.1);
        let lines = [
            ("banana-negotiation-range", self.versions.map(pair)),
            ("initial-vocab-table-range", self.vocabularies.map(pair)),
            ("last-connection", self.last_connection.as_ref().map(LastConnection::to_line)),
            ("my-incarnation", self.incarnation.clone()),
            ("my-tub-id", self.tub_id.clone()),
        ];
        write_lines(lines)
    }
}

impl LastConnection {
    fn to_line(&self) -> String {
        match self {
            Self::None => "none 0".to_owned(),
            Self::Known(incarnation, number) => format!("{incarnation} {number}"),
        }
    }
}

/// What two offers lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The other side.
    pub peer: TubId,
    /// Whether the decision is ours.
    pub is_master: bool,
    /// The greatest vocabulary that both have.
    pub vocabulary: Vocabulary,
}

/// Judges the other side's offer. `certificate` is the tub id that TLS has proven.
///
/// # Errors
/// The words with which it is refused; `None`: the other side has already given up.
pub fn judge_hello(hello: &Hello, certificate: Option<&TubId>, ours: &TubId) -> Result<Agreement, Option<Refusal>> {
    if hello.has_failed {
        return Err(None);
    }
    let refuse = |text: String| Err(Some(Refusal(text)));
    let Some((least, greatest)) = hello.versions else {
        return refuse("No valid banana-negotiation sequence seen".to_owned());
    };
    if greatest < VERSION {
        return refuse(format!("I can't handle banana version {greatest}"));
    }
    if least > VERSION {
        return refuse(format!("You can't handle banana version {VERSION}"));
    }
    let Some(peer) = certificate.filter(|proven| hello.tub_id.as_deref() == Some(proven.as_str())) else {
        return Err(Some(Refusal::internal()));
    };
    if peer == ours {
        return Err(Some(Refusal::internal()));
    }
    let (least, greatest) = hello.vocabularies.unwrap_or((0, 0));
    let vocabulary = Vocabulary::from_index(greatest.min(1)).filter(|vocabulary| vocabulary.index() >= least);
    let Some(vocabulary) = vocabulary else {
        return refuse("You can't handle initial vocab set 1".to_owned());
    };
    Ok(Agreement { peer: peer.clone(), is_master: ours > peer, vocabulary })
}

/// The master's last block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The master's run and its number for the connection.
    pub connection: (String, u64),
    /// Which vocabulary is in use.
    pub vocabulary: Vocabulary,
}

impl Decision {
    /// Reads a block.
    ///
    /// # Errors
    /// The other side refuses, or decides what is not understood; the text says which.
    pub fn parse(block: &str) -> Result<Self, Refusal> {
        let lines = parse_lines(block).map_err(|error| Refusal::new(error.to_string()))?;
        if let Some(text) = lines.get("error") {
            return Err(Refusal::new(printable(text)));
        }
        if lines.get("banana-decision-version") != Some(&"3") {
            return Err(Refusal::new("a decision of an unknown version"));
        }
        let mut words = lines.get("initial-vocab-table-index").copied().unwrap_or_default().split(' ');
        let vocabulary = words.next().and_then(|index| index.parse().ok()).and_then(Vocabulary::from_index);
        let Some(vocabulary) = vocabulary.filter(|vocabulary| words.next() == Some(vocabulary.hash())) else {
            return Err(Refusal::new("a decision for an unknown vocabulary"));
        };
        let connection = lines.get("current-connection").and_then(|value| parse_last_connection(value));
        let connection = match connection {
            Some(LastConnection::Known(incarnation, number)) => (incarnation, number),
            _ => (String::new(), 0),
        };
        Ok(Self { connection, vocabulary })
    }

    /// Writes a block.
    pub fn to_block(&self) -> String {
        write_lines([
            ("banana-decision-version", Some(VERSION.to_string())),
            ("current-connection", Some(format!("{} {}", self.connection.0, self.connection.1))),
            ("initial-vocab-table-index", Some(format!("{} {}", self.vocabulary.index(), self.vocabulary.hash()))),
        ])
    }
}

/// A connection of the same client that is there already.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The client's run.
    pub incarnation: Option<String>,
    /// Our number for it.
    pub number: u64,
    /// Whether a call ever came: if not, the client may never have seen our decision.
    pub has_called: bool,
    /// For how long nothing was received.
    pub silent_for: Duration,
}

/// Whether a new connection replaces the one that is there, when the decision is ours.
pub fn replaces(hello: &Hello, standing: &Standing, ours: &Incarnation, replaced_after: Duration) -> bool {
    let (Some(incarnation), Some(last)) = (&hello.incarnation, &hello.last_connection) else { return false };
    if standing.incarnation.as_ref() != Some(incarnation) {
        return true; // The client has started anew.
    }
    let remembers = match last {
        LastConnection::None => false,
        // An earlier run of ours, or another pod, is the last it knows.
        LastConnection::Known(master, _) if master != ours.as_str() => true,
        LastConnection::Known(_, number) => *number == standing.number,
    };
    // The reference server refuses the rest, and a client whose decision was lost waits until TCP gives up.
    remembers || !standing.has_called || standing.silent_for >= replaced_after
}

/// Keys are in lower case; of equal ones the last counts.
fn parse_lines(block: &str) -> Result<BTreeMap<String, &str>, BlockError> {
    let lines = block.split("\r\n").filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let (key, value) = line.split_once(':').ok_or(BlockError::Malformed)?;
            Ok((key.to_lowercase(), value.trim_start()))
        })
        .collect()
}

fn write_lines<const N: usize>(lines: [(&str, Option<String>); N]) -> String {
    let mut block = String::new();
    for (key, value) in lines {
        if let Some(value) = value {
            block.push_str(&format!("{key}: {value}\r\n"));
        }
    }
    block + "\r\n"
}

fn parse_pair(text: &str) -> Option<(u64, u64)> {
    let (first, second) = text.trim_end().split_once(' ')?;
    Some((first.parse().ok()?, second.parse().ok()?))
}

fn parse_last_connection(text: &str) -> Option<LastConnection> {
    let (incarnation, number) = text.trim_end().split_once(' ')?;
    let number = number.parse().ok()?;
    Some(if incarnation == "none" {
        LastConnection::None
    } else {
        LastConnection::Known(incarnation.to_owned(), number)
    })
}

/// What of a foreign text may go into ours.
fn printable(text: &str) -> String {
    text.chars().filter(|character| character.is_ascii_graphic() || *character == ' ').take(200).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS: &str = "icxmug7l5ore6tbmnsftvssyep4fizhb";
    const LOW: &str = "43ean5k2lzjlkejv3gdbht2lkwn35har";

    fn tub_id(text: &str) -> TubId {
        text.parse().unwrap()
    }

    fn hello(last_connection: LastConnection) -> Hello {
        Hello::ours(&tub_id(LOW), &"c1c1c1c1c1c1c1c1".parse().unwrap(), Some(last_connection))
    }

    #[test]
    fn blocks_are_taken_one_by_one_and_bounded() {
        let mut input = BytesMut::from("a: 1\r\nb: 2\r\n\r\nrest");
        assert_eq!(take_block(&mut input), Ok(Some("a: 1\r\nb: 2".to_owned())));
        assert_eq!(take_block(&mut input), Ok(None));
        assert_eq!(&input[..], b"rest");
        for (length, expected) in [(4095, Ok(None)), (4096, Err(BlockError::TooLong)), (9999, Err(BlockError::TooLong))]
        {
            assert_eq!(take_block(&mut BytesMut::from(&vec![b'a'; length][..])), expected);
        }
        assert_eq!(take_block(&mut BytesMut::from(&b"\xff\r\n\r\n"[..])), Err(BlockError::Malformed));
    }

    #[test]
    fn a_hello_is_read_in_any_order_and_case() {
        let block = "My-Tub-Id:  x\r\nunknown: 1\r\nbanana-negotiation-range: 1 2\r\nBANANA-negotiation-range: 3 4\r\n";
        let hello = Hello::parse(block).unwrap();
        assert_eq!(hello.tub_id.as_deref(), Some("x"));
        assert_eq!(hello.versions, Some((3, 4)));
        assert_eq!(Hello::parse("no colon\r\n"), Err(BlockError::Malformed));
    }

    #[test]
    fn the_greater_tub_id_decides() {
        let (ours, low) = (tub_id(OURS), tub_id(LOW));
        let agreement = judge_hello(&hello(LastConnection::None), Some(&low), &ours).unwrap();
        assert_eq!(agreement, Agreement { peer: low.clone(), is_master: true, vocabulary: Vocabulary::Words });
        let own = Hello::ours(&ours, &"5e5e5e5e5e5e5e5e".parse().unwrap(), None);
        assert!(!judge_hello(&own, Some(&ours), &low).unwrap().is_master);
        // Nobody speaks to himself, and nobody is who he says without a certificate.
        assert_eq!(judge_hello(&own, Some(&ours), &ours), Err(Some(Refusal::internal())));
        assert_eq!(judge_hello(&own, None, &low), Err(Some(Refusal::internal())));
    }

    #[test]
    fn a_vocabulary_may_be_left_out() {
        let (ours, low) = (tub_id(OURS), tub_id(LOW));
        for (range, expected) in
            [(None, Vocabulary::Empty), (Some((0, 0)), Vocabulary::Empty), (Some((1, 9)), Vocabulary::Words)]
        {
            let offer = Hello { vocabularies: range, ..hello(LastConnection::None) };
            assert_eq!(judge_hello(&offer, Some(&low), &ours).unwrap().vocabulary, expected);
        }
    }

    #[test]
    fn a_connection_is_replaced_when_the_client_knows_of_it_or_it_looks_dead() {
        let ours: Incarnation = "5e5e5e5e5e5e5e5e".parse().unwrap();
        let known = |run: &str, number| LastConnection::Known(run.to_owned(), number);
        let live = Standing {
            incarnation: Some("c1c1c1c1c1c1c1c1".to_owned()),
            number: 5,
            has_called: true,
            silent_for: Duration::from_secs(1),
        };
        let new_run = Standing { incarnation: Some("d4d4d4d4d4d4d4d4".to_owned()), ..live.clone() };
        let uncalled = Standing { has_called: false, ..live.clone() };
        let silent = Standing { silent_for: Duration::from_secs(10), ..live.clone() };
        let cases = [
            (LastConnection::None, &live, false),
            (known(ours.as_str(), 4), &live, false),
            (known(ours.as_str(), 5), &live, true),
            (known(ours.as_str(), 6), &live, false),
            (known("0123456789abcdef", 7), &live, true),
            (LastConnection::None, &new_run, true),
            (LastConnection::None, &uncalled, true),
            (LastConnection::None, &silent, true),
        ];
        for (last, standing, expected) in cases {
            let offer = hello(last);
            assert_eq!(replaces(&offer, standing, &ours, Duration::from_secs(10)), expected, "{offer:?} {standing:?}");
            let nameless = Hello { incarnation: None, ..offer };
            assert!(!replaces(&nameless, standing, &ours, Duration::from_secs(10)));
        }
    }

    proptest! {
        #[test]
        fn any_block_is_read_or_refused(block in "[ -~\r\n]{0,200}") {
            if let Ok(hello) = Hello::parse(&block) {
                prop_assert!(Hello::parse(&hello.to_block()).is_ok());
                let _ = judge_hello(&hello, Some(&tub_id(LOW)), &tub_id(OURS));
            }
            let _ = Decision::parse(&block);
            let refused = judge_request(&block, &tub_id(OURS)).unwrap_err().to_plaintext();
            prop_assert_eq!(refused.matches('\n').count(), 2, "one line and an empty one");
        }

        #[test]
        fn decisions_are_read_as_they_are_written(run in "[0-9a-f]{16}", number: u64, has_words: bool) {
            let vocabulary = if has_words { Vocabulary::Words } else { Vocabulary::Empty };
            let decision = Decision { connection: (run, number), vocabulary };
            prop_assert_eq!(Decision::parse(&decision.to_block()), Ok(decision));
        }
    }
}
