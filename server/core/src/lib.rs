//! The rules of Tahoe-LAFS storage with accounts.
//!
//! This crate knows what a share, a bucket, a slot and a lease are, and nothing of HTTP, Foolscap, SQL, S3 or the wall
//! clock. What it needs of the world it names in three traits: [`leasedb::LeaseDb`], [`backend::Backend`] and
//! [`clock::Clock`]. [`store::Store`] has one method for each operation of the storage protocol; both front ends and
//! all jobs call the same methods.
//!
//! Invariant: what was acknowledged is never lost, what was not acknowledged is never served, and what somebody leases
//! is never deleted.

pub mod account;
pub mod accountant;
pub mod backend;
pub mod backup;
pub mod beat;
pub mod bucket;
pub mod chunk;
pub mod classic;
pub mod clock;
pub mod contact;
pub mod crawl;
pub mod expiry;
pub mod id;
pub mod lease;
pub mod leasedb;
pub mod locator;
pub mod manifest;
pub mod observe;
pub mod range;
pub mod run;
pub mod secret;
pub mod share;
pub mod slot;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod trouble;
pub mod tub;
