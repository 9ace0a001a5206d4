//! Paths and headers: whatever a client sends gets an answer, and no answer quotes a secret.

#![no_main]

use http::{HeaderMap, HeaderValue, Method};
use leasehold_gbs::{auth, range, route};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = range::parse_range(bytes);
    let _ = range::parse_content_range(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH] {
            let _ = route::route(&method, text);
        }
    }
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append("authorization", value.clone());
            headers.append("x-tahoe-authorization", value);
        }
    }
    let _ = auth::parse_authorization(&headers);
    for needed in [&[][..], &[auth::Secret::Upload], &[auth::Secret::LeaseRenew, auth::Secret::LeaseCancel]] {
        if let Err(error) = auth::parse_secrets(&headers, needed) {
            assert!(error.0.len() < 100, "{error:?}");
        }
    }
});
