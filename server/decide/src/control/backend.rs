//! The pods behind a Service, with their readiness and resolved ports: what EndpointSlices and
//! Endpoints are both made from.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use trireme_model::kinds::{self, Kind};

use crate::key::ObjectKey;
use crate::labels::{Labels, map_selects};
use crate::pod::{is_finished, is_ready, is_terminating, node_of};
use crate::view::{Object, View, in_namespace};

/// Marks what belongs to a Service without a cluster address.
pub(super) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// A port after the target's name has been looked up in a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    pub name: String,
    pub protocol: String,
    pub number: i32,
    pub application_protocol: Option<String>,
}

/// One pod as a Service sees it.
#[derive(Clone, Debug)]
pub(super) struct Backend<'a> {
    pub pod: &'a Arc<Pod>,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<Port>,
    /// Takes new connections: ready and staying, or the Service publishes everything.
    pub ready: bool,
    /// Passes its readiness checks, whether or not it is being deleted.
    pub serving: bool,
    pub terminating: bool,
}

/// The selector of a Service whose endpoints are to be derived; without one, or for an external
/// name, they are somebody else's.
pub(super) fn selector(service: &Service) -> Option<&Labels> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector
        .as_ref()
        .filter(|selector| !selector.is_empty())
}

pub(super) fn is_headless(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster_ip.as_deref())
        == Some("None")
}

pub(super) fn publishes_all(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.publish_not_ready_addresses)
        == Some(true)
}

/// The hostname a pod is known by under the Service's own name, if it asked for one.
pub(super) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let named = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    spec.hostname
        .clone()
        .filter(|name| named && !name.is_empty())
}

/// The part of the world a pod's node is in.
pub(super) fn zone(view: &View, pod: &Pod) -> Option<String> {
    let node = view.node(node_of(pod)?)?;
    node.metadata
        .labels
        .as_ref()?
        .get("topology.kubernetes.io/zone")
        .cloned()
}

fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = pod.status.as_ref() else {
        return Vec::new();
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    let all = status.pod_ips.iter().flatten().map(|it| &it.ip);
    for text in status.pod_ip.iter().chain(all) {
        if let Ok(address) = text.parse()
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    addresses
}

/// The number behind a Service port in one pod; a name the pod does not know has none.
fn target(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match port.target_port.as_ref() {
        None | Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => return Some(port.port),
        Some(IntOrString::String(name)) => name,
    };
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|it| it.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .find(|candidate| {
            candidate.name.as_ref() == Some(name)
                && candidate.protocol.as_deref().unwrap_or("TCP") == protocol
        })
        .map(|candidate| candidate.container_port)
}

fn ports(pod: &Pod, service: &Service) -> Vec<Port> {
    service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten())
        .filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                number: target(pod, port)?,
                application_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

/// Every pod that has an address and may still run.
pub(super) fn backends<'a>(view: &'a View, service: &'a Service) -> Vec<Backend<'a>> {
    let Some(selector) = selector(service) else {
        return Vec::new();
    };
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let all = publishes_all(service);
    view.pods_labelled(namespace, selector)
        .into_iter()
        .filter(|pod| !is_finished(pod))
        .filter_map(|pod| {
            let addresses = addresses(pod);
            if addresses.is_empty() {
                return None;
            }
            let (serving, terminating) = (is_ready(pod), is_terminating(pod));
            Some(Backend {
                pod,
                addresses,
                ports: ports(pod, service),
                ready: all || (serving && !terminating),
                serving,
                terminating,
            })
        })
        .collect()
}

/// Whether two states of a pod look the same to every Service.
fn same_to_services(one: &Pod, other: &Pod) -> bool {
    one.metadata.labels == other.metadata.labels
        && one.metadata.uid == other.metadata.uid
        && is_ready(one) == is_ready(other)
        && is_terminating(one) == is_terminating(other)
        && is_finished(one) == is_finished(other)
        && node_of(one) == node_of(other)
        && addresses(one) == addresses(other)
}

fn zone_label(object: Option<&Object>) -> Option<String> {
    let labels = object?.metadata().labels.as_ref()?;
    labels.get("topology.kubernetes.io/zone").cloned()
}

/// Services that a change of a pod or node may touch.
pub(super) fn services_touched(
    view: &View,
    kind: &Kind,
    before: Option<&Object>,
    after: Option<&Object>,
) -> Vec<ObjectKey> {
    let mut pods: Vec<&Arc<Pod>> = Vec::new();
    if kind == kinds::POD {
        pods = [before, after]
            .into_iter()
            .flatten()
            .filter_map(Object::pod)
            .collect();
        if let [one, other] = pods[..]
            && same_to_services(one, other)
        {
            return Vec::new();
        }
    } else if kind == kinds::NODE
        && zone_label(before) != zone_label(after)
        && let Some(node) = before.or(after)
    {
        pods = view.pods_on(&node.key().name).collect();
    }
    let mut namespaces: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        namespaces.entry(namespace).or_default().push(pod);
    }
    let mut keys = Vec::new();
    for (namespace, pods) in namespaces {
        for (key, service) in in_namespace(&view.services, namespace) {
            if let Some(selector) = selector(service)
                && pods.iter().any(|pod| map_selects(selector, &pod.metadata))
            {
                keys.push(key.clone());
            }
        }
    }
    keys
}
