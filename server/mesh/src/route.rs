//! Route configurations: which requests of a listener's port go where.

mod action;
mod matching;
mod policy;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cluster::{BLACK_HOLE, PASSTHROUGH};
use crate::host;
use crate::proto::{boolean, core, no_timeout, route as pb, uint};
use crate::protocol::Protocol;
use crate::routing::{MESH_GATEWAY, Routing};
use crate::scope::{Egress, Scope};
use crate::service::{Origin, Port, Resolution, Service};
use crate::view::View;
use crate::workload::Workload;

pub use action::{Context, default_route, destination_cluster, inbound_route, routes, to_cluster};
pub use matching::is_catch_all;

/// Istio's bound for the body of a direct response.
const DIRECT_RESPONSE_MAX_BYTES: u32 = 1024 * 1024;
/// The only port on which hosts that no service has are routed: clients reach them by their names in DNS.
const UNREGISTERED_HOSTS_PORT: u32 = 80;

/// Route names of services whose protocol is detected: `HOST:PORT`; of all others the port.
pub fn parse_name(name: &str) -> Option<(Option<&str>, u32)> {
    match name.rsplit_once(':') {
        Some((host, port)) => Some((Some(host), port.parse().ok()?)),
        None => Some((None, name.parse().ok()?)),
    }
}

/// Hosts that share their routes.
struct Group {
    services: Vec<(Arc<Service>, Port)>,
    /// Of a VirtualService, and no service's.
    hosts: Vec<String>,
    routes: Vec<pb::Route>,
    reference: Option<String>,
}

/// The outbound routes of a sidecar, by the name that a listener gives. One that is unknown is empty.
pub fn outbound(
    view: &View,
    scope: &Scope,
    workload: &Workload,
    name: &str,
) -> pb::RouteConfiguration {
    let mut hosts = match parse_name(name) {
        Some((only, port)) => virtual_hosts(view, scope, workload, port, only),
        None => Vec::new(),
    };
    if let Some((None, port)) = parse_name(name)
        && scope.egress_of_port(port).is_some()
    {
        hosts.push(catch_all(scope, port));
    }
    let mut configuration = configuration(name, hosts);
    crate::filters::routes(
        view,
        workload,
        crate::filters::Context::SidecarOutbound,
        &mut configuration,
    );
    configuration
}

/// The virtual host of one service's port, under all its names with and without the port.
pub fn of_service(
    view: &View,
    scope: &Scope,
    workload: &Workload,
    host: &str,
    port: u32,
) -> Vec<pb::VirtualHost> {
    let mut hosts = virtual_hosts(view, scope, workload, port, Some(host));
    if let (Some(only), Some(service)) = (hosts.first_mut(), scope.service(host)) {
        only.domains = domains_of(scope, service, workload)
            .into_iter()
            .flat_map(|name| [format!("{name}:{port}"), name])
            .collect();
    }
    hosts
}

/// What every route configuration has.
pub fn configuration(name: &str, hosts: Vec<pb::VirtualHost>) -> pb::RouteConfiguration {
    pb::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: hosts,
        validate_clusters: boolean(false),
        max_direct_response_body_size_bytes: uint(DIRECT_RESPONSE_MAX_BYTES),
        ignore_port_in_host_matching: true,
        ..pb::RouteConfiguration::default()
    }
}

fn virtual_hosts(
    view: &View,
    scope: &Scope,
    workload: &Workload,
    port: u32,
    only: Option<&str>,
) -> Vec<pb::VirtualHost> {
    let egress = match only {
        Some(_) => scope.catch_all(),
        None => scope.egress_of_port(port),
    };
    let Some(egress) = egress else {
        return Vec::new();
    };
    let groups = groups(view, scope, workload, egress, port, only);
    let mut names = BTreeSet::new();
    let mut domains = Domains::new(&groups);
    let mut hosts: Vec<pb::VirtualHost> = Vec::new();
    for group in &groups {
        let plain = group.hosts.iter().map(|host| (host, vec![host.clone()]));
        let services = group.services.iter();
        let served = services.map(|(it, _)| (&it.host, domains_of(scope, it, workload)));
        for (host, wanted) in plain.chain(served) {
            if !names.insert(host.clone()) {
                continue;
            }
            let taken = domains.take(host, wanted);
            if taken.is_empty() {
                continue;
            }
            let mut metadata = None;
            if let Some(reference) = &group.reference {
                trireme_xds::metadata::set_object(&mut metadata, reference);
            }
            hosts.push(pb::VirtualHost {
                name: format!("{host}:{port}"),
                domains: match only {
                    Some(_) => vec!["*".to_owned()],
                    None => taken,
                },
                routes: group.routes.clone(),
                include_request_attempt_count: true,
                metadata,
                ..pb::VirtualHost::default()
            });
        }
    }
    hosts.sort_by(|one, other| one.name.cmp(&other.name));
    hosts
}

