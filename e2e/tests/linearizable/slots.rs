//! What clients do to mutable shares: read-test-writes with tests on what they saw last, and reads.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use leasehold_e2e::gbs::cbor::{self, ReadTestWriteResult};
use leasehold_e2e::gbs::storage_index_text;
use leasehold_e2e::history::{
    BlockId, Blocks, ListAnswer, Nothing, ReadAnswer, ReadTestWrite, ReadTestWriteAnswer, SlotRead, Span, Test,
    TestWrite, decode_blocks, encode_blocks,
};
use rand::Rng;
use rand::seq::SliceRandom;

use crate::member::{About, Member, Outcome};

/// Marks the storage indexes of slots.
const KIND: u8 = b's';
/// Slots in use at the same time.
const SLOTS: u64 = 6;
/// After so many steps other slots come into use: histories of one key stay short.
const STEPS: u64 = 600;
const SHARES: u64 = 3;
/// Tests compare the beginning of a block, as clients compare the beginning of a share.
const SPECIMEN_BYTES_MAX: usize = 64;
/// The write enablers in use. Most requests carry the first.
const ENABLERS: [BlockId; 2] = [1, 2];

/// One slot.
#[derive(Clone)]
pub struct Slot {
    number: u64,
    index: String,
    /// Small ones are one object a share, large ones several.
    block_bytes: usize,
    blocks_max: u64,
}

/// What a client believes to be in a slot.
#[derive(Debug, Default, Clone)]
pub struct View {
    shares: BTreeMap<u64, Vec<BlockId>>,
    /// Which of the enablers.
    enabler: usize,
}

impl Slot {
    fn new(member: &Member<'_>, number: u64) -> Self {
        let (block_bytes, blocks_max) = match number % SLOTS {
            5 => (256 * 1024, 6),
            4 => (16 * 1024, 8),
            _ => (64, 6),
        };
        let index = storage_index_text(&member.shared.storage_index(KIND, number));
        Self { number, index, block_bytes, blocks_max }
    }

    fn about(&self, kind: &'static str) -> About<'_> {
        About { model: "slot", key: &self.index, kind }
    }

    fn everything(&self) -> Span {
        // More than there can be: what lies behind the end must not come.
        Span { offset: 0, count: self.blocks_max + 2 }
    }

    fn decode(&self, span: Span, bytes: &[u8]) -> Vec<BlockId> {
        decode_blocks(span.offset, bytes, self.block_bytes)
    }

    /// The request as it goes over the wire.
    fn encode(&self, request: &ReadTestWrite) -> cbor::ReadTestWrite {
        let bytes = |blocks: u64| blocks * self.block_bytes as u64;
        let test = |test: &Test| {
            let specimen = encode_blocks(test.span.offset, &test.specimen, self.block_bytes);
            let size = self.block_bytes.min(SPECIMEN_BYTES_MAX);
            (bytes(test.span.offset), size as u64, specimen[..size.min(specimen.len())].to_vec())
        };
        let write =
            |write: &Blocks| (bytes(write.offset), encode_blocks(write.offset, &write.blocks, self.block_bytes));
        let share = |share: &TestWrite| cbor::TestWrite {
            tests: share.tests.iter().map(test).collect(),
            writes: share.writes.iter().map(write).collect(),
            new_length: share.length.map(bytes),
        };
        cbor::ReadTestWrite {
            shares: request.shares.iter().map(|vectors| (vectors.share, share(vectors))).collect(),
            reads: request.reads.iter().map(|span| (bytes(span.offset), bytes(span.count))).collect(),
        }
    }
}

impl View {
    /// What the slot holds after a request that succeeded.
    fn apply(&mut self, request: &ReadTestWrite) {
        for vectors in &request.shares {
            if vectors.length == Some(0) {
                self.shares.remove(&vectors.share);
                continue;
            }
            let blocks = self.shares.entry(vectors.share).or_default();
            for write in &vectors.writes {
                let (begin, end) = (write.offset as usize, write.offset as usize + write.blocks.len());
                blocks.resize(blocks.len().max(end), 0);
                blocks[begin..end].copy_from_slice(&write.blocks);
            }
            blocks.truncate(vectors.length.unwrap_or(u64::MAX) as usize);
        }
    }
}

impl Member<'_> {
    /// Does one thing to one of the slots in use.
    ///
    /// # Errors
    /// If an answer makes no sense.
    pub async fn slot_step(&mut self) -> Result<()> {
        let step = self.shared.slot_steps.fetch_add(1, Ordering::Relaxed);
        let mut pick = self.random.random_range(0..SLOTS);
        if pick == SLOTS - 1 && self.chance(50) {
            pick = 0; // the large one costs the most
        }
        let slot = Slot::new(self, step / STEPS * SLOTS + pick);
        match self.random.random_range(0..100) {
            0..20 => self.read_slot(&slot).await,
            20..25 => self.list_slot(&slot).await,
            25..35 => self.read_test_write(&slot, Vec::new()).await,
            _ => {
                let shares = self.random_vectors(&slot);
                self.read_test_write(&slot, shares).await
            }
        }
    }

