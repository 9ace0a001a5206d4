//! A real Kubernetes on this machine: every component a process, pods in containers, no container engine.
//!
//! What it writes is in `.leasehold-dev/cluster`; its processes outlive the command that starts them and are found again
//! by their ids, which are written there. `down` ends them and gives the machine back as it was. The programs are built
//! once from pinned modules and stay in `.leasehold-dev/tools`.

pub mod chart;
mod components;
mod daemon;
pub mod example;
mod identities;
pub mod kubectl;
pub mod layout;
mod machine;
pub mod managed;
pub mod objects;
pub mod programs;
pub mod stores;

use std::fmt::Write;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::daemon::Daemon;
use self::kubectl::{Kubectl, has_condition};
use self::layout::{Layout, NODE};
use self::programs::{PAUSE, debian};
use crate::image::{Image, Packed};
use crate::process::run_ok;

const START_TIMEOUT: Duration = Duration::from_secs(180);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);

/// The components in the order in which they start; they end in the opposite one.
const COMPONENTS: [&str; 9] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "containerd",
    "kubelet",
    "kube-proxy",
    "coredns",
    "metrics-server",
];

/// The cluster of this workspace, whether it runs or not.
pub struct Cluster {
    layout: Layout,
}

impl Cluster {
    /// The cluster of this workspace.
    pub fn of_workspace() -> Self {
        Self { layout: Layout::of_workspace() }
    }

    /// Demands that the cluster runs.
    ///
    /// # Errors
    /// Says how to start it.
    pub fn expect_up(&self) -> Result<()> {
        for name in COMPONENTS {
            self.daemon(name).expect_running().context("the cluster does not run; start it: cargo dev cluster up")?;
        }
        Ok(())
    }

    /// Starts what does not run yet, and waits until pods can run.
    pub fn up(&self) -> Result<()> {
        programs::provide()?;
        machine::expect_free(&self.layout)?;
        self.layout.make()?;
        machine::prepare(&self.layout)?;
        identities::make(&self.layout)?;
        self.start_control_plane()?;
        self.start_node()?;
        self.kubectl().apply(&objects::beside())?;
        self.start("coredns", components::name_server(&self.layout)?)?;
        self.start("metrics-server", components::metrics_server(&self.layout))
    }

    /// Ends everything and gives the machine back as it was.
    pub fn down(&self) -> Result<()> {
        if !self.layout.root().is_dir() {
            return Ok(());
        }
        example::daemon(self).end()?;
        for name in COMPONENTS.iter().rev() {
            self.daemon(name).end()?;
        }
        machine::restore(&self.layout)
    }

    /// What runs and how to use it, for people.
    pub fn status(&self) -> Result<String> {
        let mut text = String::new();
        for name in COMPONENTS {
            match self.daemon(name).pid() {
                Some(pid) => writeln!(text, "{name:<24} runs as process {}", pid.as_raw_nonzero())?,
                None => writeln!(text, "{name:<24} does not run")?,
            }
        }
        if self.expect_up().is_ok() {
            writeln!(text, "\n{}", self.kubectl().run(&["get", "nodes,pods", "--all-namespaces"])?)?;
            writeln!(text, "Logs are in {}. To use the cluster:\n", self.layout.logs().display())?;
            writeln!(text, "export KUBECONFIG={}", self.layout.kubeconfig().display())?;
            let tools = programs::KUBECTL.path();
            writeln!(text, "export PATH={}:$PATH", tools.parent().unwrap_or(&tools).display())?;
            if example::daemon(self).pid().is_some() {
                writeln!(text, "\n{}", example::advice())?;
            }
        } else {
            writeln!(text, "\nThe cluster does not run; start it: cargo dev cluster up")?;
        }
        Ok(text)
    }

