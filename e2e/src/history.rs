//! Histories: what clients asked, when, and what they were told; written down while they are at it, as JSON lines that
//! `e2e/checker` understands.
//!
//! Contents are seen in blocks. Every write has a number of its own, and fills its blocks with that number and their
//! position, so that a block tells which write made it. All offsets, counts and lengths of a history are in blocks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

/// The write that made a block: its number, [`ZEROS`] or [`TORN`].
pub type BlockId = i64;

/// The id of a block of zeros, which no write made.
pub const ZEROS: BlockId = 0;
/// The id of a block that no write made as it is.
pub const TORN: BlockId = -1;

/// A block is made of words that all say the same.
const WORD_BYTES: usize = 8;
/// How many blocks a share may have.
const POSITIONS: u64 = 1 << 12;

/// Writes a history to a file. Threads share it.
#[derive(Debug)]
pub struct Recorder {
    begin: Instant,
    file: Mutex<BufWriter<File>>,
    writes: AtomicU64,
}

/// One operation. Times are nanoseconds since the recorder was made.
#[derive(Debug, Serialize)]
pub struct Operation<'a, I, O> {
    /// Who asked.
    pub client: usize,
    /// What it was done to: `slot` or `share`.
    pub model: &'static str,
    /// Which slot or share. Each is a history of its own.
    pub key: &'a str,
    /// What was asked for, as the checker calls it.
    pub kind: &'static str,
    /// A moment before the request left.
    pub call: u64,
    /// A moment after the answer was there; nothing if the outcome is unknown.
    #[serde(rename = "return", skip_serializing_if = "Option::is_none")]
    pub returned: Option<u64>,
    /// The request.
    pub input: I,
    /// The answer; nothing if the outcome is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<O>,
}

impl Recorder {
    /// Begins a history in a new file.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { begin: Instant::now(), file: Mutex::new(BufWriter::new(file)), writes: AtomicU64::new(1) })
    }

    /// The time, on a clock that all threads share and that never goes back.
    pub fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A number that was never given before, for a write or a secret.
    pub fn number(&self) -> BlockId {
        self.writes.fetch_add(1, Ordering::Relaxed) as BlockId
    }

    /// Writes an operation down.
    ///
    /// # Errors
    /// If the file takes no more.
    pub fn record<I: Serialize, O: Serialize>(&self, operation: &Operation<'_, I, O>) -> Result<()> {
        let mut line = serde_json::to_vec(operation)?;
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&line).context("write the history")
    }

    /// Makes sure that everything recorded is in the file.
    ///
    /// # Errors
    /// If the file takes no more.
    pub fn flush(&self) -> Result<()> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).flush().context("write the history")
    }
}

/// A range of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The first.
    pub offset: u64,
    /// How many; fewer are there behind the end.
    pub count: u64,
}

/// A read-test-write of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadTestWrite {
    /// Which write enabler.
    pub enabler: BlockId,
    /// What is asked of each share, in order of their numbers.
    pub shares: Vec<TestWrite>,
    /// What to read of every share.
    pub reads: Vec<Span>,
}

/// What a read-test-write asks of one share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TestWrite {
    /// The share.
    pub share: u64,
    /// What should be there.
    pub tests: Vec<Test>,
    /// What to write, later over earlier.
    pub writes: Vec<Blocks>,
    /// Cut to this length at the end; 0 removes the share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
}

/// What should be in a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Test {
    /// Where.
    #[serde(flatten)]
    pub span: Span,
    /// Fewer than asked for if the share should end there.
    pub specimen: Vec<BlockId>,
}

/// Blocks at their place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Blocks {
    /// Where the first is.
    pub offset: u64,
    /// What they are.
    pub blocks: Vec<BlockId>,
}

/// The answer to a read-test-write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadTestWriteAnswer {
    /// 200 or a refusal.
    pub status: u16,
    /// Whether all tests held.
    pub success: bool,
    /// What was read of every share before the writes.
    pub data: BTreeMap<u64, Vec<Vec<BlockId>>>,
}

/// A read of a part of a mutable share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SlotRead {
    /// The share.
    pub share: u64,
    /// Which part.
    #[serde(flatten)]
    pub span: Span,
}

/// The answer to a read of either kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadAnswer {
    /// 200, 404 or another refusal.
    pub status: u16,
    /// What came.
    pub blocks: Vec<BlockId>,
}

/// A request without anything to say: a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Nothing {}

