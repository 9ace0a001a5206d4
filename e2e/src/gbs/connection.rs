//! One TLS connection that carries one HTTP/1.1 request after another.
//!
//! Made to cost little, because the load generator shares its machine with the server under test: requests come as
//! bytes, buffers are used again, headers are looked at only when somebody asks.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustls::ClientConfig;
use rustls::pki_types::{IpAddr, Ipv4Addr, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Nurl;

const INPUT_BYTES: usize = 64 * 1024;
const TCP_BUFFER_BYTES: usize = 128 * 1024;
const HEAD_BYTES_MAX: usize = 32 * 1024;
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// What came back. Used again for the next answer.
#[derive(Debug, Default, Clone)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The body with chunking removed.
    pub body: Vec<u8>,
    /// Whether the connection can carry another request.
    pub keep_alive: bool,
    head: Vec<u8>,
}

impl Response {
    /// Header lines in the order they came; lines that are not UTF-8 are left out.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let lines = self.head.split(|&byte| byte == b'\n').skip(1);
        lines.filter_map(|line| {
            let (name, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
            Some((name, value.trim()))
        })
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// One connection, ready for the next request.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<BufReader<TcpStream>>,
    input: Box<[u8]>,
    start: usize,
    end: usize,
}

/// How the end of a body is known.
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Connection {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// If the server cannot be reached in time or is not the pinned one.
    pub async fn open(nurl: &Nurl, tls: &Arc<ClientConfig>) -> anyhow::Result<Self> {
        let opening = async {
            let tcp = TcpStream::connect(nurl.authority()).await.context("cannot connect")?;
            tcp.set_nodelay(true)?;
            // TLS alone would ask the kernel for 4 KiB at a time.
            let tcp = BufReader::with_capacity(TCP_BUFFER_BYTES, tcp);
            // The name is neither sent nor checked.
            let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([127, 0, 0, 1])));
            let mut stream =
                TlsConnector::from(tls.clone()).connect(name, tcp).await.context("TLS handshake failed")?;
            stream.get_mut().1.set_buffer_limit(Some(512 * 1024));
            Ok(Self { stream, input: vec![0; INPUT_BYTES].into_boxed_slice(), start: 0, end: 0 })
        };
        tokio::time::timeout(OPEN_TIMEOUT, opening).await.context("connecting took too long")?
    }

    /// Sends a request and reads the answer to it.
    ///
    /// If the server answers and closes before it has read the whole body, its answer counts.
    ///
    /// # Errors
    /// If the connection breaks or what comes is not HTTP. The connection must not be used again then.
    pub async fn exchange(&mut self, head: &[u8], body: &[u8], response: &mut Response) -> anyhow::Result<()> {
        let sent = self.send(head, body).await;
        match self.receive(head.starts_with(b"HEAD "), response).await {
            Ok(()) => {
                response.keep_alive &= sent.is_ok();
                Ok(())
            }
            Err(error) => Err(sent.err().map_or(error, |sending| anyhow::Error::from(sending).context("cannot send"))),
        }
    }

    /// Sends bytes; the caller takes care that they are a request, or not.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn send(&mut self, head: &[u8], body: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(head).await?;
        self.stream.write_all(body).await?;
        self.stream.flush().await
    }

    /// Reads one answer.
    ///
    /// # Errors
    /// As [`exchange`](Self::exchange).
    pub async fn receive(&mut self, head_only: bool, response: &mut Response) -> anyhow::Result<()> {
        loop {
            self.read_head(&mut response.head).await?;
            let status = response.head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
            ensure!(response.head.starts_with(b"HTTP/1.1 "), "answer is not HTTP/1.1");
            response.status = status.context("answer has no status")?;
            if response.status >= 200 {
                break;
            }
        }
        let (framing, keep_alive) = framing(&response.head)?;
        response.keep_alive = keep_alive;
        if head_only || response.status == 204 || response.status == 304 {
            response.body.clear();
            return Ok(());
        }
        match framing {
            Framing::Length(length) => self.read_length(length, &mut response.body).await,
            Framing::Chunked => self.read_chunks(&mut response.body).await,
            Framing::UntilClose => {
                response.keep_alive = false;
                self.read_rest(&mut response.body).await
            }
        }
    }

    /// Reads until more than what was there is buffered; `false` at the end of the stream.
    async fn fill(&mut self) -> anyhow::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.input.len() {
            ensure!(self.start > 0, "line of the answer is too long");
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let count = self.stream.read(&mut self.input[self.end..]).await.context("cannot receive")?;
        self.end += count;
        Ok(count > 0)
    }

    async fn read_head(&mut self, head: &mut Vec<u8>) -> anyhow::Result<()> {
        head.clear();
        let mut searched = 0;
        loop {
            let buffered = &self.input[self.start..self.end];
            if let Some(at) = find(&buffered[searched..], b"\r\n\r\n") {
                let length = searched + at + 4;
                head.extend_from_slice(&buffered[..length]);
                self.start += length;
                return Ok(());
            }
            searched = buffered.len().saturating_sub(3);
            ensure!(buffered.len() <= HEAD_BYTES_MAX, "head of the answer is too long");
            if !self.fill().await? {
                bail!("connection closed without an answer");
            }
        }
    }

    async fn read_length(&mut self, length: usize, body: &mut Vec<u8>) -> anyhow::Result<()> {
        // Not cleared first: a buffer of this size is not filled with zeros once more.
        body.resize(length, 0);
        let buffered = length.min(self.end - self.start);
        body[..buffered].copy_from_slice(&self.input[self.start..self.start + buffered]);
        self.start += buffered;
        if buffered < length {
            self.stream.read_exact(&mut body[buffered..]).await.context("body of the answer ends early")?;
        }
        Ok(())
    }

    async fn read_chunks(&mut self, body: &mut Vec<u8>) -> anyhow::Result<()> {
        body.clear();
        loop {
            let line = self.read_line().await?;
            let digits = line.split(|&byte| byte == b';').next().unwrap_or_default();
            let text = std::str::from_utf8(digits).context("size of a chunk")?.trim();
            let mut size = usize::from_str_radix(text, 16).context("size of a chunk")?;
            if size == 0 {
                while !self.read_line().await?.is_empty() {}
                return Ok(());
            }
            while size > 0 {
                if self.start == self.end {
                    ensure!(self.fill().await?, "body of the answer ends early");
                }
                let count = size.min(self.end - self.start);
                body.extend_from_slice(&self.input[self.start..self.start + count]);
                self.start += count;
                size -= count;
            }
            ensure!(self.read_line().await?.is_empty(), "chunk is longer than its size");
        }
    }

    async fn read_line(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            let buffered = &self.input[self.start..self.end];
            if let Some(at) = find(buffered, b"\r\n") {
                let line = buffered[..at].to_vec();
                self.start += at + 2;
                return Ok(line);
            }
            ensure!(self.fill().await?, "body of the answer ends early");
        }
    }

    async fn read_rest(&mut self, body: &mut Vec<u8>) -> anyhow::Result<()> {
        body.clear();
        loop {
            body.extend_from_slice(&self.input[self.start..self.end]);
            self.start = self.end;
            if !self.fill().await? {
                return Ok(());
            }
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Reads the few headers that say where the body ends.
fn framing(head: &[u8]) -> anyhow::Result<(Framing, bool)> {
    let (mut framing, mut keep_alive) = (Framing::UntilClose, true);
    for line in head.split(|&byte| byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            framing = Framing::Length(length.context("Content-Length of the answer")?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") && value.eq_ignore_ascii_case(b"chunked") {
            framing = Framing::Chunked;
        } else if name.eq_ignore_ascii_case(b"connection") && value.eq_ignore_ascii_case(b"close") {
            keep_alive = false;
        }
    }
    Ok((framing, keep_alive))
}
