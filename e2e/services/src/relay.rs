//! Two sockets tied together by two threads: what proxies and the balancer are made of.
//!
//! A [`Link`] can be closed as an orderly end and cut as a crash. What passes is shown to a [`Tap`] first, which may hold
//! it back, change it or cut the link.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::sockopt::set_socket_linger;

const PIECE_BYTES: usize = 64 << 10;
/// How soon a thread that cannot write notices that its link was cut.
const WRITE_TICK: Duration = Duration::from_millis(100);
/// How long a connection to a server on this machine may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Threads that copy need little room.
const STACK_BYTES: usize = 256 << 10;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Request,
    /// From the server to the client.
    Response,
}

/// Looks at what passes on one link.
pub trait Tap: Send + Sync {
    /// Called with each piece, and with an empty one at the end, to pass it on; blocks to hold it back. An error cuts
    /// the link.
    fn pass(&self, link: &Link, direction: Direction, bytes: &[u8]) -> io::Result<()>;
}

/// A connection of a client and one to a server.
pub struct Link {
    client: TcpStream,
    server: TcpStream,
    is_cut: AtomicBool,
}

impl Link {
    /// Ties `client` to `server` and starts to pass bytes both ways.
    pub fn start(client: TcpStream, server: TcpStream, tap: Arc<dyn Tap>) -> Result<Arc<Self>> {
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            stream.set_write_timeout(Some(WRITE_TICK))?;
        }
        let link = Arc::new(Self { client, server, is_cut: AtomicBool::new(false) });
        for direction in [Direction::Request, Direction::Response] {
            let (link, tap) = (Arc::clone(&link), Arc::clone(&tap));
            spawn("relay", move || link.copy(direction, tap.as_ref()))?;
        }
        Ok(link)
    }

    /// Ends both connections by a reset, as when a machine is gone: what is on its way is lost.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        for stream in [&self.client, &self.server] {
            reset_when_dropped(stream);
            // Wakes whoever reads, and tells the other side nothing: that is done by the reset, when the last
            // thread drops the link.
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    /// Ends both connections in order: what is on its way arrives first.
    pub fn end(&self) {
        for stream in [&self.client, &self.server] {
            // Fails only if the other side was faster.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Whether the link was cut.
    pub fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::SeqCst)
    }

    /// Writes to the side that `direction` leads to.
    pub fn send(&self, direction: Direction, bytes: &[u8]) -> io::Result<()> {
        let mut stream = match direction {
            Direction::Request => &self.server,
            Direction::Response => &self.client,
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.is_cut() {
                return Err(ErrorKind::ConnectionReset.into());
            }
            match stream.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if is_pause(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn copy(&self, direction: Direction, tap: &dyn Tap) {
        let (mut from, to) = match direction {
            Direction::Request => (&self.client, &self.server),
            Direction::Response => (&self.server, &self.client),
        };
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match from.read(&mut piece) {
                Ok(0) if self.is_cut() => return,
                // An end in one direction is passed on; the other may go on.
                Ok(0) if tap.pass(self, direction, &[]).is_ok() => return drop(to.shutdown(Shutdown::Write)),
                Ok(length) if length > 0 && tap.pass(self, direction, &piece[..length]).is_ok() => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return self.cut(),
            }
        }
    }
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Makes the end of this connection a reset.
pub fn reset_when_dropped(stream: &TcpStream) {
    // Fails only for a socket that is closed already.
    let _ = set_socket_linger(stream, Some(Duration::ZERO));
}

/// Connects to a server on this machine.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
}

/// Runs `body` on a thread with a small stack.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let builder = thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
    builder.spawn(body).with_context(|| format!("start a thread for the {name}"))
}

/// The links that are alive, to cut them.
#[derive(Default)]
pub struct Links {
    alive: Mutex<Vec<Weak<Link>>>,
}

impl Links {
    /// Remembers a link for as long as it lives.
    pub fn add(&self, link: &Arc<Link>) {
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.retain(|link| link.strong_count() > 0);
        alive.push(Arc::downgrade(link));
    }

    /// How many are alive.
    pub fn count(&self) -> usize {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.iter().filter(|link| link.strong_count() > 0).count()
    }

    /// Cuts all and says how many they were.
    pub fn cut(&self) -> usize {
        let alive = std::mem::take(&mut *self.alive.lock().unwrap_or_else(PoisonError::into_inner));
        let alive: Vec<Arc<Link>> = alive.iter().filter_map(Weak::upgrade).collect();
        for link in &alive {
            link.cut();
        }
        alive.len()
    }
}

/// A listening socket on the loopback address with the thread that accepts; both end when it is dropped.
pub struct Entrance {
    address: SocketAddr,
    is_closed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Entrance {
    /// Listens on a loopback port of the kernel's choice and calls `accept`, which must not block, with each connection.
    pub fn open(name: &str, accept: impl FnMut(TcpStream) + Send + 'static) -> Result<Self> {
        Self::open_at(Ipv4Addr::LOCALHOST.into(), name, accept)
    }

    /// As [`Entrance::open`], at another address of this machine.
    pub fn open_at(ip: IpAddr, name: &str, mut accept: impl FnMut(TcpStream) + Send + 'static) -> Result<Self> {
        let listener = TcpListener::bind((ip, 0)).with_context(|| format!("listen on {ip}"))?;
        let address = listener.local_addr()?;
        let is_closed = Arc::new(AtomicBool::new(false));
        let closed = Arc::clone(&is_closed);
        let thread = spawn(name, move || {
            for stream in listener.incoming() {
                if closed.load(Ordering::SeqCst) {
                    return;
                }
                match stream {
                    Ok(stream) => accept(stream),
                    // Too many open files, for instance: better later than never.
                    Err(_) => thread::sleep(Duration::from_millis(10)),
                }
            }
        })?;
        Ok(Self { address, is_closed, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        self.is_closed.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        if connect(self.address).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}
