//! An endpoint: who it is, and which connections it has.
//!
//! Source: `foolscap.md` 3, 4, 10 and 18.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::call::Names;
use crate::connection::{Connection, ConnectionError, Ends, Peer, Setting, Surroundings};
use crate::furl::{Incarnation, TubId};
use crate::limits::Limits;
use crate::memory::Budget;
use crate::negotiation::{
    self, Agreement, BlockError, Decision, Hello, LastConnection, Refusal, Standing, judge_hello, judge_request,
};
use crate::slicer::Slicer;
use crate::vocabulary::Vocabulary;

/// What an endpoint is made of.
#[derive(Clone, Debug)]
pub struct TubOptions {
    /// The tub id of its certificate.
    pub tub_id: TubId,
    /// Random for each process: two of the same would be taken for one.
    pub incarnation: Incarnation,
    /// Where it can be reached, such as `tcp:host:port`, to be told with its named objects.
    pub location: Option<String>,
    /// Limits of each connection.
    pub limits: Limits,
    /// Memory that the large calls of all connections share.
    pub memory_bytes_max: u64,
}

/// What TLS has proven of the other side.
#[derive(Clone, Debug)]
pub struct PeerCertificate {
    /// The tub id of its certificate.
    pub tub_id: TubId,
    /// Whether its key is large enough (RSA of 2048 bits, say): only then it may replace its earlier connections.
    pub is_strong: bool,
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum NegotiationError {
    /// The network.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// What came is not understood.
    #[error("the negotiation is not understood")]
    Block(#[from] BlockError),
    /// We refused.
    #[error("the peer was refused: {0}")]
    Refused(Refusal),
    /// The other side refused.
    #[error("the peer refuses: {0}")]
    RefusedByPeer(Refusal),
    /// It took too long.
    #[error("the negotiation took too long")]
    TimedOut,
}

/// An endpoint.
#[derive(Debug)]
pub struct Tub {
    options: TubOptions,
    memory: Budget,
    last_number: AtomicU64,
    /// The one connection of each client with a strong key.
    connections: Mutex<HashMap<TubId, Connection>>,
    draining: CancellationToken,
    closing: CancellationToken,
}

/// Takes a client's connection off the list when it has ended, unless another has replaced it.
struct Registration {
    tub: Arc<Tub>,
    connection: Connection,
}

/// What a negotiation leads to.
struct Negotiated {
    connection: Connection,
    ends: Ends,
    vocabulary: Vocabulary,
    input: BytesMut,
    registration: Option<Registration>,
}

/// Which side began.
#[derive(Clone, PartialEq, Eq)]
enum Side {
    Server,
    Client(LastConnection),
}

impl Tub {
    /// Makes an endpoint without connections.
    pub fn new(options: TubOptions) -> Arc<Self> {
        Arc::new(Self {
            memory: Budget::new(options.memory_bytes_max),
            options,
            last_number: AtomicU64::new(0),
            connections: Mutex::default(),
            draining: CancellationToken::new(),
            closing: CancellationToken::new(),
        })
    }

    /// Who it is.
    pub fn tub_id(&self) -> &TubId {
        &self.options.tub_id
    }

    /// Answers the request in clear text with which a connection begins. Then the caller does TLS on the same stream.
    ///
    /// # Errors
    /// The request is refused, which the client has been told, or the network fails.
    pub async fn upgrade(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<(), NegotiationError> {
        let upgrading = async {
            let mut input = BytesMut::new();
            let judged = match read_block(stream, &mut input).await {
                // The client waits for our answer: what stands behind its request is not from it.
                Ok(block) if input.is_empty() && !self.draining.is_cancelled() => {
                    judge_request(&block, &self.options.tub_id)
                }
                Ok(_) | Err(NegotiationError::Block(_)) => Err(Refusal::internal()),
                Err(error) => return Err(error),
            };
            let Err(refusal) = judged else {
                stream.write_all(negotiation::UPGRADE.as_bytes()).await?;
                return Ok(stream.flush().await?);
            };
            stream.write_all(refusal.to_plaintext().as_bytes()).await?;
            stream.shutdown().await?;
            Err(NegotiationError::Refused(refusal))
        };
        within(self.options.limits.negotiation_time_max, upgrading).await
    }

    /// Serves a connection inside TLS until it ends.
    ///
    /// # Errors
    /// How it ended, if the client did not just close it.
    pub async fn serve<S>(
        self: &Arc<Self>,
        mut stream: S,
        certificate: Option<PeerCertificate>,
        names: Arc<dyn Names>,
    ) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let negotiating = self.negotiate(&mut stream, certificate, Side::Server);
        let negotiated = within(self.options.limits.negotiation_time_max, negotiating).await?;
        self.run(stream, negotiated, names).await
    }

    /// Begins a connection as a client, inside TLS that has proven the server's tub id. Its task is spawned; it ends when
    /// either side closes it.
    ///
    /// # Errors
    /// It does not come about.
    pub async fn connect<S>(
        self: &Arc<Self>,
        mut stream: S,
        server: TubId,
        last_connection: LastConnection,
    ) -> Result<Connection, NegotiationError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let certificate = PeerCertificate { tub_id: server, is_strong: true };
        let negotiating = self.negotiate(&mut stream, Some(certificate), Side::Client(last_connection));
        let negotiated = within(self.options.limits.negotiation_time_max, negotiating).await?;
        let (tub, connection) = (self.clone(), negotiated.connection.clone());
        tokio::spawn(async move {
            if let Err(error) = tub.run(stream, negotiated, Arc::new(crate::client::NoNames)).await {
                tracing::debug!(%error, "a connection to a server ended");
            }
        });
        Ok(connection)
    }

    /// Begins to end: new connections are refused, and each one closes as soon as it is idle.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Closes all connections.
    pub fn close(&self) {
        self.draining.cancel();
        self.closing.cancel();
    }

    async fn run<S>(
        self: &Arc<Self>,
        stream: S,
        negotiated: Negotiated,
        names: Arc<dyn Names>,
    ) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let Negotiated { connection, ends, vocabulary, input, registration } = negotiated;
        let (memory, draining) = (self.memory.clone(), self.draining.clone());
        let surroundings = Surroundings { vocabulary, input, names, memory, draining };
        let mut running = std::pin::pin!(connection.clone().run(stream, ends, surroundings));
        let result = tokio::select! {
            result = &mut running => result,
            () = self.closing.cancelled() => {
                connection.close();
                running.await
            }
        };
        drop(registration);
        result
    }

