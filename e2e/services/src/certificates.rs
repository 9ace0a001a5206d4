//! A certificate authority of the tests' own, for services that speak TLS.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

/// A certificate authority that exists in one process; only its certificate is written down.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its private key, both as PEM.
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// Who a certificate speaks of, for those who look at more than host names.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject {
    /// The common name: with Kubernetes, the user.
    pub name: Option<&'static str>,
    /// The organization: with Kubernetes, the user's group.
    pub group: Option<&'static str>,
}

impl Authority {
    /// Makes an authority with a fresh key.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Leasehold test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?).context("make a test authority")?;
        Ok(Self { issuer })
    }

    /// Issues a server certificate for `names`, each a host name or an IP address.
    pub fn issue(&self, names: &[&str]) -> Result<Issued> {
        self.issue_to(&Subject::default(), names)
    }

    /// Issues a certificate by which `subject` may also prove itself as a client.
    pub fn issue_to(&self, subject: &Subject, names: &[&str]) -> Result<Issued> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names).context("name a test certificate")?;
        for (kind, value) in [(DnType::CommonName, subject.name), (DnType::OrganizationName, subject.group)] {
            if let Some(value) = value {
                params.distinguished_name.push(kind, value);
            }
        }
        let certificate = params.signed_by(&key, &self.issuer).context("issue a test certificate")?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// The authority's own certificate as PEM.
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// Writes the authority's certificate to `<folder>/authority.pem` and gives that path.
    pub fn write_certificate(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join("authority.pem");
        fs::write(&path, self.certificate()).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}