    /// Reads every slot that was ever in use, with a known outcome.
    ///
    /// # Errors
    /// If a slot cannot be read.
    pub async fn read_all_slots(&mut self) -> Result<()> {
        let last = self.shared.slot_steps.load(Ordering::Relaxed).saturating_sub(1) / STEPS;
        for number in 0..(last + 1) * SLOTS {
            let slot = Slot::new(self, number);
            for enabler in 0..ENABLERS.len() {
                self.views.entry(number).or_default().enabler = enabler;
                self.read_test_write(&slot, Vec::new()).await?;
            }
            let asked = self.ask(async |client| client.list("mutable", &slot.index).await).await?;
            let Outcome::Answered(shares) = &asked.outcome else {
                anyhow::bail!("slot {} cannot be listed after the run: {:?}", slot.index, asked.outcome)
            };
            for &share in shares {
                self.read_share(&slot, SlotRead { share, span: slot.everything() }).await?;
            }
        }
        Ok(())
    }

    fn random_vectors(&mut self, slot: &Slot) -> Vec<TestWrite> {
        let id = self.shared.recorder.number();
        let view = self.views.get(&slot.number).cloned().unwrap_or_default();
        let mut numbers: Vec<u64> = (0..SHARES).collect();
        numbers.shuffle(&mut self.random);
        numbers.truncate(self.random.random_range(1..=SHARES as usize));
        numbers.sort_unstable();
        let removes = self.chance(4);
        let tests_percent = if self.chance(8) { 0 } else { 90 };
        let mut vectors = Vec::new();
        for share in numbers {
            let there = view.shares.get(&share).map(Vec::as_slice).unwrap_or_default();
            let mut tests = Vec::new();
            if self.chance(tests_percent) {
                tests.push(first_block_is(there));
            }
            let changes = if removes { (Vec::new(), Some(0)) } else { self.random_changes(slot, there, id) };
            vectors.push(TestWrite { share, tests, writes: changes.0, length: changes.1 });
        }
        vectors
    }

    /// Writes and a new length for one share.
    fn random_changes(&mut self, slot: &Slot, there: &[BlockId], id: BlockId) -> (Vec<Blocks>, Option<u64>) {
        let random = &mut self.random;
        let length = random.random_range(1..=slot.blocks_max);
        let whole = Blocks { offset: 0, blocks: vec![id; length as usize] };
        let at = |offset: u64, count: u64| Blocks {
            offset,
            blocks: vec![id; count.min(slot.blocks_max - offset.min(slot.blocks_max)) as usize],
        };
        match random.random_range(0..100) {
            // As a client publishes.
            0..50 => (vec![whole], Some(length)),
            50..60 => (vec![whole], None),
            // A part, perhaps behind the end; and the beginning, so that a test sees it.
            60..85 => (vec![at(random.random_range(0..slot.blocks_max), 2), at(0, 1)], None),
            85..93 => (vec![at(random.random_range(0..slot.blocks_max), 1)], Some(length)),
            // Only a length, or nothing at all: a share is made if there is none.
            93..97 => (Vec::new(), Some(there.len().max(2) as u64 - 1)),
            _ => (Vec::new(), None),
        }
    }

