//! A share in upload as clients write it.
//!
//! The answer to `write` says that the bytes were received, that to `close` that they are durable and the share is there.
//! An upload ends with its connection (`foolscap.md` 13.1); while that lives, its deadline is set back.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use leasehold_core::backend::Backend;
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::store;
use leasehold_foolscap::{Call, Failure, Hold, Interface, Referenceable, Value};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use super::Caller;
use super::error::{failure, writer_is_closed};
use super::interfaces::BUCKET_WRITER;

/// One share in upload.
pub(super) struct BucketWriter<L, B> {
    caller: Caller<L, B>,
    open: Arc<Mutex<Option<Open<L, B>>>>,
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
        let writer = Arc::new(Self { caller, open: Arc::new(Mutex::new(Some(open))), ended: CancellationToken::new() });
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

    async fn write(self: Arc<Self>, offset: u64, data: bytes::Bytes) -> Result<Value, Failure> {
        let mut open = self.open.clone().lock_owned().await;
        let session = self.caller.session().await?;
        let writer = &mut open.as_mut().ok_or_else(writer_is_closed)?.writer;
        writer.write(&session, offset, data).await.map_err(failure)?;
        if writer.is_ripe() {
            self.caller.front.tasks.spawn(flush(open));
        }
        Ok(Value::None)
    }

    async fn close(self: Arc<Self>) -> Result<Value, Failure> {
        let mut open = self.open.lock().await;
        let session = self.caller.session().await?;
        let writer = &mut open.as_mut().ok_or_else(writer_is_closed)?.writer;
        writer.close(&session).await.map_err(failure)?;
        *open = None;
        self.ended.cancel();
        Ok(Value::None)
    }

    /// Ends the upload; after its end it does nothing.
    async fn abort(&self) -> Result<Value, Failure> {
        let mut open = self.open.lock().await;
        if let Some(open) = open.as_mut() {
            open.writer.abort().await.map_err(failure)?;
        }
        *open = None;
        self.ended.cancel();
        Ok(Value::None)
    }
}

/// Stores what was gathered while the client sends on; the next call on the writer waits for it.
async fn flush<L: LeaseDb, B: Backend>(mut open: OwnedMutexGuard<Option<Open<L, B>>>) {
    if let Some(open) = open.as_mut()
        && let Err(error) = open.writer.flush().await
    {
        // Tried again by the next call, which tells the client.
        tracing::debug!(%error, "a piece could not be stored yet");
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
                "close" => front.changing("close", self.close()).await,
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
