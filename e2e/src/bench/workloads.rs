//! The operations that are measured, as the released client would do them.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::load::{Progress, Worker};
use crate::gbs::cbor::{self, Encoder, ReadTestWrite, TestWrite};
use crate::gbs::{Client, Nurl, Request, Response, SecretKind, storage_index_text};

/// Buckets that listings and leases are about.
const BUCKETS: usize = 200;
/// Shares that are downloaded.
const LARGE_SHARES: usize = 4;
/// Slots of each worker.
const SLOTS: usize = 4;
/// A large share.
const LARGE_BYTES: u64 = 64 << 20;
/// What one request moves of it.
const PIECE_BYTES: u64 = 1 << 20;
const SMALL_BYTES: usize = 1024;
const SLOT_BYTES: usize = 4096;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The version document.
    Version,
    /// The shares of a bucket.
    List,
    /// A lease that is renewed again and again.
    Lease,
    /// A share of 1 KiB, allocated and written.
    SmallShare,
    /// A slot of one share of 4 KiB, tested and written whole.
    ReadTestWrite,
    /// A share of 64 MiB, written in pieces of 1 MiB; counted are the pieces.
    Upload,
    /// The same, read in ranges of 1 MiB.
    Download,
    /// What the account uses.
    Usage,
}

/// What the workers of one server share: things that were stored before the measuring.
#[derive(Debug, Clone)]
pub struct Prepared {
    nurl: Nurl,
    leases: [[u8; 32]; 2],
    buckets: Vec<String>,
    large: Vec<String>,
    piece: Arc<[u8]>,
}

impl Prepared {
    /// Stores what these operations need.
    ///
    /// # Errors
    /// If the server refuses something.
    pub async fn store(nurl: &Nurl, operations: &[Operation], random: &mut StdRng) -> Result<Self> {
        let mut piece = vec![0; PIECE_BYTES as usize];
        random.fill(&mut piece[..]);
        let mut prepared = Self {
            nurl: nurl.clone(),
            leases: [random.random(), random.random()],
            buckets: Vec::new(),
            large: Vec::new(),
            piece: piece.into(),
        };
        let mut client = Client::new(nurl.clone())?;
        let has = |operation| operations.contains(&operation);
        for _ in 0..if has(Operation::List) || has(Operation::Lease) { BUCKETS } else { 0 } {
            let index = storage_index_text(&random.random());
            prepared.store_share(&mut client, &index, SMALL_BYTES as u64).await?;
            prepared.buckets.push(index);
        }
        for _ in 0..if has(Operation::Download) { LARGE_SHARES } else { 0 } {
            let index = storage_index_text(&random.random());
            prepared.store_share(&mut client, &index, LARGE_BYTES).await?;
            prepared.large.push(index);
        }
        Ok(prepared)
    }

    async fn store_share(&self, client: &mut Client, index: &str, size: u64) -> Result<()> {
        let secret = [7; 20];
        let allocated = client.allocate(index, &[0], size, &secret, &self.leases).await?;
        let allocated = allocated.map_err(|status| anyhow::anyhow!("allocate: {status}"))?;
        ensure!(allocated.allocated.contains(&0), "the server grants no share of {size} bytes");
        let mut offset = 0;
        while offset < size {
            let data = &self.piece[..PIECE_BYTES.min(size - offset) as usize];
            let written = client.write(index, 0, &secret, offset, data).await?;
            let written = written.map_err(|status| anyhow::anyhow!("write: {status}"))?;
            offset += data.len() as u64;
            ensure!(written.finished == (offset == size), "share finished at the wrong piece");
        }
        Ok(())
    }

    /// Makes the workers of an operation.
    pub fn workers(&self, operation: Operation, count: usize, random: &mut StdRng) -> Vec<Box<dyn Worker>> {
        (0..count).map(|number| self.worker(operation, number, StdRng::from_rng(random))).collect()
    }

