//! The components of the cluster: how each is started and what it reads.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::layout::{
    API_PORT, BRIDGE, DNS_DOMAIN, DNS_PORT, DNS_SERVICE, Layout, METRICS_PORT, NETWORK, NODE, NODE_ADDRESS, POD_RANGE,
    SERVICE_RANGE,
};
use super::programs::{
    API_SERVER, CONTROLLER_MANAGER, COREDNS, ETCD, KUBELET, METRICS_SERVER, NETWORK_PLUGINS, PROXY, SCHEDULER, debian,
};

/// The image of the process that holds a pod's network.
pub const PAUSE_IMAGE: &str = "localhost/pause:1";

const ETCD_URL: &str = "https://127.0.0.1:2379";
const ETCD_PEER_URL: &str = "http://127.0.0.1:2380";

/// Everybody's requests but those of the cluster's own components: what rights are really used.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  userGroups: [\"system:nodes\", \"system:masters\"]
- level: Metadata
  userGroups: [\"system:serviceaccounts\"]
- level: None
";

/// A command with options, each `--NAME=VALUE`.
fn command(program: impl AsRef<Path>, options: &[(&str, &dyn AsOption)]) -> Command {
    let mut command = Command::new(program.as_ref());
    for (name, value) in options {
        command.arg(format!("--{name}={}", value.text()));
    }
    command
}

/// What may stand as the value of an option.
trait AsOption {
    fn text(&self) -> String;
}

impl AsOption for &str {
    fn text(&self) -> String {
        (*self).to_owned()
    }
}

impl AsOption for String {
    fn text(&self) -> String {
        self.clone()
    }
}

impl AsOption for std::path::PathBuf {
    fn text(&self) -> String {
        self.display().to_string()
    }
}

/// Keeps the API server's objects.
pub fn etcd(layout: &Layout) -> Command {
    let mut command = command(
        ETCD.path(),
        &[
            ("data-dir", &layout.file("etcd")),
            ("listen-client-urls", &ETCD_URL),
            ("advertise-client-urls", &ETCD_URL),
            ("listen-peer-urls", &ETCD_PEER_URL),
            ("client-cert-auth", &"true"),
            ("trusted-ca-file", &layout.authority()),
            ("cert-file", &layout.certificate("etcd")),
            ("key-file", &layout.key("etcd")),
            ("log-level", &"warn"),
        ],
    );
    // A cluster that a machine's crash takes with it is made anew.
    command.arg("--unsafe-no-fsync");
    command
}

/// The API server; it writes down who asked for what.
pub fn api_server(layout: &Layout) -> Result<Command> {
    let audit_policy = layout.write("audit-policy.yaml", AUDIT_POLICY)?;
    let node = NODE_ADDRESS.to_string();
    let (authority, admin, admin_key) = (layout.authority(), layout.certificate("admin"), layout.key("admin"));
    let options: &[(&str, &dyn AsOption)] = &[
        ("etcd-servers", &ETCD_URL),
        ("etcd-cafile", &authority),
        ("etcd-certfile", &layout.certificate("apiserver")),
        ("etcd-keyfile", &layout.key("apiserver")),
        ("bind-address", &node),
        ("advertise-address", &node),
        ("secure-port", &API_PORT.to_string()),
        ("client-ca-file", &authority),
        ("tls-cert-file", &layout.certificate("apiserver")),
        ("tls-private-key-file", &layout.key("apiserver")),
        ("service-account-issuer", &"https://kubernetes.default.svc"),
        ("service-account-key-file", &layout.certificate("service-accounts")),
        ("service-account-signing-key-file", &layout.key("service-accounts")),
        ("service-cluster-ip-range", &SERVICE_RANGE),
        ("authorization-mode", &"Node,RBAC"),
        ("allow-privileged", &"true"),
        ("kubelet-client-certificate", &admin),
        ("kubelet-client-key", &admin_key),
        ("kubelet-certificate-authority", &authority),
        ("kubelet-preferred-address-types", &"InternalIP"),
        ("requestheader-client-ca-file", &authority),
        ("requestheader-allowed-names", &"admin"),
        ("requestheader-username-headers", &"X-Remote-User"),
        ("requestheader-group-headers", &"X-Remote-Group"),
        ("requestheader-extra-headers-prefix", &"X-Remote-Extra-"),
        ("proxy-client-cert-file", &admin),
        ("proxy-client-key-file", &admin_key),
        // The metrics server runs beside the cluster, not in a pod behind a service's address.
        ("enable-aggregator-routing", &"true"),
        ("audit-policy-file", &audit_policy),
        ("audit-log-path", &layout.logs().join("audit.jsonl")),
    ];
    Ok(command(API_SERVER.path(), options))
}

/// Deployments and the like. Autoscalers look often, so that tests need not wait for long.
pub fn controller_manager(layout: &Layout) -> Command {
    command(
        CONTROLLER_MANAGER.path(),
        &[
            ("kubeconfig", &layout.kubeconfig_of("controller-manager")),
            ("bind-address", &"127.0.0.1"),
            ("service-account-private-key-file", &layout.key("service-accounts")),
            ("root-ca-file", &layout.authority()),
            ("use-service-account-credentials", &"true"),
            ("allocate-node-cidrs", &"false"),
            ("service-cluster-ip-range", &SERVICE_RANGE),
            ("leader-elect", &"false"),
            ("horizontal-pod-autoscaler-sync-period", &"5s"),
            ("horizontal-pod-autoscaler-cpu-initialization-period", &"15s"),
            ("horizontal-pod-autoscaler-initial-readiness-delay", &"5s"),
        ],
    )
}

/// Says where pods run.
pub fn scheduler(layout: &Layout) -> Command {
    command(
        SCHEDULER.path(),
        &[
            ("kubeconfig", &layout.kubeconfig_of("scheduler")),
            ("bind-address", &"127.0.0.1"),
            ("leader-elect", &"false"),
        ],
    )
}

/// Runs containers, with everything it has in the cluster's folder.
pub fn containerd(layout: &Layout) -> Result<Command> {
    let network = layout.network().join("10-bridge.conflist");
    std::fs::write(network, pod_network(layout))?;
    let file = |name: &str| layout.file(name);
    let config = format!(
        "version = 2
root = {:?}
state = {:?}
[grpc]
address = {:?}
[plugins.\"io.containerd.internal.v1.opt\"]
path = {:?}
[plugins.\"io.containerd.grpc.v1.cri\"]
sandbox_image = \"{PAUSE_IMAGE}\"
# Not every machine lets root lower the score of a process.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins.\"io.containerd.grpc.v1.cri\".cni]
bin_dir = \"{NETWORK_PLUGINS}\"
conf_dir = {:?}
[plugins.\"io.containerd.grpc.v1.cri\".containerd]
snapshotter = \"overlayfs\"
",
        file("containerd"),
        file("containerd-state"),
        layout.containerd_socket(),
        file("containerd-opt"),
        layout.network(),
    );
    let path = layout.write("containerd.toml", &config)?;
    Ok(command(debian("containerd"), &[("config", &path)]))
}

fn pod_network(layout: &Layout) -> String {
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "{NETWORK}", "plugins": [{{
  "type": "bridge", "bridge": "{BRIDGE}", "isGateway": true, "ipMasq": true, "hairpinMode": true,
  "ipam": {{"type": "host-local", "dataDir": {:?}, "ranges": [[{{"subnet": "{POD_RANGE}"}}]],
            "routes": [{{"dst": "0.0.0.0/0"}}]}}}}]}}"#,
        layout.file("pod-addresses"),
    )
}

/// Runs pods. It deletes no images: they were never pulled and could not be pulled again.
pub fn kubelet(layout: &Layout) -> Result<Command> {
    let config = format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {NODE_ADDRESS}
healthzBindAddress: 127.0.0.1
# Machines with the first version of control groups are as good.
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupsPerQOS: true
enforceNodeAllocatable: []
failSwapOn: false
containerRuntimeEndpoint: unix://{}
clusterDNS: [{DNS_SERVICE}]
clusterDomain: {DNS_DOMAIN}
resolvConf: \"\"
authentication: {{anonymous: {{enabled: false}}, x509: {{clientCAFile: {:?}}}, webhook: {{enabled: true}}}}
authorization: {{mode: Webhook}}
tlsCertFile: {:?}
tlsPrivateKeyFile: {:?}
podCIDR: {POD_RANGE}
evictionHard: {{nodefs.available: \"1%\", imagefs.available: \"1%\"}}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
podLogsDir: {:?}
",
        layout.containerd_socket().display(),
        layout.authority(),
        layout.certificate("kubelet"),
        layout.key("kubelet"),
        layout.pod_logs(),
    );
    let path = layout.write("kubelet.yaml", &config)?;
    let options: &[(&str, &dyn AsOption)] = &[
        ("config", &path),
        ("kubeconfig", &layout.kubeconfig_of("kubelet")),
        ("hostname-override", &NODE),
        ("node-ip", &NODE_ADDRESS.to_string()),
        ("root-dir", &layout.file("kubelet")),
    ];
    Ok(command(KUBELET.path(), options))
}

/// Leads services' addresses and node ports to pods; `127.0.0.1` as well.
pub fn proxy(layout: &Layout) -> Result<Command> {
    // Everything is masqueraded, so that answers between pods of this one bridge come back the way they went. Limits
    // of connection tracking belong to the machine.
    let config = format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
iptables: {{masqueradeAll: true}}
clusterCIDR: {POD_RANGE}
hostnameOverride: {NODE}
bindAddress: {NODE_ADDRESS}
healthzBindAddress: 127.0.0.1
metricsBindAddress: 127.0.0.1
clientConnection: {{kubeconfig: {:?}}}
conntrack: {{maxPerCore: 0}}
",
        layout.kubeconfig_of("proxy"),
    );
    let path = layout.write("kube-proxy.yaml", &config)?;
    Ok(command(PROXY.path(), &[("config", &path)]))
}

/// Answers for names of services; for no others, since tests reach nothing outside this machine.
pub fn name_server(layout: &Layout) -> Result<Command> {
    let config = format!(
        "{DNS_DOMAIN}:{DNS_PORT} {{
  bind {NODE_ADDRESS}
  errors
  kubernetes {{
    kubeconfig {:?}
  }}
}}
",
        layout.kubeconfig(),
    );
    let path = layout.write("Corefile", &config)?;
    let mut command = Command::new(COREDNS.path());
    command.arg("-conf").arg(path);
    Ok(command)
}

/// Tells autoscalers and `kubectl top` how busy pods are.
pub fn metrics_server(layout: &Layout) -> Command {
    let kubeconfig = layout.kubeconfig();
    command(
        METRICS_SERVER.path(),
        &[
            ("kubeconfig", &kubeconfig),
            ("authentication-kubeconfig", &kubeconfig),
            ("authorization-kubeconfig", &kubeconfig),
            ("bind-address", &NODE_ADDRESS.to_string()),
            ("secure-port", &METRICS_PORT.to_string()),
            ("cert-dir", &layout.file("metrics-server")),
            ("kubelet-preferred-address-types", &"InternalIP"),
            ("kubelet-certificate-authority", &layout.authority()),
            // It accepts no shorter time.
            ("metric-resolution", &"15s"),
        ],
    )
}