/// The shares of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListAnswer {
    /// 200 or a refusal.
    pub status: u16,
    /// Their numbers, ascending.
    pub shares: Vec<u64>,
}

/// An allocation, as far as it concerns one share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Allocate {
    /// Which upload secret.
    pub upload: BlockId,
    /// How long the share will be.
    pub size: u64,
}

/// In which set of the answer to an allocation the share was: `already`, `allocated` or `neither`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AllocateAnswer {
    /// 200 or a refusal.
    pub status: u16,
    /// The set.
    pub answer: &'static str,
}

/// A piece of an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// Which upload secret.
    pub upload: BlockId,
    /// What comes where.
    #[serde(flatten)]
    pub blocks: Blocks,
}

/// The answer to a piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PieceAnswer {
    /// 201 if the share is finished, 200, or a refusal.
    pub status: u16,
    /// What is missing, half open.
    pub required: Vec<(u64, u64)>,
}

/// The end of an upload without a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Abort {
    /// Which upload secret.
    pub upload: BlockId,
}

/// An answer of which only the status counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StatusAnswer {
    /// The status.
    pub status: u16,
}

/// Whether an immutable share is in the list of its bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PresenceAnswer {
    /// 200 or a refusal.
    pub status: u16,
    /// Whether it is.
    pub present: bool,
}

/// The bytes of blocks that begin at `offset`.
pub fn encode_blocks(offset: u64, ids: &[BlockId], block_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ids.len() * block_bytes);
    for (position, &id) in (offset..).zip(ids) {
        bytes.extend(word(id, position).repeat(block_bytes / WORD_BYTES));
    }
    bytes
}

/// Which writes made these bytes, which were read at the block `offset`.
pub fn decode_blocks(offset: u64, bytes: &[u8], block_bytes: usize) -> Vec<BlockId> {
    let decode = |(position, block): (u64, &[u8])| {
        let first = block.first_chunk::<WORD_BYTES>().map_or(0, |word| u64::from_be_bytes(*word));
        let id = (first / POSITIONS) as BlockId;
        let whole = block.len() == block_bytes && block.chunks(WORD_BYTES).all(|part| part == word(id, position));
        if whole { id } else { TORN }
    };
    (offset..).zip(bytes.chunks(block_bytes)).map(decode).collect()
}

fn word(id: BlockId, position: u64) -> [u8; WORD_BYTES] {
    let position = if id == ZEROS { 0 } else { position % POSITIONS };
    (id as u64 * POSITIONS + position).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_tell_who_wrote_them() {
        let bytes = encode_blocks(2, &[7, ZEROS, 9], 32);
        assert_eq!(decode_blocks(2, &bytes, 32), [7, ZEROS, 9]);
        assert!(bytes[32..64].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn other_bytes_are_torn() {
        let bytes = encode_blocks(2, &[7, 8], 32);
        assert_eq!(decode_blocks(3, &bytes, 32), [TORN, TORN], "at another place");
        assert_eq!(decode_blocks(2, &bytes[..40], 32), [7, TORN], "ends within a block");
        let mixed = [&bytes[..8], &bytes[40..64]].concat();
        assert_eq!(decode_blocks(2, &mixed, 32), [TORN], "of two writes");
    }

    #[test]
    fn lines_are_what_the_checker_reads() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("history.jsonl");
        let recorder = Recorder::create(&path)?;
        let input = Piece { upload: 4, blocks: Blocks { offset: 1, blocks: vec![5, 5] } };
        let output = Some(PieceAnswer { status: 200, required: vec![(0, 1)] });
        let (model, key, call) = ("share", "a 0", 1);
        let known = Operation { client: 3, model, key, kind: "write", call, returned: Some(2), input, output };
        recorder.record(&known)?;
        let (input, output) = (Abort { upload: 4 }, None::<StatusAnswer>);
        recorder.record(&Operation { client: 3, model, key, kind: "abort", call, returned: None, input, output })?;
        recorder.flush()?;
        let expected = concat!(
            r#"{"client":3,"model":"share","key":"a 0","kind":"write","call":1,"return":2,"#,
            r#""input":{"upload":4,"offset":1,"blocks":[5,5]},"output":{"status":200,"required":[[0,1]]}}"#,
            "\n",
            r#"{"client":3,"model":"share","key":"a 0","kind":"abort","call":1,"input":{"upload":4}}"#,
            "\n"
        );
        assert_eq!(std::fs::read_to_string(path)?, expected);
        Ok(())
    }
}
