//! Who we are to the store: keys from files, read again when they change, or the workload's own identity.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future;
use aws_sdk_s3::config::{Credentials, ProvideCredentials, Region};
use tracing::{info, warn};

/// How long keys are used before the files are looked at again.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Nobody's keys are longer.
const FILE_BYTES_MAX: u64 = 4096;

/// Keys in two files.
#[derive(Debug)]
pub(super) struct KeyFiles {
    id: PathBuf,
    secret: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    credentials: Credentials,
    read_at: Instant,
    failing: bool,
}

impl KeyFiles {
    /// Reads both files.
    ///
    /// # Errors
    /// One of them cannot be read or holds no key.
    pub(super) fn open(id: &Path, secret: &Path) -> io::Result<Self> {
        let credentials = read_keys(id, secret)?;
        let state = Mutex::new(State { credentials, read_at: Instant::now(), failing: false });
        Ok(Self { id: id.to_owned(), secret: secret.to_owned(), state })
    }

    fn fresh(&self) -> Option<Credentials> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.read_at.elapsed() < LOOK_AGAIN_AFTER {
            return Some(state.credentials.clone());
        }
        // This caller looks, the others go on with what there is meanwhile.
        state.read_at = Instant::now();
        None
    }

    async fn current(&self) -> Result<Credentials, CredentialsError> {
        if let Some(credentials) = self.fresh() {
            return Ok(credentials);
        }
        let (id, secret) = (self.id.clone(), self.secret.clone());
        let read = tokio::task::spawn_blocking(move || read_keys(&id, &secret)).await;
        let read = read.map_err(CredentialsError::unhandled)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(credentials) => {
                if !same(&credentials, &state.credentials) {
                    info!("the S3 access key has changed");
                    state.credentials = credentials;
                }
                state.failing = false;
            }
            Err(error) => {
                if !state.failing {
                    warn!(%error, "the S3 access key cannot be read again; the last one stays in use");
                }
                state.failing = true;
            }
        }
        Ok(state.credentials.clone())
    }
}

fn same(a: &Credentials, b: &Credentials) -> bool {
    a.access_key_id() == b.access_key_id() && a.secret_access_key() == b.secret_access_key()
}

impl ProvideCredentials for KeyFiles {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.current())
    }
}

/// Reads a pair that belongs together: the id is read once more, in case both were replaced in between.
fn read_keys(id: &Path, secret: &Path) -> io::Result<Credentials> {
    for _ in 0..3 {
        let (id_text, secret_text) = (read_key(id)?, read_key(secret)?);
        if read_key(id)? == id_text {
            return Ok(Credentials::new(id_text, secret_text, None, None, "leasehold key files"));
        }
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, format!("{} does not come to rest", id.display())))
}

fn read_key(path: &Path) -> io::Result<String> {
    let about = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut text = String::new();
    std::fs::File::open(path).map_err(about)?.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(about)?;
    let key = text.trim();
    if key.is_empty() || !key.chars().all(|c| c.is_ascii_graphic()) {
        let problem = format!("{} holds no key: one line of printable characters", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok(key.to_owned())
}

/// The workload's own identity: a web identity token, the container's role, the machine's role.
pub(super) fn workload_identity(region: &Region) -> impl ProvideCredentials + use<> {
    let config = ProviderConfig::without_region().with_region(Some(region.clone()));
    let web = WebIdentityTokenCredentialsProvider::builder().configure(&config).build();
    let container = EcsCredentialsProvider::builder().configure(&config).build();
    let machine = ImdsCredentialsProvider::builder().configure(&config).build();
    CredentialsProviderChain::first_try("web identity token", web)
        .or_else("container role", container)
        .or_else("machine role", machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changed_files_are_read_again_and_broken_ones_leave_the_last_keys() {
        let folder = tempfile::tempdir().expect("a folder");
        let (id, secret) = (folder.path().join("id"), folder.path().join("secret"));
        assert!(KeyFiles::open(&id, &secret).expect_err("no files").to_string().contains("id"));
        std::fs::write(&id, "FIRST\n").expect("a file");
        std::fs::write(&secret, " one \n").expect("a file");
        let files = KeyFiles::open(&id, &secret).expect("both are there");
        let expect = async |id: &str, secret: &str| {
            files.state.lock().expect("no panic").read_at =
                Instant::now().checked_sub(LOOK_AGAIN_AFTER).expect("uptime");
            let keys = files.current().await.expect("keys");
            assert_eq!((keys.access_key_id(), keys.secret_access_key()), (id, secret));
        };
        expect("FIRST", "one").await;
        std::fs::write(&id, "SECOND").expect("a file");
        std::fs::write(&secret, "two").expect("a file");
        expect("SECOND", "two").await;
        std::fs::write(&secret, "").expect("a file");
        expect("SECOND", "two").await;
        std::fs::remove_file(&id).expect("it is there");
        expect("SECOND", "two").await;
        assert!(!format!("{files:?}").contains("two"), "secrets do not print");
    }
}
