//! Makes the SDK's client: where to, who we are, whom to trust, and the one layer that repeats requests.

use std::io;
use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::InterceptorContext;
use aws_sdk_s3::config::retry::{ClassifyRetry, RetryAction, RetryConfig, RetryPartition, TokenBucket};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, IdentityCache, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use leasehold_config::{Addressing, Checksums, S3};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::credentials::{KeyFiles, workload_identity};

/// Idle connections are closed by us, before stores close them under a request.
const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(15);
/// How long a connection may take to come about.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(5);
/// The wait before the first repetition is up to this, and doubles with each, at random.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// What repetitions are paid from, so that a store in trouble is not asked many times as much as otherwise.
const RETRY_TOKENS: usize = 500;
const RETRY_TOKENS_PER_SECOND: f32 = 20.0;
const RETRY_COST: u32 = 5;

/// Makes a client. Nothing is sent yet.
///
/// # Errors
/// A file that the configuration names cannot be used; the text says which.
pub(super) fn client(config: &S3) -> io::Result<Client> {
    let region = Region::new(config.region.clone());
    let tokens = TokenBucket::builder()
        .capacity(RETRY_TOKENS)
        .retry_cost(RETRY_COST)
        .throttling_retry_cost(RETRY_COST)
        .timeout_retry_cost(2 * RETRY_COST)
        .refill_rate(RETRY_TOKENS_PER_SECOND)
        .build();
    let mut builder = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http_client(config.ca_file.as_deref())?)
        .force_path_style(is_in_path(config))
        .retry_config(retry_config(config))
        .retry_partition(RetryPartition::custom("leasehold").token_bucket(tokens).build())
        .retry_classifier(AskAgain)
        .timeout_config(timeouts(config, 0))
        // Every body is timed by ourselves, in either direction.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if config.checksums == Checksums::WhenRequired {
        builder = builder
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    }
    if let Some(endpoint) = &config.endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    builder = match (&config.access_key_id_file, &config.secret_access_key_file) {
        (Some(id), Some(secret)) => {
            // The files are the cache.
            builder.credentials_provider(KeyFiles::open(id, secret)?).identity_cache(IdentityCache::no_cache())
        }
        _ => builder.credentials_provider(workload_identity(&region)),
    };
    Ok(Client::from_conf(builder.region(region).build()))
}

const fn is_in_path(config: &S3) -> bool {
    match config.addressing {
        Addressing::Path => true,
        Addressing::VirtualHosted => false,
        Addressing::Auto => config.endpoint.is_some(),
    }
}

fn retry_config(config: &S3) -> RetryConfig {
    RetryConfig::standard()
        .with_max_attempts(config.attempts_max)
        .with_initial_backoff(FIRST_BACKOFF)
        .with_max_backoff(BACKOFF_MAX)
}

/// How long one attempt of a request that sends so many bytes may take.
pub(super) fn attempt_limit(config: &S3, sent_bytes: u64) -> Duration {
    Duration::from_secs(config.timeout_seconds) / 3 + Duration::from_millis(sent_bytes / 1000)
}

/// How long all attempts together may take: what clients wait for, or two attempts where those take longer.
pub(super) fn operation_limit(config: &S3, sent_bytes: u64) -> Duration {
    Duration::from_secs(2 * config.timeout_seconds).max(2 * attempt_limit(config, sent_bytes))
}

pub(super) fn timeouts(config: &S3, sent_bytes: u64) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT_MAX.min(Duration::from_secs(config.timeout_seconds)))
        .operation_attempt_timeout(attempt_limit(config, sent_bytes))
        .build()
}

fn http_client(ca_file: Option<&Path>) -> io::Result<SharedHttpClient> {
    let trusted = match ca_file {
        None => TrustStore::default(),
        Some(path) => TrustStore::empty().with_pem_certificate(read_authorities(path)?),
    };
    let context = TlsContext::builder().with_trust_store(trusted).build().map_err(io::Error::other)?;
    Ok(aws_smithy_http_client::Builder::new()
        .pool_idle_timeout(IDLE_CONNECTION_MAX)
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(context)
        .build_https())
}

/// Reads certificates and tries them, since the SDK panics at bad ones.
fn read_authorities(path: &Path) -> io::Result<Vec<u8>> {
    let problem = |reason: String| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{} holds no usable certificates: {reason}", path.display()))
    };
    let pem =
        std::fs::read(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| problem(error.to_string()))?;
        store.add(certificate).map_err(|error| problem(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(problem("it is no PEM file of certificates".to_owned()));
    }
    Ok(pem)
}

/// Repeats requests that were answered 408 or 429 in whatever words; the SDK knows those of its own store only.
#[derive(Debug)]
struct AskAgain;

impl ClassifyRetry for AskAgain {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        match context.response().map(|response| response.status().as_u16()) {
            Some(429) => RetryAction::throttling_error(),
            Some(408) => RetryAction::transient_error(),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "408 and 429"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_limits_follow_the_size() {
        let config = S3::default();
        assert_eq!(attempt_limit(&config, 0), Duration::from_secs(10));
        assert_eq!(attempt_limit(&config, 8_000_000), Duration::from_secs(18));
        assert_eq!(operation_limit(&config, 8_000_000), Duration::from_secs(60));
        assert_eq!(operation_limit(&config, 64_000_000), Duration::from_secs(148));
    }

    #[test]
    fn certificates_are_looked_at_before_they_are_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca.pem");
        let missing = http_client(Some(&path)).expect_err("no file").to_string();
        assert!(missing.contains("ca.pem"), "{missing}");
        for bad in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            std::fs::write(&path, bad).expect("a file");
            let error = http_client(Some(&path)).expect_err(bad).to_string();
            assert!(error.contains("no usable certificates"), "{error}");
        }
        let good = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        std::fs::write(&path, good.cert.pem()).expect("a file");
        http_client(Some(&path)).expect("a usable certificate");
    }
}
