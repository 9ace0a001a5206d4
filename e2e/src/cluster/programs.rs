//! The programs of a Kubernetes: its own and what it needs from Go modules, what runs containers from Debian.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::dev::Missing;
use crate::dev::go::GoTool;
use crate::venv::{can_install_packages, install_packages};

/// Where they are pinned: in one module, so that what they share is compiled once and in one version.
const MODULE: &str = "e2e/cluster";

/// Clients are told this; without, they would take the server for one that is older than everything.
const VERSION: &str = "-X k8s.io/component-base/version.gitVersion=v1.35.4";

/// The API server.
pub const API_SERVER: GoTool =
    program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", "LEASEHOLD_KUBE_APISERVER");
/// Deployments, Jobs, CronJobs, autoscalers and the like.
pub const CONTROLLER_MANAGER: GoTool = program(
    "kube-controller-manager",
    "k8s.io/kubernetes/cmd/kube-controller-manager",
    "LEASEHOLD_KUBE_CONTROLLER_MANAGER",
);
/// Says on which node a pod runs.
pub const SCHEDULER: GoTool =
    program("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", "LEASEHOLD_KUBE_SCHEDULER");
/// Runs pods.
pub const KUBELET: GoTool = program("kubelet", "k8s.io/kubernetes/cmd/kubelet", "LEASEHOLD_KUBELET");
/// Leads services' addresses to pods.
pub const PROXY: GoTool = program("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy", "LEASEHOLD_KUBE_PROXY");
/// The command line.
pub const KUBECTL: GoTool = program("kubectl", "k8s.io/kubernetes/cmd/kubectl", "LEASEHOLD_KUBECTL");
/// Where the API server keeps objects.
pub const ETCD: GoTool = program("etcd", "./etcd", "LEASEHOLD_ETCD");
/// Installs charts.
pub const HELM: GoTool = program("helm", "helm.sh/helm/v3/cmd/helm", "LEASEHOLD_HELM");
/// Answers for names of services.
pub const COREDNS: GoTool = program("coredns", "./coredns", "LEASEHOLD_COREDNS");
/// Tells autoscalers how busy pods are. It does not work with the libraries of the others, so it has a module of its own.
pub const METRICS_SERVER: GoTool = GoTool {
    name: "metrics-server",
    folder: "e2e/cluster/metrics-server",
    package: "sigs.k8s.io/metrics-server/cmd/metrics-server",
    variable: "LEASEHOLD_METRICS_SERVER",
    linked: "",
};
/// Reads and evaluates files of alert rules as Prometheus does; what it needs takes seconds to build.
pub const RULES: GoTool = program("rules", "./rules", "LEASEHOLD_RULES");
/// Holds a pod's network.
pub const PAUSE: GoTool = program("pause", "./pause", "LEASEHOLD_PAUSE");

const OF_ONE_MODULE: [&GoTool; 11] =
    [&ETCD, &API_SERVER, &CONTROLLER_MANAGER, &SCHEDULER, &KUBELET, &PROXY, &KUBECTL, &HELM, &COREDNS, &RULES, &PAUSE];

/// What is needed from Debian: a file of the package, and its name.
const PACKAGES: [(&str, &str); 6] = [
    ("/usr/bin/containerd", "containerd"),
    ("/usr/sbin/runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("/usr/sbin/iptables", "iptables"),
    ("/usr/sbin/conntrack", "conntrack"),
    ("/usr/sbin/ip", "iproute2"),
];

/// Where Debian puts the plugins that make a pod's network.
pub const NETWORK_PLUGINS: &str = "/usr/lib/cni";

const fn program(name: &'static str, package: &'static str, variable: &'static str) -> GoTool {
    GoTool { name, folder: MODULE, package, variable, linked: VERSION }
}

/// Builds and installs what is missing.
pub fn provide() -> Result<()> {
    provide_packages()?;
    GoTool::provide_all(&OF_ONE_MODULE)?;
    METRICS_SERVER.provide().map(drop)
}

fn provide_packages() -> Result<()> {
    if !can_install_packages() {
        let sentence = "a real Kubernetes needs root and Debian: it makes network devices, mounts and firewall rules; \
                        run this in a virtual machine with Debian 12, as root";
        return Err(Missing(sentence.to_owned()).into());
    }
    let missing: Vec<&str> =
        PACKAGES.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| *package).collect();
    if missing.is_empty() { Ok(()) } else { install_packages(&missing) }
}

/// A program of Debian's by its full path, whatever `PATH` says.
pub fn debian(name: &str) -> PathBuf {
    let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let paths = folders.iter().map(|folder| Path::new(folder).join(name));
    paths.into_iter().find(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(name))
}
