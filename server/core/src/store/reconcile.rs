//! A unit of a reconcile run: a listing against rows, and then each storage index at which they disagree.
//!
//! The first pass only reads, in pages, and holds the names of one unit. What it finds strange is settled one by one, by
//! the rule that every settling follows; in normal mode all of it is tried out first, so that brakes hold before anything
//! is done (`design.md` 8, 9).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::{Claim, Result, Store};
use crate::backend::Backend;
use crate::chunk::ObjectName;
use crate::clock::Timestamp;
use crate::crawl::ORPHAN_AGE_SECONDS;
use crate::crawl::brake::brake;
use crate::crawl::unit::{Prefix, UNIT_CLAIM_SECONDS, UNIT_OBJECTS_MAX, UnitEnd};
use crate::expiry::brake_on_clocks;
use crate::id::{ObjectId, ShareId, StorageIndex};
use crate::leasedb::{Deployment, LeaseDb, Mode, NAME_FENCE_SECONDS, TickOutcome};
use crate::run::{Run, Totals};
use crate::share::{ShareKind, ShareState};

const LIST_AT_ONCE: usize = 1000;
const ROWS_AT_ONCE: u32 = 1000;
const INDEXES_AT_ONCE: usize = 500;
const SETTLES_AT_ONCE: usize = 32;
/// How often a claim is made anew while a unit is worked on.
const KEEP_EVERY: Duration = Duration::from_secs(30);

/// A unit that a worker has claimed.
#[derive(Clone, Debug)]
pub struct UnitWork<'a> {
    /// The run.
    pub run: &'a Run,
    /// The unit.
    pub unit: &'a Prefix,
    /// Who claimed it.
    pub worker: ObjectId,
    /// What the run has counted before.
    pub so_far: &'a Totals,
}

/// What the first pass has found.
struct Joined {
    counted: Totals,
    /// Storage indexes at which rows and objects disagree.
    strange: BTreeSet<StorageIndex>,
}

/// The rows of a unit.
#[derive(Default)]
struct Rows {
    count: u64,
    stable: u64,
    /// Immutable shares without bytes.
    empty: HashSet<ShareId>,
}

enum FirstPass {
    Joined(Joined),
    End(UnitEnd),
}

impl<L: LeaseDb, B: Backend> Store<L, B> {
    /// Compares a unit and makes its rows and objects agree. `None` if the unit was lost to somebody else, or the run has
    /// ended.
    ///
    /// # Errors
    /// The lease database or the backend does not answer: what was done until then is done, and the unit can be worked on
    /// again.
    pub async fn reconcile_unit(&self, work: &UnitWork<'_>) -> Result<Option<UnitEnd>> {
        if let Some(reason) = self.distrust().await? {
            return Ok(Some(UnitEnd::Braked(reason)));
        }
        let deployment = self.db.deployment().await?;
        self.note_deployment(&deployment);
        let mut keeper = Keeper { store: self, work, kept_at: self.clock.elapsed() };
        let Joined { mut counted, strange } = match self.first_pass(work.unit, &deployment, &mut keeper).await? {
            Some(FirstPass::Joined(joined)) => joined,
            Some(FirstPass::End(end)) => return Ok(Some(end)),
            None => return Ok(None),
        };
        // In recovery mode nothing is thrown away, so there is nothing to try out.
        if deployment.mode == Mode::Normal || work.run.dry_run {
            let Some(expected) = self.settle_all(&strange, true, &mut keeper).await? else { return Ok(None) };
            let mut totals = work.so_far.clone();
            totals.merge(&counted);
            totals.merge(&expected);
            if let Some(reason) = brake(&totals, deployment.mode).filter(|_| !work.run.permitted && !work.run.dry_run) {
                return Ok(Some(UnitEnd::Braked(reason)));
            }
            if work.run.dry_run {
                counted.merge(&expected);
                return Ok(Some(UnitEnd::Done(counted)));
            }
        }
        let Some(done) = self.settle_all(&strange, false, &mut keeper).await? else { return Ok(None) };
        counted.merge(&done);
        Ok(Some(UnitEnd::Done(counted)))
    }

    /// Why the lease database and the backend must not be compared.
    async fn distrust(&self) -> Result<Option<String>> {
        match self.backend_owner().await? {
            Some(Claim::Ours) => {}
            Some(Claim::Foreign { theirs, .. }) => {
                return Ok(Some(format!("the backend belongs to another deployment: it is marked {theirs}")));
            }
            None => {
                return Ok(Some("the mark of this deployment is not in the backend: is it the right one?".to_owned()));
            }
        }
        if matches!(self.tick().await?, Some(TickOutcome::Loss(_))) {
            let text =
                "the lease database has lost commits since the run began; the next run brings back what was lost";
            return Ok(Some(text.to_owned()));
        }
        // The age of objects is told by a clock (`review.md` A13).
        Ok(brake_on_clocks(self.clock_skew_seconds().await?))
    }

