//! Gateways: what a router listens for, put together from all Gateways that select it, and the routes that
//! VirtualServices give them.

mod routes;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trireme_model::istio::{self, ServerTlsMode};

use crate::host;
use crate::listener::{Chain, Edge, Manager, Routes, http, manager, name, tls_inspector, weighted};
use crate::proto::{core, listener as pb};
use crate::protocol::{Protocol, Treatment};
use crate::resource::Resource;
use crate::route::Context;
use crate::routing::{Routing, RoutingIndex};
use crate::scope::Scope;
use crate::service::{ANY_ADDRESS, TargetPort};
use crate::view::{View, selects};
use crate::workload::Workload;
use crate::{ObjectKey, reference};

pub use routes::{route_names, routes};
pub use tls::downstream;

/// A server of a Gateway on a port of the workload.
pub struct Server {
    /// `namespace/name` of the Gateway.
    pub gateway: String,
    pub reference: String,
    /// Namespace pattern and host of each entry.
    pub hosts: Vec<(String, String)>,
    pub server: istio::Server,
    /// As clients see it.
    pub number: u32,
    pub protocol: Protocol,
    pub route_name: String,
}

/// Servers by address and port of the workload.
pub type Servers = BTreeMap<(String, u32), Vec<Server>>;

/// The Gateways that select a workload, the oldest first.
pub fn selecting<'a>(view: &'a View, workload: &Workload) -> Vec<&'a Arc<istio::Gateway>> {
    let mut gateways: Vec<_> = view
        .gateways
        .values()
        .filter(|it| selects(&it.spec.selector, &workload.labels))
        .collect();
    gateways.sort_by_key(|it| {
        let created = it.metadata.creation_timestamp.as_ref().map(|it| it.0);
        (created, it.name().to_owned(), it.namespace().to_owned())
    });
    gateways
}

/// Names of the Secrets that they need.
pub fn credentials(view: &View, workload: &Workload) -> BTreeSet<String> {
    let servers = selecting(view, workload)
        .into_iter()
        .flat_map(|it| &it.spec.servers);
    servers
        .filter_map(|server| server.tls.as_ref())
        .flat_map(|tls| tls.credential_names.iter().chain([&tls.credential_name]))
        .filter(|name| !name.is_empty())
        .cloned()
        .collect()
}

/// Ports of the workload behind a port of its services; without a service the port itself.
fn workload_ports(view: &View, workload: &Workload, number: u32) -> Vec<u32> {
    let pod = view.pods.get(&workload.key());
    let services = view
        .registry
        .selecting(&workload.namespace, &workload.labels);
    let mut targets: Vec<u32> = services
        .iter()
        .filter_map(|service| match &service.port(number)?.target {
            TargetPort::Number(target) => Some(*target),
            TargetPort::Name(name) => pod?.ports.get(name).copied(),
        })
        .collect();
    targets.sort_unstable();
    targets.dedup();
    if targets.is_empty() {
        targets.push(number);
    }
    targets
}

/// All servers of a workload. Of two that cannot share a port the older has it.
pub fn servers(view: &View, workload: &Workload) -> Servers {
    let mut servers = Servers::new();
    for gateway in selecting(view, workload) {
        let key = ObjectKey::of(&gateway.metadata);
        for server in &gateway.spec.servers {
            let Some(port) = &server.port else { continue };
            let protocol = Protocol::parse(&port.protocol);
            let bind = match server.bind.as_str() {
                "" => ANY_ADDRESS.to_owned(),
                bind => bind.to_owned(),
            };
            for target in workload_ports(view, workload, port.number) {
                let on_port = servers.entry((bind.clone(), target)).or_default();
                let one = Server {
                    gateway: key.to_string(),
                    reference: reference("Gateway", &key),
                    hosts: hosts(server, &key.namespace),
                    number: port.number,
                    protocol,
                    route_name: route_name(server, protocol, &bind, target, &key),
                    server: server.clone(),
                };
                if on_port.iter().all(|other| can_share(other, &one)) {
                    on_port.push(one);
                }
            }
        }
    }
    servers
}

