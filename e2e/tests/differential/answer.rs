//! An answer in the form in which two are compared, and texts for reports.

use data_encoding::HEXLOWER;

use crate::world::Step;
use leasehold_e2e::gbs::cbor::{self, Value};
use leasehold_e2e::gbs::{Client, Request};

const SHOWN_BYTES: usize = 120;
const SHOWN_CHARACTERS: usize = 300;

/// What came back, without what may differ freely (date, server, framing).
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status; 0 if no answer came.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Content-Range`.
    pub content_range: Option<String>,
    /// The body.
    pub body: Vec<u8>,
    failure: String,
}

impl Answer {
    /// Sends the request and takes what comes, an error included.
    pub async fn to(client: &mut Client, request: &Request) -> Self {
        let failure = match client.send(request).await {
            Ok(response) => {
                let owned = |name| response.header(name).map(str::to_owned);
                return Self {
                    status: response.status,
                    content_type: owned("content-type"),
                    content_range: owned("content-range"),
                    body: response.body.clone(),
                    failure: String::new(),
                };
            }
            Err(error) => format!("{error:#}"),
        };
        client.disconnect();
        Self { status: 0, content_type: None, content_range: None, body: Vec::new(), failure }
    }

    /// Whether the two answers are equal in all that a client may look at. The texts of refusals are for people.
    pub fn same_as(&self, other: &Self) -> bool {
        self.status == other.status
            && self.content_range == other.content_range
            && self.content_type == other.content_type
            && (self.status >= 400 || self.decoded() == other.decoded())
    }

    /// The body as a CBOR value with sets and maps in order, or as it is.
    pub fn decoded(&self) -> Value {
        if self.content_type.as_deref() == Some("application/cbor")
            && let Ok(value) = cbor::decode(&self.body)
        {
            return cbor::normalized(value);
        }
        Value::Bytes(self.body.clone())
    }

    /// Status and length.
    pub fn short(&self) -> String {
        format!(
            "{} {}",
            self.status,
            if self.body.len() <= 48 { self.body_text() } else { format!("{} bytes", self.body.len()) }
        )
    }

    /// Everything, cut to a bearable length.
    pub fn long(&self) -> String {
        if self.status == 0 {
            return format!("no answer: {}", self.failure);
        }
        let (kind, range) = (self.content_type.as_deref().unwrap_or("-"), self.content_range.as_deref().unwrap_or("-"));
        format!("{} type {kind}, range {range}, {} bytes: {}", self.status, self.body.len(), self.body_text())
    }

    fn body_text(&self) -> String {
        let shown = &self.body[..self.body.len().min(SHOWN_BYTES)];
        if self.content_type.as_deref() == Some("application/cbor") {
            if let Ok(value) = cbor::decode(&self.body) {
                let text = format!("{:?}", cbor::normalized(value));
                return text.chars().take(SHOWN_CHARACTERS).collect();
            }
            return HEXLOWER.encode(shown);
        }
        String::from_utf8(shown.to_vec()).map_or_else(|_| HEXLOWER.encode(shown), |text| format!("{text:?}"))
    }
}

/// A request in one line.
pub fn request_text(step: &Step) -> String {
    let request = &step.request;
    let headers: Vec<_> = request
        .headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value);
            match name.strip_prefix("X-Tahoe-Auth") {
                // Secrets are told apart by their first characters.
                Some(_) => format!("X-T-A: {}", value.chars().take(26).collect::<String>()),
                None => format!("{name}: {value}"),
            }
        })
        .collect();
    let body = &request.body[..request.body.len().min(SHOWN_BYTES)];
    let account = if request.authorized { "" } else { " (no Authorization)" };
    format!(
        "{} {}{account} [{}] body of {}: {}",
        request.method,
        request.path,
        headers.join("; "),
        request.body.len(),
        HEXLOWER.encode(body)
    )
}
