//! The admin port: metrics, health and readiness. Not for clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use crate::frontend::body::ResponseBody;
use crate::listener::Handler;
use crate::metrics::Metrics;

/// Answers on the admin port.
#[derive(Debug)]
pub struct Admin {
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
}

impl Admin {
    /// `ready` tells whether clients should be sent here.
    pub const fn new(metrics: Arc<Metrics>, ready: Arc<AtomicBool>) -> Self {
        Self { metrics, ready }
    }
}

fn text(status: StatusCode, body: impl Into<String>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from(body.into()));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

impl Handler for Admin {
    async fn handle(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri().path() {
            "/metrics" => {
                let mut response = text(StatusCode::OK, self.metrics.render());
                let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            // This port is served from the moment on that clients are.
            "/healthz/started" => text(StatusCode::OK, "started\n"),
            "/healthz/live" => text(StatusCode::OK, "live\n"),
            "/healthz/ready" if self.ready.load(Ordering::Relaxed) => text(StatusCode::OK, "ready\n"),
            "/healthz/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            _ => {
                text(StatusCode::NOT_FOUND, "there are /metrics, /healthz/started, /healthz/live and /healthz/ready\n")
            }
        }
    }

    fn refuse(&self) -> Response<ResponseBody> {
        text(StatusCode::SERVICE_UNAVAILABLE, "too many connections\n")
    }
}
