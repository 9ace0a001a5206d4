//! Who a server is to its clients, and the addresses they are handed. Plain values: no files, no sockets.
//!
//! Clients pin the key, derive write enablers from the tub id, and order servers by the server id (`api.md` 1 F1 to F4):
//! if one of them changed, clients would lose the server or the right to write. So an identity is made once and kept for
//! ever. The server keeps it in a folder, the operator in a Secret.

mod handout;

use data_encoding::BASE64URL_NOPAD;
use leasehold_core::id::base32;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

pub use handout::{Handout, Name};

/// Why an identity is of no use.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A part is missing or damaged, or the parts do not belong together.
    #[error("{0}")]
    Malformed(String),
    /// No key could be made.
    #[error("cannot make a key")]
    Generate(#[from] rcgen::Error),
}

/// The four texts that make an identity, with the names they are kept under.
#[derive(Clone)]
pub struct IdentityTexts {
    /// `tls.key`: the TLS key, PEM.
    pub tls_key: Zeroizing<String>,
    /// `tls.crt`: the certificate, PEM.
    pub tls_crt: String,
    /// `tub.id`: 32 base32 characters.
    pub tub_id: String,
    /// `node.key`: an Ed25519 key, PEM.
    pub node_key: Zeroizing<String>,
}

impl std::fmt::Debug for IdentityTexts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentityTexts").field("tub_id", &self.tub_id).finish_non_exhaustive()
    }
}

/// What clients know of an identity; nothing of it is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicIdentity {
    /// SHA-256 of the certificate's public key, as it stands in a NURL: 43 characters.
    pub spki_hash: String,
    /// 32 base32 characters.
    pub tub_id: String,
    /// `v0-` and 52 base32 characters.
    pub server_id: String,
}

impl IdentityTexts {
    /// The names of the four texts, in the order of [`texts`](Self::texts).
    pub const NAMES: [&str; 4] = ["tls.key", "tls.crt", "tub.id", "node.key"];

    /// Makes an identity.
    ///
    /// # Errors
    /// [`IdentityError::Generate`].
    pub fn generate() -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "leasehold");
        // Clients pin the key and, for Foolscap, the very certificate: it must outlive everything.
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(9999, 12, 31);
        let certificate = params.self_signed(&key)?;
        let node = KeyPair::generate_for(&PKCS_ED25519)?;
        Ok(Self {
            tls_key: Zeroizing::new(key.serialize_pem()),
            tls_crt: certificate.pem(),
            tub_id: format!("{}\n", base32().encode(&Sha1::digest(certificate.der()))),
            node_key: Zeroizing::new(node.serialize_pem()),
        })
    }

    /// Reads the four texts by their names.
    ///
    /// # Errors
    /// What `read` says.
    pub fn read<E>(mut read: impl FnMut(&'static str) -> Result<String, E>) -> Result<Self, E> {
        let [tls_key, tls_crt, tub_id, node_key] = Self::NAMES;
        Ok(Self {
            tls_key: Zeroizing::new(read(tls_key)?),
            tls_crt: read(tls_crt)?,
            tub_id: read(tub_id)?,
            node_key: Zeroizing::new(read(node_key)?),
        })
    }

    /// The four texts, in the order of [`NAMES`](Self::NAMES).
    pub fn texts(&self) -> [&str; 4] {
        [&self.tls_key, &self.tls_crt, &self.tub_id, &self.node_key]
    }

    /// What clients know of it; checks that the texts are what they should be and belong together.
    ///
    /// # Errors
    /// [`IdentityError::Malformed`] names the text at fault.
    pub fn public(&self) -> Result<PublicIdentity, IdentityError> {
        let malformed = |problem: &str| IdentityError::Malformed(problem.to_owned());
        let certificate = CertificateDer::from_pem_slice(self.tls_crt.as_bytes())
            .map_err(|_| malformed("tls.crt holds no certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(self.tls_key.as_bytes())
            .map_err(|_| malformed("tls.key holds no private key"))?;
        let public =
            KeyPair::try_from(&key).map_err(|_| malformed("the key in tls.key is of a kind that is not supported"))?;
        let spki = public.subject_public_key_info();
        if !certificate.windows(spki.len()).any(|window| window == spki) {
            return Err(malformed("tls.crt does not belong to tls.key"));
        }
        let tub_id = self.tub_id.trim().to_owned();
        if base32().decode(tub_id.as_bytes()).map_or(0, |bytes| bytes.len()) != 20 {
            return Err(malformed("tub.id must hold 32 base32 characters"));
        }
        let node = KeyPair::from_pem(&self.node_key).map_err(|_| malformed("node.key holds no Ed25519 key"))?;
        Ok(PublicIdentity {
            spki_hash: BASE64URL_NOPAD.encode(&Sha256::digest(&spki)),
            tub_id,
            server_id: format!("v0-{}", base32().encode(node.der_bytes())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_what_its_texts_say_and_does_not_print() {
        let texts = IdentityTexts::generate().expect("made");
        let public = texts.public().expect("sound");
        assert_eq!((public.spki_hash.len(), public.tub_id.len(), public.server_id.len()), (43, 32, 55));
        let mut parts = texts.texts().into_iter();
        let again = IdentityTexts::read(|_| parts.next().map(str::to_owned).ok_or(())).expect("four texts");
        assert_eq!(again.public().expect("sound"), public);
        assert!(!format!("{texts:?}").contains("PRIVATE"), "{texts:?}");
    }

    #[test]
    fn texts_that_do_not_belong_together_are_refused_by_name() {
        let (texts, other) = (IdentityTexts::generate().expect("made"), IdentityTexts::generate().expect("made"));
        let cases = [
            (IdentityTexts { tls_key: other.tls_key.clone(), ..texts.clone() }, "tls.crt does not belong"),
            (IdentityTexts { tls_crt: String::new(), ..texts.clone() }, "tls.crt"),
            (IdentityTexts { tub_id: "short".to_owned(), ..texts.clone() }, "tub.id"),
            (IdentityTexts { node_key: Zeroizing::new("x".to_owned()), ..texts }, "node.key"),
        ];
        for (texts, expected) in cases {
            let error = texts.public().expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