/// The hosts of a port with their routes: those that a VirtualService speaks of first, the oldest before the others,
/// then the rest with a route of their own.
fn groups(
    view: &View,
    scope: &Scope,
    workload: &Workload,
    egress: &Egress,
    port: u32,
    only: Option<&str>,
) -> Vec<Group> {
    // Ports of explicit listeners that stand for an HTTP proxy take in every service.
    let on_port: BTreeMap<&str, (&Arc<Service>, &Port)> = egress
        .services
        .values()
        .filter(|service| only.is_none_or(|only| service.host == only))
        .filter_map(|service| {
            let explicit = egress.port.as_ref().map(|it| it.number);
            let found = service
                .port(port)
                .or_else(|| match service.ports.as_slice() {
                    [single] if explicit == Some(port) => Some(single),
                    _ => None,
                })?;
            (found.protocol != Protocol::Udp).then_some((service.host.as_str(), (service, found)))
        })
        .collect();
    let mut chosen: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for (host, index) in choose(&egress.routings, &on_port) {
        chosen.entry(index).or_default().push(host);
    }
    let gateways = BTreeSet::from([MESH_GATEWAY.to_owned()]);
    let context = Context {
        view,
        scope,
        workload,
        gateways: &gateways,
        port,
        tls: false,
    };
    let mut groups = Vec::new();
    let mut routed: BTreeSet<&str> = BTreeSet::new();
    for (index, routing) in egress.routings.iter().enumerate() {
        let mine = chosen.get(&index).map_or(&[][..], Vec::as_slice);
        let unregistered: Vec<String> = routing
            .hosts
            .iter()
            .filter(|name| match host::is_wildcard(name) {
                true => !on_port.keys().any(|host| host::covers(name, host)),
                false => !on_port.contains_key(name.as_str()),
            })
            .cloned()
            .collect();
        let plain = port == UNREGISTERED_HOSTS_PORT && only.is_none() && !unregistered.is_empty();
        if mine.is_empty() && !plain {
            continue;
        }
        let routes = action::routes(routing, &context);
        if routes.is_empty() {
            continue;
        }
        let services: Vec<(Arc<Service>, Port)> = mine
            .iter()
            .filter_map(|host| on_port.get(host))
            .filter(|(_, port)| port.protocol.is_http_or_detected())
            .map(|(service, port)| ((*service).clone(), (*port).clone()))
            .collect();
        routed.extend(services.iter().filter_map(|(service, _)| {
            let (host, _) = on_port.get_key_value(service.host.as_str())?;
            Some(*host)
        }));
        groups.push(Group {
            hosts: match plain || !services.is_empty() {
                true if only.is_none() => unregistered,
                _ => Vec::new(),
            },
            services,
            routes,
            reference: Some(routing.reference.clone()),
        });
    }
    for (host, (service, port)) in &on_port {
        let unrouted = !routed.contains(host) && port.protocol.is_http_or_detected();
        if unrouted && service.resolution != Resolution::Alias {
            groups.push(Group {
                services: vec![((*service).clone(), (*port).clone())],
                hosts: Vec::new(),
                routes: vec![default_route(&context, service, port)],
                reference: crate::cluster::service_reference(service),
            });
        }
    }
    groups
}

