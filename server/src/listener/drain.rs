//! How a server comes to its end so that no client notices (`api.md` 13).
//!
//! A client keeps idle connections and does not repeat an upload's request on one that it finds closed; but it asks the
//! version every second and so walks through all of them. So nothing is closed under it: first the balancers are given
//! time to notice, then each connection is closed by the answer to its next request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How long the parts of a drain take.
#[derive(Clone, Copy, Debug)]
pub struct DrainTimes {
    /// From the beginning until answers ask clients to close: time for balancers to see that readiness is gone.
    pub notice: Duration,
    /// From then on at most.
    pub drain: Duration,
}

/// How far the end of a server has come; its clones tell the same.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    begun: CancellationToken,
    closing: CancellationToken,
    /// As `closing`, for each request to look at: a token has a lock.
    is_closing: Arc<AtomicBool>,
    stopped: CancellationToken,
}

impl Drain {
    /// Begins the end. Doing it again changes nothing.
    pub fn begin(&self) {
        self.begun.cancel();
    }

    /// Ends at once: no more connections, resting ones are closed, requests in flight finish.
    pub fn stop(&self) {
        self.close();
        self.stopped.cancel();
        self.begun.cancel();
    }

    /// Passes through the stages once the end has begun; `announce` is called first. Returns when time is up.
    pub async fn run(&self, times: DrainTimes, announce: impl FnOnce()) {
        self.begun.cancelled().await;
        announce();
        tokio::select! {
            () = self.stopped.cancelled() => {}
            () = tokio::time::sleep(times.notice) => self.close(),
        }
        tokio::time::sleep(times.drain).await;
    }

    /// For a port that serves until all others have ended, and then ends at once.
    #[must_use]
    pub fn last(&self) -> Self {
        Self { closing: self.stopped.clone(), is_closing: Arc::default(), ..self.clone() }
    }

    /// Whether answers shall ask clients to close their connections.
    pub fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Relaxed)
    }

    /// Waits until answers ask clients to close their connections.
    pub async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// Waits until no connection is to be accepted any more.
    pub async fn stopped(&self) {
        self.stopped.cancelled().await;
    }

    fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
        self.closing.cancel();
    }
}
