//! Reading containers that another server has left in the backend.

use bytes::Bytes;
use futures_util::StreamExt;

use super::{Result, Store};
use crate::backend::{Backend, BackendError};
use crate::chunk::{ObjectName, StoreObject};
use crate::classic::{Container, Damage, HEAD_BYTES_MAX, LeaseRecord};
use crate::id::ShareId;
use crate::leasedb::LeaseDb;

/// A container of up to this length is read at once, in bytes.
const READ_AT_ONCE_BYTES: u64 = 16 << 10;

impl<L: LeaseDb, B: Backend> Store<L, B> {
    /// Reads header and leases of a container, whose length the caller has from a listing.
    ///
    /// # Errors
    /// The backend does not answer, or has no such object. That the container is damaged is an answer.
    pub async fn read_container(
        &self,
        share: ShareId,
        length_bytes: u64,
    ) -> Result<Result<(Container, Vec<LeaseRecord>), Damage>> {
        let first =
            length_bytes.min(if length_bytes <= READ_AT_ONCE_BYTES { READ_AT_ONCE_BYTES } else { HEAD_BYTES_MAX });
        let start = self.read_object(share, 0..first).await?;
        let head = &start[..start.len().min(HEAD_BYTES_MAX as usize)];
        let container = match Container::decode(head, length_bytes) {
            Ok(container) => container,
            Err(damage) => return Ok(Err(damage)),
        };
        let at = container.leases_at();
        let leases = match start.get(at.start as usize..at.end as usize) {
            Some(bytes) => container.leases(bytes),
            None => container.leases(&self.read_object(share, at).await?),
        };
        Ok(Ok((container, leases)))
    }

    async fn read_object(&self, share: ShareId, range: std::ops::Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let mut stream = self.backend.get(&ObjectName::new(share, StoreObject::Classic).key(), range).await?;
        let mut all = Vec::new();
        while let Some(bytes) = stream.next().await {
            all.extend_from_slice(&bytes.map_err(BackendError::Unavailable)?);
        }
        Ok(all.into())
    }
}
