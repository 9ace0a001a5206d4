//! Typed calls, one after another, over one kept connection.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::ClientConfig;

use super::cbor::{self, ReadTestWrite};
use super::{Connection, Nurl, Request, Response, SecretKind, client_config};

const TIMEOUT: Duration = Duration::from_secs(60);

/// An answer that is not the good one: its status. A value, because tests expect most of them.
pub type Status = u16;

/// The answer to an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocated {
    /// Finished shares of the bucket.
    pub already_have: BTreeSet<u64>,
    /// Shares that may be written now.
    pub allocated: BTreeSet<u64>,
}

/// The answer to a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Whether this write finished the share.
    pub finished: bool,
    /// What is missing, as half-open ranges.
    pub required: Vec<(u64, u64)>,
}

/// Why a request has no answer: the context of every error of [`Client::send`], found with `downcast_ref`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// No connection could be opened: the server has not seen the request and never will.
    NotSent,
    /// The connection broke or the time is over: what was asked for may have happened, may still happen, or never.
    Unknown,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSent => "request was not sent",
            Self::Unknown => "request has no answer",
        })
    }
}

/// A client of one account.
#[derive(Debug)]
pub struct Client {
    nurl: Nurl,
    timeout: Duration,
    tls: Arc<ClientConfig>,
    connection: Option<Connection>,
    head: Vec<u8>,
    response: Response,
}

impl Client {
    /// A client that connects with its first request.
    ///
    /// # Errors
    /// Never with a working cryptography provider.
    pub fn new(nurl: Nurl) -> anyhow::Result<Self> {
        let tls = client_config(nurl.spki_hash)?;
        Ok(Self { nurl, timeout: TIMEOUT, tls, connection: None, head: Vec::new(), response: Response::default() })
    }

    /// The same client with another time in which it wants a connection, and then an answer.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The address it speaks to.
    pub fn nurl(&self) -> &Nurl {
        &self.nurl
    }

