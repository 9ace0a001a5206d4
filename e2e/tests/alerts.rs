//! Alerts fire when something is wrong, and clear when it is over: on series that are written down, and on real servers whose
//! services fail. For people there is a paragraph of what to do about each.

// Real processes take real time.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leasehold_e2e::alerts::{Pod, Target, Watch, chart_file, check, fired, write_server_rules};
use leasehold_e2e::gbs::{Client, Nurl};
use leasehold_e2e::pods::{Pods, PodsOptions};
use leasehold_e2e::process::Explain;
use leasehold_e2e::venv::workspace_root;
use leasehold_e2e_services::s3_proxy::{Fault, Rule, When};

const NAMESPACE: &str = "tahoe";
const SERVER: &str = "main";
/// How long an alert may take to fire or to clear. Accounts must be a minute old, in real time, before somebody is told.
const PATIENCE: Duration = Duration::from_secs(150);

/// The files of all rules, those of a server filled in.
fn rules(folder: &Path) -> Result<[PathBuf; 2]> {
    Ok([write_server_rules(folder, NAMESPACE, SERVER)?, chart_file("files/alerts.yaml")])
}

fn paths(rules: &[PathBuf]) -> Vec<&Path> {
    rules.iter().map(PathBuf::as_path).collect()
}

#[test]
fn each_alert_fires_in_its_case_and_none_on_a_healthy_deployment() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let rules = rules(folder.path())?;
    let names: BTreeSet<String> = check(&paths(&rules))?.into_iter().collect();
    let cases = workspace_root().join("e2e").join("tests").join("alerts").join("cases.yaml");
    let mut missing = names.clone();
    for told in fired(&cases, &paths(&rules))? {
        if told.case.is_empty() {
            ensure!(told.fired.is_empty(), "{:?} fire while all is well", told.fired);
            continue;
        }
        ensure!(told.fired.contains(&told.case), "{} does not fire in its case, but {:?}", told.case, told.fired);
        ensure!(missing.remove(&told.case), "there is no alert {}", told.case);
    }
    ensure!(missing.is_empty(), "{missing:?} have no case");
    Ok(())
}

#[test]
fn each_alert_has_its_paragraph_in_the_runbook_and_none_is_left_over() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let names: BTreeSet<String> = check(&paths(&rules(folder.path())?))?.into_iter().collect();
    let runbook = fs::read_to_string(chart_file("RUNBOOK.md"))?;
    let mut told = BTreeSet::new();
    for section in runbook.split("\n## ").skip(1) {
        let (heading, text) = section.split_once('\n').context("a heading without text")?;
        ensure!(text.trim().len() > 80, "there is hardly a word about {heading}");
        ensure!(told.insert(heading.to_owned()), "{heading} is there twice");
    }
    ensure!(told == names, "alerts and paragraphs differ: {:?}", told.symmetric_difference(&names));
    Ok(())
}

/// The pods of a deployment as a PodMonitor would find them.
fn targets(pods: &Pods) -> Vec<Target> {
    let running = pods.servers.iter().filter(|server| server.is_started());
    let target = |server: &leasehold_e2e::leasehold::Server| Target {
        url: format!("http://{}/metrics", server.announcement().admin),
        labels: Pod {
            namespace: NAMESPACE.to_owned(),
            pod: format!("{SERVER}-6d4f-{}", server.name().replace('-', "")),
        },
    };
    running.map(target).collect()
}

/// Asks with a swissnum that nobody has, until it is told to end.
fn guess(nurl: &Nurl, ends: &AtomicBool) -> Result<()> {
    let wrong = Nurl { swissnum: "x".repeat(nurl.swissnum.len()), ..nurl.clone() };
    let mut client = Client::new(wrong)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        while !ends.load(Ordering::Relaxed) {
            ensure!(client.version().await?.is_err_and(|status| status == 401), "a guess was right");
        }
        Ok(())
    })
}

#[test]
fn alerts_fire_while_services_fail_and_clear_afterwards() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let rules = rules(folder.path())?;
    let mut pods = Pods::start("alerts", folder.path(), &PodsOptions { pods: 2, ..PodsOptions::default() })?;
    // There is no operator.
    let except = ["LeaseholdOperatorDown"];
    let mut watch = Watch::start(folder.path(), &paths(&rules))?;
    watch.set_targets(&targets(&pods))?;
    let mut story = || -> Result<()> {
        watch.wait_quiet(&except, PATIENCE, |_| Ok(()))?;

        let ends = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            let guesser = scope.spawn(|| guess(pods.nurl(), &ends));
            let fires = watch.wait_firing(&["LeaseholdAuthFailureSpike"], PATIENCE, |_| Ok(()));
            ends.store(true, Ordering::Relaxed);
            guesser.join().map_err(|_| anyhow::anyhow!("guessing panicked"))?.and(fires)
        })?;
        watch.wait_quiet(&except, PATIENCE, |_| Ok(()))?;

        pods.services.database.refuse(true);
        pods.services.database.cut_all();
        let of_database = ["LeaseholdDatabaseUnreachable", "LeaseholdAccountCacheStale"];
        watch.wait_firing(&of_database, PATIENCE, |_| Ok(()))?;
        watch.expect_silent("LeaseholdServerDown")?;
        pods.services.database.refuse(false);
        watch.wait_quiet(&except, PATIENCE, |_| Ok(()))?;

        pods.services.s3.add_rule(Rule::any(When::Always, Fault::INTERNAL_ERROR));
        watch.wait_firing(&["LeaseholdS3Errors"], PATIENCE, |_| Ok(()))?;
        watch.expect_silent("LeaseholdDatabaseUnreachable")?;
        pods.services.s3.clear_rules();
        watch.wait_quiet(&except, PATIENCE, |_| Ok(()))?;

        pods.servers.iter_mut().try_for_each(|server| server.kill())?;
        watch.set_targets(&targets(&pods))?;
        watch.wait_firing(&["LeaseholdServerDown"], PATIENCE, |_| Ok(()))?;
        pods.servers.iter_mut().try_for_each(|server| server.restart())?;
        watch.set_targets(&targets(&pods))?;
        watch.wait_quiet(&except, PATIENCE, |_| Ok(()))
    };
    let told = story();
    told.explain(|| pods.log_tails())
}
