//! The command line of Kubernetes, as tests and this tool use it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::layout::Layout;
use super::programs::KUBECTL;
use crate::process::{Explain, run, run_ok, wait_until};

const TIMEOUT: Duration = Duration::from_secs(120);

/// `kubectl` for one namespace of this workspace's cluster.
#[derive(Clone, Debug)]
pub struct Kubectl {
    kubeconfig: PathBuf,
    namespace: Option<String>,
}

impl Kubectl {
    /// For objects that say in which namespace they are, and for those that are in none.
    pub fn new(layout: &Layout) -> Self {
        Self { kubeconfig: layout.kubeconfig(), namespace: None }
    }

    /// The same for another namespace.
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self { kubeconfig: self.kubeconfig.clone(), namespace: Some(namespace.to_owned()) }
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    /// A command that has only to be told what to do.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(KUBECTL.path());
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command.args(self.namespace.iter().flat_map(|namespace| ["--namespace", namespace.as_str()]));
        // What it caches lies with the cluster, not in somebody's home.
        command.env("KUBECACHEDIR", self.kubeconfig.with_file_name("kubectl-cache"));
        command.args(arguments);
        command
    }

    /// Runs a command and gives what it printed.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        run_ok(&mut self.command(arguments), TIMEOUT)
    }

    /// Makes these objects, given as YAML, what they are to be.
    pub fn apply(&self, objects: &str) -> Result<String> {
        let file = object_file(objects)?;
        let path = file.path().display().to_string();
        self.run(&["apply", "--filename", &path])
    }

    /// As [`Kubectl::apply`], for objects that are put together by a program.
    pub fn apply_all(&self, objects: &[Value]) -> Result<String> {
        self.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())
    }

    /// Makes objects that are not there yet: one request each, where applying takes two.
    pub fn create_all(&self, objects: &[Value]) -> Result<()> {
        let file = object_file(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
        let path = file.path().display().to_string();
        run_ok(&mut self.command(&["create", "--filename", &path]), 5 * TIMEOUT).map(drop)
    }

    /// Asks whether an object would be accepted, and changes nothing: `None`, or why not.
    pub fn dry_run(&self, object: &Value) -> Result<Option<String>> {
        let file = object_file(&object.to_string())?;
        let path = file.path().display().to_string();
        let output = run(&mut self.command(&["apply", "--dry-run=server", "--filename", &path]), TIMEOUT)?;
        let refusal = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((!output.status.success()).then_some(refusal))
    }

    /// An object, or a list of them, as the API server knows it.
    pub fn get(&self, what: &[&str]) -> Result<Value> {
        let arguments = [&["get", "--output", "json"], what].concat();
        Ok(serde_json::from_str(&self.run(&arguments)?)?)
    }

    /// Waits until `accept` says that an object is as it should be, and gives it.
    pub fn wait(
        &self,
        what: &[&str],
        wanted: &str,
        within: Duration,
        mut accept: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = Value::Null;
        let outcome = wait_until(&format!("{} {wanted}", what.join("/")), within, || {
            last = self.get(what)?;
            Ok(accept(&last).then_some(()))
        });
        outcome.explain(|| format!("{:#}", last["status"]))?;
        Ok(last)
    }

    /// Waits until all pods of a Deployment are of its newest kind and ready.
    pub fn wait_rolled_out(&self, deployment: &str, within: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", within.as_secs());
        let mut command = self.command(&["rollout", "status", &timeout, &format!("deployment/{deployment}")]);
        run_ok(&mut command, within + TIMEOUT).map(drop)
    }

    /// The ends of the logs of all pods and what happened to objects, for a failure message.
    pub fn log_tails(&self) -> String {
        // It wants a selector, and this one chooses everything.
        let all = "none!=none";
        let logs = ["logs", "--selector", all, "--tail=60", "--prefix", "--all-containers", "--ignore-errors"];
        let events = ["get", "events", "--sort-by=.lastTimestamp"];
        let pods = ["get", "pods", "--output", "wide"];
        let show = |arguments: &[&str]| self.run(arguments).unwrap_or_else(|error| format!("({error:#})"));
        format!("{}\n{}\n{}", show(&pods), show(&events), show(&logs))
    }
}

/// Objects in a file that is gone when it is dropped. They may be Secrets; the file is its owner's alone.
fn object_file(objects: &str) -> Result<NamedTempFile> {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().context("make a file for objects")?;
    fs::write(file.path(), objects).context("write a file of objects")?;
    Ok(file)
}

/// Whether an object has a condition of this type with the status `True`.
pub fn has_condition(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition["status"] == "True")
}

/// An object's condition of this type.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}
