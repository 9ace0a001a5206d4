//! What a cluster changes on the machine, and how that is undone.
//!
//! There is one cluster a machine: ports, firewall chains and control groups are the machine's.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::layout::{BRIDGE, Layout, NETWORK, NODE_ADDRESS};
use super::programs::debian;
use crate::process::{descendants, run_ok, wait_until};

const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
const GONE_TIMEOUT: Duration = Duration::from_secs(30);

/// Settings of the kernel that the components change.
const SETTINGS: [&str; 6] = [
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/route_localnet",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
];

/// Marks of the chains that Kubernetes and its network plugins put into the firewall.
const CHAINS: [&str; 2] = ["KUBE-", "CNI-"];

/// Demands that no other Kubernetes is on this machine.
pub fn expect_free(layout: &Layout) -> Result<()> {
    if layout.kubeconfig().is_file() {
        return Ok(());
    }
    let rules = run_ok(&mut Command::new(debian("iptables-save")), COMMAND_TIMEOUT)?;
    ensure!(
        !rules.contains("KUBE-SERVICES"),
        "another Kubernetes runs on this machine, or one was not taken down: there are chains of it in the firewall; \
         end it (cargo dev cluster down in its workspace) or use another machine"
    );
    Ok(())
}

/// Notes how the machine is and gives it the node's address.
pub fn prepare(layout: &Layout) -> Result<()> {
    let notes = layout.file("settings");
    if !notes.is_file() {
        let values = SETTINGS.iter().filter_map(|name| {
            let value = fs::read_to_string(setting(name)).ok()?;
            Some(format!("{name} {}\n", value.trim()))
        });
        fs::write(notes, values.collect::<String>()).context("note the kernel's settings")?;
    }
    let shown = ip(&["-oneline", "address", "show", "dev", "lo"])?;
    if !shown.contains(&format!(" {NODE_ADDRESS}/")) {
        ip(&["address", "add", &format!("{NODE_ADDRESS}/32"), "dev", "lo"])?;
    }
    Ok(())
}

/// Undoes everything, when all components have ended. Fails with what is left.
pub fn restore(layout: &Layout) -> Result<()> {
    end_containers(layout)?;
    remove_traces(layout)?;
    unmount(layout)?;
    let links = ip(&["-oneline", "link", "show"])?;
    if links.contains(&format!(" {BRIDGE}:")) {
        ip(&["link", "delete", BRIDGE])?;
    }
    for family in ["iptables", "ip6tables"] {
        remove_chains(family)?;
    }
    remove_control_groups()?;
    for line in fs::read_to_string(layout.file("settings")).unwrap_or_default().lines() {
        let (name, value) = line.split_once(' ').context("the notes about settings are damaged")?;
        // Some are the machine's own where this runs in a container; then they were not changed either.
        let _ = fs::write(setting(name), value);
    }
    let shown = ip(&["-oneline", "address", "show", "dev", "lo"])?;
    if shown.contains(&format!(" {NODE_ADDRESS}/")) {
        ip(&["address", "delete", &format!("{NODE_ADDRESS}/32"), "dev", "lo"])?;
    }
    if layout.root().exists() {
        fs::remove_dir_all(layout.root()).with_context(|| format!("remove {}", layout.root().display()))?;
    }
    Ok(())
}

