//! Who is who in the cluster: one authority, a certificate for each component, and the kubeconfigs that name them.

use std::fs;

use anyhow::{Context, Result};
use leasehold_e2e_services::certificates::{Authority, Subject};
use leasehold_e2e_services::scratch::give;

use super::layout::{API_PORT, API_SERVICE, Layout, NODE, NODE_ADDRESS};

/// A component and what its certificate says.
struct Identity {
    file: &'static str,
    subject: Subject,
    /// Names under which it is reached.
    is_server: bool,
}

const fn client(file: &'static str, name: &'static str, group: Option<&'static str>) -> Identity {
    Identity { file, subject: Subject { name: Some(name), group }, is_server: false }
}

const fn server(file: &'static str, name: &'static str, group: Option<&'static str>) -> Identity {
    Identity { file, subject: Subject { name: Some(name), group }, is_server: true }
}

/// The certificate of `service-accounts` carries nothing but the key that signs their tokens.
const ALL: [Identity; 8] = [
    server("etcd", "etcd", None),
    server("apiserver", "kube-apiserver", None),
    client("admin", "admin", Some("system:masters")),
    client("controller-manager", "system:kube-controller-manager", None),
    client("scheduler", "system:kube-scheduler", None),
    server("kubelet", "system:node:node1", Some("system:nodes")),
    client("proxy", "system:kube-proxy", None),
    client("service-accounts", "service-accounts", None),
];

/// Makes certificates, keys and kubeconfigs, unless there are some. The authority's own key is written nowhere.
pub fn make(layout: &Layout) -> Result<()> {
    // Written last.
    if layout.kubeconfig().is_file() {
        return Ok(());
    }
    let authority = Authority::new()?;
    authority.write_certificate(&layout.identities())?;
    let (node, service) = (NODE_ADDRESS.to_string(), API_SERVICE.to_string());
    let names = ["127.0.0.1", "localhost", NODE, &node, &service, "kubernetes.default.svc", "kubernetes.default"];
    for identity in &ALL {
        let issued = authority.issue_to(&identity.subject, if identity.is_server { &names } else { &[] })?;
        fs::write(layout.certificate(identity.file), issued.certificate)?;
        let key = layout.key(identity.file);
        fs::write(&key, issued.key).with_context(|| format!("write {}", key.display()))?;
        give(&key, None)?;
    }
    for user in ["controller-manager", "scheduler", "kubelet", "proxy", "admin"] {
        fs::write(layout.kubeconfig_of(user), kubeconfig(layout, user))?;
    }
    Ok(())
}

fn kubeconfig(layout: &Layout, user: &str) -> String {
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: leasehold-dev
  cluster: {{server: \"https://{NODE_ADDRESS}:{API_PORT}\", certificate-authority: {:?}}}
users:
- name: {user}
  user: {{client-certificate: {:?}, client-key: {:?}}}
contexts:
- name: leasehold-dev
  context: {{cluster: leasehold-dev, user: {user}}}
current-context: leasehold-dev
",
        layout.authority(),
        layout.certificate(user),
        layout.key(user),
    )
}
