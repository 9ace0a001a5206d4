//! Faulty doubles and contract suites for whoever implements the traits of this crate.
//!
//! A new [`LeaseDb`](crate::leasedb::LeaseDb) or [`Backend`](crate::backend::Backend) joins the suites by one line:
//! [`leasedb_contract!`](crate::leasedb_contract) or [`backend_contract!`](crate::backend_contract). Nothing here
//! reads a wall clock or unseeded randomness.

pub mod backend_contract;
pub mod clock;
pub mod faulty;
pub mod leasedb_contract;
mod values;

pub use values::{
    Guard, Tasks, body, broken_body, credential, enabler, read_all, seed, share_id, storage_index, upload_secret,
};
