//! The one map from the core's errors to failures of this wire (`foolscap.md` 9).

use leasehold_core::store::StoreError;
use leasehold_foolscap::{Failure, Violation};

use crate::frontend::log_failure;

const NO_SPACE: &str = "allmydata.interfaces.NoSpace";

/// The call failed for a reason that has no class of its own; `text` is for the user.
pub(super) fn failed(text: impl Into<String>) -> Failure {
    Failure::new("builtins.RuntimeError", text)
}

/// A call on a writer after its end.
pub(super) fn writer_is_closed() -> Failure {
    Failure::new("builtins.AssertionError", "writer is closed")
}

/// What a client is told of an error; never what goes on behind.
pub(super) fn failure(error: StoreError) -> Failure {
    log_failure(&error);
    let text = error.to_string();
    match error {
        StoreError::WrongWriteEnabler => {
            let text = "The write enabler was recorded by nodeid of this server, for another writer.";
            Failure::new("allmydata.interfaces.BadWriteEnablerError", text)
        }
        StoreError::OverQuota | StoreError::Full => Failure::new(NO_SPACE, text),
        StoreError::OutOfBounds { .. } => Failure::new("allmydata.interfaces.DataTooLargeError", text),
        StoreError::Conflict => Failure::new("allmydata.interfaces.ConflictingWriteError", text),
        // The upload is gone or finished: nobody writes to it any more.
        StoreError::AlreadyComplete | StoreError::WrongUploadSecret => writer_is_closed(),
        StoreError::TooLarge { .. } => Violation::new(text).into(),
        StoreError::NotFound
        | StoreError::WrongKind
        | StoreError::Refused(_)
        | StoreError::BodyLength
        | StoreError::BodyBroken(_) => failed(text),
        StoreError::Busy
        | StoreError::Vanished(_)
        | StoreError::AnotherDatabase
        | StoreError::LeaseDb(_)
        | StoreError::Backend(_) => failed("the server cannot do this now; try again later"),
    }
}
