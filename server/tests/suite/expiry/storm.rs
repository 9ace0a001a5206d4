//! Everything at once: uploads, slot writes, removals, renewals and aborts against all runs of the accounting crawler (expire,
//! collect, reconcile, audit, backup) and undo, with operations that die anywhere. Time stands still while they run and then
//! leaps by days.
//!
//! A lease that was seen is never gone before its end, what a row names can be read, and usage equals a recount.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use leasehold_core::accountant::Session;
use leasehold_core::backup::keep::Keep;
use leasehold_core::expiry::{Brakes, ExpirePolicy};
use leasehold_core::id::{AccountId, ShareId, ShareNumber};
use leasehold_core::lease::{DAY_SECONDS, LEASE_DURATION_SECONDS};
use leasehold_core::leasedb::LeaseDb;
use leasehold_core::run::{FinishRun, RunKind, RunState};
use leasehold_core::share::{ShareKind, ShareState};
use leasehold_core::store::{Claim, ExpireRequest, ShareSlice, Store, StoreError, StoreOptions};
use leasehold_core::testing::{body, enabler, seed, share_id, storage_index, upload_secret};
use leasehold_server::jobs::progress::Progress;
use leasehold_server::jobs::reconcile::{self, ReconcileOptions};
use leasehold_server::jobs::{audit, backup};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::ground::{Ground, on_every_ground};
use crate::store::site::{Site, one_share, removal, replaced};

on_every_ground! { usage_and_leases_hold_in_any_storm }

/// Storage indexes: the even ones are buckets, the odd ones slots.
const INDEXES: u8 = 40;
const NUMBERS: u8 = 2;
const PHASES: usize = 16;

/// What all tasks share.
struct Storm<G: Ground> {
    site: Site<G>,
    store: Arc<Store<G::Db, G::Objects>>,
    sessions: Vec<Arc<Session>>,
    /// Leases on immutable shares that somebody was told of: no client can remove those.
    told: Mutex<HashMap<(ShareId, AccountId), i64>>,
}

type Outcome = Result<(), StoreError>;

impl<G: Ground> Storm<G> {
    async fn new() -> Self {
        let site = Site::<G>::make().await;
        let mut sessions = Vec::new();
        for name in ["alice", "bob", "carol"] {
            sessions.push(site.account(name).await);
        }
        // Brakes have tests of their own.
        let brakes = Brakes { leases_percent: 100, retired_percent: 100, count_min: 1000 };
        let options = StoreOptions { brakes, ..StoreOptions::default() };
        let store = site.store_with(site.db.clone(), site.objects.clone(), options);
        store.refresh_space().await.expect("room is known");
        assert_eq!(store.claim_backend().await.expect("an answer"), Claim::Ours);
        let store = Arc::new(store);
        Self { site, store, sessions, told: Mutex::default() }
    }

    async fn client_step(&self, random: &mut StdRng) -> Outcome {
        let session = &self.sessions[random.random_range(0..self.sessions.len())];
        let number = random.random_range(0..NUMBERS);
        let bucket = share_id(random.random_range(0..INDEXES / 2) * 2, number);
        let slot = share_id(random.random_range(0..INDEXES / 2) * 2 + 1, number);
        match random.random_range(0..9) {
            0..=2 => self.upload(session, bucket, random.random_range(1..200)).await,
            3 | 4 => self.write(session, slot, Some(random.random_range(1..100))).await,
            5 => self.write(session, slot, None).await,
            6 | 7 => self.renew(session, if random.random() { bucket } else { slot }).await,
            _ => self.store.abort_bucket(bucket, &upload_secret(1)).await,
        }
    }

    async fn upload(&self, session: &Session, share: ShareId, size: u64) -> Outcome {
        let (index, secret) = (share.storage_index, upload_secret(1));
        let sets = self.store.allocate_bucket(session, index, &[share.number], size, &secret).await?;
        if !sets.already_have.is_empty() {
            self.note(share, session.account.id, true).await?;
        }
        let Some(upload) = self.site.db.find_upload(share).await?.1 else { return Ok(()) };
        let bytes = vec![7; upload.size_bytes as usize];
        if upload.size_bytes > 1 {
            self.store.write_bucket(share, &secret, 0..1, body(&bytes[..1])).await?;
        }
        self.store.write_bucket(share, &secret, 0..upload.size_bytes, body(&bytes)).await?;
        self.note(share, upload.account, false).await
    }

    async fn write(&self, session: &Session, share: ShareId, size: Option<u64>) -> Outcome {
        let vectors = size.map_or_else(removal, replaced);
        let (request, payload) = (one_share(share.number.get(), vectors), Bytes::from(vec![5; 100]));
        self.store.read_test_write(session, share.storage_index, &enabler(1), &request, &payload).await.map(drop)
    }

