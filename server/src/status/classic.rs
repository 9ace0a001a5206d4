//! The parts of the status that operators' scripts know from Tahoe-LAFS's own server (`accounting.md` 10.1, 10.3).

use leasehold_core::id::ShareId;
use leasehold_core::run::{Run, RunKind, RunState};
use serde_json::{Map, Value, json};

use super::Status;

/// How many cycles the history has, as in the released server.
const HISTORY: usize = 10;

/// `stats`, `bucket-counter`, `lease-checker` and `lease-checker-progress`.
pub(super) fn document(status: &Status) -> Map<String, Value> {
    let usage = &status.all_accounts.1;
    let audit = status.runs.iter().find(|run| run.kind == RunKind::Audit && run.state == RunState::Done);
    let counted = |name| audit.map(|run| run.totals.of(name));
    let available = (status.available_bytes != u64::MAX).then_some(status.available_bytes);
    let members = json!({
        "stats": {
            "storage_server.allocated": usage.reserved_bytes,
            "storage_server.disk_avail": available,
            "storage_server.accepting_immutable_shares": u8::from(status.available_bytes > 0),
            "storage_server.total_bucket_count": counted("storage_indexes"),
            "storage_server.total_leased_sharecount": counted("shares_leased"),
            "storage_server.total_leased_used_space": counted("bytes_leased"),
        },
        "bucket-counter": null,
        "lease-checker": lease_checker(status),
        "lease-checker-progress": progress(status),
    });
    match members {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

fn lease_checker(status: &Status) -> Value {
    let cycles = || status.runs.iter().filter(|run| run.kind == RunKind::Expire && !run.dry_run);
    let ended = || cycles().filter(|run| run.state != RunState::Running);
    // What is damaged now is known, not what was then.
    let now = || status.troubles.damaged.iter().map(|(object, _)| corrupt(object.name.share)).collect::<Vec<_>>();
    let of = |at, run: &Run| (run.id.to_string(), entry(run, if at == 0 { now() } else { Vec::new() }));
    let history: Map<String, Value> = ended().take(HISTORY).enumerate().map(|(at, run)| of(at, run)).collect();
    let running = status.running(RunKind::Expire);
    json!({
        "version": 1,
        "last-cycle-finished": ended().next().map(|run| run.id.0),
        "current-cycle": running.map(|run| run.id.0),
        "current-cycle-start-time": running.map(|run| run.started_at.seconds()),
        "last-complete-prefix": null,
        "cycle-to-date": running.map(|run| entry(run, now())),
        "history": history,
    })
}

fn corrupt(share: ShareId) -> Value {
    json!([share.storage_index.to_string(), share.number.get()])
}

fn entry(run: &Run, corrupt_shares: Vec<Value>) -> Value {
    json!({
        "cycle-start-finish-times": [run.started_at.seconds(), run.finished_at.map(|at| at.seconds())],
        "expiration-enabled": !run.dry_run,
        "configured-expiration-mode": run.policy,
        "corrupt-shares": corrupt_shares,
        "space-recovered": run.totals.shown().map(|(name, count)| (name.to_owned(), count.into())).collect::<Map<_, _>>(),
    })
}

fn progress(status: &Status) -> Value {
    let Some(run) = status.running(RunKind::Expire) else { return json!({ "cycle-in-progress": false }) };
    let (done, whole) = run.totals.part().unwrap_or_default();
    let elapsed = (status.now.seconds() - run.started_at.seconds()).max(0) as u64;
    // As much again for each part as for those that are done.
    let left = (elapsed * (whole - done)).checked_div(done);
    json!({
        "cycle-in-progress": true,
        "cycle-complete-percentage": (whole > 0).then(|| 100.0 * done as f64 / whole as f64),
        "estimated-cycle-complete-time-left": left,
    })
}
