//! The lease database of Leasehold on real databases.
//!
//! Implements [`leasehold_core::leasedb::LeaseDb`]. What a transaction decides it decides with core's rules; this crate
//! turns rows into values and back. No database type leaves its module.

pub mod sqlite;