    async fn renew(&self, session: &Session, share: ShareId) -> Outcome {
        self.store.renew_leases(session, share.storage_index).await?;
        self.note(share, session.account.id, share.storage_index.as_bytes()[0].is_multiple_of(2)).await
    }

    /// Remembers an account's leases on a bucket. Where a renewal was answered there must be some, and all are fresh.
    async fn note(&self, share: ShareId, account: AccountId, answered: bool) -> Outcome {
        if !share.storage_index.as_bytes()[0].is_multiple_of(2) {
            return Ok(());
        }
        let leases = self.site.db.list_leases(share.storage_index).await?;
        let own: Vec<_> = leases.into_iter().filter(|lease| lease.account == account).collect();
        assert!(!answered || !own.is_empty(), "yes was said to {account} of {share}");
        let mut told = self.told.lock().expect("lock");
        for row in own {
            let end = row.lease.expires_at.seconds();
            assert!(
                !answered || end >= self.site.now() + LEASE_DURATION_SECONDS,
                "{share}: a stale lease of {account}"
            );
            told.insert((ShareId::new(share.storage_index, row.number), account), end);
        }
        Ok(())
    }

    async fn job_step(&self, random: &mut StdRng) -> Outcome {
        match random.random_range(0..10) {
            0..=2 => {
                let request = ExpireRequest { policy: ExpirePolicy::default(), dry_run: random.random_bool(0.2) };
                self.store.expire(request, |_| ()).await.map(drop)
            }
            3 | 4 => self.store.collect(|_| ()).await.map(drop),
            5 => self.reconcile().await,
            6 => self.audit().await,
            7 => self.back_up().await,
            8 => self.store.undo(storage_index(random.random_range(0..INDEXES)), None).await.map(drop),
            _ => {
                let runs = self.site.db.list_runs(Some(RunKind::Expire), 5).await?;
                let Some(run) = runs.last() else { return Ok(()) };
                self.store.undo_run(run.id, |_| ()).await.map(drop)
            }
        }
    }

    /// Somebody's run that died would be waited for until time goes on; its parts would come back then.
    async fn end_running(&self, kind: RunKind) -> Outcome {
        for run in self.site.db.list_runs(Some(kind), 1).await? {
            let reason = "another one begins".to_owned();
            let end = FinishRun { id: run.id, state: RunState::Failed, totals: run.totals, reason };
            self.site.db.finish_run(end).await?;
        }
        Ok(())
    }

    async fn reconcile(&self) -> Outcome {
        self.end_running(RunKind::Reconcile).await?;
        let options = ReconcileOptions { dry_run: false, workers: 2, slowly: false };
        let progress = Arc::new(Progress::in_log("comparing"));
        // That another one takes this run's place in the middle is no failure.
        let Ok(run) = reconcile::run(&self.store, options, &progress).await else { return Ok(()) };
        assert_ne!(run.state, RunState::Braked, "{}", run.reason);
        assert_eq!(run.totals.of("shares_lost"), 0, "nothing is ever lost here");
        Ok(())
    }

    async fn audit(&self) -> Outcome {
        self.end_running(RunKind::Audit).await?;
        let Ok(run) = audit::run(&**self.store.db(), &Progress::in_log("auditing")).await else { return Ok(()) };
        assert_eq!(run.totals.of("accounts_corrected"), 0, "counters are right at every instant");
        Ok(())
    }

    async fn back_up(&self) -> Outcome {
        self.end_running(RunKind::Backup).await?;
        let keep = Keep { hourly: 2, daily: 1, weekly: 1 };
        drop(backup::run(&self.store, keep, &Progress::in_log("backing up")).await);
        Ok(())
    }

