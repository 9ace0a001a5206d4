//! Endpoints of immutable shares, and reading and reporting shares of either kind.

use std::ops::Range;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use leasehold_core::backend::Backend;
use leasehold_core::id::{ShareId, StorageIndex};
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::share::ShareKind;
use leasehold_core::store::ShareSlice;
use leasehold_gbs::range::{parse_content_range, parse_range};
use leasehold_gbs::wire;

use super::error::Refusal;
use super::{Answer, Authorized, Gbs, OCTETS, cbor, empty};
use crate::frontend::body::ResponseBody;

impl<L: LeaseDb, B: Backend> Gbs<L, B> {
    pub(super) async fn allocate(&self, index: StorageIndex, request: Authorized) -> Answer {
        let body = self.small_body(&request, wire::ALLOCATE_BODY_MAX).await?;
        let wanted = wire::read_allocate(&body[..])?;
        let allocated = self
            .0
            .store
            .allocate_bucket(
                &request.session,
                index,
                &wanted.share_numbers,
                wanted.allocated_size,
                request.secrets.upload()?,
            )
            .await?;
        Ok(cbor(StatusCode::OK, wire::write_allocated(&allocated)))
    }

    pub(super) async fn write(&self, share: ShareId, request: Authorized) -> Answer {
        let range = content_range(&request.headers)?;
        if !request.session.account.state.may_write() {
            return Err(leasehold_core::store::StoreError::Refused(request.session.account.state).into());
        }
        let secret = request.secrets.upload()?;
        let written = self.0.store.write_bucket(share, secret, range, request.body.stream()).await?;
        let status = if written.finished { StatusCode::CREATED } else { StatusCode::OK };
        Ok(cbor(status, wire::write_required(&written.missing)))
    }

    pub(super) async fn read(&self, kind: ShareKind, share: ShareId, headers: &HeaderMap) -> Answer {
        let row = self.0.store.readable_share(kind, share).await?;
        let (status, range) = match headers.get(header::RANGE) {
            None => (StatusCode::OK, 0..row.size_bytes),
            Some(value) => {
                let range = parse_range(value.as_bytes()).map_err(|_| {
                    Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "one range of bytes with both ends")
                })?;
                (StatusCode::PARTIAL_CONTENT, range.start..range.end.min(row.size_bytes))
            }
        };
        let ranged = status == StatusCode::PARTIAL_CONTENT;
        if ranged && range.start >= row.size_bytes {
            let mut response = empty(StatusCode::NO_CONTENT);
            response.headers_mut().insert(header::CONTENT_TYPE, OCTETS);
            return Ok(response);
        }
        let slice = ShareSlice::new(share.storage_index, &row, range.clone());
        let body = ResponseBody::stream(self.0.store.open_slice(&slice).await?, slice.length_bytes);
        let mut response = Response::new(body);
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, OCTETS);
        if ranged {
            let value = format!("bytes {}-{}/*", range.start, range.end - 1);
            response.headers_mut().insert(header::CONTENT_RANGE, HeaderValue::try_from(value).expect("digits"));
        }
        Ok(response)
    }

    pub(super) async fn corrupt(&self, kind: ShareKind, share: ShareId, request: Authorized) -> Answer {
        // An unknown share is told before the body is looked at.
        self.0.store.stable_share(kind, share).await?;
        let body = self.small_body(&request, wire::CORRUPT_BODY_MAX).await?;
        let reason = wire::read_corrupt(&body[..])?;
        self.0.store.advise(&request.session, kind, share, reason).await?;
        tracing::warn!(%share, kind = kind.as_str(), "a client reports a corrupt share");
        Ok(empty(StatusCode::OK))
    }
}

fn content_range(headers: &HeaderMap) -> Result<Range<u64>, Refusal> {
    let refusal = || Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "Content-Range must be bytes A-B/*");
    let value = headers.get(header::CONTENT_RANGE).ok_or_else(refusal)?;
    parse_content_range(value.as_bytes()).map_err(|_| refusal())
}
