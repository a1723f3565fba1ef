//! EndpointSlice: the pods behind each Service, at most 100 to a slice.
//!
//! Endpoints stay in the slice they are in; only what changed is written, so that a pod's change
//! costs one slice and not all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use trireme_model::kinds::{self, Kind};

use super::backend::{self, Backend, HEADLESS_LABEL, Port};
use super::{Controller, leaving_namespace, object_value, ownership};
use crate::digest::{fnv1a, mix, name_suffix};
use crate::intent::{Action, Intent, Plan, Propagation};
use crate::key::ObjectKey;
use crate::view::{Object, SERVICE_NAME_LABEL, View};

const NAME: &str = "endpointslice-controller";
const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGED_BY: &str = "endpointslice-controller.k8s.io";

/// As in Kubernetes: a change of one endpoint rewrites a slice of at most this many.
const MAX_ENDPOINTS_PER_SLICE: usize = 100;

pub(crate) struct EndpointSlices;

impl Controller for EndpointSlices {
    fn name(&self) -> &'static str {
        NAME
    }

    fn enqueue(
        &self,
        view: &View,
        kind: &Kind,
        before: Option<&Object>,
        after: Option<&Object>,
    ) -> Vec<ObjectKey> {
        if kind == kinds::SERVICE {
            return before.or(after).map(Object::key).into_iter().collect();
        }
        if kind == kinds::ENDPOINT_SLICE {
            return [before, after]
                .into_iter()
                .flatten()
                .filter_map(|slice| {
                    let metadata = slice.metadata();
                    let service = metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
                    Some(ObjectKey::new(metadata.namespace.clone()?, service.clone()))
                })
                .collect();
        }
        backend::services_touched(view, kind, before, after)
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, seed: u64) -> Plan {
        let mut plan = Plan::default();
        let ours: Vec<&Arc<EndpointSlice>> = view
            .slices_of(key)
            .filter(|slice| {
                let labels = slice.metadata.labels.as_ref();
                labels
                    .and_then(|labels| labels.get(MANAGED_BY_LABEL))
                    .map(String::as_str)
                    == Some(MANAGED_BY)
            })
            .filter(|slice| slice.metadata.deletion_timestamp.is_none())
            .collect();
        let service = view
            .service(key)
            .filter(|service| service.metadata.deletion_timestamp.is_none());
        let Some(service) = service else {
            for slice in ours {
                plan.push(delete(slice, "its Service is gone"));
            }
            return plan;
        };
        if backend::selector(service).is_none() {
            for slice in ours {
                plan.push(delete(slice, "its Service has no selector any more"));
            }
            return plan;
        }
        let families = families(service);
        for slice in ours
            .iter()
            .filter(|it| !families.contains(&it.address_type.as_str()))
        {
            plan.push(delete(slice, "its Service has no addresses of this family"));
        }
        let backends = backend::backends(view, service);
        for family in families {
            let existing: Vec<&Arc<EndpointSlice>> = ours
                .iter()
                .copied()
                .filter(|slice| slice.address_type == family)
                .collect();
            fill(view, service, family, &backends, existing, seed, &mut plan);
        }
        plan
    }
}

fn families(service: &Service) -> Vec<&'static str> {
    let families: Vec<&'static str> = service
        .spec
        .iter()
        .flat_map(|spec| spec.ip_families.iter().flatten())
        .filter_map(|family| match family.as_str() {
            "IPv4" => Some("IPv4"),
            "IPv6" => Some("IPv6"),
            _ => None,
        })
        .collect();
    if families.is_empty() {
        vec!["IPv4"]
    } else {
        families
    }
}

fn delete(slice: &EndpointSlice, reason: &str) -> Intent {
    Intent::new(
        NAME,
        reason,
        Action::Delete {
            kind: kinds::ENDPOINT_SLICE,
            namespace: slice.metadata.namespace.clone().unwrap_or_default(),
            name: slice.metadata.name.clone().unwrap_or_default(),
            uid: slice.metadata.uid.clone().unwrap_or_default(),
            resource_version: slice.metadata.resource_version.clone(),
            grace_seconds: None,
            propagation: Propagation::Background,
        },
    )
}

fn endpoint_of(
    view: &View,
    service: &Service,
    backend: &Backend<'_>,
    family: &str,
) -> Option<Endpoint> {
    let wanted = |address: &&IpAddr| address.is_ipv4() == (family == "IPv4");
    let address = backend.addresses.iter().find(wanted)?;
    let pod = backend.pod;
    Some(Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(backend.ready),
            serving: Some(backend.serving),
            terminating: Some(backend.terminating),
        }),
        hostname: backend::hostname(pod, service),
        node_name: crate::pod::node_of(pod).map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        zone: backend::zone(view, pod),
        ..Endpoint::default()
    })
}

fn slice_ports(ports: &[Port]) -> Vec<EndpointPort> {
    ports
        .iter()
        .map(|port| EndpointPort {
            name: Some(port.name.clone()),
            protocol: Some(port.protocol.clone()),
            port: Some(port.number),
            app_protocol: port.application_protocol.clone(),
        })
        .collect()
}

fn ports_of(slice: &EndpointSlice) -> Vec<Port> {
    let mut ports: Vec<Port> = slice
        .ports
        .iter()
        .flatten()
        .map(|port| Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            number: port.port.unwrap_or(0),
            application_protocol: port.app_protocol.clone(),
        })
        .collect();
    ports.sort();
    ports
}

