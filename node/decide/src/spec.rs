//! The parts of a pod's spec that decisions read.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde_json::Value;

/// What kind of container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerClass {
    /// Runs to its end before the next one.
    Init,
    /// An init container with `restartPolicy: Always`: runs beside the others to the pod's end.
    Sidecar,
    /// An application container.
    App,
    /// Added to a running pod for debugging; never restarted.
    Ephemeral,
}

/// A container with its class.
#[derive(Clone, Debug, PartialEq)]
pub struct SpecContainer {
    /// What kind.
    pub class: ContainerClass,
    /// Its spec.
    pub container: Container,
}

/// Every container of the pod: init containers in order, application containers, ephemeral ones.
pub fn containers(pod: &Pod) -> Vec<SpecContainer> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for container in spec.init_containers.iter().flatten() {
        let class = match container.restart_policy.as_deref() {
            Some("Always") => ContainerClass::Sidecar,
            _ => ContainerClass::Init,
        };
        found.push(SpecContainer {
            class,
            container: container.clone(),
        });
    }
    for container in &spec.containers {
        found.push(SpecContainer {
            class: ContainerClass::App,
            container: container.clone(),
        });
    }
    for container in spec.ephemeral_containers.iter().flatten() {
        // The two types have the same JSON but for targetContainerName, which starting ignores.
        let converted = serde_json::to_value(container)
            .ok()
            .and_then(|json: Value| serde_json::from_value(json).ok());
        if let Some(container) = converted {
            found.push(SpecContainer {
                class: ContainerClass::Ephemeral,
                container,
            });
        }
    }
    found
}

/// `spec.containers{name}`: the field that an event about a container names.
pub fn field_path(pod: &Pod, name: &str) -> String {
    let list = match containers(pod).iter().find(|c| c.container.name == name) {
        Some(found) => match found.class {
            ContainerClass::Init | ContainerClass::Sidecar => "initContainers",
            ContainerClass::App => "containers",
            ContainerClass::Ephemeral => "ephemeralContainers",
        },
        None => "containers",
    };
    format!("spec.{list}{{{name}}}")
}

/// The pod's restart policy.
pub(crate) fn restart_policy(spec: &PodSpec) -> &str {
    spec.restart_policy.as_deref().unwrap_or("Always")
}

/// Whether a container that ended with this code is started again.
pub(crate) fn restarts(pod: &Pod, found: &SpecContainer, exit_code: i32) -> bool {
    let container = &found.container;
    match found.class {
        ContainerClass::Sidecar => return true,
        ContainerClass::Ephemeral => return false,
        ContainerClass::Init | ContainerClass::App => {}
    }
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else {
            continue;
        };
        let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
        let matches = match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        if matches {
            return rule.action == "Restart";
        }
    }
    let policy = container
        .restart_policy
        .as_deref()
        .unwrap_or_else(|| pod.spec.as_ref().map_or("Always", restart_policy));
    match policy {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => found.class == ContainerClass::App || exit_code != 0,
    }
}

/// `name_namespace(uid)`: how the kubelet writes a pod in messages.
pub(crate) fn pod_title(pod: &Pod) -> String {
    let empty = String::new();
    format!(
        "{}_{}({})",
        pod.metadata.name.as_ref().unwrap_or(&empty),
        pod.metadata.namespace.as_ref().unwrap_or(&empty),
        pod.metadata.uid.as_ref().unwrap_or(&empty)
    )
}

/// Seconds that the pod's containers get to end by themselves.
pub(crate) fn grace_s(pod: &Pod) -> u64 {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.termination_grace_period_seconds)
        .and_then(|seconds| u64::try_from(seconds).ok())
        .unwrap_or(30)
}
