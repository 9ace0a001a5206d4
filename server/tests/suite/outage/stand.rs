//! A server on real sockets whose lease database and backend can be taken away, and whose steady clock a test moves.
//! What the program does every two seconds is done when the test says so.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use leasehold_core::accountant::Accountant;
use leasehold_core::clock::Entropy;
use leasehold_core::leasedb::{AccountChange, CreateOutcome, LeaseDb};
use leasehold_core::secret::{SecretHash, Swissnum};
use leasehold_core::store::{Store, StoreOptions};
use leasehold_core::testing::clock::ManualSteadyClock;
use leasehold_core::testing::faulty::{Faults, FaultyBackend, FaultyLeaseDb, Outage, Site};
use leasehold_leasedb::sqlite::SqliteLeaseDb;
use leasehold_server::admin::Admin;
use leasehold_server::backend::directory::DirectoryBackend;
use leasehold_server::datadir::DataDir;
use leasehold_server::frontend::body::BodyLimits;
use leasehold_server::frontend::gbs::{Gbs, Limits};
use leasehold_server::identity::Identity;
use leasehold_server::listener::drain::Drain;
use leasehold_server::listener::{Deadlines, Handler, Listener};
use leasehold_server::metrics::Metrics;
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use crate::places;
use crate::support::{Request, Response, Tls, authorization};

type Db = FaultyLeaseDb<SqliteLeaseDb>;
type Objects = FaultyBackend<DirectoryBackend>;

pub struct Stand {
    pub faults: Faults,
    pub clock: ManualSteadyClock,
    pub db: SqliteLeaseDb,
    /// The `Authorization` of the first account.
    pub authorization: String,
    store: Arc<Store<Db, Objects>>,
    accountant: Arc<Accountant<Db>>,
    listen: SocketAddr,
    admin: SocketAddr,
    tls: Tls,
    drain: Drain,
    folder: TempDir,
}

pub fn hash(swissnum: &str) -> SecretHash {
    Swissnum::new(swissnum.into()).expect("a length that is allowed").credential_hash()
}

impl Stand {
    pub async fn start() -> Self {
        let (folder, faults, clock) = (places::folder(), Faults::new(), ManualSteadyClock::default());
        let data = DataDir::create(folder.path()).expect("a data directory");
        let identity = Identity::load_or_create(&data.identity_folder()).expect("an identity");
        let db = leasehold_leasedb::sqlite::SqliteLeaseDb::open(
            &data.database(),
            std::sync::Arc::new(leasehold_core::clock::SystemClock),
            leasehold_core::lease::LeaseTerms::default(),
        )
        .expect("a lease database");
        let faulty = Arc::new(FaultyLeaseDb::new(db.clone(), faults.clone()));
        let objects = DirectoryBackend::open(data.path()).expect("a backend");
        let objects = Arc::new(FaultyBackend::new(objects, faults.clone()));
        let store = Store::new(faulty.clone(), objects, Entropy::from_os(), StoreOptions::default());
        let (metrics, drain) = (Arc::new(Metrics::default()), Drain::default());
        let store = Arc::new(store.with_clock(Arc::new(clock.clone())).with_observer(metrics.clone()));
        let accountant = Accountant::open_with_clock(faulty, Arc::new(clock.clone())).await.expect("an accountant");
        let accountant = Arc::new(accountant.with_observer(metrics.clone()));
        let body = BodyLimits { stall: Duration::from_secs(60), bytes_per_second_min: 0 };
        let limits = Limits { body, read_test_write_body_max: 1 << 20, spool: data.path().join("tmp") };
        let gbs = Gbs::new(store.clone(), accountant.clone(), limits, metrics.clone());
        let acceptor = TlsAcceptor::from(Arc::new(identity.tls_config().expect("a configuration")));
        let listen = serve(gbs, Some(acceptor), &metrics, &drain).await;
        let ready = Arc::new(AtomicBool::new(true));
        let admin = Admin::new(store.clone(), "a stand".to_owned(), metrics.clone(), ready);
        let admin = serve(admin, None, &metrics, &drain).await;
        let (authorization, tls) = (authorization("first"), Tls::pinning(&identity.public.spki_hash));
        let stand = Self { faults, clock, db, authorization, store, accountant, listen, admin, tls, drain, folder };
        stand.create_account("first").await;
        stand.refresh().await;
        stand
    }

    /// Makes an account that this swissnum opens.
    pub async fn create_account(&self, swissnum: &str) {
        let made = self.db.create_account(swissnum.to_owned(), AccountChange::default(), hash(swissnum)).await;
        assert!(matches!(made.expect("the database answers"), CreateOutcome::Created(_)));
    }

    /// What the program does every two seconds, and goes on if it fails.
    pub async fn refresh(&self) {
        drop(self.accountant.refresh().await);
        self.notice_silence();
        drop(self.store.refresh_space().await);
    }

    /// What the program does when a refresh takes too long.
    pub fn notice_silence(&self) {
        if !self.accountant.has_contact() {
            self.store.expect_silence();
        }
    }

    /// Takes something away, and lets the server notice.
    pub async fn outage(&self, lease_db: bool, backend: bool) {
        self.faults.set_outage(Outage { lease_db, backend });
        self.refresh().await;
    }

    /// Sends a request over a connection of its own.
    pub async fn ask(&self, request: &Request) -> Response {
        let stream = tokio::net::TcpStream::connect(self.listen).await.expect("connects");
        self.tls.connect(stream).await.expect("a handshake").ask(request).await
    }

    /// Sends a request and counts how often the lease database was asked for a share's row.
    pub async fn ask_counting(&self, request: &Request) -> (Response, usize) {
        self.faults.begin("counted", None);
        let answer = self.ask(request).await;
        let looks_up = |site: &&Site| **site == Site::Db("find_share");
        (answer, self.faults.end().calls.iter().filter(looks_up).count())
    }

    /// Whether balancers would send clients here.
    pub async fn is_ready(&self) -> bool {
        let url = format!("GET /healthz/ready HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin);
        let mut stream = tokio::net::TcpStream::connect(self.admin).await.expect("connects");
        tokio::io::AsyncWriteExt::write_all(&mut stream, url.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.expect("text");
        answer.starts_with("HTTP/1.1 200")
    }

    /// Forgets a share as if it had been removed on another pod long ago: its rows, and all objects there are.
    pub fn lose_share(&self, rows: bool) {
        if rows {
            let file = places::lease_db_file(self.folder.path());
            let connection = rusqlite::Connection::open(file).expect("a second connection");
            connection.execute_batch("DELETE FROM leases; DELETE FROM shares;").expect("rows are gone");
        }
        remove_files(&self.folder.path().join("shares"));
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.drain.stop();
    }
}

async fn serve<H: Handler>(handler: H, tls: Option<TlsAcceptor>, metrics: &Arc<Metrics>, drain: &Drain) -> SocketAddr {
    let patience = Duration::from_secs(60);
    let deadlines = Deadlines { header: patience, idle: patience, stall: patience };
    let handler = Arc::new(handler);
    let listener =
        Listener { handler, tls, clear_text: None, deadlines, connections_max: 100, metrics: metrics.clone() };
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = socket.local_addr().expect("an address");
    tokio::spawn(listener.run(socket, drain.clone()));
    address
}

fn remove_files(folder: &std::path::Path) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        if path.is_dir() { remove_files(&path) } else { std::fs::remove_file(path).expect("removed") }
    }
}
