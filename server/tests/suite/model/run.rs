//! Runs operations against the store and the plain model side by side.

use std::collections::{BTreeMap, HashSet};
use std::pin::pin;

use futures_util::future::{Either, select};
use leasehold_core::chunk::ObjectName;
use leasehold_core::store::StoreError;
use leasehold_core::testing::faulty::{Fault, Report, Site};

use super::operation::{INDEXES, Operation, Struck};
use super::plain::{Answer, Key, Outcome, Plain, Share, promise};
use super::world::{Raw, World};
use crate::ground::Ground;

/// How long a frozen process usually sleeps, in seconds: everything goes on as if nothing had been.
pub const SHORT_FREEZE_SECONDS: i64 = 30;
/// A sleep over the fence: what was stored before may not be named any more.
pub const LONG_FREEZE_SECONDS: i64 = 3601;

/// A run: the store under test, what it ought to be, and how it came to that.
pub struct Run<G: Ground> {
    pub world: World<G>,
    /// How long an operation sleeps that freezes, in seconds.
    pub freeze_seconds: i64,
    pub plain: Plain,
    /// Until when leases were promised.
    promises: BTreeMap<(Key, usize), i64>,
    /// Objects of operations that died, or whose outcome nobody knows: they may be left over.
    excused: HashSet<ObjectName>,
    /// Shares of which some write has stored the last bytes before it failed or died. Whoever ends the upload finds
    /// them: then the share appears after all (`review.md` B3, D7).
    whole: BTreeMap<Key, Share>,
    trace: Vec<String>,
}

impl<G: Ground> Run<G> {
    /// Nothing has happened yet.
    pub async fn new() -> Self {
        Self {
            world: World::new().await,
            freeze_seconds: SHORT_FREEZE_SECONDS,
            plain: Plain::default(),
            promises: BTreeMap::new(),
            excused: HashSet::new(),
            whole: BTreeMap::new(),
            trace: Vec::new(),
        }
    }

    /// What has happened, one operation a line.
    pub fn trace(&self) -> String {
        self.trace.join("\n")
    }

    /// Runs one operation and compares.
    ///
    /// # Errors
    /// Says what differs.
    pub async fn step(&mut self, (operation, plan): &Struck) -> Result<Report, String> {
        let now = self.world.now();
        self.world.arrange(operation).await;
        let mut outcomes = self.outcomes(operation, now);
        self.world.faults.begin(operation.name(), *plan);
        let result = self.drive(operation).await;
        let report = self.world.faults.end();
        if self.world.now() > now {
            // It froze: what it did may be of before or after.
            outcomes.extend(self.outcomes(operation, self.world.now()));
        }
        let answer = match result {
            Some(result) => Some(self.world.answer(result).await?),
            None => None,
        };
        self.trace.push(format!("{operation:?} [{}] -> {}", told(&report), short(&answer)));
        if report.struck.is_some() && matches!(operation, Operation::RefreshSpace) {
            self.world.refresh_space().await;
        }
        self.excuse(&report);
        if answer.is_none() {
            self.world.restart().await;
        }
        let (seen, ends) = self.world.observe().await?;
        if let Operation::Write { share, .. } = operation
            && let Some(whole) = outcomes.iter().find_map(|(_, after)| after.shares.get(share))
        {
            self.whole.insert(*share, whole.clone());
        }
        self.whole.retain(|share, _| seen.uploads.contains_key(share));
        self.compare(operation, &report, answer.as_ref(), outcomes, &seen, now)?;
        self.plain = seen;
        self.world.check_usage(&self.plain).await?;
        self.check_promises(operation, answer.as_ref(), &ends, now)?;
        Ok(report)
    }

    /// Every outcome that is right, the usual ones first: uploads that are overdue may turn out to be whole.
    fn outcomes(&self, operation: &Operation, now: i64) -> Vec<Outcome> {
        let worlds = self.worlds(now);
        worlds.iter().flat_map(|plain| plain.outcomes(operation, &self.world.settings, now)).collect()
    }

