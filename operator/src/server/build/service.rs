//! Where clients come in, and where metrics are.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use leasehold_crds::ExposureType;

use super::super::validate::Validated;
use super::SERVER;
use crate::names::{selector_labels, suffixed};

/// Where clients come in. TLS passes through to the pods.
pub(super) fn clients(validated: &Validated) -> Service {
    let exposure = &validated.spec.exposure;
    let name = &validated.owner.key.name;
    let mut metadata = validated.owner.owned(name, SERVER);
    let annotations = exposure.service.annotations.clone();
    metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    let is_outside = exposure.type_ != ExposureType::ClusterIp;
    let class = &exposure.service.load_balancer_class;
    let has_class = exposure.type_ == ExposureType::LoadBalancer && !class.is_empty();
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(exposure.type_.as_str().to_owned()),
            selector: Some(selector_labels(name, SERVER)),
            ports: Some(vec![ServicePort {
                name: Some("tahoe".to_owned()),
                port: exposure.port,
                target_port: Some(IntOrString::String("tahoe".to_owned())),
                protocol: Some("TCP".to_owned()),
                node_port: exposure.service.node_port.filter(|_| is_outside),
                ..ServicePort::default()
            }]),
            external_traffic_policy: is_outside.then(|| exposure.service.external_traffic_policy.as_str().to_owned()),
            load_balancer_class: has_class.then(|| class.clone()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The pods one by one, also those that are not ready, for metrics.
pub(super) fn headless(validated: &Validated) -> Service {
    let name = &validated.owner.key.name;
    Service {
        metadata: validated.owner.owned(suffixed(name, "metrics"), SERVER),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            selector: Some(selector_labels(name, SERVER)),
            publish_not_ready_addresses: Some(true),
            ports: Some(vec![ServicePort {
                name: Some("metrics".to_owned()),
                port: i32::from(crate::config::ADMIN_PORT),
                target_port: Some(IntOrString::String("metrics".to_owned())),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
