//! Comparing rows with objects: what settling writes, and the units of a run.
#![allow(missing_docs, reason = "the names of the cases say it")]

use super::MakeLeaseDb;
use super::bench::{Bench, IDLE_SECONDS};
use crate::chunk::{ObjectName, StoreObject};
use crate::classic::Damage;
use crate::clock::Clock;
use crate::crawl::unit::{ClaimUnitOutcome, FinishUnit, Prefix, UnitEnd};
use crate::crawl::{Findings, ForgetOutcome, ORPHAN_AGE_SECONDS, Settle, SettleOutcome, Stored, Survey, TakeOver};
use crate::id::{AccountId, ObjectId, ShareId, ShareNumber, StorageIndex};
use crate::leasedb::{Advisory, Epoch, LeaseDb, Mode, SlotToken, UNDO_SECONDS};
use crate::run::{BeginRun, BeginRunOutcome, FinishRun, Run, RunKind, RunState, Totals};
use crate::share::{ShareKind, ShareState};
use crate::testing::values::{share_id, storage_index};
use crate::trouble::{DamagedObject, Troubles};

impl<D: LeaseDb> Bench<D> {
    async fn survey(&self, index: StorageIndex) -> Survey {
        self.db.survey(index).await.expect("survey")
    }

    async fn settle_seen(&self, index: StorageIndex, seen: Survey, listed: &[(ObjectName, u64)]) -> SettleOutcome {
        let settle = Settle {
            storage_index: index,
            seen,
            listed: listed
                .iter()
                .map(|(name, length_bytes)| Stored { name: *name, length_bytes: *length_bytes })
                .collect(),
            manifests: Vec::new(),
            containers: Vec::new(),
            token: SlotToken(self.entropy.bytes()),
            dry_run: false,
        };
        self.db.settle(settle).await.expect("settle")
    }

    async fn settle(&self, index: StorageIndex, listed: &[(ObjectName, u64)]) -> Findings {
        match self.settle_seen(index, self.survey(index).await, listed).await {
            SettleOutcome::Settled(findings) => findings,
            SettleOutcome::Changed => panic!("nobody else is there"),
        }
    }

    fn whole(&self, share: ShareId, account: AccountId) -> ObjectName {
        ObjectName::new(share, StoreObject::Whole { upload: self.id(), account, put: self.id() })
    }

    async fn reconcile_run(&self) -> Run {
        let begin = BeginRun { kind: RunKind::Reconcile, dry_run: false, policy: String::new() };
        let BeginRunOutcome::Begun(run) = self.db.begin_run(begin).await.expect("begin_run") else {
            panic!("one runs")
        };
        run
    }

    async fn claimed(&self, run: &Run, worker: ObjectId) -> Option<Prefix> {
        match self.db.claim_unit(run.id, worker, 60).await.expect("claim_unit") {
            ClaimUnitOutcome::Claimed(unit, _) => Some(unit),
            _ => None,
        }
    }

    async fn finish_unit(&self, run: &Run, unit: &Prefix, worker: ObjectId, end: UnitEnd) -> bool {
        let finish = FinishUnit { run: run.id, unit: unit.clone(), worker, end };
        self.db.finish_unit(finish).await.expect("finish_unit")
    }
}

pub async fn a_complete_object_without_a_row_is_adopted_when_it_is_old<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, share) = (bench.account("alice", Some(5)).await, share_id(1, 0));
    let listed = [(bench.whole(share, alice), 100)];
    assert_eq!(bench.settle(share.storage_index, &listed).await, Findings::default());
    bench.clock.advance(ORPHAN_AGE_SECONDS);
    assert_eq!(bench.settle(share.storage_index, &listed).await, Findings { adopted: 1, ..Findings::default() });
    assert_eq!(bench.numbers(ShareKind::Immutable, share.storage_index).await, [0]);
    assert!(bench.lease(share, alice).await.is_some(), "over its quota, for it was there before");
    bench.audit(&[alice], &[share.storage_index]).await;
    assert_eq!(bench.settle(share.storage_index, &listed).await, Findings::default(), "once");
}

