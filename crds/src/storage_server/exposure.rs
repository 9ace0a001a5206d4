//! How clients reach a server.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How clients reach a server. TLS ends in the pods, so whatever stands before them must pass TCP on as it is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Exposure {
    /// The kind of the Service.
    #[serde(default, rename = "type")]
    pub type_: ExposureType,
    /// Host names or addresses that clients are told, in this order.
    #[schemars(
        length(min = 1, max = 8),
        inner(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9.-]+$|^\[[0-9A-Fa-f:.]+\]$"))
    )]
    pub hosts: Vec<String>,
    /// The port that clients are told, and the Service's.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,
    /// What the Service carries.
    #[serde(default)]
    pub service: ExposureService,
    /// How long the balancer keeps an idle connection. Clients keep theirs for 240 s, so less than that fails uploads.
    #[serde(default = "default_idle")]
    #[schemars(range(min = 1, max = 86_400))]
    pub load_balancer_idle_seconds: i32,
}

const fn default_port() -> i32 {
    443
}

const fn default_idle() -> i32 {
    350
}

/// The kind of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ExposureType {
    /// The cloud's balancer.
    #[default]
    LoadBalancer,
    /// A port of every node.
    NodePort,
    /// Within the cluster only.
    #[serde(rename = "ClusterIP")]
    ClusterIp,
}

impl ExposureType {
    /// The word that Services use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LoadBalancer => "LoadBalancer",
            Self::NodePort => "NodePort",
            Self::ClusterIp => "ClusterIP",
        }
    }
}

/// What a Service carries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ExposureService {
    /// Annotations, for the cloud's balancer.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Which balancer; the cluster's default if empty.
    pub load_balancer_class: String,
    /// Whether nodes pass connections to pods of other nodes.
    pub external_traffic_policy: TrafficPolicy,
    /// The port of every node; one is chosen if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub node_port: Option<i32>,
}

/// Whether nodes pass connections to pods of other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum TrafficPolicy {
    /// They do.
    #[default]
    Cluster,
    /// They do not.
    Local,
}

impl TrafficPolicy {
    /// The word that Services use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        }
    }
}

pub(super) fn default_resources() -> ResourceRequirements {
    let amounts = |pairs: &[(&str, &str)]| {
        Some(pairs.iter().map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned()))).collect())
    };
    ResourceRequirements {
        requests: amounts(&[("cpu", "250m"), ("memory", "256Mi")]),
        limits: amounts(&[("memory", "512Mi")]),
        claims: None,
    }
}
