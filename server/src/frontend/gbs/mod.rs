//! The HTTPS storage protocol ("Great Black Swamp"), as the released client speaks it: `gbs.md` throughout.
//!
//! Checks come in the protocol's order: route, account, secrets, then the endpoint. Requests that change something run
//! in tasks of their own, so that they come to an orderly end when their client is gone.

mod error;
mod immutable;
mod mutable;
mod spool;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use leasehold_core::accountant::{Accountant, Session};
use leasehold_core::backend::Backend;
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::observe::{Denial, Event, Observer};
use leasehold_core::store::Store;
use leasehold_gbs::auth::{self, Secrets};
use leasehold_gbs::route::{self, Class, Endpoint, RouteError};
use leasehold_gbs::wire;
use tokio_util::task::TaskTracker;

use super::APPLICATION_VERSION;
use super::body::{BodyLimits, RequestBody, ResponseBody};
use crate::listener::Handler;
use crate::metrics::Metrics;
use crate::services::Services;
use error::Refusal;

const CBOR: HeaderValue = HeaderValue::from_static("application/cbor");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// How long a client should wait that was turned away, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

type Answer = Result<Response<ResponseBody>, Refusal>;

/// Limits of one server's front end.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How slowly bodies may arrive.
    pub body: BodyLimits,
    /// The largest read-test-write request, in bytes.
    pub read_test_write_body_max: u64,
    /// Where requests too large for memory wait; files there have no name.
    pub spool: PathBuf,
}

/// The front end. Cloning is cheap.
pub struct Gbs<L, B>(Arc<Inner<L, B>>);

impl<L, B> Clone for Gbs<L, B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<L, B> {
    store: Arc<Store<L, B>>,
    accountant: Arc<Accountant<L>>,
    services: Services,
    limits: Limits,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
}

/// A request whose account and secrets are known.
struct Authorized {
    session: Arc<Session>,
    secrets: Secrets,
    headers: HeaderMap,
    body: RequestBody,
}

impl<L: LeaseDb, B: Backend> Gbs<L, B> {
    /// Puts the front end together.
    pub fn new(store: Arc<Store<L, B>>, accountant: Arc<Accountant<L>>, limits: Limits, metrics: Arc<Metrics>) -> Self {
        for endpoint in route::ENDPOINTS {
            metrics.expect_requests(endpoint.name, endpoint.method, endpoint.statuses);
        }
        let services = Services::default();
        let tasks = TaskTracker::new();
        Self(Arc::new(Inner { store, accountant, services, limits, metrics, tasks }))
    }

    /// Waits for the changes in progress to come to their end.
    pub async fn finish(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    async fn answer(&self, endpoint: Endpoint, headers: HeaderMap, body: RequestBody) -> Answer {
        let session = self.session(&headers, &endpoint).await?;
        let secrets = auth::parse_secrets(&headers, endpoint.secrets())?;
        if answers_in_cbor(&endpoint) && !accepts_cbor(&headers) {
            return Err(Refusal::new(StatusCode::NOT_ACCEPTABLE, "answers are application/cbor"));
        }
        let request = Authorized { session, secrets, headers, body };
        if endpoint.class() != Class::Write {
            return self.dispatch(endpoint, request).await;
        }
        let this = self.clone();
        let task = self.0.tasks.spawn(async move { this.dispatch(endpoint, request).await });
        task.await.unwrap_or_else(|error| {
            tracing::error!(%error, endpoint = endpoint.name(), "a request panicked");
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the request failed"))
        })
    }

    async fn session(&self, headers: &HeaderMap, endpoint: &Endpoint) -> Result<Arc<Session>, Refusal> {
        let unauthorized = || Refusal::new(StatusCode::UNAUTHORIZED, "wrong Authorization header");
        let parsed = auth::parse_authorization(headers);
        if !matches!(parsed, Ok(Some(_))) {
            self.0.metrics.notice(Event::Denied(Denial::Malformed));
        }
        let credential = parsed?.ok_or_else(unauthorized)?;
        let unavailable = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "accounts cannot be looked up now");
        let accountant = &self.0.accountant;
        let session = match accountant.session(&credential).await {
            Ok(session) => session.ok_or_else(unauthorized)?,
            // Who is connected stays so and learns that nothing can be stored (`api.md` 10.8).
            Err(_) if matches!(endpoint, Endpoint::Version) => {
                accountant.remembered(&credential).ok_or_else(unavailable)?
            }
            Err(_) => return Err(unavailable()),
        };
        let reads = matches!(endpoint, Endpoint::Account | Endpoint::Services | Endpoint::Version);
        if !session.account.state.may_read() && !reads {
            return Err(unauthorized());
        }
        Ok(session)
    }

