//! What the server counts, for Prometheus. A registry that is handed to whoever counts; no globals.
//!
//! Labels come from closed sets, and what is known beforehand is there from the start at zero, so that absence is visible
//! and the first event is an increase. Nothing says whose share or account it was.

mod events;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::{Method, StatusCode};
use leasehold_core::observe::{Event, Observer};
use leasehold_gbs::route::Class;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use events::Events;

/// Statuses that every endpoint may answer when something is wrong here.
const FAILURES: [StatusCode; 2] = [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::SERVICE_UNAVAILABLE];
/// Which sources this was made of, if whoever made it said so.
const REVISION: Option<&str> = option_env!("LEASEHOLD_REVISION");

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    endpoint: &'static str,
    method: &'static str,
    code: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EndpointLabel {
    endpoint: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ClassLabel {
    class: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
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

/// Why a request or a connection was turned away before it came to anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// There were too many connections.
    Overload,
    /// A request's head, or the handshake before it, took too long.
    SlowHeader,
    /// A body took too long.
    SlowBody,
    /// A body, or the share it asked for, was too large.
    TooLarge,
    /// A body was not what the protocol wants.
    BadCbor,
}

impl Rejection {
    const ALL: [Self; 5] = [Self::Overload, Self::SlowHeader, Self::SlowBody, Self::TooLarge, Self::BadCbor];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Overload => "overload",
            Self::SlowHeader => "slow_header",
            Self::SlowBody => "slow_body",
            Self::TooLarge => "too_large",
            Self::BadCbor => "bad_cbor",
        }
    }
}

/// Connections open now, by what they do.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    /// Of HTTP, within a request.
    pub active: Gauge,
    /// Of HTTP, between requests, or at their beginning.
    pub idle: Gauge,
    /// Of Foolscap, where either side may call at any time.
    pub foolscap: Gauge,
}

impl Connections {
    /// All of them.
    pub fn open(&self) -> i64 {
        self.active.get() + self.idle.get() + self.foolscap.get()
    }
}

/// What the stream of a connection counts.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Bytes that came.
    pub received_bytes: Counter,
    /// Bytes that went.
    pub sent_bytes: Counter,
    /// Heads of requests that took too long.
    pub slow_heads: Counter,
}

/// The server's counters.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<EndpointLabel, Histogram, fn() -> Histogram>,
    in_flight: Family<ClassLabel, Gauge>,
    rejected: Family<ReasonLabel, Counter>,
    calls: Family<CallLabels, Counter>,
    call_durations: Family<MethodLabel, Histogram, fn() -> Histogram>,
    events: Events,
    /// Connections open now.
    pub connections: Connections,
    /// What went over connections of HTTP, inside TLS.
    pub http_traffic: Traffic,
    /// What went over connections of Foolscap, with TLS.
    pub foolscap_traffic: Traffic,
    /// 1 while the server is coming to its end.
    pub draining: Gauge,
    /// Uploads under way in the deployment.
    pub uploads_open: Gauge<u64, AtomicU64>,
    /// Bytes that they have reserved.
    pub uploads_reserved_bytes: Gauge<u64, AtomicU64>,
    /// Store objects deleted.
    pub objects_deleted: Counter,
    /// Background work that failed and will be tried again.
    pub background_failures: Counter,
    /// How long ago all changes of accounts were last known, in seconds.
    pub account_cache_age_seconds: Gauge<u64, AtomicU64>,
    /// How many credentials are in memory.
    pub account_cache_entries: Gauge<u64, AtomicU64>,
    /// Bytes that can still be stored, as last measured.
    pub backend_available_bytes: Gauge<u64, AtomicU64>,
}

fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 18))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("leasehold");
        let events = Events::register(&mut registry);
        let mut metrics = Self {
            registry,
            requests: Family::default(),
            durations: Family::new_with_constructor(durations),
            in_flight: Family::default(),
            rejected: Family::default(),
            calls: Family::default(),
            call_durations: Family::new_with_constructor(durations),
            events,
            connections: Connections::default(),
            http_traffic: Traffic::default(),
            foolscap_traffic: Traffic::default(),
            draining: Gauge::default(),
            uploads_open: Gauge::default(),
            uploads_reserved_bytes: Gauge::default(),
            objects_deleted: Counter::default(),
            background_failures: Counter::default(),
            account_cache_age_seconds: Gauge::default(),
            account_cache_entries: Gauge::default(),
            backend_available_bytes: Gauge::default(),
        };
        metrics.register_clients();
        metrics.register_process();
        metrics
    }
}

