//! A real server on loopback with TLS, and a small client that pins its key, as the protocol's clients do, but also
//! sends what they never would.

use std::path::Path;
use std::time::Duration;

use ciborium::cbor;
use data_encoding::{BASE64, BASE64URL_NOPAD};
use leasehold_config::Config;
use leasehold_core::account::{Account, Usage};
use leasehold_core::leasedb::{AccountChange, CreateOutcome, LeaseDb};
use leasehold_core::secret::Swissnum;
use leasehold_leasedb::sqlite::SqliteLeaseDb;
use leasehold_server::datadir::DataDir;
use leasehold_server::serve::{self, Running};
use tempfile::TempDir;

use crate::places;

mod client;
pub mod foolscap;
mod pinned;
mod program;

pub use client::{Connection, Request, Response, Tls, hex};
pub use program::Program;

/// No wait on a socket may take longer than this.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A lease renew and a lease cancel secret.
pub const LEASE: [(&str, &[u8]); 2] = [("lease-renew-secret", &[1; 32]), ("lease-cancel-secret", &[2; 32])];
/// An upload secret.
pub const UPLOAD: (&str, &[u8]) = ("upload-secret", &[3; 20]);
/// A write enabler.
pub const ENABLER: (&str, &[u8]) = ("write-enabler", &[4; 32]);

/// A server in this process, with a data directory of its own.
pub struct Server {
    pub running: Running,
    pub db: SqliteLeaseDb,
    /// The `Authorization` of the first account.
    pub authorization: String,
    furl: String,
    tls: Tls,
    folder: TempDir,
}

/// The `Authorization` header of a swissnum.
pub fn authorization(swissnum: &str) -> String {
    format!("Tahoe-LAFS {}", BASE64.encode(swissnum.as_bytes()))
}

/// A request under this `Authorization` that accepts CBOR.
pub fn request(authorization: &str, method: &str, path: &str) -> Request {
    Request::new(method, path).header("Authorization", authorization).header("Accept", "application/cbor")
}

/// A request to begin uploads.
pub fn allocate(authorization: &str, index: &str, shares: &[u64], size: u64) -> Request {
    let shares = shares.iter().map(|share| (*share).into()).collect();
    let set = ciborium::Value::Tag(258, Box::new(ciborium::Value::Array(shares)));
    let body = cbor!({ "share-numbers" => set, "allocated-size" => size }).expect("plain values");
    let path = format!("/storage/v1/immutable/{index}");
    request(authorization, "POST", &path).secrets(&LEASE).secrets(&[UPLOAD]).cbor(&body)
}

