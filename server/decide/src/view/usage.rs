//! What the pods on each node ask for, summed as pods come and go, so that the scheduler never
//! walks over pods; and which nodes hold which image.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as RawQuantity;
use trireme_model::quantity::Quantity;

use super::Object;
use super::index::{is_finished, node_of};
use crate::key::ObjectKey;

/// What a container without a request counts as when nodes are scored, as in kube-scheduler:
/// otherwise a node could be filled with pods that ask for nothing.
const DEFAULT_CPU_MILLI: i64 = 100;
const DEFAULT_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// Amounts of the resources a node can run out of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu_milli: i64,
    pub memory_bytes: i64,
    pub ephemeral_storage_bytes: i64,
    pub pods: i64,
    /// Extended resources and huge pages, by name.
    pub extended: BTreeMap<String, i64>,
}

fn amount(raw: &RawQuantity, milli: bool) -> i64 {
    // What the API let through parses; anything else asks for nothing.
    let Ok(quantity) = Quantity::parse(&raw.0) else {
        return 0;
    };
    let amount = if milli {
        quantity.milli()
    } else {
        quantity.value()
    };
    i64::try_from(amount).unwrap_or(i64::MAX)
}

impl Resources {
    pub fn parse(list: Option<&BTreeMap<String, RawQuantity>>) -> Resources {
        let mut resources = Resources::default();
        for (name, raw) in list.into_iter().flatten() {
            match name.as_str() {
                "cpu" => resources.cpu_milli = amount(raw, true),
                "memory" => resources.memory_bytes = amount(raw, false),
                "ephemeral-storage" => resources.ephemeral_storage_bytes = amount(raw, false),
                "pods" => resources.pods = amount(raw, false),
                _ => {
                    resources.extended.insert(name.clone(), amount(raw, false));
                }
            }
        }
        resources
    }

    pub fn add(&mut self, other: &Resources) {
        self.cpu_milli = self.cpu_milli.saturating_add(other.cpu_milli);
        self.memory_bytes = self.memory_bytes.saturating_add(other.memory_bytes);
        self.ephemeral_storage_bytes = self
            .ephemeral_storage_bytes
            .saturating_add(other.ephemeral_storage_bytes);
        self.pods += other.pods;
        for (name, amount) in &other.extended {
            let own = self.extended.entry(name.clone()).or_default();
            *own = own.saturating_add(*amount);
        }
    }

    fn subtract(&mut self, other: &Resources) {
        self.cpu_milli = self.cpu_milli.saturating_sub(other.cpu_milli);
        self.memory_bytes = self.memory_bytes.saturating_sub(other.memory_bytes);
        self.ephemeral_storage_bytes = self
            .ephemeral_storage_bytes
            .saturating_sub(other.ephemeral_storage_bytes);
        self.pods -= other.pods;
        for (name, amount) in &other.extended {
            if let Some(own) = self.extended.get_mut(name) {
                *own = own.saturating_sub(*amount);
                if *own == 0 {
                    self.extended.remove(name);
                }
            }
        }
    }

    fn raise_to(&mut self, other: &Resources) {
        self.cpu_milli = self.cpu_milli.max(other.cpu_milli);
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
        self.ephemeral_storage_bytes = self
            .ephemeral_storage_bytes
            .max(other.ephemeral_storage_bytes);
        for (name, amount) in &other.extended {
            let own = self.extended.entry(name.clone()).or_default();
            *own = (*own).max(*amount);
        }
    }
}

/// A port a pod takes on its node: protocol, address and number.
pub type HostPort = (String, String, i32);

/// What one pod asks of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodDemand {
    /// Requests; `pods` is 1.
    pub requests: Resources,
    /// Requests with defaults for containers that name none: only for scoring.
    pub scored_cpu_milli: i64,
    pub scored_memory_bytes: i64,
    pub host_ports: Vec<HostPort>,
}

fn requests_of(container: &Container) -> Option<&BTreeMap<String, RawQuantity>> {
    container.resources.as_ref()?.requests.as_ref()
}

fn with_defaults(container: &Container, mut requests: Resources) -> Resources {
    let list = requests_of(container);
    if !list.is_some_and(|list| list.contains_key("cpu")) {
        requests.cpu_milli = DEFAULT_CPU_MILLI;
    }
    if !list.is_some_and(|list| list.contains_key("memory")) {
        requests.memory_bytes = DEFAULT_MEMORY_BYTES;
    }
    requests
}

