//! An S3 bucket for one test, in the S3 server of this test process.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use leasehold_config::S3;
use leasehold_e2e_services::Minio;
use leasehold_server::backend::cached_blocks::{CacheMetrics, CachedBlocks};
use leasehold_server::backend::s3::{S3Backend, S3Metrics};
use prometheus_client::registry::Registry;
use tempfile::TempDir;

use crate::places;

static MADE: AtomicU32 = AtomicU32::new(0);

/// An empty S3 bucket.
pub struct S3Bucket {
    /// How to use it.
    pub config: S3,
    keys: TempDir,
}

impl S3Bucket {
    /// Makes one in the shared server.
    pub fn make() -> Self {
        Self::make_in(Minio::shared().expect("an S3 server"))
    }

    /// Makes one in a certain server.
    pub fn make_in(minio: &Minio) -> Self {
        let bucket = format!("test-{}", MADE.fetch_add(1, Ordering::Relaxed));
        minio.make_bucket(&bucket).expect("an S3 bucket");
        let keys = places::folder();
        let config = S3 {
            bucket,
            prefix: "grids/test/".to_owned(),
            endpoint: Some(minio.endpoint()),
            allow_insecure: true,
            access_key_id_file: Some(keys.path().join("id")),
            secret_access_key_file: Some(keys.path().join("secret")),
            ca_file: minio.authority_file().map(PathBuf::from),
            ..S3::default()
        };
        config.validate().expect("a good configuration");
        let made = Self { config, keys };
        let credentials = minio.credentials();
        made.write_keys(&credentials.access_key, &credentials.secret_key);
        made
    }

    /// Replaces the access key in the files.
    pub fn write_keys(&self, id: &str, secret: &str) {
        std::fs::write(self.keys.path().join("id"), id).expect("a file");
        std::fs::write(self.keys.path().join("secret"), secret).expect("a file");
    }

    /// Opens it as another process would.
    pub fn open(&self) -> S3Backend {
        self.open_counting(&mut Registry::with_prefix("leasehold"))
    }

    /// Opens it with another configuration.
    pub fn open_with(&self, config: &S3) -> S3Backend {
        let metrics = S3Metrics::register(&mut Registry::with_prefix("leasehold"));
        S3Backend::open(config, metrics).expect("the configuration is good")
    }

    /// Opens it with metrics to look at.
    pub fn open_counting(&self, registry: &mut Registry) -> S3Backend {
        S3Backend::open(&self.config, S3Metrics::register(registry)).expect("the configuration is good")
    }

    /// Opens it with a read cache.
    pub fn open_cached(&self) -> CachedBlocks<S3Backend> {
        let mut registry = Registry::with_prefix("leasehold");
        CachedBlocks::new(self.open_counting(&mut registry), 8 << 20, CacheMetrics::register(&mut registry))
    }
}