    /// What is there for whoever ends overdue uploads: as it is seen, or with some of them whole.
    fn worlds(&self, now: i64) -> Vec<Plain> {
        let mut worlds = vec![self.plain.clone()];
        for (share, whole) in self.whole.iter().filter(|(share, _)| self.plain.overdue(now).contains(*share)) {
            let completed = worlds.iter().map(|plain| {
                let mut plain = plain.clone();
                plain.uploads.remove(share);
                plain.shares.insert(*share, whole.clone());
                plain
            });
            let completed: Vec<Plain> = completed.collect();
            worlds.extend(completed);
        }
        worlds
    }

    /// Runs an operation to its end; `None` if it died. One that freezes goes on when its time has passed.
    async fn drive(&self, operation: &Operation) -> Option<Result<Raw, StoreError>> {
        let faults = &self.world.faults;
        let running = pin!(faults.run(self.world.run(operation, &self.plain)));
        match select(running, pin!(faults.frozen())).await {
            Either::Left((result, _)) => result,
            Either::Right(((), running)) => {
                self.world.clock.advance(self.freeze_seconds);
                faults.thaw();
                running.await
            }
        }
    }

    fn excuse(&mut self, report: &Report) {
        let Some((site, fault)) = report.struck else { return };
        let unknown = fault.is_crash() || (fault == Fault::ErrorAfter && matches!(site, Site::Db(_)));
        if unknown || site == Site::Db("discard_objects") {
            self.excused.extend(report.puts.iter().copied());
        }
    }

    fn compare(
        &self,
        operation: &Operation,
        report: &Report,
        answer: Option<&Answer>,
        outcomes: Vec<(Answer, Plain)>,
        seen: &Plain,
        now: i64,
    ) -> Result<(), String> {
        if let Some(answer) = answer
            && outcomes.iter().any(|(right, after)| right == answer && after == seen)
        {
            return Ok(());
        }
        let failed = matches!(answer, None | Some(Answer::Refused("LeaseDb" | "Backend")));
        let may_fail = report.struck.is_some_and(|(_, fault)| {
            // A short sleep is no excuse.
            fault != Fault::Freeze || self.freeze_seconds > SHORT_FREEZE_SECONDS
        });
        if may_fail && failed {
            // Ambiguous: all of it or nothing, and what it is from now on is what is seen now.
            let whole = outcomes.iter().any(|(_, after)| after == seen);
            if whole || *seen == self.plain || self.plain.admits_part(operation, now, seen) {
                return Ok(());
            }
            return Err(format!("half done: {}", difference(&self.plain, &outcomes[0].1, seen)));
        }
        let (right, after) = &outcomes[0];
        let right = short(&Some(right.clone()));
        Err(format!("answered {}, {right} is right; {}", short(&answer.cloned()), difference(&self.plain, after, seen)))
    }

    fn check_promises(
        &mut self,
        operation: &Operation,
        answer: Option<&Answer>,
        ends: &BTreeMap<(Key, usize), i64>,
        now: i64,
    ) -> Result<(), String> {
        if let Some(answer) = answer {
            for lease in self.plain.promised(operation, answer) {
                self.promises.insert(lease, promise(now));
            }
        }
        self.promises.retain(|(key, _), _| self.plain.shares.contains_key(key));
        for (lease, promised) in &self.promises {
            match ends.get(lease) {
                Some(end) if end >= promised => {}
                end => return Err(format!("the lease {lease:?} was promised until {promised}, it ends {end:?}")),
            }
        }
        Ok(())
    }

