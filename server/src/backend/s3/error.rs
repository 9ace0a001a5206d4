//! What the store's refusals mean. The only place that knows its error codes.

use std::error::Error;
use std::io;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use leasehold_core::backend::BackendError;

/// What a refusal means to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    NotFound,
    Full,
    Denied,
    Unavailable,
}

/// Reads a status and an error code. Only the store's own word for a missing object says that an object is missing: a
/// 404 of anything else (a missing S3 bucket, a proxy) must not look as if shares were lost.
fn meaning(status: u16, code: &str) -> Meaning {
    match code {
        "NoSuchKey" => Meaning::NotFound,
        "QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" => {
            Meaning::Full
        }
        "NoSuchBucket"
        | "InvalidBucketName"
        | "AccessDenied"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "AuthorizationHeaderMalformed"
        | "ExpiredToken"
        | "InvalidToken"
        | "RequestTimeTooSkewed"
        | "PermanentRedirect" => Meaning::Denied,
        _ => match status {
            507 => Meaning::Full,
            401 | 403 => Meaning::Denied,
            _ => Meaning::Unavailable,
        },
    }
}

/// What a person can do about a refusal.
fn advice(code: &str) -> &'static str {
    match code {
        "NoSuchBucket" => ": it does not exist there",
        "InvalidAccessKeyId" => ": the store does not know the access key",
        "SignatureDoesNotMatch" => ": the secret access key does not belong to the access key's id",
        "ExpiredToken" | "InvalidToken" => ": the credentials are no longer valid",
        "RequestTimeTooSkewed" => ": the clocks of this machine and the store differ too much",
        "AuthorizationHeaderMalformed" | "PermanentRedirect" => ": storage.s3.region is not the S3 bucket's region",
        "AccessDenied" => ": the credentials do not allow it",
        _ => "",
    }
}

/// Turns the SDK's error into ours. Texts of the store are left out: they may quote the request.
pub(super) fn backend_error<E>(error: &SdkError<E>, bucket: &str, name: &str) -> BackendError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let SdkError::ServiceError(refusal) = error else {
        return BackendError::Unavailable(io::Error::other(unanswered(error, bucket)));
    };
    let status = refusal.raw().status().as_u16();
    let code = refusal.err().code().unwrap_or_default();
    // Codes are words; anything else is not the store's.
    let code = if code.len() <= 64 && code.chars().all(|c| c.is_ascii_alphanumeric()) { code } else { "" };
    let shown = if code.is_empty() { "no error code" } else { code };
    let text = format!("S3 bucket {bucket} answered {status} ({shown}){}", advice(code));
    match meaning(status, code) {
        Meaning::NotFound => BackendError::NotFound(name.to_owned()),
        Meaning::Full => BackendError::Full(io::Error::new(io::ErrorKind::StorageFull, text)),
        Meaning::Denied => BackendError::Denied(io::Error::new(io::ErrorKind::PermissionDenied, text)),
        Meaning::Unavailable => BackendError::Unavailable(io::Error::other(text)),
    }
}

/// Says why there was no answer, with what lies beneath it.
fn unanswered<E: Error + 'static>(error: &SdkError<E>, bucket: &str) -> String {
    let what = match error {
        SdkError::TimeoutError(_) => return format!("S3 bucket {bucket} did not answer in time"),
        SdkError::ConstructionFailure(_) => "no request could be made",
        SdkError::DispatchFailure(_) => "the request could not be sent",
        _ => "the answer could not be read",
    };
    let mut text = format!("S3 bucket {bucket}: {what}");
    let mut source = error.source();
    while let Some(error) = source {
        let reason = error.to_string();
        if !text.ends_with(&reason) {
            text.push_str(": ");
            text.push_str(&reason);
        }
        source = error.source();
    }
    text
}

/// Whether the store says that a range begins behind the end of the object, which therefore is there.
pub(super) fn is_behind_the_end<E>(error: &SdkError<E>) -> bool {
    matches!(error, SdkError::ServiceError(refusal) if refusal.raw().status().as_u16() == 416)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_stores_own_word_says_that_an_object_is_missing() {
        for (status, code, expected) in [
            (404, "NoSuchKey", Meaning::NotFound),
            (404, "NoSuchBucket", Meaning::Denied),
            (404, "", Meaning::Unavailable),
            (404, "NotFound", Meaning::Unavailable),
            (403, "", Meaning::Denied),
            (403, "QuotaExceeded", Meaning::Full),
            (400, "AuthorizationHeaderMalformed", Meaning::Denied),
            (400, "BadDigest", Meaning::Unavailable),
            (507, "", Meaning::Full),
            (503, "SlowDown", Meaning::Unavailable),
            (500, "InternalError", Meaning::Unavailable),
            (301, "PermanentRedirect", Meaning::Denied),
        ] {
            assert_eq!(meaning(status, code), expected, "{status} {code}");
        }
    }
}
