//! A finished immutable share as clients read it.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use leasehold_core::backend::Backend;
use leasehold_core::id::ShareId;
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::share::ShareKind;
use leasehold_core::store::ShareSlice;
use leasehold_foolscap::{Call, Failure, Interface, Referenceable, Turn, Value};

use super::error::failure;
use super::interfaces::BUCKET_READER;
use super::{Caller, range_of, text_of};

/// One share, for whoever the caller is.
pub(super) struct BucketReader<L, B> {
    pub(super) caller: Caller<L, B>,
    pub(super) share: ShareId,
}

impl<L: LeaseDb, B: Backend> BucketReader<L, B> {
    async fn read(&self, call: &mut Call) -> Result<Value, Failure> {
        let [offset, length] = call.take()?;
        let range = range_of(&offset, &length)?;
        self.caller.session().await?;
        let store = &self.caller.front.store;
        let row = store.readable_share(ShareKind::Immutable, self.share).await.map_err(failure)?;
        let slice = ShareSlice::new(self.share.storage_index, &row, range);
        call.reserve(slice.length_bytes).await?;
        Ok(store.read_slice(&slice).await.map_err(failure)?.into())
    }

    async fn advise(&self, call: &mut Call) -> Result<Value, Failure> {
        let [reason] = call.take()?;
        self.caller.advise(ShareKind::Immutable, self.share, text_of(&reason)?).await
    }
}

impl<L: LeaseDb, B: Backend> Referenceable for BucketReader<L, B> {
    fn interface(&self) -> &'static Interface {
        &BUCKET_READER
    }

    fn turn(&self, _: &Call) -> Turn {
        Turn::Free
    }

    fn call(self: Arc<Self>, mut call: Call) -> BoxFuture<'static, Result<Value, Failure>> {
        async move {
            let front = self.caller.front.clone();
            match call.method() {
                "read" => front.counted("read", self.read(&mut call)).await,
                _ => front.counted("advise_corrupt_share", self.advise(&mut call)).await,
            }
        }
        .boxed()
    }
}
