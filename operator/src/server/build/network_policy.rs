//! Who may talk to pods, and to whom they may.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::validate::Validated;
use super::SERVER;
use crate::config::{ADMIN_PORT, CLIENT_PORT};

/// Host names cannot stand in a policy, so the database and the store are known by their ports.
pub(super) fn network_policy(validated: &Validated) -> NetworkPolicy {
    let name = &validated.owner.key.name;
    let everything_of = BTreeMap::from([("leasehold.dev/server".to_owned(), name.clone())]);
    let monitoring = validated.spec.network_policy.monitoring_namespace_selector.clone().unwrap_or_default();
    let clients = NetworkPolicyIngressRule { from: None, ports: Some(vec![tcp(i32::from(CLIENT_PORT))]) };
    let monitors = NetworkPolicyIngressRule {
        from: Some(vec![NetworkPolicyPeer { namespace_selector: Some(monitoring), ..NetworkPolicyPeer::default() }]),
        ports: Some(vec![tcp(i32::from(ADMIN_PORT))]),
    };
    let egress = |ports| NetworkPolicyEgressRule { to: None, ports: Some(ports) };
    let dns = vec![port(53, "UDP"), tcp(53)];
    let database = validated.database.connection.parameters.port;
    let store = store_port(validated.backend.s3.endpoint.as_deref());
    NetworkPolicy {
        metadata: validated.owner.owned(name, SERVER),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector { match_labels: Some(everything_of), match_expressions: None }),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(vec![clients, monitors]),
            egress: Some(vec![egress(dns), egress(vec![tcp(database), tcp(store)])]),
        }),
    }
}

fn tcp(number: i32) -> NetworkPolicyPort {
    port(number, "TCP")
}

fn port(number: i32, protocol: &str) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(number)),
        protocol: Some(protocol.to_owned()),
        ..NetworkPolicyPort::default()
    }
}

fn store_port(endpoint: Option<&str>) -> i32 {
    let Some(endpoint) = endpoint else { return 443 };
    let usual = if endpoint.starts_with("http://") { 80 } else { 443 };
    let host = endpoint.trim_end_matches('/').rsplit("//").next().unwrap_or_default();
    host.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_known_by_its_port() {
        for (endpoint, port) in [
            (None, 443),
            (Some("https://s3.example"), 443),
            (Some("http://s3.example/"), 80),
            (Some("https://s3.example:9000/"), 9000),
            (Some("http://[::1]:9000"), 9000),
            (Some("https://[::1]"), 443),
        ] {
            assert_eq!(store_port(endpoint), port, "{endpoint:?}");
        }
    }
}
