//! What a connection may cost.
//!
//! Source: `foolscap.md` 11; sizes are the protocol's own where it has any.

use std::time::Duration;

/// Limits of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sizes of what is read, once an object was asked for by its name.
    pub sizes: SizeLimits,
    /// The same before that, while nobody knows who is there.
    pub unnamed_sizes: SizeLimits,
    /// The most calls before the first name that is right.
    pub unnamed_calls_max: u32,
    /// The most time until then.
    pub unnamed_time_max: Duration,
    /// The most time for the whole negotiation.
    pub negotiation_time_max: Duration,
    /// The most calls under way.
    pub calls_max: usize,
    /// The most memory of calls under way; one larger call may be under way alone.
    pub calls_bytes_max: u64,
    /// The most objects that either side may hold of the other.
    pub references_max: usize,
    /// A PING is sent when nothing was received for so long.
    pub ping_after: Duration,
    /// The connection is lost when nothing was received for so long.
    pub lost_after: Duration,
    /// A new connection of a client replaces one on which nothing was received for so long, whatever it says of it.
    pub replaced_after: Duration,
    /// The connection is lost when nothing could be sent for so long.
    pub stalled_after: Duration,
    /// A retired connection is closed when nothing was called on it for so long.
    pub retired_rest: Duration,
}

/// Sizes of what is read.
#[derive(Clone, Copy, Debug)]
pub struct SizeLimits {
    /// The most sequences within each other.
    pub nesting_max: usize,
    /// The most sequences in a call.
    pub opens_max: u32,
    /// The longest string, whatever the method takes.
    pub string_bytes_max: u64,
    /// The most memory of a call.
    pub call_bytes_max: u64,
    /// The most bytes of a call on the wire, if that is limited.
    pub wire_bytes_max: Option<u64>,
    /// Memory that a call may hold without asking for it.
    pub unreserved_bytes: u64,
}

impl Default for SizeLimits {
    fn default() -> Self {
        Self {
            nesting_max: 12,
            opens_max: 65_536,
            string_bytes_max: 64 << 20,
            call_bytes_max: 128 << 20,
            wire_bytes_max: None,
            unreserved_bytes: 16 << 10,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sizes: SizeLimits::default(),
            unnamed_sizes: SizeLimits { wire_bytes_max: Some(4096), ..SizeLimits::default() },
            unnamed_calls_max: 20,
            unnamed_time_max: Duration::from_secs(60),
            negotiation_time_max: Duration::from_secs(60),
            calls_max: 64,
            calls_bytes_max: 8 << 20,
            references_max: 65_536,
            ping_after: Duration::from_secs(30),
            lost_after: Duration::from_secs(120),
            replaced_after: Duration::from_secs(10),
            stalled_after: Duration::from_secs(120),
            retired_rest: Duration::from_secs(10),
        }
    }
}
