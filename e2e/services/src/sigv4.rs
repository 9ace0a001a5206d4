//! Signatures of requests to S3 (AWS Signature Version 4), for set-up and for the fault proxy, which has to sign again
//! what it changed.
//!
//! Only signatures in the `Authorization` header; what is tested signs with a library of its own.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::{digest, hmac};
use data_encoding::HEXLOWER;

use crate::http1::Head;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// The region that servers assume that know none.
const REGION: &str = "us-east-1";

/// An access key and the secret that belongs to it.
#[derive(Clone)]
pub struct Credentials {
    /// The public part.
    pub access_key: String,
    /// The part that is never sent.
    pub secret_key: String,
}

impl Credentials {
    /// Signs a request over all its headers, and adds the date and the hash of `body` to them.
    pub fn sign(&self, head: &mut Head, body: &[u8]) -> Result<()> {
        let date = timestamp(SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?.as_secs());
        head.push("x-amz-content-sha256", sha256(body));
        head.push("x-amz-date", date.as_str());
        let mut names: Vec<String> = head.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        names.sort_unstable();
        names.dedup();
        let scope = format!("{}/{REGION}/s3/aws4_request", &date[..8]);
        let authorization = self.authorization(head, &scope, &names)?;
        head.push("authorization", authorization);
        Ok(())
    }

    /// Signs a request again that was changed on its way: over the same headers as before, as far as they remain.
    pub fn sign_again(&self, head: &mut Head) -> Result<()> {
        let old = head.get("authorization").context("the request was not signed")?.to_owned();
        ensure!(old.starts_with(ALGORITHM), "the request was signed in another way");
        let part = |name: &str| {
            let parts = old[ALGORITHM.len()..].split(',');
            parts.filter_map(|part| part.trim().split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let credential = part("Credential").context("a signature without a credential")?;
        let (_, scope) = credential.split_once('/').context("a credential without a scope")?;
        let names = part("SignedHeaders").context("a signature without headers")?;
        let names: Vec<String> = names.split(';').filter(|name| head.get(name).is_some()).map(str::to_owned).collect();
        let authorization = self.authorization(head, scope, &names)?;
        head.remove("authorization");
        head.push("authorization", authorization);
        Ok(())
    }

    fn authorization(&self, head: &Head, scope: &str, names: &[String]) -> Result<String> {
        let date = head.get("x-amz-date").context("a request without a date")?;
        let text = format!("{ALGORITHM}\n{date}\n{scope}\n{}", sha256(canonical(head, names)?.as_bytes()));
        let mut key = format!("AWS4{}", self.secret_key).into_bytes();
        for word in scope.split('/') {
            key = hmac_sha256(&key, word);
        }
        let signature = HEXLOWER.encode(&hmac_sha256(&key, &text));
        let (credential, names) = (format!("{}/{scope}", self.access_key), names.join(";"));
        Ok(format!("{ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={signature}"))
    }
}

/// The request in the form that is signed. The path is taken as it was sent: S3 encodes it once.
fn canonical(head: &Head, names: &[String]) -> Result<String> {
    let (path, query) = head.target().split_once('?').unwrap_or((head.target(), ""));
    let mut parameters: Vec<String> = query
        .split('&')
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| if parameter.contains('=') { parameter.to_owned() } else { format!("{parameter}=") })
        .collect();
    parameters.sort_unstable();
    let mut headers = String::new();
    for name in names {
        let value = head.get(name).with_context(|| format!("the signed header {name} is missing"))?;
        let words: Vec<&str> = value.split_whitespace().collect();
        headers.push_str(&format!("{name}:{}\n", words.join(" ")));
    }
    let hash = head.get("x-amz-content-sha256").context("a request without a hash")?;
    let (method, parameters, names) = (head.method(), parameters.join("&"), names.join(";"));
    Ok(format!("{method}\n{path}\n{parameters}\n{headers}\n{names}\n{hash}"))
}

fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hmac_sha256(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// Seconds since 1970 as `YYYYMMDDTHHMMSSZ`.
fn timestamp(seconds: u64) -> String {
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    let is_leap = |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    while days >= if is_leap(year) { 366 } else { 365 } {
        days -= if is_leap(year) { 366 } else { 365 };
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!("{year:04}{month:02}{:02}T{hour:02}{minute:02}{:02}Z", days + 1, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example "GET Object" of Amazon's description of the signature.
    #[test]
    fn published_example_has_its_published_signature() -> Result<()> {
        let credentials = Credentials {
            access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
        };
        let mut head = Head::new("GET /test.txt HTTP/1.1");
        head.push("Host", "examplebucket.s3.amazonaws.com");
        head.push("Range", "bytes=0-9");
        head.push("x-amz-content-sha256", sha256(b""));
        head.push("x-amz-date", "20130524T000000Z");
        head.push("If-None-Match", "*");
        head.push(
            "Authorization",
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
             SignedHeaders=host;if-none-match;range;x-amz-content-sha256;x-amz-date,Signature=00",
        );
        head.remove("if-none-match");
        credentials.sign_again(&mut head)?;
        let authorization = head.get("authorization").context("it is signed")?;
        let wanted = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        assert!(authorization.ends_with(wanted), "{authorization}");
        Ok(())
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(timestamp(0), "19700101T000000Z");
        assert_eq!(timestamp(951_782_399), "20000228T235959Z");
        assert_eq!(timestamp(951_782_400), "20000229T000000Z");
        assert_eq!(timestamp(4_102_444_799), "20991231T235959Z");
    }
}
