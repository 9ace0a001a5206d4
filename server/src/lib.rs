//! The Leasehold server: the storage protocols of Tahoe-LAFS, over HTTPS and Foolscap, for accounts.
//!
//! Thin by intent. What a share, a lease or an account is, `leasehold-core` knows; this crate turns requests into calls
//! on its `Store` and answers into bytes, and wires the parts together.

pub mod accounts;
pub mod admin;
pub mod backend;
pub mod check;
pub mod cli;
pub mod client_certificate;
pub mod datadir;
pub mod frontend;
pub mod identity;
pub mod jobs;
pub mod listener;
pub mod metrics;
pub mod output;
pub mod places;
pub mod serve;
pub mod services;
pub mod status;
pub mod telemetry;
