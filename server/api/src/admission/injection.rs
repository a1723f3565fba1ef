//! Sidecar injection: which pods get a proxy, and what is written into them.
//!
//! As Istio's webhook decides: where the namespace says `istio-injection: enabled` (or names a revision in
//! `istio.io/rev`), and not where it says `disabled`; a pod's own `sidecar.istio.io/inject`, as label or annotation,
//! overrides. Pods on the host's network and those of the system's namespaces never get one, and nobody gets two.

pub(crate) mod template;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde_json::{Value, json};
use trireme_model::kinds::{NAMESPACE, POD};
use trireme_model::meta::{self, map_mut};
use trireme_model::status::{FieldError, Status};
use trireme_model::{defaults, strategy};

use crate::verb::Caller;
use template::{CONTAINER, IMAGE, Proxy, Role};

const INJECT: &str = "sidecar.istio.io/inject";
const STATUS: &str = "sidecar.istio.io/status";
const NAMESPACE_LABEL: &str = "istio-injection";
const REVISION_LABEL: &str = "istio.io/rev";
/// The namespaces of what the mesh itself rests on.
const NEVER: [&str; 4] = [
    "kube-system",
    "kube-public",
    "kube-node-lease",
    "istio-system",
];

const IP_RANGES: [&str; 2] = [
    "traffic.sidecar.istio.io/includeOutboundIPRanges",
    "traffic.sidecar.istio.io/excludeOutboundIPRanges",
];
const PORTS: [&str; 4] = [
    "traffic.sidecar.istio.io/includeInboundPorts",
    "traffic.sidecar.istio.io/excludeInboundPorts",
    "traffic.sidecar.istio.io/includeOutboundPorts",
    "traffic.sidecar.istio.io/excludeOutboundPorts",
];

/// Puts a proxy into a new pod where one belongs.
pub(super) fn inject(caller: &Caller<'_>, pod: &mut Value) -> Result<(), Status> {
    let namespace = meta::namespace(pod).to_owned();
    let labels = caller
        .api
        .store
        .read_value(&NAMESPACE.key("", &namespace))?
        .map(|namespace| meta::labels(&namespace))
        .unwrap_or_default();
    if !wanted(&namespace, &labels, pod) {
        return Ok(());
    }
    let errors = traffic_annotations(pod);
    if !errors.is_empty() {
        return Err(Status::invalid(POD, meta::name(pod), errors));
    }
    write(
        pod,
        caller.api.service_network.api_address(),
        &caller.api.config.cluster_domain,
    );
    Ok(())
}

/// Whether a pod gets a proxy, by the labels of its namespace and by what it says itself.
fn wanted(namespace: &str, labels: &BTreeMap<String, String>, pod: &Value) -> bool {
    if NEVER.contains(&namespace) || pod["spec"]["hostNetwork"] == true {
        return false;
    }
    let has_proxy = ["initContainers", "containers"].iter().any(|list| {
        pod["spec"][*list]
            .as_array()
            .is_some_and(|all| all.iter().any(|each| each["name"] == CONTAINER))
    });
    if has_proxy {
        return false;
    }
    let by_namespace = match labels.get(NAMESPACE_LABEL).map(String::as_str) {
        Some("enabled") => true,
        Some(_) => return false,
        None => labels.contains_key(REVISION_LABEL),
    };
    let (own, annotations) = (meta::labels(pod), meta::annotations(pod));
    match own
        .get(INJECT)
        .or_else(|| annotations.get(INJECT))
        .map(String::as_str)
    {
        Some("true" | "y" | "yes" | "on") => true,
        // Whatever else is written there means no, as in Istio.
        Some(text) if !text.is_empty() => false,
        _ => by_namespace,
    }
}

/// What is wrong with the annotations that the node's interception goes by.
fn traffic_annotations(pod: &Value) -> Vec<FieldError> {
    let annotations = meta::annotations(pod);
    let mut errors = Vec::new();
    let mut check = |names: &[&str], good: fn(&str) -> bool, detail: &str| {
        for name in names {
            let Some(text) = annotations.get(*name) else {
                continue;
            };
            let parts = text.split(',').map(str::trim);
            if text != "*" && !text.is_empty() && !parts.into_iter().all(good) {
                let field = format!("metadata.annotations[{name}]");
                errors.push(FieldError::invalid(field, text.clone(), detail));
            }
        }
    };
    check(
        &IP_RANGES,
        is_range,
        "must be * or blocks of addresses such as 10.0.0.0/8, separated by commas",
    );
    check(
        &PORTS,
        is_port,
        "must be * or port numbers from 1 to 65535, separated by commas",
    );
    errors
}