    async fn dispatch(&self, endpoint: Endpoint, request: Authorized) -> Answer {
        let store = &self.0.store;
        match endpoint {
            Endpoint::Version => {
                let space = store.space(&request.session, &self.0.accountant);
                Ok(cbor(StatusCode::OK, wire::write_version(&space, APPLICATION_VERSION)))
            }
            Endpoint::Lease(index) => {
                store.renew_leases(&request.session, index).await?;
                Ok(empty(StatusCode::NO_CONTENT))
            }
            Endpoint::Allocate(index) => self.allocate(index, request).await,
            Endpoint::Write(share) => self.write(share, request).await,
            Endpoint::Abort(share) => {
                store.abort_bucket(share, request.secrets.upload()?).await?;
                Ok(empty(StatusCode::OK))
            }
            Endpoint::List(kind, index) => {
                Ok(cbor(StatusCode::OK, wire::write_list(&store.list_shares(kind, index).await?)))
            }
            Endpoint::Read(kind, share) => self.read(kind, share, &request.headers).await,
            Endpoint::ReadTestWrite(index) => self.read_test_write(index, request).await,
            Endpoint::Corrupt(kind, share) => self.corrupt(kind, share, request).await,
            Endpoint::Services => Ok(self.0.services.list(&request.session, &request.headers)),
            Endpoint::Account => {
                let complete_since = self.0.store.complete_since();
                Ok(self.0.services.account(&request.session, complete_since, &request.headers))
            }
        }
    }

    /// Collects a small CBOR body.
    async fn small_body(&self, request: &Authorized, max: u64) -> Result<Bytes, Refusal> {
        check_content_type(&request.headers)?;
        spool::collect(&request.body, max).await
    }
}

impl<L: LeaseDb, B: Backend> Handler for Gbs<L, B> {
    #[allow(clippy::disallowed_methods, reason = "measures how long a request took")]
    async fn handle(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        let began = Instant::now();
        let (head, incoming) = request.into_parts();
        let body = RequestBody::new(incoming, self.0.limits.body);
        let (endpoint, answer) = match route::route(&head.method, head.uri.path()) {
            Ok(endpoint) => {
                let _in_flight = self.0.metrics.begin_request(endpoint.class());
                (Some(endpoint), self.answer(endpoint, head.headers, body.clone()).await)
            }
            Err(error) => (None, Err(not_routed(error))),
        };
        if let Err(Refusal { rejection: Some(rejection), .. }) = &answer {
            self.0.metrics.reject(*rejection);
        }
        let response = answer.unwrap_or_else(|refusal| refuse(endpoint, refusal));
        // A body that nobody read would make HTTP close the connection, and the client's next request fail.
        body.drain().await;
        let name = endpoint.map_or("other", |endpoint| endpoint.name());
        self.0.metrics.observe_request(name, &head.method, response.status(), began.elapsed());
        tracing::debug!(endpoint = name, status = response.status().as_u16(), "request");
        response
    }

    fn refuse(&self) -> Response<ResponseBody> {
        let mut response = refuse(None, Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many connections"));
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

fn not_routed(error: RouteError) -> Refusal {
    match error {
        RouteError::NotFound => Refusal::new(StatusCode::NOT_FOUND, ""),
        RouteError::MethodNotAllowed(allow) => Refusal::new(StatusCode::METHOD_NOT_ALLOWED, allow),
    }
}

fn refuse(endpoint: Option<Endpoint>, refusal: Refusal) -> Response<ResponseBody> {
    let status = refusal.status;
    let mut response = empty(status);
    let headers = response.headers_mut();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    if matches!(endpoint, Some(Endpoint::Read(..))) {
        // Clients look at this type before the status, on errors too (`gbs.md` 6.1).
        headers.insert(header::CONTENT_TYPE, OCTETS);
        return response;
    }
    if endpoint.is_none() && status == StatusCode::METHOD_NOT_ALLOWED {
        if let Ok(allow) = HeaderValue::from_str(&refusal.text) {
            headers.insert(header::ALLOW, allow);
        }
        return response;
    }
    if !refusal.text.is_empty() && status != StatusCode::NOT_FOUND {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        *response.body_mut() = refusal.text.into();
    }
    response
}

fn empty(status: StatusCode) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::default());
    *response.status_mut() = status;
    response
}

fn cbor(status: StatusCode, body: Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, CBOR);
    response
}

const fn answers_in_cbor(endpoint: &Endpoint) -> bool {
    matches!(
        endpoint,
        Endpoint::Version
            | Endpoint::Allocate(_)
            | Endpoint::Write(_)
            | Endpoint::List(..)
            | Endpoint::ReadTestWrite(_)
    )
}

/// Whether an `Accept` header, where there is one, leaves room for CBOR.
fn accepts_cbor(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::ACCEPT).iter().peekable();
    if values.peek().is_none() {
        return true;
    }
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|entry| {
        let kind = entry.split(';').next().unwrap_or_default().trim();
        ["application/cbor", "application/*", "*/*"].iter().any(|known| known.eq_ignore_ascii_case(kind))
    })
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let kind = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/cbor") {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "bodies are application/cbor"))
}
