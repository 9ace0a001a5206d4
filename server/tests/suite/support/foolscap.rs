//! The client's side of Foolscap: a Tub with a certificate, on real sockets.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use leasehold_foolscap::client::{Canary, connect, request_upgrade};
use leasehold_foolscap::{
    CallError, Connection, Furl, Incarnation, Limits, RemoteReference, Tub, TubId, TubOptions, Value,
};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::pinned::pinning;
use super::{PATIENCE, Server};

/// A certificate as real Tubs make them: X.509 version 1, RSA with 2048 bits.
pub const VERSION_1: &str = include_str!("../../vectors/foolscap/version_1.pem");
/// The same with 1024 bits, without its key: nobody who runs the tests could use one.
pub const SHORT_KEY: &str = include_str!("../../vectors/foolscap/rsa_1024.pem");
/// How much memory a client's calls may hold.
const MEMORY_BYTES_MAX: u64 = 256 << 20;

static RUNS: AtomicU64 = AtomicU64::new(1);

/// A certificate and its key, or somebody else's.
#[derive(Clone)]
pub struct Certificate {
    pub der: CertificateDer<'static>,
    pub key: Arc<PrivateKeyDer<'static>>,
}

/// A client's endpoint.
pub struct OldClient {
    tub: Arc<Tub>,
    certificate: Option<Certificate>,
    versions: Vec<&'static SupportedProtocolVersion>,
}

impl Certificate {
    pub fn make() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let certificate = CertificateParams::default().self_signed(&key).expect("a certificate");
        Self::from_pem(&format!("{}{}", certificate.pem(), key.serialize_pem()))
    }

    /// One that makes its Tub the master of a connection to `server`, or not.
    pub fn with_role(server: &TubId, is_master: bool) -> Self {
        loop {
            let certificate = Self::make();
            if (certificate.tub_id().as_str() > server.as_str()) == is_master {
                return certificate;
            }
        }
    }

    pub fn from_pem(pem: &str) -> Self {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("a key");
        Self { der, key: Arc::new(key) }
    }

    pub fn tub_id(&self) -> TubId {
        TubId::of_certificate(&self.der)
    }
}

impl OldClient {
    /// A run of a Tub with this certificate.
    pub fn new(certificate: Certificate) -> Self {
        let tub_id = certificate.tub_id();
        Self { tub: run(tub_id), certificate: Some(certificate), versions: rustls::DEFAULT_VERSIONS.to_vec() }
    }

    /// One that claims this tub id, and shows no certificate.
    pub fn without_certificate(tub_id: TubId) -> Self {
        Self { tub: run(tub_id), certificate: None, versions: rustls::DEFAULT_VERSIONS.to_vec() }
    }

    /// One that speaks this version of TLS only.
    pub fn speaking(self, version: &'static SupportedProtocolVersion) -> Self {
        Self { versions: vec![version], ..self }
    }

    /// Another run of the same client.
    pub fn again(&self) -> Self {
        let certificate = self.certificate.clone();
        Self { tub: run(self.tub.tub_id().clone()), certificate, versions: self.versions.clone() }
    }

    /// A connection inside TLS, before its first block.
    pub async fn tls(&self, furl: &Furl) -> io::Result<TlsStream<TcpStream>> {
        self.tls_over(TcpStream::connect(address(furl)).await?, furl).await
    }

    async fn tls_over(&self, mut stream: TcpStream, furl: &Furl) -> io::Result<TlsStream<TcpStream>> {
        request_upgrade(&mut stream, &furl.tub_id, "127.0.0.1").await.map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::new(self.config(&furl.tub_id)));
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        timeout(PATIENCE, connector.connect(name, stream)).await.map_err(io::Error::other)?
    }

    pub async fn connect(&self, furl: &Furl) -> io::Result<Connection> {
        self.connect_over(self.tls(furl).await?, furl).await
    }

    /// A connection with its socket, to be shut down under it.
    pub async fn connect_to_cut(&self, furl: &Furl) -> io::Result<(Connection, std::net::TcpStream)> {
        let socket = TcpStream::connect(address(furl)).await?.into_std()?;
        let stream = TcpStream::from_std(socket.try_clone()?)?;
        Ok((self.connect_over(self.tls_over(stream, furl).await?, furl).await?, socket))
    }

    async fn connect_over(&self, stream: TlsStream<TcpStream>, furl: &Furl) -> io::Result<Connection> {
        let connecting = connect(&self.tub, stream, furl.tub_id.clone());
        timeout(PATIENCE, connecting).await.map_err(io::Error::other)?.map_err(io::Error::other)
    }

    /// The storage server of a server's first account, with its connection.
    pub async fn enter(&self, server: &Server) -> (Connection, RemoteReference) {
        let furl = server.furl();
        let connection = self.connect(&furl).await.expect("connected");
        let storage = connection.find(&furl.name).await.expect("found");
        (connection, storage)
    }

    fn config(&self, server: &TubId) -> ClientConfig {
        let load = |certificate: &Certificate| {
            let provider = rustls::crypto::aws_lc_rs::default_provider();
            let key = provider.key_provider.load_private_key(certificate.key.clone_key()).expect("a key");
            Arc::new(CertifiedKey::new(vec![certificate.der.clone()], key))
        };
        let shown = Arc::new(Shown(self.certificate.as_ref().map(load)));
        let server = server.clone();
        let expects = move |certificate: &CertificateDer<'_>| TubId::of_certificate(certificate) == server;
        let mut config = pinning(&self.versions, expects).with_client_cert_resolver(shown);
        config.enable_sni = false;
        config
    }
}

