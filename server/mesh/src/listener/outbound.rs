//! What an application sends: the listener that takes everything, and behind it one for each address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::offer::{Offer, tcp_chains};
use super::tcp::single;
use super::{
    Chain, Edge, Manager, OUTBOUND_PORT, Routes, VIRTUAL_OUTBOUND, base, detection_timeout, http,
    listener_filters, manager, name, unbound,
};
use crate::cluster::BLACK_HOLE;
use crate::endpoint::endpoints;
use crate::proto::{boolean, core, listener as pb, no_timeout};
use crate::protocol::{SERVER_FIRST_PORTS, Treatment};
use crate::resource::Resource;
use crate::route::{Context, fallthrough};
use crate::routing::{MESH_GATEWAY, Routing};
use crate::scope::{Egress, Scope};
use crate::service::{ANY_ADDRESS, Port, Service};
use crate::view::View;
use crate::workload::Workload;

/// What a listener does so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http,
    Tcp,
    /// Both, told apart by looking.
    Either,
}

struct Entry {
    bind: String,
    port: u32,
    bound: bool,
    speaks: Speaks,
    chains: Vec<Chain>,
    /// Written by an egress listener with a port: nothing more is added to it.
    locked: bool,
}

type Entries = BTreeMap<(String, u32), Entry>;

/// Every outbound listener of a scope.
pub fn outbound(view: &View, scope: &Scope, workload: &Workload) -> Vec<Resource> {
    let gateways = BTreeSet::from([MESH_GATEWAY.to_owned()]);
    let mut entries = Entries::new();
    for egress in &scope.egress {
        match &egress.port {
            Some(_) => explicit(view, scope, workload, egress, &gateways, &mut entries),
            None => every_port(view, scope, workload, egress, &gateways, &mut entries),
        }
    }
    let mut listeners = vec![virtual_outbound(view, scope)];
    listeners.extend(entries.into_values().map(|entry| build(view, scope, entry)));
    let named = listeners
        .iter()
        .map(|it| Resource::new(it.name.clone(), it));
    named.collect()
}

/// The names of the routes that these listeners refer to.
pub fn route_names(view: &View, scope: &Scope) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for egress in &scope.egress {
        if let Some(port) = &egress.port {
            if port.protocol.treatment() == Treatment::Http {
                names.insert(port.number.to_string());
            }
            continue;
        }
        for service in egress.services.values() {
            for port in &service.ports {
                match port.protocol.treatment() {
                    Treatment::Http => drop(names.insert(port.number.to_string())),
                    Treatment::Auto => drop(names.insert(match of_its_own(view, service, port) {
                        true => format!("{}:{}", service.host, port.number),
                        false => port.number.to_string(),
                    })),
                    Treatment::Tcp | Treatment::None => {}
                }
            }
        }
    }
    names
}

/// Whether a detected port has a listener that is for its service alone.
fn of_its_own(view: &View, service: &Service, port: &Port) -> bool {
    match service.is_headless() {
        true => !endpoints(view, service, port).is_empty() || !is_entry_without(service),
        false => service.address().parse::<IpAddr>().is_ok(),
    }
}

/// A ServiceEntry that says of nothing where it is.
fn is_entry_without(service: &Service) -> bool {
    service.origin == crate::service::Origin::ServiceEntry && service.selector.is_empty()
}

/// An egress listener with a port: everything that it names is reached through it.
fn explicit(
    view: &View,
    scope: &Scope,
    workload: &Workload,
    egress: &Egress,
    gateways: &BTreeSet<String>,
    entries: &mut Entries,
) {
    let Some(listener) = &egress.port else { return };
    let bind = match (egress.bind.as_str(), egress.bound) {
        ("", true) => Some("127.0.0.1".to_owned()),
        ("", false) => None,
        (bind, _) => Some(bind.to_owned()),
    };
    for service in in_order(egress) {
        let own = service.port(listener.number);
        let Some(port) = own.or_else(|| service.ports.first()) else {
            continue;
        };
        let offer = Offer {
            service,
            port,
            number: listener.number,
            protocol: listener.protocol,
            bind: bind.clone(),
            bound: egress.bound,
            destinations: Vec::new(),
        };
        add(
            view,
            scope,
            workload,
            &egress.routings,
            gateways,
            entries,
            offer,
        );
    }
    for entry in entries.values_mut() {
        entry.locked |= entry.port == listener.number;
    }
}

