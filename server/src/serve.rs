//! A server, on one machine or one of many: wiring by hand, top down.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use leasehold_config::Config;
use leasehold_core::account::Account;
use leasehold_core::accountant::{Accountant, REFRESH_SECONDS};
use leasehold_core::backend::Backend;
use leasehold_core::expiry::brake_on_clocks;
use leasehold_core::leasedb::{AccountChange, LeaseDb, TickOutcome};
use leasehold_core::run::RunId;
use leasehold_core::store::{Collected, Store, StoreError};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::accounts::{Accounts, FIRST_ACCOUNT, Handout};
use crate::admin::Admin;
use crate::datadir::{DataDir, Published};
use crate::frontend::body::BodyLimits;
use crate::frontend::foolscap::{FoolscapPort, PortOptions};
use crate::frontend::gbs::{Gbs, Limits};
use crate::identity::Identity;
use crate::jobs::{schedule, scheduled};
use crate::listener::drain::{Drain, DrainTimes};
use crate::listener::{Deadlines, Listener};
use crate::metrics::Metrics;
use crate::places::{open_backend, open_lease_db, open_store};

/// How often is asked whether the heart shall beat, in seconds: often enough that a dead process is soon stood in for.
const PULSE_SECONDS: u64 = 5;
/// How often what is in upload is counted, in seconds.
const COUNT_SECONDS: u64 = 15;
const ADMIN_CONNECTIONS_MAX: usize = 64;
/// How long a refresh of what is kept in memory may take before it is tried anew.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(10);
/// How old connections of Foolscap become at least where several processes serve, before one that rests is closed: after
/// a rollout clients are spread anew within some hours, and an upload hardly ever finds its client between two of them.
const CONNECTION_AGE: Duration = Duration::from_secs(3600);

/// A server that accepts connections.
pub struct Running {
    /// The first account, ready to be handed out; `None` if its files are gone.
    pub handout: Option<Handout>,
    /// Where clients are served.
    pub listen: SocketAddr,
    /// Where metrics and health are served.
    pub admin: SocketAddr,
    drain: Drain,
    is_orphaned: Arc<AtomicBool>,
    server: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Begins the end that clients do not notice; [`ended`](Self::ended) tells when it has come.
    pub fn drain(&self) {
        self.drain.begin();
    }

    /// Stops accepting, closes resting connections and lets requests in flight finish; all without waiting.
    pub fn hurry(&self) {
        self.drain.stop();
    }

    /// Waits for the server's end, however it was brought about. Must not be called again after it has returned.
    pub async fn ended(&mut self) {
        if let Err(error) = (&mut self.server).await {
            tracing::error!(%error, "the server ended badly");
        }
    }

    /// Whether it ends because its lease database is not there any more: another one is in its place.
    pub fn is_orphaned(&self) -> bool {
        self.is_orphaned.load(Ordering::Relaxed)
    }

    /// Stops accepting, lets requests in flight finish, and returns when all is done.
    pub async fn stop(mut self) {
        self.hurry();
        self.ended().await;
    }
}

