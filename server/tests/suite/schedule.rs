//! Schedules of jobs inside a server: `accounting.md` B-11.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use leasehold_core::lease::LeaseTerms;
use leasehold_core::run::RunKind;
use leasehold_core::testing::clock::ManualClock;
use leasehold_server::jobs::schedule::{Scheduled, keep};
use leasehold_server::listener::drain::Drain;
use leasehold_server::metrics::Metrics;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::places;
use crate::support::PATIENCE;

/// An unexpected error ended the branch's chain of timers: its crawler stood still until somebody restarted the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_11_a_job_that_fails_or_panics_is_begun_again() {
    let folder = places::folder();
    let db = Arc::new(places::lease_db(folder.path(), Arc::new(ManualClock::default()), LeaseTerms::default()));
    let (attempts, third) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let (counted, told) = (attempts.clone(), third.clone());
    let run = move || -> futures_util::future::BoxFuture<'static, anyhow::Result<()>> {
        let (attempt, told) = (counted.fetch_add(1, Ordering::SeqCst), told.clone());
        Box::pin(async move {
            match attempt {
                0 => panic!("a fault of the program"),
                1 => anyhow::bail!("the database is away"),
                _ => told.notify_one(),
            }
            Ok(())
        })
    };
    let job = Scheduled { kind: RunKind::Audit, interval_seconds: 1, run: Box::new(run) };
    let (metrics, drain) = (Arc::new(Metrics::default()), Drain::default());
    let schedule = tokio::spawn(keep(db, job, metrics.clone(), drain.clone()));
    timeout(PATIENCE, third.notified()).await.expect("it is begun a third time");
    drain.stop();
    timeout(PATIENCE, schedule).await.expect("it ends with the server").expect("and not by a panic");
    assert_eq!(metrics.background_failures.get(), 2);
}
