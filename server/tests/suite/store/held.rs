//! A backend that stores at once and answers when told to: what is between PUT and row can be looked at.

use std::ops::Range;
use std::sync::Arc;

use leasehold_core::backend::{Backend, BackendError, ByteStream, ListPage};
use leasehold_core::chunk::ObjectKey;
use tokio::sync::Semaphore;

/// A backend whose puts wait, once stored, until the gate is open.
#[derive(Debug)]
pub struct Held<B> {
    inner: B,
    gate: Gate,
}

/// Tells when something was stored, and lets all puts answer.
#[derive(Clone, Debug)]
pub struct Gate {
    stored: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    /// Waits until a put has stored its object.
    pub async fn stored(&self) {
        self.stored.acquire().await.expect("never closed").forget();
    }

    /// Lets this and all further puts answer.
    pub fn open(&self) {
        self.open.add_permits(1000);
    }
}

impl<B> Held<B> {
    /// Wraps a backend; the gate is closed.
    pub fn new(inner: B) -> (Self, Gate) {
        let gate = Gate { stored: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) };
        (Self { inner, gate: gate.clone() }, gate)
    }
}

impl<B: Backend> Backend for Held<B> {
    async fn put(&self, name: &ObjectKey, length_bytes: u64, body: ByteStream) -> Result<(), BackendError> {
        self.inner.put(name, length_bytes, body).await?;
        self.gate.stored.add_permits(1);
        self.gate.open.acquire().await.expect("never closed").forget();
        Ok(())
    }

    async fn get(&self, name: &ObjectKey, range: Range<u64>) -> Result<ByteStream, BackendError> {
        self.inner.get(name, range).await
    }

    async fn delete(&self, name: &ObjectKey) -> Result<(), BackendError> {
        self.inner.delete(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, BackendError> {
        self.inner.list(prefix, after, max).await
    }

    async fn available_bytes(&self) -> Result<u64, BackendError> {
        self.inner.available_bytes().await
    }
}
