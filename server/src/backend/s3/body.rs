//! Bodies on their way in and out, of known length and never waited for without an end.

use std::io;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream as SdkBody;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use leasehold_core::backend::{BackendError, ByteStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::metrics::S3Metrics;

/// Gathers the body of an upload, which must have exactly this length.
pub(super) async fn gather(mut body: ByteStream, length: usize) -> Result<Bytes, BackendError> {
    let wrong_length = || {
        let error = io::Error::new(io::ErrorKind::InvalidData, "the body has not the announced length");
        Err(BackendError::Source(error))
    };
    let mut gathered = Vec::with_capacity(length);
    while let Some(bytes) = body.next().await {
        let bytes = bytes.map_err(BackendError::Source)?;
        if bytes.len() > length - gathered.len() {
            return wrong_length();
        }
        gathered.extend_from_slice(&bytes);
    }
    if gathered.len() < length { wrong_length() } else { Ok(gathered.into()) }
}

/// An answer's body, of which so many bytes are still to come.
pub(super) struct Answer {
    body: SdkBody,
    left: u64,
    stall: Duration,
    metrics: S3Metrics,
    /// Held as long as bytes may come.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Answer {
    pub(super) const fn new(
        body: SdkBody,
        length: u64,
        stall: Duration,
        metrics: S3Metrics,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self { body, left: length, stall, metrics, _permit: permit }
    }

    /// The next bytes; `None` when all are there. The end of the body is waited for, because the SDK compares the
    /// checksum there.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let next = match timeout(self.stall, self.body.next()).await {
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the store has stopped in the middle of an object")),
            Ok(None) if self.left == 0 => Ok(None),
            Ok(None) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the store has sent too little of an object")),
            Ok(Some(Err(error))) => Err(io::Error::other(error)),
            Ok(Some(Ok(bytes))) if bytes.len() as u64 > self.left => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the store has sent too much of an object"))
            }
            Ok(Some(Ok(bytes))) => {
                self.left -= bytes.len() as u64;
                Ok(Some(bytes))
            }
        };
        if next.is_err() {
            self.metrics.broken_bodies.inc();
        }
        next
    }

    /// The body as a stream.
    pub(super) fn into_stream(self) -> ByteStream {
        stream::try_unfold(self, |mut answer| async move { Ok(answer.next().await?.map(|bytes| (bytes, answer))) })
            .boxed()
    }

    /// The whole body in one piece.
    pub(super) async fn gather(mut self) -> Result<Bytes, BackendError> {
        let mut gathered = Vec::with_capacity(usize::try_from(self.left).unwrap_or_default());
        while let Some(bytes) = self.next().await.map_err(BackendError::Unavailable)? {
            gathered.extend_from_slice(&bytes);
        }
        Ok(gathered.into())
    }
}
