//! Endpoints that somebody wrote by hand for a Service without a selector, mirrored into
//! EndpointSlices: slices are all that service rules and DNS look at.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use trireme_model::kinds::{self, Kind};

use super::{Controller, backend, leaving_namespace, object_value, ownership};
use crate::intent::{Action, Intent, Plan, Propagation};
use crate::key::ObjectKey;
use crate::view::{Object, SERVICE_NAME_LABEL, View};

const NAME: &str = "endpointslicemirroring-controller";
const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGED_BY: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";

/// Most addresses of one subset that are mirrored, as in Kubernetes.
const MAX_ADDRESSES: usize = 1000;

pub(crate) struct EndpointMirrors;

impl Controller for EndpointMirrors {
    fn name(&self) -> &'static str {
        NAME
    }

    fn enqueue(
        &self,
        _view: &View,
        kind: &Kind,
        before: Option<&Object>,
        after: Option<&Object>,
    ) -> Vec<ObjectKey> {
        if kind == kinds::SERVICE || kind == kinds::ENDPOINTS {
            return before.or(after).map(Object::key).into_iter().collect();
        }
        if kind != kinds::ENDPOINT_SLICE {
            return Vec::new();
        }
        let service = |object: &Object| {
            let metadata = object.metadata();
            let labels = metadata.labels.as_ref()?;
            (labels.get(MANAGED_BY_LABEL)? == MANAGED_BY).then_some(())?;
            Some(ObjectKey::new(
                metadata.namespace.clone()?,
                labels.get(SERVICE_NAME_LABEL)?,
            ))
        };
        [before, after]
            .into_iter()
            .flatten()
            .filter_map(service)
            .collect()
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _seed: u64) -> Plan {
        let mut plan = Plan::default();
        let mut existing: BTreeMap<String, &Arc<EndpointSlice>> = view
            .slices_of(key)
            .filter(|slice| {
                let labels = slice.metadata.labels.as_ref();
                labels
                    .and_then(|labels| labels.get(MANAGED_BY_LABEL))
                    .map(String::as_str)
                    == Some(MANAGED_BY)
            })
            .map(|slice| (slice.metadata.name.clone().unwrap_or_default(), slice))
            .collect();
        for wanted in wanted(view, key) {
            let name = wanted.metadata.name.clone().unwrap_or_default();
            match existing.remove(&name) {
                None if leaving_namespace(view, &key.namespace) => {}
                None => plan.push(Intent::new(
                    NAME,
                    format!("Endpoints {} were written by hand", key.name),
                    Action::Create {
                        kind: kinds::ENDPOINT_SLICE,
                        namespace: key.namespace.clone(),
                        object: object_value(&wanted),
                    },
                )),
                Some(known) => {
                    let same = known.endpoints.as_deref().unwrap_or_default()
                        == wanted.endpoints.as_deref().unwrap_or_default()
                        && known.ports.as_deref().unwrap_or_default()
                            == wanted.ports.as_deref().unwrap_or_default()
                        && known.metadata.labels == wanted.metadata.labels;
                    if same || known.metadata.deletion_timestamp.is_some() {
                        continue;
                    }
                    let mut updated = EndpointSlice::clone(known);
                    updated.endpoints = wanted.endpoints;
                    updated.ports = wanted.ports;
                    updated.metadata.labels = wanted.metadata.labels;
                    plan.push(Intent::new(
                        NAME,
                        "the Endpoints it mirrors changed",
                        Action::Update {
                            kind: kinds::ENDPOINT_SLICE,
                            object: object_value(&updated),
                        },
                    ));
                }
            }
        }
        for (name, slice) in existing {
            if slice.metadata.deletion_timestamp.is_some() {
                continue;
            }
            plan.push(Intent::new(
                NAME,
                "there is nothing left for it to mirror",
                Action::Delete {
                    kind: kinds::ENDPOINT_SLICE,
                    namespace: key.namespace.clone(),
                    name,
                    uid: slice.metadata.uid.clone().unwrap_or_default(),
                    resource_version: slice.metadata.resource_version.clone(),
                    grace_seconds: None,
                    propagation: Propagation::Background,
                },
            ));
        }
        plan
    }
}

/// The slices that mirror a list: one for each subset and address family.
fn wanted(view: &View, key: &ObjectKey) -> Vec<EndpointSlice> {
    let staying = |metadata: &ObjectMeta| metadata.deletion_timestamp.is_none();
    let list = view
        .endpoints
        .get(key)
        .filter(|list| staying(&list.metadata));
    let service = view
        .service(key)
        .filter(|service| staying(&service.metadata));
    let (Some(list), Some(service)) = (list, service) else {
        return Vec::new();
    };
    let external = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    let skipped = list
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(SKIP_LABEL))
        .is_some_and(|skip| skip == "true");
    if skipped || external == Some("ExternalName") || backend::selector(service).is_some() {
        return Vec::new();
    }
    let mut slices = Vec::new();
    for (index, subset) in list.subsets.iter().flatten().enumerate() {
        for (family, is_ipv4) in [("IPv4", true), ("IPv6", false)] {
            let endpoints = endpoints_of(subset, is_ipv4);
            if !endpoints.is_empty() {
                slices.push(slice(list, index, family, subset, endpoints));
            }
        }
    }
    slices
}

fn endpoints_of(subset: &EndpointSubset, is_ipv4: bool) -> Vec<Endpoint> {
    let ready = subset
        .addresses
        .iter()
        .flatten()
        .map(|address| (address, true));
    let unready = subset
        .not_ready_addresses
        .iter()
        .flatten()
        .map(|address| (address, false));
    ready
        .chain(unready)
        .filter(|(address, _)| {
            let address: Result<IpAddr, _> = address.ip.parse();
            address.is_ok_and(|address| address.is_ipv4() == is_ipv4)
        })
        .take(MAX_ADDRESSES)
        .map(|(address, ready)| endpoint(address, ready))
        .collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn slice(
    list: &Endpoints,
    index: usize,
    family: &str,
    subset: &EndpointSubset,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let owner = &list.metadata;
    let name = owner.name.clone().unwrap_or_default();
    let mut labels = owner.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME_LABEL.to_owned(), name.clone());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    });
    EndpointSlice {
        address_type: family.to_owned(),
        endpoints: Some(endpoints),
        metadata: ObjectMeta {
            // A name of its own for each, the same every time: nothing has to be matched up.
            name: Some(format!("{name}-mirror-{index}-{}", family.to_lowercase())),
            namespace: owner.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![ownership::controller_reference(
                kinds::ENDPOINTS,
                owner,
            )]),
            ..ObjectMeta::default()
        },
        ports: Some(ports.collect()),
    }
}