    /// Lists the unit and reads its rows: what is named and not there, or there and not named?
    async fn first_pass(
        &self,
        unit: &Prefix,
        deployment: &Deployment,
        keeper: &mut Keeper<'_, L, B>,
    ) -> Result<Option<FirstPass>> {
        let begun_at = self.db.now().await?;
        let mut counted = Totals::default();
        let (mut listed, mut after, mut bytes, mut others) = (HashMap::new(), None, 0, 0);
        let prefix = unit.folder();
        loop {
            let page = self.backend.list(&prefix, after.as_deref(), LIST_AT_ONCE).await?;
            for object in page.objects {
                bytes += object.length_bytes;
                match object.name.parse::<ObjectName>() {
                    Ok(name) => drop(listed.insert(name, object.length_bytes)),
                    Err(_) => others += 1,
                }
            }
            if listed.len() > UNIT_OBJECTS_MAX && !unit.split().is_empty() {
                return Ok(Some(FirstPass::End(UnitEnd::Split)));
            }
            if !keeper.keep().await? {
                return Ok(None);
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let objects = listed.len() as u64;
        counted.set("objects", objects);
        counted.set("bytes", bytes);
        counted.set("strange_names", others);
        let mut strange = BTreeSet::new();
        let Some(rows) = self.join_rows(unit, begun_at, &mut listed, &mut strange, keeper).await? else {
            return Ok(None);
        };
        counted.set("shares", rows.count);
        if objects == 0 && rows.stable > 0 {
            let text = format!("{} shares have rows, but the backend lists nothing under {prefix}", rows.stable);
            return Ok(Some(FirstPass::End(UnitEnd::Failed(text))));
        }
        // No row can name the object that stands for a share without bytes.
        listed.retain(|name, length| *length > 0 || !rows.empty.contains(&name.share));
        if !self.wonder(listed, deployment.mode, begun_at, &mut strange, keeper).await? {
            return Ok(None);
        }
        Ok(Some(FirstPass::Joined(Joined { counted, strange })))
    }

    /// Takes what rows name off the listing; notes where they name what is not on it.
    async fn join_rows(
        &self,
        unit: &Prefix,
        begun_at: Timestamp,
        listed: &mut HashMap<ObjectName, u64>,
        strange: &mut BTreeSet<StorageIndex>,
        keeper: &mut Keeper<'_, L, B>,
    ) -> Result<Option<Rows>> {
        let (mut rows, mut after) = (Rows::default(), None);
        loop {
            let page = self.db.page_shares(unit.clone(), after, ROWS_AT_ONCE).await?;
            let Some(last) = page.last() else { return Ok(Some(rows)) };
            after = Some(last.share);
            rows.count += page.len() as u64;
            for crawled in page {
                let (share, row) = (crawled.share, crawled.row);
                let mut missing = false;
                for (object, needed) in row.locator.lengths() {
                    let there = listed.get(&ObjectName::new(share, object)).is_some_and(|length| *length >= needed);
                    // Stored a moment ago, it may have been stored after the listing passed it.
                    let fence = begun_at.seconds() - NAME_FENCE_SECONDS;
                    let is_young = object.made_at().is_some_and(|made_at| made_at.seconds() > fence);
                    missing |= !there && !is_young;
                }
                for object in row.locator.objects() {
                    listed.remove(&ObjectName::new(share, object));
                }
                if row.size_bytes == 0 && row.kind == ShareKind::Immutable {
                    rows.empty.insert(share);
                }
                rows.stable += u64::from(row.state == ShareState::Stable);
                if let Some(marker) = crawled.marker {
                    listed.remove(&marker);
                }
                if missing != (row.state == ShareState::Lost) {
                    strange.insert(share.storage_index);
                }
            }
            if !keeper.keep().await? {
                return Ok(None);
            }
        }
    }

    /// Notes where objects are that nothing names and that are neither young nor known to be on their way. False if the unit
    /// is somebody else's by now.
    async fn wonder(
        &self,
        unnamed: HashMap<ObjectName, u64>,
        mode: Mode,
        begun_at: Timestamp,
        strange: &mut BTreeSet<StorageIndex>,
        keeper: &mut Keeper<'_, L, B>,
    ) -> Result<bool> {
        // A container has no age.
        let is_old = |name: &ObjectName| {
            let old = begun_at.seconds() - ORPHAN_AGE_SECONDS;
            name.object.made_at().is_none_or(|made_at| made_at.seconds() <= old)
        };
        let mut by_index: HashMap<StorageIndex, Vec<ObjectName>> = HashMap::new();
        for name in unnamed.into_keys().filter(|name| mode == Mode::Recovery || is_old(name)) {
            by_index.entry(name.share.storage_index).or_default().push(name);
        }
        let indexes: Vec<StorageIndex> = by_index.keys().copied().filter(|index| !strange.contains(index)).collect();
        for some in indexes.chunks(INDEXES_AT_ONCE) {
            let spared = self.db.spared(some.to_vec()).await?;
            strange.extend(some.iter().filter(|index| by_index[index].iter().any(|name| !spared.has(name))));
            if !keeper.keep().await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Settles storage indexes, some at once.
    async fn settle_all(
        &self,
        indexes: &BTreeSet<StorageIndex>,
        dry_run: bool,
        keeper: &mut Keeper<'_, L, B>,
    ) -> Result<Option<Totals>> {
        let mut totals = Totals::default();
        let settles = stream::iter(indexes.iter().copied()).map(|index| self.settle(index, dry_run));
        let mut settles = settles.buffer_unordered(SETTLES_AT_ONCE);
        while let Some(findings) = settles.try_next().await? {
            findings.count(&mut totals);
            if !keeper.keep().await? {
                return Ok(None);
            }
        }
        Ok(Some(totals))
    }
}

/// Claims a unit anew now and then.
struct Keeper<'a, L, B> {
    store: &'a Store<L, B>,
    work: &'a UnitWork<'a>,
    kept_at: Duration,
}

impl<L: LeaseDb, B: Backend> Keeper<'_, L, B> {
    /// False if somebody else works on the unit by now.
    async fn keep(&mut self) -> Result<bool> {
        let now = self.store.clock.elapsed();
        if now.saturating_sub(self.kept_at) < KEEP_EVERY {
            return Ok(true);
        }
        self.kept_at = now;
        let UnitWork { run, unit, worker, .. } = self.work;
        Ok(self.store.db.keep_unit(run.id, (*unit).clone(), *worker, UNIT_CLAIM_SECONDS).await?)
    }
}
