//! DestinationRules.

use std::collections::BTreeMap;

use trireme_model::istio::{ClientTlsMode, Subset, TrafficPolicy};

use super::{Concern, Finding, Findings, service};
use crate::ObjectKey;
use crate::endpoint::endpoints;
use crate::host;
use crate::mesh::Mesh;
use crate::service::{Origin, Service};
use crate::view::{View, selects};

pub fn findings(mesh: &Mesh) -> Vec<Finding> {
    let view = mesh.view();
    let mut found = Vec::new();
    // Of one host in one namespace, the oldest first.
    let mut same: BTreeMap<(String, String), Vec<&ObjectKey>> = BTreeMap::new();
    let mut in_order: Vec<_> = view.destination_rules.iter().collect();
    in_order.sort_by_key(|(key, object)| {
        let created = object.metadata.creation_timestamp.as_ref().map(|it| it.0);
        (created, key.name.clone())
    });
    let mut subsets: BTreeMap<(String, String, String), &ObjectKey> = BTreeMap::new();
    for (key, object) in in_order {
        let mut mine = Findings::of("DestinationRule", key);
        let host = host::resolve(&object.spec.host, &key.namespace);
        let meant: Vec<_> = match host::is_wildcard(&host) {
            true => {
                let all = view
                    .registry
                    .all()
                    .filter(|(name, _)| host::covers(&host, name));
                all.flat_map(|(_, services)| services)
                    .map(|it| it.as_ref())
                    .collect()
            }
            false => service(mesh, &host, &key.namespace).into_iter().collect(),
        };
        if meant.is_empty() {
            mine.add(
                Concern::Unresolved,
                "IST0174",
                "UnknownDestinationRuleHost",
                format!("No service of the mesh has the host {host}"),
            );
        }
        for subset in &object.spec.subsets {
            let slot = (key.namespace.clone(), host.clone(), subset.name.clone());
            match subsets.get(&slot) {
                Some(before) => mine.add(
                    Concern::Shadowed,
                    "",
                    "SubsetTaken",
                    match *before == key {
                        true => format!("Subset {} is there twice; the first holds", subset.name),
                        false => format!(
                            "Subset {} of host {host} is that of the older DestinationRule {before}",
                            subset.name
                        ),
                    },
                ),
                None => drop(subsets.insert(slot, key)),
            }
            let selects_some = meant
                .iter()
                .any(|service| has_subset(view, service, subset));
            if !meant.is_empty() && !selects_some {
                mine.add(
                    Concern::Unresolved,
                    "IST0173",
                    "DestinationRuleSubsetNotSelectPods",
                    format!(
                        "Subset {} selects no pod: requests to it are answered 503 UH",
                        subset.name
                    ),
                );
            }
        }
        let rule = same
            .entry((key.namespace.clone(), host.clone()))
            .or_default();
        if let Some(first) = rule.first()
            && object.spec.traffic_policy.is_some()
            && view
                .destination_rules
                .get(first)
                .is_some_and(|it| it.spec.traffic_policy.is_some())
            && object.spec.workload_selector.is_none()
        {
            mine.add(
                Concern::Conflict,
                "",
                "TrafficPolicyTaken",
                format!("Host {host} has the traffic policy of the older DestinationRule {first}; only subsets of this one are used"),
            );
        }
        rule.push(key);
        let own = object.spec.traffic_policy.iter();
        let of_subsets = object
            .spec
            .subsets
            .iter()
            .filter_map(|it| it.traffic_policy.as_ref());
        for policy in own.chain(of_subsets) {
            transport(policy, &host, &mut mine);
        }
        found.append(&mut mine.found);
    }
    found
}

/// Whether some pod or endpoint is of the subset. Pods are looked at whether they are ready or not: one that starts is
/// no mistake of the rule's.
fn has_subset(view: &View, service: &Service, subset: &Subset) -> bool {
    if service.origin == Origin::Kubernetes && !service.selector.is_empty() {
        let mut pods = view.pods.iter();
        return pods.any(|(key, pod)| {
            key.namespace == service.namespace
                && selects(&service.selector, &pod.labels)
                && selects(&subset.labels, &pod.labels)
        });
    }
    let mut ports = service.ports.iter();
    ports.any(|port| {
        let mut all = endpoints(view, service, port).into_iter();
        all.any(|it| selects(&subset.labels, &it.labels))
    })
}

fn transport(policy: &TrafficPolicy, host: &str, found: &mut Findings<'_>) {
    let zones = policy.load_balancer.as_ref();
    let ignored = [
        (policy.tunnel.is_some(), "tunnel"),
        (
            zones.is_some_and(|it| it.zone_aware_lb_setting.is_some()),
            "loadBalancer.zoneAwareLbSetting",
        ),
    ];
    for (_, field) in ignored.into_iter().filter(|(given, _)| *given) {
        found.add(
            Concern::Limited,
            "",
            "FieldHasNoEffect",
            format!("{field} towards {host} has no effect in this version"),
        );
    }
    let of_ports = policy
        .port_level_settings
        .iter()
        .filter_map(|it| it.tls.as_ref());
    for settings in policy.tls.iter().chain(of_ports) {
        if settings.mode == ClientTlsMode::IstioMutual {
            found.add(
                Concern::Limited,
                "",
                "IdentitiesNotIssued",
                format!("TLS mode ISTIO_MUTUAL towards {host}: workloads have no identities in this version, traffic between sidecars is plain"),
            );
        }
    }
}
