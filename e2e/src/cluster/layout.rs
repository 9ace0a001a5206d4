//! Where the files of the cluster are, and which addresses it uses.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::venv::workspace_root;

/// The address of the one node: of this machine's loopback device, and so reached by nobody else.
pub const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 250, 0, 1);
/// The name of the one node.
pub const NODE: &str = "node1";
/// Addresses of services.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";
/// The first of them: the API server's.
pub const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Where pods ask for names.
pub const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// What names in the cluster end in.
pub const DNS_DOMAIN: &str = "cluster.local";
/// Addresses of pods.
pub const POD_RANGE: &str = "10.244.0.0/24";
/// The network device between this machine and its pods.
pub const BRIDGE: &str = "leasehold0";
/// The name of the network of pods.
pub const NETWORK: &str = "leasehold-dev";
/// Where the API server listens.
pub const API_PORT: u16 = 6443;
/// Where the name server listens, on the node's address.
pub const DNS_PORT: u16 = 5053;
/// Where the metrics server listens, on the node's address.
pub const METRICS_PORT: u16 = 4443;

/// The longest path of the folder with which sockets in it still fit into a socket address (108 bytes).
const ROOT_LENGTH_MAX: usize = 70;

/// The folder with everything that a cluster writes.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The folder of this workspace's cluster, whether there is one or not.
    pub fn of_workspace() -> Self {
        Self { root: workspace_root().join(".leasehold-dev").join("cluster") }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the folder, for the eyes of its owner.
    pub fn make(&self) -> Result<()> {
        let shown = self.root.display();
        ensure!(
            self.root.as_os_str().len() <= ROOT_LENGTH_MAX,
            "{shown} is too long for the sockets in it; check the workspace out somewhere shorter"
        );
        for folder in [self.root.clone(), self.identities(), self.logs(), self.network()] {
            fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        }
        leasehold_e2e_services::scratch::give(&self.root, None)
    }

    /// The kubeconfig of the cluster's administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_of("admin")
    }

    /// The kubeconfig of one identity.
    pub fn kubeconfig_of(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.conf"))
    }

    /// The folder with certificates and keys.
    pub fn identities(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// The certificate of the authority.
    pub fn authority(&self) -> PathBuf {
        self.identities().join("authority.pem")
    }

    /// The certificate of one identity.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.identities().join(format!("{name}.crt"))
    }

    /// The private key of one identity.
    pub fn key(&self, name: &str) -> PathBuf {
        self.identities().join(format!("{name}.key"))
    }

    /// The folder with logs.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The folder with the logs of pods.
    pub fn pod_logs(&self) -> PathBuf {
        self.logs().join("pods")
    }

    /// What containerd reads about the network of pods.
    pub fn network(&self) -> PathBuf {
        self.root.join("cni")
    }

    /// Where containerd answers.
    pub fn containerd_socket(&self) -> PathBuf {
        self.root.join("containerd.sock")
    }

    /// A file or folder of one component.
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Writes a file of one component, if it is another than it was, and gives its path.
    pub fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.file(name);
        // kube-proxy ends when its file is touched, and a second `up` begins nothing anew.
        if !fs::read_to_string(&path).is_ok_and(|old| old == content) {
            fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(path)
    }
}
