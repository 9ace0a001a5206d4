//! The status as one JSON document.

use leasehold_core::account::Usage;
use leasehold_core::leasedb::Mode;
use leasehold_core::run::{Run, RunKind, RunState};
use leasehold_core::trouble::Troubles;
use serde_json::{Map, Value, json};

use super::{Status, classic, shown};
use crate::output::{account_json, time_text};

/// The document that `GET /status` answers with.
pub fn document(status: &Status) -> Value {
    let jobs: Map<String, Value> = RunKind::ALL.into_iter().map(|kind| (kind.to_string(), job(status, kind))).collect();
    let last_backup = status.runs.iter().find(|run| run.kind == RunKind::Backup && run.state == RunState::Done);
    let mut document = json!({
        "nickname": status.nickname,
        "time": time_text(status.now),
        "deployment": {
            "id": status.deployment.id.to_string(),
            "epoch": status.deployment.epoch.0,
            "mode": mode(status.deployment.mode),
        },
        "backend": { "available_bytes": (status.available_bytes != u64::MAX).then_some(status.available_bytes) },
        "accounts": {
            "count": status.all_accounts.0,
            "usage": usage(&status.all_accounts.1),
            "first": status.accounts.iter().map(|(account, usage)| account_json(account, usage)).collect::<Vec<_>>(),
        },
        "jobs": jobs,
        "troubles": troubles(&status.troubles),
        "braked": status.braked().map(run).collect::<Vec<_>>(),
        "last_backup": last_backup.and_then(|run| run.finished_at).map(time_text),
    });
    if let Value::Object(members) = &mut document {
        members.extend(classic::document(status));
    }
    document
}

/// The word for a mode.
pub(super) const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Normal => "normal",
        Mode::Recovery => "recovery",
    }
}

fn usage(usage: &Usage) -> Value {
    json!({ "used_bytes": usage.used_bytes, "reserved_bytes": usage.reserved_bytes, "shares": usage.shares })
}

/// What is wrong with shares; of long lists the beginning.
fn troubles(troubles: &Troubles) -> Value {
    let (lost, more_lost) = shown(&troubles.lost);
    let (damaged, more_damaged) = shown(&troubles.damaged);
    let (reported, more_reported) = shown(&troubles.reported);
    let lost = lost.iter().map(|(share, at)| json!({ "share": share.to_string(), "lost_at": time_text(*at) }));
    let damaged = damaged.iter().map(|(object, at)| {
        json!({
            "share": object.name.share.to_string(),
            "object": object.name.to_string(),
            "reason": object.reason,
            "seen_at": time_text(*at),
        })
    });
    let reported = reported
        .iter()
        .map(|(share, says, at)| json!({ "share": share.to_string(), "reason": says, "received_at": time_text(*at) }));
    json!({
        "lost": lost.collect::<Vec<_>>(),
        "damaged": damaged.collect::<Vec<_>>(),
        "reported": reported.collect::<Vec<_>>(),
        "more": more_lost || more_damaged || more_reported,
    })
}

fn job(status: &Status, kind: RunKind) -> Value {
    let history = status.runs.iter().filter(|run| run.kind == kind);
    json!({
        "running": status.running(kind).map(run),
        "last": status.last(kind).map(run),
        "history": history.map(run).collect::<Vec<_>>(),
    })
}

/// A run for programs.
pub fn run(run: &Run) -> Value {
    json!({
        "run": run.id.0,
        "kind": run.kind.as_str(),
        "state": run.state.as_str(),
        "dry_run": run.dry_run,
        "permitted": run.permitted,
        "allowed": run.allowed,
        "policy": run.policy,
        "started_at": time_text(run.started_at),
        "alive_at": time_text(run.alive_at),
        "finished_at": run.finished_at.map(time_text),
        "progress": run.totals.part().map(|(done, whole)| json!({ "done": done, "whole": whole })),
        "totals": run.totals.shown().map(|(name, count)| (name.to_owned(), count.into())).collect::<Map<_, _>>(),
        "reason": run.reason,
    })
}