fn is_range(text: &str) -> bool {
    let (address, bits) = text.split_once('/').unwrap_or((text, "32"));
    address.parse::<Ipv4Addr>().is_ok() && bits.parse::<u8>().is_ok_and(|bits| bits <= 32)
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// The pod with the proxy in it.
fn write(pod: &mut Value, api_address: Ipv4Addr, cluster_domain: &str) {
    let annotations = meta::annotations(pod);
    let labels = meta::labels(pod);
    let (workload, owner) = workload(pod);
    let app: Vec<Value> = pod["spec"]["containers"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let names: Vec<&str> = app
        .iter()
        .filter_map(|each| each["name"].as_str())
        .collect();
    let ports: Vec<Value> = app
        .iter()
        .flat_map(|each| each["ports"].as_array().cloned().unwrap_or_default())
        .collect();
    let ports = Value::Array(ports).to_string();
    let mut requests = template::default_requests();
    let mut limits = BTreeMap::new();
    for (annotation, resource) in [
        ("sidecar.istio.io/proxyCPU", "cpu"),
        ("sidecar.istio.io/proxyMemory", "memory"),
    ] {
        if let Some(amount) = annotations.get(annotation) {
            requests.insert(resource, amount.clone());
        }
    }
    for (annotation, resource) in [
        ("sidecar.istio.io/proxyCPULimit", "cpu"),
        ("sidecar.istio.io/proxyMemoryLimit", "memory"),
    ] {
        if let Some(amount) = annotations.get(annotation) {
            limits.insert(resource, amount.clone());
        }
    }
    let container = template::container(&Proxy {
        role: Role::Sidecar,
        image: annotations
            .get("sidecar.istio.io/proxyImage")
            .map_or(IMAGE, String::as_str),
        api_address,
        cluster_domain,
        workload: &workload,
        owner: &owner,
        app_containers: &names.join(","),
        app_ports: &ports,
        requests,
        limits,
    });
    let status = json!({
        "initContainers": [CONTAINER],
        "containers": null,
        "volumes": template::volumes().iter().map(|volume| volume["name"].clone()).collect::<Vec<_>>(),
        "imagePullSecrets": null,
        "revision": "default",
    });
    let first = names.first().copied().unwrap_or("").to_owned();
    let marks = map_mut(
        meta::metadata_mut(pod)
            .entry("annotations")
            .or_insert_with(|| json!({})),
    );
    marks.insert(STATUS.to_owned(), status.to_string().into());
    for name in [
        "kubectl.kubernetes.io/default-container",
        "kubectl.kubernetes.io/default-logs-container",
    ] {
        marks.entry(name).or_insert_with(|| first.clone().into());
    }
    // What metrics call the service, whatever its versions' Deployments are called.
    let first_of = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| labels.get(*name).filter(|text| !text.is_empty()))
            .cloned()
    };
    let name = first_of(&["app.kubernetes.io/name", "app"]).unwrap_or(workload);
    let revision =
        first_of(&["app.kubernetes.io/version", "version"]).unwrap_or_else(|| "latest".to_owned());
    for (label, value) in [
        ("service.istio.io/canonical-name", name),
        ("service.istio.io/canonical-revision", revision),
    ] {
        if !labels.contains_key(label) {
            meta::set_label(pod, label, &value);
        }
    }
    let spec = map_mut(map_mut(pod).entry("spec").or_insert_with(|| json!({})));
    for (list, added, at_start) in [
        ("initContainers", vec![container], true),
        ("volumes", template::volumes(), false),
    ] {
        let list = spec.entry(list).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            let at = if at_start { 0 } else { list.len() };
            list.splice(at..at, added);
        }
    }
    defaults::apply(POD, pod);
    pod["status"]["qosClass"] = strategy::quality_of_service(pod).into();
}

/// Name and path of what the pod belongs to: the Deployment behind a ReplicaSet, another controller, or itself.
fn workload(pod: &Value) -> (String, String) {
    let namespace = meta::namespace(pod);
    let owner = pod["metadata"]["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|owner| owner["controller"] == true);
    let path = |api_version: &str, plural: &str, name: &str| {
        let root = if api_version.contains('/') {
            "apis"
        } else {
            "api"
        };
        format!("kubernetes://{root}/{api_version}/namespaces/{namespace}/{plural}/{name}")
    };
    let Some(owner) = owner else {
        let name = meta::name(pod);
        return (name.to_owned(), path("v1", "pods", name));
    };
    let field = |name: &str| owner[name].as_str().unwrap_or("");
    let (kind, name) = (field("kind"), field("name"));
    let labels = meta::labels(pod);
    let hash = labels.get("pod-template-hash").map(String::as_str);
    if kind == "ReplicaSet"
        && let Some(deployment) = hash
            .and_then(|hash| name.strip_suffix(hash))
            .and_then(|name| name.strip_suffix('-'))
    {
        let owner = path("apps/v1", "deployments", deployment);
        return (deployment.to_owned(), owner);
    }
    let plural = format!("{}s", kind.to_lowercase());
    (name.to_owned(), path(field("apiVersion"), &plural, name))
}

#[cfg(test)]
mod tests;
