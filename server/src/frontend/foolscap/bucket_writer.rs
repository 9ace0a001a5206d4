//! A share in upload as clients write it.
//!
//! The answer to `write` says that the bytes were received, that to `close` that they are durable and the share is there.
//! An upload ends with its connection (`foolscap.md` 13.1); while that lives, its deadline is set back.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use leasehold_core::backend::Backend;
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::store::{self, GatheredPiece};
use leasehold_foolscap::{Call, Failure, Hold, Interface, Referenceable, Value};
use tokio::sync::{Mutex, MutexGuard, Notify};
use tokio_util::sync::CancellationToken;

use super::Caller;
use super::error::{failed, failure, writer_is_closed};
use super::interfaces::BUCKET_WRITER;

/// One share in upload.
pub(super) struct BucketWriter<L, B> {
    caller: Caller<L, B>,
    open: Mutex<Option<Open<L, B>>>,
    /// Tells when a piece was stored, or could not be.
    piece_ended: Notify,
    ended: CancellationToken,
}

/// What lives until the upload ends.
struct Open<L, B> {
    writer: store::BucketWriter<L, B>,
    /// The client may forget its canary when this is dropped.
    _canary: Value,
    /// Keeps the connection from being closed as idle.
    _hold: Hold,
}

impl<L: LeaseDb, B: Backend> BucketWriter<L, B> {
    /// Wraps an upload that was just begun by `call`, and sees to it that it ends with the connection.
    pub(super) fn new(
        caller: Caller<L, B>,
        writer: store::BucketWriter<L, B>,
        canary: Value,
        call: &Call,
    ) -> Arc<Self> {
        let connection = call.connection();
        let open = Open { writer, _canary: canary, _hold: connection.hold() };
        let (open, piece_ended, ended) = (Mutex::new(Some(open)), Notify::new(), CancellationToken::new());
        let writer = Arc::new(Self { caller, open, piece_ended, ended });
        writer.caller.front.tasks.spawn(writer.clone().accompany(connection.lost().clone()));
        writer
    }

    /// Until the upload has ended: sets its deadline back, and aborts it when the connection is lost.
    async fn accompany(self: Arc<Self>, lost: CancellationToken) {
        let interval = self.caller.front.keep_interval;
        loop {
            tokio::select! {
                () = self.ended.cancelled() => return,
                () = lost.cancelled() => break,
                () = tokio::time::sleep(interval) => self.keep().await,
            }
        }
        if let Err(error) = self.abort().await {
            tracing::warn!(?error, "an upload could not be ended with its connection; its deadline will");
        }
    }

    async fn keep(&self) {
        let open = self.open.lock().await;
        if let Some(open) = &*open
            && let Err(error) = open.writer.keep().await
        {
            tracing::warn!(%error, "the deadline of an upload could not be set back; it is tried again");
        }
    }

    /// The upload, once its state allows what the caller is about to do.
    async fn when(&self, allows: impl Fn(&store::BucketWriter<L, B>) -> bool) -> MutexGuard<'_, Option<Open<L, B>>> {
        loop {
            let mut piece_ended = pin!(self.piece_ended.notified());
            piece_ended.as_mut().enable();
            let open = self.open.lock().await;
            if open.as_ref().is_none_or(|open| allows(&open.writer)) {
                return open;
            }
            drop(open);
            piece_ended.await;
        }
    }

    async fn when_nothing_is_stored(&self) -> MutexGuard<'_, Option<Open<L, B>>> {
        self.when(|writer| !writer.is_storing()).await
    }

    async fn write(self: Arc<Self>, offset: u64, data: bytes::Bytes) -> Result<Value, Failure> {
        let length = data.len() as u64;
        let mut open = self.when(|writer| writer.has_room(offset, length)).await;
        let session = self.caller.session().await?;
        let writer = &mut open.as_mut().ok_or_else(writer_is_closed)?.writer;
        writer.write(&session, offset, data).await.map_err(failure)?;
        if let Some(piece) = writer.begin_piece() {
            self.caller.front.tasks.spawn(self.clone().store(piece));
        }
        Ok(Value::None)
    }

    /// Stores pieces while the client sends on, until there is less than one.
    async fn store(self: Arc<Self>, mut piece: GatheredPiece<L, B>) {
        loop {
            let was_stored = match AssertUnwindSafe(piece.store()).catch_unwind().await {
                Ok(Ok(())) => true,
                Ok(Err(error)) => {
                    // Tried again by the next call, which tells the client.
                    tracing::debug!(%error, "a piece could not be stored yet");
                    false
                }
                // Told by the panic; the next call must not wait for this piece for ever.
                Err(_) => false,
            };
            let mut open = self.open.lock().await;
            let next = open.as_mut().and_then(|Open { writer, .. }| {
                writer.end_piece(was_stored);
                if was_stored { writer.begin_piece() } else { None }
            });
            self.piece_ended.notify_waiters();
            match next {
                Some(next) => piece = next,
                None => return,
            }
        }
    }

    async fn close(self: Arc<Self>, lost: CancellationToken) -> Result<Value, Failure> {
        let mut open = self.when_nothing_is_stored().await;
        let session = self.caller.session().await?;
        let writer = &mut open.as_mut().ok_or_else(writer_is_closed)?.writer;
        // A hole may be of any size: it is filled only as long as somebody waits.
        while writer.fill(&session).await.map_err(failure)? {
            if lost.is_cancelled() {
                return Err(failed("the connection was lost"));
            }
        }
        writer.close(&session).await.map_err(failure)?;
        *open = None;
        self.ended.cancel();
        Ok(Value::None)
    }

    /// Ends the upload; after its end it does nothing.
    async fn abort(&self) -> Result<Value, Failure> {
        let mut open = self.when_nothing_is_stored().await;
        if let Some(open) = open.as_mut() {
            open.writer.abort().await.map_err(failure)?;
        }
        *open = None;
        self.ended.cancel();
        Ok(Value::None)
    }
}

impl<L: LeaseDb, B: Backend> Referenceable for BucketWriter<L, B> {
    fn interface(&self) -> &'static Interface {
        &BUCKET_WRITER
    }

    fn call(self: Arc<Self>, mut call: Call) -> BoxFuture<'static, Result<Value, Failure>> {
        async move {
            let front = self.caller.front.clone();
            match call.method() {
                "write" => {
                    let [offset, data] = call.take()?;
                    let (offset, data) = (offset.as_u64()?, data.as_bytes()?.clone());
                    front.changing("write", self.write(offset, data)).await
                }
                "close" => front.changing("close", self.close(call.connection().lost().clone())).await,
                _ => front.changing("abort", async move { self.abort().await }).await,
            }
        }
        .boxed()
    }
}

/// How often the deadlines of uploads are set back that may rest for `idle_seconds`.
pub(super) fn keep_interval(idle_seconds: i64) -> Duration {
    Duration::from_secs(idle_seconds.unsigned_abs() / 3).max(Duration::from_secs(1))
}