    async fn read_test_write(&mut self, slot: &Slot, shares: Vec<TestWrite>) -> Result<()> {
        let mut view = self.views.get(&slot.number).cloned().unwrap_or_default();
        if !shares.is_empty() && self.chance(3) {
            view.enabler = 1 - view.enabler;
        }
        let reads = if shares.is_empty() || slot.block_bytes < 4096 || self.chance(25) {
            vec![slot.everything()]
        } else {
            vec![Span { offset: 0, count: 1 }, Span { offset: slot.blocks_max - 1, count: 1 }]
        };
        let request = ReadTestWrite { enabler: ENABLERS[view.enabler], shares, reads };
        let enabler = [request.enabler as u8; 32];
        let (leases, vectors) = (self.leases(), slot.encode(&request));
        let asked =
            self.ask(async |client| client.read_test_write(&slot.index, &enabler, &leases, &vectors).await).await?;
        self.note(&asked, slot.about("read_test_write"), &request, |result| answer(slot, &request, result))?;
        match &asked.outcome {
            Outcome::Answered(result) => {
                let kind = if request.shares.is_empty() { "read by read_test_write" } else { "read_test_write" };
                self.count(kind, if result.0 { "success" } else { "test failed" });
                let answer = answer(slot, &request, Ok(result));
                let first = |reads: Vec<Vec<BlockId>>| reads.into_iter().next().unwrap_or_default();
                view.shares = answer.data.into_iter().map(|(share, reads)| (share, first(reads))).collect();
                if answer.success {
                    view.apply(&request);
                }
            }
            Outcome::Refused(_) => view.enabler = 1 - view.enabler,
            Outcome::Unknown | Outcome::NotSent => {}
        }
        self.views.insert(slot.number, view);
        Ok(())
    }

    async fn read_slot(&mut self, slot: &Slot) -> Result<()> {
        let mut span = slot.everything();
        if self.chance(50) {
            span.offset = self.random.random_range(0..slot.blocks_max);
            span.count = self.random.random_range(1..=slot.blocks_max);
        }
        let share = self.random.random_range(0..SHARES);
        self.read_share(slot, SlotRead { share, span }).await
    }

    async fn read_share(&mut self, slot: &Slot, read: SlotRead) -> Result<()> {
        let size = slot.block_bytes as u64;
        let (offset, count) = (read.span.offset * size, read.span.count * size);
        let asked =
            self.ask(async |client| client.read("mutable", &slot.index, read.share, offset, count).await).await?;
        self.note(&asked, slot.about("read"), read, |result| match result {
            Ok(bytes) => ReadAnswer { status: 200, blocks: slot.decode(read.span, bytes) },
            Err(status) => ReadAnswer { status, blocks: Vec::new() },
        })
        .context("read of a slot")
    }

    async fn list_slot(&mut self, slot: &Slot) -> Result<()> {
        let asked = self.ask(async |client| client.list("mutable", &slot.index).await).await?;
        self.note(&asked, slot.about("list"), Nothing {}, |result| match result {
            Ok(shares) => ListAnswer { status: 200, shares: shares.iter().copied().collect() },
            Err(status) => ListAnswer { status, shares: Vec::new() },
        })
    }
}

/// A test as the released client makes it: the beginning is as I know it, or there is nothing.
fn first_block_is(there: &[BlockId]) -> Test {
    Test { span: Span { offset: 0, count: 1 }, specimen: there.iter().take(1).copied().collect() }
}

fn answer(slot: &Slot, request: &ReadTestWrite, result: Result<&ReadTestWriteResult, u16>) -> ReadTestWriteAnswer {
    let (success, data) = match result {
        Ok(result) => result,
        Err(status) => return ReadTestWriteAnswer { status, success: false, data: BTreeMap::new() },
    };
    let decode = |reads: &Vec<Vec<u8>>| {
        request.reads.iter().zip(reads).map(|(span, bytes)| slot.decode(*span, bytes)).collect::<Vec<_>>()
    };
    let data = data.iter().map(|(share, reads)| (*share, decode(reads))).collect();
    ReadTestWriteAnswer { status: 200, success: *success, data }
}