/// Who an endpoint is: the same pod keeps its place through every change of its state.
fn identity(endpoint: &Endpoint) -> String {
    endpoint
        .target_ref
        .as_ref()
        .and_then(|target| target.uid.clone())
        .unwrap_or_default()
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = service
        .metadata
        .labels
        .iter()
        .flatten()
        .filter(|(name, _)| *name != SERVICE_NAME_LABEL && *name != MANAGED_BY_LABEL)
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    labels.remove(HEADLESS_LABEL);
    if backend::is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    let name = service.metadata.name.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME_LABEL.to_owned(), name);
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    labels
}

/// Brings the slices of one address family to what the backends say.
fn fill(
    view: &View,
    service: &Service,
    family: &'static str,
    backends: &[Backend<'_>],
    existing: Vec<&Arc<EndpointSlice>>,
    seed: u64,
    plan: &mut Plan,
) {
    // Pods may resolve a named port to different numbers, so slices are kept per set of ports.
    let mut wanted: BTreeMap<Vec<Port>, BTreeMap<String, Endpoint>> = BTreeMap::new();
    for backend in backends {
        if let Some(endpoint) = endpoint_of(view, service, backend, family) {
            let mut ports = backend.ports.clone();
            ports.sort();
            wanted
                .entry(ports)
                .or_default()
                .insert(identity(&endpoint), endpoint);
        }
    }
    if wanted.is_empty() {
        // One empty slice tells "nobody is behind this" from "nobody has looked yet".
        let ports = existing
            .first()
            .map(|slice| ports_of(slice))
            .unwrap_or_default();
        wanted.insert(ports, BTreeMap::new());
    }
    let labels = labels(service);
    let mut slices: BTreeMap<Vec<Port>, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        slices.entry(ports_of(slice)).or_default().push(slice);
    }
    for (ports, found) in &slices {
        if !wanted.contains_key(ports) {
            for slice in found {
                // After the new slices are there, so that no moment is without endpoints.
                let reason = "no pod behind its Service has these ports";
                plan.push(delete(slice, reason).in_wave(1));
            }
        }
    }
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let leaving = leaving_namespace(view, namespace);
    let mut draw = mix(seed ^ fnv1a(family.as_bytes()));
    for (ports, mut endpoints) in wanted {
        let slices = slices.remove(&ports).unwrap_or_default();
        let mut contents: Vec<(Option<&Arc<EndpointSlice>>, Vec<Endpoint>)> = slices
            .into_iter()
            .map(|slice| {
                let mut seen = BTreeSet::new();
                let kept = slice
                    .endpoints
                    .iter()
                    .flatten()
                    .filter(|endpoint| seen.insert(identity(endpoint)))
                    .filter_map(|endpoint| endpoints.remove(&identity(endpoint)))
                    .take(MAX_ENDPOINTS_PER_SLICE)
                    .collect();
                (Some(slice), kept)
            })
            .collect();
        let mut homeless = endpoints.into_values();
        for (_, content) in &mut contents {
            let room = MAX_ENDPOINTS_PER_SLICE.saturating_sub(content.len());
            content.extend(homeless.by_ref().take(room));
        }
        loop {
            let content: Vec<Endpoint> = homeless.by_ref().take(MAX_ENDPOINTS_PER_SLICE).collect();
            if content.is_empty() && !contents.is_empty() {
                break;
            }
            contents.push((None, content));
        }
        let filled = contents.iter().any(|(_, content)| !content.is_empty());
        let mut spared = false;
        for (slice, content) in contents {
            let Some(slice) = slice else {
                if leaving {
                    continue;
                }
                let name = loop {
                    let base = service.metadata.name.clone().unwrap_or_default();
                    let name = format!("{base}-{}", name_suffix(draw));
                    draw = mix(draw);
                    let namespace = service.metadata.namespace.clone().unwrap_or_default();
                    let key = ObjectKey::new(namespace, name.clone());
                    if !view.endpoint_slices.contains_key(&key) {
                        break name;
                    }
                };
                plan.push(create(service, family, &ports, content, &labels, name));
                continue;
            };
            if content.is_empty() && (filled || spared) {
                plan.push(delete(slice, "none of its endpoints is left").in_wave(1));
                continue;
            }
            spared |= content.is_empty();
            update(slice, content, &labels, plan);
        }
    }
}

fn create(
    service: &Service,
    family: &str,
    ports: &[Port],
    endpoints: Vec<Endpoint>,
    labels: &BTreeMap<String, String>,
    name: String,
) -> Intent {
    let owner = &service.metadata;
    let base = owner.name.clone().unwrap_or_default();
    let slice = EndpointSlice {
        address_type: family.to_owned(),
        endpoints: Some(endpoints),
        metadata: ObjectMeta {
            name: Some(name),
            generate_name: Some(format!("{base}-")),
            namespace: owner.namespace.clone(),
            labels: Some(labels.clone()),
            owner_references: Some(vec![ownership::controller_reference(kinds::SERVICE, owner)]),
            ..ObjectMeta::default()
        },
        ports: Some(slice_ports(ports)),
    };
    Intent::new(
        NAME,
        format!("Service {base} has endpoints without a slice"),
        Action::Create {
            kind: kinds::ENDPOINT_SLICE,
            namespace: owner.namespace.clone().unwrap_or_default(),
            object: object_value(&slice),
        },
    )
}

fn update(
    slice: &Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    labels: &BTreeMap<String, String>,
    plan: &mut Plan,
) {
    let same = slice.endpoints.as_deref().unwrap_or_default() == endpoints.as_slice()
        && slice.metadata.labels.as_ref() == Some(labels);
    if same {
        return;
    }
    let mut updated = EndpointSlice::clone(slice);
    updated.endpoints = Some(endpoints);
    updated.metadata.labels = Some(labels.clone());
    plan.push(Intent::new(
        NAME,
        "the pods behind its Service changed",
        Action::Update {
            kind: kinds::ENDPOINT_SLICE,
            object: object_value(&updated),
        },
    ));
}
