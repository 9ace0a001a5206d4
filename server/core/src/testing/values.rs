//! Values for tests: ids, secrets, bodies.

use std::io;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};

use crate::backend::ByteStream;
use crate::clock::Entropy;
use crate::id::{ShareId, ShareNumber, StorageIndex};
use crate::secret::{SecretHash, Swissnum, UploadSecret, WriteEnabler};

/// Tasks of a contract case that shall run at the same time.
pub type Tasks = Vec<BoxFuture<'static, ()>>;

/// Whatever must live as long as what was made for a test: a temporary folder, a server.
pub type Guard = Box<dyn std::any::Any + Send + Sync>;

/// The seed of a random test: `LEASEHOLD_SEED`, or a new one. Printed, so that a failure can be repeated.
///
/// # Panics
/// If `LEASEHOLD_SEED` is not a number.
pub fn seed() -> u64 {
    let seed = match std::env::var("LEASEHOLD_SEED") {
        Ok(text) => text.parse().expect("LEASEHOLD_SEED is a number"),
        Err(_) => u64::from(u32::from_be_bytes(Entropy::from_os().bytes())),
    };
    println!("LEASEHOLD_SEED={seed}");
    seed
}

/// A storage index that differs for each number.
pub const fn storage_index(number: u8) -> StorageIndex {
    let mut bytes = [0x5a; 16];
    bytes[0] = number;
    bytes[15] = number;
    StorageIndex::new(bytes)
}

/// A share by the number of its storage index and its own.
pub const fn share_id(index: u8, number: u8) -> ShareId {
    ShareId::new(storage_index(index), ShareNumber::new(number))
}

/// An upload secret.
pub fn upload_secret(number: u8) -> UploadSecret {
    UploadSecret::new(vec![number; 20]).expect("20 bytes are allowed")
}

/// A write enabler.
pub fn enabler(number: u8) -> WriteEnabler {
    WriteEnabler::new(vec![number; 32]).expect("32 bytes are allowed")
}

/// The hash of a credential.
pub fn credential(text: &str) -> SecretHash {
    Swissnum::new(text.as_bytes().to_vec()).expect("short enough").credential_hash()
}

/// A body that arrives in pieces of at most seven bytes, and of nothing.
pub fn body(bytes: &[u8]) -> ByteStream {
    let mut pieces: Vec<io::Result<Bytes>> = vec![Ok(Bytes::new())];
    let step = if bytes.len() > 4096 { 4096 } else { 7 };
    pieces.extend(bytes.chunks(step).map(|piece| Ok(Bytes::copy_from_slice(piece))));
    stream::iter(pieces).boxed()
}

/// A body that breaks off after these bytes.
pub fn broken_body(bytes: &[u8]) -> ByteStream {
    let broken = io::Error::new(io::ErrorKind::ConnectionReset, "the client went away");
    body(bytes).chain(stream::iter([Err(broken)])).boxed()
}

/// Reads a stream to its end.
///
/// # Errors
/// Whatever breaks it off.
pub async fn read_all(mut stream: ByteStream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(bytes) = stream.next().await {
        all.extend_from_slice(&bytes?);
    }
    Ok(all)
}
