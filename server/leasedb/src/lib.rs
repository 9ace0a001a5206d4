//! The lease database of Leasehold on real databases.
//!
//! Implements [`leasehold_core::leasedb::LeaseDb`] on PostgreSQL, for any number of processes, and on one SQLite file,
//! for a server on one machine. What a transaction decides is decided once, in `plan`; each database loads what that
//! needs and applies what comes out. No database type leaves its module.

mod any;
mod columns;
mod export;
mod plan;
pub mod postgres;
mod removed;
pub mod sqlite;

pub use any::AnyLeaseDb;
