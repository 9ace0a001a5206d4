//! The status as a page for people. It needs no script: while work goes on the browser asks again by itself.

use leasehold_config::Size;
use leasehold_core::account::{Account, Usage};
use leasehold_core::clock::Timestamp;
use leasehold_core::id::ShareId;
use leasehold_core::leasedb::Mode;
use leasehold_core::run::{Run, RunKind, RunState};
use leasehold_core::trouble::Troubles;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::json::mode;
use super::{Status, shown};
use crate::output::time_text;

/// How often the page is asked for again, in seconds: while something runs, and otherwise.
const LIVE_SECONDS: (u32, u32) = (2, 30);

const STYLE: &str = "
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #8884; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
progress { width: 10rem; }
.good { color: #18794e; } .bad { color: #cd2b31; font-weight: 600; } .quiet { color: #888; }
.notice { border-left: .3rem solid #cd2b31; padding: .4rem .8rem; margin: .6rem 0; background: #cd2b3118; }
code { font-size: .92em; }
";

/// The page.
pub fn render(status: &Status) -> String {
    let runs_now = status.runs.iter().any(|run| run.state == RunState::Running);
    let again = if runs_now { LIVE_SECONDS.0 } else { LIVE_SECONDS.1 };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="refresh" content=(again);
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (status.nickname) " – status" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (status.nickname) }
                (summary(status))
                (notices(status))
                h2 { "Accounts" }
                (accounts(status))
                h2 { "Jobs" }
                (jobs(status))
                h2 { "Lost and damaged shares" }
                (troubles(status))
                h2 { "Last runs" }
                (history(&status.runs))
            }
        }
    };
    page.into_string()
}

fn summary(status: &Status) -> Markup {
    let (count, usage) = &status.all_accounts;
    let backup = status.runs.iter().find(|run| run.kind == RunKind::Backup && run.state == RunState::Done);
    html! {
        p {
            (count) " accounts use " b { (Size(usage.used_bytes)) } " in " (usage.shares) " leased shares"
            @if usage.reserved_bytes > 0 { ", and " (Size(usage.reserved_bytes)) " are reserved by uploads" }
            ". "
            @if status.available_bytes != u64::MAX { "The backend can take " (Size(status.available_bytes)) " more. " }
            @match backup.and_then(|run| run.finished_at) {
                Some(at) => { "The last backup ended " (ago(status, at)) "." }
                None => { "There is no backup of the lease database." }
            }
        }
        p.quiet {
            "As of " (time_text(status.now)) ". Deployment " code { (status.deployment.id) } ", epoch "
            (status.deployment.epoch.0) ", mode " (mode(status.deployment.mode)) "."
        }
    }
}

/// What somebody must know or do.
fn notices(status: &Status) -> Markup {
    html! {
        @if status.deployment.mode == Mode::Recovery {
            div.notice id="recovery" {
                "Recovery: the lease database may not know all that was stored. Nothing is deleted and no lease ends until "
                "a whole " code { "leasehold reconcile" } " has gone through."
            }
        }
        @for run in status.braked() {
            div.notice id={ "brake-" (run.kind) } {
                b { "The brake holds " (run.kind) "." } " " (run.reason) " "
                @if run.allowed {
                    "The next run may pass."
                } @else {
                    "Look, then let the next run pass with " code { "leasehold allow " (run.id) } "."
                }
            }
        }
    }
}

fn accounts(status: &Status) -> Markup {
    html! {
        table id="accounts" {
            tr {
                th { "Account" } th { "State" } th.number { "Used" } th.number { "Reserved" } th.number { "Quota" }
                th.number { "Shares" }
            }
            @for (account, usage) in &status.accounts { (account_row(account, usage)) }
        }
        @if status.all_accounts.0 > status.accounts.len() as u64 {
            p.quiet { "… and " (status.all_accounts.0 - status.accounts.len() as u64) " more." }
        }
    }
}

