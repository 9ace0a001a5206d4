//! The real services that tests run against, and the faults that tests put before them.
//!
//! [`Postgres`] and [`Minio`] are throw-away servers: processes of the real programs with a folder of their own, which
//! end and disappear with the test, however it ends. Proxies stand between them and what is tested and cut, delay and
//! falsify on request; a balancer stands before pods. Everything listens on the loopback address and on a port that
//! the kernel chose.
//!
//! Everything here is blocking and works on plain threads, so that it can be used from tests with a runtime and from
//! those without one. Nothing depends on another package of the workspace.

// Processes and sockets live in real time; no rule of the protocol is decided here.
#![allow(clippy::disallowed_methods)]

pub mod balancer;
pub mod browser;
pub mod certificates;
pub mod http1;
pub mod minio;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod proxy;
mod relay;
pub mod s3_proxy;
pub mod scratch;
pub mod secret;
pub mod sigv4;

pub use balancer::Balancer;
pub use minio::{Minio, MinioOptions};
pub use pgbouncer::PgBouncer;
pub use postgres::{Postgres, PostgresOptions};
pub use proxy::TcpProxy;
pub use s3_proxy::S3Proxy;
