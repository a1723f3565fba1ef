//! Networks of several nodes on one machine, for `trireme up` and the tests:
//! a bridge in the current namespace, and a namespace a node behind it.

use std::net::Ipv4Addr;
use std::path::Path;

use netlink_packet_route::address::AddressScope;

use crate::namespace::{self, set_sysctl};
use crate::netlink::{Netlink, Route, RouteDetail, VethEnd, check_link_name};
use crate::service::nft;
use crate::{Cidr, NetworkError};

/// Makes a network namespace mounted at `path`, with its loopback up. Fails
/// where one is mounted already.
pub fn create_namespace(path: &Path) -> Result<(), NetworkError> {
    namespace::create(path)?;
    let up = || {
        let mut netlink = Netlink::open_in(path)?;
        let loopback = netlink.link("lo")?;
        netlink.set_up(loopback.index)
    };
    up().inspect_err(|_| {
        let _ = namespace::delete(path);
    })
}

/// Unmounts and removes it; succeeds when there is none. Interfaces inside
/// vanish with it, and their peers here.
pub fn delete_namespace(path: &Path) -> Result<(), NetworkError> {
    namespace::delete(path)
}

/// Makes a bridge that is up and has `cidr`'s address (host bits kept, e.g.
/// `10.99.0.1/24`).
pub fn create_bridge(name: &str, cidr: Cidr) -> Result<(), NetworkError> {
    check_link_name(name)?;
    let mut netlink = Netlink::open()?;
    netlink.add_bridge(name)?;
    let address = || {
        let mut netlink = Netlink::open()?;
        let bridge = netlink.link(name)?;
        netlink.add_address(bridge.index, cidr, AddressScope::Universe)
    };
    address().inspect_err(|_| {
        let _ = delete_link(name);
    })
}

/// Connects a namespace to the bridge: a veth pair whose end
/// `host_if_name` hangs on the bridge and whose end `inside_name` is in the
/// namespace, up, with `cidr`'s address and, when given, a default route.
pub fn connect(
    bridge: &str,
    netns_path: &Path,
    host_if_name: &str,
    inside_name: &str,
    cidr: Cidr,
    gateway: Option<Ipv4Addr>,
) -> Result<(), NetworkError> {
    check_link_name(host_if_name)?;
    check_link_name(inside_name)?;
    let mut netlink = Netlink::open()?;
    let bridge = netlink.link(bridge)?;
    let namespace = namespace::open(netns_path)?;
    netlink.add_veth(
        &VethEnd {
            name: host_if_name,
            hardware: None,
            mtu: None,
        },
        &VethEnd {
            name: inside_name,
            hardware: None,
            mtu: None,
        },
        Some(&namespace),
    )?;
    let configure = || {
        let mut netlink = Netlink::open()?;
        let host = netlink.link(host_if_name)?;
        netlink.set_controller(host.index, bridge.index)?;
        let mut inside = Netlink::open_in(netns_path)?;
        let link = inside.link(inside_name)?;
        inside.add_address(link.index, cidr, AddressScope::Universe)?;
        inside.set_up(link.index)?;
        if let Some(gateway) = gateway {
            let everywhere = Cidr::new(Ipv4Addr::UNSPECIFIED, 0).expect("0 is a prefix length");
            let route = Route {
                destination: everywhere,
                gateway: Some(gateway),
                link: link.index,
            };
            // The node behind it keeps its own routes and removes its own
            // ones only: this one is not.
            inside.add_route(
                &route,
                RouteDetail {
                    foreign: true,
                    ..RouteDetail::default()
                },
            )?;
        }
        Ok(())
    };
    configure().inspect_err(|_| {
        let _ = delete_link(host_if_name);
    })
}

/// Whether the current namespace has an interface of that name.
pub fn link_exists(name: &str) -> Result<bool, NetworkError> {
    Ok(Netlink::open()?.find_link(name)?.is_some())
}

/// Deletes an interface of the current namespace (a veth's other end goes
/// with it); succeeds when there is none.
pub fn delete_link(name: &str) -> Result<(), NetworkError> {
    let mut netlink = Netlink::open()?;
    match netlink.find_link(name)? {
        Some(link) => netlink.delete_link(link.index),
        None => Ok(()),
    }
}

/// Lets `subnet` reach beyond this machine: forwarding on, and its packets
/// leave with this machine's address, by an nft table `table` of ours.
/// Returns whether forwarding was on before, for [`stop_sharing_uplink`].
pub fn share_uplink(table: &str, subnet: Cidr) -> Result<bool, NetworkError> {
    let was_on = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
        .is_ok_and(|value| value.trim() == "1");
    set_sysctl("net/ipv4/ip_forward", "1")?;
    let subnet = subnet.subnet();
    // Packets between the nodes pass the bridge, not this machine, but where
    // bridges call iptables they meet these rules all the same: a node that
    // sends to another's pod must not get this machine's address.
    let mut netlink = Netlink::open()?;
    let neighbour = Ipv4Addr::from(u32::from(subnet.last()).saturating_sub(1));
    let own = match netlink.route_to(neighbour)? {
        Some(route) if route.gateway.is_none() => netlink.link_by_index(route.link)?,
        _ => None,
    };
    let beyond = own.map_or_else(String::new, |link| format!("oifname != \"{}\" ", link.name));
    nft::apply(
        "the rules that share the uplink",
        &format!(
            "table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n\
             \tchain postrouting {{\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n\
             \t\t{beyond}ip saddr {subnet} ip daddr != {subnet} masquerade\n\t}}\n}}\n"
        ),
    )?;
    Ok(was_on)
}

/// Undoes [`share_uplink`]; succeeds when there is nothing to undo.
pub fn stop_sharing_uplink(table: &str, forwarding_was_on: bool) -> Result<(), NetworkError> {
    nft::apply(
        "the removal of the uplink's rules",
        &format!("table ip {table}\ndelete table ip {table}\n"),
    )?;
    if !forwarding_was_on {
        set_sysctl("net/ipv4/ip_forward", "0")?;
    }
    Ok(())
}