pub async fn a_share_whose_object_is_gone_is_lost_until_it_is_back<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bucket, slot) = (bench.account("alice", None).await, share_id(1, 0), share_id(2, 3));
    let whole = bench.bucket_share(alice, bucket, 100).await;
    let generation = bench.slot_share(alice, slot, 50).await;
    let token = bench.db.read_slot(slot.storage_index).await.expect("read_slot").slot;
    let both = [bucket.storage_index, slot.storage_index];
    for (share, name, length) in [(bucket, whole, 100), (slot, generation, 200)] {
        let index = share.storage_index;
        // Too short is as good as gone.
        let findings = bench.settle(index, &[(name, 49)]).await;
        assert_eq!(findings, Findings { lost: vec![share], ..Findings::default() });
        let row = bench.db.find_share(share).await.expect("find_share").expect("a row");
        assert_eq!(row.state, ShareState::Lost);
        assert!(bench.lease(share, alice).await.is_some());
        bench.audit(&[alice], &both).await;
        assert_eq!(bench.settle(index, &[]).await, Findings::default(), "once");
        let token = SlotToken(bench.entropy.bytes());
        let forgotten = bench.db.forget_lost(share, token).await.expect("forget_lost");
        assert_eq!(forgotten, ForgetOutcome::TooEarly(2));
        assert_eq!(bench.settle(index, &[(name, length)]).await, Findings { found: 1, ..Findings::default() });
        assert_eq!(bench.numbers(row.kind, index).await, [share.number.get()]);
        bench.audit(&[alice], &both).await;
    }
    assert_ne!(bench.db.read_slot(slot.storage_index).await.expect("read_slot").slot, token, "A4");
}

pub async fn what_nothing_names_is_garbage_and_what_is_on_its_way_is_not<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bucket) = (bench.account("alice", None).await, share_id(1, 0));
    let named = bench.bucket_share(alice, bucket, 100).await;
    let stray = bench.whole(bucket, alice);
    // A piece of an upload in progress, recorded or not.
    bench.allocate(alice, storage_index(1), &[1], 100).await;
    let (_, _, chunk) = bench.chunk(share_id(1, 1), 0..10).await;
    let coming = ObjectName::new(share_id(1, 1), chunk.object);
    let listed = [(named, 100), (stray, 100), (coming, 10)];
    bench.clock.advance(ORPHAN_AGE_SECONDS - 1);
    assert_eq!(bench.settle(storage_index(1), &listed).await, Findings::default());
    bench.clock.advance(1);
    assert_eq!(bench.settle(storage_index(1), &listed).await, Findings { orphans: 1, ..Findings::default() });
    let spared = bench.db.spared(vec![storage_index(1), storage_index(2)]).await.expect("spared");
    assert!(spared.has(&coming) && spared.has(&stray) && !spared.has(&named));
    assert_eq!(bench.settle(storage_index(1), &listed).await, Findings::default(), "once");
    bench.clock.advance(UNDO_SECONDS - 1);
    assert!(bench.take_garbage().await.is_empty());
    bench.clock.advance(1);
    assert_eq!(bench.take_garbage().await, [stray]);
    assert_eq!(bench.settle(storage_index(1), &listed).await, Findings { late: 1, ..Findings::default() }, "A1");
    let (_, upload) = bench.db.find_upload(share_id(1, 1)).await.expect("find_upload");
    let upload = upload.expect("it rests").id;
    assert!(bench.db.end_upload(share_id(1, 1), upload, Vec::new(), false).await.expect("end_upload"));
    let whole = StoreObject::Whole { upload, account: alice, put: bench.id() };
    let late = ObjectName::new(share_id(1, 1), whole);
    bench.clock.advance(ORPHAN_AGE_SECONDS + IDLE_SECONDS);
    let findings = bench.settle(storage_index(1), &[(named, 100), (late, 100)]).await;
    assert_eq!((findings.adopted, findings.orphans), (0, 1), "A11: its upload was given up");
}