impl Metrics {
    /// What comes from clients.
    fn register_clients(&mut self) {
        let registry = &mut self.registry;
        registry.register("http_requests", "Requests answered", self.requests.clone());
        let help = "Time from a request's head to its response's head";
        registry.register("http_request_duration_seconds", help, self.durations.clone());
        let help = "Requests whose response has not begun";
        registry.register("http_requests_in_flight", help, self.in_flight.clone());
        registry.register("http_rejected", "Requests and connections turned away", self.rejected.clone());
        registry.register("foolscap_calls", "Calls answered", self.calls.clone());
        let help = "Time from a call's turn to its answer";
        registry.register("foolscap_call_duration_seconds", help, self.call_durations.clone());
        let connections = Family::<StateLabel, Gauge>::default();
        registry.register("http_connections", "Connections of HTTP open now", connections.clone());
        self.connections.active = connections.get_or_create_owned(&StateLabel { state: "active" });
        self.connections.idle = connections.get_or_create_owned(&StateLabel { state: "idle" });
        let help = "Connections of Foolscap open now";
        registry.register("foolscap_connections", help, self.connections.foolscap.clone());
        for (protocol, traffic) in [("http", &self.http_traffic), ("foolscap", &self.foolscap_traffic)] {
            let (received, sent) = (traffic.received_bytes.clone(), traffic.sent_bytes.clone());
            registry.register(format!("{protocol}_received_bytes"), "Bytes that came from clients", received);
            registry.register(format!("{protocol}_sent_bytes"), "Bytes that went to clients", sent);
        }
        for class in Class::ALL.map(Class::as_str) {
            drop(self.in_flight.get_or_create(&ClassLabel { class }));
        }
        for reason in Rejection::ALL.map(Rejection::as_str) {
            drop(self.rejected.get_or_create(&ReasonLabel { reason }));
        }
        // Streams count it: it is the same counter.
        let slow_head = ReasonLabel { reason: Rejection::SlowHeader.as_str() };
        self.http_traffic.slow_heads = self.rejected.get_or_create_owned(&slow_head);
    }

    /// What the process itself tells.
    fn register_process(&mut self) {
        let registry = &mut self.registry;
        let build = [("version", env!("CARGO_PKG_VERSION")), ("revision", REVISION.unwrap_or("unknown"))];
        registry.register("build", "What this program was made of", Info::new(build.to_vec()));
        registry.register("draining", "Whether the server is coming to its end", self.draining.clone());
        let help = "Uploads under way in the whole deployment";
        registry.register("uploads_open", help, self.uploads_open.clone());
        let help = "Bytes reserved by all uploads under way";
        registry.register("uploads_reserved_bytes", help, self.uploads_reserved_bytes.clone());
        registry.register("objects_deleted", "Store objects deleted", self.objects_deleted.clone());
        registry.register("background_failures", "Background work that failed", self.background_failures.clone());
        let help = "Time since all changes of accounts were last known";
        registry.register("account_cache_age_seconds", help, self.account_cache_age_seconds.clone());
        let help = "Credentials kept in memory with their accounts";
        registry.register("account_cache_entries", help, self.account_cache_entries.clone());
        registry.register("backend_available_bytes", "Bytes that can be stored", self.backend_available_bytes.clone());
    }

    /// Where others add what they count, before the server starts.
    pub const fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// Shows an endpoint before it is first asked.
    pub fn expect_requests(&self, endpoint: &'static str, method: &'static str, statuses: &[u16]) {
        for code in statuses.iter().copied().chain(FAILURES.map(|status| status.as_u16())) {
            drop(self.requests.get_or_create(&RequestLabels { endpoint, method, code }));
        }
        drop(self.durations.get_or_create(&EndpointLabel { endpoint }));
    }

    /// Shows a method of Foolscap before it is first called.
    pub fn expect_call(&self, method: &'static str) {
        for outcome in ["answered", "failed"] {
            drop(self.calls.get_or_create(&CallLabels { method, outcome }));
        }
        drop(self.call_durations.get_or_create(&MethodLabel { method }));
    }

    /// Counts a request as under way until the guard is dropped.
    pub fn begin_request(&self, class: Class) -> InFlight {
        let gauge = self.in_flight.get_or_create_owned(&ClassLabel { class: class.as_str() });
        gauge.inc();
        InFlight(gauge)
    }

    /// Counts a request that was answered.
    pub fn observe_request(&self, endpoint: &'static str, method: &Method, status: StatusCode, duration: Duration) {
        let labels = RequestLabels { endpoint, method: known(method), code: status.as_u16() };
        self.requests.get_or_create(&labels).inc();
        self.durations.get_or_create(&EndpointLabel { endpoint }).observe(duration.as_secs_f64());
    }

    /// Counts a Foolscap call that was answered.
    pub fn observe_call(&self, method: &'static str, ok: bool, duration: Duration) {
        let outcome = if ok { "answered" } else { "failed" };
        self.calls.get_or_create(&CallLabels { method, outcome }).inc();
        self.call_durations.get_or_create(&MethodLabel { method }).observe(duration.as_secs_f64());
    }

    /// Counts what was turned away.
    pub fn reject(&self, rejection: Rejection) {
        self.rejected.get_or_create(&ReasonLabel { reason: rejection.as_str() }).inc();
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("memory takes everything");
        out
    }
}

impl Observer for Metrics {
    fn notice(&self, event: Event) {
        self.events.count(event);
    }
}

/// A request under way.
#[derive(Debug)]
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A method as a label: what clients make up is not counted by name.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}