/// Starts a server on a data directory.
///
/// # Errors
/// Whatever keeps it from serving, in words for a person.
pub async fn start(config: Config, path: &Path) -> anyhow::Result<Running> {
    let data = DataDir::create(path)?;
    // What lies in the directory belongs to one process; of PostgreSQL and S3 any number may make use.
    let is_pod = config.database.is_some() && config.storage.s3.is_some();
    let lock = if is_pod { None } else { Some(data.lock()?) };
    let identity = Identity::load_or_create(&data.identity_folder())?;
    let mut metrics = Metrics::default();
    let db = open_lease_db(&config, &data, metrics.registry()).await?;
    let backend = open_backend(&config, &data, metrics.registry())?;
    let metrics = Arc::new(metrics);
    let socket = bind(config.server.listen).await?;
    let admin_socket = bind(config.server.admin_listen).await?;
    let (listen, admin) = (socket.local_addr()?, admin_socket.local_addr()?);
    let advertise = config.server.advertise.clone().unwrap_or_else(|| reachable(listen));
    let published = Published { advertise: advertise.clone(), nickname: config.server.nickname.clone() };
    data.publish(&published)?;
    data.make_spool()?;
    // Before there is any account: a new lease database may have to take over an old backend.
    let store = Arc::new(open_store(&config, db.clone(), backend).await?.with_observer(metrics.clone()));
    let accounts = Accounts::new(db.clone(), &data, identity.clone(), published);
    let handout = first_account(&config, &data, &accounts).await?;

    let accountant = Arc::new(Accountant::open(Arc::new(db)).await?.with_observer(metrics.clone()));
    let gbs = Gbs::new(store.clone(), accountant.clone(), limits(&config, &data), metrics.clone());
    let ready = Arc::new(AtomicBool::new(true));
    let drain = Drain::default();
    let deadlines = Deadlines {
        header: Duration::from_secs(config.limits.header_timeout_seconds),
        idle: Duration::from_secs(config.limits.idle_timeout_seconds),
        stall: Duration::from_secs(config.limits.stall_timeout_seconds),
    };
    if !identity.proves_tub_id() {
        tracing::warn!("tls.crt is not the certificate that the tub id was made of: Foolscap clients will refuse it");
    }
    let port = PortOptions {
        identity: &identity,
        advertise: &advertise,
        deadlines,
        upload_idle_seconds: i64::from(config.uploads.idle_timeout_seconds),
        // Over SQLite there is no other process.
        connection_age: config.database.is_some().then_some(CONNECTION_AGE),
    };
    let foolscap = FoolscapPort::new(store.clone(), accountant.clone(), &port, metrics.clone())?;
    let clients = Listener {
        handler: Arc::new(gbs.clone()),
        tls: Some(TlsAcceptor::from(Arc::new(identity.tls_config()?))),
        clear_text: Some(Arc::new(foolscap.clone())),
        deadlines,
        connections_max: config.limits.connections_max,
        metrics: metrics.clone(),
    };
    let admin_listener = Listener {
        handler: Arc::new(Admin::new(store.clone(), config.server.nickname.clone(), metrics.clone(), ready.clone())),
        tls: None,
        clear_text: None,
        deadlines,
        connections_max: ADMIN_CONNECTIONS_MAX,
        metrics: Arc::new(Metrics::default()),
    };
    let jobs = scheduled(&config, &store).into_iter();
    let jobs: Vec<_> =
        jobs.map(|job| schedule::keep(store.db().clone(), job, metrics.clone(), drain.clone())).collect();
    let following = foolscap.clone();
    let follow = drain.clone();
    let is_orphaned = Arc::new(AtomicBool::new(false));
    let mut background = vec![
        tokio::spawn(async move { following.follow(follow).await }),
        tokio::spawn(keep_accounts(accountant, store.clone(), metrics.clone(), drain.clone())),
        tokio::spawn(keep_space(store.clone(), metrics.clone(), drain.clone())),
        tokio::spawn(keep_beating(store.clone(), metrics.clone(), drain.clone(), is_orphaned.clone())),
        tokio::spawn(keep_counting(store.clone(), metrics.clone(), drain.clone())),
        tokio::spawn(keep_clean(store, metrics.clone(), collect_interval(&config), drain.clone())),
        tokio::spawn(admin_listener.run(admin_socket, drain.last())),
    ];
    background.extend(jobs.into_iter().map(tokio::spawn));
    let (drain_times, ending) = (drain_times(&config), drain.clone());
    let server = tokio::spawn(async move {
        let ended = async {
            clients.run(socket, ending.clone()).await;
            gbs.finish().await;
            foolscap.finish().await;
            ending.stop();
            for task in background {
                drop(task.await);
            }
        };
        let announce = || {
            ready.store(false, Ordering::Relaxed);
            metrics.draining.set(1);
        };
        tokio::select! {
            () = ended => {}
            () = ending.run(drain_times, announce) => {
                // Where nobody stands in, clients come back every second.
                tracing::info!(connections = metrics.connections.open(), "the time to leave is over");
                ending.stop();
            }
        }
        drop(lock);
    });
    Ok(Running { handout, listen, admin, drain, is_orphaned, server })
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// What to tell clients when nobody said: the address bound, or loopback where that is "all addresses".
fn reachable(listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() { format!("127.0.0.1:{}", listen.port()) } else { listen.to_string() }
}

const fn drain_times(config: &Config) -> DrainTimes {
    DrainTimes {
        notice: Duration::from_secs(config.server.drain_notice_seconds),
        drain: Duration::from_secs(config.server.drain_seconds),
    }
}

fn limits(config: &Config, data: &DataDir) -> Limits {
    Limits {
        body: BodyLimits {
            stall: Duration::from_secs(config.limits.stall_timeout_seconds),
            bytes_per_second_min: config.limits.body_bytes_per_second_min,
        },
        read_test_write_body_max: config.limits.read_test_write_body_max.0,
        spool: data.spool_folder(),
    }
}

/// How often to collect, in seconds; short enough that uploads of short patience end in time.
fn collect_interval(config: &Config) -> u64 {
    config.jobs.collect_interval_seconds.min(u64::from(config.uploads.idle_timeout_seconds).div_ceil(2))
}

/// A new server on one machine begins with one account, so that a newcomer has something to use. One that was deleted
/// stays deleted.
async fn first_account<L: LeaseDb>(
    config: &Config,
    data: &DataDir,
    accounts: &Accounts<L>,
) -> anyhow::Result<Option<Handout>> {
    let begins = config.database.is_none() && !data.accounts_folder().exists();
    if begins && accounts.find(FIRST_ACCOUNT).await.is_err() {
        return accounts.create(FIRST_ACCOUNT, AccountChange::default()).await.map(Some);
    }
    // The address may have changed since the files were written.
    let mut first = None;
    for (account, _) in accounts.list().await? {
        if let Some(handout) = rewrite(accounts, &account) {
            first = first.or(Some(handout));
        }
    }
    Ok(first)
}

fn rewrite<L: LeaseDb>(accounts: &Accounts<L>, account: &Account) -> Option<Handout> {
    accounts.hand_out(account).ok()
}

async fn every(seconds: u64, drain: &Drain) -> bool {
    tokio::select! {
        () = drain.stopped() => false,
        () = tokio::time::sleep(Duration::from_secs(seconds)) => true,
    }
}

/// Keeps accounts up to date. Apart from the room, so that a backend that hangs does not make accounts old.
async fn keep_accounts<L: LeaseDb, B: Backend>(
    accountant: Arc<Accountant<L>>,
    store: Arc<Store<L, B>>,
    metrics: Arc<Metrics>,
    drain: Drain,
) {
    while every(REFRESH_SECONDS, &drain).await {
        let refreshed = tokio::time::timeout(REFRESH_TIMEOUT, accountant.refresh()).await;
        if let Err(error) = refreshed.map_err(anyhow::Error::new).and_then(|result| Ok(result?)) {
            metrics.background_failures.inc();
            tracing::warn!(error = format!("{error:#}"), "cannot refresh accounts");
        }
        if !accountant.has_contact() {
            store.expect_silence();
        }
        metrics.account_cache_age_seconds.set(accountant.cache_age().as_secs());
        metrics.account_cache_entries.set(accountant.sessions() as u64);
    }
}

/// Keeps what is known of the backend's room up to date.
async fn keep_space<L: LeaseDb, B: Backend>(store: Arc<Store<L, B>>, metrics: Arc<Metrics>, drain: Drain) {
    while every(REFRESH_SECONDS, &drain).await {
        let refreshed = tokio::time::timeout(REFRESH_TIMEOUT, store.refresh_space()).await;
        if let Err(error) = refreshed.map_err(anyhow::Error::new).and_then(|result| Ok(result?)) {
            metrics.background_failures.inc();
            tracing::warn!(error = format!("{error:#}"), "cannot measure free space");
        }
        metrics.backend_available_bytes.set(store.backend_available_bytes());
    }
}

/// Lets the deployment's heart beat, and says so when it tells of lost commits.
async fn keep_beating<L: LeaseDb, B: Backend>(
    store: Arc<Store<L, B>>,
    metrics: Arc<Metrics>,
    drain: Drain,
    is_orphaned: Arc<AtomicBool>,
) {
    loop {
        match tokio::time::timeout(REFRESH_TIMEOUT, store.tick()).await {
            Ok(Ok(Some(TickOutcome::Loss(epoch)))) => tracing::error!(
                epoch = epoch.0,
                "the lease database has lost commits (a failover or a restore); recovery mode: nothing is deleted"
            ),
            Ok(Ok(_)) => {}
            Ok(Err(error @ StoreError::AnotherDatabase)) => {
                // Who starts anew takes the backend over, once no heart beats for the old database any more.
                tracing::error!(%error, "this process ends: what it knows is of the old one");
                is_orphaned.store(true, Ordering::Relaxed);
                drain.stop();
                return;
            }
            Ok(Err(error)) => {
                metrics.background_failures.inc();
                tracing::warn!(error = format!("{:#}", anyhow::Error::new(error)), "the heart did not beat");
            }
            Err(_) => {
                metrics.background_failures.inc();
                tracing::warn!("the heart did not beat in time");
            }
        }
        if !every(PULSE_SECONDS, &drain).await {
            return;
        }
    }
}

/// Shows what is in upload. Whether the lease database answers others tell.
async fn keep_counting<L: LeaseDb, B: Backend>(store: Arc<Store<L, B>>, metrics: Arc<Metrics>, drain: Drain) {
    loop {
        if let Ok(open) = store.db().open_uploads().await {
            metrics.uploads_open.set(open.count);
            metrics.uploads_reserved_bytes.set(open.bytes);
        }
        if !every(COUNT_SECONDS, &drain).await {
            return;
        }
    }
}

/// Says why something was not cleaned up; that a run was braked, once.
fn tell_brakes(collected: &Collected, braked: &mut Option<RunId>) {
    if let Some(reason) = brake_on_clocks(collected.skew_seconds) {
        tracing::error!(reason, "nothing is cleaned up");
    }
    let before = std::mem::replace(braked, collected.braked);
    if let Some(run) = collected.braked.filter(|run| before != Some(*run)) {
        tracing::error!(%run, "a brake keeps shares that nobody leases; see `leasehold runs`");
    }
}

/// Retires shares that nobody leases, ends overdue uploads, deletes due garbage, merges pieces; unless `seconds` is 0.
async fn keep_clean<L: LeaseDb, B: Backend>(
    store: Arc<Store<L, B>>,
    metrics: Arc<Metrics>,
    seconds: u64,
    drain: Drain,
) {
    if seconds == 0 {
        return;
    }
    let mut braked = None;
    loop {
        match store.collect(|_| ()).await {
            Ok(collected) => {
                metrics.objects_deleted.inc_by(collected.objects_deleted);
                tell_brakes(&collected, &mut braked);
            }
            Err(error) => {
                metrics.background_failures.inc();
                tracing::warn!(%error, "cleaning up failed and will be tried again");
            }
        }
        if !every(seconds, &drain).await {
            return;
        }
    }
}
