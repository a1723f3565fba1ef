//! Configuration of programs that are members without a proxy: gRPC's own xDS client.
//!
//! A program dials `xds:///HOST:PORT`; the listener of that name leads to the routes of the service's port, and those
//! to its clusters. gRPC knows round robin and hash rings, and wants weights of places.

use std::collections::BTreeSet;

use crate::cluster;
use crate::host;
use crate::proto::{address, ads, core, extensions, hcm, http_filter, listener, route as pb};
use crate::protocol::{Protocol, Treatment};
use crate::resource::Resource;
use crate::route;
use crate::scope::Scope;
use crate::service::{Port, Resolution, Service};
use crate::view::View;
use crate::workload::Workload;

/// Ports that gRPC may be spoken on.
fn ports(scope: &Scope) -> impl Iterator<Item = (&Service, &Port)> {
    let services = scope
        .services
        .values()
        .filter(|it| it.resolution != Resolution::Alias);
    services.flat_map(|service| {
        let ports = service
            .ports
            .iter()
            .filter(|it| it.protocol != Protocol::Udp);
        let ports = ports.filter(|it| it.protocol.treatment() != Treatment::None);
        ports.map(move |port| (service.as_ref(), port))
    })
}

/// One listener for every name by which a service may be dialled.
pub fn listeners(scope: &Scope) -> Vec<Resource> {
    let mut listeners = Vec::new();
    for (service, port) in ports(scope) {
        let routes = cluster::name(port.number, "", &service.host);
        let manager = hcm::HttpConnectionManager {
            http_filters: vec![
                http_filter(
                    "envoy.filters.http.fault",
                    &extensions::filters::http::fault::v3::HttpFault::default(),
                ),
                http_filter(
                    crate::listener::ROUTER_FILTER,
                    &extensions::filters::http::router::v3::Router::default(),
                ),
            ],
            route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::Rds(
                hcm::Rds {
                    config_source: Some(ads()),
                    route_config_name: routes,
                },
            )),
            ..hcm::HttpConnectionManager::default()
        };
        let api = trireme_xds::pack(&manager);
        let mut names = vec![service.host.clone()];
        names.extend(host::aliases(&service.host, &scope.key.namespace));
        for name in names {
            let name = format!("{name}:{}", port.number);
            let listener = listener::Listener {
                name: name.clone(),
                address: Some(address(service.address(), port.number)),
                traffic_direction: core::TrafficDirection::Outbound as i32,
                api_listener: Some(listener::ApiListener {
                    api_listener: Some(api.clone()),
                }),
                ..listener::Listener::default()
            };
            listeners.push(Resource::new(name, &listener));
        }
    }
    listeners.sort_by(|one, other| one.name.cmp(&other.name));
    listeners.dedup_by(|one, other| one.name == other.name);
    listeners
}

pub fn route_names(scope: &Scope) -> BTreeSet<String> {
    ports(scope)
        .map(|(service, port)| cluster::name(port.number, "", &service.host))
        .collect()
}

/// The routes of a service's port, by the name of its cluster.
pub fn routes(
    view: &View,
    scope: &Scope,
    workload: &Workload,
    name: &str,
) -> pb::RouteConfiguration {
    let hosts = match cluster::parse_name(name) {
        Some((port, "", host)) => route::of_service(view, scope, workload, host, port),
        _ => Vec::new(),
    };
    pb::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: hosts,
        ..pb::RouteConfiguration::default()
    }
}
