//! One request: method, path, headers, body; the parts every request needs are added unless they were set.

use std::fmt::Write as _;

use data_encoding::{BASE64, Encoding, Specification};

use super::Nurl;

/// The kinds of secret in `X-Tahoe-Authorization` headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretKind {
    /// Renews a lease.
    LeaseRenew,
    /// Would cancel a lease.
    LeaseCancel,
    /// Owns an upload.
    Upload,
    /// Allows changes of a slot.
    WriteEnabler,
}

impl SecretKind {
    /// As it stands in the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LeaseRenew => "lease-renew-secret",
            Self::LeaseCancel => "lease-cancel-secret",
            Self::Upload => "upload-secret",
            Self::WriteEnabler => "write-enabler",
        }
    }
}

/// The text form of a storage index: 26 characters of base32.
pub fn storage_index_text(storage_index: &[u8; 16]) -> String {
    static BASE32: std::sync::LazyLock<Encoding> = std::sync::LazyLock::new(|| {
        let mut specification = Specification::new();
        specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
        specification.encoding().expect("a constant alphabet of 32 different characters")
    });
    BASE32.encode(storage_index)
}

/// One request, as it will stand on the wire.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method, in capitals unless it should be wrong.
    pub method: String,
    /// The target: path and perhaps a query.
    pub path: String,
    /// Headers in order, beside `Host`, `Authorization` and `Content-Length`, which are added if absent.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body; may be empty.
    pub body: Vec<u8>,
    /// Whether to add the account's `Authorization`.
    pub authorized: bool,
}

impl Request {
    /// A request without headers and body.
    pub fn new(method: &str, path: impl Into<String>) -> Self {
        Self { method: method.to_owned(), path: path.into(), headers: Vec::new(), body: Vec::new(), authorized: true }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// Adds a secret.
    #[must_use]
    pub fn secret(self, kind: SecretKind, secret: &[u8]) -> Self {
        self.header("X-Tahoe-Authorization", format!("{} {}", kind.as_str(), BASE64.encode(secret)))
    }

    /// Adds both lease secrets.
    #[must_use]
    pub fn lease_secrets(self, secrets: &[[u8; 32]; 2]) -> Self {
        self.secret(SecretKind::LeaseRenew, &secrets[0]).secret(SecretKind::LeaseCancel, &secrets[1])
    }

    /// Asks for a CBOR answer.
    #[must_use]
    pub fn accept_cbor(self) -> Self {
        self.header("Accept", "application/cbor")
    }

    /// Sets a CBOR body.
    #[must_use]
    pub fn cbor(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self.header("Content-Type", "application/cbor")
    }

    /// Sets a body without a type.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Leaves the `Authorization` away, or to an own header.
    #[must_use]
    pub fn unauthorized(mut self) -> Self {
        self.authorized = false;
        self
    }

    /// Writes everything before the body to `out`, which is cleared first.
    pub fn encode_head(&self, nurl: &Nurl, out: &mut Vec<u8>) {
        out.clear();
        let mut line = String::with_capacity(256);
        let _ = write!(line, "{} {} HTTP/1.1\r\nHost: {}\r\n", self.method, self.path, nurl.authority());
        if self.authorized {
            let _ = write!(line, "Authorization: {}\r\n", nurl.authorization());
        }
        let sends_body = matches!(self.method.as_str(), "POST" | "PUT" | "PATCH") || !self.body.is_empty();
        let has_length = |(name, _): &(String, Vec<u8>)| {
            name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding")
        };
        if sends_body && !self.headers.iter().any(has_length) {
            let _ = write!(line, "Content-Length: {}\r\n", self.body.len());
        }
        out.extend_from_slice(line.as_bytes());
        for (name, value) in &self.headers {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_indexes_have_26_characters() {
        assert_eq!(storage_index_text(&[0; 16]), "a".repeat(26));
        assert_eq!(storage_index_text(&[255; 16]), format!("{}4", "7".repeat(25)));
    }
}
