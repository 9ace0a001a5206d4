//! Why a backup was not taken, or is of no use, in words for people.

use super::BackupName;
use super::manifest::Unreadable;
use super::recount::Contradiction;
use crate::backend::BackendError;
use crate::leasedb::LeaseDbError;
use crate::store::StoreError;

/// The longest that one instant of the database is held, in seconds: longer, and it could not be tidied (`design.md` 12).
pub(crate) const EXPORT_SECONDS_MAX: u64 = 15 * 60;

/// Why a backup was not taken, or is of no use. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is no such backup.
    #[error("there is no complete backup {0}; `leasehold backup list` shows all")]
    Unknown(BackupName),
    /// There is no backup at all.
    #[error("there is no complete backup in the backend")]
    None,
    /// It is not what was written, or not for this program.
    #[error("the backup {name} cannot be used: {what}: {reason}")]
    Unusable {
        /// Which.
        name: BackupName,
        /// Which of its objects.
        what: String,
        /// Why.
        reason: Unreadable,
    },
    /// The backend is not this deployment's, or the backup is another one's.
    #[error("{what} is of deployment {theirs}, but {whose} is {ours}: they do not belong together")]
    Foreign {
        /// What was looked at.
        what: String,
        /// Whose it is.
        theirs: String,
        /// What it was compared with.
        whose: &'static str,
        /// Whose that is.
        ours: String,
    },
    /// A restore would have to throw away what is there.
    #[error(
        "the lease database is not empty, and a restore never throws anything away: move the file away, or make another \
         database and `leasehold migrate` it"
    )]
    NotEmpty,
    /// The database's rows contradict each other.
    #[error("the lease database contradicts itself: {0}; `leasehold check` looks at the file")]
    Contradiction(#[from] Contradiction),
    /// It took too long.
    #[error("reading the lease database took longer than {} minutes", EXPORT_SECONDS_MAX / 60)]
    TooSlow,
    /// The lease database failed.
    #[error(transparent)]
    LeaseDb(#[from] LeaseDbError),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A part could not be compressed.
    #[error("a part could not be compressed")]
    Compress(#[source] std::io::Error),
}

impl From<StoreError> for BackupError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::LeaseDb(error) => Self::LeaseDb(error),
            StoreError::Backend(error) => Self::Backend(error),
            other => Self::Backend(BackendError::Unavailable(std::io::Error::other(other))),
        }
    }
}

/// Results of this module.
pub type Result<T, E = BackupError> = std::result::Result<T, E>;