    async fn negotiate(
        self: &Arc<Self>,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        certificate: Option<PeerCertificate>,
        side: Side,
    ) -> Result<Negotiated, NegotiationError> {
        let last_connection = match &side {
            Side::Server => None,
            Side::Client(last) => Some(last.clone()),
        };
        let ours = Hello::ours(&self.options.tub_id, &self.options.incarnation, last_connection);
        stream.write_all(ours.to_block().as_bytes()).await?;
        stream.flush().await?;
        let mut input = BytesMut::new();
        let judged = match read_block(stream, &mut input).await.and_then(|block| Ok(Hello::parse(&block)?)) {
            Ok(hello) => {
                let proven = certificate.as_ref().map(|certificate| &certificate.tub_id);
                judge_hello(&hello, proven, &self.options.tub_id).map(|agreement| (hello, agreement))
            }
            Err(NegotiationError::Block(_)) => Err(Some(Refusal::internal())),
            Err(error) => return Err(error),
        };
        let is_strong = certificate.is_some_and(|certificate| certificate.is_strong);
        let agreed = match judged {
            Ok((hello, agreement)) if agreement.is_master => self
                .register(&agreement, hello, is_strong, &side)
                .map(|(connection, ends, registration)| (agreement, connection, ends, registration)),
            Ok((hello, agreement)) => return self.follow(stream, input, agreement, hello, is_strong, &side).await,
            Err(Some(refusal)) => Err(refusal),
            Err(None) => return Err(NegotiationError::RefusedByPeer(Refusal::internal())),
        };
        let (agreement, connection, ends, registration) = match agreed {
            Ok(agreed) => agreed,
            Err(refusal) => {
                stream.write_all(refusal.to_block().as_bytes()).await?;
                stream.shutdown().await?;
                return Err(NegotiationError::Refused(refusal));
            }
        };
        let decision = Decision {
            connection: (self.options.incarnation.as_str().to_owned(), connection.peer().number),
            vocabulary: agreement.vocabulary,
        };
        stream.write_all(decision.to_block().as_bytes()).await?;
        stream.flush().await?;
        Ok(Negotiated { connection, ends, vocabulary: agreement.vocabulary, input, registration })
    }