    fn worker(&self, operation: Operation, number: usize, random: StdRng) -> Box<dyn Worker> {
        match operation {
            Operation::Version => Box::new(self.repeated(&["/storage/v1/version".to_owned()], 200, number)),
            Operation::Usage => Box::new(self.repeated(&["/account/v1".to_owned()], 200, number)),
            Operation::List => {
                let path = |index: &String| format!("/storage/v1/immutable/{index}/shares");
                Box::new(self.repeated(&self.buckets.iter().map(path).collect::<Vec<_>>(), 200, number))
            }
            Operation::Lease => Box::new(self.lease_worker(number)),
            Operation::SmallShare => Box::new(ShareWorker::new(self, random, SMALL_BYTES as u64, false)),
            Operation::Upload => Box::new(ShareWorker::new(self, random, LARGE_BYTES, true)),
            Operation::ReadTestWrite => Box::new(SlotWorker::new(self, random)),
            Operation::Download => Box::new(DownloadWorker {
                prepared: self.clone(),
                share: number % self.large.len(),
                offset: number as u64 * 7 * PIECE_BYTES % LARGE_BYTES,
                head: Vec::new(),
            }),
        }
    }

    fn repeated(&self, paths: &[String], expected: u16, number: usize) -> Repeated {
        let head = |path: &String| self.head(&Request::new("GET", path.as_str()).accept_cbor());
        Repeated { heads: paths.iter().map(head).collect(), next: number * 31, expected }
    }

    fn lease_worker(&self, number: usize) -> Repeated {
        let head = |index: &String| {
            self.head(&Request::new("PUT", format!("/storage/v1/lease/{index}")).lease_secrets(&self.leases))
        };
        Repeated { heads: self.buckets.iter().map(head).collect(), next: number * 31, expected: 204 }
    }

    fn head(&self, request: &Request) -> Vec<u8> {
        let mut head = Vec::new();
        request.encode_head(&self.nurl, &mut head);
        head
    }
}

/// Sends the same few requests without a body over and over.
struct Repeated {
    heads: Vec<Vec<u8>>,
    next: usize,
    expected: u16,
}

impl Worker for Repeated {
    fn request(&mut self) -> (&[u8], &[u8]) {
        self.next = (self.next + 1) % self.heads.len();
        (&self.heads[self.next], &[])
    }

    fn answer(&mut self, response: &Response) -> Result<Progress> {
        ensure!(response.status == self.expected, "status {} instead of {}", response.status, self.expected);
        Ok(Progress::Done(0))
    }
}

/// Allocates a share and writes it piece by piece, then the next.
struct ShareWorker {
    prepared: Prepared,
    random: StdRng,
    size: u64,
    by_piece: bool,
    index: String,
    secret: [u8; 20],
    offset: Option<u64>,
    head: Vec<u8>,
    body: Vec<u8>,
}

impl ShareWorker {
    fn new(prepared: &Prepared, random: StdRng, size: u64, by_piece: bool) -> Self {
        Self {
            prepared: prepared.clone(),
            random,
            size,
            by_piece,
            index: String::new(),
            secret: [0; 20],
            offset: None,
            head: Vec::new(),
            body: cbor::allocate(&[0], size),
        }
    }

    fn piece_bytes(&self, offset: u64) -> u64 {
        PIECE_BYTES.min(self.size - offset)
    }
}

impl Worker for ShareWorker {
    fn request(&mut self) -> (&[u8], &[u8]) {
        let Some(offset) = self.offset else {
            self.index = storage_index_text(&self.random.random());
            self.random.fill(&mut self.secret);
            let mut request = Request::new("POST", format!("/storage/v1/immutable/{}", self.index))
                .lease_secrets(&self.prepared.leases)
                .secret(SecretKind::Upload, &self.secret)
                .accept_cbor();
            request = request.header("Content-Type", "application/cbor");
            request = request.header("Content-Length", self.body.len().to_string());
            request.encode_head(&self.prepared.nurl, &mut self.head);
            return (&self.head, &self.body);
        };
        let length = self.piece_bytes(offset);
        Request::new("PATCH", format!("/storage/v1/immutable/{}/0", self.index))
            .header("Content-Range", format!("bytes {offset}-{}/*", offset + length - 1))
            .header("Content-Length", length.to_string())
            .secret(SecretKind::Upload, &self.secret)
            .accept_cbor()
            .encode_head(&self.prepared.nurl, &mut self.head);
        (&self.head, &self.prepared.piece[..length as usize])
    }