fn address(furl: &Furl) -> &str {
    furl.hints[0].strip_prefix("tcp:").expect("a hint")
}

fn run(tub_id: TubId) -> Arc<Tub> {
    let number = RUNS.fetch_add(1, Ordering::Relaxed);
    Tub::new(TubOptions {
        tub_id,
        incarnation: Incarnation::from_bytes(number.to_be_bytes()),
        location: None,
        limits: Limits::default(),
        memory_bytes_max: MEMORY_BYTES_MAX,
    })
}

/// Shows one certificate, of whatever version, or none.
#[derive(Debug)]
struct Shown(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

/// The calls of a storage client, with the arguments that tests care about.
pub struct Storage(pub RemoteReference);

/// The number of a share with what was got for it.
pub type ByShare<T> = Vec<(u64, T)>;

impl Storage {
    pub async fn version(&self) -> Result<Value, CallError> {
        self.0.call("get_version", vec![]).await
    }

    /// What the server has, and writers of what it takes.
    pub async fn allocate(
        &self,
        index: &[u8; 16],
        shares: &[u8],
        size: u64,
    ) -> Result<(Vec<u64>, ByShare<RemoteReference>), CallError> {
        let mut arguments = lease(index);
        arguments.push(Value::set(shares.iter().map(|share| Value::from(*share))));
        arguments.extend([Value::from(size), Canary::value()]);
        let answer = self.0.call("allocate_buckets", arguments).await?;
        let [have, writers] = answer.fields()?;
        let have = have.items()?.iter().map(Value::as_u64).collect::<Result<_, _>>()?;
        Ok((have, references(writers)?))
    }

    pub async fn buckets(&self, index: &[u8; 16]) -> Result<ByShare<RemoteReference>, CallError> {
        let answer = self.0.call("get_buckets", vec![Value::from(index)]).await?;
        Ok(references(&answer)?)
    }

    pub async fn add_lease(&self, index: &[u8; 16]) -> Result<Value, CallError> {
        self.0.call("add_lease", lease(index)).await
    }

    /// Writes `data` at the beginning of a share of a slot, if the share begins with `specimen`, or is empty if that is;
    /// reads the first bytes.
    pub async fn write_slot(
        &self,
        index: &[u8; 16],
        enabler: u8,
        share: u8,
        specimen: &[u8],
        data: &[u8],
    ) -> Result<(bool, ByShare<Vec<u8>>), CallError> {
        let test = Value::tuple([
            Value::from(0u8),
            Value::from(specimen.len().max(1) as u64),
            Value::from(b"eq"),
            Value::from(specimen),
        ]);
        let write = Value::tuple([Value::from(0u8), Value::from(data)]);
        let vectors = Value::tuple([Value::list([test]), Value::list([write]), Value::None]);
        let answer = self
            .0
            .call(
                "slot_testv_and_readv_and_writev",
                vec![
                    Value::from(index),
                    Value::tuple([[enabler; 32], [1; 32], [2; 32]].map(|secret| Value::from(&secret))),
                    Value::dict([(Value::from(share), vectors)]),
                    Value::list([first_bytes()]),
                ],
            )
            .await?;
        let [success, data] = answer.fields()?;
        Ok((*success == Value::from(true), strings(data)?))
    }

    /// The first bytes of the shares of a slot.
    pub async fn read_slot(&self, index: &[u8; 16], shares: &[u8]) -> Result<ByShare<Vec<u8>>, CallError> {
        let shares = Value::list(shares.iter().map(|share| Value::from(*share)));
        let answer = self.0.call("slot_readv", vec![Value::from(index), shares, Value::list([first_bytes()])]).await?;
        Ok(strings(&answer)?)
    }
}

/// Reads from an immutable share.
pub async fn read(reader: &RemoteReference, offset: u64, length: u64) -> Result<Vec<u8>, CallError> {
    let answer = reader.call("read", vec![Value::from(offset), Value::from(length)]).await?;
    Ok(answer.as_bytes()?.to_vec())
}

/// Writes to an upload.
pub async fn write(writer: &RemoteReference, offset: u64, data: &[u8]) -> Result<Value, CallError> {
    writer.call("write", vec![Value::from(offset), Value::from(data)]).await
}

/// The class of a call's failure.
pub fn class<T: std::fmt::Debug>(result: Result<T, CallError>) -> String {
    match result {
        Err(CallError::Failed(failure)) => failure.class().to_owned(),
        other => panic!("not a failure: {other:?}"),
    }
}

fn lease(index: &[u8; 16]) -> Vec<Value> {
    vec![Value::from(index), Value::from(&[1; 32]), Value::from(&[2; 32])]
}

fn first_bytes() -> Value {
    Value::tuple([Value::from(0u8), Value::from(1000u64)])
}

fn references(value: &Value) -> Result<ByShare<RemoteReference>, leasehold_foolscap::Violation> {
    value.entries()?.iter().map(|(number, object)| Ok((number.as_u64()?, object.as_remote()?.clone()))).collect()
}

fn strings(value: &Value) -> Result<ByShare<Vec<u8>>, leasehold_foolscap::Violation> {
    let first = |read: &Value| Ok(read.items()?[0].as_bytes()?.to_vec());
    value.entries()?.iter().map(|(number, read)| Ok((number.as_u64()?, first(read)?))).collect()
}
