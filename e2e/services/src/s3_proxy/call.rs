//! What a request to S3 is: the operation, the bucket, the key and the parameters. Only addresses with the bucket in the path.

use std::collections::BTreeMap;

use crate::http1::Head;

/// The operations that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// `GetObject`.
    Get,
    /// `HeadObject`.
    Head,
    /// `PutObject`.
    Put,
    /// `CopyObject`.
    Copy,
    /// `DeleteObject`.
    Delete,
    /// `DeleteObjects`.
    DeleteMany,
    /// `ListObjects` and `ListObjectsV2`.
    List,
    /// `CreateMultipartUpload`.
    CreateUpload,
    /// `UploadPart`.
    UploadPart,
    /// `CompleteMultipartUpload`.
    CompleteUpload,
    /// `AbortMultipartUpload`.
    AbortUpload,
    /// Everything else.
    Other,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Call {
    /// What it asks for.
    pub operation: Operation,
    /// The bucket; empty if it is about none.
    pub bucket: String,
    /// The key, decoded; empty if it is about none.
    pub key: String,
    /// The parameters, decoded.
    pub parameters: BTreeMap<String, String>,
}

impl Call {
    /// Reads a request's head.
    pub fn of(head: &Head) -> Self {
        let (path, query) = head.target().split_once('?').unwrap_or((head.target(), ""));
        let path = path.trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let parameters = query.split('&').filter(|parameter| !parameter.is_empty()).map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            (decoded(name), decoded(value))
        });
        let mut call = Self {
            operation: Operation::Other,
            bucket: decoded(bucket),
            key: decoded(key),
            parameters: parameters.collect(),
        };
        call.operation = call.operation_of(head);
        call
    }

    /// The value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    fn operation_of(&self, head: &Head) -> Operation {
        let has = |name: &str| self.parameters.contains_key(name);
        let is_of_upload = has("uploads") || has("uploadId");
        match (head.method(), self.key.is_empty()) {
            ("GET", true) if is_list(&self.parameters) && !self.bucket.is_empty() => Operation::List,
            ("POST", true) if has("delete") => Operation::DeleteMany,
            ("POST", false) if has("uploads") => Operation::CreateUpload,
            ("POST", false) if has("uploadId") => Operation::CompleteUpload,
            ("PUT", false) if has("uploadId") => Operation::UploadPart,
            ("DELETE", false) if has("uploadId") => Operation::AbortUpload,
            _ if is_of_upload || is_about_something_else(&self.parameters) => Operation::Other,
            ("GET", false) => Operation::Get,
            ("HEAD", false) => Operation::Head,
            ("PUT", false) if head.get("x-amz-copy-source").is_some() => Operation::Copy,
            ("PUT", false) => Operation::Put,
            ("DELETE", false) => Operation::Delete,
            _ => Operation::Other,
        }
    }
}

/// Whether the parameters of a GET on a bucket are those of a list of objects.
fn is_list(parameters: &BTreeMap<String, String>) -> bool {
    let known = [
        "list-type",
        "prefix",
        "delimiter",
        "marker",
        "start-after",
        "continuation-token",
        "max-keys",
        "encoding-type",
        "fetch-owner",
    ];
    parameters.keys().all(|name| known.contains(&name.as_str()))
}

/// Whether a request with a key is about the object's tags and the like.
fn is_about_something_else(parameters: &BTreeMap<String, String>) -> bool {
    ["acl", "attributes", "legal-hold", "retention", "tagging", "torrent"]
        .iter()
        .any(|&name| parameters.contains_key(name))
}

/// Undoes percent-encoding; what is not valid stays as it is.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 3;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_told_apart() {
        let cases = [
            ("GET /b/k", Operation::Get),
            ("GET /b/a/b%20c?x-id=GetObject", Operation::Get),
            ("HEAD /b/k", Operation::Head),
            ("PUT /b/k?x-id=PutObject", Operation::Put),
            ("PUT /b/k?partNumber=1&uploadId=u", Operation::UploadPart),
            ("PUT /b/k?tagging", Operation::Other),
            ("DELETE /b/k", Operation::Delete),
            ("DELETE /b/k?uploadId=u", Operation::AbortUpload),
            ("POST /b?delete", Operation::DeleteMany),
            ("POST /b/?delete=", Operation::DeleteMany),
            ("POST /b/k?uploads", Operation::CreateUpload),
            ("POST /b/k?uploadId=u", Operation::CompleteUpload),
            ("GET /b?list-type=2&prefix=a%2F", Operation::List),
            ("GET /b/", Operation::List),
            ("GET /b?versioning", Operation::Other),
            ("GET /b?uploads", Operation::Other),
            ("GET /", Operation::Other),
            ("PUT /b", Operation::Other),
        ];
        for (request, operation) in cases {
            assert_eq!(Call::of(&Head::new(format!("{request} HTTP/1.1"))).operation, operation, "{request}");
        }
    }

    #[test]
    fn keys_and_parameters_are_decoded() {
        let call = Call::of(&Head::new("GET /b/a/b%20c%zz?prefix=x%2Fy&max-keys=5 HTTP/1.1"));
        assert_eq!((call.bucket.as_str(), call.key.as_str()), ("b", "a/b c%zz"));
        assert_eq!((call.parameter("prefix"), call.parameter("max-keys")), (Some("x/y"), Some("5")));
    }
}
