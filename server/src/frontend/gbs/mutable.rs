//! The endpoint of mutable shares.

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::{Response, StatusCode, header};
use leasehold_core::backend::{Backend, ByteStream};
use leasehold_core::id::StorageIndex;
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::store::Store;
use leasehold_gbs::wire::{self, Part};

use super::error::Refusal;
use super::spool::Spool;
use super::{Answer, Authorized, CBOR, Gbs, cbor, check_content_type};
use crate::frontend::body::ResponseBody;

/// Answers up to this length are read into memory before they are sent; larger ones stream.
const WHOLE_ANSWER_MAX: u64 = 256 << 10;

impl<L: LeaseDb, B: Backend> Gbs<L, B> {
    pub(super) async fn read_test_write(&self, index: StorageIndex, request: Authorized) -> Answer {
        check_content_type(&request.headers)?;
        let limits = &self.0.limits;
        let spool = Spool::receive(&request.body, limits.read_test_write_body_max, &limits.spool).await?;
        let vectors = spool.decode().await?;
        let enabler = request.secrets.write_enabler()?;
        let store = &self.0.store;
        let outcome = store.read_test_write(&request.session, index, enabler, &vectors, &spool).await?;
        let parts = wire::write_read_test_write(&outcome);
        let length = parts.iter().map(Part::length_bytes).sum();
        if length > WHOLE_ANSWER_MAX {
            let body = ResponseBody::stream(stream_parts(store.clone(), parts), length);
            let mut response = Response::new(body);
            response.headers_mut().insert(header::CONTENT_TYPE, CBOR);
            return Ok(response);
        }
        let mut answer = Vec::with_capacity(length as usize);
        for part in parts {
            match part {
                Part::Bytes(bytes) => answer.extend_from_slice(&bytes),
                Part::Slice(slice) => answer.extend_from_slice(&store.read_slice(&slice).await.map_err(Refusal::from)?),
            }
        }
        Ok(cbor(StatusCode::OK, answer.into()))
    }
}

fn stream_parts<L: LeaseDb, B: Backend>(store: std::sync::Arc<Store<L, B>>, parts: Vec<Part>) -> ByteStream {
    stream::iter(parts)
        .then(move |part| {
            let store = store.clone();
            async move {
                match part {
                    Part::Bytes(bytes) => once(Ok(bytes)),
                    Part::Slice(slice) => match store.open_slice(&slice).await {
                        Ok(stream) => stream,
                        Err(error) => once(Err(std::io::Error::other(error))),
                    },
                }
            }
        })
        .flatten()
        .boxed()
}

fn once(item: std::io::Result<Bytes>) -> ByteStream {
    stream::iter([item]).boxed()
}
