//! The same random calls to the released Python server and to ours, over Foolscap: every answer must be the same value,
//! or a failure of the same class, or differ in a way that the table at the end names with its reason.
//!
//! The seed is printed; `LEASEHOLD_SEED` repeats a run, `LEASEHOLD_LONG=1` makes it long. What the two servers hold is
//! kept equal: when a difference changes one side, its storage index is not used again.

#[path = "differential_foolscap/answer.rs"]
mod answer;
#[path = "differential_foolscap/calls.rs"]
mod calls;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, ensure};
use leasehold_e2e::foolscap::{OldClient, Storage};
use leasehold_e2e::leasehold::Server;
use leasehold_e2e::reference::PythonServer;
use leasehold_e2e::venv::Venv;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use answer::Answer;
use calls::{Call, World};

const SEQUENCES: usize = 8;
const SEQUENCES_LONG: usize = 200;
const STEPS: usize = 250;
/// Earlier calls about the same storage index that are shown with a difference.
const HISTORY: usize = 10;

#[tokio::test]
async fn ours_answers_old_clients_as_the_python_server_does() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let python = PythonServer::start(&Venv::find_or_make()?, "python", directory.path())?;
    let ours = Server::start("leasehold", directory.path(), None)?;
    let long = std::env::var_os("LEASEHOLD_LONG").is_some_and(|value| value == "1");
    let seed: u64 = match std::env::var("LEASEHOLD_SEED") {
        Ok(text) => text.parse()?,
        Err(_) => StdRng::from_os_rng().random(),
    };
    println!("LEASEHOLD_SEED={seed}");
    let mut run = Run::default();
    let clients = (OldClient::new(python.furl())?, OldClient::new(&ours.announcement().credentials.furl)?);
    for number in 0..if long { SEQUENCES_LONG } else { SEQUENCES } as u64 {
        let storages = (clients.0.enter().await?, clients.1.enter().await?);
        run.sequence(World::new(seed + number), &storages).await;
    }
    println!("{} calls compared; answers of the Python server: {:?}", run.compared, run.answers);
    println!("accepted: {:?}", run.accepted);
    ensure!(run.unexpected.is_empty(), "differences that nothing accepts; seed {seed}\n{}", run.unexpected.join("\n"));
    Ok(())
}

#[derive(Default)]
struct Run {
    compared: usize,
    /// How often the Python server answered so, to see that the run reaches what it should.
    answers: BTreeMap<String, usize>,
    accepted: BTreeMap<&'static str, usize>,
    unexpected: Vec<String>,
}

impl Run {
    async fn sequence(&mut self, mut world: World, (python, ours): &(Storage, Storage)) {
        let mut history: Vec<(Option<usize>, String)> = Vec::new();
        for _ in 0..STEPS {
            let call = world.next_call();
            let (theirs, mine) = (world.send(&call, python, 0).await, world.send(&call, ours, 1).await);
            self.compared += 1;
            *self.answers.entry(format!("{} {}", call.name(), theirs.kind())).or_default() += 1;
            let text = format!("{call:?} -> {theirs:?} | {mine:?}");
            if theirs.same_as(&mine) {
                world.learn(&call, &theirs);
            } else if let Some(accepted) = ACCEPTED.iter().find(|accepted| (accepted.matches)(&call, &theirs, &mine)) {
                *self.accepted.entry(accepted.reason).or_default() += 1;
                world.retire(&call);
            } else {
                let mut report = format!("{text}\n");
                let about = call.place();
                let before = history.iter().rev().filter(|(place, _)| about.is_some() && *place == about);
                for (_, text) in before.take(HISTORY).collect::<Vec<_>>().into_iter().rev() {
                    let _ = writeln!(report, "  before: {text}");
                }
                self.unexpected.push(report);
                world.retire(&call);
            }
            history.push((call.place(), text.chars().take(400).collect()));
        }
        world.end().await;
    }
}

/// A difference that is meant to be.
struct Accepted {
    reason: &'static str,
    matches: fn(&Call, &Answer, &Answer) -> bool,
}

const ACCEPTED: [Accepted; 7] = [
    Accepted {
        reason: "numbers and name of the version: free space changes, and the name is ours (12.1)",
        matches: |call, theirs, mine| matches!(call, Call::Version) && theirs.has_shape_of(mine),
    },
    Accepted {
        reason: "a storage index of other than 16 bytes: Python takes some and fails in its code; Violation [W] (14)",
        matches: |call, _, mine| matches!(call, Call::OddIndex(_)) && mine.is_violation(),
    },
    Accepted {
        reason: "empty data: an error in Python; none for us [W] (13.1)",
        matches: |call, theirs, mine| call.writes_nothing() && theirs.is_failure() && mine.is_none(),
    },
    Accepted {
        reason: "a write that is past the end and conflicts: which of the two is told (13.1)",
        matches: |call, theirs, mine| {
            let failures = [theirs.kind(), mine.kind()];
            matches!(call, Call::Write { .. }) && failures == ["ConflictingWriteError", "DataTooLargeError"]
        },
    },
    Accepted {
        reason: "negative numbers and numbers beyond 255: Python fails in its code, or takes them; Violation [W] (14)",
        matches: |call, _, mine| matches!(call, Call::OddNumber(..)) && mine.is_violation(),
    },
    Accepted {
        reason: "an immutable storage index as a slot, or the other way round: other failures, or none [W] (12.4, 12.5)",
        matches: |call, theirs, mine| {
            matches!(call, Call::OtherKind(..)) && theirs.is_failure() && (mine.is_failure() || mine.is_empty())
        },
    },
    Accepted {
        reason: "a share beyond the largest: Python looks only when it writes, after it has made the share; Violation [W]",
        matches: |call, _, mine| call.is_too_large() && mine.is_violation(),
    },
];
