//! The admin port: metrics, health, readiness, and how the deployment stands. Not for clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use leasehold_core::backend::Backend;
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::store::Store;

use crate::frontend::body::ResponseBody;
use crate::listener::Handler;
use crate::metrics::Metrics;
use crate::status;

/// Answers on the admin port.
#[derive(Debug)]
pub struct Admin<L, B> {
    store: Arc<Store<L, B>>,
    nickname: String,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
}

impl<L: LeaseDb, B: Backend> Admin<L, B> {
    /// `ready` tells whether clients should be sent here.
    pub const fn new(store: Arc<Store<L, B>>, nickname: String, metrics: Arc<Metrics>, ready: Arc<AtomicBool>) -> Self {
        Self { store, nickname, metrics, ready }
    }

    /// How all stands: a page where a browser asks, one JSON document otherwise.
    async fn status(&self, request: &Request<Incoming>) -> Response<ResponseBody> {
        let status = match status::gather(&self.store, &self.nickname).await {
            Ok(status) => status,
            Err(error) => {
                tracing::warn!(%error, "the status cannot be told");
                return text(StatusCode::SERVICE_UNAVAILABLE, "the lease database does not answer\n");
            }
        };
        let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let wants_json = request.uri().query().is_some_and(|query| query.split('&').any(|part| part == "t=json"));
        if accept.contains("text/html") && !wants_json {
            return content("text/html; charset=utf-8", status::render(&status));
        }
        content("application/json", format!("{}\n", status::document(&status)))
    }
}

fn text(status: StatusCode, body: impl Into<String>) -> Response<ResponseBody> {
    let mut response = content("text/plain; charset=utf-8", body);
    *response.status_mut() = status;
    response
}

fn content(kind: &'static str, body: impl Into<String>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from(body.into()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

impl<L: LeaseDb, B: Backend> Handler for Admin<L, B> {
    async fn handle(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri().path() {
            "/metrics" => content("application/openmetrics-text; version=1.0.0; charset=utf-8", self.metrics.render()),
            "/status" => self.status(&request).await,
            // This port is served from the moment on that clients are.
            "/healthz/started" => text(StatusCode::OK, "started\n"),
            "/healthz/live" => text(StatusCode::OK, "live\n"),
            "/healthz/ready" if self.ready.load(Ordering::Relaxed) => text(StatusCode::OK, "ready\n"),
            "/healthz/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /status, /metrics, /healthz/started, /healthz/live and /healthz/ready\n",
            ),
        }
    }

    fn refuse(&self) -> Response<ResponseBody> {
        text(StatusCode::SERVICE_UNAVAILABLE, "too many connections\n")
    }
}
