//! A throw-away MinIO: a real S3 server in a folder of its own, which a test may kill, freeze and restart.
//!
//! It is a peer in tests only: built from its public Go module and never linked or shipped with this project.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::certificates::Authority;
use crate::http1::{Head, Response, exchange};
use crate::process::{Process, tail, wait_until, wait_until_up};
use crate::scratch::{Scratch, free_address};
use crate::secret;
use crate::sigv4::Credentials;

/// Names the program to use instead of the one that `cargo dev test` builds.
pub const PROGRAM_VARIABLE: &str = "LEASEHOLD_MINIO";

const READY_TIMEOUT: Duration = Duration::from_secs(60);
const PORT_TRIES: u32 = 5;

/// How a server is set up.
#[derive(Clone, Debug, Default)]
pub struct MinioOptions {
    /// Host names and IP addresses of a certificate that a new test authority signs; without, plain HTTP.
    /// It must contain `127.0.0.1`, because set-up goes there.
    pub tls_names: Option<Vec<String>>,
}

/// A running, or killed, server.
pub struct Minio {
    // The server ends before its folder goes.
    server: Mutex<Option<Process>>,
    program: PathBuf,
    address: SocketAddr,
    credentials: Credentials,
    authority_file: Option<PathBuf>,
    scratch: Scratch,
}

impl Minio {
    /// Starts an empty server; returns when it answers.
    ///
    /// # Errors
    /// When the program is missing, or does not start; then with the end of its log.
    pub fn start(options: &MinioOptions) -> Result<Self> {
        let scratch = Scratch::new("s3", "")?;
        let certificates = scratch.path().join("certs");
        fs::create_dir_all(&certificates)?;
        let authority_file = match &options.tls_names {
            None => None,
            Some(names) => Some(write_certificate(names, &certificates, scratch.path())?),
        };
        let mut minio = Self {
            server: Mutex::new(None),
            program: program()?,
            address: free_address()?,
            credentials: Credentials { access_key: secret::random()?, secret_key: secret::random()? },
            authority_file,
            scratch,
        };
        for _ in 1..PORT_TRIES {
            if minio.start_server().is_ok() {
                return Ok(minio);
            }
            minio.address = free_address()?;
        }
        minio.start_server()?;
        Ok(minio)
    }

