//! Where a service's connections can go.

use std::collections::BTreeMap;

use trireme_model::istio::WorkloadEntrySpec;
use trireme_xds::metadata;

use crate::locality::{LOCALITY_LABEL, Locality};
use crate::service::{Origin, Port, Resolution, Service, TargetPort};
use crate::view::{Pod, View, canonical, selects};
use crate::workload::CLUSTER_ID;

/// One address of a service's port.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// An IP address, or a name where DNS resolves.
    pub address: String,
    pub port: u32,
    pub labels: BTreeMap<String, String>,
    pub locality: Locality,
    pub weight: u32,
    pub workload: metadata::Workload,
    pub node: String,
}

/// The endpoints that take new connections, in a fixed order. Costs what this service has, and no more.
pub fn endpoints(view: &View, service: &Service, port: &Port) -> Vec<Endpoint> {
    let mut found = match service.origin {
        Origin::Kubernetes => of_slices(view, service, port),
        Origin::ServiceEntry => of_entry(view, service, port),
    };
    if !service.selector.is_empty() {
        of_workload_entries(view, service, port, &mut found);
    }
    found.sort_by(|one, other| {
        let rank = |it: &Endpoint| (it.locality.clone(), it.address.clone(), it.port);
        rank(one).cmp(&rank(other))
    });
    found.dedup_by(|one, other| one.address == other.address && one.port == other.port);
    found
}

fn of_slices(view: &View, service: &Service, port: &Port) -> Vec<Endpoint> {
    let mut found = Vec::new();
    for slice in view.slices_of(&service.source) {
        let mut ports = slice.ports.iter();
        let Some((_, number)) = ports.find(|(name, _)| *name == port.name) else {
            continue;
        };
        for endpoint in &slice.endpoints {
            if !endpoint.ready && !service.publish_not_ready {
                continue;
            }
            let pod = endpoint.pod.as_ref().and_then(|key| view.pods.get(key));
            let on_node = || view.localities.get(&endpoint.node).cloned();
            let zone = || Locality {
                zone: endpoint.zone.clone(),
                ..Locality::default()
            };
            let locality = pod
                .and_then(|pod| pod.own_locality())
                .or_else(|| on_node().filter(|it| !it.is_unknown()))
                .unwrap_or_else(zone);
            found.push(Endpoint {
                address: endpoint.address.clone(),
                port: *number,
                labels: pod.map(|pod| pod.labels.clone()).unwrap_or_default(),
                locality,
                weight: 1,
                workload: workload_of(
                    pod.map_or("", |pod| &pod.workload),
                    &service.namespace,
                    pod.map(|pod| &pod.labels),
                ),
                node: endpoint.node.clone(),
            });
        }
    }
    found
}

fn of_entry(view: &View, service: &Service, port: &Port) -> Vec<Endpoint> {
    let target = match port.target {
        TargetPort::Number(number) => number,
        TargetPort::Name(_) => port.number,
    };
    let mut found: Vec<Endpoint> = service
        .endpoints
        .iter()
        .filter_map(|entry| written(entry, service, port, target, &service.name))
        .collect();
    let by_name = matches!(
        service.resolution,
        Resolution::Dns | Resolution::DnsRoundRobin
    );
    if by_name && found.is_empty() && service.selector.is_empty() {
        // A wildcard is no name that DNS knows.
        if crate::host::is_wildcard(&service.host) {
            return found;
        }
        found.push(Endpoint {
            address: service.host.clone(),
            port: target,
            labels: BTreeMap::new(),
            locality: Locality::default(),
            weight: 1,
            workload: workload_of("", &service.namespace, None),
            node: String::new(),
        });
    }
    if !service.selector.is_empty() {
        let from = trireme_decide::ObjectKey::new(service.namespace.clone(), String::new());
        let in_namespace = view.pods.range(from..);
        let in_namespace = in_namespace.take_while(|(key, _)| key.namespace == service.namespace);
        let pods = in_namespace.map(|(_, pod)| pod);
        for pod in
            pods.filter(|pod| pod.live && pod.ready && selects(&service.selector, &pod.labels))
        {
            found.push(Endpoint {
                address: pod.address.clone(),
                port: target,
                labels: pod.labels.clone(),
                locality: locality_of(view, pod),
                weight: 1,
                workload: workload_of(&pod.workload, &pod.namespace, Some(&pod.labels)),
                node: pod.node.clone(),
            });
        }
    }
    found
}

fn of_workload_entries(view: &View, service: &Service, port: &Port, found: &mut Vec<Endpoint>) {
    let from = trireme_decide::ObjectKey::new(service.namespace.clone(), String::new());
    let in_namespace = view.workload_entries.range(from..);
    for (key, entry) in in_namespace.take_while(|(key, _)| key.namespace == service.namespace) {
        if !selects(&service.selector, &entry.spec.labels) {
            continue;
        }
        let target = match &port.target {
            TargetPort::Number(number) => *number,
            TargetPort::Name(name) => *entry.spec.ports.get(name).unwrap_or(&port.number),
        };
        found.extend(written(&entry.spec, service, port, target, &key.name));
    }
}

fn written(
    entry: &WorkloadEntrySpec,
    service: &Service,
    port: &Port,
    target: u32,
    name: &str,
) -> Option<Endpoint> {
    if entry.address.is_empty() {
        return None;
    }
    let label = entry
        .labels
        .get(LOCALITY_LABEL)
        .map(|it| it.replace('.', "/"));
    let locality = match entry.locality.is_empty() {
        true => label.unwrap_or_default(),
        false => entry.locality.clone(),
    };
    Some(Endpoint {
        address: entry.address.clone(),
        port: *entry.ports.get(&port.name).unwrap_or(&target),
        labels: entry.labels.clone(),
        locality: Locality::parse(&locality),
        weight: entry.weight.max(1),
        workload: workload_of(name, &service.namespace, Some(&entry.labels)),
        node: String::new(),
    })
}

/// Where a pod runs.
pub fn locality_of(view: &View, pod: &Pod) -> Locality {
    pod.own_locality()
        .or_else(|| view.localities.get(&pod.node).cloned())
        .unwrap_or_default()
}

fn workload_of(
    name: &str,
    namespace: &str,
    labels: Option<&BTreeMap<String, String>>,
) -> metadata::Workload {
    let (canonical_name, canonical_revision) = match labels {
        Some(labels) => canonical(labels, name),
        None => (name.to_owned(), String::new()),
    };
    metadata::Workload {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        canonical_name,
        canonical_revision,
        cluster: CLUSTER_ID.to_owned(),
    }
}
