//! A TCP proxy with faults: refuses, cuts, stalls, delays, and for PostgreSQL cuts around a COMMIT.
//!
//! Faults are switched while it runs, from any thread. The target can be changed as well: that is how a failover looks
//! to clients that keep the address.

mod statements;
#[cfg(test)]
mod tests;

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

pub use self::statements::Counts;
use self::statements::{Client, Messages, answers_commit};
use crate::relay::{Direction, Entrance, Link, Links, Tap, connect, reset_when_dropped, spawn};

/// How soon a held-back piece notices that its connection was cut.
const HOLD_TICK: Duration = Duration::from_millis(20);

/// Where a connection is cut that commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CommitCut {
    /// The server never hears of the COMMIT.
    Before,
    /// The server has done it; the client never hears of it.
    After,
}

struct Faults {
    target: SocketAddr,
    refuses: bool,
    stalls: bool,
    delay: Duration,
    /// The cut, and how many commits come first.
    commit_cut: Option<(CommitCut, u64)>,
    commits_cut: u64,
    /// How often all connections were cut or led elsewhere: one that was made meanwhile belongs to the past.
    age: u64,
}

struct Shared {
    faults: Mutex<Faults>,
    /// Faults have changed.
    changed: Condvar,
    counts: Mutex<Counts>,
    links: Links,
}

/// A proxy in front of one server.
pub struct TcpProxy {
    // Nobody comes in any more while the rest is taken down.
    entrance: Entrance,
    shared: Arc<Shared>,
}

impl TcpProxy {
    /// Listens on a loopback port of its own and passes connections on to `target`.
    pub fn start(target: SocketAddr) -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), target)
    }

    /// As [`TcpProxy::start`], at another address of this machine: one that others than its own processes reach.
    pub fn start_at(ip: IpAddr, target: SocketAddr) -> Result<Self> {
        let faults = Faults {
            target,
            refuses: false,
            stalls: false,
            delay: Duration::ZERO,
            commit_cut: None,
            commits_cut: 0,
            age: 0,
        };
        let shared = Arc::new(Shared {
            faults: Mutex::new(faults),
            changed: Condvar::new(),
            counts: Mutex::default(),
            links: Links::default(),
        });
        let accepting = Arc::clone(&shared);
        let entrance = Entrance::open_at(ip, "proxy", move |client| accepting.accept(client))?;
        Ok(Self { entrance, shared })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.entrance.address()
    }

    /// Passes new connections on to another server; those that exist stay where they are, see [`TcpProxy::cut_all`].
    pub fn set_target(&self, target: SocketAddr) {
        let mut faults = self.shared.faults();
        faults.target = target;
        faults.age += 1;
    }

    /// Resets new connections at once, or no longer.
    pub fn refuse(&self, refuses: bool) {
        self.shared.faults().refuses = refuses;
    }

    /// Resets all connections that exist and says how many they were.
    pub fn cut_all(&self) -> usize {
        self.shared.faults().age += 1;
        self.shared.links.cut()
    }

    /// Accepts connections and bytes but passes nothing on, in either direction, until [`TcpProxy::resume`].
    pub fn stall(&self) {
        self.shared.faults().stalls = true;
    }

    /// Passes on again what was held back, and what follows.
    pub fn resume(&self) {
        self.shared.faults().stalls = false;
        self.shared.changed.notify_all();
    }

    /// Holds each piece back for so long, in both directions; zero ends it.
    pub fn delay(&self, delay: Duration) {
        self.shared.faults().delay = delay;
    }

    /// Lets the `n`-th COMMIT from now (1 is the next) reach the server and cuts its connection once the server has
    /// answered, before the client hears of it: the transaction took effect, and the client cannot know.
    pub fn cut_after_commit_sent(&self, n: u64) {
        self.shared.faults().commit_cut = Some((CommitCut::After, n.saturating_sub(1)));
    }

    /// Cuts the connection of the `n`-th COMMIT from now (1 is the next) before the server hears of it: the
    /// transaction has no effect, and the client cannot know.
    pub fn cut_before_commit(&self, n: u64) {
        self.shared.faults().commit_cut = Some((CommitCut::Before, n.saturating_sub(1)));
    }

    /// How many connections were cut around a COMMIT.
    pub fn commits_cut(&self) -> u64 {
        self.shared.faults().commits_cut
    }

    /// What clients have sent so far.
    pub fn counts(&self) -> Counts {
        self.shared.counts().clone()
    }

    /// How many connections are open.
    pub fn open_connections(&self) -> usize {
        self.shared.links.count()
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.refuse(true);
        self.resume();
        self.cut_all();
    }
}

