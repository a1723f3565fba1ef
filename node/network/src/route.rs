//! Routes to the pods of other nodes: through the node itself where it is a
//! neighbour, through VXLAN where a router lies between.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use netlink_packet_route::address::AddressScope;

use crate::netlink::{Netlink, Route, RouteDetail};
use crate::{AddressPool, Cidr, NetworkError};

/// The one VXLAN interface of a node.
pub const VXLAN_INTERFACE: &str = "trireme-vxlan";
/// Its network identifier; every node of a cluster uses the same.
const VXLAN_ID: u32 = 84;
/// The UDP port that Linux used before IANA's 4789; a cloud's own VXLAN is
/// less likely there.
const VXLAN_PORT: u16 = 8472;
/// Outer Ethernet, IPv4, UDP and VXLAN headers.
const VXLAN_OVERHEAD_BYTES: u32 = 50;

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRoute {
    pub node: String,
    pub internal_ip: Ipv4Addr,
    pub pod_cidr: Cidr,
}

/// What [`NodeRoutes::sync`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteReport {
    pub added: usize,
    pub removed: usize,
    /// Peers without a route now, and why; the others are served all the same.
    pub failed: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
pub struct NodeRoutes {
    node_ip: Ipv4Addr,
    pod_cidr: Cidr,
    service_cidr: Cidr,
}

impl NodeRoutes {
    /// `pod_cidr` is this node's own range.
    pub fn new(node_ip: Ipv4Addr, pod_cidr: Cidr, service_cidr: Cidr) -> NodeRoutes {
        NodeRoutes {
            node_ip,
            pod_cidr: pod_cidr.subnet(),
            service_cidr: service_cidr.subnet(),
        }
    }

    /// Makes the routes be exactly those of `peers`, and the one that lets the
    /// node's own processes address services even without a default route.
    pub fn sync(&self, peers: &[PeerRoute]) -> Result<RouteReport, NetworkError> {
        let mut netlink = Netlink::open()?;
        let loopback = netlink.link("lo")?;
        let mut report = RouteReport::default();
        let mut wanted: BTreeMap<Cidr, (Route, RouteDetail)> = BTreeMap::new();
        // Never followed: the rules for the node's output replace the
        // address first. It only has to exist, and to choose the source.
        wanted.insert(
            self.service_cidr,
            (
                Route {
                    destination: self.service_cidr,
                    gateway: None,
                    link: loopback.index,
                },
                RouteDetail {
                    source: Some(self.node_ip),
                    ..RouteDetail::default()
                },
            ),
        );
        let mut vxlan_used = false;
        for peer in peers {
            match self.route_to_peer(&mut netlink, peer) {
                Ok((route, detail)) => {
                    vxlan_used |= detail.onlink;
                    wanted.insert(route.destination, (route, detail));
                }
                Err(error) => report.failed.push((peer.node.clone(), error.to_string())),
            }
        }
        // Pods' own /32 routes are PodNetwork's.
        let present: Vec<Route> = netlink
            .own_routes()?
            .into_iter()
            .filter(|route| route.destination.prefix() < 32)
            .collect();
        for route in &present {
            if wanted
                .get(&route.destination)
                .is_none_or(|(wanted, _)| wanted != route)
            {
                netlink.delete_route(route)?;
                report.removed += 1;
            }
        }
        for (route, detail) in wanted.values() {
            if !present.contains(route) {
                netlink.add_route(route, *detail)?;
                report.added += 1;
            }
        }
        if !vxlan_used && let Some(link) = netlink.find_link(VXLAN_INTERFACE)? {
            netlink.delete_link(link.index)?;
        }
        Ok(report)
    }

    /// Removes every route of ours and the VXLAN interface.
    pub fn clear() -> Result<(), NetworkError> {
        let mut netlink = Netlink::open()?;
        for route in netlink.own_routes()? {
            netlink.delete_route(&route)?;
        }
        if let Some(link) = netlink.find_link(VXLAN_INTERFACE)? {
            netlink.delete_link(link.index)?;
        }
        Ok(())
    }

    fn route_to_peer(
        &self,
        netlink: &mut Netlink,
        peer: &PeerRoute,
    ) -> Result<(Route, RouteDetail), NetworkError> {
        let destination = peer.pod_cidr.subnet();
        let refuse = |why| NetworkError::Range {
            range: destination.to_string(),
            usage: "a peer's pod range",
            why,
        };
        if destination.contains(self.pod_cidr.network())
            || self.pod_cidr.contains(destination.network())
        {
            return Err(refuse("it overlaps this node's own"));
        }
        if destination.prefix() > 30 {
            return Err(refuse("it is smaller than four addresses"));
        }
        let Some(way) = netlink.route_to(peer.internal_ip)? else {
            return Err(refuse("the node's InternalIP cannot be reached"));
        };
        if way.gateway.is_none() {
            let route = Route {
                destination,
                gateway: Some(peer.internal_ip),
                link: way.link,
            };
            return Ok((
                route,
                RouteDetail {
                    source: Some(self.node_ip),
                    ..RouteDetail::default()
                },
            ));
        }
        let uplink_mtu = netlink
            .link_by_index(way.link)?
            .map_or(1500, |link| link.mtu);
        let link = self.vxlan(netlink, uplink_mtu)?;
        // The peer's own address inside its range; permanent entries instead
        // of learning and ARP, so nothing has to be flooded.
        let inner =
            AddressPool::node_address(destination).ok_or_else(|| refuse("it is too small"))?;
        let hardware = vxlan_hardware(peer.internal_ip);
        netlink.add_neighbour(link, peer.internal_ip, hardware, true)?;
        netlink.add_neighbour(link, inner, hardware, false)?;
        let source = AddressPool::node_address(self.pod_cidr);
        Ok((
            Route {
                destination,
                gateway: Some(inner),
                link,
            },
            RouteDetail {
                source,
                onlink: true,
                ..RouteDetail::default()
            },
        ))
    }

    fn vxlan(&self, netlink: &mut Netlink, uplink_mtu: u32) -> Result<u32, NetworkError> {
        if let Some(link) = netlink.find_link(VXLAN_INTERFACE)? {
            return Ok(link.index);
        }
        let mtu = uplink_mtu.saturating_sub(VXLAN_OVERHEAD_BYTES).max(1280);
        netlink.add_vxlan(
            VXLAN_INTERFACE,
            VXLAN_ID,
            VXLAN_PORT,
            self.node_ip,
            vxlan_hardware(self.node_ip),
            mtu,
        )?;
        let link = netlink.link(VXLAN_INTERFACE)?;
        // The source of the node's own packets to far pods: their answers
        // then come back through VXLAN too.
        if let Some(own) =
            AddressPool::node_address(self.pod_cidr).and_then(|address| Cidr::new(address, 32))
        {
            netlink.add_address(link.index, own, AddressScope::Universe)?;
        }
        Ok(link.index)
    }
}

/// Derived from the node's address, so that peers need not be told.
fn vxlan_hardware(node_ip: Ipv4Addr) -> [u8; 6] {
    let octets = node_ip.octets();
    [0x02, 0x56, octets[0], octets[1], octets[2], octets[3]]
}