    /// Lets all deadlines and graces pass: nothing is reserved then, nothing is left over, nothing is lost.
    ///
    /// # Errors
    /// Says what is left, or lost.
    pub async fn finish(&mut self) -> Result<usize, String> {
        for _ in 0..3 {
            self.world.clock.advance(9 * 86_400);
            self.world.sweep().await?;
        }
        let (seen, _) = self.world.observe().await?;
        let mut worlds = self.worlds(self.world.now());
        worlds.iter_mut().for_each(|plain| plain.uploads.clear());
        self.plain.uploads.clear();
        if !worlds.contains(&seen) {
            return Err(format!("after the last sweep: {}", difference(&self.plain, &self.plain, &seen)));
        }
        self.world.check_usage(&seen).await?;
        let (count, left) = self.world.unnamed(&self.excused).await?;
        let left: Vec<String> = left.iter().map(ToString::to_string).collect();
        if left.is_empty() { Ok(count) } else { Err(format!("left over: {left:?}")) }
    }
}

/// Runs all operations on a new world.
///
/// # Errors
/// The trace and what went wrong at its end.
pub async fn run_all<G: Ground>(operations: &[Struck]) -> Result<usize, String> {
    let mut run = Run::<G>::new().await;
    for operation in operations {
        if let Err(error) = run.step(operation).await {
            return Err(format!("{}\n{error}", run.trace()));
        }
    }
    run.finish().await.map_err(|error| format!("{}\n{error}", run.trace()))
}

/// Leaves out operations as long as the run still fails, for a bounded number of tries.
pub async fn shorten<G: Ground>(mut operations: Vec<Struck>, mut failure: String) -> (Vec<Struck>, String) {
    let mut tries = 0;
    let mut length = operations.len().div_ceil(2);
    while length > 0 && tries < 300 {
        let mut at = 0;
        while at < operations.len() && tries < 300 {
            let mut fewer = operations.clone();
            fewer.drain(at..(at + length).min(operations.len()));
            tries += 1;
            match run_all::<G>(&fewer).await {
                Err(error) => (operations, failure) = (fewer, error),
                Ok(_) => at += length,
            }
        }
        length = if length == 1 { 0 } else { length.div_ceil(2) };
    }
    (operations, failure)
}

fn told(report: &Report) -> String {
    let calls = report.calls.iter().map(|site| match site {
        Site::Db(method) | Site::Backend(method) => *method,
    });
    let calls: Vec<&str> = calls.collect();
    match report.struck {
        Some((_, fault)) => format!("{} {fault:?}", calls.join(" ")),
        None => calls.join(" "),
    }
}

fn short(answer: &Option<Answer>) -> String {
    let Some(answer) = answer else { return "(died)".to_owned() };
    let text = format!("{answer:?}");
    if text.len() > 160 { format!("{}…", &text.chars().take(160).collect::<String>()) } else { text }
}

/// Where the state seen differs from both what was and what ought to be.
fn difference(before: &Plain, after: &Plain, seen: &Plain) -> String {
    let mut lines = Vec::new();
    for key in (0..INDEXES).flat_map(|index| (0..=u8::MAX).map(move |number| (index, number))) {
        let of = |plain: &Plain| {
            let share = plain.shares.get(&key).map(|s| {
                (s.kind, s.bytes.len(), s.bytes.iter().take(12).copied().collect::<Vec<_>>(), s.leases.clone())
            });
            let upload = plain.uploads.get(&key).map(|upload| {
                let known = upload.bytes.iter().filter(|byte| byte.is_some()).count();
                (upload.account, upload.deadline, upload.bytes.len(), known)
            });
            format!("{share:?} {upload:?}")
        };
        if of(seen) != of(after) {
            lines.push(format!("{key:?}: was {}, ought to be {}, is {}", of(before), of(after), of(seen)));
        }
    }
    if seen.enablers != after.enablers {
        lines.push(format!("enablers: {:?}, {:?}, {:?}", before.enablers, after.enablers, seen.enablers));
    }
    if lines.is_empty() && seen != after { "bytes differ".to_owned() } else { lines.join("; ") }
}