/// `http.PORT`, or for a server that takes TLS off `https.PORT.PORT-NAME.GATEWAY.NAMESPACE`.
fn route_name(
    server: &istio::Server,
    protocol: Protocol,
    bind: &str,
    target: u32,
    gateway: &ObjectKey,
) -> String {
    let (number, port_name) = match &server.port {
        Some(port) => (port.number, port.name.as_str()),
        None => (target, ""),
    };
    if protocol.treatment() == Treatment::Http {
        return match bind {
            ANY_ADDRESS => format!("http.{target}"),
            bind => format!("http.{target}.{bind}"),
        };
    }
    format!(
        "https.{number}.{port_name}.{}.{}",
        gateway.name, gateway.namespace
    )
}

fn hosts(server: &istio::Server, namespace: &str) -> Vec<(String, String)> {
    let entries = server.hosts.iter().map(|text| {
        let (within, host) = text.split_once('/').unwrap_or(("*", text));
        let within = if within == "." { namespace } else { within };
        (within.to_owned(), host.to_ascii_lowercase())
    });
    entries.collect()
}

pub fn terminates_tls(server: &istio::Server) -> bool {
    server.tls.as_ref().is_some_and(|tls| {
        matches!(
            tls.mode,
            ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual
        )
    })
}

fn passes_tls(server: &istio::Server) -> bool {
    server.tls.as_ref().is_some_and(|tls| {
        matches!(
            tls.mode,
            ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough
        )
    })
}

/// HTTP shares with HTTP, what is told apart by server name with its like, unless the names are the same; anything
/// else wants its port alone.
fn can_share(old: &Server, new: &Server) -> bool {
    let http = |it: &Server| it.protocol.treatment() == Treatment::Http;
    let by_name = |it: &Server| it.protocol.is_tls() && it.server.tls.is_some();
    if http(old) && http(new) {
        return true;
    }
    if !(by_name(old) && by_name(new)) {
        return false;
    }
    if passes_tls(&old.server) && passes_tls(&new.server) {
        // Their names are those that VirtualServices match.
        return true;
    }
    let names = |it: &Server| {
        it.hosts
            .iter()
            .map(|(_, host)| host.clone())
            .collect::<Vec<_>>()
    };
    !names(old).iter().any(|one| names(new).contains(one))
}

/// Whether a VirtualService of this namespace may be on the server, and the hosts they have in common.
pub fn shared_hosts(server: &Server, routing: &Routing) -> Vec<String> {
    let mut shared = BTreeSet::new();
    for (within, outer) in &server.hosts {
        if within != "*" && *within != routing.key.namespace {
            continue;
        }
        for inner in &routing.hosts {
            if host::covers(outer, inner) {
                shared.insert(inner.clone());
            } else if host::covers(inner, outer) {
                shared.insert(outer.clone());
            }
        }
    }
    shared.into_iter().collect()
}

/// The VirtualServices of a server that the workload's namespace sees, the oldest first.
pub fn routings<'a>(
    index: &'a RoutingIndex,
    server: &Server,
    workload: &Workload,
) -> Vec<&'a Arc<Routing>> {
    let bound = index.of_gateway(&server.gateway).iter();
    bound
        .filter(|routing| routing.visibility.includes(&workload.namespace))
        .filter(|routing| !shared_hosts(server, routing).is_empty())
        .collect()
}

pub fn listeners(
    view: &View,
    index: &RoutingIndex,
    scope: &Scope,
    workload: &Workload,
) -> Vec<Resource> {
    let mut listeners = Vec::new();
    for ((bind, port), servers) in servers(view, workload) {
        let mut chains: Vec<Chain> = Vec::new();
        let mut metadata = None;
        if let [only] = servers.as_slice() {
            trireme_xds::metadata::set_object(&mut metadata, &only.reference);
        }
        for server in &servers {
            for chain in chains_of(view, index, scope, workload, server, &bind, port) {
                if !chains.iter().any(|known| known.conflicts(&chain)) {
                    chains.push(chain);
                }
            }
        }
        if chains.is_empty() {
            // Nothing that could be done with a connection.
            continue;
        }
        let tls = servers
            .iter()
            .any(|it| it.server.tls.is_some() && it.protocol.is_tls());
        let mut listener = pb::Listener {
            name: name(&bind, port),
            address: Some(crate::proto::address(&bind, port)),
            traffic_direction: core::TrafficDirection::Outbound as i32,
            metadata,
            ..pb::Listener::default()
        };
        if tls {
            listener.listener_filters.push(tls_inspector());
        }
        listener.filter_chains = chains.into_iter().map(Chain::build).collect();
        listeners.push(Resource::new(listener.name.clone(), &listener));
    }
    listeners
}

