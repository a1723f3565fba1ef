//! One service's port on its way into a listener, and the chains that pass its connections on as they are.

use std::sync::Arc;

use super::{Chain, tcp};
use crate::host;
use crate::proto::{core, listener as pb};
use crate::protocol::Protocol;
use crate::route::Context;
use crate::routing::Routing;
use crate::service::{ANY_ADDRESS, Port, Service};
use crate::view::selects;

/// One service's port on its way into a listener.
pub struct Offer<'a> {
    pub service: &'a Arc<Service>,
    pub port: &'a Port,
    /// Of the listener.
    pub number: u32,
    pub protocol: Protocol,
    /// Absent means the service's own.
    pub bind: Option<String>,
    pub bound: bool,
    pub destinations: Vec<String>,
}

/// Its chains for what is not looked at: by the name that a TLS client asks for, else by address.
pub fn tcp_chains(
    context: &Context<'_>,
    routings: &[Arc<Routing>],
    bind: &str,
    offer: &Offer<'_>,
) -> Vec<Chain> {
    let speaking = routings.iter().filter(|routing| {
        let mut hosts = routing.hosts.iter();
        hosts.any(|name| host::matches(name, &offer.service.host))
    });
    let speaking: Vec<&Arc<Routing>> = speaking.collect();
    match offer.protocol.is_tls() {
        true => by_server_name(context, &speaking, bind, offer),
        false => by_address(context, &speaking, offer),
    }
}

fn by_server_name(
    context: &Context<'_>,
    routings: &[&Arc<Routing>],
    bind: &str,
    offer: &Offer<'_>,
) -> Vec<Chain> {
    let mut chains: Vec<Chain> = Vec::new();
    for routing in routings {
        for route in routing.spec.tls.iter().filter(|it| !it.route.is_empty()) {
            for matched in &route.r#match {
                let meant = matched.gateways.is_empty()
                    || matched
                        .gateways
                        .iter()
                        .any(|it| context.gateways.contains(it));
                let here = matched.port == 0 || matched.port == context.port;
                let workload = context.workload;
                let from = selects(&matched.source_labels, &workload.labels)
                    && (matched.source_namespace.is_empty()
                        || matched.source_namespace == workload.namespace);
                if !meant || !here || !from {
                    continue;
                }
                let chain = Chain {
                    server_names: matched.sni_hosts.clone(),
                    destinations: match matched.destination_subnets.is_empty() {
                        true => offer.destinations.clone(),
                        false => matched.destination_subnets.clone(),
                    },
                    filters: vec![tcp::weighted(context, &route.route, &stat_prefix(routing))],
                    metadata: caused_by(&routing.reference),
                    ..Chain::default()
                };
                if !chains.iter().any(|known| known.conflicts(&chain)) {
                    chains.push(chain);
                }
            }
        }
    }
    if chains.is_empty() {
        let shared = bind == ANY_ADDRESS || !offer.destinations.is_empty();
        chains.push(Chain {
            // Where several services share the address, the name that the client asks for tells.
            server_names: match shared {
                true => vec![offer.service.host.clone()],
                false => Vec::new(),
            },
            destinations: offer.destinations.clone(),
            filters: vec![to_itself(context, offer)],
            metadata: crate::cluster::service_reference(offer.service)
                .and_then(|reference| caused_by(&reference)),
            ..Chain::default()
        });
    }
    chains
}

fn by_address(context: &Context<'_>, routings: &[&Arc<Routing>], offer: &Offer<'_>) -> Vec<Chain> {
    let mut chains = Vec::new();
    for routing in routings {
        for route in routing.spec.tcp.iter().filter(|it| !it.route.is_empty()) {
            let mut subnets = Vec::new();
            let mut everything = route.r#match.is_empty();
            for matched in &route.r#match {
                let meant = matched.gateways.is_empty()
                    || matched
                        .gateways
                        .iter()
                        .any(|it| context.gateways.contains(it));
                let here = matched.port == 0 || matched.port == context.port;
                let workload = context.workload;
                let from = selects(&matched.source_labels, &workload.labels)
                    && (matched.source_namespace.is_empty()
                        || matched.source_namespace == workload.namespace);
                if !meant || !here || !from {
                    continue;
                }
                everything |= matched.destination_subnets.is_empty();
                subnets.extend(matched.destination_subnets.iter().cloned());
            }
            if !everything && subnets.is_empty() {
                continue;
            }
            chains.push(Chain {
                destinations: match everything {
                    true => offer.destinations.clone(),
                    false => subnets,
                },
                filters: vec![tcp::weighted(context, &route.route, &stat_prefix(routing))],
                metadata: caused_by(&routing.reference),
                ..Chain::default()
            });
            if everything {
                return chains;
            }
        }
    }
    chains.push(Chain {
        destinations: offer.destinations.clone(),
        filters: vec![to_itself(context, offer)],
        metadata: crate::cluster::service_reference(offer.service)
            .and_then(|reference| caused_by(&reference)),
        ..Chain::default()
    });
    chains
}

fn to_itself(context: &Context<'_>, offer: &Offer<'_>) -> pb::Filter {
    let port = match offer.service.ports.as_slice() {
        [single] => single.number,
        _ => offer.port.number,
    };
    tcp::to_service(context, port, "", &offer.service.host)
}

fn stat_prefix(routing: &Routing) -> String {
    format!("{}.{}", routing.key.name, routing.key.namespace)
}

fn caused_by(reference: &str) -> Option<core::Metadata> {
    let mut metadata = None;
    trireme_xds::metadata::set_object(&mut metadata, reference);
    metadata
}
