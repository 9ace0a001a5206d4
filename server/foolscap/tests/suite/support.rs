//! A pair of endpoints over a stream in memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use leasehold_foolscap::{
    Connection, ConnectionError, Failure, Incarnation, Limits, Names, PeerCertificate, Referenceable, Tub, TubId,
    TubOptions,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use crate::node::Node;

pub const SERVER: &str = "icxmug7l5ore6tbmnsftvssyep4fizhb";
/// Below and above the server's, so that each is master once.
pub const LOW: &str = "43ean5k2lzjlkejv3gdbht2lkwn35har";
pub const HIGH: &str = "pdmxrrcsejiffkavtiiapg5m65obthnm";
pub const NAME: &str = "storageswissnumstorageswissnum22";
pub const LOCATION: &str = "tcp:storage.example.net:34399";

/// Longer than anything takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn tub_id(text: &str) -> TubId {
    text.parse().unwrap()
}

pub fn tub(id: &str, incarnation: &str, limits: Limits) -> Arc<Tub> {
    Tub::new(TubOptions {
        tub_id: tub_id(id),
        incarnation: incarnation.parse::<Incarnation>().unwrap(),
        location: Some(LOCATION.to_owned()),
        limits,
        memory_bytes_max: 256 << 20,
    })
}

pub fn certificate(id: &str) -> PeerCertificate {
    PeerCertificate { tub_id: tub_id(id), is_strong: true }
}

/// One object under one name.
pub struct OneName(pub Arc<dyn Referenceable>);

impl Names for OneName {
    fn find(&self, name: Bytes, _: &Connection) -> BoxFuture<'static, Result<Option<Arc<dyn Referenceable>>, Failure>> {
        let object = (name == NAME.as_bytes()).then(|| self.0.clone());
        std::future::ready(Ok(object)).boxed()
    }
}

/// Serves one end of a stream in memory, the other end comes back.
pub fn serve(
    tub: &Arc<Tub>,
    client: Option<PeerCertificate>,
    names: Arc<dyn Names>,
    buffer_bytes: usize,
) -> (DuplexStream, JoinHandle<Result<(), ConnectionError>>) {
    let (ours, theirs) = tokio::io::duplex(buffer_bytes);
    let tub = tub.clone();
    (theirs, tokio::spawn(async move { tub.serve(ours, client, names).await }))
}

/// A client that says what it is told to, byte by byte.
pub struct Raw {
    pub stream: DuplexStream,
    pub input: BytesMut,
}

impl Raw {
    pub fn new(stream: DuplexStream) -> Self {
        Self { stream, input: BytesMut::new() }
    }

    /// Sends; a server that has closed already does not matter.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next block of lines, without its end.
    pub async fn block(&mut self) -> String {
        self.next(|input| leasehold_foolscap::negotiation::take_block(input).unwrap()).await.expect("a block")
    }

    /// The next top level item; `None` at the end.
    pub async fn item(&mut self) -> Option<Node> {
        self.next(Node::take).await
    }

    /// Reads until the server has closed.
    pub async fn end(&mut self) {
        while self.item().await.is_some() {}
        assert!(self.input.is_empty(), "the server ends with whole items");
    }

    async fn next<T>(&mut self, mut take: impl FnMut(&mut BytesMut) -> Option<T>) -> Option<T> {
        loop {
            if let Some(item) = take(&mut self.input) {
                return Some(item);
            }
            let reading = self.stream.read_buf(&mut self.input);
            if tokio::time::timeout(PATIENCE, reading).await.expect("the server says something").unwrap() == 0 {
                return None;
            }
        }
    }

    /// Says hello as a client and takes part in the decision.
    pub async fn negotiate(&mut self, id: &str, incarnation: &str, last_connection: &str) {
        let hello = format!(
            "banana-negotiation-range: 3 3\r\ninitial-vocab-table-range: 0 1\r\nlast-connection: {last_connection}\r\n\
             my-incarnation: {incarnation}\r\nmy-tub-id: {id}\r\n\r\n"
        );
        self.send(hello.as_bytes()).await;
        assert!(self.block().await.contains(SERVER));
        if id > SERVER {
            self.send(DECISION.as_bytes()).await;
        } else {
            let decision = self.block().await;
            assert!(decision.contains("banana-decision-version: 3"), "{decision}");
        }
    }
}

/// What a client that is master decides.
pub const DECISION: &str = "banana-decision-version: 3\r\ncurrent-connection: c1c1c1c1c1c1c1c1 1\r\n\
                            initial-vocab-table-index: 1 bb33\r\n\r\n";

/// Waits until something is so.
pub async fn until(mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it comes to be so");
}

/// Words that are noted in the order in which they are said.
#[derive(Clone, Default)]
pub struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    pub fn say(&self, word: impl Into<String>) {
        self.0.lock().unwrap().push(word.into());
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}
