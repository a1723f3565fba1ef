//! What comes to an application.

use super::{
    Chain, Edge, INBOUND_PORT, Manager, Routes, VIRTUAL_INBOUND, base, detection_timeout, http,
    http_inspector, listener_filters, manager, name, original_destination, single,
};
use crate::cluster::{self, BLACK_HOLE, INBOUND_PASSTHROUGH};
use crate::ingress::{Ingress, ingress};
use crate::proto::{boolean, core, kind, listener as pb, no_timeout, route};
use crate::protocol::{Protocol, Treatment};
use crate::resource::Resource;
use crate::scope::Scope;
use crate::service::ANY_ADDRESS;
use crate::view::View;
use crate::workload::Workload;

/// The listener that takes what is intercepted, and those that a Sidecar binds itself.
pub fn inbound(view: &View, scope: &Scope, workload: &Workload) -> Vec<Resource> {
    let ports = ingress(view, scope, workload);
    let mut listeners = vec![virtual_inbound(view, workload, &ports)];
    for port in ports.iter().filter(|it| it.bind.is_some()) {
        listeners.push(own(view, workload, port));
    }
    let named = listeners
        .iter()
        .map(|it| Resource::new(it.name.clone(), it));
    named.collect()
}

fn virtual_inbound(view: &View, workload: &Workload, ports: &[Ingress]) -> pb::Listener {
    let mut chains = vec![
        // A connection to the proxy's own port would come back to it for ever.
        Chain {
            name: "virtualInbound-blackhole".to_owned(),
            destination_port: Some(INBOUND_PORT),
            filters: vec![single(view, BLACK_HOLE)],
            ..Chain::default()
        },
        Chain {
            name: "virtualInbound-catchall-http".to_owned(),
            plain_http: true,
            filters: vec![http(&passthrough_manager(view, workload))],
            ..Chain::default()
        },
    ];
    for port in ports.iter().filter(|it| it.bind.is_none()) {
        chains.extend(of_port(view, workload, port));
    }
    let rest = Chain {
        name: VIRTUAL_INBOUND.to_owned(),
        filters: vec![single(view, INBOUND_PASSTHROUGH)],
        ..Chain::default()
    };
    let mut listener = base(
        VIRTUAL_INBOUND,
        ANY_ADDRESS,
        INBOUND_PORT,
        core::TrafficDirection::Inbound,
    );
    listener.listener_filters = vec![original_destination()];
    listener.listener_filters.push(inspector(&chains));
    listener.listener_filters_timeout = detection_timeout(&view.mesh);
    listener.filter_chains = chains.into_iter().map(Chain::build).collect();
    listener.default_filter_chain = Some(rest.build());
    listener
}

/// Nothing is looked at where the port's protocol is known.
fn inspector(chains: &[Chain]) -> pb::ListenerFilter {
    use pb::listener_filter_chain_match_predicate::{MatchSet, Rule};
    let mut known: Vec<u32> = chains.iter().filter_map(|it| it.destination_port).collect();
    known.sort_unstable();
    known.dedup();
    known.retain(|port| {
        let mut of_port = chains
            .iter()
            .filter(|it| it.destination_port == Some(*port));
        !of_port.any(|it| it.plain_http)
    });
    let mut rules: Vec<pb::ListenerFilterChainMatchPredicate> = known
        .into_iter()
        .filter_map(|port| i32::try_from(port).ok())
        .map(|port| pb::ListenerFilterChainMatchPredicate {
            rule: Some(Rule::DestinationPortRange(kind::Int32Range {
                start: port,
                end: port + 1,
            })),
        })
        .collect();
    let mut filter = http_inspector();
    filter.filter_disabled = match rules.len() {
        0 => None,
        1 => rules.pop(),
        _ => Some(pb::ListenerFilterChainMatchPredicate {
            rule: Some(Rule::OrMatch(MatchSet { rules })),
        }),
    };
    filter
}

