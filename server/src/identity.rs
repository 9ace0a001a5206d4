//! Who a server is to its clients: TLS key, certificate, tub id and server id. Made once, kept for ever.
//!
//! Clients pin the key, derive write enablers from the tub id, and order servers by the server id (`api.md` 1 F1 to F4):
//! if one of them changed, clients would lose the server or the right to write.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use leasehold_core::id::base32;
use leasehold_identity::{IdentityTexts, PublicIdentity};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha1::{Digest, Sha1};

use crate::client_certificate::AnyProvenKey;

/// A server's identity.
#[derive(Clone)]
pub struct Identity {
    /// What clients know of it.
    pub public: PublicIdentity,
    certificate: CertificateDer<'static>,
    key: Arc<PrivateKeyDer<'static>>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("server_id", &self.public.server_id).finish_non_exhaustive()
    }
}

impl Identity {
    /// Loads the identity in `folder`, or makes one if there is none.
    ///
    /// # Errors
    /// Files are missing, unreadable or do not belong together; nothing is ever overwritten.
    pub fn load_or_create(folder: &Path) -> anyhow::Result<Self> {
        if !folder.exists() {
            create(folder).with_context(|| format!("cannot make an identity in {}", folder.display()))?;
        }
        Self::load(folder)
    }

    /// Loads the identity in `folder`.
    ///
    /// # Errors
    /// Files are missing, unreadable or do not belong together.
    pub fn load(folder: &Path) -> anyhow::Result<Self> {
        let texts = IdentityTexts::read(|name| {
            let path = folder.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read the identity file {}", path.display()))
        })?;
        let unusable = || format!("cannot use the identity in {}", folder.display());
        let public = texts.public().with_context(unusable)?;
        let certificate = CertificateDer::from_pem_slice(texts.tls_crt.as_bytes()).with_context(unusable)?;
        let key = PrivateKeyDer::from_pem_slice(texts.tls_key.as_bytes()).with_context(unusable)?;
        Ok(Self { public, certificate, key: Arc::new(key) })
    }

    /// TLS as clients need it: this one certificate for every name, no ALPN, no resumption (`gbs.md` 2).
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn tls_config(&self) -> anyhow::Result<rustls::ServerConfig> {
        self.tls_config_with(|_| rustls::server::WebPkiClientVerifier::no_client_auth())
    }

    /// The same for Foolscap, whose clients prove who they are (`foolscap.md` 2).
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn foolscap_tls_config(&self) -> anyhow::Result<rustls::ServerConfig> {
        self.tls_config_with(|algorithms| Arc::new(AnyProvenKey::new(algorithms)))
    }

    /// Whether the tub id is that of the certificate: clients of Foolscap accept no other.
    pub fn proves_tub_id(&self) -> bool {
        self.public.tub_id == base32().encode(&Sha1::digest(&self.certificate))
    }

    fn tls_config_with(
        &self,
        clients: impl FnOnce(WebPkiSupportedAlgorithms) -> Arc<dyn ClientCertVerifier>,
    ) -> anyhow::Result<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients = clients(provider.signature_verification_algorithms);
        let key = provider.key_provider.load_private_key(self.key.clone_key()).context("cannot use the TLS key")?;
        // Not `with_single_cert`: that refuses the X.509 version 1 certificates of Python nodes that move here.
        let certified = Arc::new(CertifiedKey::new(vec![self.certificate.clone()], key));
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("no TLS version is left")?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::new(OneCertificate(certified)));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

#[derive(Debug)]
struct OneCertificate(Arc<CertifiedKey>);

impl ResolvesServerCert for OneCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// Makes all files in a folder beside, then renames it: an identity exists whole or not at all.
fn create(folder: &Path) -> anyhow::Result<()> {
    let texts = IdentityTexts::generate()?;
    let making = folder.with_extension("new");
    if making.exists() {
        fs::remove_dir_all(&making)?;
    }
    fs::create_dir_all(&making)?;
    for (name, content) in IdentityTexts::NAMES.into_iter().zip(texts.texts()) {
        write_private(&making.join(name), content.as_bytes())?;
    }
    fs::File::open(&making)?.sync_all()?;
    fs::rename(&making, folder)?;
    let parent = folder.parent().context("an identity folder has a parent")?;
    Ok(fs::File::open(parent)?.sync_all()?)
}

/// Writes a file that only its owner may read, durably and all at once.
///
/// # Errors
/// It cannot be written.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let making = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&making)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&making, path)?;
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_loaded_ever_after() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("identity");
        let made = Identity::load_or_create(&path).expect("made");
        let loaded = Identity::load_or_create(&path).expect("loaded");
        assert_eq!(made.public, loaded.public);
        made.tls_config().expect("usable");
        made.foolscap_tls_config().expect("usable");
        assert!(made.proves_tub_id());
        let other = IdentityTexts::generate().expect("made");
        fs::write(path.join("tls.key"), other.tls_key.as_bytes()).expect("written");
        assert!(Identity::load(&path).is_err(), "a key that does not belong to the certificate");
    }
}