    /// Every row can be read, no lease that was told is gone before its end, and usage is what a recount says.
    async fn check(&self, phase: usize) {
        let now = self.site.now();
        let mut used: HashMap<AccountId, (u64, u64)> = HashMap::new();
        let (mut ends, mut reserved) = (HashMap::new(), HashMap::new());
        for index in (0..INDEXES).map(storage_index) {
            let leases = self.site.db.list_leases(index).await.expect("list_leases");
            for row in self.site.db.list_shares(index).await.expect("list_shares") {
                assert_eq!(row.state, ShareState::Stable);
                let slice = ShareSlice::new(index, &row, 0..u64::MAX);
                let bytes = self.store.read_slice(&slice).await.unwrap_or_else(|e| panic!("{index}: {e}"));
                assert_eq!(bytes.len() as u64, row.size_bytes);
                for lease in leases.iter().filter(|lease| lease.number == row.number) {
                    let of_account = used.entry(lease.account).or_default();
                    of_account.0 += row.kind.charged_bytes(row.size_bytes);
                    of_account.1 += 1;
                    ends.insert((ShareId::new(index, row.number), lease.account), lease.lease.expires_at.seconds());
                }
            }
            for number in (0..NUMBERS).map(ShareNumber::new) {
                let upload = self.site.db.find_upload(ShareId::new(index, number)).await.expect("find_upload").1;
                if let Some(upload) = upload {
                    let bytes = ShareKind::Immutable.charged_bytes(upload.size_bytes);
                    *reserved.entry(upload.account).or_default() += bytes;
                }
            }
        }
        for ((share, account), end) in self.told.lock().expect("lock").iter().filter(|(_, end)| **end >= now) {
            let found = ends.get(&(*share, *account));
            assert!(
                found >= Some(end),
                "phase {phase}: {account} leases {share} until {end}, found {found:?} at {now}"
            );
        }
        let accounts = self.sessions.iter().map(|session| session.account.id).chain([AccountId::STARTER]);
        for account in accounts {
            let usage = self.site.db.usage(account).await.expect("usage");
            let (bytes, shares) = used.get(&account).copied().unwrap_or_default();
            let reserved: u64 = reserved.get(&account).copied().unwrap_or_default();
            let found = (usage.used_bytes, usage.shares, usage.reserved_bytes);
            assert_eq!(found, (bytes, shares, reserved), "phase {phase}: usage of {account} against a recount");
        }
    }
}

/// Failures of clients are theirs; none may come from what a job has done.
fn assert_fair(outcome: &Outcome) {
    if let Err(error @ (StoreError::Vanished(_) | StoreError::LeaseDb(_) | StoreError::Backend(_))) = outcome {
        panic!("{error:?}");
    }
}

/// One operation, which dies somewhere with this probability: what it awaits at that moment never answers it.
async fn step<G: Ground>(storm: &Arc<Storm<G>>, mut random: StdRng, is_job: bool, death: f64) {
    let (dies, after) = (random.random_bool(death), random.random_range(0..20u32));
    let storm = storm.clone();
    let running = tokio::spawn(async move {
        if is_job { storm.job_step(&mut random).await } else { storm.client_step(&mut random).await }
    });
    if dies {
        for _ in 0..after {
            tokio::task::yield_now().await;
        }
        running.abort();
    }
    match running.await {
        Ok(outcome) => assert_fair(&outcome),
        Err(error) if error.is_cancelled() => {}
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

async fn usage_and_leases_hold_in_any_storm<G: Ground>() {
    let first = seed();
    let (tasks, steps) = if G::IS_ONE_MACHINE { (8, 16) } else { (4, 10) };
    let storm = Arc::new(Storm::<G>::new().await);
    let mut random = StdRng::seed_from_u64(first);
    for phase in 0..PHASES {
        let mut running = Vec::new();
        for task in 0..tasks {
            let (storm, mut random) = (storm.clone(), StdRng::seed_from_u64(random.random()));
            // Every second task runs jobs.
            let is_job = task % 2 == 1;
            running.push(tokio::spawn(async move {
                for _ in 0..steps {
                    let of_step = StdRng::seed_from_u64(random.random());
                    step(&storm, of_step, is_job, if is_job { 0.05 } else { 0.15 }).await;
                }
            }));
        }
        for task in running {
            if let Err(error) = task.await {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        storm.check(phase).await;
        storm.site.clock.advance(random.random_range(5..40) * DAY_SECONDS);
    }
    let runs = storm.site.db.list_runs(Some(RunKind::Expire), 200).await.expect("list_runs");
    let removed: u64 = runs.iter().map(|run| run.totals.of("leases_removed")).sum();
    let runs = storm.site.db.list_runs(Some(RunKind::Collect), 200).await.expect("list_runs");
    let retired: u64 = runs.iter().map(|run| run.totals.of("shares_retired")).sum();
    let done = async |kind| {
        let runs = storm.site.db.list_runs(Some(kind), 200).await.expect("list_runs");
        runs.into_iter().filter(|run| run.state == RunState::Done).count()
    };
    let [reconciled, audited, backed_up] =
        [done(RunKind::Reconcile).await, done(RunKind::Audit).await, done(RunKind::Backup).await];
    println!(
        "{removed} leases removed, {retired} shares retired, {reconciled} times reconciled, {audited} audited, \
         {backed_up} backed up"
    );
    assert!(removed > 0 && retired > 0 && reconciled > 0 && audited > 0 && backed_up > 0, "it was calm");
}
