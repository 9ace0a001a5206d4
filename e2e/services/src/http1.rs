//! HTTP/1.1 as far as tests need it: heads, bodies, and one request to a server of the tests' own.
//!
//! It is written by hand because the fault proxy must pass on exactly the bytes that it got, and break them where it is
//! told to; a library would mend them.

use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// A line of a head longer than this is not HTTP.
const LINE_BYTES_MAX: u64 = 64 << 10;
const HEADERS_MAX: usize = 200;
const PIECE_BYTES: u64 = 64 << 10;
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);

/// The first line and the headers of a request or of a response, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The request line or the status line.
    pub first: String,
    /// Names and values, as sent.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Begins a head with its first line.
    pub fn new(first: impl Into<String>) -> Self {
        Self { first: first.into(), headers: Vec::new() }
    }

    /// Reads a head; `None` at the end of the connection.
    pub fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let Some(first) = read_line(reader)? else { return Ok(None) };
        let mut head = Self::new(first);
        loop {
            let line = read_line(reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if line.is_empty() {
                return Ok(Some(head));
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid("a header without a colon"))?;
            head.headers.push((name.to_owned(), value.trim().to_owned()));
            if head.headers.len() > HEADERS_MAX {
                return Err(invalid("too many headers"));
            }
        }
    }

    /// Writes the head with the empty line after it.
    pub fn write_to(&self, writer: &mut impl Write) -> io::Result<()> {
        let mut text = format!("{}\r\n", self.first);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        writer.write_all(text.as_bytes())
    }

    /// The first value of a header, whatever the case of its name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Adds a header.
    pub fn push(&mut self, name: &str, value: impl Into<String>) {
        self.headers.push((name.to_owned(), value.into()));
    }

    /// Removes a header and says whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.headers.len();
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self.headers.len() < before
    }

    /// The method of a request.
    pub fn method(&self) -> &str {
        self.first.split(' ').next().unwrap_or_default()
    }

    /// The path and the query of a request.
    pub fn target(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or_default()
    }

    /// The status of a response; 0 if it is none.
    pub fn status(&self) -> u16 {
        self.first.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    /// Where the body of a request ends.
    pub fn request_framing(&self) -> io::Result<Framing> {
        Ok(self.framing()?.unwrap_or(Framing::Length(0)))
    }

    /// Where the body of the response to `method` ends.
    pub fn response_framing(&self, method: &str) -> io::Result<Framing> {
        let status = self.status();
        if method == "HEAD" || (100..200).contains(&status) || status == 204 || status == 304 {
            return Ok(Framing::Length(0));
        }
        Ok(self.framing()?.unwrap_or(Framing::UntilClose))
    }

    fn framing(&self) -> io::Result<Option<Framing>> {
        if self.get("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return Ok(Some(Framing::Chunked));
        }
        let length = self.get("content-length").map(|value| value.parse().map_err(|_| invalid("a bad length")));
        Ok(length.transpose()?.map(Framing::Length))
    }
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By its length in bytes.
    Length(u64),
    /// By chunks, the last of which is empty.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// A part of a body on the wire.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// Bytes of the content.
    Data(&'a [u8]),
    /// Bytes around it: sizes of chunks, trailers.
    Frame(&'a [u8]),
}

impl<'a> Piece<'a> {
    /// The bytes as they were on the wire.
    pub fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Data(bytes) | Self::Frame(bytes) => bytes,
        }
    }
}

/// Reads a whole body in pieces, byte for byte as it comes. Ends early, without an error, when `sink` says `false`.
pub fn read_pieces(
    reader: &mut impl BufRead,
    framing: Framing,
    mut sink: impl FnMut(Piece<'_>) -> io::Result<bool>,
) -> io::Result<()> {
    match framing {
        Framing::Length(length) => read_counted(reader, length, &mut sink).map(drop),
        Framing::UntilClose => loop {
            let bytes = reader.fill_buf()?;
            let length = bytes.len();
            if length == 0 || !sink(Piece::Data(bytes))? {
                return Ok(());
            }
            reader.consume(length);
        },
        Framing::Chunked => read_chunks(reader, &mut sink),
    }
}

/// The content of a body, without what is around it.
pub fn read_content(reader: &mut impl BufRead, framing: Framing) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    read_pieces(reader, framing, |piece| {
        if let Piece::Data(bytes) = piece {
            content.extend_from_slice(bytes);
        }
        Ok(true)
    })?;
    Ok(content)
}

