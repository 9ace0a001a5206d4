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

use operation::{Struck, draw, draw_fault};
use run::{Run, run_all, shorten};

fn is_long() -> bool {
    std::env::var("LEASEHOLD_LONG").is_ok_and(|value| value == "1")
}

fn sequence(seed: u64, length: usize, faults: f64) -> Vec<Struck> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..length).map(|_| (draw(&mut random), draw_fault(&mut random, faults))).collect()
}

async fn random_runs(count: u64, length: usize, faults: f64) {
    let first = seed();
    let mut left_over = 0;
    for seed in first..first + if is_long() { count * 20 } else { count } {
        let operations = sequence(seed, length, faults);
        match run_all(&operations).await {
            Ok(count) => left_over += count,
            Err(failure) => {
                let (operations, failure) = shorten(operations, failure).await;
                panic!("LEASEHOLD_SEED={seed}, shortened to {} operations:\n{failure}", operations.len());
            }
        }
    }
    println!("{left_over} objects of dead operations were left over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_faults_the_store_is_the_plain_model() {
    random_runs(6, 120, 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_faults_the_store_does_all_or_nothing() {
    random_runs(12, 80, 0.3).await;
}

/// Every operation of the script, with every fault at every call, then once more without; and no operation of any
/// random run meets a call that the script has not made die.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_of_every_operation_may_fail_or_die() {
    let mut died: BTreeSet<(&'static str, Site)> = BTreeSet::new();
    let mut cases = 0;
    for (name, setup, operation) in script::script() {
        let calls = {
            let mut run = Run::new().await;
            prepare(&mut run, &setup).await;
            run.step(&(operation.clone(), None)).await.unwrap_or_else(|error| panic!("{name}: {error}")).calls
        };
        for (at, site) in calls.iter().enumerate() {
            for fault in Fault::at(*site) {
                let mut run = Run::new().await;
                prepare(&mut run, &setup).await;
                let result = one_case(&mut run, &operation, at, *fault).await;
                if let Err(error) = result {
                    panic!("{name}, {fault:?} at call {at} ({site:?}):\n{}\n{error}", run.trace());
                }
                cases += 1;
            }
            died.insert((operation.name(), *site));
        }
    }
    println!("{cases} cases at {} call sites:", died.len());
    died.iter().for_each(|(operation, site)| println!("  {operation}: {site:?}"));
    for seed in 0..10 {
        let mut run = Run::new().await;
        for operation in sequence(seed, 100, 0.0) {
            run.step(&operation).await.unwrap_or_else(|error| panic!("seed {seed}: {}\n{error}", run.trace()));
        }
        for site in run.world.faults.ledger().into_keys().filter(|(operation, _)| !operation.is_empty()) {
            assert!(died.contains(&site), "{site:?} has no crash case: add one to the script");
        }
    }
}

async fn prepare(run: &mut Run, setup: &[operation::Operation]) {
    for operation in setup {
        if let Err(error) = run.step(&(operation.clone(), None)).await {
            panic!("setting up: {}\n{error}", run.trace());
        }
    }
}

async fn one_case(run: &mut Run, operation: &operation::Operation, at: usize, fault: Fault) -> Result<(), String> {
    let report = run.step(&(operation.clone(), Some((at, fault)))).await?;
    if report.struck.map(|(_, struck)| struck) != Some(fault) {
        return Err("the fault did not strike".to_owned());
    }
    run.step(&(operation.clone(), None)).await?;
    run.finish().await.map(drop)
}