fn own(view: &View, workload: &Workload, port: &Ingress) -> pb::Listener {
    let bind = port.bind.as_deref().unwrap_or(ANY_ADDRESS);
    let mut chains = of_port(view, workload, port);
    for chain in &mut chains {
        // The listener is for this port alone.
        chain.destination_port = None;
    }
    let mut listener = base(
        &name(bind, port.number),
        bind,
        port.number,
        core::TrafficDirection::Inbound,
    );
    listener.listener_filters = listener_filters(&chains);
    listener.listener_filters_timeout = match listener.listener_filters.is_empty() {
        true => no_timeout(),
        false => detection_timeout(&view.mesh),
    };
    listener.filter_chains = chains.into_iter().map(Chain::build).collect();
    listener
}

fn of_port(view: &View, workload: &Workload, port: &Ingress) -> Vec<Chain> {
    let mut metadata = None;
    if let Some(reference) = &port.reference {
        trireme_xds::metadata::set_object(&mut metadata, reference);
    }
    let is_http = port.protocol.treatment() == Treatment::Http;
    let transport_socket = match &port.tls {
        None => None,
        Some(settings) => match crate::gateway::downstream(settings, is_http) {
            Some(socket) => Some(socket),
            // Without a certificate nothing can be served here.
            None => return Vec::new(),
        },
    };
    let chain = Chain {
        transport_socket,
        name: name(ANY_ADDRESS, port.number),
        destination_port: Some(port.number),
        metadata,
        ..Chain::default()
    };
    let with_http = |plain_http: bool| Chain {
        plain_http,
        filters: vec![http(&port_manager(view, workload, port))],
        ..chain.clone()
    };
    let with_tcp = || Chain {
        filters: vec![single(view, &cluster::inbound_name(port.number))],
        ..chain.clone()
    };
    match port.protocol.treatment() {
        Treatment::Http => vec![with_http(false)],
        Treatment::Tcp => vec![with_tcp()],
        Treatment::Auto => vec![with_http(true), with_tcp()],
        Treatment::None => Vec::new(),
    }
}

fn port_manager(
    view: &View,
    workload: &Workload,
    port: &Ingress,
) -> crate::proto::hcm::HttpConnectionManager {
    let cluster = cluster::inbound_name(port.number);
    let host = port
        .services
        .first()
        .map(|it| it.host.clone())
        .unwrap_or_default();
    let grpc = matches!(port.protocol, Protocol::Grpc | Protocol::GrpcWeb);
    let operation = format!("{host}:{}/*", port.service_port);
    let routes = local_routes(
        &cluster,
        &format!("inbound|http|{}", port.service_port),
        crate::route::inbound_route(cluster.clone(), operation, grpc),
        view,
        workload,
    );
    build(view, workload, port.number, routes)
}

fn passthrough_manager(
    view: &View,
    workload: &Workload,
) -> crate::proto::hcm::HttpConnectionManager {
    let routes = local_routes(
        INBOUND_PASSTHROUGH,
        "inbound|http|0",
        crate::route::inbound_route(
            INBOUND_PASSTHROUGH.to_owned(),
            format!("{INBOUND_PASSTHROUGH}/*"),
            false,
        ),
        view,
        workload,
    );
    build(view, workload, 0, routes)
}

fn build(
    view: &View,
    workload: &Workload,
    port: u32,
    routes: route::RouteConfiguration,
) -> crate::proto::hcm::HttpConnectionManager {
    manager(
        view,
        Manager {
            edge: Edge::Inbound,
            stat_prefix: format!("inbound_{}", name(ANY_ADDRESS, port)),
            routes: Routes::Here(routes),
            port,
            workload,
        },
    )
}

fn local_routes(
    name: &str,
    host: &str,
    to: route::Route,
    view: &View,
    workload: &Workload,
) -> route::RouteConfiguration {
    let mut routes = route::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![route::VirtualHost {
            name: host.to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![to],
            ..route::VirtualHost::default()
        }],
        validate_clusters: boolean(false),
        ..route::RouteConfiguration::default()
    };
    crate::filters::routes(
        view,
        workload,
        crate::filters::Context::SidecarInbound,
        &mut routes,
    );
    routes
}
