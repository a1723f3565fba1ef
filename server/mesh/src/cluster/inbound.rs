//! Clusters that lead from a sidecar to its own application.

use trireme_model::istio::TrafficPolicy;

use super::{Draft, INBOUND_PASSTHROUGH, INBOUND_SOURCE, inbound_name, policy};
use crate::ingress::Ingress;
use crate::proto::{address, cluster as pb, core, endpoint};
use crate::protocol::Protocol;
use crate::resource::Resource;
use crate::view::View;

use pb::cluster::DiscoveryType;

/// One for each port that the application is known to serve, and one for all others.
pub fn inbound(view: &View, ports: &[Ingress]) -> Vec<Resource> {
    let mut clusters: Vec<pb::Cluster> = ports.iter().map(|port| of_port(view, port)).collect();
    let mut rest = Draft::new(
        INBOUND_PASSTHROUGH.to_owned(),
        DiscoveryType::OriginalDst,
        &view.mesh,
    );
    rest.speak_as_client();
    policy::apply(&mut rest, &view.mesh, &TrafficPolicy::default());
    from_loopback(&mut rest);
    clusters.push(rest.finish());
    let named = clusters.iter().map(|it| Resource::new(it.name.clone(), it));
    named.collect()
}

fn of_port(view: &View, port: &Ingress) -> pb::Cluster {
    let name = inbound_name(port.number);
    let discovery = match &port.endpoint {
        Some(_) => DiscoveryType::Static,
        None => DiscoveryType::OriginalDst,
    };
    let mut draft = Draft::new(name.clone(), discovery, &view.mesh);
    match &port.endpoint {
        Some((host, number)) => {
            let one = endpoint::LbEndpoint {
                host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
                    endpoint::Endpoint {
                        address: Some(address(host, *number)),
                        ..endpoint::Endpoint::default()
                    },
                )),
                ..endpoint::LbEndpoint::default()
            };
            draft.cluster.load_assignment = Some(endpoint::ClusterLoadAssignment {
                cluster_name: name,
                endpoints: vec![endpoint::LocalityLbEndpoints {
                    lb_endpoints: vec![one],
                    ..endpoint::LocalityLbEndpoints::default()
                }],
                ..endpoint::ClusterLoadAssignment::default()
            });
        }
        None => from_loopback(&mut draft),
    }
    if port.protocol.is_http2() {
        draft.speak_http2();
    } else if port.protocol == Protocol::Auto {
        draft.speak_as_client();
    }
    let services: Vec<_> = port.services.iter().map(|it| it.as_ref()).collect();
    draft.stands_for(&services);
    let policy = TrafficPolicy {
        connection_pool: port.connection_pool.clone(),
        ..TrafficPolicy::default()
    };
    policy::apply(&mut draft, &view.mesh, &policy);
    if let Some(reference) = &port.reference {
        trireme_xds::metadata::set_object(&mut draft.cluster.metadata, reference);
    }
    draft.finish()
}

/// Connections to the application come from an address that interception knows and leaves alone.
fn from_loopback(draft: &mut Draft) {
    draft.cluster.upstream_bind_config = Some(core::BindConfig {
        source_address: Some(core::SocketAddress {
            address: INBOUND_SOURCE.to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
            ..core::SocketAddress::default()
        }),
        ..core::BindConfig::default()
    });
}
