//! The whole store against a plain model, with faults and crashes at every call it makes of the world.
//!
//! Three accounts work on a few storage indexes. After every operation everything that can be seen is compared with
//! maps and arrays: an operation that answers has done what it says; one that fails or dies has done all of it or
//! nothing, and stays so. Usage always equals a recount; leases last as long as was promised; when all deadlines have
//! passed nothing is reserved, and no object is left but of operations that died.
//!
//! `LEASEHOLD_SEED` repeats a run; `LEASEHOLD_LONG=1` makes more of them.

mod operation;
mod plain;
mod run;
mod script;
mod world;

use std::collections::BTreeSet;

use leasehold_core::testing::faulty::{Fault, Site};
use leasehold_core::testing::seed;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use operation::{Struck, draw, draw_fault};
use run::{LONG_FREEZE_SECONDS, Run, SHORT_FREEZE_SECONDS, run_all, shorten};

use crate::ground::{Ground, OneMachine, Pods};

fn is_long() -> bool {
    std::env::var("LEASEHOLD_LONG").is_ok_and(|value| value == "1")
}

fn sequence(seed: u64, length: usize, faults: f64) -> Vec<Struck> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..length).map(|_| (draw(&mut random), draw_fault(&mut random, faults))).collect()
}

async fn random_runs<G: Ground>(count: u64, length: usize, faults: f64) {
    let first = seed();
    let mut left_over = 0;
    for seed in first..first + if is_long() { count * 20 } else { count } {
        let mut operations = sequence(seed, length, faults);
        if !G::IS_ONE_MACHINE {
            operations.iter_mut().for_each(|(operation, _)| operation.bring_near());
        }
        match run_all::<G>(&operations).await {
            Ok(count) => left_over += count,
            Err(failure) => {
                let (operations, failure) = shorten::<G>(operations, failure).await;
                panic!("LEASEHOLD_SEED={seed}, shortened to {} operations:\n{failure}", operations.len());
            }
        }
    }
    println!("{left_over} objects of dead operations were left over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_faults_the_store_is_the_plain_model() {
    random_runs::<OneMachine>(6, 120, 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_faults_the_store_does_all_or_nothing() {
    random_runs::<OneMachine>(12, 80, 0.3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_postgresql_and_s3_the_store_is_the_plain_model() {
    random_runs::<Pods>(1, 40, 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_postgresql_and_s3_with_faults_the_store_does_all_or_nothing() {
    random_runs::<Pods>(1, 40, 0.3).await;
}

/// An operation in a situation, one of its calls, and what strikes there.
struct Strike {
    case: script::Case,
    at: usize,
    site: Site,
    fault: Fault,
    freeze_seconds: i64,
}

/// Every fault at every call of every operation of the script.
async fn strikes() -> Vec<Strike> {
    let mut strikes = Vec::new();
    for case in script::script() {
        let mut run = Run::<OneMachine>::new().await;
        prepare(&mut run, &case.1).await;
        let calls = run.step(&(case.2.clone(), None)).await.unwrap_or_else(|error| panic!("{}: {error}", case.0)).calls;
        for (at, site) in calls.into_iter().enumerate() {
            for fault in Fault::at(site).iter().copied() {
                let freezes: &[i64] =
                    if fault == Fault::Freeze { &[SHORT_FREEZE_SECONDS, LONG_FREEZE_SECONDS] } else { &[0] };
                for &freeze_seconds in freezes {
                    strikes.push(Strike { case: case.clone(), at, site, fault, freeze_seconds });
                }
            }
        }
    }
    strikes
}

/// A strike, then the operation once more without; then all deadlines pass.
async fn survive<G: Ground>(strike: &Strike) {
    let Strike { case: (name, setup, operation), at, site, fault, freeze_seconds } = strike;
    let mut run = Run::<G>::new().await;
    run.freeze_seconds = *freeze_seconds;
    prepare(&mut run, setup).await;
    if let Err(error) = one_case(&mut run, operation, *at, *fault).await {
        let what = format!("{name}, {fault:?} ({freeze_seconds} s) at call {at} ({site:?})");
        panic!("{what}:\n{}\n{error}", run.trace());
    }
}

/// Every operation of the script, with every fault at every call, then once more without; and no operation of any
/// random run meets a call that the script has not made die.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_of_every_operation_may_fail_or_die() {
    let mut died: BTreeSet<(&'static str, Site)> = BTreeSet::new();
    let strikes = strikes().await;
    for strike in &strikes {
        survive::<OneMachine>(strike).await;
        died.insert((strike.case.2.name(), strike.site));
    }
    println!("{} cases at {} call sites:", strikes.len(), died.len());
    died.iter().for_each(|(operation, site)| println!("  {operation}: {site:?}"));
    for seed in 0..10 {
        let mut run = Run::<OneMachine>::new().await;
        for operation in sequence(seed, 100, 0.0) {
            run.step(&operation).await.unwrap_or_else(|error| panic!("seed {seed}: {}\n{error}", run.trace()));
        }
        for site in run.world.faults.ledger().into_keys().filter(|(operation, _)| !operation.is_empty()) {
            assert!(died.contains(&site), "{site:?} has no crash case: add one to the script");
        }
    }
}

/// How many cases the short size draws by lot for PostgreSQL and S3, where each takes its time.
const CASES_DRAWN: usize = 10;

/// The same over PostgreSQL and S3: some cases, no two of which strike at the same call site, or in the long size all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_postgresql_and_s3_every_call_of_every_operation_may_fail_or_die() {
    let mut random = StdRng::seed_from_u64(seed());
    let mut strikes = strikes().await;
    strikes.shuffle(&mut random);
    if !is_long() {
        let mut sites = BTreeSet::new();
        strikes.retain(|strike| sites.insert((strike.case.2.name(), strike.site)));
        strikes.truncate(CASES_DRAWN);
    }
    for strike in &strikes {
        survive::<Pods>(strike).await;
    }
    println!("{} cases", strikes.len());
}

async fn prepare<G: Ground>(run: &mut Run<G>, setup: &[operation::Operation]) {
    for operation in setup {
        if let Err(error) = run.step(&(operation.clone(), None)).await {
            panic!("setting up: {}\n{error}", run.trace());
        }
    }
}

async fn one_case<G: Ground>(
    run: &mut Run<G>,
    operation: &operation::Operation,
    at: usize,
    fault: Fault,
) -> Result<(), String> {
    let report = run.step(&(operation.clone(), Some((at, fault)))).await?;
    if report.struck.map(|(_, struck)| struck) != Some(fault) {
        return Err("the fault did not strike".to_owned());
    }
    run.step(&(operation.clone(), None)).await?;
    run.finish().await.map(drop)
}