fn every_port(
    view: &View,
    scope: &Scope,
    workload: &Workload,
    egress: &Egress,
    gateways: &BTreeSet<String>,
    entries: &mut Entries,
) {
    for entry in entries.values_mut() {
        entry.locked = true;
    }
    for service in in_order(egress) {
        for port in &service.ports {
            let offer = |bind: Option<String>| Offer {
                service,
                port,
                number: port.number,
                protocol: port.protocol,
                bind: bind.or_else(|| (!egress.bind.is_empty()).then(|| egress.bind.clone())),
                bound: egress.bound,
                destinations: Vec::new(),
            };
            let by_pod = service.is_headless()
                && egress.bind.is_empty()
                && port.protocol.treatment() != Treatment::Http;
            let found = match by_pod {
                true => endpoints(view, service, port),
                false => Vec::new(),
            };
            let whole = !by_pod || (found.is_empty() && is_entry_without(service));
            let each = found
                .iter()
                .filter(|it| it.address.parse::<IpAddr>().is_ok())
                .map(|it| Some(it.address.clone()));
            for bind in whole.then_some(None).into_iter().chain(each) {
                add(
                    view,
                    scope,
                    workload,
                    &egress.routings,
                    gateways,
                    entries,
                    offer(bind),
                );
            }
        }
    }
}

/// The oldest first: of two that want one address, it has it.
fn in_order(egress: &Egress) -> Vec<&Arc<Service>> {
    let mut services: Vec<_> = egress.services.values().collect();
    services.sort_by_key(|it| (it.created, it.host.clone()));
    services
}

fn add(
    view: &View,
    scope: &Scope,
    workload: &Workload,
    routings: &[Arc<Routing>],
    gateways: &BTreeSet<String>,
    entries: &mut Entries,
    mut offer: Offer<'_>,
) {
    use crate::service::Resolution;
    let treatment = offer.protocol.treatment();
    if offer.service.resolution == Resolution::Alias || treatment == Treatment::None {
        return;
    }
    let bind = match (offer.bind.clone(), treatment) {
        (Some(bind), _) => bind,
        (None, Treatment::Http) => ANY_ADDRESS.to_owned(),
        (None, _) => match offer.service.address() {
            // A range is told by the chain.
            range if range.contains('/') => {
                offer.destinations.clone_from(&offer.service.addresses);
                ANY_ADDRESS.to_owned()
            }
            address => address.to_owned(),
        },
    };
    let key = (bind.clone(), offer.number);
    let context = Context {
        view,
        scope,
        workload,
        gateways,
        port: offer.number,
        tls: false,
    };
    if let Some(entry) = entries.get(&key) {
        if entry.locked {
            return;
        }
        let mixed = !matches!(
            (entry.speaks, treatment),
            (Speaks::Http, Treatment::Http) | (Speaks::Tcp, Treatment::Tcp)
        );
        if mixed && SERVER_FIRST_PORTS.contains(&offer.number) {
            return;
        }
    }
    let mut chains = Vec::new();
    let mut speaks = match treatment {
        Treatment::Http => Speaks::Http,
        Treatment::Tcp => Speaks::Tcp,
        _ => Speaks::Either,
    };
    let known = entries.get(&key).map(|entry| entry.speaks);
    if treatment != Treatment::Http {
        chains.extend(tcp_chains(&context, routings, &bind, &offer));
    }
    let wants_http = match (treatment, known) {
        // What is there takes it already.
        (Treatment::Http, Some(Speaks::Http | Speaks::Either)) => return,
        (Treatment::Http, _) => true,
        (Treatment::Auto, Some(Speaks::Http | Speaks::Either)) => false,
        (Treatment::Auto, _) => true,
        _ => false,
    };
    if wants_http {
        let alone = treatment == Treatment::Auto && bind != ANY_ADDRESS;
        let rds = match alone {
            true => format!("{}:{}", offer.service.host, offer.number),
            false => offer.number.to_string(),
        };
        // On an address that anything may come to, only what looks like HTTP is taken for it.
        let looks = treatment == Treatment::Auto || bind == ANY_ADDRESS || known.is_some();
        if looks {
            speaks = Speaks::Either;
        }
        chains.push(http_chain(view, workload, &bind, &offer, rds, looks));
    }
    match entries.get_mut(&key) {
        Some(entry) => {
            for chain in chains {
                if !entry.chains.iter().any(|known| known.conflicts(&chain)) {
                    entry.chains.push(chain);
                }
            }
            if entry.speaks != speaks {
                entry.speaks = Speaks::Either;
            }
        }
        None => {
            let entry = Entry {
                bind,
                port: offer.number,
                bound: offer.bound,
                speaks,
                chains,
                locked: false,
            };
            entries.insert(key, entry);
        }
    }
}