pub async fn what_was_seen_before_a_change_decides_nothing<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, share) = (bench.account("alice", None).await, share_id(1, 0));
    let seen = bench.survey(share.storage_index).await;
    let name = bench.slot_share(alice, share, 10).await;
    assert_eq!(bench.settle_seen(share.storage_index, seen, &[]).await, SettleOutcome::Changed);
    let seen = bench.survey(share.storage_index).await;
    assert!(!seen.settled && seen.shares.len() == 1 && seen.mode == Mode::Normal);
    let other = Survey { epoch: Epoch(9), ..seen.clone() };
    assert_eq!(bench.settle_seen(share.storage_index, other, &[]).await, SettleOutcome::Changed);
    let other = Survey { mode: Mode::Recovery, ..seen.clone() };
    assert_eq!(bench.settle_seen(share.storage_index, other, &[]).await, SettleOutcome::Changed);
    let settled = bench.settle_seen(share.storage_index, seen, &[(name, 100)]).await;
    assert_eq!(settled, SettleOutcome::Settled(Findings::default()));
}

pub async fn shares_are_paged_by_the_beginning_of_their_storage_index<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let alice = bench.account("alice", None).await;
    for index in [0, 7, 8, 200, 255] {
        bench.bucket_share(alice, share_id(index, 5), 10).await;
        bench.bucket_share(alice, share_id(index, 250), 10).await;
    }
    let paged = async |unit: &Prefix| {
        let (mut shares, mut after) = (Vec::new(), None);
        loop {
            let page = bench.db.page_shares(unit.clone(), after, 3).await.expect("page_shares");
            let Some(last) = page.last() else { return shares };
            assert!(page.len() <= 3);
            after = Some(last.share);
            shares.extend(page.into_iter().map(|crawled| crawled.share));
        }
    };
    let all = paged(&Prefix::default()).await;
    assert_eq!(all.len(), 10);
    assert!(all.is_sorted());
    let mut parts = Vec::new();
    for part in Prefix::default().split() {
        let shares = paged(&part).await;
        assert!(shares.iter().all(|share| share.storage_index.to_string().starts_with(&part.to_string())));
        parts.extend(shares);
    }
    parts.sort_unstable();
    assert_eq!(parts, all);
}

pub async fn units_are_shared_counted_once_and_split<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let run = bench.reconcile_run().await;
    let (one, two) = (bench.id(), bench.id());
    let all = bench.claimed(&run, one).await.expect("the first unit");
    assert_eq!(all, Prefix::default());
    assert_eq!(bench.claimed(&run, two).await, None);
    assert!(!bench.db.keep_unit(run.id, all.clone(), two, 60).await.expect("keep_unit"));
    assert!(bench.finish_unit(&run, &all, one, UnitEnd::Split).await);
    let mut counted = Totals::default();
    counted.set("shares", 10);
    for at in 0..32 {
        let worker = if at % 2 == 0 { one } else { two };
        let unit = bench.claimed(&run, worker).await.expect("another part");
        let end = if at == 31 { UnitEnd::Failed("of this".to_owned()) } else { UnitEnd::Done(counted.clone()) };
        assert!(bench.finish_unit(&run, &unit, worker, end.clone()).await);
        assert!(!bench.finish_unit(&run, &unit, worker, end).await, "once");
    }
    let finished = bench.db.claim_unit(run.id, one, 60).await.expect("claim_unit");
    let ClaimUnitOutcome::Finished(totals, failed, reason) = finished else { panic!("{finished:?}") };
    assert_eq!((totals.of("shares"), failed, reason.as_str()), (310, 1, "of this"));
    // A brake ends the run, for everybody.
    let end = crate::run::FinishRun { id: run.id, state: RunState::Failed, totals, reason };
    assert!(bench.db.finish_run(end).await.expect("finish_run"));
    assert_eq!(bench.db.claim_unit(run.id, two, 60).await.expect("claim_unit"), ClaimUnitOutcome::Ended);
    let run = bench.reconcile_run().await;
    let all = bench.claimed(&run, one).await.expect("a run of its own");
    assert!(bench.finish_unit(&run, &all, one, UnitEnd::Braked("look at it".to_owned())).await);
    assert_eq!(bench.db.claim_unit(run.id, two, 60).await.expect("claim_unit"), ClaimUnitOutcome::Ended);
    let last = bench.db.list_runs(Some(RunKind::Reconcile), 1).await.expect("list_runs");
    assert_eq!((last[0].state, last[0].reason.as_str()), (RunState::Braked, "look at it"));
}

