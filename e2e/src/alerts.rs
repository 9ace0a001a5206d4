//! Alert rules as Prometheus evaluates them: the chart's, and a program that scrapes and evaluates on a clock that runs faster.
//!
//! The program is written in Go around Prometheus' own libraries (`e2e/cluster/rules`); `cargo dev test` builds it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::cluster::chart;
use crate::cluster::programs::RULES;
use crate::process::{Process, run_ok, wait_until};

/// How much faster its clock runs: what is to hold for ten minutes takes ten seconds.
const SPEED: u32 = 60;
/// How long a call that only reads files may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A page of metrics, and the labels that a PodMonitor would give it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Where it is.
    pub url: String,
    /// Whose it is.
    pub labels: Pod,
}

/// Which pod something is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
}

/// What fired in a written case.
#[derive(Clone, Debug, Deserialize)]
pub struct Told {
    /// The name of the case; that of the healthy deployment is empty.
    pub case: String,
    /// The alerts.
    pub fired: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Seen {
    second: i64,
    firing: Vec<Alert>,
}

#[derive(Deserialize)]
struct Alert {
    alert: String,
}

/// A file of the chart.
pub fn chart_file(name: &str) -> PathBuf {
    chart::folder().join(name)
}

/// Writes the alerts of a server as the operator makes them.
pub fn write_server_rules(folder: &Path, namespace: &str, server: &str) -> Result<PathBuf> {
    let pods = format!(r#"namespace="{namespace}",pod=~"{server}-[a-z0-9]+-[a-z0-9]+""#);
    let text = fs::read_to_string(chart_file("files/server-alerts.yaml"))?;
    let file = folder.join("server-rules.yaml");
    fs::write(&file, text.replace("PODS", &pods).replace("SERVER", server))?;
    Ok(file)
}

/// The names of all alerts of files, which Prometheus takes.
pub fn check(rules: &[&Path]) -> Result<Vec<String>> {
    let names = run_ok(Command::new(RULES.path()).arg("check").args(rules), TIMEOUT)?;
    Ok(names.lines().map(str::to_owned).collect())
}

/// Which alerts fire in the cases of a file.
pub fn fired(cases: &Path, rules: &[&Path]) -> Result<Vec<Told>> {
    let told = run_ok(Command::new(RULES.path()).arg("cases").arg(cases).args(rules), TIMEOUT)?;
    told.lines().map(|line| serde_json::from_str(line).context("a case")).collect()
}

/// A Prometheus whose clock runs faster.
pub struct Watch {
    process: Process,
    targets: PathBuf,
}

impl Watch {
    /// Scrapes nothing yet, and evaluates these rules.
    pub fn start(folder: &Path, rules: &[&Path]) -> Result<Self> {
        let targets = folder.join("targets.json");
        fs::write(&targets, "[]")?;
        let mut command = Command::new(RULES.path());
        command.arg("watch").arg(&targets).arg(SPEED.to_string()).args(rules);
        Ok(Self { process: Process::start("prometheus", &mut command, folder)?, targets })
    }

    /// Scrapes these from now on.
    pub fn set_targets(&self, targets: &[Target]) -> Result<()> {
        let next = self.targets.with_extension("next");
        fs::write(&next, serde_json::to_string(targets)?)?;
        Ok(fs::rename(next, &self.targets)?)
    }

    /// The second of its clock at the last evaluation, and what fired then.
    pub fn firing(&mut self) -> Result<(i64, BTreeSet<String>)> {
        self.process.expect_running()?;
        let text = fs::read_to_string(self.process.stdout())?;
        let Some(line) = text.split_inclusive('\n').rfind(|line| line.ends_with('\n')) else {
            return Ok((-1, BTreeSet::new()));
        };
        let seen: Seen = serde_json::from_str(line).with_context(|| format!("an evaluation: {line}"))?;
        Ok((seen.second, seen.firing.into_iter().map(|alert| alert.alert).collect()))
    }

    /// Waits until all of these fire; `meanwhile` is called before each look.
    pub fn wait_firing(
        &mut self,
        names: &[&str],
        within: Duration,
        mut meanwhile: impl FnMut(&Self) -> Result<()>,
    ) -> Result<()> {
        wait_until(&format!("{names:?} fire"), within, || {
            meanwhile(self)?;
            let (_, firing) = self.firing()?;
            Ok(names.iter().all(|name| firing.contains(*name)).then_some(()))
        })
    }

    /// Waits until nothing fires but perhaps these, and demands that it stays so for some minutes of the fast clock.
    pub fn wait_quiet(
        &mut self,
        except: &[&str],
        within: Duration,
        mut meanwhile: impl FnMut(&Self) -> Result<()>,
    ) -> Result<()> {
        const MINUTES: i64 = 5;
        let mut quiet_since = None;
        let mut last = BTreeSet::new();
        let waited = wait_until("no alert fires", within, || {
            meanwhile(self)?;
            let (second, firing) = self.firing()?;
            last = firing;
            last.retain(|name| !except.contains(&name.as_str()));
            let began = *quiet_since.get_or_insert(second);
            if !last.is_empty() || second < 0 {
                quiet_since = None;
            }
            Ok((quiet_since.is_some() && second - began >= MINUTES * 60).then_some(()))
        });
        waited.with_context(|| format!("{last:?} fire"))
    }

    /// Demands that something does not fire.
    pub fn expect_silent(&mut self, name: &str) -> Result<()> {
        let (_, firing) = self.firing()?;
        ensure!(!firing.contains(name), "{name} fires");
        Ok(())
    }
}
