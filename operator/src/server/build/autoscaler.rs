//! How many pods there are, and how many may be away.

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler,
    HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerSpec, MetricSpec, MetricTarget, ResourceMetricSource,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::validate::Validated;
use super::SERVER;
use crate::names::selector;

pub(super) fn autoscaler(validated: &Validated) -> Option<HorizontalPodAutoscaler> {
    let wanted = validated.spec.autoscaling.as_ref()?;
    let name = &validated.owner.key.name;
    let max = validated.replicas_fit.map_or(wanted.max_replicas, |fit| wanted.max_replicas.min(fit)).max(1);
    let cpu = MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource {
            name: "cpu".to_owned(),
            target: MetricTarget {
                type_: "Utilization".to_owned(),
                average_utilization: Some(wanted.target_cpu_utilization_percent),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    };
    let policy =
        |type_: &str, value, period_seconds| HPAScalingPolicy { type_: type_.to_owned(), value, period_seconds };
    let up = HPAScalingRules {
        policies: Some(vec![policy("Percent", 100, 15)]),
        stabilization_window_seconds: Some(0),
        ..HPAScalingRules::default()
    };
    let down = HPAScalingRules {
        policies: Some(vec![policy("Pods", wanted.scale_down.pods_per_minute, 60)]),
        stabilization_window_seconds: Some(wanted.scale_down.stabilization_seconds),
        ..HPAScalingRules::default()
    };
    Some(HorizontalPodAutoscaler {
        metadata: validated.owner.owned(name, SERVER),
        spec: Some(HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("apps/v1".to_owned()),
                kind: "Deployment".to_owned(),
                name: name.clone(),
            },
            min_replicas: Some(wanted.min_replicas.min(max)),
            max_replicas: max,
            metrics: Some(vec![cpu]),
            behavior: Some(HorizontalPodAutoscalerBehavior { scale_up: Some(up), scale_down: Some(down) }),
        }),
        status: None,
    })
}

/// With a single pod there is none: it would keep nodes from being drained for ever.
pub(super) fn disruption_budget(validated: &Validated) -> Option<PodDisruptionBudget> {
    let spec = &validated.spec;
    let least = spec.autoscaling.as_ref().map_or(super::super::replicas_max(spec), |wanted| wanted.min_replicas);
    let name = &validated.owner.key.name;
    (least >= 2).then(|| PodDisruptionBudget {
        metadata: validated.owner.owned(name, SERVER),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector(name, SERVER)),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    })
}
