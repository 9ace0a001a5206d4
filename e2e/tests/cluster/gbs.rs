//! Shares by hand, where a story counts bytes that the released client would round.

use anyhow::{Result, anyhow, bail, ensure};
use leasehold_e2e::gbs::cbor::{ReadTestWrite, TestWrite};
use leasehold_e2e::gbs::{Client, Nurl, storage_index_text};
use leasehold_e2e::story::bytes;

const LEASES: [[u8; 32]; 2] = [[1; 32], [2; 32]];
const UPLOAD: [u8; 32] = [3; 32];
const ENABLER: [u8; 32] = [4; 32];

/// The storage index of a number.
pub fn index(number: u64) -> String {
    let mut bytes = [7; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    storage_index_text(&bytes)
}

/// Lets requests happen.
pub fn asked<T>(requests: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(requests)
}

/// A client by hand.
pub struct Hand(Client);

impl Hand {
    /// Of an account.
    pub fn new(nurl: &Nurl) -> Result<Self> {
        Ok(Self(Client::new(nurl.clone())?))
    }

    /// Stores one share of its own storage index, or goes on with what an earlier call has begun; false if there is no room.
    pub async fn store(&mut self, number: u64, length: usize) -> Result<bool> {
        let (index, data) = (index(number), bytes(number, length));
        let allocated = self.0.allocate(&index, &[0], data.len() as u64, &UPLOAD, &LEASES).await?;
        let allocated = allocated.map_err(|status| anyhow!("an allocation gets {status}"))?;
        if !allocated.already_have.is_empty() {
            return Ok(true);
        }
        // A share on its way is in neither list, and neither is one for which there is no room.
        let written = self.0.write(&index, 0, &UPLOAD, 0, &data).await?;
        match written {
            Ok(written) => ensure!(written.finished, "a share is not finished by its last byte"),
            Err(404) if allocated.allocated.is_empty() => return Ok(false),
            Err(status) => bail!("a write gets {status}"),
        }
        Ok(true)
    }

    /// Stores one share in pieces, each a request of its own, so that it takes a while.
    pub async fn store_slowly(&mut self, number: u64, length: usize, pieces: usize) -> Result<()> {
        let (index, data) = (index(number), bytes(number, length));
        let allocated = self.0.allocate(&index, &[0], data.len() as u64, &UPLOAD, &LEASES).await?;
        ensure!(allocated.is_ok_and(|found| found.allocated.contains(&0)), "a new share is not allocated");
        let mut offset = 0;
        for piece in data.chunks(length.div_ceil(pieces)) {
            let written = self.0.write(&index, 0, &UPLOAD, offset, piece).await?;
            let written = written.map_err(|status| anyhow!("a write gets {status}"))?;
            offset += piece.len() as u64;
            ensure!(written.finished == (offset == data.len() as u64), "a share ends with its last piece only");
        }
        Ok(())
    }

    /// Puts this content in the place of what a slot had.
    pub async fn put(&mut self, number: u64, before: &[u8], content: &[u8]) -> Result<()> {
        let tests = vec![(0, before.len() as u64, before.to_vec())];
        let share = TestWrite { tests, writes: vec![(0, content.to_vec())], new_length: None };
        let vectors = ReadTestWrite { shares: vec![(0, share)], reads: Vec::new() };
        let outcome = self.0.read_test_write(&index(number), &ENABLER, &LEASES, &vectors).await?;
        let (is_written, _) = outcome.map_err(|status| anyhow!("a slot's write gets {status}"))?;
        ensure!(is_written, "a slot has not what was written last");
        Ok(())
    }

    /// Whether the share is there, as it was stored.
    pub async fn has(&mut self, number: u64, length: usize) -> Result<bool> {
        let found = self.0.read("immutable", &index(number), 0, 0, length as u64).await?;
        Ok(found.is_ok_and(|found| found == bytes(number, length)))
    }

    /// Renews the leases of a storage index; the status.
    pub async fn renew(&mut self, number: u64) -> Result<u16> {
        self.0.lease(&index(number), &LEASES).await
    }

    /// The client itself.
    pub fn client(&mut self) -> &mut Client {
        &mut self.0
    }
}
