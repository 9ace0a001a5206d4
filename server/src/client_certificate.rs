//! Certificates of Foolscap clients: whatever they say is not believed, but their key must be proven (`foolscap.md` 2.3).
//!
//! Every client makes its own, mostly of X.509 version 1 and long expired. It names the client by its SHA-1, so who could
//! show another's certificate without its key could have that client's connections closed and its uploads ended. Hence
//! the handshake's signature is checked against the raw key, which works for every version.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerMisbehaved, SignatureScheme,
};

/// The shortest RSA key that is accepted; the reference server on a present OpenSSL accepts no shorter one either.
const RSA_BITS_MIN: usize = 2048;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const VERSION: u8 = 0xa0;
const RSA_ENCRYPTION: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// Why a client's key is not accepted.
#[derive(Debug, thiserror::Error)]
#[error("its RSA key has {bits} bits, and at least {RSA_BITS_MIN} are needed")]
pub struct WeakKey {
    /// Length of the modulus.
    bits: usize,
}

/// The refusal of a weak key, if that is what a handshake failed for.
pub fn weak_key(error: &std::io::Error) -> Option<&WeakKey> {
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) => cause.downcast_ref(),
        _ => None,
    }
}

/// Accepts any certificate whose key is proven.
#[derive(Debug)]
pub struct AnyProvenKey {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyProvenKey {
    /// Checks signatures with these algorithms.
    pub const fn new(algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { algorithms }
    }
}

impl ClientCertVerifier for AnyProvenKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    /// Who shows none is told so by the protocol inside.
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match key_of(certificate)?.rsa_bits() {
            Some(bits) if bits < RSA_BITS_MIN => {
                Err(CertificateError::Other(OtherError(Arc::new(WeakKey { bits }))).into())
            }
            _ => Ok(ClientCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = key_of(certificate)?;
        let known = self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
        let algorithms = known.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?.1;
        let fitting = algorithms.iter().filter(|algorithm| algorithm.public_key_alg_id().as_ref() == key.algorithm);
        let verified = fitting
            .map(|algorithm| algorithm.verify_signature(key.bits, message, signed.signature()))
            .any(|result| result.is_ok());
        if verified { Ok(HandshakeSignatureValid::assertion()) } else { Err(CertificateError::BadSignature.into()) }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key_of(certificate)?.whole);
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A SubjectPublicKeyInfo.
#[derive(Clone, Copy, Debug)]
struct PublicKey<'a> {
    whole: &'a [u8],
    /// The contents of its AlgorithmIdentifier.
    algorithm: &'a [u8],
    /// The contents of its bit string.
    bits: &'a [u8],
}

impl PublicKey<'_> {
    /// The length of the modulus, if it is an RSA key; 0 for one that is none.
    fn rsa_bits(&self) -> Option<usize> {
        if !self.algorithm.starts_with(RSA_ENCRYPTION) {
            return None;
        }
        let modulus = Der(self.bits).enter(SEQUENCE).and_then(|mut key| key.take(INTEGER));
        let modulus = modulus.map_or(&[][..], |modulus| modulus.contents);
        let start = modulus.iter().position(|byte| *byte != 0).unwrap_or(modulus.len());
        let (modulus, leading) = (&modulus[start..], modulus.get(start).map_or(0, |byte| byte.leading_zeros()));
        Some(modulus.len() * 8 - leading as usize)
    }
}

fn key_of<'a>(certificate: &'a CertificateDer<'_>) -> Result<PublicKey<'a>, Error> {
    find_key(certificate.as_ref()).ok_or_else(|| CertificateError::BadEncoding.into())
}

/// Walks to the key of a certificate of any version.
fn find_key(certificate: &[u8]) -> Option<PublicKey<'_>> {
    let mut fields = Der(certificate).enter(SEQUENCE)?.enter(SEQUENCE)?;
    if fields.0.first() == Some(&VERSION) {
        fields.take(VERSION)?;
    }
    fields.take(INTEGER)?;
    for _signature_issuer_validity_subject in 0..4 {
        fields.take(SEQUENCE)?;
    }
    let key = fields.take(SEQUENCE)?;
    let mut parts = Der(key.contents);
    let algorithm = parts.take(SEQUENCE)?.contents;
    // The first byte counts unused bits at the end, of which keys have none.
    let bits = parts.take(BIT_STRING)?.contents.strip_prefix(&[0])?;
    Some(PublicKey { whole: key.whole, algorithm, bits })
}

/// What is left of some DER.
struct Der<'a>(&'a [u8]);

struct Element<'a> {
    whole: &'a [u8],
    contents: &'a [u8],
}

impl<'a> Der<'a> {
    /// The next element, which must have this tag.
    fn take(&mut self, tag: u8) -> Option<Element<'a>> {
        let (&[found, first], rest) = self.0.split_first_chunk::<2>()?;
        // Lengths of up to three bytes: more than any handshake carries.
        let count = if first < 0x80 { 0 } else { usize::from(first & 0x7f) };
        if found != tag || count > 3 || first == 0x80 {
            return None;
        }
        let (long, rest) = rest.split_at_checked(count)?;
        let length = if count == 0 {
            usize::from(first)
        } else {
            long.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
        };
        let (contents, left) = rest.split_at_checked(length)?;
        let whole = &self.0[..self.0.len() - left.len()];
        self.0 = left;
        Some(Element { whole, contents })
    }

    /// What is in the next element.
    fn enter(mut self, tag: u8) -> Option<Self> {
        self.take(tag).map(|element| Self(element.contents))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn the_key_of_a_version_3_certificate_is_found() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let certificate = CertificateParams::default().self_signed(&key).expect("a certificate");
        let found = find_key(certificate.der()).expect("found");
        assert_eq!(found.whole, key.subject_public_key_info());
        assert_eq!(found.rsa_bits(), None);
        for end in 0..certificate.der().len() {
            let _ = find_key(&certificate.der()[..end]);
        }
    }

    #[test]
    fn a_short_rsa_key_is_refused_with_a_reason() {
        let read = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
        let verifier =
            AnyProvenKey::new(rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms);
        let verify = |certificate: &CertificateDer<'_>| {
            let result = verifier.verify_client_cert(certificate, &[], UnixTime::since_unix_epoch(Duration::ZERO));
            result.map_err(std::io::Error::other)
        };
        let version_1 = read(include_str!("../tests/vectors/foolscap/version_1.pem"));
        assert_eq!(find_key(&version_1).and_then(|key| key.rsa_bits()), Some(2048));
        verify(&version_1).expect("accepted");
        let error = verify(&read(include_str!("../tests/vectors/foolscap/rsa_1024.pem"))).expect_err("refused");
        assert_eq!(
            weak_key(&error).expect("told").to_string(),
            "its RSA key has 1024 bits, and at least 2048 are needed"
        );
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_no_certificate(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(key) = find_key(&bytes) {
                let _ = key.rsa_bits();
            }
        }
    }
}