fn read_counted(
    reader: &mut impl BufRead,
    length: u64,
    sink: &mut impl FnMut(Piece<'_>) -> io::Result<bool>,
) -> io::Result<bool> {
    let mut rest = length;
    while rest > 0 {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let taken = bytes.len().min(usize::try_from(rest.min(PIECE_BYTES)).unwrap_or(usize::MAX));
        if !sink(Piece::Data(&bytes[..taken]))? {
            return Ok(false);
        }
        reader.consume(taken);
        rest -= taken as u64;
    }
    Ok(true)
}

fn read_chunks(reader: &mut impl BufRead, sink: &mut impl FnMut(Piece<'_>) -> io::Result<bool>) -> io::Result<()> {
    loop {
        let line = read_line(reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let length = u64::from_str_radix(digits, 16).map_err(|_| invalid("a bad size of a chunk"))?;
        if !sink(Piece::Frame(format!("{line}\r\n").as_bytes()))? {
            return Ok(());
        }
        if length > 0 && !read_counted(reader, length, sink)? {
            return Ok(());
        }
        // After a chunk comes an empty line; after the last one come trailers first.
        loop {
            let line = read_line(reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if !sink(Piece::Frame(format!("{line}\r\n").as_bytes()))? {
                return Ok(());
            }
            if line.is_empty() {
                break;
            }
        }
        if length == 0 {
            return Ok(());
        }
    }
}

fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    reader.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(invalid("a line without an end"));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map(Some).map_err(|_| invalid("a line that is not text"))
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A response that has been read to its end.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status line and headers.
    pub head: Head,
    /// The content of the body.
    pub body: Vec<u8>,
}

impl Response {
    /// The status.
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    /// The body as text, lossily.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends one request on a connection of its own, with TLS if the certificate of an authority is given.
pub fn exchange(address: SocketAddr, authority: Option<&Path>, head: &Head, body: &[u8]) -> Result<Response> {
    let stream = TcpStream::connect_timeout(&address, EXCHANGE_TIMEOUT).context("connect")?;
    stream.set_read_timeout(Some(EXCHANGE_TIMEOUT))?;
    stream.set_write_timeout(Some(EXCHANGE_TIMEOUT))?;
    stream.set_nodelay(true)?;
    match authority {
        None => exchange_on(stream, head, body),
        Some(authority) => exchange_on(with_tls(stream, address, authority)?, head, body),
    }
}

fn exchange_on(mut stream: impl Read + Write, head: &Head, body: &[u8]) -> Result<Response> {
    let mut whole = Vec::new();
    head.write_to(&mut whole)?;
    whole.extend_from_slice(body);
    stream.write_all(&whole).context("send a request")?;
    stream.flush().context("send a request")?;
    let mut reader = io::BufReader::new(stream);
    let answer = Head::read(&mut reader).context("read a response")?.context("the server hung up")?;
    ensure!(answer.status() >= 200, "an answer in between: {}", answer.first);
    let body = read_content(&mut reader, answer.response_framing(head.method())?).context("read a response")?;
    Ok(Response { head: answer, body })
}

fn with_tls(
    stream: TcpStream,
    address: SocketAddr,
    authority: &Path,
) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).context("read the authority's certificate")?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::IpAddress(address.ip().into());
    Ok(StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_passed_on_byte_for_byte() -> io::Result<()> {
        let wire = b"5;x=y\r\nhello\r\n0\r\nx-trailer: 1\r\n\r\nnext";
        let mut reader = io::BufReader::with_capacity(3, &wire[..]);
        let (mut all, mut content) = (Vec::new(), Vec::new());
        read_pieces(&mut reader, Framing::Chunked, |piece| {
            all.extend_from_slice(piece.bytes());
            if let Piece::Data(bytes) = piece {
                content.extend_from_slice(bytes);
            }
            Ok(true)
        })?;
        assert_eq!((all.as_slice(), content.as_slice()), (&wire[..wire.len() - 4], &b"hello"[..]));
        Ok(())
    }

    #[test]
    fn body_that_ends_early_is_an_error() {
        let read = read_content(&mut &b"abc"[..], Framing::Length(4));
        assert!(read.is_err_and(|error| error.kind() == io::ErrorKind::UnexpectedEof));
    }

    #[test]
    fn responses_without_a_body_are_known() -> io::Result<()> {
        let mut head = Head::new("HTTP/1.1 200 OK");
        head.push("Content-Length", "7");
        assert_eq!(head.response_framing("GET")?, Framing::Length(7));
        assert_eq!(head.response_framing("HEAD")?, Framing::Length(0));
        head.first = "HTTP/1.1 304 Not Modified".to_owned();
        assert_eq!(head.response_framing("GET")?, Framing::Length(0));
        Ok(())
    }
}
