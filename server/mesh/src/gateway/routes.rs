//! Routes of gateways.

use std::collections::{BTreeMap, BTreeSet};

use super::{Server, routings, servers, shared_hosts, terminates_tls};
use crate::proto::route as pb;
use crate::protocol::{Protocol, Treatment};
use crate::route::{Context, configuration, is_catch_all, routes as routes_of};
use crate::routing::RoutingIndex;
use crate::scope::Scope;
use crate::view::View;
use crate::workload::Workload;

fn has_routes(server: &Server) -> bool {
    server.protocol.treatment() == Treatment::Http
        || (server.protocol == Protocol::Https && terminates_tls(&server.server))
}

/// The names of the routes that a router's listeners refer to.
pub fn route_names(
    view: &View,
    _: &RoutingIndex,
    _: &Scope,
    workload: &Workload,
) -> BTreeSet<String> {
    servers(view, workload)
        .into_values()
        .flatten()
        .filter(has_routes)
        .map(|server| server.route_name)
        .collect()
}

/// The routes of all servers that share a name. VirtualServices for one host are put together, the oldest first, with
/// what matches everything at the end.
pub fn routes(
    view: &View,
    index: &RoutingIndex,
    scope: &Scope,
    workload: &Workload,
    name: &str,
) -> pb::RouteConfiguration {
    let servers: Vec<Server> = servers(view, workload)
        .into_values()
        .flatten()
        .filter(|it| has_routes(it) && it.route_name == name)
        .collect();
    let mut hosts: BTreeMap<String, pb::VirtualHost> = BTreeMap::new();
    // A VirtualService on two servers of a Gateway gives its routes once.
    let mut given: BTreeSet<(String, String)> = BTreeSet::new();
    for server in &servers {
        let redirects = server
            .server
            .tls
            .as_ref()
            .is_some_and(|it| it.https_redirect);
        let gateways = BTreeSet::from([server.gateway.clone()]);
        let context = Context {
            view,
            scope,
            workload,
            gateways: &gateways,
            port: server.number,
            tls: server.server.tls.is_some() && !redirects,
        };
        for routing in routings(index, server, workload) {
            let routes = routes_of(routing, &context);
            if routes.is_empty() {
                continue;
            }
            for host in shared_hosts(server, routing) {
                let known = hosts.entry(host.clone());
                let known = known.or_insert_with(|| virtual_host(&host, server.number));
                if given.insert((routing.key.to_string(), host)) {
                    if known.metadata.is_none() {
                        let metadata = &mut known.metadata;
                        trireme_xds::metadata::set_object(metadata, &routing.reference);
                    }
                    known.routes.extend(routes.iter().cloned());
                }
                if redirects {
                    known.require_tls = pb::virtual_host::TlsRequirementType::All as i32;
                }
            }
        }
        if redirects {
            for (_, host) in &server.hosts {
                let known = hosts.entry(host.clone());
                let known = known.or_insert_with(|| {
                    let mut alone = virtual_host(host, server.number);
                    trireme_xds::metadata::set_object(&mut alone.metadata, &server.reference);
                    alone
                });
                known.require_tls = pb::virtual_host::TlsRequirementType::All as i32;
            }
        }
    }
    let mut hosts: Vec<pb::VirtualHost> = hosts.into_values().collect();
    for host in &mut hosts {
        host.routes
            .sort_by_key(|route| route.r#match.as_ref().is_some_and(is_catch_all));
    }
    if hosts.is_empty() {
        let number = servers.first().map_or(80, |server| server.number);
        let mut nothing = virtual_host("*", number);
        nothing.name = format!("blackhole:{number}");
        hosts.push(nothing);
    }
    let mut configuration = configuration(name, hosts);
    crate::filters::routes(
        view,
        workload,
        crate::filters::Context::Gateway,
        &mut configuration,
    );
    configuration
}

fn virtual_host(host: &str, port: u32) -> pb::VirtualHost {
    pb::VirtualHost {
        name: format!("{host}:{port}"),
        domains: vec![host.to_owned()],
        include_request_attempt_count: true,
        ..pb::VirtualHost::default()
    }
}
