//! What clients do to immutable shares: several write pieces of one upload, others ask for the same numbers, abort and
//! read.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use anyhow::Result;
use leasehold_e2e::gbs::{Allocated, Written, storage_index_text};
use leasehold_e2e::history::{
    Abort, Allocate, AllocateAnswer, BlockId, Blocks, Nothing, Piece, PieceAnswer, PresenceAnswer, ReadAnswer, Span,
    StatusAnswer, decode_blocks, encode_blocks,
};
use rand::Rng;

use crate::member::{About, Member, Outcome};

/// Marks the storage indexes of buckets.
const KIND: u8 = b'b';
/// Buckets in use at the same time.
const BUCKETS: u64 = 3;
/// After so many steps another bucket comes into use.
const STEPS: u64 = 60;
const SHARES: u64 = 2;
const BLOCK_BYTES: usize = 4096;
const BLOCKS: std::ops::RangeInclusive<u64> = 3..=6;
const UPLOAD_SECRET_BYTES: usize = 20;

/// An upload that somebody began, or tried to.
#[derive(Debug, Clone, Copy)]
pub struct Upload {
    /// Its secret.
    secret: BlockId,
    /// What its blocks are filled with, so that pieces agree where they overlap.
    id: BlockId,
    size: u64,
}

/// One bucket.
struct Bucket {
    number: u64,
    index: String,
    keys: Vec<String>,
}

impl Bucket {
    fn new(member: &Member<'_>, number: u64) -> Self {
        let index = storage_index_text(&member.shared.storage_index(KIND, number));
        let keys = (0..SHARES).map(|share| format!("{index} {share}")).collect();
        Self { number, index, keys }
    }

    fn about(&self, share: u64, kind: &'static str) -> About<'_> {
        About { model: "share", key: &self.keys[share as usize], kind }
    }
}

fn secret_bytes(secret: BlockId) -> [u8; UPLOAD_SECRET_BYTES] {
    let mut bytes = [7; UPLOAD_SECRET_BYTES];
    bytes[..8].copy_from_slice(&secret.to_be_bytes());
    bytes
}

impl Member<'_> {
    /// Does one thing to one of the buckets in use.
    ///
    /// # Errors
    /// If an answer makes no sense.
    pub async fn bucket_step(&mut self) -> Result<()> {
        let step = self.shared.bucket_steps.fetch_add(1, Ordering::Relaxed);
        let pick = self.random.random_range(0..BUCKETS);
        let bucket = Bucket::new(self, step / STEPS + pick);
        let share = self.random.random_range(0..SHARES);
        let upload = self.upload(&bucket, share);
        match (self.random.random_range(0..100), upload) {
            (0..15, _) => self.read_bucket(&bucket, share).await,
            (15..22, _) => self.list_bucket(&bucket).await,
            (22..35, _) | (_, None) => self.allocate(&bucket).await,
            (35..40, Some(upload)) => self.abort(&bucket, share, upload).await,
            (_, Some(upload)) => self.write_piece(&bucket, share, upload).await,
        }
    }

    /// Reads and lists every bucket that was ever in use, with a known outcome.
    ///
    /// # Errors
    /// If a bucket cannot be read.
    pub async fn read_all_buckets(&mut self) -> Result<()> {
        let last = self.shared.bucket_steps.load(Ordering::Relaxed) / STEPS + BUCKETS;
        for number in 0..last {
            let bucket = Bucket::new(self, number);
            self.list_bucket(&bucket).await?;
            for share in 0..SHARES {
                self.read_part(&bucket, share, Span { offset: 0, count: BLOCKS.end() + 1 }).await?;
            }
        }
        Ok(())
    }

    fn upload(&self, bucket: &Bucket, share: u64) -> Option<Upload> {
        let uploads = self.shared.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.get(&(bucket.number, share)).copied()
    }

    /// Takes an upload that is over out of the table.
    fn forget(&self, bucket: &Bucket, share: u64, over: Upload) {
        let mut uploads = self.shared.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        if uploads.get(&(bucket.number, share)).is_some_and(|upload| upload.secret == over.secret) {
            uploads.remove(&(bucket.number, share));
        }
    }

    async fn allocate(&mut self, bucket: &Bucket) -> Result<()> {
        let upload = Upload {
            secret: self.shared.recorder.number(),
            id: self.shared.recorder.number(),
            size: self.random.random_range(BLOCKS),
        };
        let shares: Vec<u64> =
            if self.chance(60) { (0..SHARES).collect() } else { vec![self.random.random_range(0..SHARES)] };
        let (secret, leases) = (secret_bytes(upload.secret), self.leases());
        let bytes = upload.size * BLOCK_BYTES as u64;
        let asked =
            self.ask(async |client| client.allocate(&bucket.index, &shares, bytes, &secret, &leases).await).await?;
        for &share in &shares {
            let input = Allocate { upload: upload.secret, size: upload.size };
            self.note(&asked, bucket.about(share, "allocate"), input, |result| match result {
                Ok(allocated) => AllocateAnswer { status: 200, answer: set_of(allocated, share) },
                Err(status) => AllocateAnswer { status, answer: "" },
            })?;
            let begun = match &asked.outcome {
                Outcome::Answered(allocated) => {
                    self.count("allocate", set_of(allocated, share));
                    allocated.allocated.contains(&share)
                }
                Outcome::Unknown => self.chance(50),
                Outcome::Refused(_) | Outcome::NotSent => false,
            };
            if begun {
                let mut uploads = self.shared.uploads.lock().unwrap_or_else(PoisonError::into_inner);
                uploads.insert((bucket.number, share), upload);
            }
        }
        Ok(())
    }

