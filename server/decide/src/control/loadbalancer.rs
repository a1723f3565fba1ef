//! Services of type LoadBalancer: their addresses are those of the nodes, which answer for every Service. A node that
//! is lost takes its address back with it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Node, Service, ServiceSpec};
use trireme_model::kinds::{self, Kind};

use super::nodelifecycle::ready_status;
use super::{Controller, object_value};
use crate::intent::{Action, EventRecord, Intent, Plan};
use crate::key::ObjectKey;
use crate::view::{Object, View};

const NAME: &str = "service-load-balancer-controller";
/// On a node that is not to answer for Services.
const EXCLUDED_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

pub(crate) struct LoadBalancers;

fn field(service: &Service, read: fn(&ServiceSpec) -> Option<&str>) -> &str {
    service.spec.as_ref().and_then(read).unwrap_or_default()
}

fn is_load_balancer(service: &Service) -> bool {
    field(service, |spec| spec.type_.as_deref()) == "LoadBalancer"
}

/// Another implementation, named by its class, answers for it.
fn is_foreign(service: &Service) -> bool {
    !field(service, |spec| spec.load_balancer_class.as_deref()).is_empty()
}

fn is_local(service: &Service) -> bool {
    field(service, |spec| spec.external_traffic_policy.as_deref()) == "Local"
}

/// Addresses that the status says.
fn published(service: &Service) -> Vec<&str> {
    service
        .status
        .iter()
        .flat_map(|status| &status.load_balancer)
        .flat_map(|balancer| balancer.ingress.iter().flatten())
        .filter_map(|ingress| ingress.ip.as_deref())
        .collect()
}

/// What of a node matters here: its address, if it answers for Services.
fn address(node: &Node) -> Option<IpAddr> {
    let excluded = node
        .metadata
        .labels
        .as_ref()
        .is_some_and(|labels| labels.contains_key(EXCLUDED_LABEL));
    if excluded || node.metadata.deletion_timestamp.is_some() || ready_status(node) != Some("True")
    {
        return None;
    }
    node.status
        .iter()
        .flat_map(|status| status.addresses.iter().flatten())
        .find(|address| address.type_ == "InternalIP")?
        .address
        .parse()
        .ok()
}

fn address_of(object: Option<&Object>) -> Option<IpAddr> {
    match object {
        Some(Object::Node(node)) => address(node),
        _ => None,
    }
}

fn name_of(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

/// Names of the nodes with ready endpoints of the Service.
fn hosts(view: &View, service: &ObjectKey) -> BTreeSet<String> {
    view.slices_of(service)
        .flat_map(|slice| slice.endpoints.iter().flatten())
        .filter(|endpoint| {
            let ready = endpoint.conditions.as_ref().and_then(|it| it.ready);
            ready.unwrap_or(true)
        })
        .filter_map(|endpoint| endpoint.node_name.clone())
        .collect()
}

impl Controller for LoadBalancers {
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
            return after.map(Object::key).into_iter().collect();
        }
        if kind == kinds::ENDPOINT_SLICE {
            return [before, after]
                .into_iter()
                .flatten()
                .filter_map(|object| {
                    let labels = object.metadata().labels.as_ref()?;
                    let name = labels.get(crate::view::SERVICE_NAME_LABEL)?;
                    let key = ObjectKey::new(object.key().namespace, name.clone());
                    view.service(&key)
                        .is_some_and(|service| is_load_balancer(service) && is_local(service))
                        .then_some(key)
                })
                .collect();
        }
        if kind == kinds::NODE && address_of(before) != address_of(after) {
            return view
                .services
                .iter()
                .filter(|(_, service)| is_load_balancer(service))
                .map(|(key, _)| key.clone())
                .collect();
        }
        Vec::new()
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _seed: u64) -> Plan {
        let mut plan = Plan::default();
        let Some(service) = view.service(key) else {
            return plan;
        };
        if service.metadata.deletion_timestamp.is_some()
            || is_load_balancer(service) && is_foreign(service)
        {
            return plan;
        }
        let addresses: BTreeSet<IpAddr> = if is_load_balancer(service) {
            let hosts = is_local(service).then(|| hosts(view, key));
            view.nodes()
                .filter(|node| {
                    hosts
                        .as_ref()
                        .is_none_or(|hosts| hosts.contains(name_of(node)))
                })
                .filter_map(|node| address(node))
                .collect()
        } else {
            BTreeSet::new()
        };
        let wanted: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let published = published(service);
        if published == wanted {
            return plan;
        }
        let mut updated = Service::clone(service);
        let ingress = wanted
            .iter()
            .map(|ip| LoadBalancerIngress {
                ip: Some(ip.clone()),
                ip_mode: Some("VIP".to_owned()),
                ..LoadBalancerIngress::default()
            })
            .collect();
        updated
            .status
            .get_or_insert_default()
            .load_balancer
            .get_or_insert_default()
            .ingress = (!wanted.is_empty()).then_some(ingress);
        let metadata = &service.metadata;
        let mut intent = Intent::new(
            NAME,
            format!(
                "service {key} is reached at {:?} and says {published:?}",
                wanted
            ),
            Action::UpdateStatus {
                kind: kinds::SERVICE,
                object: object_value(&updated),
            },
        );
        if published.is_empty() {
            intent = intent.with_event(EventRecord::normal(
                kinds::SERVICE,
                metadata,
                "EnsuredLoadBalancer",
                "Ensured load balancer",
            ));
        }
        plan.push(intent);
        plan
    }
}
