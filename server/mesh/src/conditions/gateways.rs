//! Gateways, Sidecars, ServiceEntries and EnvoyFilters: whom they select, and what they want of each other.

use std::collections::BTreeMap;

use trireme_model::istio::ServerTlsMode;

use super::{Concern, Finding, Findings};
use crate::ObjectKey;
use crate::host;
use crate::mesh::Mesh;
use crate::protocol::{Protocol, Treatment};
use crate::secret::AUTHORITY_SUFFIX;
use crate::view::selects;

pub fn findings(mesh: &Mesh) -> Vec<Finding> {
    let mut found = Vec::new();
    gateways(mesh, &mut found);
    sidecars(mesh, &mut found);
    entries(mesh, &mut found);
    for (key, object) in &mesh.view().envoy_filters {
        let mut mine = Findings::of("EnvoyFilter", key);
        if let Some(selector) = &object.spec.workload_selector {
            let everywhere = key.namespace == mesh.view().mesh.root_namespace;
            selected(
                mesh,
                &selector.labels,
                (!everywhere).then_some(&key.namespace),
                &mut mine,
            );
        }
        found.append(&mut mine.found);
    }
    found
}

/// That some pod has the labels; without a namespace anywhere.
fn selected(
    mesh: &Mesh,
    labels: &BTreeMap<String, String>,
    namespace: Option<&String>,
    found: &mut Findings<'_>,
) {
    let mut pods = mesh.view().pods.iter();
    let some = pods.any(|(key, pod)| {
        namespace.is_none_or(|it| *it == key.namespace) && selects(labels, &pod.labels)
    });
    if !some {
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        found.add(
            Concern::Unresolved,
            "IST0127",
            "NoMatchingWorkloadsFound",
            format!("No pod has the labels {}", labels.join(",")),
        );
    }
}

fn gateways(mesh: &Mesh, found: &mut Vec<Finding>) {
    let view = mesh.view();
    let mut in_order: Vec<_> = view.gateways.iter().collect();
    in_order.sort_by_key(|(key, object)| {
        let created = object.metadata.creation_timestamp.as_ref().map(|it| it.0);
        (created, key.name.clone(), key.namespace.clone())
    });
    // What is claimed of each selector's port: treatment, hosts, by whom.
    let mut claims: Vec<(
        &BTreeMap<String, String>,
        u32,
        Protocol,
        Vec<String>,
        &ObjectKey,
    )> = Vec::new();
    for (key, object) in in_order {
        let mut mine = Findings::of("Gateway", key);
        if !object.spec.selector.is_empty() {
            selected(mesh, &object.spec.selector, None, &mut mine);
        }
        for server in &object.spec.servers {
            let Some(port) = &server.port else { continue };
            let protocol = Protocol::parse(&port.protocol);
            let hosts: Vec<String> = server
                .hosts
                .iter()
                .map(|it| {
                    it.split_once('/')
                        .map_or(it.as_str(), |(_, host)| host)
                        .to_ascii_lowercase()
                })
                .collect();
            for (selector, number, other, claimed, by) in &claims {
                if *selector != &object.spec.selector || *number != port.number || *by == key {
                    continue;
                }
                let http = protocol.treatment() == Treatment::Http;
                let mixed = http != (other.treatment() == Treatment::Http);
                let shared: Vec<&str> = hosts
                    .iter()
                    .filter(|host| claimed.contains(host))
                    .map(String::as_str)
                    .collect();
                if mixed || (!shared.is_empty() && !http) {
                    mine.add(
                        Concern::Conflict,
                        "IST0145",
                        "ConflictingGateways",
                        match mixed {
                            true => format!("Port {} is {other} by the older Gateway {by}; {protocol} is not served there", port.number),
                            false => format!("Hosts {} on port {} are those of the older Gateway {by}", shared.join(", "), port.number),
                        },
                    );
                } else if !shared.is_empty() {
                    mine.add(
                        Concern::Conflict,
                        "IST0145",
                        "ConflictingGateways",
                        format!("Hosts {} on port {} are also Gateway {by}'s; VirtualServices of both are put together", shared.join(", "), port.number),
                    );
                }
            }
            claims.push((&object.spec.selector, port.number, protocol, hosts, key));
            credentials(mesh, &object.spec.selector, server, &mut mine);
        }
        found.append(&mut mine.found);
    }
}

