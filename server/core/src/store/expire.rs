//! Duty 1 of the accounting crawler: leases that have ended are removed, as runs of *expire*.
//!
//! A run looks at all leases twice: first to see who would lose what, so that brakes can hold before anything is
//! removed, then to remove what has ended, each after another look.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Result, Store};
use crate::backend::Backend;
use crate::expiry::{
    Amount, ExpireLeases, ExpireOutcome, ExpirePolicy, Lapse, LeaseOnShare, LeasePage, RECOVERY_SENTENCE,
    REMOVED_AT_ONCE, brake_on_clocks,
};
use crate::id::AccountId;
use crate::leasedb::{Deployment, LeaseDb, Mode};
use crate::run::{BeginRun, BeginRunOutcome, RUNS_KEPT, Run, RunKind, RunState, Totals};

const LEASES_AT_ONCE: u32 = 5000;
const PURGED_AT_ONCE: u32 = 5000;
/// How often a run gives a sign of life.
const NOTE_EVERY: Duration = Duration::from_secs(5);
/// What a look at all leases counts for in the progress: one for each value of a storage index's first four bytes.
const ONE_LOOK: u64 = 1 << 32;

/// A run to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpireRequest {
    /// By what policy.
    pub policy: ExpirePolicy,
    /// Only tell who would lose what. A policy that no run has ended with yet makes every run such a one.
    pub dry_run: bool,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpireProgress {
    /// What is done of the work.
    pub done: u64,
    /// The whole work.
    pub whole: u64,
    /// Leases looked at.
    pub examined: Amount,
    /// Those of them that have ended.
    pub ended: Amount,
    /// Those of them that were removed.
    pub removed: Amount,
    /// Shares that nobody leases since.
    pub unleased: u64,
}

impl ExpireProgress {
    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        totals.set_part(self.done, self.whole);
        totals.set("leases_examined", self.examined.count);
        totals.set("bytes_examined", self.examined.bytes);
        totals.set("leases_ended", self.ended.count);
        totals.set("bytes_ended", self.ended.bytes);
        totals.set("leases_removed", self.removed.count);
        totals.set("bytes_removed", self.removed.bytes);
        totals.set("shares_unleased", self.unleased);
        totals
    }
}

/// What became of an [`ExpireRequest`].
#[derive(Clone, Debug)]
pub enum Expired {
    /// It was made.
    Ended(ExpireReport),
    /// Another one is under way.
    Busy(Run),
}

/// A run that has ended.
#[derive(Clone, Debug)]
pub struct ExpireReport {
    /// The run as it began; it is not running any more.
    pub run: Run,
    /// How it ended.
    pub state: RunState,
    /// Why: a sentence, or nothing.
    pub reason: String,
    /// What it counted.
    pub counted: ExpireProgress,
    /// Who lost what, or would lose it.
    pub lapses: BTreeMap<AccountId, Lapse>,
}

/// A run under way.
struct Expiring<'a, L, B, R> {
    store: &'a Store<L, B>,
    policy: ExpirePolicy,
    deployment: Deployment,
    run: Run,
    report: R,
    progress: ExpireProgress,
    lapses: BTreeMap<AccountId, Lapse>,
    noted_at: Duration,
}

impl<L: LeaseDb, B: Backend> Store<L, B> {
    /// Makes a run of expiry, or a dry one if no run has ended with this policy yet.
    ///
    /// # Errors
    /// The lease database or the backend fails; what was removed until then is removed, and can be put back.
    pub async fn expire(
        &self,
        request: ExpireRequest,
        report: impl Fn(&ExpireProgress) + Send + Sync,
    ) -> Result<Expired> {
        let policy = request.policy.to_string();
        let is_known = self.has_ended_with(&policy).await?;
        let begin = BeginRun { kind: RunKind::Expire, dry_run: request.dry_run || !is_known, policy };
        let run = match self.db.begin_run(begin).await? {
            BeginRunOutcome::Begun(run) => run,
            BeginRunOutcome::Running(run) => return Ok(Expired::Busy(run)),
        };
        let mut expiring = Expiring {
            store: self,
            policy: request.policy,
            deployment: self.db.deployment().await?,
            run: run.clone(),
            report,
            progress: ExpireProgress::default(),
            lapses: BTreeMap::new(),
            noted_at: self.clock.elapsed(),
        };
        let ended = expiring.run(run.dry_run && !request.dry_run).await;
        let reason = ended.as_ref().map(|(_, reason)| reason.clone()).unwrap_or_default();
        let state = self.end_run(&run, &expiring.progress.totals(), ended).await?;
        let Expiring { progress: counted, lapses, .. } = expiring;
        Ok(Expired::Ended(ExpireReport { run, state, reason, counted, lapses }))
    }