    fn answer(&mut self, response: &Response) -> Result<Progress> {
        let Some(offset) = self.offset else {
            ensure!(response.status == 200, "allocate: status {}", response.status);
            self.offset = Some(0);
            return Ok(if self.by_piece { Progress::Prepared } else { Progress::Continue });
        };
        let length = self.piece_bytes(offset);
        match response.status {
            200 => self.offset = Some(offset + length),
            201 => self.offset = None,
            status => bail!("write: status {status}"),
        }
        ensure!(self.offset.is_none_or(|offset| offset < self.size), "last piece did not finish the share");
        Ok(Progress::Done(length))
    }
}

/// Writes its slots in turn, each time on the condition that they are as it left them.
struct SlotWorker {
    prepared: Prepared,
    write_enabler: [u8; 32],
    slots: Vec<String>,
    versions: Vec<u64>,
    next: usize,
    data: Vec<u8>,
    head: Vec<u8>,
    body: Encoder,
}

impl SlotWorker {
    fn new(prepared: &Prepared, mut random: StdRng) -> Self {
        let mut data = vec![0; SLOT_BYTES];
        random.fill(&mut data[..]);
        Self {
            prepared: prepared.clone(),
            write_enabler: random.random(),
            slots: (0..SLOTS).map(|_| storage_index_text(&random.random())).collect(),
            versions: vec![0; SLOTS],
            next: 0,
            data,
            head: Vec::new(),
            body: Encoder::default(),
        }
    }
}

impl Worker for SlotWorker {
    fn request(&mut self) -> (&[u8], &[u8]) {
        let version = self.versions[self.next];
        let test = if version == 0 { (0, 1, Vec::new()) } else { (0, 8, version.to_be_bytes().to_vec()) };
        self.data[..8].copy_from_slice(&(version + 1).to_be_bytes());
        let share = TestWrite { tests: vec![test], writes: vec![(0, self.data.clone())], new_length: None };
        self.body.0.clear();
        let vectors = ReadTestWrite { shares: vec![(0, share)], reads: vec![(0, 41)] };
        cbor::encode_read_test_write(&vectors, &mut self.body);
        Request::new("POST", format!("/storage/v1/mutable/{}/read-test-write", self.slots[self.next]))
            .secret(SecretKind::WriteEnabler, &self.write_enabler)
            .lease_secrets(&self.prepared.leases)
            .accept_cbor()
            .header("Content-Type", "application/cbor")
            .header("Content-Length", self.body.0.len().to_string())
            .encode_head(&self.prepared.nurl, &mut self.head);
        (&self.head, &self.body.0)
    }

    fn answer(&mut self, response: &Response) -> Result<Progress> {
        ensure!(response.status == 200, "read-test-write: status {}", response.status);
        let success = b"gsuccess\xf5";
        let held = response.body.windows(success.len()).any(|window| window == success);
        ensure!(held, "a test of a read-test-write did not hold");
        self.versions[self.next] += 1;
        self.next = (self.next + 1) % self.slots.len();
        Ok(Progress::Done(SLOT_BYTES as u64))
    }
}

/// Reads a large share range by range, from the start again when it is through.
struct DownloadWorker {
    prepared: Prepared,
    share: usize,
    offset: u64,
    head: Vec<u8>,
}

impl Worker for DownloadWorker {
    fn request(&mut self) -> (&[u8], &[u8]) {
        Request::new("GET", format!("/storage/v1/immutable/{}/0", self.prepared.large[self.share]))
            .header("Range", format!("bytes={}-{}", self.offset, self.offset + PIECE_BYTES - 1))
            .encode_head(&self.prepared.nurl, &mut self.head);
        (&self.head, &[])
    }

    fn answer(&mut self, response: &Response) -> Result<Progress> {
        ensure!(response.status == 206, "read: status {}", response.status);
        ensure!(response.body.len() as u64 == PIECE_BYTES, "read of {} bytes", response.body.len());
        self.offset = (self.offset + PIECE_BYTES) % LARGE_BYTES;
        Ok(Progress::Done(PIECE_BYTES))
    }
}

/// Runs a future on a runtime of its own.
///
/// # Errors
/// If the future fails.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot make a runtime")?
        .block_on(future)
}