impl PodDemand {
    /// As Kubernetes counts: the sum of the containers, or what the largest init container needs
    /// beside the sidecars started before it, whichever is more, plus overhead.
    pub fn of(pod: &Pod) -> PodDemand {
        let Some(spec) = pod.spec.as_ref() else {
            return PodDemand::default();
        };
        let sum = |scored: bool| {
            let of = |container: &Container| {
                let requests = Resources::parse(requests_of(container));
                if scored {
                    with_defaults(container, requests)
                } else {
                    requests
                }
            };
            let mut total = Resources::default();
            for container in &spec.containers {
                total.add(&of(container));
            }
            let mut sidecars = Resources::default();
            let mut largest = Resources::default();
            for container in spec.init_containers.iter().flatten() {
                let requests = of(container);
                if container.restart_policy.as_deref() == Some("Always") {
                    total.add(&requests);
                    sidecars.add(&requests);
                    largest.raise_to(&sidecars);
                } else {
                    let mut needed = requests;
                    needed.add(&sidecars);
                    largest.raise_to(&needed);
                }
            }
            total.raise_to(&largest);
            // Pod-level requests replace the sum where they are set.
            if let Some(list) = spec.resources.as_ref().and_then(|it| it.requests.as_ref()) {
                let pod_level = Resources::parse(Some(list));
                if list.contains_key("cpu") {
                    total.cpu_milli = pod_level.cpu_milli;
                }
                if list.contains_key("memory") {
                    total.memory_bytes = pod_level.memory_bytes;
                }
            }
            total.add(&Resources::parse(spec.overhead.as_ref()));
            total.pods = 1;
            total.extended.retain(|_, amount| *amount != 0);
            total
        };
        let scored = sum(true);
        let mut host_ports = Vec::new();
        let containers = spec.containers.iter().chain(
            spec.init_containers
                .iter()
                .flatten()
                .filter(|container| container.restart_policy.as_deref() == Some("Always")),
        );
        for port in containers.flat_map(|container| container.ports.iter().flatten()) {
            if let Some(number) = port.host_port.filter(|number| *number > 0) {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                let address = port
                    .host_ip
                    .clone()
                    .filter(|ip| !ip.is_empty())
                    .unwrap_or_else(|| "0.0.0.0".to_owned());
                host_ports.push((protocol, address, number));
            }
        }
        PodDemand {
            requests: sum(false),
            scored_cpu_milli: scored.cpu_milli,
            scored_memory_bytes: scored.memory_bytes,
            host_ports,
        }
    }
}

/// The sum over the unfinished pods of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeUsage {
    pub requested: Resources,
    pub scored_cpu_milli: i64,
    pub scored_memory_bytes: i64,
    /// How many pods hold each port (more than one only if something bypassed the scheduler).
    pub host_ports: BTreeMap<HostPort, u32>,
}

impl NodeUsage {
    pub(crate) fn add(&mut self, demand: &PodDemand) {
        self.requested.add(&demand.requests);
        self.scored_cpu_milli += demand.scored_cpu_milli;
        self.scored_memory_bytes += demand.scored_memory_bytes;
        for port in &demand.host_ports {
            *self.host_ports.entry(port.clone()).or_default() += 1;
        }
    }

    fn subtract(&mut self, demand: &PodDemand) {
        self.requested.subtract(&demand.requests);
        self.scored_cpu_milli -= demand.scored_cpu_milli;
        self.scored_memory_bytes -= demand.scored_memory_bytes;
        for port in &demand.host_ports {
            if let Some(count) = self.host_ports.get_mut(port) {
                *count -= 1;
                if *count == 0 {
                    self.host_ports.remove(port);
                }
            }
        }
    }
}

/// How large an image is and how many nodes hold it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ImageSpread {
    pub size_bytes: i64,
    pub nodes: i64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    pub nodes: BTreeMap<String, NodeUsage>,
    pub allocatable: BTreeMap<String, Resources>,
    pub images: BTreeMap<String, ImageSpread>,
    /// The demand of every pod that waits or runs, so that it is parsed once.
    pub demands: BTreeMap<ObjectKey, PodDemand>,
}

fn images_of(node: &Node) -> impl Iterator<Item = (&String, i64)> {
    node.status
        .iter()
        .flat_map(|status| status.images.iter().flatten())
        .flat_map(|image| {
            let size = image.size_bytes.unwrap_or(0);
            image.names.iter().flatten().map(move |name| (name, size))
        })
}

impl Usage {
    pub fn add(&mut self, key: &ObjectKey, object: &Object) {
        match object {
            Object::Pod(pod) if !is_finished(pod) => {
                let demand = PodDemand::of(pod);
                if let Some(node) = node_of(pod) {
                    self.nodes.entry(node.to_owned()).or_default().add(&demand);
                }
                self.demands.insert(key.clone(), demand);
            }
            Object::Node(node) => {
                let status = node.status.as_ref();
                let list = status.and_then(|it| it.allocatable.as_ref().or(it.capacity.as_ref()));
                self.allocatable
                    .insert(key.name.clone(), Resources::parse(list));
                for (name, size_bytes) in images_of(node) {
                    let spread = self.images.entry(name.clone()).or_default();
                    spread.size_bytes = size_bytes;
                    spread.nodes += 1;
                }
            }
            _ => {}
        }
    }

    pub fn remove(&mut self, key: &ObjectKey, object: &Object) {
        match object {
            Object::Pod(pod) => {
                let Some(demand) = self.demands.remove(key) else {
                    return;
                };
                let Some(node) = node_of(pod) else {
                    return;
                };
                if let Some(usage) = self.nodes.get_mut(node) {
                    usage.subtract(&demand);
                    if usage.requested.pods == 0 {
                        self.nodes.remove(node);
                    }
                }
            }
            Object::Node(node) => {
                self.allocatable.remove(&key.name);
                for (name, _) in images_of(node) {
                    if let Some(spread) = self.images.get_mut(name) {
                        spread.nodes -= 1;
                        if spread.nodes == 0 {
                            self.images.remove(name);
                        }
                    }
                }
            }
            _ => {}
        }
    }
}
