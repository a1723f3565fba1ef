//! VirtualServices.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trireme_model::istio::{Destination, HttpMatchRequest, HttpRoute};

use super::{Concern, Finding, Findings, service};
use crate::ObjectKey;
use crate::host;
use crate::mesh::Mesh;
use crate::routing::{MESH_GATEWAY, Routing};
use crate::service::Visibility;

pub fn findings(mesh: &Mesh) -> Vec<Finding> {
    let mut found = Vec::new();
    for routing in mesh.routings().all() {
        let mut mine = Findings::of("VirtualService", &routing.key);
        hosts(mesh, routing, &mut mine);
        gateways(mesh, routing, &mut mine);
        delegates(mesh, routing, &mut mine);
        for destination in routing.destinations() {
            destination_of(mesh, routing, destination, &mut mine);
        }
        unreachable(&routing.spec.http, &mut mine);
        found.append(&mut mine.found);
    }
    same_hosts(mesh, &mut found);
    found
}

/// A host that is a Service's name, and no Service has it.
fn hosts(mesh: &Mesh, routing: &Routing, found: &mut Findings<'_>) {
    if !routing.for_mesh() {
        return;
    }
    let suffix = format!(".svc.{}", host::CLUSTER_DOMAIN);
    for name in &routing.hosts {
        let known = || service(mesh, name, &routing.key.namespace).is_some();
        if !host::is_wildcard(name) && name.ends_with(&suffix) && !known() {
            found.missing("host", name);
        }
    }
}

fn gateways(mesh: &Mesh, routing: &Routing, found: &mut Findings<'_>) {
    for name in routing.gateways.iter().filter(|it| *it != MESH_GATEWAY) {
        let Some((namespace, gateway)) = name.split_once('/') else {
            continue;
        };
        let key = ObjectKey::new(namespace, gateway);
        let Some(object) = mesh.view().gateways.get(&key) else {
            found.missing("gateway", name);
            continue;
        };
        let admits = |wanted: &String| {
            let entries = object.spec.servers.iter().flat_map(|it| &it.hosts);
            entries
                .map(|text| text.split_once('/').unwrap_or(("*", text)))
                .any(|(within, pattern)| {
                    let within = if within == "." { namespace } else { within };
                    (within == "*" || within == routing.key.namespace)
                        && host::matches(&pattern.to_ascii_lowercase(), wanted)
                })
        };
        let refused: Vec<&str> = routing
            .hosts
            .iter()
            .filter(|wanted| !admits(wanted))
            .map(String::as_str)
            .collect();
        // With the mesh beside the gateway a host may be for the mesh alone.
        let for_mesh_alone = routing.for_mesh() && refused.len() < routing.hosts.len();
        if !refused.is_empty() && !for_mesh_alone {
            found.add(
                Concern::Unresolved,
                "IST0132",
                "VirtualServiceHostNotFoundInGateway",
                format!(
                    "Gateway {name} has none of the hosts {}",
                    refused.join(", ")
                ),
            );
        }
    }
}

fn delegates(mesh: &Mesh, routing: &Routing, found: &mut Findings<'_>) {
    // Delegates are gone from what was made ready, so the object itself is looked at.
    let Some(object) = mesh.view().virtual_services.get(&routing.key) else {
        return;
    };
    for delegate in object
        .spec
        .http
        .iter()
        .filter_map(|it| it.delegate.as_ref())
    {
        let namespace = match delegate.namespace.as_str() {
            "" => routing.key.namespace.as_str(),
            other => other,
        };
        let key = ObjectKey::new(namespace, delegate.name.clone());
        match mesh.view().virtual_services.get(&key) {
            None => found.missing("VirtualService", &key.to_string()),
            Some(leaf) => {
                let export_to = leaf.spec.export_to.iter().map(String::as_str);
                let visibility = Visibility::read(export_to, namespace);
                if !leaf.spec.hosts.is_empty() || !visibility.includes(&routing.key.namespace) {
                    found.add(
                        Concern::Unresolved,
                        "IST0101",
                        "ReferencedResourceNotFound",
                        format!(
                            "Referenced VirtualService {key} cannot be delegated to: it has hosts of its own or is not \
                             exported to namespace {}",
                            routing.key.namespace
                        ),
                    );
                }
            }
        }
    }
}

fn destination_of(
    mesh: &Mesh,
    routing: &Routing,
    destination: &Destination,
    found: &mut Findings<'_>,
) {
    let namespace = routing.key.namespace.as_str();
    let Some(service) = service(mesh, &destination.host, namespace) else {
        found.missing("host", &destination.host);
        return;
    };
    match (&destination.port, service.ports.as_slice()) {
        (Some(port), ports) if ports.iter().all(|it| it.number != port.number) => {
            found.missing(
                "host:port",
                &format!("{}:{}", destination.host, port.number),
            );
        }
        (None, [_, _, ..]) if !serves_the_same(routing, service) => {
            let ports: Vec<String> = service
                .ports
                .iter()
                .map(|it| it.number.to_string())
                .collect();
            found.add(
                Concern::Unresolved,
                "IST0112",
                "VirtualServiceDestinationPortSelectorRequired",
                format!(
                    "Destination {:?} has several ports ({}): say which, or requests keep the port they came to",
                    destination.host,
                    ports.join(", ")
                ),
            );
        }
        _ => {}
    }
    if destination.subset.is_empty() {
        return;
    }
    let nothing = BTreeMap::new();
    let root = mesh.view().mesh.root_namespace.as_str();
    let rule = mesh.rules().find(service, namespace, &nothing, root);
    if rule.is_none_or(|rule| rule.subset(&destination.subset).is_none()) {
        let name = format!("{}+{}", destination.host, destination.subset);
        found.missing("host+subset in destinationrule", &name);
    }
}

