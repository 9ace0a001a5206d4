//! What the S3 backend counts.

use std::time::Duration;

use leasehold_core::backend::BackendError;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// A kind of request to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Put,
    Get,
    Delete,
    List,
}

impl Operation {
    const ALL: [Self; 4] = [Self::Put, Self::Get, Self::Delete, Self::List];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Delete => "delete",
            Self::List => "list",
        }
    }
}

/// How a request ended, for a label.
const RESULTS: [&str; 5] = ["ok", "not_found", "full", "denied", "unavailable"];

const fn result_label<T>(result: &Result<T, BackendError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(BackendError::NotFound(_)) => "not_found",
        Err(BackendError::Full(_)) => "full",
        Err(BackendError::Denied(_)) => "denied",
        Err(BackendError::Source(_) | BackendError::Unavailable(_)) => "unavailable",
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    operation: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OperationLabel {
    operation: &'static str,
}

/// The S3 backend's counters.
#[derive(Clone, Debug)]
pub struct S3Metrics {
    requests: Family<RequestLabels, Counter>,
    retries: Family<OperationLabel, Counter>,
    durations: Family<OperationLabel, Histogram, fn() -> Histogram>,
    /// Bodies that broke off, stalled or had a wrong length or checksum after a good head.
    pub(super) broken_bodies: Counter,
}

impl S3Metrics {
    /// Registers the counters, all at zero.
    pub fn register(registry: &mut Registry) -> Self {
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("s3_requests", "Requests to the store, all attempts as one", requests.clone());
        let retries = Family::<OperationLabel, Counter>::default();
        registry.register("s3_retries", "Attempts beyond the first of a request to the store", retries.clone());
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 17));
        let durations = Family::new_with_constructor(histogram);
        let help = "Time of a request to the store with all attempts, to the head of the answer for large reads";
        registry.register("s3_request_duration_seconds", help, durations.clone());
        let broken_bodies = Counter::default();
        registry.register(
            "s3_broken_bodies",
            "Answers of the store that broke off or were wrong",
            broken_bodies.clone(),
        );
        for operation in Operation::ALL.map(Operation::as_str) {
            for result in RESULTS {
                drop(requests.get_or_create(&RequestLabels { operation, result }));
            }
            drop(retries.get_or_create(&OperationLabel { operation }));
            drop(durations.get_or_create(&OperationLabel { operation }));
        }
        Self { requests, retries, durations, broken_bodies }
    }

    /// Counts a request that ended, with all its attempts.
    pub(super) fn observe<T>(
        &self,
        operation: Operation,
        result: &Result<T, BackendError>,
        attempts: u32,
        duration: Duration,
    ) {
        let operation = operation.as_str();
        self.requests.get_or_create(&RequestLabels { operation, result: result_label(result) }).inc();
        let retries = attempts.saturating_sub(1);
        if retries > 0 {
            self.retries.get_or_create(&OperationLabel { operation }).inc_by(retries.into());
        }
        self.durations.get_or_create(&OperationLabel { operation }).observe(duration.as_secs_f64());
    }
}
