//! The protocol's secrets: compared in constant time, redacted when printed, wiped when dropped.
//!
//! Only tagged hashes of them are ever stored. The values are random and at least 128 bits long, so a fast hash will do
//! (`design.md` 14). Lease secrets are not kept at all: a lease belongs to an account.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A SHA-256 over one kind of secret; equality takes constant time.
#[derive(Clone, Copy)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Wraps a stored hash.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes to store.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn tagged(tag: &str, secret: &[u8]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(tag.as_bytes());
        hasher.update([0]);
        hasher.update(secret);
        Self(hasher.finalize().into())
    }
}

impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretHash {}

impl std::hash::Hash for SecretHash {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

/// A secret of a length that its kind does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{kind} has a length that is not allowed")]
pub struct SecretLengthError {
    /// The kind, as the protocol spells it.
    pub kind: &'static str,
}

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $lengths:expr, $tag:literal) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(Zeroizing<Vec<u8>>);

        impl $name {
            /// Takes the bytes from the wire.
            ///
            /// # Errors
            /// [`SecretLengthError`] if the length is not one that this kind may have.
            pub fn new(bytes: Vec<u8>) -> Result<Self, SecretLengthError> {
                let bytes = Zeroizing::new(bytes);
                if $lengths.contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(SecretLengthError { kind: $kind }) }
            }

            /// The hash that may be stored.
            pub fn hash(&self) -> SecretHash {
                SecretHash::tagged($tag, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

secret!(
    /// Proves that a PATCH or an abort comes from whoever allocated the upload. 1 to 256 bytes (`gbs.md` 4.2).
    UploadSecret, "upload-secret", 1..=256usize, "leasehold upload secret v1"
);
secret!(
    /// Proves the right to write a slot. Exactly 32 bytes (`gbs.md` 4.2).
    WriteEnabler, "write-enabler", 32..=32usize, "leasehold write enabler v1"
);
secret!(
    /// Names a service of an account. The only credential a client has.
    Swissnum, "swissnum", 1..=256usize, "leasehold swissnum v1"
);

impl WriteEnabler {
    /// The bytes, for a classic container, which keeps them as they are.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Swissnum {
    /// Makes a new one: 32 random bytes as base32 text, 52 characters.
    pub fn generate(entropy: &crate::clock::Entropy) -> Self {
        Self(Zeroizing::new(crate::id::base32().encode(&entropy.bytes::<32>()).into_bytes()))
    }

    /// The text, to be handed to the account's owner and to nobody else.
    pub fn reveal(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The SHA-256 under which the credential is stored and looked up.
    pub fn credential_hash(&self) -> SecretHash {
        self.hash()
    }

    /// The first eight hex digits of a credential's hash: safe to log and to quote.
    pub fn fingerprint(hash: &SecretHash) -> String {
        data_encoding::HEXLOWER.encode(&hash.as_bytes()[..4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_checked_and_nothing_is_printed() {
        assert!(WriteEnabler::new(vec![7; 31]).is_err());
        assert!(UploadSecret::new(Vec::new()).is_err());
        assert!(UploadSecret::new(vec![7; 257]).is_err());
        let secret = WriteEnabler::new(vec![7; 32]).expect("32 bytes");
        assert_eq!(format!("{secret:?} {:?}", secret.hash()), "WriteEnabler(..) SecretHash(..)");
    }

    #[test]
    fn kinds_hash_apart() {
        let enabler = WriteEnabler::new(vec![7; 32]).expect("32 bytes");
        let upload = UploadSecret::new(vec![7; 32]).expect("32 bytes");
        assert_ne!(enabler.hash(), upload.hash());
    }
}
