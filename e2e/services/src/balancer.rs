//! A TCP balancer over pods: every new connection goes to the next pod that is up and answers.
//!
//! GBS is TLS to the pod, so a balancer cannot split requests: what moves is connections. A client that opens a new
//! one for each request reaches another pod each time; one that keeps its connection is moved by [`Shuffle`].

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::relay::{Direction, Entrance, Link, Links, Tap, connect, reset_when_dropped, spawn};

/// How often connections are looked at that may be moved.
const SHUFFLE_TICK: Duration = Duration::from_millis(10);
/// A connection on which nothing came for so long after an answer has no request under way, as far as can be seen from
/// outside.
const IDLE: Duration = Duration::from_millis(15);

/// How long connections may live before they are ended, so that their clients come again and reach another pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    /// For ever.
    Never,
    /// So long, and then until no request is under way; ended in order.
    WhenIdle(Duration),
    /// So long; reset, whatever is under way.
    AtOnce(Duration),
}

/// What is known of one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodCounts {
    /// Connections that were made to it.
    pub connections: u64,
    /// Connections that are open.
    pub open: usize,
}

struct Pod {
    address: SocketAddr,
    is_up: bool,
    connections: u64,
    links: Arc<Links>,
}

struct State {
    pods: Vec<Pod>,
    next: usize,
    shuffle: Shuffle,
    is_closed: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    moving: Mutex<Vec<(Weak<Link>, Arc<Activity>)>>,
}

/// A balancer in front of pods, which are named by their place in the list.
pub struct Balancer {
    entrance: Entrance,
    shared: Arc<Shared>,
    mover: Option<JoinHandle<()>>,
}

impl Balancer {
    /// Listens on a loopback port of its own; all pods are up.
    pub fn start(pods: &[SocketAddr]) -> Result<Self> {
        let pods = pods.iter().map(|&address| Pod::new(address)).collect();
        let state = State { pods, next: 0, shuffle: Shuffle::Never, is_closed: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), moving: Mutex::default() });
        let (accepting, moving) = (Arc::clone(&shared), Arc::clone(&shared));
        let entrance = Entrance::open("balancer", move |client| accepting.accept(client))?;
        let mover = spawn("balancer", move || moving.move_connections())?;
        Ok(Self { entrance, shared, mover: Some(mover) })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.entrance.address()
    }

    /// Adds a pod, which is up, and gives its place.
    pub fn add_pod(&self, address: SocketAddr) -> usize {
        let mut state = self.shared.state();
        state.pods.push(Pod::new(address));
        state.pods.len() - 1
    }

    /// Says that a pod is now elsewhere. Its connections stay until they end.
    ///
    /// # Panics
    /// If there is no such pod, as all methods that name one.
    pub fn set_address(&self, pod: usize, address: SocketAddr) {
        self.shared.state().pods[pod].address = address;
    }

    /// Gives a pod no new connections; those that it has go on, as while a pod drains.
    pub fn mark_down(&self, pod: usize) {
        self.shared.state().pods[pod].is_up = false;
    }

    /// Gives a pod connections again.
    pub fn mark_up(&self, pod: usize) {
        self.shared.state().pods[pod].is_up = true;
    }

    /// Resets all connections of a pod and says how many they were.
    pub fn cut(&self, pod: usize) -> usize {
        let links = Arc::clone(&self.shared.state().pods[pod].links);
        links.cut()
    }

    /// Decides how long connections live, those that exist included.
    pub fn shuffle(&self, shuffle: Shuffle) {
        self.shared.state().shuffle = shuffle;
        self.shared.changed.notify_all();
    }

    /// Ends each connection in order at the first quiet moment after `duration`; `None` leaves them alone.
    pub fn shuffle_every(&self, duration: Option<Duration>) {
        self.shuffle(duration.map_or(Shuffle::Never, Shuffle::WhenIdle));
    }

    /// What is known of each pod, in their order.
    pub fn counts(&self) -> Vec<PodCounts> {
        let counts = |pod: &Pod| PodCounts { connections: pod.connections, open: pod.links.count() };
        self.shared.state().pods.iter().map(counts).collect()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.shared.state().is_closed = true;
        self.shared.changed.notify_all();
        if let Some(mover) = self.mover.take() {
            let _ = mover.join();
        }
        let links: Vec<_> = self.shared.state().pods.iter().map(|pod| Arc::clone(&pod.links)).collect();
        for links in links {
            links.cut();
        }
    }
}

impl Pod {
    fn new(address: SocketAddr) -> Self {
        Self { address, is_up: true, connections: 0, links: Arc::default() }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, client: TcpStream) {
        let shared = Arc::clone(self);
        let order = self.take_order();
        // A pod that is slow to accept must not hold up other connections. Without a thread the client is reset.
        let _ = spawn("balancer", move || {
            for pod in order {
                let address = shared.state().pods[pod].address;
                if let Ok(server) = connect(address) {
                    return shared.tie(client, server, pod);
                }
            }
            reset_when_dropped(&client);
        });
    }

    /// The pods to try for one connection, the one whose turn it is first.
    fn take_order(&self) -> Vec<usize> {
        let mut state = self.state();
        let up: Vec<usize> = (0..state.pods.len()).filter(|&pod| state.pods[pod].is_up).collect();
        let turn = up.iter().position(|&pod| pod >= state.next).unwrap_or_default();
        let order: Vec<usize> = up[turn..].iter().chain(&up[..turn]).copied().collect();
        state.next = order.first().map_or(0, |pod| pod + 1);
        order
    }