pub async fn a_database_takes_over_only_before_it_begins<M: MakeLeaseDb>() {
    let request = |deployment| TakeOver { deployment, epoch: Epoch(5), accounts_after: AccountId::new(5 << 20) };
    let theirs = ObjectId::new([7; 16]);
    let bench = Bench::new::<M>().await;
    assert!(bench.db.take_over(request(Some(theirs))).await.expect("take_over"));
    let deployment = bench.db.deployment().await.expect("deployment");
    assert_eq!((deployment.id, deployment.epoch, deployment.mode), (theirs, Epoch(5), Mode::Recovery));
    assert!(!deployment.has_begun, "its heart has not beaten");
    let alice = bench.account("alice", None).await;
    assert!(alice.get() > 5 << 20, "{alice}");
    assert!(!bench.db.take_over(request(Some(theirs))).await.expect("take_over"), "it has an account");
    // In recovery mode what is complete is adopted at once, and remembered as settled in this epoch.
    let share = share_id(1, 0);
    let listed = [(bench.whole(share, AccountId::new(77)), 100)];
    assert_eq!(bench.settle(share.storage_index, &listed).await.adopted, 1);
    assert!(bench.survey(share.storage_index).await.settled);
    assert!(bench.lease(share, AccountId::STARTER).await.is_some(), "of an account that nobody knows");
    let unused = Bench::new::<M>().await;
    unused.account("bob", None).await;
    assert!(!unused.db.take_over(request(Some(theirs))).await.expect("take_over"));
    assert!(unused.db.take_over(request(None)).await.expect("take_over"), "shares without a mark are nobody's");
    let used = Bench::new::<M>().await;
    let carol = used.account("carol", None).await;
    used.bucket_share(carol, share, 10).await;
    assert!(!used.db.take_over(request(None)).await.expect("take_over"));
    assert_eq!(used.db.deployment().await.expect("deployment").mode, Mode::Normal);
}

pub async fn recovery_ends_only_after_a_run_that_compared_everything<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let begun = TakeOver { deployment: None, epoch: Epoch(2), accounts_after: AccountId::new(0) };
    let early = bench.reconcile_run().await;
    bench.clock.advance(1);
    assert!(bench.db.take_over(begun).await.expect("take_over"));
    let worker = bench.id();
    let finish = async |run: &Run, end: UnitEnd| {
        let unit = bench.claimed(run, worker).await.expect("a unit");
        assert!(bench.finish_unit(run, &unit, worker, end).await);
        let ends = bench.db.end_recovery(Epoch(2), run.id).await.expect("end_recovery");
        let (id, totals) = (run.id, Totals::default());
        let end = crate::run::FinishRun { id, state: RunState::Done, totals, reason: String::new() };
        assert!(bench.db.finish_run(end).await.expect("finish_run"));
        ends
    };
    assert!(!finish(&early, UnitEnd::Done(Totals::default())).await, "it began before the epoch");
    let failed = bench.reconcile_run().await;
    assert!(!finish(&failed, UnitEnd::Failed("away".to_owned())).await);
    let whole = bench.reconcile_run().await;
    assert!(!bench.db.end_recovery(Epoch(2), whole.id).await.expect("end_recovery"), "nothing was compared yet");
    assert!(finish(&whole, UnitEnd::Done(Totals::default())).await);
    assert!(!bench.db.end_recovery(Epoch(2), whole.id).await.expect("end_recovery"), "it has ended");
    assert_eq!(bench.db.deployment().await.expect("deployment").mode, Mode::Recovery, "until the heart beats");
    let share = ShareId::new(storage_index(3), ShareNumber::new(0));
    assert_eq!(bench.settle(share.storage_index, &[]).await, Findings::default());
}

