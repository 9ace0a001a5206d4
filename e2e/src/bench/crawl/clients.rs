//! What clients notice: the usage of an account that holds everything, and requests while the crawler is at work.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::super::WARM_UP;
use super::super::load::{self, Loaded, Shape};
use super::super::workloads::{self, Operation, Prepared};
use super::place::Place;
use super::say;
use super::tree::Tree;
use crate::gbs::Nurl;

const WORKERS: usize = 16;

/// How fast the usage of an account is told that holds all leases.
pub(super) fn usage(place: &Place<'_>) -> Result<()> {
    say("usage of an account");
    let server = place.serve()?;
    let nurl: Nurl = server.announcement().credentials.nurl.parse()?;
    let pid = server.pid().context("the server was just started")?;
    let mut random = StdRng::from_os_rng();
    let prepared = workloads::block_on(Prepared::store(&nurl, &[Operation::Usage], &mut random))?;
    let workers = prepared.workers(Operation::Usage, 1, &mut random);
    let shape = Shape { threads: 1, warm_up: WARM_UP, window: Duration::from_secs(3) };
    let sample = load::run(&[Loaded { nurl, pid }], workers, shape)?;
    let told = server.account_bytes("default", "used_bytes")?;
    println!(
        "{}: usage of an account that holds the leases on {told} bytes: {:.2} ms in the middle, {:.2} ms at most but one \
         in a hundred (asked < 5)",
        place.shown(),
        sample.quantile_ms(0.5),
        sample.quantile_ms(0.99)
    );
    Ok(())
}

/// Listings and small shares while the server crawls without a pause, and while it does not.
pub(super) fn measure(tree: &Tree, window: Duration) -> Result<()> {
    let place = Place::sqlite(tree, "sqlite")?;
    let mut server = place.serve()?;
    let nurl: Nurl = server.announcement().credentials.nurl.parse()?;
    let mut random = StdRng::from_os_rng();
    let operations = [Operation::List, Operation::SmallShare];
    let prepared = workloads::block_on(Prepared::store(&nurl, &operations, &mut random))?;
    let quiet = fs::read_to_string(place.config())?;
    let crawling = quiet.replace("reconcile_interval_seconds = 0", "reconcile_interval_seconds = 1");
    let mut samples = Vec::new();
    for (what, config) in [("undisturbed", &quiet), ("while crawling", &crawling)] {
        server.terminate()?;
        fs::write(place.config(), config)?;
        server.restart()?;
        let loaded = [Loaded { nurl: nurl.clone(), pid: server.pid().context("the server was just started")? }];
        for operation in operations {
            say(&format!("{operation:?}, {what}"));
            let shape = Shape { threads: 1, warm_up: WARM_UP, window };
            samples.push(load::run(&loaded, prepared.workers(operation, WORKERS, &mut random), shape)?);
        }
    }
    for (at, operation) in operations.iter().enumerate() {
        let (alone, beside) = (&samples[at], &samples[at + operations.len()]);
        let (before, during) = (alone.quantile_ms(0.99), beside.quantile_ms(0.99));
        println!(
            "{operation:?} with {WORKERS} workers: 99 of 100 within {before:.2} ms undisturbed, {during:.2} ms while crawling: \
             {:.2} times (asked ≤ 1.5); {:.0}/s and {:.0}/s",
            during / before,
            alone.rate(),
            beside.rate()
        );
    }
    Ok(())
}
