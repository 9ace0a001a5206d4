//! Memory for writing past the system's cache.
//!
//! What is durable before it is answered gains nothing from pages that the system copies it into, finds again and writes
//! out: for large objects that costs more than all the rest of a server's work on them.

use bytes::{Buf, Bytes};

/// Where blocks begin in memory and in files, and what their lengths are multiples of, in bytes.
pub(super) const ALIGNMENT: usize = 4096;

/// A block of a file that is being filled.
#[derive(Debug)]
pub(super) struct AlignedBlock {
    memory: Vec<u8>,
    /// Where the block begins in it.
    start: usize,
    capacity: usize,
    filled: usize,
}

impl AlignedBlock {
    /// An empty block for that many bytes, at least.
    pub(super) fn new(bytes: usize) -> Self {
        let capacity = bytes.next_multiple_of(ALIGNMENT);
        let memory = vec![0; capacity + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, start, capacity, filled: 0 }
    }

    /// Moves bytes into the block, as many as it has room for.
    pub(super) fn fill(&mut self, bytes: &mut Bytes) {
        let count = bytes.len().min(self.capacity - self.filled);
        let at = self.start + self.filled;
        bytes.copy_to_slice(&mut self.memory[at..at + count]);
        self.filled += count;
    }

    pub(super) fn is_full(&self) -> bool {
        self.filled == self.capacity
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.filled]
    }

    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }
}
