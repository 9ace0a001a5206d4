//! Bodies of requests and responses, streamed in bounded memory.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use leasehold_core::backend::ByteStream;
use tokio::time::{Instant, Sleep};

use crate::listener::guard::Busy;

/// After this long a body must have kept the demanded average rate.
const RATE_GRACE: Duration = Duration::from_secs(10);
/// A body that nobody wants is read up to this length, so that the client gets its answer instead of a reset.
const DRAIN_BYTES_MAX: u64 = 16 << 20;

/// A response body of known length.
#[derive(Default)]
pub struct ResponseBody {
    content: Content,
    /// Held until the response is sent, so that the connection counts as busy.
    busy: Option<Busy>,
}

#[derive(Default)]
enum Content {
    #[default]
    Empty,
    Full(Bytes),
    Stream(ByteStream, u64),
}

impl ResponseBody {
    /// Sends a stream that yields exactly `length_bytes`.
    pub fn stream(stream: ByteStream, length_bytes: u64) -> Self {
        Self { content: Content::Stream(stream, length_bytes), busy: None }
    }

    /// Keeps the request marked as in progress until the body is sent or dropped.
    pub fn hold(&mut self, busy: Busy) {
        self.busy = Some(busy);
    }
}

impl<T: Into<Bytes>> From<T> for ResponseBody {
    fn from(bytes: T) -> Self {
        let bytes = bytes.into();
        let content = if bytes.is_empty() { Content::Empty } else { Content::Full(bytes) };
        Self { content, busy: None }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.content {
            Content::Empty => Poll::Ready(None),
            Content::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.content = Content::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Content::Stream(stream, left) => match ready!(stream.poll_next_unpin(cx)) {
                None => Poll::Ready(None),
                Some(Err(error)) => {
                    tracing::error!(%error, "reading a share failed in the middle of a response");
                    Poll::Ready(Some(Err(error)))
                }
                Some(Ok(bytes)) => {
                    *left = left.saturating_sub(bytes.len() as u64);
                    Poll::Ready(Some(Ok(Frame::data(bytes))))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Content::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match &self.content {
            Content::Empty => 0,
            Content::Full(bytes) => bytes.len() as u64,
            Content::Stream(_, left) => *left,
        })
    }
}

/// How slowly a body may arrive.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// The longest silence.
    pub stall: Duration,
    /// The slowest average, in bytes a second, once some seconds have passed.
    pub bytes_per_second_min: u64,
}

struct Arriving {
    incoming: Incoming,
    limits: BodyLimits,
    since: Option<Instant>,
    received: u64,
    timer: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

/// A request body. Clones read the same body: whoever handles a request streams it, what is left is drained at the end.
#[derive(Clone)]
pub struct RequestBody(Arc<Mutex<Arriving>>);

impl RequestBody {
    /// Wraps what HTTP delivers.
    pub fn new(incoming: Incoming, limits: BodyLimits) -> Self {
        let ended = incoming.is_end_stream();
        let arriving = Arriving { incoming, limits, since: None, received: 0, timer: None, ended };
        Self(Arc::new(Mutex::new(arriving)))
    }

    fn lock(&self) -> MutexGuard<'_, Arriving> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The length that the head announces, if it does.
    pub fn announced_bytes(&self) -> Option<u64> {
        self.lock().incoming.size_hint().exact()
    }

    /// The bytes as they arrive.
    pub fn stream(&self) -> ByteStream {
        self.clone().boxed()
    }

    /// Reads what is left of a body that nobody wants, within reason.
    pub async fn drain(&self) {
        let mut body = self.clone();
        while let Some(Ok(_)) = body.next().await {
            if self.lock().received > DRAIN_BYTES_MAX {
                return;
            }
        }
    }
}

impl Stream for RequestBody {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut body = self.lock();
        let body = &mut *body;
        if body.ended {
            return Poll::Ready(None);
        }
        let since = *body.since.get_or_insert_with(Instant::now);
        loop {
            match Pin::new(&mut body.incoming).poll_frame(cx) {
                Poll::Ready(None) => {
                    body.ended = true;
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(error))) => {
                    body.ended = true;
                    return Poll::Ready(Some(Err(io::Error::other(error))));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    body.timer = None;
                    // Trailers carry nothing that the protocol knows.
                    let Ok(bytes) = frame.into_data() else { continue };
                    body.received += bytes.len() as u64;
                    let seconds = since.elapsed();
                    let needed = body.limits.bytes_per_second_min * seconds.as_secs();
                    if seconds > RATE_GRACE && body.received < needed {
                        body.ended = true;
                        return Poll::Ready(Some(Err(too_slow())));
                    }
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Poll::Pending => {
                    let stall = body.limits.stall;
                    let timer = body.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
                    ready!(std::future::Future::poll(timer.as_mut(), cx));
                    body.ended = true;
                    return Poll::Ready(Some(Err(too_slow())));
                }
            }
        }
    }
}

fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the body arrives too slowly")
}
