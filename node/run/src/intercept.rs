//! Which pods' connections are led through a proxy, and which of their connections.

use k8s_openapi::api::core::v1::{Container, Pod};
use trireme_network::{AnnotationError, Interception};

/// The container that the injection adds.
const PROXY_CONTAINER: &str = "istio-proxy";
/// Set by whoever injected the proxy.
const STATUS_ANNOTATION: &str = "sidecar.istio.io/status";
/// The proxy's role in a gateway, which nothing is led through: clients connect to it.
const GATEWAY_ROLE: &str = "router";

/// Whether a proxy was injected that takes over the pod's connections.
pub(crate) fn is_intercepted(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let annotations = pod.metadata.annotations.as_ref();
    if spec.host_network == Some(true)
        || !annotations.is_some_and(|all| all.contains_key(STATUS_ANNOTATION))
    {
        return false;
    }
    let mut containers = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    let is_gateway = |container: &Container| {
        let mut words = container.args.iter().chain(&container.command).flatten();
        words.any(|word| word == GATEWAY_ROLE)
    };
    containers.any(|container| container.name == PROXY_CONTAINER && !is_gateway(container))
}

/// The rules for the pod, if it has a proxy.
///
/// # Errors
/// An annotation that cannot be followed.
pub(crate) fn of(pod: &Pod) -> Result<Option<Interception>, AnnotationError> {
    if !is_intercepted(pod) {
        return Ok(None);
    }
    let annotations = pod.metadata.annotations.as_ref();
    Interception::from_annotations(|name| {
        annotations
            .and_then(|all| all.get(name))
            .map(String::as_str)
    })
    .map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(annotations: Value, spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"annotations": annotations}, "spec": spec}))
            .unwrap()
    }

    #[test]
    fn injected_sidecars_are_intercepted_and_gateways_are_not() {
        let status = json!({"sidecar.istio.io/status": "{}"});
        let app = json!([{"name": "app"}]);
        let sidecar = json!([{"name": "istio-proxy", "args": ["proxy", "sidecar"], "restartPolicy": "Always"}]);
        let injected = json!({"initContainers": sidecar, "containers": app});
        assert!(is_intercepted(&pod(status.clone(), injected.clone())));
        // Not by the name alone, nor by the annotation alone.
        assert!(!is_intercepted(&pod(json!({}), injected)));
        assert!(!is_intercepted(&pod(
            status.clone(),
            json!({"containers": app})
        )));
        let gateway = json!({"containers": [{"name": "istio-proxy", "args": ["proxy", "router"]}]});
        assert!(!is_intercepted(&pod(status.clone(), gateway)));
        let host = json!({"hostNetwork": true, "initContainers": sidecar, "containers": app});
        assert!(!is_intercepted(&pod(status, host)));
    }

    #[test]
    fn annotations_are_followed_or_named() {
        let spec =
            json!({"initContainers": [{"name": "istio-proxy"}], "containers": [{"name": "app"}]});
        let with = |value: &str| {
            let annotations = json!({
                "sidecar.istio.io/status": "{}",
                "traffic.sidecar.istio.io/excludeInboundPorts": value
            });
            of(&pod(annotations, spec.clone()))
        };
        assert_eq!(
            with("9090").unwrap().unwrap().excluded_inbound_ports,
            [9090]
        );
        let error = with("web").unwrap_err().to_string();
        assert!(
            error.contains("traffic.sidecar.istio.io/excludeInboundPorts"),
            "{error}"
        );
    }
}
