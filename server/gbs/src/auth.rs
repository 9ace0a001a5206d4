//! The account and the secrets that a request's headers carry (`gbs.md` 4).

use data_encoding::BASE64;
use http::{HeaderMap, header};
use leasehold_core::secret::{SecretHash, Swissnum, UploadSecret, WriteEnabler};

/// The kinds of secret in `X-Tahoe-Authorization` headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secret {
    /// Renews leases; checked for form, not kept.
    LeaseRenew,
    /// Cancels leases; checked for form, not kept.
    LeaseCancel,
    /// Proves who began an upload.
    Upload,
    /// Proves the right to write a slot.
    WriteEnabler,
}

impl Secret {
    const ALL: [Self; 4] = [Self::LeaseRenew, Self::LeaseCancel, Self::Upload, Self::WriteEnabler];

    /// The kind as the protocol spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LeaseRenew => "lease-renew-secret",
            Self::LeaseCancel => "lease-cancel-secret",
            Self::Upload => "upload-secret",
            Self::WriteEnabler => "write-enabler",
        }
    }
}

/// Headers that are refused: a 400 with a text that never quotes a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadHeader(pub String);

/// The secrets of one request; those that its endpoint needs are there.
#[derive(Debug, Default)]
pub struct Secrets {
    upload: Option<UploadSecret>,
    write_enabler: Option<WriteEnabler>,
}

impl Secrets {
    /// The upload secret of an endpoint that needs one.
    ///
    /// # Errors
    /// Never for such an endpoint: [`parse_secrets`] has seen to it.
    pub fn upload(&self) -> Result<&UploadSecret, BadHeader> {
        self.upload.as_ref().ok_or_else(|| BadHeader("upload-secret is missing".to_owned()))
    }

    /// The write enabler of an endpoint that needs one.
    ///
    /// # Errors
    /// Never for such an endpoint: [`parse_secrets`] has seen to it.
    pub fn write_enabler(&self) -> Result<&WriteEnabler, BadHeader> {
        self.write_enabler.as_ref().ok_or_else(|| BadHeader("write-enabler is missing".to_owned()))
    }
}

/// The credential that an `Authorization` header names; `None` if there is none of our scheme.
///
/// # Errors
/// [`BadHeader`] if the header is not UTF-8.
pub fn parse_authorization(headers: &HeaderMap) -> Result<Option<SecretHash>, BadHeader> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| BadHeader("Authorization is not UTF-8".to_owned()))?;
    let swissnum = text.strip_prefix("Tahoe-LAFS ").and_then(|encoded| BASE64.decode(encoded.as_bytes()).ok());
    Ok(swissnum.and_then(|bytes| Swissnum::new(bytes).ok()).map(|swissnum| swissnum.credential_hash()))
}

/// Takes the secrets from the headers: all that are `needed` and no other.
///
/// # Errors
/// [`BadHeader`] for one that is missing, not needed, repeated, of unknown kind, malformed or of wrong length.
pub fn parse_secrets(headers: &HeaderMap, needed: &[Secret]) -> Result<Secrets, BadHeader> {
    let mut secrets = Secrets::default();
    let mut seen = [false; 4];
    for value in headers.get_all("x-tahoe-authorization") {
        let (kind, bytes) = parse_secret(value.as_bytes())?;
        let bad = |problem: &str| BadHeader(format!("{} {problem}", kind.as_str()));
        if !needed.contains(&kind) {
            return Err(bad("does not belong to this request"));
        }
        if std::mem::replace(&mut seen[kind as usize], true) {
            return Err(bad("is given twice"));
        }
        let length = bad("has a length that is not allowed");
        match kind {
            Secret::LeaseRenew | Secret::LeaseCancel if bytes.len() != 32 => return Err(length),
            Secret::LeaseRenew | Secret::LeaseCancel => {}
            Secret::Upload => secrets.upload = Some(UploadSecret::new(bytes).map_err(|_| length)?),
            Secret::WriteEnabler => secrets.write_enabler = Some(WriteEnabler::new(bytes).map_err(|_| length)?),
        }
    }
    match needed.iter().find(|kind| !seen[**kind as usize]) {
        Some(missing) => Err(BadHeader(format!("{} is missing", missing.as_str()))),
        None => Ok(secrets),
    }
}

fn parse_secret(value: &[u8]) -> Result<(Secret, Vec<u8>), BadHeader> {
    let text = std::str::from_utf8(value).map_err(|_| BadHeader("X-Tahoe-Authorization is not UTF-8".to_owned()))?;
    let (kind, encoded) = text
        .trim()
        .split_once(' ')
        .ok_or_else(|| BadHeader("X-Tahoe-Authorization must be a kind and a secret".to_owned()))?;
    let kind = Secret::ALL
        .into_iter()
        .find(|known| known.as_str() == kind)
        .ok_or_else(|| BadHeader("X-Tahoe-Authorization has an unknown kind".to_owned()))?;
    let bytes = BASE64.decode(encoded.trim().as_bytes()).ok().filter(|bytes| !bytes.is_empty());
    bytes.map(|bytes| (kind, bytes)).ok_or_else(|| BadHeader(format!("{} is not base64", kind.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for value in values {
            map.append("X-Tahoe-Authorization", HeaderValue::from_str(value).expect("ASCII"));
        }
        map
    }

    #[test]
    fn secrets_must_be_exactly_those_needed() {
        let upload = [Secret::Upload];
        for good in ["upload-secret eA==", "  upload-secret eA==  ", "upload-secret  eA=="] {
            assert!(parse_secrets(&headers(&[good]), &upload).is_ok(), "{good}");
        }
        for bad in [
            &["upload-secret"][..],
            &["FOO eA=="],
            &["upload-secret x"],
            &["upload-secret eA"],
            &["upload-secret e-A=="],
            &["upload-secret eA==", "upload-secret eQ=="],
            &["upload-secret eA==, upload-secret eQ=="],
            &["UPLOAD-SECRET eA=="],
            &["upload-secret []<>"],
            &["lease-renew-secret eA=="],
            &["upload-secret eA==", "write-enabler eA=="],
            &[],
        ] {
            let error = parse_secrets(&headers(bad), &upload).expect_err("refused");
            assert!(!error.0.contains("eA") && !error.0.contains("[]"), "{error:?} quotes a secret");
        }
        assert!(parse_secrets(&headers(&["upload-secret eA=="]), &[]).is_err());
    }
}
