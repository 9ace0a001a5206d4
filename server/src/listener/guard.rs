//! Deadlines on a connection, by what it is doing: resting, receiving a request head, or amid a request.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::Deadlines;
use crate::metrics::{Connections, Traffic};

/// How many requests of a connection have begun and not ended. Shared with the HTTP service; counts the connection as long
/// as it lives.
#[derive(Clone, Debug)]
pub(super) struct Phase(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    requests: AtomicUsize,
    /// Counts it among those without a request.
    resting: Gauge,
    /// Counts it among those with one.
    active: Gauge,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.resting.dec();
    }
}

/// A request in progress; ends when dropped, with the last byte of its response.
#[derive(Debug)]
pub struct Busy(Phase);

impl Phase {
    /// That of a connection whose requests have a beginning and an end.
    pub(super) fn resting(connections: &Connections) -> Self {
        Self::new(0, &connections.idle, connections)
    }

    /// That of a protocol in which either side may rest or send whenever it likes.
    pub(super) fn always_busy(connections: &Connections) -> Self {
        Self::new(1, &connections.foolscap, connections)
    }

    fn new(requests: usize, resting: &Gauge, connections: &Connections) -> Self {
        resting.inc();
        let (resting, active) = (resting.clone(), connections.active.clone());
        Self(Arc::new(Connection { requests: AtomicUsize::new(requests), resting, active }))
    }

    pub(super) fn begin_request(&self) -> Busy {
        if self.0.requests.fetch_add(1, Ordering::Relaxed) == 0 {
            self.0.resting.dec();
            self.0.active.inc();
        }
        Busy(self.clone())
    }

    fn is_busy(&self) -> bool {
        self.0.requests.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let connection = &self.0.0;
        if connection.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            connection.active.dec();
            connection.resting.inc();
        }
    }
}

/// A stream that fails when its peer is silent or slow for too long.
pub struct GuardedStream<S> {
    stream: S,
    deadlines: Deadlines,
    phase: Phase,
    traffic: Traffic,
    /// When the head that is arriving began.
    head_since: Option<Instant>,
    /// Whether a request was in progress when reading last had to wait.
    was_busy: bool,
    read_timer: Timer,
    write_timer: Timer,
}

/// A timer that costs nothing while the stream does not wait.
#[derive(Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl Timer {
    fn disarm(&mut self) {
        self.armed = false;
    }

    fn poll(&mut self, cx: &mut Context<'_>, deadline: impl FnOnce() -> Instant) -> Poll<io::Error> {
        if !self.armed {
            let deadline = deadline();
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(deadline),
                None => self.sleep = Some(Box::pin(tokio::time::sleep_until(deadline))),
            }
            self.armed = true;
        }
        let sleep = self.sleep.as_mut().expect("just armed");
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the peer was silent for too long"))
    }
}

impl<S> GuardedStream<S> {
    pub(super) fn new(stream: S, deadlines: Deadlines, phase: Phase, traffic: Traffic) -> Self {
        let (read_timer, write_timer) = Default::default();
        Self { stream, deadlines, phase, traffic, head_since: None, was_busy: false, read_timer, write_timer }
    }

    fn read_deadline(&self) -> Instant {
        let now = Instant::now();
        match self.head_since {
            // While a response is being prepared the peer has no reason to send anything: that may take its time.
            _ if self.phase.is_busy() => now + self.deadlines.idle.max(self.deadlines.stall),
            Some(since) => since + self.deadlines.header,
            None => now + self.deadlines.idle,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GuardedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.stream).poll_read(cx, buf) {
            this.read_timer.disarm();
            this.traffic.received_bytes.inc_by((buf.filled().len() - before) as u64);
            if this.phase.is_busy() {
                this.head_since = None;
            } else if buf.filled().len() > before {
                this.head_since.get_or_insert_with(Instant::now);
            }
            return Poll::Ready(result);
        }
        // Rest is counted from the end of the last response, a head from its own first byte.
        let busy = this.phase.is_busy();
        if busy {
            this.head_since = None;
        }
        if std::mem::replace(&mut this.was_busy, busy) != busy {
            this.read_timer.disarm();
        }
        let deadline = this.read_deadline();
        let silence = ready!(this.read_timer.poll(cx, || deadline));
        if !busy && this.head_since.is_some() {
            this.traffic.slow_heads.inc();
        }
        Poll::Ready(Err(silence))
    }
}

impl<S: AsyncWrite + Unpin> GuardedStream<S> {
    fn sent(&self, polled: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = polled {
            self.traffic.sent_bytes.inc_by(*bytes as u64);
        }
    }

    fn guard<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.write_timer.disarm();
            return polled;
        }
        let stall: Duration = self.deadlines.stall;
        self.write_timer.poll(cx, || Instant::now() + stall).map(Err)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GuardedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.sent(&polled);
        self.guard(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.sent(&polled);
        self.guard(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.guard(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.guard(cx, polled)
    }
}