    /// The one server of this process, without TLS; it ends with the process. Tests take a bucket each.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<Minio, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Self::start(&MinioOptions::default()).map_err(|e| format!("{e:#}")));
        shared.as_ref().map_err(|error| anyhow!("{error}"))
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of the server.
    pub fn endpoint(&self) -> String {
        let scheme = if self.authority_file.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Who may do everything, and the secret for it.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The certificate of the authority that signed the server's, as a PEM file; `None` without TLS.
    pub fn authority_file(&self) -> Option<&Path> {
        self.authority_file.as_deref()
    }

    /// Makes an S3 bucket.
    pub fn make_bucket(&self, name: &str) -> Result<()> {
        let response = self.request("PUT", &format!("/{name}"), &[], b"")?;
        ensure!(response.status() == 200, "make the bucket {name}: {} {}", response.head.first, response.text());
        Ok(())
    }

    /// Sends one signed request past every proxy. `target` is a path with its query, encoded as on the wire.
    pub fn request(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Response> {
        self.request_at(self.address, method, target, headers, body)
    }

    /// As [`Minio::request`], but through `address`: that of a proxy.
    pub fn request_at(
        &self,
        address: SocketAddr,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response> {
        let mut head = Head::new(format!("{method} {target} HTTP/1.1"));
        head.push("host", address.to_string());
        head.push("connection", "close");
        head.push("content-length", body.len().to_string());
        for (name, value) in headers {
            head.push(name, *value);
        }
        self.credentials.sign(&mut head, body)?;
        exchange(address, self.authority_file(), &head, body).with_context(|| format!("{method} {target}"))
    }

    /// Ends the server at once, as a crash would (`kill -9`).
    pub fn kill(&self) -> Result<()> {
        match self.server().take() {
            Some(server) => server.kill(),
            None => bail!("the server does not run"),
        }
    }

    /// Starts a killed server again, on the same port and with the same data; returns when it answers.
    pub fn start_again(&self) -> Result<()> {
        // Somebody else may hold the port for a moment, as the port of an outgoing connection.
        wait_until("the server is back", READY_TIMEOUT, || self.start_server().map(Some))
    }

    /// Kills the server and starts it again on the same port.
    pub fn restart(&self) -> Result<()> {
        self.kill()?;
        self.start_again()
    }

    /// Stops the server without ending it: connections stay, answers do not come.
    pub fn freeze(&self) -> Result<()> {
        self.server().as_ref().context("the server does not run")?.freeze()
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) -> Result<()> {
        self.server().as_ref().context("the server does not run")?.thaw()
    }

    /// The end of the server's log, for a failure message.
    pub fn log_tail(&self) -> String {
        tail(&self.scratch.path().join("logs").join("minio.out"))
    }

    /// Starts the server and waits until it answers, or until it has ended.
    fn start_server(&self) -> Result<()> {
        let folder = self.scratch.path();
        let mut command = Command::new(&self.program);
        // What the surroundings say about other servers is not meant for this one.
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MINIO_")) {
            command.env_remove(name);
        }
        command.current_dir(folder).env("HOME", folder);
        command.env("MINIO_ROOT_USER", &self.credentials.access_key);
        command.env("MINIO_ROOT_PASSWORD", &self.credentials.secret_key);
        command.env("MINIO_BROWSER", "off").env("MINIO_UPDATE", "off");
        command.arg("server").arg("--quiet").arg("--certs-dir").arg(folder.join("certs"));
        command.arg("--address").arg(self.address.to_string()).arg(folder.join("data"));
        let mut server = Process::start("minio", &mut command, &folder.join("logs"))?;
        wait_until_up(&mut server, READY_TIMEOUT, || self.expect_ready())?;
        *self.server() = Some(server);
        Ok(())
    }

    fn expect_ready(&self) -> Result<()> {
        let response = self.request("GET", "/", &[], b"")?;
        ensure!(response.status() == 200, "{}", response.head.first);
        Ok(())
    }

    fn server(&self) -> MutexGuard<'_, Option<Process>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn program() -> Result<PathBuf> {
    let built = || {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = package.ancestors().nth(2).expect("the package is two folders below the workspace");
        root.join(".leasehold-dev").join("tools").join("bin").join("minio")
    };
    let path = env::var_os(PROGRAM_VARIABLE).map_or_else(built, PathBuf::from);
    ensure!(path.is_file(), "MinIO is not in {}; `cargo dev test MinIO` builds it", path.display());
    Ok(path)
}

fn write_certificate(names: &[String], folder: &Path, authority_folder: &Path) -> Result<PathBuf> {
    let authority = Authority::new()?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let issued = authority.issue(&names)?;
    fs::write(folder.join("public.crt"), issued.certificate)?;
    fs::write(folder.join("private.key"), issued.key)?;
    authority.write_certificate(authority_folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_survive_a_kill() -> Result<()> {
        let minio = Minio::start(&MinioOptions::default())?;
        minio.make_bucket("shares")?;
        assert_eq!(minio.request("PUT", "/shares/a%20b", &[], b"content")?.status(), 200);
        minio.kill()?;
        assert!(minio.request("GET", "/shares/a%20b", &[], b"").is_err());
        minio.start_again()?;
        assert_eq!(minio.request("GET", "/shares/a%20b", &[], b"")?.body, b"content");
        Ok(())
    }

    #[test]
    fn conditions_are_kept_by_the_server() -> Result<()> {
        let minio = Minio::shared()?;
        minio.make_bucket("conditions")?;
        let put = || minio.request("PUT", "/conditions/once", &[("if-none-match", "*")], b"x");
        assert_eq!((put()?.status(), put()?.status()), (200, 412));
        Ok(())
    }

    #[test]
    fn server_speaks_tls_with_a_test_certificate() -> Result<()> {
        let minio = Minio::start(&MinioOptions { tls_names: Some(vec!["127.0.0.1".to_owned()]) })?;
        assert!(minio.endpoint().starts_with("https://"));
        minio.make_bucket("shares")
    }
}