    fn tie(&self, client: TcpStream, server: TcpStream, pod: usize) {
        let activity = Arc::new(Activity::new());
        let Ok(link) = Link::start(client, server, Arc::clone(&activity) as Arc<dyn Tap>) else { return };
        let mut state = self.state();
        state.pods[pod].connections += 1;
        state.pods[pod].links.add(&link);
        if state.is_closed {
            link.cut();
        }
        self.moving.lock().unwrap_or_else(PoisonError::into_inner).push((Arc::downgrade(&link), activity));
    }

    /// Ends connections whose time has come, until the balancer is dropped.
    fn move_connections(&self) {
        let mut state = self.state();
        while !state.is_closed {
            state = match state.shuffle {
                Shuffle::Never => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                shuffle => {
                    drop(state);
                    self.end_old(shuffle);
                    let state = self.state();
                    self.changed.wait_timeout(state, SHUFFLE_TICK).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn end_old(&self, shuffle: Shuffle) {
        let mut moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        moving.retain(|(link, activity)| {
            let Some(link) = link.upgrade() else { return false };
            match shuffle {
                Shuffle::WhenIdle(age) if activity.is_idle() && activity.is_older_than(age) => link.end(),
                Shuffle::AtOnce(age) if activity.is_older_than(age) => link.cut(),
                _ => return true,
            }
            false
        });
    }
}

/// When and which way something last went over a connection.
struct Activity {
    begin: Instant,
    last: Mutex<(Instant, Option<Direction>)>,
}

impl Activity {
    fn new() -> Self {
        let now = Instant::now();
        Self { begin: now, last: Mutex::new((now, None)) }
    }

    fn is_older_than(&self, age: Duration) -> bool {
        self.begin.elapsed() >= age
    }

    fn is_idle(&self) -> bool {
        let (at, direction) = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        direction == Some(Direction::Response) && at.elapsed() >= IDLE
    }
}

impl Tap for Activity {
    fn pass(&self, link: &Link, direction: Direction, bytes: &[u8]) -> std::io::Result<()> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), Some(direction));
        link.send(direction, bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::process::wait_until;
    use crate::scratch::free_address;

    /// A server that answers each byte by its own name, one connection a thread.
    fn pod(name: u8) -> Result<Entrance> {
        Entrance::open("pod", move |mut stream| {
            let answer = move || {
                let mut byte = [0];
                while stream.read(&mut byte).is_ok_and(|length| length == 1) && stream.write_all(&[name]).is_ok() {}
            };
            let _ = spawn("pod", answer);
        })
    }

    fn ask(stream: &mut TcpStream) -> std::io::Result<u8> {
        let mut answer = [0];
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"?")?;
        stream.read_exact(&mut answer)?;
        Ok(answer[0])
    }

    fn ask_anew(balancer: &Balancer) -> Result<u8> {
        Ok(ask(&mut connect(balancer.address())?)?)
    }

    #[test]
    fn each_connection_goes_to_the_next_pod_that_answers() -> Result<()> {
        let pods = [pod(0)?, pod(1)?, pod(2)?];
        let balancer = Balancer::start(&[pods[0].address(), pods[1].address(), pods[2].address()])?;
        let asked: Result<Vec<u8>> = (0..6).map(|_| ask_anew(&balancer)).collect();
        assert_eq!(asked?, [0, 1, 2, 0, 1, 2]);
        balancer.mark_down(0);
        balancer.set_address(1, free_address()?);
        assert_eq!((ask_anew(&balancer)?, ask_anew(&balancer)?), (2, 2));
        balancer.mark_up(0);
        balancer.set_address(1, pods[1].address());
        assert_eq!((ask_anew(&balancer)?, ask_anew(&balancer)?), (0, 1));
        assert_eq!(balancer.counts()[2].connections, 4);
        Ok(())
    }

    #[test]
    fn kept_connection_stays_until_it_is_cut() -> Result<()> {
        let pods = [pod(0)?, pod(1)?];
        let balancer = Balancer::start(&[pods[0].address(), pods[1].address()])?;
        let mut stream = connect(balancer.address())?;
        assert_eq!((ask(&mut stream)?, ask(&mut stream)?), (0, 0));
        assert_eq!((balancer.cut(1), balancer.cut(0)), (0, 1));
        assert!(ask(&mut stream).is_err());
        Ok(())
    }

    #[test]
    fn shuffled_connection_ends_in_order_after_an_answer() -> Result<()> {
        let pod = pod(0)?;
        let balancer = Balancer::start(&[pod.address()])?;
        let mut stream = connect(balancer.address())?;
        assert_eq!(ask(&mut stream)?, 0);
        balancer.shuffle_every(Some(Duration::ZERO));
        assert_eq!(stream.read(&mut [0])?, 0);
        drop(stream);
        wait_until("the connection is gone", Duration::from_secs(10), || {
            Ok((balancer.counts()[0].open == 0).then_some(()))
        })
    }

    #[test]
    fn balancer_without_a_pod_resets_its_clients() -> Result<()> {
        let balancer = Balancer::start(&[free_address()?])?;
        assert!(ask_anew(&balancer).is_err());
        Ok(())
    }
}