/// For each host the VirtualService that counts: one that names it before one that means it by a wildcard, the more
/// specific wildcard before the less, the older before the younger.
fn choose<'a>(
    routings: &[Arc<Routing>],
    on_port: &BTreeMap<&'a str, (&Arc<Service>, &Port)>,
) -> BTreeMap<&'a str, usize> {
    let mut chosen: BTreeMap<&'a str, (String, usize)> = BTreeMap::new();
    for (index, routing) in routings.iter().enumerate() {
        if routing.spec.http.is_empty() {
            continue;
        }
        for name in &routing.hosts {
            let meant: Vec<&'a str> = match host::is_wildcard(name) {
                true => on_port
                    .keys()
                    .filter(|it| host::covers(name, it))
                    .copied()
                    .collect(),
                false => {
                    let found = on_port.get_key_value(name.as_str());
                    found.map(|(host, _)| *host).into_iter().collect()
                }
            };
            for host in meant {
                let better = chosen.get(host).is_none_or(|(known, _)| {
                    host::by_specificity(name, known) == std::cmp::Ordering::Less
                });
                if better {
                    chosen.insert(host, (name.clone(), index));
                }
            }
        }
    }
    chosen
        .into_iter()
        .map(|(host, (_, index))| (host, index))
        .collect()
}

/// All the names under which a workload's clients call a service.
fn domains_of(scope: &Scope, service: &Service, workload: &Workload) -> Vec<String> {
    let mut names = vec![service.host.clone()];
    names.extend(host::aliases(&service.host, &workload.namespace));
    let other = scope.aliases.get(&service.host).into_iter().flatten();
    for alias in other {
        names.push(alias.host.clone());
        names.extend(host::aliases(&alias.host, &workload.namespace));
    }
    if service.is_headless() && service.origin == Origin::Kubernetes {
        // Pods of a StatefulSet are called by names below it.
        let below: Vec<String> = names.iter().map(|name| format!("*.{name}")).collect();
        names.extend(below);
    }
    let addresses = service.addresses.iter().filter(|it| !it.contains('/'));
    names.extend(addresses.map(|address| match address.contains(':') {
        true => format!("[{address}]"),
        false => address.clone(),
    }));
    names
}

/// Domains that are taken: Envoy refuses a configuration in which two virtual hosts have one.
struct Domains {
    taken: BTreeSet<String>,
    /// Full names, which no other host may have as an alias.
    full: BTreeSet<String>,
}

impl Domains {
    fn new(groups: &[Group]) -> Domains {
        let services = groups.iter().flat_map(|group| &group.services);
        Domains {
            taken: BTreeSet::new(),
            full: services.map(|(service, _)| service.host.clone()).collect(),
        }
    }

    fn take(&mut self, host: &str, wanted: Vec<String>) -> Vec<String> {
        let mut wanted = wanted;
        wanted.retain(|name| {
            (name == host || !self.full.contains(name)) && self.taken.insert(name.clone())
        });
        wanted
    }
}

/// What happens to requests for hosts that nobody knows.
fn catch_all(scope: &Scope, port: u32) -> pb::VirtualHost {
    let (name, action) = match scope.allow_any {
        true => {
            let cluster = scope.egress_proxy.as_ref().map_or_else(
                || PASSTHROUGH.to_owned(),
                |proxy| {
                    let to = proxy.port.as_ref().map_or(port, |it| it.number);
                    crate::cluster::name(to, &proxy.subset, &proxy.host)
                },
            );
            let mut action = to_cluster(cluster);
            action.timeout = no_timeout();
            action::bound_grpc_timeout(&mut action);
            ("allow_any", pb::route::Action::Route(action))
        }
        false => (
            "block_all",
            pb::route::Action::DirectResponse(pb::DirectResponseAction {
                status: 502,
                ..pb::DirectResponseAction::default()
            }),
        ),
    };
    let mut metadata: Option<core::Metadata> = None;
    if let Some(sidecar) = &scope.sidecar
        && sidecar.spec.outbound_traffic_policy.is_some()
    {
        let key = crate::ObjectKey::of(&sidecar.metadata);
        let reference = crate::reference("Sidecar", &key);
        trireme_xds::metadata::set_object(&mut metadata, &reference);
    }
    pb::VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![pb::Route {
            name: name.to_owned(),
            r#match: Some(matching::anything()),
            metadata: metadata.clone(),
            action: Some(action),
            ..pb::Route::default()
        }],
        include_request_attempt_count: true,
        metadata,
        ..pb::VirtualHost::default()
    }
}

/// Where connections to what nobody knows go that are not HTTP.
pub fn fallthrough(scope: &Scope) -> &'static str {
    match scope.allow_any {
        true => PASSTHROUGH,
        false => BLACK_HOLE,
    }
}
