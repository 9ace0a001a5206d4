//! Bodies of writes: taken apart into runs of known length, hashed and compared as they stream by.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures_util::stream::{self, Stream, StreamExt};

use super::StoreError;
use crate::backend::ByteStream;
use crate::bucket::Digest;

/// The bytes that came with a read-test-write request, wherever the front end put them.
pub trait Payload: Send + Sync {
    /// Opens a range of them.
    fn read(&self, range: Range<u64>) -> ByteStream;
}

impl Payload for Bytes {
    fn read(&self, range: Range<u64>) -> ByteStream {
        let bytes = self.slice(range.start as usize..range.end as usize);
        stream::iter([Ok(bytes)]).boxed()
    }
}

/// Marks a body that ended before its announced length.
#[derive(Debug, thiserror::Error)]
#[error("the body ended early")]
struct EndedEarly;

/// Tells a body of wrong length from one that broke off.
pub(super) fn store_error(error: io::Error) -> StoreError {
    if error.get_ref().is_some_and(|inner| inner.is::<EndedEarly>()) {
        StoreError::BodyLength
    } else {
        StoreError::BodyBroken(error)
    }
}

struct State {
    body: ByteStream,
    rest: Bytes,
    hasher: blake3::Hasher,
}

/// A body that is handed out run by run.
#[derive(Clone)]
pub(super) struct Body(Arc<Mutex<State>>);

impl Body {
    pub(super) fn new(body: ByteStream) -> Self {
        Self(Arc::new(Mutex::new(State { body, rest: Bytes::new(), hasher: blake3::Hasher::new() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next `length` bytes as a stream; ends with an error if the body is shorter.
    pub(super) fn take(&self, length: u64) -> ByteStream {
        self.state().hasher = blake3::Hasher::new();
        Take { body: self.clone(), left: length }.boxed()
    }

    /// The digest of what the last [`take`](Self::take) gave out.
    pub(super) fn digest(&self) -> Digest {
        self.state().hasher.finalize().into()
    }

    /// Whether nothing is left.
    pub(super) async fn is_at_end(&self) -> io::Result<bool> {
        match self.take(1).next().await {
            Some(Ok(_)) => Ok(false),
            Some(Err(error)) if error.get_ref().is_some_and(|inner| inner.is::<EndedEarly>()) => Ok(true),
            Some(Err(error)) => Err(error),
            None => Ok(true),
        }
    }
}

struct Take {
    body: Body,
    left: u64,
}

impl Stream for Take {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let body = self.body.clone();
        let mut state = body.state();
        while state.rest.is_empty() {
            match state.body.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(bytes))) => state.rest = bytes,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => {
                    self.left = 0;
                    return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, EndedEarly))));
                }
            }
        }
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(state.rest.len());
        let bytes = state.rest.split_to(count);
        state.hasher.update(&bytes);
        self.left -= count as u64;
        Poll::Ready(Some(Ok(bytes)))
    }
}

/// Whether two streams give the same bytes. The first stream is read to its end even when they differ, so that a
/// client gets its answer instead of a broken connection.
pub(super) async fn equal(mut a: ByteStream, mut b: ByteStream) -> Result<bool, Side> {
    let (mut left, mut right) = (Bytes::new(), Bytes::new());
    loop {
        if left.is_empty() {
            match a.next().await {
                Some(bytes) => left = bytes.map_err(Side::First)?,
                None => return ends(right, b).await,
            }
            continue;
        }
        if right.is_empty() {
            match b.next().await {
                Some(bytes) => right = bytes.map_err(Side::Second)?,
                None => return drain(a).await,
            }
            continue;
        }
        let count = left.len().min(right.len());
        if left[..count] != right[..count] {
            return drain(a).await;
        }
        left.advance(count);
        right.advance(count);
    }
}

/// Whether nothing but empty pieces is left of the second stream.
async fn ends(rest: Bytes, mut stream: ByteStream) -> Result<bool, Side> {
    let mut ended = rest.is_empty();
    while ended && let Some(bytes) = stream.next().await {
        ended = bytes.map_err(Side::Second)?.is_empty();
    }
    Ok(ended)
}

async fn drain(mut stream: ByteStream) -> Result<bool, Side> {
    while let Some(bytes) = stream.next().await {
        bytes.map_err(Side::First)?;
    }
    Ok(false)
}

/// Which of two compared streams failed.
#[derive(Debug)]
pub(super) enum Side {
    First(io::Error),
    Second(io::Error),
}

/// A stream of `count` zeros.
pub(super) fn zeros(count: u64) -> ByteStream {
    const BLOCK: &[u8] = &[0; 64 << 10];
    stream::unfold(count, |left| async move {
        let now = left.min(BLOCK.len() as u64);
        (now > 0).then(|| (Ok(Bytes::from_static(&BLOCK[..now as usize])), left - now))
    })
    .boxed()
}
