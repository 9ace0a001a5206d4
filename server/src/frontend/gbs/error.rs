//! The one map from the core's errors to statuses of this wire (`gbs.md` 15).

use http::StatusCode;
use leasehold_core::account::AccountState;
use leasehold_core::store::StoreError;
use leasehold_gbs::auth::BadHeader;
use leasehold_gbs::cbor::Malformed;

use crate::frontend::log_failure;
use crate::metrics::Rejection;

/// An answer that says no: a status and a short text without internals or secrets.
#[derive(Debug)]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// The text.
    pub text: String,
    /// What it is counted as beside its status.
    pub rejection: Option<Rejection>,
}

impl Refusal {
    /// Puts status and text together.
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        let rejection = match status {
            StatusCode::REQUEST_TIMEOUT => Some(Rejection::SlowBody),
            StatusCode::PAYLOAD_TOO_LARGE => Some(Rejection::TooLarge),
            _ => None,
        };
        Self { status, text: text.into(), rejection }
    }
}

impl From<BadHeader> for Refusal {
    fn from(error: BadHeader) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.0)
    }
}

impl From<Malformed> for Refusal {
    fn from(error: Malformed) -> Self {
        Self { rejection: Some(Rejection::BadCbor), ..Self::new(StatusCode::BAD_REQUEST, error.0) }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let status = match &error {
            StoreError::NotFound => StatusCode::NOT_FOUND,
            StoreError::WrongUploadSecret | StoreError::WrongWriteEnabler => StatusCode::UNAUTHORIZED,
            StoreError::AlreadyComplete => StatusCode::METHOD_NOT_ALLOWED,
            StoreError::Conflict | StoreError::WrongKind => StatusCode::CONFLICT,
            StoreError::OutOfBounds { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            StoreError::BodyLength => StatusCode::BAD_REQUEST,
            StoreError::BodyBroken(source) if source.kind() == std::io::ErrorKind::TimedOut => {
                StatusCode::REQUEST_TIMEOUT
            }
            StoreError::BodyBroken(_) => StatusCode::BAD_REQUEST,
            StoreError::Refused(AccountState::Closed) => StatusCode::UNAUTHORIZED,
            StoreError::Refused(_) => StatusCode::FORBIDDEN,
            StoreError::OverQuota | StoreError::Full => StatusCode::INSUFFICIENT_STORAGE,
            StoreError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            StoreError::Busy
            | StoreError::Vanished(_)
            | StoreError::AnotherDatabase
            | StoreError::LeaseDb(_)
            | StoreError::Backend(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        log_failure(&error);
        let text = if status == StatusCode::SERVICE_UNAVAILABLE {
            "the server cannot do this now; try again later".to_owned()
        } else {
            error.to_string()
        };
        Self::new(status, text)
    }
}