/// A request to write a part of an immutable share.
pub fn write(authorization: &str, index: &str, share: u64, offset: u64, bytes: &[u8]) -> Request {
    let range = format!("bytes {offset}-{}/*", offset + bytes.len() as u64 - 1);
    let path = format!("/storage/v1/immutable/{index}/{share}");
    request(authorization, "PATCH", &path).secrets(&[UPLOAD]).header("Content-Range", &range).body(bytes)
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts a server whose settings differ from the defaults.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.server.listen = ([127, 0, 0, 1], 0).into();
        config.server.admin_listen = ([127, 0, 0, 1], 0).into();
        change(&mut config);
        let folder = places::folder();
        let running = serve::start(config, folder.path()).await.expect("the server starts");
        let handout = running.handout.as_ref().expect("a first account");
        let (pinned, swissnum) = nurl_parts(&handout.nurl);
        let (authorization, tls) = (authorization(&swissnum), Tls::pinning(&pinned));
        let furl = handout.furl.clone();
        let data = DataDir::existing(folder.path()).expect("a data directory");
        let db = leasehold_leasedb::sqlite::SqliteLeaseDb::open(
            &data.database(),
            std::sync::Arc::new(leasehold_core::clock::SystemClock),
            leasehold_core::lease::LeaseTerms::default(),
        )
        .expect("a second handle");
        Self { running, db, authorization, furl, tls, folder }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where clients of Foolscap find the first account.
    pub fn furl(&self) -> leasehold_foolscap::Furl {
        self.furl.parse().expect("a FURL")
    }

    /// Makes an account that this swissnum opens.
    pub async fn create_account(&self, name: &str, swissnum: &str, change: AccountChange) -> Account {
        let credential = Swissnum::new(swissnum.into()).expect("a length that is allowed").credential_hash();
        match self.db.create_account(name.to_owned(), change, credential).await.expect("the database answers") {
            CreateOutcome::Created(account) => account,
            CreateOutcome::NameTaken => panic!("{name} is taken"),
        }
    }

    /// Changes the settings of an account.
    pub async fn change_account(&self, name: &str, change: AccountChange) {
        let account = self.db.find_account(name.to_owned()).await.expect("answers").expect("exists");
        assert!(self.db.change_account(account.id, change).await.expect("answers"));
    }

    /// What an account uses, exactly.
    pub async fn usage(&self, name: &str) -> Usage {
        let account = self.db.find_account(name.to_owned()).await.expect("answers").expect("exists");
        self.db.usage(account.id).await.expect("answers")
    }

    /// What lies about in the folder of uploads on their way.
    pub fn temporary_files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder().join("tmp")).expect("the folder is there");
        entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect()
    }

    pub async fn tcp(&self) -> tokio::net::TcpStream {
        tokio::net::TcpStream::connect(self.running.listen).await.expect("connects")
    }

    pub async fn connect(&self) -> Connection {
        self.tls.connect(self.tcp().await).await.expect("a TLS handshake")
    }

    /// Sends a request over a connection of its own.
    pub async fn ask(&self, request: &Request) -> Response {
        self.connect().await.ask(request).await
    }

    /// A request of the first account that accepts CBOR.
    pub fn request(&self, method: &str, path: &str) -> Request {
        request(&self.authorization, method, path)
    }

    pub fn get(&self, path: &str) -> Request {
        self.request("GET", path)
    }

    /// Reads `range` of a share; both ends inclusive, as on the wire.
    pub fn read(&self, path: &str, start: u64, end: u64) -> Request {
        self.get(path).header("Range", &format!("bytes={start}-{end}"))
    }

    pub fn allocate(&self, index: &str, shares: &[u64], size: u64) -> Request {
        allocate(&self.authorization, index, shares, size)
    }

    pub fn write(&self, index: &str, share: u64, offset: u64, bytes: &[u8]) -> Request {
        write(&self.authorization, index, share, offset, bytes)
    }

    /// A read-test-write with this body, which need not be one.
    pub fn read_test_write(&self, index: &str, body: &[u8]) -> Request {
        let path = format!("/storage/v1/mutable/{index}/read-test-write");
        let request = self.request("POST", &path).secrets(&[ENABLER]).secrets(&LEASE);
        request.header("Content-Type", "application/cbor").body(body)
    }

    /// A read-test-write that puts `bytes` at `offset` of a share and reads nothing.
    pub fn put(&self, index: &str, share: u64, offset: u64, bytes: &[u8]) -> Request {
        self.read_test_write(index, &encode(&put_body(share, offset, bytes, None)))
    }

    /// Uploads an immutable share.
    pub async fn upload(&self, index: &str, share: u64, bytes: &[u8]) {
        let mut connection = self.connect().await;
        let size = bytes.len() as u64;
        assert_eq!(connection.ask(&self.allocate(index, &[share], size)).await.status, 200);
        assert_eq!(connection.ask(&self.write(index, share, 0, bytes)).await.status, 201);
    }

    /// Waits until a condition of the server's making holds.
    pub async fn eventually<F: Future<Output = bool>>(&self, what: &str, mut holds: impl FnMut() -> F) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds().await {
            assert!(tokio::time::Instant::now() < deadline, "in vain waited for: {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Key hash and swissnum of a NURL.
pub fn nurl_parts(nurl: &str) -> (String, String) {
    let (hash, rest) = nurl.strip_prefix("pb://").and_then(|rest| rest.split_once('@')).expect("a NURL");
    let swissnum = rest.split_once('/').and_then(|(_, rest)| rest.strip_suffix("#v=1")).expect("a NURL");
    assert_eq!(BASE64URL_NOPAD.decode(hash.as_bytes()).expect("base64").len(), 32);
    (hash.to_owned(), swissnum.to_owned())
}

/// A value as bytes.
pub fn encode(value: &ciborium::Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("memory takes everything");
    bytes
}

/// A read-test-write of one write and no test, as a value.
pub fn put_body(share: u64, offset: u64, bytes: &[u8], new_length: Option<u64>) -> ciborium::Value {
    let data = ciborium::Value::Bytes(bytes.to_vec());
    cbor!({
        "test-write-vectors" => {
            share => { "test" => [], "write" => [{ "offset" => offset, "data" => data }], "new-length" => new_length }
        },
        "read-vector" => [],
    })
    .expect("plain values")
}

/// A storage index that no other test uses, from a number.
pub fn index(number: u64) -> String {
    let mut bytes = [0x5a; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    leasehold_core::id::StorageIndex::new(bytes).to_string()
}

/// Bytes that do not repeat soon.
pub fn noise(length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}
