//! Where store objects are kept when they are kept in an S3 bucket.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{ConfigError, Size};

/// The largest store object that a server makes: what background merging joins pieces to.
const OBJECT_BYTES_MAX: u64 = 64 << 20;

/// An S3 bucket, of Amazon or of anybody who speaks like it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3 {
    /// The S3 bucket's name.
    pub bucket: String,
    /// What the names of all objects begin with: nothing, or folders with their final slash, such as `grids/eu/`.
    pub prefix: String,
    /// The region that requests are signed for; stores that have none take any.
    pub region: String,
    /// The store's address, `https://HOST` or `https://HOST:PORT`; Amazon's for the region if not set.
    pub endpoint: Option<String>,
    /// Allows an endpoint without TLS. Whoever is on the way can then read and change what is stored.
    pub allow_insecure: bool,
    /// How requests name the S3 bucket.
    pub addressing: Addressing,
    /// A file with the access key's id. Read again when it changes, without a restart.
    pub access_key_id_file: Option<PathBuf>,
    /// A file with the secret access key. If neither file is set, the workload's own identity is used: a web identity
    /// token, the container's role, or the machine's.
    pub secret_access_key_file: Option<PathBuf>,
    /// A PEM file with the only authorities that may vouch for the endpoint; the system's if not set.
    pub ca_file: Option<PathBuf>,
    /// Which requests carry a checksum of the object beside the signature.
    pub checksums: Checksums,
    /// How long the store may be silent in the middle of an answer. A third of it (and 1 s for each MB sent) is what one
    /// attempt of a request may take, twice it what all attempts together may take.
    pub timeout_seconds: u64,
    /// How often a request is sent before it counts as failed.
    pub attempts_max: u32,
    /// Requests at once; more wait.
    pub concurrent_max: usize,
    /// Memory for objects on their way to the store; uploads wait when it is taken.
    pub upload_memory: Size,
    /// Memory for blocks that were read lately; 0 keeps none.
    pub read_cache: Size,
}

impl Default for S3 {
    fn default() -> Self {
        Self {
            bucket: String::new(),
            prefix: String::new(),
            region: "us-east-1".to_owned(),
            endpoint: None,
            allow_insecure: false,
            addressing: Addressing::Auto,
            access_key_id_file: None,
            secret_access_key_file: None,
            ca_file: None,
            checksums: Checksums::Default,
            timeout_seconds: 30,
            attempts_max: 5,
            concurrent_max: 64,
            upload_memory: Size(80 << 20),
            read_cache: Size(64 << 20),
        }
    }
}

/// How requests name the S3 bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Addressing {
    /// By host name at Amazon, in the path where an endpoint is set.
    Auto,
    /// In the path: `https://HOST/BUCKET/KEY`.
    Path,
    /// By host name: `https://BUCKET.HOST/KEY`.
    VirtualHosted,
}

/// Which requests carry a checksum of the object beside the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checksums {
    /// All that can.
    Default,
    /// Only those that must: for stores that refuse checksums they do not know.
    WhenRequired,
}

