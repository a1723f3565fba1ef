//! A blocking rtnetlink connection: one request, one answer. Answers are read
//! as raw attributes, so that a newer kernel's additions cannot break parsing.

mod answer;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::namespace::run_in;
use crate::{Cidr, NetworkError};
use answer::{Answer, read_link, read_route};

pub(crate) use answer::{attributes, split_message};

/// The most the kernel sends in one datagram of a dump is 32 KiB; a single
/// answer with statistics is about 2 KiB.
const RECEIVE_BYTES: usize = 64 * 1024;

/// The routing protocol number that marks our routes: `T`.
pub(crate) const ROUTE_PROTOCOL: u8 = 84;

pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What is read of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub index: u32,
    pub name: String,
    pub alias: Option<String>,
    pub mtu: u32,
}

/// A route as asked for or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub destination: Cidr,
    pub gateway: Option<Ipv4Addr>,
    pub link: u32,
}

/// How a route is added, beyond its [`Route`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RouteDetail {
    /// The source address that the node's own packets take.
    pub source: Option<Ipv4Addr>,
    /// The gateway is reachable although no subnet of the interface says so.
    pub onlink: bool,
    /// Not one of the routes that [`Netlink::own_routes`] lists: an
    /// administrator's, as it were.
    pub foreign: bool,
}

