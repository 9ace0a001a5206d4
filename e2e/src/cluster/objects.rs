//! Objects that the cluster itself needs: what runs beside it on this machine, seen from inside.

use super::layout::{DNS_DOMAIN, DNS_PORT, DNS_SERVICE, METRICS_PORT, NODE_ADDRESS};

/// The name server and the metrics server, behind services without pods.
pub fn beside() -> String {
    let dns =
        service("kube-dns", &format!("clusterIP: {DNS_SERVICE}, "), &[("dns", 53, "UDP"), ("dns-tcp", 53, "TCP")]);
    let dns_ports = [("dns", DNS_PORT, "UDP"), ("dns-tcp", DNS_PORT, "TCP")];
    let metrics = service("metrics-server", "", &[("https", 443, "TCP")]);
    [
        dns,
        endpoints("kube-system", "kube-dns", &dns_ports),
        metrics,
        endpoints("kube-system", "metrics-server", &[("https", METRICS_PORT, "TCP")]),
        METRICS_API.to_owned(),
    ]
    .join("---\n")
}

const METRICS_API: &str = "apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec:
  service: {name: metrics-server, namespace: kube-system}
  group: metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  # It makes a certificate of its own at each start.
  insecureSkipTLSVerify: true
";

/// A name in the cluster for a port of this machine, as for a managed service.
pub fn managed(namespace: &str, name: &str, port: u16) -> String {
    let service = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{ports: [{{name: main, port: {port}}}]}}
"
    );
    format!("{service}---\n{}", endpoints(namespace, name, &[("main", port, "TCP")]))
}

/// The name under which pods reach a service.
pub fn name_of(namespace: &str, name: &str) -> String {
    format!("{name}.{namespace}.svc.{DNS_DOMAIN}")
}

fn service(name: &str, more: &str, ports: &[(&str, u16, &str)]) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: kube-system}}
spec: {{{more}ports: [{}]}}
",
        list(ports)
    )
}

fn endpoints(namespace: &str, service: &str, ports: &[(&str, u16, &str)]) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {service}-host
  namespace: {namespace}
  labels: {{kubernetes.io/service-name: {service}}}
addressType: IPv4
ports: [{}]
endpoints: [{{addresses: [\"{NODE_ADDRESS}\"], conditions: {{ready: true}}}}]
",
        list(ports)
    )
}

fn list(ports: &[(&str, u16, &str)]) -> String {
    let port =
        |(name, port, protocol): &(&str, u16, &str)| format!("{{name: {name}, port: {port}, protocol: {protocol}}}");
    ports.iter().map(port).collect::<Vec<_>>().join(", ")
}
