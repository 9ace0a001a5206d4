//! What kinds of share there are, which states they pass through, and what a share costs.

/// Bytes that a classic immutable container has besides share data; part of what an account pays for.
pub const IMMUTABLE_OVERHEAD_BYTES: u64 = 12;
/// Bytes that a classic mutable container has besides share data; part of what an account pays for.
pub const MUTABLE_OVERHEAD_BYTES: u64 = 472;

/// Whether shares of a storage index live in a bucket or in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShareKind {
    /// Written once, then read.
    Immutable,
    /// Tested, read and written by vectors under a write enabler.
    Mutable,
}

impl ShareKind {
    /// What an account is charged for `size_bytes` of share data: the length of a classic container.
    ///
    /// The figure does not depend on the backend (`accounting.md` 11).
    pub const fn charged_bytes(self, size_bytes: u64) -> u64 {
        size_bytes.saturating_add(match self {
            Self::Immutable => IMMUTABLE_OVERHEAD_BYTES,
            Self::Mutable => MUTABLE_OVERHEAD_BYTES,
        })
    }

    /// The word of the protocol's paths.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Immutable => "immutable",
            Self::Mutable => "mutable",
        }
    }
}

/// Where a share is in its life. *Coming* and *going* shares have no row among the shares: an upload or a garbage row
/// stands for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShareState {
    /// Being uploaded; not visible.
    Coming,
    /// Complete, leased, visible.
    Stable,
    /// Its objects vanished from the backend; leases are kept, clients do not see it.
    Lost,
    /// Deletion decided; its objects wait for the undo window to pass.
    Going,
}

impl ShareState {
    /// Whether a share may pass from one state (`None`: no share) to another.
    ///
    /// Source: the table of `accounting.md` 3, with *lost* between *stable* and forgotten.
    pub const fn may_become(from: Option<Self>, to: Option<Self>) -> bool {
        use ShareState::{Coming, Going, Lost, Stable};
        matches!(
            (from, to),
            (None, Some(Coming | Stable))
                | (Some(Coming), Some(Stable) | None)
                | (Some(Stable), Some(Going | Lost))
                | (Some(Lost), Some(Stable | Going))
                | (Some(Going), Some(Stable) | None)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_share_is_forgotten_or_unfinished_by_a_shortcut() {
        use ShareState::{Coming, Going, Lost, Stable};
        for (from, to) in [
            (Some(Stable), None),
            (Some(Stable), Some(Coming)),
            (Some(Coming), Some(Going)),
            (Some(Lost), None),
            (None, Some(Going)),
            (Some(Going), Some(Coming)),
        ] {
            assert!(!ShareState::may_become(from, to), "{from:?} -> {to:?}");
        }
        assert!(ShareState::may_become(Some(Going), Some(Stable)), "undo puts a share back");
    }
}
