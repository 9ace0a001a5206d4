//! A run: clients at work, somebody who disturbs them, a last look at everything, and the verdict.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use leasehold_e2e::checker::{self, Verdict};
use leasehold_e2e::gbs::{Client, Nurl};
use leasehold_e2e::history::Recorder;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::member::{Member, Shared};

/// How long the checker may search.
const CHECK_TIME: Duration = Duration::from_secs(120);

/// What clients do in a run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How many there are.
    pub clients: usize,
    /// How long they are at work.
    pub time: Duration,
    /// How long they wait for an answer.
    pub timeout: Duration,
    /// How many steps in a hundred are done on slots; the others on buckets.
    pub slots_percent: u32,
}

/// What a run has left.
pub struct Recorded {
    /// The file with the history.
    pub path: PathBuf,
    /// How often each outcome was seen.
    pub counts: BTreeMap<String, u64>,
}

/// The seed of a run: `LEASEHOLD_SEED`, else any; printed.
pub fn seed() -> Result<u64> {
    let seed = match std::env::var("LEASEHOLD_SEED") {
        Ok(text) => text.parse()?,
        Err(_) => StdRng::from_os_rng().random(),
    };
    println!("LEASEHOLD_SEED={seed}");
    Ok(seed)
}

/// Lets clients work at `nurl` while `disturb` runs, which must return soon after the instant it is given and leave
/// everything in order. Then everything is read once more.
///
/// # Errors
/// If an answer makes no sense, a client panics, or not everything can be read in the end.
pub fn record(
    name: &str,
    nurl: &Nurl,
    plan: &Plan,
    seed: u64,
    disturb: impl FnOnce(Instant) -> Result<()>,
) -> Result<Recorded> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.jsonl"));
    let shared = Shared::new(Recorder::create(&path)?, seed);
    let deadline = Instant::now() + plan.time;
    thread::scope(|scope| {
        let work = |number| {
            let outcome = on_runtime(work(&shared, nurl, plan, number));
            // One that fails need not wait for the others.
            shared.stop.fetch_or(outcome.is_err(), Ordering::Relaxed);
            outcome
        };
        let clients: Vec<_> = (0..plan.clients).map(|number| scope.spawn(move || work(number))).collect();
        let disturbed = disturb(deadline);
        while Instant::now() < deadline && disturbed.is_ok() && !shared.stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(20));
        }
        shared.stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("a client does not panic")?;
        }
        disturbed
    })?;
    on_runtime(read_everything(&shared, nurl, plan))?;
    shared.recorder.flush()?;
    let counts = shared.counts().clone();
    for (outcome, count) in &counts {
        println!("{count:7} × {outcome}");
    }
    Ok(Recorded { path, counts })
}

fn on_runtime<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

fn member<'a>(shared: &'a Shared, nurl: &Nurl, plan: &Plan, number: usize) -> Result<Member<'a>> {
    let client = Client::new(nurl.clone())?.with_timeout(plan.timeout);
    let random = StdRng::seed_from_u64(shared.seed.wrapping_add(number as u64));
    Ok(Member { number, shared, client, random, views: HashMap::new(), insists: false, failures: 0 })
}

async fn work(shared: &Shared, nurl: &Nurl, plan: &Plan, number: usize) -> Result<()> {
    let mut member = member(shared, nurl, plan, number)?;
    while !shared.stop.load(Ordering::Relaxed) {
        if member.chance(plan.slots_percent) {
            member.slot_step().await.context("a step on a slot")?;
        } else {
            member.bucket_step().await.context("a step on a bucket")?;
        }
        if member.chance(2) {
            member.client.disconnect(); // the next request may reach another process
        }
    }
    Ok(())
}

async fn read_everything(shared: &Shared, nurl: &Nurl, plan: &Plan) -> Result<()> {
    let mut member = member(shared, nurl, plan, plan.clients)?;
    member.insists = true;
    member.read_all_slots().await.context("the last look at slots")?;
    member.read_all_buckets().await.context("the last look at buckets")
}

impl Recorded {
    /// Fails unless the history is linearizable. The file stays.
    ///
    /// # Errors
    /// If it is not, or nobody knows.
    pub fn expect_linearizable(&self) -> Result<()> {
        let verdict = self.check(&self.path)?;
        println!(
            "{} operations on {} slots and shares, {} of unknown outcome, checked in {:.1} s: {}",
            verdict.operations, verdict.keys, verdict.unknown, verdict.seconds, verdict.verdict
        );
        verdict.expect_good().with_context(|| format!("the history is in {}", self.path.display()))
    }

    /// Checks this history or one made of it.
    ///
    /// # Errors
    /// If there is no checker or it does not understand the history.
    pub fn check(&self, path: &Path) -> Result<Verdict> {
        checker::check(path, CHECK_TIME)
    }

    /// Fails unless the run reached what it should: each of these outcomes at least so often.
    ///
    /// # Errors
    /// If it did not.
    pub fn expect_counts(&self, least: &[(&str, u64)]) -> Result<()> {
        for (outcome, count) in least {
            let seen = self.counts.get(*outcome).copied().unwrap_or_default();
            ensure!(seen >= *count, "`{outcome}` was seen {seen} times, not {count}");
        }
        Ok(())
    }
}
