//! Connections: accepted up to a limit; TLS, then HTTP/1.1 with deadlines; or what begins in clear text.
//!
//! Clients send neither a server name nor ALPN, and keep idle connections for 240 s (`gbs.md` 2, 3), so there is one
//! certificate, and a patient idle timeout. Which protocol they speak is told by their first bytes.

pub mod drain;
pub mod guard;
pub mod peek;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::frontend::body::ResponseBody;
use crate::metrics::{Metrics, Rejection};
use drain::Drain;
use guard::{GuardedStream, Phase};
use peek::{Beginning, Peeked};

/// Connections beyond the limit that are still told so with a 503 instead of being dropped.
const REFUSALS_MAX: usize = 64;
/// Large enough for a few TLS records, small enough for hundreds of connections.
pub(crate) const BUFFER_BYTES: usize = 32 << 10;
/// A draining port ends when it has had no connection for this long.
const QUIET: Duration = Duration::from_secs(2);

/// How long a connection may take for what.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// A TLS handshake, or a request head from its first byte on.
    pub header: Duration,
    /// Rest between requests.
    pub idle: Duration,
    /// Silence in the middle of a request or response.
    pub stall: Duration,
}

/// Answers requests; one for each port.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    fn handle(&self, request: Request<Incoming>) -> impl Future<Output = Response<ResponseBody>> + Send;

    /// The answer to a connection that is one too many.
    fn refuse(&self) -> Response<ResponseBody>;
}

/// A connection that begins in clear text, with the deadlines of a silent or slow peer.
pub type PeekedStream = GuardedStream<BufReader<Peeked<TcpStream>>>;

/// Serves connections that begin in clear text, and have a protocol of their own.
pub trait ClearText: Send + Sync + 'static {
    /// Serves one connection to its end.
    fn serve(&self, stream: PeekedStream, peer: SocketAddr) -> BoxFuture<'_, io::Result<()>>;
}

/// Serves a port until told to stop.
pub struct Listener<H> {
    /// Answers the requests.
    pub handler: Arc<H>,
    /// Makes TLS of TCP; `None` for the admin port.
    pub tls: Option<TlsAcceptor>,
    /// The other protocol of the port, if it has one.
    pub clear_text: Option<Arc<dyn ClearText>>,
    /// Deadlines of each connection.
    pub deadlines: Deadlines,
    /// How many connections are served at once.
    pub connections_max: usize,
    /// Counts connections.
    pub metrics: Arc<Metrics>,
}

impl<H: Handler> Listener<H> {
    /// Accepts connections until nobody has come for a while since `drain` began to close them, or until it is stopped;
    /// then lets requests in flight finish.
    pub async fn run(self, socket: TcpListener, drain: Drain) {
        let listener = Arc::new(self);
        let places = Arc::new(Semaphore::new(listener.connections_max));
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        let connections = TaskTracker::new();
        loop {
            // Whoever connects makes the quiet begin anew.
            let accepted = tokio::select! {
                biased;
                () = drain.stopped() => break,
                accepted = socket.accept() => accepted,
                () = quiet(&drain, &connections) => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, say: waiting lets others close theirs.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (place, full) = match places.clone().try_acquire_owned() {
                Ok(place) => (place, false),
                Err(_) => match refusals.clone().try_acquire_owned() {
                    Ok(place) => (place, true),
                    Err(_) => continue,
                },
            };
            let drain = drain.clone();
            let listener = listener.clone();
            connections.spawn(async move {
                listener.connection(stream, peer, full, drain).await;
                drop(place);
            });
        }
        connections.close();
        connections.wait().await;
    }

    async fn connection(&self, stream: TcpStream, peer: SocketAddr, full: bool, drain: Drain) {
        let phase = Phase::resting(&self.metrics.connections);
        if full {
            self.metrics.reject(Rejection::Overload);
        }
        let result = self.serve(stream, peer, full, drain, phase).await;
        if let Err(error) = result {
            tracing::debug!(%error, "a connection ended");
        }
    }

    async fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        full: bool,
        drain: Drain,
        phase: Phase,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return self.http(stream, full, drain, phase).await };
        let slow = |_| {
            self.metrics.reject(Rejection::SlowHeader);
            io::Error::new(io::ErrorKind::TimedOut, "slow TLS handshake")
        };
        let deadline = Instant::now() + self.deadlines.header;
        let (beginning, stream) = timeout_at(deadline, Peeked::peek(stream)).await.map_err(slow)??;
        // TLS reads 4 KiB at a time by itself.
        let stream = BufReader::with_capacity(BUFFER_BYTES, stream);
        if let (Beginning::ClearText, Some(clear_text)) = (beginning, &self.clear_text) {
            if full || drain.is_closing() {
                return Err(io::Error::other("turned away"));
            }
            drop(phase);
            let phase = Phase::always_busy(&self.metrics.connections);
            let stream = GuardedStream::new(stream, self.deadlines, phase, self.metrics.foolscap_traffic.clone());
            return clear_text.serve(stream, peer).await;
        }
        let accept = tls.accept_with(stream, |connection| connection.set_buffer_limit(Some(BUFFER_BYTES)));
        let stream = timeout_at(deadline, accept).await.map_err(slow)??;
        self.http(stream, full, drain, phase).await
    }

    async fn http<S>(&self, stream: S, full: bool, drain: Drain, phase: Phase) -> io::Result<()>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let traffic = self.metrics.http_traffic.clone();
        let stream = TokioIo::new(GuardedStream::new(stream, self.deadlines, phase.clone(), traffic));
        let (handler, closing) = (&self.handler, &drain);
        let service = service_fn(|request: Request<Incoming>| {
            let phase = phase.clone();
            async move {
                let busy = phase.begin_request();
                let mut response = if full { handler.refuse() } else { handler.handle(request).await };
                if closing.is_closing() {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                response.body_mut().hold(busy);
                Ok::<_, Infallible>(response)
            }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        // Not `pipeline_flush`: with it hyper writes nothing while more requests wait, and holds whole responses in memory.
        builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(BUFFER_BYTES);
        let connection = builder.serve_connection(stream, service);
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = drain.stopped() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        result.map_err(io::Error::other)
    }
}

/// Waits until answers ask clients to close, and no connection has been there for a while.
async fn quiet(drain: &Drain, connections: &TaskTracker) {
    drain.closing().await;
    // A closed tracker takes more tasks all the same; only an empty and closed one is done.
    connections.close();
    connections.wait().await;
    tokio::time::sleep(QUIET).await;
}