    /// Its command line.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.layout)
    }

    /// Helm for this cluster and one namespace; it has only to be told what to do.
    pub fn helm(&self, namespace: &str) -> Command {
        let mut command = Command::new(programs::HELM.path());
        command.arg("--kubeconfig").arg(self.layout.kubeconfig()).args(["--namespace", namespace]);
        for (variable, folder) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            command.env(variable, self.layout.file("helm").join(folder));
        }
        command
    }

    /// Gives pods an image.
    pub fn import(&self, image: &Packed) -> Result<()> {
        let mut command = self.containerd(&["images", "import"]);
        run_ok(command.arg(&image.archive), COMMAND_TIMEOUT).map(drop)
    }

    /// Gives an image another name, as a release does that is the same inside.
    pub fn tag(&self, image: &str, name: &str) -> Result<()> {
        let mut command = self.containerd(&["images", "tag", "--force", image, name]);
        run_ok(&mut command, COMMAND_TIMEOUT).map(drop)
    }

    /// What this service account was refused for lack of a right, as the API server has written it down: one JSON object
    /// each. Other refusals, as in a namespace that is going, are left out.
    pub fn forbidden_to(&self, account: &str) -> Result<Vec<Value>> {
        let is_forbidden = |event: &Value| event["annotations"]["authorization.k8s.io/decision"] == "forbid";
        Ok(self.requests(account)?.into_iter().filter(is_forbidden).collect())
    }

    /// How many requests of this service account the API server has answered and still remembers.
    pub fn requests_of(&self, account: &str) -> Result<usize> {
        let is_complete = |event: &&Value| event["stage"] == "ResponseComplete";
        Ok(self.requests(account)?.iter().filter(is_complete).count())
    }

    fn requests(&self, account: &str) -> Result<Vec<Value>> {
        let path = self.layout.logs().join("audit.jsonl");
        let log = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        // The last line may be half written.
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(events.filter(|event| event["user"]["username"] == account).collect())
    }

    fn daemon(&self, name: &'static str) -> Daemon<'_> {
        Daemon::new(name, &self.layout)
    }

    fn start(&self, name: &'static str, mut command: Command) -> Result<()> {
        self.daemon(name).start(&mut command)
    }

    fn start_control_plane(&self) -> Result<()> {
        self.start("etcd", components::etcd(&self.layout))?;
        self.start("kube-apiserver", components::api_server(&self.layout)?)?;
        let kubectl = self.kubectl();
        self.daemon("kube-apiserver")
            .wait("the API server is ready", START_TIMEOUT, || kubectl.run(&["get", "--raw", "/readyz"]).map(drop))?;
        self.start("kube-controller-manager", components::controller_manager(&self.layout))?;
        self.start("kube-scheduler", components::scheduler(&self.layout))
    }

    fn start_node(&self) -> Result<()> {
        self.start("containerd", components::containerd(&self.layout)?)?;
        // The kubelet ends at once if it comes first.
        self.daemon("containerd").wait("containerd runs pods", START_TIMEOUT, || {
            let plugins = run_ok(&mut self.containerd(&["plugins", "list"]), COMMAND_TIMEOUT)?;
            let cri = plugins.lines().find(|line| line.contains("grpc.v1") && line.contains(" cri "));
            ensure!(
                cri.is_some_and(|line| line.trim_end().ends_with("ok")),
                "its service for the kubelet is not ready"
            );
            Ok(())
        })?;
        let pause = Image::of_program("pause", components::PAUSE_IMAGE, &PAUSE.path());
        self.import(&pause.pack(&self.layout.file("pause.tar"))?)?;
        self.start("kubelet", components::kubelet(&self.layout)?)?;
        let kubectl = self.kubectl();
        self.daemon("kubelet").wait("the node is ready", START_TIMEOUT, || {
            let node = kubectl.get(&["node", NODE])?;
            ensure!(has_condition(&node, "Ready"), "{:#}", node["status"]["conditions"]);
            Ok(())
        })?;
        self.start("kube-proxy", components::proxy(&self.layout)?)
    }

    fn containerd(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(debian("ctr"));
        command.arg("--address").arg(self.layout.containerd_socket()).args(["--namespace", "k8s.io"]).args(arguments);
        command
    }
}