fn chains_of(
    view: &View,
    index: &RoutingIndex,
    scope: &Scope,
    workload: &Workload,
    server: &Server,
    bind: &str,
    port: u32,
) -> Vec<Chain> {
    let mut metadata = None;
    trireme_xds::metadata::set_object(&mut metadata, &server.reference);
    let names: Vec<String> = server.hosts.iter().map(|(_, host)| host.clone()).collect();
    let with_manager = |stat_prefix: String| {
        let manager = manager(
            view,
            Manager {
                edge: Edge::Gateway,
                stat_prefix,
                routes: Routes::Named(server.route_name.clone()),
                port,
                workload,
            },
        );
        vec![http(&manager)]
    };
    if server.protocol.treatment() == Treatment::Http {
        return vec![Chain {
            filters: with_manager(format!("outbound_{}", name(bind, port))),
            ..Chain::default()
        }];
    }
    let gateways = BTreeSet::from([server.gateway.clone()]);
    let context = Context {
        view,
        scope,
        workload,
        gateways: &gateways,
        port: server.number,
        tls: server.server.tls.is_some(),
    };
    if passes_tls(&server.server) {
        return by_server_name(&context, index, server);
    }
    let transport_socket = match &server.server.tls {
        Some(settings) => match tls::downstream(settings, server.protocol == Protocol::Https) {
            Some(socket) => Some(socket),
            None => return Vec::new(),
        },
        None => None,
    };
    if server.protocol == Protocol::Https && terminates_tls(&server.server) {
        return vec![Chain {
            server_names: names,
            filters: with_manager(match server.server.name.as_str() {
                "" => format!("outbound_{}", name(bind, port)),
                name => name.to_owned(),
            }),
            metadata,
            transport_socket,
            ..Chain::default()
        }];
    }
    let Some((routing, filter)) = tcp_route(&context, index, server) else {
        return Vec::new();
    };
    let mut metadata = None;
    trireme_xds::metadata::set_object(&mut metadata, &routing.reference);
    vec![Chain {
        server_names: match transport_socket.is_some() {
            true => names,
            false => Vec::new(),
        },
        filters: vec![filter],
        metadata,
        transport_socket,
        ..Chain::default()
    }]
}

/// The first TCP route that is for this server.
fn tcp_route<'a>(
    context: &Context<'_>,
    index: &'a RoutingIndex,
    server: &Server,
) -> Option<(&'a Arc<Routing>, pb::Filter)> {
    for routing in routings(index, server, context.workload) {
        for route in routing.spec.tcp.iter().filter(|it| !it.route.is_empty()) {
            let mut matches = route.r#match.iter();
            let meant = route.r#match.is_empty()
                || matches.any(|it| {
                    (it.port == 0 || it.port == server.number)
                        && (it.gateways.is_empty() || it.gateways.contains(&server.gateway))
                });
            if meant {
                let prefix = format!("{}.{}", routing.key.name, routing.key.namespace);
                return Some((routing, weighted(context, &route.route, &prefix)));
            }
        }
    }
    None
}

fn by_server_name(context: &Context<'_>, index: &RoutingIndex, server: &Server) -> Vec<Chain> {
    let mut chains = Vec::new();
    for routing in routings(index, server, context.workload) {
        for route in routing.spec.tls.iter().filter(|it| !it.route.is_empty()) {
            for matched in &route.r#match {
                let meant = (matched.port == 0 || matched.port == server.number)
                    && (matched.gateways.is_empty() || matched.gateways.contains(&server.gateway));
                if !meant {
                    continue;
                }
                let prefix = format!("{}.{}", routing.key.name, routing.key.namespace);
                let mut metadata = None;
                trireme_xds::metadata::set_object(&mut metadata, &routing.reference);
                chains.push(Chain {
                    server_names: matched.sni_hosts.clone(),
                    filters: vec![weighted(context, &route.route, &prefix)],
                    metadata,
                    ..Chain::default()
                });
            }
        }
    }
    chains
}
