//! `Range` and `Content-Range` headers as the protocol uses them: one range of bytes with both ends (`gbs.md` 6.1, 8.2).

use std::ops::Range;

/// A header that is not of the one form that is served: 416.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotSatisfiable;

/// Reads `bytes=a-b` as the half-open `a..b+1`. Numbers too large for us stand for "to the end".
///
/// # Errors
/// [`NotSatisfiable`] for any other unit or form.
pub fn parse_range(value: &[u8]) -> Result<Range<u64>, NotSatisfiable> {
    let text = std::str::from_utf8(value).map_err(|_| NotSatisfiable)?;
    let (unit, ends) = text.split_once('=').ok_or(NotSatisfiable)?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Err(NotSatisfiable);
    }
    let (start, end) = ends.trim().split_once('-').ok_or(NotSatisfiable)?;
    let (start, end) = (number(start.trim())?, number(end.trim())?);
    if end < start { Err(NotSatisfiable) } else { Ok(start..end.saturating_add(1)) }
}

/// Reads `bytes a-b/*` or `bytes a-b/total` as the half-open `a..b+1`.
///
/// # Errors
/// [`NotSatisfiable`] for any other unit or form, and where `b` is not below the total.
pub fn parse_content_range(value: &[u8]) -> Result<Range<u64>, NotSatisfiable> {
    let text = std::str::from_utf8(value).map_err(|_| NotSatisfiable)?;
    let ends = text.trim().strip_prefix("bytes ").ok_or(NotSatisfiable)?;
    let (ends, total) = ends.split_once('/').ok_or(NotSatisfiable)?;
    let (start, end) = ends.split_once('-').ok_or(NotSatisfiable)?;
    let (start, end) = (number(start.trim())?, number(end.trim())?);
    let within = total.trim() == "*" || number(total.trim())? > end;
    if end < start || !within { Err(NotSatisfiable) } else { Ok(start..end.saturating_add(1)) }
}

fn number(digits: &str) -> Result<u64, NotSatisfiable> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NotSatisfiable);
    }
    // Digits alone fail only by being too large.
    Ok(digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forms() {
        assert_eq!(parse_range(b"bytes=10-29"), Ok(10..30));
        assert_eq!(parse_range(b"bytes=0-1000000000000000000000000000000"), Ok(0..u64::MAX));
        for bad in ["", "bytes=", "bytes=0-", "bytes=-5", "bytes=5-2", "bytes=0-1, 4-5", "molluscs=0-1", "bytes=+1-2"] {
            assert_eq!(parse_range(bad.as_bytes()), Err(NotSatisfiable), "{bad}");
        }
        assert_eq!(parse_content_range(b"bytes 0-39/*"), Ok(0..40));
        assert_eq!(parse_content_range(b"bytes 0-39/40"), Ok(0..40));
        for bad in ["", "bytes 0-39", "bytes */40", "bytes 0-40/40", "bytes 5-2/*", "x 0-1/*", "bytes -1-2/*"] {
            assert_eq!(parse_content_range(bad.as_bytes()), Err(NotSatisfiable), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            for range in [parse_range(&bytes), parse_content_range(&bytes)].into_iter().flatten() {
                prop_assert!(range.start < range.end || range.end == u64::MAX);
            }
        }
    }
}