pub async fn what_is_wrong_is_listed_until_it_is_mended<M: MakeLeaseDb>() {
    let bench = Bench::new::<M>().await;
    let (alice, bucket) = (bench.account("alice", None).await, share_id(1, 0));
    let name = bench.bucket_share(alice, bucket, 100).await;
    assert_eq!(bench.db.troubles(9).await.expect("troubles"), Troubles::default());
    let lost_at = bench.clock.now();
    bench.settle(bucket.storage_index, &[]).await;
    let container = |number| ObjectName::new(share_id(2, number), StoreObject::Classic);
    let damage = |number, damage: Damage| DamagedObject { name: container(number), reason: damage.to_string() };
    let see = async |dry_run| {
        let index = storage_index(2);
        let containers = vec![(container(1), Err(Damage::Short)), (container(7), Err(Damage::Unknown))];
        let (seen, token) = (bench.survey(index).await, SlotToken(bench.entropy.bytes()));
        let (listed, manifests) = (Vec::new(), Vec::new());
        let settle = Settle { storage_index: index, seen, listed, manifests, containers, token, dry_run };
        bench.db.settle(settle).await.expect("settle")
    };
    see(true).await;
    assert!(bench.db.troubles(9).await.expect("troubles").damaged.is_empty(), "only to say what would be");
    bench.clock.advance(5);
    let seen_at = bench.clock.now();
    let both = vec![damage(1, Damage::Short), damage(7, Damage::Unknown)];
    let settled = SettleOutcome::Settled(Findings { damaged: both.clone(), ..Findings::default() });
    assert_eq!(see(false).await, settled);
    for reason in ["first", "second"] {
        let (kind, reason) = (ShareKind::Immutable, reason.to_owned());
        let advisory = Advisory { share: bucket, kind, account: alice, reason };
        bench.db.advise(advisory).await.expect("advise");
        bench.clock.advance(5);
    }
    let troubles = bench.db.troubles(9).await.expect("troubles");
    assert_eq!(troubles.lost, [(bucket, lost_at)]);
    assert_eq!(troubles.damaged, both.into_iter().map(|object| (object, seen_at)).collect::<Vec<_>>());
    let says: Vec<&str> = troubles.reported.iter().map(|(_, says, _)| says.as_str()).collect();
    assert_eq!(says, ["second", "first"]);
    let few = bench.db.troubles(1).await.expect("troubles");
    assert_eq!((few.lost.len(), few.damaged.len(), few.reported.len()), (1, 1, 1));
    // A run that does not see the containers any more, and one that does nothing.
    for dry_run in [true, false] {
        let begin = BeginRun { kind: RunKind::Reconcile, dry_run, policy: String::new() };
        let BeginRunOutcome::Begun(run) = bench.db.begin_run(begin).await.expect("begin_run") else {
            panic!("none runs")
        };
        let worker = bench.id();
        let unit = bench.claimed(&run, worker).await.expect("a unit");
        assert!(bench.finish_unit(&run, &unit, worker, UnitEnd::Done(Totals::default())).await);
        let end = FinishRun { id: run.id, state: RunState::Done, totals: Totals::default(), reason: String::new() };
        assert!(bench.db.finish_run(end).await.expect("finish_run"));
        let left = bench.db.troubles(9).await.expect("troubles").damaged.len();
        assert_eq!(left, if dry_run { 2 } else { 0 });
    }
    assert_eq!(bench.settle(bucket.storage_index, &[(name, 100)]).await.found, 1);
    assert!(bench.db.troubles(9).await.expect("troubles").lost.is_empty());
}
