//! A client of the old protocol: a Tub with a certificate of its own, and the calls of a storage client.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use data_encoding::BASE32_NOPAD;
use leasehold_foolscap::client::{Canary, connect, request_upgrade};
use leasehold_foolscap::{
    CallError, Connection, Furl, Incarnation, Limits, RemoteReference, Tub, TubId, TubOptions, Value,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::gbs::{Pin, client_config_with};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// How much memory the calls of one client may hold.
const MEMORY_BYTES_MAX: u64 = 512 << 20;
/// A renew secret and a cancel secret.
const LEASE: [[u8; 32]; 2] = [[1; 32], [2; 32]];

/// A client that may connect to one server.
pub struct OldClient {
    furl: Furl,
    tub: Arc<Tub>,
    tls: Arc<ClientConfig>,
}

/// The storage of an account, on one connection.
pub struct Storage {
    /// The connection; the storage ends with it.
    pub connection: Connection,
    /// The object.
    pub object: RemoteReference,
}

/// Share numbers with what was got for them.
pub type ByShare<T> = Vec<(u64, T)>;

impl OldClient {
    /// Makes a client with a new certificate.
    ///
    /// # Errors
    /// The FURL is none.
    pub fn new(furl: &str) -> Result<Self> {
        let furl: Furl = furl.parse()?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let pem = CertificateParams::default().self_signed(&key)?.pem();
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())?;
        let private_key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
        let tub = Tub::new(TubOptions {
            tub_id: TubId::of_certificate(&certificate),
            incarnation: Incarnation::from_bytes(StdRng::from_os_rng().random()),
            location: None,
            limits: Limits::default(),
            memory_bytes_max: MEMORY_BYTES_MAX,
        });
        let hash = BASE32_NOPAD.decode(furl.tub_id.as_str().to_ascii_uppercase().as_bytes())?;
        let pin = Pin::Certificate(hash.try_into().ok().context("a tub id has 20 bytes")?);
        Ok(Self { furl, tub, tls: client_config_with(pin, vec![certificate], private_key)? })
    }

    /// Connects and asks for the storage.
    ///
    /// # Errors
    /// The server does not answer, or does not know the name.
    pub async fn enter(&self) -> Result<Storage> {
        let connection = tokio::time::timeout(CONNECT_TIMEOUT, self.connect()).await.context("connecting")??;
        let object = connection.find(&self.furl.name).await?;
        Ok(Storage { connection, object })
    }

    async fn connect(&self) -> Result<Connection> {
        let hint = self.furl.hints.first().context("no location in the FURL")?;
        let address = hint.strip_prefix("tcp:").unwrap_or(hint);
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        request_upgrade(&mut stream, &self.furl.tub_id, "127.0.0.1").await?;
        let name = ServerName::try_from("127.0.0.1").context("an address")?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await?;
        Ok(connect(&self.tub, stream, self.furl.tub_id.clone()).await?)
    }
}

impl Storage {
    /// Begins uploads: what the server has, and writers of what it takes.
    ///
    /// # Errors
    /// The call fails.
    pub async fn allocate(
        &self,
        index: &[u8],
        shares: &[u64],
        size: u64,
    ) -> Result<(Vec<u64>, ByShare<RemoteReference>), CallError> {
        let shares = Value::set(shares.iter().map(|share| Value::from(*share)));
        let arguments = vec![
            Value::from(index),
            Value::from(&LEASE[0]),
            Value::from(&LEASE[1]),
            shares,
            Value::from(size),
            Canary::value(),
        ];
        let answer = self.object.call("allocate_buckets", arguments).await?;
        let [have, writers] = answer.fields()?;
        let have = have.items()?.iter().map(Value::as_u64).collect::<Result<_, _>>()?;
        Ok((have, by_share(writers)?))
    }

    /// Readers of the shares of a bucket.
    ///
    /// # Errors
    /// The call fails.
    pub async fn buckets(&self, index: &[u8]) -> Result<ByShare<RemoteReference>, CallError> {
        Ok(by_share(&self.object.call("get_buckets", vec![Value::from(index)]).await?)?)
    }

    /// Writes a whole share of a slot, whatever it was.
    ///
    /// # Errors
    /// The call fails.
    pub async fn write_slot(&self, index: &[u8], data: bytes::Bytes) -> Result<Value, CallError> {
        let write = Value::tuple([Value::from(0u8), Value::from(data)]);
        let test = Value::tuple([Value::from(0u8), Value::from(0u8), Value::from(b"eq"), Value::from(b"")]);
        let vectors = Value::tuple([Value::list([test]), Value::list([write]), Value::None]);
        let secrets = Value::tuple([[3; 32], LEASE[0], LEASE[1]].map(|secret| Value::from(&secret)));
        let vectors = Value::dict([(Value::from(0u8), vectors)]);
        let arguments = vec![Value::from(index), secrets, vectors, Value::list([])];
        self.object.call("slot_testv_and_readv_and_writev", arguments).await
    }

    /// Asks for leases.
    ///
    /// # Errors
    /// The call fails.
    pub async fn add_lease(&self, index: &[u8]) -> Result<Value, CallError> {
        let arguments = vec![Value::from(index), Value::from(&LEASE[0]), Value::from(&LEASE[1])];
        self.object.call("add_lease", arguments).await
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.connection.close();
    }
}

/// Writes to an upload.
///
/// # Errors
/// The call fails.
pub async fn write(writer: &RemoteReference, offset: u64, data: bytes::Bytes) -> Result<Value, CallError> {
    writer.call("write", vec![Value::from(offset), Value::from(data)]).await
}

/// Finishes an upload.
///
/// # Errors
/// The call fails.
pub async fn close(writer: &RemoteReference) -> Result<Value, CallError> {
    writer.call("close", vec![]).await
}

/// Reads from a share.
///
/// # Errors
/// The call fails.
pub async fn read(reader: &RemoteReference, offset: u64, length: u64) -> Result<bytes::Bytes, CallError> {
    let answer = reader.call("read", vec![Value::from(offset), Value::from(length)]).await?;
    Ok(answer.as_bytes()?.clone())
}

fn by_share(value: &Value) -> Result<ByShare<RemoteReference>, leasehold_foolscap::Violation> {
    value.entries()?.iter().map(|(number, object)| Ok((number.as_u64()?, object.as_remote()?.clone()))).collect()
}
