//! The client's side of a connection: TLS with a pinned key, requests as bytes, responses in parts.

use std::io;
use std::sync::Arc;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::PATIENCE;
use super::pinned::pinning;

/// Bytes of hexadecimal text.
pub fn hex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).expect("hexadecimal")
}

/// Makes connections to whoever has the pinned key.
#[derive(Clone)]
pub struct Tls(TlsConnector);

impl Tls {
    pub fn pinning(hash: &str) -> Self {
        let hash = hash.to_owned();
        let expects = move |certificate: &CertificateDer<'_>| {
            let parsed = ParsedCertificate::try_from(certificate);
            let key = parsed.map(|parsed| parsed.subject_public_key_info());
            key.is_ok_and(|key| BASE64URL_NOPAD.encode(&Sha256::digest(key.as_ref())) == hash)
        };
        let mut config = pinning(rustls::DEFAULT_VERSIONS, expects).with_no_client_auth();
        config.enable_sni = false;
        Self(TlsConnector::from(Arc::new(config)))
    }

    pub async fn connect(&self, stream: TcpStream) -> io::Result<Connection> {
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        let stream = timeout(PATIENCE, self.0.connect(name, stream)).await.map_err(io::Error::other)??;
        Ok(Connection { stream: BufStream::new(stream) })
    }
}

/// A request, well-formed if what is put in is.
#[derive(Clone, Debug)]
pub struct Request {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether to announce the body's length.
    pub measured: bool,
}

impl Request {
    pub fn new(method: &str, path: &str) -> Self {
        let headers = vec![("Host".to_owned(), "storage.example.org:4443".to_owned())];
        Self { line: format!("{method} {path} HTTP/1.1"), headers, body: Vec::new(), measured: true }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self
    }

    pub fn secrets(self, secrets: &[(&str, &[u8])]) -> Self {
        secrets.iter().fold(self, |request, (kind, secret)| {
            request.header("X-Tahoe-Authorization", &format!("{kind} {}", BASE64.encode(secret)))
        })
    }

    pub fn body(mut self, bytes: &[u8]) -> Self {
        self.body = bytes.to_vec();
        self
    }

    pub fn cbor(self, value: &ciborium::Value) -> Self {
        self.header("Content-Type", "application/cbor").body(&super::encode(value))
    }

    /// Does not add a Content-Length.
    pub fn unmeasured(mut self) -> Self {
        self.measured = false;
        self
    }

    pub fn method(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }

    /// The head, with its empty line.
    pub fn head(&self) -> Vec<u8> {
        let mut head = format!("{}\r\n", self.line);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.measured && (!self.body.is_empty() || matches!(self.method(), "POST" | "PUT" | "PATCH")) {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn content_type(&self) -> Option<&str> {
        self.header("content-type")
    }

    /// The body of an answer in CBOR.
    pub fn cbor(&self) -> ciborium::Value {
        assert_eq!(self.content_type(), Some("application/cbor"), "{self:?}");
        ciborium::from_reader(&self.body[..]).expect("CBOR")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection; requests may be sent as fast as one likes, answers come in order.
pub struct Connection {
    pub stream: BufStream<TlsStream<TcpStream>>,
}

impl Connection {
    pub async fn ask(&mut self, request: &Request) -> Response {
        self.try_ask(request).await.unwrap_or_else(|error| panic!("{}: {error}", request.line))
    }

    /// Sends and receives; the server may answer, and close, before it has read everything.
    pub async fn try_ask(&mut self, request: &Request) -> io::Result<Response> {
        let sent = self.send(&request.bytes()).await;
        let response = self.receive(request.method() == "HEAD").await;
        if response.is_err() { sent.and(response) } else { response }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(PATIENCE, sent).await.map_err(|_| io::Error::other("the server does not read"))?
    }

    pub async fn receive(&mut self, without_body: bool) -> io::Result<Response> {
        timeout(PATIENCE, self.receive_now(without_body)).await.map_err(|_| io::Error::other("no answer"))?
    }

    /// Waits for the server to close the connection, passing over what it still sends.
    pub async fn closed(&mut self) {
        let mut rest = Vec::new();
        // With or without a TLS farewell.
        drop(timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await.expect("the server closes"));
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end_matches("\r\n").to_owned())
    }

    async fn receive_now(&mut self, without_body: bool) -> io::Result<Response> {
        let line = self.line().await?;
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("not a status line: {line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").ok_or_else(|| io::Error::other("not a header"))?;
            headers.push((name.to_owned(), value.to_owned()));
        }
        let mut response = Response { status, headers, body: Vec::new() };
        if without_body || status == 204 || status < 200 {
            return Ok(response);
        }
        if response.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            response.body = self.chunks().await?;
        } else if let Some(length) = response.header("content-length") {
            response.body = vec![0; length.parse().map_err(io::Error::other)?];
            self.stream.read_exact(&mut response.body).await?;
        } else {
            self.stream.read_to_end(&mut response.body).await?;
        }
        Ok(response)
    }

    async fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line().await?;
            let length = usize::from_str_radix(&line, 16).map_err(io::Error::other)?;
            let mut chunk = vec![0; length];
            self.stream.read_exact(&mut chunk).await?;
            body.extend_from_slice(&chunk);
            self.line().await?;
            if length == 0 {
                return Ok(body);
            }
        }
    }
}
