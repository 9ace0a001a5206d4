//! The same random requests to the released Python server and to ours, over real sockets: every answer must be the
//! same, or differ in a way that `differential/accepted.rs` names with its reason.
//!
//! The seed is printed; `LEASEHOLD_SEED` repeats a run, `LEASEHOLD_LONG=1` makes it long, `LEASEHOLD_TRACE=1` prints all
//! requests. What the two servers hold
//! is kept equal: when a difference changes one side, its storage index is not used again.

#[path = "differential/accepted.rs"]
mod accepted;
#[path = "differential/answer.rs"]
mod answer;
#[path = "differential/bodies.rs"]
mod bodies;
#[path = "differential/immutable.rs"]
mod immutable;
#[path = "differential/mutable.rs"]
mod mutable;
#[path = "differential/odd.rs"]
mod odd;
#[path = "differential/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use answer::Answer;
use leasehold_e2e::gbs::Client;
use leasehold_e2e::leasehold::Server;
use leasehold_e2e::reference::PythonServer;
use leasehold_e2e::venv::Venv;
use world::{Step, World};

/// Sequences of a run, each with storage indexes of its own.
const SEQUENCES: usize = 12;
const SEQUENCES_LONG: usize = 300;
const STEPS: usize = 400;
/// A run ends when so many unexpected differences were found.
const DIFFERENCES_MAX: usize = 40;
/// Earlier requests to the same storage index that are shown with a difference.
const HISTORY: usize = 8;

#[tokio::test]
async fn ours_answers_as_the_python_server_does() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let python = PythonServer::start(&Venv::find_or_make()?, "python", directory.path())?;
    let ours = Server::start("leasehold", directory.path(), None)?;
    let nurl = ours.announcement().credentials.nurl.parse()?;
    let long = std::env::var_os("LEASEHOLD_LONG").is_some_and(|value| value == "1");
    let sequences = if long { SEQUENCES_LONG } else { SEQUENCES };
    let run = Run::new(Client::new(python.nurl().clone())?, Client::new(nurl)?, seed()?);
    run.compare(sequences, accepted::find).await
}

/// The harness itself must not see differences where there are none.
#[tokio::test]
async fn the_python_server_answers_as_itself() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let venv = Venv::find_or_make()?;
    let first = PythonServer::start(&venv, "first", directory.path())?;
    let second = PythonServer::start(&venv, "second", directory.path())?;
    let run = Run::new(Client::new(first.nurl().clone())?, Client::new(second.nurl().clone())?, seed()?);
    // The numbers of the version document count free bytes, which others use too.
    run.compare(4, |step, python, ours| {
        accepted::find(step, python, ours).filter(|found| found.name == accepted::VERSION)
    })
    .await
}

fn seed() -> Result<u64> {
    Ok(match std::env::var("LEASEHOLD_SEED") {
        Ok(text) => text.parse()?,
        Err(_) => StdRng::from_os_rng().random(),
    })
}

struct Run {
    python: Client,
    ours: Client,
    seed: u64,
    /// How often each accepted difference was seen.
    accepted: BTreeMap<&'static str, usize>,
    unexpected: Vec<String>,
    compared: usize,
    /// Answers by status of the Python server, to see that the run reaches what it should.
    statuses: BTreeMap<u16, usize>,
    trace: bool,
}

/// A request that was sent, for the report.
struct Sent {
    storage_index: Option<String>,
    text: String,
}

type Find = fn(&Step, &Answer, &Answer) -> Option<&'static accepted::Accepted>;

impl Run {
    fn new(python: Client, ours: Client, seed: u64) -> Self {
        Self {
            python,
            ours,
            seed,
            accepted: BTreeMap::new(),
            unexpected: Vec::new(),
            compared: 0,
            statuses: BTreeMap::new(),
            trace: std::env::var_os("LEASEHOLD_TRACE").is_some_and(|value| value == "1"),
        }
    }

    async fn compare(mut self, sequences: usize, find: Find) -> Result<()> {
        println!("LEASEHOLD_SEED={}", self.seed);
        for number in 0..sequences as u64 {
            self.sequence(World::new(self.seed.wrapping_add(number)), number == 0, find).await?;
            if self.unexpected.len() >= DIFFERENCES_MAX {
                break;
            }
        }
        println!("{} requests compared; answers of the Python server: {:?}", self.compared, self.statuses);
        for (name, count) in &self.accepted {
            let reason = accepted::TABLE.iter().find(|accepted| accepted.name == *name).map_or("", |a| a.reason);
            println!("accepted {count:5} × {name}: {reason}");
        }
        ensure!(
            self.unexpected.is_empty(),
            "{} differences that nothing accepts; LEASEHOLD_SEED={} repeats them\n\n{}",
            self.unexpected.len(),
            self.seed,
            self.unexpected.join("\n")
        );
        Ok(())
    }

    async fn sequence(&mut self, mut world: World, first: bool, find: Find) -> Result<()> {
        let mut history = Vec::new();
        // The fixed cases come once, on storage indexes of their own.
        let fixed = if first { bodies::fixed(&mut world) } else { Vec::new() };
        for step in fixed {
            self.step(&mut world, step, &mut history, find).await?;
        }
        for _ in 0..STEPS {
            let step = world.next_step();
            self.step(&mut world, step, &mut history, find).await?;
            if self.unexpected.len() >= DIFFERENCES_MAX {
                break;
            }
        }
        Ok(())
    }

    async fn step(&mut self, world: &mut World, step: Step, history: &mut Vec<Sent>, find: Find) -> Result<()> {
        let python = Answer::to(&mut self.python, &step.request).await;
        let ours = Answer::to(&mut self.ours, &step.request).await;
        let about = step.request.path.split('/').find(|segment| segment.len() == 26).map(str::to_owned);
        self.compared += 1;
        *self.statuses.entry(python.status).or_default() += 1;
        let text = format!("{} -> {} | {}", answer::request_text(&step), python.short(), ours.short());
        if self.trace {
            println!("[{}] {text}", step.tag);
        }
        if python.same_as(&ours) {
            world.learn(&step, &python);
        } else if let Some(accepted) = find(&step, &python, &ours) {
            *self.accepted.entry(accepted.name).or_default() += 1;
            if accepted.retires {
                world.retire(step.place);
            } else {
                world.learn(&step, &python);
            }
        } else {
            let mut report = format!("difference [{}]:\n  {}\n", step.tag, answer::request_text(&step));
            let _ = writeln!(report, "  python: {}\n  ours:   {}", python.long(), ours.long());
            let before = history.iter().rev().filter(|sent: &&Sent| about.is_some() && sent.storage_index == about);
            for sent in before.take(HISTORY).collect::<Vec<_>>().into_iter().rev() {
                let _ = writeln!(report, "  before: {}", sent.text);
            }
            self.unexpected.push(report);
            world.retire(step.place);
        }
        history.push(Sent { storage_index: about, text });
        Ok(())
    }
}