    async fn write_piece(&mut self, bucket: &Bucket, share: u64, upload: Upload) -> Result<()> {
        let offset = self.random.random_range(0..upload.size);
        let count = self.random.random_range(1..=upload.size - offset);
        // Now and then a piece that differs, or of a stranger.
        let id = if self.chance(3) { self.shared.recorder.number() } else { upload.id };
        let secret = if self.chance(3) { self.shared.recorder.number() } else { upload.secret };
        let blocks = Blocks { offset, blocks: vec![id; count as usize] };
        let bytes = encode_blocks(offset, &blocks.blocks, BLOCK_BYTES);
        let (begin, upload_secret) = (offset * BLOCK_BYTES as u64, secret_bytes(secret));
        let asked =
            self.ask(async |client| client.write(&bucket.index, share, &upload_secret, begin, &bytes).await).await?;
        if matches!(asked.outcome, Outcome::Answered(Written { finished: true, .. }) | Outcome::Refused(404))
            && self.chance(50)
        {
            self.forget(bucket, share, upload);
        }
        let input = Piece { upload: secret, blocks };
        self.note(&asked, bucket.about(share, "write"), input, |result| match result {
            Ok(written) => {
                self.count("write", if written.finished { "201" } else { "200" });
                PieceAnswer { status: if written.finished { 201 } else { 200 }, required: in_blocks(&written.required) }
            }
            Err(status) => PieceAnswer { status, required: Vec::new() },
        })
    }

    async fn abort(&mut self, bucket: &Bucket, share: u64, upload: Upload) -> Result<()> {
        let secret = secret_bytes(upload.secret);
        let asked = self
            .ask(async |client| {
                let status = client.abort(&bucket.index, share, &secret).await?;
                Ok(if status == 200 { Ok(()) } else { Err(status) })
            })
            .await?;
        self.note(&asked, bucket.about(share, "abort"), Abort { upload: upload.secret }, |result| {
            if result.is_ok() {
                self.count("abort", "200");
            }
            StatusAnswer { status: result.err().unwrap_or(200) }
        })
    }

    async fn read_bucket(&mut self, bucket: &Bucket, share: u64) -> Result<()> {
        let offset = self.random.random_range(0..*BLOCKS.start());
        let count = self.random.random_range(1..=*BLOCKS.end());
        self.read_part(bucket, share, Span { offset, count }).await
    }

    async fn read_part(&mut self, bucket: &Bucket, share: u64, span: Span) -> Result<()> {
        let size = BLOCK_BYTES as u64;
        let (offset, count) = (span.offset * size, span.count * size);
        let asked =
            self.ask(async |client| client.read("immutable", &bucket.index, share, offset, count).await).await?;
        self.note(&asked, bucket.about(share, "read"), span, |result| match result {
            Ok(bytes) => ReadAnswer { status: 200, blocks: decode_blocks(span.offset, bytes, BLOCK_BYTES) },
            Err(status) => ReadAnswer { status, blocks: Vec::new() },
        })
    }

    async fn list_bucket(&mut self, bucket: &Bucket) -> Result<()> {
        let asked = self.ask(async |client| client.list("immutable", &bucket.index).await).await?;
        for share in 0..SHARES {
            self.note(&asked, bucket.about(share, "list"), Nothing {}, |result| match result {
                Ok(shares) => PresenceAnswer { status: 200, present: shares.contains(&share) },
                Err(status) => PresenceAnswer { status, present: false },
            })?;
        }
        Ok(())
    }
}

/// In which set of an answer a share is.
fn set_of(allocated: &Allocated, share: u64) -> &'static str {
    if allocated.already_have.contains(&share) {
        "already"
    } else if allocated.allocated.contains(&share) {
        "allocated"
    } else {
        "neither"
    }
}

/// Ranges of bytes as ranges of blocks. One that is not on their edges becomes one that no answer can be.
fn in_blocks(required: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let size = BLOCK_BYTES as u64;
    let in_blocks = |bytes: u64| if bytes.is_multiple_of(size) { bytes / size } else { u64::MAX >> 1 };
    required.iter().map(|&(begin, end)| (in_blocks(begin), in_blocks(end))).collect()
}
