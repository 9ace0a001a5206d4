//! What the server counts, for Prometheus. A registry that is handed to whoever counts; no globals.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::StatusCode;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    endpoint: &'static str,
    code: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EndpointLabel {
    endpoint: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MethodLabel {
    method: &'static str,
}

/// The server's counters.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<EndpointLabel, Histogram, fn() -> Histogram>,
    calls: Family<CallLabels, Counter>,
    call_durations: Family<MethodLabel, Histogram, fn() -> Histogram>,
    /// 1 while the server is coming to its end.
    pub draining: Gauge,
    /// Connections open now.
    pub connections: Gauge,
    /// Connections turned away because there were too many.
    pub refused_connections: Counter,
    /// Uploads ended for lack of progress.
    pub uploads_expired: Counter,
    /// Store objects deleted.
    pub objects_deleted: Counter,
    /// Background work that failed and will be tried again.
    pub background_failures: Counter,
    /// How long ago all changes of accounts were last known, in seconds.
    pub account_cache_age_seconds: Gauge<u64, AtomicU64>,
    /// Bytes that can still be stored, as last measured.
    pub backend_available_bytes: Gauge<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("leasehold");
        let requests = Family::default();
        registry.register("http_requests", "Requests answered", requests.clone());
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.0005, 2.0, 18));
        let durations = Family::new_with_constructor(histogram);
        registry.register(
            "http_request_duration_seconds",
            "Time from a request's head to its response's head",
            durations.clone(),
        );
        let calls = Family::default();
        registry.register("foolscap_calls", "Calls answered", calls.clone());
        let call_durations = Family::new_with_constructor(histogram);
        registry.register(
            "foolscap_call_duration_seconds",
            "Time from a call's turn to its answer",
            call_durations.clone(),
        );
        let draining = Gauge::default();
        registry.register("draining", "Whether the server is coming to its end", draining.clone());
        let connections = Gauge::default();
        registry.register("http_connections", "Connections open now", connections.clone());
        let refused_connections = Counter::default();
        registry.register("http_connections_refused", "Connections turned away", refused_connections.clone());
        let uploads_expired = Counter::default();
        registry.register("uploads_expired", "Uploads ended for lack of progress", uploads_expired.clone());
        let objects_deleted = Counter::default();
        registry.register("objects_deleted", "Store objects deleted", objects_deleted.clone());
        let background_failures = Counter::default();
        registry.register("background_failures", "Background work that failed", background_failures.clone());
        let account_cache_age_seconds = Gauge::default();
        registry.register(
            "account_cache_age_seconds",
            "Time since all changes of accounts were last known",
            account_cache_age_seconds.clone(),
        );
        let backend_available_bytes = Gauge::default();
        registry.register("backend_available_bytes", "Bytes that can be stored", backend_available_bytes.clone());
        Self {
            registry,
            requests,
            durations,
            calls,
            call_durations,
            draining,
            connections,
            refused_connections,
            uploads_expired,
            objects_deleted,
            background_failures,
            account_cache_age_seconds,
            backend_available_bytes,
        }
    }
}

impl Metrics {
    /// Where others add what they count, before the server starts.
    pub const fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// Counts a request that was answered.
    pub fn observe_request(&self, endpoint: &'static str, status: StatusCode, duration: Duration) {
        self.requests.get_or_create(&RequestLabels { endpoint, code: status.as_u16() }).inc();
        self.durations.get_or_create(&EndpointLabel { endpoint }).observe(duration.as_secs_f64());
    }

    /// Counts a Foolscap call that was answered.
    pub fn observe_call(&self, method: &'static str, ok: bool, duration: Duration) {
        let outcome = if ok { "answered" } else { "failed" };
        self.calls.get_or_create(&CallLabels { method, outcome }).inc();
        self.call_durations.get_or_create(&MethodLabel { method }).observe(duration.as_secs_f64());
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("memory takes everything");
        out
    }
}
