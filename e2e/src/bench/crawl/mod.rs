//! The accounting crawler on large stores: what it takes for a million shares, on both lease databases, beside the crawler
//! of the Python server on the same tree, and what clients notice of it.
//!
//! The tree is a classic one of small immutable shares, each with a lease, so both crawlers walk the same files. Ours takes
//! it over first (that is a figure as well), and is then measured on what is in order. The other lease database is filled
//! from a backup of the first, which is one more figure. All is made once for each size and can be kept, so that one part
//! of the figures can be measured at a time.

mod clients;
mod place;
mod tree;

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leasehold_e2e_services::{Postgres, PostgresOptions};
use serde::Deserialize;

use self::place::{Place, Took};
use self::tree::Tree;
use super::Arguments;
use crate::process::run_ok;
use crate::venv::Venv;

const PYTHON_CYCLE: &str = include_str!("../../../python/crawl_cycle.py");
/// A command may take so long.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Parts of the figures for each size; the words that `--only` may name, after `tenth/` or `whole/`.
const PARTS: [&str; 5] = ["making", "python", "python-with-pauses", "sqlite", "postgresql"];
/// It would take most of an hour for a million shares.
const ONLY_FOR_A_TENTH: &str = "python-with-pauses";

#[derive(Deserialize)]
struct PythonCycle {
    seconds: f64,
    shares: u64,
}

/// Measures, and prints each figure as it is known.
///
/// # Errors
/// If something does not start, or fails.
pub fn run(arguments: &Arguments, directory: &Path) -> Result<()> {
    let base = arguments.keep.as_deref().unwrap_or(directory);
    let processors = thread::available_parallelism().map_or(1, usize::from);
    println!("{processors} processors, shared by crawler, PostgreSQL and, where there is one, the load generator");
    println!("shares    | on         | what                         |  seconds | shares/s | CPU s | peak MiB");
    for (size, shares) in [("tenth", arguments.shares / 10), ("whole", arguments.shares)] {
        let is_wanted = |part: &&str| arguments.wants(&format!("{size}/{part}"));
        let parts: Vec<&str> = PARTS.into_iter().filter(is_wanted).collect();
        if parts.is_empty() {
            continue;
        }
        let tree = Tree::at(&base.join(shares.to_string()), shares)?;
        for part in parts.into_iter().filter(|part| *part != ONLY_FOR_A_TENTH || size == "tenth") {
            measure(part, &tree)?;
        }
        if arguments.keep.is_none() {
            tree.remove()?;
        }
    }
    if arguments.wants("clients") {
        let tree = Tree::at(&base.join("clients"), arguments.shares / 10)?;
        clients::measure(&tree, Duration::from_secs_f64(arguments.seconds * arguments.rounds as f64))?;
    }
    Ok(())
}

fn measure(part: &str, tree: &Tree) -> Result<()> {
    match part {
        "python" => python(tree, &[], "a cycle, without its pauses"),
        "python-with-pauses" => python(tree, &["--pauses"], "a cycle, as it comes"),
        "sqlite" => Place::sqlite(tree, "sqlite")?.measure(),
        "postgresql" => {
            let postgres = Postgres::start(&PostgresOptions { durable: true, ..PostgresOptions::default() })?;
            Place::postgres(tree, "postgresql", &postgres)?.measure()
        }
        // It was made to come this far.
        _ => Ok(()),
    }
}

/// The Python server's crawler goes through the tree.
fn python(tree: &Tree, options: &[&str], what: &str) -> Result<()> {
    say("the crawler of the Python server");
    let mut command = Venv::find_or_make()?.python();
    let printed = run_ok(command.args(["-c", PYTHON_CYCLE]).args(options).arg(tree.folder()), PATIENCE)?;
    let cycle: PythonCycle = serde_json::from_str(&printed).context("the Python crawler printed no JSON")?;
    let shares = tree.shares();
    ensure!(cycle.shares == shares, "the Python crawler examined {} shares of {shares}", cycle.shares);
    let rate = shares as f64 / cycle.seconds;
    println!("{shares:<9} | {:<10} | {what:<28} | {:>8.1} | {rate:>8.0} |       |", "Python", cycle.seconds);
    Ok(())
}

fn row(shares: u64, place: &str, what: &str, took: &Took) {
    let rate = shares as f64 / took.seconds;
    let peak = took.peak_bytes as f64 / f64::from(1 << 20);
    println!(
        "{shares:<9} | {place:<10} | {what:<28} | {:>8.1} | {rate:>8.0} | {:>5.1} | {peak:>8.1}",
        took.seconds, took.cpu_seconds
    );
}

fn say(what: &str) {
    eprintln!("{what}");
}