fn account_row(account: &Account, usage: &Usage) -> Markup {
    html! {
        tr {
            td { (account.name) }
            td { (account.state) }
            td.number { (Size(usage.used_bytes)) }
            td.number { (Size(usage.reserved_bytes)) }
            td.number { @match account.quota_bytes { Some(bytes) => (Size(bytes)), None => "none" } }
            td.number { (usage.shares) }
        }
    }
}

fn jobs(status: &Status) -> Markup {
    html! {
        table id="jobs" {
            tr { th { "Job" } th { "Now" } th { "Last time" } th { "Policy" } }
            @for kind in RunKind::ALL {
                tr id={ "job-" (kind) } {
                    td { (kind) }
                    td {
                        @match status.running(kind) {
                            Some(run) => (progress(run)),
                            None => span.quiet { "rests" },
                        }
                    }
                    td {
                        @match status.runs.iter().find(|run| run.kind == kind && run.state != RunState::Running) {
                            Some(run) => { (state(run)) " " (ago(status, run.finished_at.unwrap_or(run.alive_at))) }
                            None => span.quiet { "never" },
                        }
                    }
                    td { @if let Some(run) = status.last(kind) { (run.policy) } }
                }
            }
        }
    }
}

/// Shares that somebody should look at. Nothing of them is deleted by itself.
fn troubles(status: &Status) -> Markup {
    let Troubles { lost, damaged, reported } = &status.troubles;
    if lost.is_empty() && damaged.is_empty() && reported.is_empty() {
        return html! { p.quiet id="troubles" { "None is known of." } };
    }
    let ((lost, more_lost), (damaged, more_damaged)) = (shown(lost), shown(damaged));
    let (reported, more_reported) = shown(reported);
    html! {
        table id="troubles" {
            tr { th { "Share" } th { "Is" } th { "Noticed" } th { "Why" } }
            @for (share, at) in lost {
                (trouble(status, *share, "lost", *at, html! { "Its bytes are not in the backend. It is hidden, its leases are kept." }))
            }
            @for (object, at) in damaged {
                (trouble(status, object.name.share, "damaged", *at, html! { code { (object.name) } ": " (object.reason) }))
            }
            @for (share, says, at) in reported {
                (trouble(status, *share, "reported", *at, html! { "A client says: " (says) }))
            }
        }
        @if more_lost || more_damaged || more_reported { p.quiet { "… and more." } }
    }
}

fn trouble(status: &Status, share: ShareId, what: &str, at: Timestamp, why: Markup) -> Markup {
    html! {
        tr {
            td { code { (share) } }
            td.bad { (what) }
            td { (ago(status, at)) }
            td { (why) }
        }
    }
}

fn progress(run: &Run) -> Markup {
    html! {
        @match run.totals.part() {
            Some((done, whole)) => {
                progress value=(done) max=(whole) {}
                " " (done * 100 / whole.max(1)) " %"
            }
            None => "runs",
        }
        @if run.dry_run { " (dry run)" }
        br;
        (totals(run))
    }
}

fn totals(run: &Run) -> Markup {
    html! {
        span.quiet {
            @for (at, (name, count)) in run.totals.shown().enumerate() {
                @if at > 0 { ", " }
                (name.replace('_', " ")) " "
                @if name.ends_with("bytes") || name.starts_with("bytes") { (Size(count)) } @else { (count) }
            }
        }
    }
}

fn state(run: &Run) -> Markup {
    let class = match run.state {
        RunState::Running => "",
        RunState::Done => "good",
        RunState::Braked | RunState::Failed | RunState::Abandoned => "bad",
    };
    html! { span class=(class) { (run.state) } @if run.dry_run { " (dry run)" } }
}

fn history(runs: &[Run]) -> Markup {
    html! {
        table id="runs" {
            tr { th { "Run" } th { "Job" } th { "State" } th { "Began" } th { "Counted" } th { "Why" } }
            @for run in runs {
                tr {
                    td { (run.id) }
                    td { (run.kind) }
                    td { (state(run)) }
                    td { (time_text(run.started_at)) }
                    td { (totals(run)) }
                    td { (run.reason) }
                }
            }
        }
    }
}

fn ago(status: &Status, at: Timestamp) -> String {
    let seconds = (status.now.seconds() - at.seconds()).max(0);
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}
