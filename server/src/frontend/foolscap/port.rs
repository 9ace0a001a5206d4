//! Connections of Foolscap on the port that both protocols share: clear text, TLS, then the wire.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use leasehold_core::accountant::Accountant;
use leasehold_core::backend::Backend;
use leasehold_core::clock::Entropy;
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::store::Store;
use leasehold_foolscap::{Incarnation, Limits, PeerCertificate, Tub, TubId, TubOptions};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::bucket_writer::keep_interval;
use super::interfaces::{BUCKET_READER, BUCKET_WRITER, STORAGE_SERVER};
use super::{Entrance, Front};
use crate::client_certificate::weak_key;
use crate::identity::Identity;
use crate::listener::drain::Drain;
use crate::listener::{ClearText, Deadlines, PeekedStream};
use crate::metrics::Metrics;

/// What large calls and answers of all connections may hold in memory at the same time.
const MEMORY_BYTES_MAX: u64 = 512 << 20;
/// What is encrypted at once: the answer to a read of a usual segment goes out with one system call.
const OUTGOING_BYTES: usize = 64 << 10;

/// The Foolscap side of a port. Cloning is cheap.
pub struct FoolscapPort<L, B> {
    front: Arc<Front<L, B>>,
    tub: Arc<Tub>,
    tls: TlsAcceptor,
    deadlines: Deadlines,
}

impl<L, B> Clone for FoolscapPort<L, B> {
    fn clone(&self) -> Self {
        let (front, tub, tls) = (self.front.clone(), self.tub.clone(), self.tls.clone());
        Self { front, tub, tls, deadlines: self.deadlines }
    }
}

/// What a port needs to know besides the store.
pub struct PortOptions<'a> {
    /// Who the server is.
    pub identity: &'a Identity,
    /// `HOST:PORT` that clients are told.
    pub advertise: &'a str,
    /// How long setting up a connection may take.
    pub deadlines: Deadlines,
    /// How long an upload may rest, in seconds.
    pub upload_idle_seconds: i64,
    /// How old a connection becomes before it is closed when it rests; `None`: for ever.
    pub connection_age: Option<Duration>,
}

impl<L: LeaseDb, B: Backend> FoolscapPort<L, B> {
    /// Puts the front end together, as a run of the Tub of its own: pods share everything but this.
    ///
    /// # Errors
    /// The identity cannot be used.
    pub fn new(
        store: Arc<Store<L, B>>,
        accountant: Arc<Accountant<L>>,
        options: &PortOptions<'_>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        for method in [&STORAGE_SERVER, &BUCKET_WRITER, &BUCKET_READER].into_iter().flat_map(|known| known.methods) {
            metrics.expect_call(method.name);
        }
        let entropy = Entropy::from_os();
        let tub = Tub::new(TubOptions {
            tub_id: options.identity.public.tub_id.parse().map_err(|_| anyhow::anyhow!("the tub id is none"))?,
            incarnation: Incarnation::from_bytes(entropy.bytes()),
            location: Some(format!("tcp:{}", options.advertise)),
            limits: Limits::default(),
            memory_bytes_max: MEMORY_BYTES_MAX,
        });
        let tls = TlsAcceptor::from(Arc::new(options.identity.foolscap_tls_config()?));
        let keep_interval = keep_interval(options.upload_idle_seconds);
        let tasks = TaskTracker::new();
        let connection_age = options.connection_age;
        let front = Arc::new(Front { store, accountant, metrics, entropy, keep_interval, connection_age, tasks });
        Ok(Self { front, tub, tls, deadlines: options.deadlines })
    }

    /// Lets connections go when the server comes to its end: first those that rest, at the very end all.
    pub async fn follow(&self, drain: Drain) {
        drain.closing().await;
        self.tub.drain();
        drain.stopped().await;
        self.tub.close();
    }

    /// Waits for the changes in progress, and the uploads of lost connections, to come to their end.
    pub async fn finish(&self) {
        self.tub.close();
        self.front.tasks.close();
        self.front.tasks.wait().await;
    }

    async fn serve_connection(&self, mut stream: PeekedStream, peer: SocketAddr) -> io::Result<()> {
        let set_up = async {
            self.tub.upgrade(&mut stream).await.map_err(io::Error::other)?;
            self.tls.accept_with(stream, |connection| connection.set_buffer_limit(Some(OUTGOING_BYTES))).await
        };
        let handshake = tokio::time::timeout(self.deadlines.header, set_up);
        let handshake = handshake.await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "slow set-up"))?;
        let stream = handshake.inspect_err(|error| {
            if let Some(weak) = weak_key(error) {
                tracing::warn!(%peer, "a client was refused: {weak}; it needs a new certificate");
            }
        })?;
        let presented = stream.get_ref().1.peer_certificates().and_then(|list| list.first());
        // Weak keys do not get through the handshake.
        let certificate =
            presented.map(|der| PeerCertificate { tub_id: TubId::of_certificate(der.as_ref()), is_strong: true });
        let names = Arc::new(Entrance { front: self.front.clone(), connection: Arc::default() });
        self.tub.serve(stream, certificate, names).await.map_err(io::Error::other)
    }
}

impl<L: LeaseDb, B: Backend> ClearText for FoolscapPort<L, B> {
    fn serve(&self, stream: PeekedStream, peer: SocketAddr) -> BoxFuture<'_, io::Result<()>> {
        self.serve_connection(stream, peer).boxed()
    }
}
