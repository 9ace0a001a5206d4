//! An HTTP proxy with faults in front of MinIO.
//!
//! Clients sign for the proxy's address; it passes the head on unchanged, and MinIO checks the signature against the
//! address that it finds there. Only plain HTTP: a proxy cannot look into TLS.

mod call;
mod exchange;
mod listing;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::io::BufReader;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Result, ensure};

pub use self::call::{Call, Operation};
use self::exchange::{Exchange, Then};
use self::listing::Snapshot;
use self::rules::Rules;
pub use self::rules::{Fault, Rule, When};
use crate::http1::Head;
use crate::minio::Minio;
use crate::relay::{Entrance, reset_when_dropped, spawn};
use crate::sigv4::Credentials;

/// How soon a call that is held back notices that the proxy is taken down.
const TICK: Duration = Duration::from_millis(20);

/// What has gone through a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Counts {
    /// Connections that were accepted.
    pub connections: u64,
    /// Calls by operation.
    pub calls: BTreeMap<Operation, u64>,
    /// Bytes of requests' bodies that went to the server, with what frames them.
    pub request_bytes: u64,
    /// Bytes of content that came from the server.
    pub response_bytes: u64,
    /// Faults that rules have chosen.
    pub faults: u64,
}

impl S3Counts {
    /// How often an operation was called.
    pub fn of(&self, operation: Operation) -> u64 {
        self.calls.get(&operation).copied().unwrap_or_default()
    }
}

struct State {
    target: SocketAddr,
    rules: Rules,
    counts: S3Counts,
    snapshots: HashMap<String, Snapshot>,
    clients: Vec<Weak<TcpStream>>,
}

struct Shared {
    state: Mutex<State>,
    credentials: Credentials,
    is_closed: AtomicBool,
}

/// A proxy in front of one MinIO.
pub struct S3Proxy {
    entrance: Entrance,
    shared: Arc<Shared>,
}

impl S3Proxy {
    /// Listens on a loopback port of its own and passes calls on to `minio`, without faults.
    pub fn start(minio: &Minio) -> Result<Self> {
        ensure!(minio.authority_file().is_none(), "the S3 proxy cannot look into TLS");
        Self::start_at(minio.address(), minio.credentials().clone())
    }

    /// As [`S3Proxy::start`], but passes calls on to `target`, behind which a server with these credentials is: that of
    /// another proxy, which cuts and stalls whole connections.
    pub fn start_at(target: SocketAddr, credentials: Credentials) -> Result<Self> {
        let state = State {
            target,
            rules: Rules::default(),
            counts: S3Counts::default(),
            snapshots: HashMap::new(),
            clients: Vec::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), credentials, is_closed: AtomicBool::new(false) });
        let accepting = Arc::clone(&shared);
        let entrance = Entrance::open("S3 proxy", move |client| accepting.accept(client))?;
        Ok(Self { entrance, shared })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.entrance.address()
    }

    /// The URL for clients.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Adds a rule. Where several rules apply to a call, the one that was added first decides.
    pub fn add_rule(&self, rule: Rule) {
        self.shared.state().rules.add(rule);
    }

    /// Removes all rules; calls that are under way keep their faults.
    pub fn clear_rules(&self) {
        self.shared.state().rules.clear();
    }

    /// Notes what the bucket holds now, for [`Fault::StaleListing`].
    pub fn snapshot_listing(&self, minio: &Minio, bucket: &str) -> Result<()> {
        let snapshot = Snapshot::take(minio, bucket)?;
        self.shared.state().snapshots.insert(bucket.to_owned(), snapshot);
        Ok(())
    }

    /// Ends all connections of clients, whatever is under way.
    pub fn cut_all(&self) {
        for client in std::mem::take(&mut self.shared.state().clients) {
            if let Some(client) = client.upgrade() {
                reset_when_dropped(&client);
                // Fails only if the client was faster.
                let _ = client.shutdown(Shutdown::Both);
            }
        }
    }

    /// What has gone through so far.
    pub fn counts(&self) -> S3Counts {
        self.shared.state().counts.clone()
    }
}

impl Drop for S3Proxy {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::SeqCst);
        self.cut_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    fn target(&self) -> SocketAddr {
        self.state().target
    }

    fn past_listing(&self, call: &Call) -> Option<String> {
        self.state().snapshots.get(&call.bucket)?.answer(call)
    }

    fn note_bytes(&self, request: usize, response: usize) {
        let counts = &mut self.state().counts;
        counts.request_bytes += request as u64;
        counts.response_bytes += response as u64;
    }

    fn accept(self: &Arc<Self>, client: TcpStream) {
        let client = Arc::new(client);
        let shared = Arc::clone(self);
        {
            let mut state = self.state();
            state.counts.connections += 1;
            state.clients.retain(|client| client.strong_count() > 0);
            state.clients.push(Arc::downgrade(&client));
        }
        // Without a thread the client's connection ends.
        let _ = spawn("S3 proxy", move || {
            if !shared.is_closed() && shared.serve(&client).is_err() {
                reset_when_dropped(&client);
            }
        });
    }

    /// Serves one client until its connection ends. An error means that it is to be reset.
    fn serve(&self, client: &TcpStream) -> std::io::Result<()> {
        client.set_nodelay(true)?;
        let mut reader = BufReader::new(client);
        while let Some(head) = Head::read(&mut reader)? {
            let call = Call::of(&head);
            let fault = {
                let mut state = self.state();
                *state.counts.calls.entry(call.operation).or_default() += 1;
                let fault = state.rules.choose(&call);
                state.counts.faults += u64::from(fault.is_some());
                fault
            };
            let exchange = Exchange { shared: self, client, head, call };
            if exchange.run(&mut reader, fault)? == Then::End {
                return Ok(());
            }
        }
        Ok(())
    }
}
