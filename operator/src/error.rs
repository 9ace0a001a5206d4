//! Why a reconcile did not come to its end. What an object's owner must know is a condition, not an error.

use leasehold_core::leasedb::LeaseDbError;
use leasehold_identity::IdentityError;

/// Why a reconcile did not come to its end; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or does not answer.
    #[error("the API server: {0}")]
    Kube(#[from] kube::Error),
    /// The lease database refused or does not answer.
    #[error(transparent)]
    LeaseDb(#[from] LeaseDbError),
    /// An identity could not be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A finalizer could not be set or removed.
    #[error("the finalizer: {0}")]
    Finalizer(String),
    /// An object without what the API server gives every object.
    #[error("the object has no {0}")]
    Incomplete(&'static str),
    /// A value that has no text form.
    #[error("cannot write {0}")]
    Encode(&'static str),
}

/// Results of reconciling.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether somebody else changed or made the object first: then the next look finds out.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Kube(kube::Error::Api(status)) if status.code == 409)
    }

    /// Whether the API server says that there is no such object.
    pub fn is_not_found(error: &kube::Error) -> bool {
        matches!(error, kube::Error::Api(status) if status.code == 404)
    }
}
