//! Addresses: tub ids, incarnations and FURLs.
//!
//! Source: `foolscap.md` 1.

use std::fmt;
use std::str::FromStr;

use data_encoding::{Encoding, HEXLOWER, Specification};
use sha1::{Digest, Sha1};

const TUB_ID_LENGTH: usize = 32;

/// Who an endpoint is: the SHA-1 of its certificate, as 32 characters of base32. Ordered as text, as masters are chosen.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TubId(String);

impl TubId {
    /// The tub id of a certificate in DER.
    pub fn of_certificate(der: &[u8]) -> Self {
        Self(base32().encode(&Sha1::digest(der)))
    }

    /// Its 32 characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TubId({})", self.0)
    }
}

/// A text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not 32 characters of base32.
    #[error("a tub id has 32 characters, a to z and 2 to 7")]
    TubId,
    /// Not `pb://TUBID@HINT,…/NAME`.
    #[error("a furl looks like pb://TUBID@tcp:HOST:PORT/NAME")]
    Furl,
    /// Not 16 hexadecimal digits.
    #[error("an incarnation has 16 hexadecimal digits")]
    Incarnation,
}

impl FromStr for TubId {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let is_base32 = base32().decode(text.as_bytes()).is_ok();
        if text.len() == TUB_ID_LENGTH && is_base32 { Ok(Self(text.to_owned())) } else { Err(AddressError::TubId) }
    }
}

/// One run of an endpoint: random, so that what another run remembers is never mistaken for this one's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Incarnation(String);

impl Incarnation {
    /// Makes one of random bytes.
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(HEXLOWER.encode(&bytes))
    }

    /// Its 16 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Incarnation {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| AddressError::Incarnation)?;
        Ok(Self::from_bytes(bytes.try_into().map_err(|_| AddressError::Incarnation)?))
    }
}

/// Where an object is. The name is a secret: `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Furl {
    /// Whose it is.
    pub tub_id: TubId,
    /// Where to connect, such as `tcp:host:port`.
    pub hints: Vec<String>,
    /// Its name there.
    pub name: String,
}

impl FromStr for Furl {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let rest = text.strip_prefix("pb://").ok_or(AddressError::Furl)?;
        let (address, name) = rest.split_once('/').ok_or(AddressError::Furl)?;
        let (tub_id, hints) = address.split_once('@').ok_or(AddressError::Furl)?;
        if name.is_empty() {
            return Err(AddressError::Furl);
        }
        let hints = hints.split(',').filter(|hint| !hint.is_empty()).map(str::to_owned).collect();
        Ok(Self { tub_id: tub_id.parse()?, hints, name: name.to_owned() })
    }
}

impl fmt::Display for Furl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pb://{}@{}/{}", self.tub_id, self.hints.join(","), self.name)
    }
}

impl fmt::Debug for Furl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Furl").field("tub_id", &self.tub_id).field("hints", &self.hints).finish_non_exhaustive()
    }
}

/// RFC 4648 in lower case, without padding.
fn base32() -> Encoding {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification.encoding().expect("the alphabet is well formed")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TUB_ID: &str = "icxmug7l5ore6tbmnsftvssyep4fizhb";

    #[test]
    fn a_furl_is_read_as_it_is_written() {
        for hints in ["tcp:storage.example.org:4443", "tcp:10.0.0.1:1,tcp:[::1]:2", "host:1", ""] {
            let text = format!("pb://{TUB_ID}@{hints}/swissnum/with/slashes");
            let furl: Furl = text.parse().unwrap();
            assert_eq!(furl.to_string(), text);
            assert_eq!(furl.name, "swissnum/with/slashes");
            assert!(!format!("{furl:?}").contains("swissnum"));
        }
    }

    #[test]
    fn what_is_no_furl_is_refused() {
        let long = format!("pb://{TUB_ID}a@h:1/n");
        for text in ["", "pb://", "http://x@y/z", "pb://short@h:1/n", &long, &format!("pb://{TUB_ID}@h:1/")] {
            assert!(text.parse::<Furl>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_tub_id_is_the_hash_of_a_certificate() {
        assert_eq!(TubId::of_certificate(b"").as_str(), "3i42h3s6nnfq2msvx7xzkyayscx5qbyj");
        assert!("0cxmug7l5ore6tbmnsftvssyep4fizhb".parse::<TubId>().is_err());
    }
}
