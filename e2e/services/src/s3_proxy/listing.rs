//! Listings of the past: what a bucket held, and the answers that a listing of it would have had then.

use anyhow::{Result, ensure};

use super::call::Call;
use crate::minio::Minio;

const MAX_KEYS: usize = 1_000;

/// What a bucket held: for each key, in their order, what a listing says of it.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    entries: Vec<(String, String)>,
}

impl Snapshot {
    /// Lists a whole bucket.
    pub fn take(minio: &Minio, bucket: &str) -> Result<Self> {
        let mut snapshot = Self::default();
        loop {
            let after = snapshot.entries.last().map_or_else(String::new, |(key, _)| encoded(key));
            let target = format!("/{bucket}?list-type=2&start-after={after}");
            let response = minio.request("GET", &target, &[], b"")?;
            ensure!(response.status() == 200, "list {bucket}: {}", response.head.first);
            let text = response.text();
            let before = snapshot.entries.len();
            for entry in between_all(&text, "<Contents>", "</Contents>") {
                let key = between_all(entry, "<Key>", "</Key>").next().unwrap_or_default();
                snapshot.entries.push((unescaped(key), entry.to_owned()));
            }
            if !text.contains("<IsTruncated>true</IsTruncated>") || snapshot.entries.len() == before {
                return Ok(snapshot);
            }
        }
    }

    /// The document that answers this listing; `None` if it is of a kind that is not known here.
    pub fn answer(&self, call: &Call) -> Option<String> {
        if call.parameter("list-type") != Some("2") || call.parameter("delimiter").is_some_and(|text| !text.is_empty())
        {
            return None;
        }
        let prefix = call.parameter("prefix").unwrap_or("");
        // Tokens are keys here: a listing that began at the server cannot go on in the past, nor the other way round.
        let after = call.parameter("continuation-token").or(call.parameter("start-after")).unwrap_or("");
        let max = call.parameter("max-keys").and_then(|text| text.parse().ok()).unwrap_or(MAX_KEYS).min(MAX_KEYS);
        let mut found = self.entries.iter().filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after);
        let page: Vec<&(String, String)> = found.by_ref().take(max).collect();
        let is_truncated = found.next().is_some();
        let mut text = String::from(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">",
        );
        let (bucket, shown) = (escaped(&call.bucket), escaped(prefix));
        text.push_str(&format!("<Name>{bucket}</Name><Prefix>{shown}</Prefix><KeyCount>{}</KeyCount>", page.len()));
        text.push_str(&format!("<MaxKeys>{max}</MaxKeys><IsTruncated>{is_truncated}</IsTruncated>"));
        if let Some((last, _)) = page.last().filter(|_| is_truncated) {
            text.push_str(&format!("<NextContinuationToken>{}</NextContinuationToken>", escaped(last)));
        }
        for (_, entry) in page {
            text.push_str(&format!("<Contents>{entry}</Contents>"));
        }
        text.push_str("</ListBucketResult>");
        Some(text)
    }
}

/// What stands between two marks, each time.
fn between_all<'a>(text: &'a str, begin: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(begin).skip(1).filter_map(move |rest| rest.split_once(end).map(|(inner, _)| inner))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;")
}

fn unescaped(text: &str) -> String {
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&#34;", "\"").replace("&#39;", "'");
    text.replace("&quot;", "\"").replace("&apos;", "'").replace("&amp;", "&")
}

/// A key as a parameter of a request that is signed.
fn encoded(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::Head;

    fn keys(text: &str) -> Vec<String> {
        between_all(text, "<Key>", "</Key>").map(unescaped).collect()
    }

    #[test]
    fn pages_of_the_past_go_on_where_they_ended() {
        let entries = ["a/1", "a/2", "a/&3", "b/1"].map(|key| (key.to_owned(), format!("<Key>{}</Key>", escaped(key))));
        let mut snapshot = Snapshot { entries: entries.to_vec() };
        snapshot.entries.sort_unstable();
        let answer = |query: &str| {
            snapshot.answer(&Call::of(&Head::new(format!("GET /bucket?list-type=2&{query} HTTP/1.1")))).expect("known")
        };
        let first = answer("prefix=a%2F&max-keys=2");
        assert_eq!(keys(&first), ["a/&3", "a/1"]);
        let token = between_all(&first, "<NextContinuationToken>", "</").next().expect("there is more");
        let rest = answer(&format!("prefix=a%2F&continuation-token={}", encoded(token)));
        assert_eq!(keys(&rest), ["a/2"]);
        assert!(rest.contains("<IsTruncated>false"));
    }
}