    /// Closes the connection; the next request opens another.
    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Sends any request at all and returns whatever comes back.
    ///
    /// # Errors
    /// If no answer comes; the error carries a [`NoAnswer`], and the next request opens another connection.
    pub async fn send(&mut self, request: &Request) -> anyhow::Result<&Response> {
        request.encode_head(&self.nurl, &mut self.head);
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let opening = tokio::time::timeout(self.timeout, Connection::open(&self.nurl, &self.tls)).await;
                opening.context("connecting took too long").flatten().context(NoAnswer::NotSent)?
            }
        };
        let exchange = connection.exchange(&self.head, &request.body, &mut self.response);
        let outcome = tokio::time::timeout(self.timeout, exchange).await.context("no answer in time").flatten();
        outcome.with_context(|| format!("{} {}", request.method, request.path)).context(NoAnswer::Unknown)?;
        if self.response.keep_alive {
            self.connection = Some(connection);
        }
        Ok(&self.response)
    }

    async fn expect(&mut self, request: &Request, good: &[Status]) -> anyhow::Result<Result<&Response, Status>> {
        let response = self.send(request).await?;
        Ok(if good.contains(&response.status) { Ok(response) } else { Err(response.status) })
    }

    /// Asks for the version document, as it came.
    ///
    /// # Errors
    /// If no answer comes or it is not CBOR; so for all other calls.
    pub async fn version(&mut self) -> anyhow::Result<Result<cbor::Value, Status>> {
        let request = Request::new("GET", "/storage/v1/version").accept_cbor();
        self.expect(&request, &[200]).await?.map(|response| cbor::decode(&response.body)).transpose_ok()
    }

    /// Lists the finished shares of a bucket or slot; `kind` is `immutable` or `mutable`.
    ///
    /// # Errors
    /// As [`version`](Self::version).
    pub async fn list(&mut self, kind: &str, index: &str) -> anyhow::Result<Result<BTreeSet<u64>, Status>> {
        let request = Request::new("GET", format!("/storage/v1/{kind}/{index}/shares")).accept_cbor();
        let response = self.expect(&request, &[200]).await?;
        response.map(|response| cbor::number_set(&cbor::decode(&response.body)?)).transpose_ok()
    }

    /// Begins uploads.
    ///
    /// # Errors
    /// As [`version`](Self::version).
    pub async fn allocate(
        &mut self,
        index: &str,
        shares: &[u64],
        size: u64,
        upload_secret: &[u8],
        leases: &[[u8; 32]; 2],
    ) -> anyhow::Result<Result<Allocated, Status>> {
        let request = Request::new("POST", format!("/storage/v1/immutable/{index}"))
            .lease_secrets(leases)
            .secret(SecretKind::Upload, upload_secret)
            .accept_cbor()
            .cbor(cbor::allocate(shares, size));
        let response = self.expect(&request, &[200]).await?;
        let decode = |response: &Response| {
            let value = cbor::decode(&response.body)?;
            Ok(Allocated {
                already_have: cbor::number_set(cbor::field(&value, "already-have")?)?,
                allocated: cbor::number_set(cbor::field(&value, "allocated")?)?,
            })
        };
        response.map(decode).transpose_ok()
    }

    /// Writes a piece of an upload; `data` must not be empty.
    ///
    /// # Errors
    /// As [`version`](Self::version).
    pub async fn write(
        &mut self,
        index: &str,
        share: u64,
        upload_secret: &[u8],
        offset: u64,
        data: &[u8],
    ) -> anyhow::Result<Result<Written, Status>> {
        let end = offset + data.len() as u64 - 1;
        let request = Request::new("PATCH", format!("/storage/v1/immutable/{index}/{share}"))
            .header("Content-Range", format!("bytes {offset}-{end}/*"))
            .secret(SecretKind::Upload, upload_secret)
            .accept_cbor()
            .body(data);
        let response = self.expect(&request, &[200, 201]).await?;
        let decode = |response: &Response| {
            let value = cbor::decode(&response.body)?;
            let mut required = Vec::new();
            for range in cbor::array(cbor::field(&value, "required")?)? {
                required.push((cbor::number(cbor::field(range, "begin")?)?, cbor::number(cbor::field(range, "end")?)?));
            }
            Ok(Written { finished: response.status == 201, required })
        };
        response.map(decode).transpose_ok()
    }

    /// Ends an upload without a share.
    ///
    /// # Errors
    /// As [`version`](Self::version).
    pub async fn abort(&mut self, index: &str, share: u64, upload_secret: &[u8]) -> anyhow::Result<Status> {
        let path = format!("/storage/v1/immutable/{index}/{share}/abort");
        let request = Request::new("PUT", path).secret(SecretKind::Upload, upload_secret);
        Ok(self.send(&request).await?.status)
    }

    /// Reads `offset..offset + size` of a share as the released client does: 204 is the empty string.
    ///
    /// # Errors
    /// As [`version`](Self::version).
    pub async fn read(
        &mut self,
        kind: &str,
        index: &str,
        share: u64,
        offset: u64,
        size: u64,
    ) -> anyhow::Result<Result<Vec<u8>, Status>> {
        if size == 0 {
            return Ok(Ok(Vec::new()));
        }
        let request = Request::new("GET", format!("/storage/v1/{kind}/{index}/{share}"))
            .header("Range", format!("bytes={offset}-{}", offset + size - 1));
        Ok(self.expect(&request, &[206, 204]).await?.map(|response| response.body.clone()))
    }

    /// Reads, tests and writes a slot: whether the tests held, and what was read.
    ///
    /// # Errors
    /// As [`version`](Self::version).
    pub async fn read_test_write(
        &mut self,
        index: &str,
        write_enabler: &[u8],
        leases: &[[u8; 32]; 2],
        vectors: &ReadTestWrite,
    ) -> anyhow::Result<Result<cbor::ReadTestWriteResult, Status>> {
        let request = Request::new("POST", format!("/storage/v1/mutable/{index}/read-test-write"))
            .secret(SecretKind::WriteEnabler, write_enabler)
            .lease_secrets(leases)
            .accept_cbor()
            .cbor(cbor::read_test_write(vectors));
        let response = self.expect(&request, &[200]).await?;
        response.map(|response| cbor::read_test_write_result(&response.body)).transpose_ok()
    }

    /// Adds or renews the lease on all shares of a storage index.
    ///
    /// # Errors
    /// As [`version`](Self::version).
    pub async fn lease(&mut self, index: &str, leases: &[[u8; 32]; 2]) -> anyhow::Result<Status> {
        let request = Request::new("PUT", format!("/storage/v1/lease/{index}")).lease_secrets(leases);
        Ok(self.send(&request).await?.status)
    }

    /// Reports a share as corrupt.
    ///
    /// # Errors
    /// As [`version`](Self::version).
    pub async fn corrupt(&mut self, kind: &str, index: &str, share: u64, reason: &str) -> anyhow::Result<Status> {
        let request =
            Request::new("POST", format!("/storage/v1/{kind}/{index}/{share}/corrupt")).cbor(cbor::corrupt(reason));
        Ok(self.send(&request).await?.status)
    }
}

/// Turns an answer whose decoding may fail inside out.
trait TransposeOk<T> {
    fn transpose_ok(self) -> anyhow::Result<Result<T, Status>>;
}

impl<T> TransposeOk<T> for Result<anyhow::Result<T>, Status> {
    fn transpose_ok(self) -> anyhow::Result<Result<T, Status>> {
        match self {
            Ok(Ok(value)) => Ok(Ok(value)),
            Ok(Err(error)) => Err(error),
            Err(status) => Ok(Err(status)),
        }
    }
}