impl Netlink {
    /// A connection to the calling thread's network namespace; it stays there.
    pub fn open() -> Result<Netlink, NetworkError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(NetworkError::netlink("open an rtnetlink socket"))?;
        Ok(Netlink {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(RECEIVE_BYTES),
        })
    }

    pub fn open_in(path: &Path) -> Result<Netlink, NetworkError> {
        run_in(path, Netlink::open)?
    }

    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<Answer>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet =
            NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
        packet.header.flags = NLM_F_REQUEST | flags;
        packet.header.sequence_number = self.sequence;
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0)?;
            let mut rest = self.buffer.as_slice();
            while let Some((header, body, next)) = split_message(rest) {
                rest = next;
                if header.sequence != self.sequence {
                    continue;
                }
                match i32::from(header.kind) {
                    libc::NLMSG_ERROR => {
                        let code = body
                            .get(..4)
                            .and_then(|code| code.try_into().ok())
                            .map_or(0, i32::from_ne_bytes);
                        return if code == 0 {
                            Ok(answers)
                        } else {
                            Err(io::Error::from_raw_os_error(-code))
                        };
                    }
                    libc::NLMSG_DONE => return Ok(answers),
                    _ => answers.push(Answer {
                        kind: header.kind,
                        body: body.to_vec(),
                    }),
                }
            }
        }
    }

    fn change(
        &mut self,
        operation: String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetworkError> {
        self.request(message, NLM_F_ACK | flags)
            .map(drop)
            .map_err(NetworkError::netlink(operation))
    }

    // Links

    pub fn links(&mut self) -> Result<Vec<Link>, NetworkError> {
        let answers = self
            .request(
                RouteNetlinkMessage::GetLink(LinkMessage::default()),
                NLM_F_DUMP,
            )
            .map_err(NetworkError::netlink("list the network interfaces"))?;
        Ok(answers.iter().filter_map(read_link).collect())
    }

    pub fn find_link(&mut self, name: &str) -> Result<Option<Link>, NetworkError> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        match self.request(RouteNetlinkMessage::GetLink(message), NLM_F_ACK) {
            Ok(answers) => Ok(answers.iter().find_map(read_link)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(NetworkError::netlink(format!("look up interface {name}"))(
                error,
            )),
        }
    }

    pub fn link(&mut self, name: &str) -> Result<Link, NetworkError> {
        self.find_link(name)?.ok_or_else(|| NetworkError::NoLink {
            name: name.to_owned(),
        })
    }

    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, NetworkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        match self.request(RouteNetlinkMessage::GetLink(message), NLM_F_ACK) {
            Ok(answers) => Ok(answers.iter().find_map(read_link)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(NetworkError::netlink(format!("look up interface {index}"))(
                error,
            )),
        }
    }

    /// A veth pair in one request: this end here and up, the other in
    /// `peer_namespace` (here when `None`) and down.
    pub fn add_veth(
        &mut self,
        end: &VethEnd<'_>,
        peer: &VethEnd<'_>,
        peer_namespace: Option<&impl AsFd>,
    ) -> Result<(), NetworkError> {
        let mut peer_message = peer.message();
        if let Some(namespace) = peer_namespace {
            peer_message
                .attributes
                .push(LinkAttribute::NetNsFd(namespace.as_fd().as_raw_fd()));
        }
        let mut message = end.message();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer_message))),
        ]));
        self.change(
            format!("create the veth pair {} and {}", end.name, peer.name),
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    pub fn add_bridge(&mut self, name: &str) -> Result<(), NetworkError> {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        message
            .attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(
                InfoKind::Bridge,
            )]));
        self.change(
            format!("create the bridge {name}"),
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    pub fn add_vxlan(
        &mut self,
        name: &str,
        id: u32,
        port: u16,
        local: Ipv4Addr,
        hardware: [u8; 6],
        mtu: u32,
    ) -> Result<(), NetworkError> {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        message
            .attributes
            .push(LinkAttribute::Address(hardware.to_vec()));
        message.attributes.push(LinkAttribute::Mtu(mtu));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(vec![
                InfoVxlan::Id(id),
                InfoVxlan::Local(local),
                InfoVxlan::Learning(false),
                InfoVxlan::Port(port),
            ])),
        ]));
        self.change(
            format!("create the VXLAN interface {name}"),
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    pub fn set_up(&mut self, index: u32) -> Result<(), NetworkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.change(
            format!("set interface {index} up"),
            RouteNetlinkMessage::NewLink(message),
            0,
        )
    }

    pub fn set_alias(&mut self, index: u32, alias: &str) -> Result<(), NetworkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message
            .attributes
            .push(LinkAttribute::IfAlias(alias.to_owned()));
        self.change(
            format!("set the alias of interface {index}"),
            RouteNetlinkMessage::NewLink(message),
            0,
        )
    }

    pub fn set_controller(&mut self, index: u32, controller: u32) -> Result<(), NetworkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message
            .attributes
            .push(LinkAttribute::Controller(controller));
        self.change(
            format!("attach interface {index} to its bridge"),
            RouteNetlinkMessage::NewLink(message),
            0,
        )
    }

    /// Succeeds when the interface is gone already.
    pub fn delete_link(&mut self, index: u32) -> Result<(), NetworkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        tolerate(
            self.change(
                format!("delete interface {index}"),
                RouteNetlinkMessage::DelLink(message),
                0,
            ),
            &[libc::ENODEV],
        )
    }

    // Addresses

    /// Succeeds when the interface has the address already.
    pub fn add_address(
        &mut self,
        index: u32,
        address: Cidr,
        scope: AddressScope,
    ) -> Result<(), NetworkError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = address.prefix();
        message.header.scope = scope;
        message.header.index = index;
        message
            .attributes
            .push(AddressAttribute::Address(IpAddr::V4(address.address())));
        message
            .attributes
            .push(AddressAttribute::Local(IpAddr::V4(address.address())));
        if address.prefix() < 31 {
            message
                .attributes
                .push(AddressAttribute::Broadcast(address.last()));
        }
        self.change(
            format!("add address {address} to interface {index}"),
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Succeeds when the address is gone already.
    pub fn delete_address(&mut self, index: u32, address: Cidr) -> Result<(), NetworkError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = address.prefix();
        message.header.index = index;
        message
            .attributes
            .push(AddressAttribute::Local(IpAddr::V4(address.address())));
        tolerate(
            self.change(
                format!("delete address {address} from interface {index}"),
                RouteNetlinkMessage::DelAddress(message),
                0,
            ),
            &[libc::EADDRNOTAVAIL, libc::ENODEV],
        )
    }

    // Neighbours

    /// A permanent neighbour; `flags` `Own` makes it a forwarding entry of a
    /// VXLAN interface, whose `address` is then the remote end.
    pub fn add_neighbour(
        &mut self,
        index: u32,
        address: Ipv4Addr,
        hardware: [u8; 6],
        forwarding: bool,
    ) -> Result<(), NetworkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = if forwarding {
            AddressFamily::Bridge
        } else {
            AddressFamily::Inet
        };
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        if forwarding {
            message.header.flags = NeighbourFlags::Own;
        }
        message
            .attributes
            .push(NeighbourAttribute::Destination(NeighbourAddress::Inet(
                address,
            )));
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(hardware.to_vec()));
        self.change(
            format!("add neighbour {address} to interface {index}"),
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    // Routes

    pub fn add_route(&mut self, route: &Route, detail: RouteDetail) -> Result<(), NetworkError> {
        let mut message = route_message(route);
        if let Some(source) = detail.source {
            message
                .attributes
                .push(RouteAttribute::PrefSource(RouteAddress::Inet(source)));
        }
        if detail.foreign {
            message.header.protocol = RouteProtocol::Static;
        }
        if detail.onlink {
            message.header.flags |= RouteFlags::Onlink;
        }
        self.change(
            format!("add the route to {}", route.destination),
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Succeeds when the route is gone already.
    pub fn delete_route(&mut self, route: &Route) -> Result<(), NetworkError> {
        tolerate(
            self.change(
                format!("delete the route to {}", route.destination),
                RouteNetlinkMessage::DelRoute(route_message(route)),
                0,
            ),
            &[libc::ESRCH, libc::ENODEV],
        )
    }

    /// The routes of the main table that carry our protocol number.
    pub fn own_routes(&mut self) -> Result<Vec<Route>, NetworkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let answers = self
            .request(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)
            .map_err(NetworkError::netlink("list the routes"))?;
        Ok(answers
            .iter()
            .filter_map(|answer| read_route(answer, Some(ROUTE_PROTOCOL)))
            .collect())
    }

    /// The route the kernel would take to `address`; `None` when there is none.
    pub fn route_to(&mut self, address: Ipv4Addr) -> Result<Option<Route>, NetworkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = 32;
        message
            .attributes
            .push(RouteAttribute::Destination(RouteAddress::Inet(address)));
        match self.request(RouteNetlinkMessage::GetRoute(message), NLM_F_ACK) {
            Ok(answers) => Ok(answers.iter().find_map(|answer| read_route(answer, None))),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENETUNREACH | libc::EHOSTUNREACH)
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(NetworkError::netlink(format!(
                "look up the route to {address}"
            ))(error)),
        }
    }
}

