//! Endpoints: the older form of what EndpointSlices say, for clients that still read it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use trireme_model::kinds::{self, Kind};

use super::backend::{self, Backend, HEADLESS_LABEL, Port};
use super::{Controller, leaving_namespace, object_value};
use crate::intent::{Action, Intent, Plan, Propagation};
use crate::key::ObjectKey;
use crate::view::{Object, View};

const NAME: &str = "endpoint-controller";
const MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";

/// Most addresses one object holds, as in Kubernetes; the rest is only in EndpointSlices.
const MAX_ADDRESSES: usize = 1000;
/// Says that addresses were left out.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

pub(crate) struct EndpointLists;

impl Controller for EndpointLists {
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
        if kind == kinds::SERVICE || kind == kinds::ENDPOINTS {
            return before.or(after).map(Object::key).into_iter().collect();
        }
        backend::services_touched(view, kind, before, after)
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _seed: u64) -> Plan {
        let mut plan = Plan::default();
        let known = view.endpoints.get(key);
        let service = view
            .service(key)
            .filter(|service| service.metadata.deletion_timestamp.is_none());
        let Some(service) = service else {
            // Lists that somebody wrote by hand are his to delete.
            let ours = known.filter(|known| {
                let labels = known.metadata.labels.as_ref();
                labels
                    .and_then(|it| it.get(MANAGED_BY_LABEL))
                    .map(String::as_str)
                    == Some(NAME)
                    && known.metadata.deletion_timestamp.is_none()
            });
            if let Some(known) = ours {
                plan.push(Intent::new(
                    NAME,
                    "its Service is gone",
                    Action::Delete {
                        kind: kinds::ENDPOINTS,
                        namespace: key.namespace.clone(),
                        name: key.name.clone(),
                        uid: known.metadata.uid.clone().unwrap_or_default(),
                        resource_version: known.metadata.resource_version.clone(),
                        grace_seconds: None,
                        propagation: Propagation::Background,
                    },
                ));
            }
            return plan;
        };
        if backend::selector(service).is_none() {
            return plan;
        }
        let (subsets, truncated) = subsets(service, &backend::backends(view, service));
        let labels = labels(service);
        let Some(known) = known else {
            if leaving_namespace(view, &key.namespace) {
                return plan;
            }
            let list = Endpoints {
                metadata: ObjectMeta {
                    name: Some(key.name.clone()),
                    namespace: Some(key.namespace.clone()),
                    labels: Some(labels),
                    annotations: annotations(None, truncated),
                    ..ObjectMeta::default()
                },
                subsets,
            };
            plan.push(Intent::new(
                NAME,
                format!("Service {} has no Endpoints yet", key.name),
                Action::Create {
                    kind: kinds::ENDPOINTS,
                    namespace: key.namespace.clone(),
                    object: object_value(&list),
                },
            ));
            return plan;
        };
        let old = known.subsets.clone().filter(|subsets| !subsets.is_empty());
        let annotations = annotations(known.metadata.annotations.as_ref(), truncated);
        let same = old == subsets
            && known.metadata.labels.as_ref() == Some(&labels)
            && known.metadata.annotations == annotations;
        if !same {
            let mut updated = Endpoints::clone(known);
            updated.subsets = subsets;
            updated.metadata.labels = Some(labels);
            updated.metadata.annotations = annotations;
            plan.push(Intent::new(
                NAME,
                "the pods behind its Service changed",
                Action::Update {
                    kind: kinds::ENDPOINTS,
                    object: object_value(&updated),
                },
            ));
        }
        plan
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if backend::is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY_LABEL.to_owned(), NAME.to_owned());
    labels
}

fn annotations(
    known: Option<&BTreeMap<String, String>>,
    truncated: bool,
) -> Option<BTreeMap<String, String>> {
    let mut annotations = known.cloned().unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    (!annotations.is_empty() || known.is_some()).then_some(annotations)
}

/// The addresses grouped by their ports, and whether some were left out.
fn subsets(service: &Service, backends: &[Backend<'_>]) -> (Option<Vec<EndpointSubset>>, bool) {
    let all = backend::publishes_all(service);
    let mut listed: Vec<&Backend<'_>> = backends
        .iter()
        .filter(|backend| all || !backend.terminating)
        .filter(|backend| !backend.ports.is_empty() || backend::is_headless(service))
        .collect();
    // The ready ones first, so that they are the last to be left out.
    listed.sort_by_key(|backend| (!backend.ready, backend.pod.metadata.name.clone()));
    let truncated = listed.len() > MAX_ADDRESSES;
    listed.truncate(MAX_ADDRESSES);
    let mut groups: BTreeMap<Vec<Port>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> =
        BTreeMap::new();
    for backend in listed {
        let pod = backend.pod;
        let Some(address) = backend.addresses.first() else {
            continue;
        };
        let address = EndpointAddress {
            ip: address.to_string(),
            hostname: backend::hostname(pod, service),
            node_name: crate::pod::node_of(pod).map(str::to_owned),
            target_ref: Some(ObjectReference {
                kind: Some("Pod".to_owned()),
                namespace: pod.metadata.namespace.clone(),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
                ..ObjectReference::default()
            }),
        };
        let mut ports = backend.ports.clone();
        ports.sort();
        let (ready, not_ready) = groups.entry(ports).or_default();
        if backend.ready {
            ready.push(address);
        } else {
            not_ready.push(address);
        }
    }
    let subsets: Vec<EndpointSubset> = groups
        .into_iter()
        .map(|(ports, (mut ready, mut not_ready))| {
            ready.sort_by(|one, other| one.ip.cmp(&other.ip));
            not_ready.sort_by(|one, other| one.ip.cmp(&other.ip));
            let ports: Vec<EndpointPort> = ports
                .into_iter()
                .map(|port| EndpointPort {
                    name: Some(port.name).filter(|name| !name.is_empty()),
                    port: port.number,
                    protocol: Some(port.protocol),
                    app_protocol: port.application_protocol,
                })
                .collect();
            EndpointSubset {
                addresses: (!ready.is_empty()).then_some(ready),
                not_ready_addresses: (!not_ready.is_empty()).then_some(not_ready),
                ports: (!ports.is_empty()).then_some(ports),
            }
        })
        .collect();
    ((!subsets.is_empty()).then_some(subsets), truncated)
}
