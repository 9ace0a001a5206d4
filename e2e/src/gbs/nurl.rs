//! Addresses: `pb://<hash of the public key>@<host>:<port>/<swissnum>#v=1`.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, bail, ensure};
use data_encoding::{BASE64, BASE64URL_NOPAD};

/// The address of one account on one server.
#[derive(Clone, PartialEq, Eq)]
pub struct Nurl {
    /// SHA-256 of the server's SubjectPublicKeyInfo in DER.
    pub spki_hash: [u8; 32],
    /// Name or address; IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// What opens the account.
    pub swissnum: String,
}

impl Nurl {
    /// The value of the `Host` header, and what to connect to.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The value of the `Authorization` header.
    pub fn authorization(&self) -> String {
        format!("Tahoe-LAFS {}", BASE64.encode(self.swissnum.as_bytes()))
    }
}

impl FromStr for Nurl {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let rest = text.strip_prefix("pb://").context("a NURL begins with pb://")?;
        let rest = rest.strip_suffix("#v=1").context("a NURL ends with #v=1")?;
        let (hash, rest) = rest.split_once('@').context("a NURL has an @")?;
        let (authority, swissnum) = rest.split_once('/').context("a NURL has a path")?;
        let (host, port) = authority.rsplit_once(':').context("a NURL has a port")?;
        let decoded = BASE64URL_NOPAD.decode(hash.as_bytes()).context("hash of a NURL")?;
        let Ok(spki_hash) = <[u8; 32]>::try_from(decoded) else { bail!("hash of a NURL has 43 characters") };
        ensure!(!swissnum.is_empty() && !swissnum.contains('/'), "a NURL has one path segment");
        Ok(Self {
            spki_hash,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: port.parse().context("port of a NURL")?,
            swissnum: swissnum.to_owned(),
        })
    }
}

impl fmt::Debug for Nurl {
    /// Without the swissnum, which is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pb://{}@{}/…#v=1", BASE64URL_NOPAD.encode(&self.spki_hash), self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "VkxsEmnoWeneKZwOMyUVTraBpTGnRDIpmWSvM6DfJZg";

    #[test]
    fn parses_names_and_addresses() {
        for (authority, host) in
            [("storage.example.org:4443", "storage.example.org"), ("[2001:db8::1]:4443", "2001:db8::1")]
        {
            let nurl: Nurl = format!("pb://{HASH}@{authority}/sw#v=1").parse().unwrap();
            assert_eq!((nurl.host.as_str(), nurl.port, nurl.swissnum.as_str()), (host, 4443, "sw"));
            assert_eq!(nurl.authority(), authority);
        }
    }

    #[test]
    fn refuses_what_is_no_nurl() {
        for text in
            ["", "pb://x@h:1/s", "pb://x@h:1/s#v=1", &format!("pb://{HASH}@h/s#v=1"), &format!("pb://{HASH}@h:1/#v=1")]
        {
            assert!(text.parse::<Nurl>().is_err(), "{text}");
        }
    }
}