impl S3 {
    /// Checks values against each other.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for the first key at fault.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let problem = self.naming_problem().or_else(|| self.trust_problem()).or_else(|| self.limits_problem());
        problem.map_or(Ok(()), |(key, problem)| Err(ConfigError::Invalid { key, problem }))
    }

    fn naming_problem(&self) -> Option<(&'static str, String)> {
        let wrong = |key, problem: String| Some((key, problem));
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if !(3..=63).contains(&self.bucket.len()) || !self.bucket.chars().all(good) {
            let problem =
                format!("must be an S3 bucket's name of 3 to 63 letters, digits, '-' and '.', not {:?}", self.bucket);
            return wrong("storage.s3.bucket", problem);
        }
        let folders = self.prefix.strip_suffix('/').map(|folders| folders.split('/'));
        let folder_is_good =
            |folder: &str| !folder.is_empty() && folder.chars().all(good) && folder.chars().any(|c| c != '.');
        if !self.prefix.is_empty() && !folders.is_some_and(|mut folders| folders.all(folder_is_good)) {
            let problem =
                format!("must be empty, or folders with a final slash such as \"a/b/\", not {:?}", self.prefix);
            return wrong("storage.s3.prefix", problem);
        }
        if self.prefix.len() > 512 {
            return wrong("storage.s3.prefix", "must be at most 512 characters".to_owned());
        }
        if self.region.is_empty() || !self.region.chars().all(good) {
            return wrong("storage.s3.region", format!("must be a region's name, not {:?}", self.region));
        }
        None
    }

    fn trust_problem(&self) -> Option<(&'static str, String)> {
        let wrong = |key, problem: String| Some((key, problem));
        if let Some(endpoint) = &self.endpoint {
            let host = match (endpoint.strip_prefix("https://"), endpoint.strip_prefix("http://")) {
                (Some(host), _) => host,
                (_, Some(host)) if self.allow_insecure => host,
                (_, Some(_)) => {
                    let problem = "is without TLS: use https, or set storage.s3.allow_insecure for a test";
                    return wrong("storage.s3.endpoint", problem.to_owned());
                }
                // What stands there may hold a password, so it is not repeated.
                _ => return wrong("storage.s3.endpoint", "must begin with https://".to_owned()),
            };
            let host = host.strip_suffix('/').unwrap_or(host);
            let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
            if host.is_empty() || !host.chars().all(good) {
                let problem = "must be https://HOST or https://HOST:PORT without a path, a user or a query";
                return wrong("storage.s3.endpoint", problem.to_owned());
            }
        }
        match (&self.access_key_id_file, &self.secret_access_key_file) {
            (Some(_), None) => {
                wrong("storage.s3.secret_access_key_file", "must be set beside access_key_id_file".to_owned())
            }
            (None, Some(_)) => {
                wrong("storage.s3.access_key_id_file", "must be set beside secret_access_key_file".to_owned())
            }
            _ => None,
        }
    }

    fn limits_problem(&self) -> Option<(&'static str, String)> {
        if !(1..=600).contains(&self.timeout_seconds) {
            return Some(("storage.s3.timeout_seconds", "must be 1 to 600".to_owned()));
        }
        if !(1..=20).contains(&self.attempts_max) {
            return Some(("storage.s3.attempts_max", "must be 1 to 20".to_owned()));
        }
        if !(1..=10_000).contains(&self.concurrent_max) {
            return Some(("storage.s3.concurrent_max", "must be 1 to 10000".to_owned()));
        }
        if !(OBJECT_BYTES_MAX..=1 << 40).contains(&self.upload_memory.0) {
            return Some(("storage.s3.upload_memory", "must be at least 64MiB, the largest object".to_owned()));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(), String> {
        let s3: S3 = toml::from_str(text).map_err(|error| error.to_string())?;
        s3.validate().map_err(|error| error.to_string())
    }

    #[test]
    fn what_works_is_accepted() {
        for text in [
            "bucket = \"shares\"",
            "bucket = \"shares.example\"\nprefix = \"grids/eu-1/\"\nendpoint = \"https://s3.example:9000\"",
            "bucket = \"shares\"\nendpoint = \"http://[::1]:9000/\"\nallow_insecure = true\naddressing = \"path\"",
            "bucket = \"shares\"\naccess_key_id_file = \"a\"\nsecret_access_key_file = \"b\"",
            "bucket = \"shares\"\naddressing = \"virtual-hosted\"\nchecksums = \"when-required\"\nread_cache = 0",
        ] {
            parsed(text).expect(text);
        }
    }

    #[test]
    fn mistakes_name_the_key() {
        for (text, expected) in [
            ("", "storage.s3.bucket"),
            ("bucket = \"a/b\"", "storage.s3.bucket"),
            ("bucket = \"shares\"\nprefix = \"no-slash\"", "storage.s3.prefix"),
            ("bucket = \"shares\"\nprefix = \"/\"", "storage.s3.prefix"),
            ("bucket = \"shares\"\nprefix = \"../\"", "storage.s3.prefix"),
            ("bucket = \"shares\"\nregion = \"\"", "storage.s3.region"),
            ("bucket = \"shares\"\nendpoint = \"http://s3.example\"", "allow_insecure"),
            ("bucket = \"shares\"\nendpoint = \"s3.example\"", "storage.s3.endpoint"),
            ("bucket = \"shares\"\nendpoint = \"https://me:hunter2@s3.example\"", "storage.s3.endpoint"),
            ("bucket = \"shares\"\nendpoint = \"https://s3.example/shares\"", "without a path"),
            ("bucket = \"shares\"\naccess_key_id_file = \"a\"", "storage.s3.secret_access_key_file"),
            ("bucket = \"shares\"\nsecret_access_key_file = \"a\"", "storage.s3.access_key_id_file"),
            ("bucket = \"shares\"\ntimeout_seconds = 0", "storage.s3.timeout_seconds"),
            ("bucket = \"shares\"\nattempts_max = 0", "storage.s3.attempts_max"),
            ("bucket = \"shares\"\nconcurrent_max = 0", "storage.s3.concurrent_max"),
            ("bucket = \"shares\"\nupload_memory = \"1MiB\"", "storage.s3.upload_memory"),
            ("bucket = \"shares\"\nadressing = \"path\"", "adressing"),
        ] {
            let error = parsed(text).expect_err(text);
            assert!(error.contains(expected) && !error.contains("hunter2"), "{text:?}: {error:?}");
        }
    }
}