fn setting(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

fn ip(arguments: &[&str]) -> Result<String> {
    run_ok(Command::new(debian("ip")).args(arguments), COMMAND_TIMEOUT)
}

/// Ends the processes that stand between containerd and its containers, and those in the containers.
fn end_containers(layout: &Layout) -> Result<()> {
    wait_until("all containers have ended", GONE_TIMEOUT, || {
        let shims = shims(layout)?;
        for shim in &shims {
            for process in descendants(shim.as_raw_nonzero().get().unsigned_abs())?.iter().chain([shim]) {
                // One that is gone already is as good.
                let _ = kill_process(*process, Signal::KILL);
            }
        }
        Ok(shims.is_empty().then_some(()))
    })
}

fn shims(layout: &Layout) -> Result<Vec<Pid>> {
    let socket = layout.containerd_socket().display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("list processes")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        // A process may end while the list is read.
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        let mut arguments = arguments.split('\0');
        let is_shim = arguments.next().is_some_and(|program| program.contains("containerd-shim"));
        if is_shim && arguments.any(|argument| argument == socket) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Takes away all mounts below the cluster's folder, the innermost first.
fn unmount(layout: &Layout) -> Result<()> {
    let mounts = || -> Result<Vec<String>> {
        let text = fs::read_to_string("/proc/self/mounts").context("list mounts")?;
        let points = text.lines().filter_map(|line| line.split(' ').nth(1));
        let ours = points.filter(|point| Path::new(point).starts_with(layout.root()));
        Ok(ours.map(str::to_owned).collect())
    };
    wait_until("nothing is mounted in the cluster's folder", GONE_TIMEOUT, || {
        for point in mounts()?.iter().rev() {
            // What is busy is tried again.
            let _ = run_ok(Command::new(debian("umount")).arg(point), COMMAND_TIMEOUT);
        }
        match mounts()?.first() {
            None => Ok(Some(())),
            Some(left) => bail!("{left} is still mounted"),
        }
    })
}

/// Writes the firewall anew without what Kubernetes and its plugins put there.
fn remove_chains(family: &str) -> Result<()> {
    let rules = run_ok(&mut Command::new(debian(&format!("{family}-save"))), COMMAND_TIMEOUT)?;
    let is_theirs = |line: &&str| CHAINS.iter().any(|mark| line.contains(mark));
    if !rules.lines().any(|line| is_theirs(&line)) {
        return Ok(());
    }
    let kept: String = rules.lines().filter(|line| !is_theirs(line)).map(|line| format!("{line}\n")).collect();
    let mut restore = Command::new(debian(&format!("{family}-restore"))).stdin(Stdio::piped()).spawn()?;
    restore.stdin.take().context("no way to hand the rules over")?.write_all(kept.as_bytes())?;
    let status = restore.wait()?;
    ensure!(status.success(), "{family}-restore ended with {status}");
    Ok(())
}

/// Removes what was written outside the cluster's folder: notes about pods' addresses, links to pods' logs, and the
/// sockets of the processes that stood between containerd and its containers.
fn remove_traces(layout: &Layout) -> Result<()> {
    let pods = files(&layout.file("containerd-state").join("io.containerd.runtime.v2.task").join("k8s.io"))?;
    for pod in &pods {
        let address = fs::read_to_string(pod.join("address")).unwrap_or_default();
        if let Some(socket) = address.trim().strip_prefix("unix://") {
            // It may be gone with its process.
            let _ = fs::remove_file(socket);
        }
    }
    let prefix = format!("{NETWORK}-");
    let notes = files(Path::new("/var/lib/cni/results"))?;
    let own: Vec<String> = notes.iter().filter_map(|note| name(note).strip_prefix(&prefix).map(pod_in)).collect();
    let is_note = |path: &Path| own.iter().any(|pod| name(path).contains(pod.as_str()));
    let is_link = |path: &Path| fs::read_link(path).is_ok_and(|target| target.starts_with(layout.pod_logs()));
    let links = files(Path::new("/var/log/containers"))?;
    for path in notes.iter().filter(|path| is_note(path)).chain(links.iter().filter(|path| is_link(path))) {
        fs::remove_file(path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// What is in a folder; nothing if there is none.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    Ok(entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?)
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The pod in `POD-DEVICE`.
fn pod_in(name: &str) -> String {
    name.split('-').next().unwrap_or_default().to_owned()
}

/// Removes the control groups of pods, which are empty once their processes have ended.
fn remove_control_groups() -> Result<()> {
    const GROUPS: &str = "/sys/fs/cgroup";
    let mut tops = vec![Path::new(GROUPS).join("kubepods")];
    let controllers = fs::read_dir(GROUPS).into_iter().flatten().flatten();
    tops.extend(controllers.map(|entry| entry.path().join("kubepods")));
    tops.iter().filter(|top| top.is_dir()).try_for_each(|top| {
        wait_until("the control groups of pods are empty", GONE_TIMEOUT, || {
            remove_group(top)?;
            Ok((!top.exists()).then_some(()))
        })
    })
}

fn remove_group(group: &Path) -> Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_group(&entry.path())?;
        }
    }
    fs::remove_dir(group).with_context(|| format!("remove {}", group.display()))
}