    /// Whether the last run that came to its end had this policy.
    async fn has_ended_with(&self, policy: &str) -> Result<bool> {
        let runs = self.db.list_runs(Some(RunKind::Expire), RUNS_KEPT).await?;
        let last = runs.iter().find(|run| run.state == RunState::Done);
        Ok(last.is_some_and(|last| last.policy == policy))
    }
}

impl<L: LeaseDb, B: Backend, R: Fn(&ExpireProgress) + Send + Sync> Expiring<'_, L, B, R> {
    /// How it ends. `turned`: it was to be a real run.
    async fn run(&mut self, turned: bool) -> Result<(RunState, String)> {
        let dry_run = self.run.dry_run;
        self.progress.whole = if dry_run { ONE_LOOK } else { 2 * ONE_LOOK };
        let recovering = (self.deployment.mode == Mode::Recovery).then(|| RECOVERY_SENTENCE.to_owned());
        let condition = match recovering {
            None => brake_on_clocks(self.store.clock_skew_seconds().await?),
            recovering => recovering,
        };
        if let Some(condition) = condition.clone().filter(|_| !dry_run) {
            // Nobody's permission sets a clock right.
            return Ok((RunState::Braked, condition));
        }
        self.survey().await?;
        let brake = condition.or_else(|| self.store.options.brakes.on_leases(self.lapses.values()));
        if dry_run {
            return Ok((RunState::Done, dry_reason(turned, brake)));
        }
        if let Some(brake) = brake.filter(|_| !self.run.permitted) {
            return Ok((RunState::Braked, brake));
        }
        if !self.remove().await? {
            return Ok((RunState::Braked, RECOVERY_SENTENCE.to_owned()));
        }
        while self.store.db.purge_expired(PURGED_AT_ONCE).await? > 0 {}
        Ok((RunState::Done, String::new()))
    }

    async fn page(&mut self, after: Option<LeaseOnShare>, looks_before: u64) -> Result<Option<LeasePage>> {
        let page = self.store.db.lease_page(after, LEASES_AT_ONCE).await?;
        let Some(last) = page.leases.last() else { return Ok(None) };
        let [a, b, c, d, ..] = *last.share.storage_index.as_bytes();
        self.progress.done = looks_before * ONE_LOOK + u64::from(u32::from_be_bytes([a, b, c, d]));
        Ok(Some(page))
    }

    async fn tell(&mut self) -> Result<()> {
        (self.report)(&self.progress);
        let now = self.store.clock.elapsed();
        if now >= self.noted_at + NOTE_EVERY {
            self.noted_at = now;
            self.store.note_run(&self.run, &self.progress.totals()).await?;
        }
        Ok(())
    }

    /// Counts who would lose what.
    async fn survey(&mut self) -> Result<()> {
        let mut after = None;
        while let Some(page) = self.page(after, 0).await? {
            for lease in &page.leases {
                let bytes = lease.counted_bytes();
                let lapse = self.lapses.entry(lease.account).or_default();
                if lapse.name.is_empty()
                    && let Some(holder) = page.holders.get(&lease.account)
                {
                    lapse.name.clone_from(&holder.name);
                }
                lapse.all.add(bytes);
                self.progress.examined.add(bytes);
                if page.has_ended(&self.policy, lease) {
                    lapse.ended.add(bytes);
                    self.progress.ended.add(bytes);
                }
            }
            after = page.leases.last().copied();
            self.tell().await?;
        }
        Ok(())
    }

    /// Removes what has ended; false if the lease database forbids it.
    async fn remove(&mut self) -> Result<bool> {
        let mut after = None;
        let mut ended = Vec::new();
        while let Some(page) = self.page(after, 1).await? {
            ended.extend(page.leases.iter().filter(|lease| page.has_ended(&self.policy, lease)));
            after = page.leases.last().copied();
            while ended.len() >= REMOVED_AT_ONCE {
                let rest = ended.split_off(REMOVED_AT_ONCE);
                if !self.remove_some(std::mem::replace(&mut ended, rest)).await? {
                    return Ok(false);
                }
            }
            self.tell().await?;
        }
        Ok(ended.is_empty() || self.remove_some(ended).await?)
    }

    async fn remove_some(&mut self, leases: Vec<LeaseOnShare>) -> Result<bool> {
        let (run, policy, epoch) = (self.run.id, self.policy, self.deployment.epoch);
        match self.store.db.expire_leases(ExpireLeases { run, policy, epoch, leases }).await? {
            ExpireOutcome::Removed { leases, unleased } => {
                self.progress.removed += leases;
                self.progress.unleased += unleased;
                self.tell().await?;
                Ok(true)
            }
            ExpireOutcome::Forbidden => Ok(false),
        }
    }
}

fn dry_reason(turned: bool, brake: Option<String>) -> String {
    let mut sentences = Vec::new();
    if turned {
        sentences.push(
            "nothing was removed: no run has ended with this policy yet; look at what would go, then run it again"
                .to_owned(),
        );
    }
    sentences.extend(brake.map(|brake| format!("a brake would hold: {brake}")));
    sentences.join("; ")
}