/// A destination that is one of the hosts itself is meant port by port.
fn serves_the_same(routing: &Routing, service: &crate::service::Service) -> bool {
    routing.for_mesh()
        && routing
            .hosts
            .iter()
            .any(|it| host::matches(it, &service.host))
}

/// Routes after one that takes everything, and matches that an earlier one has already.
fn unreachable(routes: &[HttpRoute], found: &mut Findings<'_>) {
    let mut everything: Option<usize> = None;
    let mut seen: Vec<(usize, HttpMatchRequest)> = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let shown = match route.name.is_empty() {
            true => format!("#{index}"),
            false => format!("#{index} ({})", route.name),
        };
        if let Some(before) = everything {
            found.add(
                Concern::Shadowed,
                "IST0130",
                "VirtualServiceUnreachableRule",
                format!(
                    "Route {shown} is never reached: route #{before} before it takes every request"
                ),
            );
            continue;
        }
        if route.r#match.is_empty() || route.r#match.iter().any(takes_everything) {
            everything = Some(index);
        }
        for (place, matched) in route.r#match.iter().enumerate() {
            let mut plain = matched.clone();
            plain.name.clear();
            plain.stat_prefix.clear();
            match seen.iter().find(|(_, known)| *known == plain) {
                Some((before, _)) => found.add(
                    Concern::Shadowed,
                    "IST0131",
                    "VirtualServiceIneffectiveMatch",
                    format!("Match #{place} of route {shown} is never used: route #{before} has the same"),
                ),
                None => seen.push((index, plain)),
            }
        }
    }
}

fn takes_everything(matched: &HttpMatchRequest) -> bool {
    use trireme_model::istio::StringMatch;
    let path = match &matched.uri {
        None => true,
        Some(StringMatch::Prefix(prefix)) => prefix == "/",
        Some(StringMatch::Regex(regex)) => regex == ".*",
        Some(StringMatch::Present) => true,
        Some(StringMatch::Exact(_)) => false,
    };
    let mut rest = matched.clone();
    rest.uri = None;
    rest.name.clear();
    rest.stat_prefix.clear();
    rest.ignore_uri_case = false;
    path && rest == HttpMatchRequest::default()
}

/// Two VirtualServices for one host: in the mesh the older has it; on a gateway they are put together, and what comes
/// after a route that takes everything is never reached.
fn same_hosts(mesh: &Mesh, found: &mut Vec<Finding>) {
    let mut by_host: BTreeMap<(&str, &str), Vec<&Arc<Routing>>> = BTreeMap::new();
    for routing in mesh.routings().all() {
        for gateway in &routing.gateways {
            for host in &routing.hosts {
                let same = by_host.entry((gateway, host)).or_default();
                if !same.iter().any(|it| it.key == routing.key) {
                    same.push(routing);
                }
            }
        }
    }
    for ((gateway, host), all) in by_host {
        let with_http: Vec<_> = all.iter().filter(|it| !it.spec.http.is_empty()).collect();
        if with_http.len() < 2 {
            continue;
        }
        if gateway == MESH_GATEWAY {
            let meet = |one: &Visibility, other: &Visibility| match (one, other) {
                (Visibility::In(one), Visibility::In(other)) => !one.is_disjoint(other),
                (Visibility::Nowhere, _) | (_, Visibility::Nowhere) => false,
                _ => true,
            };
            let first = with_http[0];
            let others: Vec<_> = with_http
                .iter()
                .skip(1)
                .filter(|it| meet(&first.visibility, &it.visibility))
                .copied()
                .collect();
            if others.is_empty() {
                continue;
            }
            let mut names: BTreeSet<String> = others.iter().map(|it| it.key.to_string()).collect();
            names.insert(first.key.to_string());
            let names = names.into_iter().collect::<Vec<_>>().join(", ");
            for (place, routing) in [first].into_iter().chain(others).enumerate() {
                let mut mine = Findings::of("VirtualService", &routing.key);
                mine.add(
                    Concern::Conflict,
                    "IST0109",
                    "ConflictingMeshGatewayVirtualServiceHosts",
                    format!("VirtualServices {names} have the same host {host} in the mesh; the oldest, {}, has it: put them into one", first.key),
                );
                if place > 0 {
                    mine.add(
                        Concern::Shadowed,
                        "",
                        "HostTaken",
                        format!(
                            "Host {host} is routed by the older VirtualService {}",
                            first.key
                        ),
                    );
                }
                found.append(&mut mine.found);
            }
            continue;
        }
        let mut before: Option<&ObjectKey> = None;
        for routing in with_http {
            let catches = routing.spec.http.iter().any(|route| {
                route.r#match.is_empty() || route.r#match.iter().any(takes_everything)
            });
            if let (Some(before), true) = (before, catches) {
                let mut mine = Findings::of("VirtualService", &routing.key);
                mine.add(
                    Concern::Shadowed,
                    "IST0130",
                    "VirtualServiceUnreachableRule",
                    format!("On gateway {gateway} the route for all requests to {host} is never reached: VirtualService {before} has one, and is older"),
                );
                found.append(&mut mine.found);
            }
            if catches && before.is_none() {
                before = Some(&routing.key);
            }
        }
    }
}
