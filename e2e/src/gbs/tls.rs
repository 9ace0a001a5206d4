//! TLS as the released client does it: no names, no dates, no authorities; the hash of the public key, or of the
//! certificate, must be the pinned one.

use std::sync::Arc;

use anyhow::Context;
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, DistinguishedName, SignatureScheme};

/// What a server is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// The SHA-256 of its public key: GBS.
    Key([u8; 32]),
    /// The SHA-1 of its certificate: Foolscap.
    Certificate([u8; 20]),
}

/// A configuration that accepts exactly the servers whose public key has this hash.
///
/// Like the released client it sends neither a server name nor ALPN and resumes nothing.
///
/// # Errors
/// Never with a working cryptography provider.
pub fn client_config(spki_hash: [u8; 32]) -> anyhow::Result<Arc<ClientConfig>> {
    Ok(quiet(pinning(Pin::Key(spki_hash))?.with_no_client_auth()))
}

/// The same for a server of this certificate, to whom a certificate is shown.
///
/// # Errors
/// Never with a working cryptography provider.
pub fn client_config_with(
    pin: Pin,
    certificate: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> anyhow::Result<Arc<ClientConfig>> {
    Ok(quiet(pinning(pin)?.with_client_auth_cert(certificate, key)?))
}

fn pinning(pin: Pin) -> anyhow::Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(Pinned { pin, provider: provider.clone() });
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.context("no TLS versions")?.dangerous().with_custom_certificate_verifier(verifier))
}

fn quiet(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.enable_sni = false;
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

/// Accepts one server and asks nothing else of its certificate.
#[derive(Debug)]
struct Pinned {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !intermediates.is_empty() {
            return Err(rustls::Error::General("more than one certificate".into()));
        }
        let hash = |algorithm, bytes: &[u8]| aws_lc_rs::digest::digest(algorithm, bytes);
        let is_pinned = match &self.pin {
            Pin::Key(expected) => hash(&aws_lc_rs::digest::SHA256, spki(end_entity)?).as_ref() == expected,
            Pin::Certificate(expected) => {
                hash(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, end_entity).as_ref() == expected
            }
        };
        if !is_pinned {
            return Err(rustls::Error::General("another server than the pinned one".into()));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // The raw key, because the certificates of Python nodes are of X.509 version 1, which webpki does not read.
        let key = SubjectPublicKeyInfoDer::from(spki(certificate)?);
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}

/// The SubjectPublicKeyInfo of a certificate, with its DER header.
fn spki<'a>(certificate: &'a CertificateDer<'_>) -> Result<&'a [u8], rustls::Error> {
    find_spki(certificate.as_ref()).ok_or_else(|| rustls::Error::General("certificate is not DER".into()))
}

fn find_spki(certificate: &[u8]) -> Option<&[u8]> {
    let (outer, _) = element(certificate)?;
    let (to_be_signed, _) = element(outer.content)?;
    let mut rest = to_be_signed.content;
    if rest.first() == Some(&0xa0) {
        rest = element(rest)?.1; // version, absent in version 1
    }
    for _ in 0..5 {
        rest = element(rest)?.1; // serial number, algorithm, issuer, validity, subject
    }
    Some(element(rest)?.0.whole)
}

struct Element<'a> {
    whole: &'a [u8],
    content: &'a [u8],
}

/// Splits the first DER element off.
fn element(bytes: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let first = usize::from(*bytes.get(1)?);
    let (header, length) = if first < 0x80 {
        (2, first)
    } else {
        let count = first & 0x7f;
        let digits = bytes.get(2..2 + count).filter(|_| (1..=4).contains(&count))?;
        (2 + count, digits.iter().fold(0, |sum, &digit| (sum << 8) | usize::from(digit)))
    };
    let end = header.checked_add(length)?;
    let whole = bytes.get(..end)?;
    Some((Element { whole, content: &whole[header..] }, &bytes[end..]))
}