/// One end of a veth pair.
pub(crate) struct VethEnd<'a> {
    pub name: &'a str,
    pub hardware: Option<[u8; 6]>,
    pub mtu: Option<u32>,
}

impl VethEnd<'_> {
    fn message(&self) -> LinkMessage {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(self.name.to_owned()));
        if let Some(hardware) = self.hardware {
            message
                .attributes
                .push(LinkAttribute::Address(hardware.to_vec()));
        }
        if let Some(mtu) = self.mtu {
            message.attributes.push(LinkAttribute::Mtu(mtu));
        }
        message
    }
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    message.header.scope = if route.gateway.is_some() {
        RouteScope::Universe
    } else {
        RouteScope::Link
    };
    message.header.kind = RouteType::Unicast;
    message.header.destination_prefix_length = route.destination.prefix();
    if route.destination.prefix() > 0 {
        message
            .attributes
            .push(RouteAttribute::Destination(RouteAddress::Inet(
                route.destination.network(),
            )));
    }
    if let Some(gateway) = route.gateway {
        message
            .attributes
            .push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
    }
    message.attributes.push(RouteAttribute::Oif(route.link));
    message
}

fn tolerate(result: Result<(), NetworkError>, codes: &[i32]) -> Result<(), NetworkError> {
    match result {
        Err(NetworkError::Netlink { source, .. })
            if source
                .raw_os_error()
                .is_some_and(|code| codes.contains(&code)) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// What the kernel accepts as an interface's name.
pub(crate) fn check_link_name(name: &str) -> Result<(), NetworkError> {
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() > 15 {
        "it is longer than 15 bytes"
    } else if name.contains('/')
        || name.contains(':')
        || name.contains(char::is_whitespace)
        || name.starts_with('.')
    {
        "it contains '/', ':', a space, or starts with '.'"
    } else {
        return Ok(());
    };
    Err(NetworkError::BadLinkName {
        name: name.to_owned(),
        why,
    })
}
