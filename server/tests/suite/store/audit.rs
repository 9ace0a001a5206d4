//! The audit: counters that are wrong are found and corrected, those that are right stay, whatever goes on beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use leasehold_core::leasedb::LeaseDb;
use leasehold_core::run::{Run, RunState};
use leasehold_core::testing::{share_id, storage_index, upload_secret};
use leasehold_server::jobs::audit;
use leasehold_server::jobs::progress::Progress;

use super::pattern;
use super::site::Site;
use crate::ground::{Ground, on_every_ground};

async fn audit<L: LeaseDb>(db: &L) -> Run {
    audit::run(db, &Progress::in_log("auditing")).await.expect("an audit")
}

async fn wrong_counters_are_corrected<G: Ground>() {
    let site = Site::<G>::make().await;
    let (alice, bob) = (site.account("alice").await, site.account("bob").await);
    let pod = site.pod(site.objects.clone());
    for index in 0..20 {
        pod.upload(&alice, share_id(index, 0), &pattern(0..100)).await;
        pod.store.renew_leases(&bob, storage_index(index)).await.expect("renew_leases");
    }
    pod.write_slot(&bob, share_id(100, 0), b"a slot").await;
    pod.allocate(&bob, share_id(101, 0), 1000).await;
    let right = audit(&site.db).await;
    assert_eq!((right.state, right.totals.of("accounts_corrected")), (RunState::Done, 0));
    assert_eq!(right.totals.of("leases"), 41);
    assert_eq!(right.totals.of("leased_bytes"), 40 * 112 + 478);
    let before = [site.usage("alice").await, site.usage("bob").await];
    site.ground.execute(G::UNCHARGE).await;
    assert_eq!(site.usage("alice").await, (0, 0), "now they are wrong");
    let wrong = audit(&site.db).await;
    assert_eq!(wrong.totals.of("accounts_corrected"), 2);
    assert_eq!(wrong.totals.of("drift_bytes"), 40 * 112 + 478);
    assert_eq!([site.usage("alice").await, site.usage("bob").await], before);
    assert_eq!(audit(&site.db).await.totals.of("accounts_corrected"), 0);
    let runs = site.db.list_runs(None, 10).await.expect("list_runs");
    assert_eq!(runs.len(), 3);
    assert!(runs.iter().all(|run| run.state == RunState::Done && run.finished_at.is_some()));
}

/// Uploads, renewals and aborts go on while counters are corrected again and again: none of their changes is lost.
async fn corrections_and_changes_add_up<G: Ground>() {
    let site = Arc::new(Site::<G>::make().await);
    let alice = site.account("alice").await;
    let done = Arc::new(AtomicBool::new(false));
    let writers = (0..4u8).map(|writer| {
        let (site, alice) = (site.clone(), alice.clone());
        tokio::spawn(async move {
            let pod = site.pod(site.objects.clone());
            for round in 0..12 {
                let share = share_id(writer * 12 + round, 0);
                pod.upload(&alice, share, &pattern(0..64)).await;
                pod.allocate(&alice, share_id(200, writer), 50).await;
                let aborted = pod.store.abort_bucket(share_id(200, writer), &upload_secret(1)).await;
                aborted.expect("abort_bucket");
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let auditor = {
        let (site, alice, done) = (site.clone(), alice.account.id, done.clone());
        tokio::spawn(async move {
            let mut recounts = 0;
            while !done.load(Ordering::Relaxed) {
                let (was, is) = site.db.recount_usage(alice).await.expect("recount_usage");
                assert_eq!(was, is, "nothing was wrong");
                recounts += 1;
            }
            recounts
        })
    };
    for writer in writers {
        writer.await.expect("a writer ends");
    }
    done.store(true, Ordering::Relaxed);
    assert!(auditor.await.expect("no panic") > 0);
    assert_eq!(site.usage("alice").await, (48 * 76, 0));
    assert_eq!(audit(&site.db).await.totals.of("accounts_corrected"), 0);
}

/// A share that lost its last lease and is in no queue would stay for ever.
async fn what_nobody_leases_and_nobody_queued_goes_after_an_audit<G: Ground>() {
    let site = Site::<G>::make().await;
    let alice = site.account("alice").await;
    let pod = site.pod(site.objects.clone());
    for index in 0..3 {
        pod.upload(&alice, share_id(index, 0), &pattern(0..100)).await;
    }
    site.clock.advance(2 * 86_400);
    assert_eq!(audit(&site.db).await.totals.of("shares_unleased"), 0);
    let [one] = [1].map(|index| G::bytes(storage_index(index).as_bytes()));
    site.ground.execute(&format!("DELETE FROM leases WHERE si = {one}")).await;
    assert_eq!(pod.store.collect(|_| ()).await.expect("collect").retired.count, 0, "it is in no queue");
    let run = audit(&site.db).await;
    assert_eq!((run.totals.of("shares_unleased"), run.totals.of("accounts_corrected")), (1, 1));
    assert_eq!((run.totals.of("shares_leased"), run.totals.of("storage_indexes")), (2, 3));
    assert_eq!(pod.store.collect(|_| ()).await.expect("collect").retired.count, 1);
    assert_eq!(audit(&site.db).await.totals.of("shares_unleased"), 0);
    site.assert_clean(&["alice"], &[0, 1, 2]).await;
}

async fn only_one_audit_at_a_time<G: Ground>() {
    let site = Site::<G>::make().await;
    let begin = leasehold_core::run::BeginRun {
        kind: leasehold_core::run::RunKind::Audit,
        dry_run: false,
        policy: String::new(),
    };
    site.db.begin_run(begin).await.expect("begin_run");
    let error = audit::run(&site.db, &Progress::in_log("auditing")).await.expect_err("another one");
    assert!(error.to_string().contains("under way"), "{error}");
}

on_every_ground!(
    wrong_counters_are_corrected,
    corrections_and_changes_add_up,
    what_nobody_leases_and_nobody_queued_goes_after_an_audit,
    only_one_audit_at_a_time,
);
