//! What becomes of clients' requests, told to whoever counts.
//!
//! Each thing is told where it is decided, in the core, so that both wires count by the same rule. Nothing here says whose
//! share or account it was.

use std::fmt::Debug;

/// An enum whose cases are all that a label of a counter may say.
macro_rules! closed_set {
    ($(#[$doc:meta])* $name:ident { $($(#[$case_doc:meta])* $case:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$case_doc])* $case,)* }

        impl $name {
            /// All cases.
            pub const ALL: &[Self] = &[$(Self::$case,)*];

            /// The case as a word.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$case => $text,)* }
            }
        }
    };
}

closed_set! {
    /// How the upload of an immutable share ended.
    UploadEnd {
        /// The share is there.
        Completed = "completed",
        /// The client gave it up, or left it behind with its connection.
        Aborted = "aborted",
        /// It rested for too long.
        Expired = "expired",
        /// Another share took the number.
        Conflict = "conflict",
    }
}

closed_set! {
    /// What became of a read-test-write that wanted to write.
    SlotWrite {
        /// Everything was written.
        Applied = "applied",
        /// A test did not hold: nothing was written.
        TestFailed = "test_failed",
        /// The slot belongs to another write enabler.
        WrongEnabler = "wrong_enabler",
        /// It did not fit the quota.
        OverQuota = "over_quota",
    }
}

closed_set! {
    /// Why leases were taken.
    LeaseOperation {
        /// With an allocation, on shares that are there already.
        Add = "add",
        /// Because a client asked for it.
        Renew = "renew",
    }
}

closed_set! {
    /// What became of it.
    LeaseResult {
        /// Leased.
        Done = "done",
        /// There is no share.
        NotFound = "not_found",
        /// A first lease did not fit the quota.
        OverQuota = "over_quota",
        /// The account may not hold leases at present.
        Refused = "refused",
    }
}

closed_set! {
    /// What did not fit a quota.
    QuotaKind {
        /// An immutable share, or a lease on one that is there.
        Upload = "upload",
        /// What a slot would have become.
        Slot = "slot",
        /// A first lease that a client asked for.
        Lease = "lease",
    }
}

closed_set! {
    /// The state of a share that did not allow what was asked of it.
    ConflictingState {
        /// In upload: under another secret, or with other bytes.
        Coming = "coming",
        /// Finished: it cannot be aborted, nor uploaded anew with another size.
        Stable = "stable",
        /// Its bytes are not where its row says.
        Lost = "lost",
    }
}

closed_set! {
    /// Why a credential opened nothing.
    Denial {
        /// No account has it, or has it any more.
        Unknown = "unknown",
        /// It was rotated out, and the time for which both were good is over.
        Revoked = "revoked",
        /// It is none.
        Malformed = "malformed",
    }
}

/// Something that was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// An upload ended.
    UploadEnded(UploadEnd),
    /// A slot was to be written.
    SlotWrite(SlotWrite),
    /// Leases were to be taken on the shares of one storage index.
    Lease(LeaseOperation, LeaseResult),
    /// Something did not fit a quota.
    OverQuota(QuotaKind),
    /// A share's state did not allow a request.
    Conflict(ConflictingState),
    /// A credential opened nothing.
    Denied(Denial),
}

/// Counts events, or whatever else it does; it must be quick.
pub trait Observer: Debug + Send + Sync {
    /// Takes note of an event.
    fn notice(&self, event: Event);
}

/// Nobody counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn notice(&self, _: Event) {}
}
