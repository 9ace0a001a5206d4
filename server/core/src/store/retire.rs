//! Duty 2 of the accounting crawler: shares that nobody leases are retired, as runs of *collect*.

use super::{Collected, Result, Store, StoreError};
use crate::backend::Backend;
use crate::clock::Timestamp;
use crate::expiry::{Amount, RECOVERY_SENTENCE, RetireOutcome, RetireShares};
use crate::leasedb::{LeaseDb, LeaseDbError, Mode, SlotToken};
use crate::run::{BeginRun, BeginRunOutcome, FinishRun, Run, RunKind, RunState, Totals};

/// How many shares one transaction retires.
const RETIRED_AT_ONCE: u32 = 100;

impl<L: LeaseDb, B: Backend> Store<L, B> {
    /// Retires what waits in the queue, unless a brake holds. A run is made only if there is something to retire, and one
    /// that was braked is not made again before somebody has looked.
    pub(super) async fn retire_unleased(
        &self,
        collected: &mut Collected,
        report: &(impl Fn(&Collected) + Sync),
    ) -> Result<()> {
        let until = self.db.now().await?;
        let is_empty = self.db.list_unleased(None, until, 1).await?.is_empty();
        if is_empty || self.db.deployment().await?.mode == Mode::Recovery {
            return Ok(());
        }
        let queued = self.db.unleased_totals().await?;
        let brake = self.options.brakes.on_shares(&queued);
        let last = self.db.list_runs(Some(RunKind::Collect), 1).await?.pop();
        if let Some(last) = last.filter(|last| brake.is_some() && last.state == RunState::Braked && !last.allowed) {
            collected.braked = Some(last.id);
            return Ok(());
        }
        let begin = BeginRun { kind: RunKind::Collect, dry_run: false, policy: String::new() };
        let run = match self.db.begin_run(begin).await? {
            BeginRunOutcome::Begun(run) => run,
            // Whoever it is does this work.
            BeginRunOutcome::Running(_) => return Ok(()),
        };
        let ended = match brake.filter(|_| !run.permitted) {
            Some(brake) => Ok((RunState::Braked, brake)),
            None => self.retire_all(&run, until, queued.due.count, collected, report).await,
        };
        self.end_run(&run, &totals(collected.retired), ended).await.map(|state| {
            collected.braked = (state == RunState::Braked).then_some(run.id);
        })
    }

    async fn retire_all(
        &self,
        run: &Run,
        until: Timestamp,
        whole: u64,
        collected: &mut Collected,
        report: &(impl Fn(&Collected) + Sync),
    ) -> Result<(RunState, String)> {
        let epoch = self.db.deployment().await?.epoch;
        let (mut after, mut done) = (None, 0);
        loop {
            let shares = self.db.list_unleased(after, until, RETIRED_AT_ONCE).await?;
            let Some(last) = shares.last().copied() else { return Ok((RunState::Done, String::new())) };
            after = Some(last);
            done += shares.len() as u64;
            let request = RetireShares { epoch, shares, token: SlotToken(self.entropy.bytes()) };
            match self.db.retire_shares(request).await? {
                RetireOutcome::Retired(amount) => collected.retired += amount,
                RetireOutcome::Forbidden => return Ok((RunState::Braked, RECOVERY_SENTENCE.to_owned())),
            }
            report(collected);
            let mut so_far = totals(collected.retired);
            so_far.set_part(done, whole.max(done));
            self.note_run(run, &so_far).await?;
        }
    }

    /// Gives a sign of life.
    pub(super) async fn note_run(&self, run: &Run, totals: &Totals) -> Result<()> {
        if self.db.note_run(run.id, totals.clone()).await? {
            return Ok(());
        }
        let text = format!("run {} was silent for so long that it was taken for dead", run.id);
        Err(StoreError::LeaseDb(LeaseDbError::Invalid(text)))
    }

    /// Ends a run as it went; one that failed is ended as well as may be.
    pub(super) async fn end_run(
        &self,
        run: &Run,
        totals: &Totals,
        ended: Result<(RunState, String)>,
    ) -> Result<RunState> {
        let finish = |state, reason| FinishRun { id: run.id, state, totals: totals.clone(), reason };
        match ended {
            Ok((state, reason)) => {
                self.db.finish_run(finish(state, reason)).await?;
                Ok(state)
            }
            Err(error) => {
                drop(self.db.finish_run(finish(RunState::Failed, error.to_string())).await);
                Err(error)
            }
        }
    }
}

fn totals(retired: Amount) -> Totals {
    let mut totals = Totals::default();
    totals.set("shares_retired", retired.count);
    totals.set("bytes_retired", retired.bytes);
    totals
}