    /// Waits for the other side's decision.
    async fn follow(
        self: &Arc<Self>,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        mut input: BytesMut,
        agreement: Agreement,
        hello: Hello,
        is_strong: bool,
        side: &Side,
    ) -> Result<Negotiated, NegotiationError> {
        let block = read_block(stream, &mut input).await?;
        let followed = Decision::parse(&block).map_err(NegotiationError::RefusedByPeer).and_then(|decision| {
            let registered = self.register(&agreement, hello, is_strong, side).map_err(NegotiationError::Refused)?;
            Ok((decision.vocabulary, registered))
        });
        if let Err(error) = &followed {
            // The other side speaks banana already.
            let mut slicer = Slicer::new(Vocabulary::Empty);
            slicer.last_words(&error.to_string());
            for piece in slicer.take() {
                stream.write_all(&piece).await?;
            }
            stream.shutdown().await?;
        }
        let (vocabulary, (connection, ends, registration)) = followed?;
        Ok(Negotiated { connection, ends, vocabulary, input, registration })
    }

    /// Makes the connection, in the place of the client's earlier one.
    ///
    /// # Errors
    /// The earlier one survives.
    fn register(
        self: &Arc<Self>,
        agreement: &Agreement,
        hello: Hello,
        is_strong: bool,
        side: &Side,
    ) -> Result<(Connection, Ends, Option<Registration>), Refusal> {
        if self.draining.is_cancelled() {
            return Err(Refusal::internal());
        }
        let is_unique = is_strong && *side == Side::Server;
        let mut connections = self.lock();
        let earlier = connections.get(&agreement.peer).filter(|_| is_unique);
        if let Some(earlier) = earlier
            && agreement.is_master
            && !earlier.lost().is_cancelled()
        {
            let standing = Standing {
                incarnation: earlier.peer().incarnation.clone(),
                number: earlier.peer().number,
                has_called: earlier.has_called(),
                silent_for: earlier.silent_for(),
            };
            let options = &self.options;
            if !negotiation::replaces(&hello, &standing, &options.incarnation, options.limits.replaced_after) {
                return Err(Refusal::duplicate());
            }
        }
        if let Some(earlier) = earlier {
            earlier.close();
        }
        let number = self.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        let (connection, ends) = Connection::new(Setting {
            peer: Peer { tub_id: agreement.peer.clone(), incarnation: hello.incarnation, number, is_strong },
            limits: self.options.limits,
            address: self.options.location.clone().map(|location| (self.options.tub_id.clone(), location)),
            is_trusted: *side != Side::Server,
        });
        let registration = is_unique.then(|| {
            connections.insert(agreement.peer.clone(), connection.clone());
            Registration { tub: self.clone(), connection: connection.clone() }
        });
        Ok((connection, ends, registration))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TubId, Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let peer = self.connection.peer();
        let mut connections = self.tub.lock();
        if connections.get(&peer.tub_id).is_some_and(|current| current.peer().number == peer.number) {
            connections.remove(&peer.tub_id);
        }
    }
}

/// Reads a block; what came behind it stays in `input`.
pub(crate) async fn read_block(
    stream: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
) -> Result<String, NegotiationError> {
    loop {
        if let Some(block) = negotiation::take_block(input)? {
            return Ok(block);
        }
        if stream.read_buf(input).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

pub(crate) async fn within<T>(
    time: std::time::Duration,
    work: impl Future<Output = Result<T, NegotiationError>>,
) -> Result<T, NegotiationError> {
    tokio::time::timeout(time, work).await.unwrap_or(Err(NegotiationError::TimedOut))
}
