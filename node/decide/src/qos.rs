//! The pod's quality-of-service class.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use trireme_model::quantity::Quantity;

fn positive(resources: &ResourceRequirements, limits: bool, name: &str) -> Option<i128> {
    let table = if limits {
        resources.limits.as_ref()
    } else {
        resources.requests.as_ref()
    };
    let text = &table?.get(name)?.0;
    let milli = Quantity::parse(text).ok()?.milli();
    (milli > 0).then_some(milli)
}

/// `Guaranteed`, `Burstable` or `BestEffort`, by the rules of Kubernetes: CPU and memory only.
pub fn class(pod: &Pod) -> &'static str {
    let Some(spec) = &pod.spec else {
        return "BestEffort";
    };
    let all: Vec<&Container> = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .collect();
    let empty = ResourceRequirements::default();
    let mut any = false;
    let mut guaranteed = true;
    for container in all {
        let resources = container.resources.as_ref().unwrap_or(&empty);
        for name in ["cpu", "memory"] {
            let limit = positive(resources, true, name);
            let request = positive(resources, false, name);
            any |= limit.is_some() || request.is_some();
            // A missing request defaults to the limit.
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
