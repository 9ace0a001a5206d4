//! The old storage protocol, RIStorageServer over Foolscap: `foolscap.md` 12 to 18.
//!
//! The wire is [`leasehold_foolscap`]; here its calls become calls on the store. A swissnum names an account, as in the
//! HTTPS protocol, and each object that a client gets belongs to the account that it was got from, not to the connection.
//! Calls that change something come to an orderly end when their client is gone, and the server waits for them.

mod bucket_reader;
mod bucket_writer;
mod error;
mod interfaces;
mod payload;
mod port;
mod storage_server;

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use leasehold_core::accountant::{Accountant, Session};
use leasehold_core::backend::Backend;
use leasehold_core::clock::Entropy;
use leasehold_core::id::ShareId;
use leasehold_core::leasedb::{LeaseDb, LeaseDbError};
use leasehold_core::observe::{Denial, Event, Observer};
use leasehold_core::secret::{SecretHash, Swissnum};
use leasehold_core::share::ShareKind;
use leasehold_core::store::{Space, Store, StoreError};
use leasehold_core::tub::TubConnection;
use leasehold_foolscap::{Connection, Failure, Names, Referenceable, Value, Violation};
use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;

use crate::metrics::Metrics;
use error::{failed, failure};
pub use port::{FoolscapPort, PortOptions};
use storage_server::StorageServer;

/// What all connections use.
struct Front<L, B> {
    store: Arc<Store<L, B>>,
    accountant: Arc<Accountant<L>>,
    metrics: Arc<Metrics>,
    entropy: Entropy,
    keep_interval: Duration,
    /// How old connections become at least where there are other processes to connect to.
    connection_age: Option<Duration>,
    tasks: TaskTracker,
}

impl<L: LeaseDb, B: Backend> Front<L, B> {
    /// Makes a connection known, and ends the uploads that the client's earlier ones left, on whichever pod: it will ask
    /// for their numbers.
    async fn enter(&self, connection: &Connection) -> Result<TubConnection, Failure> {
        self.retire_some_day(connection);
        let peer = connection.peer();
        let tub_id = peer.tub_id.as_str().parse().map_err(|_| failed("the tub id is none"))?;
        let incarnation = peer.incarnation.as_deref().unwrap_or_default();
        let entered = TubConnection::new(tub_id, incarnation, self.entropy.bytes());
        // A weak key proves nothing: it may not end what others began.
        if peer.is_strong {
            match self.store.end_abandoned(&entered).await {
                Ok(0) => {}
                Ok(ended) => tracing::info!(ended, "a client is back; uploads of its dead connection were ended"),
                Err(error) => {
                    tracing::warn!(%error, "uploads of a dead connection could not be ended; their deadline will");
                }
            }
        }
        Ok(entered)
    }

    /// Clients stay connected for weeks, to the processes that were there first. So that they spread over all of them again
    /// (`foolscap.md` 18.8), each connection ends once it is old and rests; ages differ, so that not all come back at once.
    fn retire_some_day(&self, connection: &Connection) {
        let Some(age) = self.connection_age else { return };
        let age = age + age * u32::from(self.entropy.bytes::<1>()[0]) / 256;
        let connection = connection.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = connection.lost().cancelled() => {}
                () = tokio::time::sleep(age) => connection.retire(),
            }
        });
    }

    /// Counts a call.
    async fn counted(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<Value, Failure>>,
    ) -> Result<Value, Failure> {
        let began = Instant::now();
        let result = call.await;
        self.metrics.observe_call(method, result.is_ok(), began.elapsed());
        tracing::debug!(method, ok = result.is_ok(), "call");
        result
    }

    /// Counts a call that changes something; the server does not end before it. Calls are tasks of their own, which come
    /// to their end whatever becomes of the connection.
    async fn changing(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<Value, Failure>>,
    ) -> Result<Value, Failure> {
        let _under_way = self.tasks.token();
        self.counted(method, call).await
    }
}

