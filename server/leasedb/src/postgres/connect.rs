//! Connections: where to, over which TLS, how many, and which are thrown away.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime, Timeouts};
use leasehold_core::leasedb::{LeaseDbError, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

/// A connection that rested longer is asked whether it may still write before it is used.
const REST: Duration = Duration::from_secs(2);

/// How a connection is protected; the words of PostgreSQL's `sslmode`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// The certificate must be signed by one of these authorities and name the host.
    VerifyFull(Authorities),
    /// The certificate must be signed by one of these authorities.
    VerifyCa(Authorities),
    /// Encrypted, to whoever answers.
    Require,
    /// Not encrypted.
    Disable,
}

/// Who may vouch for the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorities {
    /// Certificates in a PEM file.
    File(PathBuf),
    /// Certificates in PEM.
    Pem(String),
}

/// Where the database is and how it is used.
#[derive(Clone)]
pub struct PgOptions {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The database's name.
    pub database: String,
    /// The role.
    pub user: String,
    /// The role's password, if it has one.
    pub password: Option<String>,
    /// The schema with our tables.
    pub schema: String,
    /// How the connection is protected.
    pub tls: Tls,
    /// The most connections that this process opens.
    pub connections_max: usize,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// The longest that a statement may take, and a wait for a lock.
    pub statement_timeout: Duration,
    /// The longest that a transaction may rest between statements.
    pub idle_in_transaction: Duration,
    /// Whether a transaction pooler stands in between: statements are not prepared then, and the schema, as
    /// `search_path`, and the limits above must be set for the role.
    pub pooler: bool,
}

impl std::fmt::Debug for PgOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PgOptions({}@{}:{}/{} {})", self.user, self.host, self.port, self.database, self.schema)
    }
}

impl PgOptions {
    fn driver(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host(&self.host).port(self.port).dbname(&self.database).user(&self.user);
        config.application_name("leasehold").connect_timeout(self.connect_timeout);
        config.keepalives_idle(Duration::from_secs(30)).tcp_user_timeout(self.statement_timeout * 2);
        config.ssl_mode(if self.tls == Tls::Disable { SslMode::Disable } else { SslMode::Require });
        if let Some(password) = &self.password {
            config.password(password);
        }
        if !self.pooler {
            let (statement, idle) = (self.statement_timeout.as_millis(), self.idle_in_transaction.as_millis());
            // Compiling a statement that touches ten rows took half a second: without statistics its cost looks high.
            config.options(format!(
                "-c search_path={} -c statement_timeout={statement} -c lock_timeout={statement} \
                 -c idle_in_transaction_session_timeout={idle} -c jit=off",
                self.schema
            ));
        }
        config
    }

    /// Opens one connection outside any pool.
    pub(super) async fn connect_once(&self) -> Result<tokio_postgres::Client> {
        let connector = connector(&self.tls)?;
        let unreachable = |error| LeaseDbError::Unavailable(Box::new(error));
        match connector {
            Some(connector) => {
                let (client, connection) = self.driver().connect(connector).await.map_err(unreachable)?;
                tokio::spawn(connection);
                Ok(client)
            }
            None => {
                let (client, connection) = self.driver().connect(tokio_postgres::NoTls).await.map_err(unreachable)?;
                tokio::spawn(connection);
                Ok(client)
            }
        }
    }
}

/// Makes the pool; connects to nothing yet.
pub(super) fn pool(options: &PgOptions) -> Result<Pool> {
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = match connector(&options.tls)? {
        Some(connector) => Manager::from_config(options.driver(), connector, recycling),
        None => Manager::from_config(options.driver(), tokio_postgres::NoTls, recycling),
    };
    let timeouts = Timeouts {
        wait: Some(options.statement_timeout),
        create: Some(options.connect_timeout),
        recycle: Some(options.connect_timeout),
    };
    let builder = Pool::builder(manager).max_size(options.connections_max).timeouts(timeouts).runtime(Runtime::Tokio1);
    let patience = options.connect_timeout;
    let builder = builder.post_create(Hook::async_fn(move |client, _| Box::pin(writable(client, patience))));
    let builder = builder.pre_recycle(Hook::async_fn(move |client, metrics| {
        let rested = metrics.last_used() > REST;
        Box::pin(async move { if rested { writable(client, patience).await } else { Ok(()) } })
    }));
    builder.build().map_err(|error| LeaseDbError::Unavailable(Box::new(error)))
}

/// Refuses a server that is in recovery or read-only: a standby, or a primary that was replaced; and one that does not
/// say so in time.
async fn writable(client: &deadpool_postgres::ClientWrapper, patience: Duration) -> std::result::Result<(), HookError> {
    let read_only = tokio::time::timeout(patience, client.simple_query("SHOW transaction_read_only"))
        .await
        .map_err(|_| HookError::message("the server does not answer"))?
        .map_err(HookError::Backend)?;
    let is_on = read_only
        .iter()
        .any(|message| matches!(message, tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("on")));
    if is_on {
        Err(HookError::message("the server is read-only: a standby, or a primary that was replaced"))
    } else {
        Ok(())
    }
}

/// An error of the pool: nothing was sent.
pub(super) fn unavailable(error: PoolError) -> LeaseDbError {
    LeaseDbError::Unavailable(Box::new(error))
}

fn connector(tls: &Tls) -> Result<Option<MakeRustlsConnect>> {
    let refuse = |error: String| LeaseDbError::Invalid(error);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse(error.to_string()))?;
    let config = match tls {
        Tls::Disable => return Ok(None),
        Tls::VerifyFull(file) => builder.with_root_certificates(roots(file)?).with_no_client_auth(),
        Tls::VerifyCa(file) => {
            let roots = Arc::new(roots(file)?);
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Verifier { roots: Some(roots), provider }))
                .with_no_client_auth()
        }
        Tls::Require => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { roots: None, provider }))
            .with_no_client_auth(),
    };
    Ok(Some(MakeRustlsConnect::new(config)))
}

fn roots(authorities: &Authorities) -> Result<RootCertStore> {
    let place = match authorities {
        Authorities::File(file) => format!("the certificates of {}", file.display()),
        Authorities::Pem(_) => "the authority's certificates".to_owned(),
    };
    let refuse = |problem: String| LeaseDbError::Invalid(format!("{place} {problem}"));
    let unreadable = |error: rustls::pki_types::pem::Error| refuse(format!("cannot be read: {error}"));
    let certificates: std::result::Result<Vec<_>, _> = match authorities {
        Authorities::File(file) => CertificateDer::pem_file_iter(file).map_err(unreadable)?.collect(),
        Authorities::Pem(pem) => CertificateDer::pem_slice_iter(pem.as_bytes()).collect(),
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates.map_err(unreadable)? {
        roots.add(certificate).map_err(|error| refuse(format!("are of no use: {error}")))?;
    }
    if roots.is_empty() { Err(refuse("are none".to_owned())) } else { Ok(roots) }
}

/// Checks who signed the certificate, if anybody must have, but not the name in it.
#[derive(Debug)]
struct Verifier {
    roots: Option<Arc<RootCertStore>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            let algorithms = self.provider.signature_verification_algorithms.all;
            let certificate = ParsedCertificate::try_from(end_entity)?;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
