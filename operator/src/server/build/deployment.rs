//! The pods that serve.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Affinity, ContainerPort, HTTPGetAction, PodSpec, PodTemplateSpec, Probe, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::validate::Validated;
use super::{SERVER, config_map};
use crate::config::{ADMIN_PORT, CLIENT_PORT};
use crate::error::Result;
use crate::names::{digest, labels, selector};
use crate::pod::{self, Mounts, Program};

/// How long a pod may take beyond its drain before it is killed.
const GRACE_SECONDS: i32 = 20;

pub(super) fn deployment(validated: &Validated) -> Result<Deployment> {
    let spec = &validated.spec;
    let name = &validated.owner.key.name;
    // Where an autoscaler decides, the number is not ours to set: it would be set back at every look.
    let replicas = spec.autoscaling.is_none().then(|| {
        let wanted = super::super::replicas_max(spec);
        validated.replicas_fit.map_or(wanted, |fit| wanted.min(fit))
    });
    let quarter = IntOrString::String("25%".to_owned());
    Ok(Deployment {
        metadata: validated.owner.owned(name, SERVER),
        spec: Some(DeploymentSpec {
            replicas,
            selector: selector(name, SERVER),
            min_ready_seconds: Some(10),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(quarter),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: PodTemplateSpec { metadata: Some(metadata(validated)?), spec: Some(pod_spec(validated)) },
            ..DeploymentSpec::default()
        }),
        status: None,
    })
}

fn metadata(validated: &Validated) -> Result<ObjectMeta> {
    let own = &validated.spec.pod_metadata;
    // Ours win: the Service finds pods by them.
    let mut all_labels = own.labels.clone();
    all_labels.extend(labels(&validated.owner.key.name, SERVER));
    let mut annotations = own.annotations.clone();
    // Pods read their configuration and the database's password once, so a change of either rolls them.
    let text = crate::config::text(&validated.server_config)?;
    let hash = digest([text.as_str(), validated.server_role.version.as_str(), validated.identity.server_id.as_str()]);
    annotations.insert("leasehold.dev/config-hash".to_owned(), hash);
    annotations.insert("cluster-autoscaler.kubernetes.io/safe-to-evict".to_owned(), "true".to_owned());
    Ok(ObjectMeta { labels: Some(all_labels), annotations: Some(annotations), ..ObjectMeta::default() })
}

fn pod_spec(validated: &Validated) -> PodSpec {
    let spec = &validated.spec;
    let mounts = Mounts::default()
        .config(&config_map::server_name(validated))
        .data()
        .identity(&validated.identity_secret)
        .s3(&validated.backend.s3)
        .database(&validated.database.connection.parameters, &validated.server_role.secret);
    let mut pod = pod::spec(Program {
        image: validated.image.clone(),
        source: &spec.image,
        arguments: vec!["serve".to_owned()],
        mounts,
        resources: spec.resources.clone(),
    });
    if let Some(container) = pod.containers.first_mut() {
        container.ports = Some(vec![port("tahoe", CLIENT_PORT), port("metrics", ADMIN_PORT)]);
        // Nothing of these asks S3 or the database: all pods would be taken out together.
        container.startup_probe = Some(probe("/healthz/started", 2, 60));
        container.readiness_probe = Some(probe("/healthz/ready", 5, 2));
        container.liveness_probe = Some(probe("/healthz/live", 10, 6));
    }
    let scheduling = &spec.scheduling;
    let affinity = scheduling.affinity.clone().and_then(|value| serde_json::from_value::<Affinity>(value).ok());
    let class = &scheduling.priority_class_name;
    PodSpec {
        service_account_name: Some(config_map::service_account_name(validated)),
        termination_grace_period_seconds: Some(i64::from(
            spec.shutdown.endpoint_propagation_seconds + spec.shutdown.request_seconds + GRACE_SECONDS,
        )),
        topology_spread_constraints: Some(
            ["topology.kubernetes.io/zone", "kubernetes.io/hostname"].map(|key| spread(validated, key)).to_vec(),
        ),
        node_selector: (!scheduling.node_selector.is_empty()).then(|| scheduling.node_selector.clone()),
        tolerations: (!scheduling.tolerations.is_empty()).then(|| scheduling.tolerations.clone()),
        priority_class_name: (!class.is_empty()).then(|| class.clone()),
        affinity,
        ..pod
    }
}

fn spread(validated: &Validated, key: &str) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        topology_key: key.to_owned(),
        max_skew: 1,
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(selector(&validated.owner.key.name, SERVER)),
        match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
        ..TopologySpreadConstraint::default()
    }
}

fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn probe(path: &str, period_seconds: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("metrics".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(3),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}
