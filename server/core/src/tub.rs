//! Clients whose uploads end with their connection: those of Foolscap, where an endpoint is called a Tub.
//!
//! A Tub has one connection to a server at a time. So what it began on any other is what a connection left that died,
//! on this process or on another (`foolscap.md` 18.4).

use std::str::FromStr;

use crate::id::{ParseIdError, base32};

/// The longest incarnation that is kept; real ones have 16 characters.
const INCARNATION_MAX: usize = 32;

/// The name of a Tub: the SHA-1 of the certificate whose key it has proven to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TubId(pub [u8; 20]);

impl FromStr for TubId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let bytes = base32().decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(ParseIdError { what: "tub id" })
    }
}

/// One connection of a Tub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TubConnection {
    /// Who is connected.
    pub tub_id: TubId,
    /// Drawn by the server for this connection alone.
    pub id: [u8; 16],
    incarnation: String,
}

impl TubConnection {
    /// Puts the parts together; of what the client calls its present run, no more is kept than real ones have.
    pub fn new(tub_id: TubId, incarnation: &str, id: [u8; 16]) -> Self {
        let plain = incarnation.chars().filter(char::is_ascii_alphanumeric);
        Self { tub_id, id, incarnation: plain.take(INCARNATION_MAX).collect() }
    }

    /// Which run of the client it is, in letters and digits, for people.
    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_calls_its_run_is_bounded() {
        let connection = TubConnection::new(TubId([1; 20]), &"a\0\n b".repeat(100), [2; 16]);
        assert_eq!(connection.incarnation(), "ab".repeat(16));
    }
}
