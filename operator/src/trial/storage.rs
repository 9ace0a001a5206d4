//! As much of the storage protocol as one share needs: TLS to the pinned key, allocate, write, read (`gbs.md` 8).

use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use leasehold_core::clock::Entropy;
use leasehold_core::id::StorageIndex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// The tag of a set in CBOR.
const SET: [u8; 3] = [0xd9, 0x01, 0x02];

/// A connection to a server, for one account.
pub(super) struct Storage {
    sender: SendRequest<Full<Bytes>>,
    authorization: String,
}

impl Storage {
    /// Connects to `address`, and makes sure that it is the server of the NURL.
    pub(super) async fn connect(nurl: &str, address: &str) -> anyhow::Result<Self> {
        let rest = nurl.trim().strip_prefix("pb://").context("a NURL begins with pb://")?;
        let (pin, rest) = rest.split_once('@').context("a NURL has a key's hash")?;
        let swissnum =
            rest.split_once('/').and_then(|(_, rest)| rest.split('#').next()).context("a NURL has a swissnum")?;
        let pin = BASE64URL_NOPAD.decode(pin.as_bytes()).context("the key's hash is not base64")?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned { pin, provider }))
            .with_no_client_auth();
        tls.enable_sni = false;
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("leasehold").context("a plain name")?;
        Self::over(TlsConnector::from(Arc::new(tls)).connect(name, stream).await?, swissnum).await
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        swissnum: &str,
    ) -> anyhow::Result<Self> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // It ends with the sender.
        tokio::spawn(connection);
        Ok(Self { sender, authorization: format!("Tahoe-LAFS {}", BASE64.encode(swissnum.as_bytes())) })
    }

    /// Stores one share under a random storage index.
    pub(super) async fn store(&mut self, share: &[u8], entropy: &Entropy) -> anyhow::Result<String> {
        let index = StorageIndex::new(entropy.bytes()).to_string();
        let secret = |kind: &str| format!("{kind} {}", BASE64.encode(&entropy.bytes::<32>()));
        let upload = secret("upload-secret");
        let secrets = [secret("lease-renew-secret"), secret("lease-cancel-secret"), upload.clone()];
        let allocate = self.request(Method::POST, format!("/storage/v1/immutable/{index}"), &secrets);
        let allocate = allocate.header(header::CONTENT_TYPE, "application/cbor");
        let answer = self.send(allocate.body(Full::from(allocation(share.len())))?).await?;
        ensure!(answer.0 == StatusCode::OK, "the allocation was answered with {}", answer.0);
        let range = format!("bytes 0-{}/*", share.len() - 1);
        let write = self.request(Method::PATCH, format!("/storage/v1/immutable/{index}/0"), &[upload]);
        let write = write.header(header::CONTENT_RANGE, range).body(Full::from(share.to_vec()))?;
        let answer = self.send(write).await?;
        ensure!(answer.0 == StatusCode::CREATED, "the write was answered with {}", answer.0);
        Ok(index)
    }

    /// Reads the share of a storage index.
    pub(super) async fn read(&mut self, index: &str) -> anyhow::Result<Vec<u8>> {
        let read = self.request(Method::GET, format!("/storage/v1/immutable/{index}/0"), &[]);
        let (status, body) = self.send(read.body(Full::default())?).await?;
        ensure!(status.is_success(), "the read was answered with {status}");
        Ok(body.to_vec())
    }

    fn request(&self, method: Method, path: String, secrets: &[String]) -> http::request::Builder {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "leasehold");
        request = request.header(header::AUTHORIZATION, &self.authorization).header(header::ACCEPT, "*/*");
        for secret in secrets {
            request = request.header("X-Tahoe-Authorization", secret);
        }
        request
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)> {
        // The answer before may be read to its end while the connection has still to notice that.
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        match Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) => bail!("the answer broke off: {error}"),
        }
    }
}

/// `{"share-numbers": {0}, "allocated-size": size}` in CBOR.
fn allocation(size: usize) -> Vec<u8> {
    let mut body = vec![0xa2];
    let text = |body: &mut Vec<u8>, text: &str| {
        body.push(0x60 | u8::try_from(text.len()).unwrap_or_default());
        body.extend(text.as_bytes());
    };
    text(&mut body, "share-numbers");
    body.extend(SET);
    body.extend([0x81, 0x00]);
    text(&mut body, "allocated-size");
    body.push(0x1b);
    body.extend((size as u64).to_be_bytes());
    body
}

/// Accepts the server whose public key has this hash, and asks nothing else of its certificate.
#[derive(Debug)]
struct Pinned {
    pin: Vec<u8>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let key = ParsedCertificate::try_from(end_entity)?.subject_public_key_info();
        if Sha256::digest(&key).as_slice() == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General("another server answers than the one of the NURL".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::task::{self, Poll};
    use std::time::Duration;

    use http::Response;
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use tokio::io::{DuplexStream, ReadBuf};

    use super::*;

    /// A stream whose connection is held up each time it has read everything.
    struct HeldUp(DuplexStream);

    impl AsyncRead for HeldUp {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut task::Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let read = Pin::new(&mut self.0).poll_read(cx, buf);
            if read.is_pending() {
                std::thread::sleep(Duration::from_millis(50));
            }
            read
        }
    }

    impl AsyncWrite for HeldUp {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let status = if request.method() == Method::PATCH { StatusCode::CREATED } else { StatusCode::OK };
        request.into_body().collect().await?;
        let mut response = Response::new(Full::from(vec![7; 100]));
        *response.status_mut() = status;
        Ok(response)
    }

    /// The end of an answer reaches us before its connection takes the next request.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_request_waits_for_its_connection() {
        let (near, far) = tokio::io::duplex(4096);
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(far), service_fn(answer)));
        let mut storage = Storage::over(HeldUp(near), "swissnum").await.unwrap();
        let index = storage.store(&[7; 100_000], &Entropy::from_os()).await.unwrap();
        assert_eq!(storage.read(&index).await.unwrap(), [7; 100]);
    }
}
