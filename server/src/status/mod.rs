//! How the deployment stands, for people and programs: accounts, runs of jobs, brakes, what is lost. Live while work goes on.

mod classic;
mod json;
mod page;

pub use json::{document, run as run_json};
pub use page::render;

use leasehold_core::account::{Account, Usage};
use leasehold_core::backend::Backend;
use leasehold_core::clock::Timestamp;
use leasehold_core::leasedb::{Deployment, LeaseDb};
use leasehold_core::run::{Run, RunKind, RunState};
use leasehold_core::store::{Result, Store};
use leasehold_core::trouble::Troubles;

/// How many accounts are shown, by number; the rest is summed up.
const ACCOUNTS_SHOWN: usize = 500;
/// How many accounts are read at once.
const PAGE: u32 = 1000;
/// How many lost, damaged and reported shares are shown, of each.
const TROUBLES_SHOWN: u32 = 100;
/// How many runs are shown.
const RUNS_SHOWN: u32 = 40;

/// What was true when it was asked.
#[derive(Debug)]
pub struct Status {
    /// The server's name for people.
    pub nickname: String,
    /// By the lease database's clock.
    pub now: Timestamp,
    /// The database as a whole.
    pub deployment: Deployment,
    /// What the backend can still take, in bytes; `u64::MAX` where it has no measure of that.
    pub available_bytes: u64,
    /// The first accounts.
    pub accounts: Vec<(Account, Usage)>,
    /// All accounts together: how many, and what they use.
    pub all_accounts: (u64, Usage),
    /// What is wrong with shares; one more of each kind than is shown, where there are more.
    pub troubles: Troubles,
    /// The last runs, newest first.
    pub runs: Vec<Run>,
}

impl Status {
    /// The last run of a kind that was not for show only.
    pub fn last(&self, kind: RunKind) -> Option<&Run> {
        self.runs.iter().find(|run| run.kind == kind && !run.dry_run)
    }

    /// The run of a kind that is under way.
    pub fn running(&self, kind: RunKind) -> Option<&Run> {
        self.runs.iter().find(|run| run.kind == kind && run.state == RunState::Running)
    }

    /// The runs that a brake stopped and nobody has followed up.
    pub fn braked(&self) -> impl Iterator<Item = &Run> {
        RunKind::ALL.into_iter().filter_map(|kind| self.last(kind)).filter(|run| run.state == RunState::Braked)
    }
}

/// Those of a list that are shown, and whether there are more.
fn shown<T>(all: &[T]) -> (&[T], bool) {
    let most = TROUBLES_SHOWN as usize;
    (&all[..all.len().min(most)], all.len() > most)
}

/// Asks how all stands.
///
/// # Errors
/// The lease database does not answer.
pub async fn gather<L: LeaseDb, B: Backend>(store: &Store<L, B>, nickname: &str) -> Result<Status> {
    let db = store.db();
    let (mut accounts, mut count, mut sum) = (Vec::new(), 0, Usage::default());
    let mut after = None;
    loop {
        let page = db.list_accounts(after, PAGE).await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.id);
        for (account, usage) in page {
            count += 1;
            sum.used_bytes += usage.used_bytes;
            sum.reserved_bytes += usage.reserved_bytes;
            sum.shares += usage.shares;
            if accounts.len() < ACCOUNTS_SHOWN {
                accounts.push((account, usage));
            }
        }
    }
    let mut runs = db.list_runs(None, RUNS_SHOWN).await?;
    for kind in RunKind::ALL {
        // One that runs rarely may be older than all that are shown.
        if !runs.iter().any(|run| run.kind == kind && !run.dry_run) {
            let older = db.list_runs(Some(kind), RUNS_SHOWN).await?;
            runs.extend(older.into_iter().find(|run| !run.dry_run));
        }
    }
    Ok(Status {
        nickname: nickname.to_owned(),
        now: db.now().await?,
        deployment: db.deployment().await?,
        available_bytes: store.backend_available_bytes(),
        accounts,
        all_accounts: (count, sum),
        troubles: db.troubles(TROUBLES_SHOWN + 1).await?,
        runs,
    })
}