fn http_chain(
    view: &View,
    workload: &Workload,
    bind: &str,
    offer: &Offer<'_>,
    rds: String,
    looks: bool,
) -> Chain {
    let manager = manager(
        view,
        Manager {
            edge: Edge::Outbound,
            stat_prefix: format!("outbound_{}", name(bind, offer.number)),
            routes: Routes::Named(rds),
            port: offer.number,
            workload,
        },
    );
    Chain {
        plain_http: looks,
        filters: vec![http(&manager)],
        ..Chain::default()
    }
}

fn build(view: &View, scope: &Scope, entry: Entry) -> pb::Listener {
    let mut listener = base(
        &name(&entry.bind, entry.port),
        &entry.bind,
        entry.port,
        core::TrafficDirection::Outbound,
    );
    if !entry.bound {
        unbound(&mut listener);
    }
    listener.listener_filters = listener_filters(&entry.chains);
    // On a port that is declared HTTP a client may be as slow as it likes.
    let detects = entry.chains.iter().any(|it| !it.plain_http);
    let looks = entry.chains.iter().any(|it| it.plain_http);
    listener.listener_filters_timeout = match looks && detects {
        true => detection_timeout(&view.mesh),
        false => no_timeout(),
    };
    let mut rest = None;
    for chain in entry.chains {
        match chain.is_match_all() {
            true => rest = Some(chain.build()),
            false => listener.filter_chains.push(chain.build()),
        }
    }
    match (rest, listener.filter_chains.is_empty()) {
        (Some(only), true) => listener.filter_chains.push(only),
        (Some(rest), false) => listener.default_filter_chain = Some(rest),
        (None, _) => {
            let chain = Chain {
                name: "PassthroughFilterChain".to_owned(),
                filters: vec![single(view, fallthrough(scope))],
                ..Chain::default()
            };
            listener.default_filter_chain = Some(chain.build());
        }
    }
    listener
}

fn virtual_outbound(view: &View, scope: &Scope) -> pb::Listener {
    let mut listener = base(
        VIRTUAL_OUTBOUND,
        ANY_ADDRESS,
        OUTBOUND_PORT,
        core::TrafficDirection::Outbound,
    );
    listener.use_original_dst = boolean(true);
    // A connection to the proxy's own port would come back to it for ever.
    let own = Chain {
        name: "virtualOutbound-trafficloop".to_owned(),
        destination_port: Some(OUTBOUND_PORT),
        filters: vec![single(view, BLACK_HOLE)],
        ..Chain::default()
    };
    let rest = Chain {
        name: "virtualOutbound-catchall-tcp".to_owned(),
        filters: vec![single(view, fallthrough(scope))],
        ..Chain::default()
    };
    listener.filter_chains = vec![own.build()];
    listener.default_filter_chain = Some(rest.build());
    listener
}