impl Shared {
    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, client: TcpStream) {
        self.counts().connections += 1;
        let shared = Arc::clone(self);
        // A server that is slow to accept must not hold up other connections. Without a thread the client is reset.
        let _ = spawn("proxy", move || {
            let (target, refuses, age) = {
                let faults = shared.faults();
                (faults.target, faults.refuses, faults.age)
            };
            let server = if refuses { Err(ErrorKind::ConnectionRefused.into()) } else { connect(target) };
            let Ok(server) = server else { return reset_when_dropped(&client) };
            let tap = Arc::new(Watcher { shared: Arc::clone(&shared), stream: Mutex::new(Stream::new()) });
            if let Ok(link) = Link::start(client, server, tap) {
                shared.links.add(&link);
                if shared.faults().age != age {
                    link.cut();
                }
            }
        });
    }

    /// Holds a piece back for as long as the faults say.
    fn hold(&self, link: &Link) -> io::Result<()> {
        let mut faults = self.faults();
        let until = Instant::now() + faults.delay;
        loop {
            if link.is_cut() {
                return Err(ErrorKind::ConnectionReset.into());
            }
            let rest = until.saturating_duration_since(Instant::now());
            if !faults.stalls && rest.is_zero() {
                return Ok(());
            }
            let tick = if faults.stalls { HOLD_TICK } else { rest.min(HOLD_TICK) };
            faults = self.changed.wait_timeout(faults, tick).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether this COMMIT is the one to cut at.
    fn take_commit_cut(&self) -> Option<CommitCut> {
        let mut faults = self.faults();
        let (cut, before) = faults.commit_cut?;
        if before > 0 {
            faults.commit_cut = Some((cut, before - 1));
            return None;
        }
        faults.commit_cut = None;
        Some(cut)
    }
}

/// What is known of the messages on one connection.
struct Stream {
    requests: Messages,
    responses: Messages,
    client: Client,
    /// The next answer to a COMMIT is not passed on.
    awaits_commit: bool,
}

impl Stream {
    fn new() -> Self {
        let (requests, responses) = (Messages::of_client(), Messages::of_server());
        Self { requests, responses, client: Client::default(), awaits_commit: false }
    }
}

/// Looks at one connection's messages.
struct Watcher {
    shared: Arc<Shared>,
    stream: Mutex<Stream>,
}

impl Watcher {
    /// Whether the piece may pass; marks the connection whose COMMIT must not be answered.
    fn may_request(&self, bytes: &[u8]) -> bool {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let Stream { requests, client, awaits_commit, .. } = &mut *stream;
        for (message, _) in requests.feed(bytes) {
            let is_commit = client.note(&message, &mut self.shared.counts());
            match if is_commit { self.shared.take_commit_cut() } else { None } {
                None => {}
                Some(CommitCut::Before) => return false,
                Some(CommitCut::After) => *awaits_commit = true,
            }
        }
        true
    }

    fn may_respond(&self, bytes: &[u8]) -> bool {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let is_answered = stream.responses.feed(bytes).iter().any(|(message, _)| answers_commit(message));
        !(stream.awaits_commit && is_answered)
    }
}

impl Tap for Watcher {
    fn pass(&self, link: &Link, direction: Direction, bytes: &[u8]) -> io::Result<()> {
        let may_pass = match direction {
            Direction::Request => self.may_request(bytes),
            Direction::Response => self.may_respond(bytes),
        };
        if !may_pass {
            self.shared.faults().commits_cut += 1;
            return Err(ErrorKind::ConnectionReset.into());
        }
        self.shared.hold(link)?;
        link.send(direction, bytes)
    }
}