/// Whom an object belongs to.
struct Caller<L, B> {
    front: Arc<Front<L, B>>,
    credential: SecretHash,
}

impl<L, B> Clone for Caller<L, B> {
    fn clone(&self) -> Self {
        Self { front: self.front.clone(), credential: self.credential }
    }
}

impl<L: LeaseDb, B: Backend> Caller<L, B> {
    /// The account as it is now: it may have changed since the object was given out.
    async fn session(&self) -> Result<Arc<Session>, Failure> {
        opened(self.front.accountant.session(&self.credential).await)
    }

    /// What may be stored, as it is now: clients ask once for each connection. Who is connected stays so, and learns that
    /// nothing can be stored while the lease database is away (`api.md` 10.8).
    async fn space(&self) -> Result<Space, Failure> {
        let accountant = &self.front.accountant;
        let session = match accountant.session_of_now(&self.credential).await {
            Err(error) => accountant.remembered(&self.credential).map_or_else(|| opened(Err(error)), Ok),
            found => opened(found),
        };
        Ok(self.front.store.space(&*session?, accountant))
    }

    /// Keeps a report; one of a share that is not there is ignored.
    async fn advise(&self, kind: ShareKind, share: ShareId, reason: String) -> Result<Value, Failure> {
        let session = self.session().await?;
        match self.front.store.advise(&session, kind, share, reason).await {
            Ok(()) => tracing::warn!(%share, kind = kind.as_str(), "a client reports a corrupt share"),
            Err(StoreError::NotFound) => {}
            Err(error) => return Err(failure(error)),
        }
        Ok(Value::None)
    }
}

/// What one connection finds by name.
struct Entrance<L, B> {
    front: Arc<Front<L, B>>,
    /// Known from the first name on that is right.
    connection: Arc<OnceCell<TubConnection>>,
}

impl<L: LeaseDb, B: Backend> Entrance<L, B> {
    async fn open(self, name: Bytes, connection: Connection) -> Result<Option<Arc<dyn Referenceable>>, Failure> {
        let Ok(swissnum) = Swissnum::new(name.to_vec()) else {
            self.front.metrics.notice(Event::Denied(Denial::Malformed));
            return Ok(None);
        };
        let credential = swissnum.credential_hash();
        let found = self.front.accountant.session(&credential).await;
        let session = found.map_err(|_| failed("accounts cannot be looked up now; try again later"))?;
        if !session.is_some_and(|session| session.account.state.may_read()) {
            return Ok(None);
        }
        let entered = self.connection.get_or_try_init(|| self.front.enter(&connection)).await?.clone();
        let caller = Caller { front: self.front, credential };
        Ok(Some(Arc::new(StorageServer { caller, connection: entered })))
    }
}

impl<L: LeaseDb, B: Backend> Names for Entrance<L, B> {
    fn find(
        &self,
        name: Bytes,
        connection: &Connection,
    ) -> BoxFuture<'static, Result<Option<Arc<dyn Referenceable>>, Failure>> {
        let entrance = Self { front: self.front.clone(), connection: self.connection.clone() };
        entrance.open(name, connection.clone()).boxed()
    }
}

/// The session, if an account was found that may be read.
fn opened(found: Result<Option<Arc<Session>>, LeaseDbError>) -> Result<Arc<Session>, Failure> {
    let session = found.map_err(|_| failed("accounts cannot be looked up now; try again later"))?;
    let open = session.filter(|session| session.account.state.may_read());
    open.ok_or_else(|| failed("this address opens no account any more; ask for the present one"))
}

/// A range to read: of any length, since it is cut at the share's end.
fn range_of(offset: &Value, length: &Value) -> Result<Range<u64>, Violation> {
    let offset = offset.as_u64()?;
    Ok(offset..offset.saturating_add(length.as_u64_saturating()?))
}

fn text_of(value: &Value) -> Result<String, Violation> {
    Ok(String::from_utf8_lossy(value.as_bytes()?).into_owned())
}