fn credentials(
    mesh: &Mesh,
    selector: &BTreeMap<String, String>,
    server: &trireme_model::istio::Server,
    found: &mut Findings<'_>,
) {
    let Some(tls) = &server.tls else { return };
    if tls.mode == ServerTlsMode::IstioMutual {
        found.add(
            Concern::Limited,
            "",
            "IdentitiesNotIssued",
            "TLS mode ISTIO_MUTUAL: workloads have no identities in this version, the server is not opened".to_owned(),
        );
    }
    let view = mesh.view();
    let names = tls.credential_names.iter().chain([&tls.credential_name]);
    for name in names.filter(|it| !it.is_empty()) {
        let mut spaces: Vec<&str> = view
            .pods
            .values()
            .filter(|pod| selects(selector, &pod.labels))
            .map(|pod| pod.namespace.as_str())
            .collect();
        spaces.dedup();
        for namespace in spaces {
            let of = |name: &str| view.credentials.get(&ObjectKey::new(namespace, name));
            let whole = of(name).is_some_and(|it| !it.certificate.is_empty());
            if !whole {
                found.missing("credentialName", &format!("{namespace}/{name}"));
                continue;
            }
            let authority = of(name).is_some_and(|it| !it.authorities.is_empty())
                || of(&format!("{name}{AUTHORITY_SUFFIX}"))
                    .is_some_and(|it| !it.authorities.is_empty());
            if tls.mode == ServerTlsMode::Mutual && !authority {
                found.missing(
                    "credentialName",
                    &format!("{namespace}/{name}{AUTHORITY_SUFFIX}"),
                );
            }
        }
    }
}

fn sidecars(mesh: &Mesh, found: &mut Vec<Finding>) {
    let view = mesh.view();
    let mut without: BTreeMap<&str, Vec<&ObjectKey>> = BTreeMap::new();
    for (key, object) in &view.sidecars {
        let mut mine = Findings::of("Sidecar", key);
        match &object.spec.workload_selector {
            None => without.entry(&key.namespace).or_default().push(key),
            Some(selector) => {
                selected(mesh, &selector.labels, Some(&key.namespace), &mut mine);
                let others = view
                    .sidecars
                    .iter()
                    .filter(|(other, _)| other.namespace == key.namespace && *other != key);
                for (other, rival) in others {
                    let Some(theirs) = &rival.spec.workload_selector else {
                        continue;
                    };
                    let both = view.pods.values().find(|pod| {
                        pod.namespace == key.namespace
                            && selects(&selector.labels, &pod.labels)
                            && selects(&theirs.labels, &pod.labels)
                    });
                    if let Some(pod) = both {
                        mine.add(
                            Concern::Conflict,
                            "IST0110",
                            "ConflictingSidecarWorkloadSelectors",
                            format!(
                                "Sidecar {other} selects pod {} too; the older of the two holds",
                                pod.name
                            ),
                        );
                    }
                }
            }
        }
        for listener in &object.spec.egress {
            for text in &listener.hosts {
                let Some((within, name)) = text.split_once('/') else {
                    continue;
                };
                let within = if within == "." {
                    key.namespace.as_str()
                } else {
                    within
                };
                let pattern = name.to_ascii_lowercase();
                if within == "*" || within == "~" || pattern == "*" {
                    continue;
                }
                let mut services = view.registry.all();
                let known = services.any(|(host, all)| {
                    host::covers(&pattern, host) && all.iter().any(|it| it.namespace == within)
                });
                if !known {
                    mine.missing("host in Sidecar", text);
                }
            }
        }
        found.append(&mut mine.found);
    }
    for (namespace, keys) in without.into_iter().filter(|(_, keys)| keys.len() > 1) {
        let names: Vec<String> = keys.iter().map(|it| it.name.clone()).collect();
        for key in keys {
            let mut mine = Findings::of("Sidecar", key);
            mine.add(
                Concern::Conflict,
                "IST0111",
                "MultipleSidecarsWithoutWorkloadSelectors",
                format!(
                    "Sidecars {} of namespace {namespace} have no selector; the oldest holds",
                    names.join(", ")
                ),
            );
            found.append(&mut mine.found);
        }
    }
}

fn entries(mesh: &Mesh, found: &mut Vec<Finding>) {
    let view = mesh.view();
    for (key, object) in &view.service_entries {
        let mut mine = Findings::of("ServiceEntry", key);
        if let Some(selector) = &object.spec.workload_selector {
            let machines = view.workload_entries.iter().any(|(other, it)| {
                other.namespace == key.namespace && selects(&selector.labels, &it.spec.labels)
            });
            if !machines {
                selected(mesh, &selector.labels, Some(&key.namespace), &mut mine);
            }
        }
        for host in &object.spec.hosts {
            let host = host.to_ascii_lowercase();
            for other in view.registry.of_host(&host) {
                if other.source == *key && other.origin == crate::service::Origin::ServiceEntry {
                    continue;
                }
                let clash = object.spec.ports.iter().find_map(|port| {
                    let theirs = other.port(port.number)?;
                    let mine = Protocol::parse(&port.protocol);
                    (theirs.protocol != mine).then_some((port.number, mine, theirs.protocol))
                });
                if let Some((number, own, theirs)) = clash {
                    mine.add(
                        Concern::Conflict,
                        "IST0177",
                        "ConflictingServiceEntryProtocol",
                        format!(
                            "Host {host} port {number} is {own} here and {theirs} by {}",
                            other.source
                        ),
                    );
                }
            }
        }
        found.append(&mut mine.found);
    }
}
