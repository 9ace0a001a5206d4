//! The front ends: each translates one wire into calls on the store, and errors into that wire's.

pub mod body;
pub mod foolscap;
pub mod gbs;

use leasehold_core::store::StoreError;

/// What the version of either protocol says that we are.
const APPLICATION_VERSION: &str = concat!("leasehold/", env!("CARGO_PKG_VERSION"));

/// Logs what an operator has to know of an error that a client is told in few words.
fn log_failure(error: &StoreError) {
    match error {
        StoreError::Vanished(share) => tracing::error!(%share, "the bytes of a share are not in the backend"),
        StoreError::LeaseDb(source) => {
            tracing::error!(error = %source, cause = ?std::error::Error::source(source), "the lease database failed");
        }
        StoreError::Backend(source) => {
            tracing::error!(error = %source, cause = ?std::error::Error::source(source), "the backend failed");
        }
        StoreError::Full => tracing::warn!("the backend is full"),
        _ => {}
    }
}
